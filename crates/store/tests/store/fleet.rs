//! Reading the fleet: who is in it, who is suspended, and what a platform's odd view may contain.

use std::time::Duration;

use defib_policy::fleet::Kind;
use defib_policy::id::WorkspaceId;
use defib_store::{FleetScope, MALFORMED_MAX, Store};
use defib_testkit::PrivatePostgres;

use crate::fixture::{Fixture, shown, store, watched};

#[tokio::test]
async fn an_empty_fleet_still_has_the_databases_clock() {
    let fixture = Fixture::new().await;
    for scope in [FleetScope::All, FleetScope::Some(&[])] {
        let (read, malformed) = fixture.store.read_fleet(scope, &watched()).await.unwrap();
        assert!(read.workspaces.is_empty() && malformed.is_empty());
        let up = read.database_now.since(read.database_started_at);
        assert!(up > Duration::ZERO && up < Duration::from_secs(3_600), "{up:?}");
    }
}

#[tokio::test]
async fn every_column_arrives_and_rows_are_in_the_order_of_their_ids() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.workspaces values
                ('b', 'Bee', 'degraded', 'instance', 'e2', 'ref', 'i-1', null, '2026-01-02 03:04:05.000006+00',
                 '2026-01-02 03:04:06+00', 3, '2025-01-01 00:00:00+00', default, '{\"busy_grace\": \"5m\"}');
             insert into defib.workspaces (id, active_tasks) values ('a', -1);
             insert into defib.workspaces (id, status) values ('c', 'provisioning'), ('d', 'failed')",
        )
        .await;
    let (read, malformed) = fixture.store.read_fleet(FleetScope::All, &watched()).await.unwrap();
    assert!(malformed.is_empty(), "{malformed:?}");
    let [a, b] = read.workspaces.as_slice() else { panic!("{read:?}") };
    assert_eq!((a.id.as_str(), &*a.status, a.kind, a.engine.as_str()), ("a", "online", Kind::Container, "default"));
    assert_eq!((&a.container_ref, a.last_heartbeat_at, a.active_tasks, &a.policy), (&None, None, 0, &None));
    assert_eq!((b.id.as_str(), &*b.status, b.kind, b.engine.as_str()), ("b", "degraded", Kind::Instance, "e2"));
    assert_eq!((b.container_ref.as_deref(), b.instance_ref.as_deref()), (Some("ref"), Some("i-1")));
    assert_eq!(b.last_heartbeat_at.unwrap().to_string(), "2026-01-02T03:04:05.000006Z");
    assert_eq!(b.last_activity_at.unwrap().to_string(), "2026-01-02T03:04:06.000000Z");
    assert_eq!(b.created_at.unwrap().to_string(), "2025-01-01T00:00:00.000000Z");
    assert_eq!((b.active_tasks, b.policy.as_deref()), (3, Some("{\"busy_grace\": \"5m\"}")));

    let only = ["b", "d", "unknown"].map(WorkspaceId::from);
    let (read, _) = fixture.store.read_fleet(FleetScope::Some(&only), &watched()).await.unwrap();
    assert_eq!(read.workspaces.len(), 1, "watched and asked for");
}

#[tokio::test]
async fn a_parked_ancestor_suspends_the_whole_tree_and_cycles_end() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.workspaces (id, parent_id, status) values
                ('root', null, 'online'), ('child', 'root', 'online'), ('grandchild', 'child', 'online'),
                ('loop-1', 'loop-2', 'online'), ('loop-2', 'loop-1', 'online'), ('own-parent', 'own-parent', 'online'),
                ('orphan', 'gone', 'online'), ('alone', null, 'online')",
        )
        .await;
    let all = ["alone", "child", "grandchild", "loop-1", "loop-2", "orphan", "own-parent", "root"];
    assert_eq!(fixture.fleet().await, all);

    for status in ["paused", "hibernating", "hibernated", "removed", "suspended"] {
        fixture.run(&format!("update defib.workspaces set status = '{status}' where id = 'root'")).await;
        let left = ["alone", "loop-1", "loop-2", "orphan", "own-parent"];
        assert_eq!(fixture.fleet().await, left, "{status}");
    }
    fixture.run("update defib.workspaces set status = 'paused' where id in ('loop-1', 'own-parent')").await;
    assert_eq!(fixture.fleet().await, ["alone", "orphan"]);
    let one = [WorkspaceId::from("grandchild")];
    let (read, _) = fixture.store.read_fleet(FleetScope::Some(&one), &watched()).await.unwrap();
    assert!(read.workspaces.is_empty(), "the narrow read agrees");
    assert_eq!(fixture.text("select suspended from defib.fleet where workspace_id = 'grandchild'").await, "true");
}

