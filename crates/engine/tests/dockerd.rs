//! The engine crate against real Docker engines of the test's own: the one that this machine has installed, and a newer one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

mod support;

use std::time::Duration;

use defib_engine::{Action, EngineEvent, RestartHow};
use defib_policy::sample::{Fault, Observation, Transition};
use defib_testkit::dockerd::Release;
use defib_testkit::{PrivateDockerd, WorkspaceContainer, eventually};
use support::{LABEL, by_label, by_name, call, engine, engine_with_timeout, known, only};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs each test against both releases.
macro_rules! on_both_releases {
    ($($test:ident),* $(,)?) => {
        mod installed {
            $(#[tokio::test] async fn $test() { super::$test(super::Release::Installed).await })*
        }
        mod newer {
            $(#[tokio::test] async fn $test() { super::$test(super::Release::Newer).await })*
        }
    };
}

on_both_releases!(
    a_real_container_is_seen_dying_restarting_and_gone,
    a_real_container_that_was_only_made_or_frozen_is_not_dead,
    the_engine_completes_names_to_ids_and_we_do_not_believe_it,
    a_real_engine_that_freezes_or_dies_makes_everything_unknown_and_says_that_it_came_back,
);

fn container(name: &str) -> WorkspaceContainer {
    WorkspaceContainer::new(name).label(LABEL, name)
}

async fn a_real_container_is_seen_dying_restarting_and_gone(release: Release) {
    let server = PrivateDockerd::shared_release(release).await.expect("a private dockerd");
    let id = server.run_workspace(container("life")).await.expect("a container");
    let engine = engine(server.url());
    let (label, name) = (known(by_label("life"), &id), by_name("life", "/life"));
    let prefix = by_name("life", &id[..12]);
    for target in [&label, &name, &prefix] {
        let target = std::slice::from_ref(target);
        let all = engine.sample_all(target).await;
        let some = engine.sample_some(target).await;
        for report in [&all, &some] {
            assert_eq!(only(report), "running");
            assert_eq!(report.samples[0].1.observation.incarnation().unwrap().container_id.as_str(), id);
        }
        assert!(some.samples[0].1.observation.incarnation().unwrap().started_at.is_some());
    }
    let first = engine.confirm(&label).await.observation.incarnation().unwrap().clone();

    server.kill_main_process(&id).await.unwrap();
    eventually(PATIENCE, "a stopped sample", async || {
        let sample = engine.confirm(&label).await;
        if sample.observation.label() == "stopped" { Ok(()) } else { Err(format!("{sample:?}")) }
    })
    .await
    .unwrap();
    for target in [&label, &name, &prefix] {
        let report = engine.sample_all(std::slice::from_ref(target)).await;
        let Observation::Stopped { incarnation, exit } = &report.samples[0].1.observation else {
            panic!("{report:?}");
        };
        assert_eq!((exit.exit_code, exit.oom_killed, exit.engine_restarts), (Some(137), false, false));
        assert!(exit.finished_at > incarnation.started_at);
        assert_eq!(*incarnation, first);
    }

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

    server.remove(&id).await.unwrap();
    for target in [label, name, prefix] {
        let target = std::slice::from_ref(&target);
        assert_eq!(only(&engine.sample_all(target).await), "missing");
        assert_eq!(only(&engine.sample_some(target).await), "missing");
    }
    let error = engine.restart(&call(&id, RestartHow::Start, PATIENCE)).await.expect_err("gone");
    assert!(matches!(error, defib_engine::EngineError::Gone { .. }), "{error:?}");
}

async fn a_real_container_that_was_only_made_or_frozen_is_not_dead(release: Release) {
    let server = PrivateDockerd::shared_release(release).await.expect("a private dockerd");
    let engine = engine(server.url());
    let made = server.create_workspace(container("made")).await.expect("a container");
    let cold = server.run_workspace(container("cold")).await.expect("a container");
    server.client().await.unwrap().pause_container(&cold).await.unwrap();
    for targets in [[by_label("made"), by_label("cold")], [by_name("made", "made"), by_name("cold", "cold")]] {
        for report in [engine.sample_all(&targets).await, engine.sample_some(&targets).await] {
            let [(_, made), (_, cold)] = report.samples.as_slice() else { panic!("{report:?}") };
            assert!(
                matches!(made.observation, Observation::Transitional { transition: Transition::Created, .. }),
                "{made:?}"
            );
            assert_eq!(cold.observation.label(), "frozen");
        }
    }
    engine.restart(&call(&made, RestartHow::Start, PATIENCE)).await.expect("a first start");
    assert_eq!(engine.confirm(&by_label("made")).await.observation.label(), "running");
    server.remove(&made).await.unwrap();
    server.remove(&cold).await.unwrap();
}

async fn the_engine_completes_names_to_ids_and_we_do_not_believe_it(release: Release) {
    let server = PrivateDockerd::shared_release(release).await.expect("a private dockerd");
    let engine = engine(server.url());
    let id = server.run_workspace(container("innocent")).await.expect("a container");
    let target = by_name("gone", &id[..3]);
    assert!(server.inspect(&id[..3]).await.is_ok(), "dockerd takes it for the beginning of an id");
    for report in [
        engine.sample_all(std::slice::from_ref(&target)).await,
        engine.sample_some(std::slice::from_ref(&target)).await,
    ] {
        assert_eq!(only(&report), "missing");
    }
    server.remove(&id).await.unwrap();
}

async fn a_real_engine_that_freezes_or_dies_makes_everything_unknown_and_says_that_it_came_back(release: Release) {
    let server = PrivateDockerd::start_release(release).await.expect("a private dockerd");
    let id = server.run_workspace(container("ww")).await.expect("a container");
    let engine = engine_with_timeout(server.url(), Duration::from_secs(3));
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
    let report = eventually(PATIENCE, "an answer", async || {
        let report = engine.sample_all(&target).await;
        if report.reach.is_ok() { Ok(report) } else { Err(format!("{report:?}")) }
    })
    .await
    .unwrap();
    assert_eq!(only(&report), "running");
    let reached = report.reach.expect("reached");
    assert!(reached.reconnected);
    assert_eq!(reached.identity, identity);
    assert!(matches!(next().await, EngineEvent::Disconnected { .. }), "a silent stream is not trusted after that");
    assert!(matches!(next().await, EngineEvent::Connected { .. }));

    server.kill().await.unwrap();
    assert!(matches!(next().await, EngineEvent::Disconnected { .. }));
    let report = engine.sample_some(&target).await;
    assert_eq!((report.reach.clone(), only(&report).as_str()), (Err(Fault::Unreachable), "unknown:unreachable"));
    server.start_again().await.unwrap();
    assert!(matches!(next().await, EngineEvent::Connected { .. }));
    let report = engine.sample_all(&target).await;
    let reached = report.reach.expect("reached");
    assert!(reached.reconnected, "its containers may be starting by themselves");
    assert_eq!(reached.identity, identity);

    engine.restart(&call(&id, RestartHow::Start, PATIENCE)).await.expect("a start");
    loop {
        if let EngineEvent::Container(event) = next().await
            && event.action == Action::Start
        {
            assert_eq!((event.container_id.as_str(), event.name.as_deref()), (id.as_str(), Some("ww")));
            assert_eq!(event.workspace, Some("ww".into()));
            assert!(event.at.is_some());
            break;
        }
    }
    stop.cancel();
    tokio::time::timeout(PATIENCE, watch).await.expect("stops").unwrap();
}
