//! How much one source can make defib store is bounded when it is written.

use anyhow::{Result, ensure};
use defib_testkit::eventually;
use defib_tests::{SOON, Stage};

use crate::fleet;

#[tokio::test]
async fn an_engine_that_blips_is_no_event_of_each_of_its_workspaces() -> Result<()> {
    let (stage, engine, _pulse) = fleet(40).await?;
    let stage = stage.knob("ENGINE_TIMEOUT", "1s");
    let daemon = stage.run().await?;
    let counted = "defib_workspaces{verdict=\"unknown\"}";
    daemon.wait_for_metric("defib_workspaces{verdict=\"alive\"}", |alive| alive == 40.0, SOON).await?;
    let before = events(&stage).await?;
    for _ in 0..6 {
        engine.refuse_connections(true).await?;
        daemon.wait_for_metric(counted, |unknown| unknown == 40.0, SOON).await?;
        engine.refuse_connections(false).await?;
        daemon.wait_for_metric(counted, |unknown| unknown == 0.0, SOON).await?;
    }
    // Whatever else is written comes with the passes that follow.
    daemon.wait_for_passes(3).await?;
    let written = events(&stage).await? - before;
    ensure!(written <= 2 * 6, "{written} events of six blips of one engine");
    Ok(())
}

/// No daemon runs, so the suspicions are not taken.
#[tokio::test]
async fn reports_that_wait_are_one_row_for_each_who_reports() -> Result<()> {
    let (stage, _engine, _pulse) = fleet(1).await?;
    let flood = "select defib.report_suspicion('w00', 'proxy-' || n % 3, 'connection refused', 502)
                   from generate_series(1, 5000) as n";
    stage.db.query(flood, &[]).await?;
    let rows = stage.db.count("select count(*) from defib.suspicions").await?;
    ensure!(rows == 3, "{rows} rows of three reporters");

    let _daemon = stage.run().await?;
    eventually(SOON, "they are taken", async || {
        match stage.db.count("select count(*) from defib.suspicions where taken_at is null").await {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    stage.db.suspect("w00").await?;
    ensure!(stage.db.count("select count(*) from defib.suspicions").await? == 4, "a report after that is a new one");
    Ok(())
}

#[tokio::test]
async fn the_id_of_a_report_is_the_id_that_is_judged() -> Result<()> {
    let (stage, _engine, _pulse) = fleet(0).await?;
    for id in ["a".repeat(512), format!("{}\u{7}{}", "b".repeat(200), "ü".repeat(100))] {
        stage.db.suspect(&id).await?;
        let kept = stage.db.query("select workspace_id from defib.suspicions where workspace_id = $1", &[&id]).await?;
        ensure!(kept.len() == 1, "the report of {id:?} has another id");
    }
    Ok(())
}

async fn events(stage: &Stage) -> Result<i64> {
    stage.db.count("select count(*) from defib.events").await
}
