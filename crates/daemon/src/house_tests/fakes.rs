//! A database and engines in memory, and a daemon on them. Time is tokio's and paused: a minute passes in a millisecond.
//!
//! The file is long because the daemon is put together here from all of its parts, and each part needs its own trait of the database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use clap::{Args as _, FromArgMatches as _};
use defib_engine::{Engine, EngineCheck, EngineError, EngineEvent, EngineReport, Reached, RestartCall, Target};
use defib_policy::abilities::Abilities;
use defib_policy::attempt::Attempt;
use defib_policy::fleet::{FleetRead, Kind, Workspace};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::Timestamp;
use defib_policy::plan::RestartOrder;
use defib_policy::reading::Resync;
use defib_policy::sample::{Exit, Fault, Health as Check, Incarnation, Observation, Sample};
use defib_store::{
    Changes, EventRow, EventSubject, Fault as StoreFault, FleetScope, Hold, Lease, LeaseProof, LeaseTable, LeaseTurn,
    ListenEvent, Malformed, OwedMark, Pending, StoreError, StoredVerdict, Suspicion, VerdictRow, Wanted,
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::{self, Clock};
use crate::config::{Config, RawKnobs};
use crate::database::{FleetTables, LeaseTables, PlatformMarks, SuspicionTables, VerdictTables};
use crate::driver::{self, Inputs, Parts};
use crate::health::Health;
use crate::leases::Leases;
use crate::marks::Marks;
use crate::metrics::Metrics;
use crate::news::News;
use crate::pass::{Passes, Restarts};
use crate::reading::Reading;
use crate::record::Recorder;
use crate::restarter::{Ended, InFlight};
use crate::sampling::Sampling;
use crate::state::State;
use crate::suspicions::Suspicions;
use crate::sync::lock;

/// The poll interval of the default configuration.
pub(super) const POLL: Duration = Duration::from_secs(5);

/// The configuration that these flags make, and the defaults.
pub(super) fn config(flags: &[&str]) -> Config {
    let given = ["test", "--database-url", "postgres://nowhere/x", "--replica-id", "r"];
    let command = RawKnobs::augment_args(clap::Command::new("test"));
    let matches = command.try_get_matches_from(given.iter().chain(flags)).expect("flags");
    RawKnobs::from_arg_matches(&matches).expect("knobs").check(&[]).expect("a configuration")
}

/// Rows, verdicts, history and marks.
pub(super) struct FakeDatabase {
    clock: Clock,
    pub(super) rows: Mutex<BTreeMap<WorkspaceId, Workspace>>,
    /// How many there were when all of them were last read.
    rows_before: AtomicUsize,
    pub(super) attempts: Mutex<Vec<Attempt>>,
    pub(super) verdicts: Mutex<BTreeMap<WorkspaceId, StoredVerdict>>,
    pub(super) events: Mutex<Vec<EventRow>>,
    /// While this is set, every write of verdicts or history waits as long as it would for a lock, and then fails.
    pub(super) books_locked: AtomicBool,
    /// The fleet cannot be read.
    pub(super) away: AtomicBool,
    pub(super) owed: Mutex<BTreeSet<WorkspaceId>>,
    /// Marks that nobody owes anything for.
    pub(super) standing: Mutex<Vec<WorkspaceId>>,
    /// `defib.verdicts` cannot be read: somebody has locked the table.
    pub(super) verdicts_locked: AtomicBool,
    /// When the lease of another replica ends, as each turn tells it.
    pub(super) others_end_in: Mutex<Option<Duration>>,
    /// The turns at the leases.
    pub(super) turns: AtomicUsize,
    pub(super) recovered: Mutex<Vec<WorkspaceId>>,
    /// Every call of a function of the platform, as `function workspace`.
    pub(super) calls: Mutex<Vec<String>>,
    /// The workspaces for which the functions of the platform raise an error.
    pub(super) raises: Mutex<BTreeSet<WorkspaceId>>,
    /// Calls for workspaces of others have not ended, so no function of the platform is called.
    pub(super) busy: AtomicBool,
    /// Each call of `mark_recovered` hangs until its time-out.
    pub(super) hangs: AtomicBool,
    engines: Vec<EngineName>,
}

impl FakeDatabase {
    fn now(&self) -> Timestamp {
        Timestamp(i64::try_from(((self.clock)() - defib_policy::moment::Moment::ZERO).as_micros()).unwrap_or(0))
    }

    /// Adds a workspace on `engine` that beat last `silent_for` ago.
    pub(super) fn add(&self, id: &str, engine: &str, silent_for: Duration) {
        let micros = i64::try_from(silent_for.as_micros()).expect("a short time");
        let row = Workspace {
            id: id.into(),
            status: "online".into(),
            kind: Kind::Container,
            engine: engine.into(),
            container_ref: None,
            instance_ref: None,
            suspended: false,
            last_heartbeat_at: Some(self.now().shifted(-micros)),
            last_activity_at: None,
            active_tasks: 0,
            created_at: None,
            policy: None,
        };
        lock(&self.rows).insert(id.into(), row);
    }

    /// A workspace beats.
    pub(super) fn beat(&self, id: &str) {
        let now = self.now();
        if let Some(row) = lock(&self.rows).get_mut(id) {
            row.last_heartbeat_at = Some(now);
        }
    }

    /// An attempt of a workspace that has ended just now, on the life that a [`FakeEngine`] shows as the one before.
    pub(super) fn ended_attempt(&self, id: &str, number: u32) {
        let attempt = Attempt {
            id: i64::from(number),
            workspace: id.into(),
            container_id: Some(id.into()),
            started_at: Some(Timestamp(1)),
            attempt: number,
            claimed_ago: Duration::from_secs(1),
            finished_ago: Some(Duration::ZERO),
            finished_at: Some(self.now()),
            outcome: Some(defib_policy::attempt::Outcome::Succeeded),
            recovered_ago: None,
            asked: true,
            acknowledged: false,
        };
        lock(&self.attempts).insert(0, attempt);
    }

    pub(super) fn verdict(&self, id: &str) -> Option<String> {
        lock(&self.verdicts).get(id).map(|row| row.verdict.clone())
    }

    pub(super) fn events_of(&self, about: &EventSubject) -> Vec<String> {
        lock(&self.events).iter().filter(|event| event.about == *about).map(|event| event.to.clone()).collect()
    }

    pub(super) fn calls_for(&self, id: &str) -> usize {
        lock(&self.calls).iter().filter(|call| call.ends_with(&format!(" {id}"))).count()
    }

    async fn books(&self) -> bool {
        if self.books_locked.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(750)).await; // as long as a lock is waited for
        }
        !self.books_locked.load(Ordering::SeqCst)
    }

    fn call(&self, function: &'static str, id: &WorkspaceId) -> Result<(), StoreFault> {
        if self.busy.load(Ordering::SeqCst) {
            return Err(StoreFault::FunctionBusy { function });
        }
        lock(&self.calls).push(format!("{function} {id}"));
        if lock(&self.raises).contains(id) {
            return Err(raised(function));
        }
        Ok(())
    }
}

