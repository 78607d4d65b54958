//! Settling what a daemon left behind that died between claim and outcome.
//!
//! Its row is open, and while it is, nobody restarts that workspace. After the row's deadline the container itself tells what
//! happened: started after the claim, the restart was made; otherwise it was not, and the evidence is judged afresh. An
//! engine that gives no answer settles nothing: the row waits for one that does.

use defib_engine::{Engine, Target};
use defib_policy::attempt::Outcome;
use defib_policy::moment::Timestamp;
use defib_policy::sample::Observation;
use defib_store::{OpenAttempt, StoreError};
use tracing::warn;

use crate::logging::printable;
use crate::reconcile::Reconciler;

impl Reconciler {
    /// Settles the attempts that are open past their deadline and on engines of ours.
    pub(crate) async fn settle_left_behind(&self) -> Result<(), StoreError> {
        for attempt in self.store.open_attempts_past_deadline().await? {
            let Some(engine) = self.engines.get(&attempt.engine) else { continue };
            let Some((outcome, why)) = self.look_back(engine, &attempt).await else { continue };
            if self.store.finish(attempt.id, outcome, Some(why)).await? {
                self.metrics.restart(&attempt.engine, outcome);
                warn!(
                    workspace = %printable(attempt.workspace.as_str()),
                    engine = %attempt.engine,
                    claimed_by = %printable(attempt.claimed_by.as_deref().unwrap_or("unknown")),
                    outcome = outcome.label(),
                    "settled an attempt that its daemon left open"
                );
            }
        }
        Ok(())
    }

    async fn look_back(&self, engine: &Engine, attempt: &OpenAttempt) -> Option<(Outcome, &'static str)> {
        let target = Target {
            workspace: attempt.workspace.clone(),
            container_ref: None,
            known: attempt.container_id.clone(),
            inspect: true,
        };
        let seen = engine.confirm(&target).await;
        // The start is on the engine's clock and the claim on the database's; a life other than the convicted one that began
        // near the claim is what the restart made, so a second of skew does not matter.
        let started_at = |seen: &Observation| seen.incarnation().and_then(|life| life.started_at);
        match &seen.observation {
            Observation::Unknown { .. } => None,
            other => Some(settled(started_at(other), attempt.started_at)),
        }
    }
}

fn settled(seen: Option<Timestamp>, convicted: Option<Timestamp>) -> (Outcome, &'static str) {
    match (seen, convicted) {
        (Some(seen), Some(convicted)) if seen > convicted => {
            (Outcome::Succeeded, "its daemon went away; the container has been started since the claim")
        }
        _ => (Outcome::Abandoned, "its daemon went away before the container was started"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_start_is_a_success_and_anything_else_is_abandoned() {
        assert_eq!(settled(Some(Timestamp(9)), Some(Timestamp(5))).0, Outcome::Succeeded);
        for seen in [Some(Timestamp(5)), None] {
            assert_eq!(settled(seen, Some(Timestamp(5))).0, Outcome::Abandoned, "{seen:?}");
        }
        assert_eq!(settled(Some(Timestamp(9)), None).0, Outcome::Abandoned, "the convicted life is not known");
    }
}
