//! Suspicions: whatever is said is kept harmless, and taken once.

use std::collections::HashSet;

use defib_store::{ListenEvent, ListenSettings, NewSuspicion, listen};
use tokio::task::JoinSet;

use crate::fixture::{Fixture, SOON, store};

#[tokio::test]
async fn text_is_cut_and_control_characters_are_spelled_out_except_in_the_id() {
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
    assert_eq!((lengths, cut.http_status), ([101, 100, 100, 1_000], Some(502)));
    assert!(cut.workspace.as_str().ends_with('…'), "nobody who is judged has that id");
    // The id stays as it is: whoever has such an id is judged by it.
    assert_eq!((spelled.workspace.as_str(), spelled.reporter.as_str()), ("w\u{1b}[2J", "a\\x0ab"));
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
    fixture.run("select defib.report_suspicion('a', 'another', 'r')").await;
    assert_eq!(fixture.store.take_suspicions(100).await.unwrap().len(), 3);
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
    assert_eq!(heard, ["a", "b", "a", &format!("{}…", "z".repeat(100)), "last"]);
}

#[tokio::test]
async fn ids_of_512_bytes_are_reported_as_they_are() {
    let fixture = Fixture::new().await;
    let id = format!("{}\u{1b}\u{202e}", "ü".repeat(254));
    assert_eq!(id.len(), 512);
    fixture.run(&format!("insert into defib.workspaces (id) values ('{id}')")).await;
    let suspicion = NewSuspicion { workspace: &id, reporter: "p", reason: "r", ..NewSuspicion::default() };
    fixture.store.suspect(suspicion).await.unwrap();
    let taken = fixture.store.take_suspicions(5).await.unwrap();
    assert_eq!(fixture.fleet().await, [taken[0].workspace.as_str()]);
}

#[tokio::test]
async fn a_report_is_kept_once_for_a_login_a_name_and_a_reason_until_it_is_taken() {
    let fixture = Fixture::new().await;
    let url = crate::privileges::login(&fixture, "defib_reporter").await;
    let proxy = defib_testkit::postgres::connect(&url).await.unwrap();
    for (reporter, reason) in [("p", "r"), ("p", "r"), ("q", "r"), ("p", "s"), ("p", "r")] {
        let sql = format!("select defib.report_suspicion('w', '{reporter}', '{reason}')");
        fixture.run(&sql).await;
        proxy.batch_execute(&sql).await.unwrap();
    }
    let taken = fixture.store.take_suspicions(100).await.unwrap();
    let told: Vec<(bool, &str, &str)> =
        taken.iter().map(|it| (it.login == "postgres", it.reporter.as_str(), it.reason.as_str())).collect();
    let each = |reporter, reason| [(true, reporter, reason), (false, reporter, reason)];
    assert_eq!(told, [each("p", "r"), each("q", "r"), each("p", "s")].concat());
    fixture.run("select defib.report_suspicion('w', 'p', 'r')").await;
    assert_eq!(fixture.store.take_suspicions(100).await.unwrap().len(), 1, "the first one was taken");
}

#[tokio::test]
async fn a_login_that_uses_a_new_name_for_each_report_fills_no_table() {
    let fixture = Fixture::new().await;
    fixture.run("select defib.report_suspicion('w', 'request ' || n, 'r') from generate_series(1, 5000) n").await;
    assert_eq!(fixture.text("select count(*) from defib.suspicions").await, "32");
}

#[tokio::test]
async fn a_flood_about_one_workspace_leaves_a_row_for_each_reporter() {
    let fixture = Fixture::new().await;
    let mut flood = JoinSet::new();
    for client in 0..4 {
        let proxy = fixture.another().await;
        flood.spawn(async move {
            for round in 0..50 {
                let sql = format!(
                    "select defib.report_suspicion('w', 'proxy ' || n % 3, 'refused', 502, 'request {client}-{round}')
                       from generate_series(1, 100) n"
                );
                proxy.batch_execute(&sql).await.unwrap();
            }
        });
    }
    flood.join_all().await;
    assert_eq!(fixture.text("select count(*) from defib.suspicions").await, "3");
}

/// While daemons take suspicions, a report may be dropped if the look that the daemon is about to make answers it as well. No report may be
/// kept twice, and none that comes later may be lost.
#[tokio::test]
async fn reports_and_takers_at_once_keep_each_once_and_lose_none_that_comes_later() {
    let fixture = Fixture::new().await;
    let mut reporting = JoinSet::new();
    for _ in 0..3 {
        let proxy = fixture.another().await;
        reporting.spawn(async move {
            for n in 0..300 {
                let sql = format!("select defib.report_suspicion('w{}', 'p', 'r')", n % 5);
                proxy.batch_execute(&sql).await.unwrap();
            }
        });
    }
    let mut taken = 0;
    while !reporting.is_empty() {
        taken += fixture.store.take_suspicions(100).await.unwrap().len();
        while reporting.try_join_next().is_some() {}
    }
    assert!(taken >= 5, "{taken}");
    let twice = "select count(*) from (select from defib.suspicions where taken_at is null group by workspace_id having count(*) > 1) t";
    assert_eq!(fixture.text(twice).await, "0");
    fixture.store.take_suspicions(100).await.unwrap();
    fixture.run("select defib.report_suspicion('w1', 'p', 'r')").await;
    assert_eq!(fixture.store.take_suspicions(100).await.unwrap().len(), 1);
}

/// A platform that reports in the middle of its own long transaction keeps no other reporter waiting.
#[tokio::test]
async fn a_report_waits_for_no_transaction_of_anybody_else() {
    let fixture = Fixture::new().await;
    let slow = fixture.another().await;
    slow.batch_execute("begin; select defib.report_suspicion('w', 'p', 'r')").await.unwrap();
    let began = std::time::Instant::now();
    fixture.run("select defib.report_suspicion('w', 'p', 'r')").await;
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    slow.batch_execute("commit").await.unwrap();
    assert_eq!(fixture.store.take_suspicions(10).await.unwrap().len(), 1);
}

/// `vacuum full` locks the table so that it cannot even be read. A platform reports in the middle of a transaction of its own, which must not end
/// for that.
#[tokio::test]
async fn while_the_table_is_locked_a_report_is_dropped_and_its_callers_transaction_goes_on() {
    let fixture = Fixture::new().await;
    let (locker, platform) = (fixture.another().await, fixture.another().await);
    locker.batch_execute("begin; lock table defib.suspicions in access exclusive mode").await.unwrap();
    platform.batch_execute("begin; select defib.report_suspicion('w', 'p', 'r'); select 1; commit").await.unwrap();
    locker.batch_execute("commit").await.unwrap();
    assert_eq!(fixture.store.take_suspicions(10).await.unwrap().len(), 0);
    platform.batch_execute("select defib.report_suspicion('w', 'p', 'r')").await.unwrap();
    assert_eq!(fixture.store.take_suspicions(10).await.unwrap().len(), 1);
}
