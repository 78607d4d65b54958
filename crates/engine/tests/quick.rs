//! Quick lists against an engine that fails on command: when one suffices, and everything that asks for a full one.
//!
//! The file is long because it is the list of these reasons: one test for each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use defib_engine::{Engine, EngineEvent, EngineReport, EngineSettings, Target, connect};
use defib_policy::moment::Moment;
use defib_policy::sample::{Fault as PolicyFault, Health as PolicyHealth, Observation};
use defib_testkit::scripted_engine::{Call, ContainerState, EventFeed, Fault, FaultRule, Health, ScriptedContainer};
use defib_testkit::{ScriptedEngine, eventually};
use support::{LABEL, known, only, pairs, seen, settings};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

const HOUR: Duration = Duration::from_secs(3_600);

/// How often `/info` is asked for.
const MINUTE: Duration = Duration::from_secs(60);

/// An engine on a server, whose events are listened to, and a clock that stands still until it is set on.
struct Scene {
    server: ScriptedEngine,
    engine: Arc<dyn Engine>,
    millis: Arc<AtomicU64>,
    events: mpsc::Receiver<EngineEvent>,
    stop: CancellationToken,
    watch: JoinHandle<()>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Scene {
    /// With these containers, of which a full list was just read for `targets`.
    async fn with(containers: Vec<ScriptedContainer>, targets: &[Target]) -> Self {
        let mut scene = Self::of(containers, PATIENCE).await;
        scene.is_listening().await;
        scene.ask(targets).await;
        assert_eq!(scene.lists(), "F", "the first list is a full one");
        scene
    }

    async fn of(containers: Vec<ScriptedContainer>, call_timeout: Duration) -> Self {
        let server = ScriptedEngine::start().await.expect("scripted engine");
        for container in containers {
            server.add(container);
        }
        let millis = Arc::new(AtomicU64::new(0));
        let clock = {
            let millis = millis.clone();
            Arc::new(move || Moment::after(Duration::from_millis(millis.load(Ordering::Relaxed))))
        };
        let settings = EngineSettings { full_list_every: HOUR, ..settings(&server.url(), call_timeout) };
        let engine = connect(settings, clock).unwrap();
        let (sender, events) = mpsc::channel(256);
        let stop = CancellationToken::new();
        let watch = tokio::spawn({
            let (engine, stop) = (engine.clone(), stop.clone());
            async move { engine.watch(sender, stop).await }
        });
        Self { server, engine, millis, events, stop, watch }
    }

    async fn next(&mut self) -> EngineEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("the watch runs")
    }

    async fn is_listening(&mut self) {
        while !matches!(self.next().await, EngineEvent::Connected { .. }) {}
        eventually(PATIENCE, "a subscription", async || match self.server.event_listeners() {
            0 => Err("nobody listens".to_owned()),
            _ => Ok(()),
        })
        .await
        .unwrap();
    }

    /// Waits until so many events about containers have been heard.
    async fn heard(&mut self, events: usize) {
        for _ in 0..events {
            while !matches!(self.next().await, EngineEvent::Container(_)) {}
        }
    }

    /// Waits until a list is asked for.
    async fn is_asked(&self) {
        eventually(PATIENCE, "the question", async || match self.server.count(Call::List) {
            0 => Err("not asked".to_owned()),
            _ => Ok(()),
        })
        .await
        .unwrap();
    }

