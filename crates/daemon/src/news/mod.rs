//! The one place that turns reports into metrics and log lines.
//!
//! A fault is logged when it begins and when it ends, however often it is met in between. For that, this module remembers what it has
//! logged; no metric is ever read back. The news about restarts are in `restarts.rs`.

mod evictions;
mod recording;
mod restarts;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib_engine::EngineReport;
use defib_policy::attempt::Outcome;
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::Moment;
use defib_policy::plan::{Change, Plan};
use defib_policy::reading::Resync;
use defib_policy::verdict::Verdict;
use defib_store::{LeaseTable, MALFORMED_MAX, Malformed, StoreError};
use tracing::{debug, error, info, warn};

pub(crate) use self::evictions::EvictionNews;
pub(crate) use self::recording::RecordingNews;
pub(crate) use self::restarts::RestartNews;
use crate::health::Health;
use crate::logging::{database_fault, printable};
use crate::metrics::{Metrics, PassResult, PassScope, RowsRead};
use crate::report::{Counts, PassReport};
use crate::state::State;
use crate::sync::lock;

/// For how many workspaces it is remembered that a function of the platform failed for them. When there are more, some failures are logged
/// again.
const RAISED_MAX: usize = 10_000;

/// Writes metrics and log lines.
pub(crate) struct News {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    told: Mutex<Told>,
}

/// What was logged.
#[derive(Default)]
struct Told {
    database_up: bool,
    heartbeats_usable: bool,
    /// The rows that break the contract, each with what is wrong with it.
    malformed: BTreeSet<(Option<String>, &'static str)>,
    /// Engines whose list could not be read whole.
    spoiled: BTreeSet<EngineName>,
    /// Why the last turn at the leases failed, if it did.
    lease_fault: Option<String>,
    /// Why verdicts, and their history, cannot be written.
    recording: BTreeMap<&'static str, String>,
    /// How many rows of each table could not be written the last time.
    refused: BTreeMap<&'static str, usize>,
    /// The workspaces for which a function of the platform fails.
    raised: HashSet<(&'static str, WorkspaceId)>,
    /// What the last pass over each whole engine counted.
    counts: BTreeMap<Option<EngineName>, Counts>,
}

/// A read of the fleet and the passes that it led to, when all of them have ended or the next read begins.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) judged: usize,
    pub(crate) changed: usize,
    pub(crate) restarts: usize,
    /// Not every engine answered, or not in time.
    pub(crate) engine_failed: bool,
    /// The database could not be read: nobody was judged.
    pub(crate) database_failed: bool,
    pub(crate) took: Duration,
}

impl News {
    /// News for these metrics and endpoints.
    pub(crate) fn new(metrics: Arc<Metrics>, health: Arc<Health>) -> Self {
        Self { metrics, health, told: Mutex::default() }
    }

    /// What the endpoints show.
    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// Tells how a read of the fleet or of the ledger ended. Faults of the platform's functions do not belong here.
    pub(crate) fn database<T>(&self, read: &Result<T, StoreError>) {
        self.metrics.database_up.set(i64::from(read.is_ok()));
        lock(&self.told).database_up = read.is_ok();
        match read {
            Ok(_) => {
                if self.health.database(Ok(())) {
                    info!("database answers");
                }
            }
            Err(error) => {
                let fault = database_fault(error);
                if self.health.database(Err(fault.clone())) {
                    warn!(error = %fault, "the database gives no answer or refuses; no verdicts and no restarts until it is well");
                }
            }
        }
    }

    /// Tells of the rows that break the contract in a read of the fleet. Each is logged once for as long as it breaks the contract. A read
    /// that was not of all rows (`whole`) does not tell which of them have been mended.
    pub(crate) fn malformed(&self, rows: Vec<Malformed>, whole: bool) {
        let told = &mut lock(&self.told).malformed;
        let now: BTreeSet<_> = rows.into_iter().map(|row| (row.id, row.why)).collect();
        for (id, why) in now.difference(told) {
            let id = id.as_deref().map_or_else(|| "(none)".to_owned(), printable);
            warn!(workspace = %id, why, "a row of defib.fleet breaks the contract and is not judged");
        }
        if whole {
            *told = now;
        } else if told.len() < MALFORMED_MAX {
            told.extend(now);
        }
    }

