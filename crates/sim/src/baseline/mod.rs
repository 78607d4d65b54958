//! The policies that others use, from their published rules, in the same world.
//!
//! Each is small and as its source says, with the parameters its source gives, and each is given the benefit of the doubt: they
//! respect the platform's status as far as their sources do, retry by their own rule only, and do not pay for the calls they
//! make. Every entry of [`ALL`] names its source.

mod heartbeat;
mod probe;
mod proxy;

use crate::detector::Detector;
use crate::queue::{Event, Wake};
use crate::remedy::How;
use crate::time::{Ms, secs};
use crate::workspace::Body;
use crate::world::World;

/// A policy to compare with.
pub struct Baseline {
    /// Its name in reports.
    pub name: &'static str,
    /// Where its rule was published.
    pub source: &'static str,
    /// A new one.
    pub make: fn() -> Box<dyn Detector>,
}

/// All of them.
pub const ALL: &[Baseline] = &[
    Baseline {
        name: "proxy-one-shot",
        source: "molecule-core: handlers/a2a_proxy_helpers.go (maybeMarkContainerDead), HEAD",
        make: || Box::new(proxy::Proxy::one_shot()),
    },
    Baseline {
        name: "proxy-debounce",
        source: "molecule-core: the first cure (15 s recent heartbeat, 2 dead observations in 30 s, in-process counters)",
        make: || Box::new(proxy::Proxy::debounced()),
    },
    Baseline {
        name: "sweep-15s",
        source: "molecule-core: registry/healthsweep.go (IsRunning each 15 s, an error counts as alive)",
        make: || Box::new(probe::Sweep::default()),
    },
    Baseline {
        name: "docker-autoheal",
        source: "willfarrell/docker-autoheal: docker-entrypoint (health=unhealthy each 5 s, no memory)",
        make: || Box::new(probe::Autoheal::default()),
    },
    Baseline {
        name: "kubelet-probe",
        source: "kubernetes: pkg/kubelet/prober/worker.go (3 failures, 10 s period, 1 s timeout; back-off 10 s to 300 s, reset 10 min)",
        make: || Box::new(probe::Kubelet::default()),
    },
    Baseline {
        name: "heartbeat-60s",
        source: "fixed time-out: molecule-core internal/db/redis.go before PR #386 (TTL 60 s)",
        make: || Box::new(heartbeat::Fixed::new("heartbeat-60s", secs(60))),
    },
    Baseline {
        name: "heartbeat-90s",
        source: "fixed time-out: molecule-core external runtimes (stale after 90 s)",
        make: || Box::new(heartbeat::Fixed::new("heartbeat-90s", secs(90))),
    },
    Baseline {
        name: "heartbeat-180s",
        source: "fixed time-out: molecule-core internal/db/redis.go since PR #386 (TTL 180 s)",
        make: || Box::new(heartbeat::Fixed::new("heartbeat-180s", secs(180))),
    },
    Baseline {
        name: "phi-accrual",
        source: "Hayashibara et al. 2004; akka-cluster reference.conf (threshold 8, acceptable pause 3 s, min std 100 ms)",
        make: || Box::new(heartbeat::Phi::default()),
    },
];

/// What the naive look at a container says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// `State.Running` is true (which it is when paused, and when restarting).
    Running,
    /// It is false, or the container is not there.
    NotRunning,
    /// The engine gave no answer.
    Error,
}

/// `inspect`, read as these policies read it.
pub(crate) fn inspect(world: &mut World, of: usize) -> Seen {
    let engine = &world.engines[world.workspaces[of].engine];
    let hangs = engine.inspect >= 5_000 || world.workspaces[of].inspect_hangs;
    if engine.fault.is_some() || hangs {
        world.chronicle.engine_calls += 1;
        return Seen::Error;
    }
    let impostor = engine.impostor.is_some();
    let lie = world.workspaces[of].lie.is_some();
    let running = matches!(world.workspaces[of].body, Body::Running | Body::Paused | Body::Restarting);
    world.looked(of);
    if impostor || lie || !running { Seen::NotRunning } else { Seen::Running }
}

/// `docker restart`, or a new one where there is nothing to restart.
pub(crate) fn restart(world: &mut World, of: usize) {
    let how = if world.workspaces[of].body == Body::Absent { How::Recreate } else { How::KillAndStart };
    world.restart(of, how, secs(30), None);
}

/// The platform's own restart: stop, and make a new one, without a second look at the row (molecule-core's action set).
pub(crate) fn recreate(world: &mut World, of: usize) {
    world.restart(of, How::RecreateBlindly, secs(30), None);
}

/// Whether the platform wants it to run, as far as its row tells now.
pub(crate) fn is_watched(world: &World, of: usize) -> bool {
    world.db.up && world.db.facts[of].is_watched()
}

/// Schedules the next sweep. `due` guards against a second chain after a crash.
pub(crate) fn sweep_in(wait: Ms, due: &mut Ms, me: u8, world: &mut World) {
    *due = world.now + wait;
    world.push(*due, Event::Wake(me, Wake::Sweep));
}
