//! Control planes with a preset of one's own: every way of counting pages, lists that are not whole, and keys for the steps of a restart.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use defib_engine::{Engine, EngineSettings, RestartCall, RestartHow, Target, connect};
use defib_policy::moment::Moment;
use defib_testkit::scripted_control_plane::{ApiFault, Dialect};
use defib_testkit::{Guardian, ScriptedControlPlane};
use support::{LABEL, pairs, seen};

/// The preset but for its `[list]`.
const PRESET: &str = "
rate = '1000/s'
[get]
path = '/instances/{instance_ref}'
id = '/id'
state = '/state'
[states]
running = ['running']
stopped = ['stopped']
[missing]
status = 404
json = '/error/code'
equals = 'instance_not_found'
[restart]
idempotency_header = 'Idempotency-Key'
[[restart.steps]]
method = 'POST'
path = '/instances/{instance_ref}/restart'
[[restart.steps]]
method = 'POST'
path = '/instances/{instance_ref}/restart'
body = '{\"of\": \"{workspace_id}\"}'
";

/// A server, and an engine that knows it by a preset with this list.
struct Own {
    server: ScriptedControlPlane,
    engine: Arc<dyn Engine>,
    _files: Guardian,
}

impl Own {
    async fn with(list: &str) -> Self {
        let (server, files) =
            (ScriptedControlPlane::start(Dialect::Generic).await.unwrap(), Guardian::start().unwrap());
        let path: PathBuf = files.directory().join("own.toml");
        let list = format!("[list]\nitems = '/items'\nid = '/id'\nstate = '/state'\n{list}");
        std::fs::write(&path, format!("base = '{}'\n{PRESET}{list}\n", server.address())).unwrap();
        let settings = EngineSettings {
            name: "cloud".into(),
            url: format!("cp+file://{}", path.display()).parse().unwrap(),
            workspace_label: LABEL.into(),
            call_timeout: Duration::from_secs(10),
            full_list_every: Duration::ZERO,
            tls: None,
            token: None,
        };
        let engine = connect(settings, Arc::new(|| Moment::ZERO)).unwrap();
        Self { server, engine, _files: files }
    }

    /// What is seen of `a`, `b` and `c` when the pages are these. `a` and `b` are there, and the server says that `c` is not.
    async fn sees(&self, pages: &[&str]) -> Vec<(String, String)> {
        for name in ["a", "b"] {
            self.server.set(name, "running");
        }
        let answer = |page: &&str| match page.strip_prefix("fails ") {
            Some(status) => Some(ApiFault::status(status.parse().unwrap())),
            None => Some(ApiFault::Answer(200, Vec::new(), (*page).to_owned())),
        };
        self.server.script_reads(pages.iter().map(answer));
        seen(&self.engine.sample_all(&["a", "b", "c"].map(instance)).await)
    }

    /// The reads of the list.
    fn pages(&self) -> Vec<String> {
        let paths = self.server.requests().into_iter().map(|request| request.path);
        paths.filter(|path| !path.starts_with("/instances/")).collect()
    }
}

fn instance(name: &str) -> Target {
    Target::instance(format!("w-{name}").into(), Some(name.into()))
}

const A: &str = r#"{"items": [{"id": "a", "state": "running"}], "all": 2, "next": "x/y"}"#;
const B: &str = r#"{"items": [{"id": "b", "state": "running"}], "all": 2, "next": null}"#;
const NONE: &str = r#"{"items": []}"#;

