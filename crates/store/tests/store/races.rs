//! A second writer races the claim, on the tables of molecule-core: every order in which the two can meet, each staged.
//!
//! ```text
//! writer first      evidence ─ write ─ commit ───────── claim
//! claim waits       evidence ─ write ─ claim … waits ─ commit or rollback ─ claim goes on
//! writer waits      evidence ─ mark_dead ─ write … waits ─ commit ─ write goes on, and sees what the claim wrote
//! ```

use defib_store::{Claimed, MayAct};
use defib_testkit::eventually;
use tokio_postgres::Client;

use crate::adapter::{BOSS, FAMILY, STATUS_TYPES, StatusType, WORKER};
use crate::fixture::{Fixture, SOON, claim};

/// What the platform does, and how that and a claim of the worker's restart must come out.
struct Write {
    /// By the statement that the platform uses.
    sql: String,
    /// The worker's status when the writer was first (`""`: no row).
    alone: &'static str,
    /// The same when the claim was first. Never `offline` for what a person put away.
    after_claim: &'static str,
    /// Rows that the statement finds to change after the claim.
    finds: u64,
    /// Whether the claim stands after a write that came after it.
    still_claimed: bool,
}

fn writes() -> Vec<Write> {
    let put_away = |status: &'static str| Write {
        sql: format!("update public.workspaces set status = '{status}', updated_at = now() where id = '{WORKER}'"),
        alone: status,
        after_claim: status,
        finds: 1,
        still_claimed: false,
    };
    // A guarded write: it hibernates a worker that it believes to be idle, but not one that was marked dead meanwhile.
    let hibernate = Write {
        sql: format!(
            "update public.workspaces set status = 'hibernated' where id = '{WORKER}' and status in ('online', 'degraded')"
        ),
        after_claim: "offline",
        finds: 0,
        still_claimed: true,
        ..put_away("hibernated")
    };
    let delete = Write {
        sql: format!("delete from public.workspaces where id = '{WORKER}'"),
        alone: "",
        after_claim: "",
        ..put_away("removed")
    };
    let pause_of_an_ancestor = Write {
        sql: format!("update public.workspaces set status = 'paused' where id = '{BOSS}'"),
        alone: "online",
        after_claim: "offline",
        ..put_away("paused")
    };
    // After the claim the look at the container decides: what beats is found running.
    let sign_of_life = |column: &str| Write {
        sql: format!(
            "update public.workspaces set {column} = clock_timestamp(), active_tasks = 1 where id = '{WORKER}'"
        ),
        alone: "online",
        after_claim: "offline",
        finds: 1,
        still_claimed: true,
    };
    vec![
        put_away("paused"),
        put_away("hibernated"),
        put_away("removed"),
        hibernate,
        delete,
        pause_of_an_ancestor,
        sign_of_life("last_heartbeat_at"),
        sign_of_life("last_outbound_at"),
    ]
}

async fn worker(fixture: &Fixture) -> String {
    fixture.text(&format!("select status from public.workspaces where id = '{WORKER}'")).await
}

/// Whose claims were granted, and what the platform was told of.
async fn assert_vetoed(fixture: &Fixture, claimed: &Claimed, name: &str) {
    assert!(matches!(claimed, Claimed::Vetoed { .. }), "{name}: {claimed:?}");
    let written = "select (select string_agg(outcome, ' ') from defib.restarts) || (select count(*) from public.structure_events)";
    assert_eq!(fixture.text(written).await, "vetoed0", "{name}");
}

async fn assert_granted(fixture: &Fixture, name: &str) {
    let written =
        "select (select count(*) from defib.restarts where finished_at is null) || ' ' || string_agg(event_type, ' ')
                     from public.structure_events";
    assert_eq!(fixture.text(written).await, "1 WORKSPACE_OFFLINE", "{name}");
}

