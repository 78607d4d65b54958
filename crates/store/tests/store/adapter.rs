//! The adapter for molecule-core, on tables like its own: with a status that is an enum, an enum that lacks a word, and a text.

use defib_policy::attempt::Outcome;
use defib_policy::fleet::Kind;
use defib_policy::id::WorkspaceId;
use defib_store::{Claimed, FleetScope, MayAct, SchemaState};
use serde_json::json;

use crate::fixture::{Fixture, lease, watched};

const TABLES: &str = include_str!("../../../../tests/sql/molecule-core.sql");
pub(crate) const ADAPTER: &str = include_str!("../../../../deploy/adapters/molecule-core.sql");

pub(crate) const BOSS: &str = "00000000-0000-0000-0000-00000000000a";
pub(crate) const LEAD: &str = "11111111-1111-1111-1111-11111111111b";
pub(crate) const WORKER: &str = "22222222-2222-2222-2222-22222222222c";
const LAPTOP: &str = "33333333-3333-3333-3333-33333333333d";
const TENANT: &str = "44444444-4444-4444-4444-44444444444e";

/// The types that `status` has had over the years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusType {
    Text,
    Enum,
    EnumWithoutHibernating,
}

pub(crate) const STATUS_TYPES: [StatusType; 3] =
    [StatusType::Text, StatusType::Enum, StatusType::EnumWithoutHibernating];

impl StatusType {
    fn tables(self) -> String {
        let words = "'provisioning', 'online', 'offline', 'degraded', 'failed', 'removed', 'paused', 'hibernated'";
        let (before, name) = match self {
            Self::Text => (String::new(), "text"),
            Self::Enum => (
                format!("create type public.workspace_status as enum ({words}, 'hibernating');"),
                "public.workspace_status",
            ),
            Self::EnumWithoutHibernating => {
                (format!("create type public.workspace_status as enum ({words});"), "public.workspace_status")
            }
        };
        before + &TABLES.replace("%status%", name)
    }

    /// The tables without a row, and the adapter on them.
    pub(crate) async fn adapted(self) -> Fixture {
        let fixture = Fixture::new().await;
        fixture.run(&self.tables()).await;
        fixture.run(ADAPTER).await;
        fixture.run(ADAPTER).await; // again at any time
        fixture.store.migrate().await.unwrap(); // and not undone
        assert_eq!(fixture.store.schema_state().await.unwrap(), SchemaState::Current);
        fixture
    }
}

/// A boss, a lead below it, a worker below that one.
pub(crate) const FAMILY: &str = "
    truncate public.workspaces, public.structure_events, defib.restarts cascade;
    insert into public.workspaces (id, name, status, parent_id, last_heartbeat_at) values
        ('00000000-0000-0000-0000-00000000000a', 'boss', 'online', null, now()),
        ('11111111-1111-1111-1111-11111111111b', 'lead', 'online', '00000000-0000-0000-0000-00000000000a', now()),
        ('22222222-2222-2222-2222-22222222222c', 'worker', 'online', '11111111-1111-1111-1111-11111111111b', now())";

async fn status(fixture: &Fixture, id: &str) -> String {
    fixture.text(&format!("select status from public.workspaces where id = '{id}'")).await
}

/// What was written for the platform's own consumers, oldest first.
async fn events(fixture: &Fixture) -> String {
    fixture
        .text(
            "select string_agg(event_type || ' ' || workspace_id || ' ' || (payload ->> 'source'), ', ' order by created_at)
               from public.structure_events",
        )
        .await
}

