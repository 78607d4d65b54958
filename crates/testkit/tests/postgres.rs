//! The private Postgres: each way to stop it, and what a client sees meanwhile.

use std::time::Duration;

use anyhow::Result;
use defib_testkit::postgres::connect;
use defib_testkit::{PrivatePostgres, StopMode, eventually, process};

#[tokio::test]
async fn databases_of_one_server_are_separate() -> Result<()> {
    let server = PrivatePostgres::shared().await?;
    // From a task of its own, as a program with several would: the futures of the kit can move between threads.
    let server_task = tokio::spawn(async move { server.create_database().await });
    let (first, second) = (server.create_database().await?, server_task.await??);
    connect(&first).await?.batch_execute("create table t (n int)").await?;
    assert!(connect(&second).await?.batch_execute("select n from t").await.is_err());
    Ok(())
}

#[tokio::test]
async fn what_was_written_survives_every_way_to_stop() -> Result<()> {
    let server = PrivatePostgres::start().await?;
    let url = server.create_database().await?;
    connect(&url).await?.batch_execute("create table t (n int)").await?;
    for (stops, mode) in (1_i64..).zip([StopMode::Fast, StopMode::Immediate, StopMode::Kill]) {
        let client = connect(&url).await?;
        client.batch_execute("insert into t values (1)").await?;
        server.stop_server_with(mode).await?;
        assert!(client.batch_execute("select 1").await.is_err(), "the old connection is gone");
        assert!(connect(&url).await.is_err(), "nobody listens");
        server.start_server().await?;
        let rows: i64 = connect(&url).await?.query_one("select count(*) from t", &[]).await?.get(0);
        assert_eq!(rows, stops, "after {mode:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_paused_server_keeps_connections_and_answers_nothing() -> Result<()> {
    let server = PrivatePostgres::start().await?;
    let client = connect(&server.url("postgres")).await?;
    client.batch_execute("select 1").await?;
    server.pause()?;
    let answer = tokio::time::timeout(Duration::from_millis(200), client.batch_execute("select 1")).await;
    assert!(answer.is_err(), "{answer:?}");
    assert!(!client.is_closed());
    server.resume()?;
    eventually(Duration::from_secs(5), "the old connection answers", async || {
        client.batch_execute("select 1").await.map_err(|error| error.to_string())
    })
    .await
}

#[tokio::test]
async fn nothing_is_left_of_a_dropped_server_even_a_paused_one() -> Result<()> {
    let server = PrivatePostgres::start().await?;
    let directory = server.socket_directory().parent().unwrap().to_owned();
    let _client = connect(&server.url("postgres")).await?;
    server.pause()?;
    assert!(process::working_under(&directory).len() > 3);
    drop(server);
    assert_eq!(process::working_under(&directory), Vec::<u32>::new());
    assert!(!directory.exists());
    Ok(())
}

#[tokio::test]
async fn a_standby_has_what_its_primary_has_and_writes_after_its_promotion_only() -> Result<()> {
    let primary = PrivatePostgres::start().await?;
    let url = primary.create_database().await?;
    let database = url.rsplit('/').next().unwrap().to_owned();
    let standby = primary.standby().await?;
    connect(&url).await?.batch_execute("create table t (n int); insert into t values (7)").await?;
    primary.wait_until_replayed_by(&standby).await?;
    primary.stop_server_with(StopMode::Kill).await?;

    let client = connect(&standby.url(&database)).await?;
    assert_eq!(client.query_one("select n from t", &[]).await?.get::<_, i32>(0), 7);
    assert!(client.batch_execute("insert into t values (8)").await.is_err(), "a standby was written to");
    standby.promote().await?;
    client.batch_execute("insert into t values (8)").await?;
    Ok(())
}

#[tokio::test]
async fn a_small_disk_is_full_when_it_is_used_up_and_gone_with_its_server() -> Result<()> {
    let server = PrivatePostgres::start_with_small_disk(2 << 20).await?;
    let client = connect(&server.create_database().await?).await?;
    client.batch_execute("create table elsewhere (t text)").await?;
    client.batch_execute("create table fill (t text) tablespace small").await?;
    let fill = "insert into fill select repeat(md5(n::text), 8) from generate_series(1, 100000) n";
    let error = client.batch_execute(fill).await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code().to_owned()), Some("53100".to_owned()), "{error:?}");
    client.batch_execute("insert into elsewhere values ('there is room here')").await?;
    // Not truncate: it makes new files before it removes the old ones.
    client.batch_execute("drop table fill").await?;
    client.batch_execute("create table again tablespace small as select 1 as n").await?;
    let directory = server.socket_directory().parent().unwrap().to_owned();
    drop(server);
    assert!(!directory.exists());
    assert!(!std::fs::read_to_string("/proc/mounts")?.contains(directory.to_str().unwrap()));
    Ok(())
}
