//! podman's service: an engine of one's own that speaks Docker's interface, and is another program.
//!
//! Each container has a process of its own that looks after it (conmon), so the containers neither end with the service nor notice that it
//! restarts. When a container has ended, conmon runs `podman container cleanup`; until that is done, podman says that the container is
//! `stopped`, a word that Docker does not have. Events are read from a file four times a second, so they come late.
//!
//! It lives in a mount namespace of its own (module `namespace`), with roots below its private directory:
//!
//! ```text
//! guardian ── holder (unshare --mount; sleeps)      the namespace: /run, /dev/shm (podman's locks), all layers and netns mounts
//!    ├── podman system service (nsenter)
//!    ├── conmon, one for each container
//!    └── cgroup defib-…: containers
//! ```
//!
//! It needs root and the packages of `deploy/dev/packages.txt`, and no running service manager.

use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, getrlimit};
use tokio::sync::OnceCell;

use crate::engine_handle::EngineHandle;
use crate::guardian::Guardian;
use crate::namespace::Namespace;
use crate::process::{self, Signal};
use crate::wait::eventually;

/// A start takes a tenth of a second.
const DEADLINE: Duration = Duration::from_secs(60);

/// The settings file, in the private directory.
const SETTINGS: &str = "containers.conf";

/// A private podman service. Dropping it kills it with its containers and removes all that it stored.
///
/// Containers are made and asked about through its [`EngineHandle`], which it dereferences to.
#[derive(Debug)]
pub struct PrivatePodman {
    engine: EngineHandle,
    namespace: Namespace,
    service: Mutex<Option<Child>>,
    guardian: Option<Guardian>, // taken in `drop`, before the wait for the processes that it kills
}

impl std::ops::Deref for PrivatePodman {
    type Target = EngineHandle;

    fn deref(&self) -> &EngineHandle {
        &self.engine
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
        let engine = Self {
            // podman takes the group of a container's processes from whoever makes the container, not from its own settings.
            engine: EngineHandle::connect(format!("unix://{}", socket.display())).in_cgroup(&guardian.cgroup()),
            namespace,
            service: Mutex::new(None),
            guardian: Some(guardian),
        };
        engine.start_again().await?;
        Ok(engine)
    }

    /// One engine for the whole test process, started by whoever asks first. Give containers names of your own, and
    /// neither stop nor pause it: others use it.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<PrivatePodman> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    /// Containers on this engine. For a part of a test that should not be able to stop it.
    #[must_use]
    pub fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// Freezes the service: connections are accepted by the kernel and nothing answers. Containers go on.
    pub fn pause(&self) -> Result<()> {
        process::freeze(self.running_pid()?)
    }

    /// Undoes [`pause`](Self::pause).
    pub fn resume(&self) -> Result<()> {
        process::signal(self.running_pid()?, Signal::CONT)
    }

    /// SIGKILL to the service. Its containers go on as if nothing had happened.
    pub async fn kill(&self) -> Result<()> {
        process::signal(self.running_pid()?, Signal::KILL)?;
        eventually(DEADLINE, "the service ends", async || {
            self.exit_status().map(|_| ()).ok_or_else(|| "still running".to_owned())
        })
        .await
    }

    /// Starts the service on the same socket and roots, and waits until it answers. Nothing happens when it is running.
    pub async fn start_again(&self) -> Result<()> {
        if self.service_pid().is_some() {
            return Ok(());
        }
        *lock(&self.service) = Some(self.spawn()?);
        let started = eventually(DEADLINE, "podman's service starts", async || {
            if let Some(status) = self.exit_status() {
                return Ok(Err(status));
            }
            let client = self.engine.client().await.map_err(|error| format!("{error:#}"))?;
            client.ping().await.map(|_| Ok(())).map_err(|error| error.to_string())
        })
        .await;
        match started {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("podman's service ended at its start ({status}):\n{}", self.log_tail()),
            Err(error) => Err(error.context(format!("the log of podman ends:\n{}", self.log_tail()))),
        }
    }

    /// The process id of the service, while it runs.
    #[must_use]
    pub fn service_pid(&self) -> Option<u32> {
        match self.exit_status() {
            None => lock(&self.service).as_ref().map(Child::id),
            Some(_) => None,
        }
    }

    /// From now on, nobody cleans up after a container that has ended, so podman says that it is `stopped` for as long as it exists. The
    /// clean-up is a process of its own, which reads the settings file anew; the service has read it at its start.
    pub fn break_clean_up(&self) -> Result<()> {
        let guardian = self.guardian.as_ref().context("the engine is being dropped")?;
        std::fs::write(guardian.directory().join(SETTINGS), "not a settings file").context("spoil podman's settings")
    }

    /// How many times the container was started, by whomever. From the file of events itself: asked for events up to a past moment,
    /// podman 4.3 often ends its answer before it has sent them all.
    pub fn starts(&self, id: &str) -> Result<usize> {
        let guardian = self.guardian.as_ref().context("the engine is being dropped")?;
        let text = std::fs::read_to_string(guardian.directory().join("tmp/events/events.log"))
            .context("read podman's file of events")?;
        let events = text.lines().map(serde_json::from_str::<serde_json::Value>);
        let events: Vec<_> = events.collect::<Result<_, _>>().context("read podman's events")?;
        Ok(events.iter().filter(|event| event["ID"] == id && event["Status"] == "start").count())
    }

    /// The end of the service's log, for the message of a failed test.
    #[must_use]
    pub fn log_tail(&self) -> String {
        process::tail(&self.log())
    }

    fn spawn(&self) -> Result<Child> {
        let guardian = self.guardian.as_ref().context("the engine is being dropped")?;
        let directory = guardian.directory();
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.log()).context("open podman's log")?;
        let mut command = self.namespace.command(guardian, "podman");
        command.arg("--root").arg(directory.join("root")).arg("--runroot").arg(directory.join("run"));
        command.arg("--tmpdir").arg(directory.join("tmp")).arg("--network-config-dir").arg(directory.join("net"));
        // None of these needs a service manager or a journal. crun does not work where both versions of cgroups are mounted.
        command.args(["--cgroup-manager=cgroupfs", "--events-backend=file", "--runtime=runc"]);
        command.args(["system", "service", "--time=0", self.engine.url()]);
        command.env("CONTAINERS_CONF", directory.join(SETTINGS)).env("TMPDIR", directory);
        command.env_remove("CONTAINER_HOST").env_remove("LISTEN_FDS");
        let log_too = log.try_clone().context("share podman's log")?;
        command.stdout(log).stderr(log_too).spawn().context("run nsenter (package util-linux) and podman")
    }

    fn running_pid(&self) -> Result<u32> {
        self.service_pid().context("podman's service is not running")
    }

    fn log(&self) -> PathBuf {
        self.guardian.as_ref().map(|guardian| guardian.directory().join("log")).unwrap_or_default()
    }

    /// How the service ended; `None` while it runs and when it was never started.
    fn exit_status(&self) -> Option<ExitStatus> {
        lock(&self.service).as_mut().and_then(|child| child.try_wait().ok().flatten())
    }
}

impl Drop for PrivatePodman {
    fn drop(&mut self) {
        drop(self.guardian.take());
        // These processes have ended already. This only collects their exit status, so that no zombie stays.
        self.namespace.collect();
        if let Some(mut service) = lock(&self.service).take() {
            let _ = service.wait();
        }
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
