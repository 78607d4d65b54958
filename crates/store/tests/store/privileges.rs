//! Roles: what each may do, and nothing more. What there is to be allowed is read from the catalogue, so that a table or a function
//! of a later migration that leaks is found without being listed here.

use std::collections::BTreeMap;

use defib_policy::attempt::Outcome;
use defib_store::{EventRow, EventSubject, FleetScope, HoldScope, MayAct, NewHold, NewSuspicion, RetentionSettings};
use defib_testkit::{PrivatePostgres, postgres};
use serde_json::json;
use std::time::Duration;
use tokio_postgres::error::SqlState;

use crate::adapter::{FAMILY, StatusType, WORKER};
use crate::fixture::{Fixture, store, watched};

/// A login with one of the roles. Roles are the cluster's, tests run side by side: each makes its own.
pub(crate) async fn login(fixture: &Fixture, role: &str) -> String {
    let database = fixture.text("select current_database()").await;
    // Not named like the role: what is called defib_ is defib's, and has a comment.
    let name = format!("in_{role}_of_{database}");
    fixture.run(&format!("create role {name} login in role {role}")).await;
    fixture.url.replace("postgres@", &format!("{name}@"))
}

/// The platform's tables with the adapter on them, a family of workspaces, and a login with one of the roles.
pub(crate) async fn adapted_with(role: &str) -> (Fixture, Fixture) {
    let fixture = StatusType::Enum.adapted().await;
    fixture.run(FAMILY).await;
    let url = login(&fixture, role).await;
    let client = postgres::connect(&url).await.unwrap();
    let login = Fixture { store: store(&url), client, url };
    (fixture, login)
}

