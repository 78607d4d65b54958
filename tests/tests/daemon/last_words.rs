//! The last words of a container that was restarted: kept, shown, bounded, and never waited for by a start.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bollard::models::HealthConfig;
use defib_testkit::scripted_engine::{Call, Fault, FaultRule};
use defib_testkit::{PrivateDockerd, ScriptedEngine, WorkspaceContainer, eventually};
use defib_tests::{SOON, Stage, Workspace, container, throughout};
use serde_json::Value;

#[tokio::test]
async fn what_a_real_container_wrote_and_how_it_ended_is_explained() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let stage = Stage::new(dockerd.url()).await?.quick_heartbeats().knob("CAPTURE_LOG_LINES", "3");
    let script = "for i in 1 2 3 4; do echo line $i; done; printf 'red \\033[31m\\n'; sleep 3; exit 42";
    let id = "speaks-last";
    let agent = WorkspaceContainer::new(id).label("defib.workspace", id).command(["sh", "-c", script]);
    dockerd.run_workspace(agent).await?;
    stage.db.add(Workspace::new(id).silent()).await?;
    let _daemon = stage.run().await?;
    stage.db.wait_for_restart(id, "succeeded", SOON).await?;
    let words = words(&stage, id).await?;
    ensure!(words["exit_code"] == 42 && words["oom_killed"] == false, "{words}");
    ensure!(words["log"] == "line 3\nline 4\nred \\u{1b}[31m", "{words}");
    let said = stage.defib(&["explain", id]).await?.stdout;
    ensure!(said.contains("last words exit code 42") && said.contains("\n        | line 4\n"), "{said}");
    Ok(())
}

#[tokio::test]
async fn what_a_failing_health_check_printed_is_kept_in_the_ledger_when_it_leads_to_a_restart() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let stage = Stage::new(dockerd.url()).await?.knob("UNHEALTHY_ACTION", "restart").knob("SETTLE", "1s");
    let id = "fails-its-check";
    let agent = WorkspaceContainer::new(id).label("defib.workspace", id).command([
        "sh",
        "-c",
        "echo serving; trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done",
    ]);
    let healthcheck = HealthConfig {
        test: Some(vec!["CMD-SHELL".to_owned(), "echo port 80 is closed; exit 1".to_owned()]),
        interval: Some(1_000_000_000),
        retries: Some(1),
        ..HealthConfig::default()
    };
    dockerd.run_workspace(WorkspaceContainer { healthcheck: Some(healthcheck), ..agent }).await?;
    stage.db.add(Workspace::new(id).silent()).await?;
    let _daemon = stage.run().await?;
    stage.db.wait_for_claim(id).await?;
    let told = words(&stage, id).await?;
    let health = told["health"].as_str().context("what its health check printed")?;
    ensure!(health.lines().all(|line| line == "health check, exit code 1: port 80 is closed"), "{told}");
    let rows =
        stage.db.query("select last_words from defib.restarts where last_words is not null limit 1", &[]).await?;
    let in_ledger: &str = rows.first().context("a row with last words")?.get(0);
    ensure!(in_ledger.contains("port 80 is closed") && in_ledger.ends_with("serving"), "{in_ledger}");
    Ok(())
}

#[tokio::test]
async fn a_log_that_hangs_delays_no_start() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = stage(&engine).await?;
    let _daemon = stage.run().await?;
    engine.set_fault(Call::Logs, Fault::Hang);
    let begun = Instant::now();
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    ensure!(begun.elapsed() < Duration::from_secs(2), "it waited for the log: {:?}", begun.elapsed());
    let words = words(&stage, "w1").await?;
    ensure!(words["exit_code"] == 137 && words["log"].is_null(), "{words}");
    ensure!(words["log_fault"].as_str().is_some_and(|fault| fault.contains("logs")), "{words}");
    Ok(())
}

#[tokio::test]
async fn a_log_that_is_kept_elsewhere_is_told_in_the_engines_words() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = stage(&engine).await?;
    let _daemon = stage.run().await?;
    let message = "configured logging driver does not support reading";
    engine.set_fault(Call::Logs, Fault::Status(501, format!("{{\"message\":\"{message}\"}}")));
    engine.exit("w1", 1)?;
    let words = words(&stage, "w1").await?;
    ensure!(words["log_fault"].as_str().is_some_and(|fault| fault.contains(message)), "{words}");
    Ok(())
}

