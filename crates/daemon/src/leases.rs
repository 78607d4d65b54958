//! What this replica owns (section 6 of DESIGN.md), and what that makes it speak and act for.
//!
//! The turns are taken by the loop that decides, and only while it turns: a replica whose passes hang does not renew, and loses
//! what it owns. Between turns the answer to "is it still ours" comes from our own clock, counted from before the turn was begun,
//! so it ends here no later than it ends in the database.
//!
//! What no engine has (external workspaces, rows of an engine that nobody is configured for) belongs to whoever holds the first
//! lease by name: all replicas read the same rows, so they agree without another lease.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::Moment;
use defib_policy::settings::Mode;
use defib_policy::verdict::Verdict;
use defib_store::{LeaseTable, LeaseTurn, StoreError, StoredVerdict};
use tracing::{error, info, warn};

use crate::reconcile::{Reconciler, database_fault, lock};

/// How long the end of a clean stop may wait for the database. Others take over by themselves when the lease ends.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// What the last turn came to.
#[derive(Debug, Default)]
pub(crate) struct Ownership {
    /// What is ours, with the epochs; `None` before the first turn.
    owned: Option<BTreeMap<EngineName, i64>>,
    /// Leased by another replica.
    others: BTreeSet<EngineName>,
    /// The engines that this replica is configured for. Between two owners nobody speaks for one of them.
    configured: BTreeSet<EngineName>,
    /// The first engine by name that anybody has leased.
    first: Option<EngineName>,
    valid_until: Moment,
    /// What is recorded of our workspaces has been taken over from the tables.
    caught_up: BTreeSet<Option<EngineName>>,
}

impl Ownership {
    fn new(table: LeaseTable, ttl: Duration, configured: &[EngineName]) -> Self {
        let others = table.leases.iter().map(|lease| &lease.engine).filter(|engine| !table.owned.contains_key(*engine));
        Self {
            others: others.cloned().collect(),
            first: table.leases.first().map(|lease| lease.engine.clone()),
            owned: Some(table.owned),
            valid_until: table.at + ttl,
            configured: configured.iter().cloned().collect(),
            caught_up: BTreeSet::new(),
        }
    }

    /// The epoch of our lease on `engine`, while it surely lasts.
    pub(crate) fn epoch(&self, engine: &EngineName, now: Moment) -> Option<i64> {
        self.owned.as_ref()?.get(engine).copied().filter(|_| now < self.valid_until)
    }

    /// The lease under which we speak for what no engine has.
    pub(crate) fn fleet(&self, now: Moment) -> Option<(&EngineName, i64)> {
        let first = self.first.as_ref()?;
        Some((first, self.epoch(first, now)?))
    }

    /// Whether what is said of the workspaces of `engine` (`None`: external ones) is ours to say.
    pub(crate) fn speaks_for(&self, engine: Option<&EngineName>, now: Moment) -> bool {
        self.caught_up.contains(&self.lease_for(engine)) && self.would_speak_for(engine, now)
    }

    fn would_speak_for(&self, engine: Option<&EngineName>, now: Moment) -> bool {
        match engine {
            Some(engine) if self.has_a_lease(engine) => self.epoch(engine, now).is_some(),
            _ => self.fleet(now).is_some(),
        }
    }

    fn has_a_lease(&self, engine: &EngineName) -> bool {
        self.others.contains(engine) || self.configured.contains(engine)
    }

    /// The lease that decides who speaks for `engine`: its own, or none.
    fn lease_for(&self, engine: Option<&EngineName>) -> Option<EngineName> {
        engine.filter(|engine| self.has_a_lease(engine)).cloned()
    }

    /// Whether every lease there is is ours.
    pub(crate) fn is_alone(&self, now: Moment) -> bool {
        self.others.is_empty() && self.fleet(now).is_some()
    }

    /// Whether anything is ours.
    pub(crate) fn owns_any(&self, now: Moment) -> bool {
        now < self.valid_until && self.owned.as_ref().is_some_and(|owned| !owned.is_empty())
    }

    /// Whether what was ours has ended because no turn came in time: the database was away, or we were.
    pub(crate) fn has_lapsed(&self, now: Moment) -> bool {
        self.owned.is_some() && now >= self.valid_until
    }

    /// What is ours, with the epochs.
    pub(crate) fn owned(&self, now: Moment) -> BTreeMap<EngineName, i64> {
        self.owned
            .iter()
            .filter(|_| now < self.valid_until)
            .flatten()
            .map(|(name, epoch)| (name.clone(), *epoch))
            .collect()
    }

    /// The leases (`None`: what no engine has) under which we would speak.
    fn spoken_for(&self, now: Moment) -> BTreeSet<Option<EngineName>> {
        let engines = self.owned(now).into_keys().map(Some);
        engines.chain(self.fleet(now).map(|_| None)).collect()
    }
}

