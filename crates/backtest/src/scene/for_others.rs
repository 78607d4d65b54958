//! What the policies of others see of a recording: the scene through the interface of the simulator's fleet.

use defib_policy::moment::Timestamp;
use defib_sim::baseline::rule::{Doing, Fleet, Seen};
use defib_sim::time::Ms;

use super::Stage;

fn ms(micros: i64) -> Ms {
    u64::try_from(micros / 1_000).unwrap_or(0)
}

impl Fleet for Stage {
    fn now(&self) -> Ms {
        ms(self.now)
    }

    fn size(&self) -> usize {
        self.entries.len()
    }

    fn is_watched(&self, of: usize) -> bool {
        self.entries[of].watched
    }

    fn is_managed(&self, of: usize) -> bool {
        self.entries[of].watched
    }

    fn may_be_marked(&self, of: usize) -> bool {
        self.entries[of].watched
    }

    fn is_external(&self, of: usize) -> bool {
        self.entries[of].external
    }

    fn heartbeat(&self, of: usize) -> Option<Timestamp> {
        self.entries[of].beat
    }

    fn heartbeat_age(&self, of: usize) -> Option<Ms> {
        self.age(of).map(ms)
    }

    fn heartbeat_age_in_database(&self, of: usize) -> Option<Ms> {
        self.age(of).map(ms)
    }

    fn inspect(&mut self, of: usize) -> Seen {
        let entry = &self.entries[of];
        match entry.doing {
            _ if !entry.answered => Seen::Error,
            Some(Doing::Down) => Seen::NotRunning,
            Some(_) => Seen::Running,
            None => Seen::Error,
        }
    }

    fn is_listed_unhealthy(&self, of: usize) -> bool {
        let entry = &self.entries[of];
        entry.answered && entry.unhealthy
    }

    fn doing(&self, of: usize) -> Doing {
        self.entries[of].doing.unwrap_or(Doing::Other)
    }

    fn started_ago(&self, of: usize) -> Ms {
        ms((self.now - self.entries[of].started).max(0))
    }

    /// The recording has no probes over the network. What runs and is not unhealthy answers.
    fn answers(&self, of: usize) -> bool {
        !self.entries[of].unhealthy
    }

    fn restart(&mut self, of: usize) {
        self.called.push(of);
    }

    fn recreate(&mut self, of: usize) {
        self.called.push(of);
    }
}
