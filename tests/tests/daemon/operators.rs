//! What people do with the command line, beside a running daemon and without one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use defib_testkit::{PrivatePostgres, ScriptedEngine, free_port};
use defib_tests::{SOON, Stage, Workspace, container};
use serde_json::{Value, json};

const A_WHILE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_row_that_breaks_the_contract_is_not_called_alive() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?;
    let (long, well) = ("x".repeat(513), "well");
    for id in [long.as_str(), well] {
        engine.add(container(id));
        stage.db.add(Workspace::new(id)).await?;
    }
    stage.defib(&["hold", well, "--reason", "watched by hand", "--for", "1h"]).await?;
    let rows: Value = serde_json::from_str(&stage.defib(&["status", "--format", "json"]).await?.stdout)?;
    let of = |id: &str| rows.as_array().and_then(|rows| rows.iter().find(|row| row["workspace_id"] == *id)).cloned();
    let (long_row, well_row) = (of(&long).context("no long one")?, of(well).context("no well one")?);
    ensure!(long_row["verdict"] == "not judged" && well_row["verdict"] == "alive", "{rows:#}");
    ensure!(well_row["holds"][0]["reason"] == "watched by hand" && long_row["holds"] == json!([]), "{rows:#}");
    let troubled = stage.defib(&["status", "--troubled"]).await?.stdout;
    ensure!(troubled.contains("breaks the contract") && troubled.contains("2 workspaces, 1 alive"), "{troubled}");
    let explained = stage.defib(&["explain", &long]).await?.stdout;
    ensure!(explained.contains("not judged, never restarted: workspace_id is longer than 512 bytes"), "{explained}");
    let explained = stage.defib(&["explain", well]).await?.stdout;
    ensure!(explained.contains("verdict: alive"), "{explained}");
    Ok(())
}

#[tokio::test]
async fn a_hold_of_a_workspace_is_respected_until_it_is_released() -> Result<()> {
    is_held(&["w1"]).await
}

#[tokio::test]
async fn a_hold_of_an_engine_is_respected_until_it_is_released() -> Result<()> {
    is_held(&["--engine", "default"]).await
}

#[tokio::test]
async fn a_hold_of_the_fleet_is_respected_until_it_is_released() -> Result<()> {
    is_held(&["--fleet"]).await
}

async fn is_held(scope: &[&str]) -> Result<()> {
    let (stage, engine) = stage_with_a_silent_one().await?;
    let daemon = stage.run().await?;
    let command = [&["hold"], scope, &["--for", "1h", "--reason", "upgrade of the host"]].concat();
    stage.defib(&command).await?.with_code(0)?;

    engine.exit("w1", 137)?;
    stage.db.wait_for_verdict("w1", Some("dead")).await?;
    stage.nothing_is_claimed(A_WHILE).await?;
    ensure!(engine.restarts() == 0, "restarted in spite of the hold");
    ensure!(stage.db.status("w1").await? == "online", "the platform was told that it is dead");
    for shown in [["status"].as_slice(), &["explain", "w1"]] {
        let text = stage.defib(shown).await?.with_code(0)?.stdout;
        ensure!(text.contains("upgrade of the host"), "{shown:?} does not tell of the hold: {text}");
    }
    let counted = daemon.metrics().await?.value("defib_restarts_held_total{reason=\"operator\"}")?;
    ensure!(counted >= 1.0, "the hold is not counted");

    stage.defib(&[&["release"], scope].concat()).await?.with_code(0)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    Ok(())
}

#[tokio::test]
async fn a_hold_ends_by_itself() -> Result<()> {
    let (stage, engine) = stage_with_a_silent_one().await?;
    let _daemon = stage.run().await?;
    stage.defib(&["hold", "w1", "--for", "3s", "--reason", "a moment"]).await?.with_code(0)?;
    engine.exit("w1", 137)?;
    stage.nothing_is_claimed(Duration::from_secs(1)).await?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    Ok(())
}

#[tokio::test]
async fn status_shows_the_fleet_without_a_daemon() -> Result<()> {
    let (stage, engine) = stage_with_a_silent_one().await?;
    stage.db.add(Workspace::new("put-away").status("paused")).await?;
    let daemon = stage.run().await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    daemon.stop(SOON).await?;

    let table = stage.defib(&["status"]).await?.with_code(0)?.stdout;
    for part in ["w1", "put-away", "succeeded", "WORKSPACE"] {
        ensure!(table.contains(part), "no {part} in:\n{table}");
    }
    let json = stage.defib(&["status", "--format", "json"]).await?.with_code(0)?.stdout;
    let rows: Value = serde_json::from_str(&json)?;
    let row = |id: &str| {
        let rows = rows.as_array().into_iter().flatten();
        rows.clone().find(|row| row["workspace_id"] == id).with_context(|| format!("no {id} in {json}"))
    };
    ensure!(row("w1")?["last_restart"]["outcome"] == "succeeded", "{json}");
    ensure!(row("put-away")?["status"] == "paused", "{json}");
    Ok(())
}

