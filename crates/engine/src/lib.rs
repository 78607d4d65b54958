//! Container engines: their answers become evidence here, and none of their own types leaves this crate.
//!
//! The problem: the engine is the only witness of a container's state, and it lies by omission. It hangs, breaks off,
//! answers with errors while it is loaded, speaks of states that its clients do not know, and is sometimes replaced by
//! another one under the same address. A client that takes any of this for "not running" restarts a healthy fleet.
//!
//! The rule: sampling cannot fail. Whatever goes wrong is a sample of its own, [`Unknown`] with its [`Fault`], for exactly
//! the workspaces that it concerns. A container counts as gone only if the engine itself says so in two answers.
//!
//! ```text
//!             sample_all: one list ──► those in doubt ──► inspect, 8 at once ─┐
//! targets ──►                                                               ├─► EngineReport ─► policy
//!             sample_some: inspect each ──► those unsettled ─────► list ──────┘
//! events  ──► watch: only makes the next look sooner
//! ```
//!
//! | subject | module |
//! | --- | --- |
//! | the interface that every kind of engine has | [`engine`] |
//! | where an engine is | [`url`], [`settings`] |
//! | which workspaces to look at, and what a look brings back | [`target`], [`report`] |
//! | events, which an engine sends unasked | [`event`] |
//! | what went wrong | [`error`] |
//! | Docker and podman | [`docker`] |
//! | instances behind an HTTP interface, and the platform's own restart | [`control_plane`] |
//! | an engine and the platform's own restart as one | [`with_platform`] |
//! | messages to an address that an operator gave, by the same client | [`post`] |
//! | text that is never shown | [`secret`] |
//!
//! [`Unknown`]: defib_policy::sample::Observation::Unknown
//! [`Fault`]: defib_policy::sample::Fault

use std::sync::Arc;

use defib_policy::moment::Moment;

pub mod control_plane;
pub mod docker;
pub mod engine;
pub mod error;
pub mod event;
pub mod post;
pub mod report;
pub mod secret;
pub mod settings;
pub mod target;
pub mod url;
pub mod with_platform;

pub use control_plane::platform::{PlatformError, PlatformRestart};
pub use engine::{
    AnswerSeen, CheckResult, Engine, EngineCheck, Explanation, LastLines, RestartCall, RestartHow, connect,
};
pub use error::EngineError;
pub use event::{Action, ContainerEvent, EngineEvent};
pub use post::{NotPosted, Posted, Poster};
pub use report::{Call, CallTiming, EngineReport, Reached};
pub use secret::Secret;
pub use settings::{EngineSettings, TlsPaths};
pub use target::Target;
pub use url::{EngineUrl, EngineUrlError};
pub use with_platform::{RestartBy, WithPlatform};

/// Reads our monotonic clock. Passed in, so that tests own the time that samples carry.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;
