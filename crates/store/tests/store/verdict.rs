//! Recording: thousands at once, over what stands, whatever the evidence holds; and nobody's row keeps another's out.

use std::time::{Duration, Instant};

use defib_policy::id::WorkspaceId;
use defib_store::{EventRow, EventSubject, VerdictRow};
use defib_testkit::eventually;
use serde_json::json;
use tokio::task::JoinSet;

use crate::fixture::{Fixture, SOON, store};

fn verdict(id: &str, verdict: &'static str) -> VerdictRow {
    VerdictRow {
        workspace: id.into(),
        verdict,
        since_ago: Duration::from_secs(90),
        engine: "e".into(),
        rule: "4.4".into(),
        because: "stopped \0 and silent".into(),
        evidence: json!({"exit_code": 137, "log": "nul \0 byte", "nested": ["\0"]}),
        held: Some("a hold\0".into()),
    }
}

fn event(about: EventSubject, from: Option<&str>, to: &str) -> EventRow {
    EventRow { about, from: from.map(str::to_owned), to: to.into(), evidence: json!({"misses": 2, "\0": 1}) }
}

fn of(id: &str) -> EventSubject {
    EventSubject::Workspace(id.into())
}

async fn stored(fixture: &Fixture) -> Vec<(String, String)> {
    let stored = fixture.store.read_verdicts().await.unwrap();
    stored.into_iter().map(|row| (row.workspace.to_string(), row.verdict)).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(id, verdict)| ((*id).to_owned(), (*verdict).to_owned())).collect()
}

#[tokio::test]
async fn a_batch_is_written_over_what_stands_and_read_back() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    assert_eq!(store.record_verdicts(&[], &[]).await.unwrap(), []);
    assert_eq!(store.record_events(&[]).await.unwrap(), []);
    let rows = [verdict("a", "suspect"), verdict("b", "silent"), verdict("c", "dead"), verdict("a", "dead")];
    assert_eq!(store.record_verdicts(&rows, &["c".into(), "never-there".into()]).await.unwrap(), []);
    store.record_verdicts(&[verdict("c", "silent")], &["b".into()]).await.unwrap();
    assert_eq!(stored(&fixture).await, pairs(&[("a", "dead"), ("c", "silent")]));
    let read = store.read_verdicts().await.unwrap();
    assert!(read[0].since_ago >= Duration::from_secs(90) && read[0].since_ago < Duration::from_secs(120));
    assert_eq!((read[0].engine.as_str(), read[0].rule.as_str()), ("e", "4.4"));
    assert_eq!(read[0].held.as_deref(), Some("a hold\u{fffd}"));
}

#[tokio::test]
async fn events_are_of_a_workspace_or_of_an_engine_and_keep_their_order() {
    let fixture = Fixture::new().await;
    let engine = EventSubject::Engine("e".into());
    let events = [
        event(of("a"), None, "suspect"),
        event(engine.clone(), Some("answers\0"), "gone\0"),
        event(of("a"), Some("suspect"), "dead"),
    ];
    assert_eq!(fixture.store.record_events(&events).await.unwrap(), []);
    let written = fixture
        .text(
            "select string_agg(concat_ws('>', workspace_id, engine, verdict_from, verdict_to), ' ' order by id) from defib.events",
        )
        .await;
    assert_eq!(written, "a>suspect e>answers\u{fffd}>gone\u{fffd} a>suspect>dead");
}

/// A constraint that somebody added to the tables stands for whatever a row may be refused for.
#[tokio::test]
async fn one_row_that_is_refused_costs_that_row() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "alter table defib.verdicts add check (workspace_id <> 'w0777');
             alter table defib.events add check (workspace_id <> 'w0777')",
        )
        .await;
    let ids: Vec<String> = (0..2_500).map(|n| format!("w{n:04}")).collect();
    let rows: Vec<VerdictRow> = ids.iter().map(|id| verdict(id, "dead")).collect();
    let events: Vec<EventRow> = ids.iter().map(|id| event(of(id), None, "dead")).collect();
    assert_eq!(fixture.store.record_verdicts(&rows, &[]).await.unwrap(), ["w0777".into()]);
    assert_eq!(fixture.store.record_events(&events).await.unwrap(), [of("w0777")]);
    assert_eq!(fixture.text("select count(*) from defib.verdicts").await, "2499");
    assert_eq!(fixture.text("select count(*) from defib.events").await, "2499");
}

