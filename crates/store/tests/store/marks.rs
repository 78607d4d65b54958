//! Marks: what the platform was told is taken back when it is no longer true, and a function that fails is called again.

use std::time::Duration;

use defib_policy::attempt::Outcome;
use defib_policy::id::{EngineName, WorkspaceId};
use defib_store::{Claimed, MayAct, OwedMark};
use serde_json::json;

use crate::fixture::{Fixture, lease, may_act};

async fn status(fixture: &Fixture) -> String {
    fixture.text("select status from defib.workspaces where id = 'w'").await
}

async fn owed(fixture: &Fixture) -> Vec<OwedMark> {
    fixture.store.owed_marks(None, 10).await.unwrap()
}

async fn take_back(fixture: &Fixture) -> bool {
    fixture.store.take_back(&"w".into(), &json!({})).await.unwrap()
}

#[tokio::test]
async fn an_attempt_that_ends_before_the_engine_was_asked_takes_its_mark_back() {
    let fixture = Fixture::new().await;
    for outcome in [Outcome::Vetoed, Outcome::Abandoned] {
        fixture.run("truncate defib.workspaces, defib.restarts cascade").await;
        fixture.workspace("w").await;
        let id = fixture.grant("w", 1, 1).await;
        assert_eq!((status(&fixture).await, owed(&fixture).await), ("offline".into(), vec![]));
        assert!(fixture.store.finish(id, outcome, None).await.unwrap());
        assert_eq!(owed(&fixture).await, [OwedMark { workspace: "w".into(), attempt_id: Some(id) }]);
        assert!(take_back(&fixture).await);
        assert_eq!((status(&fixture).await, owed(&fixture).await), ("online".into(), vec![]));
        assert!(!take_back(&fixture).await, "once");
    }
}

#[tokio::test]
async fn what_somebody_else_settles_before_the_engine_was_asked_is_taken_back_too() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let id = fixture.grant("w", 1, 1).await;
    assert!(fixture.store.abandon_unasked(id, "its owner is gone").await.unwrap());
    assert!(take_back(&fixture).await);
    assert_eq!(status(&fixture).await, "online");
}

#[tokio::test]
async fn after_the_engine_was_asked_only_a_recovery_takes_the_mark_back() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let first = fixture.grant("w", 1, 1).await;
    assert_eq!(fixture.may_act(first).await, MayAct::Yes);
    assert!(fixture.store.finish(first, Outcome::Failed, None).await.unwrap());
    assert!(!take_back(&fixture).await, "it is dead");
    // The next attempt is vetoed. The mark is still true: the first one has asked the engine, in vain.
    let second = fixture.grant("w", 1, 2).await;
    assert!(fixture.store.finish(second, Outcome::Vetoed, None).await.unwrap());
    assert!(!take_back(&fixture).await, "it is still dead");
    assert!(fixture.store.recovered(first, &"w".into()).await.unwrap());
    assert!(take_back(&fixture).await);
    assert_eq!(status(&fixture).await, "online");
}

/// The recovery is noticed, but recorded only after the workspace has died again and a later attempt has marked it anew.
#[tokio::test]
async fn a_late_recovery_leaves_the_mark_of_a_later_attempt_alone() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let first = fixture.grant("w", 1, 1).await;
    assert_eq!(fixture.may_act(first).await, MayAct::Yes);
    assert!(fixture.store.finish(first, Outcome::Succeeded, None).await.unwrap());
    let second = fixture.grant("w", 1, 2).await;
    assert!(fixture.store.recovered(first, &"w".into()).await.unwrap());
    assert_eq!(owed(&fixture).await, [], "it is dead");
    assert!(!fixture.store.owe(&"w".into()).await.unwrap(), "nor is it an external one that is back");
    assert_eq!(fixture.may_act(second).await, MayAct::Yes);
    assert!(fixture.store.finish(second, Outcome::Succeeded, None).await.unwrap());
    assert!(fixture.store.recovered(second, &"w".into()).await.unwrap());
    assert_eq!(owed(&fixture).await, [OwedMark { workspace: "w".into(), attempt_id: Some(second) }]);
}

#[tokio::test]
async fn a_status_that_the_platform_wrote_itself_is_not_taken_back() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    fixture.run("update defib.workspaces set status = 'offline'").await;
    let id = fixture.grant("w", 1, 1).await;
    assert!(fixture.store.finish(id, Outcome::Vetoed, None).await.unwrap());
    assert_eq!(owed(&fixture).await, []);
    assert!(!take_back(&fixture).await);
    assert_eq!(status(&fixture).await, "offline");
    assert_eq!(fixture.text("select count(*) from defib.marks").await, "0");
}

