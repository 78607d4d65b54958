//! A Docker engine of one's own.
//!
//! Tests kill it, freeze it and restart it, and count its containers, so it cannot be the machine's. It needs root, the
//! packages of `deploy/dev/packages.txt`, and no running service manager.
//!
//! There are two of them ([`Release`]): the one that this machine has installed, and a newer one whose programs and libraries
//! `deploy/dev/newer-dockerd.sh` fetches into a directory. Tests that ask for no particular one get the machine's, or the newer one if the variable
//! `TESTKIT_DOCKERD` is set to `newer`; `make newer-dockerd` runs the whole-program tests so.
//!
//! It lives in a mount namespace of its own (module `namespace`), which survives a kill of dockerd:
//!
//! ```text
//! guardian ── holder (unshare --mount; sleeps)      the namespace: /run, /etc/docker, all layers and netns mounts
//!    │           └── dockerd (nsenter) ── containerd ── shims
//!    └── cgroup defib-…: containers
//! ```

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::OnceCell;

use crate::engine_handle::EngineHandle;
use crate::guardian::Guardian;
use crate::namespace::Namespace;
use crate::process::{self, Signal};
use crate::wait::eventually;

/// A start takes 1 to 2 s. Larger only delays the report of an engine that never will.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// dockerd gives its containerd 15 s to answer, and ends with these words if it does not. On a machine that is busy with other tests that
/// happens, and says nothing about either of them.
const GAVE_UP_ON_CONTAINERD: &str = "timeout waiting for containerd to start";

/// So often is it started before that counts.
const STARTS_MAX: usize = 3;

/// A clean stop waits for the containers, 10 s for one that ignores TERM.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// The variable that chooses the release for tests that ask for no particular one.
const CHOICE: &str = "TESTKIT_DOCKERD";

/// Which dockerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The one that this machine has installed: 20.10 on Debian 12.
    Installed,
    /// The one of Debian 13, in its own root: 26.1.
    Newer,
}

impl Release {
    /// Both, for tests that hold of each.
    pub const ALL: [Self; 2] = [Self::Installed, Self::Newer];

    /// The one that the variable `TESTKIT_DOCKERD` chooses.
    ///
    /// # Errors
    /// When it is set to something that is none.
    pub fn chosen() -> Result<Self> {
        match std::env::var(CHOICE).as_deref() {
            Err(_) | Ok("" | "installed") => Ok(Self::Installed),
            Ok("newer") => Ok(Self::Newer),
            Ok(other) => bail!("{CHOICE} is {other:?}: it may be `installed` or `newer`"),
        }
    }

    /// The directory that takes the place of `/usr` for it. Fetched if it is missing.
    async fn usr(self) -> Result<Option<PathBuf>> {
        const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/dev/newer-dockerd.sh");
        if self == Self::Installed {
            return Ok(None);
        }
        let output = tokio::process::Command::new(SCRIPT).output().await.with_context(|| format!("run {SCRIPT}"))?;
        ensure!(output.status.success(), "newer-dockerd.sh: {}", String::from_utf8_lossy(&output.stderr).trim());
        let root = String::from_utf8(output.stdout).context("newer-dockerd.sh prints a path")?;
        Ok(Some(Path::new(root.trim()).join("usr")))
    }
}

/// A private engine. Dropping it kills it with its containers and removes all that it stored.
///
/// Containers are made and asked about through its [`EngineHandle`], which it dereferences to.
#[derive(Debug)]
pub struct PrivateDockerd {
    engine: EngineHandle,
    namespace: Namespace,
    dockerd: Mutex<Option<Child>>,
    guardian: Option<Guardian>, // taken in `drop`, before the wait for the processes that it kills
}

impl std::ops::Deref for PrivateDockerd {
    type Target = EngineHandle;

    fn deref(&self) -> &EngineHandle {
        &self.engine
    }
}

impl PrivateDockerd {
    /// A fresh engine without images and containers, ready to be asked. Costs 1 to 2 s. Which release it is, `TESTKIT_DOCKERD` says.
    pub async fn start() -> Result<Self> {
        Self::start_release(Release::chosen()?).await
    }

    /// The same, of this release.
    pub async fn start_release(release: Release) -> Result<Self> {
        let usr = release.usr().await?;
        let guardian = Guardian::start()?;
        let instead = usr.as_deref().map(|usr| (usr, Path::new("/usr")));
        let namespace = Namespace::hold(&guardian, instead).await?;
        let socket = guardian.directory().join("d.sock");
        let engine = Self {
            engine: EngineHandle::connect(format!("unix://{}", socket.display())),
            namespace,
            dockerd: Mutex::new(None),
            guardian: Some(guardian),
        };
        engine.start_again().await?;
        Ok(engine)
    }

