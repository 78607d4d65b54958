//! Our turns at the leases, and what follows from them: for which workspaces this replica begins or ceases to record verdicts.
//!
//! The turns are taken by the loop that decides, and only while it turns: a replica whose passes hang does not renew, and loses what it
//! owns. [`defib_policy::ownership`] says which replica speaks for which workspaces between two turns.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::verdict::Verdict;
use defib_store::{LeaseTurn, StoreError, StoredVerdict};
use tracing::{debug, info, warn};

use crate::database::{LeaseTables, VerdictTables};
use crate::logging::database_fault;
use crate::news::News;
use crate::record::Recorder;
use crate::state::State;
use crate::sync::lock;

/// How long the end of a clean stop may wait for the database. Others take over by themselves when the lease ends.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a turn waits to read what other replicas have said of workspaces that become ours, and a read of the fleet to read it of
/// workspaces that have moved. Larger: a lock on `defib.verdicts` keeps the dead of such an engine dead for longer, or delays each pass by
/// more. Smaller: on a slow database, some changes are told twice.
const SAID_MAX: Duration = Duration::from_secs(1);

/// What a turn has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TurnTaken {
    /// An engine has become ours, or is ours again.
    pub(crate) gained: bool,
    /// When the first of the leases of others ends, if nobody renews it.
    pub(crate) others_end_in: Option<Duration>,
}

/// Returns the engines on which this process has a restart under way. They are not given up for the sake of an even spread.
pub(crate) type Busy = Box<dyn Fn() -> BTreeSet<EngineName> + Send + Sync>;

/// This replica's part in the leases.
pub(crate) struct Leases {
    state: Arc<State>,
    tables: Arc<dyn LeaseTables>,
    verdicts: Arc<dyn VerdictTables>,
    recorder: Arc<Recorder>,
    news: Arc<News>,
    busy: Busy,
    /// The engines that this replica is configured for.
    engines: Vec<EngineName>,
    /// Held for a whole turn. A second turn that began with the same knowledge would think that the epochs given to the first one belong to
    /// another process.
    turning: tokio::sync::Mutex<()>,
    /// The workspaces that had moved to another engine by the read of the fleet before the last.
    moved: Mutex<Vec<WorkspaceId>>,
}

impl Leases {
    /// Leases on these engines.
    pub(crate) fn new(
        state: Arc<State>,
        tables: Arc<dyn LeaseTables>,
        verdicts: Arc<dyn VerdictTables>,
        recorder: Arc<Recorder>,
        news: Arc<News>,
        busy: Busy,
        engines: Vec<EngineName>,
    ) -> Self {
        let (turning, moved) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { state, tables, verdicts, recorder, news, busy, engines, turning, moved }
    }

    /// Takes our turn at the leases, and takes over from the tables what has become ours to say.
    pub(crate) async fn turn(&self) -> Result<TurnTaken, StoreError> {
        let turned = self.take_turn().await;
        self.news.turned_leases(&turned);
        turned
    }

    async fn take_turn(&self) -> Result<TurnTaken, StoreError> {
        let _turn = self.turning.lock().await;
        let (owned, lapsed) = {
            let (ownership, now) = (self.state.ownership(), self.state.now());
            (ownership.as_of_the_last_turn().cloned(), ownership.has_lapsed(now))
        };
        let (busy, fit) = ((self.busy)(), self.fit());
        let config = &self.state.config;
        let turn = LeaseTurn {
            replica: &config.replica_id,
            engines: &self.engines,
            fit: &fit,
            owned: owned.as_ref(),
            busy: &busy,
            ttl: config.lease_ttl,
        };
        let table = self.tables.take_lease_turn(&turn).await?;
        self.news.leases(&config.replica_id, owned.as_ref(), &table, self.state.only_observes());

        // From here on nothing is recorded for the engines that were lost. For the engines that were gained, recording begins as soon as it
        // is known what other replicas have recorded.
        let others = table.leases.iter().filter(|lease| lease.holder != config.replica_id);
        let others_end_in = others.map(|lease| lease.expires_in).min();
        let now = self.state.now();
        let (change, speaks) = {
            let mut ownership = self.state.ownership();
            let change = ownership.turn(table, config.lease_ttl, &self.engines, now);
            (change, !ownership.spoken_for(now).is_empty())
        };
        if !change.lost.is_empty() {
            self.hand_over(&change.lost);
        }
        if change.gained.is_empty() {
            return Ok(TurnTaken { gained: lapsed && speaks, others_end_in });
        }
        // Restarts matter more than history. What is read here only keeps us from recording the same change again.
        let recorded = self.said_before().await.unwrap_or_else(|why| {
            warn!(
                why,
                "what was said before of the workspaces of engines that are ours now could not be read: some changes will be told twice"
            );
            Vec::new()
        });
        self.take_over(&change.gained, recorded);
        self.state.ownership().catch_up(change.gained);
        Ok(TurnTaken { gained: true, others_end_in })
    }