#[tokio::test]
async fn explain_tells_what_happened_without_a_daemon() -> Result<()> {
    let (stage, engine) = stage_with_a_silent_one().await?;
    let daemon = stage.run().await?;
    stage.db.suspect("w1").await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    daemon.stop(SOON).await?;

    let text = stage.defib(&["explain", "w1"]).await?.with_code(0)?.stdout;
    for part in ["dead", "exit 137", "heartbeat stale", "connection refused", "attempt 1", "succeeded"] {
        ensure!(text.contains(part), "no {part:?} in:\n{text}");
    }
    let json: Value =
        serde_json::from_str(&stage.defib(&["explain", "w1", "--format", "json"]).await?.with_code(0)?.stdout)?;
    ensure!(
        json["workspace_id"] == "w1" && json["timeline"].as_array().is_some_and(|told| told.len() >= 4),
        "{json:#}"
    );

    let unknown = stage.defib(&["explain", "nobody"]).await?.with_code(1)?;
    ensure!(unknown.stderr.contains("nobody"), "{unknown:?}");
    Ok(())
}

#[tokio::test]
async fn explain_of_one_that_lives_gives_its_numbers_and_says_whose_they_are() -> Result<()> {
    let (stage, _engine) = stage_with_a_silent_one().await?;
    stage.db.add(Workspace::new("w2")).await?;
    let text = stage.defib(&["explain", "w2"]).await?.with_code(0)?.stdout;
    for part in [
        "alive, as far as the database says",
        "activity never, 0 active tasks",
        "nothing is recorded",
        "a stale heartbeat",
    ] {
        ensure!(text.contains(part), "no {part:?} in:\n{text}");
    }
    let json: Value =
        serde_json::from_str(&stage.defib(&["explain", "w2", "--format", "json"]).await?.with_code(0)?.stdout)?;
    ensure!(json["last_heartbeat_age_seconds"].is_number() && json["last_activity_age_seconds"].is_null(), "{json:#}");
    Ok(())
}

/// A daemon records no change of the rule alone, so its last word may be older than the heartbeat's silence.
#[tokio::test]
async fn explain_does_not_repeat_that_a_heartbeat_is_fresh_which_is_not() -> Result<()> {
    let (stage, _engine) = stage_with_a_silent_one().await?;
    let daemon = stage.run().await?;
    stage.db.wait_for_verdict("w1", Some("silent")).await?;
    stage.db.beat("w1").await?;
    stage.db.wait_for_history("w1", "alive", 1).await?;
    let explained = async || anyhow::Ok(stage.defib(&["explain", "w1"]).await?.with_code(0)?.stdout);
    daemon.stop(SOON).await?;
    stage.db.execute("delete from defib.verdicts").await?;
    for (ago, part, not) in [("0 seconds", "heartbeat fresh", "although"), ("1 hour", "although", "heartbeat fresh")] {
        let beat = format!("update defib.workspaces set last_heartbeat_at = clock_timestamp() - interval '{ago}'");
        stage.db.execute(&beat).await?;
        let text = explained().await?;
        let because = text.lines().find(|line| line.trim_start().starts_with("because")).unwrap_or_default();
        ensure!(because.contains(part) && !because.contains(not), "beaten {ago} ago:\n{text}");
    }
    Ok(())
}

#[tokio::test]
async fn check_is_content_with_a_good_world_and_names_each_fault_of_a_bad_one() -> Result<()> {
    let (stage, _engine) = stage_with_a_silent_one().await?;
    let good = stage.defib(&["check"]).await?.with_code(0)?;
    ensure!(good.stdout.contains("all is well"), "{good:?}");

    let nowhere = format!("tcp://127.0.0.1:{}", free_port()?);
    let bad = Stage::bare(PrivatePostgres::shared().await?, &nowhere).await?;
    let bad = bad.defib(&["check"]).await?.with_code(1)?.stdout;
    for part in ["FAIL  schema", "defib migrate", "FAIL  engine default"] {
        ensure!(bad.contains(part), "no {part:?} in:\n{bad}");
    }
    Ok(())
}

#[tokio::test]
async fn commands_say_so_when_there_is_no_database() -> Result<()> {
    let (stage, _engine) = stage_with_a_silent_one().await?;
    let stage = stage.knob("DATABASE_URL", &format!("postgres://postgres@127.0.0.1:{}/none", free_port()?));
    for command in [["status"].as_slice(), &["explain", "w1"], &["suspect", "w1", "--reason", "x"], &["check"]] {
        let failed = stage.defib(command).await?.with_code(1)?;
        ensure!(format!("{}{}", failed.stdout, failed.stderr).contains("refused"), "{command:?}: {failed:?}");
    }
    Ok(())
}

async fn stage_with_a_silent_one() -> Result<(Stage, ScriptedEngine)> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats().knob("POLL_INTERVAL", "300ms");
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    Ok((stage, engine))
}
