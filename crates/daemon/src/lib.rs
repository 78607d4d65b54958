//! defib restarts the workspaces that are really dead, and no others. All of the program but its `main`.
//!
//! ```text
//! main ─► cli ─► daemon ─► driver ─► reconcile ─► (defib-policy) ─► restarter
//!                            ▲ focus, jobs            │
//!                            └── events, suspicions   └─► (defib-store, defib-engine)
//! ```

mod cli;
mod clock;
mod config;
mod daemon;
mod driver;
mod focus;
mod health;
mod holds;
mod http;
mod jobs;
mod leases;
mod logging;
mod metrics;
mod own;
mod reconcile;
mod recovery;
mod refused;
mod restarter;
mod snapshot;
mod suspicions;
mod sync;

use std::process::ExitCode;

/// Runs the program: arguments, environment, the command, its exit code.
#[must_use]
pub fn main() -> ExitCode {
    cli::main()
}