/// The error of a function of the platform that raised, blocked or hung.
fn raised(function: &'static str) -> StoreFault {
    let source = "no=option".parse::<tokio_postgres::Config>().expect_err("there is no such option");
    StoreFault::Function { function, source }
}

#[async_trait]
impl FleetTables for FakeDatabase {
    async fn read_fleet(&self, scope: FleetScope<'_>, _: &[String]) -> Result<(FleetRead, Vec<Malformed>), StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::ReadFleet(StoreFault::ConnectTimeout(POLL)));
        }
        let (at, database_now) = ((self.clock)(), self.now());
        let wanted = |row: &&Workspace| match scope {
            FleetScope::All => true,
            FleetScope::Some(ids) => ids.contains(&row.id),
        };
        let workspaces: Vec<Workspace> = lock(&self.rows).values().filter(wanted).cloned().collect();
        if matches!(scope, FleetScope::All) {
            self.rows_before.store(workspaces.len(), Ordering::SeqCst);
        }
        Ok((FleetRead { at, database_now, database_started_at: Timestamp(0), workspaces }, Vec::new()))
    }

    async fn read_changes(&self, wanted: Wanted<'_>) -> Result<Changes, StoreError> {
        let Wanted { since, called, count, .. } = wanted;
        let rows_before = self.rows_before.load(Ordering::SeqCst);
        let (all, malformed) = self.read_fleet(FleetScope::All, &[]).await?;
        self.rows_before.store(rows_before, Ordering::SeqCst);
        let rows = count.then_some(all.workspaces.len());
        let newer = |row: &Workspace| row.last_heartbeat_at.max(row.last_activity_at).max(row.created_at) > Some(since);
        let has = |id: &WorkspaceId| all.workspaces.iter().any(|row| row.id == *id);
        let gone = called.iter().filter(|id| !has(id)).cloned().collect();
        let (at, database_now) = (all.at, all.database_now);
        let workspaces: Vec<Workspace> =
            all.workspaces.into_iter().filter(|row| newer(row) || called.contains(&row.id)).collect();
        let received = workspaces.len();
        let read = FleetRead { at, database_now, database_started_at: Timestamp(0), workspaces };
        Ok(Changes { read, gone, malformed, replaced: false, rows, rows_before, received })
    }

    async fn read_attempts(&self, scope: FleetScope<'_>, _: Duration) -> Result<Vec<Attempt>, StoreError> {
        let wanted = |attempt: &&Attempt| match scope {
            FleetScope::All => true,
            FleetScope::Some(ids) => ids.contains(&attempt.workspace),
        };
        Ok(lock(&self.attempts).iter().filter(wanted).cloned().collect())
    }

    async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl VerdictTables for FakeDatabase {
    async fn read_verdicts(&self) -> Result<Vec<StoredVerdict>, StoreError> {
        if self.verdicts_locked.load(Ordering::SeqCst) {
            let deadline = Duration::from_secs(10);
            tokio::time::sleep(deadline).await;
            return Err(StoreError::ReadVerdicts(StoreFault::Timeout(deadline)));
        }
        Ok(lock(&self.verdicts).values().cloned().collect())
    }

    async fn record_verdicts(
        &self,
        verdicts: &[VerdictRow],
        cleared: &[WorkspaceId],
    ) -> Result<Vec<WorkspaceId>, StoreError> {
        if !self.books().await {
            return Err(StoreError::RecordVerdicts(StoreFault::Timeout(POLL)));
        }
        let mut table = lock(&self.verdicts);
        for row in verdicts {
            let stored = StoredVerdict {
                workspace: row.workspace.clone(),
                verdict: row.verdict.to_owned(),
                since_ago: row.since_ago,
                engine: row.engine.clone(),
                rule: row.rule.clone(),
                held: row.held.clone(),
            };
            table.insert(row.workspace.clone(), stored);
        }
        for id in cleared {
            table.remove(id);
        }
        Ok(Vec::new())
    }

    async fn record_events(&self, events: &[EventRow]) -> Result<usize, StoreError> {
        if !self.books().await {
            return Err(StoreError::RecordEvents(StoreFault::Timeout(POLL)));
        }
        lock(&self.events).extend_from_slice(events);
        Ok(0)
    }
}

