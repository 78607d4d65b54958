//! `defib.holds`: what stands against restarts.

use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::Timestamp;

/// A scope of a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldScope {
    /// Everything.
    Fleet,
    /// All of an engine.
    Engine(EngineName),
    /// One workspace.
    Workspace(WorkspaceId),
}

/// A row of `defib.holds`.
#[derive(Clone, Debug)]
pub struct Hold {
    /// Of what.
    pub scope: HoldScope,
    /// Who asked for it.
    pub owner: Box<str>,
    /// Why.
    pub reason: Box<str>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

/// Why restarts of a workspace are held, if they are: `defib.hold_reason`. The oldest hold is the one that is named.
pub(super) fn reason(holds: &[Hold], workspace: &WorkspaceId, engine: &EngineName, now: Timestamp) -> Option<String> {
    let covers = |scope: &HoldScope| match scope {
        HoldScope::Fleet => Some("fleet"),
        HoldScope::Engine(held) => (held == engine).then_some("engine"),
        HoldScope::Workspace(held) => (held == workspace).then_some("workspace"),
    };
    let standing = holds.iter().filter(|hold| hold.expires_at.is_none_or(|end| end > now));
    standing
        .filter_map(|hold| Some((hold, covers(&hold.scope)?)))
        .map(|(hold, scope)| format!("{scope} held by {}: {}", hold.owner, hold.reason))
        .next()
}
