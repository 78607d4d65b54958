//! What a pass came to, as a value: the driver reads it, and the news are made of it.

use defib_policy::id::WorkspaceId;
use defib_policy::moment::Moment;
use defib_policy::sample::Fault;
use defib_policy::verdict::Verdict;

/// How many workspaces there are of each kind, of those that one pass over a whole engine judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// By verdict, in the order of [`Verdict::ALL`].
    pub(crate) verdicts: [usize; Verdict::ALL.len()],
    /// Those whose attempts were too many and did not help, whatever their verdict is while they are tried again.
    pub(crate) exhausted: usize,
}

/// What a pass came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct PassReport {
    /// Workspaces judged.
    pub(crate) judged: usize,
    /// Verdicts changed.
    pub(crate) changed: usize,
    /// Restarts handed over.
    pub(crate) restarts: usize,
    /// Whom to look at before the next poll, when, and whether it is only waited for to come up.
    pub(crate) looks: Vec<(WorkspaceId, Moment, bool)>,
    /// Whether the engine answered; `None` where none was asked.
    pub(crate) reach: Option<Result<(), Fault>>,
    /// The engine was slow.
    pub(crate) slow: bool,
    /// Present after a pass over all of an engine's workspaces.
    pub(crate) counts: Option<Counts>,
}
