//! The verdicts, the rules that give them, and the evidence that each carries.
//!
//! Nobody can trust a verdict without its reason. So each names the [`Rule`] that gave it, holds the facts that it rests on, and says what
//! would change it. `defib explain` prints exactly that.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::EngineName;
use crate::moment::Timestamp;
use crate::pipeline::NoWitness;
use crate::sample::Observation;

/// What is held to be true of a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It runs, and nothing accuses it.
    Alive,
    /// It runs and says that it is working, and its heartbeat is stale.
    Busy,
    /// It runs and its heartbeat is stale. Watched; nothing is done.
    Silent,
    /// It runs, and its heartbeat has been stale for very long.
    Wedged,
    /// It runs and its own health check fails.
    Unhealthy,
    /// One witness says that it is dead. A second one is awaited.
    Suspect,
    /// Two witnesses say that it is dead.
    Dead,
    /// Dead, and restarting it has not helped. Tried rarely, until it recovers or somebody acknowledges it.
    Exhausted,
    /// Its container is dead and its heartbeat goes on: something beats that is not this container.
    Contradiction,
    /// An operator froze its container, or it has finished and its owner wants it left so.
    Frozen,
    /// A new incarnation that has not shown life yet, or an engine at work on it.
    Settling,
    /// Nothing can be said: the engine gave no answer.
    Unknown,
    /// Without a container, and silent for very long. Marked; there is nothing to restart.
    Lost,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 13] = [
        Self::Alive,
        Self::Busy,
        Self::Silent,
        Self::Wedged,
        Self::Unhealthy,
        Self::Suspect,
        Self::Dead,
        Self::Exhausted,
        Self::Contradiction,
        Self::Frozen,
        Self::Settling,
        Self::Unknown,
        Self::Lost,
    ];

    /// The text in tables, metrics and output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Busy => "busy",
            Self::Silent => "silent",
            Self::Wedged => "wedged",
            Self::Unhealthy => "unhealthy",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::Exhausted => "exhausted",
            Self::Contradiction => "contradiction",
            Self::Frozen => "frozen",
            Self::Settling => "settling",
            Self::Unknown => "unknown",
            Self::Lost => "lost",
        }
    }

    /// The verdict with this text in the tables; `None` for a text that is no verdict.
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.label() == label)
    }

    /// Its place in [`Verdict::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The rule that gave a verdict: one row of the table in `docs/verdicts.md`, or the part of it that applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Running, heartbeat fresh.
    RunningFresh,
    /// Running; the heartbeat cannot be held against it now.
    RunningNoWitness,
    /// Running, stale, with active tasks, within the busy grace.
    RunningBusy,
    /// Running and stale.
    RunningSilent,
    /// Running and stale for longer than `DEFIB_WEDGED_AFTER`.
    RunningWedged,
    /// Running with a failing health check.
    RunningUnhealthy,
    /// Stopped and stale: two witnesses.
    StoppedStale,
    /// Stopped, the misses do not suffice yet.
    StoppedOnce,
    /// Stopped in enough spaced samples.
    StoppedSpaced,
    /// Missing, and somebody may be recreating it.
    MissingGrace,
    /// Missing for longer than the grace, and stale.
    MissingStale,
    /// Missing for longer than the grace, and a beat is overdue.
    MissingOverdue,
    /// Missing for longer than the grace, but no beat is overdue.
    MissingBeating,
    /// Dead by its container, and its heartbeat advanced after that.
    BeatsWithoutContainer,
    /// Frozen by an operator.
    EngineFrozen,
    /// It exited with code 0, and its own settings say that it has finished then.
    Finished,
    /// The engine is doing something with it.
    EngineTransition,
    /// A new incarnation within its settle window.
    NewIncarnation,
    /// The engine gave no answer.
    NoAnswer,
    /// External, and its heartbeat is fresh or cannot be held against it now.
    ExternalBeating,
    /// External and stale.
    ExternalSilent,
    /// External and stale for longer than `DEFIB_WEDGED_AFTER`.
    ExternalLost,
    /// Many died at once: both kinds of witness are needed, and one is not there yet.
    StormNeedsBoth,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 23] = [
        Self::RunningFresh,
        Self::RunningNoWitness,
        Self::RunningBusy,
        Self::RunningSilent,
        Self::RunningWedged,
        Self::RunningUnhealthy,
        Self::StoppedStale,
        Self::StoppedOnce,
        Self::StoppedSpaced,
        Self::MissingGrace,
        Self::MissingStale,
        Self::MissingOverdue,
        Self::MissingBeating,
        Self::BeatsWithoutContainer,
        Self::EngineFrozen,
        Self::Finished,
        Self::EngineTransition,
        Self::NewIncarnation,
        Self::NoAnswer,
        Self::ExternalBeating,
        Self::ExternalSilent,
        Self::ExternalLost,
        Self::StormNeedsBoth,
    ];

    /// The text in tables, logs and JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::RunningFresh => "running_fresh",
            Self::RunningNoWitness => "running_no_witness",
            Self::RunningBusy => "running_busy",
            Self::RunningSilent => "running_silent",
            Self::RunningWedged => "running_wedged",
            Self::RunningUnhealthy => "running_unhealthy",
            Self::StoppedStale => "stopped_stale",
            Self::StoppedOnce => "stopped_once",
            Self::StoppedSpaced => "stopped_spaced",
            Self::MissingGrace => "missing_grace",
            Self::MissingStale => "missing_stale",
            Self::MissingOverdue => "missing_overdue",
            Self::MissingBeating => "missing_beating",
            Self::BeatsWithoutContainer => "beats_without_container",
            Self::EngineFrozen => "engine_frozen",
            Self::Finished => "finished",
            Self::EngineTransition => "engine_transition",
            Self::NewIncarnation => "new_incarnation",
            Self::NoAnswer => "no_answer",
            Self::ExternalBeating => "external_beating",
            Self::ExternalSilent => "external_silent",
            Self::ExternalLost => "external_lost",
            Self::StormNeedsBoth => "storm_needs_both",
        }
    }

    /// What would change the verdict, for an operator who disagrees with it.
    #[must_use]
    pub const fn would_change(self) -> &'static str {
        match self {
            Self::RunningFresh => "its container stopping, or a stale heartbeat",
            Self::RunningNoWitness => "its container stopping, or heartbeats that have been a witness for one window",
            Self::RunningBusy => "a heartbeat, no active tasks, or DEFIB_BUSY_GRACE passing",
            Self::RunningSilent => "a heartbeat, its container stopping, or DEFIB_WEDGED_AFTER passing",
            Self::RunningWedged => {
                "a heartbeat; with DEFIB_WEDGED_ACTION=restart, suspicions from two reporters over two windows or a \
                 failing health check"
            }
            Self::RunningUnhealthy => "a passing health check; DEFIB_UNHEALTHY_ACTION says what is done",
            Self::StoppedStale | Self::StoppedSpaced | Self::MissingStale | Self::MissingOverdue => {
                "a sample that finds it running"
            }
            Self::StoppedOnce => "a sample that finds it running, or enough misses DEFIB_PROBE_SPACING apart",
            Self::MissingGrace => "the container appearing, or DEFIB_MISSING_GRACE passing",
            Self::MissingBeating => "the container appearing, or its heartbeat becoming overdue",
            Self::BeatsWithoutContainer => {
                "the heartbeat stopping, or a corrected mapping (container_ref, workspace label)"
            }
            Self::EngineFrozen => "somebody unpausing the container",
            Self::Finished => "somebody starting the container, or its own setting on_exit_0 no longer being leave",
            Self::EngineTransition => "the engine finishing, or DEFIB_SETTLE passing",
            Self::NewIncarnation => "its first heartbeat, its exit, or DEFIB_SETTLE passing",
            Self::NoAnswer => "an answer from its engine",
            Self::ExternalBeating => "a stale heartbeat",
            Self::ExternalSilent => "a heartbeat, or DEFIB_WEDGED_AFTER passing",
            Self::ExternalLost => "a heartbeat",
            Self::StormNeedsBoth => {
                "the second kind of witness (spaced samples and a stale heartbeat), or a sign of life"
            }
        }
    }
}