    /// All rows of the fleet were read, for this reason.
    pub(crate) fn resynced(&self, reason: Resync) {
        self.metrics.resynced(reason);
        debug!(reason = reason.label(), "all rows of the fleet were read");
    }

    /// The database sent so many rows of the fleet.
    pub(crate) fn rows_read(&self, how: RowsRead, rows: usize) {
        self.metrics.rows_read(how, rows);
    }

    /// What an engine said.
    pub(crate) fn sampled(&self, report: &EngineReport, now: Moment) {
        self.metrics.engine(report);
        if let Ok(reached) = &report.reach {
            let spoiled = &mut lock(&self.told).spoiled;
            if reached.spoiled && spoiled.insert(report.engine.clone()) {
                warn!(
                    engine = %report.engine,
                    "the engine's list has an entry without an id, or with names or labels that cannot be read, so nobody knows whose \
                     container it is; until it is gone, none of the workspaces that are found by their label can be missing"
                );
            } else if !reached.spoiled && report.own_labels.is_some() && spoiled.remove(&report.engine) {
                info!(engine = %report.engine, "the engine's list can be read whole again");
            }
        }
        let said = report.reach.as_ref().map(|_| ()).map_err(|fault| fault.label().to_owned());
        if !self.health.engine(&report.engine, said.clone(), now) {
            return;
        }
        match said {
            Ok(()) => info!(engine = %report.engine, "engine answers"),
            Err(fault) => {
                warn!(engine = %report.engine, fault, "engine gives no answer; its workspaces are unknown, none is restarted");
            }
        }
    }

    /// Tells what was decided. `ours`: whether this replica speaks for the workspaces.
    pub(crate) fn planned(&self, plan: &Plan, ours: bool) {
        for (scope, began) in plan.storms.iter().filter(|_| ours) {
            let scope = scope.as_ref().map_or("fleet", EngineName::as_str);
            if *began {
                error!(
                    scope,
                    "storm: many died at once; they are restarted in batches that double as each is verified"
                );
            } else {
                info!(scope, "storm over");
            }
        }
        for change in &plan.changes {
            self.metrics.verdict_changed(change.to, change.newly_held);
            announce(change);
        }
    }

    /// How one pass ended.
    pub(crate) fn passed(
        &self,
        scope: PassScope,
        engine: Option<&EngineName>,
        report: &Result<PassReport, StoreError>,
        took: Duration,
    ) {
        // If a later read of the pass failed, the database is away. That this read worked says nothing about the others.
        if report.is_err() {
            self.database(report);
        }
        let result = match report {
            Err(_) => PassResult::DatabaseError,
            Ok(report) if matches!(report.reach, Some(Err(_))) => PassResult::EngineError,
            Ok(_) => PassResult::Ok,
        };
        self.metrics.tick(scope, result, took);
        if let Ok(PassReport { counts: Some(counts), .. }) = report {
            lock(&self.told).counts.insert(engine.cloned(), *counts);
        }
    }

    /// How a whole round ended.
    pub(crate) fn round(&self, round: &Round) {
        let result = match round {
            Round { database_failed: true, .. } => PassResult::DatabaseError,
            Round { engine_failed: true, .. } => PassResult::EngineError,
            _ => PassResult::Ok,
        };
        self.metrics.tick(PassScope::Fleet, result, round.took);
        if round.database_failed {
            return;
        }
        let took_ms = u64::try_from(round.took.as_millis()).unwrap_or(u64::MAX);
        if round.changed > 0 || round.restarts > 0 {
            info!(judged = round.judged, changed = round.changed, restarts = round.restarts, took_ms, "tick");
        } else {
            debug!(judged = round.judged, took_ms, "tick");
        }
    }

    /// How a turn at the leases ended.
    pub(crate) fn turned_leases<T>(&self, turned: &Result<T, StoreError>) {
        let fault = turned.as_ref().err().map(database_fault);
        // Not logged here where the database is away: the read of the fleet that failed has already said so.
        let away = turned.as_ref().is_err_and(StoreError::is_unavailable);
        let told = &mut lock(&self.told).lease_fault;
        if *told == fault || away {
            return;
        }
        if let Some(fault) = &fault {
            warn!(error = %fault, "the leases cannot be renewed; this replica restarts nothing on an engine once its lease has ended");
        }
        *told = fault;
    }

