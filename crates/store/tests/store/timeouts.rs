//! A database that does not answer: the call ends, its connection is not used again, and no work is left at the server.

use std::time::{Duration, Instant};

use defib_store::{FleetScope, MayAct, Store, StoreError};
use defib_testkit::{PrivatePostgres, eventually};

use crate::fixture::{Fixture, SOON, clock, settings, shown, watched};

fn impatient(url: &str) -> Store {
    let mut settings = settings(url);
    settings.statement_timeout = Duration::from_millis(400);
    settings.connect_timeout = Duration::from_millis(400);
    settings.pool_size = 2;
    Store::new(&settings, clock()).unwrap()
}

#[tokio::test]
async fn a_read_that_waits_for_a_lock_ends_and_leaves_nobody_waiting_at_the_server() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let store = impatient(&fixture.url);
    let blocker = fixture.another().await;
    blocker.batch_execute("begin; lock table defib.workspaces in access exclusive mode").await.unwrap();
    for _ in 0..3 {
        let error = store.read_fleet(FleetScope::All, &watched()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_unavailable()), ("timeout", true), "{}", shown(&error));
    }
    eventually(SOON, "the statements are cancelled", || async {
        let left = fixture.text(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        );
        match left.await.as_str() {
            "0" => Ok(()),
            left => Err(format!("{left} still wait")),
        }
    })
    .await
    .unwrap();
    blocker.batch_execute("commit").await.unwrap();
    let (read, _) = store.read_fleet(FleetScope::All, &watched()).await.unwrap();
    assert_eq!(read.workspaces.len(), 1);
}

#[tokio::test]
async fn a_call_that_its_caller_gives_up_does_not_poison_the_pool() {
    let fixture = Fixture::new().await;
    let store = impatient(&fixture.url);
    store.ping().await.unwrap();
    let watched = watched();
    for _ in 0..5 {
        let reading = store.read_fleet(FleetScope::All, &watched);
        let _ = tokio::time::timeout(Duration::from_micros(300), reading).await;
    }
    for _ in 0..5 {
        store.ping().await.unwrap();
        store.read_fleet(FleetScope::All, &watched).await.unwrap();
    }
}

#[tokio::test]
async fn a_frozen_and_a_stopped_server_are_unavailable_and_return() {
    let server = PrivatePostgres::start().await.unwrap();
    let url = server.create_database().await.unwrap();
    let store = impatient(&url);
    store.migrate().await.unwrap();

    server.pause().unwrap();
    for _ in 0..2 {
        let (asked, error) = (Instant::now(), store.ping().await.unwrap_err());
        assert!(error.is_unavailable() && asked.elapsed() < Duration::from_secs(2), "{}", shown(&error));
    }
    server.resume().unwrap();
    eventually(SOON, "it answers again", || async { store.ping().await.map_err(|error| shown(&error)) }).await.unwrap();

    server.stop_server().await.unwrap();
    let mut kinds = Vec::new();
    for _ in 0..4 {
        let error = store.ping().await.unwrap_err();
        assert!(error.is_unavailable(), "{}", shown(&error));
        kinds.push(error.kind());
    }
    assert_eq!(kinds.last(), Some(&"connect"), "{kinds:?}");
    server.start_server().await.unwrap();
    store.ping().await.unwrap();
}

#[tokio::test]
async fn nothing_shows_the_password() {
    let mut settings = settings("postgres://me:hunter2@127.0.0.1:1/db");
    settings.connect_timeout = Duration::from_secs(1);
    let store = Store::new(&settings, clock()).unwrap();
    let error = store.ping().await.unwrap_err();
    let shown = format!("{settings:?} {store:?} {error:?} {}", shown(&error));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(matches!(error, StoreError::Ping(_)));
}

/// A host that vanishes after an attempt was allowed to act holds the lock on its row, and nobody could settle that attempt.
#[tokio::test]
async fn whoever_may_act_is_not_waited_for_without_end_by_the_server() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    let id = fixture.grant("w", 1, 1).await;
    fixture
        .run(
            "create or replace function defib.hold_reason(of_workspace text, of_engine text) returns text language plpgsql as $$
             begin
                 if current_setting('idle_in_transaction_session_timeout') = '0' then
                     raise exception 'this transaction is not bounded';
                 end if;
                 return null;
             end $$",
        )
        .await;
    assert_eq!(fixture.may_act(id).await, MayAct::Yes);
}
