//! What this replica owns, and whose workspaces that makes it speak and act for.
//!
//! Each engine has one owner, by a lease in the database. Between two turns at the leases, our own clock tells whether an engine is still
//! ours. A lease counts from before its turn began, so it ends here no later than it ends in the database.
//!
//! Some workspaces are on no engine that anybody could ask: external ones, and those whose row names an engine that no replica is
//! configured for. They belong to the replica that holds the first lease by name. All replicas read the same rows, so they agree without
//! another lease.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::EngineName;
use crate::moment::Moment;

/// The result of a turn at the leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turned {
    /// When the turn began, by our clock. Our leases surely last from this moment for the duration of a lease, and no longer.
    pub at: Moment,
    /// What is ours, with the epochs.
    pub owned: BTreeMap<EngineName, i64>,
    /// Every engine with a lease that has not expired.
    pub leased: BTreeSet<EngineName>,
}

/// Which replica speaks for which workspaces now.
#[derive(Clone, Debug, Default)]
pub struct Ownership {
    /// What is ours, with the epochs; `None` before the first turn.
    owned: Option<BTreeMap<EngineName, i64>>,
    /// Leased by another replica.
    others: BTreeSet<EngineName>,
    /// The engines that this replica is configured for. Between two owners nobody speaks for one of them.
    configured: BTreeSet<EngineName>,
    /// The first engine by name that anybody has leased.
    first: Option<EngineName>,
    valid_until: Moment,
    /// The leases (`None`: that of the workspaces on no engine) for which this replica has read what was said of their workspaces before.
    caught_up: BTreeSet<Option<EngineName>>,
}

/// What a turn has changed. A lease of `None` stands for the workspaces on no engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The leases under which this replica would speak, and did not before. It must know what others have said of those workspaces
    /// first, and then say so ([`Ownership::catch_up`]).
    pub gained: BTreeSet<Option<EngineName>>,
    /// The leases under which it spoke, and no longer does.
    pub lost: BTreeSet<Option<EngineName>>,
}

impl Ownership {
    /// After a turn of this process: `ttl` is how long a lease lasts, `configured` the engines that this replica is configured for. It
    /// has caught up with nothing.
    #[must_use]
    pub fn new(turned: impl Into<Turned>, ttl: Duration, configured: &[EngineName]) -> Self {
        let Turned { at, owned, leased } = turned.into();
        Self {
            others: leased.iter().filter(|engine| !owned.contains_key(*engine)).cloned().collect(),
            first: leased.first().cloned(),
            owned: Some(owned),
            valid_until: at + ttl,
            configured: configured.iter().cloned().collect(),
            caught_up: BTreeSet::new(),
        }
    }

    /// Replaces the result of the turn before. Leases that this replica has caught up with, and under which it still speaks at `now`, stay
    /// caught up.
    pub fn turn(&mut self, turned: impl Into<Turned>, ttl: Duration, configured: &[EngineName], now: Moment) -> Change {
        let mut after = Self::new(turned, ttl, configured);
        let speaks = after.spoken_for(now);
        let spoke = std::mem::take(&mut self.caught_up);
        let change = Change {
            gained: speaks.difference(&spoke).cloned().collect(),
            lost: spoke.difference(&speaks).cloned().collect(),
        };
        after.caught_up = spoke.intersection(&speaks).cloned().collect();
        *self = after;
        change
    }

    /// Takes note that this replica has read what others have said of the workspaces of these leases.
    pub fn catch_up(&mut self, gained: impl IntoIterator<Item = Option<EngineName>>) {
        self.caught_up.extend(gained);
    }

    /// The leases that have been caught up with.
    #[must_use]
    pub const fn caught_up(&self) -> &BTreeSet<Option<EngineName>> {
        &self.caught_up
    }

    /// What was ours after the last turn, with the epochs, whether it still lasts or not; `None` before the first turn.
    #[must_use]
    pub const fn as_of_the_last_turn(&self) -> Option<&BTreeMap<EngineName, i64>> {
        self.owned.as_ref()
    }

