//! A container that runs and says nothing: reported, and restarted only where that was asked for and a second witness agrees.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use defib_testkit::ScriptedEngine;
use defib_testkit::scripted_engine::{Call, Fault, FaultRule, Health};
use defib_tests::{SOON, Stage, Workspace, container, throughout};
use tokio::time::Instant;

const A_WHILE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_wedged_one_is_reported_and_not_restarted() -> Result<()> {
    let (stage, engine) = stage().await?;
    let daemon = stage.run().await?;
    stage.db.wait_for_verdict("w1", Some("wedged")).await?;
    is_only_reported(&stage, &engine, &["proxy-1", "proxy-2"]).await?;
    ensure!(stage.db.held("w1").await?.as_deref() == Some("report_only"), "it does not say why nothing is done");
    daemon.wait_for_metric("defib_workspaces{verdict=\"wedged\"}", |count| count == 1.0, SOON).await?;
    Ok(())
}

#[tokio::test]
async fn one_reporter_is_no_second_witness() -> Result<()> {
    let (stage, engine) = stage().await?;
    let stage = stage.knob("WEDGED_ACTION", "restart");
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("w1", Some("wedged")).await?;
    is_only_reported(&stage, &engine, &["proxy-1"]).await?;
    ensure!(stage.db.held("w1").await?.as_deref() == Some("second_witness"), "it does not say what is missing");
    Ok(())
}

#[tokio::test]
async fn two_reporters_over_two_windows_are_a_second_witness_where_restarts_were_asked_for() -> Result<()> {
    let (stage, engine) = stage().await?;
    let stage = stage.knob("WEDGED_ACTION", "restart");
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("w1", Some("wedged")).await?;
    let before = engine.container("w1").context("there is no w1")?.started_at;

    let (one, another) = (stage.db.proxy("one").await?, stage.db.proxy("another").await?);
    let restart = defib_testkit::eventually(SOON, "it is restarted", async || {
        for (login, reporter) in [(&one, "proxy-1"), (&another, "proxy-2")] {
            stage.db.suspect_over(login, "w1", reporter).await.map_err(|error| format!("{error:#}"))?;
        }
        match stage.db.restarts("w1").await {
            Ok(restarts) if restarts.iter().any(|restart| restart.outcome.is_some()) => Ok(restarts[0].clone()),
            other => Err(format!("{other:#?}")),
        }
    })
    .await?;
    ensure!(restart.verdict == "wedged" && restart.outcome.as_deref() == Some("succeeded"), "{restart:#?}");
    ensure!(engine.container("w1").context("there is no w1")?.started_at > before, "it still lives its old life");
    Ok(())
}

/// Another replica has noticed that the database's clock stepped after the heartbeat of a container that is 20 minutes old. So the
/// heartbeat may be of the life before, and the container may still be starting.
#[tokio::test]
async fn a_heartbeat_from_before_a_step_of_the_databases_clock_accuses_nobody_who_may_still_be_starting() -> Result<()>
{
    let (stage, engine) = young_stage().await?;
    stage
        .db
        .execute(
            "insert into defib.clock_steps (comparable_from, noticed_by)
             values (clock_timestamp() - interval '5 minutes', 'another')",
        )
        .await?;
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("w1", Some("silent")).await?;
    is_only_reported(&stage, &engine, &["proxy-1", "proxy-2"]).await?;
    ensure!(stage.db.verdict("w1").await?.as_deref() == Some("silent"), "it is taken for one that hangs");
    Ok(())
}

/// The clock has stepped while no daemon ran: it was five minutes ahead when the last one wrote that down.
#[tokio::test]
async fn a_step_that_the_databases_clock_made_while_no_daemon_ran_is_noticed_at_the_next_start() -> Result<()> {
    let (stage, engine) = young_stage().await?;
    stage
        .db
        .execute("insert into defib.clock_steps (ahead, noticed_by) values (interval '5 minutes', 'the one before')")
        .await?;
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("w1", Some("silent")).await?;
    is_only_reported(&stage, &engine, &["proxy-1", "proxy-2"]).await?;
    ensure!(stage.db.verdict("w1").await?.as_deref() == Some("silent"), "it is taken for one that hangs");
    let noticed = "select count(*) from defib.clock_steps
                    where comparable_from > clock_timestamp() + interval '4 minutes' and abs(extract(epoch from ahead)) < 2";
    ensure!(stage.db.count(noticed).await? == 1, "the step was not written down for others");
    Ok(())
}

#[tokio::test]
async fn a_heartbeat_that_came_in_after_its_start_shows_that_a_young_container_hangs() -> Result<()> {
    let (stage, _engine) = young_stage().await?;
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("w1", Some("wedged")).await
}

