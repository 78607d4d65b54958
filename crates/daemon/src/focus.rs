//! Who is to be looked at before the next poll, and when.
//!
//! Suspicions arrive by the thousand, events in bursts, and both are only reasons to look. So they meet here: one entry a
//! workspace, however many reasons there were; and a suspicion never makes one workspace be looked at more often than once
//! each `DEFIB_PROBE_SPACING`. Each engine has its own queue and one pass of it at a time, so that one which hangs holds up
//! nobody else's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::Moment;

/// Workspaces in one focused pass, at most: the rest waits for the next one.
const BATCH_MAX: usize = 256;

/// Planned looks of one workspace, at most: those that come first.
const PLANNED_MAX: usize = 4;

/// The queues of all engines (`None`: workspaces without one).
#[derive(Debug, Default)]
pub(crate) struct FocusQueue {
    engines: BTreeMap<Option<EngineName>, Queue>,
    suspected_at: HashMap<WorkspaceId, Moment>,
}

#[derive(Debug, Default)]
struct Queue {
    /// A few moments a workspace: the first one does not stand for a later one that was asked for with a reason.
    due: HashMap<WorkspaceId, BTreeSet<Moment>>,
    /// The first of them for each workspace, in order of time: a flood must not make every turn of the loop a walk over
    /// all that wait.
    first: BTreeSet<(Moment, WorkspaceId)>,
    in_flight: bool,
}

impl FocusQueue {
    /// Asks for a look at `due`.
    pub(crate) fn look(&mut self, engine: Option<EngineName>, id: WorkspaceId, due: Moment) {
        self.engines.entry(engine).or_default().plan(id, due);
    }

    /// Asks for a look because of a suspicion: now, or one spacing after the last one that a suspicion caused.
    pub(crate) fn suspect(&mut self, engine: Option<EngineName>, id: WorkspaceId, now: Moment, spacing: Duration) {
        let due = match self.suspected_at.get(&id) {
            // That look is still to come, and serves this suspicion too.
            Some(planned) if *planned > now => *planned,
            Some(last) => now.max(*last + spacing),
            None => now,
        };
        self.suspected_at.insert(id.clone(), due);
        self.look(engine, id, due);
    }

    /// The batches that may start now, one an engine at most. Each must be [`done`](Self::done) later.
    pub(crate) fn take_due(&mut self, now: Moment) -> Vec<(Option<EngineName>, BTreeSet<WorkspaceId>)> {
        let mut batches = Vec::new();
        for (engine, queue) in &mut self.engines {
            if queue.in_flight {
                continue;
            }
            let batch = queue.take(now);
            if !batch.is_empty() {
                queue.in_flight = true;
                batches.push((engine.clone(), batch));
            }
        }
        batches
    }

    /// A batch of `engine` has been looked at.
    pub(crate) fn done(&mut self, engine: Option<&EngineName>) {
        if let Some(queue) = self.engines.get_mut(&engine.cloned()) {
            queue.in_flight = false;
        }
    }

    /// When the next batch can start, as far as is known.
    pub(crate) fn next_due(&self) -> Option<Moment> {
        let idle = self.engines.values().filter(|queue| !queue.in_flight);
        idle.filter_map(|queue| queue.first.first()).map(|(due, _)| *due).min()
    }

    /// Forgets suspicions older than `within`, which limit nothing any more.
    pub(crate) fn prune(&mut self, now: Moment, within: Duration) {
        self.suspected_at.retain(|_, at| now - *at <= within);
    }
}

impl Queue {
    fn plan(&mut self, id: WorkspaceId, due: Moment) {
        let planned = self.due.entry(id.clone()).or_default();
        let before = planned.first().copied();
        planned.insert(due);
        if planned.len() > PLANNED_MAX {
            planned.pop_last();
        }
        if before.is_none_or(|before| due < before) {
            if let Some(before) = before {
                self.first.remove(&(before, id.clone()));
            }
            self.first.insert((due, id));
        }
    }

