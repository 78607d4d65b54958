//! Locks that others hold for twenty seconds: twice the time-out of a statement.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::{PrivatePostgres, eventually};
use defib_tests::SOON;

use crate::{nobody_is_touched, only_this_one_is_restarted, stage_with};

const HELD_FOR: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_lock_on_the_ledger_holds_up_restarts_and_nothing_else() -> Result<()> {
    let server = PrivatePostgres::start().await?;
    let (stage, engine) = stage_with(&server, &["dies", "lives"]).await?;
    let daemon = stage.run().await?;
    let locker = stage.db.another_connection().await?;
    locker.batch_execute("begin; lock table defib.restarts in access exclusive mode").await?;
    engine.exit("dies", 137)?;
    stage.db.suspect("dies").await?;
    let taking = eventually(SOON, "suspicions are taken all the same", async || {
        match stage.db.count("select count(*) from defib.suspicions where taken_at is null").await {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?} pending")),
        }
    });
    let telling = daemon.wait_until_unready("cannot read the ledger: no answer from the database within 10s");
    tokio::try_join!(nobody_is_touched(&daemon, &engine, HELD_FOR), taking, telling)?;
    let pool = "select count(*) from pg_stat_activity where application_name = 'defib'";
    ensure!(stage.db.count(pool).await? <= 8, "more connections than the pool has");
    locker.batch_execute("commit").await?;
    only_this_one_is_restarted(&stage, &engine, "dies", 0).await?;
    daemon.wait_until_ready().await
}

#[tokio::test]
async fn a_lock_on_the_fleet_holds_up_verdicts_and_the_loop_goes_on() -> Result<()> {
    let server = PrivatePostgres::start().await?;
    let (stage, engine) = stage_with(&server, &["dies", "lives"]).await?;
    let daemon = stage.run().await?;
    let locker = stage.db.another_connection().await?;
    locker.batch_execute("begin; lock table defib.workspaces in access exclusive mode").await?;
    engine.exit("dies", 137)?;
    let telling = daemon.wait_until_unready("cannot read the fleet: no answer from the database within 10s");
    tokio::try_join!(nobody_is_touched(&daemon, &engine, HELD_FOR), telling)?;
    locker.batch_execute("commit").await?;
    only_this_one_is_restarted(&stage, &engine, "dies", 0).await?;
    daemon.wait_until_ready().await
}

#[tokio::test]
async fn a_lock_on_one_row_of_the_platform_holds_up_that_one_alone() -> Result<()> {
    let server = PrivatePostgres::start().await?;
    let (stage, engine) = stage_with(&server, &["locked", "free", "lives"]).await?;
    let daemon = stage.run().await?;
    let locker = stage.db.another_connection().await?;
    locker.batch_execute("begin; select from defib.workspaces where id = 'locked' for update").await?;
    engine.exit("locked", 137)?;
    stage.db.wait_for_lock().await?;
    engine.exit("free", 137)?;
    stage.db.wait_for_restart("free", "succeeded", SOON).await?;
    nobody_is_touched(&daemon, &engine, HELD_FOR).await?;
    ensure!(stage.db.restarts("locked").await?.is_empty(), "claimed without the platform's word");
    ensure!(daemon.readiness().await?.0, "one row is no reason not to be ready");
    locker.batch_execute("commit").await?;
    only_this_one_is_restarted(&stage, &engine, "locked", 1).await
}
