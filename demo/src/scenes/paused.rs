//! An operator pauses a workspace, and its container is rightly stopped. The proxy does not know, and accuses it all the time.
//! It stays paused until the end of the demo.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::http;
use crate::scene::{PATIENCE, Scene};
use crate::stage::Stage;

/// Requests to the paused workspace. The proxy reports a suspicion after each.
const REQUESTS: usize = 200;

/// While a suspicion of the same words waits to be taken, a further report adds no row. So there are at most as many rows as requests.
const REPORTED: &str = "select count(*) from defib.suspicions
    where workspace_id = 'ember' and reported_at >= to_timestamp($1::float8)";
const PENDING: &str = "select count(*) from defib.suspicions
    where workspace_id = 'ember' and taken_at is null and reported_at >= to_timestamp($1::float8)";
/// Of any time: it has not died once.
const ATTEMPTS: &str =
    "select count(*) from defib.restarts where workspace_id = 'ember' and claimed_at >= to_timestamp($1::float8)";

pub(crate) async fn play(stage: &Stage<'_>, number: usize) -> Result<()> {
    let scene = Scene::begin(stage, number, "An operator pauses a workspace, and the proxy does not know");
    let ember = stage.player("ember")?;
    let answer = http::post(stage.platform.address, "/workspaces/ember/pause").await.context("pause ember")?;
    ensure!(answer.status == 200, "ember was not paused: {}", answer.body);
    scene.say("you", "pause ember: its status says so, and its container is stopped");
    for _ in 0..REQUESTS {
        let answer = http::get(stage.proxy.address, "/to/ember").await.context("call ember")?;
        ensure!(answer.status == 502, "a paused agent answered: {}", answer.body);
    }
    let until = Instant::now() + PATIENCE;
    while scene.count(REPORTED).await? == 0 || scene.count(PENDING).await? > 0 {
        ensure!(
            Instant::now() < until,
            "{} suspicions of ember were reported, and {} of them were never taken",
            scene.count(REPORTED).await?,
            scene.count(PENDING).await?
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let reported = scene.count(REPORTED).await?;
    scene.say("proxy", &format!("{REQUESTS} requests refused, {reported} rows of suspicions: connection_refused"));
    scene.say("defib", "took them all; a paused workspace is not judged");
    let runs = stage.engine.handle().is_running(&ember.container).await?;
    let attempts = scene.count(ATTEMPTS).await?;
    scene.promise(
        !runs && attempts == 0,
        "still stopped: whoever is paused stays paused (until the end of this demo)",
    )?;
    scene.promise_that_nobody_else_was_touched("nobody else was touched either")
}
