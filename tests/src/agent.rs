//! Containers that play agents.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use defib_testkit::scripted_engine::ScriptedContainer;
use defib_testkit::{EngineHandle, WorkspaceContainer, eventually};

use crate::SOON;

/// The container label by which defib finds a workspace.
const LABEL: &str = "defib.workspace";

/// A scripted container of workspace `id`, named like it, found by its label, and running for an hour already.
#[must_use]
pub fn container(id: &str) -> ScriptedContainer {
    let an_hour_ago = SystemTime::now() - Duration::from_secs(3_600);
    ScriptedContainer::running(id).label(LABEL, id).started_at(an_hour_ago)
}

/// A real container that runs until it is killed.
#[derive(Debug)]
pub struct Agent {
    /// The workspace, and the name of the container. Unique, because tests share one dockerd.
    pub id: String,
    /// The container's id.
    pub container: String,
    engine: EngineHandle,
}

impl Agent {
    /// Starts one whose id begins with `name`.
    pub async fn start(engine: &EngineHandle, name: &str) -> Result<Self> {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let id = format!("{name}-{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let container = engine.run_workspace(WorkspaceContainer::new(&id).label(LABEL, &id)).await?;
        Ok(Self { id, container, engine: engine.clone() })
    }

    /// Sends SIGKILL to its main process without the engine's help. Returns when the engine has noticed.
    pub async fn die(&self) -> Result<()> {
        self.engine.kill_main_process(&self.container).await?;
        // Either shows that it has died, because defib may have started it again before we look.
        eventually(SOON, "the engine notices the death", async || {
            let stopped = self.stopped_at().await.map_err(|error| format!("{error:#}"))?;
            stopped.map(|_| ()).ok_or_else(|| "it runs its first life".to_owned())
        })
        .await
    }

    /// Takes it away, and puts another container of the same name and label in its place.
    pub async fn recreate(&mut self) -> Result<()> {
        self.remove().await?;
        self.make_again().await
    }

    /// Takes it away.
    pub async fn remove(&self) -> Result<()> {
        self.engine.remove(&self.container).await
    }

    /// Makes a container of the same name and label again, after the old one was removed.
    pub async fn make_again(&mut self) -> Result<()> {
        let container = WorkspaceContainer::new(&self.id).label(LABEL, &self.id);
        self.container = self.engine.run_workspace(container).await?;
        Ok(())
    }

    /// When its present life began, by the engine's clock.
    pub async fn started_at(&self) -> Result<SystemTime> {
        self.engine.started_at(&self.container).await?.context("it never was started")
    }

    /// When its last life ended, by the engine's clock. `None` while it lives its first one.
    pub async fn stopped_at(&self) -> Result<Option<SystemTime>> {
        let state = self.engine.inspect(&self.container).await?.state.context("it has no state")?;
        let text = state.finished_at.unwrap_or_default();
        if text.starts_with("0001-") || text.is_empty() {
            return Ok(None);
        }
        humantime::parse_rfc3339(&text).map(Some).with_context(|| format!("read the time {text:?}"))
    }

    /// How many times it was started, by whomever.
    pub async fn starts(&self) -> Result<usize> {
        self.engine.starts(&self.container).await
    }

    /// Whether its main process runs.
    pub async fn is_running(&self) -> Result<bool> {
        self.engine.is_running(&self.container).await
    }
}
