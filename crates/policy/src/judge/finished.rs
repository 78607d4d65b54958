//! A workspace whose owner says that an exit with code 0 means that it has finished (`on_exit_0: leave`).
//!
//! Such a workspace is not called dead, is not restarted, and does not count as a death for the storm guard. The setting is off by default:
//! a container that is stopped by hand, or with its host, often exits with 0 too, and would be left down until somebody starts it.

use super::opinion::Opinion;
use super::{Judge, Look};
use crate::attempt::Attempt;
use crate::sample::{Exit, Incarnation, Observation};
use crate::settings::OnExit0;
use crate::verdict::{Rule, Verdict};

impl Judge {
    /// The opinion on a workspace that has finished. It replaces an opinion that would call it dead or suspect it.
    pub(super) fn leave_finished(&self, look: &Look<'_>, opinion: Opinion) -> Opinion {
        let accused = matches!(opinion.verdict, Verdict::Suspect | Verdict::Dead);
        if !accused || look.settings(&self.settings).on_exit_0 != OnExit0::Leave || !has_finished(look) {
            return opinion;
        }
        Opinion { verdict: Verdict::Frozen, rule: Rule::Finished, conviction: None, look_at: None, ..opinion }
    }
}

/// Whether the last look found that its process ended with code 0, and not because defib had asked the engine to end it.
fn has_finished(look: &Look<'_>) -> bool {
    let Some(Observation::Stopped { incarnation, exit }) = look.sample.map(|sample| &sample.observation) else {
        return false;
    };
    let well = matches!(exit, Exit { exit_code: Some(0), oom_killed: false, .. });
    let ended_by_us = |attempt: &Attempt| attempt.asked && is_of(attempt, incarnation);
    well && !look.in_flight && !look.attempts.iter().any(ended_by_us)
}

/// Whether an attempt was made on this life. If so, the exit may be the first half of that restart.
fn is_of(attempt: &Attempt, life: &Incarnation) -> bool {
    attempt.container_id.as_ref() == Some(&life.container_id) && attempt.started_at == life.started_at
}
