//! The engine crate against an engine that fails on command: what every fault, lie and half answer becomes.
//!
//! The file is long because it is the list of these faults: one test for each, first of looks, then of restarts, then of the event stream.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

mod support;

use std::time::{Duration, Instant};

use defib_engine::{Action, EngineCheck, EngineError, EngineEvent, RestartCall, RestartHow, Target};
use defib_policy::sample::{Fault as PolicyFault, Health as PolicyHealth, Observation};
use defib_testkit::relay::{Handling, Relay};
use defib_testkit::scripted_engine::{Call, ContainerState, EventFeed, Fault, FaultRule, Health, ScriptedContainer};
use defib_testkit::{ScriptedEngine, eventually};
use support::{LABEL, by_label, by_name, call, engine, engine_with_timeout, known, only, pairs, seen};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

/// Long enough for an answer on a busy machine, short enough to wait for.
const SHORT: Duration = Duration::from_millis(700);

fn workspace(id: &str) -> ScriptedContainer {
    ScriptedContainer::running(id).label(LABEL, id)
}

async fn scripted() -> ScriptedEngine {
    ScriptedEngine::start().await.expect("scripted engine")
}

#[tokio::test]
async fn a_whole_look_is_one_list_and_an_inspect_for_each_in_doubt() {
    let server = scripted().await;
    for id in ["a", "b", "c"] {
        server.add(workspace(id));
    }
    server.add(ScriptedContainer::exited("dead", 137).label(LABEL, "dead"));
    server.add(workspace("sick").health(Health::Unhealthy));
    server.add(workspace("cold"));
    server.set_state("cold", ContainerState::Paused).unwrap();
    server.add(ScriptedContainer::running("named").name("agent"));
    let targets = [
        by_label("a"),
        by_label("b"),
        by_name("c", "c"),
        by_label("dead"),
        by_label("sick"),
        by_label("cold"),
        by_name("n", "/agent"),
    ];
    let engine = engine(&server.url());
    let report = engine.sample_all(&targets).await;
    assert_eq!(
        seen(&report),
        pairs(&[
            ("a", "running"),
            ("b", "running"),
            ("c", "running"),
            ("dead", "stopped"),
            ("sick", "running"),
            ("cold", "frozen"),
            ("n", "running"),
        ])
    );
    assert_eq!((server.count(Call::List), server.count(Call::Inspect)), (1, 2));
    let reached = report.reach.expect("reached");
    assert!(reached.identity.is_some_and(|identity| identity.starts_with("SCRIPTED-")));
    assert!(!reached.reconnected, "the first contact is no outage");

    let Observation::Stopped { incarnation, exit } = &report.samples[3].1.observation else { panic!("not stopped") };
    assert!(incarnation.started_at.is_some() && exit.finished_at.is_some());
    assert_eq!(exit.exit_code, Some(137));
    let Observation::Running { incarnation, health } = &report.samples[4].1.observation else { panic!("not running") };
    assert!(incarnation.started_at.is_some() && matches!(health, PolicyHealth::Unhealthy { .. }));

    engine.sample_all(&targets).await;
    assert_eq!((server.count(Call::Version), server.count(Call::Info)), (1, 1), "asked once, and once a minute");
}

#[tokio::test]
async fn an_inspect_that_was_asked_for_brings_the_start_and_does_no_harm_when_it_fails() {
    let server = scripted().await;
    server.add(workspace("a"));
    let mut target = by_label("a");
    target.inspect = true;
    let engine = engine(&server.url());
    let report = engine.sample_all(std::slice::from_ref(&target)).await;
    assert!(report.samples[0].1.observation.incarnation().unwrap().started_at.is_some());
    server.set_fault(Call::Inspect, Fault::server_error("busy"));
    assert_eq!(only(&engine.sample_all(&[target]).await), "running", "the list said so");
}

#[tokio::test]
async fn an_instance_is_of_the_wrong_kind_whether_the_engine_answers_or_not_and_costs_no_call() {
    let server = scripted().await;
    server.add(workspace("a"));
    let instance = Target::instance("i".into(), Some("i-0abc".into()));
    let targets = [instance.clone(), by_label("a")];
    let engine = engine_with_timeout(&server.url(), SHORT);
    let answered = pairs(&[("i", "unknown:wrong_kind"), ("a", "running")]);
    assert_eq!(seen(&engine.sample_all(&targets).await), answered);
    assert_eq!(seen(&engine.sample_some(&targets).await), answered);
    assert_eq!(server.count(Call::Inspect), 0, "the instance is never asked for");
    let error = engine
        .restart(&RestartCall { target: instance, ..call("a", RestartHow::Start, PATIENCE) })
        .await
        .expect_err("an instance is not restarted by a container engine");
    assert_eq!((error.fault(), error.may_have_happened()), (PolicyFault::WrongKind, false));
    assert_eq!(server.count(Call::Start), 0);

    server.set_fault(Call::List, Fault::Eof);
    let report = engine.sample_all(&targets).await;
    assert_eq!(seen(&report), pairs(&[("i", "unknown:wrong_kind"), ("a", "unknown:unreachable")]));
}

