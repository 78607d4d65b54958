//! The process of a private engine, be it dockerd or podman's service: frozen, killed, and started again on the same socket and roots, in a
//! mount namespace (module `namespace`) that survives all of that.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::engine_handle::EngineHandle;
use crate::guardian::Guardian;
use crate::namespace::Namespace;
use crate::process::{self, Signal};
use crate::wait::eventually;

/// A start takes at most 2 s, and a clean stop waits 10 s for a container that ignores TERM. Larger only delays the report of an engine that
/// never starts or ends.
const DEADLINE: Duration = Duration::from_secs(60);

/// The process and all that it stores, which end with this value. Its containers are made and asked about through the [`EngineHandle`] that it
/// dereferences to.
#[derive(Debug)]
pub struct EngineProcess {
    /// `dockerd` or `podman`.
    program: &'static str,
    engine: EngineHandle,
    namespace: Namespace,
    child: Mutex<Option<Child>>,
    guardian: Option<Guardian>, // taken in `drop`, before the wait for the processes that it kills
}

impl std::ops::Deref for EngineProcess {
    type Target = EngineHandle;

    fn deref(&self) -> &EngineHandle {
        &self.engine
    }
}

impl EngineProcess {
    /// A process that has not been started yet.
    pub(crate) fn new(program: &'static str, engine: EngineHandle, namespace: Namespace, guardian: Guardian) -> Self {
        Self { program, engine, namespace, child: Mutex::default(), guardian: Some(guardian) }
    }

    /// Containers on this engine. For a part of a test that should not be able to stop it.
    #[must_use]
    pub fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// Freezes the process: connections are accepted by the kernel and nothing answers. Containers go on.
    pub fn pause(&self) -> Result<()> {
        process::freeze(self.running_pid()?)
    }

    /// Undoes [`pause`](Self::pause).
    pub fn resume(&self) -> Result<()> {
        process::signal(self.running_pid()?, Signal::CONT)
    }

    /// SIGKILL to the process alone. Its containers keep running.
    pub async fn kill(&self) -> Result<()> {
        process::signal(self.running_pid()?, Signal::KILL)?;
        self.wait_for_end().await
    }

    /// Stops the process cleanly. Nothing happens when it is not running.
    pub async fn stop(&self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        process::signal(pid, Signal::TERM)?;
        self.wait_for_end().await
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self.exit_status() {
            None => self.child().as_ref().map(Child::id),
            Some(_) => None,
        }
    }

    /// The end of its log, for the message of a failed test.
    #[must_use]
    pub fn log_tail(&self) -> String {
        process::tail(&self.log())
    }

    /// Who cleans up after it.
    pub(crate) fn guardian(&self) -> Result<&Guardian> {
        self.guardian.as_ref().context("the engine is being dropped")
    }

    /// The command that starts its program in the namespace, for arguments to be added to.
    pub(crate) fn command(&self) -> Result<Command> {
        Ok(self.namespace.command(self.guardian()?, self.program))
    }

    /// Starts it by this command, and waits until it answers.
    pub(crate) async fn start(&self, mut command: Command) -> Result<()> {
        let program = self.program;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log());
        let log = log.with_context(|| format!("open the log of {program}"))?;
        let log_too = log.try_clone().with_context(|| format!("share the log of {program}"))?;
        let spawned = command.stdout(log).stderr(log_too).spawn();
        *self.child() = Some(spawned.with_context(|| format!("run nsenter (package util-linux) and {program}"))?);
        let started = eventually(DEADLINE, &format!("{program} starts"), async || {
            if let Some(status) = self.exit_status() {
                return Ok(Err(status));
            }
            let client = self.engine.client().await.map_err(|error| format!("{error:#}"))?;
            client.ping().await.map(|_| Ok(())).map_err(|error| error.to_string())
        })
        .await;
        match started {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("{program} ended at its start ({status}):\n{}", self.log_tail()),
            Err(error) => Err(error.context(format!("the log of {program} ends:\n{}", self.log_tail()))),
        }
    }

    async fn wait_for_end(&self) -> Result<()> {
        eventually(DEADLINE, &format!("{} ends", self.program), async || {
            self.exit_status().map(|_| ()).ok_or_else(|| format!("still running; its log ends:\n{}", self.log_tail()))
        })
        .await
    }

    fn running_pid(&self) -> Result<u32> {
        self.pid().with_context(|| format!("{} is not running", self.program))
    }

    fn log(&self) -> PathBuf {
        self.guardian.as_ref().map(|guardian| guardian.directory().join("log")).unwrap_or_default()
    }

    /// How it ended; `None` while it runs and when it was never started.
    fn exit_status(&self) -> Option<ExitStatus> {
        self.child().as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for EngineProcess {
    fn drop(&mut self) {
        drop(self.guardian.take());
        // These processes have ended already. This only collects their exit status, so that no zombie stays.
        self.namespace.collect();
        if let Some(mut child) = self.child().take() {
            let _ = child.wait();
        }
    }
}
