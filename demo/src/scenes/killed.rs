//! An agent is killed while clients use it, with its heartbeat still fresh: one look is not enough, two are.

use anyhow::Result;

use crate::scene::{Scene, is_recovery, is_restarted};
use crate::stage::Stage;

pub(crate) async fn play(stage: &Stage<'_>, number: usize) -> Result<()> {
    let scene = Scene::begin(stage, number, "An agent is killed while clients use it");
    let birch = stage.player("birch")?;
    let (_, failed_before) = stage.traffic.counts();
    let killed_at = scene.kill(birch).await?;
    let mut news = scene.news_of(birch.id);
    let (back_at, items) =
        tokio::try_join!(scene.answers_again(birch.id, birch.address), scene.follow(&mut news, is_recovery))?;
    let down = back_at.duration_since(killed_at).unwrap_or_default();
    let restarts = items.iter().filter(|item| is_restarted(&item.what)).count();
    let text = format!(
        "answers again after {:.1} s, by one restart: a fresh heartbeat asks for a second look",
        down.as_secs_f64()
    );
    scene.promise(restarts == 1, &text)?;
    let (_, failed) = stage.traffic.counts();
    scene.promise(
        failed == failed_before,
        "no client noticed: the proxy asked the next agent, and left the rest to defib",
    )?;
    scene.promise_that_nobody_else_was_touched("the others were left alone")
}