#[tokio::test]
async fn pages_are_read_to_the_end_by_each_way_of_counting_them() {
    for (list, pages, asked) in [
        (
            "path = '/instances?limit=1&cursor={cursor}'\nnext = '/next'",
            &[A, B][..],
            &["/instances?limit=1", "/instances?limit=1&cursor=x%2Fy"][..],
        ),
        (
            "path = '/instances?page={page}'",
            &[A, B, NONE],
            &["/instances?page=1", "/instances?page=2", "/instances?page=3"],
        ),
        (
            "path = '/instances?offset={offset}'\ntotal = '/all'",
            &[A, B],
            &["/instances?offset=0", "/instances?offset=1"],
        ),
        (
            "path = '/instances?all=1'",
            &[r#"{"items": [{"id": "a", "state": "running"}, {"id": "b", "state": "running"}]}"#],
            &["/instances?all=1"],
        ),
    ] {
        let own = Own::with(list).await;
        let expected = pairs(&[("w-a", "running"), ("w-b", "running"), ("w-c", "missing")]);
        assert_eq!(own.sees(pages).await, expected, "{list}");
        assert_eq!(own.pages(), asked);
    }
}

#[tokio::test]
async fn in_a_list_that_is_not_whole_nobody_is_missing() {
    let cursor = "path = '/instances?cursor={cursor}'\nnext = '/next'";
    let circle = r#"{"items": [{"id": "b", "state": "running"}], "next": "x/y"}"#;
    for (list, pages) in [
        // It never says that it is whole, or says that it is not.
        ("path = '/instances?x=1'\ncomplete = '/whole'", &[A][..]),
        ("path = '/instances?x=1'\ncomplete = '/whole'", &[r#"{"items": [], "whole": false}"#]),
        // Its last page names itself as the next one.
        (cursor, &[A, circle]),
        // It says that there are more than it has.
        ("path = '/instances?offset={offset}'\ntotal = '/all'", &[A, r#"{"items": [], "all": 2}"#]),
    ] {
        let own = Own::with(list).await;
        let expected = pairs(&[("w-a", "running"), ("w-b", "running"), ("w-c", "unknown:engine_error")]);
        assert_eq!(own.sees(pages).await, expected, "{list} {pages:?}");
    }
    let own = Own::with("path = '/instances?x=1'\ncomplete = '/whole'").await;
    let whole = r#"{"items": [{"id": "a", "state": "running"}], "whole": true}"#;
    assert_eq!(own.sees(&[whole]).await[2].1, "missing", "it says that it is whole");
}

#[tokio::test]
async fn a_list_that_breaks_off_at_a_later_page_says_nothing_about_anybody() {
    let cursor = "path = '/instances?cursor={cursor}'\nnext = '/next'";
    for (second, fault) in [
        ("fails 500", "engine_error"),
        ("fails 429", "engine_error"),
        ("fails 404", "engine_error"),
        ("<html>login</html>", "garbled"),
        (r#"{"error": "no such cursor"}"#, "garbled"),
    ] {
        let own = Own::with(cursor).await;
        let unknown = format!("unknown:{fault}");
        let expected = pairs(&[("w-a", &unknown), ("w-b", &unknown), ("w-c", &unknown)]);
        assert_eq!(own.sees(&[A, second]).await, expected, "{second}");
        assert_eq!(own.pages().len(), 2, "it is not read again in this look: {second}");
    }
}

#[tokio::test]
async fn one_on_two_pages_with_two_states_is_asked_about_by_itself() {
    let own = Own::with("path = '/instances?cursor={cursor}'\nnext = '/next'").await;
    let other = r#"{"items": [{"id": "a", "state": "stopped"}, {"id": "b", "state": "running"}], "next": ""}"#;
    assert_eq!(own.sees(&[A, other]).await[0], ("w-a".to_owned(), "running".to_owned()));
    let asked = own.server.requests().iter().filter(|request| request.path == "/instances/a").count();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn each_step_of_a_restart_has_a_key_of_its_own() {
    let own = Own::with("path = '/instances?x=1'").await;
    own.server.set("a", "stopped");
    let call = RestartCall {
        target: instance("a"),
        container_id: "a".into(),
        how: RestartHow::Start,
        deadline: Duration::from_secs(10),
        attempt: 4_711,
    };
    own.engine.restart(&call).await.unwrap();
    let sent: Vec<_> = own
        .server
        .restarts()
        .into_iter()
        .map(|request| (request.headers.get("idempotency-key").cloned().unwrap_or_default(), request.body))
        .collect();
    let expected = [("4711", ""), ("4711-2", r#"{"of": "w-a"}"#)];
    assert_eq!(sent, expected.map(|(key, body)| (key.to_owned(), body.to_owned())));
}
