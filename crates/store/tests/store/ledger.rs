//! The ledger after the claim: ends, recoveries, what is read back, what the platform is told.

use std::time::Duration;

use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::id::WorkspaceId;
use defib_store::{FleetScope, ListenEvent, ListenSettings, MayAct, listen};
use serde_json::json;

use crate::fixture::{Fixture, SOON, lease};

const RESET: Duration = Duration::from_secs(600);

async fn attempts(fixture: &Fixture) -> Vec<(String, u32, Option<Outcome>)> {
    let read = fixture.store.read_attempts(FleetScope::All, RESET).await.unwrap();
    read.iter().map(|a: &Attempt| (a.workspace.to_string(), a.attempt, a.outcome)).collect()
}

#[tokio::test]
async fn an_attempt_ends_once_and_keeps_its_error_whatever_is_in_it() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let id = fixture.grant("w", 1, 1).await;
    let error = format!("nul \0 and {}", "ü".repeat(5_000));
    assert!(fixture.store.finish(id, Outcome::Failed, Some(&error)).await.unwrap());
    assert!(!fixture.store.finish(id, Outcome::Succeeded, None).await.unwrap());
    assert_eq!(
        fixture.text("select outcome || length(error) || (error like 'nul \u{fffd} and ü%') from defib.restarts").await,
        "failed2000true"
    );
}

#[tokio::test]
async fn the_platform_hears_of_ends_recoveries_and_losses() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let settings = ListenSettings { url: fixture.url.clone(), application_name: "t".into(), connect_timeout: SOON };
    let mut listener = listen(&settings, &["defib_events"]).unwrap();
    assert_eq!(listener.next().await, ListenEvent::Connected);
    let engine = "default".into();
    let id = fixture.grant("w", 1, 1).await;
    fixture.store.finish(id, Outcome::Succeeded, None).await.unwrap();
    fixture.store.recovered(id, &"w".into()).await.unwrap();
    assert!(fixture.store.take_back(&"w".into(), &json!({})).await.unwrap());
    assert!(fixture.store.mark_lost(&"w".into(), &fixture.evidence("w").await, lease(&engine)).await.unwrap());
    assert!(fixture.store.owe(&"w".into()).await.unwrap());
    assert!(fixture.store.take_back(&"w".into(), &json!({})).await.unwrap());
    assert!(!fixture.store.take_back(&"w".into(), &json!({})).await.unwrap(), "it was taken back");
    assert!(!fixture.store.mark_lost(&"unknown".into(), &json!({}), lease(&engine)).await.unwrap());
    let mut heard = Vec::new();
    while heard.len() < 4 {
        let event = tokio::time::timeout(SOON, listener.next()).await.unwrap();
        let ListenEvent::Notified { payload, .. } = event else { panic!("{event:?}") };
        heard.push(serde_json::from_str::<serde_json::Value>(&payload).unwrap());
    }
    let restart =
        json!({"event": "restart", "id": id, "workspace_id": "w", "engine": "default", "outcome": "succeeded"});
    let told = |event| json!({"event": event, "workspace_id": "w"});
    assert_eq!(heard, [restart, told("recovered"), told("lost"), told("recovered")]);
}

#[tokio::test]
async fn attempts_are_read_while_their_run_matters() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.restarts (workspace_id, engine, container_id, attempt, verdict, claimed_at, acting_at, finished_at, outcome,
                                         recovered_at, run_ended_at, acknowledged_at)
             select w, 'e', n::text, n, 'dead', now() - age, now() - age, now() - age, outcome, now() - back, now() - back, now() - ack from (values
                ('crash-loop', 1, interval '25 min', 'succeeded', interval '24 min', null::interval),
                ('crash-loop', 2, interval '15 min', 'succeeded', interval '14 min', null),
                ('crash-loop', 3, interval '5 min', 'succeeded', interval '4 min', null),
                ('well-since', 1, interval '25 min', 'succeeded', interval '24 min', null),
                ('never-back', 1, interval '40 days', 'failed', null, null),
                ('never-back', 2, interval '9 days', 'failed', null, null),
                ('acked', 1, interval '9 min', 'failed', null, interval '1 min'))
                as t(w, n, age, outcome, back, ack);
             insert into defib.restarts (workspace_id, engine, attempt, verdict) values ('open', 'e', 1, 'dead');
             insert into defib.restarts (workspace_id, engine, attempt, verdict, finished_at, outcome, run_ended_at)
             select 'open', 'e', 1, 'dead', now(), 'vetoed', now() from generate_series(1, 30)",
        )
        .await;
    let succeeded = Some(Outcome::Succeeded);
    let read = attempts(&fixture).await;
    let of = |id: &str| read.iter().filter(|row| row.0 == id).map(|row| (row.1, row.2)).collect::<Vec<_>>();
    assert_eq!(of("crash-loop"), [(3, succeeded), (2, succeeded), (1, succeeded)], "newest first, unbroken");
    assert_eq!(of("well-since"), []);
    assert_eq!(of("never-back"), [(2, Some(Outcome::Failed)), (1, Some(Outcome::Failed))]);
    assert_eq!(of("acked"), []);
    assert_eq!(of("open").len(), 9, "refusals do not crowd out what counts");
    assert!(of("open").contains(&(1, None)));

    let only = [WorkspaceId::from("crash-loop")];
    let read = fixture.store.read_attempts(FleetScope::Some(&only), RESET).await.unwrap();
    assert_eq!(read.len(), 3);
    let ago = |minutes: u64| Duration::from_secs(minutes * 60);
    assert!(read[0].claimed_ago >= ago(5) && read[0].claimed_ago < ago(6), "{:?}", read[0]);
    assert!(read[0].recovered_ago.unwrap() >= ago(4) && read[0].finished_ago.unwrap() >= ago(5));
}

