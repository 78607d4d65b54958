//! Every knob, declared once: the flag, the variable, the default, the bounds, the help text. `--help`, the validation, the table in
//! `docs/configuration.md` and `deploy/defib.env` are all made from this table or tested against it.
//!
//! The file is long because it is this table.

use std::time::Duration;

/// One knob of `defib run`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Knob {
    /// The variable without its `DEFIB_`.
    pub(crate) name: &'static str,
    /// What it accepts.
    pub(crate) kind: Kind,
    /// The text that stands in for an unset variable; `None` for one that has no default or a computed one.
    pub(crate) default: Option<&'static str>,
    /// What it does, for an operator.
    pub(crate) help: &'static str,
    /// Heading in `--help` and in the environment file.
    pub(crate) group: Group,
}

/// The kinds of values, with their bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// `500ms`, `5s`, `2m`, `1h`, `7d`.
    Duration { min: Duration, max: Duration },
    /// A whole number.
    Integer { min: u64, max: u64 },
    /// A number from 0 to 1.
    Fraction,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// Words with commas between them.
    List,
    /// `name=url,…`
    Engines,
    /// `host:port`
    Address,
    /// `512MiB`, `1GiB`.
    Bytes { min: u64, max: u64 },
    /// Any text.
    Text,
    /// Any text, never printed, and also accepted from the file that `…_FILE` names.
    Secret,
}

/// The parts of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Connections,
    Loop,
    Evidence,
    Restarts,
    Protection,
    Webhook,
    Process,
}

impl Group {
    pub(crate) const fn heading(self) -> &'static str {
        match self {
            Self::Connections => "Connections",
            Self::Loop => "The loop",
            Self::Evidence => "Evidence",
            Self::Restarts => "Restarts",
            Self::Protection => "Protection",
            Self::Webhook => "The webhook",
            Self::Process => "The process",
        }
    }
}

impl Knob {
    /// `DEFIB_POLL_INTERVAL`
    pub(crate) fn variable(&self) -> String {
        format!("DEFIB_{}", self.name)
    }

    /// `poll-interval`
    pub(crate) fn flag(&self) -> String {
        self.name.to_ascii_lowercase().replace('_', "-")
    }

    /// The bounds, for help texts; empty where any value will do.
    pub(crate) fn bounds(&self) -> String {
        match self.kind {
            Kind::Duration { min, max } => format!("{} to {}", short(min), short(max)),
            Kind::Integer { min, max } => format!("{min} to {max}"),
            Kind::Fraction => "0 to 1".to_owned(),
            Kind::Choice(words) => words.join(", "),
            Kind::List => "comma-separated".to_owned(),
            Kind::Engines => "name=url,…".to_owned(),
            Kind::Address => "host:port".to_owned(),
            Kind::Bytes { min, max } => format!("{} to {}", bytes(min), bytes(max)),
            Kind::Text => String::new(),
            Kind::Secret => format!("secret; or the file named by {}_FILE", self.variable()),
        }
    }
}

/// A duration as knobs write it, in the largest unit that divides it.
pub(crate) fn short(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms >= size && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    format!("{ms}ms")
}