#[tokio::test]
async fn a_row_that_somebody_has_locked_is_told_and_keeps_nobody_waiting() {
    let fixture = Fixture::new().await;
    fixture
        .store
        .record_verdicts(&[verdict("a", "dead"), verdict("b", "dead"), verdict("c", "dead")], &[])
        .await
        .unwrap();
    let other = fixture.another().await;
    other.batch_execute("begin; select from defib.verdicts where workspace_id in ('b', 'c') for update").await.unwrap();
    let began = Instant::now();
    let rows = [verdict("a", "silent"), verdict("b", "silent"), verdict("d", "silent")];
    let unwritten = fixture.store.record_verdicts(&rows, &["c".into()]).await.unwrap();
    assert_eq!(unwritten, ["b".into(), "c".into()]);
    assert!(began.elapsed() < Duration::from_millis(250), "{:?}", began.elapsed());
    assert_eq!(stored(&fixture).await, pairs(&[("a", "silent"), ("b", "dead"), ("c", "dead"), ("d", "silent")]));
    other.batch_execute("rollback").await.unwrap();
    assert_eq!(fixture.store.record_verdicts(&rows, &["c".into()]).await.unwrap(), []);
    assert_eq!(stored(&fixture).await, pairs(&[("a", "silent"), ("b", "silent"), ("d", "silent")]));
}

#[tokio::test]
async fn a_locked_table_is_given_up_soon_and_the_other_one_is_written() {
    let fixture = Fixture::new().await;
    let other = fixture.another().await;
    other.batch_execute("begin; lock table defib.events in share mode").await.unwrap();
    let began = Instant::now();
    let rows: Vec<EventRow> = (0..500).map(|n| event(of(&format!("w{n}")), None, "dead")).collect();
    let error = fixture.store.record_events(&rows).await.unwrap_err();
    assert_eq!((error.kind(), error.is_unavailable(), error.function()), ("lock", false, None));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(fixture.store.record_verdicts(&[verdict("a", "dead")], &[]).await.unwrap(), []);
    other.batch_execute("rollback").await.unwrap();
    assert_eq!(fixture.store.record_events(&rows).await.unwrap(), []);
}

/// A peer that was frozen in the middle of its transaction.
#[tokio::test]
async fn a_frozen_writer_is_ended_by_the_server_and_its_rows_are_written_by_others() {
    let fixture = Fixture::new().await;
    let frozen = fixture.another().await;
    frozen
        .batch_execute(
            "begin; set local idle_in_transaction_session_timeout = 1000;
             insert into defib.verdicts (workspace_id, verdict, engine, rule, because) values ('a', 'dead', 'e', 'r', 'b')",
        )
        .await
        .unwrap();
    let rows = [verdict("a", "silent"), verdict("b", "silent")];
    assert_eq!(fixture.store.record_verdicts(&rows, &[]).await.unwrap_err().kind(), "lock");
    eventually(SOON, "the frozen one's locks are gone", || async {
        fixture.store.record_verdicts(&rows, &[]).await.map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    assert_eq!(stored(&fixture).await, pairs(&[("a", "silent"), ("b", "silent")]));
}

/// Every replica writes again the rows that the others had locked, as the recorder does.
#[tokio::test]
async fn replicas_that_record_the_same_thousands_do_not_get_in_each_others_way() {
    let fixture = Fixture::new().await;
    let mut recording = JoinSet::new();
    for replica in 0..4_usize {
        let store = store(&fixture.url);
        recording.spawn(async move {
            for round in 0..5_usize {
                let mut ids: Vec<String> = (0..2_000).map(|n| format!("w{n}")).collect();
                ids.rotate_left((replica * 500 + round * 131) % 2_000);
                let (cleared, kept) = ids.split_at(300);
                let events: Vec<EventRow> = kept.iter().map(|id| event(of(id), None, "dead")).collect();
                assert_eq!(store.record_events(&events).await.unwrap(), []);
                let rows: Vec<VerdictRow> = kept.iter().map(|id| verdict(id, "dead")).collect();
                let cleared: Vec<WorkspaceId> = cleared.iter().map(|id| id.as_str().into()).collect();
                eventually(SOON, "all rows are written", || async {
                    match store.record_verdicts(&rows, &cleared).await {
                        Ok(unwritten) if unwritten.is_empty() => Ok(()),
                        Ok(unwritten) => Err(format!("{} are locked", unwritten.len())),
                        Err(error) if error.kind() == "lock" => Err(error.to_string()),
                        Err(error) => panic!("{error:?}"),
                    }
                })
                .await
                .unwrap();
            }
        });
    }
    recording.join_all().await;
    assert_eq!(fixture.text("select count(*) from defib.events").await, (4 * 5 * 1_700).to_string());
    assert_eq!(fixture.store.read_verdicts().await.unwrap().len(), 1_700);
}
