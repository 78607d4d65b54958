//! What the platform is told about its workspaces, through its own functions: that an external workspace is lost, and that a workspace that
//! was marked dead lives.
//!
//! Somebody else wrote these functions. They may raise an error, wait for a lock, or hang, for one workspace or for all. So no pass calls
//! them: the pass leaves an errand here, and tasks of this module run the errands. If an errand fails, only its workspace is affected. It
//! is tried again with a growing delay, in a separate lane, so that errands that always fail delay none of the others. The failure is
//! counted and logged once, and does not count as an outage of the database. That an attempt has brought its workspace back is written down in a
//! lane of its own, which calls no function.
//!
//! ```text
//! recovery proved ─► ledger: recovered ─► owed ─┐
//! external back ───► owed ──────────────────────┼─► take_back ─► mark_recovered()
//! vetoed after the mark, rows left behind ─► owed (by the store) ─┤
//! alive, and its attempts no longer count ─► owed ───────────────┘
//! external lost ───► mark_lost ─► mark_dead()
//! ```
//!
//! The marks that have to be taken back are in `defib.marks`, each with its delay. So they survive this process. They are read again in
//! each poll interval. A daemon that only observes calls no function at all.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::Moment;
use defib_policy::plan::Plan;
use defib_policy::verdict::Evidence;
use defib_store::{LeaseProof, StoreError};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::database::PlatformMarks;
use crate::news::News;
use crate::state::State;
use crate::sync::lock;

/// How many errands that have not failed are run side by side. Those that have failed have one more lane, and so have recoveries that are only
/// written down: they wait for no function of the platform.
const LANES: usize = 2;

/// How many errands may wait. One that is dropped is found again: a recovery by the next pass, and a mark that has to be taken back by the
/// next read of the table.
const ERRANDS_MAX: usize = 20_000;

/// How many marks that have to be taken back are read at once.
const OWED_MAX: i64 = 200;

/// How many polls pass between two looks for marks that stand although their workspaces live. That is rare, and nobody is restarted or left dead
/// by it. Larger: the platform is told later. Smaller: more reads that find nothing.
const POLLS_PER_LOOK: u32 = 6;

/// The delay after the first failure of an errand; it doubles with each, up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_secs(10);
/// The delay of an errand whose function was not called, because calls for other workspaces had not ended. Larger: it is told later. Smaller:
/// more waiting in vain.
const RETRY_BUSY: Duration = Duration::from_secs(1);
/// The longest delay. Larger: a workspace stays marked for longer after its function works again. Smaller: more failing calls.
const RETRY_MAX: Duration = Duration::from_secs(600);

const MARK_DEAD: &str = "mark_dead";
const MARK_RECOVERED: &str = "mark_recovered";

/// Runs the errands to the platform.
pub(crate) struct Marks {
    state: Arc<State>,
    tables: Arc<dyn PlatformMarks>,
    news: Arc<News>,
    errands: Mutex<HashMap<WorkspaceId, Errand>>,
    /// The external workspaces of which the platform knows that they are lost.
    told_lost: Mutex<HashSet<WorkspaceId>>,
    wake: [Notify; 3],
}

/// Which errands a lane runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// Errands that have not failed.
    Fresh = 0,
    /// Errands that have failed.
    Failed = 1,
    /// Recoveries that the ledger does not have yet.
    Ledger = 2,
}

/// Something to tell the platform.
struct Errand {
    what: What,
    /// Distinguishes this errand from one that replaces it while it is being run.
    number: u64,
    failures: u32,
    due: Moment,
    under_way: bool,
}

impl Errand {
    fn lane(&self) -> Lane {
        match &self.what {
            What::Recovered { .. } => Lane::Ledger,
            _ if self.failures > 0 => Lane::Failed,
            _ => Lane::Fresh,
        }
    }
}

