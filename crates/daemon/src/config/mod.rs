//! Configuration: read once from flags and the environment, checked as a whole, and typed from then on.
//!
//! All faults are collected before any is printed, so that an operator can correct them in one go. An unknown variable that starts with
//! `DEFIB_` is a fault too: if a misspelt knob were ignored, the fleet would be restarted by a default that nobody chose.

pub(crate) mod knobs;
mod parse;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use defib_engine::{EngineUrl, RestartBy};
use defib_policy::id::EngineName;
use defib_policy::settings::{Action, Mode, OnExit0, Settings};

use self::knobs::{KNOBS, Kind, Knob};
use self::parse::Reader;
use crate::cache::{Address, Pattern};
use crate::hosts::Hosts;
use crate::webhook::settings::Webhook;

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Auto,
    Text,
    Json,
}

/// Everything that `defib run` is told.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) database_url: Secret,
    pub(crate) listen_database_url: Secret,
    pub(crate) engines: Vec<(EngineName, EngineUrl)>,
    /// The tokens by which control planes know us.
    pub(crate) engine_tokens: BTreeMap<EngineName, Secret>,
    /// The address of the platform's own restart, and the token for it. The address may hold secrets as well.
    pub(crate) platform_url: Option<Secret>,
    pub(crate) platform_token: Option<Secret>,
    pub(crate) restart_by: RestartBy,
    /// Which keys of a dead workspace are deleted, and where.
    pub(crate) evict: Option<Evict>,
    pub(crate) workspace_label: String,
    pub(crate) engine_timeout: Duration,
    pub(crate) watched_statuses: Vec<String>,
    /// How often all rows of the fleet are read.
    pub(crate) resync_interval: Duration,
    /// Rows of the fleet, at most.
    pub(crate) fleet_max: usize,
    pub(crate) policy: Settings,
    pub(crate) webhook: Option<Webhook>,
    pub(crate) restart_concurrency: usize,
    pub(crate) capture_log_lines: u32,
    pub(crate) restart_timeout: Duration,
    pub(crate) stop_grace: Duration,
    pub(crate) lease_ttl: Duration,
    pub(crate) replica_id: String,
    pub(crate) listen_addr: SocketAddr,
    /// Whether there is a status page.
    pub(crate) ui: bool,
    /// The names by which it may be asked for.
    pub(crate) ui_hosts: Hosts,
    /// Where the flight recorder writes; `None`: nothing is recorded.
    pub(crate) record_dir: Option<String>,
    /// How large its recording may become, in bytes.
    pub(crate) record_max: u64,
    pub(crate) retention: Duration,
    pub(crate) suspicion_retention: Duration,
    pub(crate) auto_migrate: bool,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
}

/// Which keys of a dead workspace are deleted, and where.
#[derive(Clone, Debug)]
pub(crate) struct Evict {
    /// `DEFIB_REDIS_URL`
    pub(crate) redis: Address,
    /// `DEFIB_REDIS_EVICT`
    pub(crate) patterns: Vec<Pattern>,
}

/// Everything that is wrong with the configuration.
#[derive(Debug, Default)]
pub(crate) struct Faults(pub(crate) Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            write!(f, "{}defib: {fault}", if n == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// The knobs as they were given, before they are checked. A flag wins over a variable, and an empty variable counts as unset.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawKnobs(BTreeMap<&'static str, Given>);

/// One given value, and where it came from.
#[derive(Clone, Debug)]
struct Given {
    value: OsString,
    by_flag: bool,
}

impl FromArgMatches for RawKnobs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut raw = Self::default();
        raw.update_from_arg_matches(matches)?;
        Ok(raw)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for knob in KNOBS {
            if let Ok(Some(value)) = matches.try_get_one::<OsString>(knob.name) {
                let by_flag = matches.value_source(knob.name) == Some(clap::parser::ValueSource::CommandLine);
                if by_flag || !value.is_empty() {
                    self.0.insert(knob.name, Given { value: value.clone(), by_flag });
                }
            }
        }
        Ok(())
    }
}

