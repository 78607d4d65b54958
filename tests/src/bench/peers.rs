//! What others do about the same deaths, in the same run.
//!
//! Docker's and podman's own restart policies are the floors of `latency.rs`. What they leave alone is a container that runs and whose health
//! check fails. For that people run docker-autoheal, whose loop is made anew here from what it documents.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use bollard::models::{HealthConfig, HealthStatusEnum};
use bollard::query_parameters::{ListContainersOptionsBuilder, RestartContainerOptionsBuilder};
use defib_testkit::{EngineHandle, PrivateDockerd, WorkspaceContainer, eventually};

use super::report::{Report, Row};
use crate::{SOON, Stage, Workspace};

/// `AUTOHEAL_INTERVAL`, by default: so long it sleeps after each list and the restarts that follow from it.
const AUTOHEAL_INTERVAL: Duration = Duration::from_secs(5);

/// `AUTOHEAL_DEFAULT_STOP_TIMEOUT`, by default.
const AUTOHEAL_STOP_SECONDS: i32 = 10;

const A_SECOND_IN_NANOS: i64 = 1_000_000_000;

/// From the moment at which Docker calls a container unhealthy, while its heartbeats go on, until it runs anew: by defib, which wants a
/// second look, and by the loop of docker-autoheal, which restarts whatever it finds unhealthy.
pub(super) async fn unhealthy(report: &mut Report, failures: usize) -> Result<()> {
    let dockerd = PrivateDockerd::start().await?;
    let engine = dockerd.engine();
    let states = std::env::temp_dir().join(format!("defib-bench-states-{}", std::process::id()));
    let stage = Stage::new(engine.url()).await?.knob("STORM_MIN", "100000");
    let stage = stage.knob("POLL_INTERVAL", "5s").knob("UNHEALTHY_ACTION", "restart");
    let ids: Vec<String> = (0..failures).map(|n| format!("a{n}")).collect();
    for id in &ids {
        engine.run_workspace(checked(id, &states)?).await?;
        stage.db.add(Workspace::new(id)).await?;
    }
    let daemon = stage.run().await?.quiet();
    let by_defib = until_each_runs_anew(&stage, engine, &ids, &states).await.context("with defib")?;
    daemon.stop(SOON).await?;
    let healing = tokio::spawn(autoheal(engine.clone()));
    let by_autoheal =
        until_each_runs_anew(&stage, engine, &ids, &states).await.context("with docker-autoheal's loop")?;
    healing.abort();
    std::fs::remove_dir_all(&states).context("remove the states of the containers")?;
    let what = "unhealthy to running again, real dockerd; floor: docker-autoheal's loop";
    report.add(Row::beside(what, &by_defib, &by_autoheal));
    Ok(())
}

/// A container that is healthy from its start until there is a file `sick` in its directory.
fn checked(id: &str, states: &Path) -> Result<WorkspaceContainer> {
    let state = states.join(id);
    std::fs::create_dir_all(&state).with_context(|| format!("make {}", state.display()))?;
    let bind = format!("{}:/state", state.display());
    let healthcheck = HealthConfig {
        test: Some(vec!["CMD-SHELL".to_owned(), "test ! -e /state/sick".to_owned()]),
        interval: Some(A_SECOND_IN_NANOS),
        timeout: Some(A_SECOND_IN_NANOS),
        retries: Some(1),
        ..HealthConfig::default()
    };
    let run = "rm -f /state/sick; trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done";
    let container = WorkspaceContainer::new(id).label("defib.workspace", id).command(["/bin/sh", "-c", run]);
    Ok(WorkspaceContainer { binds: vec![bind], healthcheck: Some(healthcheck), ..container })
}

async fn until_each_runs_anew(
    stage: &Stage,
    engine: &EngineHandle,
    ids: &[String],
    states: &Path,
) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(ids.len());
    for id in ids {
        stage.db.beat(id).await?; // its agent goes on beating
        let before = engine.started_at(id).await?;
        std::fs::write(states.join(id).join("sick"), "").context("make a container sick")?;
        eventually(SOON, "its health check fails", async || {
            let inspected = engine.inspect(id).await.map_err(|error| format!("{error:#}"))?;
            let health = inspected.state.and_then(|now| now.health).and_then(|health| health.status);
            (health == Some(HealthStatusEnum::UNHEALTHY)).then_some(()).ok_or_else(|| format!("{health:?}"))
        })
        .await?;
        let noticed_at = SystemTime::now();
        let started_at = eventually(SOON, "it runs anew", async || {
            let started_at = engine.started_at(id).await.map_err(|error| format!("{error:#}"))?;
            started_at.filter(|at| Some(*at) != before).ok_or_else(|| "not yet".to_owned())
        })
        .await?;
        times.push(started_at.duration_since(noticed_at).unwrap_or_default());
    }
    Ok(times)
}

/// The loop of docker-autoheal as its documentation has it: the unhealthy containers are listed, restarted one after the other, and then it
/// sleeps. It has no second look and no memory.
async fn autoheal(engine: EngineHandle) -> Result<()> {
    let client = engine.client().await?;
    let filters = HashMap::from([("health", vec!["unhealthy"])]);
    loop {
        let listed =
            client.list_containers(Some(ListContainersOptionsBuilder::default().filters(&filters).build())).await?;
        for id in listed.into_iter().filter_map(|container| container.id) {
            let options = RestartContainerOptionsBuilder::default().t(AUTOHEAL_STOP_SECONDS).build();
            client.restart_container(&id, Some(options)).await?;
        }
        tokio::time::sleep(AUTOHEAL_INTERVAL).await;
    }
}
