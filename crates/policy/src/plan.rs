//! What a pass decided. A plan says more than is needed to carry it out, because tests, operators and the simulator read it too.

use std::time::Duration;

use crate::fleet::Kind;
use crate::id::{ContainerId, EngineName, WorkspaceId};
use crate::moment::{Moment, Timestamp};
use crate::sample::{Incarnation, Observation};
use crate::verdict::{Evidence, Held, Verdict};

/// The decisions of one pass over one engine's workspaces. Everything is in the order of the workspaces judged.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Verdicts that changed, and verdicts whose rule or hold changed.
    pub changes: Vec<Change>,
    /// Restarts to make now.
    pub restarts: Vec<RestartOrder>,
    /// Attempts that a heartbeat has proved to be recoveries.
    pub recoveries: Vec<Recovery>,
    /// External workspaces that are lost, in every pass, and those that a heartbeat has just brought back.
    pub external: Vec<External>,
    /// Which workspaces to look at again before the next poll, and when.
    pub looks: Vec<(WorkspaceId, Moment)>,
    /// Scopes that entered (`true`) or left (`false`) a storm; `None` is the fleet.
    pub storms: Vec<(Option<EngineName>, bool)>,
    /// How many were judged.
    pub judged: usize,
}

/// A verdict that changed.
#[derive(Clone, Debug)]
pub struct Change {
    /// Whose.
    pub workspace: WorkspaceId,
    /// The verdict before; `None` when it was never judged.
    pub from: Option<Verdict>,
    /// The verdict now.
    pub to: Verdict,
    /// Since when it has had this verdict.
    pub since: Moment,
    /// On what evidence.
    pub evidence: Evidence,
    /// The reason for which its restart is held back since this pass. It is set once for each hold, so that holds are counted once.
    pub newly_held: Option<Held>,
}

/// How a container is brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// It is stopped: start it.
    Start,
    /// It runs and is beyond help: kill it and start it.
    KillAndStart,
    /// It is gone: only the platform can make it again.
    Recreate,
}

/// A restart to make.
#[derive(Clone, Debug)]
pub struct RestartOrder {
    /// Whose.
    pub workspace: WorkspaceId,
    /// Where.
    pub engine: EngineName,
    /// What kind of thing it is.
    pub kind: Kind,
    /// The life that was convicted; `None` when no container was ever seen.
    pub incarnation: Option<Incarnation>,
    /// `container_ref` of the fleet row, for finding it again.
    pub container_ref: Option<Box<str>>,
    /// `instance_ref` of the fleet row. The claim is refused if it has changed since.
    pub instance_ref: Option<Box<str>>,
    /// `policy` of the fleet row, by which the workspace was judged. The claim is refused if it has changed since.
    pub policy: Option<Box<str>>,
    /// How.
    pub remedy: Remedy,
    /// Number of the attempt (see [`Allowance`](crate::backoff::Allowance)).
    pub attempt: u32,
    /// The verdict.
    pub verdict: Verdict,
    /// The evidence that convicted.
    pub evidence: Evidence,
    /// When the order was given.
    pub at: Moment,
    /// How long before the order the container stopped, if its engine said so.
    pub stopped_ago: Option<Duration>,
    /// The operator who ordered it; `None` if the verdict called for it.
    pub by_operator: Option<ByOperator>,
}

/// The reason of a restart that an operator ordered, in the ledger.
pub const BY_OPERATOR: &str = "operator";

/// An operator's order to restart a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByOperator {
    /// The order.
    pub order: i64,
    /// The person and the login.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Whether it is made even against a hold and with a status that is not watched.
    pub force: bool,
}

impl RestartOrder {
    /// The reason of the restart as the ledger has it: the verdict, or `operator`.
    #[must_use]
    pub const fn asked_by(&self) -> &'static str {
        if self.by_operator.is_some() { BY_OPERATOR } else { self.verdict.label() }
    }

    /// The container that was convicted.
    #[must_use]
    pub fn container_id(&self) -> Option<&ContainerId> {
        self.incarnation.as_ref().map(|incarnation| &incarnation.container_id)
    }

    /// Whether it was convicted because it was between two states for too long, and not because it stopped.
    #[must_use]
    pub fn convicted_in_transition(&self) -> bool {
        matches!(self.evidence.sample, Some(Observation::Transitional { .. }))
    }

    /// The start of the life that was convicted, on its engine's clock.
    #[must_use]
    pub fn started_at(&self) -> Option<Timestamp> {
        self.incarnation.as_ref().and_then(|incarnation| incarnation.started_at)
    }
}

/// An attempt that brought its workspace back.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// Whose.
    pub workspace: WorkspaceId,
    /// The ledger's id of the attempt.
    pub attempt_id: i64,
    /// The evidence: a heartbeat that is newer than the restart or, for a workspace that never sends one, that it ran through its settle
    /// window.
    pub evidence: Evidence,
}

/// An external workspace that the platform must hear of: defib cannot restart it, only say that it is lost or back.
///
/// A workspace that is lost is in the plan of every pass, so that telling the platform is tried again as long as it is lost, if it failed
/// or was vetoed. One that is back is in the plan of the pass that found its heartbeat. Where defib only observes, the plan has none of
/// them.
#[derive(Clone, Debug)]
pub struct External {
    /// Which.
    pub workspace: WorkspaceId,
    /// Whether it is lost. Otherwise it is back.
    pub lost: bool,
    /// On what evidence.
    pub evidence: Evidence,
}