/// One statement waits for a lock, and it is not ours.
async fn somebody_waits(fixture: &Fixture, name: &str) {
    let sql = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    eventually(SOON, name, || async {
        let waiting = fixture.text(sql).await;
        if waiting == "1" { Ok(()) } else { Err(format!("{waiting} wait")) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_writer_that_was_first_vetoes() {
    for status_type in STATUS_TYPES {
        let fixture = status_type.adapted().await;
        for write in writes() {
            let name = format!("{}, {status_type:?}", write.sql);
            fixture.run(FAMILY).await;
            let evidence = fixture.evidence(WORKER).await;
            fixture.run(&write.sql).await;
            let claimed = fixture.claim(WORKER, evidence, 1, 1).await;
            assert_vetoed(&fixture, &claimed, &name).await;
            assert_eq!(worker(&fixture).await, write.alone, "{name}");
        }
    }
}

#[tokio::test]
async fn a_claim_waits_for_a_writer_that_is_at_it_and_sees_what_it_commits() {
    for status_type in STATUS_TYPES {
        let fixture = status_type.adapted().await;
        for write in writes() {
            let name = format!("{}, {status_type:?}", write.sql);
            let claimed = claim_during(&fixture, &write.sql, "commit").await;
            assert_vetoed(&fixture, &claimed, &name).await;
            assert_eq!(worker(&fixture).await, write.alone, "{name}");
        }
    }
}

#[tokio::test]
async fn a_claim_that_waited_for_a_writer_that_gave_up_is_granted() {
    for status_type in STATUS_TYPES {
        let fixture = status_type.adapted().await;
        for write in writes() {
            let name = format!("{}, {status_type:?}", write.sql);
            let claimed = claim_during(&fixture, &write.sql, "rollback").await;
            assert!(matches!(claimed, Claimed::Granted { .. }), "{name}: {claimed:?}");
            assert_granted(&fixture, &name).await;
            assert_eq!(worker(&fixture).await, "offline", "{name}");
        }
    }
}

/// The write is uncommitted when the claim begins, and ends once the claim waits for it.
async fn claim_during(fixture: &Fixture, write: &str, end: &str) -> Claimed {
    fixture.run(FAMILY).await;
    let evidence = fixture.evidence(WORKER).await;
    let platform = fixture.another().await;
    platform.batch_execute(&format!("begin; {write}")).await.unwrap();
    let store = fixture.store.clone();
    let claiming = tokio::spawn(async move { claim(&store, WORKER, evidence, 1, 1).await });
    somebody_waits(fixture, write).await;
    platform.batch_execute(end).await.unwrap();
    claiming.await.unwrap().unwrap()
}

#[tokio::test]
async fn a_writer_waits_for_a_claim_and_then_has_the_last_word() {
    for status_type in STATUS_TYPES {
        let fixture = status_type.adapted().await;
        for write in writes() {
            let name = format!("{}, {status_type:?}", write.sql);
            let (platform, writing, id) = write_during_a_claim(&fixture, &write.sql).await;
            platform.batch_execute("commit").await.unwrap();
            assert_eq!(writing.await.unwrap(), write.finds, "{name}");
            assert_eq!(worker(&fixture).await, write.after_claim, "{name}");
            // Asked right before the engine is: what was put away meanwhile is not restarted.
            let expected = if write.still_claimed { MayAct::Yes } else { MayAct::NotWanted };
            assert_eq!(fixture.may_act(id).await, expected, "{name}");
        }
    }
}

#[tokio::test]
async fn a_writer_that_waited_for_a_claim_that_came_to_nothing_finds_the_row_as_it_was() {
    let fixture = StatusType::Enum.adapted().await;
    for write in writes() {
        let (claim, writing, _) = write_during_a_claim(&fixture, &write.sql).await;
        claim.batch_execute("rollback").await.unwrap();
        assert_eq!(writing.await.unwrap(), 1, "{}", write.sql);
        assert_eq!(worker(&fixture).await, write.alone, "{}", write.sql);
        let left = "select (select count(*) from public.structure_events) + (select count(*) from defib.restarts)";
        assert_eq!(fixture.text(left).await, "0", "{}", write.sql);
    }
}

/// A claim that has done everything but commit, statement by statement so that it can be stopped there, and a writer that waits for it.
async fn write_during_a_claim(fixture: &Fixture, write: &str) -> (Client, tokio::task::JoinHandle<u64>, i64) {
    fixture.run(FAMILY).await;
    let evidence = fixture.evidence(WORKER).await;
    let (claiming, platform) = (fixture.another().await, fixture.another().await);
    claiming.batch_execute("begin").await.unwrap();
    let open = "insert into defib.restarts (workspace_id, engine, attempt, epoch, claimed_by, verdict)
                values ($1, 'default', 1, 7, 'replica-1', 'dead') returning id";
    let id = claiming.query_one(open, &[&WORKER]).await.unwrap().get(0);
    let marked = claiming.query_one("select defib.mark_dead($1, $2)", &[&WORKER, &evidence]).await.unwrap();
    assert!(marked.get::<_, bool>(0), "{write}");
    let sql = write.to_owned();
    let writing = tokio::spawn(async move { platform.execute(&sql, &[]).await.unwrap() });
    somebody_waits(fixture, write).await;
    (claiming, writing, id)
}