/// Whether a heartbeat speaks for a workspace, against it, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Witness {
    /// It is younger than the window, so the workspace lives.
    Fresh,
    /// It is older than the window: one witness against the workspace.
    Stale,
    /// It says nothing, for this reason.
    None(NoWitness),
}

/// Why a restart that the evidence calls for is not made now. A closed set: it is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// An operator's hold stands.
    Operator,
    /// The back-off of earlier attempts runs.
    Backoff,
    /// Too many attempts did not help.
    Exhausted,
    /// The storm guard lets others go first.
    Storm,
    /// The engine just came back, and its own restart policy may act.
    EngineReturned,
    /// `DEFIB_MODE=observe`.
    Observe,
    /// The configured action for this verdict is to report it.
    ReportOnly,
    /// It runs, and no second witness agrees that it is beyond help.
    SecondWitness,
    /// It runs, and its engine has not told since when: the next look asks for that.
    StartUnknown,
    /// `DEFIB_RESTART_CONCURRENCY` others on its engine are being restarted.
    Queued,
    /// Its container no longer exists, and nothing that defib is configured for can make it again.
    CannotRecreate,
    /// It is there, and nothing that defib is configured for can start it, or restart it where it runs.
    CannotRestart,
}

impl Held {
    /// Every reason.
    pub const ALL: [Self; 12] = [
        Self::Operator,
        Self::Backoff,
        Self::Exhausted,
        Self::Storm,
        Self::EngineReturned,
        Self::Observe,
        Self::ReportOnly,
        Self::SecondWitness,
        Self::StartUnknown,
        Self::Queued,
        Self::CannotRecreate,
        Self::CannotRestart,
    ];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Backoff => "backoff",
            Self::Exhausted => "exhausted",
            Self::Storm => "storm",
            Self::EngineReturned => "engine_returned",
            Self::Observe => "observe",
            Self::ReportOnly => "report_only",
            Self::SecondWitness => "second_witness",
            Self::StartUnknown => "start_unknown",
            Self::Queued => "queued",
            Self::CannotRecreate => "cannot_recreate",
            Self::CannotRestart => "cannot_restart",
        }
    }

    /// Whether it lasts until somebody changes what defib is configured for, or brings the workspace back by other means.
    #[must_use]
    pub const fn is_beyond_defib(self) -> bool {
        matches!(self, Self::CannotRecreate | Self::CannotRestart)
    }

    /// The same as a sentence for a person.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Operator => "an operator holds it (`defib status` says who and why, `defib release` ends it)",
            Self::Backoff => "the back-off after earlier attempts is still running",
            Self::Exhausted => {
                "many restarts did not help, or not for long, so it is tried rarely, until it recovers or somebody runs `defib ack`"
            }
            Self::Storm => "many died at once, so restarts go in small batches, each verified before the next",
            Self::EngineReturned => "its engine just came back, and its own restart policy may start it",
            Self::Observe => "it is only observed (DEFIB_MODE, or `mode` of its own settings)",
            Self::ReportOnly => "the action configured for this verdict is to report it",
            Self::SecondWitness => {
                "its container still runs, and no second witness (reporters, its health check) agrees that it is beyond help"
            }
            Self::Queued => {
                "as many others on its engine are being restarted as may be at once (DEFIB_RESTART_CONCURRENCY)"
            }
            Self::StartUnknown => {
                "its container still runs, and its engine has not said since when; the next look asks for it"
            }
            Self::CannotRecreate => {
                "its container was removed and its engine cannot make it again; the platform must recreate it, and is asked to if DEFIB_PLATFORM_URL says where"
            }
            Self::CannotRestart => {
                "nothing that defib is configured for can restart it: set DEFIB_PLATFORM_URL to the platform's own restart, or add [[restart.steps]] to the preset that is used for it ([[restart.kill_steps]] where it runs and hangs)"
            }
        }
    }
}

