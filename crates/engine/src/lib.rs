//! Container engines: what they say becomes evidence here, and nothing of theirs leaves this crate.
//!
//! The problem: the engine is the only witness of a container's state, and it lies by omission. It hangs, breaks off,
//! answers with errors while it is loaded, speaks of states that its clients do not know, and is sometimes replaced by
//! another one under the same address. A client that takes any of this for "not running" restarts a healthy fleet.
//!
//! The rule: sampling cannot fail. Whatever goes wrong is a sample of its own, [`Unknown`] with its [`Fault`], for exactly
//! the workspaces that it concerns. A container counts as gone only when the engine says so by itself, twice over.
//!
//! ```text
//!             sample_all: one list ──► those in doubt ──► inspect, 8 at once ─┐
//! targets ──►                                                               ├─► EngineReport ─► policy
//!             sample_some: inspect each ──► who cannot be told ──► list ──────┘
//! events  ──► watch: only makes the next look sooner
//! ```
//!
//! | subject | module |
//! | --- | --- |
//! | where an engine is | [`url`], [`settings`] |
//! | one engine, its connection and identity | [`engine`] |
//! | whose container is whose | [`target`] |
//! | what a container's record says | `facts` |
//! | looking | [`sample`], [`report`] |
//! | listening | [`watch`] |
//! | acting | [`restart`] |
//! | what went wrong | [`error`] |
//!
//! [`Unknown`]: defib_policy::sample::Observation::Unknown
//! [`Fault`]: defib_policy::sample::Fault

use std::sync::Arc;

use defib_policy::moment::Moment;

mod deadline;
pub mod engine;
pub mod error;
mod facts;
pub mod report;
pub mod restart;
pub mod sample;
pub mod settings;
pub mod target;
pub mod url;
pub mod watch;

pub use engine::{Engine, EngineCheck};
pub use error::EngineError;
pub use report::{Call, CallTiming, EngineReport, Reached};
pub use restart::RestartHow;
pub use settings::{EngineSettings, TlsPaths};
pub use target::Target;
pub use url::{EngineUrl, EngineUrlError};
pub use watch::{Action, ContainerEvent, EngineEvent};

/// Reads our monotonic clock. Passed in, so that tests own the time that samples carry.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;
