//! The proxy that restarts on the request path, before and after its first cure.

use super::rule::{Fleet, Rule, Seen};
use crate::time::{Ms, secs};

/// A failed request is followed by an inspect, and that by a restart.
#[derive(Debug)]
pub(super) struct Proxy {
    debounce: bool,
    /// What each process has counted for each workspace: the moment of the first observation, and the number of observations.
    counters: Vec<Vec<(Ms, u32)>>,
}

impl Proxy {
    /// One observation that is not "running", an error included, is enough.
    #[must_use]
    pub(super) fn one_shot() -> Self {
        Self { debounce: false, counters: Vec::new() }
    }

    /// If the heartbeat is at most 15 s old, two observations within 30 s are needed. An error counts as alive, and each process counts for
    /// itself.
    #[must_use]
    pub(super) fn debounced() -> Self {
        Self { debounce: true, counters: Vec::new() }
    }

    fn is_dead(&mut self, of: usize, proxy: u8, fleet: &mut dyn Fleet) -> bool {
        let seen = fleet.inspect(of);
        if !self.debounce {
            return seen != Seen::Running;
        }
        let proxy = usize::from(proxy);
        if self.counters.len() <= proxy {
            self.counters.resize_with(proxy + 1, Vec::new);
        }
        let counters = &mut self.counters[proxy];
        counters.resize(fleet.size(), (0, 0));
        if seen != Seen::NotRunning {
            counters[of] = (0, 0);
            return false;
        }
        // A database error reads as "no recent heartbeat", as the reviewers noted.
        if fleet.heartbeat_age_in_database(of).is_none_or(|age| age > 15_000) {
            return true;
        }
        let (first, count) = counters[of];
        let fresh = count > 0 && fleet.now() - first <= secs(30);
        counters[of] = if fresh { (first, count + 1) } else { (fleet.now(), 1) };
        counters[of].1 >= 2
    }
}

impl Rule for Proxy {
    fn every(&self) -> Option<Ms> {
        None
    }

    fn sweep(&mut self, _fleet: &mut dyn Fleet) {}

    fn failed(&mut self, of: usize, proxy: u8, fleet: &mut dyn Fleet) {
        if fleet.may_be_marked(of) && self.is_dead(of, proxy, fleet) {
            fleet.recreate(of);
        }
    }

    fn forget(&mut self) {
        self.counters.clear();
    }
}
