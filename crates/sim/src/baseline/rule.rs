//! A policy's rule, apart from where its facts come from: the simulated world asks it, and so does a replay of a recording.

use defib_policy::moment::Timestamp;

use crate::time::Ms;

/// What the naive look at a container says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// `State.Running` is true (which it is when paused, and when restarting).
    Running,
    /// It is false, or the container is not there.
    NotRunning,
    /// The engine gave no answer.
    Error,
}

/// What a container is doing, as its manager knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It runs.
    Runs,
    /// It has exited, or is not there.
    Down,
    /// Anything else, such as paused.
    Other,
}

/// What these policies see of a fleet, and what they do to it.
pub trait Fleet {
    /// The time.
    fn now(&self) -> Ms;
    /// How many workspaces there are. They have the numbers below this.
    fn size(&self) -> usize;
    /// Whether the platform wants it to run, as far as its row tells now. It does not where the database gives no answer.
    fn is_watched(&self, of: usize) -> bool;
    /// The same for a policy that knows by itself what is to run, and needs no database for that.
    fn is_managed(&self, of: usize) -> bool;
    /// The guard of a proxy: whatever is neither removed nor being provisioned may be marked offline, and is then restarted.
    fn may_be_marked(&self, of: usize) -> bool;
    /// It has no container.
    fn is_external(&self, of: usize) -> bool;
    /// Its last heartbeat, as its row has it.
    fn heartbeat(&self, of: usize) -> Option<Timestamp>;
    /// How long ago that was, by the reader's wall clock.
    fn heartbeat_age(&self, of: usize) -> Option<Ms>;
    /// How long ago that was by the database's clock. `None`: there was none, or the database gives no answer.
    fn heartbeat_age_in_database(&self, of: usize) -> Option<Ms>;
    /// `inspect`, read as these policies read it.
    fn inspect(&mut self, of: usize) -> Seen;
    /// Its engine lists it as unhealthy.
    fn is_listed_unhealthy(&self, of: usize) -> bool;
    /// What its container is doing.
    fn doing(&self, of: usize) -> Doing;
    /// How long ago its container was started.
    fn started_ago(&self, of: usize) -> Ms;
    /// It answers a probe.
    fn answers(&self, of: usize) -> bool;
    /// `docker restart`, or a new one where there is nothing to restart.
    fn restart(&mut self, of: usize);
    /// The platform's own restart: stop, and make a new one, without a second look at the row (molecule-core's action set).
    fn recreate(&mut self, of: usize);
}

/// A policy that others use.
pub trait Rule: std::fmt::Debug {
    /// How often it looks at everybody; `None`: only when a request fails.
    fn every(&self) -> Option<Ms>;
    /// It looks at everybody.
    fn sweep(&mut self, fleet: &mut dyn Fleet);
    /// A request to a workspace failed at a proxy.
    fn failed(&mut self, _of: usize, _proxy: u8, _fleet: &mut dyn Fleet) {}
    /// Its process ends, and with it what it remembers.
    fn forget(&mut self) {}
}