#[async_trait]
impl PlatformMarks for FakeDatabase {
    async fn recovered(&self, attempt: i64, workspace: &WorkspaceId) -> Result<bool, StoreError> {
        let mut attempts = lock(&self.attempts);
        let Some(known) = attempts.iter_mut().find(|it| it.workspace == *workspace && it.id == attempt) else {
            return Ok(false);
        };
        if known.recovered_ago.replace(Duration::ZERO).is_some() {
            return Ok(false);
        }
        lock(&self.recovered).push(workspace.clone());
        lock(&self.owed).insert(workspace.clone());
        Ok(true)
    }

    async fn mark_lost(&self, workspace: &WorkspaceId, _: &Value, _: LeaseProof<'_>) -> Result<bool, StoreError> {
        self.call("mark_dead", workspace).map(|()| true).map_err(StoreError::MarkLost)
    }

    async fn owe(&self, workspace: &WorkspaceId) -> Result<(), StoreError> {
        lock(&self.owed).insert(workspace.clone());
        Ok(())
    }

    async fn standing_marks(&self, _: Option<&[EngineName]>, _: i64) -> Result<Vec<OwedMark>, StoreError> {
        let mark = |workspace: &WorkspaceId| OwedMark { workspace: workspace.clone(), attempt_id: None };
        Ok(lock(&self.standing).iter().map(mark).collect())
    }

    async fn owe_standing(&self, mark: &OwedMark) -> Result<bool, StoreError> {
        self.owe(&mark.workspace).await.map(|()| true)
    }