#[tokio::test]
async fn every_failure_of_the_list_is_unknown_for_all_and_never_missing() {
    let server = scripted().await;
    server.add(workspace("a"));
    for (fault, expected) in [
        (Fault::server_error("database is locked"), PolicyFault::EngineError),
        (Fault::Status(404, "404 page not found".into()), PolicyFault::EngineError),
        (Fault::Garbage("<html>".into()), PolicyFault::Garbled),
        (Fault::Garbage("null".into()), PolicyFault::Garbled),
        (Fault::Eof, PolicyFault::Unreachable),
        (Fault::Truncated, PolicyFault::Garbled),
        (Fault::Hang, PolicyFault::TimedOut),
    ] {
        let engine = engine_with_timeout(&server.url(), SHORT);
        server.set_fault(Call::List, fault.clone());
        let report = engine.sample_all(&[by_label("a"), by_label("gone")]).await;
        assert_eq!(report.reach, Err(expected), "{fault:?}");
        assert!(seen(&report).iter().all(|(_, what)| *what == format!("unknown:{expected}")), "{fault:?}: {report:?}");

        server.clear_faults();
        let report = engine.sample_all(&[by_label("a")]).await;
        assert_eq!(only(&report), "running", "after {fault:?}");
        let away = expected != PolicyFault::Garbled;
        assert_eq!(report.reach.expect("reached").reconnected, away, "after {fault:?}");
        assert!(!engine.sample_all(&[]).await.reach.expect("reached").reconnected, "said once");
    }
}

#[tokio::test]
async fn one_container_that_hangs_costs_one_sample() {
    let server = scripted().await;
    let ids: Vec<String> = (0..30).map(|index| format!("w{index}")).collect();
    for id in &ids {
        server.add(ScriptedContainer::exited(id.as_str(), 1).label(LABEL, id.as_str()));
    }
    server.add_fault(FaultRule::new(Call::Inspect, Fault::Hang).container("w3"));
    server.add_fault(FaultRule::new(Call::Inspect, Fault::Hang).container("w20"));
    let targets: Vec<_> = ids.iter().map(|id| by_label(id)).collect();
    let call_timeout = Duration::from_secs(2);
    let engine = engine_with_timeout(&server.url(), call_timeout);
    let begun = Instant::now();
    let report = engine.sample_all(&targets).await;
    assert!(begun.elapsed() < call_timeout * 2 + SHORT, "took {:?}", begun.elapsed());
    for (workspace, what) in seen(&report) {
        let hangs = workspace == "w3" || workspace == "w20";
        assert_eq!(what, if hangs { "unknown:timed_out" } else { "stopped" }, "{workspace}");
    }
    assert!(report.reach.is_ok());
}

#[tokio::test]
async fn a_look_ends_in_twice_the_time_of_a_call_whatever_hangs() {
    let server = scripted().await;
    let ids: Vec<String> = (0..40).map(|index| format!("w{index}")).collect();
    for id in &ids {
        server.add(ScriptedContainer::exited(id.as_str(), 1).label(LABEL, id.as_str()));
    }
    server.set_fault(Call::Inspect, Fault::Hang);
    let targets: Vec<_> = ids.iter().map(|id| by_label(id)).collect();
    let engine = engine_with_timeout(&server.url(), SHORT);
    let begun = Instant::now();
    let report = engine.sample_all(&targets).await;
    assert!(begun.elapsed() < SHORT * 3, "took {:?}", begun.elapsed());
    assert_eq!(report.samples.len(), 40);
    assert!(seen(&report).iter().all(|(_, what)| what == "unknown:timed_out" || what == "unknown:not_asked"));
}

