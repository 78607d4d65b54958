//! The platform's functions are a stranger's code. One that raises, hangs or refuses concerns the workspace that it was called for and no
//! other, and it is called again until it succeeds.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::ScriptedEngine;
use defib_testkit::scripted_engine::{Call, Fault, FaultRule};
use defib_tests::{Daemon, SOON, Stage, Workspace, container, throughout};

use crate::fleet;

const RAISES: &str = "raise exception 'scripted: not today';";
const HANGS: &str = "perform pg_catalog.pg_sleep(60);";

/// After some failures the delay between two tries has grown.
const A_FEW_TRIES: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_mark_recovered_that_raises_for_one_stops_nobody_else_and_is_made_good() -> Result<()> {
    a_recovery_that_cannot_be_told(RAISES).await
}

#[tokio::test]
async fn a_mark_recovered_that_hangs_for_one_stops_nobody_else_and_is_made_good() -> Result<()> {
    a_recovery_that_cannot_be_told(HANGS).await
}

async fn a_recovery_that_cannot_be_told(fault: &str) -> Result<()> {
    let (stage, engine, _pulse) = fleet(3).await?;
    stage.db.replace_function_for("mark_recovered", &["w00"], fault).await?;
    let daemon = stage.run().await?;
    engine.exit("w00", 137)?;
    stage.db.wait_for_restart("w00", "succeeded", SOON).await?;
    daemon.wait_for_passes(4).await?; // its heartbeat is back, and the platform is to be told

    engine.exit("w01", 137)?;
    stage.db.wait_for_restart("w01", "succeeded", SOON).await?;
    stage.db.wait_for_status("w01", "online").await?;
    is_well(&daemon).await?;
    is_counted(&daemon, "mark_recovered").await?;
    ensure!(stage.db.status("w00").await? == "offline", "w00 is not in the trouble that this test is about");

    stage.db.restore_function("mark_recovered").await?;
    defib_testkit::eventually(A_FEW_TRIES, "w00 is online", async || match stage.db.status("w00").await {
        Ok(status) if status == "online" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
}

#[tokio::test]
async fn a_mark_dead_that_raises_for_one_stops_nobody_else_and_is_made_good() -> Result<()> {
    a_death_that_cannot_be_told(RAISES).await
}

#[tokio::test]
async fn a_mark_dead_that_hangs_for_one_stops_nobody_else_and_is_made_good() -> Result<()> {
    a_death_that_cannot_be_told(HANGS).await
}

async fn a_death_that_cannot_be_told(fault: &str) -> Result<()> {
    let (stage, engine, _pulse) = fleet(3).await?;
    stage.db.replace_function_for("mark_dead", &["w00"], fault).await?;
    let daemon = stage.run().await?;
    engine.exit("w00", 137)?;
    stage.db.wait_for_verdict("w00", Some("dead")).await?;

    engine.exit("w01", 137)?;
    stage.db.wait_for_restart("w01", "succeeded", SOON).await?;
    is_well(&daemon).await?;
    is_counted(&daemon, "mark_dead").await?;
    ensure!(engine.restarts_of("w00") == 0, "w00 was restarted although the platform was not told");

    stage.db.restore_function("mark_dead").await?;
    stage.db.wait_for_restart("w00", "succeeded", A_FEW_TRIES).await?;
    Ok(())
}

#[tokio::test]
async fn a_lost_external_is_marked_although_its_first_mark_raised() -> Result<()> {
    let (stage, _engine) = a_silent_external().await?;
    stage.db.replace_function("mark_dead", RAISES).await?;
    let daemon = stage.run().await?;
    stage.db.wait_for_verdict("mobile", Some("lost")).await?;
    is_counted(&daemon, "mark_dead").await?;
    is_well(&daemon).await?;
    stage.db.restore_function("mark_dead").await?;
    is_marked_offline(&stage).await
}

#[tokio::test]
async fn a_lost_external_is_marked_although_its_first_mark_was_vetoed() -> Result<()> {
    let (stage, _engine) = a_silent_external().await?;
    stage.db.execute("create sequence public.vetoes").await?;
    let veto_once =
        "if nextval('public.vetoes') = 1 then return false; end if; return platform.mark_dead(workspace_id, evidence);";
    stage.db.replace_function("mark_dead", veto_once).await?;
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("mobile", Some("lost")).await?;
    is_marked_offline(&stage).await
}

/// The claim has marked it, and then an operator holds it before its engine is asked. Nothing was done to it, so nothing may be left of
/// the mark.
#[tokio::test]
async fn a_hold_after_the_claim_takes_the_mark_back() -> Result<()> {
    let (stage, engine, _pulse) = fleet(1).await?;
    engine.add_fault(FaultRule::new(Call::Inspect, Fault::Delay(Duration::from_secs(3))));
    let _daemon = stage.run().await?;
    engine.exit("w00", 137)?;
    stage.db.wait_for_claim("w00").await?;
    ensure!(stage.db.status("w00").await? == "offline", "the claim does not mark it, so this test proves nothing");
    stage.defib(&["hold", "w00", "--reason", "scripted"]).await?.with_code(0)?;
    stage.db.wait_for_restart("w00", "vetoed", SOON).await?;
    stage.db.wait_for_status("w00", "online").await?;
    throughout(Duration::from_secs(2), "it is held", async || match engine.restarts_of("w00") {
        0 => Ok(()),
        calls => Err(format!("{calls} calls")),
    })
    .await
}

/// The function's failures are counted, under its own name.
async fn is_counted(daemon: &Daemon, function: &str) -> Result<()> {
    let series = format!("defib_adapter_errors_total{{function=\"{function}\"}}");
    daemon.wait_for_metric(&series, |errors| errors >= 1.0, SOON).await?;
    Ok(())
}

/// A function that fails must not look like an outage of the database or of the daemon.
async fn is_well(daemon: &Daemon) -> Result<()> {
    let (ready, reason) = daemon.readiness().await?;
    ensure!(ready, "not ready: {reason}");
    let metrics = daemon.metrics().await?;
    ensure!(metrics.value("defib_database_up")? == 1.0, "the database is called down");
    let multiplier = metrics.value("defib_local_health_multiplier")?;
    ensure!(multiplier <= 2.0, "the multiplier climbed to {multiplier}");
    Ok(())
}

async fn is_marked_offline(stage: &Stage) -> Result<()> {
    defib_testkit::eventually(A_FEW_TRIES, "mobile is offline", async || match stage.db.status("mobile").await {
        Ok(status) if status == "offline" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
}

/// An external workspace that has been silent for an hour, and a container that is well.
async fn a_silent_external() -> Result<(Stage, ScriptedEngine)> {
    let engine = ScriptedEngine::start().await?;
    let stage =
        Stage::new(&engine.url()).await?.quick_heartbeats().knob("WEDGED_AFTER", "1s").knob("BUSY_GRACE", "500ms");
    engine.add(container("well"));
    stage.db.add(Workspace::new("well")).await?;
    stage.db.add(Workspace::new("mobile").external().silent()).await?;
    Ok((stage, engine))
}
