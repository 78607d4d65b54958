//! What daemons say of themselves and of their engines, and whose word counts.

use std::time::{Duration, SystemTime};

use defib_policy::id::EngineName;
use defib_policy::moment::Timestamp;
use defib_store::{CadenceRow, EngineReportRow, ReplicaReport};
use serde_json::json;

use crate::fixture::{Fixture, watched};

const MINUTE: Duration = Duration::from_secs(60);

/// The clock of this host, which is the database's host as well.
fn host_clock() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since_1970.as_micros()).unwrap())
}

fn word<'a>(engine: Option<&'a EngineName>, holder: &'a str) -> EngineReportRow<'a> {
    EngineReportRow {
        engine,
        holder,
        fault: None,
        asked_ago: Duration::from_secs(1),
        judged: 3,
        storm: None,
        good_for: MINUTE,
    }
}

/// Reports on one engine. Whether anything was written.
async fn is_written(fixture: &Fixture, report: &EngineReportRow<'_>) -> bool {
    let written = fixture.store.report_engines(std::slice::from_ref(report)).await.unwrap();
    written.contains(report.engine.map_or("", EngineName::as_str))
}

#[tokio::test]
async fn the_word_of_an_owner_counts_while_it_has_the_lease_and_its_next_pass_is_not_overdue() {
    let fixture = Fixture::new().await;
    let engine = EngineName::from("default");
    assert!(!is_written(&fixture, &word(Some(&engine), "replica-2")).await, "it has no lease");
    assert!(fixture.store.said().await.unwrap().engines.is_empty());

    let storm = json!({ "since_seconds": 4, "batch": 3, "canaries": ["a"], "waiting": 7 });
    let stormy =
        EngineReportRow { fault: Some("refused\0"), storm: Some(storm.clone()), ..word(Some(&engine), "replica-1") };
    assert!(is_written(&fixture, &stormy).await);
    let said = fixture.store.said().await.unwrap();
    let [of_default] = said.engines.as_slice() else { panic!("{said:?}") };
    assert_eq!((of_default.name.as_str(), of_default.holder.as_str()), ("default", "replica-1"));
    assert_eq!(of_default.fault.as_deref(), Some("refused\u{fffd}"));
    assert_eq!((of_default.judged, &of_default.storm), (3, &Some(storm)));
    assert!(of_default.last_pass_ago < MINUTE && of_default.overdue_for.is_none(), "{of_default:?}");

    let hasty = EngineReportRow { good_for: Duration::ZERO, ..word(Some(&engine), "replica-1") };
    assert!(is_written(&fixture, &hasty).await);
    let said = fixture.store.said().await.unwrap();
    assert!(said.engines[0].overdue_for.is_some() && said.engines[0].fault.is_none(), "{said:?}");

    fixture.run("update defib.leases set holder = 'replica-2', epoch = epoch + 1").await;
    assert!(fixture.store.said().await.unwrap().engines.is_empty(), "the former owner's word");
    assert!(!is_written(&fixture, &word(Some(&engine), "replica-1")).await);
}

#[tokio::test]
async fn of_several_engines_only_those_are_written_that_the_holder_owns_each_with_its_own_words() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.leases (engine, holder, expires_at)
             values ('a', 'replica-1', 'infinity'), ('b', 'replica-2', 'infinity'), ('c', 'replica-1', 'infinity')",
        )
        .await;
    let [a, b, c] = ["a", "b", "c"].map(EngineName::from);
    let storm = json!({ "since_seconds": 4, "batch": 3, "canaries": [], "waiting": 7 });
    let reports = [
        EngineReportRow { fault: Some("refused"), judged: 1, ..word(Some(&a), "replica-1") },
        EngineReportRow { judged: 2, ..word(Some(&b), "replica-1") },
        EngineReportRow { judged: 3, storm: Some(storm.clone()), ..word(Some(&c), "replica-1") },
    ];
    let written = fixture.store.report_engines(&reports).await.unwrap();
    assert_eq!(written.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "c"]);
    let said = fixture.store.said().await.unwrap();
    let told = |name: &str| said.engines.iter().find(|engine| engine.name == name);
    assert!(told("b").is_none());
    let (a, c) = (told("a").unwrap(), told("c").unwrap());
    assert_eq!((a.fault.as_deref(), a.judged, &a.storm), (Some("refused"), 1, &None));
    assert_eq!((c.fault.as_deref(), c.judged, &c.storm), (None, 3, &Some(storm)));
}

