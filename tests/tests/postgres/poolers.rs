//! Through a real pgbouncer in transaction mode, with two server connections for everything that defib does.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::scripted_engine::EventFeed;
use defib_testkit::{PgBouncer, PrivatePostgres, ScriptedEngine, eventually};
use defib_tests::{SOON, Stage, Workspace, container};

use crate::{A_WHILE, nobody_is_touched, only_this_one_is_restarted, quick, stage_with, warned};

const POOL_SIZE: usize = 2;

/// The error of the server when a client relies on state of its session.
const SESSION_LOST: [&str; 4] = ["prepared statement", "portal", "unnamed", "cursor"];

fn no_session_was_missed(server: &PrivatePostgres) -> Result<()> {
    let log = server.whole_log();
    let complaint = log.lines().find(|line| SESSION_LOST.iter().any(|words| line.contains(words)));
    ensure!(complaint.is_none(), "the server complains: {complaint:?}");
    Ok(())
}

async fn all_suspicions_are_taken(stage: &Stage) -> Result<()> {
    eventually(SOON, "all suspicions are taken", async || {
        match stage.db.count("select count(*) from defib.suspicions where taken_at is null").await {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?} pending")),
        }
    })
    .await
}

#[tokio::test]
async fn the_whole_job_is_done_through_a_pooler_and_suspicions_are_heard_on_a_direct_connection() -> Result<()> {
    let (server, engine) = (PrivatePostgres::start().await?, ScriptedEngine::start().await?);
    let stage = Stage::bare(&server, &engine.url()).await?;
    let pooler = PgBouncer::before(&server, POOL_SIZE).await?;
    let direct = stage.db.url().to_owned();
    // There are no events, and the next poll is far away, so only a notification can make defib look.
    engine.set_event_feed(EventFeed::Silent);
    let stage =
        quick(stage).knob("POLL_INTERVAL", "2m").knob("SETTLE", "1s").knob("DEAD_WINDOW", "4m").knob("PROBE_TTL", "8m");
    let stage = stage.knob("DATABASE_URL", &pooler.url(&direct)?).knob("LISTEN_DATABASE_URL", &direct);
    stage.defib(&["migrate"]).await?.with_code(0)?;
    for id in ["w1", "w2"] {
        engine.add(container(id));
        stage.db.add(Workspace::new(id).silent()).await?;
    }
    let daemon = stage.run().await?;
    daemon.wait_until_idle(Duration::from_secs(1)).await?;

    engine.exit("w1", 137)?;
    stage.nothing_is_claimed(Duration::from_secs(1)).await?;
    stage.db.suspect("w1").await?;
    let restart = stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    ensure!(engine.restarts_of("w1") == 1 && engine.restarts() == 1, "not just the dead one was restarted");
    stage.db.beat("w1").await?;
    stage.db.suspect("w1").await?;
    eventually(SOON, "the recovery is recorded", async || match stage.db.restarts("w1").await {
        Ok(rows) if rows.iter().any(|row| row.id == restart.id && row.recovered_at.is_some()) => Ok(()),
        other => Err(format!("{other:#?}")),
    })
    .await?;
    stage.db.wait_for_status("w1", "online").await?;

    stage.defib(&["hold", "w2", "--for", "1h", "--reason", "an upgrade"]).await?.with_code(0)?;
    engine.exit("w2", 1)?;
    stage.db.suspect("w2").await?;
    stage.db.wait_for_verdict("w2", Some("dead")).await?;
    ensure!(engine.restarts() == 1, "restarted in spite of the hold");
    stage.defib(&["release", "w2"]).await?.with_code(0)?;
    stage.db.suspect("w2").await?;
    stage.db.wait_for_restart("w2", "succeeded", SOON).await?;
    all_suspicions_are_taken(&stage).await?;
    for command in [["status"].as_slice(), &["explain", "w1"], &["ack", "w2"], &["check"]] {
        stage.defib(command).await?.with_code(0)?;
    }
    ensure!(pooler.transactions().await? > 20, "the work was not done through the pooler");
    no_session_was_missed(&server)
}

#[tokio::test]
async fn without_a_direct_connection_polling_does_it_and_defib_says_so() -> Result<()> {
    let server = PrivatePostgres::start().await?;
    let (stage, engine) = stage_with(&server, &["w1"]).await?;
    let pooler = PgBouncer::before(&server, POOL_SIZE).await?;
    engine.set_event_feed(EventFeed::Silent);
    let url = pooler.url(stage.db.url())?;
    let stage = stage.knob("DATABASE_URL", &url).knob("LISTEN_DATABASE_URL", &url);
    let checked = stage.defib(&["check"]).await?.with_code(0)?.stdout;
    let told = checked.lines().find(|line| line.starts_with("note  listen"));
    ensure!(told.is_some_and(|line| line.contains("DEFIB_LISTEN_DATABASE_URL")), "check does not say so:\n{checked}");

    let daemon = stage.run().await?;
    daemon.program.wait_for_line("transaction pooler", SOON).await?;
    ensure!(warned(&daemon, &["transaction pooler", "DEFIB_LISTEN_DATABASE_URL"])?, "said too quietly");
    engine.exit("w1", 137)?;
    stage.db.suspect("w1").await?;
    only_this_one_is_restarted(&stage, &engine, "w1", 0).await?;
    all_suspicions_are_taken(&stage).await?;
    no_session_was_missed(&server)
}

#[tokio::test]
async fn check_is_content_with_a_direct_connection_for_the_listener() -> Result<()> {
    let server = PrivatePostgres::shared().await?;
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?;
    let pooler = PgBouncer::before(server, POOL_SIZE).await?;
    let direct = stage.db.url().to_owned();
    let stage = stage.knob("DATABASE_URL", &pooler.url(&direct)?).knob("LISTEN_DATABASE_URL", &direct);
    let checked = stage.defib(&["check"]).await?.with_code(0)?.stdout;
    ensure!(checked.contains("ok    listen"), "{checked}");
    Ok(())
}

#[tokio::test]
async fn a_pooler_that_is_restarted_is_an_outage_like_any_other() -> Result<()> {
    let server = PrivatePostgres::start().await?;
    let (stage, engine) = stage_with(&server, &["dies", "lives"]).await?;
    let pooler = PgBouncer::before(&server, POOL_SIZE).await?;
    let direct = stage.db.url().to_owned();
    let stage = stage.knob("DATABASE_URL", &pooler.url(&direct)?).knob("LISTEN_DATABASE_URL", &direct);
    let daemon = stage.run().await?;

    pooler.stop().await?;
    daemon.wait_until_unready("database").await?;
    engine.exit("dies", 137)?;
    nobody_is_touched(&daemon, &engine, A_WHILE).await?;
    pooler.start().await?;
    daemon.wait_until_ready().await?;
    only_this_one_is_restarted(&stage, &engine, "dies", 0).await?;
    no_session_was_missed(&server)
}