    async fn owed_marks(&self, _: Option<&[EngineName]>, _: i64) -> Result<Vec<OwedMark>, StoreError> {
        let mark = |workspace: &WorkspaceId| OwedMark { workspace: workspace.clone(), attempt_id: None };
        Ok(lock(&self.owed).iter().map(mark).collect())
    }

    async fn take_back(&self, workspace: &WorkspaceId, _: &Value) -> Result<bool, StoreError> {
        if !lock(&self.owed).contains(workspace) {
            return Ok(false);
        }
        if self.hangs.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(2)).await; // as long as a function may take
            return Err(StoreError::TakeBack(raised("mark_recovered")));
        }
        self.call("mark_recovered", workspace).map_err(StoreError::TakeBack)?;
        lock(&self.standing).retain(|standing| standing != workspace);
        Ok(lock(&self.owed).remove(workspace))
    }
}

#[async_trait]
impl LeaseTables for FakeDatabase {
    async fn take_lease_turn(&self, turn: &LeaseTurn<'_>) -> Result<LeaseTable, StoreError> {
        let owned: BTreeMap<EngineName, i64> = self.engines.iter().map(|engine| (engine.clone(), 1)).collect();
        let lease = |engine: &EngineName| Lease {
            engine: engine.clone(),
            holder: turn.replica.to_owned(),
            epoch: 1,
            expires_in: turn.ttl,
        };
        self.turns.fetch_add(1, Ordering::SeqCst);
        let other = lock(&self.others_end_in).map(|expires_in| Lease {
            engine: "another".into(),
            holder: "another".to_owned(),
            epoch: 1,
            expires_in,
        });
        let leases = self.engines.iter().map(lease).chain(other).collect();
        Ok(LeaseTable { at: (self.clock)(), owned, leases, usurped: Vec::new() })
    }

    async fn release_leases(&self, _: &str, _: &BTreeMap<EngineName, i64>) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl SuspicionTables for FakeDatabase {
    async fn take_suspicions(&self, _: i64) -> Result<Vec<Suspicion>, StoreError> {
        Ok(Vec::new())
    }

    async fn pending_suspicions(&self, _: i64, _: i64) -> Result<Vec<Pending>, StoreError> {
        Ok(Vec::new())
    }

    async fn take_these_suspicions(&self, _: &[i64]) -> Result<Vec<Suspicion>, StoreError> {
        Ok(Vec::new())
    }
}

/// An engine on which every workspace runs that is not in `stopped`.
pub(super) struct FakeEngine {
    name: EngineName,
    clock: Clock,
    pub(super) stopped: Mutex<BTreeSet<WorkspaceId>>,
    /// How long it takes to answer.
    pub(super) takes: Mutex<Duration>,
    /// It answers nothing.
    pub(super) is_away: AtomicBool,
    /// How many looks at the whole engine there were.
    pub(super) lists: AtomicUsize,
    /// How many looks at a few workspaces there were.
    pub(super) inspects: AtomicUsize,
    /// It can tell that all others run, as long as nothing is stopped.
    pub(super) tells_restless: AtomicBool,
    /// How many workspaces each look at the restless ones was about.
    pub(super) restless: Mutex<Vec<usize>>,
}

impl FakeEngine {
    async fn look(&self, targets: &[Target]) -> EngineReport {
        let at = (self.clock)();
        let takes = *lock(&self.takes);
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        let away = self.is_away.load(Ordering::SeqCst);
        let stopped = lock(&self.stopped).clone();
        let life = |id: &WorkspaceId, started| Incarnation {
            container_id: id.as_str().into(),
            started_at: Some(Timestamp(started)),
        };
        let observe = |target: &Target| {
            let id = &target.workspace;
            if away {
                Observation::Unknown { fault: Fault::Unreachable }
            } else if stopped.contains(id) {
                Observation::Stopped { incarnation: life(id, 1), exit: Exit::default() }
            } else {
                Observation::Running { incarnation: life(id, 2), health: Check::None }
            }
        };
        let samples = targets
            .iter()
            .rev() // so that nothing can depend on the order of a report
            .map(|target| (target.workspace.clone(), Sample { at, observation: observe(target) }))
            .collect();
        let reached = Reached { identity: Some("e".into()), ..Reached::default() };
        EngineReport {
            engine: self.name.clone(),
            at,
            reach: if away { Err(Fault::Unreachable) } else { Ok(reached) },
            samples,
            own_labels: None,
            calls: Vec::new(),
        }
    }
}

#[async_trait]
impl Engine for FakeEngine {
    fn name(&self) -> &EngineName {
        &self.name
    }

    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    async fn sample_all(&self, targets: &[Target]) -> EngineReport {
        self.lists.fetch_add(1, Ordering::SeqCst);
        self.look(targets).await
    }

