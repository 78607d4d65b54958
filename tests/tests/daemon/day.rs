//! A day of an operator who has the README, the adapter page and the binary: a foreign schema, observing, a wrong mapping, a hold, an
//! adapter that vetoes, a storm, a daemon that dies. Containers, engine and database are real ones. At each step `status`, `explain`,
//! `check`, the metrics, the log and what the alerts look at tell the truth.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::{EngineHandle, PrivateDockerd, WorkspaceContainer, eventually, postgres};
use defib_tests::{SOON, Stage};
use serde_json::Value;
use tokio::task::JoinHandle;

const GUIDE: &str = include_str!("../../../deploy/adapters/README.md");

/// The agents of the platform.
const AGENTS: usize = 8;

/// The agents among them that die together in the evening.
const STORM: std::ops::RangeInclusive<usize> = 2..=7;

/// The platform: a farm of agents in real containers, which beat for as long as they run.
struct Farm {
    engine: EngineHandle,
    containers: Vec<String>,
    beating: JoinHandle<()>,
}

impl Farm {
    /// Starts all agents, but for the container of the last.
    async fn open(engine: &EngineHandle, database: &str) -> Result<Self> {
        let mut containers = Vec::new();
        for n in 1..AGENTS {
            containers.push(engine.run_workspace(WorkspaceContainer::new(agent(n))).await?);
        }
        let beating = tokio::spawn(beat(engine.clone(), database.to_owned()));
        Ok(Self { engine: engine.clone(), containers, beating })
    }

    /// Starts the container that was forgotten.
    async fn complete(&mut self) -> Result<()> {
        self.containers.push(self.engine.run_workspace(WorkspaceContainer::new(agent(AGENTS))).await?);
        Ok(())
    }

    /// SIGKILL to the main process of an agent's container, past the engine.
    async fn kill(&self, n: usize) -> Result<()> {
        self.engine.kill_main_process(&self.containers[n - 1]).await
    }

