//! When passes are made: the shared read of the fleet each poll interval, and what wakes the engines' workers in between.
//!
//! Everything that takes time is a task of its own; this loop only starts them and reads what they bring back. Losing any event
//! or notification costs at most one poll interval, because the next read wakes every worker.
//!
//! ```text
//! interval ─► read the fleet ─► every worker: a pass over its engine   (worker.rs; events of its engine go there directly)
//! LISTEN ───► take suspicions ─► the worker of each suspect's engine
//! restarter ─► an order ended ─► the judge, and the worker of its engine
//! a third of DEFIB_LEASE_TTL, and when a lease of another replica ends ─► a turn at the leases
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use defib_engine::EngineEvent;
use defib_policy::id::{EngineName, WorkspaceId};
use defib_store::{ListenEvent, StoreError};
use sd_notify::NotifyState;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::leases::{Leases, TurnTaken};
use crate::left_behind::LeftBehind;
use crate::logging::database_fault;
use crate::news::{News, Round};
use crate::pass::Passes;
use crate::reading::Reading;
use crate::restarter::Ended;
use crate::state::State;
use crate::suspicions::Suspicions;
use crate::worker::{Agenda, Passed, Worker};

/// If a read of the fleet takes longer than this, we or our database are slow.
const DATABASE_SLOW: Duration = Duration::from_secs(2);

/// The database's channels: a suspicion was reported, a lease was given up.
pub(crate) const CHANNELS: &[&str] = &["defib_suspicion", LEASE_CHANNEL];
const LEASE_CHANNEL: &str = "defib_lease";

/// How many turns at the leases are taken within one `DEFIB_LEASE_TTL`. Two of them may fail before a lease is lost.
const TURNS_PER_TTL: u32 = 3;

/// How long after the end of another replica's lease we take the turn that may take it over. Larger: a take-over is later by that much.
/// Smaller: the turn may come a moment too early, and only the next turn takes over.
const AFTER_ITS_END: Duration = Duration::from_millis(20);

/// For how many poll intervals or spacings a suspicion limits further looks at its workspace. After that it is forgotten.
const REMEMBERED: u32 = 16;

/// What the loop listens to.
pub(crate) struct Inputs {
    /// The database's notifications.
    pub(crate) notifications: mpsc::Receiver<ListenEvent>,
    /// Each engine's events.
    pub(crate) engines: BTreeMap<EngineName, mpsc::Receiver<EngineEvent>>,
    /// How each order to restart ended.
    pub(crate) ended: mpsc::UnboundedReceiver<Ended>,
}

/// The parts of the daemon that the loop sets in motion.
pub(crate) struct Parts {
    pub(crate) state: Arc<State>,
    pub(crate) reading: Arc<Reading>,
    pub(crate) passes: Arc<Passes>,
    pub(crate) suspicions: Arc<Suspicions>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) left_behind: Option<Arc<LeftBehind>>,
    pub(crate) news: Arc<News>,
}

/// What a task brings back.
enum Done {
    /// `None`: it panicked, which is a fault of ours.
    Read {
        result: Option<Result<(), StoreError>>,
        took: Duration,
    },
    Suspicions(Result<(Vec<WorkspaceId>, bool), StoreError>),
    Leases(Result<TurnTaken, StoreError>),
    LeftBehind(Result<(), StoreError>),
}

/// A read of the fleet and the passes that it led to, so far.
struct Running {
    begun: Instant,
    late: bool,
    read_took: Duration,
    /// The workers whose pass has not ended.
    awaited: BTreeSet<Option<EngineName>>,
    engines_slow: usize,
    sum: Round,
}

/// The state of the loop.
#[expect(clippy::struct_excessive_bools, reason = "each says whether one independent kind of work is under way")]
struct Driver {
    parts: Parts,
    agendas: BTreeMap<Option<EngineName>, Arc<Agenda>>,
    tasks: JoinSet<Done>,
    round: Option<Running>,
    reading: bool,
    taking_suspicions: bool,
    suspicions_wait: bool,
    turning_leases: bool,
    settling: bool,
}

