//! The probe map: the remembered run of misses of the workspaces in doubt, and of no others.
//!
//! A miss is a conclusive sample that says "not running". Misses belong to one incarnation, are counted only when they lie
//! `DEFIB_PROBE_SPACING` apart (ten requests that fail in the same 50 ms are one observation), and convict only when
//! `DEFIB_DEAD_THRESHOLD` of them lie within `DEFIB_DEAD_WINDOW`. Every read checks the TTL itself: the pruning job keeps
//! the map small, it does not keep it right.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::WorkspaceId;
use crate::moment::Moment;
use crate::sample::Incarnation;

/// What a miss says. Misses of the two kinds never add up: a failing health check is no look at a stopped container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Doubt {
    /// Its container is stopped or missing.
    Dead,
    /// Its container runs, and its health check fails.
    Unhealthy,
}

/// One workspace in doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The life that is in doubt; `None` when no container is there at all.
    pub incarnation: Option<Incarnation>,
    /// What its misses say.
    pub doubt: Doubt,
    /// When the first miss of the run was seen.
    pub first_miss: Moment,
    /// The misses that can still convict, oldest first; never more than the threshold, never empty.
    misses: VecDeque<Moment>,
}

impl Probe {
    /// How many spaced misses lie within `window` of the last one.
    #[must_use]
    pub fn misses_within(&self, window: Duration) -> u32 {
        let last = self.last_miss();
        let counted = self.misses.iter().filter(|miss| last - **miss <= window).count();
        u32::try_from(counted).unwrap_or(u32::MAX)
    }

    /// When the last miss was seen.
    #[must_use]
    pub fn last_miss(&self) -> Moment {
        self.misses.back().copied().unwrap_or(self.first_miss)
    }
}

/// The knobs of one look-up; they may differ by workspace and grow with our own trouble.
#[derive(Clone, Copy, Debug)]
pub struct ProbeRules {
    /// `DEFIB_DEAD_THRESHOLD`.
    pub threshold: u32,
    /// `DEFIB_PROBE_SPACING`.
    pub spacing: Duration,
}

/// All probes, bounded in number and in time.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProbeMap {
    probes: HashMap<WorkspaceId, Probe>,
    /// The same entries, ordered by their last miss, so that eviction and pruning need not go through all of them.
    by_last_miss: BTreeSet<(Moment, WorkspaceId)>,
    ttl: Duration,
    entries_max: usize,
    evicted: u64,
}

impl ProbeMap {
    /// An empty map.
    #[must_use]
    pub fn new(ttl: Duration, entries_max: usize) -> Self {
        Self { probes: HashMap::new(), by_last_miss: BTreeSet::new(), ttl, entries_max: entries_max.max(1), evicted: 0 }
    }

    /// The same entries under other bounds, which hold from the next miss on.
    #[must_use]
    pub fn bounded(self, ttl: Duration, entries_max: usize) -> Self {
        Self { ttl, entries_max: entries_max.max(1), ..self }
    }

    /// Records a miss seen at `at`. Closer to the last one than the spacing it is the same observation; of another
    /// incarnation or another kind, or after the TTL, it begins a new run.
    pub fn miss(
        &mut self,
        id: &WorkspaceId,
        incarnation: Option<&Incarnation>,
        doubt: Doubt,
        at: Moment,
        rules: ProbeRules,
    ) -> &Probe {
        let same_run = self
            .get(id, at)
            .is_some_and(|probe| probe.doubt == doubt && same_life(probe.incarnation.as_ref(), incarnation));
        if !same_run {
            self.clear(id);
            self.make_room();
        }
        let probe = self.probes.entry(id.clone()).or_insert_with(|| Probe {
            incarnation: incarnation.cloned(),
            doubt,
            first_miss: at,
            misses: VecDeque::new(),
        });
        let last = probe.misses.back().copied();
        if last.is_none_or(|last| at >= last + rules.spacing) {
            if let Some(last) = last {
                self.by_last_miss.remove(&(last, id.clone()));
            }
            probe.misses.push_back(at);
            let excess = probe.misses.len().saturating_sub(rules.threshold.max(1) as usize);
            probe.misses.drain(..excess);
            self.by_last_miss.insert((at, id.clone()));
        }
        probe
    }

    /// The probe of a workspace, unless it has expired.
    #[must_use]
    pub fn get(&self, id: &WorkspaceId, now: Moment) -> Option<&Probe> {
        self.probes.get(id).filter(|probe| now - probe.last_miss() <= self.ttl)
    }

    /// Forgets a workspace, because it showed a sign of life or is no longer watched.
    pub fn clear(&mut self, id: &WorkspaceId) {
        if let Some(probe) = self.probes.remove(id) {
            self.by_last_miss.remove(&(probe.last_miss(), id.clone()));
        }
    }

    /// Drops the expired entries. Returns how many there were.
    pub fn prune(&mut self, now: Moment) -> usize {
        let mut pruned = 0;
        while let Some((last, id)) = self.by_last_miss.pop_first() {
            if now - last <= self.ttl {
                self.by_last_miss.insert((last, id));
                break;
            }
            self.probes.remove(&id);
            pruned += 1;
        }
        pruned
    }

    /// Makes room for one more entry.
    fn make_room(&mut self) {
        if self.probes.len() >= self.entries_max
            && let Some((_, oldest)) = self.by_last_miss.pop_first()
        {
            self.probes.remove(&oldest);
            self.evicted += 1;
        }
    }

    /// The present number of entries. Expired ones count until they are pruned.
    #[must_use]
    pub fn len(&self) -> usize {
        self.probes.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.probes.is_empty()
    }

    /// How many entries were evicted since the start because the map was full.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }
}

