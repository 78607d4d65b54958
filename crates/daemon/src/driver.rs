//! The loop: when passes are made, and what becomes of their reports.
//!
//! Everything that takes time is a task of its own; this loop only starts them and reads what they bring back. Ticks come
//! from an interval, focused passes from the queue that events, suspicions and the plans themselves fill. Losing any event
//! or notification costs at most one poll interval.

use std::sync::Arc;
use std::time::Duration;

use defib_engine::{Action, EngineEvent};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::Moment;
use defib_store::{ListenEvent, Listener, StoreError};
use sd_notify::NotifyState;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle as AbortOnDrop;
use tracing::{debug, error, info, warn};

use crate::focus::FocusQueue;
use crate::metrics::{PassResult, PassScope};
use crate::reconcile::{Reconciler, Scope, TickReport, database_fault};
use crate::restarter::Ended;

/// Passes over the fleet that may wait for slow engines at once.
const FLEET_PASSES_MAX: usize = 4;

/// An engine may tell of an exit before its own records say so, and the look that the event asked for still finds the
/// container running. One more look, this much later, saves waiting for the poll.
const SECOND_LOOK: Duration = Duration::from_millis(150);

/// Reads of the fleet that take longer than this say that we, or our database, are the slow ones.
const DATABASE_SLOW: Duration = Duration::from_secs(2);

/// The database's channels: a suspicion was reported, a lease was given up.
pub(crate) const CHANNELS: &[&str] = &["defib_suspicion", LEASE_CHANNEL];
const LEASE_CHANNEL: &str = "defib_lease";

/// Turns at the leases within one `DEFIB_LEASE_TTL`: two may fail before anything is lost.
const TURNS_PER_TTL: u32 = 3;

/// What the loop listens to.
pub(crate) struct Inputs {
    pub(crate) notifications: Listener,
    pub(crate) engines: mpsc::Receiver<EngineEvent>,
    pub(crate) ended: mpsc::UnboundedReceiver<Ended>,
}

/// What a task brings back.
enum Done {
    Pass {
        scope: PassScope,
        engine: Option<EngineName>,
        late: bool,
        took: Duration,
        /// `None`: the pass panicked, a fault of ours.
        report: Option<Result<TickReport, StoreError>>,
    },
    Suspicions(Result<(Vec<WorkspaceId>, bool), StoreError>),
    /// Whether something has become ours.
    Leases(Result<bool, StoreError>),
}

/// The state of the loop.
struct Driver {
    reconciler: Arc<Reconciler>,
    started: Moment,
    tasks: JoinSet<Done>,
    focus: FocusQueue,
    fleet_passes: usize,
    taking_suspicions: bool,
    suspicions_wait: bool,
    turning_leases: bool,
    /// Why the last turn at the leases failed, if it did: said once.
    lease_fault: Option<String>,
}

/// Runs until `stop`, then ends the passes under way.
pub(crate) async fn run(reconciler: Arc<Reconciler>, mut inputs: Inputs, stop: CancellationToken) {
    let mut interval = tokio::time::interval(reconciler.config.policy.poll_interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let started = reconciler.now();
    let mut driver = Driver {
        reconciler,
        started,
        tasks: JoinSet::new(),
        focus: FocusQueue::default(),
        fleet_passes: 0,
        taking_suspicions: false,
        suspicions_wait: true,
        turning_leases: false,
        lease_fault: None,
    };
    let mut turns = tokio::time::interval(driver.reconciler.config.lease_ttl / TURNS_PER_TTL);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next_focus = driver.next_focus();
        tokio::select! {
            () = stop.cancelled() => break,
            planned = interval.tick() => driver.tick(planned),
            Some(done) = driver.tasks.join_next() => match done {
                Ok(Done::Leases(turned)) => {
                    if driver.turned_leases(turned) {
                        interval.reset_immediately();
                    }
                }
                Ok(done) => driver.done(done),
                // Only the taking of suspicions and of leases can panic here; passes are guarded.
                Err(error) => {
                    error!(%error, "taking suspicions or leases failed by a fault of defib itself");
                    driver.taking_suspicions = false;
                    driver.turning_leases = false;
                }
            },
            _ = turns.tick() => driver.turn_leases(),
            event = inputs.notifications.next() => driver.heard(event),
            Some(event) = inputs.engines.recv() => {
                if driver.saw(event) {
                    interval.reset_immediately();
                }
            }
            Some(ended) = inputs.ended.recv() => driver.restart_ended(ended),
            () = tokio::time::sleep_until(next_focus) => {}
        }
        driver.start_focus();
        driver.start_taking();
    }
    driver.tasks.shutdown().await;
}

