//! What is not dead, or not ours to touch, is left alone, whatever is said about it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use defib_testkit::scripted_engine::{Call, ContainerState, Fault, FaultRule};
use defib_testkit::{PrivateDockerd, ScriptedEngine};
use defib_tests::{Agent, Database, SOON, Stage, Workspace, throughout};

/// How long nothing may happen. Many polls, spacings and suspicions, with the knobs of these tests.
const A_WHILE: Duration = Duration::from_secs(3);

/// The statuses of workspaces that are not meant to run, and of one whose first start is not over.
const NOT_WATCHED: [&str; 4] = ["paused", "hibernated", "removed", "provisioning"];

#[tokio::test]
async fn a_workspace_that_was_put_away_is_never_touched() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let stage = Stage::new(dockerd.url()).await?.quick_heartbeats().knob("MISSING_GRACE", "100ms");
    let mut stopped = Vec::new();
    let mut suspects: Vec<String> = Vec::new();
    for status in NOT_WATCHED {
        let agent = Agent::start(dockerd, status).await?;
        stage.db.add(Workspace::new(&agent.id).status(status).silent()).await?;
        let gone = format!("{}-without-container", agent.id);
        stage.db.add(Workspace::new(&gone).status(status).silent()).await?;
        suspects.extend([agent.id.clone(), gone]);
        stopped.push(agent);
    }
    stage.db.add(Workspace::new("team").status("paused").silent()).await?;
    stage.db.add(Workspace::new("lead").below("team").silent()).await?;
    let member = Agent::start(dockerd, "member").await?;
    stage.db.add(Workspace::new(&member.id).below("lead").silent()).await?;
    suspects.extend(["team".to_owned(), "lead".to_owned(), member.id.clone()]);
    stopped.push(member);
    // A workspace that really dies, which shows that the daemon is at work all the time.
    let watched = Agent::start(dockerd, "watched").await?;
    stage.db.add(Workspace::new(&watched.id).silent()).await?;

    let _daemon = stage.run().await?;
    for agent in stopped.iter().chain([&watched]) {
        agent.die().await?;
    }
    throughout(A_WHILE, "only the watched one is claimed", async || {
        suspect_all(&stage.db, &suspects).await.map_err(|error| format!("{error:#}"))?;
        let restarts = stage.db.all_restarts().await.map_err(|error| format!("{error:#}"))?;
        if restarts.iter().all(|restart| restart.workspace == watched.id) {
            Ok(())
        } else {
            Err(format!("{restarts:#?}"))
        }
    })
    .await?;
    stage.db.wait_for_restart(&watched.id, "succeeded", SOON).await?;
    for agent in &stopped {
        ensure!(agent.starts().await? == 1, "{} was started", agent.id);
    }
    for (id, status) in suspects.iter().zip(NOT_WATCHED.iter().flat_map(|status| [status, status])) {
        ensure!(stage.db.status(id).await? == *status, "the status of {id} was changed");
    }
    Ok(())
}

#[tokio::test]
async fn a_container_that_an_operator_paused_is_left_paused() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let stage = Stage::new(dockerd.url()).await?.quick_heartbeats().knob("POLL_INTERVAL", "200ms");
    let agent = Agent::start(dockerd, "frozen").await?;
    stage.db.add(Workspace::new(&agent.id).silent()).await?;
    let _daemon = stage.run().await?;

    dockerd.client().await?.pause_container(&agent.container).await?;
    stage.db.wait_for_verdict(&agent.id, Some("frozen")).await?;
    nothing_is_claimed_although_all_report(&stage, std::slice::from_ref(&agent.id)).await?;
    let seen = dockerd.inspect(&agent.container).await?.state.context("it has no state")?;
    ensure!(seen.paused == Some(true), "it was unpaused");
    ensure!(agent.starts().await? == 1, "it was restarted");
    Ok(())
}

