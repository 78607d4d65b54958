//! The instances of the example platform, and what its control plane says of them. An instance is a process of the agent on this machine,
//! so it can really be killed, and nobody but its control plane can tell what became of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use defib_testkit::Guardian;
use defib_testkit::process::{self, Signal};

/// All instances that were ever asked for.
#[derive(Debug)]
pub(crate) struct Machines {
    program: PathBuf,
    all: Mutex<BTreeMap<String, Machine>>,
    made: AtomicU32,
    guardian: Mutex<Option<Guardian>>, // taken by `stop`; whatever it started ends with it
}

#[derive(Debug)]
enum Machine {
    /// It was asked for, and has not booted.
    Pending,
    Booted(Child),
}

impl Machines {
    /// None yet. `program` is what runs on each. A relative path is looked up here and now, because an instance starts in another directory.
    pub(crate) fn new(program: &Path) -> Result<Self> {
        let program = program.canonicalize().with_context(|| format!("find the agent {}", program.display()))?;
        let guardian = Mutex::new(Some(Guardian::start()?));
        Ok(Self { program, all: Mutex::default(), made: AtomicU32::new(0), guardian })
    }

    /// A new one, which is pending until it is booted. Returns what the control plane calls it.
    pub(crate) fn reserve(&self) -> String {
        let name = format!("i-{}", self.made.fetch_add(1, Ordering::Relaxed) + 1);
        self.lock().insert(name.clone(), Machine::Pending);
        name
    }

    /// Boots one with this environment.
    pub(crate) fn boot(&self, name: &str, environment: &[String]) -> Result<()> {
        let guardian = self.guardian.lock().unwrap_or_else(PoisonError::into_inner);
        let mut command = guardian.as_ref().context("the demo is ending")?.command(&self.program);
        command.envs(environment.iter().filter_map(|variable| variable.split_once('=')));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.with_context(|| format!("boot instance {name}"))?;
        self.lock().insert(name.to_owned(), Machine::Booted(child));
        Ok(())
    }

    /// Its state in the words of the first platform's control plane; `None`: there is no such instance.
    pub(crate) fn state(&self, name: &str) -> Option<&'static str> {
        Some(match self.lock().get_mut(name)? {
            Machine::Pending => "pending",
            Machine::Booted(child) => match child.try_wait() {
                Ok(None) => "running",
                _ => "terminated",
            },
        })
    }

    /// `kill -9` of what runs on it.
    pub(crate) fn kill(&self, name: &str) -> Result<()> {
        match self.lock().get(name) {
            Some(Machine::Booted(child)) => process::signal(child.id(), Signal::KILL),
            other => bail!("instance {name} cannot be killed: {other:?}"),
        }
    }

    /// Ends all of them. Takes a second or two.
    pub(crate) fn stop(&self) {
        drop(self.guardian.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Machine>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
