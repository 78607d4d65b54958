//! What an engine said of a container, as it is written. The life (incarnation) is left out if it is the one that was written before.

use defib_policy::sample::{Exit, Fault, Health, Incarnation, Observation, Transition};
use serde::{Deserialize, Serialize};

use crate::wire::Garbled;

/// An observation. A life that is `None` is the one before.
#[derive(Serialize, Deserialize)]
pub(crate) enum Seen {
    Running(Option<Incarnation>, Health),
    Stopped(Option<Incarnation>, Exit),
    Missing,
    Frozen(Option<Incarnation>),
    Transitional(Option<Incarnation>, Transition),
    Unknown(Fault),
}

impl Seen {
    /// The observation, after one in which `before` was the last life seen.
    pub(crate) fn after(before: Option<&Incarnation>, observation: &Observation) -> Self {
        let life = |life: &Incarnation| (before != Some(life)).then(|| life.clone());
        match observation {
            Observation::Running { incarnation, health } => Self::Running(life(incarnation), *health),
            Observation::Stopped { incarnation, exit } => Self::Stopped(life(incarnation), exit.clone()),
            Observation::Missing => Self::Missing,
            Observation::Frozen { incarnation } => Self::Frozen(life(incarnation)),
            Observation::Transitional { incarnation, transition } => Self::Transitional(life(incarnation), *transition),
            Observation::Unknown { fault } => Self::Unknown(*fault),
        }
    }

    /// The observation again; takes note of its life in `before`.
    pub(crate) fn again(self, before: &mut Option<Incarnation>) -> Result<Observation, Garbled> {
        let mut life = |life: Option<Incarnation>| {
            if life.is_some() {
                before.clone_from(&life);
            }
            before.clone().ok_or(Garbled)
        };
        Ok(match self {
            Self::Running(seen, health) => Observation::Running { incarnation: life(seen)?, health },
            Self::Stopped(seen, exit) => Observation::Stopped { incarnation: life(seen)?, exit },
            Self::Missing => Observation::Missing,
            Self::Frozen(seen) => Observation::Frozen { incarnation: life(seen)? },
            Self::Transitional(seen, transition) => Observation::Transitional { incarnation: life(seen)?, transition },
            Self::Unknown(fault) => Observation::Unknown { fault },
        })
    }
}
