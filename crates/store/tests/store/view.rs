//! What people are shown: the whole fleet, the whole story, the whole truth about the database.

use std::time::Duration;

use defib_policy::attempt::Outcome;
use defib_store::{EventRow, EventSubject, HoldScope, NewHold, NewSuspicion, SchemaState, TimelineWhat, VerdictRow};
use serde_json::json;

use crate::fixture::{Fixture, store};

#[tokio::test]
async fn a_workspaces_story_is_told_in_order() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let store = &fixture.store;
    store
        .suspect(NewSuspicion {
            workspace: "w",
            reporter: "p",
            reason: "refused",
            http_status: Some(502),
            detail: None,
        })
        .await
        .unwrap();
    let event = EventRow {
        about: EventSubject::Workspace("w".into()),
        from: None,
        to: "dead".into(),
        evidence: json!({"n": 1}),
    };
    let verdict = VerdictRow {
        workspace: "w".into(),
        verdict: "dead",
        since_ago: Duration::from_secs(5),
        engine: "default".into(),
        rule: "stopped_stale".into(),
        because: "it stopped".into(),
        evidence: json!({"n": 1}),
        held: None,
    };
    store.record_events(&[event]).await.unwrap();
    store.record_verdicts(&[verdict], &[]).await.unwrap();
    let id = fixture.grant("w", 1, 1).await;
    store.finish(id, Outcome::Failed, Some("engine said no")).await.unwrap();
    store
        .hold(&NewHold {
            scope: HoldScope::Engine("default".into()),
            owner: "ann",
            reason: "upgrade",
            expires_in: None,
        })
        .await
        .unwrap();
    store
        .hold(&NewHold {
            scope: HoldScope::Engine("other".into()),
            owner: "ann",
            reason: "elsewhere",
            expires_in: None,
        })
        .await
        .unwrap();

    let history = store.explain(&"w".into(), 50).await.unwrap();
    let told: Vec<String> = history
        .timeline
        .iter()
        .map(|entry| match &entry.what {
            TimelineWhat::Suspected { reason, .. } => format!("suspected {reason}"),
            TimelineWhat::Verdict { to, .. } => format!("verdict {to}"),
            TimelineWhat::Claimed { attempt, .. } => format!("claimed {attempt}"),
            TimelineWhat::Finished { outcome, error, .. } => {
                format!("{outcome} {}", error.as_deref().unwrap_or_default())
            }
            TimelineWhat::Held { scope, reason, .. } => format!("held {scope} {reason}"),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(
        told,
        ["suspected refused", "verdict dead", "claimed 1", "failed engine said no", "held engine upgrade"]
    );
    assert_eq!(history.holds.len(), 1);
    let row = history.workspace.unwrap();
    assert_eq!((row.status.as_deref(), row.engine.as_deref()), (Some("offline"), Some("default")));
    assert_eq!(row.verdict.as_ref().unwrap().because, "it stopped");
    assert_eq!(row.last_restart.as_ref().unwrap().outcome.as_deref(), Some("failed"));
    let overview = store.status().await.unwrap();
    assert_eq!((overview.len(), overview[0].last_restart.as_ref().map(|restart| restart.id)), (1, Some(id)));

    store.release(&HoldScope::Engine("default".into())).await.unwrap();
    store.acknowledge(&"w".into()).await.unwrap();
    let history = store.explain(&"w".into(), 50).await.unwrap();
    assert!(history.holds.is_empty());
    let last: Vec<_> = history.timeline.iter().rev().take(2).collect();
    assert!(
        matches!(last[0].what, TimelineWhat::Acknowledged { .. })
            && matches!(last[1].what, TimelineWhat::Released { .. })
    );
    assert!(history.timeline.is_sorted_by_key(|entry| entry.at));

    let nobody = store.explain(&"nobody".into(), 50).await.unwrap();
    assert!(nobody.workspace.is_none() && nobody.timeline.is_empty());
}

#[tokio::test]
async fn status_shows_those_that_are_not_watched_too() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.workspaces (id, status, parent_id, last_heartbeat_at) values
                ('a', 'paused', null, now() - interval '1 hour'), ('b', 'online', 'a', 'infinity'), ('c', 'provisioning', null, null)",
        )
        .await;
    let rows = fixture.store.status().await.unwrap();
    let seen: Vec<_> = rows.iter().map(|row| (row.id.as_str(), row.suspended, row.heartbeat_ago.is_some())).collect();
    assert_eq!(seen, [("a", Some(true), true), ("b", Some(true), false), ("c", Some(false), false)]);
    assert!(rows[0].heartbeat_ago.unwrap() >= Duration::from_secs(3_600));
}

#[tokio::test]
async fn check_tells_the_facts_with_and_without_a_schema() {
    let server = defib_testkit::PrivatePostgres::shared().await.unwrap();
    let url = server.create_database().await.unwrap();
    let facts = store(&url).check_facts().await.unwrap();
    assert_eq!(facts.schema, SchemaState::Missing);
    assert!(facts.privileges.iter().all(|privilege| !privilege.granted), "{:?}", facts.privileges);
    assert!(facts.fleet.is_err());

    let fixture = Fixture::on(url).await;
    fixture
        .run(
            "insert into defib.workspaces (id, status, last_heartbeat_at)
             select 'w' || n, 'online', now() - n * interval '1 second' from generate_series(1, 100) n;
             insert into defib.workspaces (id, status, last_heartbeat_at)
             values ('x', 'paused', null), ('y', 'offline', null), ('z', 'online', now() + interval '1 hour'), ('i', 'online', 'infinity')",
        )
        .await;
    let facts = fixture.store.check_facts().await.unwrap();
    assert_eq!((facts.schema, facts.in_recovery, facts.read_only), (SchemaState::Current, false, false));
    assert_eq!(facts.user, "postgres");
    assert!(facts.server_version.chars().next().unwrap().is_ascii_digit());
    assert!(facts.privileges.iter().all(|privilege| privilege.granted));
    assert!(facts.roles.len() == 3 && facts.roles.iter().all(|role| role.exists && role.ours));
    assert!(
        facts.now.since(facts.our_now) + facts.our_now.since(facts.now) < Duration::from_secs(1),
        "one machine, one clock"
    );
    let fleet = facts.fleet.unwrap();
    let by_status: Vec<_> = fleet.by_status.iter().map(|(status, n)| (status.as_deref().unwrap(), *n)).collect();
    assert_eq!(by_status, [("online", 102), ("offline", 1), ("paused", 1)]);
    assert_eq!((fleet.suspended, fleet.never_beat), (1, 2));
    let [youngest, median, late, oldest] = fleet.heartbeat_ages.unwrap().map(|age| age.as_secs());
    assert_eq!(youngest, 0, "of the future");
    assert!(
        (49..=54).contains(&median) && (94..=99).contains(&late) && (100..=104).contains(&oldest),
        "{median} {late} {oldest}"
    );
}
