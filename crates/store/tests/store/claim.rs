//! Claims: who may, who may not, and what happens while a claim waits.

use std::time::Duration;

use defib_policy::attempt::Outcome;
use defib_store::{Claimed, HoldScope, MayAct, NewHold};
use defib_testkit::eventually;
use serde_json::json;
use tokio::task::JoinSet;

use crate::fixture::{Fixture, SOON, claim, may_act, store};

#[tokio::test]
async fn a_claim_marks_the_workspace_offline_and_opens_an_attempt() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let id = fixture.grant("w", 1, 1).await;
    assert_eq!(fixture.text("select status from defib.workspaces").await, "offline");
    let row = fixture
        .text(
            "select concat_ws(' ', id, workspace_id, engine, container_id, extract(epoch from started_at)::int, attempt, epoch, verdict,
                    evidence->>'status', claimed_by, finished_at is null, deadline_at - claimed_at) from defib.restarts",
        )
        .await;
    assert_eq!(row, format!("{id} w default c0ffee 1 1 7 dead online replica-1 t 00:01:00"));
    assert_eq!(fixture.may_act(id).await, MayAct::Yes);
}

/// What the world does between the evidence and the claim, and whether that is a veto.
#[tokio::test]
async fn what_changed_since_the_evidence_vetoes() {
    let changes = [
        ("select 1", false),
        ("update defib.workspaces set last_heartbeat_at = clock_timestamp() where id = 'w'", true),
        ("update defib.workspaces set last_activity_at = clock_timestamp() where id = 'w'", true),
        (
            "update defib.workspaces set last_heartbeat_at = last_heartbeat_at - interval '1 second' where id = 'w'",
            false,
        ),
        ("update defib.workspaces set last_heartbeat_at = null where id = 'w'", false),
        ("update defib.workspaces set status = 'degraded' where id = 'w'", true),
        ("update defib.workspaces set status = 'paused' where id = 'w'", true),
        ("update defib.workspaces set status = 'hibernated' where id = 'parent'", true),
        ("update defib.workspaces set status = 'removed' where id = 'grandparent'", true),
        ("update defib.workspaces set status = 'failed' where id = 'grandparent'", false),
        ("update defib.workspaces set engine = 'other' where id = 'w'", true),
        ("update defib.workspaces set container_ref = 'its-next-one' where id = 'w'", true),
        ("update defib.workspaces set kind = 'external' where id = 'w'", true),
        (r#"update defib.workspaces set policy = '{"mode": "observe"}' where id = 'w'"#, true),
        ("update defib.workspaces set name = 'new', active_tasks = 3, created_at = now() where id = 'w'", false),
        ("delete from defib.workspaces where id = 'w'", true),
        ("delete from defib.workspaces where id = 'parent'", false),
        ("update defib.workspaces set parent_id = 'w' where id = 'grandparent'", false),
    ];
    let fixture = Fixture::new().await;
    for (change, vetoes) in changes {
        fixture
            .run(
                "truncate defib.workspaces, defib.restarts cascade;
                 insert into defib.workspaces (id, parent_id, last_heartbeat_at) values
                    ('grandparent', null, now()), ('parent', 'grandparent', now()), ('w', 'parent', now())",
            )
            .await;
        let evidence = fixture.evidence("w").await;
        fixture.run(change).await;
        let claimed = fixture.claim("w", evidence, 1, 1).await;
        assert_eq!(matches!(claimed, Claimed::Vetoed { .. }), vetoes, "{change}: {claimed:?}");
        let status = fixture.text("select status from defib.workspaces where id = 'w'").await;
        assert_eq!(status == "offline", !vetoes, "{change}: {status}");
        let outcome =
            fixture.text("select coalesce(outcome, 'open') || (finished_at is null) from defib.restarts").await;
        assert_eq!(outcome, if vetoes { "vetoedfalse" } else { "opentrue" }, "{change}");
    }
}

#[tokio::test]
async fn evidence_without_a_heartbeat_is_refused_by_any_and_without_a_status_accepts_every_watched_one() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let never = json!({"status": "online", "last_heartbeat_at": null, "last_activity_at": null});
    assert!(matches!(fixture.claim("w", never.clone(), 1, 1).await, Claimed::Vetoed { .. }));
    fixture.run("update defib.workspaces set last_heartbeat_at = null, status = 'degraded'").await;
    let no_status = json!({"last_heartbeat_at": null});
    assert!(matches!(fixture.claim("w", no_status, 1, 1).await, Claimed::Granted { .. }));
}

