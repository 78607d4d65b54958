//! `defib.restarts` and `defib.holds` in memory: the model of `defib_store`'s ledger, with the leases it claims under.
//!
//! The same operations with the same answers as the SQL, on a database clock that the caller passes in; a test holds the two
//! against each other over random sequences (`tests/ledger.rs`). The simulated world and the schedules run on it.
//!
//! The platform's row is the caller's ([`Facts`](crate::facts::Facts)), with the platform's own two functions on it. The model leaves
//! out the texts that are only kept (errors, evidence). It does not wait for locks either: where the store would wait and give up
//! after less than a second, the model refuses at once ([`Refusal::Busy`]).
//!
//! | file | subject |
//! | --- | --- |
//! | `row.rs` | the row, and what is asked and answered about it |
//! | `hold.rs` | holds |
//! | `claim.rs` | the transaction of a claim, whole and in its parts |
//! | `act.rs` | what happens to a claimed row: it may act, ends, is proved a recovery, is acknowledged |
//! | `mark.rs` | what the platform was told and has not been taken back |
//! | `read.rs` | what the policy and the settling of rows left behind read |

mod act;
mod claim;
mod hold;
mod mark;
mod read;
mod row;

use std::collections::BTreeMap;
use std::time::Duration;

use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::Timestamp;

use crate::lease::Leases;
use crate::weakening::Weakening;

pub use hold::{Hold, HoldScope};
pub use row::{Claim, ClaimUnderWay, Claimed, Mark, MayAct, OpenAttempt, Refusal, Restart};

/// After this time nobody reads an attempt of a run that has ended. It is longer than any reset of the back-off, and than the time for
/// which attempts are read, with a day to spare for a clock that is set back.
const OVER_AFTER: Duration = Duration::from_secs(8 * 86_400);

/// The tables.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Who owns what.
    pub leases: Leases,
    /// What stands against restarts, oldest first. A hold that is released is removed.
    pub holds: Vec<Hold>,
    rows: Vec<Restart>,
    of: Vec<Vec<usize>>,
    /// How many of the oldest rows of each workspace no reader will ever want again. They are passed over, because a year makes hundreds of
    /// them.
    over: Vec<usize>,
    /// When the last run of each workspace ended. Most of them have no run for days, and every read of attempts asks for it.
    last_runs: Vec<LastRun>,
    marks: BTreeMap<usize, Mark>,
    under_way: Vec<usize>,
    inserting: Vec<usize>,
    last_id: i64,
    weakening: Option<Weakening>,
}

/// The last run of attempts of a workspace, of those that were not acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum LastRun {
    #[default]
    Never,
    Ended(Timestamp),
    GoesOn,
}

impl Ledger {
    /// Empty tables with one rule left out.
    #[must_use]
    pub fn weakened(weakening: Option<Weakening>) -> Self {
        Self { leases: Leases::weakened(weakening), weakening, ..Self::default() }
    }

    fn is(&self, weakening: Weakening) -> bool {
        self.weakening == Some(weakening)
    }

    /// All rows, oldest first.
    #[must_use]
    pub fn rows(&self) -> &[Restart] {
        &self.rows
    }

    /// The row with this id.
    #[must_use]
    pub fn row(&self, id: i64) -> Option<&Restart> {
        self.place(id).map(|place| &self.rows[place])
    }

    /// The rows of a workspace, oldest first.
    #[must_use]
    pub fn rows_of(&self, of: usize) -> impl DoubleEndedIterator<Item = &Restart> {
        self.of.get(of).into_iter().flatten().map(|place| &self.rows[*place])
    }

    /// The same without the oldest ones, in which nobody is interested any more.
    fn later_rows_of(&self, of: usize) -> impl DoubleEndedIterator<Item = &Restart> {
        let over = self.over.get(of).copied().unwrap_or_default();
        self.of.get(of).into_iter().flat_map(move |places| &places[over..]).map(|place| &self.rows[*place])
    }

    /// A clock may be set back, by a day at most.
    fn pass_over_what_is_over(&mut self, of: usize, now: Timestamp) {
        if self.over.len() <= of {
            self.over.resize(of + 1, 0);
        }
        let long = |at: Timestamp| at.plus(OVER_AFTER) <= now;
        let is_over = |row: &Restart| {
            long(row.claimed_at) && (row.acknowledged_at.is_some() || row.run_ended_at.is_some_and(long))
        };
        while self.of[of].get(self.over[of]).is_some_and(|place| is_over(&self.rows[*place])) {
            self.over[of] += 1;
        }
    }

    /// Takes note of what has changed in the rows of a workspace.
    fn note_runs(&mut self, of: usize) {
        if self.last_runs.len() <= of {
            self.last_runs.resize(of + 1, LastRun::Never);
        }
        let runs = self.later_rows_of(of).filter(|row| row.acknowledged_at.is_none());
        let last = runs.map(|row| row.run_ended_at.map_or(LastRun::GoesOn, LastRun::Ended)).max();
        self.last_runs[of] = last.unwrap_or_default();
    }

    /// Whether there are any.
    #[must_use]
    pub fn knows(&self, of: usize) -> bool {
        self.of.get(of).is_some_and(|rows| !rows.is_empty())
    }

    /// Whether a claim's transaction holds the platform's row of this workspace.
    #[must_use]
    pub fn is_inserting(&self, of: usize) -> bool {
        self.inserting.contains(&of)
    }

    /// Moves every time in the tables into the past: a test's way of letting time pass.
    pub fn age(&mut self, by: Duration) {
        let micros = -i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        let shift = |at: &mut Option<Timestamp>| *at = at.map(|at| at.shifted(micros));
        for row in &mut self.rows {
            row.claimed_at = row.claimed_at.shifted(micros);
            row.deadline_at = row.deadline_at.shifted(micros);
            shift(&mut row.acting_at);
            shift(&mut row.finished_at);
            shift(&mut row.recovered_at);
            shift(&mut row.acknowledged_at);
            shift(&mut row.run_ended_at);
        }
        (0..self.of.len()).for_each(|of| self.note_runs(of));
        for hold in &mut self.holds {
            shift(&mut hold.expires_at);
        }
        self.leases.age(micros);
    }

    fn place(&self, id: i64) -> Option<usize> {
        self.rows.binary_search_by_key(&id, |row| row.id).ok()
    }

    /// Why restarts of a workspace are held, if they are: `defib.hold_reason`.
    #[must_use]
    pub fn hold_reason(&self, workspace: &WorkspaceId, engine: &EngineName, now: Timestamp) -> Option<String> {
        hold::reason(&self.holds, workspace, engine, now)
    }
}
