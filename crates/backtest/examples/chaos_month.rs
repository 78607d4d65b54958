//! Whether a replay says what was said: days of a simulated fleet in which something breaks every ten minutes or so, written by the recorder
//! and replayed with the recorded settings.
//! usage: `chaos_month DAYS SEED`

use std::time::Instant;

use anyhow::{Context as _, ensure};
use defib_backtest::settings::Changes;
use defib_backtest::{Request, run};
use defib_record::{DirectTape, Reader, RecordSettings};
use defib_sim::chaos::{Climate, live_with};
use defib_sim::defib::Defib;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (days, seed) = arguments.next().zip(arguments.next()).context("usage: chaos_month DAYS SEED")?;
    let (days, seed) = (days.context("DAYS is no number")?, seed.context("SEED is no number")?);
    let directory = tempfile::tempdir()?;
    let tape = DirectTape::start(RecordSettings {
        directory: directory.path().to_owned(),
        max_bytes: 64 << 30, // so much that no segment is removed before it was replayed
        program: env!("CARGO_PKG_VERSION").to_owned(),
        replica: "simulated".to_owned(),
    })?;
    let begun = Instant::now();
    let lived = live_with(Climate::of_days(days), seed, |world| {
        world.put_on_trial(Box::new(Defib::recorded(&world.settings, Box::new(tape))));
    });
    let segments = Reader::segments(directory.path())?;
    let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    println!(
        "seed {seed}: {days} days with {} faults; {} segments, {bytes} bytes, in {:.0?}",
        lived.faults,
        segments.len(),
        begun.elapsed()
    );
    let begun = Instant::now();
    let request = Request {
        directory: directory.path().to_owned(),
        since: None,
        changes: Changes::default(),
        against: Vec::new(),
    };
    let report = run(&request, &mut |_, _| {})?;
    println!("{}\nreplayed in {:.0?}", report.text(), begun.elapsed());
    let exact = &report.exactness;
    ensure!(exact.differing == 0 && exact.same_policy, "the replay is not exact: {exact:?}");
    ensure!(exact.orders > 0 && report.recording.gaps > 0, "no restart was ordered, or the daemon never started anew");
    Ok(())
}