#[tokio::test]
async fn for_those_without_an_engine_the_holder_of_the_first_lease_speaks() {
    let fixture = Fixture::new().await;
    fixture.run("insert into defib.leases (engine, holder, expires_at) values ('a', 'replica-2', 'infinity')").await;
    assert!(!is_written(&fixture, &word(None, "replica-1")).await);
    assert!(is_written(&fixture, &word(None, "replica-2")).await);
    let said = fixture.store.said().await.unwrap();
    assert_eq!(said.engines.iter().map(|engine| engine.name.as_str()).collect::<Vec<_>>(), [""]);
    fixture.run("update defib.leases set expires_at = now() where engine = 'a'").await;
    assert!(fixture.store.said().await.unwrap().engines.is_empty());
}

#[tokio::test]
async fn a_replica_says_how_it_runs_and_is_remembered_for_an_hour() {
    let fixture = Fixture::new().await;
    let watched = watched();
    let report = ReplicaReport {
        replica: "r",
        mode: "observe",
        version: "1.2.3",
        watched_statuses: &watched,
        heartbeats_usable: true,
        last_pass_ago: MINUTE,
    };
    fixture.store.report_replica(&report).await.unwrap();
    assert!(fixture.store.said().await.unwrap().replicas.is_empty(), "its first turn makes the row");
    fixture
        .run(
            "insert into defib.replicas (replica, engines, fit, expires_at)
             values ('gone', '{default}', '{}', clock_timestamp() - interval '10 minutes'),
                    ('long gone', '{default}', '{}', clock_timestamp() - interval '2 hours'),
                    ('r', '{default,x}', '{}', clock_timestamp() + interval '10 seconds')",
        )
        .await;
    fixture.store.report_replica(&report).await.unwrap();
    let said = fixture.store.said().await.unwrap();
    let [gone, alive] = said.replicas.as_slice() else { panic!("{said:?}") };
    assert!(gone.gone_for.is_some_and(|ago| ago > 9 * MINUTE) && gone.mode.is_none() && gone.last_pass_ago.is_none());
    assert_eq!((alive.name.as_str(), alive.gone_for, alive.engines.len()), ("r", None, 2));
    assert_eq!((alive.mode.as_deref(), alive.version.as_deref()), (Some("observe"), Some("1.2.3")));
    assert_eq!(alive.watched_statuses.as_ref(), Some(&watched));
    assert!(alive.last_pass_ago.is_some_and(|ago| ago >= MINUTE), "{alive:?}");
}

#[tokio::test]
async fn a_step_of_the_clock_is_told_to_those_who_start_within_the_hour_and_forgotten_after_a_week() {
    let fixture = Fixture::new().await;
    let until = |seconds: i64| Timestamp((1_700_000_000 + seconds) * 1_000_000);
    let comparable_from =
        async || fixture.store.clock_history(60 * MINUTE, host_clock()).await.unwrap().comparable_from;
    assert_eq!(comparable_from().await, None);
    for seconds in [5, 9, 7] {
        fixture.store.note_clock(Some(until(seconds)), host_clock(), "replica-1").await.unwrap();
    }
    assert_eq!(comparable_from().await, Some(until(9)), "the latest stamp counts");
    fixture
        .run(
            "update defib.clock_steps set noticed_at = noticed_at + interval '10 years'
              where extract(epoch from comparable_from) = 1700000009",
        )
        .await;
    assert_eq!(comparable_from().await, Some(until(7)), "in ten years it is not lately either");
    fixture.run("update defib.clock_steps set noticed_at = noticed_at - interval '8 days'").await;
    assert_eq!(comparable_from().await, None);
    fixture.store.note_clock(Some(until(1)), host_clock(), "replica\u{0}").await.unwrap();
    let left: i64 = fixture.client.query_one("select count(*) from defib.clock_steps", &[]).await.unwrap().get(0);
    assert_eq!(left, 2, "the one of the future and the new one");
}

