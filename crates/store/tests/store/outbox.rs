//! What the webhook is owed: written with what it tells, sent in order, gathered in storms, bounded, and never in the way of a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use defib_policy::attempt::Outcome;
use defib_policy::id::EngineName;
use defib_store::{
    EngineReportRow, GivenUp, HoldScope, Message, NewHold, NotDelivered, VerdictRow, WebhookRow, WebhookState,
};
use serde_json::{Value, json};

use crate::fixture::{Fixture, lease};

const WEBHOOK: WebhookRow<'_> =
    WebhookRow { target: "t", host: "hooks.example", format: "standard", events: None, replica: "replica-1" };

/// A fixture whose daemon has a webhook.
async fn told() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.store.configure_webhook(&WEBHOOK).await.unwrap();
    fixture
}

/// The types that wait, in order, with whom they are about.
async fn waiting(fixture: &Fixture) -> Vec<String> {
    let rows = fixture.client.query("select type || ' ' || subject from defib.outbox order by id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn take(fixture: &Fixture) -> Option<Message> {
    fixture.store.take_message("replica-1", "t").await.unwrap()
}

async fn state(fixture: &Fixture) -> WebhookState {
    fixture.store.webhook().await.unwrap().expect("it is configured")
}

fn verdict(id: &str, verdict: &'static str) -> VerdictRow {
    VerdictRow {
        workspace: id.into(),
        verdict,
        since_ago: Duration::ZERO,
        engine: "default".into(),
        rule: "stopped_stale".into(),
        because: "it is stopped".into(),
        evidence: json!({}),
        held: None,
    }
}

fn word(storm: bool) -> EngineReportRow<'static> {
    static ENGINE: std::sync::LazyLock<EngineName> = std::sync::LazyLock::new(|| EngineName::from("default"));
    EngineReportRow {
        engine: Some(&ENGINE),
        holder: "replica-1",
        fault: None,
        asked_ago: Duration::ZERO,
        judged: 1,
        storm: storm.then(|| json!({ "fleet": false, "since_seconds": 3, "batch": 1, "canaries": [], "waiting": 9 })),
        good_for: Duration::from_secs(600),
    }
}

/// Everything that is told, once each.
async fn everything_happens(fixture: &Fixture) {
    let store = &fixture.store;
    fixture.workspace("w").await;
    let id = fixture.grant("w", 1, 1).await;
    fixture.may_act(id).await;
    store.finish(id, Outcome::Failed, Some("no such image")).await.unwrap();
    let id = fixture.grant("w", 1, 2).await;
    fixture.may_act(id).await;
    store.finish(id, Outcome::Succeeded, None).await.unwrap();
    store.recovered(id, &"w".into()).await.unwrap();
    store
        .record_verdicts(&[verdict("c", "contradiction"), verdict("e", "exhausted"), verdict("s", "silent")], &[])
        .await
        .unwrap();
    store.record_verdicts(&[verdict("c", "contradiction"), verdict("e", "exhausted")], &[]).await.unwrap();
    fixture.run("insert into defib.workspaces (id, kind, last_heartbeat_at) values ('x', 'external', now())").await;
    let (evidence, engine) = (fixture.evidence("x").await, "default".into());
    assert!(store.mark_lost(&"x".into(), &evidence, lease(&engine)).await.unwrap());
    assert!(store.mark_lost(&"x".into(), &evidence, lease(&engine)).await.unwrap(), "it stands, and is not told twice");
    store.report_engines(&[word(true)]).await.unwrap();
    store.report_engines(&[word(true)]).await.unwrap();
    store.report_engines(&[word(false)]).await.unwrap();
    let hold = NewHold { scope: HoldScope::Workspace("w".into()), owner: "ana", reason: "looking", expires_in: None };
    store.hold(&hold).await.unwrap();
    assert_eq!(store.release(&hold.scope).await.unwrap(), 1);
    assert_eq!(store.release(&hold.scope).await.unwrap(), 0);
}

#[tokio::test]
async fn each_thing_that_happens_is_told_once_with_what_it_tells() {
    let fixture = told().await;
    everything_happens(&fixture).await;
    assert_eq!(
        waiting(&fixture).await,
        [
            "restart.failed workspace w",
            "restart.succeeded workspace w",
            "workspace.recovered workspace w",
            "workspace.contradiction workspace c",
            "workspace.exhausted workspace e",
            "workspace.lost workspace x",
            "storm.began engine default",
            "storm.ended engine default",
            "hold.placed workspace w",
            "hold.released workspace w",
        ]
    );
    let first = take(&fixture).await.unwrap();
    assert_eq!(
        (first.kind.as_str(), first.workspace.as_deref(), first.engine.as_deref()),
        ("restart.failed", Some("w"), Some("default"))
    );
    assert_eq!(
        (&first.data["error"], &first.data["attempt"], &first.data["replica"]),
        (&json!("no such image"), &json!(1), &json!("replica-1"))
    );
    assert!(first.message_id.starts_with("msg_"), "{first:?}");
}