/// Behind those that hang each time, nobody would ever be asked about.
#[tokio::test]
async fn those_whose_inspects_hang_come_last_in_the_next_look() {
    let server = scripted().await;
    let ids: Vec<String> = (0..17).map(|index| format!("w{index:02}")).collect();
    for id in &ids {
        server.add(ScriptedContainer::exited(id.as_str(), 1).label(LABEL, id.as_str()));
    }
    for id in &ids[..16] {
        server.add_fault(FaultRule::new(Call::Inspect, Fault::Hang).container(id.as_str()));
    }
    let targets: Vec<_> = ids.iter().map(|id| by_label(id)).collect();
    let engine = engine_with_timeout(&server.url(), SHORT);
    let last = async || seen(&engine.sample_all(&targets).await).pop().expect("the last of them").1;
    assert_eq!(last().await, "unknown:not_asked", "sixteen that hang use up a look");
    assert_eq!(last().await, "stopped");
    let few = async || seen(&engine.sample_some(&targets).await).pop().expect("the last of them").1;
    assert_eq!(few().await, "stopped");
    server.clear_faults();
    assert!(seen(&engine.sample_all(&targets).await).iter().all(|(_, what)| what == "stopped"));
}

#[tokio::test]
async fn missing_takes_the_list_the_engines_own_word_and_its_identity() {
    let server = scripted().await;
    server.add(workspace("other"));
    let engine = engine(&server.url());
    let (label, name, never_seen) = (known(by_label("a"), "a1"), by_name("b", "agent"), by_label("c"));
    let targets = [label.clone(), name.clone(), never_seen.clone()];
    for report in [engine.sample_all(&targets).await, engine.sample_some(&targets).await] {
        assert_eq!(seen(&report), pairs(&[("a", "missing"), ("b", "missing"), ("c", "missing")]));
    }

    // The list forgot it, the engine did not.
    server.add(ScriptedContainer::exited("a1", 0).label(LABEL, "a"));
    server.add_fault(FaultRule::new(Call::List, Fault::FalselyMissing));
    assert_eq!(only(&engine.sample_all(std::slice::from_ref(&label)).await), "stopped");
    server.clear_faults();
    server.remove("a1").unwrap();

    // Not found, but not the container.
    for body in ["404 page not found", r#"{"message":"network mesh not found"}"#, ""] {
        server.set_fault(Call::Inspect, Fault::Status(404, body.into()));
        for report in [
            engine.sample_all(std::slice::from_ref(&label)).await,
            engine.sample_some(std::slice::from_ref(&name)).await,
        ] {
            assert_eq!(only(&report), "unknown:engine_error", "{body:?}");
        }
    }
    server.clear_faults();

    // An engine that does not say which one it is.
    server.set_fault(Call::Info, Fault::server_error("oops"));
    for report in [engine.sample_all(&targets).await, engine.sample_some(&targets).await] {
        assert!(seen(&report).iter().all(|(_, what)| what == "unknown:engine_error"), "{report:?}");
    }
    server.set_fault(Call::Info, Fault::Garbage("{}".into()));
    assert_eq!(only(&engine.sample_all(&[never_seen]).await), "unknown:engine_error");
}

#[tokio::test]
async fn another_engine_behind_the_same_address_proves_no_absence() {
    let server = scripted().await;
    server.add(workspace("a"));
    let engine = engine(&server.url());
    let target = known(by_label("a"), "a");
    let before = engine.sample_all(std::slice::from_ref(&target)).await.reach.expect("reached").identity;
    server.remove("a").unwrap();
    server.set_identity("ANOTHER");
    let report = engine.sample_all(std::slice::from_ref(&target)).await;
    assert_eq!(only(&report), "unknown:other_engine");
    let after = report.reach.expect("reached").identity;
    assert_eq!(after.as_deref(), Some("ANOTHER"));
    assert_ne!(before, after, "so that the policy sees it, too");
}

#[tokio::test]
async fn a_stopped_container_is_not_the_workspace_while_its_sibling_lives() {
    let server = scripted().await;
    server.add(ScriptedContainer::exited("old", 0).label(LABEL, "w"));
    server.add(ScriptedContainer::running("new").label(LABEL, "w"));
    server.add(ScriptedContainer::exited("single", 0).label(LABEL, "s"));
    let engine = engine(&server.url());
    let remembered = known(by_label("w"), "old");
    let single = known(by_label("s"), "single");
    let looks = [
        engine.sample_all(std::slice::from_ref(&remembered)).await,
        engine.sample_some(std::slice::from_ref(&remembered)).await,
        engine.sample_some(&[remembered.clone(), single.clone()]).await,
    ];
    for report in looks {
        let observation = &report.samples[0].1.observation;
        assert_eq!(observation.label(), "running");
        assert_eq!(observation.incarnation().unwrap().container_id.as_str(), "new");
    }
    assert_eq!(only(&engine.sample_some(&[single]).await), "stopped");

    server.set_state("new", ContainerState::Restarting).unwrap();
    assert_eq!(engine.confirm(&remembered).await.observation.label(), "transitional");
    server.remove("new").unwrap();
    let confirmed = engine.confirm(&remembered).await.observation;
    assert_eq!((confirmed.label(), confirmed.incarnation().unwrap().container_id.as_str()), ("stopped", "old"));
}

