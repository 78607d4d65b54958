//! Control planes: who is asked about when there are not enough turns for everybody.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use defib_engine::{Engine, EngineSettings, Secret, Target, connect};
use defib_policy::moment::Moment;
use defib_testkit::ScriptedControlPlane;
use defib_testkit::scripted_control_plane::{ApiFault, Dialect};
use support::{LABEL, seen};

/// How many passes a test waits at most for something that the third pass or the fifth should bring.
const PASSES_MAX: usize = 20;

/// A server with a list and the rate of `10/s`, and an engine that knows it.
struct Plane {
    server: ScriptedControlPlane,
    engine: Arc<dyn Engine>,
}

impl Plane {
    async fn with(call_timeout: Duration) -> Self {
        let server = ScriptedControlPlane::start(Dialect::Generic).await.unwrap();
        let settings = EngineSettings {
            name: "cloud".into(),
            url: format!("cp+{}?preset=generic", server.address()).parse().unwrap(),
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