#[tokio::test]
async fn whoever_starts_learns_by_how_much_the_clock_was_ahead_whenever_that_was_written() {
    let fixture = Fixture::new().await;
    let host = |ahead: i64| host_clock().shifted(-ahead * 1_000_000);
    let is_about = |micros: i64, seconds: i64| (micros - seconds * 1_000_000).abs() < 1_000_000;
    let history = async |ahead| fixture.store.clock_history(60 * MINUTE, host(ahead)).await.unwrap();
    let at_first = history(100_000).await;
    assert_eq!((at_first.comparable_from, at_first.was_ahead), (None, None));
    assert!(is_about(at_first.is_ahead, 100_000), "more than a day: {}", at_first.is_ahead);
    fixture.store.note_clock(None, host(-7), "replica-1").await.unwrap();
    fixture.run("update defib.clock_steps set noticed_at = noticed_at - interval '1 year'").await;
    fixture.run("insert into defib.clock_steps (noticed_by) values ('an earlier version')").await;
    let later = history(40).await;
    assert!(later.was_ahead.is_some_and(|was| is_about(was, -7)) && is_about(later.is_ahead, 40), "{later:?}");
    assert_eq!(later.comparable_from, None, "no step was noticed");
    let now = host_clock();
    assert!(now.since(later.now).max(later.now.since(now)) < MINUTE);
}

#[tokio::test]
async fn learned_intervals_are_kept_and_the_old_ones_go() {
    let fixture = Fixture::new().await;
    let row = |id: &str, mean_ms| CadenceRow {
        workspace: id.into(),
        mean_ms,
        deviation_ms: 2.5,
        intervals: 9,
        window: Some(Duration::from_secs(75)),
        container_id: Some("c0ffee".into()),
        started_at: Some(Timestamp(1_700_000_000_000_000)),
        own_settings: vec!["threshold 3 (fleet: 2)".to_owned()],
    };
    fixture.store.save_cadences(&[row("b", 10_000.0), row("a", 30_000.0)]).await.unwrap();
    fixture.store.save_cadences(&[row("b", 11_000.0)]).await.unwrap();
    fixture.store.save_cadences(&[]).await.unwrap();
    assert_eq!(fixture.store.read_cadences(10).await.unwrap(), [row("b", 11_000.0), row("a", 30_000.0)]);
    assert_eq!(fixture.store.read_cadences(1).await.unwrap(), [row("b", 11_000.0)]);
    fixture.run("update defib.cadences set updated_at = now() - interval '8 days' where workspace_id = 'a'").await;
    assert_eq!(fixture.store.forget_cadences(Duration::from_secs(7 * 86_400), 10).await.unwrap(), 1);
    assert_eq!(fixture.store.read_cadences(10).await.unwrap(), [row("b", 11_000.0)]);
}

#[tokio::test]
async fn those_that_beat_less_than_twice_within_the_longest_window_are_counted() {
    let fixture = Fixture::new().await;
    for id in ["often", "seldom", "most-seldom"] {
        fixture.workspace(id).await;
    }
    fixture
        .run(
            "insert into defib.cadences (workspace_id, mean_ms, deviation_ms, intervals)
             values ('often', 2000, 0, 9), ('seldom', 2100, 0, 9), ('most-seldom', 3000, 0, 9), ('gone', 9000, 0, 9), ('new', 9000, 0, 0)",
        )
        .await;
    let seldom = fixture.store.seldom_beats(Duration::from_secs(4)).await.unwrap().unwrap();
    assert_eq!(
        (seldom.workspaces, seldom.example.as_str(), seldom.interval),
        (2, "most-seldom", Duration::from_secs(3))
    );
    assert_eq!(fixture.store.seldom_beats(Duration::from_secs(6)).await.unwrap(), None);
}