#[tokio::test]
async fn nothing_is_written_where_nobody_has_a_webhook_or_wants_that_type() {
    let fixture = Fixture::new().await;
    everything_happens(&fixture).await;
    assert_eq!(fixture.text("select count(*) from defib.outbox").await, "0");
    assert_eq!(fixture.store.webhook().await.unwrap(), None);

    let events = ["hold.placed".to_owned()];
    fixture.store.configure_webhook(&WebhookRow { events: Some(&events), ..WEBHOOK }).await.unwrap();
    let hold = NewHold { scope: HoldScope::Fleet, owner: "ana", reason: "looking", expires_in: None };
    fixture.store.hold(&hold).await.unwrap();
    fixture.store.release(&HoldScope::Fleet).await.unwrap();
    assert_eq!(waiting(&fixture).await, ["hold.placed fleet"]);

    fixture.run("update defib.webhook set wanted_until = now()").await; // all daemons that had it are gone
    fixture.store.hold(&hold).await.unwrap();
    assert_eq!(waiting(&fixture).await, ["hold.placed fleet"]);
}

#[tokio::test]
async fn what_is_rolled_back_is_not_told() {
    let fixture = told().await;
    fixture.run("begin; select defib.place_hold('fleet', null, 'r'); rollback").await;
    assert_eq!(waiting(&fixture).await, [""; 0]);
}

#[tokio::test]
async fn a_locked_full_or_broken_outbox_delays_an_outcome_by_a_moment_and_is_counted() {
    let fixture = told().await;
    fixture.workspace("w").await;
    let id = fixture.grant("w", 1, 1).await;
    fixture.may_act(id).await;
    let another = fixture.another().await;
    another.batch_execute("begin; lock table defib.outbox in access exclusive mode").await.unwrap();
    let begun = Instant::now();
    assert!(fixture.store.finish(id, Outcome::Succeeded, None).await.unwrap());
    assert!(
        begun.elapsed() < Duration::from_millis(450),
        "shorter than the ordinary lock time-out: {:?}",
        begun.elapsed()
    );
    assert_eq!(fixture.text("select outcome from defib.restarts").await, "succeeded");
    another.batch_execute("rollback").await.unwrap();
    assert_eq!((waiting(&fixture).await.len(), state(&fixture).await.lost), (0, 1));

    fixture.run("alter table defib.outbox add constraint full_disk check (type <> 'workspace.recovered')").await;
    assert!(fixture.store.recovered(id, &"w".into()).await.unwrap());
    assert_eq!((waiting(&fixture).await.len(), state(&fixture).await.lost), (0, 2));
    fixture.run("drop table defib.outbox").await;
    fixture.store.record_verdicts(&[verdict("c", "contradiction")], &[]).await.unwrap();
    assert_eq!(fixture.text("select defib.count_lost_messages()").await, "3");
}

#[tokio::test]
async fn one_subject_is_told_in_order_and_others_do_not_wait_for_it() {
    let fixture = told().await;
    for (kind, workspace) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        fixture.run(&format!("select defib.tell('{kind}', '{workspace}', 'default', '{{}}')")).await;
    }
    let a1 = take(&fixture).await.unwrap();
    let b1 = fixture.store.take_message("replica-2", "t").await.unwrap().unwrap();
    assert_eq!((a1.kind.as_str(), b1.kind.as_str()), ("a1", "b1"));
    assert_eq!(take(&fixture).await, None, "a2 waits for a1");

    let refused = NotDelivered { answer: "400", is_receivers: false, retry_after: None };
    fixture.store.message_failed(a1.id, "replica-1", refused).await.unwrap();
    assert_eq!(take(&fixture).await, None, "a1 waits out its pause, and a2 waits with it");
    fixture.run("update defib.outbox set next_at = now()").await;
    let again = take(&fixture).await.unwrap();
    assert_eq!((&again.message_id, again.tries), (&a1.message_id, 1), "the same id");
    fixture.store.message_delivered(again.id, "replica-1", "204").await.unwrap();
    assert_eq!(take(&fixture).await.unwrap().kind, "a2");
}

