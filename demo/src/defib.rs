//! The real `defib`: its daemon as a child process, its commands as an operator runs them.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use defib_testkit::process::{self, Signal};
use defib_testkit::{Guardian, eventually, free_port};

use crate::cast::loopback;
use crate::http;
use crate::platform::{ADMIN_TOKEN, CONTROL_PLANE_SECRET, Platform};

/// The knobs that differ from the defaults. A minute is short: everything that waits, waits less, in the proportions that the
/// defaults have. The rules are those of production.
const KNOBS: &[(&str, &str)] = &[
    ("DEFIB_POLL_INTERVAL", "2s"),
    ("DEFIB_ENGINE_TIMEOUT", "2s"),
    ("DEFIB_HEARTBEAT_INTERVAL", "2s"),
    ("DEFIB_RECENT_MIN", "3s"),
    ("DEFIB_DEAD_WINDOW", "8s"),
    ("DEFIB_SETTLE", "5s"),
    ("DEFIB_MISSING_GRACE", "3s"),
    ("DEFIB_BACKOFF_INITIAL", "1s"),
    ("DEFIB_BACKOFF_MAX", "8s"),
    ("DEFIB_EXHAUSTED_AFTER", "4"),
    ("DEFIB_EXHAUSTED_RETRY", "10m"),
    ("DEFIB_LOG_FORMAT", "text"),
    ("DEFIB_REPLICA_ID", "demo"),
];

/// What defib calls the platform's control plane, and where it reads the secrets with which it is asked.
pub(crate) const CONTROL_PLANE: &str = "cloud";
const CONTROL_PLANE_TOKEN: &str = "DEFIB_ENGINE_TOKEN_CLOUD";

/// What a child gets of our own environment. Everything else could change what it does: `DEFIB_…` above all.
const INHERITED: &[&str] = &["PATH", "HOME", "LANG", "USER", "RUST_BACKTRACE"];

const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// A running `defib run`.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Mutex<Child>,
    guardian: Option<Guardian>, // taken in `drop`, before the wait for the process that it kills
    log: PathBuf,
    recording: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Daemon {
    /// Starts it with the demo's knobs, its log in a file, and its flight recorder in a directory.
    pub(crate) fn start(
        program: &Path,
        database_url: &str,
        engine_url: &str,
        platform: &Platform,
        log: PathBuf,
        recording: PathBuf,
    ) -> Result<Self> {
        let address = loopback(free_port()?);
        let guardian = Guardian::start()?;
        let mut command = guardian.command(program);
        let mark: Vec<_> =
            command.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect();
        let file = File::create(&log).with_context(|| format!("open {}", log.display()))?;
        let file_too = file.try_clone().context("share the daemon's log")?;
        command.env_clear().envs(mark).envs(inherited()).envs(KNOBS.iter().copied());
        let platform_url = format!("http://{}?preset=molecule-core", platform.address);
        command.env("DEFIB_DATABASE_URL", database_url);
        command.env("DEFIB_ENGINES", format!("default={engine_url},{CONTROL_PLANE}=cp+{platform_url}"));
        command.env(CONTROL_PLANE_TOKEN, CONTROL_PLANE_SECRET);
        command.env("DEFIB_PLATFORM_URL", platform_url).env("DEFIB_PLATFORM_TOKEN", ADMIN_TOKEN);
        command.env("DEFIB_LISTEN_ADDR", address.to_string()).env("DEFIB_RECORD_DIR", &recording);
        let child = command.arg("run").stdout(file).stderr(file_too).spawn().context("run defib")?;
        Ok(Self { child: Mutex::new(child), guardian: Some(guardian), log, recording, address })
    }

    /// Waits until it has reached the database and the engine, and judged the fleet.
    pub(crate) async fn is_ready(&self) -> Result<()> {
        let ready = eventually(START_DEADLINE, "defib is ready", async || {
            if let Some(status) = self.exit_status() {
                return Ok(Err(status));
            }
            match http::get(self.address, "/readyz").await {
                Ok(answer) if answer.status == 200 => Ok(Ok(())),
                Ok(answer) => Err(answer.body),
                Err(failure) => Err(failure.to_string()),
            }
        });
        match ready.await? {
            Ok(()) => Ok(()),
            Err(status) => bail!("defib ended at its start ({status})"),
        }
    }

    /// Nothing more is to be awaited of a daemon that has ended.
    pub(crate) fn must_run(&self) -> Result<()> {
        self.exit_status().map_or(Ok(()), |status| bail!("defib has ended ({status})"))
    }

    /// The value of a metric; `None` when there is no such sample.
    pub(crate) async fn metric(&self, sample: &str) -> Result<Option<f64>> {
        let page = http::get(self.address, "/metrics").await.context("read the metrics")?;
        let value = page.body.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map(|value| value.parse().with_context(|| format!("read {sample}"))).transpose()
    }

    /// TERM, and a clean end.
    pub(crate) async fn stop(&self) -> Result<()> {
        process::signal(self.pid(), Signal::TERM)?;
        let status = eventually(STOP_DEADLINE, "defib ends", async || {
            self.exit_status().ok_or_else(|| "still running".to_owned())
        })
        .await?;
        ensure!(status.success(), "defib ended with {status} after TERM");
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.lock().id()
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Where it records what it judges by.
    pub(crate) fn recording(&self) -> &Path {
        &self.recording
    }

    fn exit_status(&self) -> Option<std::process::ExitStatus> {
        self.lock().try_wait().ok().flatten()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.guardian.take());
        let _ = self.lock().wait(); // dead already: this only takes its exit status
    }
}

/// Runs a command of `defib` to its end and returns what it printed.
pub(crate) async fn command(program: &Path, database_url: &str, arguments: &[&str]) -> Result<String> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).env_clear().envs(inherited()).env("DEFIB_DATABASE_URL", database_url);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("run defib {}", arguments.join(" ")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        output.status.success(),
        "defib {} ended with {}: {}",
        arguments.join(" "),
        output.status,
        text(&output.stderr)
    );
    Ok(text(&output.stdout))
}

fn inherited() -> BTreeMap<&'static str, std::ffi::OsString> {
    INHERITED.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))).collect()
}
