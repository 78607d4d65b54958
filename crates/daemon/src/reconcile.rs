//! One pass: read the fleet, sample the engines, judge, record, hand the restarts over.
//!
//! It covers the whole fleet or a few workspaces of one engine; both take the same path through the same rules. A pass does
//! not retry, the next pass is the retry. Each engine is judged as soon as it has answered, so that one which hangs delays
//! only its own workspaces; and while a look at an engine is under way, the next pass over the fleet leaves that engine out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use defib_engine::{Engine, EngineReport, Target};
use defib_policy::abilities::Abilities;
use defib_policy::attempt::Attempt;
use defib_policy::fleet::{FleetRead, Kind, Workspace};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::{EngineEvidence, Judge, Look, ReadStamp};
use defib_policy::moment::Moment;
use defib_policy::plan::{Change, Plan};
use defib_policy::sample::{Fault, Observation, Sample};
use defib_policy::verdict::Verdict;
use defib_store::{EventRow, FleetScope, LeaseProof, Malformed, RecordBatch, Store, StoreError, VerdictRow};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tracing::{error, info, warn};

use crate::clock::{Clock, offset_micros};
use crate::config::Config;
use crate::health::Health;
use crate::holds::Holds;
use crate::leases::Ownership;
use crate::logging::{chain, printable};
use crate::metrics::{Metrics, PassScope};
use crate::own::OwnBook;
use crate::restarter::Restarter;
use crate::snapshot::Snapshot;

/// Changes that could not be recorded and wait for the database, at most. Verdicts are level-triggered, so what falls out
/// is history and not state.
const UNRECORDED_MAX: usize = 20_000;

/// What a pass covers.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    /// Everybody.
    Fleet,
    /// A few workspaces.
    Focus(Vec<WorkspaceId>),
}

impl Scope {
    pub(crate) const fn label(&self) -> PassScope {
        match self {
            Self::Fleet => PassScope::Fleet,
            Self::Focus(_) => PassScope::Focus,
        }
    }

    fn to_read(&self) -> FleetScope<'_> {
        match self {
            Self::Fleet => FleetScope::All,
            Self::Focus(ids) => FleetScope::Some(ids),
        }
    }
}

/// What a pass came to.
#[derive(Debug, Default)]
pub(crate) struct TickReport {
    /// Workspaces judged.
    pub(crate) judged: usize,
    /// Verdicts changed.
    pub(crate) changed: usize,
    /// Restarts handed over.
    pub(crate) restarts: usize,
    /// Whom to look at before the next poll.
    pub(crate) looks: Vec<(Option<EngineName>, WorkspaceId, Moment)>,
    /// Engines asked, those of them that gave no answer, and those that were slow. Only slowness may be our own doing.
    pub(crate) engines: usize,
    pub(crate) engines_failed: usize,
    pub(crate) engines_slow: usize,
    /// How long the database took for the reads.
    pub(crate) database_took: Duration,
}

/// Everything a pass works with. Passes run side by side; all deciding happens under one short lock.
pub(crate) struct Reconciler {
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    pub(crate) engines: BTreeMap<EngineName, Arc<dyn Engine>>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    pub(crate) restarter: Arc<Restarter>,
    judge: Mutex<Judge>,
    snapshot: Mutex<Arc<Snapshot>>,
    /// Engines that a pass over the fleet is waiting for.
    asked: Mutex<BTreeSet<EngineName>>,
    /// The rows that break the contract, and how.
    malformed: Mutex<BTreeSet<(Option<String>, &'static str)>>,
    /// Engines whose list could not be read whole.
    spoiled: Mutex<BTreeSet<EngineName>>,
    unrecorded: Mutex<Vec<Change>>,
    departed: Mutex<BTreeSet<WorkspaceId>>,
    own: Mutex<OwnBook>,
    pub(crate) ownership: Arc<Mutex<Ownership>>,
    /// Who had moved to another engine by the read of the fleet before the last.
    pub(crate) moved: Mutex<Vec<WorkspaceId>>,
    pub(crate) turning_leases: tokio::sync::Mutex<()>,
}

/// An engine's part of a pass.
struct Part<'a> {
    engine: Option<&'a EngineName>,
    workspaces: Vec<&'a Workspace>,
    _asking: Option<Asking<'a>>,
}

