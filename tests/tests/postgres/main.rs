//! `defib run` on every kind of Postgres that operators have: behind a pooler, failing over, full, locked, slow, behind TLS.
//!
//! Real servers throughout, and the engine scripted: what is asked is always the same. Nobody is restarted without a claim,
//! the dead one is restarted once when the database is well again, and until then defib says what is wrong with it.

#![allow(clippy::float_cmp, reason = "Prometheus writes counts as floats; they are whole")]

mod answers; // the longest, and tests begin in the order of their names
mod disks;
mod failovers;
mod limits;
mod logins;
mod poolers;
mod tls;

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::scripted_engine::{Call, Fault, FaultRule};
use defib_testkit::{PrivatePostgres, ScriptedEngine};
use defib_tests::{Daemon, SOON, Stage, Workspace, container, throughout};

/// Several polls of [`quick`]: a wrong restart would be made within this time.
const A_WHILE: Duration = Duration::from_millis(1_500);

/// A poll takes a moment, and a heartbeat is stale after a second at most, however slow defib thinks itself to be.
fn quick(stage: Stage) -> Stage {
    let knobs = [
        ("POLL_INTERVAL", "300ms"),
        ("HEARTBEAT_INTERVAL", "400ms"),
        ("RECENT_MIN", "500ms"),
        ("RECENT_MAX", "1s"),
        ("PROBE_SPACING", "200ms"),
    ];
    knobs.into_iter().fold(stage, |stage, (name, value)| stage.knob(name, value))
}

/// After this time heartbeats would be a witness again, even for a daemon whose local health multiplier is 8. Only from then on does it
/// prove anything that nobody is convicted by a stale heartbeat.
const OLD_ENOUGH: Duration = Duration::from_secs(10);

/// A quick stage on a server of its own, with a running container and a row for each id. All have been silent for an hour, so
/// a single look that finds one stopped convicts it, unless heartbeats are no witness.
async fn stage_with(server: &PrivatePostgres, ids: &[&str]) -> Result<(Stage, ScriptedEngine)> {
    let engine = ScriptedEngine::start().await?;
    let stage = quick(Stage::on(server, &engine.url()).await?);
    for id in ids {
        engine.add(container(id));
        stage.db.add(Workspace::new(id).silent()).await?;
    }
    Ok((stage, engine))
}

/// Checks that for as long as `span` the engine is not asked to restart anybody, although the loop turns.
async fn nobody_is_touched(daemon: &Daemon, engine: &ScriptedEngine, span: Duration) -> Result<()> {
    let before = engine.restarts();
    throughout(span, "nobody is touched without a claim, and the loop turns", async || {
        match (engine.restarts() == before, daemon.get("/healthz").await) {
            (true, Ok((200, _))) => Ok(()),
            (untouched, healthz) => Err(format!("untouched: {untouched}, /healthz: {healthz:?}")),
        }
    })
    .await
}

/// Checks that the dead workspace is restarted exactly once, and that no restart of another one is even claimed. `before` attempts were
/// made earlier.
async fn only_this_one_is_restarted(stage: &Stage, engine: &ScriptedEngine, dead: &str, before: usize) -> Result<()> {
    stage.db.wait_for_restart(dead, "succeeded", SOON).await?;
    throughout(A_WHILE, "it stays at that", async || {
        let (of_it, of_all) = (engine.restarts_of(dead), engine.restarts());
        if (of_it, of_all) == (1, before + 1) { Ok(()) } else { Err(format!("{of_it} of it, {of_all} in all")) }
    })
    .await?;
    let rows = stage.db.all_restarts().await?;
    ensure!(rows.len() == before + 1, "more than one attempt: {rows:#?}");
    Ok(())
}

/// Makes the next list, and the inspects that follow it, show every container as stopped. With a stale heartbeat as the second witness, one
/// such look would convict.
fn one_wrong_look(engine: &ScriptedEngine, containers: usize) {
    engine.add_fault(FaultRule::new(Call::List, Fault::FalselyStopped).times(1));
    engine.add_fault(FaultRule::new(Call::Inspect, Fault::FalselyStopped).times(containers));
}

/// Whether a line of the log with at least the level `warn` has all of these words.
fn warned(daemon: &Daemon, parts: &[&str]) -> Result<bool> {
    let log = daemon.log()?;
    let loud = log.iter().filter(|line| line["level"] == "WARN" || line["level"] == "ERROR");
    Ok(loud.map(ToString::to_string).any(|line| parts.iter().all(|part| line.contains(part))))
}
