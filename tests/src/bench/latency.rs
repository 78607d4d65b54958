//! How long somebody stays dead: from the death, or from the suspicion, until defib has acted.
//!
//! These are wall times, measured one death at a time, so they belong on an idle machine. Each has its floor beside it in the same run:
//! the engine's own restart policy, or the least that any program would need that hears of it the same way.

use std::future::poll_fn;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use bollard::models::RestartPolicyNameEnum;
use bollard::query_parameters::InspectContainerOptions;
use defib_testkit::scripted_engine::{Call, EventFeed, ScriptedContainer};
use defib_testkit::{EngineHandle, PrivateDockerd, PrivatePodman, ScriptedEngine, WorkspaceContainer, eventually};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::{AsyncMessage, NoTls};

use super::report::{Report, Row};
use crate::{Database, SOON, Stage, Workspace, container};

/// `DEFIB_PROBE_SPACING` where a fresh heartbeat asks for a second look.
const SPACING: Duration = Duration::from_secs(1);

/// Measures all of them, over so many deaths each.
pub(super) async fn latencies(report: &mut Report, deaths: usize) -> Result<()> {
    let dockerd = PrivateDockerd::start().await?;
    on_a_real_engine(
        report,
        dockerd.engine(),
        deaths,
        ("kill to running, real dockerd; floor: --restart=always", 0.75),
    )
    .await
    .context("kill to running, on a real dockerd")?;
    drop(dockerd);
    let podman = PrivatePodman::start().await?;
    on_a_real_engine(report, podman.engine(), deaths, ("the same on podman; floor: its --restart=always", 1.3))
        .await
        .context("kill to running, on a real podman")?;
    drop(podman);
    from_a_suspicion(report, deaths).await.context("suspicion to restart call")?;
    with_a_fresh_heartbeat(report, deaths.min(12)).await.context("stop to restart call, with a fresh heartbeat")
}

/// From the SIGKILL to the new life, as the engine dates it. The heartbeat is stale already, so the stopped container is enough.
async fn on_a_real_engine(
    report: &mut Report,
    engine: &EngineHandle,
    deaths: usize,
    (row, target): (&str, f64),
) -> Result<()> {
    let stage = calm(Stage::new(engine.url()).await?);
    let ids: Vec<String> = (0..deaths).map(|n| format!("a{n}")).collect();
    for id in &ids {
        engine.run_workspace(WorkspaceContainer::new(id).label("defib.workspace", id)).await?;
        stage.db.add(Workspace::new(id).silent()).await?;
    }
    let _others = Others::beat(&stage.db, 2 * deaths).await?;
    let daemon = stage.run().await?.quiet();
    for id in &ids {
        stage.db.wait_for_verdict(id, Some("silent")).await?;
    }
    let (mut ours, mut by_policy) = (Vec::new(), Vec::new());
    for id in &ids {
        ours.push(until_it_runs_again(engine, id).await?);
        let floor = format!("{id}-floor");
        let container =
            WorkspaceContainer { restart_policy: RestartPolicyNameEnum::ALWAYS, ..WorkspaceContainer::new(&floor) };
        engine.run_workspace(container).await?;
        by_policy.push(until_it_runs_again(engine, &floor).await?);
        engine.remove(&floor).await?;
    }
    report.add(Row::ratio(row, &ours, &by_policy, target));
    daemon.stop(SOON).await?;
    Ok(())
}

async fn until_it_runs_again(engine: &EngineHandle, id: &str) -> Result<Duration> {
    let before = engine.started_at(id).await?;
    let killed_at = SystemTime::now();
    engine.kill_main_process(id).await?;
    let started_at = eventually(SOON, "it runs again", async || {
        let started_at = engine.started_at(id).await.map_err(|error| format!("{error:#}"))?;
        let runs = engine.is_running(id).await.unwrap_or(false);
        started_at.filter(|at| runs && Some(*at) != before).ok_or_else(|| "not yet".to_owned())
    })
    .await?;
    started_at.duration_since(killed_at).context("it started before it was killed")
}

