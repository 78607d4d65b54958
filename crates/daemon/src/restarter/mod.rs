//! Carries restarts out, each at most once. [`defib_policy::restart`] decides what is asked in which order and what each answer means. This
//! module asks the questions and does what the answers lead to.
//!
//! The loop never waits for any of it. There is at most one order for each workspace, and at most `DEFIB_RESTART_CONCURRENCY` restarts run
//! on each engine. A workspace for which the platform's own function fails waits in a lane of its own ([`defib_policy::restart::lanes`]),
//! so that it takes no place from the others. A process that dies between any two steps leaves an open row, which the engine's owner
//! settles; nothing here needs to be undone.
//!
//! Every crash point is between the two steps that it separates, and the last check of the lease is on the line before the call.

mod last_words;
mod ledger;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib_engine::{Engine, EngineError, RestartCall, RestartHow, Target};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::ownership::Ownership;
use defib_policy::plan::RestartOrder;
use defib_policy::restart::lanes::{Lane, Lanes};
use defib_policy::restart::{
    Answer, Call, CallFailed, CallFault, Case, ClaimAnswer, Done, End, How, Restart, Rules, Standing, Step,
};
use defib_policy::sample::Observation;
use defib_store::crash_point;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use self::last_words::Capture;
pub(crate) use self::ledger::{Ledger, StoreLedger};
use crate::clock::Clock;
use crate::config::Config;
use crate::eviction::Evictor;
use crate::logging::{chain, printable};
use crate::news::RestartNews;
use crate::sync::lock;

/// The set of workspaces with a restart under way.
pub(crate) type InFlight = HashSet<WorkspaceId>;

/// How many last words may wait to be written, each with up to 64 KiB of a log. Those of any more restarts are lost. Larger: more memory in a
/// mass death while the table is locked. Smaller: more are lost then.
const WORDS_MAX: usize = 256;

/// The knobs of restarts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Knobs {
    /// `DEFIB_RESTART_CONCURRENCY`.
    pub(crate) places: usize,
    /// `DEFIB_RESTART_TIMEOUT`.
    pub(crate) restart_timeout: Duration,
    /// `DEFIB_STOP_GRACE`.
    pub(crate) stop_grace: Duration,
    /// `DEFIB_CAPTURE_LOG_LINES`.
    pub(crate) log_lines: u32,
    /// The first delay after the platform's function has failed for a workspace (`DEFIB_BACKOFF_INITIAL`),
    pub(crate) delay_initial: Duration,
    /// and the longest (`DEFIB_BACKOFF_MAX`).
    pub(crate) delay_max: Duration,
}

impl Knobs {
    /// The knobs of a configuration.
    pub(crate) const fn of(config: &Config) -> Self {
        Self {
            places: config.restart_concurrency,
            restart_timeout: config.restart_timeout,
            stop_grace: config.stop_grace,
            log_lines: config.capture_log_lines,
            delay_initial: config.policy.backoff_initial,
            delay_max: config.policy.backoff_max,
        }
    }
}

/// An order that has ended, for the loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// On which engine.
    pub(crate) engine: EngineName,
    /// Whose.
    pub(crate) workspace: WorkspaceId,
    /// How, for the judge.
    pub(crate) end: End,
    /// Whether a look at the workspace now would tell something new.
    pub(crate) look_again: bool,
}