impl Driver {
    /// An order has ended: the judge hears how, and the workspace is looked at where that tells something new.
    fn restart_ended(&mut self, ended: Ended) {
        let now = self.reconciler.now();
        self.reconciler.judge().order_ended(&ended.workspace, ended.end, now);
        if ended.look_again {
            self.focus.look(Some(ended.engine), ended.workspace, now);
        }
    }

    /// The instant of the next focused pass; far away when none is due.
    fn next_focus(&self) -> Instant {
        let now = self.reconciler.now();
        let wait = self.focus.next_due().map_or(Duration::from_secs(3_600), |due| due - now);
        Instant::now() + wait
    }

    fn tick(&mut self, planned: Instant) {
        let poll_interval = self.reconciler.config.policy.poll_interval;
        let late = planned.elapsed() > poll_interval / 2;
        self.suspicions_wait = true;
        self.focus.prune(self.reconciler.now(), poll_interval.max(self.reconciler.config.policy.probe_spacing) * 16);
        if self.fleet_passes < FLEET_PASSES_MAX {
            self.fleet_passes += 1;
            self.spawn(Scope::Fleet, None, late);
        }
    }

    fn spawn(&mut self, scope: Scope, engine: Option<EngineName>, late: bool) {
        let reconciler = Arc::clone(&self.reconciler);
        self.tasks.spawn(async move {
            let (label, begun) = (scope.label(), Instant::now());
            // A task of its own, so that a panic in it ends one pass and not the bookkeeping of all.
            let pass = tokio::spawn(async move {
                let report = reconciler.reconcile(scope).await;
                let took = begun.elapsed();
                if label == PassScope::Fleet
                    && report.is_ok()
                    && let Err(error) = reconciler.settle_left_behind().await
                {
                    warn!(error = %database_fault(&error), "open attempts could not be settled");
                }
                (report, took)
            });
            let (report, took) = match AbortOnDrop::new(pass).await {
                Ok((report, took)) => (Some(report), took),
                Err(error) => {
                    error!(%error, "a pass failed by a fault of defib itself; the next one judges afresh");
                    (None, begun.elapsed())
                }
            };
            Done::Pass { scope: label, engine, late, took, report }
        });
    }

    fn start_focus(&mut self) {
        if !self.reconciler.fleet_known() {
            return;
        }
        for (engine, batch) in self.focus.take_due(self.reconciler.now()) {
            self.spawn(Scope::Focus(batch.into_iter().collect()), engine, false);
        }
    }

    fn start_taking(&mut self) {
        if self.reconciler.fleet_known() && self.suspicions_wait && !self.taking_suspicions {
            self.suspicions_wait = false;
            self.taking_suspicions = true;
            let (reconciler, started) = (Arc::clone(&self.reconciler), self.started);
            self.tasks.spawn(async move { Done::Suspicions(reconciler.take_suspicions(started).await) });
        }
    }

    /// Takes our turn at the leases, unless the loop has stopped deciding: then what is ours must go to somebody who does.
    fn turn_leases(&mut self) {
        let (decides, _) = self.reconciler.health.alive(self.reconciler.now());
        if decides && !self.turning_leases {
            self.turning_leases = true;
            let reconciler = Arc::clone(&self.reconciler);
            self.tasks.spawn(async move { Done::Leases(reconciler.turn_leases().await) });
        }
    }

    /// Returns whether the whole fleet should be looked at now, because a part of it has become ours.
    fn turned_leases(&mut self, turned: Result<bool, StoreError>) -> bool {
        self.turning_leases = false;
        match turned {
            Ok(gained) => {
                self.lease_fault = None;
                self.suspicions_wait |= gained;
                gained && self.reconciler.fleet_known()
            }
            Err(error) => {
                let fault = database_fault(&error);
                // That the database is away, the passes say.
                if !error.is_unavailable() && self.lease_fault.as_ref() != Some(&fault) {
                    warn!(error = %fault, "no turn at the leases; what is owned lasts until its end, and without it nothing is restarted");
                    self.lease_fault = Some(fault);
                }
                false
            }
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Leases(turned) => _ = self.turned_leases(turned),
            Done::Pass { scope, engine, late, took, report } => {
                if scope == PassScope::Focus {
                    self.focus.done(engine.as_ref());
                } else {
                    self.fleet_passes = self.fleet_passes.saturating_sub(1);
                }
                if let Some(report) = report {
                    self.passed(scope, late, took, report);
                }
            }
            Done::Suspicions(taken) => {
                self.taking_suspicions = false;
                match taken {
                    Ok((suspects, more)) => {
                        self.suspicions_wait |= more;
                        self.suspect(suspects);
                    }
                    // The next tick tries again; the rows are still there.
                    Err(error) => debug!(error = %database_fault(&error), "suspicions not taken"),
                }
            }
        }
    }