/// A look at an engine on behalf of the whole fleet is under way, until this is dropped.
struct Asking<'a> {
    asked: &'a Mutex<BTreeSet<EngineName>>,
    engine: EngineName,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        lock(self.asked).remove(&self.engine);
    }
}

impl Reconciler {
    /// With a judge who knows nothing yet, on what a restarter works with too.
    pub(crate) fn new(
        restarter: Arc<Restarter>,
        engines: BTreeMap<EngineName, Arc<dyn Engine>>,
        health: Arc<Health>,
    ) -> Self {
        Self {
            judge: Mutex::new(Judge::new(restarter.config.policy.clone())),
            config: Arc::clone(&restarter.config),
            store: restarter.store.clone(),
            engines,
            clock: Arc::clone(&restarter.clock),
            metrics: Arc::clone(&restarter.metrics),
            health,
            ownership: Arc::clone(&restarter.ownership),
            restarter,
            turning_leases: tokio::sync::Mutex::default(),
            snapshot: Mutex::default(),
            asked: Mutex::default(),
            malformed: Mutex::default(),
            spoiled: Mutex::default(),
            moved: Mutex::default(),
            unrecorded: Mutex::default(),
            departed: Mutex::default(),
            own: Mutex::default(),
        }
    }

    pub(crate) fn judge(&self) -> MutexGuard<'_, Judge> {
        lock(&self.judge)
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&lock(&self.snapshot))
    }

    /// Whether the fleet has been read: suspicions and events can be told from noise.
    pub(crate) fn fleet_known(&self) -> bool {
        self.snapshot().is_known()
    }

    pub(crate) fn now(&self) -> Moment {
        (self.clock)()
    }

    /// Whether what is said of the workspaces of `engine` (`None`: those without one) is this replica's to say.
    pub(crate) fn speaks_for(&self, engine: Option<&EngineName>, now: Moment) -> bool {
        lock(&self.ownership).speaks_for(engine, now)
    }

    /// One pass. Takes no input but the world, so a pass after a crash is the same pass.
    pub(crate) async fn reconcile(&self, scope: Scope) -> Result<TickReport, StoreError> {
        // After an outage: whose word this pass is must be known before it is judged.
        if lock(&self.ownership).has_lapsed(self.now()) {
            self.turn_leases().await?;
        }
        let read_at = self.now();
        let (read, malformed) = self.store.read_fleet(scope.to_read(), &self.config.watched_statuses).await?;
        let attempts = self.store.read_attempts(scope.to_read(), self.config.policy.attempts_horizon()).await?;
        let holds = Holds::new(self.store.holds().await?);
        self.metrics.holds.set(i64::try_from(holds.len()).unwrap_or(i64::MAX));
        let mut report = TickReport { database_took: self.now() - read_at, ..TickReport::default() };
        let whole = matches!(scope, Scope::Fleet);
        if whole {
            self.tell_malformed(malformed);
        }
        let departed = self.judge().observe_fleet(&read, whole);
        lock(&self.own).forget(departed.iter().map(|departed| &departed.id));
        lock(&self.departed)
            .extend(departed.into_iter().filter(|departed| departed.recorded).map(|departed| departed.id));
        let read = Arc::new(read);
        if whole {
            // Before the engines are asked: events and suspicions need it, and an engine may take its time.
            let snapshot = Arc::new(Snapshot::new(Arc::clone(&read)));
            let before = std::mem::replace(&mut *lock(&self.snapshot), Arc::clone(&snapshot));
            self.follow_moves(snapshot.moved_since(&before)).await?;
        }
        let attempts = by_workspace(attempts);
        let stamp = ReadStamp { at: read.at, database_now: read.database_now };
        let mut looking: FuturesUnordered<_> = self
            .parts(&read, whole)
            .into_iter()
            .map(|part| async {
                let seen = self.sample(part.engine, &part.workspaces, whole).await;
                (part, seen)
            })
            .collect();
        if looking.is_empty() {
            self.record(Vec::new()).await?;
        }
        let mut failed = None;
        while let Some((part, seen)) = looking.next().await {
            let plan = self.judge_part(&part, seen.as_ref(), stamp, &attempts, &holds);
            if let (Some(seen), true) = (&seen, whole) {
                report.engines += 1;
                report.engines_failed += usize::from(seen.reach.is_err());
                let slow = seen.calls.iter().any(|call| call.took > self.config.engine_timeout / 2);
                report.engines_slow += usize::from(slow || seen.reach == Err(Fault::TimedOut));
            }
            // A database that fails now has been read a moment ago: the other engines' changes are kept for it.
            if let Err(error) = self.follow(plan, part.engine, &mut report).await {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(report), Err)
    }

    /// Warns of rows that break the contract, of each once for as long as it does.
    fn tell_malformed(&self, malformed: Vec<Malformed>) {
        let mut told = lock(&self.malformed);
        let now: BTreeSet<_> = malformed.into_iter().map(|row| (row.id, row.why)).collect();
        for (id, why) in now.difference(&told) {
            let id = id.as_deref().map_or_else(|| "(none)".to_owned(), printable);
            warn!(workspace = %id, why, "a row of defib.fleet breaks the contract and is not judged");
        }
        *told = now;
    }

    /// The pass, engine by engine. One over the fleet asks engines without workspaces too (`engine_up` and readiness are
    /// about engines), and leaves out those that an earlier one still waits for.
    fn parts<'a>(&'a self, read: &'a FleetRead, whole: bool) -> Vec<Part<'a>> {
        let mut parts: BTreeMap<Option<&EngineName>, Vec<&Workspace>> = BTreeMap::new();
        if whole {
            parts.extend(self.engines.keys().map(|name| (Some(name), Vec::new())));
        }
        for workspace in &read.workspaces {
            let engine = (workspace.kind != Kind::External).then_some(&workspace.engine);
            parts.entry(engine).or_default().push(workspace);
        }
        let mut asked = lock(&self.asked);
        let mut asking = |engine: Option<&EngineName>| match engine {
            Some(engine) if whole => {
                asked.insert(engine.clone()).then(|| Some(Asking { asked: &self.asked, engine: engine.clone() }))
            }
            _ => Some(None),
        };
        parts
            .into_iter()
            .filter_map(|(engine, workspaces)| Some(Part { engine, workspaces, _asking: asking(engine)? }))
            .collect()
    }

    /// What an engine says of its workspaces. Cannot fail: a fault is a sample. `None` for those without an engine.
    async fn sample(
        &self,
        engine: Option<&EngineName>,
        workspaces: &[&Workspace],
        whole: bool,
    ) -> Option<EngineReport> {
        let name = engine?;
        let report = match self.engines.get(name) {
            Some(engine) => {
                let targets = self.targets(workspaces);
                let report = if whole { engine.sample_all(&targets).await } else { engine.sample_some(&targets).await };
                self.metrics.engine(&report);
                self.note_engine(&report);
                report
            }
            None => not_configured(name, workspaces, self.now()),
        };
        Some(report)
    }

    fn targets(&self, workspaces: &[&Workspace]) -> Vec<Target> {
        let judge = self.judge();
        workspaces
            .iter()
            .map(|workspace| Target {
                workspace: workspace.id.clone(),
                kind: workspace.kind,
                container_ref: workspace.container_ref.clone(),
                instance_ref: workspace.instance_ref.clone(),
                known: judge.known_container(&workspace.id).cloned(),
                // In doubt although it may run: its health or its start decides.
                inspect: matches!(
                    judge.verdict(&workspace.id),
                    Some(Verdict::Wedged | Verdict::Unhealthy | Verdict::Dead)
                ),
                in_doubt: judge.verdict(&workspace.id) != Some(Verdict::Alive),
            })
            .collect()
    }

    fn note_engine(&self, report: &EngineReport) {
        if let Ok(reached) = &report.reach {
            let mut spoiled = lock(&self.spoiled);
            if reached.spoiled && spoiled.insert(report.engine.clone()) {
                warn!(
                    engine = %report.engine,
                    "a container of the engine is in a state that defib does not know, so its list cannot be read whole; the others are \
                     listed without it, and none of those that are found by their label can be missing"
                );
            } else if !reached.spoiled && report.own_labels.is_some() && spoiled.remove(&report.engine) {
                info!(engine = %report.engine, "the engine's list can be read whole again");
            }
        }
        let said = report.reach.as_ref().map(|_| ()).map_err(|fault| fault.label().to_owned());
        if !self.health.engine(&report.engine, said.clone(), self.now()) {
            return;
        }
        match said {
            Ok(()) => info!(engine = %report.engine, "engine answers"),
            Err(fault) => {
                warn!(engine = %report.engine, fault, "engine gives no answer; its workspaces are unknown, none is restarted");
            }
        }
    }

    /// All deciding is in here, and nothing else.
    fn judge_part(
        &self,
        part: &Part<'_>,
        seen: Option<&EngineReport>,
        stamp: ReadStamp,
        attempts: &BTreeMap<WorkspaceId, Vec<Attempt>>,
        holds: &Holds,
    ) -> Plan {
        let (in_flight, queued) = (self.restarter.in_flight(), self.restarter.queued());
        let labels = seen.and_then(|seen| seen.own_labels.as_ref());
        let own = lock(&self.own).settings(&part.workspaces, labels, &self.config.policy);
        let ours = self.speaks_for(part.engine, self.now());
        let samples: HashMap<&WorkspaceId, &Sample> =
            seen.into_iter().flat_map(|seen| &seen.samples).map(|(id, sample)| (id, sample)).collect();
        let looks: Vec<Look<'_>> = part
            .workspaces
            .iter()
            .map(|workspace| Look {
                workspace,
                sample: samples.get(&workspace.id).copied(),
                attempts: attempts.get(&workspace.id).map_or(&[][..], Vec::as_slice),
                in_flight: in_flight.contains(&workspace.id),
                queued: queued.contains(&workspace.id),
                ours,
                on_hold: holds.cover(workspace),
                own: own.get(&workspace.id).map(Arc::as_ref),
            })
            .collect();
        let abilities = part.engine.and_then(|name| self.engines.get(name)).map(|engine| engine.abilities());
        let evidence = seen.map(|seen| engine_evidence(seen, stamp, abilities.unwrap_or_default()));
        let engine = part.engine.zip(evidence.as_ref());
        self.judge().judge(self.now(), stamp, engine, &looks)
    }

    /// Records a plan, and hands its restarts over.
    async fn follow(&self, plan: Plan, engine: Option<&EngineName>, report: &mut TickReport) -> Result<(), StoreError> {
        report.judged += plan.judged;
        report.changed += plan.changes.len();
        report.looks.extend(plan.looks.into_iter().map(|(id, at)| (engine.cloned(), id, at)));
        let ours = self.speaks_for(engine, self.now());
        for (scope, began) in plan.storms.iter().filter(|_| ours) {
            let scope = scope.as_ref().map_or("fleet", EngineName::as_str);
            if *began {
                error!(scope, "storm: many died at once; restarts go one, two, four … as each batch is verified");
            } else {
                info!(scope, "storm over");
            }
        }
        for change in &plan.changes {
            self.metrics.verdict_changed(change.to, change.newly_held);
            announce(change);
        }
        let marks: Vec<Change> = plan
            .changes
            .iter()
            .filter(|change| change.to == Verdict::Lost || change.from == Some(Verdict::Lost))
            .cloned()
            .collect();
        self.record(plan.changes).await?;
        self.mark(&marks).await?;
        for recovery in plan.recoveries {
            let evidence = serde_json::to_value(&recovery.evidence).unwrap_or_default();
            if self.store.recovered(recovery.attempt_id, &recovery.workspace, &evidence).await? {
                info!(workspace = %recovery.workspace, because = %recovery.evidence.because, "recovered");
            }
        }
        report.restarts += plan.restarts.len();
        self.restarter.carry_out(plan.restarts);
        Ok(())
    }

    /// Tells the platform of external workspaces that were lost or are back.
    async fn mark(&self, changes: &[Change]) -> Result<(), StoreError> {
        if self.config.policy.mode == defib_policy::settings::Mode::Observe {
            return Ok(());
        }
        let Some((engine, epoch)) =
            lock(&self.ownership).fleet(self.now()).map(|(engine, epoch)| (engine.clone(), epoch))
        else {
            return Ok(());
        };
        let lease = LeaseProof { engine: &engine, holder: &self.config.replica_id, epoch };
        for change in changes {
            let evidence = serde_json::to_value(&change.evidence).unwrap_or_default();
            if change.to == Verdict::Lost {
                let marked = self.store.mark_lost(&change.workspace, &evidence, lease).await?;
                warn!(workspace = %change.workspace, marked, because = %change.evidence.because, "external workspace lost");
            } else {
                self.store.mark_recovered(&change.workspace, &evidence).await?;
            }
        }
        Ok(())
    }

    /// Writes changes, and whatever an earlier pass could not write.
    async fn record(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let mut pending = std::mem::take(&mut *lock(&self.unrecorded));
        pending.extend(changes);
        let departed = std::mem::take(&mut *lock(&self.departed));
        let batch = self.batch(&pending, &departed);
        let written = match self.store.record(&batch).await {
            // The database answers, and refuses: one row of the batch is at fault, and must not keep the others out.
            Err(error) if !error.is_unavailable() => {
                self.record_singly(&pending, &departed).await;
                return Ok(());
            }
            written => written,
        };
        if written.is_err() {
            let mut unrecorded = lock(&self.unrecorded);
            pending.append(&mut unrecorded);
            let excess = pending.len().saturating_sub(UNRECORDED_MAX);
            pending.drain(..excess);
            *unrecorded = pending;
            lock(&self.departed).extend(departed);
        }
        written
    }

    /// Writes changes one by one; those that the database refuses are lost to the tables, not to the judge.
    async fn record_singly(&self, changes: &[Change], departed: &BTreeSet<WorkspaceId>) {
        if let Err(error) = self.store.record(&self.batch(&[], departed)).await {
            error!(error = %database_fault(&error), "verdicts of departed workspaces cannot be cleared");
        }
        for change in changes {
            if let Err(error) = self.store.record(&self.batch(std::slice::from_ref(change), departed)).await {
                let workspace: String = printable(change.workspace.as_str()).chars().take(64).collect();
                error!(%workspace, error = %database_fault(&error), "a verdict cannot be recorded");
            }
        }
    }

    fn batch(&self, changes: &[Change], departed: &BTreeSet<WorkspaceId>) -> RecordBatch {
        let now = self.now();
        let mut batch = RecordBatch::default();
        let mut latest: BTreeMap<&WorkspaceId, &Change> = BTreeMap::new();
        for change in changes {
            latest.insert(&change.workspace, change);
            if change.from != Some(change.to) {
                batch.events.push(EventRow {
                    workspace: change.workspace.clone(),
                    from: change.from.map(|from| from.label().to_owned()),
                    to: change.to.label().to_owned(),
                    evidence: serde_json::to_value(&change.evidence).unwrap_or_default(),
                });
            }
        }
        batch.cleared.extend(departed.iter().cloned());
        for (workspace, change) in latest {
            if change.to == Verdict::Alive {
                batch.cleared.push(workspace.clone());
            } else if !departed.contains(workspace) {
                batch.verdicts.push(VerdictRow {
                    workspace: workspace.clone(),
                    verdict: change.to.label(),
                    since_ago: now - change.since,
                    engine: change.evidence.engine.clone(),
                    rule: change.evidence.rule.label().to_owned(),
                    because: change.evidence.because.clone(),
                    evidence: serde_json::to_value(&change.evidence).unwrap_or_default(),
                    held: change.evidence.held.map(|held| held.label().to_owned()),
                });
            }
        }
        batch
    }

    /// Gauges that follow from the judge's state.
    pub(crate) fn show(&self) {
        let now = self.now();
        for engine in self.engines.keys() {
            // Also when no turn is taken any more: a lease that has run out is not held.
            self.metrics.lease_held(engine, lock(&self.ownership).epoch(engine, now).is_some());
        }
        let judge = self.judge();
        self.metrics.verdicts(judge.counts());
        self.metrics.exhausted.set(i64::try_from(judge.exhausted()).unwrap_or(i64::MAX));
        self.metrics.evicted(judge.probes().evicted());
        self.metrics.probe_map_entries.set(i64::try_from(judge.probes().len()).unwrap_or(i64::MAX));
        self.metrics.local_health_multiplier.set(i64::from(judge.multiplier()));
        let usable = judge.heartbeats_usable(now) && self.metrics.database_up.get() == 1;
        let before = self.metrics.heartbeats_usable.get() == 1;
        self.metrics.heartbeats_usable.set(i64::from(usable));
        if usable && !before {
            info!("heartbeats are a witness");
        } else if before && !usable {
            warn!(
                "heartbeats are no witness: the database, the way to it or our own reads were away; nobody's silence is held against it"
            );
        }
        for engine in self.engines.keys() {
            self.metrics.storm(engine, judge.is_storm(Some(engine)) || judge.is_storm(None));
        }
    }
}

