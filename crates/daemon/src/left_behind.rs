//! Settles the open attempts of daemons that died, or lost their lease, between claim and outcome. [`defib_policy::restart::left_behind`]
//! decides what becomes of each, and this module carries that out.

use std::collections::BTreeMap;
use std::sync::Arc;

use defib_engine::{Engine, Target};
use defib_policy::id::EngineName;
use defib_policy::restart::End;
use defib_policy::restart::left_behind::{self, Asked, Row, Settle};
use defib_store::{OpenAttempt, Store, StoreError};
use futures_util::{StreamExt as _, future, stream};
use tracing::warn;

use crate::logging::printable;
use crate::news::News;
use crate::restarter::{Ended, Restarter};
use crate::state::State;

/// How many containers of one engine are looked at side by side.
const LOOKS_MAX: usize = 16;

/// Settles open attempts that nobody is at work on.
pub(crate) struct LeftBehind {
    pub(crate) state: Arc<State>,
    pub(crate) store: Store,
    pub(crate) engines: BTreeMap<EngineName, Arc<dyn Engine>>,
    pub(crate) restarter: Arc<Restarter>,
    pub(crate) news: Arc<News>,
}

impl LeftBehind {
    /// Settles the open attempts that this process is not at work on. These are the attempts on its own engines and, if it speaks for the
    /// workspaces that no engine has, those on engines that no replica is configured for. Engines are asked side by side, so one that hangs
    /// delays none of the others.
    pub(crate) async fn settle_all(&self) -> Result<(), StoreError> {
        let ours = self.settle_ours().await;
        let speaks_for_the_fleet = self.state.ownership().fleet(self.state.now()).is_some();
        let ownerless = if speaks_for_the_fleet { self.settle_ownerless().await } else { Ok(()) };
        ours.and(ownerless)
    }

    /// A row that cannot be written leaves all others to be settled.
    async fn settle_ownerless(&self) -> Result<(), StoreError> {
        let mut result = Ok(());
        for attempt in self.store.attempts_without_owner().await? {
            let settle = left_behind::without_an_owner(attempt.overdue_by, attempt.elsewhere);
            result = result.and(self.settle(&attempt, settle).await);
        }
        result
    }

    async fn settle_ours(&self) -> Result<(), StoreError> {
        // This is asked before the rows are read. If a row then shows a later epoch, another process has taken the engine over from us
        // since.
        let owned = self.state.ownership().owned(self.state.now());
        if owned.is_empty() {
            return Ok(());
        }
        let engines: Vec<EngineName> = owned.keys().cloned().collect();
        let open = self.store.open_attempts(&engines).await?;
        // This is read after the rows: a restart of ours is in flight before its row exists.
        let in_flight = self.restarter.in_flight();
        let mut abandoned: BTreeMap<EngineName, Vec<OpenAttempt>> = BTreeMap::new();
        for attempt in open.into_iter().filter(|attempt| !in_flight.contains(&attempt.workspace)) {
            abandoned.entry(attempt.engine.clone()).or_default().push(attempt);
        }
        let settling = abandoned.into_iter().filter_map(|(name, attempts)| {
            let (engine, epoch) = (self.engines.get(&name)?, *owned.get(&name)?);
            Some(self.settle_on(engine.as_ref(), epoch, attempts))
        });
        future::join_all(settling).await.into_iter().collect()
    }

    async fn settle_on(&self, engine: &dyn Engine, epoch: i64, attempts: Vec<OpenAttempt>) -> Result<(), StoreError> {
        let settling = stream::iter(attempts).map(|attempt| async move {
            let row = Row { epoch: attempt.epoch, acting: attempt.acting, overdue: attempt.overdue_by.is_some() };
            let settle = match left_behind::by_its_row(row, epoch) {
                Some(settle) => settle,
                None => self.look_back(engine, &attempt).await,
            };
            self.settle(&attempt, settle).await
        });
        // Containers that could not be looked at in time are left to the next pass. A row that cannot be written keeps no other one open.
        let all = settling.buffer_unordered(LOOKS_MAX).fold(Ok(()), async |before, settled| before.and(settled));
        tokio::time::timeout(2 * self.state.config.engine_timeout, all).await.unwrap_or(Ok(()))
    }

    async fn settle(&self, attempt: &OpenAttempt, settle: Settle) -> Result<(), StoreError> {
        let Some((outcome, why)) = settle.conclusion() else { return Ok(()) };
        let settled = if settle == Settle::Unasked {
            self.store.abandon_unasked(attempt.id, why).await?
        } else {
            self.store.finish(attempt.id, outcome, Some(why)).await?
        };
        if settled {
            self.news.settled(&attempt.engine, outcome);
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
        let workspace = attempt.workspace.clone();
        let whose = match attempt.instance.as_deref() {
            Some("") => Target::instance(workspace, None),
            Some(reference) => Target::instance(workspace, Some(reference.into())),
            None => Target::container(workspace, None),
        };
        let target = Target { known: attempt.container_id.clone(), inspect: true, ..whose };
        let asked = Asked {
            container: attempt.container_id.as_ref(),
            convicted: attempt.started_at,
            ran: left_behind::restarts_what_runs(&attempt.verdict),
            overdue: attempt.overdue_by.is_some(),
            elsewhere: attempt.elsewhere,
        };
        left_behind::by_its_container(&engine.confirm(&target).await.observation, asked)
    }
}