#[tokio::test]
async fn a_new_claim_makes_the_mark_stand_again_and_a_veto_then_owes_it_again() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let first = fixture.grant("w", 1, 1).await;
    assert_eq!(fixture.may_act(first).await, MayAct::Yes);
    assert!(fixture.store.finish(first, Outcome::Succeeded, None).await.unwrap());
    assert!(fixture.store.recovered(first, &"w".into()).await.unwrap());
    // It dies again before the mark was taken back.
    let second = fixture.grant("w", 2, 1).await;
    assert!(!take_back(&fixture).await, "it is dead again");
    assert!(fixture.store.finish(second, Outcome::Abandoned, None).await.unwrap());
    assert!(take_back(&fixture).await);
    assert_eq!(status(&fixture).await, "online");
}

#[tokio::test]
async fn a_vetoed_claim_leaves_the_mark_as_it_was() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let evidence = fixture.evidence("w").await;
    let first = fixture.grant("w", 1, 1).await;
    assert!(fixture.store.finish(first, Outcome::Vetoed, None).await.unwrap());
    let stale = fixture.claim("w", evidence, 1, 1).await;
    assert!(matches!(stale, Claimed::Vetoed { .. }), "{stale:?}");
    assert_eq!(owed(&fixture).await, [OwedMark { workspace: "w".into(), attempt_id: Some(first) }]);
}

#[tokio::test]
async fn an_external_one_is_marked_once_and_taken_back_when_it_is_owed() {
    let fixture = Fixture::new().await;
    fixture.run("insert into defib.workspaces (id, kind) values ('w', 'external')").await;
    let (engine, id) = ("default".into(), WorkspaceId::from("w"));
    let evidence = fixture.evidence("w").await;
    let mark = async || fixture.store.mark_lost(&id, &evidence, lease(&engine)).await.unwrap();
    assert!(!fixture.store.owe(&id).await.unwrap(), "nothing to owe");
    assert!(mark().await);
    let row = "select concat_ws(' ', engine, attempt_id, status_before, status, owed) from defib.marks";
    assert_eq!(fixture.text(row).await, "default online offline f");
    // It is asked for in every pass. The platform is told once, though the evidence does not fit the row any more.
    assert!(mark().await);
    assert!(fixture.store.owe(&id).await.unwrap());
    assert!(!fixture.store.owe(&id).await.unwrap());
    assert_eq!(owed(&fixture).await, [OwedMark { workspace: "w".into(), attempt_id: None }]);
    assert!(take_back(&fixture).await);
    assert_eq!(status(&fixture).await, "online");
    assert!(mark().await, "lost again");
    assert_eq!(status(&fixture).await, "offline");
}

#[tokio::test]
async fn a_veto_of_an_external_one_leaves_no_mark() {
    let fixture = Fixture::new().await;
    fixture.run("insert into defib.workspaces (id, kind) values ('w', 'external')").await;
    let (engine, id) = ("default".into(), WorkspaceId::from("w"));
    let evidence = fixture.evidence("w").await;
    fixture.run("update defib.workspaces set last_heartbeat_at = now()").await;
    assert!(!fixture.store.mark_lost(&id, &evidence, lease(&engine)).await.unwrap());
    assert_eq!(fixture.text("select count(*) from defib.marks").await, "0");
    fixture.run("update defib.leases set epoch = 8").await;
    let evidence = fixture.evidence("w").await;
    assert!(!fixture.store.mark_lost(&id, &evidence, lease(&engine)).await.unwrap(), "not the owner");
}

#[tokio::test]
async fn owed_marks_are_told_by_engine_and_the_longest_waiting_first() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.marks (workspace_id, engine, owed, next_at) values
                ('b', 'e1', true, now() - interval '1 s'), ('a', 'e2', true, now() - interval '2 s'),
                ('c', 'e1', false, now() - interval '3 s'), ('d', 'e1', true, now() + interval '1 hour')",
        )
        .await;
    let told = async |engines: Option<&[_]>, limit| {
        let owed = fixture.store.owed_marks(engines, limit).await.unwrap();
        owed.into_iter().map(|mark| mark.workspace.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(told(None, 10).await, ["a", "b"]);
    assert_eq!(told(None, 1).await, ["a"]);
    assert_eq!(told(Some(&["e1".into(), "e3".into()]), 10).await, ["b"]);
    assert_eq!(told(Some(&[]), 10).await, [""; 0]);
}

#[tokio::test]
async fn two_replicas_take_a_mark_back_once() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let id = fixture.grant("w", 1, 1).await;
    fixture.store.finish(id, Outcome::Vetoed, None).await.unwrap();
    let other = fixture.another().await;
    other.batch_execute("begin; select from defib.marks for update").await.unwrap();
    let began = std::time::Instant::now();
    assert!(!take_back(&fixture).await, "somebody else is at it");
    assert!(began.elapsed() < Duration::from_millis(500), "and is not waited for");
    other.batch_execute("rollback").await.unwrap();
    assert!(take_back(&fixture).await);
}