/// Carries restarts out.
pub(crate) struct Restarter {
    ledger: Arc<dyn Ledger>,
    engines: BTreeMap<EngineName, OnEngine>,
    clock: Clock,
    /// Deletes the keys of a dead workspace in the platform's cache, where there is one.
    evictor: Option<Arc<Evictor>>,
    news: RestartNews,
    longest: Duration,
    log_lines: u32,
    /// Last words are written one after the other: while their table is locked, they hold one connection and no more.
    writing_words: Arc<Semaphore>,
    /// Places for last words that wait to be written.
    waiting_words: Arc<Semaphore>,
    /// The engines that are ours since the last turn at the leases.
    ownership: Arc<Mutex<Ownership>>,
    in_flight: Mutex<InFlight>,
    /// The workspaces among these that wait for a place.
    queued: Mutex<InFlight>,
    /// The engines of those in flight, with how many there are.
    busy: Mutex<BTreeMap<EngineName, usize>>,
    lanes: Mutex<Lanes>,
    /// Orders that have ended.
    ended: mpsc::UnboundedSender<Ended>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// An engine, and the places in which its workspaces are restarted.
struct OnEngine {
    engine: Arc<dyn Engine>,
    rules: Rules,
    places: Semaphore,
    /// The lane that lets one restart through at a time, for workspaces for which the platform's function has failed.
    apart: Semaphore,
}

impl Restarter {
    pub(crate) fn new(
        knobs: Knobs,
        ledger: Arc<dyn Ledger>,
        engines: &BTreeMap<EngineName, Arc<dyn Engine>>,
        clock: Clock,
        ownership: Arc<Mutex<Ownership>>,
        news: RestartNews,
        ended: mpsc::UnboundedSender<Ended>,
    ) -> Self {
        let on_engine = |engine: &Arc<dyn Engine>| OnEngine {
            engine: Arc::clone(engine),
            rules: Rules::new(knobs.restart_timeout, knobs.stop_grace, engine.abilities()),
            places: Semaphore::new(knobs.places),
            apart: Semaphore::new(1),
        };
        let any = Rules::new(knobs.restart_timeout, knobs.stop_grace, defib_policy::abilities::Abilities::default());
        Self {
            ledger,
            engines: engines.iter().map(|(name, engine)| (name.clone(), on_engine(engine))).collect(),
            clock,
            evictor: None,
            news,
            longest: any.longest(),
            log_lines: knobs.log_lines,
            writing_words: Arc::new(Semaphore::new(1)),
            waiting_words: Arc::new(Semaphore::new(WORDS_MAX)),
            ownership,
            in_flight: Mutex::default(),
            queued: Mutex::default(),
            busy: Mutex::default(),
            lanes: Mutex::new(Lanes::new(knobs.delay_initial, knobs.delay_max)),
            ended,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Deletes keys of the dead before the engine is asked.
    pub(crate) fn with_evictor(self, evictor: Option<Arc<Evictor>>) -> Self {
        Self { evictor, ..self }
    }

    /// A workspace beats again after a restart.
    pub(crate) fn is_back(&self, workspace: &WorkspaceId) {
        if let Some(evictor) = &self.evictor {
            evictor.is_over(workspace);
        }
    }

    /// Tells the loop that an order has ended, ours or one that another process left behind. The loop is gone when the daemon stops.
    pub(crate) fn tell(&self, ended: Ended) {
        let _ = self.ended.send(ended);
    }

    /// Engines on which a restart is under way in this process.
    pub(crate) fn busy_engines(&self) -> BTreeSet<EngineName> {
        lock(&self.busy).keys().cloned().collect()
    }

    /// Workspaces with a restart under way in this process.
    pub(crate) fn in_flight(&self) -> InFlight {
        lock(&self.in_flight).clone()
    }

    /// The workspaces with a restart under way that waits for others on its engine.
    pub(crate) fn queued(&self) -> InFlight {
        lock(&self.queued).clone()
    }

    /// Starts to carry out orders. Returns at once. An order is dropped if a restart of the workspace is under way, because the next pass
    /// judges it again. It is also dropped if the platform's function has failed for the workspace and the delay after that is not over.
    pub(crate) fn carry_out(self: &Arc<Self>, orders: Vec<RestartOrder>) {
        for order in orders {
            if self.stop.is_cancelled() || !lock(&self.in_flight).insert(order.workspace.clone()) {
                continue;
            }
            let lane = lock(&self.lanes).of(&order.workspace, (self.clock)());
            if let Lane::NotBefore(_) = lane {
                lock(&self.in_flight).remove(&order.workspace);
                self.tell(Ended::not_asked(&order));
                continue;
            }
            *lock(&self.busy).entry(order.engine.clone()).or_default() += 1;
            let restarter = Arc::clone(self);
            self.tasks.spawn(async move {
                // However this ends, even by a panic, the loop is told and the workspace is no longer in flight.
                let mut under_way = UnderWay { restarter: &restarter, order: &order, ended: Ended::not_asked(&order) };
                if let Some(on) = restarter.engines.get(&order.engine) {
                    let done = restarter.drive(&order, on, lane).await;
                    restarter.news.done(&order, &done);
                    (under_way.ended.end, under_way.ended.look_again) = (done.end, done.look_again);
                }
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
        if tokio::time::timeout(self.longest, self.tasks.wait()).await.is_err() {
            error!("restarts did not end in time; their ledger rows stay open and are settled by looking");
        }
    }

    /// Does what each step says and hands the answer back, to the end.
    async fn drive(&self, order: &RestartOrder, on: &OnEngine, lane: Lane) -> Done {
        let engine = on.engine.as_ref();
        let target = Target {
            workspace: order.workspace.clone(),
            kind: order.kind,
            container_ref: order.container_ref.clone(),
            instance_ref: order.instance_ref.clone(),
            known: order.container_id().cloned(),
            inspect: true,
            in_doubt: true,
        };
        let (mut restart, mut step) = Restart::new(Case::of(order), on.rules);
        let (mut held, mut asked) = (None, (0, 0));
        let (mut capture, mut seen) = (None, None);
        loop {
            let answer = match step {
                Step::Permit => match self.place(order, on, lane).await {
                    Some(place) => {
                        held = Some(place);
                        Answer::Place
                    }
                    None => Answer::Nothing("defib is stopping".to_owned()),
                },
                Step::Claim { epoch, deadline } => {
                    crash_point!("before_claim");
                    let answer = self.ledger.claim(order, epoch, deadline).await;
                    self.heard(order, &answer);
                    answer
                }
                Step::Confirm => {
                    crash_point!("claimed");
                    capture = Capture::begin(on, order, self.log_lines);
                    // All waiting is done before the look, so that neither the look nor the answer of the database gets old before the
                    // call.
                    if let Some(capture) = &mut capture {
                        capture.lets_go().await;
                    }
                    let observation = engine.confirm(&target).await.observation;
                    seen = Some(observation.clone());
                    Answer::Seen(observation)
                }
                Step::MayAct { row, epoch, within } => {
                    crash_point!("confirmed");
                    asked = (row, epoch);
                    // Only now is it known that the workspace is still dead, so only now its keys are deleted. The database is asked after
                    // the deletion, so that a hold that is placed meanwhile is seen.
                    self.evict(order, &restart).await;
                    self.ledger.may_act(order, row, epoch, within).await
                }
                Step::Leave => {
                    crash_point!("acting");
                    let (attempt, epoch) = asked;
                    self.news.leaves(order, epoch, restart.mends(), (self.clock)());
                    if let Some((capture, seen)) = capture.take().zip(seen.take()) {
                        self.keep_last_words(order, attempt, capture, seen);
                    }
                    // This stands on the line before the call. However much time has passed since the database was asked for the lease, it
                    // has passed on our clock too.
                    match restart.may_leave(self.standing(order)) {
                        Ok(call) => {
                            let left_at = (self.clock)();
                            let result = ask(engine, call, &target, attempt).await;
                            self.news.called(order, (self.clock)() - left_at);
                            crash_point!("answered");
                            Answer::Called { left_at, result }
                        }
                        Err(instead) => {
                            step = instead;
                            continue;
                        }
                    }
                }
                Step::Look { wait } => {
                    pause(wait).await;
                    Answer::Seen(engine.confirm(&target).await.observation)
                }
                Step::Finish { row, outcome, why, wait } => {
                    if wait.is_zero() {
                        self.news.outcome(order, outcome, why.as_deref());
                    }
                    crash_point!("before_outcome");
                    pause(wait).await;
                    let answer = self.ledger.finish(row, outcome, why.as_deref()).await;
                    crash_point!("after_outcome");
                    if let Answer::Nothing(why) = &answer {
                        warn!(workspace = %printable(order.workspace.as_str()), error = %why, "outcome not written yet");
                    }
                    answer
                }
                Step::Done(done) => {
                    drop(held);
                    if done.end == End::NotAsked {
                        // No engine was asked to restart it, so its keys must not be deleted any more.
                        self.is_back(&order.workspace);
                    }
                    return done;
                }
            };
            step = restart.answer(self.standing(order), answer);
        }
    }

    /// Deletes the keys of a workspace that is dead, and whose restart has not been asked for before in this attempt.
    async fn evict(&self, order: &RestartOrder, restart: &Restart) {
        if let Some(evictor) = self.evictor.as_ref().filter(|_| restart.mends().is_none()) {
            evictor.evict(&order.workspace).await;
        }
    }

    /// Keeps the last words of its container, beside the restart.
    fn keep_last_words(&self, order: &RestartOrder, attempt: i64, capture: Capture, seen: Observation) {
        let Ok(place) = Arc::clone(&self.waiting_words).try_acquire_owned() else {
            debug!(
                workspace = %printable(order.workspace.as_str()),
                "the last words of its container are lost, because those of many others wait to be written"
            );
            return;
        };
        let (ledger, workspace) = (Arc::clone(&self.ledger), order.workspace.clone());
        let (writing, stop) = (Arc::clone(&self.writing_words), self.stop.clone());
        self.tasks.spawn(async move {
            let _place = place;
            let Some(words) = capture.words(&seen).await else { return };
            // A process that stops does not wait for the last words of others.
            let turn = tokio::select! {
                turn = writing.acquire() => turn.ok(),
                () = stop.cancelled() => writing.try_acquire().ok(),
            };
            let Some(_turn) = turn else { return };
            if let Err(why) = ledger.keep_last_words(attempt, &words).await {
                warn!(workspace = %printable(workspace.as_str()), error = %why, "the last words of its container are lost");
            }
        });
    }

    /// Waits for a place. `None`: this process is stopping.
    async fn place<'a>(&self, order: &RestartOrder, on: &'a OnEngine, lane: Lane) -> Option<SemaphorePermit<'a>> {
        let places = if lane == Lane::Places { &on.places } else { &on.apart };
        lock(&self.queued).insert(order.workspace.clone());
        let place = tokio::select! {
            place = places.acquire() => place.ok(),
            () = self.stop.cancelled() => None,
        };
        lock(&self.queued).remove(&order.workspace);
        place
    }

    /// Takes note of whether the platform's function has answered for a workspace.
    fn heard(&self, order: &RestartOrder, answer: &Answer) {
        let Answer::Claim(claim) = answer else { return };
        let trouble = lock(&self.lanes).heard(&order.workspace, claim, (self.clock)());
        if let (Some((retry_in, failures)), ClaimAnswer::FunctionFailed { why }) = (trouble, claim) {
            self.news.function_failed(order, failures, retry_in, why);
        }
    }

    /// The state of this process at this moment.
    fn standing(&self, order: &RestartOrder) -> Standing {
        let now = (self.clock)();
        let epoch = lock(&self.ownership).epoch(&order.engine, now);
        Standing { now, epoch, stopping: self.stop.is_cancelled() }
    }
}

impl Ended {
    /// The end of an order about which nothing else is known.
    fn not_asked(order: &RestartOrder) -> Self {
        Self { engine: order.engine.clone(), workspace: order.workspace.clone(), end: End::NotAsked, look_again: false }
    }
}

/// Takes a workspace out of flight and tells the loop, however its restart ends.
struct UnderWay<'a> {
    restarter: &'a Restarter,
    order: &'a RestartOrder,
    ended: Ended,
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
        self.restarter.tell(self.ended.clone());
    }
}

/// Makes the call to the engine.
async fn ask(engine: &dyn Engine, call: Call, target: &Target, attempt: i64) -> Result<(), CallFailed> {
    let how = match call.how {
        How::Start => RestartHow::Start,
        How::KillAndStart { grace } => RestartHow::KillAndStart { grace },
        How::Recreate => RestartHow::Recreate,
    };
    let (container_id, deadline) = (call.container, call.deadline);
    let call = RestartCall { target: target.clone(), container_id, how, deadline, attempt };
    engine.restart(&call).await.map_err(|error| {
        let kind = match error {
            EngineError::Gone { .. } => CallFault::Gone,
            EngineError::Superseded { .. } => CallFault::NotWanted,
            EngineError::NotSent { .. } | EngineError::Unable { .. } => CallFault::NotSent,
            _ if error.may_have_happened() => CallFault::Lost,
            _ => CallFault::Refused,
        };
        CallFailed { kind, why: chain(&error) }
    })
}

async fn pause(wait: Duration) {
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
}