    fn suspect(&mut self, suspects: Vec<WorkspaceId>) {
        let (now, spacing) = (self.reconciler.now(), self.reconciler.config.policy.probe_spacing);
        let snapshot = self.reconciler.snapshot();
        for workspace in suspects {
            let engine = snapshot.engine_of(&workspace).cloned();
            self.focus.suspect(engine, workspace, now, spacing);
        }
    }

    fn passed(&mut self, scope: PassScope, late: bool, took: Duration, report: Result<TickReport, StoreError>) {
        let reconciler = &self.reconciler;
        let metrics = &reconciler.metrics;
        let result = match &report {
            Err(_) => PassResult::DatabaseError,
            Ok(report) if report.engines_failed > 0 => PassResult::EngineError,
            Ok(_) => PassResult::Ok,
        };
        metrics.tick(scope, result, took);
        metrics.database_up.set(i64::from(report.is_ok()));
        match &report {
            Ok(_) => {
                if reconciler.health.database(Ok(())) {
                    info!("database answers");
                }
            }
            Err(error) => {
                let fault = database_fault(error);
                if reconciler.health.database(Err(fault.clone())) {
                    warn!(error = %fault, "the database gives no answer or refuses; no verdicts and no restarts until it is well");
                }
            }
        }
        if scope == PassScope::Fleet {
            // One engine of several that is slow is its own trouble; only when all of them are may the trouble be ours. One
            // that refuses or fails at once says nothing about us.
            let clean = !late
                && report.as_ref().is_ok_and(|report| {
                    report.database_took < DATABASE_SLOW
                        && (report.engines == 0 || report.engines_slow < report.engines)
                });
            reconciler.judge().observe_tick(clean);
            self.turned();
        }
        let reconciler = Arc::clone(&self.reconciler);
        reconciler.show();
        let Ok(report) = report else { return };
        let now = reconciler.now();
        for (engine, workspace, at) in report.looks {
            if reconciler.speaks_for(engine.as_ref(), now) {
                self.focus.look(engine, workspace, at);
            }
        }
        if scope == PassScope::Fleet {
            if report.changed > 0 || report.restarts > 0 {
                info!(
                    judged = report.judged,
                    changed = report.changed,
                    restarts = report.restarts,
                    took_ms = millis(took),
                    "tick"
                );
            } else {
                debug!(judged = report.judged, took_ms = millis(took), "tick");
            }
        }
    }

    /// Tells systemd that the deciding loop turns. Where there is no systemd, nothing happens.
    fn turned(&self) {
        let first = self.reconciler.health.turned(self.reconciler.now());
        let watched = self.reconciler.judge().watched();
        let status = format!("watching {watched} workspaces on {} engines", self.reconciler.engines.len());
        let mut news = vec![NotifyState::Watchdog, NotifyState::Status(&status)];
        if first {
            news.push(NotifyState::Ready);
        }
        if let Err(error) = sd_notify::notify(&news) {
            debug!(%error, "systemd was not told");
        }
    }

    fn heard(&mut self, event: ListenEvent) {
        match event {
            ListenEvent::Connected => {
                info!("listening for suspicions");
                self.suspicions_wait = true;
            }
            ListenEvent::Lost { why } => warn!(why, "not listening for suspicions; polling finds them"),
            ListenEvent::Notified { channel, .. } if channel == LEASE_CHANNEL => self.turn_leases(),
            ListenEvent::Notified { .. } => self.suspicions_wait = true,
        }
    }

    /// Takes an engine's event. Returns whether the whole fleet should be looked at now.
    fn saw(&mut self, event: EngineEvent) -> bool {
        match event {
            EngineEvent::Container(event) => {
                let snapshot = self.reconciler.snapshot();
                let now = self.reconciler.now();
                // One replica's haste is enough: those that only observe see it with the next poll.
                let ours = self.reconciler.speaks_for(Some(&event.engine), now);
                if let Some(workspace) = snapshot.workspace_of(&event).filter(|_| ours) {
                    if matches!(event.action, Action::Die | Action::Oom) {
                        self.focus.look(Some(event.engine.clone()), workspace.clone(), now + SECOND_LOOK);
                    }
                    self.focus.look(Some(event.engine), workspace, now);
                }
                false
            }
            EngineEvent::Connected { engine } => {
                debug!(%engine, "listening for the engine's events");
                self.reconciler.fleet_known()
            }
            EngineEvent::Disconnected { engine, fault } => {
                debug!(%engine, %fault, "not listening for the engine's events; polling finds them");
                false
            }
            EngineEvent::Lagged { engine } => {
                debug!(%engine, "events of the engine were lost; looking at everything");
                self.reconciler.fleet_known()
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
