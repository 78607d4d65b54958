//! The Docker engine hangs for ten seconds. No answer is not death: nobody is restarted. A container that dies meanwhile is
//! found when the engine is back.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use defib_testkit::PrivateDockerd;

use crate::engine;
use crate::scene::{PATIENCE, Scene, is_recovery, is_restarted, time_of};
use crate::stage::Stage;

const HANG: Duration = Duration::from_secs(10);

const ATTEMPTS: &str = "select count(*) from defib.restarts where claimed_at >= to_timestamp($1::float8)";

pub(crate) async fn play(stage: &Stage<'_>, number: usize) -> Result<()> {
    let scene = Scene::begin(stage, number, "The Docker engine hangs for ten seconds");
    let Some(dockerd) = stage.engine.private() else {
        scene.say("demo", "skipped: this engine is not ours to freeze (ENGINE=private starts one that is)");
        return Ok(());
    };
    let fjord = stage.player("fjord")?;
    // The engine cannot be asked for it later.
    let pid = dockerd.main_pid(&fjord.container).await?.context("fjord does not run")?;
    let frozen_at = Instant::now();
    let frozen = Frozen::begin(dockerd)?;
    scene.say("you", "SIGSTOP to dockerd: it accepts connections, and answers nothing");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let killed_at = stage.count_death(fjord.id);
    engine::kill_process(pid)?;
    scene.say_at(killed_at, "you", "kill -9 fjord, behind its back");

    // That an engine gives no answer is one event of the engine, and none of each workspace: so their verdicts are looked at.
    let watched = stage.players.len() - 1; // ember is paused
    let unknown = all_are(&scene, "unknown", watched).await?;
    scene.say("defib", &format!("{unknown} of {watched} are unknown, because their engine gives no answer"));
    tokio::time::sleep_until((frozen_at + HANG).into()).await;
    let attempts = scene.count(ATTEMPTS).await?;
    scene.promise(attempts == 0, "ten seconds without an answer, and nobody was restarted: no answer is not death")?;

    frozen.end()?;
    engine::answers(stage.engine.handle()).await?;
    let thawed_at = SystemTime::now();
    scene.say_at(thawed_at, "you", "SIGCONT to dockerd");
    let mut news = scene.news_of(fjord.id);
    let items = scene.follow(&mut news, is_recovery).await?;
    let back_at = time_of(&items, is_recovery).context("no recovery")?;
    let restarts = items.iter().filter(|item| is_restarted(&item.what)).count();
    let after = back_at.duration_since(thawed_at).unwrap_or_default().as_secs_f64();
    scene.promise(
        restarts == 1,
        &format!("the one that had died was found, and back {after:.1} s after the engine was"),
    )?;
    nobody_in_doubt(&scene).await?;
    scene.promise_that_nobody_else_was_touched("the others are alive again, with the containers that they had")
}

/// Waits until so many have this verdict.
async fn all_are(scene: &Scene<'_>, verdict: &str, wanted: usize) -> Result<usize> {
    let until = Instant::now() + PATIENCE;
    loop {
        let verdicts = scene.verdicts().await?;
        let found = verdicts.iter().filter(|(_, found)| found == verdict).count();
        if found >= wanted {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "{found} of {wanted} became {verdict}: {verdicts:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn nobody_in_doubt(scene: &Scene<'_>) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let verdicts = scene.verdicts().await?;
        if verdicts.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < until, "still in doubt: {verdicts:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A frozen engine; thawed on every way out, because a frozen one cannot be cleaned up after in good order.
struct Frozen<'a>(Option<&'a PrivateDockerd>);

impl<'a> Frozen<'a> {
    fn begin(dockerd: &'a PrivateDockerd) -> Result<Self> {
        dockerd.pause().context("freeze the engine")?;
        Ok(Self(Some(dockerd)))
    }

    fn end(mut self) -> Result<()> {
        self.0.take().map_or(Ok(()), |dockerd| dockerd.resume()).context("thaw the engine")
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Some(dockerd) = self.0.take() {
            let _ = dockerd.resume(); // on the way out of a failure that has been reported
        }
    }
}
