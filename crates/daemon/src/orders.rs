//! Carries out what operators order. The owner of the engine takes the order, carries it out through the same protocol as any restart, and
//! answers it.
//!
//! ```text
//! defib restart ─► defib.orders ─► taken ─► a look at the container ─► restarter (claim, confirm, may act, call, outcome)
//!                       ▲                                                        │
//!                       └──────────── answered ◄── the ledger's row of it ◄──────┘
//! ```
//!
//! What came of an order is read from the ledger, so an answer that was lost is given with a later turn, by whoever owns the engine then.
//!
//! Orders wait for each other only in a [`Lane`]: those for one engine that are still to be taken go on one after the other, because each
//! looks at a container, and an engine that hangs takes seconds for that. Other engines, answers, and ends of storms do not wait for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib_engine::{Engine, Target};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::{Look, StormEnded};
use defib_policy::plan::ByOperator;
use defib_store::{FleetScope, Ordered, StandingOrder, Store, StoreError};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::holds::Holds;
use crate::logging::{database_fault, printable};
use crate::pass::Restarts;
use crate::state::State;
use crate::sync::lock;

/// How often orders are looked for. It is often, because a person waits for the answer.
const TURN: Duration = Duration::from_secs(1);

/// How many orders are looked at in one turn for each kind, engine and replica that took them (or none).
const PLACES: i64 = 20;

/// How many orders are looked at in one turn at all.
const ORDERS_MAX: i64 = 1_000;

/// How many connections orders may use at once. They come from the pool of the reads that decisions rest on, which needs most of them.
const CONNECTIONS: usize = 2;

/// After this time what was read of orders is no longer acted upon.
const OLD_AFTER: Duration = Duration::from_secs(3);

/// Within this time every replica has looked for orders.
const EVERYBODYS_TURN: Duration = Duration::from_millis(2_500);

/// After this an order that nobody carried out is void, because whoever gave it no longer expects it to be carried out.
const VOID_AFTER: Duration = Duration::from_secs(600);

/// What is answered then.
const VOID: &str = "void: nobody carried it out within ten minutes";

/// Carries orders out.
pub(crate) struct Orders {
    state: Arc<State>,
    store: Store,
    engines: BTreeMap<EngineName, Arc<dyn Engine>>,
    restarts: Arc<dyn Restarts>,
    connections: Semaphore,
    /// The orders to end a storm that this replica has followed. Each replica judges for itself, so each ends its own.
    followed: Mutex<BTreeMap<i64, StormEnded>>,
    /// The lanes in which a task is at work now.
    busy: Mutex<BTreeSet<Lane>>,
    /// The orders that are being taken now, up to the moment at which the restarter has them.
    being_taken: Mutex<BTreeSet<i64>>,
}

/// Orders that are carried out one after the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lane {
    engine: Option<EngineName>,
    work: Work,
}

/// What is done for an order in one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    /// A restart is taken and handed to the restarter, after a look that waits for the engine.
    Take,
    /// The result of a restart that was taken is given as the answer.
    Answer,
    /// The result of the end of a storm is given as the answer.
    AnswerStormEnd,
}

impl Lane {
    fn of(order: &StandingOrder) -> Self {
        let work = match (&order.what, &order.taken_by) {
            (Ordered::StormEnd { .. }, _) => Work::AnswerStormEnd,
            (Ordered::Restart { .. }, Some(_)) => Work::Answer,
            (Ordered::Restart { .. }, None) => Work::Take,
        };
        Self { engine: order.engine.clone(), work }
    }
}

/// A member of a set, until this is dropped. So it leaves the set also when the task panics or is stopped.
struct Within<'a, T: Ord> {
    set: &'a Mutex<BTreeSet<T>>,
    member: T,
}

impl<'a, T: Ord + Clone> Within<'a, T> {
    /// `None`: it is in the set already.
    fn enter(set: &'a Mutex<BTreeSet<T>>, member: T) -> Option<Self> {
        let is_new = lock(set).insert(member.clone());
        is_new.then(|| Self { set, member })
    }
}

impl<T: Ord> Drop for Within<'_, T> {
    fn drop(&mut self) {
        lock(self.set).remove(&self.member);
    }
}

impl Orders {
    pub(crate) fn new(
        state: Arc<State>,
        store: Store,
        engines: BTreeMap<EngineName, Arc<dyn Engine>>,
        restarts: Arc<dyn Restarts>,
    ) -> Self {
        Self {
            state,
            store,
            engines,
            restarts,
            connections: Semaphore::new(CONNECTIONS),
            followed: Mutex::default(),
            busy: Mutex::default(),
            being_taken: Mutex::default(),
        }
    }

