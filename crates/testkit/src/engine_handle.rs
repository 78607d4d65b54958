//! Containers for tests, on any Docker engine: the private one, or the one behind a `DOCKER_HOST`.
//!
//! A handle keeps no connection. Tests kill and restart engines, and a shared engine is used from one runtime after the other, so a
//! connection that was kept would break in a test that has nothing to do with it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerState, HealthConfig, HostConfig, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder, InspectContainerOptions,
    RemoveContainerOptionsBuilder, StartContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker, body_full};
use futures_util::TryStreamExt;

use crate::process::{self, Signal};

/// The image that [`EngineHandle::busybox_image`] makes.
pub const BUSYBOX_IMAGE: &str = "defib-test:latest";

/// How many seconds a call may take. When 40 containers start on two cores, one of them may take this long.
const CALL_TIMEOUT_SECONDS: u64 = 120;

/// Runs for ever, and ends at once when told to. A process 1 without a handler ignores TERM, which costs the 10 s of
/// grace at each stop and restart.
const RUN_UNTIL_TERM: &str = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done";

/// A container that plays a workspace. By default it runs until it is told to stop, without a network.
#[derive(Debug, Clone)]
pub struct WorkspaceContainer {
    /// Unique on its engine.
    pub name: String,
    /// What defib finds it by: `defib.workspace`.
    pub labels: BTreeMap<String, String>,
    /// See [`BUSYBOX_IMAGE`].
    pub image: String,
    /// `None` takes the image's.
    pub command: Option<Vec<String>>,
    /// `NAME=value`
    pub environment: Vec<String>,
    /// `none` or `host`: a private engine has no bridge.
    pub network: String,
    /// `/on/the/host:/in/the/container`
    pub binds: Vec<String>,
    /// The engine's own restarts. Default: none.
    pub restart_policy: RestartPolicyNameEnum,
    /// Default: none, and the engine then reports no health at all.
    pub healthcheck: Option<HealthConfig>,
}

