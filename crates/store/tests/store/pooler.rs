//! A transaction pooler at its worst: every transaction of a client runs in another session than the one before, and
//! what a pooler refuses (named statements, `options` at the start) fails the test. Stricter than pgbouncer, and no program to
//! install.

use std::sync::{Arc, Mutex};

use defib_policy::attempt::Outcome;
use defib_store::{
    EventRow, EventSubject, FleetScope, HoldScope, MayAct, NewHold, NewSuspicion, RetentionSettings, SchemaState,
};
use defib_testkit::PrivatePostgres;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::fixture::{Fixture, lease, may_act, watched};

pub(crate) struct Pooler {
    pub(crate) url: String,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl Pooler {
    /// A pooler before a database of its own.
    pub(crate) async fn start() -> Self {
        let server = PrivatePostgres::shared().await.unwrap();
        let database = server.create_database().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let complaints = Arc::<Mutex<Vec<String>>>::default();
        let (upstream, complain) = (server.port(), Arc::clone(&complaints));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, upstream, Arc::clone(&complain)));
            }
        });
        let url = database.replace(&format!(":{upstream}/"), &format!(":{port}/"));
        Self { url: format!("{url}?sslmode=disable"), complaints }
    }
}

/// One client, over two sessions by turns.
async fn serve(mut client: TcpStream, upstream: u16, complaints: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let complain = |what: String| complaints.lock().unwrap().push(what);
    let length = client.read_u32().await?;
    let mut startup = vec![0; length as usize - 4];
    client.read_exact(&mut startup).await?;
    let hello = [&length.to_be_bytes()[..], &startup].concat();
    if startup.windows(9).any(|window| window == b"\0options\0") {
        complain("options in the startup packet".into());
    }
    let mut sessions = Vec::new();
    for nth in 0..2 {
        let mut session = TcpStream::connect(("127.0.0.1", upstream)).await?;
        session.write_all(&hello).await?;
        loop {
            let (kind, message) = read_message(&mut session).await?;
            if nth == 0 {
                client.write_all(&message).await?;
            }
            if kind == b'Z' {
                break;
            }
        }
        sessions.push(session);
    }
    for turn in 0.. {
        let session = &mut sessions[turn % 2];
        loop {
            // A client that is in no transaction and silent leaves both sessions alone, notifications and all.
            let (kind, message) = read_message(&mut client).await?;
            if matches!(kind, b'P' | b'D' | b'B' | b'C') && names_a_statement(kind, &message[5..]) {
                complain(format!("named statement: {}", String::from_utf8_lossy(&message)));
            }
            session.write_all(&message).await?;
            if !matches!(kind, b'Q' | b'S') {
                continue;
            }
            let status = loop {
                let (kind, message) = read_message(session).await?;
                client.write_all(&message).await?;
                if kind == b'Z' {
                    break message[5];
                }
            };
            if status == b'I' {
                break; // the transaction is over: the next one runs elsewhere
            }
        }
    }
    Ok(())
}

fn names_a_statement(kind: u8, body: &[u8]) -> bool {
    match kind {
        b'P' => body.first() != Some(&0),
        b'B' => body.iter().skip_while(|byte| **byte != 0).nth(1) != Some(&0), // portal, then statement
        _ => body.first() == Some(&b'S') && body.get(1) != Some(&0),
    }
}

async fn read_message(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await?;
    let length = stream.read_u32().await?;
    let mut message = vec![0; length as usize + 1];
    message[0] = kind;
    message[1..5].copy_from_slice(&length.to_be_bytes());
    stream.read_exact(&mut message[5..]).await?;
    Ok((kind, message))
}

#[tokio::test]
async fn everything_works_through_a_transaction_pooler() {
    let pooler = Pooler::start().await;
    let fixture = Fixture::on(pooler.url.clone()).await; // migrates
    let store = &fixture.store;
    assert_eq!(store.schema_state().await.unwrap(), SchemaState::Current);
    for round in 0..3 {
        let id = format!("w{round}");
        store
            .suspect(NewSuspicion { workspace: &id, reporter: "p", reason: "r", ..NewSuspicion::default() })
            .await
            .unwrap();
        assert_eq!(store.take_suspicions(5).await.unwrap().len(), 1);
        fixture.run(&format!("insert into defib.workspaces (id) values ('{id}')")).await;
        assert_eq!(fixture.fleet().await.len(), round + 1);
        let attempt = fixture.grant(&id, 1, 1).await;
        assert_eq!(may_act(store, attempt, &watched()).await, MayAct::Yes);
        assert!(store.finish(attempt, Outcome::Succeeded, Some("fine")).await.unwrap());
        assert!(store.recovered(attempt, &id.as_str().into()).await.unwrap());
        assert_eq!(store.owed_marks(None, 5).await.unwrap().len(), 1);
        assert!(store.take_back(&id.as_str().into(), &json!({})).await.unwrap());
        let about = EventSubject::Workspace(id.as_str().into());
        let event = EventRow { about, from: None, to: "dead".into(), evidence: json!({}) };
        assert_eq!(store.record_events(&[event]).await.unwrap(), []);
        assert_eq!(store.record_verdicts(&[], &[id.as_str().into()]).await.unwrap(), []);
        store.read_attempts(FleetScope::All, Duration::from_secs(600)).await.unwrap();
        store.read_verdicts().await.unwrap();
        store.hold(&NewHold { scope: HoldScope::Fleet, owner: "o", reason: "r", expires_in: None }).await.unwrap();
        assert_eq!(store.release(&HoldScope::Fleet).await.unwrap(), 1);
        store.open_attempts(&["default".into()]).await.unwrap();
        store.mark_lost(&id.as_str().into(), &json!({}), lease(&"default".into())).await.unwrap();
        store.acknowledge(&id.as_str().into()).await.unwrap();
        store.status().await.unwrap();
        store.explain(&id.as_str().into(), 10).await.unwrap();
        store.check_facts().await.unwrap();
        store.status_that_mark_dead_writes().await.unwrap();
        let day = Duration::from_secs(86_400);
        store.retain(RetentionSettings { suspicions: day, events: day, attempts: day, batch: 10 }).await.unwrap();
        store.migrate().await.unwrap();
        store.ping().await.unwrap();
    }
    let named: Vec<String> = pooler.complaints.lock().unwrap().clone();
    // The fixture's own plain client prepares; the store never does.
    let ours: Vec<&String> = named.iter().filter(|complaint| !complaint.contains("::text")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}
