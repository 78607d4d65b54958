//! What the daemon says of itself: metrics, log lines, endpoints.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use defib_testkit::ScriptedEngine;
use defib_testkit::scripted_engine::{Call, Fault};
use defib_tests::{SOON, Stage, Workspace, container};
use serde_json::Value;

/// Section 8 of the design.
const METRICS: &[&str] = &[
    "ticks_total",
    "tick_duration_seconds",
    "workspaces",
    "probe_map_entries",
    "probe_observations_total",
    "suspicions_total",
    "verdicts_total",
    "restarts_total",
    "restarts_held_total",
    "restart_duration_seconds",
    "detection_seconds",
    "engine_up",
    "engine_request_seconds",
    "storm",
    "exhausted_workspaces",
    "database_up",
    "heartbeats_usable",
    "local_health_multiplier",
    "last_tick_timestamp_seconds",
    "build_info",
];

/// Those of section 8 with labels that have no values before there are engines or holds, and the one that section 4.5 asks for.
const METRICS_BESIDES: &[&str] = &[
    "adapter_errors_total",
    "evictions_total",
    "holds",
    "lease_held",
    "mode",
    "outbox_pending",
    "outbox_unwritten",
    "probe_map_evictions_total",
    "recording_bytes",
    "recording_lost_total",
    "recording_written_bytes_total",
    "resyncs_total",
    "rows_read_total",
    "unowned_workspaces",
    "webhook_deliveries_total",
    "webhook_off",
    "workspace_longest_seconds",
];

/// The disk of the log is full.
#[tokio::test]
async fn a_log_that_cannot_be_written_does_not_end_the_daemon() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats();
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    let mut environment = stage.environment();
    environment.insert("DEFIB_LISTEN_ADDR".to_owned(), format!("127.0.0.1:{}", defib_testkit::free_port()?));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full")?;
    let mut daemon = tokio::process::Command::new(defib_testkit::program::built_program("defib")?)
        .arg("run")
        .env_clear()
        .envs(&environment)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(full)
        .kill_on_drop(true)
        .spawn()?;
    stage.db.wait_for_verdict("w1", Some("silent")).await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    ensure!(daemon.try_wait()?.is_none(), "it has ended");
    Ok(())
}

#[tokio::test]
async fn every_metric_of_the_design_exists_from_the_start() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.engine("second", &engine.url());
    let metrics = stage.run().await?.metrics().await?;
    let names = metrics.names();
    for name in METRICS {
        ensure!(names.contains(&format!("defib_{name}")), "there is no defib_{name}");
    }
    let known: BTreeSet<String> = METRICS.iter().chain(METRICS_BESIDES).map(|name| format!("defib_{name}")).collect();
    let foreign: Vec<&String> = names.iter().filter(|name| !known.contains(*name)).collect();
    ensure!(foreign.is_empty(), "not in the design: {foreign:?}");
    for series in [
        "defib_restarts_total{engine=\"second\",outcome=\"succeeded\"}",
        "defib_restarts_total{engine=\"default\",outcome=\"failed\"}",
        "defib_suspicions_total{reason=\"unknown_workspace\"}",
        "defib_restarts_held_total{reason=\"backoff\"}",
        "defib_restarts_held_total{reason=\"operator\"}",
        "defib_verdicts_total{verdict=\"dead\"}",
        "defib_ticks_total{result=\"database_error\",scope=\"fleet\"}",
        "defib_exhausted_workspaces",
        "defib_storm{engine=\"default\"}",
        "defib_detection_seconds_count",
    ] {
        ensure!(metrics.value(series)? == 0.0, "{series} is {}", metrics.value(series)?);
    }
    Ok(())
}

#[tokio::test]
async fn no_label_holds_a_workspace_or_what_somebody_wrote() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats();
    engine.add(container("workspace-0815"));
    stage.db.add(Workspace::new("workspace-0815").silent()).await?;
    let daemon = stage.run().await?;
    let before = daemon.metrics().await?;
    let sql = "select defib.report_suspicion($1, 'reporter-4711', 'reason-4711', 502, 'detail-4711')";
    for id in ["workspace-0815", "nobody-4711"] {
        stage.db.query(sql, &[&id]).await?;
    }
    engine.exit("workspace-0815", 137)?;
    stage.db.wait_for_restart("workspace-0815", "succeeded", SOON).await?;

    let after = daemon.metrics().await?;
    for series in after.series().keys() {
        ensure!(!series.contains("0815") && !series.contains("4711"), "{series}");
        ensure!(before.series().contains_key(series), "{series} appeared later");
    }
    ensure!(after.sum("defib_detection_seconds_count", "") == 1.0, "the detection was not measured");
    Ok(())
}