    async fn sample_restless(&self, targets: &[Target]) -> Option<EngineReport> {
        if !self.tells_restless.load(Ordering::SeqCst) || !lock(&self.stopped).is_empty() {
            return None;
        }
        lock(&self.restless).push(targets.len());
        Some(self.look(targets).await)
    }

    async fn sample_some(&self, targets: &[Target]) -> EngineReport {
        self.inspects.fetch_add(1, Ordering::SeqCst);
        self.look(targets).await
    }

    async fn confirm(&self, target: &Target) -> Sample {
        let mut report = self.look(std::slice::from_ref(target)).await;
        report.samples.remove(0).1
    }

    async fn restart(&self, _: &RestartCall) -> Result<(), EngineError> {
        Ok(())
    }

    async fn watch(&self, _: mpsc::Sender<EngineEvent>, _: CancellationToken) {}

    async fn check(&self) -> Result<EngineCheck, EngineError> {
        Err(EngineError::ControlPlane { engine: self.name.clone() })
    }
}

/// Takes orders, and carries none out.
#[derive(Default)]
pub(super) struct FakeRestarts {
    pub(super) orders: Mutex<Vec<RestartOrder>>,
}

impl FakeRestarts {
    pub(super) fn of(&self, id: &str) -> Vec<u32> {
        lock(&self.orders).iter().filter(|it| it.workspace.as_str() == id).map(|it| it.attempt).collect()
    }
}

impl Restarts for FakeRestarts {
    fn carry_out(&self, orders: Vec<RestartOrder>) {
        lock(&self.orders).extend(orders);
    }

    fn is_back(&self, _: &WorkspaceId) {}

    fn in_flight(&self) -> InFlight {
        lock(&self.orders).iter().map(|order| order.workspace.clone()).collect()
    }

    fn queued(&self) -> InFlight {
        InFlight::default()
    }
}

/// A daemon on fakes, running.
pub(super) struct House {
    pub(super) database: Arc<FakeDatabase>,
    pub(super) engines: BTreeMap<EngineName, Arc<FakeEngine>>,
    pub(super) restarts: Arc<FakeRestarts>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) news: Arc<News>,
    events: BTreeMap<EngineName, mpsc::Sender<EngineEvent>>,
    _notifications: mpsc::Sender<ListenEvent>,
    _ended: mpsc::UnboundedSender<Ended>,
    stop: CancellationToken,
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a daemon is built of, before it runs.
pub(super) struct Foundations {
    clock: Clock,
    config: Arc<Config>,
    pub(super) database: Arc<FakeDatabase>,
    pub(super) engines: BTreeMap<EngineName, Arc<FakeEngine>>,
}

impl Foundations {
    /// A daemon with these engines and flags.
    pub(super) fn lay(engines: &[&str], flags: &[&str]) -> Self {
        let clock = clock::monotonic();
        let names: Vec<EngineName> = engines.iter().map(|name| (*name).into()).collect();
        let database = Arc::new(FakeDatabase {
            clock: Arc::clone(&clock),
            rows: Mutex::default(),
            rows_before: AtomicUsize::default(),
            attempts: Mutex::default(),
            verdicts: Mutex::default(),
            events: Mutex::default(),
            books_locked: AtomicBool::new(false),
            away: AtomicBool::new(false),
            owed: Mutex::default(),
            standing: Mutex::default(),
            verdicts_locked: AtomicBool::new(false),
            others_end_in: Mutex::default(),
            turns: AtomicUsize::default(),
            recovered: Mutex::default(),
            calls: Mutex::default(),
            raises: Mutex::default(),
            busy: AtomicBool::default(),
            hangs: AtomicBool::default(),
            engines: names.clone(),
        });
        let engine = |name: EngineName| {
            let engine = FakeEngine {
                name: name.clone(),
                clock: Arc::clone(&clock),
                stopped: Mutex::default(),
                takes: Mutex::default(),
                tells_restless: AtomicBool::default(),
                restless: Mutex::default(),
                is_away: AtomicBool::new(false),
                lists: AtomicUsize::new(0),
                inspects: AtomicUsize::new(0),
            };
            (name, Arc::new(engine))
        };
        let engines = names.into_iter().map(engine).collect();
        Self { config: Arc::new(config(flags)), database, engines, clock }
    }

