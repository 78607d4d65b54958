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

/// The queues of all engines (`None`: workspaces without one).
#[derive(Debug, Default)]
pub(crate) struct FocusQueue {
    engines: BTreeMap<Option<EngineName>, Queue>,
    suspected_at: HashMap<WorkspaceId, Moment>,
}

#[derive(Debug, Default)]
struct Queue {
    due: BTreeMap<WorkspaceId, Moment>,
    in_flight: bool,
}

impl FocusQueue {
    /// Asks for a look at `due`, or sooner if that was asked for already.
    pub(crate) fn look(&mut self, engine: Option<EngineName>, id: WorkspaceId, due: Moment) {
        let queue = self.engines.entry(engine).or_default();
        queue.due.entry(id).and_modify(|known| *known = due.min(*known)).or_insert(due);
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
            let batch: BTreeSet<WorkspaceId> =
                queue.due.iter().filter(|(_, due)| **due <= now).map(|(id, _)| id.clone()).take(BATCH_MAX).collect();
            if !batch.is_empty() {
                queue.due.retain(|id, _| !batch.contains(id));
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
        self.engines
            .values()
            .filter(|queue| !queue.in_flight)
            .filter_map(|queue| queue.due.values().min().copied())
            .min()
    }

    /// Forgets suspicions older than `within`, which limit nothing any more.
    pub(crate) fn prune(&mut self, now: Moment, within: Duration) {
        self.suspected_at.retain(|_, at| now - *at <= within);
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
    fn the_sooner_look_wins_and_later_ones_wait() {
        let mut queue = FocusQueue::default();
        queue.look(Some("a".into()), "w".into(), at(900));
        queue.look(Some("a".into()), "w".into(), at(500));
        queue.look(Some("a".into()), "w".into(), at(700));
        assert!(queue.take_due(at(499)).is_empty());
        assert_eq!(queue.next_due(), Some(at(500)));
        assert_eq!(queue.take_due(at(500)).len(), 1);
        assert_eq!(queue.next_due(), None);
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
