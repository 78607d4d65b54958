//! Control planes: each preset against a server that answers as its interface does, and every way of saying nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests, which clippy does not take for tests"
)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use defib_engine::{
    Engine, EngineError, EngineSettings, PlatformRestart, RestartBy, RestartCall, RestartHow, Secret, Target,
    WithPlatform, connect,
};
use defib_policy::moment::Moment;
use defib_policy::sample::Fault;
use defib_testkit::ScriptedControlPlane;
use defib_testkit::scripted_control_plane::{ApiFault, Dialect};
use support::{LABEL, only, pairs, seen};

const TOKEN: &str = "t0ken-s3cret";
const KILL: RestartHow = RestartHow::KillAndStart { grace: Duration::from_secs(1) };

fn settings(url: &str, call_timeout: Duration) -> EngineSettings {
    EngineSettings {
        name: "cloud".into(),
        url: url.parse().unwrap(),
        workspace_label: LABEL.into(),
        call_timeout,
        full_list_every: Duration::ZERO,
        tls: None,
        token: Some(Secret::from(TOKEN)),
    }
}

fn plane_within(server: &ScriptedControlPlane, query: &str, call_timeout: Duration) -> Arc<dyn Engine> {
    let origin = Instant::now();
    let url = format!("cp+{}?{query}", server.address());
    connect(settings(&url, call_timeout), Arc::new(move || Moment::after(origin.elapsed()))).unwrap()
}

fn plane(server: &ScriptedControlPlane, query: &str) -> Arc<dyn Engine> {
    plane_within(server, query, Duration::from_secs(10))
}

fn instance(name: &str) -> Target {
    Target::instance(format!("w-{name}").into(), Some(name.into()))
}

fn call(name: &str, how: RestartHow) -> RestartCall {
    RestartCall {
        target: instance(name),
        container_id: name.into(),
        how,
        deadline: Duration::from_secs(10),
        attempt: 4_711,
    }
}

async fn server(dialect: Dialect) -> ScriptedControlPlane {
    ScriptedControlPlane::start(dialect).await.unwrap()
}

#[tokio::test]
async fn each_preset_understands_its_interface() {
    for (dialect, query, states, header) in [
        (
            Dialect::Molecule,
            "preset=molecule-core&server=SERVER",
            ["running", "terminated", "pending", "hibernating"],
            ("authorization", "Bearer t0ken-s3cret"),
        ),
        (
            Dialect::Fly,
            "preset=fly-machines&app=my-app",
            ["started", "stopped", "replacing", "destroyed"],
            ("authorization", "Bearer t0ken-s3cret"),
        ),
        (
            Dialect::Daytona,
            "preset=daytona&org=acme",
            ["started", "stopped", "restoring", "error"],
            ("x-daytona-organization-id", "acme"),
        ),
        (Dialect::Coder, "preset=coder", ["running", "stopped", "starting", "failed"], ("coder-session-token", TOKEN)),
        (
            Dialect::Generic,
            "preset=generic",
            ["running", "stopped", "pending", "dreaming"],
            ("authorization", "Bearer t0ken-s3cret"),
        ),
    ] {
        let server = server(dialect).await;
        let query = &query.replace("SERVER", &server.address());
        for (name, state) in ["a", "b", "c", "d"].into_iter().zip(states) {
            server.set(name, state);
        }
        let plane = plane(&server, query);
        let targets = ["a", "b", "c", "d"].map(instance);
        let expected =
            pairs(&[("w-a", "running"), ("w-b", "stopped"), ("w-c", "transitional"), ("w-d", "unknown:garbled")]);
        let report = plane.sample_all(&targets).await;
        assert_eq!(seen(&report), expected, "{dialect:?}: {:?}", server.requests());
        assert!(report.reach.is_ok());
        assert_eq!(seen(&plane.sample_some(&targets).await), expected, "{dialect:?}");
        assert_eq!(server.requests()[0].headers.get(header.0).map(String::as_str), Some(header.1), "{dialect:?}");

        plane.restart(&call("b", RestartHow::Start)).await.unwrap();
        let restarts = server.restarts();
        assert_eq!(restarts.len(), 1, "{dialect:?}: asked once");
        let key = restarts[0].headers.get("idempotency-key").map(String::as_str);
        assert_eq!(key, (dialect == Dialect::Generic).then_some("4711"), "{dialect:?}");
        if dialect != Dialect::Molecule {
            assert_eq!(only(&plane.sample_some(&[instance("b")]).await), "running", "{dialect:?}");
        }
        let explanation = plane.explain(&targets).await;
        assert_eq!(explanation.faults, Vec::<String>::new());
        assert!(explanation.answers.iter().any(|answer| answer.understood == "running"));
        let complaint = explanation.answers.iter().find_map(|answer| answer.complaint.clone()).unwrap();
        assert!(complaint.contains(states[3]) && complaint.contains("not named in [states]"), "{complaint}");
        plane.check().await.unwrap();
    }
}

