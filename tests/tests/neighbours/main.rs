//! Nobody's trouble is anybody else's: what happens to a fleet when some of it, its platform, its database, its proxies or strangers
//! misbehave. `defib run` as a black box on a real Postgres and on engines that misbehave on command.
//!
//! In each test one workspace is in trouble and cannot be helped, and another one can be restarted, or must be left alone. The test shows
//! that the second one is treated as if the first did not exist.

#![allow(clippy::float_cmp, reason = "Prometheus writes counts as floats; they are whole")]

mod adapter;
mod attempts;
mod bookkeeping;
mod observers;
mod orders;
mod reporters;
mod running;
mod settings;
mod storms;
mod strangers;
mod volume;

use anyhow::Result;
use defib_testkit::ScriptedEngine;
use defib_tests::{Pulse, Stage, Workspace, container};

/// This many workspaces, named from `w00` on. They run and beat, and are stale after a second of silence.
async fn fleet(size: usize) -> Result<(Stage, ScriptedEngine, Pulse)> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats();
    let stage = [
        ("PROBE_SPACING", "100ms"),
        ("MISSING_GRACE", "500ms"),
        ("SETTLE", "2s"),
        ("BACKOFF_INITIAL", "500ms"),
        ("BACKOFF_MAX", "10s"),
    ]
    .into_iter()
    .fold(stage, |stage, (knob, value)| stage.knob(knob, value));
    for id in ids(0..size) {
        engine.add(container(&id));
        stage.db.add(Workspace::new(&id)).await?;
    }
    let pulse = Pulse::of(&engine, ids(0..size), stage.db.url());
    Ok((stage, engine, pulse))
}

fn ids(numbers: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    numbers.map(|n| format!("w{n:02}"))
}
