//! What a poll costs a real engine, beside a full list of the same containers.

use std::time::Duration;

use anyhow::{Context, Result};
use defib_testkit::{PrivateDockerd, WorkspaceContainer};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::floor::list;
use super::process::{cpu, cpu_since};
use super::report::{Report, Row};
use crate::{SOON, Stage, Workspace};

/// So many containers are started at a time.
const STARTS_AT_ONCE: usize = 4;

const POLL: Duration = Duration::from_secs(1);

/// Processor time of dockerd in each of so many polls of so many containers, all of which run and beat.
pub(super) async fn polls(report: &mut Report, containers: usize, ticks: usize) -> Result<()> {
    let dockerd = PrivateDockerd::start().await?;
    let engine = dockerd.engine();
    let stage = Stage::new(engine.url()).await?.knob("POLL_INTERVAL", "1s").knob("RECENT_MIN", "10m");
    let ids: Vec<String> = (0..containers).map(|number| format!("a{number}")).collect();
    let starting = ids.iter().map(async |id| {
        let container = WorkspaceContainer::new(id).label("defib.workspace", id);
        engine.run_workspace(container).await
    });
    stream::iter(starting).buffer_unordered(STARTS_AT_ONCE).try_collect::<Vec<_>>().await?;
    for id in &ids {
        stage.db.add(Workspace::new(id)).await?;
    }
    let pid = dockerd.pid().context("dockerd runs")?;
    let socket = engine.url().trim_start_matches("unix://").to_owned();
    let mut floor = Vec::new();
    for _ in 0..ticks {
        let before = cpu(pid)?;
        anyhow::ensure!(list(socket.clone()).await? == containers, "not all of them run");
        floor.push(cpu_since(pid, before)?);
    }
    let daemon = stage.run().await?.quiet();
    daemon.wait_for_passes(3).await?;
    let mut spent = Vec::new();
    for _ in 0..ticks {
        let before = cpu(pid)?;
        tokio::time::sleep(POLL).await;
        spent.push(cpu_since(pid, before)?);
    }
    let what = format!("idle tick, CPU of a real dockerd with {containers} containers; floor: a full list");
    report.add(Row::ratio(&what, &spent, &floor, 0.4));
    daemon.stop(SOON).await?;
    Ok(())
}