#[tokio::test]
async fn a_hundred_megabytes_and_binary_garbage_are_bounded() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = stage(&engine).await?;
    let mut lines = b"0123456789abcdef\n".repeat(100 * 1024 * 1024 / 17);
    lines.extend(b"the end\n");
    engine.add(container("long").log(lines));
    let mut garbage: Vec<u8> = (0..=255).collect::<Vec<u8>>().repeat(1024);
    garbage.retain(|byte| *byte != b'\n');
    engine.add(container("garbage").log(garbage));
    for id in ["long", "garbage"] {
        stage.db.add(Workspace::new(id).silent()).await?;
    }
    let daemon = stage.run().await?;
    for id in ["long", "garbage"] {
        engine.exit(id, 1)?;
        stage.db.wait_for_restart(id, "succeeded", SOON).await?;
    }
    let told = words(&stage, "long").await?;
    let log = told["log"].as_str().context("a log")?;
    ensure!(log.ends_with("\nthe end") && log.lines().count() == 50, "{log}");
    let told = words(&stage, "garbage").await?;
    let log = told["log"].as_str().context("a log")?;
    ensure!(log.len() <= 16 * 1024 && log.contains("\\xff\\u{0}"), "{} {log}", log.len());
    ensure!(!log.contains(|c: char| c.is_control()), "{log}");
    ensure!(daemon.readiness().await?.0);
    Ok(())
}

#[tokio::test]
async fn with_zero_lines_the_engine_is_not_asked_for_them() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = stage(&engine).await?.knob("CAPTURE_LOG_LINES", "0");
    let _daemon = stage.run().await?;
    engine.exit("w1", 1)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    throughout(Duration::from_secs(1), "nothing is kept", async || {
        match stage.db.count("select count(*) from defib.last_words").await {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    ensure!(engine.count(Call::Logs) == 0);
    Ok(())
}

#[tokio::test]
async fn of_a_container_that_the_platform_replaces_the_log_is_read_before() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let platform =
        defib_testkit::ScriptedControlPlane::start(defib_testkit::scripted_control_plane::Dialect::Molecule).await?;
    let url = format!("{}?preset=molecule-core", platform.address());
    let stage =
        stage(&engine).await?.knob("PLATFORM_URL", &url).knob("PLATFORM_TOKEN", "t").knob("RESTART_BY", "platform");
    let _daemon = stage.run().await?;
    // Short of the bound, and far longer than a claim takes: without the wait the platform would be asked first.
    engine.add_fault(FaultRule::new(Call::Logs, Fault::Delay(Duration::from_millis(300))));
    engine.exit("w1", 9)?;
    eventually(SOON, "the platform is asked", async || match platform.restarts().len() {
        1 => Ok(()),
        other => Err(format!("{other}")),
    })
    .await?;
    engine.remove("w1")?;
    let words = words(&stage, "w1").await?;
    ensure!(words["log"] == "hello\ngoodbye", "{words}");
    Ok(())
}

/// One that has said goodbye, on an engine that follows a script.
async fn stage(engine: &ScriptedEngine) -> Result<Stage> {
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats().knob("POLL_INTERVAL", "200ms");
    engine.add(container("w1").log(*b"hello\ngoodbye\n"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    Ok(stage.knob("CAPTURE_LOG_LINES", "50"))
}

/// The last words of its first attempt, from `defib explain`.
async fn words(stage: &Stage, id: &str) -> Result<Value> {
    eventually(SOON, "its last words are told", async || {
        let said = stage.defib(&["explain", id, "--format", "json"]).await.map_err(|error| format!("{error:#}"))?;
        let told: Value = serde_json::from_str(&said.stdout).map_err(|error| error.to_string())?;
        let timeline = told["timeline"].as_array().cloned().unwrap_or_default();
        timeline.into_iter().find(|entry| entry["what"] == "last_words").ok_or(said.stdout)
    })
    .await
}
