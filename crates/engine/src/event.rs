//! The events of an engine.
//!
//! Events are only ever a reason to look. They get lost in restarts, in full queues and in connections that died silently, and a quiet
//! stream is no evidence of anything. So nothing waits for an event, and nothing is judged by one. When some may have been lost, the
//! listener says so once, and the daemon looks at the whole engine.

use defib_policy::id::{ContainerId, EngineName, WorkspaceId};
use defib_policy::moment::Timestamp;
use defib_policy::sample::Fault;

/// Something to know about an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// A container's life changed: look at it.
    Container(ContainerEvent),
    /// The listener listens from now on. It may have missed what happened before: look at the whole engine.
    Connected {
        /// Which engine.
        engine: EngineName,
    },
    /// The listener has lost its connection. It says so once for each outage, not for each try.
    Disconnected {
        /// Which engine.
        engine: EngineName,
        /// Why.
        fault: Fault,
    },
    /// Events were dropped because nobody took them: look at the whole engine.
    Lagged {
        /// Which engine.
        engine: EngineName,
    },
}

/// A change in a container's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// Which engine.
    pub engine: EngineName,
    /// Which container, by its full id.
    pub container_id: ContainerId,
    /// Its name, without the `/`.
    pub name: Option<Box<str>>,
    /// Which workspace, where it carries the label.
    pub workspace: Option<WorkspaceId>,
    /// What happened.
    pub action: Action,
    /// When, on the engine's clock.
    pub at: Option<Timestamp>,
}

/// What happened to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Its main process ended.
    Die,
    /// The kernel killed one of its processes for memory. Not always the main one.
    Oom,
    /// It was started.
    Start,
    /// It was removed.
    Destroy,
    /// Its health check began to fail.
    Unhealthy,
}
