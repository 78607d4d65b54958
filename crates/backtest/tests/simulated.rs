//! A simulated fleet, recorded by the recorder that the daemon has, and replayed.
#![expect(clippy::expect_used, reason = "tests")]

#[path = "../../record/tests/record/changes.rs"]
mod changes;

use std::path::Path;
use std::time::Duration;

use changes::Reads;
use defib_backtest::settings::Changes;
use defib_backtest::{Report, Request, policies, run};
use defib_policy::judge::Judge;
use defib_policy::settings::{Mode, Settings};
use defib_record::{DirectTape, RecordSettings, Recorded};
use defib_sim::chaos::{Climate, live_with};
use defib_sim::defib::Defib;
use defib_sim::time::{hours, mins};

fn tape(directory: &Path) -> DirectTape {
    let settings = RecordSettings {
        directory: directory.to_owned(),
        max_bytes: 1 << 30,
        program: "test".to_owned(),
        replica: "simulated".to_owned(),
    };
    DirectTape::start(settings).expect("the directory can be used")
}

fn record(directory: &Path, mode: Mode, seed: u64) {
    let climate = Climate { workspaces: 16, engines: 2, fault_every: mins(3), length: hours(5) };
    record_in(climate, directory, mode, seed);
}

fn record_in(climate: Climate, directory: &Path, mode: Mode, seed: u64) {
    let tape = tape(directory);
    let lived = live_with(climate, seed, |world| {
        world.settings.mode = mode;
        world.put_on_trial(Box::new(Defib::recorded(&world.settings, Box::new(tape))));
    });
    assert!(lived.faults > 20, "nothing happened");
}

fn replay(directory: &Path, set: &[&str], against: &[&str]) -> Report {
    let set: Vec<String> = set.iter().map(|pair| (*pair).to_owned()).collect();
    let request = Request {
        directory: directory.to_owned(),
        since: None,
        changes: Changes::parse(&set).expect("good settings"),
        against: against.iter().map(|name| (*name).to_owned()).collect(),
    };
    run(&request, &mut |_, _| {}).expect("a report")
}

/// Faults of every kind, restarts of the daemon included.
#[test]
fn with_the_recorded_settings_chaos_gives_the_recorded_verdicts_and_orders() {
    for seed in [1, 2] {
        let directory = tempfile::tempdir().expect("a directory");
        record(directory.path(), Mode::Enforce, seed);
        let report = replay(directory.path(), &[], &[]);
        let exact = &report.exactness;
        assert_eq!(exact.differing, 0, "{exact:?}");
        assert!(exact.same_policy && exact.passes > 5_000 && exact.orders > 3 && exact.verdicts > 100, "{exact:?}");
        // What is refused is ordered again in the next pass; a life is restarted once.
        let defib = &report.results[0];
        assert!(defib.restarts > 5 && defib.restarts <= exact.orders, "{defib:?}");
        assert!(defib.needed > defib.untold && defib.not_needed <= 1, "{defib:?}");
    }
}

/// The short version of `make chaos-month`.
#[test]
fn days_of_chaos_are_replayed_exactly() {
    let directory = tempfile::tempdir().expect("a directory");
    let climate = Climate { workspaces: 12, fault_every: mins(20), ..Climate::of_days(2) };
    record_in(climate, directory.path(), Mode::Enforce, 5);
    let report = replay(directory.path(), &[], &[]);
    let (exact, recording) = (&report.exactness, &report.recording);
    assert!(exact.differing == 0 && exact.same_policy, "{exact:?}");
    assert!(exact.passes > 150_000 && exact.orders > 20 && exact.verdicts > 500, "{exact:?}");
    assert!(recording.gaps > 3 && recording.calls_lost == 0, "{recording:?}");
}