#[tokio::test]
async fn mark_dead_leaves_other_statuses_and_mark_recovered_takes_only_offline() {
    let fixture = Fixture::new().await;
    for (status, dead, after) in [
        ("online", "true", "offline"),
        ("degraded", "true", "offline"),
        ("offline", "true", "offline"),
        ("provisioning", "true", "provisioning"),
        ("paused", "false", "paused"),
    ] {
        fixture
            .run(&format!(
                "truncate defib.workspaces; insert into defib.workspaces (id, status) values ('w', '{status}')"
            ))
            .await;
        assert_eq!(fixture.text("select defib.mark_dead('w', '{}')").await, dead, "{status}");
        assert_eq!(fixture.text("select status from defib.workspaces").await, after, "{status}");
        let recovered = fixture.text("select defib.mark_recovered('w', '{}')").await;
        assert_eq!(recovered, (after == "offline").to_string(), "{status}");
    }
}

/// Stages a race: `pause` is uncommitted when the claim begins, and committed once the claim waits for it.
async fn claim_while(fixture: &Fixture, pause: &str) -> Claimed {
    let evidence = fixture.evidence("w").await;
    let platform = fixture.another().await;
    platform.batch_execute("begin").await.unwrap();
    platform.batch_execute(pause).await.unwrap();
    let store = fixture.store.clone();
    let claiming = tokio::spawn(async move { claim(&store, "w", evidence, 1, 1).await });
    eventually(SOON, "the claim waits", || async {
        let waiting = fixture.text(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        );
        match waiting.await.as_str() {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await
    .unwrap();
    platform.batch_execute("commit").await.unwrap();
    claiming.await.unwrap().unwrap()
}

#[tokio::test]
async fn a_change_that_commits_while_the_claim_waits_for_it_is_seen() {
    for change in [
        "update defib.workspaces set status = 'paused' where id = 'w'",
        "update defib.workspaces set last_heartbeat_at = clock_timestamp() where id = 'w'",
        "update defib.workspaces set status = 'paused' where id = 'parent'",
        "update defib.workspaces set status = 'hibernating' where id = 'grandparent'",
        "delete from defib.workspaces where id = 'w'",
    ] {
        let fixture = Fixture::new().await;
        fixture
            .run(
                "insert into defib.workspaces (id, parent_id, last_heartbeat_at) values
                    ('grandparent', null, now()), ('parent', 'grandparent', now()), ('w', 'parent', now())",
            )
            .await;
        let claimed = claim_while(&fixture, change).await;
        assert!(matches!(claimed, Claimed::Vetoed { .. }), "{change}: {claimed:?}");
    }
}

#[tokio::test]
async fn a_row_that_stays_locked_is_no_claim_and_never_costs_the_platform_its_transaction() {
    let fixture = Fixture::new().await;
    fixture.run("insert into defib.workspaces (id, parent_id) values ('parent', null), ('w', 'parent')").await;
    let evidence = fixture.evidence("w").await;
    let platform = fixture.another().await;
    // The platform locks the parent first, then the child that our claim has locked already. So the two wait for each other.
    platform.batch_execute("begin; update defib.workspaces set status = 'paused' where id = 'parent'").await.unwrap();
    let store = fixture.store.clone();
    let claiming = tokio::spawn(async move { claim(&store, "w", evidence, 1, 1).await });
    eventually(SOON, "the claim waits", || async {
        let waiting = fixture.text(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        );
        if waiting.await == "1" { Ok(()) } else { Err("nobody waits".to_owned()) }
    })
    .await
    .unwrap();
    platform.batch_execute("update defib.workspaces set status = 'paused' where id = 'w'; commit").await.unwrap();
    let error = claiming.await.unwrap().unwrap_err();
    assert_eq!(
        (error.kind(), error.function(), error.is_unavailable()),
        ("function", Some("mark_dead"), false),
        "{error:?}"
    );
    assert_eq!(fixture.text("select string_agg(status, ' ') from defib.workspaces").await, "paused paused");
    assert_eq!(fixture.text("select count(*) from defib.restarts").await, "0");
}

#[tokio::test]
async fn of_many_who_claim_at_once_one_is_granted() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let evidence = fixture.evidence("w").await;
    let mut claiming = JoinSet::new();
    for _ in 0..4 {
        let store = store(&fixture.url); // a replica
        for _ in 0..4 {
            let (store, evidence) = (store.clone(), evidence.clone());
            claiming.spawn(async move { claim(&store, "w", evidence, 1, 1).await.unwrap() });
        }
    }
    let results = claiming.join_all().await;
    let granted = results.iter().filter(|claimed| matches!(claimed, Claimed::Granted { .. })).count();
    let taken = results.iter().filter(|claimed| matches!(claimed, Claimed::Taken)).count();
    assert_eq!((granted, taken), (1, 15), "{results:?}");
}

#[tokio::test]
async fn an_incarnation_is_restarted_once_for_each_number_of_its_run() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let first = fixture.grant("w", 1, 1).await;
    let evidence = fixture.evidence("w").await;
    assert_eq!(fixture.claim("w", evidence.clone(), 1, 2).await, Claimed::Taken, "one is under way");
    assert_eq!(fixture.may_act(first).await, MayAct::Yes);
    assert!(fixture.store.finish(first, Outcome::Failed, Some("no")).await.unwrap());
    assert_eq!(fixture.claim("w", evidence.clone(), 1, 1).await, Claimed::Taken, "stale: it was made");
    let second = fixture.grant("w", 1, 2).await;
    assert_eq!(fixture.may_act(second).await, MayAct::Yes);
    assert!(fixture.store.finish(second, Outcome::Succeeded, None).await.unwrap());
    let third = fixture.grant("w", 2, 1).await; // another incarnation
    assert!(fixture.store.finish(third, Outcome::Superseded, None).await.unwrap());
    fixture.grant("w", 2, 1).await; // which was not touched
}

#[tokio::test]
async fn an_attempt_that_never_asked_the_engine_gives_its_number_back_however_it_ended() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    for outcome in Outcome::ALL {
        let id = fixture.grant("w", 1, 1).await;
        assert!(fixture.store.finish(id, outcome, None).await.unwrap());
        // Whatever was owed of the mark is taken back, so that the next evidence fits.
        fixture.store.take_back(&"w".into(), &json!({})).await.unwrap();
    }
    let id = fixture.grant("w", 1, 1).await;
    assert!(fixture.store.abandon_unasked(id, "its owner is gone").await.unwrap());
    let id = fixture.grant("w", 1, 1).await;
    assert_eq!(fixture.may_act(id).await, MayAct::Yes);
    assert!(fixture.store.finish(id, Outcome::Abandoned, None).await.unwrap());
    let evidence = fixture.evidence("w").await;
    assert_eq!(fixture.claim("w", evidence, 1, 1).await, Claimed::Taken, "this one may have touched the container");
}

