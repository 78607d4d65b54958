//! The flight recorder and the backtest, on the program itself.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use defib_testkit::ScriptedEngine;
use defib_testkit::scripted_engine::ScriptedContainer;
use defib_tests::{Pulse, SOON, Stage, Workspace, container};
use serde_json::Value;

/// The id of a workspace that a terminal and a page must take as text.
const HOSTILE: &str = "w3\u{1b}[31m\u{202e}<b>";

/// A directory of this test, which is removed with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("defib-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn text(&self) -> Result<&str> {
        self.0.to_str().context("a path")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn backtest(stage: &Stage, directory: &Path, more: &[&str]) -> Result<Value> {
    let directory = directory.to_str().context("a path")?;
    let arguments = [&["backtest", "--record", directory, "--format", "json"], more].concat();
    let finished = stage.defib(&arguments).await?.with_code(0)?;
    Ok(serde_json::from_str(&finished.stdout)?)
}

/// Deaths and restarts, a kill -9 in the middle, and a stop.
#[tokio::test]
async fn what_was_recorded_is_replayed_exactly_also_after_a_kill() -> Result<()> {
    let scratch = Scratch::new("recorded")?;
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.knob("RECORD_DIR", scratch.text()?);
    // A window of several polls, so that nothing concerns those who beat.
    let stage = stage.knob("HEARTBEAT_INTERVAL", "2s").knob("RECENT_MIN", "3s");
    for (id, named) in [("w1", "w1"), ("w2", "w2"), (HOSTILE, "c3")] {
        engine.add(ScriptedContainer { id: named.to_owned(), ..container(id) });
        stage.db.add(Workspace::new(id).silent()).await?;
    }
    let beating = ["w4", "w5", "w6"].map(str::to_owned);
    for id in &beating {
        engine.add(container(id));
        stage.db.add(Workspace::new(id)).await?;
    }
    let _pulse = Pulse::of(&engine, beating, stage.db.url());
    let daemon = stage.run().await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    stage.db.suspect("w2").await?;
    // Of two frames that are written from now on, the second holds everything up to here.
    for _ in 0..2 {
        let written = "defib_recording_written_bytes_total";
        let before = daemon.metrics().await?.value(written)?;
        daemon.wait_for_metric(written, |bytes| bytes > before, SOON).await?;
    }
    daemon.kill().await?;

    let daemon = stage.run().await?;
    engine.exit("c3", 1)?;
    stage.db.wait_for_restart(HOSTILE, "succeeded", SOON).await?;
    ensure!(daemon.stop(SOON).await?.success());

    let report = backtest(&stage, &scratch.0, &["--set", "dead_threshold=5", "--against", "heartbeat-90s"]).await?;
    let exact = &report["exactness"];
    ensure!(exact["differing"] == 0 && exact["same_policy"] == true, "{exact:#}");
    ensure!(exact["orders"].as_u64() >= Some(2), "{exact:#}");
    // Some reads were of what had changed, and passes left out those who ran as before. How many depends on how quick the machine is.
    ensure!(exact["calls"].as_u64() > Some(0), "{exact:#}");
    ensure!(report["recording"]["left_out"].as_u64() > Some(0), "{report:#}");
    ensure!(report["recording"]["gaps"] == 1 && report["recording"]["workspaces"] == 6, "{report:#}");
    let names: Vec<&Value> = report["results"].as_array().context("results")?.iter().map(|it| &it["policy"]).collect();
    ensure!(names == ["defib", "defib --set dead_threshold=5", "heartbeat-90s"], "{names:?}");

    // The same for people: in the terminal and as a page, in which an id is text.
    let page = scratch.0.with_extension("html");
    let path = page.to_str().context("a path")?;
    let arguments = ["backtest", "--record", scratch.text()?, "--against", "heartbeat-90s", "--html", path];
    let told = stage.defib(&arguments).await?.with_code(0)?.stdout;
    let page = std::fs::read_to_string(&page).and_then(|text| std::fs::remove_file(&page).map(|()| text))?;
    ensure!(told.contains("w3\\u{1b}[31m\\u{202e}<b>") && told.contains("exact: with the recorded"), "{told}");
    ensure!(page.contains("w3\\u{1b}[31m\\u{202e}&lt;b&gt;") && page.contains("<svg"), "{page}");
    for bad in ["\u{1b}", "\u{202e}", "<script", "http"] {
        ensure!(!told.contains(bad) && !page.contains(bad), "{bad:?} as it came: {told}\n{page}");
    }
    Ok(())
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_stops_the_start_with_one_line() -> Result<()> {
    let scratch = Scratch::new("refused")?;
    let engine = ScriptedEngine::start().await?;
    let file = scratch.0.join("file");
    std::fs::write(&file, "text")?;
    let stage = Stage::new(&engine.url()).await?.knob("RECORD_DIR", file.to_str().context("a path")?);
    let refused = stage.defib(&["run"]).await?.with_code(2)?;
    let line = "defib: DEFIB_RECORD_DIR: ";
    ensure!(refused.stderr.trim().lines().filter(|it| it.starts_with(line)).count() == 1, "{}", refused.stderr);
    ensure!(refused.stderr.contains("is not a directory"), "{}", refused.stderr);

    let stage = stage.knob("RECORD_DIR", scratch.text()?);
    let _daemon = stage.run().await?;
    let refused = stage.defib(&["run", "--listen-addr", "127.0.0.1:0"]).await?.with_code(2)?;
    ensure!(refused.stderr.contains("another defib records into"), "{}", refused.stderr);

    let stage = stage.knob("RECORD_MAX", "much");
    let refused = stage.defib(&["run"]).await?.with_code(2)?;
    ensure!(refused.stderr.contains("DEFIB_RECORD_MAX=much is not a number of bytes"), "{}", refused.stderr);
    Ok(())
}

#[tokio::test]
async fn what_a_backtest_does_not_know_is_refused_with_the_nearest() -> Result<()> {
    let scratch = Scratch::new("unknown")?;
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?;
    let directory = scratch.text()?;
    for (arguments, said) in [
        (vec!["--record", directory], "holds no recording"),
        (vec!["--record", "/nowhere/at/all"], "cannot be used"),
        (vec!["--record", directory, "--set", "dead_treshold=3"], "did you mean dead_threshold?"),
        (vec!["--record", directory, "--against", "docker-autoheel"], "did you mean docker-autoheal?"),
    ] {
        let refused = stage.defib(&[vec!["backtest"], arguments].concat()).await?.with_code(2)?;
        ensure!(refused.stderr.contains(said) && refused.stderr.trim().lines().count() == 1, "{}", refused.stderr);
    }
    Ok(())
}
