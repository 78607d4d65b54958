//! When an engine gives no answer, or a wrong one, nobody is restarted for it, and the workspaces of other engines are not affected.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use defib_testkit::scripted_engine::{Call, ContainerState, EventFeed, Fault};
use defib_testkit::{PrivateDockerd, ScriptedEngine};
use defib_tests::{Agent, SOON, Stage, Workspace, container, throughout};

/// How long an engine misbehaves: several polls, and several time-outs of the calls that hang.
const A_WHILE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn an_engine_that_answers_500_restarts_nobody() -> Result<()> {
    misbehaves(Misbehaviour::Fault(Fault::server_error("scripted"))).await
}

#[tokio::test]
async fn an_engine_that_answers_garbage_restarts_nobody() -> Result<()> {
    misbehaves(Misbehaviour::Fault(Fault::Garbage("<html>Bad Gateway</html>".into()))).await
}

#[tokio::test]
async fn an_engine_that_answers_with_an_empty_list_of_another_shape_restarts_nobody() -> Result<()> {
    misbehaves(Misbehaviour::Fault(Fault::Garbage("{}".into()))).await
}

#[tokio::test]
async fn an_engine_that_hangs_up_restarts_nobody() -> Result<()> {
    misbehaves(Misbehaviour::Fault(Fault::Eof)).await
}

#[tokio::test]
async fn an_engine_that_hangs_up_in_the_middle_of_an_answer_restarts_nobody() -> Result<()> {
    misbehaves(Misbehaviour::Fault(Fault::Truncated)).await
}

#[tokio::test]
async fn an_engine_that_hangs_restarts_nobody() -> Result<()> {
    misbehaves(Misbehaviour::Fault(Fault::Hang)).await
}

#[tokio::test]
async fn an_engine_that_refuses_connections_restarts_nobody() -> Result<()> {
    misbehaves(Misbehaviour::Refuses).await
}

#[derive(Debug, Clone)]
enum Misbehaviour {
    Fault(Fault),
    Refuses,
}

/// The engine misbehaves while its workspaces are silent, so that one conclusive look would convict each of them. One of them really dies.
/// Nobody is touched while the trouble lasts, and the dead one is found at once when it is over.
async fn misbehaves(misbehaviour: Misbehaviour) -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats();
    let stage = stage.knob("POLL_INTERVAL", "300ms").knob("ENGINE_TIMEOUT", "500ms").knob("MISSING_GRACE", "100ms");
    let ids = ["dies", "silent", "beats"];
    for id in ids {
        engine.add(container(id));
        stage.db.add(Workspace::new(id).silent()).await?;
    }
    stage.db.beat("beats").await?;
    let _daemon = stage.run().await?;

    match &misbehaviour {
        Misbehaviour::Refuses => engine.refuse_connections(true).await?,
        Misbehaviour::Fault(fault) => {
            for call in [Call::List, Call::Inspect] {
                engine.set_fault(call, fault.clone());
            }
        }
    }
    for id in ids {
        stage.db.wait_for_verdict(id, Some("unknown")).await?;
    }
    engine.exit("dies", 137)?;
    throughout(A_WHILE, "nobody is claimed while the engine misbehaves", async || {
        for id in ids {
            stage.db.suspect(id).await.map_err(|error| format!("{error:#}"))?;
        }
        match stage.db.all_restarts().await {
            Ok(restarts) if restarts.is_empty() => Ok(()),
            other => Err(format!("{other:#?}")),
        }
    })
    .await?;
    ensure!(engine.restarts() == 0, "somebody was restarted while the engine misbehaved");

    engine.clear_faults();
    engine.refuse_connections(false).await?;
    stage.db.wait_for_restart("dies", "succeeded", SOON).await?;
    stage.db.wait_for_verdict("silent", Some("silent")).await?;
    for id in ["silent", "beats"] {
        ensure!(engine.restarts_of(id) == 0, "{id} lives, and was restarted");
    }
    ensure!(engine.restarts_of("dies") == 1, "restarted {} times", engine.restarts_of("dies"));
    Ok(())
}

#[tokio::test]
async fn a_frozen_dockerd_restarts_nobody_and_a_death_under_it_is_found_afterwards() -> Result<()> {
    let dockerd = PrivateDockerd::start().await?; // one of our own, because it is going to be frozen
    let stage = Stage::new(dockerd.url()).await?.quick_heartbeats().knob("ENGINE_TIMEOUT", "500ms");
    let (dies, lives) = (Agent::start(&dockerd, "dies").await?, Agent::start(&dockerd, "lives").await?);
    for agent in [&dies, &lives] {
        stage.db.add(Workspace::new(&agent.id).silent()).await?;
    }
    let _daemon = stage.run().await?;
    let main = dockerd.main_pid(&dies.container).await?.unwrap_or_default();

    dockerd.pause()?;
    defib_testkit::process::signal(main, defib_testkit::process::Signal::KILL)?;
    for agent in [&dies, &lives] {
        stage.db.wait_for_verdict(&agent.id, Some("unknown")).await?;
        stage.db.suspect(&agent.id).await?;
    }
    stage.nothing_is_claimed(A_WHILE).await?;

    dockerd.resume()?;
    stage.db.wait_for_restart(&dies.id, "succeeded", SOON).await?;
    ensure!(dies.starts().await? == 2 && lives.starts().await? == 1, "not just the dead one was started once more");
    Ok(())
}