#[tokio::test]
async fn a_failed_or_offline_parent_does_not_suspend() {
    let fixture = Fixture::new().await;
    fixture
        .run("insert into defib.workspaces (id, parent_id, status) values ('p', null, 'failed'), ('c', 'p', 'online')")
        .await;
    assert_eq!(fixture.fleet().await, ["c"]);
}

#[tokio::test]
async fn odd_rows_of_a_platforms_view_are_reported_and_cost_nobody_else() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "create or replace view defib.fleet as
             select * from (values
                ('good', 'n', 'online', 'container', 'e', null, null, false, now(), null::timestamptz, 0, now(), null::jsonb),
                ('no-tasks', 'n', 'online', 'container', 'e', null, null, false, null, null, null, null, null),
                ('outside', 'n', 'online', 'external', null, null, null, false, null, null, 0, null, null),
                (null, 'n', 'online', 'container', 'e', null, null, false, null, null, 0, null, null),
                ('', 'n', 'online', 'container', 'e', null, null, false, null, null, 0, null, null),
                ('no-status', 'n', null, 'container', 'e', null, null, false, null, null, 0, null, null),
                ('no-kind', 'n', 'online', null, 'e', null, null, false, null, null, 0, null, null),
                ('odd-kind', 'n', 'online', 'toaster', 'e', null, null, false, null, null, 0, null, null),
                ('no-engine', 'n', 'online', 'container', null, null, null, false, null, null, 0, null, null),
                ('no-suspended', 'n', 'online', 'container', 'e', null, null, null, null, null, 0, null, null),
                ('for-ever', 'n', 'online', 'container', 'e', null, null, false, 'infinity', null, 0, null, null),
                ('never', 'n', 'online', 'container', 'e', null, null, false, null, '-infinity', 0, null, null),
                ('twice', 'n', 'online', 'container', 'e', null, null, false, null, null, 0, null, null),
                ('twice', 'n', 'online', 'container', 'other', null, null, false, null, null, 0, null, null))
                as t(workspace_id, name, status, kind, engine, container_ref, instance_ref, suspended, last_heartbeat_at,
                     last_activity_at, active_tasks, created_at, policy)",
        )
        .await;
    let (read, malformed) = fixture.store.read_fleet(FleetScope::All, &watched()).await.unwrap();
    let ids: Vec<&str> = read.workspaces.iter().map(|workspace| workspace.id.as_str()).collect();
    assert_eq!(ids, ["good", "no-tasks", "outside"]);
    let mut reported: Vec<(Option<&str>, &str)> = malformed.iter().map(|row| (row.id.as_deref(), row.why)).collect();
    reported.sort_unstable();
    assert_eq!(
        reported,
        [
            (None, "workspace_id is null or empty"),
            (Some(""), "workspace_id is null or empty"),
            (Some("for-ever"), "last_heartbeat_at is infinite"),
            (Some("never"), "last_activity_at is infinite"),
            (Some("no-engine"), "engine is null"),
            (Some("no-kind"), "kind is null"),
            (Some("no-status"), "status is null"),
            (Some("no-suspended"), "suspended is null"),
            (Some("odd-kind"), "kind is none of container, instance, external"),
            (Some("twice"), "workspace_id is in more than one row"),
        ]
    );
}

#[tokio::test]
async fn a_view_that_is_wrong_in_every_row_is_told_by_a_few() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "create or replace view defib.fleet as
             select n::text as workspace_id, null::text as name, 'online'::text as status, 'toaster'::text as kind, 'e'::text as engine,
                    null::text as container_ref, null::text as instance_ref, false as suspended,
                    null::timestamptz as last_heartbeat_at, null::timestamptz as last_activity_at, 0 as active_tasks,
                    null::timestamptz as created_at, null::jsonb as policy
               from generate_series(1, 500) n",
        )
        .await;
    let (read, malformed) = fixture.store.read_fleet(FleetScope::All, &watched()).await.unwrap();
    assert_eq!((read.workspaces.len(), malformed.len()), (0, MALFORMED_MAX));
}