#[tokio::test]
async fn each_preset_restarts_what_hangs() {
    for (dialect, query, running, asked) in [
        (Dialect::Molecule, "preset=molecule-core&server=SERVER", "running", &["/workspaces/w-a/restart"][..]),
        (
            Dialect::Fly,
            "preset=fly-machines&app=my-app",
            "started",
            &["/v1/apps/my-app/machines/a/restart?force_stop=true"],
        ),
        (Dialect::Daytona, "preset=daytona", "started", &["/sandbox/a/stop", "/sandbox/a/start"]),
        (Dialect::Coder, "preset=coder", "running", &["/api/v2/workspaces/a/builds", "/api/v2/workspaces/a/builds"]),
        (Dialect::Generic, "preset=generic", "running", &["/instances/a/restart"]),
    ] {
        let server = server(dialect).await;
        server.set("a", running);
        let plane = plane(&server, &query.replace("SERVER", &server.address()));
        plane.restart(&call("a", KILL)).await.unwrap_or_else(|error| panic!("{dialect:?}: {error:?}"));
        let paths: Vec<_> = server.restarts().into_iter().map(|request| request.path).collect();
        assert_eq!(paths, asked, "{dialect:?}");
        assert_eq!(server.get("a").as_deref(), Some(running), "{dialect:?}");
    }
}

/// What the documentation of each says about a restart of an instance that is changing its state, or cannot be started at all.
#[tokio::test]
async fn each_preset_leaves_to_others_what_they_are_at_work_on() {
    for (dialect, query, state) in [
        (Dialect::Fly, "preset=fly-machines&app=my-app", "replacing"),
        (Dialect::Daytona, "preset=daytona", "restoring"),
        (Dialect::Coder, "preset=coder", "stopping"),
        (Dialect::Generic, "preset=generic", "running"),
    ] {
        let server = server(dialect).await;
        server.set("a", state);
        let error = plane(&server, query).restart(&call("a", RestartHow::Start)).await.unwrap_err();
        assert!(matches!(error, EngineError::Superseded { .. }), "{dialect:?}: {error:?}");
    }
    let server = server(Dialect::Daytona).await;
    server.set("a", "error");
    let error = plane(&server, "preset=daytona").restart(&call("a", RestartHow::Start)).await.unwrap_err();
    assert!(matches!(error, EngineError::Restart { .. }) && !error.may_have_happened(), "{error:?}");
}

#[tokio::test]
async fn no_fault_is_evidence() {
    let elsewhere = vec![("location", "http://elsewhere.invalid/x".to_owned())];
    for (fault, expected) in [
        (ApiFault::status(500), Fault::EngineError),
        (ApiFault::status(503), Fault::EngineError),
        (ApiFault::status(401), Fault::EngineError),
        (ApiFault::status(403), Fault::EngineError),
        (ApiFault::status(404), Fault::EngineError),
        (ApiFault::Answer(302, elsewhere, String::new()), Fault::EngineError),
        (ApiFault::Answer(200, Vec::new(), "<html>login</html>".into()), Fault::Garbled),
        (ApiFault::Answer(200, Vec::new(), "{}".into()), Fault::Garbled),
        (ApiFault::Huge(17 << 20), Fault::Garbled),
        (ApiFault::Eof, Fault::Unreachable),
        (ApiFault::Hang, Fault::TimedOut),
    ] {
        for (dialect, query) in [(Dialect::Molecule, "preset=molecule-core"), (Dialect::Generic, "preset=generic")] {
            let server = server(dialect).await;
            server.set("a", "running");
            server.set("b", "stopped");
            let plane = plane_within(&server, query, Duration::from_millis(700));
            server.set_fault(Some(fault.clone()));
            let targets = ["a", "b"].map(instance);
            for report in [plane.sample_all(&targets).await, plane.sample_some(&targets).await] {
                for (workspace, what) in seen(&report) {
                    assert_eq!(what, format!("unknown:{expected}"), "{workspace} by {fault:?} of {dialect:?}");
                }
            }
            server.set_fault(None);
            assert_eq!(seen(&plane.sample_all(&targets).await), pairs(&[("w-a", "running"), ("w-b", "stopped")]));
        }
    }
}