/// A number of bytes as knobs write it: the largest unit that divides it.
pub(crate) fn bytes(bytes: u64) -> String {
    for (unit, size) in [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

const fn duration(min_ms: u64, max_s: u64) -> Kind {
    Kind::Duration { min: Duration::from_millis(min_ms), max: Duration::from_secs(max_s) }
}

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
const REPORT: Kind = Kind::Choice(&["report", "restart"]);

const fn knob(group: Group, name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Knob {
    Knob { name, kind, default: Some(default), help, group }
}

const fn bare(group: Group, name: &'static str, kind: Kind, help: &'static str) -> Knob {
    Knob { name, kind, default: None, help, group }
}

/// All of them, in the order of `--help`.
pub(crate) const KNOBS: &[Knob] = &[
    bare(
        Group::Connections,
        "DATABASE_URL",
        Kind::Secret,
        "Postgres, as postgres://user:password@host/database?sslmode=verify-full; required",
    ),
    bare(
        Group::Connections,
        "LISTEN_DATABASE_URL",
        Kind::Secret,
        "Direct connection for LISTEN where DEFIB_DATABASE_URL goes through a transaction pooler; default: the same",
    ),
    bare(
        Group::Connections,
        "ENGINES",
        Kind::Engines,
        "Container engines and control planes; default: default= and DOCKER_HOST, or unix:///var/run/docker.sock",
    ),
    bare(
        Group::Connections,
        "PLATFORM_URL",
        Kind::Text,
        "The platform's own restart, as https://host?preset=NAME or file:///preset.toml; default: none",
    ),
    bare(
        Group::Connections,
        "PLATFORM_TOKEN",
        Kind::Secret,
        "The token by which the platform's own restart knows defib",
    ),
    bare(
        Group::Connections,
        "REDIS_URL",
        Kind::Secret,
        "Redis with the platform's cache, as redis://user:password@host:6379/0, rediss://, cluster+redis:// or sentinel+redis://; default: none",
    ),
    bare(
        Group::Connections,
        "REDIS_EVICT",
        Kind::List,
        "Keys in Redis that are deleted before a dead workspace is restarted, such as ws:{workspace_id},ws:{workspace_id}:url",
    ),
    knob(
        Group::Connections,
        "WORKSPACE_LABEL",
        Kind::Text,
        "defib.workspace",
        "Container label that carries the workspace id, for workspaces without container_ref",
    ),
    knob(
        Group::Connections,
        "ENGINE_TIMEOUT",
        duration(50, 5 * 60),
        "5s",
        "Deadline of one sampling call to an engine",
    ),
    knob(
        Group::Loop,
        "POLL_INTERVAL",
        duration(100, HOUR),
        "5s",
        "How often the rows that have changed are read, and the workspaces that this concerns are judged",
    ),
    knob(
        Group::Loop,
        "RESYNC_INTERVAL",
        duration(100, HOUR),
        "60s",
        "How often all rows are read and every workspace is judged; not shorter than DEFIB_POLL_INTERVAL, and equal to it if that is longer and this is not set",
    ),
    knob(
        Group::Loop,
        "FLEET_MAX",
        Kind::Integer { min: 1, max: 10_000_000 },
        "250000",
        "Watched rows of defib.fleet, at most; a view with more is refused, nobody is judged, and /readyz says so",
    ),
    knob(
        Group::Loop,
        "WATCHED_STATUSES",
        Kind::List,
        "online,degraded,offline",
        "Workspaces of any other status are never touched",
    ),
    knob(
        Group::Loop,
        "MODE",
        Kind::Choice(&["enforce", "observe"]),
        "enforce",
        "observe: judge and record, touch nothing",
    ),
    knob(
        Group::Evidence,
        "HEARTBEAT_INTERVAL",
        duration(100, DAY),
        "30s",
        "Heartbeat interval that is assumed of a workspace until its own has been learned",
    ),
    knob(Group::Evidence, "RECENT_MIN", duration(100, DAY), "15s", "A heartbeat younger than this is always fresh"),
    knob(Group::Evidence, "RECENT_MAX", duration(1_000, 7 * DAY), "10m", "A heartbeat older than this is never fresh"),
    knob(
        Group::Evidence,
        "DEAD_THRESHOLD",
        Kind::Integer { min: 2, max: 100 },
        "2",
        "How many spaced misses convict even if the heartbeat does not agree",
    ),
    knob(
        Group::Evidence,
        "DEAD_WINDOW",
        duration(100, DAY),
        "30s",
        "The misses must lie within this time; an engine that came back has as long for its own restart policies",
    ),
    knob(Group::Evidence, "PROBE_SPACING", duration(50, HOUR), "1s", "Samples closer together than this count as one"),
    knob(
        Group::Evidence,
        "PROBE_TTL",
        duration(100, DAY),
        "2m",
        "A probe entry without a new miss is forgotten after this",
    ),
    knob(
        Group::Evidence,
        "PROBE_MAP_MAX",
        Kind::Integer { min: 1, max: 10_000_000 },
        "100000",
        "The most entries in the probe map; beyond that the oldest one is forgotten",
    ),
    knob(
        Group::Evidence,
        "MISSING_GRACE",
        duration(0, HOUR),
        "15s",
        "How long a container must be absent before that counts as evidence",
    ),
    knob(
        Group::Evidence,
        "BUSY_GRACE",
        duration(0, DAY),
        "3m",
        "How long a workspace with active tasks may starve its heartbeat and still be busy",
    ),
    knob(
        Group::Evidence,
        "WEDGED_AFTER",
        duration(1_000, 7 * DAY),
        "10m",
        "A running container silent for longer than this is wedged",
    ),
    knob(
        Group::Evidence,
        "WEDGED_ACTION",
        REPORT,
        "report",
        "What to do about a wedged workspace; restart needs a second witness",
    ),
    knob(
        Group::Evidence,
        "UNHEALTHY_ACTION",
        Kind::Choice(&["ignore", "report", "restart"]),
        "report",
        "What to do about a failing health check of a running container",
    ),
    knob(
        Group::Restarts,
        "SETTLE",
        duration(0, DAY),
        "30s",
        "How long a new incarnation may take until its first heartbeat (longer where learned)",
    ),
    knob(
        Group::Restarts,
        "BACKOFF_INITIAL",
        duration(10, DAY),
        "10s",
        "The longest delay after the first attempt; it doubles with each attempt",
    ),
    knob(Group::Restarts, "BACKOFF_MAX", duration(10, 7 * DAY), "5m", "The longest delay between two attempts"),
    knob(
        Group::Restarts,
        "BACKOFF_RESET",
        duration(1_000, 30 * DAY),
        "10m",
        "Earlier attempts are forgotten after verified health for this long",
    ),
    knob(
        Group::Restarts,
        "EXHAUSTED_AFTER",
        Kind::Integer { min: 1, max: 1_000 },
        "5",
        "Attempts without a verified recovery after which a workspace is exhausted",
    ),
    knob(
        Group::Restarts,
        "EXHAUSTED_RETRY",
        duration(1_000, 30 * DAY),
        "30m",
        "How often an exhausted workspace is tried once more",
    ),
    knob(
        Group::Restarts,
        "RESTART_BY",
        Kind::Choice(&["engine", "platform"]),
        "engine",
        "engine: the platform's own restart is asked only for restarts that an engine cannot make; platform: for every restart",
    ),
    knob(
        Group::Restarts,
        "RESTART_CONCURRENCY",
        Kind::Integer { min: 1, max: 256 },
        "4",
        "Restarts at once on one engine",
    ),
    knob(
        Group::Restarts,
        "RESTART_TIMEOUT",
        duration(100, HOUR),
        "30s",
        "Deadline of one restart, DEFIB_STOP_GRACE not counted",
    ),
    knob(
        Group::Restarts,
        "STOP_GRACE",
        duration(0, HOUR),
        "10s",
        "The time that a running container gets between TERM and KILL",
    ),
    knob(
        Group::Restarts,
        "CAPTURE_LOG_LINES",
        Kind::Integer { min: 0, max: 1_000 },
        "50",
        "Last lines of a container's log that are kept beside the attempt that restarts it, at most 16 KiB; 0: none, and no exit code",
    ),
    knob(
        Group::Protection,
        "STORM_FRACTION",
        Kind::Fraction,
        "0.2",
        "If more than this part of the watched workspaces die within one dead window, that is a storm",
    ),
    knob(
        Group::Protection,
        "STORM_MIN",
        Kind::Integer { min: 1, max: 1_000_000 },
        "3",
        "A storm also needs more deaths than this",
    ),
    knob(
        Group::Protection,
        "STORM_COOLDOWN",
        duration(100, DAY),
        "2m",
        "A storm ends when this time has passed without another death",
    ),
    bare(
        Group::Webhook,
        "WEBHOOK_URL",
        Kind::Secret,
        "The webhook that is told of restarts, storms and holds, as https://host/path (docs/webhook.md); default: none",
    ),
    bare(
        Group::Webhook,
        "WEBHOOK_SECRET",
        Kind::Secret,
        "The secret that messages are signed with: whsec_ and base64; several with blanks between them while it is being changed",
    ),
    bare(Group::Webhook, "WEBHOOK_EVENTS", Kind::List, "Types of messages that are sent; default: all"),
    knob(
        Group::Webhook,
        "WEBHOOK_FORMAT",
        Kind::Choice(&["standard", "slack"]),
        "standard",
        "standard: Standard Webhooks; slack: a sentence for a chat, which needs no secret",
    ),
    knob(
        Group::Process,
        "LEASE_TTL",
        duration(1_000, HOUR),
        "15s",
        "How long an engine stays owned by a replica that went silent",
    ),
    bare(
        Group::Process,
        "REPLICA_ID",
        Kind::Text,
        "Name of this process in the ledger; default: host name and process id",
    ),
    knob(
        Group::Process,
        "LISTEN_ADDR",
        Kind::Address,
        "127.0.0.1:9464",
        "Address of /metrics, /healthz and /readyz, and of the status page",
    ),
    knob(
        Group::Process,
        "UI",
        Kind::Choice(&["auto", "on", "off"]),
        "auto",
        "The status page and /api/v1 on DEFIB_LISTEN_ADDR, read-only and without a login; auto: where that is a loopback address",
    ),
    bare(
        Group::Process,
        "UI_HOSTS",
        Kind::List,
        "Names by which browsers may ask for the status page besides addresses, localhost and names without a dot, such as defib.example.com or *.example.com; *: any",
    ),
    bare(
        Group::Process,
        "RECORD_DIR",
        Kind::Text,
        "Directory of the flight recorder, which keeps what was judged on for `defib backtest`; each daemon needs one of its own; default: nothing is recorded",
    ),
    knob(
        Group::Process,
        "RECORD_MAX",
        Kind::Bytes { min: 1 << 20, max: 1 << 40 },
        "1GiB",
        "How large the recording may become; its oldest part is deleted first",
    ),
    knob(
        Group::Process,
        "RETENTION",
        duration(60_000, 3_650 * DAY),
        "14d",
        "How long events and closed attempts are kept",
    ),
    knob(Group::Process, "SUSPICION_RETENTION", duration(60_000, 3_650 * DAY), "1d", "How long suspicions are kept"),
    knob(
        Group::Process,
        "AUTO_MIGRATE",
        Kind::Choice(&["true", "false"]),
        "false",
        "Bring the schema up to date at the start (as --migrate)",
    ),
    knob(
        Group::Process,
        "LOG",
        Kind::Text,
        "info",
        "Log filter: a level, or directives such as info,defib_store=debug",
    ),
    knob(
        Group::Process,
        "LOG_FORMAT",
        Kind::Choice(&["auto", "text", "json"]),
        "auto",
        "auto: text on a terminal, else json",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_in_their_largest_whole_unit() {
        for (ms, text) in
            [(500, "500ms"), (5_000, "5s"), (120_000, "2m"), (90_000, "90s"), (3_600_000, "1h"), (0, "0ms")]
        {
            assert_eq!(short(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn no_knob_is_declared_twice() {
        let names: std::collections::BTreeSet<_> = KNOBS.iter().map(|knob| knob.name).collect();
        assert_eq!(names.len(), KNOBS.len());
    }
}