#[tokio::test]
async fn a_container_that_is_recreated_under_its_name_is_not_restarted() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let stage = Stage::new(dockerd.url()).await?.knob("POLL_INTERVAL", "200ms").knob("PROBE_SPACING", "100ms");
    let mut agent = Agent::start(dockerd, "recreated").await?;
    stage.db.add(Workspace::new(&agent.id).container_ref(&agent.id)).await?;
    let _daemon = stage.run().await?;

    for _ in 0..3 {
        stage.db.suspect(&agent.id).await?;
        agent.recreate().await?;
    }
    throughout(A_WHILE, "the new container is not restarted", async || {
        stage.db.suspect(&agent.id).await.map_err(|error| format!("{error:#}"))?;
        match agent.starts().await {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?} starts")),
        }
    })
    .await?;
    // It may have been convicted between the end of the old container and its removal. Then the look before the restart must have found
    // that there is another one.
    for restart in stage.db.all_restarts().await? {
        ensure!(restart.outcome.as_deref() == Some("superseded"), "{restart:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn whoever_restarts_it_first_is_not_answered_with_a_second_restart() -> Result<()> {
    let (stage, engine) = Stage::with_one(Workspace::new("w1").silent()).await?;
    let stage = stage.quick_heartbeats().knob("POLL_INTERVAL", "200ms");
    let _daemon = stage.run().await?;

    // The claim waits for the platform's row; meanwhile an operator starts the container.
    let mut platform = stage.db.another_connection().await?;
    let row = platform.transaction().await?;
    row.query("select from defib.workspaces where id = 'w1' for update", &[]).await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_lock().await?;
    engine.set_state("w1", ContainerState::Running)?;
    row.rollback().await?;

    let restart = stage.db.wait_for_restart("w1", "superseded", SOON).await?;
    ensure!(restart.error.is_some(), "it does not say why: {restart:#?}");
    throughout(A_WHILE, "the ledger stays as it is", async || match stage.db.all_restarts().await {
        Ok(restarts) if restarts.len() == 1 => Ok(()),
        other => Err(format!("{other:#?}")),
    })
    .await?;
    ensure!(engine.restarts() == 0, "it was started a second time");
    stage.db.beat("w1").await?;
    stage.db.wait_for_status("w1", "online").await
}

#[tokio::test]
async fn a_pause_that_commits_during_the_claim_vetoes_it() -> Result<()> {
    let (stage, engine) = Stage::with_one(Workspace::new("w1").silent()).await?;
    let stage = stage.quick_heartbeats().knob("POLL_INTERVAL", "200ms");
    let _daemon = stage.run().await?;

    let mut platform = stage.db.another_connection().await?;
    let pause = platform.transaction().await?;
    pause.execute("update defib.workspaces set status = 'paused' where id = 'w1'", &[]).await?;
    engine.exit("w1", 0)?;
    stage.db.wait_for_lock().await?;
    pause.commit().await?;

    stage.db.wait_for_restart("w1", "vetoed", SOON).await?;
    throughout(A_WHILE, "it stays paused", async || match stage.db.status("w1").await {
        Ok(status) if status == "paused" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    ensure!(engine.restarts() == 0, "a paused workspace was started");
    Ok(())
}

#[tokio::test]
async fn a_heartbeat_that_commits_during_the_claim_vetoes_it() -> Result<()> {
    let (stage, engine) = Stage::with_one(Workspace::new("w1").silent()).await?;
    let stage = stage.quick_heartbeats().knob("POLL_INTERVAL", "200ms");
    let _daemon = stage.run().await?;

    let mut platform = stage.db.another_connection().await?;
    let beat = platform.transaction().await?;
    beat.execute("update defib.workspaces set last_heartbeat_at = clock_timestamp() where id = 'w1'", &[]).await?;
    engine.lie_about("w1", &Fault::FalselyStopped);
    stage.db.wait_for_lock().await?;
    engine.clear_faults();
    beat.commit().await?;

    stage.db.wait_for_restart("w1", "vetoed", SOON).await?;
    throughout(A_WHILE, "it stays online", async || match stage.db.status("w1").await {
        Ok(status) if status == "online" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    ensure!(engine.restarts() == 0, "it was started although it beats");
    Ok(())
}

#[tokio::test]
async fn one_false_not_running_never_restarts_a_beating_workspace() -> Result<()> {
    let (stage, engine) = Stage::with_one(Workspace::new("w1")).await?;
    let stage = stage.knob("POLL_INTERVAL", "60s").knob("PROBE_SPACING", "300ms");
    let daemon = stage.run().await?;
    daemon.wait_until_idle(Duration::from_millis(500)).await?;

    lie_once(&stage, &engine, 1).await?;
    stage.nothing_is_claimed(A_WHILE).await?;
    ensure!(engine.restarts() == 0, "restarted");
    Ok(())
}

#[tokio::test]
async fn false_not_runnings_with_good_samples_in_between_do_not_add_up() -> Result<()> {
    let (stage, engine) = Stage::with_one(Workspace::new("w1")).await?;
    let stage = stage.knob("POLL_INTERVAL", "60s").knob("PROBE_SPACING", "300ms");
    let daemon = stage.run().await?;
    daemon.wait_until_idle(Duration::from_millis(500)).await?;

    for times in 1..=6 {
        lie_once(&stage, &engine, times).await?;
    }
    stage.nothing_is_claimed(Duration::from_secs(1)).await?;
    ensure!(engine.restarts() == 0, "restarted");
    Ok(())
}

#[tokio::test]
async fn many_false_not_runnings_within_one_spacing_are_one() -> Result<()> {
    let (stage, engine) = Stage::with_one(Workspace::new("w1")).await?;
    let stage = stage.knob("POLL_INTERVAL", "100ms").knob("PROBE_SPACING", "6s");
    let _daemon = stage.run().await?;

    engine.lie_about("w1", &Fault::FalselyStopped);
    stage.db.wait_for_verdict("w1", Some("suspect")).await?;
    let looks = engine.count(Call::Inspect);
    stage.nothing_is_claimed(Duration::from_secs(1)).await?;
    ensure!(engine.count(Call::Inspect) > looks + 2, "it was hardly looked at");
    engine.clear_faults();
    stage.db.wait_for_verdict("w1", None).await?;
    stage.nothing_is_claimed(Duration::from_secs(1)).await?;
    ensure!(engine.restarts() == 0, "restarted");
    Ok(())
}

/// Shows the container as stopped in one look, and waits until defib has seen that, and has seen that it is wrong. Only a suspicion may
/// cause a look meanwhile: a poll could use up one of the two wrong answers.
async fn lie_once(stage: &Stage, engine: &ScriptedEngine, times: usize) -> Result<()> {
    for call in [Call::List, Call::Inspect] {
        engine.add_fault(FaultRule::new(call, Fault::FalselyStopped).container("w1").times(1));
    }
    stage.db.suspect("w1").await?;
    stage.db.wait_for_history("w1", "suspect", times).await?;
    engine.clear_faults();
    stage.db.wait_for_history("w1", "alive", times).await
}

#[tokio::test]
async fn observing_judges_and_records_and_touches_nothing() -> Result<()> {
    let (stage, engine) = Stage::with_one(Workspace::new("w1").silent()).await?;
    let stage = stage.quick_heartbeats().knob("MODE", "observe");
    let stage = stage.knob("WEDGED_AFTER", "1s").knob("BUSY_GRACE", "500ms");
    stage.db.add(Workspace::new("mobile").external().silent()).await?;
    let _daemon = stage.run().await?;

    engine.exit("w1", 137)?;
    stage.db.wait_for_verdict("w1", Some("dead")).await?;
    stage.db.wait_for_verdict("mobile", Some("lost")).await?;
    nothing_is_claimed_although_all_report(&stage, &["w1".to_owned(), "mobile".to_owned()]).await?;
    ensure!(stage.db.held("w1").await?.as_deref() == Some("observe"), "it does not say what it would do");
    for id in ["w1", "mobile"] {
        ensure!(stage.db.status(id).await? == "online", "the platform's status of {id} was changed");
    }
    ensure!(engine.restarts() + engine.count(Call::Stop) + engine.count(Call::Kill) == 0, "the container was touched");
    Ok(())
}

async fn nothing_is_claimed_although_all_report(stage: &Stage, suspects: &[String]) -> Result<()> {
    throughout(A_WHILE, "nothing is claimed", async || {
        suspect_all(&stage.db, suspects).await.map_err(|error| format!("{error:#}"))?;
        match stage.db.all_restarts().await {
            Ok(restarts) if restarts.is_empty() => Ok(()),
            other => Err(format!("{other:#?}")),
        }
    })
    .await
}

async fn suspect_all(db: &Database, suspects: &[String]) -> Result<()> {
    for id in suspects {
        db.suspect(id).await?;
    }
    Ok(())
}
