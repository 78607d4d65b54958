//! The version of the interface that each call names, to engines that refuse all that they do not speak.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use defib_engine::{Action, Engine, EngineCheck, EngineEvent, RestartHow, Target};
use defib_testkit::ScriptedEngine;
use defib_testkit::scripted_engine::{Call, Fault, ScriptedContainer};
use support::{LABEL, by_label, by_name, call, engine, known, only};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

/// The newest version that the client library knows, by what stands behind `1.`.
fn newest_known() -> u32 {
    bollard::API_DEFAULT_VERSION.to_string().strip_prefix("1.").and_then(|minor| minor.parse().ok()).expect("1.x")
}

#[tokio::test]
async fn every_call_names_a_version_that_the_engine_speaks() {
    let known = newest_known();
    let beyond = known + 5;
    for (oldest, newest, agreed) in
        [(12, 41, 41), (24, 41, 41), (44, 52, known.min(52)), (44, beyond, known), (beyond, beyond + 1, beyond)]
    {
        all_calls_are_accepted(oldest, newest, &format!("1.{agreed}")).await;
    }
}

async fn all_calls_are_accepted(oldest: u32, newest: u32, agreed: &str) {
    let what = format!("an engine that speaks 1.{oldest} to 1.{newest}");
    let server = ScriptedEngine::start().await.expect("scripted engine");
    server.speak_only(oldest, newest);
    server.add(ScriptedContainer::running("a").label(LABEL, "a"));
    server.add(ScriptedContainer::exited("b", 1).label(LABEL, "b"));
    let engine = engine(&server.url());
    let (sender, mut events) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let watch = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move { engine.watch(sender, stop).await }
    });
    let mut next = async || {
        tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event in time").expect("the watch runs")
    };
    assert!(matches!(next().await, EngineEvent::Connected { .. }), "{what}");

    let target = known(by_label("a"), "a");
    assert_eq!(only(&engine.sample_all(std::slice::from_ref(&target)).await), "running", "{what}");
    assert_eq!(only(&engine.sample_some(&[by_name("a", "a")]).await), "running", "{what}");
    assert_eq!(only(&engine.sample_all(&[by_label("gone")]).await), "missing", "{what}");
    assert_eq!(engine.confirm(&by_label("b")).await.observation.label(), "stopped", "{what}");
    engine.restart(&call("b", RestartHow::Start, PATIENCE)).await.expect(&what);
    let EngineEvent::Container(event) = next().await else { panic!("{what}: the start is told") };
    assert_eq!(event.action, Action::Start, "{what}");
    let how = RestartHow::KillAndStart { grace: Duration::from_secs(1) };
    engine.restart(&call("b", how, PATIENCE)).await.expect(&what);
    engine.last_lines(&"a".into(), 10, 1_000).await.expect(&what);
    let EngineCheck::Containers { api_version, labelled, .. } = engine.check().await.expect(&what) else {
        panic!("{what}: it runs containers")
    };
    assert_eq!((api_version, labelled.map(|all| all.len())), (format!("1.{newest}"), Some(2)), "{what}");

    let calls = server.calls();
    for asked in
        [Call::Version, Call::Info, Call::List, Call::Inspect, Call::Events, Call::Start, Call::Restart, Call::Logs]
    {
        assert!(calls.iter().any(|call| call.call == asked), "{what}: {asked:?} was asked");
    }
    assert_eq!(
        (calls[0].call, calls[0].version.as_deref()),
        (Call::Version, None),
        "{what}: it is asked what it speaks"
    );
    for call in calls.iter().filter(|call| call.call != Call::Version) {
        assert_eq!(call.version.as_deref(), Some(agreed), "{what}: {call:?}");
    }
    stop.cancel();
    tokio::time::timeout(PATIENCE, watch).await.expect("stops").expect("no panic");
}

/// An engine of old versions on which one container was seen to run.
async fn an_old_engine_that_was_met() -> (ScriptedEngine, Arc<dyn Engine>, [Target; 1]) {
    let server = ScriptedEngine::start().await.expect("scripted engine");
    server.speak_only(12, 41);
    server.add(ScriptedContainer::running("a").label(LABEL, "a"));
    let engine = engine(&server.url());
    let target = [known(by_label("a"), "a")];
    assert_eq!(only(&engine.sample_all(&target).await), "running");
    (server, engine, target)
}

#[tokio::test]
async fn an_engine_that_was_replaced_by_a_newer_one_is_asked_again_what_it_speaks() {
    let (server, engine, target) = an_old_engine_that_was_met().await;

    server.set_fault(Call::List, Fault::Eof);
    assert!(engine.sample_all(&target).await.reach.is_err(), "it is away while it is replaced");
    server.clear_faults();
    server.speak_only(44, 52);
    let report = engine.sample_all(&target).await;
    assert_eq!(only(&report), "running");
    assert!(report.reach.expect("reached").reconnected);
}

#[tokio::test]
async fn an_engine_that_was_replaced_without_an_outage_that_anybody_saw_is_asked_again_what_it_speaks() {
    let (server, engine, target) = an_old_engine_that_was_met().await;

    server.speak_only(44, 52);
    // The first look after that may be refused, and says nothing about anybody. The next one knows better.
    let refused = only(&engine.sample_all(&target).await);
    assert!(refused == "running" || refused.starts_with("unknown"), "{refused}");
    assert_eq!(only(&engine.sample_all(&target).await), "running");
}
