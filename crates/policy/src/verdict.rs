//! The verdicts, and the evidence that each carries. The rules that give them are in `rule.rs`, and why a restart may be held back is in
//! `held.rs`.
//!
//! Nobody can trust a verdict without its reason. So each names the [`Rule`] that gave it, holds the facts that it rests on, and says what
//! would change it. `defib explain` prints exactly that.

mod held;
mod rule;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::EngineName;
use crate::moment::Timestamp;
use crate::pipeline::NoWitness;
use crate::sample::Observation;
pub use held::Held;
pub use rule::Rule;

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
}