#[tokio::test]
async fn a_receiver_that_is_away_is_left_alone_for_longer_and_longer_or_as_long_as_it_asks() {
    let fixture = told().await;
    for nth in 0..3 {
        fixture.run(&format!("select defib.tell('t', 'w{nth}', 'default', '{{}}')")).await;
    }
    let away = NotDelivered { answer: "503", is_receivers: true, retry_after: None };
    let mut pauses = Vec::new();
    for _ in 0..4 {
        fixture.run("update defib.webhook set paused_until = null; update defib.outbox set next_at = now()").await;
        let message = take(&fixture).await.unwrap();
        fixture.store.message_failed(message.id, "replica-1", away).await.unwrap();
        assert_eq!(take(&fixture).await, None, "nobody is sent to it");
        pauses.push(state(&fixture).await.paused_for.unwrap().as_secs_f64());
    }
    for (pause, (least, most)) in pauses.iter().zip([(0.3, 1.0), (0.8, 2.0), (1.8, 4.0), (3.8, 8.0)]) {
        assert!((least..=most).contains(pause), "{pauses:?}");
    }
    fixture.run("update defib.webhook set paused_until = null; update defib.outbox set next_at = now()").await;
    let message = take(&fixture).await.unwrap();
    let asks = NotDelivered { retry_after: Some(Duration::from_secs(900)), ..away };
    fixture.store.message_failed(message.id, "replica-1", asks).await.unwrap();
    let left = state(&fixture).await.paused_for.unwrap();
    assert!(left > Duration::from_secs(880) && left <= Duration::from_secs(900), "{left:?}");
    assert_eq!(state(&fixture).await.failures, 5);
}

#[tokio::test]
async fn a_replica_that_dies_with_a_message_leaves_it_to_another() {
    let fixture = told().await;
    fixture.run("select defib.tell('t', 'w', 'default', '{}')").await;
    let first = take(&fixture).await.unwrap();
    assert_eq!(fixture.store.take_message("replica-2", "t").await.unwrap(), None);
    fixture.run("update defib.outbox set taken_until = now()").await; // half a minute later
    let again = fixture.store.take_message("replica-2", "t").await.unwrap().unwrap();
    assert_eq!(again.message_id, first.message_id);
    fixture.store.message_delivered(first.id, "replica-1", "200").await.unwrap();
    assert_eq!(waiting(&fixture).await.len(), 1, "it is no longer the first one's to settle");
    fixture.store.configure_webhook(&WebhookRow { replica: "replica-2", ..WEBHOOK }).await.unwrap();
    assert!(take(&fixture).await.is_some(), "a process that starts anew frees what its predecessor had");
}

#[tokio::test]
async fn an_answer_of_410_turns_the_webhook_off_until_an_operator_or_another_url() {
    let fixture = told().await;
    fixture.run("select defib.tell('t', 'w', 'default', '{}')").await;
    let message = take(&fixture).await.unwrap();
    fixture.store.turn_webhook_off(message.id, "replica-1", "t", "410 Gone").await.unwrap();
    assert_eq!(state(&fixture).await.off.unwrap().1, "410 Gone");
    fixture.run("select defib.tell('t', 'v', 'default', '{}')").await;
    assert_eq!(waiting(&fixture).await.len(), 1, "nothing is written while it is off");
    fixture.store.configure_webhook(&WEBHOOK).await.unwrap();
    assert!(state(&fixture).await.off.is_some() && take(&fixture).await.is_none(), "a restart changes nothing");
    assert_eq!(fixture.store.resume_webhook().await.unwrap(), Some(true));
    assert_eq!(take(&fixture).await.unwrap().message_id, message.message_id);
    assert_eq!(fixture.store.resume_webhook().await.unwrap(), Some(false));

    fixture.store.turn_webhook_off(message.id, "replica-1", "t", "410").await.unwrap();
    fixture.store.configure_webhook(&WebhookRow { target: "other", ..WEBHOOK }).await.unwrap();
    assert_eq!(state(&fixture).await.off, None);
    assert!(!fixture.store.keep_webhook("t").await.unwrap() && fixture.store.keep_webhook("other").await.unwrap());
    assert_eq!(take(&fixture).await, None, "whoever has the former URL sends no more");
}

