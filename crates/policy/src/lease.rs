//! A replica's turn at the leases: what it keeps, gives up and may take, and which of its leases somebody else has under its name.
//!
//! A lock of the database makes the turns of all replicas follow each other, so each turn computes on what the one before has written. This
//! module decides what a turn does with the rows, and [`share`] decides which replica should own which engine. The store reads the rows,
//! and writes the decision under the locks that make it safe.
//!
//! The epoch is the fencing token. It grows whenever a process takes an engine, also when a process takes it over from an earlier
//! process of the same name: two processes of one name differ by the epoch that each was given.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::EngineName;
use crate::share::{self, Replica};

/// A row of `defib.leases`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Who holds it.
    pub holder: Box<str>,
    /// The epoch under which it is held.
    pub epoch: i64,
    /// Whether it has not yet expired.
    pub lasts: bool,
}

/// Who takes a turn, and what it knows of itself.
#[derive(Clone, Copy, Debug)]
pub struct Taker<'a> {
    /// `DEFIB_REPLICA_ID`.
    pub replica: &'a str,
    /// The engines that it is configured for.
    pub engines: &'a [EngineName],
    /// What it owned after its last turn, with the epochs. `None` on the first turn of a process. Leases in its name then belong to an
    /// earlier process, which is gone, so they are taken over before they end.
    pub owned: Option<&'a BTreeMap<EngineName, i64>>,
    /// Engines on which it is restarting something. They are not given up for the sake of an even spread.
    pub busy: &'a BTreeSet<EngineName>,
}

/// What a turn decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Leases of ours that are renewed.
    pub keep: BTreeMap<EngineName, i64>,
    /// Leases of ours that are given up, because another replica should have them.
    pub leave: BTreeMap<EngineName, i64>,
    /// Engines that nobody has ever leased. We take them.
    pub take_new: Vec<EngineName>,
    /// Engines whose lease has ended or belongs to an earlier process of our name. We take them, unless a claim is under way there.
    pub take_over: Vec<EngineName>,
    /// Another process has taken them under our name: two replicas share a `DEFIB_REPLICA_ID`.
    pub usurped: Vec<EngineName>,
}

