//! The recordings of a run of several daemons, and whether a replay of each of them says what was said.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Stage;

/// What distinguishes the recordings of one process from each other.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A directory for each daemon that may run at the same time, because no two daemons may record into one. They are removed with the value,
/// unless a replay failed: then the next reader of the failure wants them.
#[derive(Debug)]
pub(crate) struct Recordings {
    directory: PathBuf,
    is_kept: bool,
}

/// What replays have compared, in sum over all recordings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Replayed {
    /// Processes whose recordings were replayed.
    pub processes: usize,
    /// Passes of which the verdicts and orders were compared.
    pub passes: usize,
    /// Changes of verdicts in them.
    pub verdicts: usize,
    /// Orders to restart in them.
    pub orders: usize,
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passes of {} processes replayed exactly ({} changes of verdicts, {} orders)",
            self.passes, self.processes, self.verdicts, self.orders
        )
    }
}

impl Recordings {
    /// Room for recordings below the directory for temporary files.
    pub(crate) fn new() -> Result<Self> {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("defib-recordings-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        Ok(Self { directory, is_kept: false })
    }

    /// The directory of the daemon in this place. A daemon that takes the place of a killed one goes on in the same directory.
    pub(crate) fn place(&self, number: usize) -> Result<String> {
        let path = self.directory.join(format!("place-{number}"));
        Ok(path.to_str().context("the directory for temporary files is no text")?.to_owned())
    }

    /// Replays the recordings of the first `places` places by `defib backtest`. No daemon may write them any more.
    pub(crate) async fn replay(&mut self, stage: &Stage, places: usize) -> Result<Replayed> {
        self.is_kept = true; // until all of them were exact
        let mut sum = Replayed::default();
        for number in 0..places {
            let directory = self.place(number)?;
            let finished = stage.defib(&["backtest", "--record", &directory, "--format", "json"]).await?;
            let finished = finished.with_code(0).with_context(|| format!("the replay of {directory}"))?;
            let report: Value = serde_json::from_str(&finished.stdout).context("what the backtest printed")?;
            let (exact, recording) = (&report["exactness"], &report["recording"]);
            let count = |of: &Value| of.as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or_default();
            ensure!(
                exact["differing"] == 0 && exact["same_policy"] == true && recording["calls_lost"] == 0,
                "the replay of {directory} is not exact: {exact:#} {recording:#}"
            );
            // Each process begins with a judge of its own, which is a gap after the one before it. One that was killed in its first second has
            // left nothing that can be replayed.
            sum.processes += count(&recording["gaps"]) + 1;
            sum.passes += count(&exact["passes"]);
            sum.verdicts += count(&exact["verdicts"]);
            sum.orders += count(&exact["orders"]);
        }
        self.is_kept = false;
        Ok(sum)
    }
}

impl Drop for Recordings {
    fn drop(&mut self) {
        if self.is_kept {
            eprintln!("the recordings are kept in {}", self.directory.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}