#[tokio::test]
async fn a_storm_of_five_hundred_is_one_digest_and_a_few_are_told_one_by_one() {
    let fixture = told().await;
    fixture.store.report_engines(&[word(true)]).await.unwrap();
    fixture
        .run("select defib.tell('restart.succeeded', 'w' || lpad(n::text, 3, '0'), 'default', '{}') from generate_series(1, 500) n;
              select defib.tell('restart.failed', 'w' || n, 'default', '{}') from generate_series(1, 3) n;
              select defib.tell('restart.failed', 'v', 'other', '{}');
              select defib.tell('hold.placed', 'u', null, '{}')")
        .await;
    assert_eq!(fixture.store.gather_messages().await.unwrap(), 0, "it is early in the storm");
    for expected in ["storm.began", "restart.failed", "hold.placed"] {
        let message = take(&fixture).await.unwrap();
        assert_eq!(message.kind, expected);
        fixture.store.message_delivered(message.id, "replica-1", "200").await.unwrap();
    }
    fixture.store.report_engines(&[word(false)]).await.unwrap();
    assert_eq!(take(&fixture).await, None, "its end is not told before what came before it");
    assert_eq!(fixture.store.gather_messages().await.unwrap(), 1);
    let digest = take(&fixture).await.unwrap();
    assert_eq!(
        (digest.kind.as_str(), digest.workspace.as_deref(), digest.engine.as_deref()),
        ("restart.succeeded.digest", None, Some("default"))
    );
    assert_eq!((&digest.data["count"], &digest.data["workspaces"][0]), (&json!(500), &json!("w001")));
    assert_eq!(digest.data["workspaces"].as_array().unwrap().len(), 50);
    fixture.store.message_delivered(digest.id, "replica-1", "200").await.unwrap();
    let mut rest = Vec::new();
    while let Some(message) = take(&fixture).await {
        fixture.store.message_delivered(message.id, "replica-1", "200").await.unwrap();
        rest.push(format!("{} {}", message.kind, message.workspace.unwrap_or_default()));
    }
    assert_eq!(rest, ["restart.failed w1", "restart.failed w2", "restart.failed w3", "storm.ended "]);
}

#[tokio::test]
async fn a_storm_that_goes_on_is_told_each_minute() {
    let fixture = told().await;
    fixture.store.report_engines(&[word(true)]).await.unwrap();
    fixture
        .run("select defib.tell('restart.succeeded', 'w' || n, 'default', '{}') from generate_series(1, 11) n")
        .await;
    assert_eq!(fixture.store.gather_messages().await.unwrap(), 0);
    fixture.run("update defib.outbox set happened_at = now() - interval '61 seconds' where workspace_id = 'w1'").await;
    assert_eq!(fixture.store.gather_messages().await.unwrap(), 1);
}

#[tokio::test]
async fn what_is_too_old_or_too_much_is_given_up_the_oldest_first() {
    let fixture = told().await;
    fixture.run("select defib.tell('old', 'w', 'default', '{}'); update defib.outbox set happened_at = now() - interval '25 hours'").await;
    fixture.run("select defib.tell_all(array_fill('t'::text, array[10003]), array_fill('w'::text, array[10003]), array_fill(null::text, array[10003]), array_fill('{}'::jsonb, array[10003]))").await;
    assert_eq!(fixture.store.bound_outbox().await.unwrap(), GivenUp { expired: 1, dropped: 3 });
    assert_eq!(fixture.store.bound_outbox().await.unwrap(), GivenUp::default());
    let state = state(&fixture).await;
    assert_eq!(state.pending, 10_000);
    assert_eq!(fixture.text("select min(id) from defib.outbox").await, "5");
}

/// The examples of docs/webhook.md, by type: the keys of their `data`.
fn examples() -> BTreeMap<String, BTreeSet<String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/webhook.md");
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let example = |block: &str| {
        let example: Value = serde_json::from_str(block).unwrap_or_else(|error| panic!("{error}: {block}"));
        (example["type"].as_str().unwrap().to_owned(), keys(&example["data"]))
    };
    blocks.map(example).collect()
}

fn keys(data: &Value) -> BTreeSet<String> {
    data.as_object().unwrap().iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key.clone()).collect()
}

#[tokio::test]
async fn the_examples_of_the_documentation_have_the_keys_of_what_is_told() {
    let fixture = told().await;
    everything_happens(&fixture).await;
    fixture.store.report_engines(&[word(true)]).await.unwrap();
    fixture
        .run("select defib.tell('restart.succeeded', 'v' || n, 'default', '{}') from generate_series(1, 11) n")
        .await;
    fixture.store.report_engines(&[word(false)]).await.unwrap();
    fixture.store.gather_messages().await.unwrap();
    let mut told = BTreeMap::new();
    let rows = "select type, data, workspace_id, engine from defib.outbox order by id";
    for row in fixture.client.query(rows, &[]).await.unwrap() {
        let mut of_it = keys(&row.get(1));
        of_it.extend(row.get::<_, Option<String>>(2).map(|_| "workspace_id".to_owned()));
        of_it.extend(row.get::<_, Option<String>>(3).map(|_| "engine".to_owned()));
        told.insert(row.get::<_, String>(0), of_it);
    }
    assert_eq!(told, examples());
}
