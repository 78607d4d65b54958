//! What both test files need: an engine on a test server, and short words for samples.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests, which clippy does not take for tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use defib_engine::{Engine, EngineReport, EngineSettings, RestartCall, RestartHow, Target, connect};
use defib_policy::moment::Moment;
use defib_policy::sample::Observation;

pub(crate) const LABEL: &str = "defib.workspace";

/// An engine as the daemon makes it, with this time-out for a call.
pub(crate) fn engine_with_timeout(url: &str, call_timeout: Duration) -> Arc<dyn Engine> {
    let origin = Instant::now();
    connect(settings(url, call_timeout), Arc::new(move || Moment::after(origin.elapsed()))).unwrap()
}

/// An engine of which all lists are full ones.
pub(crate) fn settings(url: &str, call_timeout: Duration) -> EngineSettings {
    EngineSettings {
        name: "default".into(),
        url: url.parse().unwrap(),
        workspace_label: LABEL.into(),
        call_timeout,
        full_list_every: Duration::ZERO,
        tls: None,
        token: None,
    }
}

/// Patient: for tests that are not about time.
pub(crate) fn engine(url: &str) -> Arc<dyn Engine> {
    engine_with_timeout(url, Duration::from_secs(20))
}

pub(crate) fn by_label(workspace: &str) -> Target {
    Target::container(workspace.into(), None)
}

pub(crate) fn by_name(workspace: &str, name: &str) -> Target {
    Target::container(workspace.into(), Some(name.into()))
}

pub(crate) fn known(mut target: Target, container_id: &str) -> Target {
    target.known = Some(container_id.into());
    target
}

/// Each workspace with the label of its sample, and the fault where there is one.
pub(crate) fn seen(report: &EngineReport) -> Vec<(String, String)> {
    report
        .samples
        .iter()
        .map(|(workspace, sample)| {
            let what = match &sample.observation {
                Observation::Unknown { fault } => format!("unknown:{fault}"),
                other => other.label().to_owned(),
            };
            (workspace.to_string(), what)
        })
        .collect()
}

/// The one sample of a report on one target.
pub(crate) fn only(report: &EngineReport) -> String {
    let [(_, what)] = seen(report).try_into().expect("one sample");
    what
}

pub(crate) fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(workspace, what)| ((*workspace).to_owned(), (*what).to_owned())).collect()
}

/// The call that restarts this container.
pub(crate) fn call(container_id: &str, how: RestartHow, deadline: Duration) -> RestartCall {
    RestartCall { target: by_label("w"), container_id: container_id.into(), how, deadline, attempt: 1 }
}
