//! podman's service: an engine of one's own that speaks Docker's interface, and is another program.
//!
//! Each container has a process of its own that looks after it (conmon), so the containers neither end with the service nor notice that it
//! restarts. When a container has ended, conmon runs `podman container cleanup`; until that is done, podman says that the container is
//! `stopped`, a word that Docker does not have. Events are read from a file four times a second, so they come late.
//!
//! It lives in a mount namespace of its own (module `namespace`), with roots below its private directory:
//!
//! ```text
//! guardian ── holder (unshare --mount; waits)       the namespace: /run, /dev/shm (podman's locks), all layers and netns mounts
//!    ├── podman system service (nsenter)
//!    ├── conmon, one for each container
//!    └── cgroup defib-…: containers
//! ```
//!
//! It needs root and the packages of `deploy/dev/packages.txt`, and no running service manager.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit};
use tokio::sync::OnceCell;

use crate::engine_handle::EngineHandle;
use crate::engine_process::EngineProcess;
use crate::guardian::Guardian;
use crate::namespace::Namespace;

/// The settings file, in the private directory.
const SETTINGS: &str = "containers.conf";

/// A private podman service. Dropping it kills it with its containers and removes all that it stored.
///
/// It is paused, killed and stopped as the [`EngineProcess`] that it dereferences to. Containers do not notice that.
#[derive(Debug)]
pub struct PrivatePodman(EngineProcess);

impl std::ops::Deref for PrivatePodman {
    type Target = EngineProcess;

    fn deref(&self) -> &EngineProcess {
        &self.0
    }
}

impl PrivatePodman {
    /// A fresh engine without images and containers, ready to be asked.
    pub async fn start() -> Result<Self> {
        let guardian = Guardian::start()?;
        // podman asks the package manager which packages its helpers are from, at each `/version` and `/info`. With thousands of packages,
        // on a machine that is busy with other tests, that takes seconds. What cannot be executed takes no time.
        let instead = (Path::new("/dev/null"), Path::new("/usr/bin/dpkg-query"));
        let namespace = Namespace::hold(&guardian, Some(instead)).await?;
        std::fs::write(guardian.directory().join(SETTINGS), configuration()).context("write podman's settings")?;
        let socket = guardian.directory().join("p.sock");
        // podman takes the group of a container's processes from whoever makes the container, not from its own settings.
        let handle = EngineHandle::connect(format!("unix://{}", socket.display())).in_cgroup(&guardian.cgroup());
        let engine = Self(EngineProcess::new("podman", handle, namespace, guardian));
        engine.start_again().await?;
        Ok(engine)
    }

    /// One engine for the whole test process, started by whoever asks first. Give containers names of your own, and
    /// neither stop nor pause it: others use it.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<PrivatePodman> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    /// Starts the service on the same socket and roots, and waits until it answers. Nothing happens when it is running.
    pub async fn start_again(&self) -> Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        let directory = self.guardian()?.directory();
        let mut command = self.command()?;
        command.arg("--root").arg(directory.join("root")).arg("--runroot").arg(directory.join("run"));
        command.arg("--tmpdir").arg(directory.join("tmp")).arg("--network-config-dir").arg(directory.join("net"));
        // None of these needs a service manager or a journal. crun does not work where both versions of cgroups are mounted.
        command.args(["--cgroup-manager=cgroupfs", "--events-backend=file", "--runtime=runc"]);
        command.args(["system", "service", "--time=0", self.url()]);
        command.env("CONTAINERS_CONF", directory.join(SETTINGS)).env("TMPDIR", directory);
        command.env_remove("CONTAINER_HOST").env_remove("LISTEN_FDS");
        self.0.start(command).await
    }

    /// From now on, nobody cleans up after a container that has ended, so podman says that it is `stopped` for as long as it exists. The
    /// clean-up is a process of its own, which reads the settings file anew; the service has read it at its start.
    pub fn break_clean_up(&self) -> Result<()> {
        let guardian = self.guardian()?;
        std::fs::write(guardian.directory().join(SETTINGS), "not a settings file").context("spoil podman's settings")
    }

    /// How many times the container was started, by whomever. From the file of events itself: asked for events up to a past moment,
    /// podman 4.3 often ends its answer before it has sent them all.
    pub fn starts(&self, id: &str) -> Result<usize> {
        let guardian = self.guardian()?;
        let text = std::fs::read_to_string(guardian.directory().join("tmp/events/events.log"))
            .context("read podman's file of events")?;
        let events = text.lines().map(serde_json::from_str::<serde_json::Value>);
        let events: Vec<_> = events.collect::<Result<_, _>>().context("read podman's events")?;
        Ok(events.iter().filter(|event| event["ID"] == id && event["Status"] == "start").count())
    }
}

/// podman's settings file. By default, podman raises two limits of a container's processes as far as it thinks that root can, which fails
/// where root is not allowed to raise its own limits. Here a container gets the limits that we have, with no more processes than
/// podman leaves itself.
fn configuration() -> String {
    const PROCESSES_MAX: u64 = 32_768;
    let limit = |resource, most: u64| getrlimit(resource).maximum.unwrap_or(most).min(most);
    let (files, processes) = (limit(Resource::Nofile, 1 << 20), limit(Resource::Nproc, PROCESSES_MAX));
    format!("[containers]\ndefault_ulimits = [\"nofile={files}:{files}\", \"nproc={processes}:{processes}\"]\n")
}
