//! Only what the engine was really asked for is an attempt.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::scripted_engine::{Call, Fault};
use defib_tests::{SOON, Stage, throughout};

use crate::fleet;

/// A workspace whose order was handed back waits with a growing delay of its own.
const A_FEW_DELAYS: Duration = Duration::from_secs(60);

#[tokio::test]
async fn restarts_that_were_handed_back_by_a_stop_use_up_no_attempt() -> Result<()> {
    let (stage, engine, _pulse) = fleet(1).await?;
    let stage = stage.knob("EXHAUSTED_AFTER", "2").knob("EXHAUSTED_RETRY", "1h").knob("BACKOFF_INITIAL", "100ms");
    engine.set_fault(Call::Inspect, Fault::Delay(Duration::from_millis(1_500)));
    engine.exit("w00", 137)?;
    for handed_back in 1..=2 {
        let daemon = stage.run().await?;
        is_claimed(&stage).await?;
        daemon.stop(SOON).await?;
        let count = "select count(*) from defib.restarts where outcome = 'abandoned'";
        ensure!(stage.db.count(count).await? == handed_back, "{:#?}", stage.db.restarts("w00").await?);
        ensure!(engine.restarts() == 0, "its engine was asked, so this test proves nothing");
    }
    engine.clear_faults();
    let _daemon = stage.run().await?;
    let restart = stage.db.wait_for_restart("w00", "succeeded", A_FEW_DELAYS).await?;
    ensure!(restart.attempt == 1, "{restart:#?}");
    Ok(())
}

#[tokio::test]
async fn a_container_that_nobody_can_make_again_is_held_and_makes_no_rows() -> Result<()> {
    let (stage, engine, _pulse) = fleet(2).await?;
    let _daemon = stage.run().await?;
    engine.remove("w00")?;
    stage.db.wait_for_verdict("w00", Some("dead")).await?;
    throughout(Duration::from_secs(3), "nothing is tried", async || match stage.db.all_restarts().await {
        Ok(restarts) if restarts.is_empty() => Ok(()),
        other => Err(format!("{other:#?}")),
    })
    .await?;
    let held = stage.db.held("w00").await?;
    ensure!(held.as_deref() == Some("cannot_recreate"), "held: {held:?}");
    ensure!(stage.db.status("w00").await? == "online", "the platform was told of a restart that is not made");

    engine.exit("w01", 137)?;
    stage.db.wait_for_restart("w01", "succeeded", SOON).await?;
    Ok(())
}

async fn is_claimed(stage: &Stage) -> Result<()> {
    defib_testkit::eventually(A_FEW_DELAYS, "a restart is under way", async || {
        match stage.db.count("select count(*) from defib.restarts where finished_at is null").await {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}
