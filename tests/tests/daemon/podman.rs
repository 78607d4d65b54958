//! On podman's service, which speaks Docker's interface with words and habits of its own: what dies there is restarted, and nothing else.

use std::time::Duration;

use anyhow::{Result, ensure};
use bollard::query_parameters::StopContainerOptionsBuilder;
use defib_testkit::{PrivatePodman, eventually};
use defib_tests::{Agent, SOON, Stage, Workspace, throughout};

/// How long the service is away: several polls.
const A_WHILE: Duration = Duration::from_secs(3);

/// How long a second restart is waited for, after the first.
const AFTERWARDS: Duration = Duration::from_secs(2);

#[tokio::test]
async fn who_is_killed_is_restarted_once_and_who_is_paused_or_removed_is_not() -> Result<()> {
    let podman = PrivatePodman::shared().await?;
    let stage = on(podman).await?.knob("MISSING_GRACE", "500ms");
    let dies = Agent::start(podman, "dies").await?;
    let lives = Agent::start(podman, "lives").await?;
    let rests = Agent::start(podman, "rests").await?;
    let goes = Agent::start(podman, "goes").await?;
    for agent in [&dies, &lives, &rests, &goes] {
        stage.db.add(Workspace::new(&agent.id).silent()).await?;
    }
    let said = stage.defib(&["check"]).await?.stdout;
    ensure!(said.contains("ok    engine"), "{said}");
    podman.client().await?.pause_container(&rests.container).await?;
    let _daemon = stage.run().await?;
    for (agent, verdict) in [(&dies, "silent"), (&lives, "silent"), (&rests, "frozen"), (&goes, "silent")] {
        stage.db.wait_for_verdict(&agent.id, Some(verdict)).await?;
    }

    podman.kill_main_process(&dies.container).await?;
    let restart = stage.db.wait_for_restart(&dies.id, "succeeded", SOON).await?;
    ensure!(restart.verdict == "dead" && restart.attempt == 1, "{restart:#?}");
    // podman removes a container by killing it first. A look in between would find one that has stopped, which is restarted with good reason.
    stage.defib(&["hold", &goes.id, "--reason", "it is being removed"]).await?.with_code(0)?;
    goes.remove().await?;
    stage.defib(&["release", &goes.id]).await?.with_code(0)?;
    eventually(SOON, "who is removed is found missing", async || match stage.db.held(&goes.id).await {
        Ok(held) if held.as_deref() == Some("cannot_recreate") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    throughout(AFTERWARDS, "nobody is started again", async || {
        for (agent, expected) in [(&dies, 2), (&lives, 1), (&rests, 1)] {
            match podman.starts(&agent.container) {
                Ok(starts) if starts == expected => {}
                other => return Err(format!("{}: {other:?} starts instead of {expected}", agent.id)),
            }
        }
        Ok(())
    })
    .await?;
    for agent in [&lives, &rests, &goes] {
        ensure!(stage.db.restarts(&agent.id).await?.is_empty(), "{} was restarted", agent.id);
    }
    podman.client().await?.unpause_container(&rests.container).await?;
    Ok(())
}

#[tokio::test]
async fn who_is_stopped_by_hand_is_restarted_as_on_docker() -> Result<()> {
    let podman = PrivatePodman::shared().await?;
    let stage = on(podman).await?;
    let told = Agent::start(podman, "told").await?;
    stage.db.add(Workspace::new(&told.id).silent()).await?;
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict(&told.id, Some("silent")).await?;
    let options = StopContainerOptionsBuilder::default().t(5).build();
    podman.client().await?.stop_container(&told.container, Some(options)).await?;
    stage.db.wait_for_restart(&told.id, "succeeded", SOON).await?;
    ensure!(podman.starts(&told.container)? == 2, "it was started {} times", podman.starts(&told.container)?);
    Ok(())
}

#[tokio::test]
async fn a_service_that_goes_and_comes_back_restarts_nobody_and_a_state_that_docker_does_not_have_hides_no_death()
-> Result<()> {
    let podman = PrivatePodman::start().await?;
    let stage = on(&podman).await?;
    let orphan = Agent::start(&podman, "orphan").await?;
    let lives = Agent::start(&podman, "lives").await?;
    for agent in [&orphan, &lives] {
        stage.db.add(Workspace::new(&agent.id).silent()).await?;
    }
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict(&orphan.id, Some("silent")).await?;

    podman.kill().await?;
    for agent in [&orphan, &lives] {
        stage.db.wait_for_verdict(&agent.id, Some("unknown")).await?;
        stage.db.suspect(&agent.id).await?;
    }
    stage.nothing_is_claimed(A_WHILE).await?;
    podman.start_again().await?;
    for agent in [&orphan, &lives] {
        stage.db.wait_for_verdict(&agent.id, Some("silent")).await?;
    }

    // It stays in the state `stopped`, in which the client library cannot read its record.
    podman.break_clean_up()?;
    podman.kill_main_process(&orphan.container).await?;
    stage.db.wait_for_restart(&orphan.id, "succeeded", SOON).await?;
    ensure!(podman.starts(&orphan.container)? == 2, "it was started {} times", podman.starts(&orphan.container)?);
    ensure!(podman.starts(&lives.container)? == 1, "who lives was restarted");
    Ok(())
}

async fn on(podman: &PrivatePodman) -> Result<Stage> {
    Ok(Stage::new(podman.url()).await?.quick_heartbeats().knob("POLL_INTERVAL", "500ms"))
}
