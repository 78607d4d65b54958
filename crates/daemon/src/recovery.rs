//! Settling what a daemon left behind that died, or lost its lease, between claim and outcome. The rule is
//! [`defib_policy::restart::left_behind`]'s; here it is asked and carried out.

use defib_engine::{Engine, Target};
use defib_policy::id::EngineName;
use defib_policy::restart::End;
use defib_policy::restart::left_behind::{self, Asked, Row, Settle};
use defib_store::{OpenAttempt, StoreError};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tracing::warn;

use crate::logging::printable;
use crate::reconcile::Reconciler;
use crate::restarter::Ended;
use crate::sync::lock;

/// Containers looked at side by side.
const LOOKS_MAX: usize = 16;

impl Reconciler {
    /// Settles the open attempts that this process is not at work on: on engines of ours, and, if we speak for what no engine
    /// has, on those that no replica is configured for.
    pub(crate) async fn settle_left_behind(&self) -> Result<(), StoreError> {
        if lock(&self.ownership).fleet(self.now()).is_some() {
            for attempt in self.store.attempts_without_owner().await? {
                let settle = left_behind::without_an_owner(attempt.overdue_by, attempt.elsewhere);
                self.settle(&attempt, settle).await?;
            }
        }
        // Before the rows are read: one that shows a later epoch was claimed by whoever has taken over from us since.
        let owned = lock(&self.ownership).owned(self.now());
        if owned.is_empty() {
            return Ok(());
        }
        let engines: Vec<EngineName> = owned.keys().cloned().collect();
        let open = self.store.open_attempts(&engines).await?;
        // Read after the rows: what is ours and under way was in flight before its row was there.
        let in_flight = self.restarter.in_flight();
        let left_behind = open.into_iter().filter(|attempt| !in_flight.contains(&attempt.workspace));
        let owned = &owned;
        let settling = stream::iter(left_behind).map(|attempt| async move {
            let (Some(engine), Some(epoch)) = (self.engines.get(&attempt.engine), owned.get(&attempt.engine)) else {
                return Ok(());
            };
            let row = Row { epoch: attempt.epoch, acting: attempt.acting, overdue: attempt.overdue_by.is_some() };
            let settle = match left_behind::by_its_row(row, *epoch) {
                Some(settle) => settle,
                None => self.look_back(engine.as_ref(), &attempt).await,
            };
            self.settle(&attempt, settle).await
        });
        // Who is not reached in time is left to the next pass.
        let all = settling.buffer_unordered(LOOKS_MAX).try_collect::<()>();
        tokio::time::timeout(2 * self.config.engine_timeout, all).await.unwrap_or(Ok(()))
    }

    async fn settle(&self, attempt: &OpenAttempt, settle: Settle) -> Result<(), StoreError> {
        let Some((outcome, why)) = settle.conclusion() else { return Ok(()) };
        let settled = if settle == Settle::Unasked {
            self.store.abandon_unasked(attempt.id, why).await?
        } else {
            self.store.finish(attempt.id, outcome, Some(why)).await?
        };
        if settled {
            self.metrics.restart(&attempt.engine, outcome);
            self.restarter.tell(Ended {
                engine: attempt.engine.clone(),
                workspace: attempt.workspace.clone(),
                end: End::of(outcome),
                look_again: true,
            });
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

    async fn look_back(&self, engine: &dyn Engine, attempt: &OpenAttempt) -> Settle {
        let target = Target {
            known: attempt.container_id.clone(),
            inspect: true,
            ..Target::container(attempt.workspace.clone(), None)
        };
        let asked = Asked {
            convicted: attempt.started_at,
            ran: left_behind::restarts_what_runs(&attempt.verdict),
            overdue: attempt.overdue_by.is_some(),
            elsewhere: attempt.elsewhere,
        };
        left_behind::by_its_container(&engine.confirm(&target).await.observation, asked)
    }
}
