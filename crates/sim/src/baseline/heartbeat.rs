//! Policies that look at heartbeats alone: a fixed time-out, and phi-accrual.

use std::collections::VecDeque;

use super::rule::{Fleet, Rule};
use crate::time::{Ms, secs};

/// A workspace counts as dead if its last heartbeat is older than the time-out by this policy's own wall clock. It looks every 5 s, and
/// gives a workspace that it has restarted one time-out of grace.
#[derive(Debug)]
pub(super) struct Fixed {
    timeout: Ms,
    restarted_at: Vec<Ms>,
}

impl Fixed {
    /// With this time-out.
    #[must_use]
    pub(super) fn new(timeout: Ms) -> Self {
        Self { timeout, restarted_at: Vec::new() }
    }
}

impl Rule for Fixed {
    fn every(&self) -> Option<Ms> {
        Some(secs(5))
    }

    fn sweep(&mut self, fleet: &mut dyn Fleet) {
        self.restarted_at.resize(fleet.size(), 0);
        for of in 0..fleet.size() {
            let old = fleet.is_watched(of) && fleet.heartbeat_age(of).is_some_and(|age| age > self.timeout);
            if old && fleet.now() >= self.restarted_at[of] + self.timeout {
                self.restarted_at[of] = fleet.now();
                fleet.restart(of);
            }
        }
    }

    fn forget(&mut self) {
        self.restarted_at.clear();
    }
}

/// The accrual detector: suspicion grows with the improbability of the silence, given the history of intervals.
#[derive(Debug, Default)]
pub(super) struct Phi {
    peers: Vec<Peer>,
}

const THRESHOLD: f64 = 8.0;
const ACCEPTABLE_PAUSE: f64 = 3_000.0;
const MIN_STD: f64 = 100.0;
const HISTORY_MAX: usize = 1_000;
/// Akka's `first-heartbeat-estimate`, with the interval of this fleet.
const FIRST_ESTIMATE: f64 = 30_000.0;

#[derive(Clone, Debug, Default)]
struct Peer {
    stamp: i64,
    last: Ms,
    intervals: VecDeque<f64>,
    sum: f64,
    squares: f64,
}

impl Peer {
    fn push(&mut self, interval: f64) {
        self.intervals.push_back(interval);
        self.sum += interval;
        self.squares += interval * interval;
        if self.intervals.len() > HISTORY_MAX
            && let Some(old) = self.intervals.pop_front()
        {
            self.sum -= old;
            self.squares -= old * old;
        }
    }

    fn beat(&mut self, now: Ms) {
        if self.intervals.is_empty() {
            // Akka begins with two made-up intervals around the estimate.
            self.push(FIRST_ESTIMATE * 0.75);
            self.push(FIRST_ESTIMATE * 1.25);
        } else if self.last > 0 {
            self.push((now - self.last) as f64);
        }
        self.last = now;
    }

    fn phi(&self, now: Ms) -> f64 {
        if self.last == 0 {
            return 0.0;
        }
        let n = self.intervals.len().max(1) as f64;
        let mean = self.sum / n;
        let std = (self.squares / n - mean * mean).max(0.0).sqrt().max(MIN_STD);
        let y = ((now - self.last) as f64 - (mean + ACCEPTABLE_PAUSE)) / std;
        // Akka's logistic approximation of the normal distribution.
        let e = (-y * (1.5976 + 0.070_566 * y * y)).exp();
        if y > 0.0 { -(e / (1.0 + e)).log10() } else { -(1.0 - 1.0 / (1.0 + e)).log10() }
    }
}

impl Rule for Phi {
    fn every(&self) -> Option<Ms> {
        Some(secs(1))
    }

    fn sweep(&mut self, fleet: &mut dyn Fleet) {
        let now = fleet.now();
        self.peers.resize_with(fleet.size(), Peer::default);
        for of in 0..fleet.size() {
            if !fleet.is_watched(of) {
                self.peers[of] = Peer::default();
                continue;
            }
            let beat = fleet.heartbeat(of);
            let peer = &mut self.peers[of];
            if let Some(beat) = beat.filter(|beat| beat.0 > peer.stamp) {
                peer.stamp = beat.0;
                peer.beat(now);
            }
            if peer.phi(now) >= THRESHOLD {
                // Akka removes the address: its history begins anew with the first heartbeat of the next life.
                *peer = Peer { stamp: peer.stamp, ..Peer::default() };
                fleet.restart(of);
            }
        }
    }

    fn forget(&mut self) {
        self.peers.clear();
    }
}
