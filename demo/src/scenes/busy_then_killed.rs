//! An agent is too busy to beat: nothing is done, because it runs. Then it is killed while nobody calls it, and two witnesses
//! are there already.

use anyhow::{Context as _, Result, ensure};

use crate::http;
use crate::news::What;
use crate::scene::{Scene, is_recovery, is_restarted};
use crate::stage::Stage;

pub(crate) async fn play(stage: &Stage<'_>, number: usize) -> Result<()> {
    let scene = Scene::begin(stage, number, "An agent is too busy to beat, and later killed while nobody calls it");
    let cedar = stage.player("cedar")?;
    stage.traffic.stop();
    let answer = http::get(cedar.address, "/busy?seconds=60").await.context("ask cedar to be busy")?;
    ensure!(answer.status == 200, "cedar refused to be busy: {}", answer.body);
    scene.say("you", "no more traffic; cedar takes on work, and its heartbeats stop");
    let is_busy = |what: &What| matches!(what, What::Verdict { to, .. } if to == "busy");
    let mut news = scene.news_of(cedar.id);
    scene.follow(&mut news, is_busy).await?;
    scene.promise_that_nobody_else_was_touched("silent, but its container runs: left alone")?;

    let killed_at = scene.kill(cedar).await?;
    let (back_at, items) =
        tokio::try_join!(scene.answers_again(cedar.id, cedar.address), scene.follow(&mut news, is_recovery))?;
    let down = back_at.duration_since(killed_at).unwrap_or_default();
    let restarts = items.iter().filter(|item| is_restarted(&item.what)).count();
    let text = format!(
        "answers again after {:.1} s: stopped and silent are two witnesses, so one look was enough",
        down.as_secs_f64()
    );
    scene.promise(restarts == 1, &text)?;
    scene.promise_that_nobody_else_was_touched("nobody had to call it, and the others were left alone")?;
    stage.traffic.flow();
    Ok(())
}
