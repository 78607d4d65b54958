//! Receivers that fail, hang, ask for a pause, or want no more.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use defib_testkit::scripted_control_plane::ApiFault;
use defib_testkit::{ScriptedEngine, WebhookReceiver, eventually, free_port};
use defib_tests::{SOON, Stage, Workspace, container, throughout};

use crate::{hold, id, stage, told, wait_until_told, wait_until_wanted};

/// A delivery that hangs takes ten seconds, and the pause after it a few.
const AFTER_A_HANG: Duration = Duration::from_secs(40);

#[tokio::test]
async fn one_that_fails_and_asks_for_a_pause_gets_it_and_then_the_same_message_in_order() -> Result<()> {
    let (engine, receiver) = (ScriptedEngine::start().await?, WebhookReceiver::start().await?);
    let stage = stage(&engine, &receiver).await?;
    let daemon = stage.run().await?;
    wait_until_wanted(&stage).await?;
    receiver.fail_next(ApiFault::status(500));
    receiver.fail_next(ApiFault::Eof);
    receiver.fail_next(ApiFault::Answer(429, vec![("retry-after", "5".into())], "slow down".into()));
    hold(&stage, "a").await?;
    stage.db.execute("select defib.release_holds('workspace', 'a')").await?;
    eventually(SOON, "it was asked three times", async || match receiver.asked().len() {
        3 => Ok(()),
        other => Err(other.to_string()),
    })
    .await?;
    let begun = Instant::now();
    wait_until_told(&receiver, &["hold.placed a", "hold.released a"], SOON).await?;
    ensure!(begun.elapsed() > Duration::from_secs(4), "it asked for five seconds, and had {:?}", begun.elapsed());
    let asked = receiver.asked();
    ensure!(asked[..4].iter().all(|message| id(message) == id(&asked[0])), "each repetition has the id of the first");
    ensure!(id(&asked[3]) != id(&asked[4]), "another message has another id");
    ensure!(
        daemon.metrics().await?.value("defib_webhook_deliveries_total{result=\"failed\"}")? == 3.0,
        "three attempts failed"
    );
    Ok(())
}

#[tokio::test]
async fn one_that_hangs_or_a_locked_outbox_delays_no_restart() -> Result<()> {
    let (engine, receiver) = (ScriptedEngine::start().await?, WebhookReceiver::start().await?);
    let stage = stage(&engine, &receiver).await?;
    for id in ["w1", "w2"] {
        engine.add(container(id));
        stage.db.add(Workspace::new(id).silent()).await?;
    }
    let daemon = stage.run().await?;
    wait_until_wanted(&stage).await?;
    stage.db.wait_for_verdict("w2", Some("silent")).await?;
    receiver.fail_next(ApiFault::Hang);
    hold(&stage, "elsewhere").await?;
    eventually(
        SOON,
        "the receiver hangs",
        async || if receiver.asked().len() == 1 { Ok(()) } else { Err("no".into()) },
    )
    .await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", Duration::from_secs(8)).await?;
    ensure!(receiver.asked().len() == 1, "it does not hang any more");

    let locking = stage.db.another_connection().await?;
    locking.batch_execute("begin; lock table defib.outbox in access exclusive mode").await?;
    engine.exit("w2", 137)?;
    stage.db.wait_for_restart("w2", "succeeded", Duration::from_secs(8)).await?;
    locking.batch_execute("rollback").await?;
    // A message that could not be written is lost and counted. The ones that were written are sent, first the one that has not failed yet.
    wait_until_told(&receiver, &["restart.succeeded w1", "hold.placed elsewhere"], AFTER_A_HANG).await?;
    daemon.wait_for_metric("defib_outbox_unwritten", |count| count == 1.0, SOON).await?;
    Ok(())
}