#[tokio::test]
async fn no_schema_and_a_failing_view_are_errors_and_not_an_empty_fleet() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "create or replace view defib.fleet as
             select null::text as workspace_id, null::text as name, null::text as status, null::text as kind, null::text as engine,
                    null::text as container_ref, null::text as instance_ref, false as suspended,
                    null::timestamptz as last_heartbeat_at, null::timestamptz as last_activity_at,
                    1 / (select count(*)::int from defib.workspaces) as active_tasks, null::timestamptz as created_at,
                    null::jsonb as policy",
        )
        .await;
    let error = fixture.store.read_fleet(FleetScope::All, &watched()).await.unwrap_err();
    assert!(shown(&error).contains("division by zero") && !error.is_unavailable(), "{}", shown(&error));
    fixture.run("drop view defib.fleet").await;
    let error = fixture.store.read_fleet(FleetScope::All, &watched()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_unavailable()), ("schema", false));
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_no_fleet_and_its_connections_are_not_kept() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let database = fixture.text("select current_database()").await;
    fixture.store.ping().await.unwrap(); // a connection of before, which may write still
    fixture.run(&format!("alter database {database} set default_transaction_read_only = on")).await;
    let ours = "pg_stat_activity where datname = current_database() and application_name = 'defib-test'";
    fixture.run(&format!("select pg_terminate_backend(pid) from {ours}")).await;
    let error = defib_testkit::eventually(crate::fixture::SOON, "it is read-only", || async {
        match fixture.store.read_fleet(FleetScope::All, &watched()).await {
            Err(error) if error.kind() == "read_only" => Ok(error),
            other => Err(format!("{other:?}")), // one that was ended a moment ago
        }
    })
    .await
    .unwrap();
    assert!(error.is_unavailable() && shown(&error).contains("read-only"), "{}", shown(&error));

    fixture.run(&format!("alter database {database} reset default_transaction_read_only")).await;
    assert_eq!(fixture.fleet().await, ["w"], "another connection, which may write");
}

#[tokio::test]
async fn a_promoted_standby_starts_when_it_is_first_seen_and_an_ordinary_server_when_it_did() {
    let primary = PrivatePostgres::start().await.unwrap();
    let url = primary.create_database().await.unwrap();
    let fixture = Fixture::on(url.clone()).await;
    let started = async |store: &Store| {
        let read = store.read_fleet(FleetScope::All, &watched()).await.unwrap().0;
        (read.database_started_at, read.database_now)
    };
    let (ordinary, _) = started(&fixture.store).await;
    assert_eq!(started(&fixture.store).await.0, ordinary);

    let standby = primary.standby().await.unwrap();
    fixture.workspace("w").await;
    primary.wait_until_replayed_by(&standby).await.unwrap();
    standby.promote().await.unwrap();
    let promoted = store(&standby.url(url.rsplit('/').next().unwrap()));
    let (first_seen, now) = started(&promoted).await;
    assert_eq!(first_seen, now);
    let (later, now) = started(&promoted).await;
    assert!(later == first_seen && now > later, "{later:?} {first_seen:?} {now:?}");
}

#[tokio::test]
async fn a_narrow_read_goes_through_the_primary_key_and_a_wide_one_walks_down_once() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.workspaces (id, parent_id, status)
             select 'ws-' || n, case when n % 10 <> 0 then 'ws-' || (n - n % 10) end,
                    case when n % 500 = 0 then 'paused' else 'online' end
               from generate_series(1, 20000) n;
             analyze defib.workspaces",
        )
        .await;
    let plan = |sql: &'static str| {
        let fixture = &fixture;
        async move {
            let rows = fixture.client.query(&format!("explain (analyze, timing off) {sql}"), &[]).await.unwrap();
            rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
        }
    };
    let narrow =
        plan("select * from defib.fleet where workspace_id = any ('{ws-7,ws-500}') and status = any ('{online}')")
            .await;
    assert!(narrow.contains("workspaces_pkey") && !narrow.contains("Seq Scan"), "{narrow}");
    let orphans = plan("select * from defib.fleet where workspace_id = 'ws-10'").await;
    assert!(orphans.contains("never executed"), "no parent, no walk: {orphans}");
    let wide = plan("select workspace_id, suspended from defib.fleet where status = any ('{online,offline}')").await;
    assert!(wide.contains("loops=1") && !wide.contains("loops=2"), "{wide}");
    let filtered = plan("select 1 from defib.fleet where suspended").await;
    assert!(filtered.contains("hashed SubPlan"), "{filtered}");
    assert_eq!(fixture.text("select count(*) from defib.fleet where suspended").await, "391");
}