#[tokio::test]
async fn the_platforms_table_is_read_through_the_view() {
    for status_type in STATUS_TYPES {
        let fixture = status_type.adapted().await;
        fixture.run(FAMILY).await;
        fixture
            .run(&format!(
                "update public.workspaces set last_outbound_at = '2026-01-02T03:04:05Z', active_tasks = 3 where id = '{WORKER}';
                 update public.workspaces set instance_id = '' where id = '{LEAD}';
                 insert into public.workspaces (id, name, status, runtime, instance_id) values
                    ('{LAPTOP}', 'laptop', 'online', 'external', null), ('{TENANT}', 'tenant', 'degraded', null, 'i-0abc'),
                    (gen_random_uuid(), 'new', 'provisioning', 'x', null), (gen_random_uuid(), 'broken', 'failed', 'x', null)"
            ))
            .await;
        let (read, malformed) = fixture.store.read_fleet(FleetScope::All, &watched()).await.unwrap();
        assert!(malformed.is_empty(), "{malformed:?}");
        let [boss, lead, worker, laptop, tenant] = read.workspaces.as_slice() else { panic!("{read:?}") };
        let shown = |w: &defib_policy::fleet::Workspace| {
            let text = |text: &Option<Box<str>>| text.as_deref().unwrap_or("-").to_owned();
            (w.kind, w.engine.to_string(), text(&w.container_ref), text(&w.instance_ref))
        };
        let container = |name: &str| (Kind::Container, "default".to_owned(), name.to_owned(), "-".to_owned());
        assert_eq!((boss.id.as_str(), shown(boss)), (BOSS, container("ws-00000000-000")), "{status_type:?}");
        assert_eq!(shown(lead), container("ws-11111111-111"), "an empty instance_id is none");
        assert_eq!((worker.active_tasks, worker.last_activity_at.is_some()), (3, true));
        assert_eq!(shown(laptop), (Kind::External, "default".into(), "-".into(), "-".into()));
        assert_eq!(shown(tenant), (Kind::Instance, "control-plane".into(), "-".into(), "i-0abc".into()));
        assert_eq!((&*tenant.status, tenant.last_heartbeat_at), ("degraded", None));
        let one = [WorkspaceId::from(WORKER), "not a uuid".into()];
        assert_eq!(fixture.store.read_fleet(FleetScope::Some(&one), &watched()).await.unwrap().0.workspaces.len(), 1);
    }
}

/// Watched or not: what is put away is not judged, not restarted and not marked.
#[tokio::test]
async fn who_is_put_away_is_out_of_reach_whatever_is_watched() {
    for status_type in STATUS_TYPES {
        let fixture = status_type.adapted().await;
        for (status_of_it, suspends_those_below) in [
            ("paused", true),
            ("hibernated", true),
            ("hibernating", true),
            ("removed", true),
            ("provisioning", false),
            ("failed", false),
        ] {
            if status_type == StatusType::EnumWithoutHibernating && status_of_it == "hibernating" {
                continue;
            }
            let name = format!("{status_of_it}, {status_type:?}");
            fixture.run(FAMILY).await;
            fixture.run(&format!("update public.workspaces set status = '{status_of_it}' where id = '{BOSS}'")).await;
            let everything = [watched(), vec![status_of_it.to_owned()]].concat();
            let (read, _) = fixture.store.read_fleet(FleetScope::All, &everything).await.unwrap();
            let seen: Vec<&str> = read.workspaces.iter().map(|workspace| workspace.id.as_str()).collect();
            let expected: &[&str] = match (status_of_it, suspends_those_below) {
                ("failed", _) => &[BOSS, LEAD, WORKER], // only because it is watched here
                (_, true) => &[],
                (_, false) => &[LEAD, WORKER],
            };
            assert_eq!(seen, expected, "{name}");

            // Evidence that no heartbeat contradicts, and without a status: nothing else is left to veto.
            let container = |id: &str| format!("ws-{}", &id[..12]);
            let evidence = json!({"last_heartbeat_at": "infinity", "container_ref": container(BOSS)});
            let claimed = fixture.claim(BOSS, evidence, 1, 1).await;
            let vetoes = status_of_it != "failed";
            assert_eq!(matches!(claimed, Claimed::Vetoed { .. }), vetoes, "{name}: {claimed:?}");
            let evidence =
                json!({"status": "online", "last_heartbeat_at": "infinity", "container_ref": container(WORKER)});
            let below = fixture.claim(WORKER, evidence, 1, 1).await;
            assert_eq!(matches!(below, Claimed::Vetoed { .. }), suspends_those_below, "{name}: {below:?}");
            let marked = format!("select defib.mark_recovered('{BOSS}', '{{}}')");
            assert_eq!(fixture.text(&marked).await, "false", "{name}");
            assert_eq!(status(&fixture, BOSS).await, status_of_it, "{name}");
        }
    }
}

#[tokio::test]
async fn a_paused_ancestor_suspends_everything_below_and_cycles_survive() {
    let fixture = StatusType::Enum.adapted().await;
    fixture.run(FAMILY).await;
    fixture.run(&format!("update public.workspaces set parent_id = '{WORKER}' where id = '{BOSS}'")).await;
    assert_eq!(fixture.fleet().await, [BOSS, LEAD, WORKER]);
    assert_eq!(
        fixture.text(&format!("select defib.mark_dead('{WORKER}', '{{\"last_heartbeat_at\": \"infinity\"}}')")).await,
        "true"
    );

    fixture.run(&format!("update public.workspaces set status = 'hibernated' where id = '{LEAD}'")).await;
    assert_eq!(fixture.fleet().await, Vec::<String>::new(), "its descendants are its ancestors too");
    for id in [BOSS, WORKER] {
        let vetoed = fixture.claim(id, json!({"last_heartbeat_at": "infinity"}), 2, 1).await;
        assert!(matches!(vetoed, Claimed::Vetoed { .. }), "{id}: {vetoed:?}");
    }
}

