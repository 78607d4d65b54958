//! Many die at once: the receiver gets digests, and every restart is in one of them or told by itself.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::{ScriptedEngine, WebhookReceiver, eventually};
use defib_tests::{Pulse, Workspace, container};

use crate::{body, stage, wait_until_wanted};

const SIZE: usize = 80;

/// A storm of eighty in batches that double, a heartbeat each, and the minute after which its news are gathered.
const OVER: Duration = Duration::from_secs(150);

#[tokio::test]
async fn a_storm_is_told_in_digests_between_its_beginning_and_its_end() -> Result<()> {
    let (engine, receiver) = (ScriptedEngine::start().await?, WebhookReceiver::start().await?);
    let stage = stage(&engine, &receiver).await?;
    let stage = stage
        .knob("STORM_COOLDOWN", "3s")
        .knob("SETTLE", "2s")
        .knob("WEBHOOK_EVENTS", "restart.succeeded,storm.began,storm.ended");
    let ids: Vec<String> = (0..SIZE).map(|nth| format!("w{nth:03}")).collect();
    for id in &ids {
        engine.add(container(id));
        stage.db.add(Workspace::new(id)).await?;
    }
    let _pulse = Pulse::of(&engine, ids.clone(), stage.db.url());
    let _daemon = stage.run().await?;
    wait_until_wanted(&stage).await?;
    for id in &ids {
        engine.exit(id, 137)?;
    }
    let restarted = "select count(*) from defib.restarts where outcome = 'succeeded'";
    let all = i64::try_from(SIZE)?;
    eventually(OVER, "all are restarted, and the receiver knows", async || {
        let restarted = stage.db.count(restarted).await.map_err(|error| format!("{error:#}"))?;
        let waiting =
            stage.db.count("select count(*) from defib.outbox").await.map_err(|error| format!("{error:#}"))?;
        let is_over = receiver.taken().iter().any(|message| message.body.contains("storm.ended"));
        if restarted >= all && waiting == 0 && is_over {
            Ok(())
        } else {
            Err(format!("{restarted} restarted, {waiting} wait, over: {is_over}"))
        }
    })
    .await?;
    let bodies = receiver.taken().iter().map(body).collect::<Result<Vec<_>>>()?;
    let (mut one_by_one, mut in_digests, mut digests) = (0, 0, 0);
    for body in &bodies {
        match body["type"].as_str() {
            Some("restart.succeeded") => one_by_one += 1,
            Some("restart.succeeded.digest") => {
                digests += 1;
                in_digests += body["data"]["count"].as_i64().unwrap_or(0);
            }
            Some("storm.began" | "storm.ended") => {}
            other => anyhow::bail!("{other:?}"),
        }
    }
    let told = one_by_one + in_digests;
    let restarted = stage.db.count(restarted).await?;
    ensure!(told == restarted, "{told} told, {restarted} restarted: {bodies:#?}");
    ensure!(digests >= 1 && bodies.len() < SIZE / 2, "{} messages, {digests} of them digests", bodies.len());
    Ok(())
}