    /// What a turn at the leases changed for `replica`, which owned `owned` before.
    #[expect(clippy::unused_self, reason = "all news is told by methods of this type")]
    pub(crate) fn leases(
        &self,
        replica: &str,
        owned: Option<&BTreeMap<EngineName, i64>>,
        table: &LeaseTable,
        observes: bool,
    ) {
        for (engine, epoch) in &table.owned {
            if owned.and_then(|owned| owned.get(engine)) != Some(epoch) {
                if observes {
                    warn!(%engine, epoch, "this replica owns the engine now, and only observes it (DEFIB_MODE): it judges and records, and restarts nobody");
                } else {
                    info!(%engine, epoch, "this replica owns the engine now: it restarts what dies there");
                }
            }
        }
        for engine in &table.usurped {
            error!(
                %engine,
                replica,
                "another process has taken the engine under our name: give each replica its own DEFIB_REPLICA_ID"
            );
        }
        for engine in owned.into_iter().flat_map(BTreeMap::keys).filter(|engine| !table.owned.contains_key(*engine)) {
            info!(%engine, "this replica no longer owns the engine; it goes on observing");
        }
    }

    /// A suspicion was taken; `reason` is one of the closed set of reasons.
    pub(crate) fn suspicion(&self, reason: &'static str) {
        self.metrics.suspicion(reason);
    }

    /// Whether `what` (verdicts, their history, or marks) could be written, or why not. Said when it begins and when it ends.
    pub(crate) fn recorded(&self, what: &'static str, fault: Option<&StoreError>) {
        let unwritable = fault.filter(|error| matches!(error.kind(), "resources" | "read_only"));
        if what == "verdicts" {
            // A database without room for a row makes the daemon unready. A table that somebody has locked does not.
            self.health.writable(unwritable.map_or(Ok(()), |error| Err(database_fault(error))));
        }
        let told = &mut lock(&self.told).recording;
        let Some(error) = fault else {
            if told.remove(what).is_some() {
                info!(what, "can be written again");
            }
            return;
        };
        let fault = database_fault(error);
        if told.insert(what, fault.clone()).is_none() {
            warn!(what, error = %fault, "cannot be written for now; restarts go on, and what is missing is written later");
        }
    }

    /// Some rows of `what` could not be written although the others were, because the database refuses them or somebody has locked them.
    pub(crate) fn refused(&self, what: &'static str, rows: usize) {
        let before = lock(&self.told).refused.insert(what, rows).unwrap_or(0);
        if rows > 0 && before == 0 {
            error!(
                what,
                rows,
                "some rows cannot be written, because the database refuses them or somebody has them locked; the others are written"
            );
        }
    }

    /// Events that had to be given up because more came than could be written.
    #[expect(clippy::unused_self, reason = "all news is told by methods of this type")]
    pub(crate) fn history_lost(&self, events: usize) {
        warn!(events, "events of the history are lost: it could not be written for too long");
    }

    /// An attempt brought its workspace back.
    #[expect(clippy::unused_self, reason = "all news is told by methods of this type")]
    pub(crate) fn recovered(&self, workspace: &WorkspaceId, because: &str) {
        info!(workspace = %printable(workspace.as_str()), because, "recovered");
    }

    /// The platform was told that a workspace without a container is dead. `marked`: whether it agreed.
    #[expect(clippy::unused_self, reason = "all news is told by methods of this type")]
    pub(crate) fn lost(&self, workspace: &WorkspaceId, marked: bool) {
        let workspace = printable(workspace.as_str());
        if marked {
            info!(%workspace, "the platform was told that this external workspace is lost");
        } else {
            debug!(%workspace, "the platform does not agree that this external workspace is lost; it is asked again later");
        }
    }

    /// A function of the platform failed for one workspace. It is counted each time, and logged once until the function works again.
    pub(crate) fn adapter_failed(&self, function: &'static str, workspace: &WorkspaceId, error: &StoreError) {
        self.metrics.adapter_error(function);
        let raised = &mut lock(&self.told).raised;
        if raised.len() >= RAISED_MAX {
            raised.clear();
        }
        if raised.insert((function, workspace.clone())) {
            warn!(
                function,
                workspace = %printable(workspace.as_str()),
                error = %database_fault(error),
                "a function of the platform fails for this workspace; it is called again with growing delays, and the others are not concerned"
            );
        }
    }

