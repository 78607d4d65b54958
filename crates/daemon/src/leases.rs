//! What this replica owns , and what that makes it speak and act for.
//!
//! The turns are taken by the loop that decides, and only while it turns: a replica whose passes hang does not renew, and loses
//! what it owns. Whose word counts between turns is [`defib_policy::ownership`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::settings::Mode;
use defib_policy::verdict::Verdict;
use defib_store::{LeaseTable, LeaseTurn, StoreError, StoredVerdict};
use tracing::{error, info, warn};

use crate::reconcile::{Reconciler, database_fault};
use crate::sync::lock;

/// How long the end of a clean stop may wait for the database. Others take over by themselves when the lease ends.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

impl Reconciler {
    /// Takes our turn at the leases, and takes over from the tables what has become ours to say.
    ///
    /// Returns whether something has, or is ours again.
    pub(crate) async fn turn_leases(&self) -> Result<bool, StoreError> {
        // One at a time: a second turn that began on the same knowledge would take the first one's epochs for somebody else's.
        let _turn = self.turning_leases.lock().await;
        let (owned, lapsed) = {
            let ownership = lock(&self.ownership);
            (ownership.as_of_the_last_turn().cloned(), ownership.has_lapsed(self.now()))
        };
        let busy = self.restarter.busy_engines();
        let engines: Vec<EngineName> = self.engines.keys().cloned().collect();
        let fit = self.fit_for(&engines);
        let turn = LeaseTurn {
            replica: &self.config.replica_id,
            engines: &engines,
            fit: &fit,
            owned: owned.as_ref(),
            busy: &busy,
            ttl: self.config.lease_ttl,
        };
        let table = self.store.take_lease_turn(&turn).await?;
        self.announce_turn(owned.as_ref(), &table);

        let now = self.now();
        // What is lost is not spoken for from here on; what is gained, once it is known what others have said.
        let (change, speaks) = {
            let mut ownership = lock(&self.ownership);
            let change = ownership.turn(table, self.config.lease_ttl, &engines, now);
            (change, !ownership.spoken_for(now).is_empty())
        };
        for engine in self.engines.keys() {
            self.metrics.lease_held(engine, lock(&self.ownership).epoch(engine, now).is_some());
        }
        if !change.lost.is_empty() {
            self.hand_over(&change.lost);
        }
        if change.gained.is_empty() {
            return Ok(lapsed && speaks);
        }
        let recorded = self.store.read_verdicts().await?;
        self.take_over(&change.gained, recorded);
        lock(&self.ownership).catch_up(change.gained);
        Ok(true)
    }

    /// The engines that this replica can act on: one that only observes can act on none, and nobody on an engine that has not
    /// answered for as long as a lease lasts.
    fn fit_for(&self, engines: &[EngineName]) -> BTreeSet<EngineName> {
        if self.config.policy.mode == Mode::Observe {
            return BTreeSet::new();
        }
        let unreached = self.health.unreached(self.now(), self.config.lease_ttl);
        engines.iter().filter(|engine| !unreached.contains(*engine)).cloned().collect()
    }

    fn announce_turn(&self, owned: Option<&BTreeMap<EngineName, i64>>, table: &LeaseTable) {
        for (engine, epoch) in &table.owned {
            if owned.and_then(|owned| owned.get(engine)) != Some(epoch) {
                info!(%engine, epoch, "this replica owns the engine now: it restarts what dies there");
            }
        }
        for engine in &table.usurped {
            error!(
                %engine,
                replica = %self.config.replica_id,
                "another process has taken the engine under our name: give each replica its own DEFIB_REPLICA_ID"
            );
        }
        for engine in owned.into_iter().flat_map(BTreeMap::keys).filter(|engine| !table.owned.contains_key(*engine)) {
            info!(%engine, "this replica no longer owns the engine; it goes on observing");
        }
    }

    /// Whose lease decides about a workspace of the last read: its engine's, or that of the fleet.
    fn lease_of(&self, id: &WorkspaceId, recorded_on: Option<&EngineName>) -> Option<EngineName> {
        let snapshot = self.snapshot();
        let engine = if snapshot.has(id) { snapshot.engine_of(id) } else { recorded_on };
        lock(&self.ownership).lease_for(engine)
    }

    fn take_over(&self, gained: &BTreeSet<Option<EngineName>>, recorded: Vec<StoredVerdict>) {
        let now = self.now();
        let recorded: Vec<(StoredVerdict, Verdict)> = recorded
            .into_iter()
            .filter(|row| gained.contains(&self.lease_of(&row.workspace, Some(&row.engine))))
            .filter_map(|row| Verdict::from_label(&row.verdict).map(|verdict| (row, verdict)))
            .collect();
        let snapshot = self.snapshot();
        let silent: Vec<&WorkspaceId> = snapshot.ids().filter(|id| gained.contains(&self.lease_of(id, None))).collect();
        let mut judge = self.judge();
        for id in silent {
            judge.take_over(id, Verdict::Alive, now);
        }
        for (row, verdict) in recorded {
            judge.take_over(&row.workspace, verdict, now.minus(row.since_ago));
        }
    }

    fn hand_over(&self, lost: &BTreeSet<Option<EngineName>>) {
        let snapshot = self.snapshot();
        let ids: Vec<&WorkspaceId> = snapshot.ids().filter(|id| lost.contains(&self.lease_of(id, None))).collect();
        let mut judge = self.judge();
        for id in ids {
            judge.hand_over(id);
        }
    }

    /// Of workspaces that have moved to another engine: leaves the word on them to its owner, or takes it over.
    ///
    /// Also of those that moved one read ago: their former owner may have had the last word after ours was taken over.
    pub(crate) async fn follow_moves(&self, moved: Vec<WorkspaceId>) -> Result<(), StoreError> {
        let before = std::mem::replace(&mut *lock(&self.moved), moved.clone());
        let moved: BTreeSet<WorkspaceId> = moved.into_iter().chain(before).collect();
        if moved.is_empty() {
            return Ok(());
        }
        let recorded = match self.store.read_verdicts().await {
            Ok(recorded) => recorded,
            Err(error) => {
                lock(&self.moved).extend(moved); // for the next read
                return Err(error);
            }
        };
        let (now, snapshot) = (self.now(), self.snapshot());
        let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) =
            moved.into_iter().partition(|id| self.speaks_for(snapshot.engine_of(id), now));
        let mut judge = self.judge();
        for id in &theirs {
            judge.hand_over(id);
        }
        for id in &ours {
            judge.take_over(id, Verdict::Alive, now);
        }
        for row in recorded.into_iter().filter(|row| ours.contains(&row.workspace)) {
            if let Some(verdict) = Verdict::from_label(&row.verdict) {
                judge.take_over(&row.workspace, verdict, now.minus(row.since_ago));
            }
        }
        Ok(())
    }

    /// Gives up what is ours: at the beginning of a clean stop the engines on which nothing is under way, at its end the rest.
    pub(crate) async fn release_leases(&self) {
        let busy = self.restarter.busy_engines();
        let idle = lock(&self.ownership).take_idle(&busy);
        if idle.is_empty() {
            return;
        }
        let releasing = self.store.release_leases(&self.config.replica_id, &idle);
        match tokio::time::timeout(RELEASE_TIMEOUT, releasing).await {
            Ok(Ok(())) => info!(engines = idle.len(), "leases given up"),
            Ok(Err(error)) => {
                warn!(error = %database_fault(&error), "leases not given up; others take over when they end");
            }
            Err(_) => warn!("leases not given up in time; others take over when they end"),
        }
    }
}
