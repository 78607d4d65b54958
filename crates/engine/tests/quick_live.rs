//! Quick lists of real engines: whatever happens to a container is told, and soon afterwards the engine is again asked only for the containers
//! that do not run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::query_parameters::RenameContainerOptionsBuilder;
use defib_engine::{Engine, EngineEvent, EngineReport, EngineSettings, Target, connect};
use defib_policy::moment::Moment;
use defib_testkit::dockerd::Release;
use defib_testkit::{EngineHandle, PrivateDockerd, PrivatePodman, WorkspaceContainer, eventually};
use support::{LABEL, by_label, by_name, pairs, seen, settings};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

/// No full list becomes due by its age while the test runs.
const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn all_that_happens_on_the_installed_dockerd_is_told() {
    let server = PrivateDockerd::shared_release(Release::Installed).await.expect("a private dockerd");
    all_that_happens_is_told(server).await;
}

#[tokio::test]
async fn all_that_happens_on_a_newer_dockerd_is_told() {
    let server = PrivateDockerd::shared_release(Release::Newer).await.expect("a private dockerd");
    all_that_happens_is_told(server).await;
}

#[tokio::test]
async fn all_that_happens_on_podman_is_told() {
    let server = PrivatePodman::shared().await.expect("a private podman");
    all_that_happens_is_told(server).await;
}

async fn all_that_happens_is_told(server: &EngineHandle) {
    let run = async |container| server.run_workspace(container).await.expect("a container");
    let labelled = |name: &str| WorkspaceContainer::new(name).label(LABEL, name);
    let (killed, paused) = (run(labelled("killed")).await, run(labelled("paused")).await);
    let (removed, named) = (run(WorkspaceContainer::new("gone")).await, run(WorkspaceContainer::new("named")).await);
    let targets =
        [by_label("killed"), by_label("paused"), by_name("removed", "gone"), by_name("named", "named")].map(calm);

    let settings = EngineSettings { full_list_every: HOUR, ..settings(server.url(), Duration::from_secs(20)) };
    let origin = Instant::now();
    let engine = connect(settings, Arc::new(move || Moment::after(origin.elapsed()))).unwrap();
    let (sender, mut events) = mpsc::channel(256);
    let stop = CancellationToken::new();
    let watch = tokio::spawn({
        let (engine, stop) = (Arc::clone(&engine), stop.clone());
        async move { engine.watch(sender, stop).await }
    });
    let connected = tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time").expect("the watch runs");
    assert!(matches!(connected, EngineEvent::Connected { .. }), "{connected:?}");
    let drain = tokio::spawn(async move { while events.recv().await.is_some() {} });

    let told = async |what: &str, [killed, paused, removed, named]: [&str; 4]| {
        let expected = pairs(&[("killed", killed), ("paused", paused), ("removed", removed), ("named", named)]);
        eventually(PATIENCE, what, async || {
            let seen = seen(&look(&*engine, &targets).await);
            if seen == expected { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await
        .unwrap();
        eventually(PATIENCE, &format!("{what}, by a quick list"), async || {
            match engine.sample_restless(&targets).await {
                Some(report) if seen(&report) == expected => Ok(()),
                Some(report) => Err(format!("{:?}", seen(&report))),
                None => {
                    engine.sample_all(&targets).await;
                    Err("a full list was needed".to_owned())
                }
            }
        })
        .await
        .unwrap();
    };

    told("all run", ["running"; 4]).await;
    server.kill_main_process(&killed).await.unwrap();
    told("one has died", ["stopped", "running", "running", "running"]).await;
    let client = server.client().await.unwrap();
    client.pause_container(&paused).await.unwrap();
    told("one is paused", ["stopped", "frozen", "running", "running"]).await;
    client.unpause_container(&paused).await.unwrap();
    told("it goes on", ["stopped", "running", "running", "running"]).await;
    server.remove(&removed).await.unwrap();
    told("one is removed", ["stopped", "running", "missing", "running"]).await;
    let elsewhere = RenameContainerOptionsBuilder::default().name("elsewhere").build();
    client.rename_container(&named, elsewhere).await.unwrap();
    told("one is renamed", ["stopped", "running", "missing", "missing"]).await;
    let successor = run(WorkspaceContainer::new("named")).await;
    told("another one has its name", ["stopped", "running", "missing", "running"]).await;
    let report = look(&*engine, &targets).await;
    let container = report.samples[3].1.observation.incarnation().map(|life| life.container_id.to_string());
    assert_eq!(container, Some(successor));

    stop.cancel();
    tokio::time::timeout(PATIENCE, watch).await.expect("stops").expect("no panic");
    drain.await.unwrap();
}

/// One that there is no doubt about.
fn calm(target: Target) -> Target {
    Target { in_doubt: false, ..target }
}

/// Looks as the daemon does: by a quick list where that can tell, and else by a full one.
async fn look(engine: &dyn Engine, targets: &[Target]) -> EngineReport {
    match engine.sample_restless(targets).await {
        Some(report) => report,
        None => engine.sample_all(targets).await,
    }
}