#[test]
fn other_settings_and_the_policies_of_others_are_told_apart() {
    let directory = tempfile::tempdir().expect("a directory");
    record(directory.path(), Mode::Observe, 3);
    let all: Vec<&str> = policies().collect();
    let report = replay(directory.path(), &["dead_threshold=9", "dead_window=5m", "probe_ttl=10m"], &all);
    assert_eq!(report.exactness.differing, 0, "{:?}", report.exactness);
    assert_eq!(report.exactness.orders, 0, "it only observed");
    let named = |name: &str| report.results.iter().find(|it| it.policy == name).expect("a result");
    let defib = &report.results[0];
    assert!(defib.restarts > 0 && defib.deaths > 0, "{defib:?}");
    assert!(defib.not_needed <= named("heartbeat-60s").not_needed, "{defib:?}");
    assert!(named("heartbeat-60s").restarts > 0 && named("sweep-15s").restarts > 0);
    for result in &report.results {
        assert_eq!(result.needed + result.not_needed + result.untold, result.restarts, "{result:?}");
        assert_eq!(result.answered + result.missed + result.ended_by_others, result.deaths, "{result:?}");
    }
    assert!(!report.differences.is_empty());
    let (text, page) = (report.text(), report.html());
    for part in ["exact: with the recorded settings", "heartbeat-60s", "defib --set dead_threshold=9"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(page.contains("<svg") && !page.contains("http"), "the page needs something else");
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["results"][0]["policy"], "defib");
}

/// The same fleet, once with reads of all rows and once with reads of what has changed: the contenders do equally well.
#[test]
fn a_recording_of_changes_gives_the_answer_that_one_of_all_rows_gives() {
    let all: Vec<&str> = policies().collect();
    let answer = |reads| {
        let directory = tempfile::tempdir().expect("a directory");
        let judge =
            Judge::new(Settings { mode: Mode::Observe, recent_min: Duration::from_secs(200), ..Settings::default() });
        let mut judge = Recorded::onto(judge, Box::new(tape(directory.path())));
        changes::drive(&mut judge, reads, 24, 1_200);
        drop(judge);
        // A window that is shorter than the recorded one: it looks at workspaces that the recorded passes left out.
        let shorter = ["recent_min=10s", "recent_max=60s"];
        // And a configured interval of ten seconds, so that the second witness of one that is silent need not last for long.
        let sooner = ["busy_grace=30s", "wedged_after=60s", "wedged_action=restart", "heartbeat_interval=10s"];
        replay(directory.path(), &[&shorter[..], &sooner].concat(), &all)
    };
    let (whole, changes) = (answer(Reads::All), answer(Reads::Changes));
    assert_eq!((whole.exactness.differing, changes.exactness.differing), (0, 0), "{:?}", changes.exactness);
    assert!(whole.exactness.calls == 0 && changes.exactness.calls > 200, "{:?}", changes.exactness);
    assert!(changes.recording.left_out > 2_000 && whole.recording.left_out == 0, "{:?}", changes.recording);
    assert!(changes.text().contains("reads of what had changed"), "{}", changes.text());
    let seconds = |it: &Report| it.recording.workspace_seconds.round();
    assert!((seconds(&whole) - seconds(&changes)).abs() < 1.0, "{} and {}", seconds(&whole), seconds(&changes));
    for (whole, changes) in whole.results.iter().zip(&changes.results) {
        let facts = |it: &defib_backtest::ContenderResult| {
            (it.restarts, it.needed, it.not_needed, it.untold, it.deaths, it.answered, it.missed)
        };
        assert_eq!(facts(whole), facts(changes), "{}: {whole:?} and {changes:?}", whole.policy);
        assert_eq!(whole.mistake_duration_mean_seconds, changes.mistake_duration_mean_seconds, "{}", whole.policy);
        assert_eq!(whole.detection_median_seconds, changes.detection_median_seconds, "{}", whole.policy);
    }
    let said = |it: &Report| -> Vec<_> {
        it.differences.iter().map(|it| (it.workspace.clone(), it.at.clone(), it.defib_said.clone())).collect()
    };
    assert_eq!(said(&whole), said(&changes));
    let (recorded, sooner) = (&changes.results[0], &changes.results[1]);
    assert!(recorded.not_needed == 0 && sooner.not_needed == 1, "{recorded:?} and {sooner:?} {}", changes.text());
}

#[test]
fn what_does_not_exist_is_refused_with_the_nearest() {
    let directory = tempfile::tempdir().expect("a directory");
    let request = |against: &str| Request {
        directory: directory.path().to_owned(),
        since: None,
        changes: Changes::default(),
        against: vec![against.to_owned()],
    };
    let refused = |against: &str| run(&request(against), &mut |_, _| {}).expect_err("refused").to_string();
    assert!(refused("docker-autoheel").contains("did you mean docker-autoheal?"), "{}", refused("docker-autoheel"));
    assert!(refused("heartbeat-90s").contains("holds no recording"), "{}", refused("heartbeat-90s"));
}
