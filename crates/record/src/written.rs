//! What the writer remembers of each workspace, so that it writes only what has changed.
//!
//! A read of a large fleet brings tens of thousands of rows, and of most of them only the heartbeat has advanced. So what is needed to see
//! that is one cache line for each workspace, and texts are remembered by their digest: an id by 128 bits, the rest of a row by 64. Two
//! texts with the same digest are less likely than a fault of the memory that they are kept in.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use defib_policy::attempt::Attempt;
use defib_policy::fleet::Workspace;
use defib_policy::id::WorkspaceId;
use defib_policy::judge::OwnSettings;
use defib_policy::moment::Timestamp;
use defib_policy::sample::{Incarnation, Observation};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

use crate::known::{ROW_ACTIVITY, ROW_BEAT, ROW_TASKS, ROW_WHOLE, bit};

/// The digest of an id.
type IdDigest = u128;

/// Takes the place of a missing text in a chain of digests.
const ABSENT: u64 = 0x9E37_79B9_7F4A_7C15;

/// A row as it was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    /// The digest of everything but the stamps and the tasks.
    rest: u64,
    beat: Option<Timestamp>,
    activity: Option<Timestamp>,
    tasks: i32,
}

/// What each read compares for every workspace. It fits into a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Brief {
    id: IdDigest,
    rest: u64,
    beat: i64,
    activity: i64,
    tasks: i32,
    /// The workspace that came after it in the last read of what had changed.
    next: u32,
    /// Which of the fields above hold something.
    has: u8,
}

const HAS_ROW: u8 = 1;
const HAS_BEAT: u8 = 2;
const HAS_ACTIVITY: u8 = 4;

impl Brief {
    const fn row(&self) -> Option<Row> {
        if self.has & HAS_ROW == 0 {
            return None;
        }
        let beat = if self.has & HAS_BEAT == 0 { None } else { Some(Timestamp(self.beat)) };
        let activity = if self.has & HAS_ACTIVITY == 0 { None } else { Some(Timestamp(self.activity)) };
        Some(Row { rest: self.rest, beat, activity, tasks: self.tasks })
    }

    fn remember(&mut self, row: &Row) {
        self.rest = row.rest;
        self.beat = row.beat.map_or(0, |beat| beat.0);
        self.activity = row.activity.map_or(0, |activity| activity.0);
        self.tasks = row.tasks;
        self.has = HAS_ROW | bit(row.beat.is_some(), HAS_BEAT) | bit(row.activity.is_some(), HAS_ACTIVITY);
    }
}

/// What passes tell of a workspace, as it was last written.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) observation: Option<Observation>,
    /// The last life that was written.
    pub(crate) life: Option<Incarnation>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) flags: u8,
    pub(crate) own: Option<Box<OwnSettings>>,
}

/// What of a row is not as it was last written, and by how much its stamps have advanced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowChange {
    /// `ROW_BEAT`, `ROW_ACTIVITY`, `ROW_TASKS`, or `ROW_WHOLE` alone.
    pub(crate) bits: u8,
    pub(crate) beat_by: i64,
    pub(crate) activity_by: i64,
    now: Row,
}

/// Everybody of whom something was written since the segment began, by the numbers that they have in it.
#[derive(Debug, Default)]
pub(crate) struct Written {
    index: HashMap<IdDigest, u32, BuildHasherDefault<Taken>>,
    briefs: Vec<Brief>,
    looks: Vec<Look>,
}

impl Written {
    /// The number of an id; `None`: it has none yet.
    pub(crate) fn number(&self, id: &WorkspaceId) -> Option<u32> {
        self.index.get(&digest_of(id)).copied()
    }

