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
