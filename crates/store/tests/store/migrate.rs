//! Migrations: from several processes, in several databases, again and again, and without the right to create roles.

use defib_store::{SCHEMA_VERSION, SchemaState, StoreError};
use defib_testkit::{PrivatePostgres, postgres};
use tokio::task::JoinSet;

use crate::fixture::{Fixture, SOON, shown, store};

#[tokio::test(flavor = "multi_thread")]
async fn many_replicas_of_two_databases_migrate_at_once() {
    // A server of its own: on the shared one the roles exist already, and creating them is half of the race.
    let server = PrivatePostgres::start().await.unwrap();
    let urls = [server.create_database().await.unwrap(), server.create_database().await.unwrap()];
    let mut running = JoinSet::new();
    for n in 0..12 {
        let url = urls[n % 2].clone();
        running.spawn(async move { store(&url).migrate().await });
    }
    let mut applied = 0;
    while let Some(report) = running.join_next().await {
        let report = report.unwrap().unwrap_or_else(|error| panic!("{}", shown(&error)));
        assert_eq!((report.to, report.roles_missing.as_slice()), (SCHEMA_VERSION, &[][..]));
        applied += usize::from(!report.applied.is_empty());
    }
    assert_eq!(applied, 2, "one run each");
    for url in urls {
        assert_eq!(store(&url).schema_state().await.unwrap(), SchemaState::Current);
    }
}

#[tokio::test]
async fn a_second_run_changes_nothing_and_keeps_what_an_adapter_replaced() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "create or replace function defib.mark_recovered(workspace_id text, evidence jsonb) returns boolean
             language sql as 'select null::boolean'",
        )
        .await;
    let report = fixture.store.migrate().await.unwrap();
    assert_eq!((report.from, report.to, report.applied.len()), (SCHEMA_VERSION, SCHEMA_VERSION, 0));
    assert_eq!(
        fixture.text("select prosrc from pg_proc where proname = 'mark_recovered'").await,
        "select null::boolean"
    );
}

#[tokio::test]
async fn a_view_is_made_anew_only_while_it_is_the_shipped_one() {
    let fixture = Fixture::new().await;
    let walks_up = "select pg_get_viewdef('defib.fleet'::regclass) like '%has_parked_ancestor%'";
    fixture.back_to_version_5().await;
    fixture.store.migrate().await.unwrap();
    assert_eq!(fixture.text(walks_up).await, "true");
    fixture.back_to_version_5().await;
    fixture
        .run(
            "create or replace view defib.fleet as
             select id as workspace_id, name, status, kind, 'mine' as engine, container_ref, instance_ref, false as suspended,
                    last_heartbeat_at, last_activity_at, active_tasks, created_at, policy
               from defib.workspaces",
        )
        .await;
    fixture.store.migrate().await.unwrap();
    fixture.workspace("w").await;
    assert_eq!(fixture.text("select engine from defib.fleet").await, "mine");
}

#[tokio::test]
async fn the_state_is_told_and_a_newer_schema_is_left_alone() {
    let url = PrivatePostgres::shared().await.unwrap().create_database().await.unwrap();
    assert_eq!(store(&url).schema_state().await.unwrap(), SchemaState::Missing);
    let fixture = Fixture::on(url).await;
    fixture.run("delete from defib.schema_version where version > 1").await;
    let older = SchemaState::Older { have: 1, want: SCHEMA_VERSION };
    assert_eq!(fixture.store.schema_state().await.unwrap(), older);
    fixture.run("insert into defib.schema_version (version, name) values (99, 'of tomorrow')").await;
    let newer = SchemaState::Newer { have: 99, want: SCHEMA_VERSION };
    assert_eq!(fixture.store.schema_state().await.unwrap(), newer);
    let error = fixture.store.migrate().await.unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { have: 99, .. }), "{error:?}");
}

#[tokio::test]
async fn without_the_right_to_create_roles_the_rest_is_done_and_rights_follow_later() {
    let server = PrivatePostgres::start().await.unwrap();
    let admin = postgres::connect(&server.url("postgres")).await.unwrap();
    admin.batch_execute("create role plain login").await.unwrap();
    admin.batch_execute("create database theirs owner plain").await.unwrap();
    let url = server.url("theirs").replace("postgres@", "plain@");
    let report = store(&url).migrate().await.unwrap_or_else(|error| panic!("{}", shown(&error)));
    assert_eq!(report.roles_missing, ["defib_daemon", "defib_operator", "defib_reporter", "defib_viewer"]);
    assert_eq!(store(&url).schema_state().await.unwrap(), SchemaState::Current);

    admin
        .batch_execute("create role defib_daemon; create role defib_operator; create role defib_reporter; create role defib_viewer")
        .await
        .unwrap();
    let report = store(&url).migrate().await.unwrap();
    assert!(report.roles_missing.is_empty(), "{report:?}");
    let client = postgres::connect(&url).await.unwrap();
    let granted =
        client.query_one("select has_table_privilege('defib_viewer', 'defib.fleet', 'SELECT')", &[]).await.unwrap();
    assert!(granted.get::<_, bool>(0));
}

/// A dump reads the ledger for minutes, and a migration wants the table for itself. Daemons go on reading it all the while.
#[tokio::test]
async fn a_migration_that_waits_for_a_table_makes_nobody_else_wait() {
    let fixture = Fixture::new().await;
    fixture.back_to_version_5().await;
    let dump = fixture.another().await;
    dump.batch_execute("begin; select from defib.restarts").await.unwrap();
    let store = fixture.store.clone();
    let migrating = tokio::spawn(async move { store.migrate().await });
    defib_testkit::eventually(SOON, "the migration waits", async || {
        let waiting = "select count(*) from pg_locks where not granted and relation = 'defib.restarts'::regclass";
        if fixture.text(waiting).await == "0" { Err("nobody waits".to_owned()) } else { Ok(()) }
    })
    .await
    .unwrap();
    let read = fixture.text("select count(*) from defib.restarts");
    assert_eq!(tokio::time::timeout(SOON, read).await.expect("the read is answered while the dump goes on"), "0");
    assert!(!migrating.is_finished());
    dump.batch_execute("commit").await.unwrap();
    assert_eq!(migrating.await.unwrap().unwrap().to, SCHEMA_VERSION);
}

#[tokio::test]
async fn everything_says_what_it_is_for() {
    let fixture = Fixture::new().await;
    let bare = fixture
        .text(
            "select string_agg(name, ', ') from (
                select c.relname || coalesce('.' || a.attname, '') as name
                  from pg_class c join pg_namespace n on n.oid = c.relnamespace
                  left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'v')
                 where n.nspname = 'defib' and c.relkind in ('r', 'v') and col_description(c.oid, a.attnum) is null
                union all
                select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where n.nspname = 'defib' and (c.relkind in ('r', 'v') or (c.relkind = 'i' and c.relname not like '%_pkey'))
                   and obj_description(c.oid, 'pg_class') is null
                union all
                select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                 where n.nspname = 'defib' and obj_description(p.oid, 'pg_proc') is null
                union all
                select rolname from pg_roles where rolname like 'defib\\_%' and shobj_description(oid, 'pg_authid') is null) bare",
        )
        .await;
    assert_eq!(bare, "", "without a comment");
}
