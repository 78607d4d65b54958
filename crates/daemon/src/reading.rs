//! The shared read of the fleet: the only thing that the passes of all engines have in common.
//!
//! Most reads are of what has changed: rows with a stamp later than the read before, and those that the judge calls by their ids, because
//! they are in trouble or would be before the next read. Now and then, and whenever that may have missed something, all rows are read.
//!
//! If a read fails, the workers are not woken, and nobody is judged by it. They still have the read before. A workspace that an event or a
//! suspicion names is judged after its row was read by itself.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib_policy::fast_hash::IdSet;
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::Departed;
use defib_policy::moment::{Moment, Timestamp};
use defib_store::{Changes, FleetScope, StoreError, Wanted};

use crate::database::FleetTables;
use crate::holds::Holds;
use crate::leases::Leases;
use crate::metrics::{Resync, RowsRead};
use crate::news::News;
use crate::record::Recorder;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::sync::lock;

/// How far a read of what has changed reaches back beyond the read before it, on the database's clock. This is for stamps whose transaction
/// had not ended at that read, and for writers whose clock is behind. Larger: more rows come twice. Smaller: more rows have to be called by
/// their ids.
const OVERLAP: Duration = Duration::from_secs(2);

/// If the database's clock differs by this much from what our own clock lets expect, it has stepped between two reads. Larger: stamps from
/// before and after a step are compared with each other. Smaller: a slow read looks like a step, and costs a read of all rows.
const STEP_MIN: Duration = Duration::from_secs(1);

/// How often in a resync interval the rows are counted, and all of them read if their number is not explained by the rows that have changed.
/// Larger: the database goes through the whole view more often, and a fleet in which many workspaces are parked and un-parked is read in
/// whole more often. Smaller: a workspace that is un-parked without a new stamp is found later.
const COUNTS_PER_RESYNC: u32 = 6;

/// How many rows a read of what has changed may call by their ids, or a quarter of the fleet if that is more.
const CALLED_MIN: usize = 1_000;

/// Reads the fleet for everybody.
pub(crate) struct Reading {
    state: Arc<State>,
    database: Arc<dyn FleetTables>,
    leases: Arc<Leases>,
    recorder: Arc<Recorder>,
    news: Arc<News>,
    last: Mutex<Option<Last>>,
}

/// The last read that succeeded.
#[derive(Clone)]
struct Last {
    at: Moment,
    database_now: Timestamp,
    database_started_at: Timestamp,
    /// When all rows were read.
    resynced_at: Moment,
    /// When they were last read or counted.
    counted_at: Moment,
    /// What this replica spoke for.
    spoken_for: BTreeSet<Option<EngineName>>,
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
        last: Option<&'a Last>,
        spoken_for: &BTreeSet<Option<EngineName>>,
        now: Moment,
    ) -> Result<(&'a Last, Vec<WorkspaceId>), Resync> {
        let config = &self.state.config;
        let Some(last) = last else {
            return Err(if self.state.fleet_known() { Resync::Outage } else { Resync::Start });
        };
        if last.spoken_for != *spoken_for {
            return Err(Resync::Lease);
        }
        if now - last.at > 2 * config.policy.poll_interval {
            return Err(Resync::Outage);
        }
        // A poll comes a little early or late.
        if now - last.resynced_at + config.policy.poll_interval / 2 >= config.resync_interval {
            return Err(Resync::Interval);
        }
        let (called, watched) = {
            let mut judge = self.state.judge();
            (judge.call(now), judge.watched())
        };
        if called.len() > CALLED_MIN.max(watched / 4) {
            return Err(Resync::ManyCalled);
        }
        Ok((last, called))
    }

    /// Reads what has changed. The inner error says why that was not enough.
    async fn read_changes(
        &self,
        last: &Last,
        called: Vec<WorkspaceId>,
        spoken_for: &BTreeSet<Option<EngineName>>,
    ) -> Result<Result<(), Resync>, StoreError> {
        let (watched, reset) = (&self.state.config.watched_statuses, self.state.config.policy.attempts_horizon());
        let floor = last.database_now.shifted(-i64::try_from(OVERLAP.as_micros()).unwrap_or(i64::MAX));
        // A poll comes a little early or late.
        let uncounted_for = self.state.now() - last.counted_at + self.state.config.policy.poll_interval / 2;
        let count = uncounted_for >= self.state.config.resync_interval / COUNTS_PER_RESYNC;
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
        let next = Last {
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
        self.publish(fleet, &departed).await?;
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
        let next = Last {
            at: read.at,
            database_now: read.database_now,
            database_started_at: read.database_started_at,
            resynced_at: read.at,
            counted_at: read.at,
            spoken_for,
        };
        self.state.fleet().share_ids_with(&mut read.workspaces);
        let departed = self.state.judge().observe_fleet(&read, true);
        self.publish(Snapshot::new(read, attempts, Holds::new(holds)), &departed).await?;
        *lock(&self.last) = Some(next);
        Ok(())
    }

    async fn publish(&self, fleet: Snapshot, departed: &[Departed]) -> Result<(), StoreError> {
        self.state.forget_settings(departed.iter().map(|departed| &departed.id));
        let fleet = Arc::new(fleet);
        let before = self.state.publish(Arc::clone(&fleet));
        // This comes after the new read was published: whether a workspace that is not in it is ours then follows from what is recorded of
        // it, and no longer from its row.
        self.recorder.forget(departed.iter().map(|departed| &departed.id));
        self.leases.follow_moves(fleet.moved_since(&before)).await
    }
}

impl Last {
    /// Why a read of what has changed since this one was not enough, as far as the answer of the database shows it.
    fn misses(
        &self,
        replaced: bool,
        database_started_at: Timestamp,
        at: Moment,
        database_now: Timestamp,
    ) -> Option<Resync> {
        let expected = self.database_now.plus(at - self.at);
        let apart = expected.since(database_now).max(database_now.since(expected));
        if database_started_at != self.database_started_at {
            Some(Resync::FailOver)
        } else if apart >= STEP_MIN {
            Some(Resync::ClockStep)
        } else {
            replaced.then_some(Resync::Replaced)
        }
    }
}