    /// Gives up the engines on which nothing is under way: from here on they are no longer ours. Returns them with their epochs.
    pub fn take_idle(&mut self, busy: &BTreeSet<EngineName>) -> BTreeMap<EngineName, i64> {
        let Some(owned) = &mut self.owned else { return BTreeMap::new() };
        let (idle, kept) = std::mem::take(owned).into_iter().partition(|(engine, _)| !busy.contains(engine));
        *owned = kept;
        idle
    }

    /// The epoch of our lease on `engine`, while it surely lasts.
    #[must_use]
    pub fn epoch(&self, engine: &EngineName, now: Moment) -> Option<i64> {
        self.owned.as_ref()?.get(engine).copied().filter(|_| now < self.valid_until)
    }

    /// The lease under which we speak for the workspaces on no engine.
    #[must_use]
    pub fn fleet(&self, now: Moment) -> Option<(&EngineName, i64)> {
        let first = self.first.as_ref()?;
        Some((first, self.epoch(first, now)?))
    }

    /// Whether what is said of the workspaces of `engine` (`None`: those that no engine has) is ours to say.
    #[must_use]
    pub fn speaks_for(&self, engine: Option<&EngineName>, now: Moment) -> bool {
        self.caught_up.contains(&self.lease_for(engine)) && self.would_speak_for(engine, now)
    }

    /// Whether the lease of `engine` is ours, even if we have not yet read what others have said of its workspaces.
    #[must_use]
    pub fn would_speak_for(&self, engine: Option<&EngineName>, now: Moment) -> bool {
        match engine {
            Some(engine) if self.has_a_lease(engine) => self.epoch(engine, now).is_some(),
            _ => self.fleet(now).is_some(),
        }
    }

    /// The lease that decides who speaks for `engine`: its own, or `None` for the lease of the workspaces on no engine.
    #[must_use]
    pub fn lease_for(&self, engine: Option<&EngineName>) -> Option<EngineName> {
        engine.filter(|engine| self.has_a_lease(engine)).cloned()
    }

    /// Whether all leases are ours.
    #[must_use]
    pub fn is_alone(&self, now: Moment) -> bool {
        self.others.is_empty() && self.fleet(now).is_some()
    }

    /// Whether anything is ours.
    #[must_use]
    pub fn owns_any(&self, now: Moment) -> bool {
        now < self.valid_until && self.owned.as_ref().is_some_and(|owned| !owned.is_empty())
    }

    /// Whether our leases have ended because no turn came in time, since the database was away or this process was not running.
    #[must_use]
    pub fn has_lapsed(&self, now: Moment) -> bool {
        self.owned.is_some() && now >= self.valid_until
    }

    /// What is ours, with the epochs.
    #[must_use]
    pub fn owned(&self, now: Moment) -> BTreeMap<EngineName, i64> {
        self.owned.as_ref().filter(|_| now < self.valid_until).cloned().unwrap_or_default()
    }

    /// The leases (`None`: what no engine has) under which we would speak.
    #[must_use]
    pub fn spoken_for(&self, now: Moment) -> BTreeSet<Option<EngineName>> {
        let engines = self.owned(now).into_keys().map(Some);
        engines.chain(self.fleet(now).map(|_| None)).collect()
    }

    fn has_a_lease(&self, engine: &EngineName) -> bool {
        self.others.contains(engine) || self.configured.contains(engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(15);

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(1_000 + seconds))
    }

    fn turned(ours: &[&str], theirs: &[&str]) -> Turned {
        Turned {
            at: at(0),
            owned: ours.iter().map(|name| (EngineName::from(*name), 4)).collect(),
            leased: ours.iter().chain(theirs).map(|name| EngineName::from(*name)).collect(),
        }
    }

    fn ownership(ours: &[&str], theirs: &[&str]) -> Ownership {
        let mut ownership = Ownership::new(turned(ours, theirs), TTL, &["a".into(), "b".into()]);
        ownership.catch_up(ownership.spoken_for(at(0)));
        ownership
    }

    fn leases(names: &[Option<&str>]) -> BTreeSet<Option<EngineName>> {
        names.iter().map(|name| name.map(EngineName::from)).collect()
    }