/// One line for a verdict that an operator wants to know of.
fn announce(change: &Change) {
    let workspace = printable(change.workspace.as_str());
    let (because, rule) = (&change.evidence.because, change.evidence.rule.label());
    let from = change.from.map_or("none", Verdict::label);
    let held = change.evidence.held.map_or("", |held| held.label());
    match change.to {
        Verdict::Exhausted | Verdict::Contradiction => {
            error!(%workspace, from, verdict = change.to.label(), rule, %because, held, "verdict");
        }
        Verdict::Dead | Verdict::Wedged | Verdict::Lost | Verdict::Unhealthy => {
            warn!(%workspace, from, verdict = change.to.label(), rule, %because, held, "verdict");
        }
        // One line an engine says it for all of its workspaces.
        Verdict::Unknown => {}
        _ if change.from == Some(Verdict::Unknown) => {}
        _ => info!(%workspace, from, verdict = change.to.label(), rule, %because, held, "verdict"),
    }
}

fn engine_evidence(seen: &EngineReport, stamp: ReadStamp, abilities: Abilities) -> EngineEvidence {
    match &seen.reach {
        Err(fault) => EngineEvidence { fault: Some(*fault), abilities, ..EngineEvidence::default() },
        Ok(reached) => EngineEvidence {
            fault: None,
            identity: reached.identity.clone(),
            restarted: reached.reconnected,
            clock_offset_micros: reached.engine_now.map(|theirs| offset_micros(theirs, (stamp.at, stamp.database_now))),
            abilities,
        },
    }
}

fn not_configured(name: &EngineName, workspaces: &[&Workspace], at: Moment) -> EngineReport {
    let observation = Observation::Unknown { fault: Fault::NotConfigured };
    let sample = Sample { at, observation };
    EngineReport {
        engine: name.clone(),
        at,
        reach: Err(Fault::NotConfigured),
        samples: workspaces.iter().map(|workspace| (workspace.id.clone(), sample.clone())).collect(),
        own_labels: None,
        calls: Vec::new(),
    }
}

fn by_workspace(attempts: Vec<Attempt>) -> BTreeMap<WorkspaceId, Vec<Attempt>> {
    let mut grouped: BTreeMap<WorkspaceId, Vec<Attempt>> = BTreeMap::new();
    for attempt in attempts {
        grouped.entry(attempt.workspace.clone()).or_default().push(attempt);
    }
    grouped
}

/// A poisoned lock means that a thread panicked while it held it; the state is still whole values, and the loop goes on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The database's part in a failed pass, for the log.
pub(crate) fn database_fault(error: &StoreError) -> String {
    format!("{} ({})", chain(error), error.kind())
}

/// The set of workspaces with a restart under way.
pub(crate) type InFlight = HashSet<WorkspaceId>;
