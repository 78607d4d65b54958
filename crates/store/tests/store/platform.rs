//! The platform's functions raise, wait for a lock that is not released, or hang. That concerns the workspace that they were called for,
//! ends in a bounded time, is told apart from a database that is away, and leaves the connection usable.

use std::time::{Duration, Instant};

use defib_policy::attempt::Outcome;
use defib_policy::id::WorkspaceId;
use defib_store::{Claimed, FleetScope, MayAct, StoreError};
use defib_testkit::PrivatePostgres;
use serde_json::json;
use tokio::task::JoinSet;

use crate::fixture::{Fixture, claim, clock, lease, settings, shown, watched};

/// Longer than a function's own time-out with some room for a loaded machine, and shorter than the deadline of a call.
const BOUNDED: Duration = Duration::from_secs(5);

/// Makes the function do `body` for workspace `bad`, and agree for everybody else.
async fn replace(fixture: &Fixture, name: &str, body: &str) {
    fixture
        .run(&format!(
            "create table if not exists defib.blocker (n integer);
             create or replace function defib.{name}(workspace_id text, evidence jsonb) returns boolean
             language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
             as $$ begin
                 if workspace_id = 'bad' then {body} end if;
                 return true;
             end $$"
        ))
        .await;
}

const RAISES: &str = "raise exception 'the platform is not well';";
const RAISES_AS_IF_AWAY: &str = "raise exception 'pretends' using errcode = '57P01';";
const BLOCKS: &str = "lock table defib.blocker in access exclusive mode;";
const HANGS: &str = "perform pg_sleep(60);";
const BODIES: [&str; 4] = [RAISES, RAISES_AS_IF_AWAY, BLOCKS, HANGS];

fn assert_is_the_functions(error: &StoreError, name: &'static str, body: &str) {
    let found = (error.function(), error.kind(), error.is_unavailable());
    assert_eq!(found, (Some(name), "function", false), "{body}: {}", shown(error));
}

/// How many server processes wait or sleep on behalf of the store.
async fn left_at_the_server(fixture: &Fixture) -> String {
    fixture
        .text(
            "select count(*) from pg_stat_activity
              where datname = current_database() and application_name = 'defib-test' and state <> 'idle'",
        )
        .await
}

