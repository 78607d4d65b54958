//! A daemon that only observes touches nothing, and of several replicas exactly one records the verdict of each workspace.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::{ScriptedEngine, eventually};
use defib_tests::{SOON, Stage, Workspace, container, throughout};

#[tokio::test]
async fn an_observer_does_not_tell_the_platform_of_a_recovery() -> Result<()> {
    let (stage, engine) = stage(&["w1"]).await?;
    let daemon = stage.run().await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    ensure!(stage.db.status("w1").await? == "offline", "it was not marked, so this test proves nothing");
    daemon.stop(SOON).await?;

    let stage = stage.knob("MODE", "observe");
    let observer = stage.run().await?;
    stage.db.beat("w1").await?;
    throughout(Duration::from_secs(4), "the platform's row is not touched", async || {
        stage.db.beat("w1").await.map_err(|error| format!("{error:#}"))?;
        match stage.db.status("w1").await {
            Ok(status) if status == "offline" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    observer.wait_for_metric("defib_workspaces{verdict=\"alive\"}", |alive| alive == 1.0, SOON).await?;
    Ok(())
}

#[tokio::test]
async fn the_sum_over_the_replicas_is_the_fleet() -> Result<()> {
    let (stage, _engine) = stage(&["w1", "w2", "w3"]).await?;
    let replicas = [stage.run_as("one").await?, stage.run_as("two").await?];
    let counted = async || {
        let mut sum = 0.0;
        for replica in &replicas {
            sum += replica.metrics().await.map_err(|error| format!("{error:#}"))?.sum("defib_workspaces", "");
        }
        if sum == 3.0 { Ok(()) } else { Err(format!("{sum} workspaces")) }
    };
    eventually(SOON, "three workspaces are counted", counted).await?;
    throughout(Duration::from_secs(3), "three workspaces are counted", counted).await
}

async fn stage(ids: &[&str]) -> Result<(Stage, ScriptedEngine)> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats();
    for id in ids {
        engine.add(container(id));
        stage.db.add(Workspace::new(id).silent()).await?;
    }
    Ok((stage, engine))
}
