//! What the whole-program tests share: a database, engines, a fleet, and `defib` as a black box among them.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use defib_testkit::ScriptedEngine;
//! use defib_tests::{SOON, Stage, Workspace, container};
//!
//! let engine = ScriptedEngine::start().await?;
//! let stage = Stage::new(&engine.url()).await?.knob("POLL_INTERVAL", "60s");
//! engine.add(container("w1"));
//! stage.db.add(Workspace::new("w1")).await?; // beaten just now
//! let daemon = stage.run().await?; // `defib run`, ready
//! engine.exit("w1", 137)?;
//! stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Tests look from outside only: tables and functions of the schema, the environment, the command line, HTTP, log lines. The
//! Postgres is always a real one. The engine is a real dockerd where a test is about containers, and the scripted one where
//! it is about faults.

mod agent;
pub mod bench;
mod daemon;
mod database;
mod eventless;
mod metrics;
mod pulse;
mod recordings;
mod soak;
mod stage;
mod wait;

pub use agent::{Agent, container};
pub use daemon::{Daemon, Finished};
pub use database::{Beaten, Database, Restart, Workspace};
pub use eventless::EventlessEngine;
pub use metrics::Metrics;
pub use pulse::{Pulse, is_running};
pub use recordings::Replayed;
pub use soak::{Breaking, Soak, SoakReport, soak};
pub use stage::Stage;
pub use wait::{SOON, throughout};