/// Another adapter's word is watched after the mark as `offline` is, and only for the attempt that wrote it.
#[tokio::test]
async fn the_status_that_mark_dead_has_written_is_wanted_by_the_attempt_that_it_was_written_for() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    fixture
        .run(
            "create or replace function defib.mark_dead(workspace_id text, evidence jsonb) returns boolean
             language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
             as $$ begin
                 update defib.workspaces w set status = 'fallen' where w.id = mark_dead.workspace_id;
                 return true;
             end $$",
        )
        .await;
    let id = fixture.grant("w", 1, 1).await;
    let narrow = ["online".to_owned()];
    assert_eq!(may_act(&fixture.store, id, &narrow).await, MayAct::Yes);
    for other in ["offline", "failed"] {
        fixture.run(&format!("update defib.workspaces set status = '{other}'")).await;
        assert_eq!(may_act(&fixture.store, id, &narrow).await, MayAct::NotWanted, "{other}");
    }
}

/// What an older defib has marked is taken back as well.
#[tokio::test]
async fn marks_of_an_older_version_are_made_up_from_the_ledger() {
    let fixture = Fixture::new().await;
    fixture.back_to_version_5().await;
    fixture
        .run(
            "insert into defib.workspaces (id, status) values ('w', 'offline'), ('x', 'offline'), ('y', 'online');
             insert into defib.restarts (workspace_id, engine, attempt, verdict, acting_at, finished_at, outcome, run_ended_at) values
                ('w', 'default', 1, 'dead', now(), now(), 'failed', null),
                ('w', 'default', 2, 'dead', now(), now(), 'succeeded', null),
                ('y', 'default', 1, 'dead', now(), now(), 'succeeded', now()),
                ('z', 'default', 1, 'dead', null, now(), 'abandoned', null);
             insert into defib.verdicts (workspace_id, verdict, engine, rule, because) values ('x', 'lost', 'external', 'r', 'b');
             insert into defib.suspicions (workspace_id, reporter, reason) values ('w', 'p', 'r'), ('w', 'p', 'r'), ('w', 'q', 'r')",
        )
        .await;
    fixture.store.migrate().await.unwrap();
    let rows =
        "select string_agg(concat_ws(' ', workspace_id, engine, attempt_id, since_attempt, owed), ', ' order by 1)
                  from (select * from defib.marks order by workspace_id) m where workspace_id <> 'z'";
    assert_eq!(fixture.text(rows).await, "w default 2 1 f, x external f");
    assert_eq!(
        fixture.text("select run_ended_at is not null from defib.restarts where workspace_id = 'z'").await,
        "true"
    );
    assert_eq!(fixture.text("select count(*) from defib.suspicions where taken_at is null").await, "2");
    assert!(fixture.store.recovered(2, &"w".into()).await.unwrap());
    assert!(take_back(&fixture).await);
    assert_eq!(status(&fixture).await, "online");
}

/// An attempt that was acknowledged counts no more, so no recovery of it is found. Its mark stands until somebody sees that the workspace lives.
#[tokio::test]
async fn a_mark_that_stands_on_one_of_whom_nothing_is_said_is_told() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.marks (workspace_id, engine, marked_at, owed) values
                ('alive', 'a', now() - interval '6 seconds', false), ('dead', 'a', now() - interval '6 seconds', false),
                ('new', 'a', now(), false), ('owed', 'a', now() - interval '6 seconds', true),
                ('elsewhere', 'b', now() - interval '7 seconds', false);
             insert into defib.verdicts (workspace_id, engine, verdict, rule, because, evidence, since)
             values ('dead', 'a', 'dead', 'r', 'b', '{}', now())",
        )
        .await;
    let standing = async |engines: Option<&[EngineName]>, limit| {
        let marks = fixture.store.standing_marks(engines, limit).await.unwrap();
        marks.into_iter().map(|mark| mark.workspace.to_string()).collect::<Vec<String>>()
    };
    assert_eq!(standing(None, 9).await, ["elsewhere", "alive"]);
    assert_eq!(standing(None, 1).await, ["elsewhere"]);
    assert_eq!(standing(Some(&["a".into()]), 9).await, ["alive"]);
    let seen = OwedMark { workspace: "alive".into(), attempt_id: None };
    fixture.run("update defib.marks set attempt_id = 7 where workspace_id = 'alive'").await;
    assert!(!fixture.store.owe_standing(&seen).await.unwrap(), "an attempt has marked it anew meanwhile");
    let renewed = OwedMark { attempt_id: Some(7), ..seen };
    assert!(fixture.store.owe_standing(&renewed).await.unwrap());
    assert!(!fixture.store.owe_standing(&renewed).await.unwrap(), "once");
}