#[tokio::test]
async fn a_mark_dead_that_fails_costs_one_claim_and_nobody_elses() {
    for body in BODIES {
        let fixture = Fixture::new().await;
        fixture.workspace("bad").await;
        fixture.workspace("good").await;
        replace(&fixture, "mark_dead", body).await;
        let blocker = fixture.another().await;
        blocker.batch_execute("begin; lock table defib.blocker in share mode").await.unwrap();
        let evidence = fixture.evidence("bad").await;
        let began = Instant::now();
        let (failed, good) = tokio::join!(claim(&fixture.store, "bad", evidence, 1, 1), fixture.grant("good", 1, 1));
        assert_is_the_functions(&failed.unwrap_err(), "mark_dead", body);
        assert!(began.elapsed() < BOUNDED, "{body}: {:?}", began.elapsed());
        assert_eq!(fixture.may_act(good).await, MayAct::Yes);
        assert_eq!(fixture.text("select string_agg(workspace_id, ' ') from defib.restarts").await, "good", "{body}");
        assert_eq!(fixture.text("select string_agg(workspace_id, ' ') from defib.marks").await, "good", "{body}");
        assert_eq!(left_at_the_server(&fixture).await, "0", "{body}");
        // The connections are as good as new.
        for _ in 0..8 {
            fixture.store.read_fleet(FleetScope::All, &watched()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_mark_recovered_that_fails_is_tried_again_later_and_keeps_nothing_out_of_the_ledger() {
    for body in BODIES {
        let fixture = Fixture::new().await;
        for id in ["bad", "good"] {
            fixture.workspace(id).await;
            let attempt = fixture.grant(id, 1, 1).await;
            assert_eq!(fixture.may_act(attempt).await, MayAct::Yes);
            fixture.store.finish(attempt, Outcome::Succeeded, None).await.unwrap();
            if id == "bad" {
                replace(&fixture, "mark_recovered", body).await;
            }
            assert!(fixture.store.recovered(attempt, &id.into()).await.unwrap(), "{body}");
        }
        let blocker = fixture.another().await;
        blocker.batch_execute("begin; lock table defib.blocker in share mode").await.unwrap();
        let (bad, good) = (WorkspaceId::from("bad"), WorkspaceId::from("good"));
        let evidence = json!({});
        let began = Instant::now();
        let (failed, taken) =
            tokio::join!(fixture.store.take_back(&bad, &evidence), fixture.store.take_back(&good, &evidence));
        assert_is_the_functions(&failed.unwrap_err(), "mark_recovered", body);
        assert!(taken.unwrap());
        assert!(began.elapsed() < BOUNDED, "{body}: {:?}", began.elapsed());
        let left = fixture
            .text(
                "select string_agg(concat_ws(' ', workspace_id, owed, tries,
                        next_at between now() + interval '5 s' and now() + interval '15 s'), ', ') from defib.marks",
            )
            .await;
        assert_eq!(left, "bad t 1 t", "{body}");
        assert_eq!(fixture.store.owed_marks(None, 10).await.unwrap(), [], "not before the delay has passed");
        assert_eq!(left_at_the_server(&fixture).await, "0", "{body}");
    }
}

#[tokio::test]
async fn the_delay_between_two_tries_grows_and_has_a_limit() {
    let fixture = Fixture::new().await;
    replace(&fixture, "mark_recovered", RAISES).await;
    fixture.run("insert into defib.marks (workspace_id, engine, owed) values ('bad', 'e', true)").await;
    let mut delays = Vec::new();
    for _ in 0..9 {
        fixture.store.take_back(&"bad".into(), &json!({})).await.unwrap_err();
        let delay = fixture
            .text("select round(extract(epoch from next_at - clock_timestamp()) / 10) * 10 from defib.marks")
            .await;
        delays.push(delay.parse::<u64>().unwrap());
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
    // Once it answers, the mark goes.
    replace(&fixture, "mark_recovered", "return false;").await;
    assert!(fixture.store.take_back(&"bad".into(), &json!({})).await.unwrap());
}

#[tokio::test]
async fn an_external_one_whose_mark_dead_fails_is_not_marked() {
    for body in [RAISES, HANGS] {
        let fixture = Fixture::new().await;
        fixture.run("insert into defib.workspaces (id, kind) values ('bad', 'external')").await;
        let evidence = fixture.evidence("bad").await;
        replace(&fixture, "mark_dead", body).await;
        let engine = "default".into();
        let error = fixture.store.mark_lost(&"bad".into(), &evidence, lease(&engine)).await.unwrap_err();
        assert_is_the_functions(&error, "mark_dead", body);
        assert_eq!(fixture.text("select count(*) from defib.marks").await, "0");
    }
}

#[tokio::test]
async fn functions_that_hang_leave_connections_for_everybody_else() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    fixture
        .run("create or replace function defib.mark_recovered(workspace_id text, evidence jsonb) returns boolean
              language sql volatile security definer set search_path = pg_catalog, pg_temp
              as $$ select true from pg_sleep(60) $$;
              insert into defib.marks (workspace_id, engine, owed) select 'w' || n, 'e', true from generate_series(1, 8) n")
        .await;
    let mut hanging = JoinSet::new();
    for n in 1..=8 {
        let store = fixture.store.clone();
        hanging.spawn(async move { store.take_back(&format!("w{n}").as_str().into(), &json!({})).await });
    }
    defib_testkit::eventually(BOUNDED, "they hang", || async {
        let hanging = fixture.text(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'",
        );
        if hanging.await == "0" { Err("nobody hangs".to_owned()) } else { Ok(()) }
    })
    .await
    .unwrap();
    // The pool has four connections, and eight calls hang.
    for _ in 0..20 {
        let began = Instant::now();
        fixture.store.read_fleet(FleetScope::All, &watched()).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    for ended in hanging.join_all().await {
        let error = ended.unwrap_err();
        if error.is_function_busy() {
            // It was not called, so it has not failed; and that is no outage of the database.
            assert_eq!(
                (error.function(), error.kind(), error.is_unavailable()),
                (None, "busy", false),
                "{}",
                shown(&error)
            );
        } else {
            assert_is_the_functions(&error, "mark_recovered", HANGS);
        }
    }
}

#[tokio::test]
async fn a_server_that_is_shut_down_under_a_function_is_a_database_that_is_away() {
    let server = PrivatePostgres::start().await.unwrap();
    let fixture = Fixture::on(server.create_database().await.unwrap()).await;
    fixture.workspace("bad").await;
    let evidence = fixture.evidence("bad").await;
    replace(&fixture, "mark_dead", HANGS).await;
    let store = defib_store::Store::new(&settings(&fixture.url), clock()).unwrap();
    let claiming = tokio::spawn(async move { claim(&store, "bad", evidence, 1, 1).await });
    defib_testkit::eventually(BOUNDED, "it hangs", || async {
        let hanging = fixture.text("select count(*) from pg_stat_activity where wait_event = 'PgSleep'");
        if hanging.await == "0" { Err("it does not hang".to_owned()) } else { Ok(()) }
    })
    .await
    .unwrap();
    fixture.run("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'").await;
    let error = claiming.await.unwrap().unwrap_err();
    assert_eq!((error.function(), error.is_unavailable()), (None, true), "{}", shown(&error));
}

#[tokio::test]
async fn the_status_that_mark_dead_writes_is_found_without_leaving_a_trace() {
    let fixture = Fixture::new().await;
    let written = async || fixture.store.status_that_mark_dead_writes().await.unwrap();
    assert_eq!(written().await.as_deref(), Some("offline"), "the shipped one is known, also without a workspace");
    fixture
        .run(
            "create schema platform;
             create table platform.agents (id text primary key, status text);
             create or replace function defib.mark_dead(workspace_id text, evidence jsonb) returns boolean
             language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
             as $$ begin
                 update platform.agents set status = 'fallen' where id = workspace_id and status in ('up', 'slow');
                 return exists (select from platform.agents where id = workspace_id and status <> 'cursed');
             end $$;
             create or replace view defib.fleet as
             select id as workspace_id, null::text as name, status, 'container' as kind, 'e' as engine, null::text as container_ref,
                    null::text as instance_ref, false as suspended, null::timestamptz as last_heartbeat_at,
                    null::timestamptz as last_activity_at, 0 as active_tasks, null::timestamptz as created_at, null::jsonb as policy
               from platform.agents",
        )
        .await;
    assert_eq!(written().await, None, "nobody to ask about");
    fixture.run("insert into platform.agents values ('a', 'fallen'), ('b', 'cursed')").await;
    assert_eq!(written().await, None, "one is marked already, and one is vetoed");
    fixture.run("insert into platform.agents values ('c', 'up')").await;
    assert_eq!(written().await.as_deref(), Some("fallen"));
    assert_eq!(fixture.text("select status from platform.agents where id = 'c'").await, "up", "nothing of it stays");
    let locked = fixture.another().await;
    locked.batch_execute("begin; update platform.agents set status = 'up' where id = 'c'").await.unwrap();
    assert_eq!(written().await, None, "its row stays locked");
}

#[tokio::test]
async fn a_claim_that_waits_for_its_turn_is_made_when_it_has_come() {
    let fixture = Fixture::new().await;
    for n in 0..12 {
        fixture.workspace(&format!("w{n}")).await;
    }
    let mut claiming = JoinSet::new();
    for n in 0..12 {
        let (store, id) = (fixture.store.clone(), format!("w{n}"));
        let evidence = fixture.evidence(&id).await;
        claiming.spawn(async move { claim(&store, &id, evidence, 1, 1).await.unwrap() });
    }
    for claimed in claiming.join_all().await {
        assert!(matches!(claimed, Claimed::Granted { .. }), "{claimed:?}");
    }
}
