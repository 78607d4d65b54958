//! Listening: through a restart, and through a pooler that swallows it.

use std::time::Duration;

use defib_store::{ListenEvent, ListenSettings, Listener, listen};
use defib_testkit::{PrivatePostgres, postgres};

use crate::fixture::SOON;
use crate::pooler::Pooler;

fn listener(url: &str) -> Listener {
    let settings =
        ListenSettings { url: url.to_owned(), application_name: "t".into(), connect_timeout: Duration::from_secs(2) };
    listen(&settings, &["defib_suspicion", "defib_lease"]).unwrap()
}

async fn next(listener: &mut Listener) -> ListenEvent {
    tokio::time::timeout(SOON, listener.next()).await.unwrap()
}

#[tokio::test]
async fn a_listener_says_when_it_is_deaf_and_when_it_hears_again() {
    let server = PrivatePostgres::start().await.unwrap();
    let url = server.create_database().await.unwrap();
    let mut listener = listener(&url);
    assert_eq!(next(&mut listener).await, ListenEvent::Connected);
    for round in ["first", "second"] {
        let client = postgres::connect(&url).await.unwrap();
        client.batch_execute(&format!("notify elsewhere, 'x'; notify defib_suspicion, '{round}'")).await.unwrap();
        assert_eq!(
            next(&mut listener).await,
            ListenEvent::Notified { channel: "defib_suspicion", payload: round.into() }
        );
        if round == "first" {
            server.restart().await.unwrap();
            assert!(matches!(next(&mut listener).await, ListenEvent::Lost { .. }));
            assert_eq!(next(&mut listener).await, ListenEvent::Connected);
        }
    }
    assert_eq!(listener.try_next(), None);
}

#[tokio::test]
async fn a_server_that_is_away_is_said_once_and_waited_for() {
    let server = PrivatePostgres::start().await.unwrap();
    let url = server.create_database().await.unwrap();
    server.stop_server().await.unwrap();
    let mut listener = listener(&url);
    let lost = next(&mut listener).await;
    assert!(matches!(&lost, ListenEvent::Lost { why } if why.contains("refused")), "{lost:?}");
    server.start_server().await.unwrap();
    assert_eq!(next(&mut listener).await, ListenEvent::Connected);
}

#[tokio::test]
async fn a_pooler_that_swallows_notifications_is_found_out() {
    let pooler = Pooler::start().await;
    let lost = next(&mut listener(&pooler.url)).await;
    assert!(matches!(&lost, ListenEvent::Lost { why } if why.contains("pooler")), "{lost:?}");
}