/// What the platform is told.
#[derive(Clone, Debug)]
enum What {
    /// An attempt brought it back, which has to be written down before the mark is taken back.
    Recovered { attempt: i64, evidence: Arc<Evidence> },
    /// It has no container, and is lost.
    Lost { evidence: Arc<Evidence> },
    /// It has no container, was lost, and beats again.
    Back { evidence: Arc<Evidence> },
    /// The platform must be told that it lives: the table says so, or a recovery by this evidence was written down.
    Owed { evidence: Option<Arc<Evidence>> },
}

/// How an errand ended.
enum Run {
    Done,
    /// Not yet: it is to be run again.
    Again,
    /// Its function was not called, because calls for other workspaces had not ended. It has not failed.
    Busy,
    /// It is followed by this.
    Then(What),
}

impl Marks {
    /// Marks in these tables.
    pub(crate) fn new(state: Arc<State>, tables: Arc<dyn PlatformMarks>, news: Arc<News>) -> Self {
        Self {
            state,
            tables,
            news,
            errands: Mutex::default(),
            told_lost: Mutex::default(),
            wake: [Notify::new(), Notify::new(), Notify::new()],
        }
    }

    /// Takes the errands of a plan. Returns at once.
    pub(crate) fn note(&self, plan: &Plan) {
        for recovery in &plan.recoveries {
            let evidence = Arc::new(recovery.evidence.clone());
            self.add(&recovery.workspace, What::Recovered { attempt: recovery.attempt_id, evidence });
        }
        if self.state.only_observes() {
            return;
        }
        for external in &plan.external {
            // Every pass reports a workspace that is lost. The platform is told once, until the workspace is back.
            if external.lost && lock(&self.told_lost).contains(&external.workspace) {
                continue;
            }
            let evidence = Arc::new(external.evidence.clone());
            let what = if external.lost { What::Lost { evidence } } else { What::Back { evidence } };
            self.add(&external.workspace, what);
        }
    }

