//! A running workspace is not restarted on evidence that is out of date: not during a boot that began before the daemon did, and not by an
//! order that waited while the workspace got well. And one that hangs is restarted, however rarely its health check runs.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use defib_testkit::ScriptedEngine;
use defib_testkit::scripted_engine::{Call, Fault, FaultRule, Health};
use defib_tests::{SOON, Stage, Workspace, container, throughout};

/// Several times as long as the second after which a silent workspace is wedged, and as the windows over which reporters must agree.
const A_WHILE: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_boot_that_was_under_way_when_defib_came_is_a_boot() -> Result<()> {
    let (stage, engine) = stage(&[]).await?;
    stage.db.add(Workspace::new("boots").silent()).await?;
    engine.add(container("boots").started_at(SystemTime::now() - Duration::from_secs(5)));
    let _daemon = stage.run().await?;
    two_proxies_accuse_it_in_vain(&stage, &engine, "boots").await
}

#[tokio::test]
async fn a_boot_that_was_under_way_when_its_row_became_watched_is_a_boot() -> Result<()> {
    let (stage, engine) = stage(&[]).await?;
    stage.db.add(Workspace::new("boots").status("provisioning").silent()).await?;
    engine.add(container("boots"));
    let _daemon = stage.run().await?;
    engine.add(container("boots").started_at(SystemTime::now() - Duration::from_secs(5)));
    stage.db.set_status("boots", "online").await?;
    two_proxies_accuse_it_in_vain(&stage, &engine, "boots").await
}

#[tokio::test]
async fn one_that_hangs_is_restarted_though_its_health_is_checked_every_five_minutes() -> Result<()> {
    let (stage, engine) = stage(&["w1"]).await?;
    let minute_ago = SystemTime::now() - Duration::from_secs(60);
    let checked = container("w1").health(Health::Unhealthy).health_check(minute_ago, Duration::from_secs(300));
    engine.add(checked);
    let _daemon = stage.run().await?;
    let restart = stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    ensure!(restart.verdict == "wedged", "{restart:#?}");
    Ok(())
}

#[tokio::test]
async fn an_order_that_waited_for_its_permit_is_not_carried_out_on_one_whose_health_has_returned() -> Result<()> {
    let (stage, engine) = stage(&["w1", "w2"]).await?;
    let stage = stage.knob("UNHEALTHY_ACTION", "restart").knob("WEDGED_AFTER", "3h").knob("BUSY_GRACE", "30m");
    let _daemon = stage.run().await?;
    one_waits_behind_another(&stage, &engine).await?;
    engine.set_health("w2", Health::Healthy)?;
    it_is_left_alone(&stage, &engine).await
}

/// The shipped `mark_dead` compares heartbeats as well, so this test also passed before orders were judged again.
#[tokio::test]
async fn an_order_that_waited_for_its_permit_is_not_carried_out_on_one_that_beats_again() -> Result<()> {
    let (stage, engine) = stage(&["w1", "w2"]).await?;
    let _daemon = stage.run().await?;
    one_waits_behind_another(&stage, &engine).await?;
    tokio::select! {
        left_alone = it_is_left_alone(&stage, &engine) => left_alone,
        cut_off = goes_on_beating(&stage, "w2") => cut_off.map(drop),
    }
}

/// One heartbeat alone would be stale again after a second.
async fn goes_on_beating(stage: &Stage, id: &str) -> Result<std::convert::Infallible> {
    loop {
        stage.db.beat(id).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The restart of `w1` takes its time, and `w2` is convicted meanwhile.
async fn one_waits_behind_another(stage: &Stage, engine: &ScriptedEngine) -> Result<()> {
    let slow = Fault::Delay(Duration::from_secs(5));
    engine.add_fault(FaultRule::new(Call::Restart, slow).container("w1"));
    engine.set_health("w1", Health::Unhealthy)?;
    defib_testkit::eventually(SOON, "w1 is being restarted", async || match engine.count_of(Call::Restart, "w1") {
        1 => Ok(()),
        calls => Err(format!("{calls} calls")),
    })
    .await?;
    engine.set_health("w2", Health::Unhealthy)?;
    defib_testkit::eventually(SOON, "w2 waits", async || match stage.db.held("w2").await {
        Ok(held) if held.as_deref() == Some("queued") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
}

async fn it_is_left_alone(stage: &Stage, engine: &ScriptedEngine) -> Result<()> {
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    throughout(Duration::from_secs(3), "w2 is not touched", async || match engine.restarts_of("w2") {
        0 => Ok(()),
        calls => Err(format!("{calls} calls")),
    })
    .await
}

async fn two_proxies_accuse_it_in_vain(stage: &Stage, engine: &ScriptedEngine, id: &str) -> Result<()> {
    let (one, another) = (stage.db.proxy("one").await?, stage.db.proxy("another").await?);
    throughout(A_WHILE, "it is left to boot", async || {
        for (login, name) in [(&one, "proxy-1"), (&another, "proxy-2")] {
            stage.db.suspect_over(login, id, name).await.map_err(|error| format!("{error:#}"))?;
        }
        match stage.db.all_restarts().await {
            Ok(restarts) if restarts.is_empty() => Ok(()),
            other => Err(format!("{other:#?}")),
        }
    })
    .await?;
    ensure!(engine.restarts() == 0, "it was touched");
    Ok(())
}

/// A daemon that restarts a running workspace after a second of silence, if a second witness agrees. The workspaces here have run, and been
/// silent, for an hour.
async fn stage(ids: &[&str]) -> Result<(Stage, ScriptedEngine)> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats();
    let stage = [
        ("POLL_INTERVAL", "300ms"),
        ("WEDGED_ACTION", "restart"),
        ("WEDGED_AFTER", "1s"),
        ("BUSY_GRACE", "500ms"),
        ("SETTLE", "1s"),
        ("STOP_GRACE", "0s"),
        ("RESTART_CONCURRENCY", "1"),
        ("STORM_MIN", "10"),
    ]
    .into_iter()
    .fold(stage, |stage, (knob, value)| stage.knob(knob, value));
    for id in ids {
        engine.add(container(id));
        stage.db.add(Workspace::new(id).silent()).await?;
    }
    Ok((stage, engine))
}