#[tokio::test]
async fn the_end_of_a_run_frees_its_numbers() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    for attempt in 1..=2 {
        let id = fixture.grant("w", 1, attempt).await;
        assert_eq!(fixture.may_act(id).await, MayAct::Yes);
        assert!(fixture.store.finish(id, Outcome::Succeeded, None).await.unwrap());
        if attempt == 2 {
            assert!(fixture.store.recovered(id, &"w".into()).await.unwrap());
            assert!(!fixture.store.recovered(id, &"w".into()).await.unwrap(), "once");
        }
    }
    // A missing container has no incarnation to tell its deaths apart.
    let id = fixture.grant("w", 1, 1).await;
    assert_eq!(fixture.may_act(id).await, MayAct::Yes);
    assert!(fixture.store.finish(id, Outcome::Failed, None).await.unwrap());
    assert_eq!(fixture.store.acknowledge(&"w".into()).await.unwrap(), 3);
    assert_eq!(fixture.store.acknowledge(&"w".into()).await.unwrap(), 0);
    fixture.grant("w", 1, 1).await;
}

#[tokio::test]
async fn a_standing_hold_stops_claims_in_its_scope() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    for (scope, stops) in [
        (HoldScope::Fleet, true),
        (HoldScope::Engine("default".into()), true),
        (HoldScope::Workspace("w".into()), true),
        (HoldScope::Engine("other".into()), false),
        (HoldScope::Workspace("default".into()), false),
    ] {
        let hold =
            NewHold { scope: scope.clone(), owner: "ann", reason: "drill", expires_in: Some(Duration::from_secs(60)) };
        fixture.store.hold(&hold).await.unwrap();
        let standing = fixture.store.holds().await.unwrap();
        assert_eq!((standing.len(), &standing[0].scope), (1, &scope));
        assert!(standing[0].expires_in.is_some_and(|left| left > Duration::from_secs(50)));
        let evidence = fixture.evidence("w").await;
        let claimed = fixture.claim("w", evidence, 1, 1).await;
        if let Claimed::Granted { id } = claimed {
            assert!(!stops, "{scope:?}");
            assert!(fixture.store.finish(id, Outcome::Superseded, None).await.unwrap());
        } else {
            let (kind, _) = scope.parts();
            assert_eq!(claimed, Claimed::Held { reason: format!("{kind} held by ann: drill") });
            assert!(stops, "{scope:?}");
        }
        assert_eq!(fixture.store.release(&scope).await.unwrap(), 1);
        assert_eq!(fixture.store.release(&scope).await.unwrap(), 0);
    }
    let over = NewHold { scope: HoldScope::Fleet, owner: "ann", reason: "short", expires_in: Some(Duration::ZERO) };
    fixture.store.hold(&over).await.unwrap();
    assert!(fixture.store.holds().await.unwrap().is_empty(), "expired");
    fixture.grant("w", 1, 1).await;
}

