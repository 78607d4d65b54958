//! What the daemon knows, for all of its parts: the judge, the last read of the fleet, which replica speaks for which workspaces, and the
//! settings of single workspaces.
//!
//! Nothing in here waits. Every lock is held for a computation in memory and never across an await.
//!
//! **Lock order.** Code that needs two of them at once takes them in this order, and the recorder's last:
//!
//! ```text
//! own_settings ─► fleet ─► ownership ─► judge ─► (Recorder) said ─► history
//!                                         └────► findings
//! ```
//!
//! `fleet` holds an `Arc` that is replaced as a whole, so a reader holds that lock only to clone it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use defib_policy::fleet::Workspace;
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::{Judge, OwnSettings};
use defib_policy::moment::Moment;
use defib_policy::ownership::Ownership;
use defib_policy::settings::Mode;
use defib_record::{Recorded, Tape};

use crate::clock::Clock;
use crate::config::Config;
use crate::findings::Findings;
use crate::own_settings::{Labels, OwnBook};
use crate::snapshot::Snapshot;
use crate::sync::lock;

/// The state of one process. Its parts are independent; see the module for the order of their locks.
pub(crate) struct State {
    /// The checked configuration.
    pub(crate) config: Arc<Config>,
    clock: Clock,
    own_settings: Mutex<OwnBook>,
    fleet: Mutex<Arc<Snapshot>>,
    ownership: Arc<Mutex<Ownership>>,
    judge: Mutex<Recorded>,
    findings: Findings,
}

impl State {
    /// A state with a judge that has seen nothing yet.
    pub(crate) fn new(config: Arc<Config>, clock: Clock, ownership: Arc<Mutex<Ownership>>) -> Self {
        let judge = Mutex::new(Recorded::off(Judge::new(config.policy.clone())));
        let findings = Findings::default();
        Self { config, clock, own_settings: Mutex::default(), fleet: Mutex::default(), ownership, judge, findings }
    }

    /// Records the calls to the judge, if there is a tape.
    pub(crate) fn recorded_onto(self, tape: Option<Box<dyn Tape>>) -> Self {
        let Some(tape) = tape else { return self };
        let judge = Mutex::new(Recorded::onto(Judge::new(self.config.policy.clone()), tape));
        Self { judge, ..self }
    }

    /// Our monotonic clock.
    pub(crate) fn now(&self) -> Moment {
        (self.clock)()
    }

    /// The judge. For a computation; never across an await.
    pub(crate) fn judge(&self) -> MutexGuard<'_, Recorded> {
        lock(&self.judge)
    }

    /// What the looks that suspicions asked for have found. Its locks are the last of all.
    pub(crate) const fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Which replica speaks for which workspaces. For a computation; never across an await.
    pub(crate) fn ownership(&self) -> MutexGuard<'_, Ownership> {
        lock(&self.ownership)
    }

    /// The last read of the whole fleet.
    pub(crate) fn fleet(&self) -> Arc<Snapshot> {
        Arc::clone(&lock(&self.fleet))
    }

    /// Replaces the last read of the whole fleet. Returns the one before.
    pub(crate) fn publish(&self, read: Arc<Snapshot>) -> Arc<Snapshot> {
        std::mem::replace(&mut *lock(&self.fleet), read)
    }

    /// Whether the fleet has been read. Before that it is not known which suspicions and events are about workspaces of ours.
    pub(crate) fn fleet_known(&self) -> bool {
        self.fleet().stamp().is_some()
    }

    /// Whether what is said of the workspaces of `engine` (`None`: those without one) is this replica's to say.
    pub(crate) fn speaks_for(&self, engine: Option<&EngineName>, now: Moment) -> bool {
        self.ownership().speaks_for(engine, now)
    }

    /// Which replica speaks for which workspaces at this moment, for asking about many of them.
    pub(crate) fn voice(&self) -> Voice {
        let fleet = self.fleet();
        Voice { fleet, ownership: self.ownership().clone(), now: self.now() }
    }

    /// The settings of those of `workspaces` that have some of their own.
    pub(crate) fn own_settings(
        &self,
        workspaces: &[&Workspace],
        labels: Option<&BTreeMap<WorkspaceId, Labels>>,
    ) -> HashMap<WorkspaceId, Arc<OwnSettings>> {
        lock(&self.own_settings).settings(workspaces, labels, &self.config.policy)
    }

    /// The own settings of a workspace as text, including those that are not used.
    pub(crate) fn described_settings(&self, id: &WorkspaceId) -> Vec<String> {
        lock(&self.own_settings).described(id)
    }

    /// Forgets the settings of workspaces that are no longer watched.
    pub(crate) fn forget_settings<'a>(&self, departed: impl Iterator<Item = &'a WorkspaceId>) {
        lock(&self.own_settings).forget(departed);
    }

    /// Whether this daemon only judges and records: no function of the platform is called, and nothing is restarted.
    pub(crate) fn only_observes(&self) -> bool {
        self.config.policy.mode == Mode::Observe
    }
}

/// Which replica speaks for which workspaces, as of one moment.
pub(crate) struct Voice {
    fleet: Arc<Snapshot>,
    ownership: Ownership,
    now: Moment,
}

impl Voice {
    /// The last read of the fleet.
    pub(crate) fn fleet(&self) -> &Snapshot {
        &self.fleet
    }

    /// Whether what is said of a workspace is ours to say. A workspace that is not in the fleet belongs to the replica that speaks for the
    /// engine on which it is recorded.
    pub(crate) fn speaks_for(&self, workspace: &WorkspaceId, recorded_on: &EngineName) -> bool {
        let engine = if self.fleet.has(workspace) { self.fleet.engine_of(workspace) } else { Some(recorded_on) };
        self.ownership.speaks_for(engine, self.now)
    }

    /// Whether a workspace is in the last read of the fleet, and what is said of it is ours to say.
    pub(crate) fn speaks_for_its_row(&self, workspace: &WorkspaceId) -> bool {
        self.fleet.has(workspace) && self.ownership.speaks_for(self.fleet.engine_of(workspace), self.now)
    }

    /// The lease that decides who speaks for a workspace: its engine's, or `None` for the fleet's.
    pub(crate) fn lease_of(&self, workspace: &WorkspaceId, recorded_on: Option<&EngineName>) -> Option<EngineName> {
        let engine = if self.fleet.has(workspace) { self.fleet.engine_of(workspace) } else { recorded_on };
        self.ownership.lease_for(engine)
    }
}