impl Reconciler {
    /// Takes our turn at the leases, and takes over from the tables what has become ours to say.
    ///
    /// Returns whether something has, or is ours again.
    pub(crate) async fn turn_leases(&self) -> Result<bool, StoreError> {
        // One at a time: a second turn that began on the same knowledge would take the first one's epochs for somebody else's.
        let _turn = self.turning_leases.lock().await;
        let (owned, lapsed) = {
            let ownership = lock(&self.ownership);
            (ownership.owned.clone(), ownership.has_lapsed(self.now()))
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
        let mut after = Ownership::new(table, self.config.lease_ttl, &engines);
        let speaks = after.spoken_for(now);
        let spoke = lock(&self.ownership).caught_up.clone();
        let gained: BTreeSet<_> = speaks.difference(&spoke).cloned().collect();
        let lost: BTreeSet<_> = spoke.difference(&speaks).cloned().collect();
        after.caught_up = spoke.intersection(&speaks).cloned().collect();
        for engine in self.engines.keys() {
            self.metrics.lease_held(engine, after.epoch(engine, now).is_some());
        }
        // What is lost is not spoken for from here on; what is gained, once it is known what others have said.
        *lock(&self.ownership) = after;
        if !lost.is_empty() {
            self.hand_over(&lost);
        }
        if gained.is_empty() {
            return Ok(lapsed && !speaks.is_empty());
        }
        let recorded = self.store.read_verdicts().await?;
        self.take_over(&gained, recorded);
        lock(&self.ownership).caught_up.extend(gained);
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
        let idle = {
            let mut ownership = lock(&self.ownership);
            let Some(owned) = &mut ownership.owned else { return };
            let (idle, kept) =
                std::mem::take(owned).into_iter().partition::<BTreeMap<_, _>, _>(|(engine, _)| !busy.contains(engine));
            *owned = kept;
            idle
        };
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

#[cfg(test)]
mod tests {
    use defib_store::Lease;

    use super::*;

    const TTL: Duration = Duration::from_secs(15);

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(1_000 + seconds))
    }

    fn ownership(ours: &[&str], theirs: &[&str]) -> Ownership {
        let owned: BTreeMap<EngineName, i64> = ours.iter().map(|name| (EngineName::from(*name), 4)).collect();
        let mut names: Vec<&str> = ours.iter().chain(theirs).copied().collect();
        names.sort_unstable();
        let lease =
            |name: &&str| Lease { engine: EngineName::from(*name), holder: "r".into(), epoch: 4, expires_in: TTL };
        let leases = names.iter().map(lease).collect();
        let mut ownership = Ownership::new(
            LeaseTable { at: at(0), owned, leases, usurped: Vec::new() },
            TTL,
            &["a".into(), "b".into()],
        );
        ownership.caught_up = ownership.spoken_for(at(0));
        ownership
    }

    #[test]
    fn a_lease_ends_by_our_own_clock_without_anybodys_word() {
        let ours = ownership(&["a"], &[]);
        assert_eq!(ours.epoch(&"a".into(), at(14)), Some(4));
        assert_eq!(ours.epoch(&"a".into(), at(15)), None);
        assert!(ours.speaks_for(Some(&"a".into()), at(14)) && !ours.speaks_for(Some(&"a".into()), at(15)));
        assert!(ours.is_alone(at(14)) && !ours.is_alone(at(15)));
        assert!(ours.owns_any(at(14)) && !ours.owns_any(at(15)));
        assert!(ours.owned(at(15)).is_empty());
    }

    #[test]
    fn what_no_engine_has_belongs_to_the_holder_of_the_first_lease() {
        for (ours, theirs, speaks) in [(&["a"][..], &["b"][..], true), (&["b"], &["a"], false), (&[], &["a"], false)] {
            let ownership = ownership(ours, theirs);
            assert_eq!(ownership.speaks_for(None, at(1)), speaks, "{ours:?} {theirs:?}");
            assert_eq!(ownership.speaks_for(Some(&"nobodys".into()), at(1)), speaks, "{ours:?} {theirs:?}");
            assert!(!ownership.speaks_for(Some(&theirs[0].into()), at(1)), "another replica owns it");
            assert!(!ownership.is_alone(at(1)));
        }
        assert!(!ownership(&[], &[]).speaks_for(None, at(1)));
    }

    #[test]
    fn nothing_is_said_before_it_is_known_what_others_have_said() {
        let mut ownership = ownership(&["a"], &[]);
        ownership.caught_up.clear();
        assert!(!ownership.speaks_for(Some(&"a".into()), at(1)) && !ownership.speaks_for(None, at(1)));
        assert_eq!(ownership.epoch(&"a".into(), at(1)), Some(4));
    }
}