#[tokio::test]
async fn a_claim_does_not_outlive_what_it_was_granted_for() {
    let not_wanted = [
        "update defib.workspaces set status = 'paused' where id = 'w'",
        "update defib.workspaces set status = 'failed' where id = 'w'",
        "update defib.workspaces set status = 'hibernated' where id = 'parent'",
        "delete from defib.workspaces where id = 'w'",
        "insert into defib.holds (scope, owner, reason) values ('fleet', 'ann', 'stop')",
    ];
    let not_ours = [
        "update defib.restarts set finished_at = now(), outcome = 'abandoned'",
        "update defib.leases set epoch = 8",
        "update defib.leases set holder = 'replica-2'",
        "update defib.leases set expires_at = clock_timestamp()",
        "delete from defib.leases",
    ];
    let ends = not_wanted.map(|end| (end, MayAct::NotWanted)).into_iter();
    for (end, expected) in ends.chain(not_ours.map(|end| (end, MayAct::NotOwner))) {
        let fixture = Fixture::new().await;
        fixture.run("insert into defib.workspaces (id, parent_id) values ('parent', null), ('w', 'parent')").await;
        let id = fixture.grant("w", 1, 1).await;
        let narrow = ["online".to_owned()];
        assert_eq!(may_act(&fixture.store, id, &narrow).await, MayAct::Yes, "offline is our own doing");
        fixture.run(end).await;
        assert_eq!(fixture.may_act(id).await, expected, "{end}");
    }
}

/// In a chaos year of the simulator, a hanging workspace recovered by itself while a slow database answered, and was killed all the same.
#[tokio::test]
async fn one_that_hung_and_is_heard_of_again_is_not_restarted_unless_that_has_begun() {
    let signs = ["last_heartbeat_at", "last_activity_at"];
    for (verdict, begun, expected) in
        [("wedged", false, MayAct::NotWanted), ("dead", false, MayAct::Yes), ("wedged", true, MayAct::Yes)]
    {
        for sign in signs {
            let fixture = Fixture::new().await;
            fixture.workspace("w").await;
            let id = fixture.grant("w", 1, 1).await;
            fixture.run(&format!("update defib.restarts set verdict = '{verdict}'")).await;
            if begun {
                assert_eq!(fixture.may_act(id).await, MayAct::Yes, "nothing has been heard of it");
            }
            fixture.run(&format!("update defib.workspaces set {sign} = clock_timestamp() where id = 'w'")).await;
            assert_eq!(fixture.may_act(id).await, expected, "{verdict}, {begun}, {sign}");
        }
    }
}
