//! The workspaces that wait for a restart in a storm, in the order in which they are drawn.
//!
//! A workspace that was a canary before waits for all that were not. Among equals the lot decides: a hash of the scope, the round and the
//! workspace, which is the same on every replica. So each round begins with other workspaces than the one before, and one that cannot be
//! helped is not tried again and again while others wait.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use serde::{Deserialize, Serialize};

use crate::id::{EngineName, WorkspaceId};

/// A place in the order; the smallest is drawn first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Place {
    /// How often it was a canary in this storm.
    drawn: u32,
    /// Its lot in this round.
    lot: u64,
    id: WorkspaceId,
}

/// Those who wait, by engine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Queue {
    seed: u64,
    places: BTreeMap<EngineName, BTreeSet<Place>>,
    waiting: HashMap<WorkspaceId, (EngineName, Place)>,
}

impl Queue {
    /// An empty queue, for the first round.
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many wait on an engine (`None`: on all of them).
    pub(super) fn waiting(&self, engine: Option<&EngineName>) -> usize {
        engine.map_or(self.waiting.len(), |engine| self.places.get(engine).map_or(0, BTreeSet::len))
    }

    /// One waits on an engine that was a canary so often before.
    pub(super) fn insert(&mut self, id: &WorkspaceId, engine: &EngineName, drawn: u32) {
        let unchanged = |(on, place): &(EngineName, Place)| on == engine && place.drawn == drawn;
        if self.waiting.get(id).is_some_and(unchanged) {
            return;
        }
        self.remove(id);
        let place = Place { drawn, lot: lot(self.seed, id.as_str()), id: id.clone() };
        self.places.entry(engine.clone()).or_default().insert(place.clone());
        self.waiting.insert(id.clone(), (engine.clone(), place));
    }

    /// Removes a workspace.
    pub(super) fn remove(&mut self, id: &WorkspaceId) {
        let Some((engine, place)) = self.waiting.remove(id) else { return };
        if let Some(places) = self.places.get_mut(&engine) {
            places.remove(&place);
            if places.is_empty() {
                self.places.remove(&engine);
            }
        }
    }

    /// Begins a new round: the lots of all workspaces are drawn again.
    pub(super) fn shuffle(&mut self, seed: u64) {
        self.seed = seed;
        self.places.clear();
        for (id, (engine, place)) in &mut self.waiting {
            place.lot = lot(seed, id.as_str());
            self.places.entry(engine.clone()).or_default().insert(place.clone());
        }
    }

    /// The first `room` of those who wait, but no more on an engine than `room_on` allows.
    pub(super) fn draw(&self, room: usize, room_on: impl Fn(&EngineName) -> usize) -> Vec<(EngineName, WorkspaceId)> {
        let mut drawn = Vec::new();
        if room == 0 {
            return drawn;
        }
        let mut engines: Vec<_> =
            self.places.iter().map(|(name, places)| (name, places.iter().take(room_on(name)))).collect();
        let mut first = BinaryHeap::new();
        for (n, (_, places)) in engines.iter_mut().enumerate() {
            first.extend(places.next().map(|place| Reverse((place, n))));
        }
        while drawn.len() < room
            && let Some(Reverse((place, n))) = first.pop()
        {
            let (engine, places) = &mut engines[n];
            drawn.push(((*engine).clone(), place.id.clone()));
            first.extend(places.next().map(|place| Reverse((place, n))));
        }
        drawn
    }
}

/// A number that looks random and is a function of `seed` and `text`: FNV-1a (Fowler, Noll, Vo), finished as splitmix64 does.
pub(super) fn lot(seed: u64, text: &str) -> u64 {
    let mut hash = seed ^ 0xcbf2_9ce4_8422_2325;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(waiting: &[(&str, &str, u32)]) -> Queue {
        let mut queue = Queue::new(7);
        for (id, engine, drawn) in waiting {
            queue.insert(&(*id).into(), &(*engine).into(), *drawn);
        }
        queue
    }

    fn drawn(queue: &Queue, room: usize, room_on: usize) -> Vec<String> {
        queue.draw(room, |_| room_on).into_iter().map(|(engine, id)| format!("{engine}/{id}")).collect()
    }

    #[test]
    fn those_who_were_canaries_come_after_all_who_were_not_and_among_equals_the_lot_decides() {
        let ids: Vec<String> = (0..40).map(|n| format!("w{n:02}")).collect();
        let waiting: Vec<(&str, &str, u32)> =
            ids.iter().zip(0..).map(|(id, n): (_, u32)| (id.as_str(), "e", u32::from(n < 20))).collect();
        let mut queue = queue(&waiting);
        let order = drawn(&queue, 40, 40);
        assert!(order[..20].iter().all(|id| id.as_str() >= "e/w20"), "{order:?}");
        assert!(order[..5] != ["e/w20", "e/w21", "e/w22", "e/w23", "e/w24"], "{order:?}");
        queue.shuffle(8);
        assert_ne!(drawn(&queue, 40, 40)[..5], order[..5], "another round, another draw");
        queue.shuffle(7);
        assert_eq!(drawn(&queue, 40, 40), order, "the same for everybody who knows the round");
    }

    /// Replicas of different versions may run side by side, so the numbers stay the same. These were computed by another program.
    #[test]
    fn the_lot_is_the_same_in_each_version() {
        for (seed, text, number) in [
            (0, "", 0xf52a_15e9_a9b5_e89b),
            (0, "a", 0x02c0_bdbf_4814_20f8),
            (7, "w01", 0xef41_5439_9255_46ab),
            (u64::MAX, "workspace", 0xf278_cac3_068b_bcb8),
        ] {
            assert_eq!(lot(seed, text), number, "{seed} {text}");
        }
    }

    #[test]
    fn no_more_are_drawn_than_there_is_room_for_on_each_engine_and_in_all() {
        let queue = queue(&[("a", "x", 0), ("b", "x", 0), ("c", "x", 0), ("d", "y", 5)]);
        assert_eq!(drawn(&queue, 3, 1), [drawn(&queue, 1, 1)[0].clone(), "y/d".to_owned()]);
        assert_eq!(drawn(&queue, 2, 3).len(), 2);
        assert_eq!(drawn(&queue, 9, 9).len(), 4);
        assert_eq!((drawn(&queue, 0, 9), drawn(&queue, 9, 0)), (vec![], vec![]));
    }

    #[test]
    fn one_that_moves_or_leaves_is_nowhere_else() {
        let mut queue = queue(&[("a", "x", 0), ("b", "x", 0)]);
        queue.insert(&"a".into(), &"y".into(), 1);
        assert_eq!(drawn(&queue, 9, 9), ["x/b", "y/a"]);
        queue.insert(&"a".into(), &"z".into(), 1);
        assert_eq!(drawn(&queue, 9, 9), ["x/b", "z/a"], "it has moved, and was a canary as often as before");
        queue.insert(&"b".into(), &"x".into(), 2);
        assert_eq!(drawn(&queue, 9, 9), ["z/a", "x/b"], "it has not moved, and was a canary more often than before");
        queue.remove(&"b".into());
        assert_eq!(queue.places.len(), 1, "nothing is kept of an engine on which nobody waits");
        queue.remove(&"a".into());
        assert!(queue.is_empty() && queue.places.is_empty());
    }
}
