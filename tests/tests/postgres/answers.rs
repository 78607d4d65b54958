//! Statements that get no answer in time: locks that others hold for twenty seconds, which is twice the time-out of a statement, and a view
//! that is slow.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use defib_testkit::{PrivatePostgres, eventually};
use defib_tests::{SOON, throughout};

use crate::limits::slow_down;
use crate::{nobody_is_touched, only_this_one_is_restarted, stage_with};

const HELD_FOR: Duration = Duration::from_secs(20);

/// The four cases are one test, because most of their time is waiting.
#[tokio::test]
async fn an_answer_that_does_not_come_holds_up_what_needs_it_and_nothing_else() -> Result<()> {
    let on_the_ledger = async { a_lock_on_the_ledger_holds_up_restarts_and_nothing_else().await.context("the ledger") };
    let on_the_fleet =
        async { a_lock_on_the_fleet_holds_up_verdicts_and_the_loop_goes_on().await.context("the fleet") };
    let on_a_row = async { a_lock_on_one_row_of_the_platform_holds_up_that_one_alone().await.context("a row") };
    let in_the_view = async {
        a_fleet_that_cannot_be_read_in_time_is_no_verdict_and_leaves_no_work_at_the_server().await.context("the view")
    };
    tokio::try_join!(on_the_ledger, on_the_fleet, on_a_row, in_the_view)?;
    Ok(())
}

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
    ensure!(stage.db.count(pool).await? <= 14, "more connections than the three pools have");
    locker.batch_execute("commit").await?;
    only_this_one_is_restarted(&stage, &engine, "dies", 0).await?;
    daemon.wait_until_ready().await
}

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

async fn a_fleet_that_cannot_be_read_in_time_is_no_verdict_and_leaves_no_work_at_the_server() -> Result<()> {
    let server = PrivatePostgres::start().await?;
    let (stage, engine) = stage_with(&server, &["dies", "lives"]).await?;
    slow_down(&stage).await?;
    let daemon = stage.run().await?;
    stage.db.execute("update slow set seconds = 600").await?;
    engine.exit("dies", 137)?;
    daemon.wait_until_unready("no answer from the database within 10s").await?;
    let left = "select count(*) from pg_stat_activity
                 where application_name = 'defib' and state = 'active' and now() - query_start > interval '12 seconds'";
    throughout(Duration::from_secs(4), "what was given up is cancelled", async || match stage.db.count(left).await {
        Ok(0) => Ok(()),
        other => Err(format!("{other:?} statements go on")),
    })
    .await?;
    nobody_is_touched(&daemon, &engine, Duration::ZERO).await?;
    let pool = "select count(*) from pg_stat_activity where application_name = 'defib'";
    ensure!(stage.db.count(pool).await? <= 14, "more connections than the three pools have");
    stage.db.execute("update slow set seconds = 0").await?;
    daemon.wait_until_ready().await?;
    only_this_one_is_restarted(&stage, &engine, "dies", 0).await
}
