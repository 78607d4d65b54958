//! The example of `docs/backtest.md`: a simulated fleet for a week. A sweep restarts what does not run, as the platform's present rule; defib
//! observes and records. Then the week is replayed.
//! usage: example PAGE.html TEXT.txt

use std::time::Instant;

use anyhow::Context as _;
use defib_backtest::settings::Changes;
use defib_backtest::{Request, run};
use defib_policy::settings::{Action, Mode};
use defib_record::{DirectTape, Reader, RecordSettings};
use defib_sim::baseline;
use defib_sim::chaos::{Climate, live_with};
use defib_sim::defib::Defib;
use defib_sim::time::{days, hours};

const WORKSPACES: usize = 40;
const DAYS: u64 = 7;
/// How many differences the page shows.
const DIFFERENCES: usize = 6;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (page, text) = arguments.next().zip(arguments.next()).context("usage: example PAGE.html TEXT.txt")?;
    let directory = tempfile::tempdir()?;
    record(directory.path())?;
    let segments = Reader::segments(directory.path())?;
    let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let request = Request {
        directory: directory.path().to_owned(),
        since: None,
        changes: Changes::parse(&["dead_threshold=3".to_owned()])?,
        against: ["docker-autoheal", "kubelet-probe", "heartbeat-90s"].map(str::to_owned).to_vec(),
    };
    let begun = Instant::now();
    let report = run(&request, &mut |_, _| {})?;
    std::fs::write(page, report.html())?;
    // How fast it was differs from machine to machine; everything else is the same each time.
    let lines: Vec<String> =
        report.text().lines().filter(|line| !line.starts_with("replayed at")).map(str::to_owned).collect();
    std::fs::write(text, shortened(&lines.join("\n")))?;
    eprintln!(
        "{} segments, {bytes} bytes, {:.0} bytes a workspace and day; replayed in {:?}, {:.1} million workspace-seconds a second",
        segments.len(),
        bytes as f64 / (WORKSPACES as f64 * DAYS as f64),
        begun.elapsed(),
        report.recording.workspace_seconds / begun.elapsed().as_secs_f64() / 1e6,
    );
    Ok(())
}

/// The answer with its first few differences, which is enough for a page that shows how they look.
fn shortened(text: &str) -> String {
    let mut parts: Vec<&str> = text.split("\n\n").collect();
    let notes = parts.pop();
    let shown = 3 + DIFFERENCES; // before the differences stand the head, the table and a heading
    if parts.len() > shown {
        parts.truncate(shown);
        parts.push("(the others are left out here)");
    }
    parts.extend(notes);
    parts.join("\n\n")
}

fn record(directory: &std::path::Path) -> anyhow::Result<()> {
    let settings = RecordSettings {
        directory: directory.to_owned(),
        max_bytes: 1 << 30,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        replica: "simulated".to_owned(),
    };
    let tape = DirectTape::start(settings)?;
    let present = baseline::ALL.iter().find(|it| it.name == "sweep-15s").context("the present rule")?;
    let climate = Climate { workspaces: WORKSPACES, engines: 3, fault_every: hours(2), length: days(DAYS) };
    live_with(climate, 7, |world| {
        world.settings.mode = Mode::Observe;
        world.settings.wedged_action = Action::Report;
        world.platform_recreates = true;
        world.put_on_trial(Box::new(Defib::recorded(&world.settings, Box::new(tape))));
        world.put_on_trial(present.detector());
    });
    Ok(())
}