    /// Takes the workspaces that are due, with all of their looks that are.
    fn take(&mut self, now: Moment) -> BTreeSet<WorkspaceId> {
        let mut batch = BTreeSet::new();
        while batch.len() < BATCH_MAX && self.first.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, id)) = self.first.pop_first() else { break };
            if let Some(planned) = self.due.get_mut(&id) {
                planned.retain(|due| *due > now);
                match planned.first() {
                    Some(next) => _ = self.first.insert((*next, id.clone())),
                    None => _ = self.due.remove(&id),
                }
            }
            batch.insert(id);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACING: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Moment {
        Moment::after(Duration::from_millis(10_000 + ms))
    }

    #[test]
    fn a_flood_of_suspicions_is_one_look_each_spacing() {
        let mut queue = FocusQueue::default();
        let mut looks = Vec::new();
        for ms in 0..3_000 {
            for _ in 0..10 {
                queue.suspect(Some("a".into()), "w".into(), at(ms), SPACING);
            }
            for (engine, batch) in queue.take_due(at(ms)) {
                looks.push((ms, batch.len()));
                queue.done(engine.as_ref());
            }
        }
        assert_eq!(looks, [(0, 1), (1_000, 1), (2_000, 1)]);
    }

    #[test]
    fn one_batch_of_an_engine_at_a_time_and_others_go_on() {
        let mut queue = FocusQueue::default();
        queue.look(Some("a".into()), "w".into(), at(0));
        assert_eq!(queue.take_due(at(0)).len(), 1);
        queue.look(Some("a".into()), "w".into(), at(1));
        queue.look(Some("b".into()), "x".into(), at(1));
        let taken = queue.take_due(at(5));
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].0.as_ref().map(EngineName::as_str), Some("b"));
        queue.done(Some(&"a".into()));
        assert_eq!(queue.next_due(), Some(at(1)));
        assert_eq!(queue.take_due(at(5)).len(), 1);
    }

    #[test]
    fn looks_come_when_they_are_due_and_a_sooner_one_does_not_stand_for_a_later_one() {
        let mut queue = FocusQueue::default();
        for ms in [900, 500, 700, 500] {
            queue.look(Some("a".into()), "w".into(), at(ms));
        }
        assert!(queue.take_due(at(499)).is_empty());
        assert_eq!(queue.next_due(), Some(at(500)));
        assert_eq!(queue.take_due(at(700)).len(), 1, "both that are due are one look");
        assert_eq!(queue.next_due(), None, "its batch is under way");
        queue.done(Some(&"a".into()));
        assert_eq!(queue.next_due(), Some(at(900)));
        assert_eq!(queue.take_due(at(900)).len(), 1);
        queue.done(Some(&"a".into()));
        assert_eq!(queue.next_due(), None);
        for ms in 0..100 {
            queue.look(Some("a".into()), "w".into(), at(1_000 - ms));
        }
        assert_eq!(
            queue.engines.values().map(|queue| queue.due.values().map(BTreeSet::len).sum::<usize>()).sum::<usize>(),
            4
        );
    }

    #[test]
    fn batches_are_bounded() {
        let mut queue = FocusQueue::default();
        for n in 0..1_000 {
            queue.look(Some("a".into()), WorkspaceId::from(format!("w{n}")), at(0));
        }
        assert_eq!(queue.take_due(at(0))[0].1.len(), BATCH_MAX);
        queue.done(Some(&"a".into()));
        assert_eq!(queue.take_due(at(0))[0].1.len(), BATCH_MAX);
    }

    #[test]
    fn old_suspicions_are_forgotten() {
        let mut queue = FocusQueue::default();
        queue.suspect(Some("a".into()), "w".into(), at(0), SPACING);
        queue.prune(at(2_000), SPACING);
        assert!(queue.suspected_at.is_empty());
    }
}