    /// The numbers of ids, into `numbers`. Those of `likely`, in this order, are tried first, and without them whoever came next the last time:
    /// most reads bring the same workspaces in the same order again, and then nobody has to be searched for. `define` is told of each id that
    /// gets a number.
    pub(crate) fn numbers<'a>(
        &mut self,
        ids: impl Iterator<Item = &'a WorkspaceId>,
        likely: &[u32],
        numbers: &mut Vec<u32>,
        mut define: impl FnMut(&WorkspaceId),
    ) {
        numbers.clear();
        let follows = likely.is_empty();
        let (mut likely, mut last) = (likely.iter().copied(), None::<u32>);
        for id in ids {
            let digest = digest_of(id);
            let guess = if follows { last.map(|last| self.briefs[last as usize].next) } else { likely.next() };
            let guess = guess.filter(|guess| self.briefs.get(*guess as usize).is_some_and(|brief| brief.id == digest));
            let number = guess.or_else(|| self.index.get(&digest).copied()).unwrap_or_else(|| {
                define(id);
                self.add(digest)
            });
            if let Some(last) = last.filter(|_| follows && guess.is_none()) {
                self.briefs[last as usize].next = number;
            }
            numbers.push(number);
            last = Some(number);
        }
    }

    /// Gives an id its number.
    pub(crate) fn define(&mut self, id: &WorkspaceId) -> u32 {
        self.add(digest_of(id))
    }

    fn add(&mut self, id: IdDigest) -> u32 {
        let number = u32::try_from(self.briefs.len()).unwrap_or(u32::MAX);
        self.index.insert(id, number);
        self.briefs.push(Brief { id, rest: 0, beat: 0, activity: 0, tasks: 0, next: u32::MAX, has: 0 });
        self.looks.push(Look::default());
        number
    }

    /// What was written of one last; `None`: the number was not given out.
    pub(crate) fn look(&mut self, number: u32) -> Option<&mut Look> {
        self.looks.get_mut(number as usize)
    }

    /// What of a row is not as it was last written; `None`: nothing, or the number was not given out.
    pub(crate) fn row_change(&self, number: u32, row: &Workspace) -> Option<RowChange> {
        let brief = self.briefs.get(number as usize)?;
        let now = Row {
            rest: digest_of_rest(row),
            beat: row.last_heartbeat_at,
            activity: row.last_activity_at,
            tasks: row.active_tasks,
        };
        let whole = RowChange { bits: ROW_WHOLE, beat_by: 0, activity_by: 0, now };
        let Some(before) = brief.row().filter(|before| before.rest == now.rest) else { return Some(whole) };
        if before == now {
            return None;
        }
        let by = |before: Option<Timestamp>, now: Option<Timestamp>| match (before, now) {
            (None, None) => Some(0),
            (Some(before), Some(now)) => Some(now.0.wrapping_sub(before.0)),
            _ => None, // a stamp that comes or goes has the whole row written
        };
        let Some((beat_by, activity_by)) = by(before.beat, now.beat).zip(by(before.activity, now.activity)) else {
            return Some(whole);
        };
        let bits = bit(beat_by != 0, ROW_BEAT)
            | bit(activity_by != 0, ROW_ACTIVITY)
            | bit(before.tasks != now.tasks, ROW_TASKS);
        Some(RowChange { bits, beat_by, activity_by, now })
    }

    /// A change was written.
    pub(crate) fn remember(&mut self, number: u32, change: &RowChange) {
        if let Some(brief) = self.briefs.get_mut(number as usize) {
            brief.remember(&change.now);
        }
    }
}

fn digest_of(id: &WorkspaceId) -> IdDigest {
    xxh3_128(id.as_str().as_bytes())
}

fn digest_of_rest(row: &Workspace) -> u64 {
    let Workspace {
        id: _,
        status,
        kind,
        engine,
        container_ref,
        instance_ref,
        suspended,
        last_heartbeat_at: _,
        last_activity_at: _,
        active_tasks: _,
        created_at,
        policy,
    } = row;
    let text = |seed: u64, text: &str| xxh3_64_with_seed(text.as_bytes(), seed);
    let maybe = |seed: u64, it: &Option<Box<str>>| match it {
        Some(it) => text(seed, it),
        None => (seed ^ ABSENT).rotate_left(29).wrapping_mul(ABSENT),
    };
    let mut fixed = [0; 11];
    fixed[..8].copy_from_slice(&created_at.map_or(0, |created| created.0).to_le_bytes());
    fixed[8..].copy_from_slice(&[u8::from(created_at.is_some()), *kind as u8, u8::from(*suspended)]);
    let seed = xxh3_64_with_seed(&fixed, 0);
    let seed = text(text(seed, status), engine.as_str());
    maybe(maybe(maybe(seed, container_ref), instance_ref), policy)
}