    #[test]
    fn a_lease_ends_by_our_own_clock_without_anybodys_word() {
        let ours = ownership(&["a"], &[]);
        assert_eq!(ours.epoch(&"a".into(), at(14)), Some(4));
        assert_eq!(ours.epoch(&"a".into(), at(15)), None);
        assert_eq!(ours.epoch(&"b".into(), at(14)), None);
        assert!(ours.speaks_for(Some(&"a".into()), at(14)) && !ours.speaks_for(Some(&"a".into()), at(15)));
        assert!(ours.is_alone(at(14)) && !ours.is_alone(at(15)));
        assert!(ours.owns_any(at(14)) && !ours.owns_any(at(15)));
        assert!(!ours.has_lapsed(at(14)) && ours.has_lapsed(at(15)));
        assert_eq!(ours.owned(at(14)).into_iter().collect::<Vec<_>>(), [("a".into(), 4)]);
        assert!(ours.owned(at(15)).is_empty());
        assert!(
            ours.as_of_the_last_turn().is_some_and(|owned| owned.contains_key("a")),
            "the next turn says it was ours"
        );
    }

    #[test]
    fn nothing_is_owned_before_the_first_turn_and_nothing_has_lapsed() {
        let before = Ownership::default();
        assert!(!before.has_lapsed(at(0)) && !before.owns_any(at(0)) && !before.is_alone(at(0)));
        assert_eq!(before.as_of_the_last_turn(), None);
        assert!(!ownership(&[], &["a"]).owns_any(at(1)));
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
        assert!(
            !ownership(&["a"], &[]).would_speak_for(Some(&"b".into()), at(1)),
            "nobody speaks for it between two owners"
        );
    }

    #[test]
    fn nothing_is_said_before_it_is_known_what_others_have_said() {
        let mut ownership = Ownership::new(turned(&["a"], &[]), TTL, &["a".into()]);
        assert!(!ownership.speaks_for(Some(&"a".into()), at(1)) && !ownership.speaks_for(None, at(1)));
        assert!(ownership.would_speak_for(Some(&"a".into()), at(1)));
        assert_eq!(ownership.epoch(&"a".into(), at(1)), Some(4));
        ownership.catch_up(leases(&[Some("a")]));
        assert!(ownership.speaks_for(Some(&"a".into()), at(1)) && !ownership.speaks_for(None, at(1)));
    }

    #[test]
    fn a_turn_tells_what_was_gained_and_lost_and_keeps_what_has_been_caught_up_with() {
        let configured = ["a".into(), "b".into()];
        let mut ownership = Ownership::default();
        let change = ownership.turn(turned(&["a"], &["b"]), TTL, &configured, at(0));
        assert_eq!(change, Change { gained: leases(&[Some("a"), None]), lost: leases(&[]) });
        ownership.catch_up(change.gained);
        let change = ownership.turn(turned(&["a", "b"], &[]), TTL, &configured, at(1));
        assert_eq!(change, Change { gained: leases(&[Some("b")]), lost: leases(&[]) });
        assert!(ownership.speaks_for(Some(&"a".into()), at(1)) && !ownership.speaks_for(Some(&"b".into()), at(1)));
        ownership.catch_up(change.gained);
        let change = ownership.turn(turned(&["b"], &["a"]), TTL, &configured, at(2));
        assert_eq!(change, Change { gained: leases(&[]), lost: leases(&[Some("a"), None]) });
        assert_eq!(ownership.caught_up(), &leases(&[Some("b")]));
    }

    #[test]
    fn a_clean_stop_gives_up_what_is_idle_and_keeps_what_is_busy() {
        let mut ownership = ownership(&["a", "b"], &[]);
        let idle = ownership.take_idle(&BTreeSet::from(["b".into()]));
        assert_eq!(idle.into_iter().collect::<Vec<_>>(), [("a".into(), 4)]);
        assert_eq!(ownership.epoch(&"a".into(), at(1)), None);
        assert_eq!(ownership.epoch(&"b".into(), at(1)), Some(4));
        assert_eq!(ownership.take_idle(&BTreeSet::new()).len(), 1);
        assert!(Ownership::default().take_idle(&BTreeSet::new()).is_empty());
    }
}