/// A container that was started 20 minutes ago, and whose last heartbeat is ten minutes old.
async fn young_stage() -> Result<(Stage, ScriptedEngine)> {
    let (stage, engine) = stage().await?;
    engine.remove("w1")?;
    engine.add(container("w1").started_at(SystemTime::now() - Duration::from_secs(1_200)));
    stage
        .db
        .execute("update defib.workspaces set last_heartbeat_at = clock_timestamp() - interval '10 minutes'")
        .await?;
    Ok((stage.knob("WEDGED_ACTION", "restart"), engine))
}

/// Both witnesses are there before any inspect has told when the container was started. The life that the restart begins must not
/// be taken for the one that hung, though its first heartbeat is slow to come.
#[tokio::test]
async fn the_life_that_a_restart_begins_is_another_one_whatever_was_known_of_the_last() -> Result<()> {
    let (stage, engine) = stage().await?;
    let stage = stage.knob("WEDGED_ACTION", "restart").knob("WEDGED_AFTER", "15s").knob("BACKOFF_INITIAL", "100ms");
    let stage = stage.knob("SETTLE", "1m");
    engine.set_fault(Call::Inspect, Fault::server_error("not now"));
    stage.db.beat("w1").await?; // its last one
    let _daemon = stage.run().await?;
    let (one, another) = (stage.db.proxy("one").await?, stage.db.proxy("another").await?);
    throughout(A_WHILE, "two proxies do not reach it", async || {
        for (login, reporter) in [(&one, "proxy-1"), (&another, "proxy-2")] {
            stage.db.suspect_over(login, "w1", reporter).await.map_err(|error| format!("{error:#}"))?;
        }
        Ok(())
    })
    .await?;
    let last = Mutex::new((0, Instant::now()));
    defib_testkit::eventually(SOON, "the looks that they asked for are over", async || {
        let (mut last, made) = (last.lock().map_err(|error| error.to_string())?, engine.count(Call::Inspect));
        if made != last.0 {
            *last = (made, Instant::now());
        }
        if last.1.elapsed() > Duration::from_secs(2) { Ok(()) } else { Err(format!("{made} inspects")) }
    })
    .await?;
    stage.nothing_is_claimed(Duration::ZERO).await?;
    engine.clear_fault(Call::Inspect);
    stage.db.wait_for_restart("w1", "succeeded", 2 * SOON).await?;
    let started = "select count(*) from defib.restarts where started_at is not null";
    ensure!(stage.db.count(started).await? == 1, "the ledger does not say which life was ended");
    throughout(A_WHILE, "it is restarted once", async || match stage.db.restarts("w1").await {
        Ok(restarts) if restarts.len() == 1 && engine.starts_of("w1") == 1 => Ok(()),
        other => Err(format!("{other:#?}")),
    })
    .await?;
    ensure!(stage.db.verdict("w1").await?.as_deref() == Some("settling"), "the new life is not given its time");
    Ok(())
}

/// A proxy's reports of last night wait in the table while the daemon is down.
#[tokio::test]
async fn suspicions_from_long_before_the_start_are_no_second_witness() -> Result<()> {
    let (stage, engine) = stage().await?;
    let stage = stage.knob("WEDGED_ACTION", "restart").knob("DEAD_WINDOW", "20s");
    for (reporter, seconds) in [("proxy-1", 170), ("proxy-2", 30)] {
        let report = "insert into defib.suspicions (workspace_id, reporter, reason, reported_at)
                      values ('w1', $1, 'timeout', clock_timestamp() - $2::float8 * interval '1 second')";
        stage.db.query(report, &[&reporter, &f64::from(seconds)]).await?;
    }
    let daemon = stage.run().await?;
    let too_old = "defib_suspicions_total{reason=\"too_old\"}";
    daemon.wait_for_metric(too_old, |count| count == 2.0, SOON).await?;
    stage.db.wait_for_verdict("w1", Some("wedged")).await?;
    stage.nothing_is_claimed(A_WHILE).await?;
    ensure!(stage.db.held("w1").await?.as_deref() == Some("second_witness"), "it does not say what is missing");
    // A proxy that reports now counts, but it is only one witness.
    stage.db.suspect_by("w1", "proxy-3").await?;
    stage.nothing_is_claimed(A_WHILE).await?;
    ensure!(engine.restarts() == 0, "it was touched");
    Ok(())
}

#[tokio::test]
async fn a_failing_health_check_is_the_second_witness_too() -> Result<()> {
    let (stage, engine) = stage().await?;
    let stage = stage.knob("WEDGED_ACTION", "restart");
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("w1", Some("wedged")).await?;
    stage.nothing_is_claimed(Duration::from_secs(1)).await?;
    engine.set_health("w1", Health::Unhealthy)?;
    let restart = stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    ensure!(restart.verdict == "wedged", "{restart:#?}");
    Ok(())
}

