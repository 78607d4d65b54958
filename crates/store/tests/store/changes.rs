//! Reading what has changed in the fleet, and what such a read may miss.

use defib_policy::id::WorkspaceId;
use defib_policy::moment::Timestamp;
use defib_store::{Changes, FleetScope, Store, Wanted};

use crate::fixture::{Fixture, settings, shown, watched};

/// Reads all rows, and returns where the next read of changes begins.
async fn resync(fixture: &Fixture) -> Timestamp {
    fixture.store.read_fleet(FleetScope::All, &watched()).await.unwrap().0.database_now
}

async fn changes(fixture: &Fixture, since: Timestamp, called: &[&str]) -> Changes {
    let called: Vec<WorkspaceId> = called.iter().map(|id| WorkspaceId::from(*id)).collect();
    fixture.store.read_changes(Wanted { since, called: &called, watched: &watched(), count: true }).await.unwrap()
}

fn ids(changes: &Changes) -> Vec<&str> {
    changes.read.workspaces.iter().map(|row| row.id.as_str()).collect()
}

fn gone(changes: &Changes) -> Vec<&str> {
    let mut ids: Vec<&str> = changes.gone.iter().map(WorkspaceId::as_str).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn what_is_new_comes_and_the_rest_when_it_is_called() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.workspaces (id, last_heartbeat_at, last_activity_at, created_at) values
                ('beats', now() - interval '1 h', null, now() - interval '1 d'),
                ('works', null, now() - interval '1 h', now() - interval '1 d'),
                ('silent', now() - interval '1 h', null, now() - interval '1 d'),
                ('undated', null, null, now() - interval '1 d')",
        )
        .await;
    let since = resync(&fixture).await;
    let nothing = changes(&fixture, since, &[]).await;
    assert!(nothing.read.workspaces.is_empty() && nothing.gone.is_empty() && !nothing.replaced, "{nothing:?}");
    assert!(nothing.read.database_now > since, "the clock comes with nothing, too");

    fixture.run("update defib.workspaces set last_heartbeat_at = now() where id = 'beats'").await;
    fixture.run("update defib.workspaces set last_activity_at = now() where id = 'works'").await;
    fixture.run("insert into defib.workspaces (id) values ('new')").await;
    let new = changes(&fixture, since, &[]).await;
    assert_eq!((ids(&new), new.received), (vec!["beats", "new", "works"], 3));

    let called = changes(&fixture, since, &["silent", "undated", "beats", "nobody"]).await;
    assert_eq!(ids(&called), ["beats", "new", "silent", "undated", "works"], "each once");
    assert_eq!((gone(&called), called.received), (vec!["nobody"], 5));
}

#[tokio::test]
async fn whoever_is_parked_moved_deleted_or_recreated_is_seen_when_it_beats_or_is_called() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.workspaces (id, created_at) select id, now() - interval '1 d' from unnest(array[
                'parked', 'parent', 'child', 'moved', 'deleted', 'recreated', 'failed']) id;
             update defib.workspaces set parent_id = 'parent' where id = 'child'",
        )
        .await;
    let since = resync(&fixture).await;
    fixture
        .run(
            "update defib.workspaces set status = 'paused' where id in ('parked', 'parent');
             update defib.workspaces set engine = 'other' where id = 'moved';
             update defib.workspaces set status = 'failed' where id = 'failed';
             delete from defib.workspaces where id in ('deleted', 'recreated');
             insert into defib.workspaces (id, engine) values ('recreated', 'other')",
        )
        .await;
    let unasked = changes(&fixture, since, &[]).await;
    assert_eq!((ids(&unasked), gone(&unasked)), (vec!["recreated"], vec![]), "the others have no new stamp");

    let all = ["parked", "parent", "child", "moved", "deleted", "recreated", "failed"];
    let asked = changes(&fixture, since, &all).await;
    assert_eq!(ids(&asked), ["moved", "recreated"]);
    assert!(asked.read.workspaces.iter().all(|row| row.engine.as_str() == "other"), "{asked:?}");
    assert_eq!(gone(&asked), ["child", "deleted", "failed", "parent", "parked"]);

    fixture.run("update defib.workspaces set last_heartbeat_at = now() where id <> 'moved'").await;
    let beating = changes(&fixture, since, &[]).await;
    assert_eq!(ids(&beating), ["recreated"]);
    assert_eq!(gone(&beating), ["child", "failed", "parent", "parked"], "a late beat of one that is parked tells it");
}

/// The stamp is taken when its transaction begins, and seen when it ends.
#[tokio::test]
async fn a_heartbeat_that_commits_behind_the_cursor_is_found_by_its_id() {
    let fixture = Fixture::new().await;
    fixture.run("insert into defib.workspaces (id, created_at) values ('late', now() - interval '1 d')").await;
    resync(&fixture).await;
    let slow = fixture.another().await;
    slow.batch_execute("begin; update defib.workspaces set last_heartbeat_at = now() where id = 'late'").await.unwrap();
    let since = resync(&fixture).await;
    slow.batch_execute("commit").await.unwrap();
    assert_eq!(ids(&changes(&fixture, since, &[]).await), [""; 0], "its stamp is from before the read before");
    let found = changes(&fixture, since, &["late"]).await;
    let stamp = found.read.workspaces[0].last_heartbeat_at.unwrap();
    assert!(stamp < since, "{stamp} {since}");
}

