//! Logins with the rights of one role each, and no others: what `docs/wiring.md` tells operators to grant.

use anyhow::{Result, ensure};
use defib_testkit::postgres::connect;
use defib_testkit::{PrivatePostgres, eventually};
use defib_tests::SOON;

use crate::stage_with;

#[tokio::test]
async fn the_granted_rights_do_for_the_whole_job_and_for_every_command() -> Result<()> {
    let server = PrivatePostgres::start().await?;
    let (stage, engine) = stage_with(&server, &["w1", "w2", "lives"]).await?;
    let proxy = connect(&stage.db.login("defib_reporter").await?).await?;
    let viewer = stage.db.login("defib_viewer").await?;
    let daemon_url = stage.db.login("defib_daemon").await?;
    let stage = stage.knob("DATABASE_URL", &daemon_url);
    let checked = stage.defib(&["check"]).await?.with_code(0)?.stdout;
    ensure!(checked.contains("ok    rights") && checked.contains("all is well"), "{checked}");

    let daemon = stage.run().await?;
    engine.exit("w1", 137)?;
    proxy.batch_execute("select defib.report_suspicion('w1', 'proxy-1', 'connection refused', 502)").await?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    stage.db.wait_for_status("w1", "offline").await?;
    stage.db.beat("w1").await?;
    stage.db.wait_for_status("w1", "online").await?;
    eventually(SOON, "the suspicion is taken", async || {
        match stage.db.count("select count(*) from defib.suspicions where taken_at is null").await {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?} pending")),
        }
    })
    .await?;

    stage.defib(&["hold", "w2", "--for", "1h", "--reason", "an upgrade"]).await?.with_code(0)?;
    engine.exit("w2", 1)?;
    stage.db.wait_for_verdict("w2", Some("dead")).await?;
    ensure!(engine.restarts_of("w2") == 0, "restarted in spite of the hold");
    stage.defib(&["suspect", "w2", "--reason", "looks stuck"]).await?.with_code(0)?;
    stage.defib(&["release", "w2"]).await?.with_code(0)?;
    stage.db.wait_for_restart("w2", "succeeded", SOON).await?;
    for command in [["status"].as_slice(), &["explain", "w1"], &["ack", "w2"]] {
        stage.defib(command).await?.with_code(0)?;
    }
    ensure!(engine.restarts() == 2, "{} restarts", engine.restarts());
    let denied = server.whole_log().lines().find(|line| line.contains("permission denied")).map(str::to_owned);
    ensure!(denied.is_none(), "{denied:?}");
    ensure!(daemon.readiness().await?.0, "not ready");

    // A login that may only read can do so with the same program.
    let stage = stage.knob("DATABASE_URL", &viewer);
    for command in [["status"].as_slice(), &["explain", "w1"]] {
        stage.defib(command).await?.with_code(0)?;
    }
    let checked = stage.defib(&["check"]).await?.with_code(1)?.stdout;
    ensure!(checked.contains("Grant the role defib_daemon"), "{checked}");
    Ok(())
}
