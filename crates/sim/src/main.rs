//! `defib-sim`: incidents, chaos years and reports from the command line.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use defib_sim::catalogue;
use defib_sim::chaos::{self, Climate};
use defib_sim::report::{self, Effort};
use defib_sim::scenario::{self, Policy, Scenario};
use defib_sim::schedules::{self, Schedules};
use defib_sim::time::secs;
use defib_sim::weakening::Weakening;

/// The production policy of defib in a simulated world.
#[derive(Parser)]
#[command(name = "defib-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the incidents.
    List,
    /// Measures simulated workspace-seconds per wall second.
    Bench {
        /// Size of the fleet.
        #[arg(long, default_value_t = 100)]
        workspaces: usize,
        /// Engines.
        #[arg(long, default_value_t = 5)]
        engines: usize,
        /// Simulated hours.
        #[arg(long, default_value_t = 200)]
        hours: u64,
    },
    /// Runs every policy through everything and writes a report with plots.
    Report(ReportArgs),
    /// Draws faults for years; exits with 1 when an invariant fails.
    Chaos(ChaosArgs),
    /// Runs incidents; exits with 1 when an oracle fails.
    Run(RunArgs),
    /// Walks through schedules of several replicas; exits with 1 when an incarnation is restarted twice, or worse.
    Schedules(SchedulesArgs),
}

#[derive(Args)]
struct SchedulesArgs {
    /// Replicas at a time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    replicas: u8,
    /// Steps in all.
    #[arg(long, default_value_t = 1_000_000)]
    steps: u64,
    /// Where chance begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A rule that is left out, as its name is written in the source: the walk must notice.
    #[arg(long)]
    without: Option<String>,
    /// Prints what led to the violation.
    #[arg(long)]
    trace: bool,
}

#[derive(Args)]
struct ReportArgs {
    /// Directory to write to.
    #[arg(long)]
    out: std::path::PathBuf,
    /// Seeds of each incident for defib.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// Seeds of each incident for the other policies.
    #[arg(long, default_value_t = 50)]
    seeds_of_others: u64,
    /// Days of chaos.
    #[arg(long, default_value_t = 30)]
    chaos_days: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct ChaosArgs {
    /// How many years, each from a seed of its own.
    #[arg(long, default_value_t = 1)]
    years: u64,
    /// Days of a year.
    #[arg(long, default_value_t = 365)]
    days: u64,
    /// The seed of the first year.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Mean seconds between two faults.
    #[arg(long, default_value_t = 600)]
    fault_every: u64,
    /// Who is on trial.
    #[arg(long, default_value = "defib")]
    policy: String,
    /// Prints the timeline, or of one workspace.
    #[arg(long)]
    trace: bool,
    /// Years that are lived through at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Failures printed for each year.
    #[arg(long, default_value_t = 10)]
    show: usize,
}

#[derive(Args)]
struct RunArgs {
    /// The incident, such as S24.
    #[arg(long)]
    scenario: Option<String>,
    /// All of them.
    #[arg(long, conflicts_with = "scenario")]
    all: bool,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Who is on trial.
    #[arg(long, default_value = "defib")]
    policy: String,
    /// Prints the timeline.
    #[arg(long)]
    trace: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let passed = match &cli.command {
        Command::List => {
            for scenario in catalogue::ALL.iter().chain(catalogue::CONTROL_PLANES) {
                println!("{}  {:<38} {}", scenario.id, scenario.name, scenario.story);
            }
            true
        }
        Command::Bench { workspaces, engines, hours } => {
            let speed = defib_sim::bench::speed(*workspaces, *engines, *hours);
            println!("{speed:.0} workspace-seconds per second ({workspaces} workspaces, {engines} engines, {hours} h)");
            true
        }
        Command::Report(args) => {
            report(args)?;
            true
        }
        Command::Chaos(args) => chaos(args)?,
        Command::Run(args) => run(args)?,
        Command::Schedules(args) => schedules(args)?,
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn report(args: &ReportArgs) -> anyhow::Result<()> {
    let ReportArgs { out, seeds, seeds_of_others, chaos_days, seed } = args;
    let effort = Effort { seeds: *seeds, seeds_of_others: *seeds_of_others, chaos_days: *chaos_days, seed: *seed };
    let command = format!(
        "defib-sim report --out {} --seeds {seeds} --seeds-of-others {seeds_of_others} --chaos-days {chaos_days} --seed {seed}",
        out.display()
    );
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    for (name, text) in report::make(effort, &command, |policy| eprintln!("{policy} …")) {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn chaos(args: &ChaosArgs) -> anyhow::Result<bool> {
    let Some(policy) = Policy::named(&args.policy) else { anyhow::bail!("no policy is called {}", args.policy) };
    let next = AtomicU64::new(args.seed);
    let passed = AtomicBool::new(true);
    // Each world is one thread's; years are independent.
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= args.seed + args.years {
                        break;
                    }
                    let (text, kept) = chaos_year(args, seed, policy);
                    print!("{text}");
                    passed.fetch_and(kept, Ordering::Relaxed);
                }
            });
        }
    });
    Ok(passed.into_inner())
}

