//! Which workspaces of one engine are to be looked at before the next poll, and when.
//!
//! Suspicions arrive by the thousand, and events in bursts. Both are only reasons to look, so they are collected here: there is one entry
//! for a workspace, however many reasons there were, and suspicions cause at most one look at a workspace in each `DEFIB_PROBE_SPACING`.
//! Each engine has a queue of its own, so that an engine that hangs delays no looks at another one.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use defib_policy::id::WorkspaceId;
use defib_policy::moment::Moment;

/// Workspaces in one focused pass, at most: the rest waits for the next one.
const BATCH_MAX: usize = 256;

/// How many planned looks of one workspace are kept: those that come first.
const PLANNED_MAX: usize = 4;

/// The pause between two looks at a workspace that is starting, as a part of the time that it has been starting for. Larger: its first
/// heartbeat is noticed later. Smaller: one that takes half an hour to start is inspected more often.
const PATIENCE: u32 = 4;

/// The queue of one engine.
#[derive(Debug, Default)]
pub(crate) struct FocusQueue {
    /// There are a few moments for each workspace, because a look at the first of them does not answer what a later one is to find out.
    due: HashMap<WorkspaceId, BTreeSet<Moment>>,
    /// The first of these moments for each workspace, in order of time, so that in a flood no turn of the loop has to walk over all that
    /// wait.
    first: BTreeSet<(Moment, WorkspaceId)>,
    suspected_at: HashMap<WorkspaceId, Moment>,
    /// The workspaces that are starting: since when they are waited for, and when a look was last asked for.
    awaited: HashMap<WorkspaceId, (Moment, Moment)>,
}

impl FocusQueue {
    /// Asks for a look at `due`.
    pub(crate) fn look(&mut self, id: WorkspaceId, due: Moment) {
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

    /// Asks for a look because of a suspicion: now, or one spacing after the last one that a suspicion caused.
    pub(crate) fn suspect(&mut self, id: WorkspaceId, now: Moment, spacing: Duration) {
        let due = match self.suspected_at.get(&id) {
            // That look is still to come, and serves this suspicion too.
            Some(planned) if *planned > now => *planned,
            Some(last) => now.max(*last + spacing),
            None => now,
        };
        self.suspected_at.insert(id.clone(), due);
        self.look(id, due);
    }

    /// Asks for a look at a workspace that is starting, because nothing announces its first heartbeat. The look is made at `due`, or later
    /// if the workspace has been starting for long. If the next `poll` comes first, that poll is the look.
    pub(crate) fn wait_for(&mut self, id: WorkspaceId, now: Moment, due: Moment, poll: Duration) {
        let waiting = self.awaited.entry(id.clone()).or_insert((now, now));
        if now - waiting.1 > 2 * poll {
            *waiting = (now, now); // it had come up in between, and is starting once more
        }
        waiting.1 = now;
        let wait = (due - now).max((now - waiting.0) / PATIENCE);
        if wait < poll {
            self.look(id, now + wait);
        }
    }

    /// Takes the workspaces that are due, with all of their looks that are.
    pub(crate) fn take_due(&mut self, now: Moment) -> BTreeSet<WorkspaceId> {
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

    /// When the next batch is due.
    pub(crate) fn next_due(&self) -> Option<Moment> {
        self.first.first().map(|(due, _)| *due)
    }

    /// Forgets what is older than `within` and limits nothing any more.
    pub(crate) fn prune(&mut self, now: Moment, within: Duration) {
        self.suspected_at.retain(|_, at| now - *at <= within);
        self.awaited.retain(|_, (_, at)| now - *at <= within);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACING: Duration = Duration::from_secs(1);
    const POLL: Duration = Duration::from_secs(5);

    fn at(ms: u64) -> Moment {
        Moment::after(Duration::from_millis(10_000 + ms))
    }

    #[test]
    fn a_flood_of_suspicions_is_one_look_each_spacing() {
        let mut queue = FocusQueue::default();
        let mut looks = Vec::new();
        for ms in 0..3_000 {
            for _ in 0..10 {
                queue.suspect("w".into(), at(ms), SPACING);
            }
            let batch = queue.take_due(at(ms));
            if !batch.is_empty() {
                looks.push((ms, batch.len()));
            }
        }
        assert_eq!(looks, [(0, 1), (1_000, 1), (2_000, 1)]);
    }

    #[test]
    fn looks_come_when_they_are_due_and_a_sooner_one_does_not_stand_for_a_later_one() {
        let mut queue = FocusQueue::default();
        for ms in [900, 500, 700, 500] {
            queue.look("w".into(), at(ms));
        }
        assert!(queue.take_due(at(499)).is_empty());
        assert_eq!(queue.next_due(), Some(at(500)));
        assert_eq!(queue.take_due(at(700)).len(), 1, "both that are due are one look");
        assert_eq!(queue.next_due(), Some(at(900)));
        assert_eq!(queue.take_due(at(900)).len(), 1);
        assert_eq!(queue.next_due(), None);
        for ms in 0..100 {
            queue.look("w".into(), at(1_000 - ms));
        }
        assert_eq!(queue.due.values().map(BTreeSet::len).sum::<usize>(), 4);
    }

    #[test]
    fn batches_are_bounded() {
        let mut queue = FocusQueue::default();
        for n in 0..1_000 {
            queue.look(WorkspaceId::from(format!("w{n}")), at(0));
        }
        assert_eq!(queue.take_due(at(0)).len(), BATCH_MAX);
        assert_eq!(queue.take_due(at(0)).len(), BATCH_MAX);
    }

    /// Once a starting workspace was inspected every two seconds for as long as it took, with three statements each time.
    #[test]
    fn one_that_takes_half_an_hour_to_come_up_is_not_inspected_nine_hundred_times() {
        let mut queue = FocusQueue::default();
        let mut looks = Vec::new();
        let mut next_poll = 0;
        for second in 0..1_800_u64 {
            let now = at(second * 1_000);
            let looked = !queue.take_due(now).is_empty();
            if looked {
                looks.push(second);
            }
            if looked || second >= next_poll {
                next_poll = if second >= next_poll { second + 5 } else { next_poll };
                queue.wait_for("w".into(), now, now + 2 * SPACING, POLL);
            }
        }
        assert!(looks.len() < 20 && looks.iter().all(|second| *second < 60), "{looks:?}");
        assert_eq!(looks.first(), Some(&2), "the first look is as soon as it was");

        queue.wait_for("w".into(), at(1_900_000), at(1_902_000), POLL);
        assert_eq!(queue.next_due(), Some(at(1_902_000)), "a second start is waited for as closely as the first");
    }

    #[test]
    fn old_suspicions_are_forgotten() {
        let mut queue = FocusQueue::default();
        queue.suspect("w".into(), at(0), SPACING);
        queue.wait_for("w".into(), at(0), at(1), POLL);
        queue.prune(at(2_000), SPACING);
        assert!(queue.suspected_at.is_empty() && queue.awaited.is_empty());
    }
}
