//! Settling what a daemon left behind that died, or lost its lease, between claim and outcome.
//!
//! Its row is open, and while it is, nobody restarts that workspace. Whoever owns the engine now settles it:
//!
//! ```text
//! acting_at null ─► abandoned at once: an older epoch can never turn to the engine any more (the statement that writes
//!                   acting_at asks for the lease, and meets this one on the row)
//! acting_at set ──► the container tells: started since ─► succeeded
//!                                       not (yet)      ─► wait, for an engine may still be at it; at the deadline abandoned
//! ```
//!
//! An engine that gives no answer settles nothing: the row waits for one that does.

use defib_engine::{Engine, Target};
use defib_policy::attempt::Outcome;
use defib_policy::moment::Timestamp;
use defib_policy::sample::Observation;
use defib_store::{OpenAttempt, StoreError};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tracing::warn;

use crate::logging::printable;
use crate::reconcile::{Reconciler, lock};

/// Containers looked at side by side.
const LOOKS_MAX: usize = 16;

/// What is to be done about an open attempt that is nobody's any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settle {
    /// Its owner never turned to the engine, and no longer can.
    Unasked,
    /// The engine made the restart.
    Succeeded,
    /// The engine has not made it, and has had all the time there was.
    Abandoned,
    /// Not known yet.
    Wait,
}

impl Reconciler {
    /// Settles the open attempts on engines of ours that this process is not at work on.
    pub(crate) async fn settle_left_behind(&self) -> Result<(), StoreError> {
        let engines = lock(&self.ownership).engines(self.now());
        if engines.is_empty() {
            return Ok(());
        }
        let open = self.store.open_attempts(&engines).await?;
        // Read after the rows: what is ours and under way was in flight before its row was there.
        let in_flight = self.restarter.in_flight();
        let left_behind = open.into_iter().filter(|attempt| !in_flight.contains(&attempt.workspace));
        let settling = stream::iter(left_behind).map(|attempt| async move {
            let Some(engine) = self.engines.get(&attempt.engine) else { return Ok(()) };
            let settle = if attempt.acting { self.look_back(engine, &attempt).await } else { Settle::Unasked };
            self.settle(&attempt, settle).await
        });
        // Who is not reached in time is left to the next pass.
        let all = settling.buffer_unordered(LOOKS_MAX).try_collect::<()>();
        tokio::time::timeout(2 * self.config.engine_timeout, all).await.unwrap_or(Ok(()))
    }

    async fn settle(&self, attempt: &OpenAttempt, settle: Settle) -> Result<(), StoreError> {
        let (outcome, settled) = match settle {
            Settle::Wait => return Ok(()),
            Settle::Unasked => {
                let why = "its daemon went away before the engine was asked";
                (Outcome::Abandoned, self.store.abandon_unasked(attempt.id, why).await?)
            }
            Settle::Succeeded => {
                let why = "its daemon went away; the container has been started since the claim";
                (Outcome::Succeeded, self.store.finish(attempt.id, Outcome::Succeeded, Some(why)).await?)
            }
            Settle::Abandoned => {
                let why = "its daemon went away, and the container was not started by the deadline";
                (Outcome::Abandoned, self.store.finish(attempt.id, Outcome::Abandoned, Some(why)).await?)
            }
        };
        if settled {
            self.metrics.restart(&attempt.engine, outcome);
            self.restarter.look_at(&attempt.engine, &attempt.workspace);
            warn!(
                workspace = %printable(attempt.workspace.as_str()),
                engine = %attempt.engine,
                claimed_by = %printable(attempt.claimed_by.as_deref().unwrap_or("unknown")),
                epoch = attempt.epoch,
                outcome = outcome.label(),
                "settled an attempt that its daemon left open"
            );
        }
        Ok(())
    }

    async fn look_back(&self, engine: &Engine, attempt: &OpenAttempt) -> Settle {
        let target = Target {
            workspace: attempt.workspace.clone(),
            container_ref: None,
            known: attempt.container_id.clone(),
            inspect: true,
        };
        judged(&engine.confirm(&target).await.observation, attempt.started_at, attempt.overdue)
    }
}

/// Both starts are on the engine's clock, so that no skew matters.
fn judged(seen: &Observation, convicted: Option<Timestamp>, overdue: bool) -> Settle {
    if matches!(seen, Observation::Unknown { .. }) {
        return Settle::Wait;
    }
    let started = seen.incarnation().and_then(|life| life.started_at);
    match (started, convicted) {
        (Some(started), Some(convicted)) if started > convicted => Settle::Succeeded,
        _ if overdue => Settle::Abandoned,
        _ => Settle::Wait,
    }
}

#[cfg(test)]
mod tests {
    use defib_policy::sample::{Exit, Fault, Health, Incarnation};

    use super::*;

    fn life(started: Option<i64>) -> Incarnation {
        Incarnation { container_id: "c".into(), started_at: started.map(Timestamp) }
    }

    fn running(started: Option<i64>) -> Observation {
        Observation::Running { incarnation: life(started), health: Health::None }
    }

    #[test]
    fn a_later_start_is_a_success_and_what_is_not_started_is_waited_for_until_the_deadline() {
        let stopped = |started| Observation::Stopped { incarnation: life(Some(started)), exit: Exit::default() };
        for (seen, convicted, before, after) in [
            (running(Some(9)), Some(5), Settle::Succeeded, Settle::Succeeded),
            // Started, and dead again: the restart was made all the same.
            (stopped(9), Some(5), Settle::Succeeded, Settle::Succeeded),
            (stopped(5), Some(5), Settle::Wait, Settle::Abandoned),
            (running(Some(5)), Some(5), Settle::Wait, Settle::Abandoned),
            (running(None), Some(5), Settle::Wait, Settle::Abandoned),
            (running(Some(9)), None, Settle::Wait, Settle::Abandoned),
            (Observation::Missing, Some(5), Settle::Wait, Settle::Abandoned),
            (Observation::Unknown { fault: Fault::TimedOut }, Some(5), Settle::Wait, Settle::Wait),
        ] {
            let convicted = convicted.map(Timestamp);
            assert_eq!(judged(&seen, convicted, false), before, "{seen:?}");
            assert_eq!(judged(&seen, convicted, true), after, "{seen:?}, overdue");
        }
    }
}
