//! Workspaces without a container: only their heartbeat can be seen, and there is nothing to restart.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::ScriptedEngine;
use defib_tests::{Beaten, Stage, Workspace, throughout};

const A_WHILE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_lost_one_is_marked_offline_and_online_again_after_its_heartbeat() -> Result<()> {
    let (stage, engine) = stage().await?;
    stage.db.add(Workspace::new("mobile").external().silent()).await?;
    let _daemon = stage.run().await?;

    stage.db.wait_for_verdict("mobile", Some("lost")).await?;
    stage.db.wait_for_status("mobile", "offline").await?;
    stage.nothing_is_claimed(A_WHILE).await?;
    ensure!(engine.restarts() == 0, "there is nothing to restart");

    stage.db.beat("mobile").await?;
    stage.db.wait_for_status("mobile", "online").await?;
    stage.db.wait_for_history("mobile", "alive", 1).await
}

#[tokio::test]
async fn one_that_beats_is_left_alone_whatever_is_reported() -> Result<()> {
    let (stage, _engine) = stage().await?;
    stage.db.add(Workspace::new("mobile").external()).await?;
    let _daemon = stage.run().await?;
    is_left_alone(&stage, "mobile", "online", true).await
}

#[tokio::test]
async fn one_that_never_beat_is_not_lost() -> Result<()> {
    let (stage, _engine) = stage().await?;
    stage.db.add(Workspace::new("mobile").external().beaten(Beaten::Never)).await?;
    let _daemon = stage.run().await?;
    is_left_alone(&stage, "mobile", "online", false).await
}

#[tokio::test]
async fn one_that_was_put_away_is_not_marked() -> Result<()> {
    let (stage, _engine) = stage().await?;
    stage.db.add(Workspace::new("mobile").external().status("paused").silent()).await?;
    let _daemon = stage.run().await?;
    is_left_alone(&stage, "mobile", "paused", false).await
}

/// A machine behind a control plane is no container, so a container engine that lacks it proves nothing.
#[tokio::test]
async fn an_instance_on_a_container_engine_is_unknown_and_not_dead() -> Result<()> {
    let (stage, _engine) = stage().await?;
    let stage = stage.knob("MISSING_GRACE", "0ms");
    stage.db.add(Workspace::new("machine").silent()).await?;
    stage.db.execute("update defib.workspaces set kind = 'instance', instance_ref = 'i-1'").await?;
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("machine", Some("unknown")).await?;
    is_left_alone(&stage, "machine", "online", false).await?;
    stage.nothing_is_claimed(A_WHILE).await
}

async fn is_left_alone(stage: &Stage, id: &str, status: &str, beats: bool) -> Result<()> {
    throughout(A_WHILE, "it is left alone", async || {
        if beats {
            stage.db.beat(id).await.map_err(|error| format!("{error:#}"))?;
        }
        stage.db.suspect(id).await.map_err(|error| format!("{error:#}"))?;
        match (stage.db.status(id).await, stage.db.verdict(id).await) {
            (Ok(found), Ok(verdict)) if found == status && verdict.as_deref() != Some("lost") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    stage.nothing_is_claimed(Duration::ZERO).await
}

/// Silence is stale after a second, and lost after another.
async fn stage() -> Result<(Stage, ScriptedEngine)> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats().knob("POLL_INTERVAL", "200ms");
    Ok((stage.knob("WEDGED_AFTER", "1s").knob("BUSY_GRACE", "500ms"), engine))
}