#[tokio::test]
async fn a_429_pauses_everything_for_as_long_as_it_says() {
    let server = server(Dialect::Molecule).await;
    server.set("a", "running");
    let in_ten_minutes = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(600));
    for pause in ["600", in_ten_minutes.as_str()] {
        let query = format!("preset=molecule-core&server={}", server.address());
        let plane = plane_within(&server, &query, Duration::from_millis(500));
        server.set_fault(Some(ApiFault::Answer(429, vec![("retry-after", pause.to_owned())], String::new())));
        assert_eq!(only(&plane.sample_some(&[instance("a")]).await), "unknown:engine_error");
        server.set_fault(None);
        let asked = server.requests().len();
        assert_eq!(only(&plane.sample_some(&[instance("a")]).await), "unknown:not_asked");
        let error = plane.restart(&call("a", RestartHow::Start)).await.unwrap_err();
        assert!(matches!(error, EngineError::NotSent { .. }) && !error.may_have_happened(), "{error:?}");
        assert_eq!(server.requests().len(), asked, "nothing was sent after {pause}");
    }
}

#[tokio::test]
async fn a_bare_404_is_never_missing_and_the_words_of_the_interface_are() {
    let server = server(Dialect::Generic).await;
    server.set("a", "running");
    let plane = plane(&server, "preset=generic");
    let targets = [instance("a"), instance("gone")];
    let expected = pairs(&[("w-a", "running"), ("w-gone", "missing")]);
    assert_eq!(seen(&plane.sample_all(&targets).await), expected);
    assert_eq!(seen(&plane.sample_some(&targets).await), expected);
    server.set_fault(Some(ApiFault::status(404)));
    assert_eq!(only(&plane.sample_some(&[instance("gone")]).await), "unknown:engine_error");
}

#[tokio::test]
async fn a_container_and_a_reference_that_leads_elsewhere_are_not_asked_about() {
    let server = server(Dialect::Generic).await;
    let plane = plane(&server, "preset=generic");
    let mut nameless = instance("x");
    nameless.instance_ref = None;
    let targets = [Target::container("c".into(), None), nameless, instance("..")];
    let report = plane.sample_some(&targets).await;
    let expected = [("c", "unknown:wrong_kind"), ("w-x", "unknown:bad_reference"), ("w-..", "unknown:bad_reference")];
    assert_eq!(seen(&report), pairs(&expected));
    assert!(server.requests().is_empty(), "{:?}", server.requests());
    let mut wrong = call("x", RestartHow::Start);
    wrong.target = Target::container("c".into(), None);
    assert!(matches!(plane.restart(&wrong).await, Err(EngineError::WrongKind { .. })));
}

#[tokio::test]
async fn without_a_list_only_those_in_doubt_are_asked_about_again() {
    let server = server(Dialect::Molecule).await;
    server.set("a", "running");
    server.set("b", "running");
    let plane = plane(&server, "preset=molecule-core");
    let mut targets = ["a", "b"].map(instance);
    plane.sample_all(&targets).await;
    let asked = server.requests().len();
    targets[0].in_doubt = false;
    server.set("b", "stopped");
    let report = plane.sample_all(&targets).await;
    assert_eq!(seen(&report), pairs(&[("w-a", "running"), ("w-b", "stopped")]));
    assert_eq!(server.requests().len(), asked + 1);
}

#[tokio::test]
async fn an_answer_to_a_restart_is_told_from_a_lost_one() {
    let server = server(Dialect::Molecule).await;
    let plane = plane(&server, &format!("preset=molecule-core&server={}", server.address()));
    for (fault, may_have_happened) in [
        (ApiFault::status(503), false),
        (ApiFault::status(404), false),
        (ApiFault::status(504), true),
        (ApiFault::Eof, true),
    ] {
        server.fail_restart(fault.clone());
        let error = plane.restart(&call("a", RestartHow::Start)).await.unwrap_err();
        assert_eq!(error.may_have_happened(), may_have_happened, "{fault:?}: {error:?}");
    }
    assert_eq!(server.restarts().len(), 4, "none was repeated");
    server.fail_restart(ApiFault::status(409));
    let error = plane.restart(&call("a", RestartHow::Start)).await.unwrap_err();
    assert!(matches!(error, EngineError::Superseded { status: 409, .. }), "{error:?}");
    let mut hanging = call("a", RestartHow::Start);
    hanging.deadline = Duration::from_millis(300);
    server.fail_restart(ApiFault::Hang);
    let error = plane.restart(&hanging).await.unwrap_err();
    assert!(matches!(error, EngineError::TimedOut { .. }) && error.may_have_happened());
}

