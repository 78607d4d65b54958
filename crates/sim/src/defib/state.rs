//! The state of a replica of defib: its clock, its judge, the looks that are on their way, its restarts, and its knobs.
//!
//! This file holds the types. Their methods are in the files that act on them: `pass.rs` (a replica looks and judges), `job.rs` (it
//! restarts) and `leases.rs` (it takes its turns at the leases). Those files do not import each other.

use std::collections::{BTreeMap, VecDeque};

use defib_policy::attempt::Attempt;
use defib_policy::fleet::Workspace as Row;
use defib_policy::id::WorkspaceId;
use defib_policy::judge::{EngineEvidence, ReadStamp};
use defib_policy::moment::Timestamp;
use defib_policy::ownership::Ownership;
use defib_policy::plan::RestartOrder;
use defib_policy::reading::LastRead;
use defib_policy::restart::lanes::Lanes;
use defib_policy::restart::{Answer, Restart, Step};
use defib_policy::sample::Sample;
use defib_policy::settings::Settings;
use defib_policy::verdict::Verdict;
use defib_record::Recorded;

use crate::time::Ms;

/// `DEFIB_ENGINE_TIMEOUT`.
pub(super) const ENGINE_TIMEOUT: Ms = 5_000;
/// `DEFIB_LEASE_TTL`.
pub const LEASE_TTL: Ms = 15_000;
/// `DEFIB_RESYNC_INTERVAL`.
pub(super) const RESYNC_INTERVAL: Ms = 60_000;
/// `DEFIB_STOP_GRACE`.
pub(super) const STOP_GRACE: Ms = 10_000;
/// `DEFIB_RESTART_TIMEOUT`.
pub(super) const RESTART_TIMEOUT: Ms = 30_000;
/// The time between two looks after a restart whose answer was lost. It is longer than the daemon's, so that there are fewer steps in which
/// nothing happens.
pub(super) const LOOK_AFTER_SPACING: Ms = 1_000;
/// `DEFIB_RESTART_CONCURRENCY`.
pub(super) const RESTART_CONCURRENCY: usize = 4;

/// What it has exchanged with other replicas about steps of the database's clock.
#[derive(Debug, Default)]
pub(super) struct ClockSteps {
    /// It has read what the others noticed.
    pub(super) recalled: bool,
    /// What it has last written itself.
    pub(super) written: Option<Timestamp>,
}

/// One replica.
#[derive(Debug)]
pub struct Defib {
    pub(super) settings: Settings,
    pub(super) judge: Recorded,
    pub(super) runs: bool,
    pub(super) started_at: Ms,
    pub(super) processes: u32,
    pub(super) name: String,
    pub(super) lost: Ms,
    pub(super) frozen: Option<(Ms, bool)>,
    pub(super) started_freezing: Ms,
    pub(super) is_cut_off: bool,
    pub(super) sweep_due: Ms,
    /// The last read of the fleet, unless a later one has failed.
    pub(super) last_read: Option<LastRead>,
    pub(super) asked_until: Vec<Ms>,
    pub(super) was_late: bool,
    pub(super) ownership: Ownership,
    pub(super) pruned_at: Ms,
    pub(super) clock_steps: ClockSteps,
    pub(super) attempts: Vec<Vec<Attempt>>,
    pub(super) in_flight: Vec<bool>,
    /// What it has said of workspaces and not written down yet.
    pub(super) unwritten: BTreeMap<usize, (Verdict, Ms)>,
    pub(super) focused_at: Vec<Ms>,
    pub(super) look_due: Vec<Ms>,
    pub(super) returns: Vec<u32>,
    pub(super) pending: BTreeMap<u32, Pending>,
    pub(super) jobs: BTreeMap<u32, Job>,
    pub(super) places: Vec<Places>,
    pub(super) lanes: Lanes,
    pub(super) next_number: u32,
}

/// An answer on its way: what it was asked about, and what it will say.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) engine: usize,
    pub(super) evidence: EngineEvidence,
    pub(super) stamp: ReadStamp,
    pub(super) rows: Vec<Row>,
    pub(super) samples: Vec<Sample>,
    /// Whether all of these rows were read just before, so that the pass leaves out nobody.
    pub(super) all_are_read: bool,
}

/// One restart.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) of: usize,
    pub(super) apart: bool,
    pub(super) drive: Drive,
}

/// The value, its next step, and an answer that is on its way.
#[derive(Debug)]
pub(super) struct Drive {
    pub(super) order: RestartOrder,
    pub(super) restart: Restart,
    pub(super) step: Step,
    pub(super) answer: Option<Answer>,
}

/// The places in which an engine's workspaces are restarted, and who waits for one.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) taken: usize,
    pub(super) waiting: VecDeque<u32>,
    pub(super) apart_taken: bool,
    pub(super) waiting_apart: VecDeque<u32>,
}

/// The number in a workspace's name.
pub(super) fn index_of(id: &WorkspaceId) -> usize {
    id.as_str().trim_start_matches('w').parse().unwrap_or(usize::MAX)
}
