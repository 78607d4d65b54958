//! The truth about one workspace: its container as the engine has it, and its process as it really is.
//!
//! The two differ in the incidents that matter: a container that runs and whose process is beyond help, a process that is well
//! and whose heartbeats nobody writes down. Detectors see the container through an engine and the heartbeat through a
//! database; only the oracles see the [`Mind`].

use defib_policy::fleet::Kind;
use defib_policy::id::{ContainerId, WorkspaceId};
use defib_policy::moment::Moment;
use defib_policy::sample::{Exit, Health, Incarnation, Observation, Sample, Transition};

use crate::time::{Ms, span, stamp};

/// How long one run of a health check takes.
const HEALTH_TAKES: Ms = 400;
/// How long one run may take. An engine adds this to the moment at which the next run is due.
const HEALTH_TIMEOUT: Ms = 30_000;
/// Failures after which Docker calls it unhealthy.
const HEALTH_RETRIES: u64 = 3;

/// What its engine holds of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    Absent,
    /// Made, never started.
    Created,
    /// It runs, or the engine thinks so.
    Running,
    /// Frozen by an operator.
    Paused,
    /// The engine's restart policy waits to start it again.
    Restarting,
    /// Being removed.
    Removing,
    /// It ended.
    Exited {
        /// The exit code.
        code: i64,
        /// Whether the kernel killed it for memory.
        oom: bool,
        /// When it ended.
        at: Ms,
    },
}

/// What its process is doing: the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mind {
    /// There is no process.
    Gone,
    /// It is starting. Well, but it neither beats nor answers yet.
    Booting,
    /// It beats and answers.
    Working,
    /// It is so busy that it neither beats nor answers. Well.
    Busy,
    /// It answers, and its heartbeats do not arrive. Well.
    Mute,
    /// It hangs, and will never do anything again.
    Wedged,
}

/// What happens after each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It works.
    Works,
    /// It dies this long after each start.
    DiesAfter(Ms),
    /// It works, and never sends a heartbeat.
    Mute,
}

/// The engine's own restart policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnginePolicy {
    /// `no`.
    No,
    /// `unless-stopped`: 100 ms, doubled up to a minute, reset by ten seconds of running.
    UnlessStopped,
}

/// A wrong look: what is seen of a container instead of the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// It is said to have stopped.
    Stopped,
    /// It is said not to exist.
    Missing,
}

/// The properties of a workspace that do not change in most worlds.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Heartbeat interval.
    pub interval: Ms,
    /// By how many percent the interval varies, up or down.
    pub jitter: u64,
    /// Shortest start-up.
    pub boot_min: Ms,
    /// Longest start-up.
    pub boot_max: Ms,
    /// The engine's restart policy for it.
    pub policy: EnginePolicy,
    /// Whether its image has a health check.
    pub health_check: bool,
    /// Time between two runs of it.
    pub health_interval: Ms,
    /// Container, instance or external.
    pub kind: Kind,
    /// Mean time between requests through the proxy; 0 for none.
    pub request_every: Ms,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            interval: 30_000,
            jitter: 5,
            boot_min: 3_000,
            boot_max: 12_000,
            policy: EnginePolicy::No,
            health_check: false,
            health_interval: 30_000,
            kind: Kind::Container,
            request_every: 30_000,
        }
    }
}

/// One workspace.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// Where its container lives.
    pub engine: usize,
    /// What does not change.
    pub spec: Spec,
    /// What the engine has.
    pub body: Body,
    /// The container's id.
    pub container: ContainerId,
    /// How many containers it has had.
    pub containers: u32,
    /// When the present life started.
    pub started_at: Ms,
    /// What the process does.
    pub mind: Mind,
    /// Number of the present life; events of an earlier one are void.
    pub life: u32,
    /// What the next start comes to.
    pub fate: Fate,
    /// How long its next start takes, instead of the usual.
    pub next_boot: Option<Ms>,
    /// Its engine refuses to start it: its port is taken, its volume is gone.
    pub start_refused: bool,
    /// The platform is at work on it: nobody else must touch it.
    pub in_hands: bool,
    /// A heartbeat of the present life has reached the database.
    pub heard: bool,
    /// Since when it has not answered, if it does not.
    pub mute_since: Option<Ms>,
    /// When it last came to by itself after it had hung.
    pub came_to_at: Option<Ms>,
    /// Its engine's restarts of it in a row.
    pub engine_tries: u32,
    /// The next look at it is wrong.
    pub lie: Option<Lie>,
    /// Whether its health result is stuck and no longer changes.
    pub frozen_health: Option<Health>,
    /// Its writer's clock, off by microseconds.
    pub writer_offset: i64,
    /// An inspect of it never returns.
    pub inspect_hangs: bool,
    /// The workspace whose network it shares. The two live and die together.
    pub parent: Option<usize>,
    /// What a list shows.
    pub listed: Sample,
    /// What an inspect shows.
    pub inspected: Sample,
}