/// The facts on which a verdict was given. Serialises to the `evidence` columns; `status`, `last_heartbeat_at` and `last_activity_at` at
/// its top are what `defib.mark_dead` compares with the platform's row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evidence {
    /// The rule that decided.
    pub rule: Rule,
    /// The reason as a sentence.
    pub because: String,
    /// What would change it.
    pub would_change: &'static str,
    /// Why nothing is done although the verdict calls for a restart.
    pub held: Option<Held>,
    /// The engine that was asked about it.
    pub engine: EngineName,
    /// `status` in the fleet row.
    pub status: Arc<str>,
    /// `last_heartbeat_at` in the fleet row.
    pub last_heartbeat_at: Option<Timestamp>,
    /// `last_activity_at` in the fleet row.
    pub last_activity_at: Option<Timestamp>,
    /// What was made of the heartbeat.
    pub heartbeat: HeartbeatEvidence,
    /// What the engine said, if it was asked.
    pub sample: Option<Observation>,
    /// Age of that answer in seconds.
    pub sample_age_seconds: Option<f64>,
    /// The run of misses.
    pub probe: Option<ProbeEvidence>,
    /// Distinct reporters of recent suspicions.
    pub reporters: u32,
    /// Number of the next attempt, where one is called for.
    pub attempt: Option<u32>,
    /// Seconds until it may be made.
    pub retry_in_seconds: Option<f64>,
    /// The local health multiplier that the graces were stretched by.
    pub local_health_multiplier: u32,
    /// Its own settings, where they differ from the fleet's, and what is wrong with them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub own_settings: Vec<String>,
}

