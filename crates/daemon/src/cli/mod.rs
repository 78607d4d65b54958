//! The command line. Exit codes: 0 done, 1 a check or command that failed, 2 bad usage or configuration.

/// `println!` for a pipe that may be closed.
macro_rules! say {
    ($($text:tt)*) => { $crate::told::show::line(format_args!($($text)*)) };
}

/// `eprintln!` for a standard error that may be closed.
macro_rules! complain {
    ($($text:tt)*) => { $crate::told::show::complain(format_args!($($text)*)) };
}

mod backtest;
mod check;
mod contract;
mod docs;
mod findings;
mod manual;
mod mapping;
mod notify;
mod operator;
mod view;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use defib_store::{Store, StoreError};

use crate::config::{Config, Faults, FewKnobs, RawKnobs, envfile};
use crate::refused::Refused;
use crate::{clock, connect, logging, run};

/// Restarts the workspaces that are really dead, and no others.
#[derive(Debug, Parser)]
#[command(name = "defib", version = env!("VERSION_AND_COMMIT"), about, disable_help_subcommand = true, max_term_width = 110)]
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
    /// Restart a workspace now, whatever its verdict is; the owner of its engine does it, and the ledger says who asked
    Restart(RestartArgs),
    /// What can be done about a storm (many deaths at once)
    Storm {
        /// What
        #[command(subcommand)]
        command: StormCommand,
    },
    /// Replay a recording: what the policy would have done with other settings, and what other policies would have done
    Backtest(backtest::BacktestArgs),
    /// Test the webhook, or turn it on again
    Notify {
        /// What
        #[command(subcommand)]
        command: NotifyCommand,
    },
    /// Print an environment file that documents every knob
    #[command(hide = true)]
    HelpEnv,
    /// Print a generated table of the documentation
    #[command(hide = true)]
    HelpDocs {
        /// Which
        #[arg(value_enum)]
        table: DocsTable,
    },
    /// Write the man pages and the completions for bash, zsh and fish
    #[command(hide = true)]
    HelpFiles {
        /// The folder to write to; it is made if it does not exist
        folder: PathBuf,
    },
}

/// A table that a page of the documentation holds.
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
    /// Fail on warnings too
    #[arg(long)]
    strict: bool,
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
    /// Only these workspaces
    workspaces: Vec<String>,
    /// Only those with this verdict (may be given several times)
    #[arg(long, value_parser = verdict_words())]
    verdict: Vec<String>,
    /// Only those on this engine (may be given several times)
    #[arg(long)]
    engine: Vec<String>,
    /// Only those in trouble: neither alive nor busy nor settling, or not judged although they should be
    #[arg(long)]
    troubled: bool,
    /// Repeat until interrupted [default: every 2s]
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = view::WATCH_EVERY,
          value_parser = watch_duration)]
    watch: Option<Duration>,
    /// Exit with 1 if any workspace shown is in trouble
    #[arg(long, conflicts_with = "watch")]
    exit_code: bool,
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
    /// How many entries of each kind, the newest ones
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
    /// The HTTP status that a request got
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
    /// For how long, such as 2h; leave it out to hold until `defib release`
    #[arg(long = "for", value_name = "DURATION", value_parser = hold_duration)]
    duration: Option<Duration>,
    /// Why
    #[arg(long)]
    reason: String,
    /// Who; default: the user
    #[arg(long)]
    owner: Option<String>,
    /// Hold even if nothing of that name exists yet
    #[arg(long)]
    force: bool,
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

#[derive(Debug, Args)]
struct RestartArgs {
    /// The workspace's id
    workspace: String,
    /// Why
    #[arg(long)]
    reason: String,
    /// Restart even if a hold stands or the status is not watched; what is suspended is refused even so
    #[arg(long)]
    force: bool,
    /// How long to wait for the outcome
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = wait_duration)]
    wait: Duration,
    #[command(flatten)]
    knobs: FewKnobs,
}

#[derive(Debug, Subcommand)]
enum StormCommand {
    /// End the storm on an engine: its dead are restarted at once, without small batches that are verified one by one
    End(StormEndArgs),
}

/// Whose storm: exactly one of the two.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct StormScopeArgs {
    /// The engine
    engine: Option<String>,
    /// The storm of the whole fleet
    #[arg(long)]
    fleet: bool,
}

#[derive(Debug, Args)]
struct StormEndArgs {
    #[command(flatten)]
    scope: StormScopeArgs,
    /// Why
    #[arg(long)]
    reason: String,
    /// How long to wait for the daemon's answer
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = wait_duration)]
    wait: Duration,
    #[command(flatten)]
    knobs: FewKnobs,
}

