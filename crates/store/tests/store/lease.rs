//! Leases: one owner an engine, epochs that fence, engines spread over the replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use defib_policy::id::EngineName;
use defib_store::{Claimed, LeaseTable, LeaseTurn, ListenEvent, ListenSettings, listen};
use serde_json::json;

use crate::fixture::{Fixture, SOON, claim, store};

const TTL: Duration = Duration::from_secs(60);

/// A replica, turn by turn.
struct Replica {
    name: &'static str,
    engines: Vec<EngineName>,
    owned: Option<BTreeMap<EngineName, i64>>,
    busy: BTreeSet<EngineName>,
    fit: BTreeSet<EngineName>,
}

impl Replica {
    fn new(name: &'static str, engines: &[&str]) -> Self {
        let engines: Vec<_> = engines.iter().map(|engine| EngineName::from(*engine)).collect();
        let fit = engines.iter().cloned().collect();
        Self { name, engines, owned: None, busy: BTreeSet::new(), fit }
    }

    async fn turn(&mut self, fixture: &Fixture) -> LeaseTable {
        let turn = LeaseTurn {
            replica: self.name,
            engines: &self.engines,
            fit: &self.fit,
            owned: self.owned.as_ref(),
            busy: &self.busy,
            ttl: TTL,
        };
        let table = fixture.store.take_lease_turn(&turn).await.unwrap();
        self.owned = Some(table.owned.clone());
        table
    }

    /// What it owns after a turn, as `engine@epoch`.
    async fn owns(&mut self, fixture: &Fixture) -> Vec<String> {
        self.turn(fixture).await.owned.iter().map(|(engine, epoch)| format!("{engine}@{epoch}")).collect()
    }
}

/// Without the lease that other tests claim under.
async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.run("delete from defib.leases").await;
    fixture
}

async fn expire(fixture: &Fixture, holder: &str) {
    fixture
        .run(&format!(
            "update defib.leases set expires_at = clock_timestamp() where holder = '{holder}';
             update defib.replicas set expires_at = clock_timestamp() where replica = '{holder}'"
        ))
        .await;
}

#[tokio::test]
async fn the_first_replica_owns_all_and_keeps_its_epochs() {
    let fixture = fixture().await;
    let mut a = Replica::new("a", &["e1", "e2"]);
    assert_eq!(a.owns(&fixture).await, ["e1@1", "e2@1"]);
    fixture.run("update defib.leases set expires_at = clock_timestamp() + interval '1 second'").await;
    assert_eq!(a.owns(&fixture).await, ["e1@1", "e2@1"]);
    let renewed = fixture.text("select bool_and(expires_at > now() + interval '50 seconds') from defib.leases").await;
    assert_eq!(renewed, "true");
    assert_eq!(fixture.store.leases().await.unwrap().len(), 2);
}

#[tokio::test]
async fn engines_are_spread_when_one_joins_and_when_one_leaves() {
    let fixture = fixture().await;
    let (mut a, mut b) = (Replica::new("a", &["e1", "e2", "e3"]), Replica::new("b", &["e1", "e2", "e3"]));
    assert_eq!(a.owns(&fixture).await.len(), 3);
    assert!(b.owns(&fixture).await.is_empty(), "nothing is taken from one that lives");
    assert_eq!(a.owns(&fixture).await, ["e2@1", "e3@1"], "it gives one up");
    assert_eq!(b.owns(&fixture).await, ["e1@2"]);
    assert_eq!((a.owns(&fixture).await.len(), b.owns(&fixture).await.len()), (2, 1), "and there it stays");

    fixture.store.release_leases("b", b.owned.as_ref().unwrap()).await.unwrap();
    assert_eq!(a.owns(&fixture).await, ["e1@3", "e2@1", "e3@1"], "at once after a clean stop");
    expire(&fixture, "a").await;
    assert_eq!(b.owns(&fixture).await, ["e1@4", "e2@2", "e3@2"], "and after a crash when the time is up");
}

#[tokio::test]
async fn an_engine_with_a_restart_under_way_is_not_given_up() {
    let fixture = fixture().await;
    let (mut a, mut b) = (Replica::new("a", &["e1", "e2"]), Replica::new("b", &["e1", "e2"]));
    a.busy.insert("e1".into());
    a.turn(&fixture).await;
    b.turn(&fixture).await;
    assert_eq!(a.owns(&fixture).await, ["e1@1", "e2@1"], "e1 is the one to go, and it is busy");
    a.busy.clear();
    assert_eq!(a.owns(&fixture).await, ["e2@1"]);
    assert_eq!(b.owns(&fixture).await, ["e1@2"]);
}