    fn later(&self, span: Duration) {
        self.millis.fetch_add(u64::try_from(span.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// The lists since the last question: `F` a full one, `q` of those that do not run, `h` of the unhealthy ones.
    fn lists(&self) -> String {
        let lists = self.server.calls().into_iter().filter(|call| call.call == Call::List);
        let kinds = lists.map(|call| match call.query {
            query if query.contains("status") => 'q',
            query if query.contains("health") => 'h',
            query if query.contains("label") => 'l',
            _ => 'F',
        });
        let kinds = kinds.collect();
        self.server.clear_calls();
        kinds
    }

    /// Looks as the daemon does: by a quick list where that can tell, and else by a full one.
    async fn ask(&self, targets: &[Target]) -> EngineReport {
        match self.engine.sample_restless(targets).await {
            Some(report) => report,
            None => self.engine.sample_all(targets).await,
        }
    }

    /// What such a look says, and which lists it asked for.
    async fn look(&self, targets: &[Target]) -> (Vec<(String, String)>, String) {
        let report = self.ask(targets).await;
        assert!(report.reach.is_ok(), "{report:?}");
        (seen(&report), self.lists())
    }
}

/// A workspace that there is no doubt about, found by its label.
fn by_label(workspace: &str) -> Target {
    Target { in_doubt: false, ..support::by_label(workspace) }
}

/// The same, found by the name of its container.
fn by_name(workspace: &str, name: &str) -> Target {
    Target { in_doubt: false, ..support::by_name(workspace, name) }
}

/// The container that the first sample of a report is about.
fn container(report: &EngineReport) -> Option<String> {
    report.samples[0].1.observation.incarnation().map(|incarnation| incarnation.container_id.to_string())
}

fn workspace(id: &str) -> ScriptedContainer {
    ScriptedContainer::running(id).label(LABEL, id)
}

fn said(expected: &[(&str, &str)], lists: &str) -> (Vec<(String, String)>, String) {
    (pairs(expected), lists.to_owned())
}

#[tokio::test]
async fn who_ran_and_is_in_no_quick_list_runs() {
    let targets = [by_label("a"), by_name("n", "/agent"), by_label("dead"), by_label("cold")];
    let mut containers = vec![workspace("a"), ScriptedContainer::running("named").name("agent")];
    containers.push(ScriptedContainer::exited("dead", 137).label(LABEL, "dead"));
    let cold = ScriptedContainer { state: ContainerState::Paused, ..workspace("cold") };
    containers.push(cold);
    let scene = Scene::with(containers, &targets).await;
    let all = [("a", "running"), ("n", "running"), ("dead", "stopped"), ("cold", "frozen")];
    for _ in 0..3 {
        assert_eq!(scene.look(&targets).await, said(&all, "q"));
    }
    assert_eq!(scene.look(&targets[..2]).await, said(&all[..2], "q"), "a part of them");
    let turned = [targets[1].clone(), targets[0].clone()];
    assert_eq!(scene.look(&turned).await, said(&[all[1], all[0]], "q"), "in another order");

    // The dead one is inspected each time, as after a full list; whoever runs is inspected where its start matters.
    let inspected = [Target { inspect: true, ..by_label("a") }];
    let report = scene.ask(&inspected).await;
    assert!(report.samples[0].1.observation.incarnation().unwrap().started_at.is_some());
    assert_eq!((scene.server.count_of(Call::Inspect, "a"), scene.lists().as_str()), (1, "q"));
    let report = scene.ask(&targets).await;
    let Observation::Stopped { exit, .. } = &report.samples[2].1.observation else { panic!("{report:?}") };
    assert_eq!((exit.exit_code, scene.server.count_of(Call::Inspect, "dead")), (Some(137), 1));
}

#[tokio::test]
async fn in_an_hour_there_is_one_full_list_and_each_that_is_asked_for() {
    let target = [by_label("a")];
    let scene = Scene::with(vec![workspace("a")], &target).await;
    let mut lists = String::new();
    for _ in 0..12 {
        scene.later(HOUR / 12);
        lists.push_str(&scene.look(&target).await.1);
    }
    assert_eq!(lists, "qqqqqqqqqqqF");
    for (everybody, asked_for) in [(false, "q"), (true, "F"), (false, "q")] {
        let report = if everybody { scene.engine.sample_all(&target).await } else { scene.ask(&target).await };
        let tells_labels = report.own_labels.is_some();
        assert_eq!((only(&report).as_str(), scene.lists().as_str()), ("running", asked_for));
        assert_eq!(tells_labels, everybody, "a quick list does not know the labels of those that run");
    }
}

#[tokio::test]
async fn a_death_between_two_lists_is_found_without_its_event() {
    let targets = [by_label("a"), by_label("b")];
    let scene = Scene::with(vec![workspace("a"), workspace("b")], &targets).await;
    scene.server.set_event_feed(EventFeed::Silent);
    scene.server.exit("a", 137).unwrap();
    let dead = [("a", "stopped"), ("b", "running")];
    assert_eq!(scene.look(&targets).await, said(&dead, "qF"));
    assert_eq!(scene.look(&targets).await, said(&dead, "q"));
    scene.server.set_state("a", ContainerState::Running).unwrap();
    assert_eq!(scene.look(&targets).await, said(&[("a", "running"), ("b", "running")], "qF"));
}

#[tokio::test]
async fn a_death_is_found_before_its_event_has_come() {
    let target = [by_label("a")];
    let mut scene = Scene::with(vec![workspace("a")], &target).await;
    scene.server.set_event_feed(EventFeed::Silent);
    scene.server.exit("a", 137).unwrap();
    assert_eq!(scene.look(&target).await, said(&[("a", "stopped")], "qF"));
    // The event comes late, after the list that shows what it tells.
    scene.server.set_event_feed(EventFeed::Flowing);
    scene.server.set_state("a", ContainerState::Running).unwrap();
    scene.heard(1).await;
    assert_eq!(scene.look(&target).await, said(&[("a", "running")], "F"));
    assert_eq!(scene.look(&target).await, said(&[("a", "running")], "q"));
}

#[tokio::test]
async fn a_pause_shows_and_ends() {
    let target = [by_label("a")];
    let scene = Scene::with(vec![workspace("a")], &target).await;
    for (state, what) in [(ContainerState::Paused, "frozen"), (ContainerState::Running, "running")] {
        scene.server.set_state("a", state).unwrap();
        assert_eq!(scene.look(&target).await, said(&[("a", what)], "qF"));
        assert_eq!(scene.look(&target).await, said(&[("a", what)], "q"));
    }
    for (state, what) in [(ContainerState::Removing, "transitional"), (ContainerState::Created, "transitional")] {
        scene.server.set_event_feed(EventFeed::Silent);
        scene.server.set_state("a", state).unwrap();
        assert_eq!(scene.look(&target).await, said(&[("a", what)], "qF"));
    }
}

#[tokio::test]
async fn health_that_turns_shows_where_there_are_health_checks() {
    let target = [by_label("a"), by_label("b")];
    let scene = Scene::with(vec![workspace("a").health(Health::Healthy), workspace("b")], &target).await;
    let health = async || {
        let report = scene.ask(&target).await;
        let Observation::Running { health, .. } = report.samples[0].1.observation else { panic!("{report:?}") };
        let mut lists: Vec<char> = scene.lists().chars().collect();
        lists.sort_unstable(); // the two quick ones are asked for at the same time
        (health, lists.into_iter().collect::<String>())
    };
    let unhealthy = |health: &PolicyHealth| matches!(health, PolicyHealth::Unhealthy { .. });
    assert_eq!(health().await, (PolicyHealth::Healthy, "hq".to_owned()));
    scene.server.set_event_feed(EventFeed::Silent);
    for (turns, is_turned) in [
        (Health::Unhealthy, &unhealthy as &dyn Fn(&PolicyHealth) -> bool),
        (Health::Healthy, &|health| *health == PolicyHealth::Healthy),
        (Health::Starting, &|health| *health == PolicyHealth::Starting),
        (Health::Unhealthy, &unhealthy),
        (Health::Starting, &|health| *health == PolicyHealth::Starting),
        (Health::Healthy, &|health| *health == PolicyHealth::Healthy),
    ] {
        scene.server.set_health("a", turns).unwrap();
        for lists in ["Fhq", "hq"] {
            let (health, asked_for) = health().await;
            assert!(is_turned(&health), "{health:?} after it turned {turns:?}");
            assert_eq!(asked_for, lists, "{turns:?}");
        }
    }
}

#[tokio::test]
async fn an_event_about_health_alone_asks_for_no_full_list() {
    let target = [by_label("a")];
    let mut scene = Scene::with(vec![workspace("a").health(Health::Healthy)], &target).await;
    for _ in 0..3 {
        scene.server.set_health("a", Health::Unhealthy).unwrap();
        scene.heard(1).await;
        scene.server.set_health("a", Health::Healthy).unwrap();
        let (seen, lists) = scene.look(&target).await;
        assert_eq!((seen, lists.contains('F')), (pairs(&[("a", "running")]), false), "podman sends one for each check");
    }
}

#[tokio::test]
async fn nobody_is_asked_for_the_unhealthy_ones_where_there_are_no_health_checks() {
    let target = [by_label("a")];
    let scene =
        Scene::with(vec![workspace("a"), ScriptedContainer::running("s").health(Health::Healthy)], &target).await;
    assert_eq!(scene.look(&target).await, said(&[("a", "running")], "q"), "a stranger's health is nobody's business");
}

#[tokio::test]
async fn a_container_that_is_removed_replaced_or_renamed_asks_for_a_full_list() {
    let target = [by_name("w", "agent")];
    let mut scene = Scene::with(vec![ScriptedContainer::running("first").name("agent")], &target).await;
    scene.server.remove("first").unwrap();
    scene.server.add(ScriptedContainer::running("second").name("agent"));
    scene.heard(1).await;
    let report = scene.ask(&target).await;
    assert_eq!((container(&report).as_deref(), scene.lists().as_str()), (Some("second"), "F"));
    assert_eq!(scene.look(&target).await, said(&[("w", "running")], "q"));

    scene.server.remove("second").unwrap();
    scene.heard(1).await;
    assert_eq!(scene.look(&target).await, said(&[("w", "missing")], "F"));
    assert_eq!(only(&scene.ask(&target).await), "missing");
    assert_eq!(scene.server.count(Call::Inspect), 1, "its name is asked for, as after a full list");
    assert_eq!(scene.lists(), "q");

    // Somebody else gets the name. First an inspect tells, and then the event.
    scene.server.set_event_feed(EventFeed::Silent);
    scene.server.add(ScriptedContainer::running("third").name("other"));
    scene.server.rename("third", "agent").unwrap();
    assert_eq!(scene.look(&target).await, said(&[("w", "running")], "q"));
    scene.server.set_event_feed(EventFeed::Flowing);
    assert_eq!(only(&scene.engine.sample_all(&target).await), "running");
    assert_eq!(scene.lists(), "F");
    for (name, what) in [("agent-old", "missing"), ("agent", "running")] {
        scene.server.rename("third", name).unwrap();
        eventually(PATIENCE, "a full list after the rename", async || match scene.look(&target).await.1.as_str() {
            // The event may come while a quick list is under way.
            "F" | "qF" => Ok(()),
            other => Err(other.to_owned()),
        })
        .await
        .unwrap();
        assert_eq!(scene.look(&target).await, said(&[("w", what)], "q"));
    }
}

#[tokio::test]
async fn who_is_found_by_a_label_that_no_container_has_is_looked_for_in_full_lists() {
    let targets = [by_label("a"), by_label("gone")];
    let scene = Scene::with(vec![workspace("a")], &targets).await;
    let all = [("a", "running"), ("gone", "missing")];
    assert_eq!(scene.look(&targets).await, said(&all, "F"));
    scene.server.add(workspace("gone"));
    assert_eq!(scene.look(&targets).await, said(&[("a", "running"), ("gone", "running")], "F"));
    assert_eq!(scene.look(&targets).await, said(&[("a", "running"), ("gone", "running")], "q"));
}

#[tokio::test]
async fn a_container_that_a_later_look_found_asks_for_a_full_list() {
    let scene = Scene::with(vec![workspace("a")], &[by_label("a")]).await;
    assert_eq!(scene.look(&[known(by_label("a"), "a")]).await, said(&[("a", "running")], "q"));
    assert_eq!(scene.look(&[known(by_label("a"), "a2")]).await, said(&[("a", "running")], "F"));
}

#[tokio::test]
async fn on_a_deaf_stream_a_removed_container_shows_when_the_engine_tells_how_many_live() {
    let target = [by_name("w", "agent")];
    let containers = vec![ScriptedContainer::running("first").name("agent"), ScriptedContainer::running("s")];
    let mut scene = Scene::with(containers, &target).await;
    // `/info` has told how many live, and tells so again a minute later. The stream is not deaf: it told of a stranger.
    scene.later(MINUTE);
    scene.server.exit("s", 0).unwrap();
    scene.server.remove("s").unwrap();
    scene.heard(2).await;
    assert_eq!(scene.look(&target).await, said(&[("w", "running")], "q"));
    scene.server.deafen_event_streams();
    scene.server.remove("first").unwrap();
    assert_eq!(scene.look(&target).await, said(&[("w", "running")], "q"), "nothing has told of it");
    scene.later(MINUTE);
    assert_eq!(scene.look(&target).await, said(&[("w", "missing")], "qF"));
    eventually(PATIENCE, "another stream", async || match scene.server.event_listeners() {
        0 => Err("none that hears".to_owned()),
        _ => Ok(()),
    })
    .await
    .unwrap();
    scene.server.add(ScriptedContainer::running("second").name("other"));
    eventually(PATIENCE, "quick lists again", async || match scene.look(&target).await.1.as_str() {
        "q" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await
    .unwrap();
    scene.server.rename("second", "agent").unwrap();
    eventually(PATIENCE, "the new stream to tell", async || match scene.look(&target).await.1.as_str() {
        "F" | "qF" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn on_a_deaf_stream_a_replaced_container_shows_with_the_next_full_list_and_at_once_in_a_new_doubt() {
    let target = [by_name("w", "agent")];
    let scene = Scene::with(vec![ScriptedContainer::running("first").name("agent")], &target).await;
    scene.server.deafen_event_streams();
    scene.server.remove("first").unwrap();
    scene.server.add(ScriptedContainer::running("second").name("agent"));
    let seen = async |target: &Target| {
        let report = scene.ask(std::slice::from_ref(target)).await;
        (only(&report), container(&report), scene.lists())
    };
    let first = Some("first".to_owned());
    assert_eq!(seen(&target[0]).await, ("running".to_owned(), first.clone(), "q".to_owned()), "as many live as before");
    let confirmed = scene.engine.confirm(&known(target[0].clone(), "first")).await.observation;
    assert_eq!(confirmed.incarnation().unwrap().container_id.as_str(), "second", "a call rests on an inspect");
    scene.later(Duration::from_millis(3_599_999));
    assert_eq!(seen(&target[0]).await, ("running".to_owned(), first, "q".to_owned()));
    scene.later(Duration::from_millis(1));
    assert_eq!(seen(&target[0]).await, ("running".to_owned(), Some("second".to_owned()), "F".to_owned()));
}

#[tokio::test]
async fn who_has_come_into_doubt_since_the_last_full_list_asks_for_one_full_list() {
    let calm = [by_name("w", "agent"), by_name("other", "other")];
    let [agent, other] = calm.clone();
    let in_doubt = [Target { in_doubt: true, ..agent }, other];
    let containers =
        [("first", "agent"), ("other", "other")].map(|(id, name)| ScriptedContainer::running(id).name(name));
    let scene = Scene::with(containers.into(), &calm).await;
    scene.server.deafen_event_streams();
    scene.server.remove("first").unwrap();
    scene.server.add(ScriptedContainer::running("second").name("agent"));
    assert_eq!((scene.ask(&calm).await.samples.len(), scene.lists().as_str()), (2, "q"), "as many live as before");
    let report = scene.ask(&in_doubt).await;
    assert_eq!(container(&report).as_deref(), Some("second"));
    assert_eq!(scene.lists(), "F", "its heartbeats have stopped, so what was known of it is looked up anew");
    scene.ask(&in_doubt).await;
    assert_eq!(scene.lists(), "q", "a full list has answered this doubt");
}

#[tokio::test]
async fn a_stream_that_broke_asks_for_a_full_list_and_so_does_none() {
    let target = [by_label("a")];
    let mut scene = Scene::with(vec![workspace("a")], &target).await;
    scene.server.set_event_feed(EventFeed::Refused);
    while !matches!(scene.next().await, EngineEvent::Disconnected { .. }) {}
    for _ in 0..2 {
        assert_eq!(scene.look(&target).await, said(&[("a", "running")], "F"));
    }
    scene.server.set_event_feed(EventFeed::Flowing);
    scene.is_listening().await;
    assert_eq!(scene.look(&target).await, said(&[("a", "running")], "F"), "something may have happened in between");
    assert_eq!(scene.look(&target).await, said(&[("a", "running")], "q"));
    scene.stop.cancel();
    (&mut scene.watch).await.unwrap();
    assert_eq!(scene.look(&target).await, said(&[("a", "running")], "F"), "nobody listens any more");
}

#[tokio::test]
async fn another_engine_on_the_socket_is_not_understood_by_the_list_of_the_first() {
    let target = [known(by_label("a"), "a")];
    let scene = Scene::with(vec![workspace("a")], &target).await;
    scene.server.deafen_event_streams();
    scene.server.remove("a").unwrap();
    scene.server.add(ScriptedContainer::running("s")); // as many live there as here
    scene.server.set_identity("ANOTHER");
    scene.later(MINUTE); // its identity is asked for once a minute
    let report = scene.ask(&target).await;
    assert_eq!((only(&report).as_str(), scene.lists().as_str()), ("missing", "qF"));
    assert_eq!(
        report.reach.unwrap().identity.as_deref(),
        Some("ANOTHER"),
        "so that the policy takes it for no evidence"
    );
}

#[tokio::test]
async fn an_event_that_overtakes_a_list_is_newer_than_it() {
    let target = [by_label("a")];
    let mut scene = Scene::with(vec![workspace("a")], &target).await;
    for (everybody, lists) in [(true, "F"), (false, "qF")] {
        scene.server.add_fault(FaultRule::new(Call::List, Fault::Delay(Duration::from_millis(300))).times(1));
        let asked = async { if everybody { scene.engine.sample_all(&target).await } else { scene.ask(&target).await } };
        let (report, ()) = tokio::join!(asked, async {
            scene.is_asked().await;
            // It dies and is started again before the answer is written, so that no list shows anything of it.
            scene.server.exit("a", 1).unwrap();
            scene.server.set_state("a", ContainerState::Running).unwrap();
        });
        assert_eq!((only(&report).as_str(), scene.lists().as_str()), ("running", lists));
        scene.heard(2).await;
        if everybody {
            assert_eq!(scene.look(&target).await, said(&[("a", "running")], "F"));
        }
        assert_eq!(scene.look(&target).await, said(&[("a", "running")], "q"));
    }
}

#[tokio::test]
async fn a_container_that_is_renamed_while_a_full_list_is_written_is_not_lost() {
    let target = [by_name("w", "agent")];
    let containers = vec![ScriptedContainer::running("first").name("agent"), ScriptedContainer::running("s")];
    // Nothing was known before: that the events are about one of ours shows only when the list has come.
    let mut scene = Scene::of(containers, PATIENCE).await;
    scene.is_listening().await;
    scene.server.add_fault(FaultRule::new(Call::List, Fault::Delay(Duration::from_millis(300))).times(1));
    tokio::join!(scene.ask(&target), async {
        scene.is_asked().await;
        scene.server.rename("first", "elsewhere").unwrap();
        scene.server.rename("first", "agent").unwrap();
    });
    assert_eq!(scene.lists(), "F");
    assert_eq!(scene.look(&target).await, said(&[("w", "running")], "F"));
    // A stranger's events in that time change nothing.
    scene.server.add_fault(FaultRule::new(Call::List, Fault::Delay(Duration::from_millis(300))).times(1));
    tokio::join!(scene.engine.sample_all(&target), async {
        scene.is_asked().await;
        scene.server.rename("s", "s2").unwrap();
    });
    assert_eq!(scene.lists(), "F");
    assert_eq!(scene.look(&target).await, said(&[("w", "running")], "q"));
}

#[tokio::test]
async fn somebody_new_asks_for_a_full_list() {
    let targets = [by_label("a"), by_label("b"), by_name("a", "b")];
    let scene = Scene::with(vec![workspace("a"), workspace("b")], &targets[..1]).await;
    assert_eq!(scene.look(&targets[..2]).await, said(&[("a", "running"), ("b", "running")], "F"));
    assert_eq!(scene.look(&targets[..2]).await, said(&[("a", "running"), ("b", "running")], "q"));
    assert_eq!(scene.look(&targets[2..]).await, said(&[("a", "running")], "F"), "it has moved to another container");
}

#[tokio::test]
async fn strangers_come_and_go_without_a_full_list() {
    let target = [by_label("a")];
    let strangers = (0..20).map(|number| ScriptedContainer::running(format!("s{number}")));
    let mut scene = Scene::with(std::iter::once(workspace("a")).chain(strangers).collect(), &target).await;
    for number in 0..10 {
        scene.server.exit(&format!("s{number}"), 0).unwrap();
        scene.server.remove(&format!("s{}", 19 - number)).unwrap();
    }
    scene.heard(20).await;
    assert_eq!(scene.look(&target).await, said(&[("a", "running")], "q"));
    scene.server.add(ScriptedContainer::exited("twin", 0).label(LABEL, "a"));
    assert_eq!(scene.look(&target).await, said(&[("a", "running")], "qF"), "one with our label is none");
}

#[tokio::test]
async fn a_list_with_an_entry_that_nobody_can_assign_is_no_base_for_a_quick_one() {
    let target = [by_label("a")];
    let scene = Scene::with(vec![workspace("a")], &target).await;
    let entry = r#"[{"Id":"a","Names":["/a"],"State":"running","Labels":{"defib.workspace":"a"}},{"Names":["/x"]}]"#;
    scene.server.add_fault(FaultRule::new(Call::List, Fault::Garbage(entry.into())).times(2));
    assert_eq!(scene.look(&target).await, said(&[("a", "running")], "qF"));
    assert_eq!(scene.look(&target).await, said(&[("a", "running")], "F"));
    assert_eq!(scene.look(&target).await, said(&[("a", "running")], "q"));
}

#[tokio::test]
async fn an_engine_that_refuses_a_filter_is_asked_in_other_words_and_then_for_full_lists() {
    let target = [by_label("a")];
    let scene = Scene::with(vec![workspace("a")], &target).await;
    let runs = [("a", "running")];
    let podman = ["created", "initialized", "running", "paused", "stopped", "exited", "removing", "unknown"];
    scene.server.set_state_words(&podman);
    assert_eq!(scene.look(&target).await, said(&runs, "qF"));
    for _ in 0..2 {
        assert_eq!(scene.look(&target).await, said(&runs, "q"));
    }
    scene.server.set_state_words(&[]);
    for lists in ["qF", "qF", "F", "F"] {
        assert_eq!(scene.look(&target).await, said(&runs, lists));
    }
    // It is tried again when a full list is due.
    scene.server.set_state_words(&podman);
    scene.later(HOUR);
    for lists in ["F", "q", "q"] {
        assert_eq!(scene.look(&target).await, said(&runs, lists));
    }
}

#[tokio::test]
async fn a_quick_list_that_gets_no_answer_is_an_engine_that_gives_none() {
    let target = [by_label("a")];
    let mut scene = Scene::of(vec![workspace("a")], Duration::from_millis(700)).await;
    scene.is_listening().await;
    scene.look(&target).await;
    scene.server.set_fault(Call::List, Fault::Hang);
    assert_eq!(scene.ask(&target).await.reach, Err(PolicyFault::TimedOut));
    assert_eq!(scene.lists(), "q", "it is not asked for more");
    scene.server.clear_faults();
    assert_eq!(scene.look(&target).await, said(&[("a", "running")], "F"));
}
