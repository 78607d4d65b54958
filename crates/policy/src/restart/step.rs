//! The words of the protocol: what is asked of the outside world, what it answers, and how a restart ended.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::attempt::Outcome;
use crate::id::ContainerId;
use crate::moment::Moment;
use crate::sample::Observation;

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for a place among the restarts on this engine. Answer: [`Answer::Place`].
    Permit,
    /// Claim the attempt in the ledger under the lease of this epoch. Answer: [`Answer::Claim`].
    Claim {
        /// The epoch of our lease.
        epoch: i64,
        /// How long after the claim others may settle it.
        deadline: Duration,
    },
    /// Look at the container. Answer: [`Answer::Seen`].
    Confirm,
    /// Ask the database whether the engine may be asked now, and write down that it will be. Answer: [`Answer::MayAct`].
    MayAct {
        /// The attempt's row.
        row: i64,
        /// The epoch of the lease that it was claimed under.
        epoch: i64,
        /// How long from now on others leave it alone.
        within: Duration,
    },
    /// Call the engine, with what [`Restart::may_leave`](super::Restart::may_leave) returns on the line before. Answer:
    /// [`Answer::Called`].
    Leave,
    /// Wait, then look at the container once more. Answer: [`Answer::Seen`].
    Look {
        /// How long to wait.
        wait: Duration,
    },
    /// Wait, then write the outcome. Answer: [`Answer::Written`].
    Finish {
        /// The attempt's row.
        row: i64,
        /// The outcome.
        outcome: Outcome,
        /// Why, for the ledger; `None` for a restart that went as it should.
        why: Option<String>,
        /// How long to wait.
        wait: Duration,
    },
    /// Nothing: the restart has ended.
    Done(Done),
}

/// What the outside world answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is a place for it.
    Place,
    /// The ledger's answer to the claim.
    Claim(ClaimAnswer),
    /// What the look saw. No answer of the engine is an [`Observation::Unknown`].
    Seen(Observation),
    /// The database's answer to the question whether to act.
    MayAct(ActAnswer),
    /// What came of the call.
    Called {
        /// When it left, on our clock.
        left_at: Moment,
        /// The engine's answer.
        result: Result<(), CallFailed>,
    },
    /// The outcome is written, by us or by somebody who was faster.
    Written,
    /// Nobody answered, for this reason.
    Nothing(String),
}

/// The ledger's answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimAnswer {
    /// The attempt is ours.
    Granted {
        /// Its row.
        row: i64,
    },
    /// The platform refused. The row says so and is finished.
    Vetoed,
    /// Another attempt is under way, or this one was made before.
    Taken,
    /// An operator's hold stands.
    Held {
        /// Whose, and why.
        reason: String,
    },
    /// The lease is no longer ours.
    NotOwner,
    /// The platform's function raised, blocked or took too long. Nothing was claimed, and the database is well.
    FunctionFailed {
        /// What it said.
        why: String,
    },
}

/// The database's answer to the question whether the engine may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActAnswer {
    /// Yes, and it is written down that it will be.
    Yes,
    /// The workspace left the fleet, is no longer watched, is suspended or held; or it was found hanging, and was heard of since.
    NotWanted,
    /// The lease is no longer ours, or somebody has settled the attempt.
    NotOwner,
}

/// How a container is brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It does not run: start it.
    Start,
    /// It runs: let it end within the grace, kill it otherwise, and start it.
    KillAndStart {
        /// How long it may take to end by itself.
        grace: Duration,
    },
    /// It is gone: make it again.
    Recreate,
}

/// A call to the engine that may leave now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The container that the fresh look confirmed; empty for one that is gone and was never seen.
    pub container: ContainerId,
    /// What to do with it.
    pub how: How,
    /// How long to wait for the answer.
    pub deadline: Duration,
    /// The failure of an earlier call that left the container stopped, if this call is there to start it again.
    pub mends: Option<String>,
}

/// A call that the engine did not carry out, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFailed {
    /// What that means.
    pub kind: CallFault,
    /// The engine's words, or what went wrong on the way.
    pub why: String,
}

/// What a failed call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFault {
    /// The engine does not know the container any more.
    Gone,
    /// The engine says that the restart is not wanted: somebody else is at work on it, or has parked it.
    NotWanted,
    /// Nothing was sent: the engine asked to be left alone, or has no way of doing this.
    NotSent,
    /// The answer was lost. The engine may have carried the call out, or may still do so.
    Lost,
    /// The engine refused, or was never reached. Nothing more will come of the call.
    Refused,
}

/// How an order for a restart ended, as far as that tells anything about the scope that its workspace belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The engine carried the restart out. Whether the workspace comes back is for its heartbeat to say.
    Made,
    /// The engine was asked, and refused, failed or did not answer in time.
    Failed,
    /// The engine was never asked: vetoed, held, superseded, taken by another attempt, or handed back.
    NotAsked,
}

impl End {
    /// What an outcome in the ledger says about the scope.
    #[must_use]
    pub const fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Made,
            Outcome::Failed => Self::Failed,
            Outcome::Superseded | Outcome::Vetoed | Outcome::Abandoned => Self::NotAsked,
        }
    }
}

/// How a restart ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// For the storm guard.
    pub end: End,
    /// Whether a look at the workspace now would tell something new. An order that was refused before anything was claimed would only
    /// be refused again.
    pub look_again: bool,
    /// For metrics and logs.
    pub conclusion: Conclusion,
}

/// What a restart came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// Nothing was claimed.
    NotClaimed(NotClaimed),
    /// The attempt ended.
    Ended {
        /// How.
        outcome: Outcome,
        /// Whether that is written. Where it is not, the row stays open, and the engine's owner settles it later.
        written: bool,
    },
}

/// Why nothing was claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotClaimed {
    /// The engine cannot do what the order asks for.
    CannotDo,
    /// This process is stopping.
    Stopping,
    /// The engine is not ours, or no longer.
    NotOwner,
    /// Another attempt is under way, or this one was made before.
    Taken,
    /// An operator's hold stands.
    Held {
        /// Whose, and why.
        reason: String,
    },
    /// The platform refused.
    Vetoed,
    /// The platform's function failed for this workspace.
    FunctionFailed {
        /// What it said.
        why: String,
    },
    /// The database did not answer.
    NoAnswer {
        /// What went wrong.
        why: String,
    },
}