#[tokio::test]
async fn a_few_workspaces_cost_an_inspect_each_while_they_live() {
    let server = scripted().await;
    for id in ["a", "b", "c"] {
        server.add(workspace(id));
    }
    let engine = engine(&server.url());
    let report = engine.sample_some(&[known(by_label("a"), "a"), by_name("b", "b")]).await;
    assert_eq!(seen(&report), pairs(&[("a", "running"), ("b", "running")]));
    assert_eq!((server.count(Call::List), server.count(Call::Inspect)), (0, 2));
    assert!(report.samples[0].1.observation.incarnation().unwrap().started_at.is_some());

    let report = engine.sample_some(&[by_label("c")]).await;
    assert_eq!(only(&report), "running", "found by its label");
    assert_eq!((server.count(Call::List), server.count(Call::Inspect)), (1, 2));
}

#[tokio::test]
async fn a_container_under_the_same_name_is_another_incarnation() {
    let server = scripted().await;
    server.add(ScriptedContainer::exited("first", 1).name("agent"));
    let engine = engine(&server.url());
    let target = known(by_name("w", "agent"), "first");
    assert_eq!(engine.confirm(&target).await.observation.label(), "stopped");
    server.remove("first").unwrap();
    server.add(ScriptedContainer::running("second").name("agent"));
    let confirmed = engine.confirm(&target).await.observation;
    assert_eq!(confirmed.incarnation().unwrap().container_id.as_str(), "second");
}

#[tokio::test]
async fn a_state_that_the_client_does_not_know_blinds_nobody_else() {
    let server = scripted().await;
    server.add(workspace("a"));
    server.add(workspace("dying"));
    server.add(ScriptedContainer::exited("named", 1).name("agent"));
    server.add(ScriptedContainer::exited("dead", 1).label(LABEL, "dead"));
    server.add(ScriptedContainer::exited("replaced", 1).label(LABEL, "twin"));
    server.add(ScriptedContainer::running("successor").label(LABEL, "twin"));
    server.set_state("successor", ContainerState::Other("initialized".into())).unwrap();
    server.set_state("dying", ContainerState::Other("hibernating".into())).unwrap();
    let engine = engine(&server.url());
    let targets = [
        known(by_label("a"), "a"),
        by_label("dead"),
        by_label("twin"),
        by_name("lost", "no-such-name"),
        known(by_label("dying"), "dying"),
        by_name("n", "agent"),
        by_label("never-seen"),
        known(by_label("gone"), "gone"),
    ];
    let report = engine.sample_all(&targets).await;
    assert_eq!(
        seen(&report),
        pairs(&[
            ("a", "running"),
            ("dead", "stopped"),
            // Its successor is in the state that cannot be read, and may be well.
            ("twin", "unknown:garbled"),
            ("lost", "missing"),
            ("dying", "unknown:garbled"),
            ("n", "stopped"),
            ("never-seen", "missing"),
            ("gone", "missing"),
        ])
    );
    assert_eq!(server.count(Call::List), 1, "and nothing is asked twice for it");
    assert!(!report.reach.as_ref().unwrap().spoiled && report.own_labels.is_some());
    let few = engine.sample_some(&targets).await;
    assert_eq!(seen(&few), seen(&report), "and a look at a few of them says the same");
    for id in ["dying", "successor"] {
        server.set_state(id, ContainerState::Running).unwrap();
    }
    let healed = engine.sample_all(&targets).await;
    assert_eq!(seen(&healed)[2], ("twin".to_owned(), "running".to_owned()));
    assert_eq!(seen(&healed)[4], ("dying".to_owned(), "running".to_owned()));
}

