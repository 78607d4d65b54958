//! The ledger: every attempt is in it, none is made twice, and the pauses between attempts that fail grow.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use defib_testkit::ScriptedEngine;
use defib_testkit::scripted_engine::{Call, ContainerState, Fault, FaultRule};
use defib_tests::{Restart, SOON, Stage, Workspace, container, throughout};

/// How long a second restart is waited for, after the first.
const AFTERWARDS: Duration = Duration::from_secs(2);

#[tokio::test]
async fn who_waits_for_others_on_its_engine_is_told_so_and_comes_next() -> Result<()> {
    let (stage, engine) = one_silent_workspace().await?;
    engine.add(container("w2"));
    stage.db.add(Workspace::new("w2").silent()).await?;
    let stage = stage.knob("RESTART_CONCURRENCY", "1").knob("POLL_INTERVAL", "300ms").knob("STORM_MIN", "10");
    engine.set_fault(Call::Start, Fault::Delay(Duration::from_secs(4)));
    let daemon = stage.run().await?;
    for id in ["w1", "w2"] {
        engine.exit(id, 137)?;
    }
    defib_testkit::eventually(SOON, "one of them is held as queued", async || {
        let held = (stage.db.held("w1").await, stage.db.held("w2").await);
        match &held {
            (Ok(one), Ok(other)) if [one, other].iter().any(|held| held.as_deref() == Some("queued")) => Ok(()),
            _ => Err(format!("{held:?}")),
        }
    })
    .await?;
    daemon.wait_for_metric("defib_restarts_held_total{reason=\"queued\"}", |count| count >= 1.0, SOON).await?;
    for id in ["w1", "w2"] {
        stage.db.wait_for_restart(id, "succeeded", SOON).await?;
    }
    ensure!(engine.restarts() == 2, "somebody was restarted twice");
    Ok(())
}

#[tokio::test]
async fn a_restart_that_fails_is_tried_again_with_growing_delays() -> Result<()> {
    let (stage, engine) = one_silent_workspace().await?;
    let stage = stage.knob("BACKOFF_INITIAL", "600ms").knob("BACKOFF_MAX", "10s");
    for call in [Call::Start, Call::Restart] {
        engine.add_fault(FaultRule::new(call, Fault::server_error("scripted: no space left")).times(2));
    }
    let daemon = stage.run().await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;

    let restarts = stage.db.restarts("w1").await?;
    ensure!(restarts.len() == 3, "{restarts:#?}");
    for (restart, attempt) in restarts.iter().zip(1..) {
        ensure!(restart.attempt == attempt, "{restarts:#?}");
    }
    for failed in &restarts[..2] {
        let error = failed.error.as_deref().unwrap_or_default();
        ensure!(failed.outcome.as_deref() == Some("failed") && error.contains("no space left"), "{failed:#?}");
    }
    let (first, second) = (pause_between(&restarts[0], &restarts[1])?, pause_between(&restarts[1], &restarts[2])?);
    ensure!(second > first, "the delay went from {first:?} to {second:?}");
    ensure!(second >= Duration::from_millis(600), "the second delay is only {second:?}");
    let metrics = daemon.metrics().await?;
    for (outcome, count) in [("failed", 2.0), ("succeeded", 1.0)] {
        let series = format!("defib_restarts_total{{engine=\"default\",outcome=\"{outcome}\"}}");
        ensure!(metrics.value(&series)? == count, "{series} is {}", metrics.value(&series)?);
    }
    Ok(())
}

#[tokio::test]
async fn a_restart_that_hangs_is_given_up_at_its_deadline() -> Result<()> {
    let (stage, engine) = one_silent_workspace().await?;
    let stage = stage.knob("RESTART_TIMEOUT", "1s").knob("BACKOFF_INITIAL", "100ms");
    engine.add_fault(FaultRule::new(Call::Start, Fault::Hang).times(1));
    let _daemon = stage.run().await?;
    engine.exit("w1", 137)?;

    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    let restarts = stage.db.restarts("w1").await?;
    let outcomes: Vec<_> = restarts.iter().filter_map(|restart| restart.outcome.as_deref()).collect();
    ensure!(outcomes == ["failed", "succeeded"], "{restarts:#?}");
    Ok(())
}