    /// One engine for the whole test process, started by whoever asks first. Give containers names of your own, and
    /// neither stop nor pause it: others use it.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<PrivateDockerd> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    /// The same, one of each release.
    pub async fn shared_release(release: Release) -> Result<&'static Self> {
        static NEWER: OnceCell<PrivateDockerd> = OnceCell::const_new();
        match release {
            Release::Newer if Release::chosen()? != release => {
                NEWER.get_or_try_init(|| Self::start_release(release)).await
            }
            Release::Installed if Release::chosen()? != release => bail!("{CHOICE} is set: this test is of the other"),
            _ => Self::shared().await,
        }
    }

    /// Containers on this engine. For a part of a test that should not be able to stop it.
    #[must_use]
    pub fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// Freezes dockerd: connections are accepted by the kernel and nothing answers. Containers and containerd go on.
    pub fn pause(&self) -> Result<()> {
        process::freeze(self.running_pid()?)
    }

    /// Undoes [`pause`](Self::pause).
    pub fn resume(&self) -> Result<()> {
        process::signal(self.running_pid()?, Signal::CONT)
    }

    /// SIGKILL to dockerd alone. Its containers keep running, until [`start_again`](Self::start_again) kills them all.
    pub async fn kill(&self) -> Result<()> {
        process::signal(self.running_pid()?, Signal::KILL)?;
        self.wait_for_end().await
    }

    /// Stops dockerd cleanly, and its containers with it. Nothing happens when it is not running.
    pub async fn stop(&self) -> Result<()> {
        let Some(pid) = self.dockerd_pid() else { return Ok(()) };
        process::signal(pid, Signal::TERM)?;
        self.wait_for_end().await
    }

    /// Starts dockerd on the same socket and roots, and waits until it answers. Nothing happens when it is running.
    ///
    /// Containers that still ran after a [`kill`](Self::kill) are ended by it (TERM, then KILL), unless their restart policy
    /// starts them.
    pub async fn start_again(&self) -> Result<()> {
        if self.dockerd_pid().is_some() {
            return Ok(());
        }
        for _ in 1..STARTS_MAX {
            match self.start_once().await {
                Err(error) if self.log_tail().contains(GAVE_UP_ON_CONTAINERD) => {
                    eprintln!("testkit: dockerd is started once more: {error:#}");
                }
                outcome => return outcome,
            }
        }
        self.start_once().await
    }

    async fn start_once(&self) -> Result<()> {
        self.forget_the_last_run().await?;
        // Of this start only: a message of an earlier one would be taken for the reason of this one's end.
        let _ = std::fs::rename(self.log(), self.log().with_extension("before"));
        *lock(&self.dockerd) = Some(self.spawn()?);
        let started = eventually(START_DEADLINE, "dockerd starts", async || {
            if let Some(status) = self.exit_status() {
                return Ok(Err(status));
            }
            let client = self.engine.client().await.map_err(|error| format!("{error:#}"))?;
            client.ping().await.map(|_| Ok(())).map_err(|error| error.to_string())
        })
        .await;
        match started {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("dockerd ended at its start ({status}):\n{}", self.log_tail()),
            Err(error) => Err(error.context(format!("the log of dockerd ends:\n{}", self.log_tail()))),
        }
    }

    /// The process id of dockerd, while it runs.
    #[must_use]
    pub fn dockerd_pid(&self) -> Option<u32> {
        match self.exit_status() {
            None => lock(&self.dockerd).as_ref().map(Child::id),
            Some(_) => None,
        }
    }

    /// The end of dockerd's log, for the message of a failed test.
    #[must_use]
    pub fn log_tail(&self) -> String {
        process::tail(&self.log())
    }

    fn spawn(&self) -> Result<Child> {
        let guardian = self.guardian.as_ref().context("the engine is being dropped")?;
        let directory = guardian.directory();
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.log()).context("open dockerd's log")?;
        let mut command = self.namespace.command(guardian, "dockerd");
        command.args(["--host", self.engine.url()]);
        command.arg("--data-root").arg(directory.join("data"));
        command.arg("--exec-root").arg(directory.join("x"));
        command.arg("--pidfile").arg(directory.join("pid"));
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        // One group for all containers, in the layout that the guardian knows, also where systemd manages groups.
        command.args(["--exec-opt=native.cgroupdriver=cgroupfs", &format!("--cgroup-parent=/{}", guardian.cgroup())]);
        command.env("TMPDIR", directory); // containerd leaves dumps of its stacks there
        command.env_remove("DOCKER_HOST").env_remove("LISTEN_FDS");
        let log_too = log.try_clone().context("share dockerd's log")?;
        command.stdout(log).stderr(log_too).spawn().context("run nsenter (package util-linux) and dockerd")
    }

    /// Removes the process ids that a killed dockerd left in files. Its containerd dies with it, but stays a zombie for as
    /// long as process 1 of the machine takes to notice; dockerd takes a zombie for a containerd that it can use, and
    /// gives up after 15 s.
    async fn forget_the_last_run(&self) -> Result<()> {
        let Some(guardian) = &self.guardian else { bail!("the engine is being dropped") };
        let containerd = guardian.directory().join("x/containerd/containerd.pid");
        if let Ok(pid) = std::fs::read_to_string(&containerd) {
            eventually(STOP_DEADLINE, "the last containerd ends", async || {
                if process::is_alive(pid.trim()) { Err(format!("process {pid} is alive")) } else { Ok(()) }
            })
            .await?;
        }
        for file in [containerd, guardian.directory().join("pid")] {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", file.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn wait_for_end(&self) -> Result<()> {
        eventually(STOP_DEADLINE, "dockerd ends", async || {
            self.exit_status().map(|_| ()).ok_or_else(|| format!("still running; its log ends:\n{}", self.log_tail()))
        })
        .await
    }

    fn running_pid(&self) -> Result<u32> {
        self.dockerd_pid().context("dockerd is not running")
    }

    fn log(&self) -> PathBuf {
        self.guardian.as_ref().map_or(Path::new("/nonexistent"), Guardian::directory).join("log")
    }

    /// How dockerd ended; `None` while it runs and when it was never started.
    fn exit_status(&self) -> Option<ExitStatus> {
        lock(&self.dockerd).as_mut().and_then(|child| child.try_wait().ok().flatten())
    }
}

impl Drop for PrivateDockerd {
    fn drop(&mut self) {
        drop(self.guardian.take());
        // These processes have ended already. This only collects their exit status, so that no zombie stays.
        self.namespace.collect();
        if let Some(mut dockerd) = lock(&self.dockerd).take() {
            let _ = dockerd.wait();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
