//! Which workspace to look at, and what its engine may call it.

use defib_policy::fleet::Kind;
use defib_policy::id::{ContainerId, WorkspaceId};

/// A workspace to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// What kind of thing it is. An engine that does not run this kind answers [`WrongKind`] for it.
    ///
    /// [`WrongKind`]: defib_policy::sample::Fault::WrongKind
    pub kind: Kind,
    /// For containers: its name (with or without the leading `/`), full id, or the first 12 or more digits of it. `None`: it
    /// is found by the workspace label.
    pub container_ref: Option<Box<str>>,
    /// For instances: what its control plane calls it.
    pub instance_ref: Option<Box<str>>,
    /// The container or instance in which the workspace was last seen.
    pub known: Option<ContainerId>,
    /// Inspect it even if a list says that it runs. This is set if the start of its incarnation matters and is not known.
    pub inspect: bool,
    /// There is a reason to look: its heartbeat is stale, somebody suspects it, or it was not well when it was last judged. An engine that
    /// has to ask about each instance separately asks about these. For the others, the last look stands if it was a sign of life. A caller
    /// that does not know whether there is a reason sets this.
    pub in_doubt: bool,
}

impl Target {
    /// A container that was never seen. It is found by `container_ref`, or else by the workspace label.
    #[must_use]
    pub const fn container(workspace: WorkspaceId, container_ref: Option<Box<str>>) -> Self {
        Self {
            workspace,
            kind: Kind::Container,
            container_ref,
            instance_ref: None,
            known: None,
            inspect: false,
            in_doubt: true,
        }
    }

    /// An instance that was never seen. Its control plane knows it by `instance_ref`.
    #[must_use]
    pub const fn instance(workspace: WorkspaceId, instance_ref: Option<Box<str>>) -> Self {
        Self {
            workspace,
            kind: Kind::Instance,
            container_ref: None,
            instance_ref,
            known: None,
            inspect: false,
            in_doubt: true,
        }
    }
}
