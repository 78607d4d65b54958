//! The rules that give verdicts, and what would change each of them.

use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
