//! The shared read of the fleet: the only thing that the passes of all engines have in common.
//!
//! Most reads are of what has changed: rows with a stamp later than the read before, and those that the judge calls by their ids, because
//! they are in trouble or would be before the next read. Now and then, and whenever that may have missed something, all rows are read.
//!
//! If a read fails, the workers are not woken, and nobody is judged by it. They still have the read before. A workspace that an event or a
//! suspicion names is judged after its row was read by itself.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use defib_policy::fast_hash::IdSet;
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::Departed;
use defib_policy::moment::Moment;
use defib_policy::reading::{LastRead, Resync, Rhythm, calls_too_many};
use defib_store::{Changes, FleetScope, StoreError, Wanted};

use crate::database::FleetTables;
use crate::holds::Holds;
use crate::leases::Leases;
use crate::metrics::RowsRead;
use crate::news::News;
use crate::record::Recorder;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::sync::lock;

/// Reads the fleet for everybody.
pub(crate) struct Reading {
    state: Arc<State>,
    database: Arc<dyn FleetTables>,
    leases: Arc<Leases>,
    recorder: Arc<Recorder>,
    news: Arc<News>,
    last: Mutex<Option<LastRead>>,
}

impl Reading {
    /// Reads from these tables.
    pub(crate) fn new(
        state: Arc<State>,
        database: Arc<dyn FleetTables>,
        leases: Arc<Leases>,
        recorder: Arc<Recorder>,
        news: Arc<News>,
    ) -> Self {
        Self { state, database, leases, recorder, news, last: Mutex::default() }
    }

    /// Reads the fleet, its attempts and the holds, and publishes them.
    pub(crate) async fn read(&self) -> Result<(), StoreError> {
        // After an outage leases have lapsed. They are renewed first, because they decide whether the passes may record what they say.
        let lapsed = self.state.ownership().has_lapsed(self.state.now());
        if lapsed {
            self.leases.turn().await?;
        }
        let now = self.state.now();
        let spoken_for = self.state.ownership().spoken_for(now);
        // If this read fails, it is not known what it has missed.
        let last = lock(&self.last).take();
        match self.delta_after(last.as_ref(), &spoken_for, now) {
            Ok((last, called)) => match self.read_changes(last, called, &spoken_for).await? {
                Ok(()) => Ok(()),
                Err(reason) => self.read_all(reason, spoken_for).await,
            },
            Err(reason) => self.read_all(reason, spoken_for).await,
        }
    }

    /// The workspaces that a read of what has changed must call by their ids, or why such a read would not be enough.
    fn delta_after<'a>(
        &self,
        last: Option<&'a LastRead>,
        spoken_for: &BTreeSet<Option<EngineName>>,
        now: Moment,
    ) -> Result<(&'a LastRead, Vec<WorkspaceId>), Resync> {
        let Some(last) = last else {
            return Err(if self.state.fleet_known() { Resync::Outage } else { Resync::Start });
        };
        if let Some(reason) = last.is_too_old(now, spoken_for, self.rhythm()) {
            return Err(reason);
        }
        let (called, watched) = {
            let mut judge = self.state.judge();
            (judge.call(now), judge.watched())
        };
        if calls_too_many(called.len(), watched) { Err(Resync::ManyCalled) } else { Ok((last, called)) }
    }

    fn rhythm(&self) -> Rhythm {
        Rhythm { poll: self.state.config.policy.poll_interval, resync: self.state.config.resync_interval }
    }

    /// Reads what has changed. The inner error says why that was not enough.
    async fn read_changes(
        &self,
        last: &LastRead,
        called: Vec<WorkspaceId>,
        spoken_for: &BTreeSet<Option<EngineName>>,
    ) -> Result<Result<(), Resync>, StoreError> {
        let (watched, reset) = (&self.state.config.watched_statuses, self.state.config.policy.attempts_horizon());
        let floor = last.floor();
        let count = last.wants_count(self.state.now(), self.rhythm());
        let wanted = Wanted { since: floor, called: &called, watched, count };
        let (changes, attempts, holds) = tokio::try_join!(
            self.database.read_changes(wanted),
            self.database.read_attempts(FleetScope::All, reset),
            self.database.holds()
        )?;
        self.news.rows_read(RowsRead::Delta, changes.received);
        let Changes { read, gone, malformed, replaced, rows, rows_before, .. } = changes;
        if let Some(reason) = last.misses(replaced, read.database_started_at, read.at, read.database_now) {
            return Ok(Err(reason));
        }
        self.news.malformed(malformed, false);
        let counted_at = if count { read.at } else { last.counted_at };
        let next = LastRead {
            at: read.at,
            database_now: read.database_now,
            spoken_for: spoken_for.clone(),
            counted_at,
            ..last.clone()
        };
        let before = self.state.fleet();
        let departed = self.state.judge().observe_changes(&read, floor, &gone);
        let called: IdSet<WorkspaceId> = called.into_iter().collect();
        let fleet = before.changed(read, &gone, &called, attempts, Holds::new(holds));
        {
            let mut judge = self.state.judge();
            fleet.differing().iter().chain(fleet.attempts().keys()).for_each(|id| judge.stir(id));
        }
        let is_explained = rows.is_none_or(|rows| fleet.explains(rows_before, rows));
        self.publish(fleet, &departed).await;
        // A workspace has come or gone without a new stamp.
        if !is_explained {
            return Ok(Err(Resync::Count));
        }
        *lock(&self.last) = Some(next);
        Ok(Ok(()))
    }

    /// Reads all rows.
    async fn read_all(&self, reason: Resync, spoken_for: BTreeSet<Option<EngineName>>) -> Result<(), StoreError> {
        let (watched, reset) = (&self.state.config.watched_statuses, self.state.config.policy.attempts_horizon());
        let ((mut read, malformed), attempts, holds) = tokio::try_join!(
            self.database.read_fleet(FleetScope::All, watched),
            self.database.read_attempts(FleetScope::All, reset),
            self.database.holds()
        )?;
        self.news.resynced(reason);
        self.news.rows_read(RowsRead::Resync, read.workspaces.len());
        self.news.malformed(malformed, true);
        let next = LastRead {
            at: read.at,
            database_now: read.database_now,
            database_started_at: read.database_started_at,
            resynced_at: read.at,
            counted_at: read.at,
            spoken_for,
        };
        self.state.fleet().share_ids_with(&mut read.workspaces);
        let departed = self.state.judge().observe_fleet(&read, true);
        self.publish(Snapshot::new(read, attempts, Holds::new(holds)), &departed).await;
        *lock(&self.last) = Some(next);
        Ok(())
    }

    async fn publish(&self, fleet: Snapshot, departed: &[Departed]) {
        self.state.forget_settings(departed.iter().map(|departed| &departed.id));
        let fleet = Arc::new(fleet);
        let before = self.state.publish(Arc::clone(&fleet));
        // This comes after the new read was published: whether a workspace that is not in it is ours then follows from what is recorded of
        // it, and no longer from its row.
        self.recorder.forget(departed.iter().map(|departed| &departed.id));
        self.leases.follow_moves(fleet.moved_since(&before)).await;
    }
}
