//! Carrying restarts out (section 5): claim, confirm, act, outcome.
//!
//! ```text
//! order ─► permit ─► claim (ledger) ─► confirm (inspect) ─► may act? ─► engine ─► outcome (ledger)
//!                    │                 │                    │           │
//!                    held, vetoed,     runs, or another     paused just answer lost: looked at until the
//!                    taken, lease      life: superseded     now: vetoed container or the time has told
//!                    lost: nothing                          lease lost: abandoned
//! ```
//!
//! The loop never waits for any of it. Orders are bounded by one a workspace, and by `DEFIB_RESTART_CONCURRENCY` permits an
//! engine. A process that dies between any two steps leaves an open row, which the engine's next owner settles
//! ([`recovery`](crate::recovery)); nothing here needs to be undone.
//!
//! What nobody can take back is a call that is on its way: an engine does not check our epoch. So the lease is asked for three times,
//! each closer to the call: in the claiming transaction, in the statement that writes down that the engine is asked, and by our own
//! clock on the line before; and from that statement on the row is in everybody's way for as long as the engine may be at it. What is
//! left is a process that is stopped between that line and the call (or suspended together with its clock since that statement), and
//! wakes up after the others have settled its row, and an engine that is later than its deadline and the looks after it. Both then
//! start what runs already (which an engine answers with "already"), or restart a wedged one a second time.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib_engine::{Engine, EngineError, RestartCall, RestartHow, Target};
use defib_policy::attempt::Outcome;
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::Moment;
use defib_policy::plan::{Remedy, RestartOrder};
use defib_policy::sample::{Incarnation, Observation, Sample};
use defib_store::crash_point;
use defib_store::{Claim, Claimed, LeaseProof, MayAct, Store, StoreError};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::clock::Clock;
use crate::config::Config;
use crate::leases::Ownership;
use crate::logging::{chain, printable};
use crate::metrics::Metrics;
use crate::reconcile::{InFlight, database_fault, lock};

/// What claiming, confirming and writing the outcome may take beside the restart itself. Larger: the row of a daemon that
/// died is settled later. Smaller: a slow database makes others settle a row that is still being worked on.
const CLAIM_MARGIN: Duration = Duration::from_secs(20);

/// Tries to write an outcome before the row is left to `recovery`.
const OUTCOME_TRIES: u32 = 5;

/// How long a container is looked at after a restart whose answer was lost, at most: beyond it the attempt counts as failed, and the
/// next one looks first.
const LOOK_AFTER_MAX: Duration = Duration::from_secs(10);

/// Between two of those looks.
const LOOK_AFTER_SPACING: Duration = Duration::from_millis(250);

/// What may pass between asking whether to act and the call, and what writing the outcome may take, before others settle an attempt
/// that turned to its engine.
const OUTCOME_MARGIN: Duration = Duration::from_secs(10);

