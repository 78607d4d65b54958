//! Control planes: who is asked about when there are not enough turns for everybody, and whom a refusal delays.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use defib_engine::{Engine, EngineError, EngineSettings, RestartCall, RestartHow, Secret, Target, connect};
use defib_policy::moment::Moment;
use defib_testkit::ScriptedControlPlane;
use defib_testkit::scripted_control_plane::{ApiFault, Dialect};
use support::{LABEL, only, pairs, seen};

/// How many passes a test waits at most for something that the third pass or the fifth should bring.
const PASSES_MAX: usize = 20;

/// A server with a list and the rate of `10/s`, and an engine that knows it.
struct Plane {
    server: ScriptedControlPlane,
    engine: Arc<dyn Engine>,
}

impl Plane {
    async fn with(call_timeout: Duration) -> Self {
        Self::of(Dialect::Generic, "preset=generic", call_timeout).await
    }

    async fn of(dialect: Dialect, query: &str, call_timeout: Duration) -> Self {
        let server = ScriptedControlPlane::start(dialect).await.unwrap();
        let settings = EngineSettings {
            name: "cloud".into(),
            url: format!("cp+{}?{query}", server.address()).parse().unwrap(),
            workspace_label: LABEL.into(),
            call_timeout,
            full_list_every: Duration::ZERO,
            tls: None,
            token: Some(Secret::from("t0ken-s3cret")),
        };
        let origin = Instant::now();
        let engine = connect(settings, Arc::new(move || Moment::after(origin.elapsed()))).unwrap();
        Self { server, engine }
    }

    /// The instances that were asked about one by one, in the order of the requests.
    fn asked(&self) -> Vec<String> {
        let paths = self.server.requests().into_iter().map(|request| request.path);
        paths.filter_map(|path| path.strip_prefix("/instances/").map(str::to_owned)).collect()
    }

    /// What an urgent look sees of this one.
    async fn sees(&self, name: &str) -> String {
        only(&self.engine.sample_some(&[instance(name)]).await)
    }

    async fn restart(&self, name: &str) -> Result<(), EngineError> {
        let call = RestartCall {
            target: instance(name),
            container_id: name.into(),
            how: RestartHow::Start,
            deadline: Duration::from_secs(2),
            attempt: 1,
        };
        self.engine.restart(&call).await
    }

    /// Lets a pass look at all of these, and returns what it saw of the last one.
    async fn sees_last(&self, targets: &[Target]) -> String {
        seen(&self.engine.sample_all(targets).await).pop().unwrap().1
    }
}

fn instance(name: &str) -> Target {
    Target::instance(format!("w-{name}").into(), Some(name.into()))
}

/// Twenty machines that were destroyed, and behind them one that has stopped.
fn destroyed_and_stopped(plane: &Plane) -> Vec<Target> {
    plane.server.set("z", "stopped");
    (0..20).map(|number| instance(&format!("gone-{number:02}"))).chain([instance("z")]).collect()
}

#[tokio::test]
async fn with_a_list_nobody_in_doubt_is_asked_about_twice_before_everybody_was_once() {
    let plane = Plane::with(Duration::from_millis(200)).await;
    let targets = destroyed_and_stopped(&plane);
    for pass in 0.. {
        let last = plane.sees_last(&targets).await;
        let asked = plane.asked();
        let different: BTreeSet<_> = asked.iter().collect();
        if last == "stopped" {
            break;
        }
        assert_eq!(different.len(), asked.len(), "before the last one had its turn: {asked:?}");
        assert!(pass < PASSES_MAX, "the last one is {last}: {asked:?}");
    }
    assert!(plane.asked().len() >= targets.len());
}

#[tokio::test]
async fn those_whose_requests_hang_do_not_keep_the_others_from_their_turn() {
    let plane = Plane::with(Duration::from_millis(300)).await;
    let targets = destroyed_and_stopped(&plane);
    for target in targets.iter().filter_map(|target| target.instance_ref.as_deref()).filter(|name| *name != "z") {
        plane.server.fail_instance(target, Some(ApiFault::Hang));
    }
    for pass in 0.. {
        let last = plane.sees_last(&targets).await;
        if last == "stopped" {
            break;
        }
        assert!(pass < PASSES_MAX, "the last one is {last}: {:?}", plane.asked());
    }
}

