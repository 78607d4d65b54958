//! Which workspaces an operator's hold covers.

use std::collections::BTreeSet;

use defib_policy::fleet::Workspace;
use defib_policy::id::{EngineName, WorkspaceId};
use defib_store::{Hold, HoldScope};

/// The holds that stand.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    count: usize,
    fleet: bool,
    engines: BTreeSet<EngineName>,
    workspaces: BTreeSet<WorkspaceId>,
}

impl Holds {
    pub(crate) fn new(standing: Vec<Hold>) -> Self {
        let mut holds = Self { count: standing.len(), ..Self::default() };
        for hold in standing {
            match hold.scope {
                HoldScope::Fleet => holds.fleet = true,
                HoldScope::Engine(name) => _ = holds.engines.insert(name),
                HoldScope::Workspace(id) => _ = holds.workspaces.insert(id),
            }
        }
        holds
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Whether one of them covers `workspace`.
    pub(crate) fn cover(&self, workspace: &Workspace) -> bool {
        self.fleet || self.engines.contains(&workspace.engine) || self.workspaces.contains(&workspace.id)
    }
}
