//! `make demo`: the main job of defib, for real, in about a minute.
//!
//! A dozen agents in containers, and one on an instance behind a control plane, beat into a real Postgres, a proxy forwards requests to them and reports what it cannot
//! reach, and the real `defib` watches. Then things go wrong, one after the other, and what defib makes of them is printed from
//! its own tables. Every scene states what it promises; the exit code says whether all promises were kept.
//!
//! `KEEP=1` leaves everything running until Ctrl-C. `ENGINE=private` refuses the machine's own Docker engine.
//! Whatever the demo started, it stops: at the end, on a signal, and on a failure.

mod cast;
mod curtain;
mod database;
mod defib;
mod engine;
mod http;
mod machines;
mod news;
mod platform;
mod proxy;
mod scene;
mod scenes;
mod stage;
mod traffic;
mod voice;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::OnceCell;

use crate::curtain::Books;
use crate::database::Database;
use crate::engine::Engine;
use crate::stage::Stage;
use crate::voice::Voice;

const PROLOGUE: &str = "
defib restarts the workspaces that are really dead, and no others. Here are a dozen in real containers, and one on an
instance behind a control plane; a platform that takes their heartbeats; a proxy that reports what it cannot reach, and
restarts nothing. Seven things go wrong.
Times are seconds since a scene began; what defib says is read from its own tables.";

const CLEANING_UP: &str = "\nCleaning up.";

#[tokio::main]
async fn main() -> ExitCode {
    let voice = Voice::new();
    // Outlives the play: what it holds has to be cleared when the play was cut short.
    let engine = OnceCell::new();
    let code = perform(&voice, &engine).await.unwrap_or_else(|error| {
        voice.failed(&format!("{error:#}"));
        ExitCode::FAILURE
    });
    match clear(&engine).await {
        Ok(()) => code,
        Err(error) => {
            voice.failed(&format!("clean-up: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The play, and what follows it; or as much of it as a signal allows.
async fn perform(voice: &Voice, engine: &OnceCell<Engine>) -> Result<ExitCode> {
    let mut stop = std::pin::pin!(told_to_stop());
    let (stage, books) = tokio::select! {
        signal = &mut stop => {
            voice.print(CLEANING_UP);
            return Ok(ExitCode::from(128 + signal?));
        }
        played = play(voice, engine) => played?,
    };
    if std::env::var("KEEP").is_ok_and(|word| !matches!(word.as_str(), "" | "0")) {
        voice.title(None, &books.sentence());
        tokio::select! {
            _ = &mut stop => voice.print(CLEANING_UP),
            told = curtain::stay_open(&stage) => told?,
        }
        stage.clear().await?;
    } else {
        voice.print(CLEANING_UP);
        stage.clear().await?;
        voice.title(None, &books.sentence());
    }
    books.check()?;
    Ok(ExitCode::SUCCESS)
}

/// Removes what is on somebody else's engine.
async fn clear(engine: &OnceCell<Engine>) -> Result<()> {
    match engine.get() {
        Some(engine) => engine.clear().await,
        None => Ok(()),
    }
}

/// Everything, from the first process to the last promise.
async fn play<'a>(voice: &'a Voice, engine: &'a OnceCell<Engine>) -> Result<(Stage<'a>, Books)> {
    voice.print(PROLOGUE);
    voice.title(None, "The stage");
    let (engine, database) = tokio::try_join!(engine.get_or_try_init(|| Engine::find(voice)), Database::start())?;
    let stage = Stage::set(voice, engine, database).await?;
    if let Err(error) = scenes_of(&stage).await {
        curtain::show_log(&stage);
        return Err(error);
    }
    let books = curtain::fall(&stage).await?;
    Ok((stage, books))
}

async fn scenes_of(stage: &Stage<'_>) -> Result<()> {
    scenes::killed::play(stage, 1).await.context("scene 1")?;
    scenes::busy_then_killed::play(stage, 2).await.context("scene 2")?;
    scenes::transient_503::play(stage, 3).await.context("scene 3")?;
    scenes::paused::play(stage, 4).await.context("scene 4")?;
    scenes::platform_restart::play(stage, 5).await.context("scene 5")?;
    scenes::engine_hangs::play(stage, 6).await.context("scene 6")?;
    scenes::crash_loop::play(stage, 7).await.context("scene 7")
}

/// Waits for Ctrl-C, TERM or the end of the terminal, and returns the signal's number.
async fn told_to_stop() -> Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for INT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for TERM")?;
    let mut hang_up = signal(SignalKind::hangup()).context("listen for HUP")?;
    Ok(tokio::select! {
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
        _ = hang_up.recv() => 1,
    })
}
