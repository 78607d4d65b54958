//! The private dockerd: containers that really run, and an engine that is killed under them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use defib_testkit::dockerd::Release;
use defib_testkit::{PrivateDockerd, WorkspaceContainer, eventually, process};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_workspace_runs_dies_of_kill_9_and_is_started_again() -> Result<()> {
    let engine = PrivateDockerd::shared().await?;
    let id = engine.run_workspace(WorkspaceContainer::new("dies").label("defib.workspace", "w1")).await?;
    assert!(engine.is_running(&id).await?);
    let first_start = engine.started_at(&id).await?;

    engine.kill_main_process(&id).await?;
    eventually(SOON, "the engine sees the death", async || match engine.is_running(&id).await {
        Ok(false) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    let state = engine.inspect(&id).await?.state.unwrap();
    assert_eq!((state.exit_code, state.oom_killed), (Some(137), Some(false)));
    assert!(engine.kill_main_process(&id).await.is_err(), "there is no main process to kill");

    engine.client().await?.restart_container(&id, None::<bollard::query_parameters::RestartContainerOptions>).await?;
    assert!(engine.started_at(&id).await? > first_start, "a new incarnation");
    assert_eq!(engine.starts(&id).await?, 2);
    engine.remove(&id).await?;
    assert!(engine.inspect(&id).await.is_err());
    Ok(())
}

#[tokio::test]
async fn the_busybox_image_has_its_commands_and_stops_when_told_to() -> Result<()> {
    let engine = PrivateDockerd::shared().await?;
    let asked = WorkspaceContainer::new("asks").command(["sh", "-c", "date && test -x /bin/wget && exit 3"]);
    let id = engine.run_workspace(asked).await?;
    eventually(SOON, "the command ends with its own code", async || {
        let state = engine.inspect(&id).await.map_err(|error| error.to_string())?.state.unwrap_or_default();
        if state.exit_code == Some(3) { Ok(()) } else { Err(format!("{state:?}")) }
    })
    .await?;

    let id = engine.run_workspace(WorkspaceContainer::new("told")).await?;
    engine.client().await?.stop_container(&id, None::<bollard::query_parameters::StopContainerOptions>).await?;
    let state = engine.inspect(&id).await?.state.unwrap();
    assert_eq!(state.exit_code, Some(0), "by its handler for TERM, not by the KILL after 10 s of grace");
    Ok(())
}

#[tokio::test]
async fn a_paused_engine_hangs_and_comes_back() -> Result<()> {
    let engine = PrivateDockerd::start().await?;
    let id = engine.run_workspace(WorkspaceContainer::new("lives")).await?;
    engine.pause()?;
    assert!(tokio::time::timeout(Duration::from_millis(300), engine.is_running(&id)).await.is_err());
    engine.resume()?;
    assert!(engine.is_running(&id).await?);
    Ok(())
}

#[tokio::test]
async fn containers_outlive_a_killed_engine_until_it_is_started_again() -> Result<()> {
    let engine = PrivateDockerd::start().await?;
    let identity = engine.engine_id().await?;
    let id = engine.run_workspace(WorkspaceContainer::new("orphan")).await?;
    let main = engine.main_pid(&id).await?.unwrap();

    engine.kill().await?;
    assert!(engine.is_running(&id).await.is_err(), "nobody answers");
    assert!(process::is_alive(main), "but the workspace lives");

    engine.start_again().await?;
    assert!(!engine.is_running(&id).await?);
    assert!(!process::is_alive(main));
    assert_eq!(engine.engine_id().await?, identity, "the same engine");

    engine.stop().await?;
    engine.start_again().await?;
    assert!(!engine.is_running(&id).await?);
    Ok(())
}

#[tokio::test]
async fn the_two_releases_are_two_and_run_the_same_containers() -> Result<()> {
    let mut versions = Vec::new();
    for release in Release::ALL {
        let engine = PrivateDockerd::start_release(release).await?;
        let id = engine.run_workspace(WorkspaceContainer::new("w1")).await?;
        engine.kill().await?;
        engine.start_again().await?;
        assert!(!engine.is_running(&id).await?, "{release:?}: ended by the engine's restart");
        let version = engine.client().await?.version().await?;
        versions.push((version.version.unwrap(), version.api_version.unwrap()));
    }
    let [(installed, old), (newer, new)] = versions.try_into().unwrap();
    let minor = |api: &str| api.strip_prefix("1.").unwrap().parse::<u32>().unwrap();
    assert_ne!(installed, newer);
    assert!(minor(&old) < 44 && minor(&new) >= 44, "{old}, {new}");
    Ok(())
}

#[tokio::test]
async fn two_private_engines_are_two() -> Result<()> {
    let (first, second) = (tokio::spawn(PrivateDockerd::start()), PrivateDockerd::start().await?);
    let first = first.await??;
    assert_ne!(first.engine_id().await?, second.engine_id().await?);
    first.run_workspace(WorkspaceContainer::new("same-name")).await?;
    second.run_workspace(WorkspaceContainer::new("same-name")).await?;
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_of_a_dropped_engine() -> Result<()> {
    let engine = PrivateDockerd::start().await?;
    let id = engine.run_workspace(WorkspaceContainer::new("running")).await?;
    let frozen = engine.run_workspace(WorkspaceContainer::new("frozen")).await?;
    engine.client().await?.pause_container(&frozen).await?;
    let mains = [engine.main_pid(&id).await?.unwrap(), engine.main_pid(&frozen).await?.unwrap()];
    let directory = PathBuf::from(engine.url().trim_start_matches("unix://")).parent().unwrap().to_owned();
    assert!(process::marked(&directory).len() > 4, "dockerd, containerd, shims, holder");
    engine.pause()?;
    drop(engine);
    assert_eq!(process::marked(&directory), Vec::<u32>::new());
    for main in mains {
        assert!(!process::is_alive(main), "container process {main} lives");
    }
    assert!(!directory.exists());
    assert!(!std::fs::read_to_string("/proc/mounts")?.contains(directory.to_str().unwrap()));
    Ok(())
}
