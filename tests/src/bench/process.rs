//! What a process has used, by the kernel's own account.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// The time that the threads of a process have been on a processor since it began.
///
/// `/proc/PID/stat` has the same figure in hundredths of a second, which is longer than a whole tick of a small fleet; the scheduler's
/// own account counts nanoseconds. It leaves out threads that have ended, and those of defib live as long as it does.
pub(super) fn cpu(pid: u32) -> Result<Duration> {
    let mut nanos = 0_u64;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the process has ended")? {
        // A thread may end between the listing and the read.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanos += text.split_whitespace().next().unwrap_or("0").parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// The processor time that a process has used since this account of it.
pub(super) fn cpu_since(pid: u32, before: Duration) -> Result<Duration> {
    Ok(cpu(pid)?.saturating_sub(before))
}

/// The processor time of several processes, for those of them that live.
pub(super) fn cpu_of_each(pids: &[u32]) -> BTreeMap<u32, Duration> {
    pids.iter().filter_map(|pid| Some((*pid, cpu(*pid).ok()?))).collect()
}

/// What was used between two accounts, by those that were there at the second one.
pub(super) fn used(before: &BTreeMap<u32, Duration>, after: &BTreeMap<u32, Duration>) -> Duration {
    let since = |(pid, now): (&u32, &Duration)| now.saturating_sub(before.get(pid).copied().unwrap_or_default());
    after.iter().map(since).sum()
}

/// Resident memory now, and at its highest, in MiB.
pub(super) fn memory(pid: u32) -> Result<(f64, f64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    let (now, peak) = (field("VmRSS:").context("no VmRSS")?, field("VmHWM:").context("no VmHWM")?);
    Ok((now / 1_024.0, peak / 1_024.0))
}

/// The machine's cores and its memory in GiB.
pub(super) fn machine() -> (usize, f64) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: f64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default();
    (cores, kib / 1_048_576.0)
}