    /// A function of the platform works for one workspace.
    pub(crate) fn adapter_works(&self, function: &'static str, workspace: &WorkspaceId) {
        lock(&self.told).raised.remove(&(function, workspace.clone()));
    }

    /// For each verdict, the longest time that a workspace has had it.
    pub(crate) fn longest(&self, longest: &[Duration; Verdict::ALL.len()]) {
        self.metrics.longest(longest);
    }

    /// How an attempt ended that another process left open.
    pub(crate) fn settled(&self, engine: &EngineName, outcome: Outcome) {
        self.metrics.restart(engine, outcome);
    }

    /// The gauges that follow from the state. Those of the fleet count what this replica speaks for, so that the sum over
    /// all replicas is the fleet.
    pub(crate) fn show(&self, state: &State, engines: &[EngineName]) {
        let (now, fleet) = (state.now(), state.fleet());
        let ownership = state.ownership().clone();
        for engine in engines {
            // This holds even when no turn is taken any more, because a lease that has run out is not held.
            self.metrics.lease_held(engine, ownership.epoch(engine, now).is_some());
        }
        let holds = if ownership.speaks_for(None, now) { fleet.holds().len() } else { 0 };
        self.metrics.holds.set(i64::try_from(holds).unwrap_or(i64::MAX));
        let witness = {
            let judge = state.judge();
            self.metrics.evicted(judge.probes().evicted());
            self.metrics.probe_map_entries.set(i64::try_from(judge.probes().len()).unwrap_or(i64::MAX));
            self.metrics.local_health_multiplier.set(i64::from(judge.multiplier()));
            for engine in engines {
                let storm = judge.is_storm(Some(engine)) || judge.is_storm(None);
                self.metrics.storm(engine, storm && ownership.speaks_for(Some(engine), now));
            }
            judge.heartbeats_usable(now)
        };
        let mut told = lock(&self.told);
        let told = &mut *told;
        // An engine that is neither configured nor named by a row any more is nobody's.
        told.counts
            .retain(|engine, _| engine.as_ref().is_none_or(|name| engines.contains(name) || fleet.has_rows_on(name)));
        let mut sum = Counts::default();
        for (_, counts) in told.counts.iter().filter(|(engine, _)| ownership.speaks_for(engine.as_ref(), now)) {
            sum.exhausted += counts.exhausted;
            for (all, one) in sum.verdicts.iter_mut().zip(counts.verdicts) {
                *all += one;
            }
        }
        let unowned = if ownership.speaks_for(None, now) {
            let nobodys = fleet.engines().filter(|engine| ownership.lease_for(Some(engine)).is_none());
            nobodys.map(|engine| fleet.count_on(Some(engine))).sum()
        } else {
            0
        };
        self.metrics.unowned.set(i64::try_from(unowned).unwrap_or(i64::MAX));
        self.metrics.verdicts(&sum.verdicts);
        self.metrics.exhausted.set(i64::try_from(sum.exhausted).unwrap_or(i64::MAX));
        let usable = witness && told.database_up;
        self.metrics.heartbeats_usable.set(i64::from(usable));
        let before = std::mem::replace(&mut told.heartbeats_usable, usable);
        if usable && !before {
            info!("stale heartbeats count as evidence again");
        } else if before && !usable {
            warn!(
                "no stale heartbeat counts as evidence for now: the database could not be read for a while, or half of the fleet fell silent at once"
            );
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
        // A contradiction may be one late heartbeat of a container that has just stopped; one that lasts has an alert.
        Verdict::Exhausted => {
            error!(%workspace, from, verdict = change.to.label(), rule, %because, held, "verdict");
        }
        Verdict::Dead | Verdict::Wedged | Verdict::Lost | Verdict::Unhealthy | Verdict::Contradiction => {
            warn!(%workspace, from, verdict = change.to.label(), rule, %because, held, "verdict");
        }
        // The engine's own line says it for all of its workspaces.
        Verdict::Unknown => {}
        _ if change.from == Some(Verdict::Unknown) => {}
        _ => info!(%workspace, from, verdict = change.to.label(), rule, %because, held, "verdict"),
    }
}

#[cfg(test)]
mod golden;
