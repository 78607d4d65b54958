//! Why a restart that is called for is held back.

use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn two_holds_end_only_with_another_configuration() {
        let beyond: Vec<Held> = Held::ALL.into_iter().filter(|held| held.is_beyond_defib()).collect();
        assert_eq!(beyond, [Held::CannotRecreate, Held::CannotRestart]);
    }
}
