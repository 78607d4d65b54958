//! The result of a pass as a value. The driver reads it, and metrics and log lines are made of it.

use defib_policy::id::WorkspaceId;
use defib_policy::moment::Moment;
use defib_policy::sample::Fault;
use defib_policy::verdict::Verdict;

/// How many workspaces there are of each kind, of those that one pass over a whole engine judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// By verdict, in the order of [`Verdict::ALL`].
    pub(crate) verdicts: [usize; Verdict::ALL.len()],
    /// Exhausted workspaces, whatever their verdict is while they are tried again.
    pub(crate) exhausted: usize,
}

/// The result of a pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct PassReport {
    /// Workspaces judged.
    pub(crate) judged: usize,
    /// Verdicts changed.
    pub(crate) changed: usize,
    /// Restarts handed over.
    pub(crate) restarts: usize,
    /// Which workspaces to look at before the next poll, when, and whether that is only to see them come up.
    pub(crate) looks: Vec<(WorkspaceId, Moment, bool)>,
    /// Whether the engine answered; `None` where none was asked.
    pub(crate) reach: Option<Result<(), Fault>>,
    /// Whether the engine was slow.
    pub(crate) slow: bool,
    /// Present after a pass over all of an engine's workspaces.
    pub(crate) counts: Option<Counts>,
}