#[tokio::test]
async fn an_entry_of_which_nobody_knows_whose_it_is_makes_nobody_missing() {
    let server = scripted().await;
    server.add(ScriptedContainer::exited("dead", 1).label(LABEL, "dead"));
    server.add(ScriptedContainer::exited("named", 1).name("agent"));
    let engine = engine(&server.url());
    let targets = [
        by_label("alive"),
        by_label("dead"),
        by_name("n", "agent"),
        by_name("lost", "no-such-name"),
        by_label("never-seen"),
        known(by_label("gone"), "gone"),
    ];
    let mut listed = vec![
        r#"{"Id":"alive","Names":["/alive"],"State":"running","Labels":{"defib.workspace":"alive"}}"#,
        r#"{"Id":"dead","Names":["/dead"],"State":"exited","Labels":{"defib.workspace":"dead"}}"#,
        r#"{"Id":"named","Names":["/agent"],"State":"exited","Labels":{}}"#,
    ];
    let whole = format!("[{}]", listed.join(","));
    for unreadable in [
        r#"{"State":"running","Labels":{"defib.workspace":"gone"}}"#,
        r#"{"Id":"x","State":"running","Labels":["defib.workspace=gone"]}"#,
        r#"{"Id":"x","State":"running","Labels":{"defib.workspace":7}}"#,
        r#"{"Id":"x","Names":"/gone","State":"running"}"#,
    ] {
        listed.push(unreadable);
        server.set_fault(Call::List, Fault::Garbage(format!("[{}]", listed.join(",")).into()));
        let report = engine.sample_all(&targets).await;
        assert_eq!(
            seen(&report),
            pairs(&[
                ("alive", "running"),
                // Another container with its label may be the one that cannot be read.
                ("dead", "unknown:garbled"),
                ("n", "stopped"),
                ("lost", "missing"),
                ("never-seen", "unknown:garbled"),
                ("gone", "unknown:garbled"),
            ]),
            "{unreadable}"
        );
        assert!(report.reach.as_ref().unwrap().spoiled && report.own_labels.is_none());
        listed.pop();
    }
    server.set_fault(Call::List, Fault::Garbage(whole.into()));
    let report = engine.sample_all(&targets).await;
    let all = seen(&report);
    let said = |index: usize| all[index].1.as_str();
    assert_eq!([said(1), said(4), said(5)], ["stopped", "missing", "missing"]);
    assert!(!report.reach.unwrap().spoiled);
}

#[tokio::test]
async fn everything_is_asked_with_the_version_that_was_agreed_upon() {
    let server = ScriptedEngine::start_unix().await.expect("scripted engine");
    server.add(ScriptedContainer::exited("a", 1).label(LABEL, "a"));
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let relay = Relay::before(&server.url(), {
        let seen = seen.clone();
        move |_: &str, target: &str| {
            seen.lock().unwrap().push(target.to_owned());
            Handling::Pass
        }
    })
    .await
    .expect("relay");
    let engine = engine(relay.url());
    let target = by_label("a");
    engine.sample_all(std::slice::from_ref(&target)).await;
    engine.sample_some(std::slice::from_ref(&target)).await;
    engine.restart(&call("a", RestartHow::Start, PATIENCE)).await.expect("started");
    engine.restart(&call("a", RestartHow::KillAndStart { grace: SHORT }, PATIENCE)).await.expect("restarted");
    engine.last_lines(&"a".into(), 5, 100).await.expect("lines");
    engine.check().await.expect("reachable");
    let (sender, mut events) = mpsc::channel(8);
    let stop = CancellationToken::new();
    let watch = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move { engine.watch(sender, stop).await }
    });
    assert!(matches!(next(&mut events).await, EngineEvent::Connected { .. }));
    stop.cancel();
    watch.await.unwrap();
    let seen = seen.lock().unwrap();
    let (agreeing, others): (Vec<&String>, Vec<_>) = seen.iter().partition(|target| *target == "/version");
    assert_eq!(agreeing.len(), 1, "{seen:?}");
    assert!(others.iter().all(|target| target.starts_with("/v1.41/")), "{others:?}");
    for path in [
        "containers/json?",
        "containers/a/json",
        "containers/a/start",
        "containers/a/restart?",
        "containers/a/logs?",
        "events?",
        "info",
    ] {
        assert!(others.iter().any(|target| target.starts_with(&format!("/v1.41/{path}"))), "{path}: {others:?}");
    }
}

