//! A Postgres that is away, slow or back again: without it there are no verdicts, and heartbeats that it could not take convict nobody.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::scripted_engine::{Call, Fault, FaultRule};
use defib_testkit::{PrivatePostgres, ScriptedEngine, StopMode, eventually};
use defib_tests::{SOON, Stage, Workspace, container, throughout};

const OUTAGE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn ten_seconds_without_postgres_restart_nobody_and_end_by_themselves() -> Result<()> {
    let (server, engine) = (PrivatePostgres::start().await?, ScriptedEngine::start().await?);
    let mut stage = Stage::on(&server, &engine.url()).await?;
    // Heartbeats are stale after a second at most, or after eight when defib thinks itself slow: all are when it is back.
    stage = stage.knob("HEARTBEAT_INTERVAL", "400ms").knob("RECENT_MIN", "500ms").knob("RECENT_MAX", "1s");
    stage = stage.knob("PROBE_SPACING", "500ms");
    let ids = ["w1", "w2", "w3"];
    for id in ids {
        engine.add(container(id));
        stage.db.add(Workspace::new(id)).await?;
    }
    let daemon = stage.run().await?;
    for _ in 0..4 {
        beat_all(&stage, &ids).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    server.stop_server_with(StopMode::Immediate).await?;
    daemon.wait_until_unready("database").await?;
    throughout(OUTAGE, "the engine is not asked for anything, and the loop turns", async || {
        match (engine.restarts(), daemon.get("/healthz").await) {
            (0, Ok((200, _))) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let metrics = daemon.metrics().await?;
    ensure!(metrics.value("defib_database_up")? == 0.0, "defib_database_up says that it is up");

    // There is one wrong look as soon as the database is back. If stale heartbeats were a witness at that moment, this look would convict.
    engine.add_fault(FaultRule::new(Call::List, Fault::FalselyStopped).times(1));
    engine.add_fault(FaultRule::new(Call::Inspect, Fault::FalselyStopped).times(ids.len()));
    server.start_server().await?;
    daemon.wait_until_ready().await?;
    stage.db.reconnect().await?;
    stage.nothing_is_claimed(Duration::from_secs(2)).await?;
    ensure!(engine.restarts() == 0, "restarted");
    let seen = "select count(*) from defib.events where verdict_to = 'suspect'";
    ensure!(stage.db.count(seen).await? > 0, "the wrong look was not made, so it proves nothing");
    for id in ids {
        ensure!(stage.db.status(id).await? == "online", "{id} was marked");
    }

    engine.clear_faults();
    beat_all(&stage, &ids).await?;
    engine.exit("w2", 137)?;
    stage.db.wait_for_restart("w2", "succeeded", SOON).await?;
    ensure!(engine.restarts() == 1, "{} restarts", engine.restarts());
    Ok(())
}

#[tokio::test]
async fn a_frozen_postgres_is_no_verdict_either() -> Result<()> {
    let (server, engine) = (PrivatePostgres::start().await?, ScriptedEngine::start().await?);
    let stage = Stage::on(&server, &engine.url()).await?.quick_heartbeats();
    for id in ["dies", "lives"] {
        engine.add(container(id));
        stage.db.add(Workspace::new(id).silent()).await?;
    }
    let daemon = stage.run().await?;

    server.pause()?;
    engine.exit("dies", 137)?;
    throughout(Duration::from_secs(3), "nobody is touched without a claim", async || match engine.restarts() {
        0 => Ok(()),
        count => Err(format!("{count} restarts")),
    })
    .await?;
    server.resume()?;
    stage.db.wait_for_restart("dies", "succeeded", SOON).await?;
    daemon.wait_until_ready().await?;
    ensure!(engine.restarts_of("dies") == 1 && engine.restarts_of("lives") == 0, "not just the dead one was restarted");
    Ok(())
}

#[tokio::test]
async fn a_daemon_that_starts_before_postgres_waits_for_it() -> Result<()> {
    let (server, engine) = (PrivatePostgres::start().await?, ScriptedEngine::start().await?);
    let stage = Stage::on(&server, &engine.url()).await?;
    server.stop_server().await?;
    let daemon = stage.start().await?;
    daemon.wait_until_unready("database").await?;
    ensure!(daemon.get("/healthz").await?.0 == 200, "waiting is no fault of its own");
    server.start_server().await?;
    daemon.wait_until_ready().await
}

#[tokio::test]
async fn a_database_that_turned_read_only_is_no_claim_and_so_no_restart() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats();
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    // For sessions that begin from now on.
    let name = stage.db.url().rsplit('/').next().unwrap_or_default().to_owned();
    stage.db.execute(&format!("alter database {name} set default_transaction_read_only = on")).await?;
    let _daemon = stage.start().await?;
    engine.exit("w1", 137)?;
    throughout(Duration::from_secs(3), "nobody is touched without a claim", async || match engine.restarts() {
        0 => Ok(()),
        count => Err(format!("{count} restarts")),
    })
    .await?;
    stage.db.execute("set default_transaction_read_only = off").await?;
    stage.nothing_is_claimed(Duration::ZERO).await
}

async fn beat_all(stage: &Stage, ids: &[&str]) -> Result<()> {
    for id in ids {
        stage.db.beat(id).await?;
    }
    Ok(())
}

/// A workspace that cannot be recorded must not keep the others from being restarted. First its id is too long to be judged; then a table
/// refuses its row.
#[tokio::test]
async fn a_row_that_cannot_be_recorded_keeps_nobody_else_dead() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage =
        Stage::new(&engine.url()).await?.quick_heartbeats().knob("POLL_INTERVAL", "300ms").knob("MISSING_GRACE", "0ms");
    engine.add(container("dies"));
    stage.db.add(Workspace::new("dies").silent()).await?;
    stage.db.add(Workspace::new("refused").silent()).await?;
    let long = "insert into defib.workspaces (id, container_ref) select left(string_agg(md5(i::text), ''), 2600), 'gone' \
                from generate_series(1, 100) i";
    stage.db.execute(long).await?;
    stage
        .db
        .execute("alter table defib.verdicts add constraint one_is_refused check (workspace_id <> 'refused')")
        .await?;
    let daemon = stage.run().await?;
    engine.exit("dies", 1)?;
    stage.db.wait_for_restart("dies", "succeeded", SOON).await?;
    ensure!(daemon.readiness().await?.0, "the others are judged, so it is ready");
    // Nothing waits for the verdicts to be written, so this may come after the restart.
    eventually(SOON, "something is said of the row that cannot be recorded", async || {
        let lines = daemon.log().map_err(|error| format!("{error:#}"))?;
        let told = |line: &serde_json::Value| {
            line["message"].as_str().is_some_and(|it| it.starts_with("some rows cannot be written"))
        };
        if lines.iter().any(told) { Ok(()) } else { Err(format!("{} lines", lines.len())) }
    })
    .await?;
    Ok(())
}