fn same_life(one: Option<&Incarnation>, other: Option<&Incarnation>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.may_be(other),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moment::Timestamp;

    const RULES: ProbeRules = ProbeRules { threshold: 3, spacing: Duration::from_secs(1) };
    const WINDOW: Duration = Duration::from_secs(30);

    fn map() -> ProbeMap {
        ProbeMap::new(Duration::from_secs(120), 100)
    }

    fn at(millis: u64) -> Moment {
        Moment::after(Duration::from_secs(1_000) + Duration::from_millis(millis))
    }

    fn life(container: &str, started: i64) -> Incarnation {
        Incarnation { container_id: container.into(), started_at: Some(Timestamp(started)) }
    }

    #[test]
    fn samples_closer_than_the_spacing_are_one_sample() {
        let (mut map, id, life) = (map(), WorkspaceId::from("w"), life("c", 1));
        for millis in [0, 10, 50, 999] {
            assert_eq!(
                map.miss(&id, Some(&life), Doubt::Dead, at(millis), RULES).misses_within(WINDOW),
                1,
                "{millis} ms"
            );
        }
        assert_eq!(map.miss(&id, Some(&life), Doubt::Dead, at(1_000), RULES).misses_within(WINDOW), 2);
        assert_eq!(map.get(&id, at(1_000)).map(|probe| probe.first_miss), Some(at(0)));
    }

    #[test]
    fn only_misses_within_the_window_count_and_the_window_slides() {
        let (mut map, id, life) = (map(), WorkspaceId::from("w"), life("c", 1));
        map.miss(&id, Some(&life), Doubt::Dead, at(0), RULES);
        map.miss(&id, Some(&life), Doubt::Dead, at(20_000), RULES);
        assert_eq!(map.miss(&id, Some(&life), Doubt::Dead, at(35_000), RULES).misses_within(WINDOW), 2);
        assert_eq!(map.miss(&id, Some(&life), Doubt::Dead, at(50_000), RULES).misses_within(WINDOW), 3);
    }

    #[test]
    fn misses_belong_to_an_incarnation() {
        let (mut map, id) = (map(), WorkspaceId::from("w"));
        map.miss(&id, Some(&life("a", 1)), Doubt::Dead, at(0), RULES);
        map.miss(&id, Some(&life("a", 1)), Doubt::Dead, at(2_000), RULES);
        assert_eq!(
            map.miss(&id, Some(&life("a", 2)), Doubt::Dead, at(4_000), RULES).misses_within(WINDOW),
            1,
            "restarted"
        );
        assert_eq!(
            map.miss(&id, Some(&life("b", 2)), Doubt::Dead, at(6_000), RULES).misses_within(WINDOW),
            1,
            "recreated"
        );
        assert_eq!(map.miss(&id, None, Doubt::Dead, at(8_000), RULES).misses_within(WINDOW), 1, "gone");
        assert_eq!(map.miss(&id, None, Doubt::Dead, at(10_000), RULES).misses_within(WINDOW), 2, "still gone");
    }

    #[test]
    fn the_ttl_is_checked_at_the_read_and_at_the_next_miss() {
        let (mut map, id, life) = (map(), WorkspaceId::from("w"), life("c", 1));
        map.miss(&id, Some(&life), Doubt::Dead, at(0), RULES);
        assert!(map.get(&id, at(120_000)).is_some());
        assert!(map.get(&id, at(120_001)).is_none());
        assert_eq!(map.len(), 1, "not pruned yet");
        let late = map.miss(&id, Some(&life), Doubt::Dead, at(120_001), RULES);
        assert_eq!(late.first_miss, at(120_001));
    }

    #[test]
    fn pruning_empties_the_map_after_the_ttl() {
        let mut map = map();
        for n in 0..50 {
            map.miss(&WorkspaceId::from(format!("w{n}")), None, Doubt::Dead, at(n), RULES);
        }
        assert_eq!(map.prune(at(120_000)), 0);
        assert_eq!(map.prune(at(120_010)), 10);
        assert_eq!(map.prune(at(130_000)), 40);
        assert!(map.is_empty());
        assert!(map.by_last_miss.is_empty());
    }

    #[test]
    fn the_map_is_bounded_and_the_oldest_goes() {
        let mut map = ProbeMap::new(Duration::from_secs(120), 3);
        for n in 0..5 {
            map.miss(&WorkspaceId::from(format!("w{n}")), None, Doubt::Dead, at(n * 10), RULES);
        }
        assert_eq!((map.len(), map.evicted()), (3, 2));
        assert!(map.get(&WorkspaceId::from("w1"), at(50)).is_none());
        assert!(map.get(&WorkspaceId::from("w2"), at(50)).is_some());
        map.miss(&WorkspaceId::from("w2"), None, Doubt::Dead, at(2_000), RULES);
        assert_eq!((map.len(), map.evicted()), (3, 2), "a known one needs no room");
    }

    #[test]
    fn a_sign_of_life_clears_the_entry() {
        let (mut map, id) = (map(), WorkspaceId::from("w"));
        map.miss(&id, None, Doubt::Dead, at(0), RULES);
        assert!(!map.is_empty());
        map.clear(&id);
        assert!(map.is_empty() && map.by_last_miss.is_empty());
    }

    #[test]
    fn other_bounds_hold_for_the_entries_that_are_there() {
        let mut map = map();
        for id in ["a", "b", "c"] {
            map.miss(&id.into(), None, Doubt::Dead, at(0), RULES);
        }
        let mut map = map.bounded(Duration::from_secs(10), 3);
        map.miss(&"d".into(), None, Doubt::Dead, at(1_000), RULES);
        assert_eq!((map.len(), map.evicted), (3, 1), "there is room for three");
        map.prune(at(10_500));
        assert_eq!(map.len(), 1, "those before are older than ten seconds");
    }
}
