//! The adapter for molecule-core, on a table like its own.

use defib_policy::fleet::Kind;
use defib_policy::id::WorkspaceId;
use defib_store::{Claimed, FleetScope, MayAct, SchemaState};
use serde_json::json;

use crate::fixture::{Fixture, lease, watched};

const PLATFORM: &str = "
    create type public.workspace_status as enum
        ('provisioning', 'online', 'degraded', 'offline', 'paused', 'hibernating', 'hibernated', 'removed', 'failed');
    create table public.workspaces (
        id uuid primary key, name text not null, status public.workspace_status not null default 'online',
        runtime text default 'langgraph', parent_id uuid references public.workspaces (id), last_heartbeat_at timestamptz,
        active_tasks integer default 0, created_at timestamptz default now(), updated_at timestamptz default now());
    insert into public.workspaces (id, name, status, runtime, parent_id, last_heartbeat_at) values
        ('00000000-0000-0000-0000-00000000000a', 'boss', 'online', null, null, now()),
        ('11111111-1111-1111-1111-11111111111b', 'worker', 'degraded', 'x', '00000000-0000-0000-0000-00000000000a', now()),
        ('22222222-2222-2222-2222-22222222222c', 'laptop', 'online', 'external', '11111111-1111-1111-1111-11111111111b', null),
        ('33333333-3333-3333-3333-33333333333d', 'new', 'provisioning', 'x', null, null)";
const ADAPTER: &str = include_str!("../../../../deploy/adapters/molecule.sql");

const BOSS: &str = "00000000-0000-0000-0000-00000000000a";
const WORKER: &str = "11111111-1111-1111-1111-11111111111b";
const LAPTOP: &str = "22222222-2222-2222-2222-22222222222c";

async fn adapted() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.run(PLATFORM).await;
    fixture.run(ADAPTER).await;
    fixture.run(ADAPTER).await; // again at any time
    fixture.store.migrate().await.unwrap(); // and not undone
    assert_eq!(fixture.store.schema_state().await.unwrap(), SchemaState::Current);
    fixture
}

#[tokio::test]
async fn the_platforms_table_is_read_through_the_view() {
    let fixture = adapted().await;
    let (read, malformed) = fixture.store.read_fleet(FleetScope::All, &watched()).await.unwrap();
    assert!(malformed.is_empty(), "{malformed:?}");
    let [boss, worker, laptop] = read.workspaces.as_slice() else { panic!("{read:?}") };
    assert_eq!((boss.id.as_str(), boss.container_ref.as_deref()), (BOSS, Some("ws-00000000-000")));
    assert_eq!((worker.id.as_str(), &*worker.status, worker.kind), (WORKER, "degraded", Kind::Container));
    assert_eq!((laptop.id.as_str(), laptop.kind, laptop.last_heartbeat_at), (LAPTOP, Kind::External, None));
    let one = [WorkspaceId::from(WORKER), "not a uuid".into()];
    assert_eq!(fixture.store.read_fleet(FleetScope::Some(&one), &watched()).await.unwrap().0.workspaces.len(), 1);

    fixture.run(&format!("update public.workspaces set status = 'hibernating' where id = '{WORKER}'")).await;
    assert_eq!(fixture.fleet().await, [BOSS], "the one below is suspended with it");
}

#[tokio::test]
async fn claims_and_recoveries_write_the_platforms_status() {
    let fixture = adapted().await;
    let id = fixture.grant(WORKER, 1, 1).await;
    let status = format!("select status from public.workspaces where id = '{WORKER}'");
    assert_eq!(fixture.text(&status).await, "offline");
    assert_eq!(fixture.may_act(id).await, MayAct::Yes);
    fixture.store.finish(id, defib_policy::attempt::Outcome::Succeeded, None).await.unwrap();
    fixture.store.recovered(id, &WORKER.into(), &json!({})).await.unwrap();
    assert_eq!(fixture.text(&status).await, "online");

    let evidence = fixture.evidence(WORKER).await;
    fixture.run(&format!("update public.workspaces set status = 'paused' where id = '{BOSS}'")).await;
    assert!(matches!(fixture.claim(WORKER, evidence, 2, 1).await, Claimed::Vetoed { .. }), "under a paused parent");
    assert!(!fixture.store.mark_lost(&LAPTOP.into(), &json!({}), lease(&"default".into())).await.unwrap());
    assert!(matches!(fixture.claim("not a uuid", json!({}), 2, 1).await, Claimed::Vetoed { .. }));
}
