//! What one look at an engine brought back, and what it cost.

use std::collections::BTreeMap;
use std::time::Duration;

use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::sample::{Fault, Sample};

/// One look at one engine.
#[derive(Clone, Debug)]
pub struct EngineReport {
    /// Which engine.
    pub engine: EngineName,
    /// When the look was begun.
    pub at: Moment,
    /// Whether the engine as such answered. `Err` means that no sample below says anything.
    pub reach: Result<Reached, Fault>,
    /// Exactly one sample for each target. Pair them by the id: their order means nothing.
    pub samples: Vec<(WorkspaceId, Sample)>,
    /// The settings that containers carry for their workspaces: labels that begin with `defib.`, without that prefix, in
    /// order. `None` if no complete list was read, so that nothing is known of them.
    pub own_labels: Option<BTreeMap<WorkspaceId, Vec<(String, String)>>>,
    /// Every call that was made, for the metrics. No order.
    pub calls: Vec<CallTiming>,
}

/// An engine that answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The `ID` of its `/info`, as last heard. `None` when it has not told yet: then nothing in this report is Missing.
    pub identity: Option<String>,
    /// Its clock: what `/info` said, and the beginning of that call on ours. At most about a minute old while it answers.
    pub engine_now: Option<(Moment, Timestamp)>,
    /// It answers again after a look at it failed, or after its event stream broke: its own restart policies may be at
    /// work. Only the first report after that says so, whichever kind of look it is of. The very first contact counts only if a failure
    /// came before it.
    pub reconnected: bool,
    /// Its list is not complete: of at least one entry nobody can tell whose container it is.
    pub spoiled: bool,
}

/// A kind of call. A closed set: it is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// `GET /version`, to agree on one.
    Version,
    /// `GET /info`: identity and clock.
    Info,
    /// `GET /containers/json`: of all containers, or of those with a label.
    List,
    /// `GET /containers/json`: of those that do not run, or are not healthy.
    QuickList,
    /// `GET /containers/{id}/json`
    Inspect,
    /// `POST /containers/{id}/start`
    Start,
    /// `POST /containers/{id}/restart`
    Restart,
    /// `GET /containers/{id}/logs`
    Logs,
    /// `GET /events`
    Events,
}

impl Call {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Version,
        Self::Info,
        Self::List,
        Self::QuickList,
        Self::Inspect,
        Self::Start,
        Self::Restart,
        Self::Logs,
        Self::Events,
    ];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Info => "info",
            Self::List => "list",
            Self::QuickList => "quick_list",
            Self::Inspect => "inspect",
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Logs => "logs",
            Self::Events => "events",
        }
    }
}

/// One call, and how it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallTiming {
    /// What was called.
    pub call: Call,
    /// How long it took, a time-out included.
    pub took: Duration,
    /// What went wrong. A typed "no such container" is an answer, not a fault.
    pub fault: Option<Fault>,
}
