//! Restarts do not wait for history: a table that is locked, or a peer that is frozen over it, delays no restart, and what could not be
//! written is made good afterwards.

use std::time::Duration;

use anyhow::Result;
use defib_testkit::scripted_engine::{Call, EventFeed, Fault, FaultRule};
use defib_testkit::{ScriptedEngine, eventually};
use defib_tests::{SOON, Workspace, container, is_running};

use crate::{fleet, ids};

/// A death is seen at once, and a fresh heartbeat is stale after a second. What waits for one lock after the other takes far longer.
const PROMPTLY: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_lock_on_the_history_delays_no_restart_and_no_verdict_is_lost() -> Result<()> {
    a_lock_delays_no_restart("defib.events", 20).await
}

#[tokio::test]
async fn a_lock_on_the_last_words_delays_no_restart_and_no_verdict_is_lost() -> Result<()> {
    a_lock_delays_no_restart("defib.last_words", 60).await
}

async fn a_lock_delays_no_restart(table: &str, size: usize) -> Result<()> {
    let (stage, engine, _pulse) = fleet(size).await?;
    let stage = stage.knob("STORM_MIN", "1000");
    let _daemon = stage.run().await?;
    let mut other = stage.db.another_connection().await?;
    let locked = other.transaction().await?;
    locked.batch_execute(&format!("lock table {table} in access exclusive mode")).await?;
    for id in ids(0..size) {
        engine.exit(&id, 137)?;
    }
    all_run(&engine, size, PROMPTLY).await?;
    locked.rollback().await?;
    for id in ids(0..size) {
        stage.db.wait_for_verdict(&id, None).await?;
        stage.db.wait_for_status(&id, "online").await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_one_engines_workspaces_are_delayed_by_delays_no_other_engine() -> Result<()> {
    let (stage, engine, _pulse) = fleet(40).await?;
    let another = ScriptedEngine::start().await?;
    another.set_event_feed(EventFeed::Silent); // only a pass over the fleet sees the death
    another.add(container("elsewhere"));
    let stage = stage.engine("another", &another.url()).knob("STORM_MIN", "1000").knob("ENGINE_TIMEOUT", "1s");
    stage.db.add(Workspace::new("elsewhere").engine("another").silent()).await?;
    let _daemon = stage.run().await?;
    let mut other = stage.db.another_connection().await?;
    let locked = other.transaction().await?;
    locked
        .batch_execute("lock table defib.events in access exclusive mode; lock table defib.verdicts in exclusive mode")
        .await?;
    engine.refuse_connections(true).await?; // forty verdicts to write
    stage.db.wait_for_lock().await?;
    another.exit("elsewhere", 137)?;
    runs(&another, "elsewhere").await
}

/// `vacuum full` and `alter table` lock a table so that it cannot even be read.
#[tokio::test]
async fn while_the_verdicts_cannot_be_read_one_that_moves_and_a_new_owner_keep_nobody_dead() -> Result<()> {
    let (stage, engine, _pulse) = fleet(3).await?;
    let another = ScriptedEngine::start().await?;
    another.set_event_feed(EventFeed::Silent); // only a pass over the fleet sees the death
    another.add(container("elsewhere"));
    let stage = stage.engine("another", &another.url()).knob("STORM_MIN", "1000");
    stage.db.add(Workspace::new("elsewhere").engine("another").silent()).await?;
    let daemon = stage.run().await?;
    daemon.wait_for_passes(2).await?;
    let mut other = stage.db.another_connection().await?;
    let locked = other.transaction().await?;
    locked.batch_execute("lock table defib.verdicts in access exclusive mode").await?;
    stage.db.execute("update defib.workspaces set engine = 'another' where id = 'w00'").await?;
    stage.db.wait_for_lock().await?;
    another.exit("elsewhere", 137)?;
    runs(&another, "elsewhere").await?;
    daemon.kill().await?;

    let _daemon = stage.run_as("successor").await?;
    engine.exit("w01", 137)?;
    runs(&engine, "w01").await?;
    locked.rollback().await?;
    stage.db.wait_for_verdict("w01", None).await
}

async fn runs(engine: &ScriptedEngine, id: &str) -> Result<()> {
    eventually(
        PROMPTLY,
        "it runs again",
        async || {
            if is_running(engine, id) { Ok(()) } else { Err("it is down".to_owned()) }
        },
    )
    .await
}

/// A replica that is stopped in the middle of writing a verdict keeps that row locked.
#[tokio::test]
async fn a_peer_that_is_frozen_over_one_verdict_delays_that_one_alone() -> Result<()> {
    let (stage, engine, _pulse) = fleet(5).await?;
    let stage = stage.knob("STORM_MIN", "1000");
    let refused = Fault::server_error("scripted: no space left on device");
    engine.add_fault(FaultRule::new(Call::Start, refused).container("w00"));
    let _daemon = stage.run().await?;
    engine.exit("w00", 137)?;
    stage.db.wait_for_verdict("w00", Some("dead")).await?;
    let mut peer = stage.db.another_connection().await?;
    let frozen = peer.transaction().await?;
    frozen.query("select 1 from defib.verdicts where workspace_id = 'w00' for update", &[]).await?;
    engine.clear_faults(); // from its next try on it is alive, which cannot be written

    for id in ids(1..5) {
        engine.exit(&id, 137)?;
    }
    all_run(&engine, 5, 2 * PROMPTLY).await?;
    for id in ids(1..5) {
        stage.db.wait_for_history(&id, "dead", 1).await?;
        stage.db.wait_for_verdict(&id, None).await?;
    }
    frozen.rollback().await?;
    stage.db.wait_for_verdict("w00", None).await
}

/// The write of an `alive` is refused, and nothing happens afterwards that would write it again.
#[tokio::test]
async fn an_alive_that_was_lost_is_written_once_the_table_can_be_written() -> Result<()> {
    let (stage, engine, _pulse) = fleet(1).await?;
    let daemon = stage.run().await?;
    engine.exit("w00", 137)?;
    stage.db.wait_for_verdict("w00", Some("dead")).await?;
    let mut other = stage.db.another_connection().await?;
    let locked = other.transaction().await?;
    locked.batch_execute("lock table defib.verdicts in exclusive mode").await?;
    stage.db.wait_for_restart("w00", "succeeded", SOON).await?;
    daemon.wait_for_metric("defib_workspaces{verdict=\"alive\"}", |alive| alive == 1.0, SOON).await?;
    daemon.wait_for_passes(6).await?; // longer than a write waits for its lock: the alive is refused
    locked.rollback().await?;
    stage.db.wait_for_verdict("w00", None).await
}

async fn all_run(engine: &ScriptedEngine, size: usize, within: Duration) -> Result<()> {
    eventually(within, "all run again", async || {
        let down: Vec<String> = ids(0..size).filter(|id| !is_running(engine, id)).collect();
        if down.is_empty() { Ok(()) } else { Err(format!("down: {down:?}")) }
    })
    .await
}
