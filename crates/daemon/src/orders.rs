//! Carries out what operators order. The owner of the engine takes the order, carries it out through the same protocol as any restart, and
//! answers it.
//!
//! ```text
//! defib restart ─► defib.orders ─► taken ─► a look at the container ─► restarter (claim, confirm, may act, call, outcome)
//!                       ▲                                                        │
//!                       └──────────── answered ◄── the ledger's row of it ◄──────┘
//! ```
//!
//! What came of an order is read from the ledger, so an answer that was lost is given with the next turn, by whoever owns the engine then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib_engine::{Engine, Target};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::{Look, StormEnded};
use defib_policy::plan::ByOperator;
use defib_store::{FleetScope, Ordered, StandingOrder, Store, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::holds::Holds;
use crate::logging::{database_fault, printable};
use crate::pass::Restarts;
use crate::state::State;
use crate::sync::lock;

/// How often orders are looked for. It is often, because a person waits for the answer.
const TURN: Duration = Duration::from_secs(1);

/// How many orders are looked at in one turn.
const ORDERS_MAX: i64 = 100;

/// Within this time every replica has looked for orders.
const EVERYBODYS_TURN: Duration = Duration::from_millis(2_500);

/// After this an order that nobody carried out is void, because whoever gave it no longer expects it to be carried out.
const VOID_AFTER: Duration = Duration::from_secs(600);

/// Carries orders out.
pub(crate) struct Orders {
    pub(crate) state: Arc<State>,
    pub(crate) store: Store,
    pub(crate) engines: BTreeMap<EngineName, Arc<dyn Engine>>,
    pub(crate) restarts: Arc<dyn Restarts>,
    /// The orders to end a storm that this replica has followed. Each replica judges for itself, so each ends its own.
    pub(crate) followed: Mutex<BTreeMap<i64, StormEnded>>,
}

impl Orders {
    /// Looks for orders until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut turns = tokio::time::interval(self.state.config.policy.poll_interval.min(TURN));
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = turns.tick() => {}
            }
            if !self.state.fleet_known() {
                continue;
            }
            let turned = tokio::select! {
                () = stop.cancelled() => return,
                turned = self.turn() => turned,
            };
            if let Err(error) = turned {
                // A database that is away is told elsewhere.
                debug!(error = %database_fault(&error), "orders were not looked at; tried again in a moment");
            }
        }
    }

    async fn turn(&self) -> Result<(), StoreError> {
        for order in self.store.standing_orders(ORDERS_MAX).await? {
            if let Ordered::Restart { workspace, force } = &order.what {
                self.restart(&order, workspace, *force).await?;
            } else if let Ordered::StormEnd { engine } = &order.what {
                self.end_storm(&order, engine.as_ref()).await?;
            }
        }
        Ok(())
    }

    async fn end_storm(&self, order: &StandingOrder, engine: Option<&EngineName>) -> Result<(), StoreError> {
        let ended = {
            let mut followed = lock(&self.followed);
            *followed.entry(order.id).or_insert_with(|| {
                info!(scope = engine.map_or("fleet", EngineName::as_str), by = %printable(&order.by), reason = %printable(&order.reason), "an operator ends the storm");
                self.state.judge().end_storm(engine)
            })
        };
        // The owner answers only when all other replicas have had their turn.
        if order.age < EVERYBODYS_TURN || !self.state.speaks_for(engine, self.state.now()) {
            return Ok(());
        }
        let (done, answer) = match ended {
            StormEnded::None => (false, "there is no storm"),
            StormEnded::Ended => (true, "its dead are restarted without waiting for each other"),
            StormEnded::FleetHolds => (
                false,
                "the storm of the whole fleet goes on, and other engines are a part of it: `defib storm end --fleet` ends all",
            ),
        };
        self.store.end_order(order.id, done, answer, None).await?;
        lock(&self.followed).remove(&order.id);
        Ok(())
    }

    async fn restart(&self, order: &StandingOrder, workspace: &WorkspaceId, force: bool) -> Result<(), StoreError> {
        if self.store.settle_order(order.id).await? {
            return Ok(());
        }
        let replica = &self.state.config.replica_id;
        match &order.taken_by {
            Some(by) if by == replica && !self.restarts.in_flight().contains(workspace) => {
                // Perhaps it ended between the two looks.
                if !self.store.settle_order(order.id).await? {
                    let why = "refused when it was to be claimed: a hold stands, the platform refused, or another restart was first";
                    self.store.end_order(order.id, false, why, None).await?;
                }
                return Ok(());
            }
            Some(_) if order.age < VOID_AFTER => return Ok(()),
            None if order.age < VOID_AFTER => {}
            _ => {
                let why = "void: nobody carried it out within ten minutes";
                return self.store.end_order(order.id, false, why, None).await.map(drop);
            }
        }
        let mut watched = self.state.config.watched_statuses.clone();
        watched.extend(order.status.clone().filter(|_| force));
        let ids = [workspace.clone()];
        let (read, _) = self.store.read_fleet(FleetScope::Some(&ids), &watched).await?;
        let row = read.workspaces.first();
        let engine = row.map(|row| row.engine.clone());
        if !self.is_ours(engine.as_ref()) || !self.store.take_order(order.id, replica).await? {
            return Ok(());
        }
        let refusal = match row {
            None => Some(why_not_read(order, force, &self.state.config.watched_statuses)),
            Some(row) => self.carry_out(order, row, force).await?,
        };
        if let Some(why) = refusal {
            warn!(workspace = %printable(workspace.as_str()), by = %printable(&order.by), why, "an ordered restart is refused");
            self.store.end_order(order.id, false, &why, None).await?;
        }
        Ok(())
    }

    /// Whether orders about what is on `engine` (`None`: it is not known) are ours to take.
    fn is_ours(&self, engine: Option<&EngineName>) -> bool {
        self.state.speaks_for(engine, self.state.now())
    }

    /// Hands a restart over to the restarter. If it cannot, it returns why.
    async fn carry_out(
        &self,
        order: &StandingOrder,
        row: &defib_policy::fleet::Workspace,
        force: bool,
    ) -> Result<Option<String>, StoreError> {
        if self.state.only_observes() {
            return Ok(Some("this replica only observes (DEFIB_MODE)".to_owned()));
        }
        let Some(engine) = self.engines.get(&row.engine) else {
            return Ok(Some("it has no container that could be restarted".to_owned()));
        };
        let held = self.store.holds().await?.into_iter().find(|hold| Holds::new(vec![hold.clone()]).cover(row));
        if let Some(hold) = held.filter(|_| !force) {
            let why = format!("{} holds it: {} (--force restarts it all the same)", hold.owner, hold.reason);
            return Ok(Some(why));
        }
        let target = Target {
            workspace: row.id.clone(),
            kind: row.kind,
            container_ref: row.container_ref.clone(),
            instance_ref: row.instance_ref.clone(),
            known: self.state.judge().known_container(&row.id).cloned(),
            inspect: true,
            in_doubt: true,
        };
        let sample = engine.confirm(&target).await;
        let ids = std::slice::from_ref(&row.id);
        let horizon = self.state.config.policy.attempts_horizon();
        let attempts = self.store.read_attempts(FleetScope::Some(ids), horizon).await?;
        let look = Look {
            workspace: row,
            sample: Some(&sample),
            attempts: &attempts,
            in_flight: self.restarts.in_flight().contains(&row.id),
            queued: false,
            ours: true,
            on_hold: false,
            own: None,
        };
        let by = ByOperator { order: order.id, by: order.by.clone(), reason: order.reason.clone(), force };
        let ordered = self.state.judge().order_by_operator(self.state.now(), &look, by);
        match ordered {
            Ok(restart) => {
                info!(workspace = %printable(row.id.as_str()), by = %printable(&order.by), reason = %printable(&order.reason), "a restart was ordered");
                self.restarts.carry_out(vec![restart]);
                Ok(None)
            }
            Err(why) => Ok(Some(why)),
        }
    }
}

