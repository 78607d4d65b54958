//! A bad configuration makes an agent exit at every start. Restarting does not help, so it is tried less and less often, and
//! then somebody is called. The rest of the fleet does not notice.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::http;
use crate::news::What;
use crate::scene::{PATIENCE, Scene, is_recovery, is_restarted, time_of};
use crate::stage::Stage;

/// Seconds that lie between the restarts at least, with a back-off that starts at 1 s and doubles.
const BACKOFF_FLOORS: [f64; 3] = [0.0, 1.0, 2.0];

pub(crate) async fn play(stage: &Stage<'_>, number: usize) -> Result<()> {
    let scene = Scene::begin(stage, number, "A crash loop: a bad configuration is rolled out to one agent");
    let grove = stage.player("grove")?;
    roll_out(stage, "bad").await?;
    scene.say("you", "a bad configuration for grove: from now on it exits at its start");
    let mut news = scene.news_of(grove.id);
    scene.kill(grove).await?;
    let is_exhausted = |what: &What| matches!(what, What::Verdict { to, .. } if to == "exhausted");
    let items = scene.follow(&mut news, is_exhausted).await?;
    let starts: Vec<f64> =
        items.iter().filter(|item| is_restarted(&item.what)).map(|item| scene.time_of(item.at).as_secs_f64()).collect();
    let waits: Vec<f64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let shown: Vec<String> = waits.iter().map(|wait| format!("{wait:.1} s")).collect();
    let text = format!(
        "{} restarts, {} apart: it backs off, and then tries only once in ten minutes",
        starts.len(),
        shown.join(", ")
    );
    let backs_off = waits.iter().zip(BACKOFF_FLOORS).all(|(wait, floor)| *wait >= floor);
    scene.promise(starts.len() == 4 && backs_off, &text)?;
    // The gauges are counted anew by the next pass over all workspaces, so this one may follow the verdict by a poll interval.
    let until = Instant::now() + PATIENCE;
    let gauge = loop {
        let gauge = stage.daemon.metric("defib_exhausted_workspaces").await?;
        if gauge == Some(1.0) || Instant::now() > until {
            break gauge;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    };
    scene.promise(gauge == Some(1.0), "defib_exhausted_workspaces is 1: the gauge that calls somebody")?;
    scene.promise_that_nobody_else_was_touched("the rest of the fleet was left alone")?;

    roll_out(stage, "good").await?;
    stage.defib_as_operator(&["ack", grove.id]).await?;
    scene.say("you", "roll the configuration back, and `defib ack grove`");
    let items = scene.follow(&mut news, is_recovery).await?;
    time_of(&items, is_recovery).context("no recovery")?;
    scene.promise_that_nobody_else_was_touched("acknowledged attempts no longer count: restarted at once, and back")
}

async fn roll_out(stage: &Stage<'_>, which: &str) -> Result<()> {
    let path = format!("/workspaces/grove/configuration/{which}");
    let answer = http::post(stage.platform.address, &path).await.context("roll out a configuration")?;
    ensure!(answer.status == 200, "the platform refused: {}", answer.body);
    Ok(())
}