impl Args for RawKnobs {
    fn augment_args(command: Command) -> Command {
        KNOBS.iter().fold(command, |command, knob| command.arg(argument(knob)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The clap argument of a knob. It accepts any value, because clap would stop at the first bad one.
fn argument(knob: &Knob) -> Arg {
    let default = knob.default.map_or_else(String::new, |default| format!(" [default: {default}]"));
    let bounds = knob.bounds();
    let bounds = if bounds.is_empty() { bounds } else { format!(" [{bounds}]") };
    Arg::new(knob.name)
        .long(knob.flag())
        .env(knob.variable())
        .hide_env_values(true)
        .value_name(match knob.kind {
            Kind::Duration { .. } => "DURATION",
            Kind::Integer { .. } | Kind::Fraction => "NUMBER",
            Kind::Choice(_) => "WORD",
            Kind::List => "LIST",
            Kind::Engines => "ENGINES",
            Kind::Address => "ADDRESS",
            Kind::Bytes { .. } => "BYTES",
            Kind::Text => "TEXT",
            Kind::Secret => "SECRET",
        })
        .value_parser(clap::builder::OsStringValueParser::new())
        .help_heading(knob.group.heading())
        .help(format!("{}{default}{bounds}", knob.help))
}

impl RawKnobs {
    /// Checks all knobs and converts them to types.
    ///
    /// # Errors
    /// Every fault at once.
    pub(crate) fn check(&self, environment: &[(OsString, OsString)]) -> Result<Config, Faults> {
        let mut read = Reader::new(self, environment);
        read.refuse_unknown_variables();
        let database_url = read.database_url();
        let listen_database_url = read.secret("LISTEN_DATABASE_URL");
        let engines = read.engines("ENGINES");
        let engine_tokens = read.engine_tokens(&engines);
        let policy = Settings {
            poll_interval: read.duration("POLL_INTERVAL"),
            heartbeat_interval: read.duration("HEARTBEAT_INTERVAL"),
            recent_min: read.duration("RECENT_MIN"),
            recent_max: read.duration("RECENT_MAX"),
            dead_threshold: read.integer("DEAD_THRESHOLD"),
            dead_window: read.duration("DEAD_WINDOW"),
            probe_spacing: read.duration("PROBE_SPACING"),
            probe_ttl: read.duration("PROBE_TTL"),
            probe_map_max: read.integer("PROBE_MAP_MAX"),
            missing_grace: read.duration("MISSING_GRACE"),
            busy_grace: read.duration("BUSY_GRACE"),
            wedged_after: read.duration("WEDGED_AFTER"),
            wedged_action: action(&read.word("WEDGED_ACTION")),
            unhealthy_action: action(&read.word("UNHEALTHY_ACTION")),
            settle: read.duration("SETTLE"),
            backoff_initial: read.duration("BACKOFF_INITIAL"),
            backoff_max: read.duration("BACKOFF_MAX"),
            backoff_reset: read.duration("BACKOFF_RESET"),
            exhausted_after: read.integer("EXHAUSTED_AFTER"),
            exhausted_retry: read.duration("EXHAUSTED_RETRY"),
            storm_fraction: read.fraction("STORM_FRACTION"),
            storm_min: read.integer("STORM_MIN"),
            storm_cooldown: read.duration("STORM_COOLDOWN"),
            mode: if read.word("MODE") == "observe" { Mode::Observe } else { Mode::Enforce },
            on_exit_0: OnExit0::default(),
        };
        let listen_addr = read.address("LISTEN_ADDR");
        let (resync_interval, resync_given) = (read.duration("RESYNC_INTERVAL"), read.is_given("RESYNC_INTERVAL"));
        let config = Config {
            listen_database_url: listen_database_url.or_else(|| database_url.clone()).unwrap_or(Secret(String::new())),
            database_url: database_url.unwrap_or(Secret(String::new())),
            engines,
            engine_tokens,
            platform_url: read.text("PLATFORM_URL").map(Secret),
            platform_token: read.secret("PLATFORM_TOKEN"),
            restart_by: if read.word("RESTART_BY") == "platform" { RestartBy::Platform } else { RestartBy::Engine },
            evict: read.evict(),
            workspace_label: read.label("WORKSPACE_LABEL"),
            engine_timeout: read.duration("ENGINE_TIMEOUT"),
            watched_statuses: read.list("WATCHED_STATUSES"),
            resync_interval: if resync_given { resync_interval } else { resync_interval.max(policy.poll_interval) },
            fleet_max: read.integer("FLEET_MAX"),
            webhook: read.webhook(),
            restart_concurrency: read.integer("RESTART_CONCURRENCY"),
            capture_log_lines: read.integer("CAPTURE_LOG_LINES"),
            restart_timeout: read.duration("RESTART_TIMEOUT"),
            stop_grace: read.duration("STOP_GRACE"),
            lease_ttl: read.duration("LEASE_TTL"),
            replica_id: read.text("REPLICA_ID").unwrap_or_else(replica_id),
            listen_addr,
            ui: match read.word("UI").as_str() {
                "on" => true,
                "off" => false,
                // Any other address may be reached by anybody, and the page has no login.
                _ => listen_addr.ip().is_loopback(),
            },
            ui_hosts: read.hosts("UI_HOSTS"),
            record_dir: read.text("RECORD_DIR"),
            record_max: read.bytes("RECORD_MAX"),
            retention: read.duration("RETENTION"),
            suspicion_retention: read.duration("SUSPICION_RETENTION"),
            auto_migrate: read.word("AUTO_MIGRATE") == "true",
            log: read.log_filter("LOG"),
            log_format: match read.word("LOG_FORMAT").as_str() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => LogFormat::Auto,
            },
            policy,
        };
        let mut faults = read.into_faults();
        if faults.is_empty() {
            faults = config.policy.faults();
            faults.extend(config.forgets_too_soon());
            faults.extend(config.resyncs_too_often());
            faults.extend(config.lacks_a_platform().map(str::to_owned));
        }
        if faults.is_empty() { Ok(config) } else { Err(Faults(faults)) }
    }
}

impl Config {
    fn lacks_a_platform(&self) -> Option<&'static str> {
        if self.platform_url.is_some() {
            None
        } else if self.restart_by == RestartBy::Platform {
            Some("DEFIB_RESTART_BY=platform needs DEFIB_PLATFORM_URL, the address of the platform's own restart")
        } else {
            self.platform_token
                .as_ref()
                .map(|_| "DEFIB_PLATFORM_TOKEN is of no use without DEFIB_PLATFORM_URL, the address that it is for")
        }
    }

    /// The fleet is read with polls, so all rows cannot be read more often than it is polled.
    fn resyncs_too_often(&self) -> Option<String> {
        (self.resync_interval < self.policy.poll_interval).then(|| {
            format!(
                "DEFIB_RESYNC_INTERVAL={} is shorter than DEFIB_POLL_INTERVAL={}: all rows cannot be read more often than the fleet is polled",
                humantime::format_duration(self.resync_interval),
                humantime::format_duration(self.policy.poll_interval),
            )
        })
    }

    /// Back-off and exhaustion are derived from closed attempts, so these must be kept for as long as the derivation looks back.
    fn forgets_too_soon(&self) -> Option<String> {
        let needed = self.policy.attempts_horizon();
        (self.retention < needed).then(|| {
            format!(
                "DEFIB_RETENTION={} is shorter than {}, for which the back-off needs closed attempts (DEFIB_BACKOFF_RESET and twice the \
                 longer of DEFIB_EXHAUSTED_RETRY and DEFIB_BACKOFF_MAX): attempts would be forgotten while they still count",
                humantime::format_duration(self.retention),
                humantime::format_duration(needed),
            )
        })
    }
}

/// What commands need that only read the tables.
#[derive(Clone, Debug)]
pub(crate) struct Few {
    pub(crate) database_url: Secret,
}

/// The knobs of those commands.
#[derive(Clone, Debug, Default)]
pub(crate) struct FewKnobs(RawKnobs);

const FEW: [&str; 1] = ["DATABASE_URL"];

impl FromArgMatches for FewKnobs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(RawKnobs::from_arg_matches(matches)?))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Args for FewKnobs {
    fn augment_args(command: Command) -> Command {
        KNOBS.iter().filter(|knob| FEW.contains(&knob.name)).fold(command, |command, knob| command.arg(argument(knob)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FewKnobs {
    /// Checks the knobs of such a command.
    ///
    /// # Errors
    /// Every fault at once.
    pub(crate) fn check(&self, environment: &[(OsString, OsString)]) -> Result<Few, Faults> {
        let mut read = Reader::new(&self.0, environment);
        read.refuse_unknown_variables();
        let database_url = read.database_url();
        let faults = read.into_faults();
        match database_url {
            Some(database_url) if faults.is_empty() => Ok(Few { database_url }),
            _ => Err(Faults(faults)),
        }
    }
}

/// An environment file that documents every knob: `deploy/defib.env`.
pub(crate) fn envfile() -> String {
    let mut text = String::from(
        "# The environment of `defib run`: every knob, with its default. Uncomment what you change.\n\
         # Durations are written 500ms, 5s, 2m, 1h, 7d. A bad value or an unknown DEFIB_ variable stops the start with a line \
         that names it.\n\
         # Made by `make env-file`; tests/tests/deploy.rs compares it with the program.\n",
    );
    let mut group = None;
    // Writing to a String cannot fail.
    for knob in KNOBS {
        if group != Some(knob.group) {
            group = Some(knob.group);
            let _ = writeln!(text, "\n# --- {} ---", knob.group.heading());
        }
        let bounds = knob.bounds();
        let bounds = if bounds.is_empty() { bounds } else { format!(" [{bounds}]") };
        let line = match knob.name {
            "DATABASE_URL" => format!("{}=postgres://defib:CHANGE-ME@127.0.0.1:5432/platform", knob.variable()),
            _ => format!("#{}={}", knob.variable(), knob.default.unwrap_or_default()),
        };
        let _ = writeln!(text, "\n# {}{bounds}\n{line}", knob.help);
    }
    text
}

fn action(word: &str) -> Action {
    match word {
        "restart" => Action::Restart,
        "ignore" => Action::Ignore,
        _ => Action::Report,
    }
}

/// Host name and process id: unique while the process lives, and readable in the ledger.
fn replica_id() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("{}-{}", if host.is_empty() { "defib" } else { host }, std::process::id())
}

#[cfg(test)]
mod tests;
