//! defib restarts the workspaces that are really dead, and no others. All of the program but its `main`.
//!
//! ```text
//! main ─► cli ─► run ─► driver ─► reading (the fleet, once for all)
//!                          └────► worker, one an engine ─► pass ─► sampling ─► judge ─► restarter
//!                                                            └──► record, marks (nobody waits for them)
//! outbox ─► webhook: what the tables say that others must be told (nobody waits for it either)
//! ```

mod api;
mod cache;
mod cli;
mod clock;
mod config;
mod connect;
mod database;
mod driver;
mod eviction;
mod files;
mod findings;
mod focus;
#[cfg(test)]
mod golden_file;
mod health;
mod holds;
mod hosts;
#[cfg(test)]
mod house_tests;
mod http;
mod jobs;
mod leases;
mod left_behind;
mod logging;
mod marked_status;
mod marks;
mod memory;
mod metrics;
#[cfg(test)]
mod modules;
mod news;
mod orders;
mod outbox;
mod own_settings;
mod page;
mod pass;
mod reading;
mod record;
mod recording;
mod refused;
mod report;
mod restarter;
mod run;
mod sampling;
mod snapshot;
mod state;
mod streams;
mod suspicions;
mod sync;
mod told;
mod webhook;
mod words;
mod worker;

use std::process::ExitCode;

/// A fleet is kept as hundreds of thousands of small allocations, many of which are replaced at each read. The allocator of glibc keeps a quarter
/// more memory for that (256 MiB instead of 200 for 100,000 workspaces), and the one of musl has one lock for all threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the program: arguments, environment, the command, its exit code.
#[must_use]
pub fn main() -> ExitCode {
    cli::main()
}