/// Makes restarts happen, each at most once.
pub(crate) struct Restarter {
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    engines: BTreeMap<EngineName, (Arc<dyn Engine>, Arc<Semaphore>)>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    in_flight: Mutex<InFlight>,
    /// Those of them that wait for a permit.
    queued: Mutex<InFlight>,
    /// The engines of those in flight, with how many there are.
    busy: Mutex<BTreeMap<EngineName, usize>>,
    /// What is ours, as the loop's last turn at the leases left it.
    pub(crate) ownership: Arc<Mutex<Ownership>>,
    /// Workspaces whose restart has ended, for a look at them.
    ended: mpsc::UnboundedSender<(EngineName, WorkspaceId)>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Restarter {
    pub(crate) fn new(
        config: Arc<Config>,
        store: Store,
        engines: &BTreeMap<EngineName, Arc<dyn Engine>>,
        clock: Clock,
        metrics: Arc<Metrics>,
        ended: mpsc::UnboundedSender<(EngineName, WorkspaceId)>,
    ) -> Self {
        let permits = config.restart_concurrency;
        Self {
            config,
            store,
            engines: engines
                .iter()
                .map(|(name, engine)| (name.clone(), (Arc::clone(engine), Arc::new(Semaphore::new(permits)))))
                .collect(),
            clock,
            metrics,
            in_flight: Mutex::new(HashSet::new()),
            queued: Mutex::default(),
            busy: Mutex::default(),
            ownership: Arc::default(),
            ended,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// The epoch of our lease on `engine`, while it surely lasts.
    fn epoch(&self, engine: &EngineName) -> Option<i64> {
        lock(&self.ownership).epoch(engine, (self.clock)())
    }

    /// Asks the loop for a look at a workspace now. Nobody listens any more when the daemon stops.
    pub(crate) fn look_at(&self, engine: &EngineName, workspace: &WorkspaceId) {
        let _ = self.ended.send((engine.clone(), workspace.clone()));
    }

    /// Engines on which a restart is under way in this process.
    pub(crate) fn busy_engines(&self) -> BTreeSet<EngineName> {
        lock(&self.busy).keys().cloned().collect()
    }

    /// Workspaces with a restart under way in this process.
    pub(crate) fn in_flight(&self) -> InFlight {
        lock(&self.in_flight).clone()
    }

    /// Those of them that wait for others on their engine.
    pub(crate) fn queued(&self) -> InFlight {
        lock(&self.queued).clone()
    }

    /// Starts to carry out orders. Returns at once; an order for a workspace that has one under way is dropped, because
    /// the next pass judges it afresh.
    pub(crate) fn carry_out(self: &Arc<Self>, orders: Vec<RestartOrder>) {
        for order in orders {
            if self.stop.is_cancelled() || !lock(&self.in_flight).insert(order.workspace.clone()) {
                continue;
            }
            *lock(&self.busy).entry(order.engine.clone()).or_default() += 1;
            let restarter = Arc::clone(self);
            self.tasks.spawn(async move {
                // Removed on every way out, a panic included.
                let mut under_way = UnderWay { restarter: &restarter, order: &order, look_again: false };
                under_way.look_again = restarter.attempt(&order).await;
            });
        }
    }

    /// Stops taking orders, and hands back what has not reached its engine.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
    }

    /// Waits for what has reached its engine.
    pub(crate) async fn shut_down(&self) {
        self.stop();
        let under_way = self.tasks.len();
        if under_way > 0 {
            info!(restarts = under_way, "waiting for the restarts under way");
        }
        let longest = self.config.restart_timeout + self.config.stop_grace + CLAIM_MARGIN;
        if tokio::time::timeout(longest, self.tasks.wait()).await.is_err() {
            error!("restarts did not end in time; their ledger rows stay open and are settled by looking");
        }
    }

    /// Returns whether something came of it that is worth a look. What was refused would only be refused again: that is for
    /// the next pass.
    async fn attempt(&self, order: &RestartOrder) -> bool {
        let Some((engine, permits)) = self.engines.get(&order.engine) else { return false };
        lock(&self.queued).insert(order.workspace.clone());
        let permit = tokio::select! {
            permit = permits.acquire() => Some(permit),
            () = self.stop.cancelled() => None,
        };
        lock(&self.queued).remove(&order.workspace);
        let Some(permit) = permit else { return false };
        // The semaphore is never closed.
        let Ok(_permit) = permit else { return false };
        let workspace = printable(order.workspace.as_str());
        let Some(epoch) = self.epoch(&order.engine) else {
            debug!(%workspace, engine = %order.engine, "restart left to the engine's owner");
            return false;
        };
        crash_point!("before_claim");
        let id = match self.claim(order, epoch).await {
            Ok(Claimed::Granted { id }) => id,
            Ok(Claimed::Vetoed { .. }) => {
                self.metrics.restart(&order.engine, Outcome::Vetoed);
                info!(%workspace, engine = %order.engine, "restart vetoed by the platform: its row changed since the evidence");
                return false;
            }
            Ok(Claimed::Taken) => return false,
            Ok(Claimed::NotOwner) => {
                info!(%workspace, engine = %order.engine, epoch, "restart left to the engine's owner: the lease is no longer ours");
                return false;
            }
            Ok(Claimed::Held { reason }) => {
                self.metrics.held_by_operator();
                info!(%workspace, engine = %order.engine, reason = %printable(&reason), "restart held by an operator");
                return false;
            }
            Err(error) => {
                warn!(%workspace, engine = %order.engine, error = %database_fault(&error), "restart not claimed, so not made");
                return false;
            }
        };
        crash_point!("claimed");
        let (outcome, error) = match self.act(engine.as_ref(), order, id, epoch).await {
            Ok(()) => (Outcome::Succeeded, None),
            Err(NotDone { outcome, why }) => (outcome, Some(why)),
        };
        self.metrics.restart(&order.engine, outcome);
        crash_point!("before_outcome");
        self.finish(order, id, outcome, error.as_deref()).await;
        crash_point!("after_outcome");
        true
    }

    async fn claim(&self, order: &RestartOrder, epoch: i64) -> Result<Claimed, StoreError> {
        let claim = Claim {
            workspace: &order.workspace,
            engine: &order.engine,
            container_ref: order.container_ref.as_deref(),
            policy: order.policy.as_deref(),
            container_id: order.container_id(),
            started_at: order.started_at(),
            attempt: order.attempt,
            epoch,
            verdict: order.verdict.label(),
            evidence: serde_json::to_value(&order.evidence).unwrap_or_default(),
            claimed_by: &self.config.replica_id,
            deadline: self.deadline(order.remedy) + CLAIM_MARGIN,
        };
        self.store.claim(&claim).await
    }

    /// How long the engine may take: a container that runs also gets its grace.
    fn deadline(&self, remedy: Remedy) -> Duration {
        match remedy {
            Remedy::KillAndStart => self.config.restart_timeout + self.config.stop_grace,
            Remedy::Start | Remedy::Recreate => self.config.restart_timeout,
        }
    }

    async fn act(&self, engine: &dyn Engine, order: &RestartOrder, id: i64, epoch: i64) -> Result<(), NotDone> {
        let target = Target {
            workspace: order.workspace.clone(),
            kind: order.kind,
            container_ref: order.container_ref.clone(),
            instance_ref: order.instance_ref.clone(),
            known: order.container_id().cloned(),
            inspect: true,
            in_doubt: true,
        };
        let container = confirmed(order, &engine.confirm(&target).await)?;
        crash_point!("confirmed");
        let how = match order.remedy {
            Remedy::Start => RestartHow::Start,
            Remedy::KillAndStart => RestartHow::KillAndStart { grace: self.config.stop_grace },
            Remedy::Recreate => {
                return Err(NotDone::new(
                    Outcome::Failed,
                    "the container does not exist any more, and an engine cannot make it again: recreate it through the platform",
                ));
            }
        };
        let call = RestartCall {
            target: target.clone(),
            container_id: container.container_id.clone(),
            how,
            deadline: self.deadline(order.remedy),
            attempt: id,
        };
        if self.stop.is_cancelled() {
            return Err(NotDone::new(Outcome::Abandoned, "handed back: defib is stopping"));
        }
        let asked_at = (self.clock)();
        self.ask_to_act(order, id, epoch).await?;
        crash_point!("acting");
        let issued_at = (self.clock)();
        if let Some(stopped_ago) = order.stopped_ago {
            self.metrics.detected_after(stopped_ago + (issued_at - order.at));
        }
        warn!(
            workspace = %printable(order.workspace.as_str()),
            engine = %order.engine,
            container = %short(container.container_id.as_str()),
            attempt = order.attempt,
            epoch,
            verdict = order.verdict.label(),
            rule = order.evidence.rule.label(),
            because = %order.evidence.because,
            evidence = %serde_json::to_string(&order.evidence).unwrap_or_default(),
            "restarting"
        );
        // The last line before the call: whatever time passed since the lease was asked for, it passed on this clock too.
        if !self.may_still_leave(order, epoch, asked_at) {
            return Err(NotDone::new(
                Outcome::Abandoned,
                "handed back: the lease ended, or too much time passed, right before the engine was asked",
            ));
        }
        let called_at = (self.clock)();
        let restarted = engine.restart(&call).await;
        self.metrics.restart_took(&order.engine, (self.clock)() - issued_at);
        crash_point!("answered");
        match restarted {
            Ok(()) => Ok(()),
            Err(error @ (EngineError::Gone { .. } | EngineError::Superseded { .. })) => {
                Err(NotDone { outcome: Outcome::Superseded, why: chain(&error) })
            }
            Err(error) => {
                let left = Left { id, epoch, called_at, target: &target, convicted: &container };
                self.look_after(engine, order, &left, error).await
            }
        }
    }

    /// Whether a call may leave that the database allowed when it was asked at `asked_at`.
    ///
    /// The lease is not all: our clock does not know of a turn under way that gives it up, nor of a process of our name that has taken it.
    /// What holds whatever the leases do is the row. It is in everybody's way for the engine's deadline, the looks after it and
    /// [`OUTCOME_MARGIN`]; a call that leaves within that margin is done, or past hope, before others may settle its row.
    fn may_still_leave(&self, order: &RestartOrder, epoch: i64, asked_at: Moment) -> bool {
        self.epoch(&order.engine) == Some(epoch) && (self.clock)() - asked_at < OUTCOME_MARGIN
    }

    /// The second of the three questions for the lease, and the platform's last chance to object.
    async fn ask_to_act(&self, order: &RestartOrder, id: i64, epoch: i64) -> Result<(), NotDone> {
        let lease = LeaseProof { engine: &order.engine, holder: &self.config.replica_id, epoch };
        let within = self.deadline(order.remedy) + self.look_after_max() + OUTCOME_MARGIN;
        match self.store.may_act(id, &self.config.watched_statuses, lease, within).await {
            Ok(MayAct::Yes) => Ok(()),
            Ok(MayAct::NotWanted) => {
                Err(NotDone::new(Outcome::Vetoed, "no longer watched, suspended or held when it was to be restarted"))
            }
            Ok(MayAct::NotOwner) => {
                Err(NotDone::new(Outcome::Abandoned, "handed back: the lease on its engine is no longer ours"))
            }
            Err(error) => {
                let why = format!("handed back: the database could not confirm the claim: {}", chain(&error));
                Err(NotDone { outcome: Outcome::Abandoned, why })
            }
        }
    }

    fn look_after_max(&self) -> Duration {
        self.config.restart_timeout.min(LOOK_AFTER_MAX)
    }

    /// After a restart that failed: a lost answer is not a failure, so the container is asked what became of it; and one that was
    /// stopped and not started again is started once more, because it must not be left worse than it was found.
    async fn look_after(
        &self,
        engine: &dyn Engine,
        order: &RestartOrder,
        left: &Left<'_>,
        error: EngineError,
    ) -> Result<(), NotDone> {
        let failed = |error: &EngineError| NotDone { outcome: Outcome::Failed, why: chain(error) };
        let Left { target, convicted, .. } = *left;
        let lost = error.may_have_happened();
        let (until, whatever_is_seen) = self.looks_until(order.remedy, left.called_at);
        let goes_on = |seen: &Observation| {
            lost && (whatever_is_seen || !has_restarted(seen, convicted)) && (self.clock)() < until
        };
        let mut seen = engine.confirm(target).await.observation;
        while goes_on(&seen) {
            tokio::time::sleep(LOOK_AFTER_SPACING).await;
            seen = engine.confirm(target).await.observation;
        }
        if has_restarted(&seen, convicted) {
            info!(
                workspace = %printable(order.workspace.as_str()),
                engine = %order.engine,
                error = %chain(&error),
                "the restart was made although it did not answer"
            );
            return Ok(());
        }
        let left_stopped = order.remedy == Remedy::KillAndStart
            && matches!(&seen, Observation::Stopped { incarnation, .. } if convicted.may_be(incarnation));
        if !left_stopped {
            return Err(failed(&error));
        }
        // Much time may have passed: whether it is still wanted, and ours, is asked again.
        let asked_at = (self.clock)();
        let refused = self.ask_to_act(order, left.id, left.epoch).await.err().map(|refused| refused.why);
        let late = (!self.may_still_leave(order, left.epoch, asked_at)).then(|| "the lease ended".to_owned());
        if let Some(why) = refused.or(late) {
            let why = format!("{}; left stopped, and not started: {why}", chain(&error));
            return Err(NotDone { outcome: Outcome::Failed, why });
        }
        warn!(
            workspace = %printable(order.workspace.as_str()),
            engine = %order.engine,
            error = %chain(&error),
            "the restart left the container stopped; starting it"
        );
        let call = RestartCall {
            target: target.clone(),
            container_id: convicted.container_id.clone(),
            how: RestartHow::Start,
            deadline: self.config.restart_timeout,
            attempt: left.id,
        };
        let started = engine.restart(&call).await;
        started.map_err(|second| NotDone {
            outcome: Outcome::Failed,
            why: format!("{}; and the start after it: {}", chain(&error), chain(&second)),
        })
    }

    /// Until when a container is looked at after a call whose answer was lost, and whether a new life that shows ends that.
    ///
    /// A start that comes late does nothing. A restart that comes late kills whoever runs by then; and who began the life that is
    /// seen, our call or somebody else before it, no look can tell. So the attempt stays open for as long as the engine may be at it.
    fn looks_until(&self, remedy: Remedy, called_at: Moment) -> (Moment, bool) {
        match remedy {
            Remedy::KillAndStart => (called_at + self.deadline(remedy) + self.look_after_max(), true),
            Remedy::Start | Remedy::Recreate => {
                let last = self.look_after_max().saturating_sub(LOOK_AFTER_SPACING);
                ((self.clock)() + last, false)
            }
        }
    }

    async fn finish(&self, order: &RestartOrder, id: i64, outcome: Outcome, error: Option<&str>) {
        let workspace = printable(order.workspace.as_str());
        match (outcome, error) {
            (Outcome::Succeeded, _) => {
                info!(%workspace, engine = %order.engine, attempt = order.attempt, "restarted; waiting for its heartbeat");
            }
            (Outcome::Failed, Some(why)) => {
                error!(%workspace, engine = %order.engine, attempt = order.attempt, error = why, "restart failed");
            }
            (_, why) => {
                let why = why.unwrap_or_default();
                info!(%workspace, engine = %order.engine, outcome = outcome.label(), why, "restart not made");
            }
        }
        let mut pause = Duration::from_millis(200);
        for _ in 0..OUTCOME_TRIES {
            match self.store.finish(id, outcome, error).await {
                Ok(_) => return,
                Err(error) => warn!(%workspace, error = %chain(&error), "outcome not written yet"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        error!(%workspace, attempt_id = id, "outcome not written; the row stays open and is settled by looking");
    }
}

/// Takes a workspace out of flight, and asks for a look at it where that makes sense.
struct UnderWay<'a> {
    restarter: &'a Restarter,
    order: &'a RestartOrder,
    look_again: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(&self.restarter.in_flight).remove(&self.order.workspace);
        let mut busy = lock(&self.restarter.busy);
        if let Some(under_way) = busy.get_mut(&self.order.engine) {
            *under_way -= 1;
            if *under_way == 0 {
                busy.remove(&self.order.engine);
            }
        }
        drop(busy);
        if self.look_again {
            self.restarter.look_at(&self.order.engine, &self.order.workspace);
        }
    }
}

/// A call that has left.
struct Left<'a> {
    id: i64,
    epoch: i64,
    called_at: Moment,
    target: &'a Target,
    convicted: &'a Incarnation,
}

/// A restart that was not made.
#[derive(Debug, PartialEq, Eq)]
struct NotDone {
    outcome: Outcome,
    why: String,
}

impl NotDone {
    fn new(outcome: Outcome, why: &str) -> Self {
        Self { outcome, why: why.to_owned() }
    }
}

/// Whether a look shows another life than the one that was to be restarted, and a running one.
fn has_restarted(seen: &Observation, convicted: &Incarnation) -> bool {
    matches!(seen, Observation::Running { incarnation, .. } if !convicted.may_be(incarnation))
}

/// The container to restart, if the fresh look agrees with the evidence.
fn confirmed(order: &RestartOrder, seen: &Sample) -> Result<Incarnation, NotDone> {
    let superseded = |why: &str| Err(NotDone::new(Outcome::Superseded, why));
    let same =
        |incarnation: &Incarnation| order.incarnation.as_ref().is_none_or(|convicted| convicted.may_be(incarnation));
    match &seen.observation {
        // Not a failure of the restart: it was not tried, and does not use up a try.
        Observation::Unknown { fault } => Err(NotDone {
            outcome: Outcome::Superseded,
            why: format!("the look before the restart got no answer ({fault}); nothing was touched"),
        }),
        Observation::Running { incarnation, .. } if !same(incarnation) => {
            superseded("somebody else restarted it first")
        }
        Observation::Running { incarnation, .. } => {
            if order.remedy == Remedy::KillAndStart {
                Ok(incarnation.clone())
            } else {
                superseded("the look before the restart found it running")
            }
        }
        Observation::Stopped { incarnation, .. } => match order.remedy {
            _ if !same(incarnation) => superseded("another incarnation of it stopped since"),
            Remedy::Start => Ok(incarnation.clone()),
            Remedy::KillAndStart => superseded("it stopped by itself since"),
            Remedy::Recreate => superseded("its container is back"),
        },
        Observation::Transitional { incarnation, .. } => {
            // Convicted for being in that state for longer than settle: nobody is at work on it.
            if order.remedy == Remedy::Start && order.convicted_in_transition() && same(incarnation) {
                Ok(incarnation.clone())
            } else {
                superseded("its engine is at work on it")
            }
        }
        Observation::Frozen { .. } => superseded("somebody paused its container"),
        Observation::Missing if order.remedy == Remedy::Recreate => {
            Ok(order.incarnation.clone().unwrap_or(Incarnation { container_id: "".into(), started_at: None }))
        }
        Observation::Missing => superseded("its container was removed since"),
    }
}

/// The part of a container id that people read.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