/// What was made of the heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeartbeatEvidence {
    /// Whether it speaks for or against the workspace.
    pub witness: Witness,
    /// Age of the last sign of life in seconds; `None` when there never was one.
    pub age_seconds: Option<f64>,
    /// Younger than this is fresh, in seconds.
    pub window_seconds: f64,
    /// The interval, in seconds,
    pub interval_seconds: f64,
    /// and whether it was learned or is `DEFIB_HEARTBEAT_INTERVAL`.
    pub interval_learned: bool,
}

/// The run of misses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ProbeEvidence {
    /// Spaced misses within the window.
    pub misses: u32,
    /// How many convict.
    pub threshold: u32,
    /// From the first miss of the run to now, in seconds.
    pub since_first_seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read_back_by_the_words_that_the_tables_hold() {
        let words = [
            "alive",
            "busy",
            "silent",
            "wedged",
            "unhealthy",
            "suspect",
            "dead",
            "exhausted",
            "contradiction",
            "frozen",
            "settling",
            "unknown",
            "lost",
        ];
        assert_eq!(Verdict::ALL.map(Verdict::label), words);
        assert_eq!(words.map(Verdict::from_label), Verdict::ALL.map(Some));
        assert_eq!(Verdict::from_label("well"), None);
        assert!(Verdict::ALL.iter().enumerate().all(|(place, verdict)| verdict.index() == place));
    }

    #[test]
    fn every_rule_has_a_word_of_its_own_and_says_what_would_change_it() {
        for (rule, label, change) in [
            (Rule::RunningFresh, "running_fresh", "its container stopping"),
            (Rule::RunningNoWitness, "running_no_witness", "its container stopping"),
            (Rule::RunningBusy, "running_busy", "DEFIB_BUSY_GRACE"),
            (Rule::RunningSilent, "running_silent", "DEFIB_WEDGED_AFTER"),
            (Rule::RunningWedged, "running_wedged", "DEFIB_WEDGED_ACTION=restart"),
            (Rule::RunningUnhealthy, "running_unhealthy", "DEFIB_UNHEALTHY_ACTION"),
            (Rule::StoppedStale, "stopped_stale", "finds it running"),
            (Rule::StoppedOnce, "stopped_once", "DEFIB_PROBE_SPACING"),
            (Rule::StoppedSpaced, "stopped_spaced", "finds it running"),
            (Rule::MissingGrace, "missing_grace", "DEFIB_MISSING_GRACE"),
            (Rule::MissingStale, "missing_stale", "finds it running"),
            (Rule::MissingOverdue, "missing_overdue", "finds it running"),
            (Rule::MissingBeating, "missing_beating", "overdue"),
            (Rule::BeatsWithoutContainer, "beats_without_container", "container_ref"),
            (Rule::EngineFrozen, "engine_frozen", "unpausing"),
            (Rule::Finished, "finished", "on_exit_0"),
            (Rule::EngineTransition, "engine_transition", "DEFIB_SETTLE"),
            (Rule::NewIncarnation, "new_incarnation", "DEFIB_SETTLE"),
            (Rule::NoAnswer, "no_answer", "an answer"),
            (Rule::ExternalBeating, "external_beating", "a stale heartbeat"),
            (Rule::ExternalSilent, "external_silent", "DEFIB_WEDGED_AFTER"),
            (Rule::ExternalLost, "external_lost", "a heartbeat"),
            (Rule::StormNeedsBoth, "storm_needs_both", "second kind of witness"),
        ] {
            assert_eq!(rule.label(), label);
            assert!(rule.would_change().contains(change), "{label}: {}", rule.would_change());
            assert!(Rule::ALL.contains(&rule), "{label}");
        }
    }

    #[test]
    fn every_reason_to_hold_back_has_a_word_and_a_sentence() {
        for (held, label, sentence) in [
            (Held::Operator, "operator", "`defib release`"),
            (Held::Backoff, "backoff", "back-off"),
            (Held::Exhausted, "exhausted", "`defib ack`"),
            (Held::Storm, "storm", "many died at once"),
            (Held::EngineReturned, "engine_returned", "came back"),
            (Held::Observe, "observe", "DEFIB_MODE"),
            (Held::ReportOnly, "report_only", "configured"),
            (Held::SecondWitness, "second_witness", "no second witness"),
            (Held::StartUnknown, "start_unknown", "since when"),
            (Held::Queued, "queued", "DEFIB_RESTART_CONCURRENCY"),
            (Held::CannotRecreate, "cannot_recreate", "removed"),
            (Held::CannotRestart, "cannot_restart", "DEFIB_PLATFORM_URL"),
        ] {
            assert_eq!(held.label(), label);
            assert!(held.sentence().contains(sentence), "{label}: {}", held.sentence());
            assert!(Held::ALL.contains(&held), "{label}");
        }
    }
}