/// The headers carry the token, and a restart must not be made twice.
#[tokio::test]
async fn a_redirect_is_followed_for_reads_and_on_the_same_host_alone() {
    let (server, elsewhere) = (server(Dialect::Molecule).await, server(Dialect::Molecule).await);
    server.set("a", "running");
    elsewhere.set("a", "stopped");
    let plane = plane(&server, &format!("preset=molecule-core&server={}", server.address()));
    let path = "/cp/workspaces/w-a/status?instance_id=a";
    let to = |status, location: String| ApiFault::Answer(status, vec![("location", location)], String::new());
    server.script_reads([Some(to(302, path.to_owned())), None]);
    assert_eq!(only(&plane.sample_some(&[instance("a")]).await), "running");
    server.script_reads([Some(to(307, format!("{}{path}", elsewhere.address())))]);
    assert_eq!(only(&plane.sample_some(&[instance("a")]).await), "unknown:engine_error");
    server.script_reads((0..9).map(|_| Some(to(302, path.to_owned()))));
    assert_eq!(only(&plane.sample_some(&[instance("a")]).await), "unknown:engine_error", "it goes round in a circle");

    let path = "/workspaces/w-a/restart";
    for (status, location, may_have_happened) in [
        (307, format!("{}{path}", elsewhere.address()), false),
        (308, path.to_owned(), false),
        (302, path.to_owned(), true),
        (303, "/workspaces/w-a".to_owned(), true),
    ] {
        let before = server.restarts().len();
        server.fail_restart(to(status, location));
        let error = plane.restart(&call("a", RestartHow::Start)).await.unwrap_err();
        assert_eq!(error.may_have_happened(), may_have_happened, "{status}: {error:?}");
        assert_eq!(server.restarts().len(), before + 1, "{status}: it was asked once");
    }
    assert!(elsewhere.requests().is_empty(), "{:?}", elsewhere.requests());
}