    /// What `defib.verdicts` says. Nobody waits for it for long, because somebody may have locked it.
    async fn said_before(&self) -> Result<Vec<StoredVerdict>, String> {
        match tokio::time::timeout(SAID_MAX, self.verdicts.read_verdicts()).await {
            Ok(read) => read.map_err(|error| database_fault(&error)),
            Err(_) => Err("defib.verdicts is locked, or the database is slow".to_owned()),
        }
    }

    /// The engines that this replica can act on. A replica that only observes can act on none. No replica can act on an engine that has not
    /// answered it for as long as a lease lasts.
    fn fit(&self) -> BTreeSet<EngineName> {
        if self.state.only_observes() {
            return BTreeSet::new();
        }
        let unreached = self.news.health().unreached(self.state.now(), self.state.config.lease_ttl);
        self.engines.iter().filter(|engine| !unreached.contains(*engine)).cloned().collect()
    }

    fn take_over(&self, gained: &BTreeSet<Option<EngineName>>, recorded: Vec<StoredVerdict>) {
        let (voice, now) = (self.state.voice(), self.state.now());
        let recorded: Vec<(StoredVerdict, Verdict)> = recorded
            .into_iter()
            .filter(|row| gained.contains(&voice.lease_of(&row.workspace, Some(&row.engine))))
            .filter_map(|row| Verdict::from_label(&row.verdict).map(|verdict| (row, verdict)))
            .collect();
        let silent = voice.fleet().ids().filter(|id| gained.contains(&voice.lease_of(id, None)));
        {
            let mut judge = self.state.judge();
            for id in silent {
                judge.take_over(id, Verdict::Alive, now);
            }
            for (row, verdict) in &recorded {
                judge.take_over(&row.workspace, *verdict, now.minus(row.since_ago));
            }
        }
        self.recorder.take_over(&recorded, now);
    }

    fn hand_over(&self, lost: &BTreeSet<Option<EngineName>>) {
        let voice = self.state.voice();
        let ids: Vec<&WorkspaceId> =
            voice.fleet().ids().filter(|id| lost.contains(&voice.lease_of(id, None))).collect();
        self.leave(&ids);
    }

    /// Stops speaking for workspaces, because another replica owns their engine now.
    fn leave(&self, ids: &[&WorkspaceId]) {
        {
            let mut judge = self.state.judge();
            for id in ids {
                judge.hand_over(id);
            }
        }
        self.recorder.hand_over(ids.iter().copied());
    }

    /// For workspaces that have moved to another engine: stops or begins speaking for them, depending on who owns that engine.
    ///
    /// This includes workspaces that moved one read ago, because their former owner may have written something after we took them over. If what
    /// was said of them cannot be read, the next read of the fleet tries again; no pass waits for it.
    pub(crate) async fn follow_moves(&self, moved: Vec<WorkspaceId>) {
        let before = std::mem::replace(&mut *lock(&self.moved), moved.clone());
        let moved: BTreeSet<WorkspaceId> = moved.into_iter().chain(before).collect();
        if moved.is_empty() {
            return;
        }
        let recorded = match self.said_before().await {
            Ok(recorded) => recorded,
            Err(why) => {
                debug!(
                    why,
                    "what was said of workspaces that moved to another engine could not be read; tried again with the next read"
                );
                lock(&self.moved).extend(moved);
                return;
            }
        };
        let (now, fleet) = (self.state.now(), self.state.fleet());
        let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) =
            moved.iter().partition(|id| self.state.speaks_for(fleet.engine_of(id), now));
        self.leave(&theirs.into_iter().collect::<Vec<_>>());
        let recorded: Vec<(StoredVerdict, Verdict)> = recorded
            .into_iter()
            .filter(|row| ours.contains(&row.workspace))
            .filter_map(|row| Verdict::from_label(&row.verdict).map(|verdict| (row, verdict)))
            .collect();
        {
            let mut judge = self.state.judge();
            for id in &ours {
                judge.take_over(id, Verdict::Alive, now);
            }
            for (row, verdict) in &recorded {
                judge.take_over(&row.workspace, *verdict, now.minus(row.since_ago));
            }
        }
        self.recorder.hand_over(ours.into_iter());
        self.recorder.take_over(&recorded, now);
    }

    /// Gives up what is ours: at the beginning of a clean stop the engines on which nothing is under way, at its end the rest.
    pub(crate) async fn release(&self) {
        let idle = self.state.ownership().take_idle(&(self.busy)());
        if idle.is_empty() {
            return;
        }
        let releasing = self.tables.release_leases(&self.state.config.replica_id, &idle);
        match tokio::time::timeout(RELEASE_TIMEOUT, releasing).await {
            Ok(Ok(())) => info!(engines = idle.len(), "leases given up"),
            Ok(Err(error)) => {
                warn!(error = %database_fault(&error), "leases not given up; others take over when they end");
            }
            Err(_) => warn!("leases not given up in time; others take over when they end"),
        }
    }
}