/// Why the fleet, read with the watched statuses (and by force with its own), has no row of the workspace of an order.
fn why_not_read(order: &StandingOrder, force: bool, watched: &[String]) -> String {
    match order.status.as_deref() {
        None => "it is not in defib.fleet, or has no status there".to_owned(),
        Some(_) if order.suspended => {
            "it is suspended (it, or one above it, was put away), and --force does not change that: wake it through the platform".to_owned()
        }
        Some(status) if !force && !watched.iter().any(|watched| watched == status) => {
            let status = printable(status);
            format!("its status {status} is not watched (DEFIB_WATCHED_STATUSES); --force restarts it all the same")
        }
        Some(_) => "its row in defib.fleet breaks the contract (`defib explain` and `defib check` say how), so it cannot be restarted".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_offers_force_only_where_force_helps() {
        let watched = ["online".to_owned()];
        for (status, suspended, force, said, offers) in [
            (None, false, true, "not in defib.fleet", false),
            (Some("parked"), false, false, "status parked is not watched", true),
            (Some("parked"), true, false, "it is suspended", false),
            (Some("parked"), true, true, "it is suspended", false),
            (Some("parked"), false, true, "breaks the contract", false),
            (Some("online"), false, false, "breaks the contract", false),
        ] {
            let order = StandingOrder {
                id: 1,
                what: Ordered::StormEnd { engine: None },
                reason: String::new(),
                by: String::new(),
                age: Duration::ZERO,
                taken_by: None,
                status: status.map(str::to_owned),
                suspended,
            };
            let why = why_not_read(&order, force, &watched);
            assert!(why.contains(said) && why.contains("--force restarts") == offers, "{order:?} {force}: {why}");
        }
    }
}