impl Workspace {
    /// A workspace that has been running for long.
    #[must_use]
    pub fn new(number: usize, engine: usize, spec: Spec, now: Ms) -> Self {
        let nothing = Sample { at: Moment::ZERO, observation: Observation::Missing };
        let external = spec.kind == Kind::External;
        Self {
            id: WorkspaceId::from(format!("w{number:03}")),
            engine,
            spec,
            body: if external { Body::Absent } else { Body::Running },
            container: ContainerId::from(format!("c{number:03}.0")),
            containers: 0,
            started_at: now.saturating_sub(3_600_000 * (1 + number as u64 % 7)),
            mind: Mind::Working,
            life: 0,
            fate: Fate::Works,
            next_boot: None,
            start_refused: false,
            in_hands: false,
            heard: false,
            mute_since: None,
            came_to_at: None,
            engine_tries: 0,
            lie: None,
            frozen_health: None,
            writer_offset: 0,
            inspect_hangs: false,
            parent: None,
            listed: nothing.clone(),
            inspected: nothing,
        }
    }

    /// Whether its process is well: restarting it now would be a mistake.
    #[must_use]
    pub fn is_well(&self) -> bool {
        !matches!(self.mind, Mind::Gone | Mind::Wedged)
    }

    /// Whether it would answer a request.
    #[must_use]
    pub fn answers(&self) -> bool {
        matches!(self.mind, Mind::Working | Mind::Mute) && matches!(self.body, Body::Running | Body::Absent)
    }

    /// Whether what is seen of it changes without anything happening to it.
    #[must_use]
    pub fn is_odd(&self) -> bool {
        self.lie.is_some() || (self.spec.health_check && self.mute_since.is_some()) || self.frozen_health.is_some()
    }

    /// What its health check says at `now`.
    #[must_use]
    pub fn health(&self, now: Ms, engine_offset: i64) -> Health {
        if let Some(frozen) = self.frozen_health {
            return frozen;
        }
        if !self.spec.health_check {
            return Health::None;
        }
        match self.mute_since {
            Some(since) if now >= since + HEALTH_RETRIES * (self.spec.health_interval + HEALTH_TAKES) => {
                // The interval lies between the end of one run and the beginning of the next.
                let interval = self.spec.health_interval;
                let last = since + (now - since) / (interval + HEALTH_TAKES) * (interval + HEALTH_TAKES);
                Health::Unhealthy {
                    last_check_at: Some(stamp(last, engine_offset)),
                    due_within: Some(span(2 * (interval + HEALTH_TIMEOUT))),
                }
            }
            _ if self.mind == Mind::Booting => Health::Starting,
            _ => Health::Healthy,
        }
    }

    /// What a look at it shows. A list tells no start.
    #[must_use]
    pub fn observe(&self, now: Ms, engine_offset: i64, inspect: bool) -> Observation {
        let exact = Incarnation {
            container_id: self.container.clone(),
            started_at: Some(stamp(self.started_at, engine_offset)),
        };
        let told = if inspect { exact.clone() } else { Incarnation { started_at: None, ..exact.clone() } };
        match self.lie {
            Some(Lie::Missing) => return Observation::Missing,
            Some(Lie::Stopped) => {
                let finished_at = Some(stamp(now.saturating_sub(700), engine_offset));
                let exit = Exit { exit_code: Some(137), finished_at, ..Exit::default() };
                return Observation::Stopped { incarnation: exact, exit };
            }
            None => {}
        }
        let transition = |transition| Observation::Transitional { incarnation: told.clone(), transition };
        match self.body {
            Body::Absent => Observation::Missing,
            Body::Created => transition(Transition::Created),
            Body::Restarting => transition(Transition::Restarting),
            Body::Removing => transition(Transition::Removing),
            Body::Paused => Observation::Frozen { incarnation: told },
            Body::Running => {
                let health = self.health(now, engine_offset);
                // An unhealthy one is asked about, as production does.
                let incarnation = if matches!(health, Health::Unhealthy { .. }) { exact } else { told };
                Observation::Running { incarnation, health }
            }
            Body::Exited { code, oom, at } => {
                let exit = Exit {
                    exit_code: Some(code),
                    oom_killed: oom,
                    finished_at: Some(stamp(at, engine_offset)),
                    engine_restarts: self.spec.policy == EnginePolicy::UnlessStopped,
                };
                Observation::Stopped { incarnation: exact, exit }
            }
        }
    }
}
