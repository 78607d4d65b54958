//! Suspicions: whatever is said is kept harmless, and taken once.

use std::collections::HashSet;

use defib_store::{ListenEvent, ListenSettings, NewSuspicion, listen};
use tokio::task::JoinSet;

use crate::fixture::{Fixture, SOON, store};

#[tokio::test]
async fn text_is_cut_and_control_characters_are_spelled_out() {
    let fixture = Fixture::new().await;
    let long = "ü".repeat(3_000);
    fixture
        .store
        .suspect(NewSuspicion {
            workspace: &long,
            reporter: &long,
            reason: &long,
            http_status: Some(502),
            detail: Some(&long),
        })
        .await
        .unwrap();
    fixture
        .store
        .suspect(NewSuspicion {
            workspace: "w\u{1b}[2J",
            reporter: "a\nb",
            reason: "nul\0 tab\t del\u{7f} c1\u{9b}",
            http_status: None,
            detail: Some("turn \u{202e}around\u{2028} 'quoted' \\x1b ö"),
        })
        .await
        .unwrap();
    let taken = fixture.store.take_suspicions(10).await.unwrap();
    let [cut, spelled] = taken.as_slice() else { panic!("{taken:?}") };
    let lengths =
        [cut.workspace.as_str(), &cut.reporter, &cut.reason, cut.detail.as_ref().unwrap()].map(|t| t.chars().count());
    assert_eq!((lengths, cut.http_status), ([200, 100, 100, 1_000], Some(502)));
    assert_eq!((spelled.workspace.as_str(), spelled.reporter.as_str()), ("w\\x1b[2J", "a\\x0ab"));
    assert_eq!(spelled.reason, "nul\u{fffd} tab\\x09 del\\x7f c1\\x9b");
    assert_eq!(spelled.detail.as_deref(), Some("turn \\u202earound\\u2028 'quoted' \\x1b ö"));
}

#[tokio::test]
async fn a_report_never_fails_for_what_it_says() {
    let fixture = Fixture::new().await;
    for call in [
        "defib.report_suspicion(null, null, null)",
        "defib.report_suspicion('', '', '')",
        "defib.report_suspicion('unknown', null, null, null, null)",
        "defib.report_suspicion('w', repeat(E'\\x1b', 100000), repeat('x', 1000000), -1, repeat(E'\\n', 1000000))",
        "defib.report_suspicion(workspace_id => 'w', reporter => 'p', reason => 'r')",
    ] {
        fixture.run(&format!("select {call}")).await;
    }
    let taken = fixture.store.take_suspicions(10).await.unwrap();
    assert_eq!(taken.len(), 4, "one was about nobody");
    assert_eq!((taken[1].reporter.as_str(), taken[1].reason.as_str()), ("postgres", "unspecified"));
    assert_eq!(taken[2].detail.as_ref().unwrap().chars().count(), 1_000, "spelled out, and still within bounds");
}

#[tokio::test]
async fn one_that_becomes_visible_late_is_taken_all_the_same() {
    let fixture = Fixture::new().await;
    let slow = fixture.another().await;
    slow.batch_execute("begin; select defib.report_suspicion('slow', 'p', 'r')").await.unwrap(); // draws the smaller id
    fixture.run("select defib.report_suspicion('quick', 'p', 'r')").await;
    let first = fixture.store.take_suspicions(10).await.unwrap();
    slow.batch_execute("commit").await.unwrap();
    let second = fixture.store.take_suspicions(10).await.unwrap();
    assert_eq!((first[0].workspace.as_str(), second[0].workspace.as_str()), ("quick", "slow"));
    assert!(second[0].id < first[0].id);
    assert!(fixture.store.take_suspicions(10).await.unwrap().is_empty());
    assert_eq!(fixture.text("select count(*) from defib.suspicions where taken_by = 'defib-test'").await, "2");
}

#[tokio::test]
async fn each_is_taken_by_one_of_many_takers_and_never_more_than_asked_for() {
    let fixture = Fixture::new().await;
    fixture.run("select defib.report_suspicion('w' || n, 'p', 'r') from generate_series(1, 1000) n").await;
    let mut takers = JoinSet::new();
    for _ in 0..4 {
        let store = store(&fixture.url);
        takers.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let taken = store.take_suspicions(37).await.unwrap();
                assert!(taken.len() <= 37);
                assert!(taken.is_sorted_by_key(|suspicion| suspicion.id));
                if taken.is_empty() {
                    return mine;
                }
                mine.extend(taken.into_iter().map(|suspicion| suspicion.id));
            }
        });
    }
    let all: Vec<i64> = takers.join_all().await.into_iter().flatten().collect();
    assert_eq!((all.len(), all.iter().collect::<HashSet<_>>().len()), (1_000, 1_000));
}

#[tokio::test]
async fn only_the_first_pending_one_of_a_workspace_notifies() {
    let fixture = Fixture::new().await;
    let settings = ListenSettings { url: fixture.url.clone(), application_name: "t".into(), connect_timeout: SOON };
    let mut listener = listen(&settings, &["defib_suspicion"]).unwrap();
    assert_eq!(listener.next().await, ListenEvent::Connected);
    let say = |id: &str| format!("select defib.report_suspicion('{id}', 'p', 'r')");
    for id in ["a", "a", "b", "a", "b"] {
        fixture.run(&say(id)).await;
    }
    assert_eq!(fixture.store.take_suspicions(100).await.unwrap().len(), 5);
    for id in ["a", "a", &"z".repeat(9_000)] {
        fixture.run(&say(id)).await;
    }
    fixture.run("notify defib_suspicion, 'last'").await;
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "last") {
        match tokio::time::timeout(SOON, listener.next()).await.unwrap() {
            ListenEvent::Notified { payload, .. } => heard.push(payload),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard, ["a", "b", "a", &"z".repeat(200), "last"]);
}
