//! The bench: what the daemon costs, and how long somebody stays dead, beside the floor of the same work in the same run.
//!
//! It measures the program that was built beside it, from outside: by the kernel's account of its process, by the calls that arrive
//! at engines, and by what its metrics say of its ticks. The daemon, the floor and the scripted engines are processes of their own, so
//! that the processor time of each is its own.
//!
//! On a machine that does other things as well, times are longer. Processor time suffers least, and both sides of a ratio suffer alike.

mod cost;
mod dockerd;
mod engines;
mod floor;
mod latency;
mod page;
mod peers;
mod process;
mod report;
mod world;

use std::time::Duration;

use anyhow::{Context, Result};

pub use self::engines::serve;
pub use self::floor::read_all;
pub use self::report::{Report, Row};

/// How large a bench is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Workspaces.
    pub workspaces: usize,
    /// Engines.
    pub engines: usize,
    /// Whether a tenth and a hundredth of the fleet are measured as well.
    pub smaller: bool,
    /// Ticks that are measured for each figure.
    pub ticks: usize,
    /// `DEFIB_POLL_INTERVAL`.
    pub poll: Duration,
    /// Deaths that are measured for each figure.
    pub deaths: usize,
    /// Containers on a real dockerd. None: what a poll costs it is not measured.
    pub containers: usize,
}

impl Plan {
    /// As docs/performance.md tells it. About fifteen minutes.
    #[must_use]
    pub const fn full() -> Self {
        let (workspaces, engines, poll) = (100_000, 100, Duration::from_secs(5));
        Self { workspaces, engines, smaller: true, ticks: 12, poll, deaths: 30, containers: 300 }
    }

    /// Less than three minutes.
    #[must_use]
    pub const fn quick() -> Self {
        // The poll is not shorter, because a heartbeat of the last two seconds is read again by every poll.
        let (workspaces, engines, poll) = (10_000, 10, Duration::from_secs(2));
        Self { workspaces, engines, smaller: false, ticks: 6, poll, deaths: 8, containers: 0 }
    }
}

/// Which of its parts is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    All,
    /// What a tick costs.
    Costs,
    /// How long somebody stays dead.
    Latencies,
    /// Of what a tick costs: what the flight recorder adds to it.
    Recorder,
    /// How long the status page takes to answer.
    Page,
}

/// Runs it to its end.
///
/// # Errors
/// The daemon, the database, an engine or the floor failed.
pub async fn bench(plan: Plan, part: Part) -> Result<Report> {
    let mut report = Report::new(plan);
    match part {
        Part::Recorder => cost::recorder_alone(plan, &mut report).await.context("the flight recorder")?,
        Part::Page => cost::page_alone(plan, &mut report).await.context("the status page")?,
        Part::All | Part::Costs | Part::Latencies => halves(plan, part, &mut report).await?,
    }
    Ok(report)
}

async fn halves(plan: Plan, part: Part, report: &mut Report) -> Result<()> {
    if part != Part::Costs {
        latency::latencies(report, plan.deaths).await.context("latencies")?;
        peers::unhealthy(report, plan.deaths.min(12)).await.context("unhealthy containers, beside others")?;
    }
    if part != Part::Latencies {
        cost::costs(plan, report).await.context("costs")?;
        let what = "idle tick, CPU of a real dockerd";
        if plan.containers > 0 {
            dockerd::polls(report, plan.containers, plan.ticks).await.context(what)?;
        } else {
            report.leave_out(what, "a quick run starts no hundreds of containers");
        }
    }
    Ok(())
}
