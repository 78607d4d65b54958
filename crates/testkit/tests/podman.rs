//! podman's service: containers that really run, and a service that is killed beside them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use defib_testkit::process::{self, Signal};
use defib_testkit::{PrivatePodman, WorkspaceContainer, eventually};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_workspace_runs_dies_of_kill_9_and_is_started_again() -> Result<()> {
    let engine = PrivatePodman::shared().await?;
    let id = engine.run_workspace(WorkspaceContainer::new("dies").label("defib.workspace", "w1")).await?;
    assert!(engine.is_running(&id).await?);
    let first_start = engine.started_at(&id).await?;

    engine.kill_main_process(&id).await?;
    eventually(SOON, "podman sees the death and cleans up", async || match engine.is_running(&id).await {
        Ok(false) => Ok(()),
        other => Err(format!("{other:?}")), // in the state `stopped`, which the client library does not know
    })
    .await?;
    assert_eq!(engine.inspect(&id).await?.state.unwrap().exit_code, Some(137));

    engine.client().await?.start_container(&id, None::<bollard::query_parameters::StartContainerOptions>).await?;
    assert!(engine.started_at(&id).await? > first_start, "a new incarnation");
    assert_eq!(engine.starts(&id)?, 2);
    engine.remove(&id).await?;
    assert!(engine.inspect(&id).await.is_err());
    Ok(())
}

#[tokio::test]
async fn containers_do_not_notice_that_the_service_is_killed() -> Result<()> {
    let engine = PrivatePodman::start().await?;
    let id = engine.run_workspace(WorkspaceContainer::new("lives")).await?;
    let main = engine.main_pid(&id).await?.unwrap();
    engine.pause()?;
    assert!(tokio::time::timeout(Duration::from_millis(300), engine.is_running(&id)).await.is_err());
    engine.resume()?;
    assert!(engine.is_running(&id).await?);

    engine.kill().await?;
    assert!(engine.is_running(&id).await.is_err(), "nobody answers");
    engine.start_again().await?;
    assert_eq!(engine.main_pid(&id).await?, Some(main), "it lives the same life");
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_of_a_dropped_engine() -> Result<()> {
    let (engine, other) = (PrivatePodman::start().await?, PrivatePodman::start().await?);
    let id = engine.run_workspace(WorkspaceContainer::new("running")).await?;
    let frozen = engine.run_workspace(WorkspaceContainer::new("frozen")).await?;
    let neighbour = other.run_workspace(WorkspaceContainer::new("running")).await?;
    engine.client().await?.pause_container(&frozen).await?;
    let main = engine.main_pid(&id).await?.unwrap();
    let keeper = process::parent_of(main).unwrap(); // conmon
    process::signal(keeper, Signal::STOP)?;
    let processes = [main, engine.main_pid(&frozen).await?.unwrap(), keeper];
    let directory = PathBuf::from(engine.url().trim_start_matches("unix://")).parent().unwrap().to_owned();
    drop(engine);
    for pid in processes {
        assert!(!process::is_alive(pid), "process {pid} lives");
    }
    assert_eq!(process::marked(&directory), Vec::<u32>::new());
    assert!(!directory.exists());
    assert!(!std::fs::read_to_string("/proc/mounts")?.contains(directory.to_str().unwrap()));
    assert!(other.is_running(&neighbour).await?, "the other engine was not touched");
    Ok(())
}