    /// Starts the daemon.
    pub(super) async fn build(self) -> House {
        let Self { clock, config, database, engines } = self;
        let names: Vec<EngineName> = engines.keys().cloned().collect();
        let metrics = Arc::new(Metrics::new(&names).expect("metrics"));
        let health = Arc::new(Health::new(clock(), Duration::from_secs(60), names.iter().cloned()));
        let state = Arc::new(State::new(config, clock, Arc::default()));
        let news = Arc::new(News::new(Arc::clone(&metrics), health));
        let recorder = Arc::new(Recorder::new(Arc::clone(&state), Arc::clone(&database) as _, Arc::clone(&news)));
        let marks = Arc::new(Marks::new(Arc::clone(&state), Arc::clone(&database) as _, Arc::clone(&news)));
        let leases = Arc::new(Leases::new(
            Arc::clone(&state),
            Arc::clone(&database) as _,
            Arc::clone(&database) as _,
            Arc::clone(&recorder),
            Arc::clone(&news),
            Box::new(BTreeSet::new),
            names.clone(),
        ));
        leases.turn().await.expect("a turn at the leases");
        let restarts = Arc::new(FakeRestarts::default());
        let known = engines.iter().map(|(name, engine)| (name.clone(), Arc::clone(engine) as _)).collect();
        let parts = Parts {
            reading: Arc::new(Reading::new(
                Arc::clone(&state),
                Arc::clone(&database) as _,
                Arc::clone(&leases),
                Arc::clone(&recorder),
                Arc::clone(&news),
            )),
            passes: Arc::new(Passes {
                state: Arc::clone(&state),
                sampling: Sampling::new(Arc::clone(&state), known),
                database: Arc::clone(&database) as _,
                recorder: Arc::clone(&recorder),
                marks: Arc::clone(&marks),
                restarts: Arc::clone(&restarts) as _,
                news: Arc::clone(&news),
            }),
            suspicions: Arc::new(Suspicions::new(Arc::clone(&state), Arc::clone(&database) as _, Arc::clone(&news))),
            left_behind: None,
            news: Arc::clone(&news),
            leases,
            state,
        };
        let (events, receivers): (BTreeMap<_, _>, BTreeMap<_, _>) = names
            .into_iter()
            .map(|name| {
                let (sender, receiver) = mpsc::channel(16);
                ((name.clone(), sender), (name, receiver))
            })
            .unzip();
        let (notifier, notifications) = mpsc::channel(1);
        let (ended_sender, ended) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        tokio::spawn(recorder.run(stop.clone()));
        tokio::spawn(marks.run(stop.clone()));
        let (inputs, stopped) = (Inputs { notifications, engines: receivers, ended }, stop.clone());
        tokio::spawn(async move { driver::run(parts, inputs, stopped).await.expect("the loop ends well") });
        House {
            database,
            engines,
            restarts,
            metrics,
            news,
            events,
            _notifications: notifier,
            _ended: ended_sender,
            stop,
        }
    }
}

impl House {
    /// Time passes.
    pub(super) async fn after(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    pub(super) fn engine(&self, name: &str) -> &FakeEngine {
        &self.engines[name]
    }

    /// A workspace dies.
    pub(super) fn dies(&self, engine: &str, id: &str) {
        lock(&self.engine(engine).stopped).insert(id.into());
    }

    /// An engine tells something.
    pub(super) async fn tells(&self, engine: &str, event: EngineEvent) {
        self.events[engine].send(event).await.expect("its worker listens");
    }

    /// How often all rows were read for this reason.
    pub(super) fn resyncs(&self, reason: Resync) -> u64 {
        self.metrics.resyncs_for(reason)
    }

    /// The sum of a metric over all its labels.
    pub(super) fn metric(&self, name: &str) -> f64 {
        let families = self.metrics.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect("a metric");
        let value =
            |metric: &prometheus::proto::Metric| metric.get_counter().get_value() + metric.get_gauge().get_value();
        family.get_metric().iter().map(value).sum()
    }
}