#[tokio::test]
async fn a_failing_health_check_alone_is_reported_by_default() -> Result<()> {
    let (stage, engine) = stage().await?;
    let stage = stage.knob("WEDGED_AFTER", "10m"); // silent, but not yet for long
    stage.db.execute("update defib.workspaces set last_heartbeat_at = now() - interval '1 minute'").await?;
    let _daemon = stage.run().await?;
    engine.set_health("w1", Health::Unhealthy)?;
    stage.db.wait_for_verdict("w1", Some("unhealthy")).await?;
    is_only_reported(&stage, &engine, &["proxy-1", "proxy-2"]).await
}

#[tokio::test]
async fn a_failing_health_check_restarts_after_the_spaced_misses_where_that_was_asked_for() -> Result<()> {
    let (stage, engine) = stage().await?;
    let stage = stage.knob("UNHEALTHY_ACTION", "restart");
    stage.db.beat("w1").await?;
    let _daemon = stage.run().await?;
    engine.set_health("w1", Health::Unhealthy)?;
    let restart = stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    ensure!(restart.verdict == "unhealthy", "{restart:#?}");
    let misses = &restart.evidence["probe"]["misses"];
    ensure!(misses.as_u64().is_some_and(|misses| misses >= 2), "{misses} misses");
    Ok(())
}

/// The engine works on the call for longer than the looks after a lost answer would last if they counted from that moment. A second call
/// would kill what the first one has started.
#[tokio::test]
async fn a_restart_of_what_runs_whose_answer_is_lost_early_is_waited_for_and_not_made_twice() -> Result<()> {
    let (stage, engine) = stage().await?;
    let stage = stage.knob("WEDGED_ACTION", "restart").knob("RESTART_TIMEOUT", "3s").knob("BACKOFF_INITIAL", "100ms");
    engine.add_fault(FaultRule::new(Call::Restart, Fault::EofThenDone(Duration::from_secs(4))).times(1));
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("w1", Some("wedged")).await?;
    engine.set_health("w1", Health::Unhealthy)?;
    let restart = stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    let restarts = stage.db.restarts("w1").await?;
    ensure!(restarts.len() == 1 && restart.verdict == "wedged", "{restarts:#?}");
    ensure!(engine.restarts_of("w1") == 1, "{} calls", engine.restarts_of("w1"));
    Ok(())
}

/// Half a minute may pass between the yes of the platform and the start that mends a half-made restart: it is asked again.
#[tokio::test]
async fn what_a_restart_left_stopped_is_not_started_when_it_was_parked_meanwhile() -> Result<()> {
    let (stage, engine) = stage().await?;
    let stage = stage.knob("WEDGED_ACTION", "restart").knob("RESTART_TIMEOUT", "2s");
    engine.set_fault(Call::Restart, Fault::Hang);
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("w1", Some("wedged")).await?;
    engine.set_health("w1", Health::Unhealthy)?;
    defib_testkit::eventually(SOON, "its engine is asked", async || match engine.count(Call::Restart) {
        1 => Ok(()),
        other => Err(format!("{other} calls")),
    })
    .await?;
    engine.exit("w1", 137)?; // by half of the restart
    stage.db.execute("update defib.workspaces set status = 'paused'").await?;
    let restart = stage.db.wait_for_restart("w1", "failed", SOON).await?;
    ensure!(restart.error.as_deref().is_some_and(|error| error.contains("not started")), "{restart:#?}");
    ensure!(engine.count(Call::Start) == 0, "a parked one was started");
    Ok(())
}

async fn is_only_reported(stage: &Stage, engine: &ScriptedEngine, reporters: &[&str]) -> Result<()> {
    throughout(A_WHILE, "it is only reported", async || {
        for reporter in reporters {
            stage.db.suspect_by("w1", reporter).await.map_err(|error| format!("{error:#}"))?;
        }
        match stage.db.all_restarts().await {
            Ok(restarts) if restarts.is_empty() => Ok(()),
            other => Err(format!("{other:#?}")),
        }
    })
    .await?;
    ensure!(engine.restarts() + engine.count(Call::Kill) + engine.count(Call::Stop) == 0, "it was touched");
    ensure!(stage.db.status("w1").await? == "online", "the platform was told that it is dead");
    Ok(())
}

/// A running workspace that has been silent for an hour, where a second of silence is stale and another one wedged.
async fn stage() -> Result<(Stage, ScriptedEngine)> {
    let (stage, engine) = Stage::with_one(Workspace::new("w1").silent()).await?;
    let stage = stage.quick_heartbeats().knob("POLL_INTERVAL", "300ms");
    let stage = stage.knob("WEDGED_AFTER", "1s").knob("BUSY_GRACE", "500ms").knob("STOP_GRACE", "0s");
    Ok((stage, engine))
}
