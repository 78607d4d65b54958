//! The engine crate against podman's service, which speaks Docker's interface with words of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

mod support;

use std::time::Duration;

use defib_engine::{Action, EngineError, EngineEvent, RestartHow};
use defib_policy::sample::{Fault, Observation};
use defib_testkit::{PrivatePodman, WorkspaceContainer, eventually};
use support::{LABEL, by_label, by_name, call, engine, engine_with_timeout, known, only};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

fn container(name: &str) -> WorkspaceContainer {
    WorkspaceContainer::new(name).label(LABEL, name)
}

#[tokio::test]
async fn a_container_is_seen_dying_restarting_frozen_and_gone() {
    let server = PrivatePodman::shared().await.expect("a private podman");
    let id = server.run_workspace(container("life")).await.expect("a container");
    let engine = engine(server.url());
    let (label, name) = (known(by_label("life"), &id), by_name("life", "life"));
    for target in [&label, &name] {
        let target = std::slice::from_ref(target);
        assert_eq!(only(&engine.sample_all(target).await), "running");
        assert_eq!(only(&engine.sample_some(target).await), "running");
    }
    let first = engine.confirm(&label).await.observation.incarnation().unwrap().clone();

    // From `running` over `stopped` to `exited`: no look in between says that it is gone, or that nothing is known of it.
    server.kill_main_process(&id).await.unwrap();
    let Observation::Stopped { incarnation, exit } = eventually(PATIENCE, "a stopped sample", async || {
        let sample = engine.confirm(&label).await;
        match sample.observation.label() {
            "stopped" => Ok(Ok(sample.observation)),
            "running" => Err(format!("{sample:?}")),
            _ => Ok(Err(sample)),
        }
    })
    .await
    .unwrap()
    .expect("it was seen to run, and then to have stopped") else {
        unreachable!("a stopped sample")
    };
    assert_eq!((exit.exit_code, exit.oom_killed, exit.engine_restarts), (Some(137), false, false));
    assert!(exit.finished_at > incarnation.started_at);
    assert_eq!(incarnation, first);

    engine.restart(&call(&id, RestartHow::Start, PATIENCE)).await.expect("a start");
    engine.restart(&call(&id, RestartHow::Start, PATIENCE)).await.expect("runs already");
    let second = engine.confirm(&label).await.observation;
    assert_eq!(second.label(), "running");
    assert_ne!(*second.incarnation().unwrap(), first);
    let how = RestartHow::KillAndStart { grace: Duration::from_secs(1) };
    engine.restart(&call(&id, how, PATIENCE)).await.expect("a restart");
    let third = engine.confirm(&label).await.observation;
    assert_eq!(third.label(), "running");
    assert_ne!(third.incarnation(), second.incarnation());

    server.client().await.unwrap().pause_container(&id).await.unwrap();
    for report in
        [engine.sample_all(std::slice::from_ref(&label)).await, engine.sample_some(std::slice::from_ref(&name)).await]
    {
        assert_eq!(only(&report), "frozen");
    }

    server.remove(&id).await.unwrap();
    for target in [label, name] {
        let target = std::slice::from_ref(&target);
        assert_eq!(only(&engine.sample_all(target).await), "missing");
        assert_eq!(only(&engine.sample_some(target).await), "missing");
    }
    let error = engine.restart(&call(&id, RestartHow::Start, PATIENCE)).await.expect_err("gone");
    assert!(matches!(error, EngineError::Gone { .. }), "{error:?}");
}

#[tokio::test]
async fn a_container_that_nobody_cleans_up_after_is_dead_and_can_be_started() {
    let server = PrivatePodman::start().await.expect("a private podman");
    let id = server.run_workspace(container("orphan")).await.expect("a container");
    let engine = engine(server.url());
    let targets = [known(by_label("orphan"), &id), by_name("orphan", "orphan")];
    server.break_clean_up().unwrap();
    server.kill_main_process(&id).await.unwrap();
    eventually(PATIENCE, "a stopped sample", async || match only(&engine.sample_all(&targets[..1]).await) {
        stopped if stopped == "stopped" => Ok(()),
        other => Err(other),
    })
    .await
    .unwrap();
    let word = server.inspect(&id).await.expect_err("the client library does not know the word `stopped`");
    assert!(format!("{word:#}").contains("stopped"), "{word:#}");
    for target in &targets {
        assert_eq!(only(&engine.sample_all(std::slice::from_ref(target)).await), "stopped");
        assert_eq!(only(&engine.sample_some(std::slice::from_ref(target)).await), "stopped");
    }
    engine.restart(&call(&id, RestartHow::Start, PATIENCE)).await.expect("a start");
    assert_eq!(engine.confirm(&targets[0]).await.observation.label(), "running");
    server.remove(&id).await.unwrap();
}

