//! The Docker engine of the demo: the one that `DOCKER_HOST` or the default socket reaches, else a private one.
//!
//! A private engine goes with everything on it. On somebody else's, containers and the image carry a label with our process
//! id: what has that label is ours to remove, also what a demo that was killed left behind.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bollard::Docker;
use bollard::query_parameters::{
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder,
};
use defib_testkit::process::{self, Signal};
use defib_testkit::{EngineHandle, PrivateDockerd, WorkspaceContainer, eventually};

use crate::voice::Voice;

/// Set on containers: the process id of the demo that made them. Not `defib.…`: those are settings, which the daemon reads.
const LABEL: &str = "defib-demo";
const REPOSITORY: &str = "defib-demo";
const DEFAULT_SOCKET: &str = "unix:///var/run/docker.sock";

/// An engine that does not answer within this is not used.
const PING_DEADLINE: Duration = Duration::from_secs(5);

/// The grace between TERM and KILL. The agents heed TERM, so it is hardly used.
const STOP_GRACE_SECONDS: i32 = 2;

/// Where the containers run.
#[derive(Debug)]
pub(crate) enum Engine {
    Ours(PrivateDockerd),
    Theirs(EngineHandle),
}

impl Engine {
    /// Finds an engine that answers, or starts one. `ENGINE=private` asks for the latter.
    pub(crate) async fn find(voice: &Voice) -> Result<Self> {
        let wants_private = std::env::var("ENGINE").is_ok_and(|word| word == "private");
        if !wants_private {
            let given = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
            let by_name = given.is_some();
            let url = given.unwrap_or_else(|| DEFAULT_SOCKET.to_owned());
            match reach(&url).await {
                Ok(engine) => return Ok(Self::Theirs(engine)),
                Err(error) if by_name => {
                    voice.line(voice.elapsed(), "engine", &format!("DOCKER_HOST={url} is not used: {error:#}"));
                }
                Err(_) => {} // no engine of the machine: the usual case
            }
        }
        let private = PrivateDockerd::start().await.context("start a private Docker engine")?;
        Ok(Self::Ours(private))
    }

    pub(crate) fn handle(&self) -> &EngineHandle {
        match self {
            Self::Ours(private) => private.engine(),
            Self::Theirs(handle) => handle,
        }
    }

    /// The engine that we may freeze; `None` when it is somebody else's.
    pub(crate) fn private(&self) -> Option<&PrivateDockerd> {
        match self {
            Self::Ours(private) => Some(private),
            Self::Theirs(_) => None,
        }
    }

    pub(crate) async fn describe(&self) -> Result<String> {
        let version = self.handle().client().await?.version().await.context("ask the engine for its version")?;
        let version = version.version.unwrap_or_else(|| "of unknown version".to_owned());
        Ok(match self {
            Self::Ours(_) => format!("Docker {version}, private"),
            Self::Theirs(handle) => format!("Docker {version}, found at {}", handle.url()),
        })
    }

    /// Makes the image that holds nothing but the static agent.
    pub(crate) async fn import_agent(&self, program: &Path) -> Result<()> {
        self.handle().import_image(&image(), &[("/agent", program, 0o755)], &["/agent"]).await
    }

    /// The name of a workspace's container: a plain one where nobody else gives names.
    pub(crate) fn container_name(&self, workspace: &str) -> String {
        match self {
            Self::Ours(_) => workspace.to_owned(),
            Self::Theirs(_) => format!("defib-demo-{}-{workspace}", std::process::id()),
        }
    }

    /// SIGKILL to the main process of a container. Past the engine where that is ours; the process ids of somebody
    /// else's may be those of another machine, so there the engine is asked.
    pub(crate) async fn kill_agent(&self, container: &str) -> Result<()> {
        match self {
            Self::Ours(private) => private.kill_main_process(container).await,
            Self::Theirs(handle) => {
                let options = KillContainerOptionsBuilder::default().signal("KILL").build();
                let client = handle.client().await?;
                client.kill_container(container, Some(options)).await.with_context(|| format!("kill {container}"))
            }
        }
    }