#[tokio::test]
async fn an_engine_that_hangs_does_not_delay_the_death_on_another() -> Result<()> {
    let (hanging, other) = (ScriptedEngine::start().await?, ScriptedEngine::start().await?);
    let timeout = Duration::from_secs(15);
    let stage = Stage::new(&hanging.url()).await?.engine("other", &other.url()).quick_heartbeats();
    let stage = stage.knob("ENGINE_TIMEOUT", "15s").knob("POLL_INTERVAL", "500ms");
    hanging.add(container("stuck"));
    other.add(container("dies"));
    other.set_event_feed(EventFeed::Silent); // so that the poll has to find it
    stage.db.add(Workspace::new("stuck").silent()).await?;
    stage.db.add(Workspace::new("dies").engine("other").silent()).await?;
    let daemon = stage.run().await?;
    let lists = hanging.count(Call::List);
    for call in [Call::List, Call::Inspect, Call::Info, Call::Ping] {
        hanging.set_fault(call, Fault::Hang);
    }
    defib_testkit::eventually(SOON, "a pass hangs", async || match hanging.count(Call::List) {
        count if count > lists => Ok(()),
        count => Err(format!("{count} lists")),
    })
    .await?;

    let died = Instant::now();
    other.exit("dies", 137)?;
    stage.db.wait_for_restart("dies", "succeeded", timeout).await?;
    let took = died.elapsed();
    ensure!(took < timeout / 2, "restarted after {took:?}: it waited for the engine that hangs");
    ensure!(other.restarts_of("dies") == 1 && hanging.restarts() == 0, "not the dead one alone was restarted");
    ensure!(daemon.readiness().await?.0, "one engine that hangs is no reason not to be ready");
    Ok(())
}

#[tokio::test]
async fn an_engine_that_is_away_is_said_to_be_away() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.knob("POLL_INTERVAL", "200ms");
    let daemon = stage.run().await?;
    daemon.wait_for_metric("defib_engine_up{engine=\"default\"}", |up| up == 1.0, SOON).await?;

    engine.refuse_connections(true).await?;
    daemon.wait_for_metric("defib_engine_up{engine=\"default\"}", |up| up == 0.0, SOON).await?;
    let (is_ready, reason) = daemon.readiness().await?;
    ensure!(!is_ready && reason.contains("engine"), "ready: {is_ready}, because {reason}");
    ensure!(daemon.get("/healthz").await?.0 == 200, "the loop turns all the same");

    engine.refuse_connections(false).await?;
    daemon.wait_until_ready().await
}

#[tokio::test]
async fn an_empty_list_and_nonsense_about_the_container_make_nobody_missing() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats();
    let stage = stage.knob("POLL_INTERVAL", "200ms").knob("MISSING_GRACE", "100ms");
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("w1", Some("silent")).await?;

    engine.set_fault(Call::List, Fault::Garbage("[]".into()));
    engine.set_fault(Call::Inspect, Fault::Garbage("{}".into()));
    stage.db.wait_for_verdict("w1", Some("unknown")).await?;
    stage.nothing_is_claimed(A_WHILE).await?;
    ensure!(stage.db.status("w1").await? == "online", "the platform was told that it is dead");
    Ok(())
}

#[tokio::test]
async fn an_engine_that_says_it_is_another_one_makes_nobody_missing() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats();
    let stage = stage.knob("POLL_INTERVAL", "200ms").knob("MISSING_GRACE", "100ms");
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    let daemon = stage.run().await?;
    // defib has to know the engine before another one takes its place. The first looks and the event stream ask for its identity at the
    // same time, so the test waits until that is done.
    let passes = "defib_ticks_total{result=\"ok\",scope=\"fleet\"}";
    daemon.wait_for_metric(passes, |count| count >= 4.0, SOON).await?;

    engine.set_identity("somebody else");
    engine.remove("w1")?;
    stage.db.wait_for_verdict("w1", Some("unknown")).await?;
    stage.nothing_is_claimed(A_WHILE).await?;
    ensure!(engine.restarts() == 0, "restarted");
    Ok(())
}

#[tokio::test]
async fn a_word_that_nobody_knows_accuses_nobody_and_hides_no_death() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats().knob("POLL_INTERVAL", "300ms");
    for id in ["strange", "dies", "lives"] {
        engine.add(container(id));
        stage.db.add(Workspace::new(id).container_ref(id).silent()).await?;
    }
    let _daemon = stage.run().await?;

    // A client that reads states into a closed set of words cannot read the whole list.
    engine.set_state("strange", ContainerState::Other("dreaming".into()))?;
    stage.db.wait_for_verdict("strange", Some("unknown")).await?;
    engine.exit("dies", 137)?;
    stage.db.wait_for_restart("dies", "succeeded", SOON).await?;
    throughout(Duration::from_secs(1), "the others are left alone", async || match engine.restarts() {
        1 => Ok(()),
        count => Err(format!("{count} restarts")),
    })
    .await
}