#[tokio::test]
async fn an_engine_that_answers_a_new_id_each_time_is_the_same_engine() {
    let server = PrivatePodman::shared().await.expect("a private podman");
    assert_ne!(server.engine_id().await.unwrap(), server.engine_id().await.unwrap(), "podman's own word");
    let first = engine(server.url()).sample_all(&[by_label("nobody")]).await;
    let second = engine(server.url()).sample_all(&[by_label("nobody")]).await;
    let identity = |reached: Result<defib_engine::Reached, Fault>| reached.expect("reached").identity;
    let (first, second) = (identity(first.reach), identity(second.reach));
    assert!(first.is_some());
    assert_eq!(first, second);
    let other = PrivatePodman::start().await.expect("another private podman");
    let other = engine(other.url()).sample_all(&[by_label("nobody")]).await;
    assert_ne!(identity(other.reach), first);
}

#[tokio::test]
async fn a_service_that_freezes_or_restarts_makes_everything_unknown_and_its_events_come_late_and_come() {
    let server = PrivatePodman::start().await.expect("a private podman");
    let id = server.run_workspace(container("ww")).await.expect("a container");
    let engine = engine_with_timeout(server.url(), Duration::from_secs(5));
    let target = [known(by_label("ww"), &id)];
    let (sender, mut events) = mpsc::channel(64);
    let stop = CancellationToken::new();
    let watch = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move { engine.watch(sender, stop).await }
    });
    let mut next = async || {
        tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event in time").expect("the watch runs")
    };
    assert!(matches!(next().await, EngineEvent::Connected { .. }));
    let identity = engine.sample_all(&target).await.reach.expect("reached").identity;

    server.pause().unwrap();
    let report = engine.sample_all(&target).await;
    assert_eq!((report.reach.clone(), only(&report).as_str()), (Err(Fault::TimedOut), "unknown:timed_out"));
    server.resume().unwrap();
    assert!(matches!(next().await, EngineEvent::Disconnected { .. }), "a silent stream is not trusted after that");
    assert!(matches!(next().await, EngineEvent::Connected { .. }));

    server.kill().await.unwrap();
    assert!(matches!(next().await, EngineEvent::Disconnected { .. }));
    let report = engine.sample_some(&target).await;
    assert_eq!((report.reach.clone(), only(&report).as_str()), (Err(Fault::Unreachable), "unknown:unreachable"));
    server.start_again().await.unwrap();
    assert!(matches!(next().await, EngineEvent::Connected { .. }));
    let report = engine.sample_all(&target).await;
    assert_eq!(only(&report), "running", "its container did not notice");
    assert_eq!(report.reach.expect("reached").identity, identity, "the same engine as before");

    let mut until = async |action: Action| loop {
        match next().await {
            EngineEvent::Container(event) if event.action == action => return event,
            _ => {}
        }
    };
    server.kill_main_process(&id).await.unwrap();
    let died = until(Action::Die).await;
    assert_eq!((died.container_id.as_str(), died.workspace), (id.as_str(), Some("ww".into())));
    assert_eq!(only(&engine.sample_all(&target).await), "stopped");

    engine.restart(&call(&id, RestartHow::Start, PATIENCE)).await.expect("a start");
    let started = until(Action::Start).await;
    assert_eq!((started.container_id.as_str(), started.name.as_deref()), (id.as_str(), Some("ww")));
    assert!(started.at > died.at);
    stop.cancel();
    tokio::time::timeout(PATIENCE, watch).await.expect("stops").unwrap();
}
