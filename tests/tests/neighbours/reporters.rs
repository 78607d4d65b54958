//! The name of a reporter is a text that the caller chooses. So the login is what counts, and one login is one witness.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::{ScriptedEngine, eventually};
use defib_tests::{SOON, Stage, Workspace, throughout};

const A_WHILE: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_login_that_names_its_reports_after_its_requests_is_one_reporter() -> Result<()> {
    accuses_in_vain(&|report| format!("request-{}", report % 12)).await
}

#[tokio::test]
async fn a_login_with_two_names_that_accuse_nobody_else_is_one_reporter() -> Result<()> {
    accuses_in_vain(&|report| format!("proxy-{}", report % 2)).await
}

#[tokio::test]
async fn two_logins_are_two_reporters() -> Result<()> {
    let (stage, engine) = stage().await?;
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("w1", Some("wedged")).await?;
    let (one, another) = (stage.db.proxy("one").await?, stage.db.proxy("another").await?);
    eventually(SOON, "it is restarted", async || {
        for (login, name) in [(&one, "proxy-1"), (&another, "proxy-2")] {
            stage.db.suspect_over(login, "w1", name).await.map_err(|error| format!("{error:#}"))?;
        }
        if engine.starts_of("w1") == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await
}

async fn accuses_in_vain(name: &dyn Fn(usize) -> String) -> Result<()> {
    let (stage, engine) = stage().await?;
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("w1", Some("wedged")).await?;
    let login = stage.db.proxy("one").await?;
    let reports = std::cell::Cell::new(0);
    throughout(A_WHILE, "one login's word is not enough", async || {
        reports.set(reports.get() + 1);
        let name = name(reports.get());
        stage.db.suspect_over(&login, "w1", &name).await.map_err(|error| format!("{error:#}"))?;
        if engine.restarts() == 0 { Ok(()) } else { Err("it was restarted".to_owned()) }
    })
    .await?;
    ensure!(stage.db.all_restarts().await?.is_empty(), "a restart was claimed");
    Ok(())
}

/// A running workspace that has been silent for an hour, where what hangs is restarted on the word of a second witness.
async fn stage() -> Result<(Stage, ScriptedEngine)> {
    let (stage, engine) = Stage::with_one(Workspace::new("w1").silent()).await?;
    let stage = stage.quick_heartbeats().knob("POLL_INTERVAL", "300ms");
    let stage = stage.knob("WEDGED_AFTER", "1s").knob("BUSY_GRACE", "500ms").knob("STOP_GRACE", "0s");
    Ok((stage.knob("WEDGED_ACTION", "restart"), engine))
}