#[tokio::test]
async fn a_view_or_a_function_that_is_replaced_shows_itself_until_all_rows_are_read_again() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let since = resync(&fixture).await;
    assert!(!changes(&fixture, since, &[]).await.replaced);
    let view = fixture.text("select pg_get_viewdef('defib.fleet'::regclass)").await;
    for replacement in [
        format!("create or replace view defib.fleet as {}", view.trim_end_matches(';')),
        "create or replace function defib.is_parked(status text) returns boolean language sql immutable as 'select false'"
            .to_owned(),
    ] {
        fixture.run(&replacement).await;
        assert!(changes(&fixture, since, &[]).await.replaced, "{replacement}");
        assert!(changes(&fixture, since, &[]).await.replaced, "still, {replacement}");
        let since = resync(&fixture).await;
        assert!(!changes(&fixture, since, &[]).await.replaced, "known now, {replacement}");
    }
}

#[tokio::test]
async fn a_fleet_of_more_rows_than_it_may_have_is_refused_with_what_to_do() {
    let fixture = Fixture::new().await;
    let since = resync(&fixture).await;
    fixture.run("insert into defib.workspaces (id) select n::text from generate_series(1, 5) n").await;
    let store = |fleet_max| {
        let settings = defib_store::StoreSettings { fleet_max, ..settings(&fixture.url) };
        Store::new(&settings, crate::fixture::clock()).unwrap()
    };
    let (read, _) = store(5).read_fleet(FleetScope::All, &watched()).await.unwrap();
    assert_eq!(read.workspaces.len(), 5);
    let small = store(4);
    let whole = small.read_fleet(FleetScope::All, &watched()).await.unwrap_err();
    let changes =
        small.read_changes(Wanted { since, called: &[], watched: &watched(), count: false }).await.unwrap_err();
    for error in [whole, changes] {
        let told = shown(&error);
        assert!(told.contains("more than 4 rows") && told.contains("DEFIB_FLEET_MAX"), "{told}");
        assert!(!error.is_unavailable() && error.kind() == "contract", "{told}");
    }
    fixture.run("update defib.workspaces set status = 'paused' where id = '1'").await;
    small.read_fleet(FleetScope::All, &watched()).await.expect("the connection is well, and four rows are few enough");
}

#[tokio::test]
async fn a_row_with_an_absurd_text_breaks_the_contract_for_itself() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.workspaces (id, policy) values ('sound', to_jsonb(repeat('x', 4094)));
             insert into defib.workspaces (id, policy) values ('policy', to_jsonb(repeat('x', 4095)));
             insert into defib.workspaces (id, container_ref) values ('at most', repeat('x', 1024));
             insert into defib.workspaces (id, container_ref) values ('reference', repeat('x', 1025));
             insert into defib.workspaces (id, kind, instance_ref) values ('instance', 'instance', repeat('x', 1025));
             insert into defib.workspaces (id, engine) values ('engine', repeat('x', 1025))",
        )
        .await;
    let expected = [
        ("engine", "engine is longer than 1024 bytes"),
        ("instance", "instance_ref is longer than 1024 bytes"),
        ("policy", "policy is longer than 4096 bytes"),
        ("reference", "container_ref is longer than 1024 bytes"),
    ];
    let (read, malformed) = fixture.store.read_fleet(FleetScope::All, &watched()).await.unwrap();
    let all = changes(&fixture, Timestamp(0), &[]).await;
    for (rows, malformed) in [(&read.workspaces, &malformed), (&all.read.workspaces, &all.malformed)] {
        let sound: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(sound, ["at most", "sound"]);
        let mut told: Vec<(&str, &str)> =
            malformed.iter().map(|row| (row.id.as_deref().unwrap_or_default(), row.why)).collect();
        told.sort_unstable();
        assert_eq!(told, expected);
    }
    assert_eq!(gone(&all), expected.map(|(id, _)| id));
}

/// One who comes back, leaves or is inserted without a new stamp is in no read of changes.
#[tokio::test]
async fn the_number_of_watched_rows_comes_with_a_read_of_changes_that_asks_for_it() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.workspaces (id, created_at) select id, now() - interval '1 d' from unnest(array[
                'one', 'parked', 'parent', 'child']) id;
             insert into defib.workspaces (id, engine, created_at) values ('broken', repeat('x', 1025), now() - interval '1 d');
             update defib.workspaces set parent_id = 'parent' where id = 'child';
             update defib.workspaces set status = 'paused' where id in ('parked', 'parent')",
        )
        .await;
    let since = resync(&fixture).await;
    let rows = |read: &Changes| (read.rows.unwrap(), read.rows_before, ids(read).len());
    // 'one', the child of a parked parent, and the one that breaks the contract.
    assert_eq!(rows(&changes(&fixture, since, &[]).await), (3, 3, 0));
    fixture.run("update defib.workspaces set status = 'online' where id = 'parked'").await;
    assert_eq!(rows(&changes(&fixture, since, &[]).await), (4, 3, 0), "it has no new stamp");
    fixture.run("insert into defib.workspaces (id, created_at) values ('old', now() - interval '1 h')").await;
    assert_eq!(rows(&changes(&fixture, since, &["one"]).await), (5, 3, 1));
    let since = resync(&fixture).await;
    fixture.run("update defib.workspaces set status = 'paused' where id = 'one'").await;
    fixture.store.read_fleet(FleetScope::Some(&["parked".into()]), &watched()).await.unwrap();
    assert_eq!(rows(&changes(&fixture, since, &[]).await), (4, 5, 0), "a read of a few rows is not one of all");
    let uncounted = Wanted { since, called: &["parked".into()], watched: &watched(), count: false };
    let read = fixture.store.read_changes(uncounted).await.unwrap();
    assert_eq!((read.rows, read.rows_before, ids(&read)), (None, 5, vec!["parked"]));
}
