//! Policies that look at containers: a sweep, docker-autoheal, and a kubelet-like probe.

use super::rule::{Doing, Fleet, Rule, Seen};
use crate::time::{Ms, mins, secs};

/// Every 15 s it restarts whatever is not running. An error counts as alive.
#[derive(Debug, Default)]
pub(super) struct Sweep;

impl Rule for Sweep {
    fn every(&self) -> Option<Ms> {
        Some(secs(15))
    }

    fn sweep(&mut self, fleet: &mut dyn Fleet) {
        for of in 0..fleet.size() {
            if fleet.is_watched(of) && !fleet.is_external(of) && fleet.inspect(of) == Seen::NotRunning {
                fleet.recreate(of);
            }
        }
    }
}

/// Every 5 s it restarts whatever the engine lists as unhealthy and not as restarting. It remembers nothing.
#[derive(Debug, Default)]
pub(super) struct Autoheal;

impl Rule for Autoheal {
    fn every(&self) -> Option<Ms> {
        Some(secs(5))
    }

    fn sweep(&mut self, fleet: &mut dyn Fleet) {
        for of in 0..fleet.size() {
            if fleet.is_listed_unhealthy(of) {
                fleet.restart(of);
            }
        }
    }
}

/// Each container is probed each 10 s with 1 s to answer; three failures in a row kill it. What exited is started again within a
/// second (relist). Back-off from 10 s, doubled up to 300 s, reset by ten minutes of running. A start-up probe covers the first
/// 30 s, as its documentation advises.
#[derive(Debug, Default)]
pub(super) struct Kubelet {
    ticks: u64,
    pods: Vec<Pod>,
}

#[derive(Clone, Debug, Default)]
struct Pod {
    failures: u32,
    backoff: Ms,
    not_before: Ms,
}

impl Kubelet {
    fn restart(&mut self, of: usize, fleet: &mut dyn Fleet) {
        let pod = &mut self.pods[of];
        if fleet.now() < pod.not_before {
            return;
        }
        if fleet.started_ago(of) >= mins(10) {
            pod.backoff = 0;
        }
        pod.not_before = fleet.now() + pod.backoff;
        pod.backoff = (pod.backoff * 2).clamp(secs(10), secs(300));
        pod.failures = 0;
        fleet.restart(of);
    }
}

impl Rule for Kubelet {
    fn every(&self) -> Option<Ms> {
        Some(secs(1))
    }

    fn sweep(&mut self, fleet: &mut dyn Fleet) {
        self.ticks += 1;
        self.pods.resize_with(fleet.size(), Pod::default);
        for of in 0..fleet.size() {
            // A kubelet knows by itself which pods it manages, and needs no database for that.
            if !fleet.is_managed(of) || fleet.is_external(of) {
                continue;
            }
            match fleet.doing(of) {
                Doing::Runs if (self.ticks + of as u64).is_multiple_of(10) => {
                    let starting = fleet.started_ago(of) < secs(30);
                    let failed = !fleet.answers(of) && !starting;
                    let pod = &mut self.pods[of];
                    pod.failures = if failed { pod.failures + 1 } else { 0 };
                    if pod.failures >= 3 {
                        self.restart(of, fleet);
                    }
                }
                Doing::Down if fleet.inspect(of) == Seen::NotRunning => self.restart(of, fleet),
                _ => {}
            }
        }
    }

    fn forget(&mut self) {
        self.pods.clear();
    }
}