#[tokio::test]
async fn twenty_thousand_strangers_hide_nobody_and_a_list_that_stalls_is_given_up() {
    let server = scripted().await;
    let stranger = |number: usize| {
        format!(
            r#"{{"Id":"{number:064x}","Names":["/stranger-{number}"],"Image":"x","State":"exited","Status":"Exited (0) 3 days ago",
                "Labels":{{"com.example.of":"somebody else"}},"Mounts":[{{"Type":"volume","Destination":"/data"}}],"Created":{number}}}"#
        )
    };
    let mut entries: Vec<String> = (0..20_000).map(stranger).collect();
    entries
        .insert(13_000, r#"{"Id":"a","Names":["/a"],"State":"running","Labels":{"defib.workspace":"a"}}"#.to_owned());
    server.set_fault(Call::List, Fault::Garbage(format!("[{}]", entries.join(",")).into()));
    let engine = engine_with_timeout(&server.url(), PATIENCE);
    assert_eq!(
        seen(&engine.sample_all(&[by_label("a"), by_label("b")]).await),
        pairs(&[("a", "running"), ("b", "missing")])
    );

    let engine = engine_with_timeout(&server.url(), SHORT);
    server.add(workspace("a"));
    server.set_fault(Call::List, Fault::Stalled);
    let begun = Instant::now();
    assert_eq!(engine.sample_all(&[by_label("a")]).await.reach, Err(PolicyFault::TimedOut));
    assert!(
        begun.elapsed() < SHORT * 3,
        "the head came at once, and the deadline is that of the whole: {:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_container_that_vanishes_between_list_and_inspect_is_being_removed() {
    let server = scripted().await;
    server.add(ScriptedContainer::exited("a", 0).label(LABEL, "a"));
    server.add_fault(FaultRule::new(Call::Inspect, Fault::FalselyMissing).container("a"));
    let report = engine(&server.url()).sample_all(&[by_label("a")]).await;
    assert_eq!(only(&report), "transitional");
}

#[tokio::test]
async fn an_engine_may_come_later_and_go_and_come_again() {
    let server = ScriptedEngine::start_unix().await.expect("scripted engine");
    server.refuse_connections(true).await.unwrap();
    server.add(workspace("a"));
    let engine = engine_with_timeout(&server.url(), PATIENCE);
    let target = [known(by_label("a"), "a")];
    for _ in 0..2 {
        assert_eq!(engine.sample_all(&target).await.reach, Err(PolicyFault::Unreachable));
        assert_eq!(engine.sample_some(&target).await.reach, Err(PolicyFault::Unreachable));
        server.refuse_connections(false).await.unwrap();
        let report = engine.sample_some(&target).await;
        assert_eq!(only(&report), "running");
        assert!(report.reach.expect("reached").reconnected);
        assert!(!engine.sample_all(&target).await.reach.expect("reached").reconnected);
        server.refuse_connections(true).await.unwrap();
    }
    assert_eq!(server.count(Call::Version), 2, "agreed upon once for each time it came");
}

#[tokio::test]
async fn the_engines_clock_is_reported() {
    let server = scripted().await;
    server.set_clock_ahead_seconds(3_600);
    let reached = engine(&server.url()).sample_all(&[]).await.reach.expect("reached");
    let (_, engine_now) = reached.engine_now.expect("a clock");
    let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
    let ahead = i128::from(engine_now.0) - i128::try_from(ours).unwrap();
    assert!((3_500_000_000..3_700_000_000).contains(&ahead), "{ahead} us ahead");
}

#[tokio::test]
async fn a_restart_is_a_start_for_the_dead_and_a_restart_for_the_stuck() {
    let server = scripted().await;
    server.add(ScriptedContainer::exited("dead", 1));
    server.add(ScriptedContainer::running("stuck"));
    let engine = engine(&server.url());
    let grace = Duration::from_secs(3);
    engine.restart(&call("dead", RestartHow::Start, PATIENCE)).await.expect("started");
    engine.restart(&call("dead", RestartHow::Start, PATIENCE)).await.expect("running already is fine");
    engine.restart(&call("stuck", RestartHow::KillAndStart { grace }, PATIENCE)).await.expect("restarted");
    assert_eq!((server.count_of(Call::Start, "dead"), server.count_of(Call::Restart, "stuck")), (2, 1));
    assert_eq!(server.count(Call::Stop) + server.count(Call::Kill), 0, "nothing that leaves it down if we die");
}

#[tokio::test]
async fn a_restart_says_how_it_failed() {
    let server = scripted().await;
    server.add(ScriptedContainer::exited("a", 1));
    let engine = engine(&server.url());
    let restart = |id: &str, deadline| {
        let (engine, id) = (engine.clone(), id.to_owned());
        async move { engine.restart(&call(&id, RestartHow::Start, deadline)).await }
    };
    assert!(matches!(restart("gone", PATIENCE).await, Err(EngineError::Gone { .. })));
    assert!(matches!(restart("../../info", PATIENCE).await, Err(EngineError::Gone { .. })));
    assert_eq!(server.count(Call::Other), 0);

    server.set_fault(Call::Start, Fault::server_error("no space left on device"));
    let error = restart("a", PATIENCE).await.expect_err("refused");
    assert_eq!(error.fault(), PolicyFault::EngineError);
    let cause = std::error::Error::source(&error).expect("cause").to_string();
    assert!(cause.contains("no space left on device"), "{cause}");

    server.set_fault(Call::Start, Fault::Delay(SHORT * 2));
    let error = restart("a", SHORT).await.expect_err("too late");
    assert!(matches!(error, EngineError::TimedOut { .. }), "{error:?}");
    eventually(PATIENCE, "the abandoned start happens all the same", async || {
        let state = server.container("a").map(|container| container.state);
        if state == Some(ContainerState::Running) { Ok(()) } else { Err(format!("{state:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn every_operation_can_be_spawned() {
    let server = scripted().await;
    server.add(ScriptedContainer::exited("a", 1).label(LABEL, "a"));
    let engine = engine(&server.url());
    tokio::spawn(async move {
        let targets = vec![by_label("a"), known(by_label("a"), "a")];
        engine.sample_all(&targets).await;
        engine.sample_some(&targets).await;
        engine.confirm(&targets[0]).await;
        engine.restart(&call("a", RestartHow::Start, PATIENCE)).await.expect("started");
        engine.check().await.expect("reachable");
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_engine_that_will_not_say_who_it_is_is_not_asked_at_each_look() {
    let server = scripted().await;
    server.add(workspace("a"));
    server.set_fault(Call::Info, Fault::Status(403, r#"{"message":"forbidden"}"#.into()));
    let engine = engine(&server.url());
    for _ in 0..3 {
        let report = engine.sample_all(&[by_label("a")]).await;
        assert_eq!(only(&report), "running");
        assert_eq!(report.reach.expect("reached").identity, None);
    }
    assert_eq!(server.count(Call::Info), 1);
}

#[tokio::test]
async fn check_tells_what_the_engine_is() {
    let server = scripted().await;
    server.add(workspace("a"));
    let engine = engine(&server.url());
    let check = engine.check().await.expect("reachable");
    let EngineCheck::Containers { id, api_version, containers, .. } = check else { panic!("{check:?}") };
    assert!(id.starts_with("SCRIPTED-"));
    assert_eq!((api_version.as_str(), containers), ("1.41", 1));
    server.refuse_connections(true).await.unwrap();
    assert_eq!(engine.check().await.expect_err("gone").fault(), PolicyFault::Unreachable);
}

/// The next event, or the test fails.
async fn next(events: &mut mpsc::Receiver<EngineEvent>) -> EngineEvent {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event in time").expect("the watch runs")
}

async fn next_action(events: &mut mpsc::Receiver<EngineEvent>) -> (Action, String) {
    match next(events).await {
        EngineEvent::Container(event) => (event.action, event.workspace.expect("a workspace").to_string()),
        other => panic!("{other:?}"),
    }
}

async fn subscribed(server: &ScriptedEngine) {
    eventually(PATIENCE, "a subscription", async || match server.event_listeners() {
        0 => Err("nobody listens".to_owned()),
        _ => Ok(()),
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_watch_hears_deaths_and_births_and_survives_an_outage() {
    let server = scripted().await;
    server.add(workspace("a"));
    let engine = engine(&server.url());
    let (sender, mut events) = mpsc::channel(64);
    let stop = CancellationToken::new();
    let watch = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move { engine.watch(sender, stop).await }
    });
    assert_eq!(next(&mut events).await, EngineEvent::Connected { engine: "default".into() });
    subscribed(&server).await;
    server.set_state("a", ContainerState::Exited { exit_code: 137, oom: true }).unwrap();
    assert_eq!(next_action(&mut events).await, (Action::Oom, "a".into()));
    assert_eq!(next_action(&mut events).await, (Action::Die, "a".into()));
    server.set_state("a", ContainerState::Running).unwrap();
    assert_eq!(next_action(&mut events).await, (Action::Start, "a".into()));
    server.set_health("a", Health::Healthy).unwrap(); // good news is no reason to look
    server.set_health("a", Health::Unhealthy).unwrap();
    assert_eq!(next_action(&mut events).await, (Action::Unhealthy, "a".into()));
    assert!(!engine.sample_all(&[]).await.reach.expect("reached").reconnected);

    server.refuse_connections(true).await.unwrap();
    assert!(matches!(next(&mut events).await, EngineEvent::Disconnected { .. }));
    tokio::time::sleep(SHORT).await; // several tries fail meanwhile, and say nothing
    server.refuse_connections(false).await.unwrap();
    assert_eq!(next(&mut events).await, EngineEvent::Connected { engine: "default".into() });
    let reached = engine.sample_all(&[]).await.reach.expect("reached");
    assert!(reached.reconnected, "no look failed, but the stream broke and the engine was away");

    stop.cancel();
    tokio::time::timeout(PATIENCE, watch).await.expect("stops").unwrap();
}

#[tokio::test]
async fn a_stream_that_breaks_while_the_engine_answers_is_no_outage() {
    let server = scripted().await;
    server.add(workspace("a"));
    let engine = engine(&server.url());
    let (sender, mut events) = mpsc::channel(64);
    let stop = CancellationToken::new();
    let _watch = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move { engine.watch(sender, stop).await }
    });
    assert!(matches!(next(&mut events).await, EngineEvent::Connected { .. }));
    subscribed(&server).await;
    server.set_event_feed(EventFeed::Refused);
    assert!(matches!(next(&mut events).await, EngineEvent::Disconnected { .. }));
    tokio::time::sleep(SHORT).await; // several tries are refused meanwhile, and say nothing
    server.set_event_feed(EventFeed::Flowing);
    assert!(matches!(next(&mut events).await, EngineEvent::Connected { .. }));
    assert!(!engine.sample_all(&[]).await.reach.expect("reached").reconnected);
    stop.cancel();
}

#[tokio::test]
async fn a_look_that_heard_nothing_does_not_say_that_a_hung_engine_answers() {
    let server = scripted().await;
    server.add(workspace("a"));
    let engine = engine_with_timeout(&server.url(), SHORT);
    let target = [known(by_label("a"), "a")];
    assert!(engine.sample_all(&target).await.reach.is_ok());

    // One container whose inspect hangs is its own trouble.
    server.set_fault(Call::Inspect, Fault::Hang);
    let report = engine.sample_some(&target).await;
    assert_eq!((report.reach.is_ok(), only(&report).as_str()), (true, "unknown:timed_out"));

    // This look was begun on the connection of before the engine hung, and ends after another look has found out that it does.
    server.set_fault(Call::List, Fault::Hang);
    let (begun_before, found_out) = tokio::join!(
        async {
            let report = engine.sample_some(&[by_label("a"), known(by_label("a"), "a")]).await;
            (report.reach, report.calls.len())
        },
        engine.sample_all(&target)
    );
    assert_eq!(found_out.reach, Err(PolicyFault::TimedOut));
    assert_eq!(begun_before, (Err(PolicyFault::TimedOut), 2), "an inspect and a list, and neither was answered");

    server.clear_faults();
    assert!(engine.sample_some(&target).await.reach.expect("reached").reconnected);
}

#[tokio::test]
async fn a_failed_look_makes_the_watch_subscribe_anew() {
    let server = scripted().await;
    let engine = engine_with_timeout(&server.url(), SHORT);
    let (sender, mut events) = mpsc::channel(64);
    let stop = CancellationToken::new();
    let _watch = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move { engine.watch(sender, stop).await }
    });
    assert!(matches!(next(&mut events).await, EngineEvent::Connected { .. }));
    subscribed(&server).await;
    server.add_fault(FaultRule::new(Call::List, Fault::Hang).times(1));
    assert_eq!(engine.sample_all(&[]).await.reach, Err(PolicyFault::TimedOut));
    assert!(matches!(next(&mut events).await, EngineEvent::Disconnected { .. }));
    assert!(matches!(next(&mut events).await, EngineEvent::Connected { .. }));
    stop.cancel();
}

#[tokio::test]
async fn a_full_queue_loses_events_and_says_so_once_there_is_room() {
    let server = scripted().await;
    for index in 0..20 {
        server.add(workspace(&format!("w{index}")));
    }
    let engine = engine(&server.url());
    let (sender, mut events) = mpsc::channel(2);
    let stop = CancellationToken::new();
    let _watch = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move { engine.watch(sender, stop).await }
    });
    subscribed(&server).await;
    for index in 0..20 {
        server.exit(&format!("w{index}"), 1).unwrap();
    }
    eventually(PATIENCE, "a full queue", async || match events.len() {
        2 => Ok(()),
        few => Err(format!("{few} events")),
    })
    .await
    .unwrap();
    let mut heard = 0;
    while next(&mut events).await != (EngineEvent::Lagged { engine: "default".into() }) {
        heard += 1;
        assert!(heard <= 21, "never said so");
    }
    stop.cancel();
}
