//! defib restarts the workspaces that are really dead, and no others.
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
mod http;
mod jobs;
mod logging;
mod metrics;
mod own;
mod reconcile;
mod recovery;
mod restarter;
mod snapshot;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
