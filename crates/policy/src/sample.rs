//! What one look at an engine saw.
//!
//! The most important rule: no answer is not death. If anything goes wrong on the way, the observation is [`Observation::Unknown`] with its
//! fault. That neither counts as a miss nor clears one.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::ContainerId;
use crate::moment::{Moment, Timestamp};

/// One look at one workspace's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When the look was *begun*, on our clock: the answer may describe any instant after it.
    pub at: Moment,
    /// What was seen.
    pub observation: Observation,
}

/// The container (or instance) that was looked at: a new one, or a new start of the same one, is a new incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Incarnation {
    /// The engine's full id of the container. For an instance: its `instance_ref`, the control plane's name for it.
    pub container_id: ContainerId,
    /// When this start of it began, on the engine's clock. `None` where the look did not tell (a list does not).
    pub started_at: Option<Timestamp>,
}

impl Incarnation {
    /// Whether both can be the same life of the same container. An unknown start matches any.
    #[must_use]
    pub fn may_be(&self, other: &Self) -> bool {
        self.container_id == other.container_id
            && match (self.started_at, other.started_at) {
                (Some(mine), Some(theirs)) => mine == theirs,
                _ => true,
            }
    }
}

/// What an engine said of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Observation {
    /// It runs. Conclusive.
    Running {
        /// Which life of which container.
        #[serde(flatten)]
        incarnation: Incarnation,
        /// What its health check says.
        health: Health,
    },
    /// Its process ended, or the engine gave up on it. Conclusive.
    Stopped {
        /// Which life of which container.
        #[serde(flatten)]
        incarnation: Incarnation,
        /// How it ended.
        #[serde(flatten)]
        exit: Exit,
    },
    /// Absent from a complete list of the engine, and unknown to it by its id or name. Conclusive once that lasts.
    Missing,
    /// An operator froze it (`docker pause`). Never a miss.
    Frozen {
        /// Which life of which container.
        #[serde(flatten)]
        incarnation: Incarnation,
    },
    /// The engine is doing something with it. Not a miss, unless it lasts.
    Transitional {
        /// Which life of which container.
        #[serde(flatten)]
        incarnation: Incarnation,
        /// What.
        transition: Transition,
    },
    /// Nothing can be said. No evidence at all.
    Unknown {
        /// Why not.
        fault: Fault,
    },
}

impl Observation {
    /// The incarnation that was seen, if one was.
    #[must_use]
    pub const fn incarnation(&self) -> Option<&Incarnation> {
        match self {
            Self::Running { incarnation, .. }
            | Self::Stopped { incarnation, .. }
            | Self::Frozen { incarnation }
            | Self::Transitional { incarnation, .. } => Some(incarnation),
            Self::Missing | Self::Unknown { .. } => None,
        }
    }

    /// The metric label: one of [`Observation::LABELS`].
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Running { .. } => "running",
            Self::Stopped { .. } => "stopped",
            Self::Missing => "missing",
            Self::Frozen { .. } => "frozen",
            Self::Transitional { .. } => "transitional",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// Every value of [`Observation::label`].
    pub const LABELS: [&'static str; 6] = ["running", "stopped", "missing", "frozen", "transitional", "unknown"];
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code of its main process, where the engine told.
    pub exit_code: Option<i64>,
    /// The kernel killed it for memory, as far as the engine noticed (it does not always).
    pub oom_killed: bool,
    /// When it ended, on the engine's clock.
    pub finished_at: Option<Timestamp>,
    /// The engine has a restart policy for it and may start it by itself.
    pub engine_restarts: bool,
}

/// The result of a container's own health check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It has none, or its result is not known.
    #[default]
    None,
    /// It has not reported yet.
    Starting,
    /// It passes.
    Healthy,
    /// It failed the last time. An engine that was restarted may repeat that result for ever without checking again.
    Unhealthy {
        /// When the last check ended, on the engine's clock, where the look told.
        last_check_at: Option<Timestamp>,
        /// How long after that the next one should have ended: twice the check's interval and time-out. `None`: not known.
        due_within: Option<Duration>,
    },
}

/// States in which the engine is between two things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transition {
    /// Made, never started.
    Created,
    /// Its restart policy is at work (a crash loop shows up as this).
    Restarting,
    /// Being removed.
    Removing,
}

/// Why an engine could not be asked. A closed set: it is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// No connection: refused, no socket, reset before an answer.
    Unreachable,
    /// No answer within the deadline.
    TimedOut,
    /// It answered with an error of its own (5xx, or an untyped 4xx).
    EngineError,
    /// It answered something that cannot be read, or broke off.
    Garbled,
    /// It is another engine than before: what is absent there proves nothing.
    OtherEngine,
    /// The workspace names an engine that is not configured.
    NotConfigured,
    /// It was not asked, to spare an engine under load.
    NotAsked,
    /// No container can have the name that the workspace gives.
    BadReference,
    /// The workspace is of a kind that this engine does not run.
    WrongKind,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 9] = [
        Self::Unreachable,
        Self::TimedOut,
        Self::EngineError,
        Self::Garbled,
        Self::OtherEngine,
        Self::NotConfigured,
        Self::NotAsked,
        Self::BadReference,
        Self::WrongKind,
    ];

    /// The label, as in JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::EngineError => "engine_error",
            Self::Garbled => "garbled",
            Self::OtherEngine => "other_engine",
            Self::NotConfigured => "not_configured",
            Self::NotAsked => "not_asked",
            Self::BadReference => "bad_reference",
            Self::WrongKind => "wrong_kind",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labels_are_the_words_of_the_metrics() {
        let incarnation = Incarnation { container_id: "c".into(), started_at: None };
        let observations = [
            Observation::Running { incarnation: incarnation.clone(), health: Health::None },
            Observation::Stopped { incarnation: incarnation.clone(), exit: Exit::default() },
            Observation::Missing,
            Observation::Frozen { incarnation: incarnation.clone() },
            Observation::Transitional { incarnation, transition: Transition::Created },
            Observation::Unknown { fault: Fault::TimedOut },
        ];
        assert_eq!(observations.map(|observation| observation.label()), Observation::LABELS);
        let faults = [
            "unreachable",
            "timed_out",
            "engine_error",
            "garbled",
            "other_engine",
            "not_configured",
            "not_asked",
            "bad_reference",
            "wrong_kind",
        ];
        assert_eq!(Fault::ALL.map(Fault::label), faults);
        assert_eq!(Fault::ALL.map(|fault| fault.to_string()), faults);
    }
}
