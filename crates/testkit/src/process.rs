//! Signals, and looks into `/proc`, for processes that the kit started.

use std::fmt::Display;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

/// Sends a signal to one process.
///
/// # Errors
/// When there is no such process, or it is not ours to signal.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is no process id"))?;
    kill_process(raw, signal).with_context(|| format!("send {signal:?} to process {pid}"))
}

/// Freezes a process. When this returns none of its threads runs any more: the signal alone only asks for that.
///
/// # Errors
/// Those of [`signal`], and when a thread is still running after two seconds.
pub fn freeze(pid: u32) -> Result<()> {
    signal(pid, Signal::STOP)?;
    let is_frozen = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // A thread that has ended meanwhile has no state, or is a zombie.
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['T', 'Z', 'X']))
    };
    for _ in 0..2_000 {
        if std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten().all(is_frozen) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    bail!("process {pid} goes on running after SIGSTOP")
}

/// Whether the process exists and is more than a zombie, which has ended and waits for its parent to ask.
#[must_use]
pub fn is_alive(pid: impl Display) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

/// The direct children of a process, in no order. Empty when it has none or does not exist.
#[must_use]
pub fn children(parent: u32) -> Vec<u32> {
    all().into_iter().filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// The processes that work in `directory` or below it.
#[must_use]
pub fn working_under(directory: &Path) -> Vec<u32> {
    all()
        .into_iter()
        .filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory)))
        .collect()
}

/// The processes whose command line or environment names `directory`: servers started there and their helpers.
#[must_use]
pub fn marked(directory: &Path) -> Vec<u32> {
    let name = directory.as_os_str().as_encoded_bytes();
    let mentions = |pid: u32, file: &str| {
        std::fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|text| text.windows(name.len()).any(|part| part == name))
    };
    let guardian = |pid: u32| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|text| text.split(|byte| *byte == 0).any(|word| word == b"defib-testkit-guardian"))
    };
    all()
        .into_iter()
        .filter(|pid| !guardian(*pid) && (mentions(*pid, "cmdline") || mentions(*pid, "environ")))
        .collect()
}

fn all() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The parent of a process, from `pid (name) state ppid …`, where the name may hold spaces and parentheses. `None`: there is no such process.
#[must_use]
pub fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The last lines of a log, for an error message. Empty when it cannot be read.
pub(crate) fn tail(log: &Path) -> String {
    const LINES: usize = 20;
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