impl WorkspaceContainer {
    /// With the defaults described at the fields.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            labels: BTreeMap::new(),
            image: BUSYBOX_IMAGE.into(),
            command: None,
            environment: Vec::new(),
            network: "none".into(),
            binds: Vec::new(),
            restart_policy: RestartPolicyNameEnum::NO,
            healthcheck: None,
        }
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Runs this instead of the image's command.
    #[must_use]
    pub fn command<S: Into<String>>(mut self, command: impl IntoIterator<Item = S>) -> Self {
        self.command = Some(command.into_iter().map(Into::into).collect());
        self
    }

    fn into_body(self, cgroup: Option<String>) -> ContainerCreateBody {
        ContainerCreateBody {
            image: Some(self.image),
            labels: Some(self.labels.into_iter().collect()),
            cmd: self.command,
            env: Some(self.environment),
            healthcheck: self.healthcheck,
            host_config: Some(HostConfig {
                network_mode: Some(self.network),
                binds: Some(self.binds),
                cgroup_parent: cgroup,
                restart_policy: Some(RestartPolicy { name: Some(self.restart_policy), maximum_retry_count: None }),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }
}

/// An engine by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineHandle {
    url: String,
    /// The cgroup that the containers made here belong in, where the engine has no setting for that.
    cgroup: Option<String>,
}

impl EngineHandle {
    /// An engine by its `DOCKER_HOST` address, `unix://…` or `tcp://…`. Does not check that the engine is there.
    #[must_use]
    pub fn connect(url: impl Into<String>) -> Self {
        Self { url: url.into(), cgroup: None }
    }

    /// The same, with its containers in this cgroup, relative to each hierarchy.
    #[must_use]
    pub fn in_cgroup(self, cgroup: &str) -> Self {
        Self { cgroup: Some(format!("/{cgroup}")), ..self }
    }

    /// The address, as defib takes it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A fresh client, with the version of the interface agreed upon.
    pub async fn client(&self) -> Result<Docker> {
        let client = if self.url.starts_with("unix://") {
            Docker::connect_with_unix(&self.url, CALL_TIMEOUT_SECONDS, API_DEFAULT_VERSION)
        } else {
            Docker::connect_with_http(&self.url, CALL_TIMEOUT_SECONDS, API_DEFAULT_VERSION)
        };
        let client = client.with_context(|| format!("connect to {}", self.url))?;
        client.negotiate_version().await.with_context(|| format!("agree with {} on a version", self.url))
    }

    /// The identity that the engine reports.
    pub async fn engine_id(&self) -> Result<String> {
        self.client()
            .await?
            .info()
            .await
            .context("ask for the engine's identity")?
            .id
            .context("the engine has no identity")
    }

    /// Makes an image of files of this machine: where it goes in the image, what goes there, with which mode. The files
    /// must be statically linked, since there is nothing else in the image. `command` is what its containers run.
    pub async fn import_image(&self, name: &str, files: &[(&str, &Path, u32)], command: &[&str]) -> Result<()> {
        let mut archive = tar::Builder::new(Vec::new());
        for (target, source, mode) in files {
            let content = std::fs::read(source).with_context(|| format!("read {}", source.display()))?;
            append_file(&mut archive, target, &content, *mode)?;
        }
        self.import_archive(name, archive.into_inner()?, command).await
    }

    /// Makes [`BUSYBOX_IMAGE`] of this machine's static busybox, with all of its commands, running until it is told to
    /// stop. Cheap when it is there already.
    pub async fn busybox_image(&self) -> Result<&'static str> {
        let client = self.client().await?;
        if client.inspect_image(BUSYBOX_IMAGE).await.is_ok() {
            return Ok(BUSYBOX_IMAGE);
        }
        let busybox = Path::new("/bin/busybox");
        let content = std::fs::read(busybox).context("read /bin/busybox: run deploy/dev/install.sh")?;
        let applets =
            tokio::process::Command::new(busybox).arg("--list").output().await.context("run busybox --list")?;
        let mut archive = tar::Builder::new(Vec::new());
        append_file(&mut archive, "/bin/busybox", &content, 0o755)?;
        for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|applet| *applet != "busybox") {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
        }
        let command = ["/bin/sh", "-c", RUN_UNTIL_TERM];
        self.import_archive(BUSYBOX_IMAGE, archive.into_inner()?, &command).await?;
        Ok(BUSYBOX_IMAGE)
    }

    /// Makes and starts a container, and returns its id. [`BUSYBOX_IMAGE`] is made when it is asked for and missing.
    pub async fn run_workspace(&self, container: WorkspaceContainer) -> Result<String> {
        let id = self.create_workspace(container).await?;
        let client = self.client().await?;
        client.start_container(&id, None::<StartContainerOptions>).await.with_context(|| format!("start {id}"))?;
        Ok(id)
    }

    /// Makes a container without starting it, and returns its id.
    pub async fn create_workspace(&self, container: WorkspaceContainer) -> Result<String> {
        if container.image == BUSYBOX_IMAGE {
            self.busybox_image().await?;
        }
        let name = container.name.clone();
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let created =
            self.client().await?.create_container(Some(options), container.into_body(self.cgroup.clone())).await;
        Ok(created.with_context(|| format!("create container {name}"))?.id)
    }

    /// Everything the engine says of a container.
    pub async fn inspect(&self, id: &str) -> Result<ContainerInspectResponse> {
        let client = self.client().await?;
        client.inspect_container(id, None::<InspectContainerOptions>).await.with_context(|| format!("inspect {id}"))
    }

    /// Whether the container's main process runs.
    pub async fn is_running(&self, id: &str) -> Result<bool> {
        Ok(self.state(id).await?.running.unwrap_or(false))
    }

    /// The main process, as a process id of this machine. `None` when it does not run.
    pub async fn main_pid(&self, id: &str) -> Result<Option<u32>> {
        Ok(self.state(id).await?.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0))
    }

    /// When the container was last started; changes with each incarnation. `None` when it never was.
    pub async fn started_at(&self, id: &str) -> Result<Option<SystemTime>> {
        let text = self.state(id).await?.started_at.unwrap_or_default();
        if text.is_empty() || text.starts_with("0001-") {
            return Ok(None);
        }
        humantime::parse_rfc3339(&text).map(Some).with_context(|| format!("read the start time {text:?}"))
    }

    /// How many times the container was started since the engine was, by whomever. From the engine's memory of events,
    /// which holds the last 256 of all containers and is lost when it restarts.
    pub async fn starts(&self, id: &str) -> Result<usize> {
        let filters = HashMap::from([("container", vec![id]), ("event", vec!["start"])]);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("read the clock")?;
        let until = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        let options = EventsOptionsBuilder::default().since("1").until(&until).filters(&filters).build();
        let events: Vec<_> =
            self.client().await?.events(Some(options)).try_collect().await.context("read past events")?;
        Ok(events.len())
    }

    /// SIGKILL to the container's main process, past the engine: the crash that defib is there for.
    pub async fn kill_main_process(&self, id: &str) -> Result<()> {
        let Some(pid) = self.main_pid(id).await? else { bail!("container {id} does not run") };
        process::signal(pid, Signal::KILL)
    }

    /// Removes the container, running or not.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let client = self.client().await?;
        client.remove_container(id, Some(options)).await.with_context(|| format!("remove {id}"))
    }

    async fn state(&self, id: &str) -> Result<ContainerState> {
        self.inspect(id).await?.state.with_context(|| format!("container {id} has no state"))
    }

    /// What `docker import` does.
    async fn import_archive(&self, name: &str, archive: Vec<u8>, command: &[&str]) -> Result<()> {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        let changes = vec![format!("CMD {}", serde_json::to_string(command)?)];
        let options = CreateImageOptionsBuilder::default().from_src("-").repo(repository).tag(tag).changes(changes);
        let client = self.client().await?;
        let progress = client.create_image(Some(options.build()), Some(body_full(archive.into())), None);
        progress.try_collect::<Vec<_>>().await.with_context(|| format!("import image {name}"))?;
        Ok(())
    }
}

fn append_file(archive: &mut tar::Builder<Vec<u8>>, target: &str, content: &[u8], mode: u32) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, target.trim_start_matches('/'), content).with_context(|| format!("pack {target}"))
}