#[derive(Debug, Subcommand)]
enum NotifyCommand {
    /// Send a message of the type notify.test, and say what comes back. Needs the knobs of `defib run`
    Test(NotifyTestArgs),
    /// Send again now, although the receiver has answered 410 or a pause is not over
    Resume(DatabaseArgs),
}

#[derive(Debug, Args)]
struct NotifyTestArgs {
    #[command(flatten)]
    knobs: RawKnobs,
}

/// The verdicts, and the words for those who have none.
fn verdict_words() -> Vec<&'static str> {
    let verdicts = defib_policy::verdict::Verdict::ALL.iter().map(|verdict| verdict.label());
    verdicts.chain(["suspended", "not-watched", "not-judged"]).collect()
}

/// The longest time for `--for`. Leave it out to hold until `defib release`.
const HOLD_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

fn hold_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration < Duration::from_secs(1) || duration > HOLD_MAX {
        return Err("give 1s to 10years, or leave --for out: then it stands until it is released".to_owned());
    }
    Ok(duration)
}

fn watch_duration(text: &str) -> Result<Duration, String> {
    bounded(text, Duration::from_millis(200), Duration::from_secs(3_600))
}

fn wait_duration(text: &str) -> Result<Duration, String> {
    bounded(text, Duration::from_millis(200), Duration::from_secs(86_400))
}

fn bounded(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    Err(format!("give {} to {}", humantime::format_duration(least), humantime::format_duration(most)))
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
            complain!("defib: {}{}", logging::chain(error.as_ref()), error.downcast_ref().map_or("", remedy));
            if error.downcast_ref::<Refused>().is_some() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// What to do about an error of the database, where that is known.
fn remedy(error: &StoreError) -> &'static str {
    match error {
        StoreError::NewerSchema { .. } => ": a newer defib was here, so start a newer defib",
        error if error.kind() == "schema" => ": run `defib migrate` first, and then `defib check`",
        StoreError::Migrate(_) if error.kind() == "permission" => {
            ": migrate as the owner of the schema defib, or as a login that may create schemas in this database"
        }
        error if error.kind() == "connect" => {
            ": is DEFIB_DATABASE_URL right, and does the server run? `defib check` says more"
        }
        error if error.kind() == "permission" => {
            ": this login lacks the role for it. defib_operator may hold, release, ack, suspect and restart; defib_viewer may read (status, explain); grant it, \
             as in `grant defib_viewer to <login>`"
        }
        _ => "",
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
            check::run(&config, args.strict).await
        }
        Command::Migrate(args) => operator::migrate(&connect(&args.knobs, &environment)?).await,
        Command::Status(args) => view::status(&connect(&args.knobs, &environment)?, &args).await,
        Command::Explain(args) => view::explain(&connect(&args.knobs, &environment)?, &args).await,
        Command::Suspect(args) => operator::suspect(&connect(&args.knobs, &environment)?, &args).await,
        Command::Hold(args) => operator::hold(&connect(&args.knobs, &environment)?, &args).await,
        Command::Release(args) => operator::release(&connect(&args.knobs, &environment)?, &args).await,
        Command::Ack(args) => operator::acknowledge(&connect(&args.knobs, &environment)?, &args).await,
        Command::Restart(args) => operator::restart(&connect(&args.knobs, &environment)?, &args).await,
        Command::Storm { command: StormCommand::End(args) } => {
            operator::end_storm(&connect(&args.knobs, &environment)?, &args).await
        }
        Command::Backtest(args) => backtest::run(&args),
        Command::Notify { command: NotifyCommand::Test(args) } => notify::test(&args.knobs.check(&environment)?).await,
        Command::Notify { command: NotifyCommand::Resume(args) } => {
            notify::resume(&connect(&args.knobs, &environment)?).await
        }
        Command::HelpEnv => {
            say!("{}", envfile().trim_end_matches('\n'));
            Ok(Ended::Well)
        }
        Command::HelpDocs { table } => {
            let table = if table == DocsTable::Knobs { docs::knobs() } else { docs::metrics() };
            say!("{}", table.trim_end_matches('\n'));
            Ok(Ended::Well)
        }
        Command::HelpFiles { folder } => {
            manual::write_files(&folder, &Cli::command())?;
            Ok(Ended::Well)
        }
    }
}

fn connect(knobs: &FewKnobs, environment: &[(OsString, OsString)]) -> anyhow::Result<Store> {
    let few = knobs.check(environment)?;
    Ok(connect::store(&few.database_url, "defib command", clock::monotonic())?)
}
