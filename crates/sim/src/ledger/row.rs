//! A row of `defib.restarts`, and the questions and answers of the operations on it.
//!
//! Some of these types repeat those of `defib_store` field by field. They must not be shared: the model would then no longer be independent
//! of the SQL that it is compared with.

use std::time::Duration;

use defib_policy::attempt::Outcome;
use defib_policy::id::{ContainerId, EngineName, WorkspaceId};
use defib_policy::moment::Timestamp;
use defib_policy::restart::left_behind;

use crate::facts::Evidence;

/// A row of `defib.restarts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Primary key.
    pub id: i64,
    /// Whose, by number.
    pub of: usize,
    /// Whose, by name.
    pub workspace: WorkspaceId,
    /// Where.
    pub engine: EngineName,
    /// The container that was found dead.
    pub container_id: Option<ContainerId>,
    /// The start of that incarnation.
    pub started_at: Option<Timestamp>,
    /// Number within the run.
    pub attempt: u32,
    /// The epoch of the lease that it was claimed under.
    pub epoch: i64,
    /// The verdict that asked for it.
    pub verdict: &'static str,
    /// The last heartbeat, as the evidence has it.
    pub heartbeat: Option<Timestamp>,
    /// The last round trip, as the evidence has it.
    pub activity: Option<Timestamp>,
    /// By whom.
    pub claimed_by: Box<str>,
    /// When.
    pub claimed_at: Timestamp,
    /// After this anybody may settle it.
    pub deadline_at: Timestamp,
    /// When its owner turned to the engine.
    pub acting_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How.
    pub outcome: Option<Outcome>,
    /// When it was proved a recovery.
    pub recovered_at: Option<Timestamp>,
    /// When an operator acknowledged it.
    pub acknowledged_at: Option<Timestamp>,
    /// When the run that it belongs to ended.
    pub run_ended_at: Option<Timestamp>,
}

impl Restart {
    /// Whether it keeps its number from being given again for its incarnation.
    pub(super) fn keeps_its_number(&self) -> bool {
        self.run_ended_at.is_none() && self.outcome.is_none_or(|outcome| outcome.counts(self.acting_at.is_some()))
    }
}

/// A restart to be claimed.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Whose, by number.
    pub of: usize,
    /// Whose, by name.
    pub workspace: &'a WorkspaceId,
    /// Where.
    pub engine: &'a EngineName,
    /// The container that is dead.
    pub container_id: Option<&'a ContainerId>,
    /// The start of that incarnation.
    pub started_at: Option<Timestamp>,
    /// Number within the run, from 1.
    pub attempt: u32,
    /// The epoch of the lease on `engine` that `claimed_by` holds.
    pub epoch: i64,
    /// The verdict that asks for it.
    pub verdict: &'static str,
    /// What it rests on.
    pub evidence: Evidence<'a>,
    /// This replica.
    pub claimed_by: &'a str,
    /// After this the attempt is anybody's to settle.
    pub deadline: Duration,
}

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Go on.
    Granted {
        /// The row.
        id: i64,
    },
    /// The platform refused; the row is finished already.
    Vetoed {
        /// The row.
        id: i64,
    },
    /// Another attempt is under way, or this one was made before.
    Taken,
    /// A hold stands.
    Held {
        /// Whose, and why.
        reason: String,
    },
    /// The lease has expired, or another replica holds it.
    NotOwner,
}

/// Why a transaction ended at its first statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The lease has expired, or another replica holds it.
    NotOwner,
    /// A lock that it would wait for is held by another transaction under way: an error, after a while.
    Busy,
}

/// Whether the engine may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayAct {
    /// Yes, and that it will be is written down.
    Yes,
    /// The workspace left the fleet, is no longer watched, is suspended or held; or it was found hanging, and was heard of since.
    NotWanted,
    /// The lease has expired or was taken over, or somebody has settled the attempt.
    NotOwner,
}

/// An attempt that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenAttempt {
    /// The row.
    pub id: i64,
    /// Whose, by number.
    pub of: usize,
    /// Where.
    pub engine: EngineName,
    /// The container that was found dead.
    pub container_id: Option<ContainerId>,
    /// The start of that incarnation.
    pub started_at: Option<Timestamp>,
    /// Who claimed it.
    pub claimed_by: Box<str>,
    /// The verdict that asked for it.
    pub verdict: &'static str,
    /// What the rule of recovery reads of it.
    pub row: left_behind::Row,
}

/// A claim's transaction under way: what it holds, and what it would commit.
#[derive(Debug)]
pub struct ClaimUnderWay {
    pub(super) engine: EngineName,
    pub(super) began: Timestamp,
    pub(super) row: Option<Restart>,
    pub(super) marks: bool,
}

impl ClaimUnderWay {
    /// Whose row it would insert.
    #[must_use]
    pub fn of(&self) -> Option<usize> {
        self.row.as_ref().map(|row| row.of)
    }

    /// The attempt that it would open.
    #[must_use]
    pub fn granted(&self) -> Option<i64> {
        self.row.as_ref().filter(|row| row.finished_at.is_none()).map(|row| row.id)
    }
}

/// A row of `defib.marks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The attempt that marked it last.
    pub attempt_id: i64,
    /// The attempt that marked it first.
    pub since_attempt: i64,
    /// The status in the evidence of the first of these marks.
    pub status_before: &'static str,
    /// The status right after the mark.
    pub status: &'static str,
    /// `mark_recovered` must be called.
    pub owed: bool,
}