#[tokio::test]
async fn the_probe_map_is_empty_again_after_the_ttl() -> Result<()> {
    let ttl = Duration::from_secs(3);
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.knob("POLL_INTERVAL", "200ms");
    let stage = stage.knob("PROBE_TTL", "3s").knob("DEAD_WINDOW", "2500ms").knob("PROBE_SPACING", "2s");
    let ids = ["w1", "w2"];
    for id in ids {
        engine.add(container(id));
        stage.db.add(Workspace::new(id)).await?;
    }
    let daemon = stage.run().await?;

    // One miss each, and then no answer any more, which neither adds to a miss nor clears it.
    for call in [Call::List, Call::Inspect] {
        engine.set_fault(call, Fault::FalselyStopped);
    }
    let entries = "defib_probe_map_entries";
    let (begun, found) = (Instant::now(), daemon.wait_for_metric(entries, |count| count > 0.0, SOON).await?);
    ensure!(found <= 2.0, "{found} entries for 2 workspaces");
    for call in [Call::List, Call::Inspect] {
        engine.set_fault(call, Fault::server_error("scripted"));
    }
    daemon.wait_for_metric(entries, |count| count == 0.0, SOON).await?;
    ensure!(begun.elapsed() + Duration::from_millis(500) >= ttl, "they were gone after {:?}", begun.elapsed());
    stage.nothing_is_claimed(Duration::ZERO).await
}

#[tokio::test]
async fn the_probe_map_never_grows_beyond_its_bound() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.knob("PROBE_MAP_MAX", "3").knob("MODE", "observe");
    for n in 0..10 {
        let id = format!("w{n}");
        engine.add(container(&id));
        engine.exit(&id, 1)?;
        stage.db.add(Workspace::new(&id)).await?;
    }
    let daemon = stage.run().await?;
    daemon.wait_for_metric("defib_probe_map_entries", |count| count == 3.0, SOON).await?;
    for _ in 0..10 {
        let count = daemon.metrics().await?.value("defib_probe_map_entries")?;
        ensure!(count <= 3.0, "{count} entries");
    }
    Ok(())
}

#[tokio::test]
async fn one_log_line_holds_the_evidence_of_a_restart() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats();
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    let daemon = stage.run().await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;

    let log = daemon.log()?;
    let restarting: Vec<&Value> = log.iter().filter(|line| line["message"] == "restarting").collect();
    ensure!(restarting.len() == 1, "{restarting:#?}");
    let line = restarting[0];
    ensure!(line["level"] == "WARN" && line["workspace"] == "w1" && line["engine"] == "default", "{line:#}");
    ensure!(line["verdict"] == "dead" && line["attempt"] == 1, "{line:#}");
    let evidence: Value = serde_json::from_str(line["evidence"].as_str().context("no evidence")?)?;
    ensure!(
        evidence["heartbeat"]["witness"].is_string() || evidence["heartbeat"]["witness"].is_object(),
        "{evidence:#}"
    );
    let recorded = stage.db.restarts("w1").await?.remove(0).evidence;
    ensure!(
        evidence["because"] == recorded["because"] && evidence["rule"] == recorded["rule"],
        "{evidence:#}\n{recorded:#}"
    );
    let because = evidence["because"].as_str().unwrap_or_default();
    ensure!(because.contains("exit 137") && because.contains("heartbeat"), "{because}");
    Ok(())
}

#[tokio::test]
async fn a_fleet_without_news_is_not_logged_about() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.knob("POLL_INTERVAL", "100ms");
    for n in 0..20 {
        let id = format!("w{n}");
        engine.add(container(&id));
        stage.db.add(Workspace::new(&id)).await?;
    }
    let daemon = stage.run().await?;
    let ticks = "defib_ticks_total{result=\"ok\",scope=\"fleet\"}";
    let first = daemon.wait_for_metric(ticks, |count| count >= 2.0, SOON).await?;
    let lines = daemon.log()?.len();
    daemon.wait_for_metric(ticks, |count| count >= first + 10.0, SOON).await?;
    ensure!(daemon.log()?.len() == lines, "{}", daemon.program.transcript());
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_stops_the_start_with_a_word_about_it() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let taken = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let stage = Stage::new(&engine.url()).await?.knob("LISTEN_ADDR", &taken.local_addr()?.to_string());
    let finished = stage.defib(&["run"]).await?;
    ensure!(finished.code.is_some_and(|code| code != 0), "{finished:?}");
    ensure!(finished.stderr.contains("DEFIB_LISTEN_ADDR"), "{}", finished.stderr);
    Ok(())
}