fn chaos_year(args: &ChaosArgs, seed: u64, policy: Policy) -> (String, bool) {
    let climate = Climate { fault_every: secs(args.fault_every), ..Climate::of_days(args.days) };
    let years = chaos::live(climate, seed, policy, args.trace);
    let chronicle = &years.world.chronicle;
    let mut text = if args.trace { years.world.timeline() } else { String::new() };
    let _ = writeln!(
        text,
        "seed {seed}: {} days, {} faults, {} deaths, {} restarts, {} mistakes, {} failures",
        args.days,
        years.faults,
        chronicle.losses.len(),
        chronicle.restarts.len(),
        chronicle.mistakes().count(),
        years.failures.len()
    );
    for failure in years.failures.iter().take(args.show) {
        let _ = writeln!(text, "       {failure}");
    }
    (text, years.failures.is_empty())
}

fn schedules(args: &SchedulesArgs) -> anyhow::Result<bool> {
    let named = |name: &String| {
        let found = Weakening::ALL.into_iter().find(|weakening| format!("{weakening:?}") == *name);
        found.with_context(|| format!("no rule is called {name}: {:?}", Weakening::ALL))
    };
    let weakening = args.without.as_ref().map(named).transpose()?;
    let replicas = usize::from(args.replicas);
    let walked = schedules::explore(&Schedules { replicas, steps: args.steps, seed: args.seed, weakening });
    println!("{}", walked.summary(replicas, args.seed));
    let Some(violation) = &walked.violation else { return Ok(true) };
    println!("NEVER: {}", violation.what);
    if args.trace {
        violation.trace.iter().for_each(|line| println!("{line}"));
    }
    Ok(false)
}

fn run(args: &RunArgs) -> anyhow::Result<bool> {
    let Some(policy) = Policy::named(&args.policy) else { anyhow::bail!("no policy is called {}", args.policy) };
    let chosen: Vec<&Scenario> = match &args.scenario {
        Some(id) => match catalogue::find(id) {
            Some(scenario) => vec![scenario],
            None => anyhow::bail!("no scenario is called {id}"),
        },
        None if args.all => catalogue::ALL.iter().chain(catalogue::CONTROL_PLANES).collect(),
        None => anyhow::bail!("give --scenario or --all"),
    };
    let mut passed = true;
    for scenario in chosen {
        passed &= run_one(scenario, args, policy);
    }
    Ok(passed)
}

fn run_one(scenario: &Scenario, args: &RunArgs, policy: Policy) -> bool {
    let (mut failed, mut left, mut first) = (0_u64, 0_u64, None);
    for seed in args.seed..args.seed + args.seeds {
        let run = scenario::run(scenario, seed, policy, args.trace);
        if args.trace {
            print!("{}", run.world.timeline());
        }
        left += u64::from(!run.left_to_the_platform.is_empty());
        if !run.failures.is_empty() {
            failed += 1;
            first.get_or_insert((seed, run.failures));
        }
    }
    match first {
        None if left > 0 => println!(
            "{}  ok      {} ({} seeds; in {left} of them a removed container was left to the platform)",
            scenario.id, scenario.name, args.seeds
        ),
        None => println!("{}  ok      {} ({} seeds)", scenario.id, scenario.name, args.seeds),
        Some((seed, failures)) => {
            println!(
                "{}  FAILED  {} ({failed} of {} seeds; first: --seed {seed})",
                scenario.id, scenario.name, args.seeds
            );
            for failure in failures.iter().take(5) {
                println!("       {failure}");
            }
        }
    }
    failed == 0
}