#[tokio::test]
async fn one_that_wants_no_more_is_left_alone_until_an_operator_says_so() -> Result<()> {
    let (engine, receiver) = (ScriptedEngine::start().await?, WebhookReceiver::start().await?);
    let stage = stage(&engine, &receiver).await?;
    let daemon = stage.run().await?;
    wait_until_wanted(&stage).await?;
    receiver.fail_next(ApiFault::Answer(410, Vec::new(), "channel_is_archived".into()));
    hold(&stage, "a").await?;
    daemon.wait_for_metric("defib_webhook_off", |off| off == 1.0, SOON).await?;
    daemon.program.wait_for_line("the webhook is off", SOON).await?;
    hold(&stage, "b").await?;
    throughout(Duration::from_secs(3), "nothing is sent", async || match receiver.asked().len() {
        1 => Ok(()),
        other => Err(other.to_string()),
    })
    .await?;
    let status = stage.defib(&["status"]).await?.with_code(0)?.stdout;
    ensure!(status.contains("the receiver answered 410: channel_is_archived; `defib notify resume`"), "{status}");
    let check = stage.defib(&["check"]).await?.stdout;
    ensure!(check.contains("warn  webhook: webhook 127.0.0.1"), "{check}");
    let resumed = stage.defib(&["notify", "resume"]).await?.with_code(0)?.stdout;
    ensure!(resumed.contains("is on again"), "{resumed}");
    wait_until_told(&receiver, &["hold.placed a"], SOON).await?;
    hold(&stage, "c").await?;
    wait_until_told(&receiver, &["hold.placed a", "hold.placed c"], SOON).await?;
    daemon.wait_for_metric("defib_webhook_off", |off| off == 0.0, SOON).await?;
    Ok(())
}

#[tokio::test]
async fn a_redirect_to_another_host_is_not_followed_and_a_huge_answer_is_not_read() -> Result<()> {
    let (engine, receiver, other) =
        (ScriptedEngine::start().await?, WebhookReceiver::start().await?, WebhookReceiver::start().await?);
    let stage = stage(&engine, &receiver).await?;
    receiver.fail_next(ApiFault::Answer(307, vec![("location", other.url())], String::new()));
    let test = stage.defib(&["notify", "test"]).await?.with_code(1)?.stdout;
    ensure!(test.contains("redirects to 127.0.0.1, which is not followed") && !test.contains("T0P-S3CRET"), "{test}");
    ensure!(other.asked().is_empty(), "{:?}", other.asked());
    receiver.fail_next(ApiFault::Huge(1_000_000));
    let test = stage.defib(&["notify", "test"]).await?.with_code(1)?.stdout;
    ensure!(test.contains("the answer is larger than 65536 bytes"), "{test}");
    Ok(())
}

#[tokio::test]
async fn a_test_message_says_what_came_back() -> Result<()> {
    let (engine, receiver) = (ScriptedEngine::start().await?, WebhookReceiver::start().await?);
    let stage = stage(&engine, &receiver).await?;
    let test = stage.defib(&["notify", "test"]).await?.with_code(0)?.stdout;
    ensure!(test.contains("took the message msg_") && test.contains("answered 204"), "{test}");
    ensure!(told(&receiver) == ["notify.test -"], "{:?}", told(&receiver));
    receiver.fail_next(ApiFault::Answer(401, Vec::new(), "bad \u{1b} signature".into()));
    let test = stage.defib(&["notify", "test"]).await?.with_code(1)?.stdout;
    ensure!(test.contains("refused the message") && test.contains("401: bad \\u{1b} signature"), "{test}");
    let nobody = stage.knob("WEBHOOK_URL", &format!("http://127.0.0.1:{}/T0P-S3CRET", free_port()?));
    let test = nobody.defib(&["notify", "test"]).await?.with_code(1)?.stdout;
    ensure!(test.contains("no connection") && !test.contains("T0P-S3CRET"), "{test}");
    let without = nobody.without_knob("WEBHOOK_URL").without_knob("WEBHOOK_SECRET");
    let test = without.defib(&["notify", "test"]).await?.with_code(2)?.stderr;
    ensure!(test.contains("DEFIB_WEBHOOK_URL is not set"), "{test}");
    Ok(())
}

#[tokio::test]
async fn bad_knobs_are_named_at_the_start_and_quote_no_secret() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?;
    let stage = stage
        .knob("WEBHOOK_URL", "http://hooks.example/T0P-S3CRET")
        .knob("WEBHOOK_SECRET", "whsec_dG9vIHNob3J0")
        .knob("WEBHOOK_EVENTS", "restart.suceeded");
    let refused = stage.defib(&["run"]).await?.with_code(2)?.stderr;
    for part in [
        "DEFIB_WEBHOOK_URL: http:// is for a receiver on this machine only",
        "DEFIB_WEBHOOK_SECRET: a secret has 24 to 64 bytes, and one has 9",
        "DEFIB_WEBHOOK_EVENTS: restart.suceeded is not a type of message: did you mean restart.succeeded?",
    ] {
        ensure!(refused.contains(part), "no {part:?} in:\n{refused}");
    }
    ensure!(!refused.contains("T0P-S3CRET") && !refused.contains("dG9v"), "{refused}");
    Ok(())
}
