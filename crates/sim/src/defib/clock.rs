//! What replicas tell each other of steps of the database's clock, as the daemon does beside its passes.

use defib_policy::moment::Timestamp;
use defib_policy::pipeline::{STEP_MATTERS_FOR, unseen_step};

use super::Defib;
use crate::database::ClockNote;
use crate::world::World;

impl Defib {
    /// Reads once what was noticed before this process started, and writes what it notices itself. The clocks of all hosts are right.
    pub(super) fn share_clock_steps(&mut self, world: &mut World) {
        let (clock, ahead) = (world.db.clock(world.now), world.db.offset);
        if !self.clock_steps.recalled {
            let lately = |at: Timestamp| clock.since(at).max(at.since(clock)) <= STEP_MATTERS_FOR;
            let steps = world.db.clock_notes.iter().filter(|note| lately(note.noticed_at));
            let noticed = steps.filter_map(|note| note.comparable_from).max();
            let last = world.db.clock_notes.last();
            let unseen = last.and_then(|note| unseen_step(note.ahead, ahead, clock));
            self.judge.recall_steps(noticed.max(unseen));
            if last.is_some() && unseen.is_none() {
                self.clock_steps.recalled = true;
            } else if self.can_write(&world.db) {
                world.db.clock_notes.push(ClockNote { noticed_at: clock, comparable_from: unseen, ahead });
                self.clock_steps.recalled = true;
            }
        }
        let noticed = self.judge.comparable_from();
        if noticed.is_some() && noticed != self.clock_steps.written && self.can_write(&world.db) {
            world.db.clock_notes.push(ClockNote { noticed_at: clock, comparable_from: noticed, ahead });
            self.clock_steps.written = noticed;
        }
    }
}