    /// Looks for orders until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut turns = tokio::time::interval(self.state.config.policy.poll_interval.min(TURN));
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut at_work = JoinSet::new(); // whoever is still in it is stopped when this function returns
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = turns.tick() => {}
            }
            while let Some(ended) = at_work.try_join_next() {
                if let Err(error) = ended {
                    error!(%error, "carrying out orders failed by a fault of defib itself; they are looked at again in a moment");
                }
            }
            if !self.state.fleet_known() {
                continue;
            }
            let turned = tokio::select! {
                () = stop.cancelled() => return,
                turned = self.turn(&mut at_work) => turned,
            };
            if let Err(error) = turned {
                // A database that is away is told elsewhere.
                debug!(error = %database_fault(&error), "orders were not looked at; tried again in a moment");
            }
        }
    }

    /// Looks for orders, and starts to carry them out. It waits for no engine and for no order.
    async fn turn(self: &Arc<Self>, at_work: &mut JoinSet<()>) -> Result<(), StoreError> {
        let read_at = Instant::now();
        let standing = self.ask(self.store.standing_orders(PLACES, ORDERS_MAX)).await?;
        lock(&self.followed).retain(|id, _| standing.iter().any(|order| order.id == *id));
        let mut lanes: BTreeMap<Lane, Vec<StandingOrder>> = BTreeMap::new();
        for order in standing {
            if let Ordered::StormEnd { engine } = &order.what {
                self.follow(&order, engine.as_ref());
            }
            if self.concerns_us(&order) {
                lanes.entry(Lane::of(&order)).or_default().push(order);
            }
        }
        for (lane, orders) in lanes {
            let this = Arc::clone(self);
            at_work.spawn(async move {
                // Where the task of an earlier turn is still at work, these orders wait for a later turn.
                let Some(_lane) = Within::enter(&this.busy, lane) else { return };
                for order in &orders {
                    let dealt = this.deal_with(order).await;
                    if dealt && read_at.elapsed() >= OLD_AFTER {
                        return; // The next turn reads the rest anew. After a failure we go on: the failed order would come first again.
                    }
                }
            });
        }
        Ok(())
    }

    /// Whether there may be something for this replica to do for an order. An order that nobody has taken is void after a time, and any
    /// replica may declare it void. An order that was taken is left to the owner of the engine, because a restart may wait for longer than
    /// that for its place.
    fn concerns_us(&self, order: &StandingOrder) -> bool {
        let is_nobodys = order.taken_by.is_none() && order.age >= VOID_AFTER;
        let waits_for_others = matches!(order.what, Ordered::StormEnd { .. }) && order.age < EVERYBODYS_TURN;
        let is_taken_by_us = order.taken_by.as_ref() == Some(&self.state.config.replica_id);
        is_nobodys || !waits_for_others && (is_taken_by_us || self.is_ours(order.engine.as_ref()))
    }

    /// Does what there is to do for an order now. False if that failed: the failure is logged, and the order stands.
    async fn deal_with(&self, order: &StandingOrder) -> bool {
        let dealt = match &order.what {
            Ordered::Restart { workspace, force } => self.restart(order, workspace, *force).await,
            Ordered::StormEnd { .. } => self.answer_storm_end(order).await,
        };
        if let Err(error) = &dealt {
            warn!(order = order.id, by = %printable(&order.by), error = %database_fault(error), "an order could not be dealt with; tried again in a moment");
        }
        dealt.is_ok()
    }

    /// Asks the database, when a connection is free for orders.
    async fn ask<T>(&self, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let _connection = self.connections.acquire().await; // it is never closed
        question.await
    }

    /// Ends an order with its answer. False when that was done before.
    async fn end(&self, order: &StandingOrder, done: bool, answer: &str) -> Result<bool, StoreError> {
        self.ask(self.store.end_order(order.id, done, answer, None)).await
    }

    /// Ends the storm of this replica's own judge, the first time that it sees the order.
    fn follow(&self, order: &StandingOrder, engine: Option<&EngineName>) {
        lock(&self.followed).entry(order.id).or_insert_with(|| {
            info!(scope = engine.map_or("fleet", EngineName::as_str), by = %printable(&order.by), reason = %printable(&order.reason), "an operator ends the storm");
            self.state.judge().end_storm(engine)
        });
    }

    /// The owner answers, when all other replicas have had their turn.
    async fn answer_storm_end(&self, order: &StandingOrder) -> Result<(), StoreError> {
        let followed = lock(&self.followed).get(&order.id).copied();
        let (done, answer) = match followed.filter(|_| self.is_ours(order.engine.as_ref())) {
            Some(StormEnded::None) => (false, "there is no storm"),
            Some(StormEnded::Ended) => (true, "its dead are restarted without waiting for each other"),
            Some(StormEnded::FleetHolds) => (
                false,
                "the storm of the whole fleet goes on, and other engines are a part of it: `defib storm end --fleet` ends all",
            ),
            None if order.age >= VOID_AFTER => (false, VOID),
            None => return Ok(()),
        };
        self.end(order, done, answer).await.map(drop)
    }

    async fn restart(&self, order: &StandingOrder, workspace: &WorkspaceId, force: bool) -> Result<(), StoreError> {
        if self.ask(self.store.settle_order(order.id)).await? {
            return Ok(());
        }
        let replica = &self.state.config.replica_id;
        match &order.taken_by {
            Some(by) if by == replica => return self.answer_what_we_took(order, workspace).await,
            Some(_) | None if order.age >= VOID_AFTER => return self.end(order, false, VOID).await.map(drop),
            Some(_) => return Ok(()),
            None => {}
        }
        let mut watched = self.state.config.watched_statuses.clone();
        watched.extend(order.status.clone().filter(|_| force));
        let ids = [workspace.clone()];
        let (read, _) = self.ask(self.store.read_fleet(FleetScope::Some(&ids), &watched)).await?;
        let row = read.workspaces.first();
        let engine = row.map_or(order.engine.as_ref(), |row| Some(&row.engine));
        let Some(_being_taken) = Within::enter(&self.being_taken, order.id) else { return Ok(()) };
        if !self.is_ours(engine) || !self.ask(self.store.take_order(order.id, replica)).await? {
            return Ok(());
        }
        let refusal = match row {
            None => Some(why_not_read(order, force, &self.state.config.watched_statuses)),
            // It was taken, so nobody tries it again. Without this answer it would be taken for one that the claim has refused.
            Some(row) => self.carry_out(order, row, force).await.unwrap_or_else(|error| {
                let why = database_fault(&error);
                Some(format!("nothing was restarted, because the database failed while it was carried out ({why}): order it again"))
            }),
        };
        if let Some(why) = refusal {
            warn!(workspace = %printable(workspace.as_str()), by = %printable(&order.by), why, "an ordered restart is refused");
            self.end(order, false, &why).await?;
        }
        Ok(())
    }

    /// A restart that this replica has taken is being taken, then in flight, and then it has ended.
    async fn answer_what_we_took(&self, order: &StandingOrder, workspace: &WorkspaceId) -> Result<(), StoreError> {
        let is_being_taken = lock(&self.being_taken).contains(&order.id); // asked first, because in flight comes after it
        if is_being_taken || self.restarts.in_flight().contains(workspace) {
            return Ok(());
        }
        // An earlier process of this name has claimed it, or its outcome could not be written yet. Whoever settles that row answers the order.
        if self.ask(self.store.order_is_under_way(order.id)).await? {
            return Ok(());
        }
        // Perhaps it ended between the two looks.
        if !self.ask(self.store.settle_order(order.id)).await? {
            let why =
                "refused when it was to be claimed: a hold stands, the platform refused, or another restart was first";
            self.end(order, false, why).await?;
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
        let held =
            self.ask(self.store.holds()).await?.into_iter().find(|hold| Holds::new(vec![hold.clone()]).cover(row));
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
        let attempts = self.ask(self.store.read_attempts(FleetScope::Some(ids), horizon)).await?;
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
            "it is suspended: its status, or that of one above it, says that it was put away. --force does not change that, because the platform \
             (defib.mark_dead) would refuse it too. Wake it through the platform first; then `defib restart` may restart it".to_owned()
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
    fn one_lane_is_entered_once_at_a_time_and_left_also_by_a_panic() {
        let lanes = Mutex::default();
        let first = Within::enter(&lanes, 1).expect("nobody is in it");
        assert!(Within::enter(&lanes, 1).is_none(), "entered twice");
        assert!(Within::enter(&lanes, 1).is_none(), "whoever was refused has taken the first one out");
        assert!(Within::enter(&lanes, 2).is_some(), "another lane");
        drop(first);
        let panicked = std::panic::catch_unwind(|| {
            let _within = Within::enter(&lanes, 1).expect("it was left");
            panic!("scripted");
        });
        assert!(panicked.is_err() && Within::enter(&lanes, 1).is_some());
    }

    #[test]
    fn a_refusal_offers_force_only_where_force_helps() {
        let watched = ["online".to_owned()];
        for (status, suspended, force, said, offers) in [
            (None, false, true, "not in defib.fleet", false),
            (Some("parked"), false, false, "status parked is not watched", true),
            (Some("parked"), true, false, "it is suspended", false),
            (Some("parked"), true, true, "Wake it through the platform first", false),
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
                engine: None,
            };
            let why = why_not_read(&order, force, &watched);
            assert!(why.contains(said) && why.contains("--force restarts") == offers, "{order:?} {force}: {why}");
        }
    }
}
