//! The pooler: that it pools by transactions, and that nothing is left of it.

use anyhow::{Result, ensure};
use defib_testkit::postgres::connect;
use defib_testkit::{PgBouncer, PrivatePostgres, process};

#[tokio::test]
async fn clients_share_server_connections_by_transactions() -> Result<()> {
    let server = PrivatePostgres::shared().await?;
    let direct = server.create_database().await?;
    let pooler = PgBouncer::before(server, 1).await?;
    let (first, second) = (connect(&pooler.url(&direct)?).await?, connect(&pooler.url(&direct)?).await?);
    first.batch_execute("set search_path = nowhere").await?;
    let seen = second.simple_query("show search_path").await?;
    ensure!(format!("{seen:?}").contains("nowhere"), "the session of the first is not the second's: {seen:?}");
    ensure!(pooler.transactions().await? >= 2, "it counts nothing");
    Ok(())
}

#[tokio::test]
async fn a_pooler_can_be_stopped_started_and_pointed_at_another_server() -> Result<()> {
    let (one, other) = (PrivatePostgres::start().await?, PrivatePostgres::start().await?);
    let pooler = PgBouncer::before(&one, 2).await?;
    let url = pooler.url(&one.url("postgres"))?;
    let port = async || -> Result<i32> {
        let rows = connect(&url).await?.simple_query("select inet_server_port()").await?;
        let row = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok(row.unwrap_or_default().parse()?)
    };
    ensure!(port().await? == i32::from(one.port()));
    pooler.stop().await?;
    ensure!(port().await.is_err(), "it was stopped");
    pooler.start().await?;
    ensure!(port().await? == i32::from(one.port()));
    pooler.point_at(&other).await?;
    ensure!(port().await? == i32::from(other.port()), "it leads to the first server still");
    Ok(())
}

#[tokio::test]
async fn a_user_who_is_no_superuser_may_come_through() -> Result<()> {
    let server = PrivatePostgres::shared().await?;
    let direct = server.create_database().await?;
    connect(&direct).await?.batch_execute("create role somebody login").await?;
    let pooler = PgBouncer::before(server, 1).await?;
    let seen = connect(&pooler.url(&direct)?.replace("postgres@", "somebody@")).await?;
    let seen = seen.simple_query("select current_user").await?;
    ensure!(format!("{seen:?}").contains("somebody"), "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_of_a_dropped_pooler() -> Result<()> {
    let server = PrivatePostgres::shared().await?;
    let pooler = PgBouncer::before(server, 1).await?;
    let pid = pooler.pid().unwrap();
    ensure!(process::is_alive(pid));
    drop(pooler);
    ensure!(!process::is_alive(pid), "it outlived its value");
    Ok(())
}
