//! The rows of the restart ledger that the rules read: what was tried for a workspace, and what came of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{ContainerId, WorkspaceId};
use crate::moment::Timestamp;

/// How an attempt ended (`defib.restarts.outcome`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The engine carried the restart out. Not yet a recovery: only a heartbeat is.
    Succeeded,
    /// The engine refused, failed or did not answer in time.
    Failed,
    /// The fresh look before the restart did not bear the evidence out: it runs, it is another incarnation, or the engine
    /// gave no answer. Nothing was touched.
    Superseded,
    /// The platform refused the claim (`defib.mark_dead` returned false). Nothing was touched.
    Vetoed,
    /// The daemon that claimed it went away before the end.
    Abandoned,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 5] = [Self::Succeeded, Self::Failed, Self::Superseded, Self::Vetoed, Self::Abandoned];

    /// The text in the ledger and in metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
            Self::Vetoed => "vetoed",
            Self::Abandoned => "abandoned",
        }
    }

    /// The outcome that has this text in the ledger; `None` for a text that is no outcome.
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.label() == label)
    }

    /// Whether an attempt with this outcome counts as one. `asked` says whether its owner turned to the engine. Only attempts that count
    /// have a number, make the back-off grow and exhaust a workspace. One that was vetoed, superseded or handed back before the engine was
    /// asked has touched nothing, so it does not count.
    #[must_use]
    pub const fn counts(self, asked: bool) -> bool {
        asked && matches!(self, Self::Succeeded | Self::Failed | Self::Abandoned)
    }
}

/// One row of `defib.restarts`. Ages are by the database's clock, at the read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Primary key of the row.
    pub id: i64,
    /// The workspace that was to be restarted.
    pub workspace: WorkspaceId,
    /// The container that was found dead; `None` when it was missing and never seen.
    pub container_id: Option<ContainerId>,
    /// The start of that incarnation, on the engine's clock.
    pub started_at: Option<Timestamp>,
    /// Number within the run of attempts that no verified recovery has broken, from 1.
    pub attempt: u32,
    /// How long ago it was claimed.
    pub claimed_ago: Duration,
    /// How long ago it ended; `None` while it is open.
    pub finished_ago: Option<Duration>,
    /// When it ended, on the database's clock.
    pub finished_at: Option<Timestamp>,
    /// How it ended; `None` while it is open.
    pub outcome: Option<Outcome>,
    /// How long ago a heartbeat proved the recovery; `None` while no heartbeat has.
    pub recovered_ago: Option<Duration>,
    /// Whether its owner turned to the engine (`acting_at` is set), so that the engine may have acted. Otherwise nothing was touched.
    pub asked: bool,
    /// Whether an operator acknowledged it (`defib ack`). An acknowledged attempt no longer counts.
    pub acknowledged: bool,
}

impl Attempt {
    /// Whether it has ended and counts as an attempt ([`Outcome::counts`]).
    #[must_use]
    pub fn counts(&self) -> bool {
        self.outcome.is_some_and(|outcome| outcome.counts(self.asked))
    }

    /// Whether it has ended and does not count, because the platform or a fresh look refused it or because its owner never asked the
    /// engine.
    #[must_use]
    pub fn was_refused(&self) -> bool {
        self.outcome.is_some_and(|outcome| !outcome.counts(self.asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_read_back_by_the_words_that_the_ledger_holds() {
        let words = ["succeeded", "failed", "superseded", "vetoed", "abandoned"];
        assert_eq!(Outcome::ALL.map(Outcome::label), words);
        assert_eq!(words.map(Outcome::from_label), Outcome::ALL.map(Some));
        assert_eq!(Outcome::from_label("recovered"), None);
    }

    #[test]
    fn only_an_attempt_that_asked_the_engine_and_was_not_refused_counts() {
        for (outcome, counts) in [
            (Outcome::Succeeded, true),
            (Outcome::Failed, true),
            (Outcome::Abandoned, true),
            (Outcome::Superseded, false),
            (Outcome::Vetoed, false),
        ] {
            assert_eq!((outcome.counts(true), outcome.counts(false)), (counts, false), "{outcome:?}");
        }
    }
}