    /// Removes what this demo made, and what earlier ones left. Nothing to do on a private engine.
    pub(crate) async fn clear(&self) -> Result<()> {
        let Self::Theirs(handle) = self else { return Ok(()) };
        let client = handle.client().await?;
        // Looked at until two looks in a row find nothing: a container may still have been in the making.
        let mut empty_looks = 0;
        while empty_looks < 2 {
            let removed = remove_containers(&client).await?;
            empty_looks = if removed == 0 { empty_looks + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        remove_images(&client).await
    }
}

/// Starts an agent in a container of its own, and returns the container's id.
pub(crate) async fn run_agent(handle: &EngineHandle, name: &str, environment: Vec<String>) -> Result<String> {
    let mut container = WorkspaceContainer::new(name).label(LABEL, std::process::id().to_string());
    container.image = image();
    container.network = "host".into(); // a private engine has no bridge; agents listen on loopback only
    container.environment = environment;
    handle.run_workspace(container).await
}

/// `docker stop`, as an operator does it.
pub(crate) async fn stop(handle: &EngineHandle, container: &str) -> Result<()> {
    let options = StopContainerOptionsBuilder::default().t(STOP_GRACE_SECONDS).build();
    let client = handle.client().await?;
    client.stop_container(container, Some(options)).await.with_context(|| format!("stop {container}"))
}

/// `docker start`.
pub(crate) async fn start(handle: &EngineHandle, container: &str) -> Result<()> {
    let client = handle.client().await?;
    client.start_container(container, None::<StartContainerOptions>).await.with_context(|| format!("start {container}"))
}

/// SIGKILL to a process whose id was asked for before, for when the engine cannot be asked.
pub(crate) fn kill_process(pid: u32) -> Result<()> {
    process::signal(pid, Signal::KILL)
}

async fn reach(url: &str) -> Result<EngineHandle> {
    if let Some(path) = url.strip_prefix("unix://") {
        if !Path::new(path).exists() {
            bail!("there is no such socket");
        }
    } else if !is_loopback(url) {
        bail!("its agents could not reach this machine's loopback interface");
    }
    let engine = EngineHandle::connect(url);
    let ping = async { engine.client().await?.ping().await.context("ping") };
    tokio::time::timeout(PING_DEADLINE, ping).await.context("no answer")??;
    Ok(engine)
}

fn is_loopback(url: &str) -> bool {
    let address = url.strip_prefix("tcp://").and_then(|rest| rest.trim_end_matches('/').parse::<SocketAddr>().ok());
    address.is_some_and(|address| address.ip().is_loopback())
}

fn image() -> String {
    format!("{REPOSITORY}:{}", std::process::id())
}

async fn remove_containers(client: &Docker) -> Result<usize> {
    let filters = HashMap::from([("label", vec![LABEL])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let listed = client.list_containers(Some(options)).await.context("list the demo's containers")?;
    let mut removed = 0;
    for container in listed {
        let owner = container.labels.unwrap_or_default().remove(LABEL).unwrap_or_default();
        let Some(id) = container.id.filter(|_| is_ours(&owner)) else { continue };
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        client.remove_container(&id, Some(options)).await.with_context(|| format!("remove container {id}"))?;
        removed += 1;
    }
    Ok(removed)
}

async fn remove_images(client: &Docker) -> Result<()> {
    let filters = HashMap::from([("reference", vec![REPOSITORY])]);
    let options = ListImagesOptionsBuilder::default().filters(&filters).build();
    let listed = client.list_images(Some(options)).await.context("list the demo's images")?;
    for tag in listed.into_iter().flat_map(|image| image.repo_tags) {
        let owner = tag.rsplit_once(':').map_or("", |(_, owner)| owner);
        if is_ours(owner) {
            let options = RemoveImageOptionsBuilder::default().force(true).build();
            client.remove_image(&tag, Some(options), None).await.with_context(|| format!("remove image {tag}"))?;
        }
    }
    Ok(())
}

/// Made by this process, or by a demo that does not run any more.
fn is_ours(owner: &str) -> bool {
    let Ok(pid) = owner.parse::<u32>() else { return false };
    let runs = std::fs::read_link(format!("/proc/{pid}/exe"))
        .is_ok_and(|exe| exe.file_name().is_some_and(|name| name.to_string_lossy().starts_with("defib-demo")));
    pid == std::process::id() || !runs
}

/// Waits until the engine answers again.
pub(crate) async fn answers(handle: &EngineHandle) -> Result<()> {
    eventually(Duration::from_secs(30), "the engine answers again", async || {
        let ping = async { handle.client().await?.ping().await.context("ping") };
        ping.await.map(|_| ()).map_err(|error| format!("{error:#}"))
    })
    .await
}