#[tokio::test]
async fn claims_and_recoveries_write_the_platforms_status_and_its_events() {
    for status_type in STATUS_TYPES {
        let fixture = status_type.adapted().await;
        fixture.run(FAMILY).await;
        let evidence = fixture.evidence(WORKER).await;
        let mut told = evidence.clone();
        told["because"] = "its container stopped".into();
        let Claimed::Granted { id } = fixture.claim(WORKER, told, 1, 1).await else { panic!("not granted") };
        assert_eq!(status(&fixture, WORKER).await, "offline", "{status_type:?}");
        let offline = format!("WORKSPACE_OFFLINE {WORKER} defib");
        assert_eq!(events(&fixture).await, offline);
        assert_eq!(
            fixture.text("select payload ->> 'because' from public.structure_events").await,
            "its container stopped"
        );
        assert_eq!(fixture.may_act(id).await, MayAct::Yes);
        fixture.store.finish(id, Outcome::Failed, None).await.unwrap();

        let second = fixture.grant(WORKER, 1, 2).await;
        assert_eq!(events(&fixture).await, offline, "it was offline already, so nothing changed");
        fixture.store.finish(second, Outcome::Succeeded, None).await.unwrap();
        fixture.store.recovered(second, &WORKER.into()).await.unwrap();
        assert!(fixture.store.take_back(&WORKER.into(), &json!({})).await.unwrap());
        assert_eq!(status(&fixture, WORKER).await, "online");
        let both = format!("{offline}, WORKSPACE_ONLINE {WORKER} defib");
        assert_eq!(events(&fixture).await, both);
        assert!(!fixture.store.take_back(&WORKER.into(), &json!({})).await.unwrap(), "once");
        assert_eq!(events(&fixture).await, both);
        assert!(matches!(fixture.claim("not a uuid", json!({}), 2, 1).await, Claimed::Vetoed { .. }));
    }
}

#[tokio::test]
async fn a_lost_external_one_is_marked_and_told_of() {
    let fixture = StatusType::Enum.adapted().await;
    fixture
        .run(&format!(
            "insert into public.workspaces (id, name, status, runtime) values ('{LAPTOP}', 'laptop', 'degraded', 'external')"
        ))
        .await;
    let evidence = fixture.evidence(LAPTOP).await;
    assert!(fixture.store.mark_lost(&LAPTOP.into(), &evidence, lease(&"default".into())).await.unwrap());
    assert_eq!(status(&fixture, LAPTOP).await, "offline");
    assert!(fixture.store.owe(&LAPTOP.into()).await.unwrap());
    assert!(fixture.store.take_back(&LAPTOP.into(), &json!({})).await.unwrap());
    let told = format!("WORKSPACE_OFFLINE {LAPTOP} defib, WORKSPACE_ONLINE {LAPTOP} defib");
    assert_eq!((status(&fixture, LAPTOP).await, events(&fixture).await), ("online".into(), told));
}

/// The counters are those of the transaction, so nothing has to be waited for.
#[tokio::test]
async fn heartbeats_stay_heap_only_and_fire_no_trigger() {
    for status_type in STATUS_TYPES {
        let fixture = status_type.adapted().await;
        fixture.run(FAMILY).await;
        fixture
            .run(&format!(
                "begin;
                 update public.workspaces set last_heartbeat_at = clock_timestamp(), active_tasks = 1, updated_at = now() where id = '{WORKER}';
                 update public.workspaces set last_outbound_at = clock_timestamp() where id = '{WORKER}'"
            ))
            .await;
        let hot = "select pg_stat_get_xact_tuples_hot_updated('public.workspaces'::regclass)";
        assert_eq!(fixture.text(hot).await, "2", "{status_type:?}");
        fixture.run("rollback").await;
        let triggers =
            "select count(*) from pg_trigger where tgrelid = 'public.workspaces'::regclass and not tgisinternal";
        assert_eq!(fixture.text(triggers).await, "0");
    }
}

/// When the adapter is run where something that it needs is missing, it says so, and changes nothing.
#[tokio::test]
async fn the_adapter_refuses_a_platform_that_lacks_what_it_needs() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    fixture.run(&StatusType::Text.tables()).await;
    fixture.run("alter table public.structure_events rename column payload to data").await;
    let error = fixture.client.batch_execute(ADAPTER).await.unwrap_err();
    assert!(crate::fixture::shown(&error).contains("payload"), "{error:?}");
    assert_eq!(fixture.fleet().await, ["w"]);
}