    async fn starts(&self, n: usize) -> Result<usize> {
        self.engine.starts(&self.containers[n - 1]).await
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

fn agent(n: usize) -> String {
    format!("agent-{n}")
}

/// Every running agent beats five times a second.
async fn beat(engine: EngineHandle, database: String) {
    loop {
        let Ok(client) = postgres::connect(&database).await else { continue };
        loop {
            let mut running = Vec::new();
            for n in 1..=AGENTS {
                if engine.is_running(&agent(n)).await.unwrap_or(false) {
                    running.push(i64::try_from(n).unwrap_or_default());
                }
            }
            // Leaves out rows that somebody has locked at the moment, so that the heartbeats of the others do not wait for them.
            let beating = "update farm.agents set beat = clock_timestamp() where agent in
                (select agent from farm.agents where agent = any ($1) for update skip locked)";
            if client.execute(beating, &[&running]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

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

/// Waits until a command says this.
async fn comes_to_say(stage: &Stage, line: &str, parts: &[&str]) -> Result<()> {
    let words: Vec<&str> = line.split(' ').collect();
    let said = eventually(SOON, &format!("`defib {line}` says {parts:?}"), async || {
        let said = stage.defib(&words).await.map_err(|error| format!("{error:#}"))?;
        if parts.iter().all(|part| said.stdout.contains(part)) { Ok(said.stdout) } else { Err(said.stdout) }
    })
    .await?;
    println!("$ defib {line}\n{said}");
    Ok(())
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

/// Waits until `status` calls all workspaces alive.
async fn all_are_well(stage: &Stage) -> Result<()> {
    comes_to_say(stage, "status", &[&format!("{AGENTS} workspaces: {AGENTS} alive")]).await
}

#[tokio::test]
async fn an_operator_is_told_the_truth_all_day_long() -> Result<()> {
    let dockerd = PrivateDockerd::start().await?;
    let stage = Stage::new(dockerd.url()).await?.knob("POLL_INTERVAL", "300ms").quick_heartbeats();
    let stage = stage.knob("DEAD_WINDOW", "5s").knob("STORM_COOLDOWN", "5s").knob("BACKOFF_INITIAL", "1s");

    // Morning: the platform has tables of its own. The operator replaces the view, and forgets the functions.
    let examples: Vec<&str> = GUIDE.split("\n```sql\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect();
    let (platform, adapter) = (examples[0], examples[1]);
    stage.db.execute(platform).await?;
    stage.db.execute(adapter.split("create or replace function").next().unwrap_or_default()).await?;
    let sow = format!("insert into farm.agents (agent, host) select n, 'default' from generate_series(1, {AGENTS}) n");
    stage.db.execute(&sow).await?;
    let mut farm = Farm::open(dockerd.engine(), stage.db.url()).await?;
    let lacks = format!("1 of its {AGENTS} watched workspaces have no container ({AGENTS})");
    let wrong = ["still is the one that ships with defib", "answers false for", lacks.as_str()];
    types(&stage, "check", 1, &wrong).await?;
    let nobody = format!("{AGENTS} workspaces: {AGENTS} not judged");
    types(&stage, "status", 0, &["no defib is running", &nobody]).await?;

    // The functions are made, and the last agent gets its container. defib observes first.
    stage.db.execute(adapter).await?;
    farm.complete().await?;
    types(&stage, "check", 0, &["agreed to the one that it should agree to"]).await?;
    let observing = stage.start_with("r1", &[("DEFIB_MODE", "observe")]).await?;
    observing.wait_until_ready().await?;
    all_are_well(&stage).await?;
    farm.kill(1).await?;
    is_said(&stage, "1", "dead").await?;
    types(&stage, "status", 0, &["observe (it judges and records, and restarts nobody)", "[held: observe]"]).await?;
    types(&stage, "explain 1", 0, &["held     observe", "docs/runbook.md#held-observe"]).await?;
    observing.wait_for_metric("defib_mode{mode=\"observe\"}", |value| value == 1.0, SOON).await?;
    ensure!(farm.starts(1).await? == 1, "it was only observed");
    observing.stop(SOON).await?;
    types(&stage, "status", 0, &["no defib is running", &nobody]).await?;

    // Noon: it is trusted, under a hold at first.
    types(&stage, "hold --fleet --for 1h --reason maintenance", 0, &["restarts held: the whole fleet for 1h"]).await?;
    let daemon = stage.run_as("r2").await?;
    is_said(&stage, "1", "dead").await?;
    types(&stage, "status --troubled", 0, &["restarts held: fleet for", "maintenance", "[held: operator]"]).await?;
    daemon.wait_for_metric("defib_holds", |value| value == 1.0, SOON).await?;
    types(&stage, "release --fleet", 0, &["1 hold released"]).await?;
    stage.db.wait_for_restart("1", "succeeded", SOON).await?;
    all_are_well(&stage).await?;

    // Afternoon: somebody makes mark_dead veto everything.
    stage
        .db
        .execute(
            "create or replace function defib.mark_dead(workspace_id text, evidence jsonb) returns boolean
             language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$ begin return false; end $$",
        )
        .await?;
    farm.kill(2).await?;
    stage.db.wait_for_restart("2", "vetoed", SOON).await?;
    is_said(&stage, "2", "dead").await?;
    types(&stage, "explain 2", 0, &["vetoed: defib.mark_dead refused", "docs/runbook.md#verdict-dead"]).await?;
    types(&stage, "check", 1, &["so every restart would be vetoed"]).await?;
    let vetoed = "defib_restarts_total{engine=\"default\",outcome=\"vetoed\"}";
    daemon.wait_for_metric(vetoed, |value| value >= 1.0, SOON).await?;
    stage.db.execute(adapter).await?;
    types(&stage, "ack 2", 0, &["no longer count"]).await?;
    stage.db.wait_for_restart("2", "succeeded", SOON).await?;
    all_are_well(&stage).await?;

    // Evening: a host in trouble kills most agents at once, and the operator lives through it without touching anything.
    for n in STORM {
        farm.kill(n).await?;
    }
    daemon.wait_for_metric("defib_storm{engine=\"default\"}", |value| value == 1.0, SOON).await?;
    comes_to_say(&stage, "status", &["storm"]).await?;
    for n in STORM {
        stage.db.wait_for_restart(&n.to_string(), "succeeded", SOON).await?;
    }
    all_are_well(&stage).await?;
    daemon.wait_for_metric("defib_storm{engine=\"default\"}", |value| value == 0.0, SOON).await?;
    let told = daemon.log()?.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    for line in ["storm: many died at once", "storm over"] {
        ensure!(told.contains(line), "the log does not tell {line:?}:\n{told}");
    }
    ensure!(farm.starts(AGENTS).await? == 1, "the one that lived through it was left alone");

    // Night: the daemon is killed, and somebody dies.
    daemon.kill().await?;
    farm.kill(3).await?;
    is_said(&stage, "3", "not judged").await?;
    types(&stage, "status --exit-code", 1, &["replica r2: not heard of for", &nobody]).await?;
    let _again = stage.run_as("r3").await?;
    all_are_well(&stage).await?;
    let restarted = stage.db.restarts("3").await?;
    ensure!(restarted.len() == 2, "once in the evening and once in the night: {restarted:#?}");
    Ok(())
}
