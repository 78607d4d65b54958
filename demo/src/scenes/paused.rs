//! An operator pauses a workspace, and its container is rightly stopped. The proxy does not know, and accuses it all the time.
//! It stays paused until the end of the demo.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::http;
use crate::scene::{PATIENCE, Scene};
use crate::stage::Stage;

/// Suspicions that pour in while we watch.
const SUSPICIONS: i64 = 200;

const REPORTED: &str = "select count(*) from defib.suspicions
    where workspace_id = 'ember' and reported_at >= to_timestamp($1::float8)";
const LOOKED_AT: &str = "select count(*) from defib.suspicions
    where workspace_id = 'ember' and taken_at is not null and reported_at >= to_timestamp($1::float8)";
/// Of any time: it has not died once.
const ATTEMPTS: &str =
    "select count(*) from defib.restarts where workspace_id = 'ember' and claimed_at >= to_timestamp($1::float8)";

pub(crate) async fn play(stage: &Stage<'_>, number: usize) -> Result<()> {
    let scene = Scene::begin(stage, number, "An operator pauses a workspace, and the proxy does not know");
    let ember = stage.player("ember")?;
    let answer = http::post(stage.platform.address, "/workspaces/ember/pause").await.context("pause ember")?;
    ensure!(answer.status == 200, "ember was not paused: {}", answer.body);
    scene.say("you", "pause ember: its status says so, and its container is stopped");
    for _ in 0..SUSPICIONS {
        let answer = http::get(stage.proxy.address, "/to/ember").await.context("call ember")?;
        ensure!(answer.status == 502, "a paused agent answered: {}", answer.body);
    }
    let until = Instant::now() + PATIENCE;
    while scene.count(LOOKED_AT).await? < SUSPICIONS {
        ensure!(Instant::now() < until, "only {} suspicions were taken", scene.count(LOOKED_AT).await?);
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let reported = scene.count(REPORTED).await?;
    scene.say("proxy", &format!("{reported} suspicions: connection_refused"));
    scene.say("defib", "took them all; a paused workspace is not judged");
    let runs = stage.engine.handle().is_running(&ember.container).await?;
    let attempts = scene.count(ATTEMPTS).await?;
    scene.promise(
        !runs && attempts == 0,
        "still stopped: whoever is paused stays paused (until the end of this demo)",
    )?;
    scene.promise_that_nobody_else_was_touched("nobody else was touched either")
}
