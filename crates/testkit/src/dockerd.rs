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
//! guardian ── holder (unshare --mount; waits)       the namespace: /run, /etc/docker, all layers and netns mounts
//!    │           └── dockerd (nsenter) ── containerd ── shims
//!    └── cgroup defib-…: containers
//! ```

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::OnceCell;

use crate::engine_handle::EngineHandle;
use crate::engine_process::EngineProcess;
use crate::guardian::Guardian;
use crate::namespace::Namespace;
use crate::process;
use crate::wait::eventually;

/// How long process 1 of the machine may take to notice that a containerd has ended.
const CONTAINERD_ENDS_WITHIN: Duration = Duration::from_secs(60);

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
    /// Both, for tests that must pass on each.
    pub const ALL: [Self; 2] = [Self::Installed, Self::Newer];

    /// The one that the variable `TESTKIT_DOCKERD` chooses.
    ///
    /// # Errors
    /// When the variable is set to a word that is no release.
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
/// It is paused, killed and stopped as the [`EngineProcess`] that it dereferences to. A clean stop stops its containers too.
#[derive(Debug)]
pub struct PrivateDockerd(EngineProcess);

impl std::ops::Deref for PrivateDockerd {
    type Target = EngineProcess;

    fn deref(&self) -> &EngineProcess {
        &self.0
    }
}

impl PrivateDockerd {
    /// A fresh engine without images and containers, ready to be asked. Costs 1 to 2 s. The variable `TESTKIT_DOCKERD` says which release
    /// it is.
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
        let handle = EngineHandle::connect(format!("unix://{}", socket.display()));
        let engine = Self(EngineProcess::new("dockerd", handle, namespace, guardian));
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

    /// Starts dockerd on the same socket and roots, and waits until it answers. Nothing happens when it is running.
    ///
    /// Containers that still ran after a [`kill`](EngineProcess::kill) are ended by it (TERM, then KILL), unless their restart policy
    /// starts them.
    pub async fn start_again(&self) -> Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        self.forget_the_last_run().await?;
        let guardian = self.guardian()?;
        let directory = guardian.directory();
        let mut command = self.command()?;
        command.args(["--host", self.url()]);
        command.arg("--data-root").arg(directory.join("data"));
        command.arg("--exec-root").arg(directory.join("x"));
        command.arg("--pidfile").arg(directory.join("pid"));
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        // One group for all containers, in the layout that the guardian knows, also where systemd manages groups.
        command.args(["--exec-opt=native.cgroupdriver=cgroupfs", &format!("--cgroup-parent=/{}", guardian.cgroup())]);
        command.env("TMPDIR", directory); // containerd leaves dumps of its stacks there
        command.env_remove("DOCKER_HOST").env_remove("LISTEN_FDS");
        self.0.start(command).await
    }

    /// Removes the process ids that a killed dockerd left in files. Its containerd dies with it, but stays a zombie for as
    /// long as process 1 of the machine takes to notice; dockerd takes a zombie for a containerd that it can use, and
    /// gives up after 15 s.
    async fn forget_the_last_run(&self) -> Result<()> {
        let guardian = self.guardian()?;
        let containerd = guardian.directory().join("x/containerd/containerd.pid");
        if let Ok(pid) = std::fs::read_to_string(&containerd) {
            eventually(CONTAINERD_ENDS_WITHIN, "the last containerd ends", async || {
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
}