/// Every right that the session's user has in schema defib and on the platform's tables: `object` to `rights`. Rights on single
/// columns count as rights on the table.
async fn rights(login: &Fixture) -> BTreeMap<String, String> {
    let sql = "
        select object, string_agg(wanted, ' ' order by wanted) from (
            select 'table ' || n.nspname || '.' || c.relname as object, wanted
              from pg_class c join pg_namespace n on n.oid = c.relnamespace
             cross join unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) as wanted
             where n.nspname in ('defib', 'public') and c.relkind in ('r', 'p', 'v', 'm', 'f')
               and (has_table_privilege(c.oid, wanted)
                    or (wanted in ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES') and has_any_column_privilege(c.oid, wanted)))
            union all
            select 'sequence ' || n.nspname || '.' || c.relname, wanted
              from pg_class c join pg_namespace n on n.oid = c.relnamespace
             cross join unnest(array['SELECT', 'UPDATE', 'USAGE']) as wanted
             where n.nspname in ('defib', 'public') and c.relkind = 'S' and has_sequence_privilege(c.oid, wanted)
            union all
            select 'function ' || p.proname, 'EXECUTE'
              from pg_proc p join pg_namespace n on n.oid = p.pronamespace
             where n.nspname = 'defib' and has_function_privilege(p.oid, 'EXECUTE')
            union all
            select 'schema ' || n.nspname, wanted
              from pg_namespace n cross join unnest(array['USAGE', 'CREATE']) as wanted
             where n.nspname = 'defib' and has_schema_privilege(n.oid, wanted)) as found
         group by object";
    let rows = login.client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The tables and views of schema defib, as [`rights`] names them.
async fn tables(fixture: &Fixture) -> Vec<String> {
    let sql = "select 'table defib.' || relname from pg_class
                where relnamespace = 'defib'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')";
    let rows = fixture.client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

fn expected(rights: &[(&str, &str)]) -> BTreeMap<String, String> {
    rights.iter().map(|(object, rights)| ((*object).to_owned(), (*rights).to_owned())).collect()
}

#[tokio::test]
async fn a_reporter_has_one_function_and_not_one_right_more() {
    let (_fixture, reporter) = adapted_with("defib_reporter").await;
    let expected = expected(&[("function report_suspicion", "EXECUTE"), ("schema defib", "USAGE")]);
    assert_eq!(rights(&reporter).await, expected);
}

#[tokio::test]
async fn an_operator_has_a_few_functions_and_reads_nothing() {
    let (_fixture, operator) = adapted_with("defib_operator").await;
    let functions = [
        "place_hold",
        "release_holds",
        "acknowledge",
        "report_suspicion",
        "order_restart",
        "order_storm_end",
        "order_state",
        "withdraw_order",
        "is_known",
        "names_like",
        "resume_webhook",
    ];
    let mut expected = expected(&[("schema defib", "USAGE")]);
    expected.extend(functions.map(|name| (format!("function {name}"), "EXECUTE".to_owned())));
    assert_eq!(rights(&operator).await, expected);
}

#[tokio::test]
async fn a_viewer_reads_all_of_defib_and_has_not_one_right_more() {
    let (fixture, viewer) = adapted_with("defib_viewer").await;
    // Functions in a view are called as the reader. Neither writes, and neither tells more than the view.
    let mut expected = expected(&[
        ("function is_parked", "EXECUTE"),
        ("function below_parked", "EXECUTE"),
        ("function has_parked_ancestor", "EXECUTE"),
        ("function count_lost_messages", "EXECUTE"),
        ("schema defib", "USAGE"),
    ]);
    expected.extend(tables(&fixture).await.into_iter().map(|table| (table, "SELECT".to_owned())));
    assert_eq!(rights(&viewer).await, expected);
    assert_eq!(viewer.store.status().await.unwrap().len(), 3, "and the view can be read with that");
}

#[tokio::test]
async fn the_daemon_writes_its_own_tables_and_has_no_right_on_the_platforms() {
    let (fixture, daemon) = adapted_with("defib_daemon").await;
    let found = rights(&daemon).await;
    // defib.workspaces is the platform's, and what `defib migrate` has done is not for the daemon to change.
    let read_only = ["fleet", "workspaces", "schema_version"].map(|name| format!("table defib.{name}"));
    for table in tables(&fixture).await {
        let expected = if read_only.contains(&table) { "SELECT" } else { "DELETE INSERT SELECT UPDATE" };
        assert_eq!(found.get(&table).map(String::as_str), Some(expected), "{table}");
    }
    assert_eq!(found.get("schema defib").map(String::as_str), Some("USAGE"));
    let more: Vec<_> = found
        .keys()
        .filter(|object| {
            !object.starts_with("table defib.") && !object.starts_with("function ") && *object != "schema defib"
        })
        .collect();
    assert!(more.is_empty(), "{more:?}");

    // What the adapter's functions do for it, all the same.
    assert_eq!(daemon.fleet().await.len(), 3);
    let id = daemon.grant(WORKER, 1, 1).await;
    assert_eq!(daemon.may_act(id).await, MayAct::Yes);
    daemon.store.finish(id, Outcome::Succeeded, None).await.unwrap();
    assert!(daemon.store.recovered(id, &WORKER.into()).await.unwrap());
    assert!(daemon.store.take_back(&WORKER.into(), &json!({})).await.unwrap());
    let told = "select string_agg(event_type, ' ' order by created_at) from public.structure_events";
    assert_eq!(fixture.text(told).await, "WORKSPACE_OFFLINE WORKSPACE_ONLINE");
}

#[tokio::test]
async fn nobody_touches_the_platforms_tables_but_through_the_functions() {
    for role in ["defib_daemon", "defib_operator", "defib_reporter", "defib_viewer"] {
        let (_fixture, login) = adapted_with(role).await;
        for table in ["public.workspaces", "public.structure_events"] {
            for sql in [
                format!("select from {table}"),
                format!("select from {table} for share"),
                format!("insert into {table} default values"),
                format!("update {table} set created_at = now()"),
                format!("delete from {table}"),
                format!("truncate {table} cascade"),
                format!("select 1; lock table {table} in access share mode"),
                format!("create temp view v as select * from {table}; select from v"),
            ] {
                assert_denied(&login, &sql).await;
            }
        }
    }
}

#[tokio::test]
async fn a_stranger_has_no_right_at_all() {
    let fixture = StatusType::Text.adapted().await;
    let database = fixture.text("select current_database()").await;
    fixture.run(&format!("create role nobody_of_{database} login")).await;
    let url = fixture.url.replace("postgres@", &format!("nobody_of_{database}@"));
    let stranger = Fixture { store: store(&url), client: postgres::connect(&url).await.unwrap(), url };
    assert_eq!(rights(&stranger).await, BTreeMap::new());
}

#[tokio::test]
async fn the_daemon_can_do_all_that_it_does_and_not_touch_the_fleet() {
    let fixture = Fixture::new().await;
    fixture.run("insert into defib.workspaces (id, parent_id) values ('p', null), ('w', 'p')").await;
    let url = login(&fixture, "defib_daemon").await;
    let daemon = Fixture { store: store(&url), client: postgres::connect(&url).await.unwrap(), url };
    daemon
        .store
        .suspect(NewSuspicion { workspace: "w", reporter: "p", reason: "r", ..NewSuspicion::default() })
        .await
        .unwrap();
    assert_eq!(daemon.store.take_suspicions(5).await.unwrap().len(), 1);
    assert_eq!(daemon.fleet().await, ["p", "w"]);
    let id = daemon.grant("w", 1, 1).await;
    assert_eq!(daemon.may_act(id).await, MayAct::Yes);
    daemon.store.finish(id, Outcome::Succeeded, None).await.unwrap();
    daemon.store.recovered(id, &"w".into()).await.unwrap();
    assert_eq!(daemon.store.owed_marks(Some(&["default".into()]), 5).await.unwrap().len(), 1);
    assert!(daemon.store.take_back(&"w".into(), &json!({})).await.unwrap());
    daemon.store.read_attempts(FleetScope::All, Duration::ZERO).await.unwrap();
    daemon.store.acknowledge(&"w".into()).await.unwrap();
    let hold = NewHold { scope: HoldScope::Fleet, owner: "o", reason: "r", expires_in: None };
    daemon.store.hold(&hold).await.unwrap();
    daemon.store.release(&HoldScope::Fleet).await.unwrap();
    daemon.store.record_verdicts(&[], &["w".into()]).await.unwrap();
    let about = EventSubject::Engine("default".into());
    let event = EventRow { about, from: None, to: "gone".into(), evidence: json!({}) };
    daemon.store.record_events(&[event]).await.unwrap();
    assert_eq!(daemon.store.status_that_mark_dead_writes().await.unwrap().as_deref(), Some("offline"));
    let day = Duration::from_secs(86_400);
    daemon.store.retain(RetentionSettings { suspicions: day, events: day, attempts: day, batch: 10 }).await.unwrap();
    daemon.store.explain(&"w".into(), 10).await.unwrap();
    let facts = daemon.store.check_facts().await.unwrap();
    let missing: Vec<_> = facts.privileges.iter().filter(|privilege| !privilege.granted).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for sql in ["update defib.workspaces set status = 'x'", "delete from defib.workspaces", "drop table defib.restarts"]
    {
        assert_denied(&daemon, sql).await;
    }
}

#[tokio::test]
async fn a_reporter_can_report_and_nothing_else() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let url = login(&fixture, "defib_reporter").await;
    let reporter = Fixture { store: store(&url), client: postgres::connect(&url).await.unwrap(), url };
    reporter.run("select defib.report_suspicion('w', 'proxy', 'refused', 502, 'x')").await;
    for sql in [
        "select * from defib.suspicions",
        "select * from defib.fleet",
        "select * from defib.restarts",
        "insert into defib.suspicions (workspace_id, reporter, reason) values ('a', 'b', 'c')",
        "insert into defib.holds (scope, owner, reason) values ('fleet', 'b', 'c')",
        "select defib.mark_dead('w', '{}')",
        "select defib.mark_recovered('w', '{}')",
        "select * from defib.below_parked()",
    ] {
        assert_denied(&reporter, sql).await;
    }
}

#[tokio::test]
async fn a_viewer_can_read_and_nothing_else_and_anybody_else_nothing() {
    let fixture = Fixture::new().await;
    fixture.run("insert into defib.workspaces (id, parent_id) values ('p', null), ('w', 'p')").await;
    let url = login(&fixture, "defib_viewer").await;
    let viewer = Fixture { store: store(&url), client: postgres::connect(&url).await.unwrap(), url };
    for table in [
        "fleet",
        "workspaces",
        "suspicions",
        "restarts",
        "events",
        "marks",
        "verdicts",
        "leases",
        "holds",
        "schema_version",
    ] {
        viewer.run(&format!("select * from defib.{table}")).await;
    }
    assert_eq!(viewer.store.status().await.unwrap().len(), 2);
    for sql in [
        "select defib.report_suspicion('w', 'p', 'r')",
        "select defib.mark_dead('w', '{}')",
        "update defib.holds set reason = 'x'",
        "delete from defib.events",
    ] {
        assert_denied(&viewer, sql).await;
    }

    let database = fixture.text("select current_database()").await;
    fixture.run(&format!("create role stranger_of_{database} login")).await;
    let url = PrivatePostgres::shared()
        .await
        .unwrap()
        .url(&database)
        .replace("postgres@", &format!("stranger_of_{database}@"));
    let stranger = Fixture { store: store(&url), client: postgres::connect(&url).await.unwrap(), url };
    assert_denied(&stranger, "select defib.report_suspicion('w', 'p', 'r')").await;
    let error = stranger.store.read_fleet(FleetScope::All, &watched()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_unavailable()), ("permission", false));
    let facts = stranger.store.check_facts().await.unwrap();
    assert!(facts.privileges.iter().all(|privilege| !privilege.granted), "{facts:?}");
    assert!(facts.fleet.unwrap_err().contains("permission denied"));
}

async fn assert_denied(fixture: &Fixture, sql: &str) {
    let error = fixture.client.batch_execute(sql).await.expect_err(sql);
    let denied = [SqlState::INSUFFICIENT_PRIVILEGE];
    assert!(error.code().is_some_and(|code| denied.contains(code)), "{sql}: {error:?}");
}