/// From the insert of the suspicion to the arrival of the restart call. No event tells of the death, and no poll comes by.
async fn from_a_suspicion(report: &mut Report, deaths: usize) -> Result<()> {
    let engine = ScriptedEngine::start_unix().await?;
    engine.set_event_feed(EventFeed::Silent);
    let stage = calm(Stage::new(&engine.url()).await?).knob("POLL_INTERVAL", "1h");
    let ids: Vec<String> = (0..deaths).map(|n| format!("a{n}")).collect();
    for id in &ids {
        engine.add(container(id));
        stage.db.add(Workspace::new(id).silent()).await?;
    }
    let _others = Others::beat(&stage.db, 2 * deaths).await?;
    let daemon = stage.run().await?.quiet();
    for id in &ids {
        stage.db.wait_for_verdict(id, Some("silent")).await?;
    }
    let proxy = stage.db.proxy("bench").await?;
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for id in &ids {
        engine.exit(id, 137)?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let reported_at = Instant::now();
        stage.db.suspect_over(&proxy, id, "bench").await?;
        ours.push(call_of(&engine, id).await? - reported_at);
        floor.push(notified_and_inspected(&stage.db, &engine, id).await?);
    }
    report.add(Row::beyond("suspicion to restart call, beyond NOTIFY and an inspect", &ours, &floor, (0.5, 8.0)));
    report.add(Row::beyond("the same, the slowest hundredth", &ours, &floor, (0.99, 15.0)));
    daemon.stop(SOON).await?;
    Ok(())
}

/// When the engine was asked to start the container.
async fn call_of(engine: &ScriptedEngine, id: &str) -> Result<Instant> {
    eventually(SOON, "the restart call", async || {
        let calls = engine.calls();
        let call = calls.iter().find(|call| call.call == Call::Start && call.container.as_deref() == Some(id));
        call.map(|call| call.at).ok_or_else(|| format!("{} calls", calls.len()))
    })
    .await
}

/// What nobody can do without: a notification through Postgres, and an inspect of the container.
async fn notified_and_inspected(db: &Database, engine: &ScriptedEngine, id: &str) -> Result<Duration> {
    let client = EngineHandle::connect(engine.url()).client().await?;
    let (listener, mut connection) = tokio_postgres::connect(db.url(), NoTls).await.context("connect")?;
    let hearing = tokio::spawn(async move {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(_) = message? {
                return anyhow::Ok(());
            }
        }
        anyhow::bail!("the connection ended")
    });
    listener.batch_execute("listen defib_bench").await?;
    let begun = Instant::now();
    db.execute("notify defib_bench").await?;
    hearing.await??;
    client.inspect_container(id, None::<InspectContainerOptions>).await?;
    Ok(begun.elapsed())
}

/// From the death, of which an event tells, to the restart call, less the spacing of the two looks that a fresh heartbeat asks for.
async fn with_a_fresh_heartbeat(report: &mut Report, deaths: usize) -> Result<()> {
    let engine = ScriptedEngine::start_unix().await?;
    let spacing = format!("{}ms", SPACING.as_millis());
    let stage = calm(Stage::new(&engine.url()).await?).knob("PROBE_SPACING", &spacing).knob("RECENT_MIN", "1m");
    let ids: Vec<String> = (0..deaths).map(|n| format!("a{n}")).collect();
    for id in &ids {
        let long_ago = SystemTime::now() - Duration::from_secs(3_600);
        engine.add(ScriptedContainer::running(id).label("defib.workspace", id).started_at(long_ago));
        stage.db.add(Workspace::new(id)).await?;
    }
    let daemon = stage.run().await?.quiet();
    let mut ours = Vec::new();
    for id in &ids {
        stage.db.beat(id).await?;
        let died_at = Instant::now();
        engine.exit(id, 137)?;
        ours.push(call_of(&engine, id).await? - died_at);
    }
    let floor = vec![SPACING; ours.len()];
    report.add(Row::beyond("fresh heartbeat: stop to restart call, beyond the spacing", &ours, &floor, (0.5, 15.0)));
    daemon.stop(SOON).await?;
    Ok(())
}

/// The rest of the fleet, which beats. Where most of a fleet is silent, defib takes that for a failure of the way that heartbeats take.
struct Others(JoinHandle<()>);

impl Others {
    async fn beat(db: &Database, count: usize) -> Result<Self> {
        let insert = format!(
            "insert into defib.workspaces (id, kind, last_heartbeat_at)
             select 'other-' || n, 'external', now() from generate_series(1, {count}) n"
        );
        db.execute(&insert).await?;
        let client = db.another_connection().await?;
        Ok(Self(tokio::spawn(async move {
            let beating = "update defib.workspaces set last_heartbeat_at = clock_timestamp() where id like 'other-%'";
            while client.batch_execute(beating).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })))
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One death after the other is no storm here, and what runs silently is known to do so before it dies.
fn calm(stage: Stage) -> Stage {
    stage.quick_heartbeats().knob("STORM_MIN", "100000")
}