#[tokio::test]
async fn of_a_long_run_the_newest_twenty_are_read() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.restarts (workspace_id, engine, attempt, verdict, acting_at, finished_at, outcome)
             select 'w', 'e', n, 'dead', now(), now(), 'failed' from generate_series(1, 50) n",
        )
        .await;
    let numbers: Vec<u32> = attempts(&fixture).await.iter().map(|row| row.1).collect();
    assert_eq!(numbers, (31..=50).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn whoever_owns_the_engine_sees_what_is_under_way_and_how_far_it_came() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let id = fixture.grant("w", 5, 1).await;
    let open = async || fixture.store.open_attempts(&["default".into()]).await.unwrap();
    let left = open().await;
    let [left] = left.as_slice() else { panic!("{left:?}") };
    assert_eq!((left.id, left.workspace.as_str(), left.engine.as_str()), (id, "w", "default"));
    assert_eq!((left.container_id.as_ref().unwrap().as_str(), left.started_at.unwrap().0), ("c0ffee", 5_000_000));
    assert_eq!((left.claimed_by.as_deref(), left.epoch, &*left.verdict), (Some("replica-1"), 7, "dead"));
    assert_eq!((left.acting, left.overdue_by, left.elsewhere), (false, None, false));
    for (change, elsewhere) in [("status = 'paused'", false), ("engine = 'other'", true), ("engine = 'default'", false)]
    {
        fixture.run(&format!("update defib.workspaces set {change}")).await;
        assert_eq!(open().await[0].elsewhere, elsewhere, "{change}");
    }
    fixture.run("update defib.workspaces set status = 'online'").await;

    assert_eq!(fixture.may_act(id).await, MayAct::Yes);
    assert_eq!((open().await[0].acting, open().await[0].overdue_by), (true, None));
    fixture.run("update defib.restarts set deadline_at = now() - interval '1 second'").await;
    let overdue_by = open().await[0].overdue_by.unwrap();
    assert!(overdue_by >= Duration::from_secs(1) && overdue_by < Duration::from_secs(60), "{overdue_by:?}");
    assert!(fixture.store.open_attempts(&["other".into()]).await.unwrap().is_empty());
    assert!(fixture.store.finish(id, Outcome::Abandoned, None).await.unwrap());
    assert!(open().await.is_empty());
}

#[tokio::test]
async fn an_attempt_that_has_not_turned_to_its_engine_can_be_abandoned_and_one_that_has_can_not() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let first = fixture.grant("w", 5, 1).await;
    assert!(fixture.store.abandon_unasked(first, "its owner is gone").await.unwrap());
    assert_eq!(fixture.may_act(first).await, MayAct::NotOwner, "whoever wakes up now may not act any more");
    let second = fixture.grant("w", 5, 2).await;
    assert_eq!(fixture.may_act(second).await, MayAct::Yes);
    assert!(!fixture.store.abandon_unasked(second, "its owner is gone").await.unwrap());
    assert!(fixture.store.finish(second, Outcome::Succeeded, None).await.unwrap());
}

#[tokio::test]
async fn an_attempt_is_without_an_owner_when_no_live_replica_has_its_engine_and_nobody_its_lease() {
    let fixture = Fixture::new().await;
    fixture.run("delete from defib.leases").await;
    fixture
        .run(
            "insert into defib.restarts (workspace_id, engine, attempt, epoch, verdict, claimed_by, deadline_at) values
                ('on-ours', 'ours', 1, 1, 'dead', 'r', now() + interval '1 minute'),
                ('on-gone', 'gone', 1, 1, 'dead', 'r', now() - interval '1 minute');
             insert into defib.replicas (replica, engines, fit, expires_at) values
                ('r', '{ours}', '{ours}', now() + interval '1 minute'),
                ('former', '{gone}', '{gone}', now() - interval '1 second')",
        )
        .await;
    let without = async || {
        let open = fixture.store.attempts_without_owner().await.unwrap();
        open.iter().map(|it| format!("{} {}", it.workspace, it.overdue_by.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(without().await, ["on-gone true"]);
    // Its owner has not been heard of, but its lease is not over.
    fixture
        .run("insert into defib.leases (engine, holder, epoch, expires_at) values ('gone', 'former', 1, now() + interval '1 minute')")
        .await;
    assert!(without().await.is_empty());
    fixture.run("update defib.leases set expires_at = now() - interval '1 second'").await;
    assert_eq!(without().await, ["on-gone true"]);
    fixture.run("update defib.replicas set expires_at = now() + interval '1 minute' where replica = 'former'").await;
    assert!(without().await.is_empty(), "a live replica has it, and will own it at its next turn");
    fixture.run("update defib.replicas set expires_at = now() - interval '1 second'").await;
    assert_eq!(without().await, ["on-ours false", "on-gone true"]);
}

/// The new owner's settling and the old owner's turn to the engine meet on the row: whichever is second sees the first.
#[tokio::test]
async fn of_settling_and_acting_at_once_exactly_one_wins() {
    for _ in 0..20 {
        let fixture = Fixture::new().await;
        fixture.workspace("w").await;
        let id = fixture.grant("w", 5, 1).await;
        let (acts, abandoned) = tokio::join!(fixture.may_act(id), fixture.store.abandon_unasked(id, "gone"));
        assert_ne!(acts == MayAct::Yes, abandoned.unwrap(), "{acts:?}");
    }
}