/// A 503 that asks for ten minutes.
fn unavailable() -> ApiFault {
    ApiFault::Answer(503, vec![("retry-after", "600".to_owned())], String::new())
}

#[tokio::test]
async fn a_503_about_one_instance_delays_that_instance_alone() {
    let plane = Plane::with(Duration::from_secs(1)).await;
    plane.server.set("a", "stopped");
    plane.server.set("b", "stopped");
    plane.server.fail_instance("a", Some(unavailable()));
    assert_eq!(plane.sees("a").await, "unknown:engine_error");
    plane.server.fail_instance("a", None);

    let targets = ["a", "b"].map(instance);
    let expected = pairs(&[("w-a", "unknown:not_asked"), ("w-b", "stopped")]);
    assert_eq!(seen(&plane.engine.sample_some(&targets).await), expected);
    assert_eq!(seen(&plane.engine.sample_all(&targets).await), expected);
    let error = plane.restart("a").await.unwrap_err();
    assert!(matches!(error, EngineError::NotSent { .. }) && !error.may_have_happened(), "{error:?}");
    plane.restart("b").await.unwrap();
    assert_eq!(plane.asked().iter().filter(|path| path.starts_with('a')).count(), 1, "{:?}", plane.asked());
    assert_eq!(plane.sees("b").await, "running");
}

#[tokio::test]
async fn a_503_to_a_restart_delays_that_instance_alone() {
    let plane = Plane::with(Duration::from_secs(1)).await;
    plane.server.set("a", "stopped");
    plane.server.set("b", "stopped");
    plane.server.fail_restart(unavailable());
    let error = plane.restart("a").await.unwrap_err();
    assert!(matches!(error, EngineError::Restart { .. }), "{error:?}");
    assert_eq!(plane.sees("a").await, "unknown:not_asked");
    plane.restart("b").await.unwrap();
    assert_eq!(plane.sees("b").await, "running");
}

#[tokio::test]
async fn a_503_for_three_instances_in_a_row_pauses_the_whole_control_plane() {
    let plane = Plane::with(Duration::from_secs(1)).await;
    plane.server.set("z", "stopped");
    for name in ["a", "b", "c"] {
        plane.server.fail_instance(name, Some(unavailable()));
        assert_eq!(plane.sees(name).await, "unknown:engine_error");
    }
    let sent = plane.server.requests().len();
    assert_eq!(plane.sees("z").await, "unknown:not_asked");
    let error = plane.restart("z").await.unwrap_err();
    assert!(matches!(error, EngineError::NotSent { .. }), "{error:?}");
    assert_eq!(plane.server.requests().len(), sent);
}

#[tokio::test]
async fn another_answer_between_503s_shows_that_the_control_plane_works() {
    let plane = Plane::with(Duration::from_secs(1)).await;
    plane.server.set("z", "stopped");
    for name in ["a", "b", "c", "d", "e"] {
        plane.server.fail_instance(name, Some(unavailable()));
        assert_eq!(plane.sees(name).await, "unknown:engine_error");
        assert_eq!(plane.sees("z").await, "stopped", "after the 503 for {name}");
    }
}

#[tokio::test]
async fn a_503_for_the_list_pauses_the_whole_control_plane() {
    let plane = Plane::with(Duration::from_secs(1)).await;
    plane.server.set("z", "stopped");
    plane.server.script_reads([Some(unavailable())]);
    assert_eq!(plane.sees_last(&[instance("z")]).await, "unknown:engine_error");
    assert_eq!(plane.sees("z").await, "unknown:not_asked");
    assert!(matches!(plane.restart("z").await, Err(EngineError::NotSent { .. })));
    assert_eq!(plane.server.requests().len(), 1);
}

#[tokio::test]
async fn a_control_plane_is_down_by_a_503_for_three_instances_and_not_by_one_for_two() {
    for (names, is_down) in [(&["a", "b"][..], false), (&["a", "b", "c"], true)] {
        let plane = Plane::of(Dialect::Molecule, "preset=molecule-core", Duration::from_secs(1)).await;
        for name in names {
            plane.server.fail_instance(name, Some(unavailable()));
        }
        let targets: Vec<Target> = names.iter().copied().map(instance).collect();
        // In the second look none of them is asked about.
        for look in ["first", "second"] {
            let report = plane.engine.sample_all(&targets).await;
            assert_eq!(report.reach.is_err(), is_down, "in the {look} look at {names:?}: {report:?}");
        }
    }
}