#[tokio::test]
async fn an_engine_goes_to_one_that_can_act_on_it_and_to_another_only_where_nobody_can() {
    let fixture = fixture().await;
    let (mut a, mut b) = (Replica::new("a", &["e1"]), Replica::new("b", &["e1"]));
    a.fit.clear();
    assert_eq!(a.owns(&fixture).await, ["e1@1"], "nobody else is there: it at least says what it sees");
    assert!(b.owns(&fixture).await.is_empty());
    assert!(a.owns(&fixture).await.is_empty(), "one has come that can");
    assert_eq!(b.owns(&fixture).await, ["e1@2"]);
    b.fit.clear();
    assert_eq!(b.owns(&fixture).await, ["e1@2"], "nobody can: it stays");
    a.fit.insert("e1".into());
    a.turn(&fixture).await;
    assert!(b.owns(&fixture).await.is_empty());
    assert_eq!(a.owns(&fixture).await, ["e1@3"]);
}

#[tokio::test]
async fn each_takes_only_engines_that_it_is_configured_for() {
    let fixture = fixture().await;
    let (mut a, mut b) = (Replica::new("a", &["e1"]), Replica::new("b", &["e2"]));
    assert_eq!((a.owns(&fixture).await, b.owns(&fixture).await), (vec!["e1@1".to_owned()], vec!["e2@1".to_owned()]));
    // Reconfigured: what it held and is not configured for any more goes.
    a.engines = vec!["e3".into()];
    a.fit = BTreeSet::from(["e3".into()]);
    assert_eq!(a.owns(&fixture).await, ["e3@1"]);
    assert_eq!(fixture.store.leases().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_process_takes_over_at_once_from_one_of_its_own_name_and_fences_it() {
    let fixture = fixture().await;
    let mut dead = Replica::new("a", &["default"]);
    assert_eq!(dead.owns(&fixture).await, ["default@1"]);
    let mut next = Replica::new("a", &["default"]);
    assert_eq!(next.owns(&fixture).await, ["default@2"]);
    // If the first is not dead after all, two processes share a name: it says so, and does not take it back.
    let table = dead.turn(&fixture).await;
    assert_eq!((table.owned.len(), table.usurped.as_slice()), (0, &["default".into()][..]));
    assert!(dead.owns(&fixture).await.is_empty());
    assert_eq!(next.owns(&fixture).await, ["default@2"]);
}

#[tokio::test]
async fn a_lease_that_expired_and_was_not_taken_is_still_ones_own() {
    let fixture = fixture().await;
    let mut a = Replica::new("a", &["e1"]);
    a.turn(&fixture).await;
    expire(&fixture, "a").await;
    assert!(fixture.store.leases().await.unwrap().is_empty());
    assert_eq!(a.owns(&fixture).await, ["e1@1"], "the same epoch: nobody was in between");
}

#[tokio::test]
async fn a_turn_waits_for_a_claim_that_is_under_way_and_the_claim_is_seen_by_the_next_owner() {
    let fixture = Fixture::new().await; // with the lease of replica-1
    fixture.workspace("w").await;
    // A claim, staged in the middle: its lease is locked, its row not committed yet.
    let mut claiming = fixture.another().await;
    let under_way = claiming.transaction().await.unwrap();
    under_way.execute("select 1 from defib.leases where engine = 'default' for key share", &[]).await.unwrap();
    expire(&fixture, "replica-1").await;
    let mut b = Replica::new("b", &["default"]);
    assert!(b.owns(&fixture).await.is_empty(), "not while the claim is under way");
    under_way
        .execute("insert into defib.restarts (workspace_id, engine, attempt, epoch, verdict) values ('w', 'default', 1, 7, 'dead')", &[])
        .await
        .unwrap();
    under_way.commit().await.unwrap();
    assert_eq!(b.owns(&fixture).await, ["default@8"]);
    assert_eq!(fixture.store.open_attempts(&["default".into()]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_renewal_does_not_wait_for_a_claim() {
    let fixture = fixture().await;
    let mut a = Replica::new("a", &["default"]);
    a.turn(&fixture).await;
    let mut claiming = fixture.another().await;
    let under_way = claiming.transaction().await.unwrap();
    under_way.execute("select 1 from defib.leases where engine = 'default' for key share", &[]).await.unwrap();
    assert_eq!(a.owns(&fixture).await, ["default@1"]);
}

#[tokio::test]
async fn a_claim_needs_the_lease_its_epoch_and_its_time() {
    for (state, granted) in [
        ("select 1", true),
        ("update defib.leases set epoch = 8", false),
        ("update defib.leases set holder = 'replica-2'", false),
        ("update defib.leases set expires_at = clock_timestamp()", false),
        ("delete from defib.leases", false),
    ] {
        let fixture = Fixture::new().await;
        fixture.workspace("w").await;
        fixture.run(state).await;
        let evidence = fixture.evidence("w").await;
        let claimed = fixture.claim("w", evidence, 1, 1).await;
        assert_eq!(matches!(claimed, Claimed::Granted { .. }), granted, "{state}: {claimed:?}");
        if !granted {
            assert_eq!(claimed, Claimed::NotOwner, "{state}");
            assert_eq!(fixture.text("select count(*) from defib.restarts").await, "0");
            assert_eq!(fixture.text("select status from defib.workspaces").await, "online", "nobody was marked");
        }
    }
}

/// The server's bound on stillness, as it is in force in the middle of a turn and of another transaction.
#[tokio::test]
async fn a_process_that_is_stopped_in_its_turn_does_not_hold_up_the_others_for_long() {
    let fixture = fixture().await;
    fixture
        .run(
            "create table seen (what text, bound text);
             create function see() returns trigger language plpgsql as $$
             begin
                insert into seen values (tg_table_name, current_setting('idle_in_transaction_session_timeout'));
                return new;
             end $$;
             grant insert on seen to public;
             create trigger see before insert on defib.replicas for each row execute function see();
             create trigger see before insert on defib.restarts for each row execute function see()",
        )
        .await;
    let (engines, fit, busy) = (["default".into()], ["default".into()].into(), BTreeSet::new());
    let ttl = Duration::from_secs(15);
    let turn = LeaseTurn { replica: "replica-1", engines: &engines, fit: &fit, owned: None, busy: &busy, ttl };
    fixture.store.take_lease_turn(&turn).await.unwrap();
    fixture.workspace("w").await;
    fixture.run("update defib.leases set epoch = 7").await;
    fixture.grant("w", 5, 1).await;
    let seen = "select string_agg(what || ' ' || bound, ', ' order by what) from seen";
    assert_eq!(fixture.text(seen).await, "replicas 2500ms, restarts 10s");
}

#[tokio::test]
async fn of_many_replicas_that_turn_at_once_each_engine_gets_one() {
    let fixture = fixture().await;
    let engines = ["e1", "e2", "e3", "e4", "e5"];
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut replicas: Vec<Replica> = names.iter().map(|name| Replica::new(name, &engines)).collect();
    for _ in 0..4 {
        let turns = replicas.iter_mut().map(|replica| replica.turn(&fixture));
        futures_util::future::join_all(turns).await;
    }
    let owned: Vec<usize> = replicas.iter().map(|replica| replica.owned.as_ref().map_or(0, BTreeMap::len)).collect();
    assert_eq!(owned.iter().sum::<usize>(), engines.len(), "{owned:?}");
    assert!(owned.iter().all(|owned| *owned <= 1), "{owned:?}");
}

#[tokio::test]
async fn who_gives_up_a_lease_tells_the_others() {
    let fixture = fixture().await;
    let settings = ListenSettings { url: fixture.url.clone(), application_name: "t".into(), connect_timeout: SOON };
    let mut listener = listen(&settings, &["defib_lease"]).unwrap();
    assert_eq!(listener.next().await, ListenEvent::Connected);
    let mut a = Replica::new("a", &["e1"]);
    a.turn(&fixture).await;
    fixture.store.release_leases("a", a.owned.as_ref().unwrap()).await.unwrap();
    let heard = tokio::time::timeout(SOON, listener.next()).await.unwrap();
    assert_eq!(heard, ListenEvent::Notified { channel: "defib_lease", payload: String::new() });
    assert_eq!(fixture.text("select count(*) from defib.replicas").await, "0");
}

#[tokio::test]
async fn a_fenced_owner_marks_nobody_lost() {
    let fixture = Fixture::new().await;
    fixture.run("insert into defib.workspaces (id, kind) values ('x', 'external')").await;
    fixture.run("update defib.leases set epoch = 8").await;
    let engine = EngineName::from("default");
    let marked = fixture.store.mark_lost(&"x".into(), &json!({}), crate::fixture::lease(&engine)).await.unwrap();
    assert!(!marked);
    assert_eq!(fixture.text("select status from defib.workspaces").await, "online");
    // And it claims nothing either, whichever connection it uses.
    let other = store(&fixture.url);
    assert_eq!(claim(&other, "x", json!({}), 1, 1).await.unwrap(), Claimed::NotOwner);
}
