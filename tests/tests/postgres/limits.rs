//! A server that has no connection left, no time, or no permission to write.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::postgres::connect;
use defib_testkit::{PrivatePostgres, eventually};
use defib_tests::{SOON, Stage};
use tokio_postgres::Client;

use crate::{A_WHILE, nobody_is_touched, only_this_one_is_restarted, stage_with};

#[tokio::test]
async fn a_server_without_a_free_connection_is_waited_for_at_the_start_and_later() -> Result<()> {
    let server = PrivatePostgres::start_with(&[("max_connections", "16")]).await?;
    let (stage, engine) = stage_with(&server, &["dies", "lives"]).await?;
    // Superusers have connections of their own.
    let url = stage.db.login("defib_daemon").await?;
    stage.db.execute("create role hog login").await?;
    let hog = stage.db.url().replace("postgres@", "hog@");
    let stage = stage.knob("DATABASE_URL", &url);

    let hogs = take_all(&hog).await?;
    let daemon = stage.start().await?;
    daemon.wait_until_unready("connection slots").await?;
    ensure!(daemon.get("/healthz").await?.0 == 200, "waiting is no fault of its own");
    let checked = stage.defib(&["check"]).await?.with_code(1)?.stdout;
    ensure!(checked.contains("connection slots"), "{checked}");
    drop(hogs);
    daemon.wait_until_ready().await?;

    let hogs = std::cell::RefCell::new(Vec::new());
    eventually(SOON, "defib has no connection left", async || {
        let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name like 'defib%'";
        let ended = stage.db.count(end).await.map_err(|error| format!("{error:#}"))?;
        let taken = take_all(&hog).await.map_err(|error| format!("{error:#}"))?;
        hogs.borrow_mut().extend(taken);
        if ended == 0 { Ok(()) } else { Err(format!("{ended} had to be ended")) }
    })
    .await?;
    daemon.wait_until_unready("connection slots").await?;
    engine.exit("dies", 137)?;
    nobody_is_touched(&daemon, &engine, A_WHILE).await?;
    drop(hogs);
    daemon.wait_until_ready().await?;
    only_this_one_is_restarted(&stage, &engine, "dies", 0).await
}

async fn take_all(url: &str) -> Result<Vec<Client>> {
    let mut taken = Vec::new();
    loop {
        match connect(url).await {
            Ok(client) => taken.push(client),
            Err(error) if format!("{error:#}").contains("connection slots") => return Ok(taken),
            Err(error) => return Err(error),
        }
    }
}

/// Lets every read of the fleet take as long as table `slow` says.
pub(crate) async fn slow_down(stage: &Stage) -> Result<()> {
    let view = stage.db.query("select pg_get_viewdef('defib.fleet'::regclass)", &[]).await?;
    let view: String = view[0].get(0);
    let view = view.trim_end_matches(';');
    stage.db.execute("create table slow as select 0::float8 as seconds").await?;
    stage.db.execute("grant select on slow to public").await?;
    let sleep = "(select pg_sleep(seconds) from slow offset 0) s";
    stage.db.execute(&format!("create or replace view defib.fleet as select f.* from ({view}) f, {sleep}")).await
}

#[tokio::test]
async fn a_statement_time_out_of_the_role_is_told_from_a_death() -> Result<()> {
    let server = PrivatePostgres::start().await?;
    let (stage, engine) = stage_with(&server, &["dies", "lives"]).await?;
    slow_down(&stage).await?;
    let url = stage.db.login("defib_daemon").await?;
    let login = format!("defib_daemon_of_{}", stage.db.name());
    stage.db.execute(&format!("alter role {login} set statement_timeout = '300ms'")).await?;
    let stage = stage.knob("DATABASE_URL", &url);
    let daemon = stage.run().await?;
    stage.db.execute("update slow set seconds = 1").await?;
    engine.exit("dies", 137)?;
    daemon.wait_until_unready("statement timeout").await?;
    nobody_is_touched(&daemon, &engine, A_WHILE).await?;
    stage.db.execute("update slow set seconds = 0").await?;
    daemon.wait_until_ready().await?;
    only_this_one_is_restarted(&stage, &engine, "dies", 0).await
}

#[tokio::test]
async fn a_database_that_is_read_only_is_no_claim_and_defib_says_so() -> Result<()> {
    let server = PrivatePostgres::start().await?;
    let (stage, engine) = stage_with(&server, &["dies", "lives"]).await?;
    let daemon = stage.run().await?;
    let database = stage.db.name();
    stage.db.execute(&format!("alter database {database} set default_transaction_read_only = on")).await?;
    // The limit holds for new connections only, so those that exist are ended.
    stage
        .db
        .query("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'defib'", &[])
        .await?;
    daemon.wait_until_unready("read-only").await?;
    engine.exit("dies", 137)?;
    nobody_is_touched(&daemon, &engine, A_WHILE).await?;
    stage.nothing_is_claimed(Duration::ZERO).await?;
    stage.db.execute(&format!("alter database {database} reset default_transaction_read_only")).await?;
    daemon.wait_until_ready().await?;
    only_this_one_is_restarted(&stage, &engine, "dies", 0).await
}