#[tokio::test]
async fn a_heartbeat_stays_a_hot_update() {
    let fixture = Fixture::new().await;
    fixture.run("insert into defib.workspaces (id, parent_id) values ('a', 'b')").await;
    fixture
        .run("do $$ begin for n in 1..20 loop update defib.workspaces set last_heartbeat_at = clock_timestamp(), active_tasks = n, status = 'online'; end loop; end $$")
        .await;
    let hot = || {
        fixture.text("select n_tup_upd || ' ' || n_tup_hot_upd from pg_stat_user_tables where relname = 'workspaces'")
    };
    let counted = defib_testkit::eventually(crate::fixture::SOON, "the statistics", || async {
        let seen = hot().await;
        if seen.starts_with("20 ") { Ok(seen) } else { Err(seen) }
    })
    .await
    .unwrap();
    assert_eq!(counted, "20 20");
    assert_eq!(fixture.text("select count(*) from pg_trigger where tgrelid = 'defib.workspaces'::regclass").await, "0");
}

/// The walk down from the parked ones, for the whole fleet, and the walk up from each of a few rows must find the same: in trees of every
/// shape, with cycles, with parents that do not exist.
#[tokio::test]
async fn a_few_rows_are_suspended_as_the_whole_fleet_says() {
    let fixture = Fixture::new().await;
    let mut seed = 11_u64;
    let mut number = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for round in 0..20 {
        fixture.run("truncate defib.workspaces").await;
        for n in 0..30 {
            let parent = if number(4) == 0 { "null".to_owned() } else { format!("'w{}'", number(33)) };
            let status = if number(6) == 0 { "paused" } else { "online" };
            fixture
                .run(&format!(
                    "insert into defib.workspaces (id, parent_id, status) values ('w{n}', {parent}, '{status}')"
                ))
                .await;
        }
        let all: Vec<WorkspaceId> = (0..30).map(|n| format!("w{n}").as_str().into()).collect();
        let (few, _) = fixture.store.read_fleet(FleetScope::Some(&all), &watched()).await.unwrap();
        let few: Vec<String> = few.workspaces.iter().map(|workspace| workspace.id.to_string()).collect();
        assert_eq!(few, fixture.fleet().await, "round {round}");
    }
}

/// What a few rows cost does not depend on how many others are parked: the walk down is not made for them.
#[tokio::test]
async fn for_a_few_rows_no_parked_tree_is_walked() {
    let fixture = Fixture::new().await;
    fixture.run("insert into defib.workspaces (id, parent_id) values ('parent', null), ('w', 'parent')").await;
    fixture
        .run(
            "create or replace function defib.below_parked() returns setof text language plpgsql stable security definer
             set search_path = pg_catalog, pg_temp as $$ begin raise exception 'every parked tree is walked'; end $$",
        )
        .await;
    let all = fixture.store.read_fleet(FleetScope::All, &watched()).await;
    assert!(crate::fixture::shown(&all.unwrap_err()).contains("every parked tree"), "the whole fleet is read by it");
    let id = fixture.grant("w", 1, 1).await; // reads the row, and claims
    assert_eq!(fixture.may_act(id).await, defib_store::MayAct::Yes);
    fixture.run("update defib.workspaces set status = 'paused' where id = 'parent'").await;
    assert_eq!(fixture.may_act(id).await, defib_store::MayAct::NotWanted);
    let w = [WorkspaceId::from("w")];
    let (read, _) = fixture.store.read_fleet(FleetScope::Some(&w), &watched()).await.unwrap();
    assert!(read.workspaces.is_empty());
    assert!(
        fixture.store.read_fleet(FleetScope::All, &watched()).await.is_err(),
        "the setting ends with its transaction"
    );
}
