//! A Docker engine of one's own.
//!
//! Tests kill it, freeze it and restart it, and count its containers, so it cannot be the machine's. It needs root, the
//! packages of `deploy/dev/packages.txt`, and no running service manager.
//!
//! Separate roots and a socket are not enough to be alone. containerd puts the sockets of its shims below `/run`,
//! dockerd 20.10 takes its identity from `/etc/docker/key.json` (two engines of one machine would say they are the same one),
//! and mounts outlive whoever made them. So the engine lives in a mount namespace with its own `/run` and `/etc/docker`,
//! kept by a process that does nothing else, because the namespace has to survive a kill of dockerd:
//!
//! ```text
//! guardian ── holder (unshare --mount; sleeps)      the namespace: /run, /etc/docker, all layers and netns mounts
//!    │           └── dockerd (nsenter) ── containerd ── shims
//!    └── cgroup defib-…: containers
//! ```
//!
//! The PID namespace stays the machine's: the pids that the engine reports can be signalled from a test.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::OnceCell;

use crate::engine_handle::EngineHandle;
use crate::guardian::Guardian;
use crate::process::{self, Signal};
use crate::wait::eventually;

/// A start takes 1 to 2 s. Larger only delays the report of an engine that never will.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A clean stop waits for the containers, 10 s for one that ignores TERM.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// Makes `/run` and `/etc/docker` private, says so in a file, and keeps the namespace. A `/run` that holds the private
/// directory itself would hide it, so that is refused.
const HOLD_NAMESPACE: &str = r#"
case $1 in /run/*|/var/run/*) echo "TMPDIR must not be below /run" >&2; exit 1;; esac
mount --no-mtab -t tmpfs -o mode=755 tmpfs /run
mkdir -p /etc/docker
mount --no-mtab -t tmpfs -o mode=700 tmpfs /etc/docker
touch "$1/held"
exec sleep infinity
"#;

/// A private engine. Dropping it kills it with its containers and removes all that it stored.
///
/// Containers are made and asked about through its [`EngineHandle`], which it dereferences to.
#[derive(Debug)]
pub struct PrivateDockerd {
    engine: EngineHandle,
    holder: Child,
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
    /// A fresh engine without images and containers, ready to be asked. Costs 1 to 2 s.
    pub async fn start() -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "a private dockerd needs root");
        let guardian = Guardian::start()?;
        let holder = hold_namespace(&guardian).await?;
        let socket = guardian.directory().join("d.sock");
        let engine = Self {
            engine: EngineHandle::connect(format!("unix://{}", socket.display())),
            holder,
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
        self.forget_the_last_run().await?;
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
        let mut command = guardian.command("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id())).args(["--", "dockerd"]);
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
        let _ = self.holder.wait();
        if let Some(mut dockerd) = lock(&self.dockerd).take() {
            let _ = dockerd.wait();
        }
    }
}

async fn hold_namespace(guardian: &Guardian) -> Result<Child> {
    let directory = guardian.directory();
    let log = std::fs::File::create(directory.join("holder.log")).context("open the holder's log")?;
    let holder = guardian
        .command("unshare")
        .args(["--mount", "--propagation=private", "--", "sh", "-ec", HOLD_NAMESPACE, "holder"])
        .arg(directory)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("run unshare (package util-linux)")?;
    let held = eventually(Duration::from_secs(10), "a mount namespace", async || {
        match (directory.join("held").exists(), process::is_alive(holder.id())) {
            (true, _) => Ok(true),
            (false, false) => Ok(false),
            (false, true) => Err("not ready".to_owned()),
        }
    });
    ensure!(held.await?, "no mount namespace: {}", process::tail(&directory.join("holder.log")));
    Ok(holder)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