/// Decides a turn: `replicas` are those that were heard of lately, the taker included; `rows` is every lease, by engine.
#[must_use]
pub fn turn(taker: Taker<'_>, replicas: &[Replica], rows: &BTreeMap<EngineName, Row>) -> Turn {
    let in_our_name = |row: &Row| *row.holder == *taker.replica;
    let was_ours = |engine: &EngineName| taker.owned.and_then(|owned| owned.get(engine));
    let ours = |engine: &EngineName, row: &Row| in_our_name(row) && was_ours(engine) == Some(&row.epoch);
    let of_our_predecessor = |row: &Row| taker.owned.is_none() && in_our_name(row);

    let live = share::able(replicas);
    // A lease of ours that has expired is still ours if nobody has taken it.
    let held = rows.iter().filter(|(engine, row)| row.lasts || ours(engine, row));
    let owners = share::owners(&live, &held.map(|(engine, row)| (engine, &*row.holder)).collect());
    let wanted = |engine: &EngineName| owners.get(engine) == Some(&taker.replica);

    let mut turn = Turn::default();
    for (engine, row) in rows {
        if ours(engine, row) {
            let kept = wanted(engine) || taker.busy.contains(engine);
            let part = if kept { &mut turn.keep } else { &mut turn.leave };
            part.insert(engine.clone(), row.epoch);
        } else if in_our_name(row) && was_ours(engine).is_some() {
            turn.usurped.push(engine.clone());
        }
    }
    for engine in taker.engines.iter().filter(|engine| wanted(engine) && !turn.keep.contains_key(*engine)) {
        match rows.get(engine) {
            None => turn.take_new.push(engine.clone()),
            Some(row) if !row.lasts || of_our_predecessor(row) => turn.take_over.push(engine.clone()),
            Some(_) => {}
        }
    }
    turn
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The turn of `a`, on leases given as `engine holder epoch` (with `!` behind one that has expired). Everybody who holds one lives
    /// and is configured for `e1` and `e2`.
    fn turn_of_a(owned: Option<&[(&str, i64)]>, busy: &[&str], leases: &[&str]) -> Turn {
        let owned: Option<BTreeMap<EngineName, i64>> =
            owned.map(|owned| owned.iter().map(|(engine, epoch)| (EngineName::from(*engine), *epoch)).collect());
        let busy = busy.iter().map(|engine| EngineName::from(*engine)).collect();
        let engines = ["e1".into(), "e2".into()];
        let mut rows = BTreeMap::new();
        let mut names = BTreeSet::from(["a"]);
        for lease in leases {
            let lasts = !lease.ends_with('!');
            let mut words = lease.trim_end_matches('!').split(' ');
            let mut word = || words.next().unwrap_or_default();
            let (engine, holder, epoch) = (word(), word(), word().parse().unwrap());
            rows.insert(engine.into(), Row { holder: holder.into(), epoch, lasts });
            names.insert(holder);
        }
        let all: BTreeSet<EngineName> = engines.iter().cloned().collect();
        let replica = |name: &&str| Replica { name: (*name).into(), engines: all.clone(), fit: all.clone() };
        let replicas: Vec<Replica> = names.iter().map(replica).collect();
        turn(Taker { replica: "a", engines: &engines, owned: owned.as_ref(), busy: &busy }, &replicas, &rows)
    }

    fn some(epochs: &[(&str, i64)]) -> BTreeMap<EngineName, i64> {
        epochs.iter().map(|(engine, epoch)| (EngineName::from(*engine), *epoch)).collect()
    }

    fn names(engines: &[&str]) -> Vec<EngineName> {
        engines.iter().map(|engine| EngineName::from(*engine)).collect()
    }

    #[test]
    fn what_nobody_has_leased_is_taken() {
        let turn = turn_of_a(None, &[], &[]);
        assert_eq!(turn, Turn { take_new: names(&["e1", "e2"]), ..Turn::default() });
    }

    #[test]
    fn what_is_ours_is_kept_although_it_has_expired() {
        let turn = turn_of_a(Some(&[("e1", 3), ("e2", 4)]), &[], &["e1 a 3", "e2 a 4!"]);
        assert_eq!(turn, Turn { keep: some(&[("e1", 3), ("e2", 4)]), ..Turn::default() });
    }

    #[test]
    fn an_ended_lease_and_that_of_our_predecessor_are_taken_over() {
        let turn = turn_of_a(None, &[], &["e1 a 3", "e2 b 4!"]);
        assert_eq!(turn.take_over, names(&["e1"]), "b lives, so an even spread gives it e2");
        let turn = turn_of_a(Some(&[]), &[], &["e1 gone 3!", "e2 gone 4!"]);
        assert_eq!(turn.take_over.len(), 1);
        for (held, free) in [("e1 b 3", "e2"), ("e2 b 3", "e1")] {
            let turn = turn_of_a(Some(&[]), &[], &[held]);
            assert_eq!(turn, Turn { take_new: names(&[free]), ..Turn::default() }, "b has its share");
        }
        let turn = turn_of_a(Some(&[]), &[], &["e1 b 3", "e2 b 4"]);
        assert_eq!(turn, Turn::default(), "what still lasts is not taken; its holder gives it up in its own turn");
    }

    #[test]
    fn the_lease_of_a_namesake_is_not_taken_before_its_end_and_it_is_said() {
        let turn = turn_of_a(Some(&[("e1", 3), ("e2", 4)]), &[], &["e1 a 5", "e2 a 4"]);
        assert_eq!(turn.usurped, names(&["e1"]));
        assert_eq!(turn.keep, some(&[("e2", 4)]));
        assert!(turn.take_over.is_empty());
        assert!(turn_of_a(Some(&[("e1", 3)]), &[], &["e1 b 5"]).usurped.is_empty(), "another name is no namesake");
        assert!(turn_of_a(None, &[], &["e1 a 5"]).usurped.is_empty(), "a process in its first turn had nothing");
    }

    #[test]
    fn too_much_is_given_up_but_not_where_a_restart_is_under_way() {
        let both: &[(&str, i64)] = &[("e1", 3), ("e2", 4)];
        let engines = ["e1".into(), "e2".into()];
        let all: BTreeSet<EngineName> = engines.iter().cloned().collect();
        let replica = |name: &str| Replica { name: name.into(), engines: all.clone(), fit: all.clone() };
        let rows =
            some(both).into_iter().map(|(engine, epoch)| (engine, Row { holder: "a".into(), epoch, lasts: true }));
        let rows: BTreeMap<EngineName, Row> = rows.collect();
        let owned = some(both);
        let with = |busy: &BTreeSet<EngineName>| {
            turn(
                Taker { replica: "a", engines: &engines, owned: Some(&owned), busy },
                &[replica("a"), replica("b")],
                &rows,
            )
        };
        let even = with(&BTreeSet::new());
        assert_eq!((even.keep.len(), even.leave.len()), (1, 1));
        let busy = with(&all);
        assert_eq!((busy.keep.len(), busy.leave.len()), (2, 0));
    }
}
