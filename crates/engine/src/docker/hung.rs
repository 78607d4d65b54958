//! The containers whose inspects hang. They are asked about last, so that they do not use up the time of each look before anybody else's turn.

use std::collections::HashMap;
use std::time::Duration;

use defib_policy::moment::Moment;

use super::deadline::CallError;

/// How many containers with hanging inspects are remembered. Larger: more memory for containers that are gone by now. Smaller: on a host
/// where everything hangs, some containers are asked about before their turn.
const HUNG_MAX: usize = 1_000;

/// When there are that many, those that hung longer ago than this are forgotten. By then they were asked about again, or are gone.
const HUNG_FOR: Duration = Duration::from_secs(600);

/// By the name or id that was asked for: when the last inspect was sent that got no answer in time.
#[derive(Debug, Default)]
pub(super) struct Hung(HashMap<Box<str>, Moment>);

impl Hung {
    /// When the last inspect of this container was asked for, if it got no answer in time.
    pub(super) fn at(&self, about: &str) -> Option<Moment> {
        self.0.get(about).copied()
    }

    /// Takes note of what came of an inspect that was asked for at this moment.
    pub(super) fn note<T>(&mut self, about: &str, asked_at: Moment, answer: &Result<T, CallError>) {
        match answer {
            Err(CallError::TimedOut(_)) => {
                if self.0.len() >= HUNG_MAX {
                    self.0.retain(|_, hung_at| asked_at.since(*hung_at) < HUNG_FOR);
                }
                if self.0.len() < HUNG_MAX || self.0.contains_key(about) {
                    self.0.insert(about.into(), asked_at);
                }
            }
            Err(CallError::NotAsked) => {}
            Ok(_) | Err(CallError::Engine(_)) => _ = self.0.remove(about),
        }
    }
}