    /// Runs errands until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let fresh = futures_util::future::join_all((0..LANES).map(|_| self.lane(Lane::Fresh)));
        tokio::select! {
            () = stop.cancelled() => {}
            _ = fresh => {}
            () = self.lane(Lane::Failed) => {}
            () = self.lane(Lane::Ledger) => {}
            () = self.read_owed() => {}
        }
    }

    /// Adds an errand, unless the same one waits already.
    fn add(&self, workspace: &WorkspaceId, what: What) {
        let now = self.state.now();
        let mut errands = lock(&self.errands);
        if errands.len() >= ERRANDS_MAX && !errands.contains_key(workspace) {
            return;
        }
        if let Some(errand) = errands.get_mut(workspace).filter(|errand| errand.what.is_same(&what)) {
            errand.what = what; // on the newest evidence
            return;
        }
        let known = errands.get(workspace);
        // Another errand for the same workspace replaces the one before: what it would tell is no longer true.
        let number = known.map_or(0, |errand| errand.number + 1);
        let under_way = known.is_some_and(|errand| errand.under_way);
        let errand = Errand { what, number, failures: 0, due: now, under_way };
        let lane = errand.lane();
        errands.insert(workspace.clone(), errand);
        drop(errands);
        self.wake[lane as usize].notify_one();
    }

    async fn read_owed(&self) {
        let mut poll = tokio::time::interval(self.state.config.policy.poll_interval);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut polls = 0;
        loop {
            poll.tick().await;
            polls = (polls + 1) % POLLS_PER_LOOK;
            let fleet = self.state.fleet();
            lock(&self.told_lost).retain(|id| fleet.has(id));
            // The platform need not be told any more of a lost workspace that has left the fleet.
            if self.state.fleet_known() {
                lock(&self.errands).retain(|id, errand| {
                    errand.under_way || fleet.has(id) || !matches!(errand.what, What::Lost { .. })
                });
            }
            if self.state.only_observes() {
                continue;
            }
            let (owned, whole_fleet) = {
                let (ownership, now) = (self.state.ownership(), self.state.now());
                (ownership.owned(now), ownership.fleet(now).is_some())
            };
            // Whoever has the lease now tells the platform of those that no engine has, and takes their marks back. What this replica has told
            // before may not be so any more when the lease comes back to it.
            if !whole_fleet {
                lock(&self.told_lost).clear();
            }
            let engines: Vec<EngineName> = owned.into_keys().collect();
            if engines.is_empty() {
                continue;
            }
            // The replica that speaks for the workspaces on no engine also takes back the marks on engines that no replica is configured
            // for. If another replica takes one of them back at the same moment, that does no harm, because a mark is taken back once.
            let engines = (!whole_fleet).then_some(engines.as_slice());
            let due = self.tables.owed_marks(engines, OWED_MAX).await;
            self.news.recorded("marks", due.as_ref().err());
            for mark in due.into_iter().flatten() {
                self.add_owed(&mark.workspace);
            }
            if polls == 0
                && let Err(error) = self.owe_the_living(engines).await
            {
                self.news.recorded("marks", Some(&error));
            }
        }
    }

    /// A mark becomes owed when an attempt is seen to have brought its workspace back. If that attempt no longer counts (an operator has
    /// acknowledged it, or it is too old), nobody would notice that. So this notes as owed the standing marks of workspaces that are alive,
    /// beat, and have no attempts that count.
    async fn owe_the_living(&self, engines: Option<&[EngineName]>) -> Result<(), StoreError> {
        for mark in self.tables.standing_marks(engines, OWED_MAX).await? {
            let lives = self.state.judge().is_calm(&mark.workspace);
            if lives && self.tables.owe_standing(&mark).await? {
                self.add_owed(&mark.workspace);
            }
        }
        Ok(())
    }

    /// The table decides when a mark is due, and not the delay that is remembered here.
    fn add_owed(&self, workspace: &WorkspaceId) {
        let waits = lock(&self.errands).contains_key(workspace);
        if !waits {
            self.add(workspace, What::Owed { evidence: None });
        }
    }

    async fn lane(&self, lane: Lane) {
        loop {
            let woken = self.wake[lane as usize].notified();
            match self.next(lane) {
                Ok((workspace, what, number)) => {
                    let run = self.run_errand(&workspace, &what).await;
                    self.ended(&workspace, number, run);
                }
                Err(next_due) => {
                    let wait = next_due.map_or(Duration::from_secs(3_600), |due| due - self.state.now());
                    tokio::select! {
                        () = woken => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
    }

    /// The next errand of a lane, or when it is due.
    fn next(&self, lane: Lane) -> Result<(WorkspaceId, What, u64), Option<Moment>> {
        let now = self.state.now();
        let mut errands = lock(&self.errands);
        let of_lane = |errand: &Errand| !errand.under_way && errand.lane() == lane;
        let first = errands
            .iter()
            .filter(|(_, errand)| of_lane(errand))
            .min_by_key(|(id, errand)| (errand.due, (*id).clone()))
            .map(|(id, errand)| (id.clone(), errand.due));
        let Some((id, due)) = first else { return Err(None) };
        if due > now {
            return Err(Some(due));
        }
        let Some(errand) = errands.get_mut(&id) else { return Err(None) };
        errand.under_way = true;
        Ok((id, errand.what.clone(), errand.number))
    }

    fn ended(&self, workspace: &WorkspaceId, number: u64, run: Run) {
        let now = self.state.now();
        let mut errands = lock(&self.errands);
        let Some(errand) = errands.get_mut(workspace) else { return };
        errand.under_way = false;
        if errand.number != number {
            self.wake[errand.lane() as usize].notify_one(); // replaced while it was run: what replaced it is due now
            return;
        }
        match run {
            Run::Done => _ = errands.remove(workspace),
            Run::Busy => errand.due = now + RETRY_BUSY,
            Run::Then(what) => {
                (errand.what, errand.failures, errand.due) = (what, 0, now);
                self.wake[errand.lane() as usize].notify_one();
            }
            Run::Again => {
                let doublings = errand.failures.min(10);
                errand.failures += 1;
                errand.due = now + (RETRY_FIRST * 2_u32.pow(doublings)).min(RETRY_MAX);
                self.wake[errand.lane() as usize].notify_one();
            }
        }
    }

    async fn run_errand(&self, workspace: &WorkspaceId, what: &What) -> Run {
        let done = match what {
            What::Recovered { attempt, evidence } => return self.record_recovery(workspace, *attempt, evidence).await,
            What::Lost { evidence } => return self.tell_lost(workspace, evidence).await,
            What::Back { evidence } => {
                lock(&self.told_lost).remove(workspace);
                match self.tables.owe(workspace).await {
                    Ok(()) => self.take_back(workspace, &as_json(evidence)).await,
                    Err(error) => Err(error),
                }
            }
            What::Owed { evidence: Some(evidence) } => self.take_back(workspace, &as_json(evidence)).await,
            What::Owed { evidence: None } => {
                let evidence = serde_json::json!({ "because": "it lives, or nothing was done after it was marked" });
                self.take_back(workspace, &evidence).await
            }
        };
        match done {
            Ok(()) => Run::Done,
            Err(error) => self.failed(workspace, &error),
        }
    }

    /// Writes a recovery down. The functions of other workspaces may hang, so this waits for none of them.
    async fn record_recovery(&self, workspace: &WorkspaceId, attempt: i64, evidence: &Arc<Evidence>) -> Run {
        match self.tables.recovered(attempt, workspace).await {
            Ok(first) => {
                if first {
                    self.news.recovered(workspace, &evidence.because);
                }
                Run::Then(What::Owed { evidence: Some(Arc::clone(evidence)) })
            }
            Err(error) => self.failed(workspace, &error),
        }
    }

    async fn take_back(&self, workspace: &WorkspaceId, evidence: &Value) -> Result<(), StoreError> {
        if self.state.only_observes() {
            return Ok(());
        }
        self.tables.take_back(workspace, evidence).await?;
        self.news.adapter_works(MARK_RECOVERED, workspace);
        Ok(())
    }

    async fn tell_lost(&self, workspace: &WorkspaceId, evidence: &Evidence) -> Run {
        let lease = self.state.ownership().fleet(self.state.now()).map(|(engine, epoch)| (engine.clone(), epoch));
        let Some((engine, epoch)) = lease else { return Run::Done }; // whoever has the lease tells it
        let lease = LeaseProof { engine: &engine, holder: &self.state.config.replica_id, epoch };
        match self.tables.mark_lost(workspace, &as_json(evidence), lease).await {
            Ok(marked) => {
                self.news.adapter_works(MARK_DEAD, workspace);
                self.news.lost(workspace, marked);
                if !marked {
                    return Run::Again;
                }
                lock(&self.told_lost).insert(workspace.clone());
                Run::Done
            }
            Err(error) => self.failed(workspace, &error),
        }
    }

    fn failed(&self, workspace: &WorkspaceId, error: &StoreError) -> Run {
        if error.is_function_busy() {
            return Run::Busy;
        }
        match error.function() {
            Some(function) => self.news.adapter_failed(function, workspace, error),
            None => self.news.recorded("marks", Some(error)),
        }
        Run::Again
    }
}

impl What {
    /// Whether both errands tell the platform the same.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Recovered { attempt, .. }, Self::Recovered { attempt: other, .. }) => attempt == other,
            (Self::Lost { .. }, Self::Lost { .. })
            | (Self::Back { .. }, Self::Back { .. })
            | (Self::Owed { .. }, Self::Owed { .. }) => true,
            _ => false,
        }
    }
}

fn as_json(evidence: &Evidence) -> Value {
    serde_json::to_value(evidence).unwrap_or_default()
}