/// Takes a part of a digest for the hash of a map, because a digest is one already.
#[derive(Debug, Default)]
pub(crate) struct Taken(u64);

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0); // not reached: the keys are numbers
    }

    fn write_u128(&mut self, digest: u128) {
        self.0 = (digest >> 64) as u64;
    }
}

#[cfg(test)]
mod tests {
    use defib_policy::fleet::Kind;

    use super::*;

    fn row() -> Workspace {
        Workspace {
            id: "w1".into(),
            status: "online".into(),
            kind: Kind::Container,
            engine: "a".into(),
            container_ref: Some("b".into()),
            instance_ref: None,
            suspended: false,
            last_heartbeat_at: Some(Timestamp(7)),
            last_activity_at: None,
            active_tasks: 0,
            created_at: None,
            policy: None,
        }
    }

    #[test]
    fn whatever_changes_in_a_row_is_seen() {
        type Change = (fn(&mut Workspace), u8);
        let changes: [Change; 13] = [
            (|it| it.status = "degraded".into(), ROW_WHOLE),
            (|it| it.kind = Kind::Instance, ROW_WHOLE),
            (|it| it.engine = "b".into(), ROW_WHOLE),
            (|it| it.container_ref = None, ROW_WHOLE),
            (|it| (it.container_ref, it.instance_ref) = (None, Some("b".into())), ROW_WHOLE),
            (|it| it.suspended = true, ROW_WHOLE),
            (|it| it.created_at = Some(Timestamp(0)), ROW_WHOLE),
            (|it| it.policy = Some("{}".into()), ROW_WHOLE),
            (|it| it.last_heartbeat_at = None, ROW_WHOLE),
            (|it| it.last_activity_at = Some(Timestamp(0)), ROW_WHOLE),
            (|it| it.last_heartbeat_at = Some(Timestamp(8)), ROW_BEAT),
            (|it| it.active_tasks = 1, ROW_TASKS),
            (|it| (it.last_heartbeat_at, it.active_tasks) = (Some(Timestamp(6)), 2), ROW_BEAT | ROW_TASKS),
        ];
        for (place, (change, bits)) in changes.into_iter().enumerate() {
            let mut written = Written::default();
            let (number, before) = (written.define(&"w1".into()), row());
            let first = written.row_change(number, &before).expect("it was never written");
            assert_eq!(first.bits, ROW_WHOLE);
            written.remember(number, &first);
            assert!(written.row_change(number, &before).is_none(), "nothing has changed");
            let mut after = before;
            change(&mut after);
            let found = written.row_change(number, &after).expect("a change");
            assert_eq!(found.bits, bits, "change {place}");
            written.remember(number, &found);
            assert!(written.row_change(number, &after).is_none(), "change {place} is remembered");
        }
    }

    #[test]
    fn everybody_has_one_number_in_whatever_order_they_come() {
        let mut written = Written::default();
        let ids: Vec<WorkspaceId> = (0..50).map(|n| format!("w{n}").into()).collect();
        let (mut numbers, mut defined) = (Vec::new(), Vec::new());
        let orders: [Vec<usize>; 5] = [
            (0..50).collect(),
            (0..50).step_by(6).collect(),
            (0..50).step_by(6).rev().collect(),
            vec![3, 3, 9, 49, 0],
            (0..50).step_by(6).collect(),
        ];
        for order in &orders {
            let come = order.iter().map(|of| &ids[*of]);
            written.numbers(come, &[], &mut numbers, |id| defined.push(id.clone()));
            assert_eq!(numbers, order.iter().map(|of| u32::try_from(*of).expect("small")).collect::<Vec<u32>>());
        }
        written.numbers(ids.iter().rev(), &[7, 48, 999], &mut numbers, |id| defined.push(id.clone()));
        assert_eq!(numbers, (0..50).rev().collect::<Vec<u32>>(), "what is likely is not always so");
        assert_eq!(defined, ids, "each was defined once");
    }
}
