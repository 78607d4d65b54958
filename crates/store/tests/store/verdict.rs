//! Recording: thousands at once, over what stands, whatever the evidence holds.

use std::time::Duration;

use defib_policy::id::WorkspaceId;
use defib_store::{EventRow, RecordBatch, VerdictRow};
use serde_json::json;
use tokio::task::JoinSet;

use crate::fixture::{Fixture, store};

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

fn event(id: &str, from: Option<&str>, to: &str) -> EventRow {
    EventRow {
        workspace: id.into(),
        from: from.map(str::to_owned),
        to: to.into(),
        evidence: json!({"misses": 2, "\0": 1}),
    }
}

#[tokio::test]
async fn a_batch_is_written_over_what_stands_and_read_back() {
    let fixture = Fixture::new().await;
    fixture.store.record(&RecordBatch::default()).await.unwrap();
    let batch = RecordBatch {
        events: vec![event("a", None, "suspect"), event("a", Some("suspect"), "dead")],
        verdicts: vec![verdict("a", "suspect"), verdict("b", "silent"), verdict("c", "dead"), verdict("a", "dead")],
        cleared: vec!["c".into(), "never-there".into()],
    };
    fixture.store.record(&batch).await.unwrap();
    let clear =
        RecordBatch { cleared: vec!["b".into()], verdicts: vec![verdict("c", "silent")], ..RecordBatch::default() };
    fixture.store.record(&clear).await.unwrap();
    let stored = fixture.store.read_verdicts().await.unwrap();
    let seen: Vec<(&str, &str)> = stored.iter().map(|row| (row.workspace.as_str(), row.verdict.as_str())).collect();
    assert_eq!(seen, [("a", "dead"), ("c", "silent")]);
    assert!(stored[0].since_ago >= Duration::from_secs(90) && stored[0].since_ago < Duration::from_secs(120));
    assert_eq!((stored[0].engine.as_str(), stored[0].rule.as_str()), ("e", "4.4"));
    assert_eq!(stored[0].held.as_deref(), Some("a hold\u{fffd}"));
    let events = fixture
        .text("select string_agg(concat_ws('>', verdict_from, verdict_to), ' ' order by id) from defib.events")
        .await;
    assert_eq!(events, "suspect suspect>dead");
}

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
                let batch = RecordBatch {
                    events: kept.iter().map(|id| event(id, None, "dead")).collect(),
                    verdicts: kept.iter().map(|id| verdict(id, "dead")).collect(),
                    cleared: cleared.iter().map(|id| WorkspaceId::from(id.as_str())).collect(),
                };
                store.record(&batch).await.unwrap();
            }
        });
    }
    recording.join_all().await;
    assert_eq!(fixture.text("select count(*) from defib.events").await, (4 * 5 * 1_700).to_string());
    assert_eq!(fixture.store.read_verdicts().await.unwrap().len(), 1_700);
}
