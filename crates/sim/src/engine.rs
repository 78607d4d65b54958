//! A container engine as its clients see it: with latencies, faults, an identity, and restarts that may hang.

use std::collections::VecDeque;

use defib_policy::abilities::Abilities;
use defib_policy::id::EngineName;
use defib_policy::sample::Fault;

use crate::time::Ms;

/// One engine.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
pub struct Engine {
    /// Its name in the configuration.
    pub name: EngineName,
    /// What its `/info` says.
    pub identity: String,
    /// Somebody else answers on its socket, with this identity and none of the containers.
    pub impostor: Option<String>,
    /// Every call ends in this fault.
    pub fault: Option<Fault>,
    /// How long a list takes.
    pub list: Ms,
    /// How long an inspect takes.
    pub inspect: Ms,
    /// The shortest time that a start takes.
    pub start_min: Ms,
    /// The longest.
    pub start_max: Ms,
    /// Starts are refused with an error.
    pub starts_fail: bool,
    /// A stop never ends, and the container stays as it is.
    pub kill_hangs: bool,
    /// Whether its events arrive.
    pub events: bool,
    /// How often it came back, as far as a client can see that.
    pub returns: u32,
    /// What its kind is able to do.
    pub abilities: Abilities,
    /// Its clock, off by microseconds.
    pub offset: i64,
    /// Whether containers go on running while the daemon restarts.
    pub live_restore: bool,
    /// Starts that wait for a free slot, for its own restart policies after a boot.
    pub boot_queue: VecDeque<usize>,
    /// Its daemon is up (as opposed to: cannot be reached from here).
    pub daemon_up: bool,
}

impl Engine {
    /// A healthy engine.
    #[must_use]
    pub fn new(number: usize) -> Self {
        Self {
            name: EngineName::from(format!("engine-{number}")),
            identity: format!("daemon-{number}"),
            impostor: None,
            fault: None,
            list: 15,
            inspect: 3,
            start_min: 200,
            start_max: 900,
            starts_fail: false,
            kill_hangs: false,
            events: true,
            returns: 0,
            abilities: Abilities::CONTAINER_ENGINE,
            offset: 0,
            live_restore: false,
            boot_queue: VecDeque::new(),
            daemon_up: true,
        }
    }

    /// Whether everything about it is as it should be, so that a look needs no second thought.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.fault.is_none() && self.impostor.is_none() && self.list < 100
    }
}
