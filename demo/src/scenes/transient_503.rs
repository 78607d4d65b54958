//! A healthy agent answers 503 for a moment. The proxy suspects it, defib looks, and that is all.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::http;
use crate::scene::{PATIENCE, Scene};
use crate::stage::Stage;

/// Answers with 503. The proxy reports a suspicion after each; one that is reported while the last still waits adds no row.
const REFUSALS: i64 = 3;

/// How long after the last suspicion a restart would have come by.
const WATCH: Duration = Duration::from_secs(2);

const REPORTED: &str = "select count(*) from defib.suspicions
    where workspace_id = 'delta' and http_status = 503 and reported_at >= to_timestamp($1::float8)";
const PENDING: &str = "select count(*) from defib.suspicions
    where workspace_id = 'delta' and http_status = 503 and taken_at is null and reported_at >= to_timestamp($1::float8)";
/// Milliseconds from a report until it was taken, at the median.
const DELAY: &str = "select coalesce(percentile_disc(0.5) within group (order by extract(epoch from taken_at - reported_at) * 1000), 0)::bigint
    from defib.suspicions where workspace_id = 'delta' and http_status = 503 and reported_at >= to_timestamp($1::float8)";
const ATTEMPTS: &str = "select count(*) from defib.restarts
    where workspace_id = 'delta' and claimed_at >= to_timestamp($1::float8)";

pub(crate) async fn play(stage: &Stage<'_>, number: usize) -> Result<()> {
    let scene = Scene::begin(stage, number, "A healthy agent answers 503 for a moment");
    let delta = stage.player("delta")?;
    let answer = http::get(delta.address, &format!("/503?requests={REFUSALS}")).await.context("ask delta for 503")?;
    ensure!(answer.status == 200, "delta refused to refuse: {}", answer.body);
    scene.say("you", &format!("delta answers its next {REFUSALS} requests with 503"));
    let until = Instant::now() + PATIENCE;
    while scene.count(REPORTED).await? == 0 || scene.count(PENDING).await? > 0 {
        ensure!(
            Instant::now() < until,
            "{} suspicions of delta were reported, and {} of them were never taken",
            scene.count(REPORTED).await?,
            scene.count(PENDING).await?
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    tokio::time::sleep(WATCH).await;
    let (reported, delay) = (scene.count(REPORTED).await?, scene.count(DELAY).await?);
    scene.say(
        "proxy",
        &format!(
            "suspects delta: http_status 503 ({REFUSALS} answers, rows of suspicions: {reported}); each request went to the next agent"
        ),
    );
    scene
        .say("defib", &format!("looks, {delay} ms after a report at the median: it runs and it beats, so it is alive"));
    let attempts = scene.count(ATTEMPTS).await?;
    scene.promise(attempts == 0, "not restarted: a suspicion asks for a look, and is never evidence itself")?;
    scene.promise_that_nobody_else_was_touched("nobody else was touched either")
}
