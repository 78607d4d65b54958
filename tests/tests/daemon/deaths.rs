//! What dies is restarted: once, soon, and not too soon. Real containers, killed past their engine.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::{PrivateDockerd, eventually};
use defib_tests::{Agent, EventlessEngine, SOON, Stage, Workspace, throughout};

/// How long a second restart is waited for, after the first. It is longer than a spacing, than the poll of these tests where there is one,
/// and than the looks that an event or a suspicion may still cause.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// The defaults of the two knobs that bound the time to a verdict against a fresh heartbeat.
const PROBE_SPACING: Duration = Duration::from_secs(1);
const DEAD_WINDOW: Duration = Duration::from_secs(30);

#[tokio::test]
async fn one_suspicion_alone_restarts_a_silent_dead_agent_without_waiting_for_the_poll() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let eventless = EventlessEngine::before(dockerd.url()).await?;
    let stage = Stage::new(eventless.url()).await?.quick_heartbeats().knob("POLL_INTERVAL", "60s");
    let agent = Agent::start(dockerd, "suspected").await?;
    stage.db.add(Workspace::new(&agent.id).silent()).await?;
    let daemon = stage.run().await?;
    daemon.wait_until_idle(Duration::from_secs(1)).await?;

    agent.die().await?;
    stage.nothing_is_claimed(Duration::from_secs(1)).await?;
    stage.db.suspect(&agent.id).await?;

    let restart = stage.db.wait_for_restart(&agent.id, "succeeded", SOON).await?;
    ensure!(restart.verdict == "dead" && restart.attempt == 1, "{restart:#?}");
    is_restarted_once(&stage, &agent).await
}

#[tokio::test]
async fn an_event_and_a_crowd_of_suspicions_at_once_restart_once() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let stage = Stage::new(dockerd.url()).await?.quick_heartbeats().knob("POLL_INTERVAL", "60s");
    let agent = Agent::start(dockerd, "crowd").await?;
    stage.db.add(Workspace::new(&agent.id).silent()).await?;
    let _daemon = stage.run().await?;

    agent.die().await?;
    for _ in 0..50 {
        stage.db.suspect(&agent.id).await?;
    }
    stage.db.wait_for_restart(&agent.id, "succeeded", SOON).await?;
    is_restarted_once(&stage, &agent).await
}

#[tokio::test]
async fn a_fresh_heartbeat_buys_one_spacing_when_nobody_reports() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let stage = Stage::new(dockerd.url()).await?.knob("POLL_INTERVAL", "60s");
    dies_with_a_fresh_heartbeat(&stage, dockerd, false).await
}

#[tokio::test]
async fn a_fresh_heartbeat_buys_one_spacing_when_everybody_reports() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let stage = Stage::new(dockerd.url()).await?.knob("POLL_INTERVAL", "60s");
    dies_with_a_fresh_heartbeat(&stage, dockerd, true).await
}

#[tokio::test]
async fn a_fresh_heartbeat_buys_one_spacing_when_the_event_stream_is_cut_off() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let eventless = EventlessEngine::before(dockerd.url()).await?;
    let stage = Stage::new(eventless.url()).await?.knob("POLL_INTERVAL", "300ms");
    dies_with_a_fresh_heartbeat(&stage, dockerd, false).await
}

async fn dies_with_a_fresh_heartbeat(stage: &Stage, dockerd: &PrivateDockerd, is_reported: bool) -> Result<()> {
    let agent = Agent::start(dockerd, "fresh").await?;
    stage.db.add(Workspace::new(&agent.id)).await?;
    let _daemon = stage.run().await?;
    let first_life = agent.started_at().await?;

    agent.die().await?;
    eventually(SOON, "the agent lives again", async || {
        if is_reported {
            stage.db.suspect(&agent.id).await.map_err(|error| format!("{error:#}"))?;
        }
        match agent.is_running().await {
            Ok(true) => Ok(()),
            other => Err(format!("running: {other:?}")),
        }
    })
    .await?;

    let (stopped, started) = (agent.stopped_at().await?, agent.started_at().await?);
    ensure!(started > first_life, "it never died");
    let dead_for = started.duration_since(stopped.unwrap_or(started))?;
    ensure!(dead_for >= PROBE_SPACING, "restarted after {dead_for:?}, less than one spacing");
    ensure!(dead_for <= DEAD_WINDOW, "restarted after {dead_for:?}, more than the dead window");
    is_restarted_once(stage, &agent).await
}

#[tokio::test]
async fn a_restart_is_a_recovery_only_after_the_next_heartbeat() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let stage = Stage::new(dockerd.url()).await?.quick_heartbeats();
    let agent = Agent::start(dockerd, "recovers").await?;
    stage.db.add(Workspace::new(&agent.id).silent()).await?;
    let _daemon = stage.run().await?;

    agent.die().await?;
    let restart = stage.db.wait_for_restart(&agent.id, "succeeded", SOON).await?;
    ensure!(restart.recovered_at.is_none(), "recovered without a heartbeat: {restart:#?}");
    ensure!(stage.db.status(&agent.id).await? == "offline", "the platform was not told of the death");
    stage.db.wait_for_verdict(&agent.id, Some("settling")).await?;
    throughout(Duration::from_secs(1), "it waits for the heartbeat", async || match stage.db.status(&agent.id).await {
        Ok(status) if status == "offline" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;

    stage.db.beat(&agent.id).await?;
    stage.db.wait_for_status(&agent.id, "online").await?;
    let restarts = stage.db.restarts(&agent.id).await?;
    ensure!(restarts.len() == 1 && restarts[0].recovered_at.is_some(), "{restarts:#?}");
    Ok(())
}

#[tokio::test]
async fn the_dead_one_of_several_is_restarted_and_the_living_are_not() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let stage = Stage::new(dockerd.url()).await?.quick_heartbeats();
    let mut agents = Vec::new();
    for name in ["beats", "silent", "dies"] {
        let agent = Agent::start(dockerd, name).await?;
        stage.db.add(Workspace::new(&agent.id).silent()).await?;
        agents.push(agent);
    }
    stage.db.beat(&agents[0].id).await?;
    let _daemon = stage.run().await?;

    agents[2].die().await?;
    for agent in &agents {
        stage.db.suspect(&agent.id).await?;
    }
    stage.db.wait_for_restart(&agents[2].id, "succeeded", SOON).await?;
    is_restarted_once(&stage, &agents[2]).await?;
    for living in &agents[..2] {
        ensure!(living.starts().await? == 1, "{} was restarted", living.id);
    }
    Ok(())
}

/// Checks that the ledger has one row for the whole fleet and the container was started once more, now and a while later.
async fn is_restarted_once(stage: &Stage, agent: &Agent) -> Result<()> {
    throughout(AFTERWARDS, "restarted once", async || {
        let restarts = stage.db.all_restarts().await.map_err(|error| format!("{error:#}"))?;
        if restarts.len() == 1 { Ok(()) } else { Err(format!("{restarts:#?}")) }
    })
    .await?;
    ensure!(agent.starts().await? == 2, "started {} times", agent.starts().await?);
    Ok(())
}
