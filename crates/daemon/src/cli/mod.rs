//! The command line. Exit codes: 0 done, 1 a check or command that failed, 2 bad usage or configuration.

/// `println!` for a pipe that may be closed.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::show::line(format_args!($($text)*)) };
}

/// `eprintln!` for a standard error that may be closed.
macro_rules! complain {
    ($($text:tt)*) => { $crate::cli::show::complain(format_args!($($text)*)) };
}

mod check;
mod contract;
mod docs;
mod explain;
mod operator;
mod show;
mod status;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use defib_store::{Store, StoreError};

use crate::config::{Config, Faults, FewKnobs, RawKnobs, envfile};
use crate::refused::Refused;
use crate::{clock, connect, logging, run};

/// Restarts the workspaces that are really dead, and no others.
#[derive(Debug, Parser)]
#[command(name = "defib", version, about, disable_help_subcommand = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch the fleet: judge, record, restart
    Run(RunArgs),
    /// Create the schema defib, or bring it up to date
    Migrate(DatabaseArgs),
    /// Is everything reachable, permitted and sanely tuned?
    Check(CheckArgs),
    /// The fleet with its verdicts
    Status(StatusArgs),
    /// A workspace's timeline: evidence, verdicts, restarts, and why
    Explain(ExplainArgs),
    /// Ask for a look at a workspace, as a proxy does
    Suspect(SuspectArgs),
    /// Hold restarts for the fleet, an engine or a workspace
    Hold(HoldArgs),
    /// Release holds
    Release(ReleaseArgs),
    /// Acknowledge an exhausted workspace: its attempts no longer count
    Ack(AckArgs),
    /// Print an environment file that documents every knob
    #[command(hide = true)]
    HelpEnv,
    /// Print the tables of the README
    #[command(hide = true)]
    HelpDocs {
        /// Which
        #[arg(value_enum)]
        table: DocsTable,
    },
}

/// A table that the README holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DocsTable {
    Knobs,
    Metrics,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Bring the schema up to date first
    #[arg(long)]
    migrate: bool,
    #[command(flatten)]
    knobs: RawKnobs,
}

#[derive(Debug, Args)]
struct DatabaseArgs {
    #[command(flatten)]
    knobs: FewKnobs,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    knobs: RawKnobs,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Only those that are not alive
    #[arg(long)]
    troubled: bool,
    #[command(flatten)]
    knobs: FewKnobs,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// The workspace's id
    workspace: String,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Entries of each kind, newest
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    #[command(flatten)]
    knobs: FewKnobs,
}

#[derive(Debug, Args)]
struct SuspectArgs {
    /// The workspace's id
    workspace: String,
    /// Why
    #[arg(long)]
    reason: String,
    /// Who says so; default: operator:USER
    #[arg(long)]
    reporter: Option<String>,
    /// The status that a request got
    #[arg(long)]
    http_status: Option<i32>,
    #[command(flatten)]
    knobs: FewKnobs,
}

/// What a hold covers: exactly one of the three.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ScopeArgs {
    /// Everything
    #[arg(long)]
    fleet: bool,
    /// All workspaces of this engine
    #[arg(long)]
    engine: Option<String>,
    /// This workspace
    workspace: Option<String>,
}

#[derive(Debug, Args)]
struct HoldArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// For how long, such as 2h; without it until it is released
    #[arg(long = "for", value_name = "DURATION", value_parser = hold_duration)]
    duration: Option<Duration>,
    /// Why
    #[arg(long)]
    reason: String,
    /// Who; default: the user
    #[arg(long)]
    owner: Option<String>,
    #[command(flatten)]
    knobs: FewKnobs,
}

#[derive(Debug, Args)]
struct ReleaseArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    knobs: FewKnobs,
}

#[derive(Debug, Args)]
struct AckArgs {
    /// The workspace's id
    workspace: String,
    #[command(flatten)]
    knobs: FewKnobs,
}

/// What `defib release` ends nobody needs for longer.
const HOLD_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

fn hold_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration < Duration::from_secs(1) || duration > HOLD_MAX {
        return Err("give 1s to 10years, or leave --for out: then it stands until it is released".to_owned());
    }
    Ok(duration)
}

/// How a command ended, when it was not refused and nothing broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Well,
    /// A check failed, or what was asked for does not exist.
    Failed,
}

/// Runs the command line.
pub(crate) fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _failpoints = fail::FailScenario::setup(); // reads FAILPOINTS
    // Clap prints usage errors itself and exits with 2.
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain!("defib: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(dispatch(cli.command)) {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Ok(Ended::Failed) => ExitCode::FAILURE,
        Err(error) => {
            if let Some(faults) = error.downcast_ref::<Faults>() {
                complain!("{faults}");
                return ExitCode::from(2);
            }
            let no_schema = error.downcast_ref::<StoreError>().is_some_and(|error| error.kind() == "schema");
            let hint = if no_schema { ": run `defib migrate` first, and then `defib check`" } else { "" };
            complain!("defib: {}{hint}", logging::chain(error.as_ref()));
            if error.downcast_ref::<Refused>().is_some() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

async fn dispatch(command: Command) -> anyhow::Result<Ended> {
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    match command {
        Command::Run(args) => {
            let config = args.knobs.check(&environment)?;
            logging::start(&config.log, config.log_format);
            run::run(config, args.migrate).await?;
            Ok(Ended::Well)
        }
        Command::Check(args) => {
            let config: Config = args.knobs.check(&environment)?;
            check::run(&config).await
        }
        Command::Migrate(args) => operator::migrate(&connect(&args.knobs, &environment)?).await,
        Command::Status(args) => {
            let few = args.knobs.check(&environment)?;
            let store = connect::store(&few.database_url, "defib status", clock::monotonic())?;
            status::run(&store, &few.watched_statuses, args.format, args.troubled).await
        }
        Command::Explain(args) => {
            let few = args.knobs.check(&environment)?;
            let store = connect::store(&few.database_url, "defib explain", clock::monotonic())?;
            explain::run(&store, &few.watched_statuses, &args.workspace, args.format, args.limit).await
        }
        Command::Suspect(args) => operator::suspect(&connect(&args.knobs, &environment)?, &args).await,
        Command::Hold(args) => operator::hold(&connect(&args.knobs, &environment)?, &args).await,
        Command::Release(args) => operator::release(&connect(&args.knobs, &environment)?, &args).await,
        Command::Ack(args) => operator::acknowledge(&connect(&args.knobs, &environment)?, &args.workspace).await,
        Command::HelpEnv => {
            say!("{}", envfile().trim_end_matches('\n'));
            Ok(Ended::Well)
        }
        Command::HelpDocs { table } => {
            let table = if table == DocsTable::Knobs { docs::knobs() } else { docs::metrics() };
            say!("{}", table.trim_end_matches('\n'));
            Ok(Ended::Well)
        }
    }
}

fn connect(knobs: &FewKnobs, environment: &[(OsString, OsString)]) -> anyhow::Result<Store> {
    let few = knobs.check(environment)?;
    Ok(connect::store(&few.database_url, "defib command", clock::monotonic())?)
}
