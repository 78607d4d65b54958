//! A day of an operator who has the README, the adapter page and the binary: a foreign schema, observing, a wrong mapping, a hold, an
//! adapter that vetoes, a daemon that dies. At each step `status`, `explain`, `check`, the metrics and the log tell the truth.

use anyhow::{Result, ensure};
use defib_testkit::{ScriptedEngine, eventually};
use defib_tests::{SOON, Stage, container};
use serde_json::Value;

const GUIDE: &str = include_str!("../../../deploy/adapters/README.md");

/// Runs a command as the operator types it, and prints both into the transcript of the test.
async fn types(stage: &Stage, line: &str, code: i32, parts: &[&str]) -> Result<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let ended = stage.defib(&words).await?.with_code(code)?;
    let said = format!("{}{}", ended.stdout, ended.stderr);
    println!("$ defib {line}\n{said}");
    for part in parts {
        ensure!(said.contains(part), "`defib {line}` does not say {part:?}:\n{said}");
    }
    Ok(said)
}

/// Waits until `status` has this verdict for a workspace.
async fn is_said(stage: &Stage, id: &str, verdict: &str) -> Result<()> {
    eventually(SOON, &format!("{id} is said to be {verdict}"), async || {
        let said = stage.defib(&["status", id, "--format", "json"]).await.map_err(|error| format!("{error:#}"))?;
        let rows: Value = serde_json::from_str(&said.stdout).map_err(|error| error.to_string())?;
        if rows[0]["verdict"] == verdict { Ok(()) } else { Err(format!("{rows:#}")) }
    })
    .await
}

#[tokio::test]
async fn an_operator_is_told_the_truth_all_day_long() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.knob("POLL_INTERVAL", "300ms").quick_heartbeats();

    // Morning: the platform has tables of its own. The view is replaced, and the functions are forgotten.
    let examples: Vec<&str> = GUIDE.split("\n```sql\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect();
    let (platform, adapter) = (examples[0], examples[1]);
    stage.db.execute(platform).await?;
    stage.db.execute(adapter.split("create or replace function").next().unwrap_or_default()).await?;
    stage
        .db
        .execute("insert into farm.agents (agent, state, host, beat) select n, 'up', 'default', now() - interval '1 hour' from generate_series(1, 3) n")
        .await?;
    for n in 1..=2 {
        engine.add(container(&format!("agent-{n}")));
    }
    types(
        &stage,
        "check",
        1,
        &[
            "still is the one that ships with defib",
            "answers false for",
            "1 of its 3 watched workspaces have no container (3)",
        ],
    )
    .await?;
    types(&stage, "status", 0, &["no defib is running", "3 workspaces: 3 not judged"]).await?;

    // The functions are made, and the third agent gets its container. defib observes first.
    stage.db.execute(adapter).await?;
    engine.add(container("agent-3"));
    types(&stage, "check", 0, &["agreed to the one that it should agree to"]).await?;
    let observing = stage.start_with("r1", &[("DEFIB_MODE", "observe")]).await?;
    observing.wait_until_ready().await?;
    engine.exit("agent-1", 137)?;
    is_said(&stage, "1", "dead").await?;
    types(&stage, "status", 0, &["observe (it judges and records, and restarts nobody)", "[held: observe]"]).await?;
    types(&stage, "explain 1", 0, &["held     observe", "docs/runbook.md#held-observe"]).await?;
    ensure!(engine.restarts() == 0, "it was only observed");
    observing.stop(SOON).await?;

    // Noon: it is trusted, under a hold at first.
    types(&stage, "hold --fleet --for 1h --reason maintenance", 0, &["restarts held: the whole fleet for 1h"]).await?;
    let daemon = stage.run_as("r2").await?;
    is_said(&stage, "1", "dead").await?;
    types(&stage, "status --troubled", 0, &["restarts held: fleet for", "maintenance", "[held: operator]"]).await?;
    types(&stage, "release --fleet", 0, &["1 hold released"]).await?;
    eventually(SOON, "the first agent is restarted", async || {
        if engine.restarts() == 1 { Ok(()) } else { Err(format!("{} restarts", engine.restarts())) }
    })
    .await?;

    // Afternoon: somebody makes mark_dead veto everything.
    stage
        .db
        .execute(
            "create or replace function defib.mark_dead(workspace_id text, evidence jsonb) returns boolean
             language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$ begin return false; end $$",
        )
        .await?;
    engine.exit("agent-2", 137)?;
    stage.db.wait_for_restart("2", "vetoed", SOON).await?;
    is_said(&stage, "2", "dead").await?;
    types(&stage, "explain 2", 0, &["vetoed: defib.mark_dead refused", "docs/runbook.md#verdict-dead"]).await?;
    types(&stage, "check", 1, &["so every restart would be vetoed"]).await?;
    daemon
        .wait_for_metric("defib_restarts_total{engine=\"default\",outcome=\"vetoed\"}", |value| value >= 1.0, SOON)
        .await?;
    stage.db.execute(adapter).await?;
    types(&stage, "ack 2", 0, &["no longer count"]).await?;
    stage.db.wait_for_restart("2", "succeeded", SOON).await?;

    // Night: the daemon is killed, and somebody dies.
    daemon.kill().await?;
    engine.exit("agent-3", 137)?;
    is_said(&stage, "3", "not judged").await?;
    types(&stage, "status --exit-code", 1, &["replica r2: not heard of for", "3 workspaces: 3 not judged"]).await?;
    let _again = stage.run_as("r3").await?;
    stage.db.wait_for_restart("3", "succeeded", SOON).await?;
    Ok(())
}
