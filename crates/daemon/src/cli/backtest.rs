//! `defib backtest`: what this policy, with the recorded settings and with others, and the policies of others would have done to the fleet.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use defib_backtest::settings::Changes;
use defib_backtest::{BacktestError, Request, policies};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Ended, Format};
use crate::logging::printable;
use crate::refused::Refused;

#[derive(Debug, Args)]
pub(super) struct BacktestArgs {
    /// The directory that a daemon has recorded into
    #[arg(long, value_name = "DIR", env = "DEFIB_RECORD_DIR", hide_env_values = true)]
    record: PathBuf,
    /// Count only the last part of the recording, such as 24h [default: all of it]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// A setting in place of the recorded one (may be given several times), such as `dead_threshold=3`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Policies of others to compare with
    #[arg(long, value_name = "POLICIES", value_delimiter = ',', long_help = against_help())]
    against: Vec<String>,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Also write the answer as a page with a plot
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn against_help() -> String {
    let names: Vec<&str> = policies().collect();
    format!("Policies of others to compare with, with commas between them: {}", names.join(", "))
}

pub(super) fn run(args: &BacktestArgs) -> anyhow::Result<Ended> {
    let changes = Changes::parse(&args.set).map_err(|unknown| Refused(unknown.0))?;
    let against = args.against.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    let request = Request { directory: args.record.clone(), since: args.since, changes, against };
    let bar = progress_bar();
    let mut progress = |read, total| {
        bar.set_length(total);
        bar.set_position(read);
    };
    let report = defib_backtest::run(&request, &mut progress).map_err(|error| match &error {
        // What the operator has to mend: the arguments, or which program is used.
        BacktestError::Unknown(_) | BacktestError::Settings(_) | BacktestError::Recording(_) => {
            anyhow::Error::from(Refused(error.to_string()))
        }
        BacktestError::Nothing(_) => anyhow::Error::from(error),
    })?;
    bar.finish_and_clear();
    let json = serde_json::to_string_pretty(&report)?;
    let report = report.with_texts(printable);
    if let Some(file) = &args.html {
        write(file, &report.html())?;
    }
    match args.format {
        Format::Json => say!("{json}"),
        Format::Table => say!("{}", report.text()),
    }
    Ok(if report.exactness.differing > 0 { Ended::Failed } else { Ended::Well })
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
}

/// On standard error, and only where that is a terminal.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("replaying {bar:40} {bytes}/{total_bytes}, {eta} left");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}
