//! The policies that others use, from their published rules, in the same world.
//!
//! Each is small, and follows its source with the parameters that the source gives. Where a source is unclear, the policy is given the
//! better reading: it respects the platform's status as far as the source does, retries by its own rule only, and its calls cost nothing.
//! Every entry of [`ALL`] names its source.

mod acts;
mod heartbeat;
mod probe;
mod proxy;
pub mod rule;

use self::acts::Ruled;
use self::rule::Rule;
use crate::time::secs;
use crate::world::Detector;

/// A policy to compare with.
pub struct Baseline {
    /// Its name in reports.
    pub name: &'static str,
    /// Where its rule was published.
    pub source: &'static str,
    /// A new one.
    pub make: fn() -> Box<dyn Rule>,
}

impl Baseline {
    /// A new one, for the simulated world.
    #[must_use]
    pub fn detector(&self) -> Box<dyn Detector> {
        Box::new(Ruled { name: self.name, rule: (self.make)(), due: 0 })
    }
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
        make: || Box::new(probe::Sweep),
    },
    Baseline {
        name: "docker-autoheal",
        source: "willfarrell/docker-autoheal: docker-entrypoint (health=unhealthy each 5 s, no memory)",
        make: || Box::new(probe::Autoheal),
    },
    Baseline {
        name: "kubelet-probe",
        source: "kubernetes: pkg/kubelet/prober/worker.go (3 failures, 10 s period, 1 s timeout; back-off 10 s to 300 s, reset 10 min)",
        make: || Box::new(probe::Kubelet::default()),
    },
    Baseline {
        name: "heartbeat-60s",
        source: "fixed time-out: molecule-core internal/db/redis.go before PR #386 (TTL 60 s)",
        make: || Box::new(heartbeat::Fixed::new(secs(60))),
    },
    Baseline {
        name: "heartbeat-90s",
        source: "fixed time-out: molecule-core external runtimes (stale after 90 s)",
        make: || Box::new(heartbeat::Fixed::new(secs(90))),
    },
    Baseline {
        name: "heartbeat-180s",
        source: "fixed time-out: molecule-core internal/db/redis.go since PR #386 (TTL 180 s)",
        make: || Box::new(heartbeat::Fixed::new(secs(180))),
    },
    Baseline {
        name: "phi-accrual",
        source: "Hayashibara et al. 2004; akka-cluster reference.conf (threshold 8, acceptable pause 3 s, min std 100 ms)",
        make: || Box::new(heartbeat::Phi::default()),
    },
];
