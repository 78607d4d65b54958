//! Daemons that are killed while they deliver, and two that deliver side by side: none is lost, and at most the one under way is repeated.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::scripted_control_plane::ApiFault;
use defib_testkit::{ScriptedEngine, WebhookReceiver, eventually};
use defib_tests::{SOON, Workspace, container, throughout};

use crate::{hold, id, stage, told, wait_until_told, wait_until_wanted};

/// After half a minute, any replica may take a message of one that was killed.
const TAKEN_OVER: Duration = Duration::from_secs(50);

/// The daemon dies at this step of a delivery, and a process of the same name takes its place.
async fn dies_at(point: &str, deliveries: usize) -> Result<()> {
    let (engine, receiver) = (ScriptedEngine::start().await?, WebhookReceiver::start().await?);
    let stage = stage(&engine, &receiver).await?;
    let crashing = stage.run_crashing_at("r1", point).await?;
    wait_until_wanted(&stage).await?;
    hold(&stage, "a").await?;
    stage.db.execute("select defib.release_holds('workspace', 'a')").await?;
    let ended = crashing.program.wait_exit(SOON).await?;
    ensure!(
        std::os::unix::process::ExitStatusExt::signal(&ended) == Some(6),
        "it ended with {ended} and not by its own abort"
    );

    let _next = stage.run_as("r1").await?;
    eventually(SOON, "both are told", async || {
        let told = told(&receiver);
        if told.last().is_some_and(|last| last == "hold.released a") { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await?;
    let taken = receiver.taken();
    let first: Vec<&str> = taken.iter().filter(|message| message.body.contains("hold.placed")).map(id).collect();
    ensure!(first.len() == deliveries, "{first:?}");
    ensure!(first.iter().all(|other| *other == first[0]), "a repetition has the id of the first: {first:?}");
    ensure!(taken.len() == deliveries + 1, "{:?}", told(&receiver));
    ensure!(stage.db.count("select count(*) from defib.outbox").await? == 0, "something still waits");
    Ok(())
}

#[tokio::test]
async fn killed_before_it_sends_it_loses_nothing() -> Result<()> {
    dies_at("message_taken", 1).await
}

#[tokio::test]
async fn killed_before_it_writes_that_it_sent_it_repeats_that_one() -> Result<()> {
    dies_at("message_sent", 2).await
}

#[tokio::test]
async fn killed_after_that_it_repeats_nothing() -> Result<()> {
    dies_at("message_settled", 1).await
}

/// The message of a restart is written together with its outcome, so whoever writes the outcome writes the message. The daemon dies at each
/// step around that, and its successor settles what it has left.
#[tokio::test]
async fn the_news_of_a_restart_outlives_the_daemon_that_made_it_and_is_told_once() -> Result<()> {
    for point in ["claimed", "answered", "before_outcome", "after_outcome"] {
        let (engine, receiver) = (ScriptedEngine::start().await?, WebhookReceiver::start().await?);
        let stage = stage(&engine, &receiver).await?.knob("WEBHOOK_EVENTS", "restart.succeeded,restart.failed");
        let stage = stage.knob("LEASE_TTL", "1s").knob("RESTART_TIMEOUT", "1s").knob("BACKOFF_INITIAL", "100ms");
        engine.add(container("w1"));
        stage.db.add(Workspace::new("w1").silent()).await?;
        let crashing = stage.run_crashing_at("r1", point).await?;
        wait_until_wanted(&stage).await?;
        stage.db.wait_for_verdict("w1", Some("silent")).await?;
        engine.exit("w1", 137)?;
        let ended = crashing.program.wait_exit(SOON).await?;
        ensure!(
            std::os::unix::process::ExitStatusExt::signal(&ended) == Some(6),
            "{point}: it ended with {ended} and not by its own abort"
        );
        let _next = stage.run_as("r1").await?;
        wait_until_told(&receiver, &["restart.succeeded w1"], TAKEN_OVER).await?;
        throughout(Duration::from_secs(2), "it is told once", async || match receiver.asked().len() {
            1 => Ok(()),
            other => Err(format!("{point}: {other}, {:?}", told(&receiver))),
        })
        .await?;
        ensure!(engine.starts_of("w1") == 1, "{point}: started {} times", engine.starts_of("w1"));
    }
    Ok(())
}

#[tokio::test]
async fn another_replica_delivers_what_a_killed_one_had_taken() -> Result<()> {
    let (engine, receiver) = (ScriptedEngine::start().await?, WebhookReceiver::start().await?);
    let stage = stage(&engine, &receiver).await?;
    let first = stage.run_as("first").await?;
    wait_until_wanted(&stage).await?;
    receiver.fail_next(ApiFault::Hang);
    hold(&stage, "a").await?;
    eventually(
        SOON,
        "the receiver hangs",
        async || if receiver.asked().len() == 1 { Ok(()) } else { Err("no".into()) },
    )
    .await?;
    first.kill().await?;
    let _second = stage.run_as("second").await?;
    wait_until_told(&receiver, &["hold.placed a"], TAKEN_OVER).await?;
    let asked = receiver.asked();
    ensure!(asked.len() == 2 && id(&asked[0]) == id(&asked[1]), "{asked:#?}");
    Ok(())
}

#[tokio::test]
async fn two_replicas_tell_everything_once_and_each_workspace_in_order() -> Result<()> {
    let (engine, receiver) = (ScriptedEngine::start().await?, WebhookReceiver::start().await?);
    let stage = stage(&engine, &receiver).await?;
    let (_first, _second) = (stage.run_as("first").await?, stage.run_as("second").await?);
    wait_until_wanted(&stage).await?;
    for nth in 0..20 {
        hold(&stage, &format!("w{nth}")).await?;
        stage.db.execute(&format!("select defib.release_holds('workspace', 'w{nth}')")).await?;
    }
    eventually(SOON, "all is told", async || match receiver.taken().len() {
        40 => Ok(()),
        other => Err(other.to_string()),
    })
    .await?;
    throughout(Duration::from_secs(2), "nothing is told twice", async || match receiver.asked().len() {
        40 => Ok(()),
        other => Err(other.to_string()),
    })
    .await?;
    let told = told(&receiver);
    for nth in 0..20 {
        let place = |what: &str| told.iter().position(|one| *one == format!("{what} w{nth}"));
        ensure!(place("hold.placed") < place("hold.released") && place("hold.placed").is_some(), "w{nth}: {told:?}");
    }
    Ok(())
}