#[tokio::test]
async fn one_that_no_restart_helps_is_exhausted_until_it_is_acknowledged() -> Result<()> {
    let (stage, engine) = one_silent_workspace().await?;
    let stage = stage.knob("BACKOFF_INITIAL", "100ms").knob("EXHAUSTED_AFTER", "2").knob("EXHAUSTED_RETRY", "1h");
    engine.set_fault(Call::Start, Fault::server_error("scripted"));
    let daemon = stage.run().await?;
    engine.exit("w1", 1)?;

    stage.db.wait_for_verdict("w1", Some("exhausted")).await?;
    daemon.wait_for_metric("defib_exhausted_workspaces", |count| count == 1.0, SOON).await?;
    throughout(AFTERWARDS, "it is left to people", async || match stage.db.restarts("w1").await {
        Ok(restarts) if restarts.len() == 2 => Ok(()),
        other => Err(format!("{other:#?}")),
    })
    .await?;

    engine.clear_faults();
    stage.defib(&["ack", "w1"]).await?.with_code(0)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    ensure!(engine.restarts_of("w1") == 3, "{} calls", engine.restarts_of("w1"));
    daemon.wait_for_metric("defib_exhausted_workspaces", |count| count == 0.0, SOON).await?;
    Ok(())
}

/// Attempts that were acknowledged count no more, so a heartbeat shows no recovery of theirs. The platform must hear that it lives all the same.
#[tokio::test]
async fn the_mark_of_one_that_was_acknowledged_and_then_started_by_hand_is_taken_back() -> Result<()> {
    let (stage, engine) = one_silent_workspace().await?;
    let stage = stage.knob("BACKOFF_INITIAL", "1h").knob("BACKOFF_MAX", "1h").knob("POLL_INTERVAL", "300ms");
    engine.set_fault(Call::Start, Fault::server_error("scripted"));
    let _daemon = stage.run().await?;
    engine.exit("w1", 1)?;
    stage.db.wait_for_restart("w1", "failed", SOON).await?;
    stage.db.wait_for_status("w1", "offline").await?;
    engine.set_state("w1", ContainerState::Running)?;
    stage.defib(&["ack", "w1"]).await?.with_code(0)?;
    defib_testkit::eventually(2 * SOON, "the platform is told that it lives", async || {
        stage.db.beat("w1").await.map_err(|error| format!("{error:#}"))?;
        match stage.db.status("w1").await {
            Ok(status) if status == "online" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    ensure!(stage.db.count("select count(*) from defib.marks").await? == 0, "the mark is still there");
    Ok(())
}

#[tokio::test]
async fn a_container_that_is_gone_is_dead_once_its_grace_is_over_and_nobody_is_asked_for_it() -> Result<()> {
    let (stage, engine) = one_silent_workspace().await?;
    let stage = stage.knob("MISSING_GRACE", "500ms");
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("w1", Some("silent")).await?;
    let removed = Instant::now();
    engine.remove("w1")?;

    stage.db.wait_for_verdict("w1", Some("dead")).await?;
    let grace = removed.elapsed();
    ensure!(grace >= Duration::from_millis(500), "dead {grace:?} after the removal, within the grace");
    ensure!(stage.db.held("w1").await?.as_deref() == Some("cannot_recreate"), "{:?}", stage.db.held("w1").await?);
    ensure!(engine.restarts() == 0, "an engine was asked for what it cannot do");
    Ok(())
}

#[tokio::test]
async fn a_daemon_killed_after_the_restart_leaves_a_row_that_is_settled_and_not_repeated() -> Result<()> {
    let (stage, engine) = one_silent_workspace().await?;
    // The engine starts the container, and never answers.
    engine.set_fault(Call::Start, Fault::DoneThenHang);
    let daemon = stage.run().await?;
    engine.exit("w1", 137)?;
    let left_behind = stage.db.wait_for_claim("w1").await?;
    started(&engine, 1).await?;
    daemon.kill().await?;
    engine.clear_faults();

    let _next = stage.run().await?;
    let settled = stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    ensure!(settled.id == left_behind.id, "{settled:#?}");
    restarts_stay(&stage, &engine, 1).await
}

#[tokio::test]
async fn a_daemon_killed_before_the_restart_leaves_a_row_that_is_abandoned_and_then_made_up_for() -> Result<()> {
    let (stage, engine) = one_silent_workspace().await?;
    let daemon = stage.run().await?;
    stage.db.wait_for_verdict("w1", Some("silent")).await?;
    // The engine answers the look that convicts, and then hangs. So the daemon is killed while it waits for the answer to the look before
    // the restart.
    engine.add_fault(FaultRule::new(Call::Inspect, Fault::Delay(Duration::from_millis(1))).times(1));
    engine.add_fault(FaultRule::new(Call::Inspect, Fault::Hang));
    engine.exit("w1", 137)?;
    stage.db.wait_for_claim("w1").await?;
    daemon.kill().await?;
    engine.clear_faults();
    ensure!(engine.restarts() == 0, "it was restarted before the claim was confirmed");

    let _next = stage.run().await?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    let restarts = stage.db.restarts("w1").await?;
    let outcomes: Vec<_> = restarts.iter().filter_map(|restart| restart.outcome.as_deref()).collect();
    ensure!(outcomes == ["abandoned", "succeeded"], "{restarts:#?}");
    restarts_stay(&stage, &engine, 1).await
}

#[tokio::test]
async fn sigterm_waits_for_the_restart_under_way_and_exits_0() -> Result<()> {
    let (stage, engine) = one_silent_workspace().await?;
    engine.set_fault(Call::Start, Fault::Delay(Duration::from_secs(2)));
    let daemon = stage.run().await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_claim("w1").await?;
    started(&engine, 1).await?;

    let ended = daemon.stop(SOON).await?;
    ensure!(ended.code() == Some(0), "it ended with {ended}");
    let restarts = stage.db.restarts("w1").await?;
    ensure!(restarts.len() == 1 && restarts[0].outcome.as_deref() == Some("succeeded"), "{restarts:#?}");
    let after = engine.container("w1").context("there is no w1")?.state;
    ensure!(after == ContainerState::Running, "it is {after:?}");
    Ok(())
}

#[tokio::test]
async fn sigterm_with_nothing_under_way_ends_at_once() -> Result<()> {
    let (stage, _engine) = one_silent_workspace().await?;
    let daemon = stage.run().await?;
    let status = daemon.stop(Duration::from_secs(5)).await?;
    ensure!(status.code() == Some(0), "it ended with {status}");
    Ok(())
}

#[tokio::test]
async fn two_daemons_restart_a_dead_one_once() -> Result<()> {
    let (stage, engine) = one_silent_workspace().await?;
    let stage = stage.knob("POLL_INTERVAL", "200ms").knob("REPLICA_ID", "one");
    let _one = stage.run().await?;
    let stage = stage.knob("REPLICA_ID", "two");
    let _two = stage.run().await?;

    for round in 1..=3 {
        engine.exit("w1", 137)?;
        for _ in 0..5 {
            stage.db.suspect("w1").await?;
        }
        started(&engine, round).await?;
        restarts_stay(&stage, &engine, round).await?;
        // Its recovery ends the run, so that the next death is again a first attempt of both.
        stage.db.beat("w1").await?;
        stage.db.wait_for_status("w1", "online").await?;
        stage.db.execute("update defib.workspaces set last_heartbeat_at = now() - interval '1 hour'").await?;
        stage
            .db
            .execute(
                "update defib.restarts set recovered_at = now() - interval '1 hour',
            claimed_at = claimed_at - interval '1 hour', run_ended_at = now() - interval '1 hour'",
            )
            .await?;
    }
    Ok(())
}

/// One workspace that one conclusive sample convicts.
async fn one_silent_workspace() -> Result<(Stage, ScriptedEngine)> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats();
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    Ok((stage, engine))
}

async fn started(engine: &ScriptedEngine, times: usize) -> Result<()> {
    defib_testkit::eventually(SOON, "the engine is asked for a restart", async || match engine.restarts_of("w1") {
        count if count >= times => Ok(()),
        count => Err(format!("{count} times")),
    })
    .await
}

async fn restarts_stay(stage: &Stage, engine: &ScriptedEngine, times: usize) -> Result<()> {
    let what = format!("the engine was asked for {times} restarts");
    throughout(AFTERWARDS, &what, async || match engine.restarts_of("w1") {
        count if count == times => Ok(()),
        count => Err(format!("{count}; {:#?}", stage.db.all_restarts().await)),
    })
    .await
}

fn pause_between(earlier: &Restart, later: &Restart) -> Result<Duration> {
    Ok(later.claimed_at.duration_since(earlier.finished_at.context("it never ended")?)?)
}
