//! What replicas tell each other of steps of the database's clock, as the daemon does beside its passes.

use defib_policy::moment::Timestamp;
use defib_policy::pipeline::STEP_MATTERS_FOR;

use super::Defib;
use crate::world::World;

impl Defib {
    /// Reads once what was noticed before this process started, and writes what it notices itself.
    pub(super) fn share_clock_steps(&mut self, world: &mut World) {
        let clock = world.db.clock(world.now);
        if !self.clock_steps.recalled {
            let lately = |at: Timestamp| clock.since(at).max(at.since(clock)) <= STEP_MATTERS_FOR;
            let steps = world.db.clock_steps.iter().filter(|(noticed_at, _)| lately(*noticed_at));
            self.judge.recall_steps(steps.map(|(_, comparable_from)| *comparable_from).max());
            self.clock_steps.recalled = true;
        }
        let noticed = self.judge.comparable_from();
        if noticed != self.clock_steps.written
            && let Some(comparable_from) = noticed
            && self.can_write(&world.db)
        {
            world.db.clock_steps.push((clock, comparable_from));
            self.clock_steps.written = noticed;
        }
    }
}