/// Runs until `stop`, then ends the passes under way.
///
/// # Errors
/// A worker has ended by itself. That is a fault of defib, and the engine of that worker would not be looked at any more.
pub(crate) async fn run(parts: Parts, inputs: Inputs, stop: CancellationToken) -> anyhow::Result<()> {
    let Inputs { mut notifications, engines, mut ended } = inputs;
    let state = Arc::clone(&parts.state);
    let mut interval = tokio::time::interval(state.config.policy.poll_interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turns = tokio::time::interval(state.config.lease_ttl / TURNS_PER_TTL);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (passed_sender, mut passed) = mpsc::unbounded_channel();
    let (agendas, mut workers) = start_workers(&parts, engines, &passed_sender, &stop);
    let mut driver = Driver {
        parts,
        agendas,
        tasks: JoinSet::new(),
        round: None,
        reading: false,
        taking_suspicions: false,
        suspicions_wait: true,
        turning_leases: false,
        settling: false,
    };
    let result = loop {
        tokio::select! {
            () = stop.cancelled() => break Ok(()),
            planned = interval.tick() => driver.tick(planned),
            Some(done) = driver.tasks.join_next() => match done {
                Ok(Done::Leases(turned)) => {
                    if driver.turned_leases(&turned) {
                        interval.reset_immediately();
                    }
                    // An owner that does not renew is gone or hangs, and its engines need not wait for our next third.
                    if let Some(end) = turned.ok().and_then(|taken| taken.others_end_in)
                        && end < turns.period()
                    {
                        turns.reset_after(end + AFTER_ITS_END);
                    }
                }
                Ok(done) => driver.done(done),
                // A panic in a read is caught elsewhere. Here only a turn at the leases, the taking of suspicions or the settling can have
                // panicked.
                Err(error) => {
                    error!(%error, "taking suspicions or leases, or settling, failed by a fault of defib itself");
                    driver.taking_suspicions = false;
                    driver.turning_leases = false;
                    driver.settling = false;
                }
            },
            Some(passed) = passed.recv() => driver.passed(passed),
            _ = turns.tick() => driver.turn_leases(),
            Some(event) = notifications.recv() => driver.heard(event),
            Some(order) = ended.recv() => driver.order_ended(&order),
            Some(worker) = workers.join_next() => {
                if !stop.is_cancelled() {
                    break Err(anyhow::anyhow!("the worker of an engine has ended by a fault of defib itself: {worker:?}"));
                }
            }
        }
        driver.start_taking();
    };
    driver.tasks.shutdown().await;
    if result.is_ok() {
        while workers.join_next().await.is_some() {}
    }
    result
}

/// One worker an engine, and one for what no configured engine has.
fn start_workers(
    parts: &Parts,
    mut engines: BTreeMap<EngineName, mpsc::Receiver<EngineEvent>>,
    passed: &mpsc::UnboundedSender<Passed>,
    stop: &CancellationToken,
) -> (BTreeMap<Option<EngineName>, Arc<Agenda>>, JoinSet<()>) {
    let configured: Arc<[EngineName]> = engines.keys().cloned().collect();
    let (mut agendas, mut workers) = (BTreeMap::new(), JoinSet::new());
    for engine in std::iter::once(None).chain(configured.iter().cloned().map(Some)) {
        let agenda = Arc::new(Agenda::default());
        let events = engine.as_ref().and_then(|name| engines.remove(name));
        let events = events.unwrap_or_else(|| mpsc::channel(1).1);
        let worker = Worker::new(
            engine.clone(),
            Arc::clone(&configured),
            Arc::clone(&parts.passes),
            Arc::clone(&agenda),
            passed.clone(),
        );
        workers.spawn(worker.run(events, stop.clone()));
        agendas.insert(engine, agenda);
    }
    (agendas, workers)
}

impl Driver {
    /// The agenda of the worker that judges what is on `engine`.
    fn agenda(&self, engine: Option<&EngineName>) -> Option<&Arc<Agenda>> {
        self.agendas.get(&engine.cloned()).or_else(|| self.agendas.get(&None))
    }

    fn tick(&mut self, planned: Instant) {
        let state = &self.parts.state;
        let (now, policy) = (state.now(), &state.config.policy);
        let within = policy.poll_interval.max(policy.probe_spacing) * REMEMBERED;
        let late = planned.elapsed() > policy.poll_interval / 2;
        self.agendas.values().for_each(|agenda| agenda.prune(now, within));
        self.suspicions_wait = true;
        if self.reading {
            return; // it ends within the database's deadlines, well or badly
        }
        self.end_round();
        self.reading = true;
        self.round = Some(Running {
            begun: Instant::now(),
            late,
            read_took: Duration::ZERO,
            awaited: BTreeSet::new(),
            engines_slow: 0,
            sum: Round::default(),
        });
        let reading = Arc::clone(&self.parts.reading);
        self.tasks.spawn(async move {
            let begun = Instant::now();
            // A task of its own, so that a panic in it is known to be one of the read.
            let read = tokio::spawn(async move { reading.read().await });
            let result = match tokio_util::task::AbortOnDropHandle::new(read).await {
                Ok(result) => Some(result),
                Err(error) => {
                    error!(%error, "the read of the fleet failed by a fault of defib itself; the next one reads afresh");
                    None
                }
            };
            Done::Read { result, took: begun.elapsed() }
        });
    }

    fn has_read(&mut self, result: Option<&Result<(), StoreError>>, took: Duration) {
        self.reading = false;
        let ok = matches!(result, Some(Ok(())));
        if let Some(result) = result {
            self.parts.news.database(result);
        }
        if let Some(round) = &mut self.round {
            round.read_took = took;
            round.sum.database_failed = !ok;
            if ok {
                round.awaited = self.agendas.keys().cloned().collect();
            }
        }
        if ok {
            self.agendas.values().for_each(|agenda| agenda.poll());
            self.settle_left_behind();
        } else {
            self.end_round();
        }
        self.turned();
    }

    fn passed(&mut self, passed: Passed) {
        let Some(round) = self.round.as_mut().filter(|_| passed.whole) else {
            self.show();
            return;
        };
        if !round.awaited.remove(&passed.engine) {
            return; // a pass that was asked for between two reads, or one of the round before
        }
        match passed.reports {
            Some(Ok(reports)) => {
                for report in reports {
                    round.sum.judged += report.judged;
                    round.sum.changed += report.changed;
                    round.sum.restarts += report.restarts;
                    round.sum.engine_failed |= matches!(report.reach, Some(Err(_)));
                    round.engines_slow += usize::from(report.slow);
                }
            }
            Some(Err(_)) | None => round.sum.database_failed = true,
        }
        if round.awaited.is_empty() {
            self.end_round();
        }
    }

    /// Ends a round. That happens when all of its passes have ended, or when the next round begins; passes that have not ended by then are
    /// late.
    fn end_round(&mut self) {
        let Some(mut round) = self.round.take() else { return };
        let engines = self.agendas.len().saturating_sub(1);
        round.engines_slow += round.awaited.iter().flatten().count();
        round.sum.engine_failed |= !round.awaited.is_empty();
        round.sum.took = round.begun.elapsed();
        // If one of several engines is slow, that engine is in trouble. Only if all of them are slow, defib itself may be the slow one. An
        // engine that refuses or fails at once says nothing about us.
        let clean = !round.late
            && !round.sum.database_failed
            && round.read_took < DATABASE_SLOW
            && (engines == 0 || round.engines_slow < engines);
        self.parts.state.judge().observe_tick(clean);
        self.parts.news.round(&round.sum);
        self.show();
    }

    fn show(&self) {
        let engines: Vec<EngineName> = self.agendas.keys().flatten().cloned().collect();
        self.parts.news.show(&self.parts.state, &engines);
    }

    fn settle_left_behind(&mut self) {
        let Some(left_behind) = self.parts.left_behind.clone().filter(|_| !self.settling) else { return };
        self.settling = true;
        self.tasks.spawn(async move { Done::LeftBehind(left_behind.settle_all().await) });
    }

    fn start_taking(&mut self) {
        if self.parts.state.fleet_known() && self.suspicions_wait && !self.taking_suspicions {
            self.suspicions_wait = false;
            self.taking_suspicions = true;
            let suspicions = Arc::clone(&self.parts.suspicions);
            self.tasks.spawn(async move { Done::Suspicions(suspicions.take().await) });
        }
    }

    /// Takes our turn at the leases, unless our passes hang. In that case our engines must go to a replica whose passes do not hang.
    fn turn_leases(&mut self) {
        let (decides, _) = self.parts.news.health().alive(self.parts.state.now());
        if decides && !self.turning_leases {
            self.turning_leases = true;
            let leases = Arc::clone(&self.parts.leases);
            self.tasks.spawn(async move { Done::Leases(leases.turn().await) });
        }
    }

    /// Returns whether the whole fleet should be looked at now, because a part of it has become ours.
    fn turned_leases(&mut self, turned: &Result<TurnTaken, StoreError>) -> bool {
        self.turning_leases = false;
        let gained = turned.as_ref().is_ok_and(|taken| taken.gained);
        self.suspicions_wait |= gained;
        gained && self.parts.state.fleet_known()
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Read { result, took } => self.has_read(result.as_ref(), took),
            Done::Leases(turned) => _ = self.turned_leases(&turned),
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
            Done::LeftBehind(settled) => {
                self.settling = false;
                if let Err(error) = settled {
                    warn!(error = %database_fault(&error), "open attempts could not be settled; tried again with the next read of the fleet");
                }
            }
        }
    }

    fn suspect(&self, suspects: Vec<WorkspaceId>) {
        let state = &self.parts.state;
        let (now, spacing, fleet) = (state.now(), state.config.policy.probe_spacing, state.fleet());
        for workspace in suspects {
            if let Some(agenda) = self.agenda(fleet.engine_of(&workspace)) {
                agenda.suspect(workspace, now, spacing);
            }
        }
    }

    fn order_ended(&self, ended: &Ended) {
        let now = self.parts.state.now();
        let next = self.parts.state.judge().order_ended(&ended.workspace, ended.end, now);
        // A canary has left its place in a storm. The workspace that takes the place need not wait for the next poll.
        for (engine, workspace) in next {
            if let Some(agenda) = self.agenda(Some(&engine)) {
                agenda.look(workspace, now);
            }
        }
        if let Some(agenda) = self.agenda(Some(&ended.engine)).filter(|_| ended.look_again) {
            agenda.look(ended.workspace.clone(), now);
        }
    }

    /// Tells systemd that the deciding loop turns. Does nothing where there is no systemd.
    fn turned(&self) {
        let first = self.parts.news.health().turned(self.parts.state.now());
        let watched = self.parts.state.judge().watched();
        let status = format!("watching {watched} workspaces on {} engines", self.agendas.len().saturating_sub(1));
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
}