#[tokio::test]
async fn a_restart_in_two_steps_waits_between_them() {
    let server = server(Dialect::Coder).await;
    server.set("a", "running");
    let plane = plane(&server, "preset=coder");
    plane.restart(&call("a", KILL)).await.unwrap();
    let bodies: Vec<_> = server.restarts().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies, [r#"{"transition": "stop"}"#, r#"{"transition": "start"}"#]);
    assert_eq!(server.get("a").as_deref(), Some("running"));
}

/// The instance was stopped by the first step, so nobody may say that nothing was touched.
#[tokio::test]
async fn a_second_step_that_is_not_wanted_counts_as_one_whose_answer_was_lost() {
    let server = server(Dialect::Coder).await;
    server.set("a", "running");
    let plane = plane(&server, "preset=coder");
    server.script_restarts([None, Some(ApiFault::status(409))]);
    let error = plane.restart(&call("a", KILL)).await.unwrap_err();
    assert!(error.may_have_happened(), "{error:?}");
    assert!(format!("{error:?}").contains("step 2, after others that were accepted: it answered 409"), "{error:?}");
}

#[tokio::test]
async fn the_platforms_restart_is_asked_once_with_its_own_token() {
    let server = server(Dialect::Molecule).await;
    let url = format!("{}?preset=molecule-core&org=acme", server.address());
    let platform = PlatformRestart::new(&url, Some(&Secret::from("adm1n-s3cret"))).unwrap();
    let mut missing = call("", RestartHow::Start);
    missing.target = Target::container("w1".into(), None);
    platform.restart(&"rack-7".into(), &missing).await.unwrap();
    let restarts = server.restarts();
    assert_eq!((restarts.len(), restarts[0].path.as_str()), (1, "/workspaces/w1/restart"));
    assert_eq!(restarts[0].headers["authorization"], "Bearer adm1n-s3cret");
    assert_eq!(restarts[0].headers["x-molecule-org-id"], "acme");
    let shown = format!("{platform:?} {}", platform.shown());
    assert!(!shown.contains("s3cret") && !shown.contains("acme"), "{shown}");
    assert!(PlatformRestart::new("tcp://h:1", None).is_err());
}

#[tokio::test]
async fn the_platform_makes_what_the_engine_cannot_or_everything() {
    let (planes, platforms) = (server(Dialect::Generic).await, server(Dialect::Molecule).await);
    let url = format!("{}?preset=molecule-core", platforms.address());
    let platform = Arc::new(PlatformRestart::new(&url, Some(&Secret::from("adm1n-s3cret"))).unwrap());
    let engine = plane(&planes, "preset=generic");
    assert!(engine.abilities().starts && !engine.abilities().recreates);
    // By whom, and how; how many requests the platform and the engine get.
    for (by, how, of_the_platform, of_the_engine) in [
        (RestartBy::Engine, RestartHow::Recreate, 1, 0),
        (RestartBy::Engine, RestartHow::Start, 0, 1),
        (RestartBy::Platform, RestartHow::Recreate, 1, 0),
        (RestartBy::Platform, RestartHow::Start, 1, 0),
        (RestartBy::Platform, KILL, 1, 0),
    ] {
        planes.set("a", "stopped");
        let (before, engines_before) = (platforms.restarts().len(), planes.restarts().len());
        let both = WithPlatform::new(Arc::clone(&engine), Arc::clone(&platform), by);
        let abilities = both.abilities();
        assert!(abilities.starts && abilities.kills && abilities.recreates, "{abilities:?}");
        assert_eq!(abilities.lists, engine.abilities().lists);
        both.restart(&call("a", how)).await.unwrap();
        assert_eq!(platforms.restarts().len() - before, of_the_platform, "{by:?} {how:?}");
        assert_eq!(planes.restarts().len() - engines_before, of_the_engine, "{by:?} {how:?}");
    }
    let error = engine.restart(&call("a", RestartHow::Recreate)).await.unwrap_err();
    assert!(matches!(error, EngineError::Unable { .. }), "{error}");
}

/// Its address and its token are not for the server that makes the restarts.
#[tokio::test]
async fn a_control_plane_whose_restarts_are_another_servers_is_not_asked_for_them() {
    let (planes, platforms) = (server(Dialect::Molecule).await, server(Dialect::Molecule).await);
    let engine = plane(&planes, "preset=molecule-core");
    assert!(!engine.abilities().starts && !engine.abilities().kills, "{:?}", engine.abilities());
    let error = engine.restart(&call("a", RestartHow::Start)).await.unwrap_err();
    assert!(matches!(error, EngineError::Unable { .. }), "{error}");
    let url = format!("{}?preset=molecule-core", platforms.address());
    let platform = Arc::new(PlatformRestart::new(&url, Some(&Secret::from("adm1n-s3cret"))).unwrap());
    let both = WithPlatform::new(engine, platform, RestartBy::Engine);
    assert!(both.abilities().starts && both.abilities().kills, "{:?}", both.abilities());
    both.restart(&call("a", RestartHow::Start)).await.unwrap();
    assert_eq!((planes.restarts().len(), platforms.restarts().len()), (0, 1));
}

#[tokio::test]
async fn the_platforms_refusal_is_told_as_the_platforms() {
    let server = server(Dialect::Molecule).await;
    let url = format!("{}?preset=molecule-core", server.address());
    let platform = PlatformRestart::new(&url, Some(&Secret::from("adm1n-s3cret"))).unwrap();
    server.fail_restart(ApiFault::status(503));
    let error = platform.restart(&"rack-7".into(), &call("a", RestartHow::Recreate)).await.unwrap_err();
    assert!(!error.may_have_happened());
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.starts_with("the platform's own restart: it answered 503"), "{source}");
    server.fail_restart(ApiFault::status(409));
    let error = platform.restart(&"rack-7".into(), &call("a", RestartHow::Recreate)).await.unwrap_err();
    assert!(matches!(error, EngineError::Superseded { status: 409, .. }), "{error}");
    assert_eq!(server.restarts().len(), 2, "none is repeated");
}

#[tokio::test]
async fn no_secret_is_in_any_error() {
    let server = server(Dialect::Generic).await;
    server.set("a", "stopped");
    let plane = plane(&server, "preset=generic&org=0rg-s3cret");
    let echo = format!("you sent Bearer {TOKEN} for 0rg-s3cret\n");
    server.fail_restart(ApiFault::Answer(400, Vec::new(), echo));
    let error = plane.restart(&call("a", RestartHow::Start)).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("it answered 400: you sent Bearer (secret) for (secret)"), "{source}");
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    let settings = settings("cp+https://h?preset=nope&org=0rg-s3cret", Duration::from_secs(1));
    let shown = format!("{settings:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
    let Err(error) = connect(settings, Arc::new(|| Moment::ZERO)) else { panic!("refused") };
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
}
