//! defib does not start with settings by which a workspace would leave the fleet for ever, or by which the back-off would forget attempts.

use anyhow::{Result, ensure};
use defib_testkit::ScriptedEngine;
use defib_tests::{Stage, Workspace};

#[tokio::test]
async fn statuses_without_the_one_that_a_mark_writes_are_refused() -> Result<()> {
    let (stage, _engine) = stage().await?;
    let stage = stage.knob("WATCHED_STATUSES", "online,degraded");
    is_refused(&stage, &["DEFIB_WATCHED_STATUSES", "offline"]).await?;
    let said = stage.defib(&["check"]).await?.with_code(1)?.stdout;
    ensure!(said.contains("DEFIB_WATCHED_STATUSES") && said.contains("offline"), "{said}");
    Ok(())
}

#[tokio::test]
async fn the_status_that_counts_is_the_one_that_the_platforms_own_function_writes() -> Result<()> {
    let (stage, _engine) = stage().await?;
    let writes_down = "update defib.workspaces w set status = 'down' where w.id = workspace_id; return found;";
    stage.db.replace_function("mark_dead", writes_down).await?;
    is_refused(&stage, &["DEFIB_WATCHED_STATUSES", "down"]).await?;
    ensure!(stage.db.status("w1").await? == "online", "finding out has changed a row");
    let _daemon = stage.knob("WATCHED_STATUSES", "online,degraded,down").run().await?;
    Ok(())
}

#[tokio::test]
async fn a_retention_shorter_than_what_back_off_still_needs_is_refused() -> Result<()> {
    let (stage, _engine) = stage().await?;
    let stage = stage.knob("RETENTION", "30m").knob("EXHAUSTED_RETRY", "30m");
    is_refused(&stage, &["DEFIB_RETENTION"]).await
}

/// Checks that defib does not start, and says why in one line that has all of these words.
async fn is_refused(stage: &Stage, words: &[&str]) -> Result<()> {
    let finished = stage.defib(&["run"]).await?.with_code(2)?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    ensure!(
        said.lines().any(|line| words.iter().all(|word| line.contains(word))),
        "{words:?} are not in a line of: {said}"
    );
    Ok(())
}

async fn stage() -> Result<(Stage, ScriptedEngine)> {
    let (stage, engine) = Stage::with_one(Workspace::new("w1")).await?;
    Ok((stage, engine))
}
