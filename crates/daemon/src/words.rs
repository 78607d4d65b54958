//! What this replica says of itself and of the engines that it owns, for `defib status` and `defib explain`.
//!
//! A pass over a whole engine leaves a report here. The recorder writes it once the verdicts of that pass are in the table. So a report
//! says that the table is true for the engine's workspaces. Where verdicts cannot be written there is no report, and after a while the
//! engine's workspaces are shown as `not judged`. If a report is lost, the next pass makes another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::Moment;
use defib_policy::sample::Fault;
use defib_store::{EngineReportRow, ReplicaReport, Store, StoreError};
use serde_json::{Value, json};

use crate::config::Config;
use crate::state::State;
use crate::sync::lock;

/// How much time is added to three polls and the engine's own deadlines before the next report is overdue. Smaller: workspaces are called
/// `not judged` when the database is slow. Larger: a daemon that hangs is believed for longer.
const LATENESS: Duration = Duration::from_secs(10);

/// How many workspaces are named, of those whose restart in a storm is under way.
const CANARIES_MAX: usize = 8;

/// Where reports are written.
#[async_trait]
pub(crate) trait WordTables: Send + Sync {
    /// Writes what this replica says of itself.
    async fn report_replica(&self, report: &ReplicaReport<'_>) -> Result<(), StoreError>;

    /// Writes what it says of engines. Returns those that it owns; on the others nothing was written.
    async fn report_engines(&self, reports: &[EngineReportRow<'_>]) -> Result<BTreeSet<String>, StoreError>;

    /// Writes what the looks that suspicions asked for have found.
    async fn report_finding(&self, suspicions: &[i64], finding: &str) -> Result<(), StoreError>;
}

#[async_trait]
impl WordTables for Store {
    async fn report_replica(&self, report: &ReplicaReport<'_>) -> Result<(), StoreError> {
        Self::report_replica(self, report).await
    }

    async fn report_engines(&self, reports: &[EngineReportRow<'_>]) -> Result<BTreeSet<String>, StoreError> {
        Self::report_engines(self, reports).await
    }

    async fn report_finding(&self, suspicions: &[i64], finding: &str) -> Result<(), StoreError> {
        Self::report_finding(self, suspicions, finding).await
    }
}

/// The result of a pass over all workspaces of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    fault: Option<Fault>,
    judged: usize,
    at: Moment,
}

/// The newest report on each engine that is not written yet.
pub(crate) type Unwritten = BTreeMap<Option<EngineName>, Word>;

/// Keeps the reports until the recorder writes them.
pub(crate) struct Words {
    state: Arc<State>,
    tables: Arc<dyn WordTables>,
    waiting: Mutex<Unwritten>,
    /// The engines on which a report was written, and whether each answered. Only a report that says something new is worth a write of its
    /// own.
    written: Mutex<BTreeMap<Option<EngineName>, bool>>,
}

impl Words {
    /// Writes to these tables.
    pub(crate) fn new(state: Arc<State>, tables: Arc<dyn WordTables>) -> Self {
        Self { state, tables, waiting: Mutex::default(), written: Mutex::default() }
    }

    /// Takes note of a pass over all workspaces of `engine`. Returns whether that is news: the first report on it, or one with another
    /// answer.
    pub(crate) fn note(&self, engine: Option<&EngineName>, reach: Option<Result<(), Fault>>, judged: usize) -> bool {
        let now = self.state.now();
        let fault = reach.and_then(Result::err);
        if fault == Some(Fault::NotConfigured) || !self.state.speaks_for(engine, now) {
            return false;
        }
        let is_news = lock(&self.written).get(&engine.cloned()) != Some(&fault.is_none());
        lock(&self.waiting).insert(engine.cloned(), Word { fault, judged, at: now });
        is_news
    }

    /// The reports that may be written once all verdicts noted before them are written.
    pub(crate) fn take(&self) -> Unwritten {
        std::mem::take(&mut *lock(&self.waiting))
    }

    /// Writes them. Reports on engines that are no longer ours have no effect.
    pub(crate) async fn write(&self, words: &Unwritten) -> Result<(), StoreError> {
        let Some(last) = words.values().map(|word| word.at).max() else { return Ok(()) };
        let (config, now) = (&self.state.config, self.state.now());
        let rows = words.iter().map(|(engine, word)| EngineReportRow {
            engine: engine.as_ref(),
            holder: &config.replica_id,
            fault: word.fault.map(Fault::label),
            asked_ago: now - word.at,
            judged: word.judged,
            storm: self.storm(engine.as_ref(), now),
            good_for: good_for(config).saturating_sub(now - word.at),
        });
        let rows: Vec<EngineReportRow<'_>> = rows.collect();
        let ours = self.tables.report_engines(&rows).await?;
        {
            let mut written = lock(&self.written);
            for (engine, word) in words {
                if ours.contains(engine.as_ref().map_or("", EngineName::as_str)) {
                    written.insert(engine.clone(), word.fault.is_none());
                } else {
                    written.remove(engine);
                }
            }
        }
        let usable = self.state.judge().heartbeats_usable(now);
        let report = ReplicaReport {
            replica: &config.replica_id,
            mode: config.policy.mode.label(),
            version: env!("CARGO_PKG_VERSION"),
            watched_statuses: &config.watched_statuses,
            heartbeats_usable: usable,
            last_pass_ago: now - last,
        };
        self.tables.report_replica(&report).await
    }

    /// Writes what was found of suspicions. What cannot be written is lost.
    pub(crate) async fn write_findings(&self) -> Result<(), StoreError> {
        for (finding, suspicions) in self.state.findings().take() {
            self.tables.report_finding(&suspicions, &finding).await?;
        }
        Ok(())
    }

    /// The storm on an engine, or that of the whole fleet, which holds its restarts too.
    fn storm(&self, engine: Option<&EngineName>, now: Moment) -> Option<Value> {
        let (storm, is_fleet) = self.state.judge().storm(engine, now)?;
        // A batch may have hundreds of workspaces, so only the first few are named.
        let canaries: Vec<&str> = storm.canaries.iter().take(CANARIES_MAX).map(WorkspaceId::as_str).collect();
        Some(json!({
            "fleet": is_fleet,
            "since_seconds": storm.since.as_secs(),
            "batch": storm.batch,
            "canaries": canaries,
            "under_way": storm.canaries.len(),
            "waiting": storm.waiting,
        }))
    }
}

/// How long after a pass the next one is overdue.
fn good_for(config: &Config) -> Duration {
    3 * config.policy.poll_interval + 4 * config.engine_timeout + LATENESS
}
