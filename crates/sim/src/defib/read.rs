//! A replica reads the fleet: all rows now and then, and between that only what has changed. When which is enough is the rule of production
//! ([`LastRead`]), and so is whom a pass concerns after a read of what has changed ([`defib_policy::judge::Judge::concerns`]).

use defib_policy::fleet::FleetRead;
use defib_policy::id::WorkspaceId;
use defib_policy::judge::{EngineEvidence, ReadStamp};
use defib_policy::reading::{LastRead, Rhythm, calls_too_many};
use defib_policy::sample::Sample;

use super::state::{Defib, RESYNC_INTERVAL, index_of};
use crate::time::span;
use crate::world::World;

impl Defib {
    /// Reads the fleet and tells the judge.
    pub(super) fn read_fleet(&mut self, stamp: ReadStamp, world: &mut World) {
        let started_at = crate::time::stamp(world.db.started_at, world.db.offset);
        let view = &mut world.db.view;
        (view.at, view.database_now, view.database_started_at) = (stamp.at, stamp.database_now, started_at);
        let changes = self.last_read.take().and_then(|last| self.read_changes(last, world));
        self.last_read = Some(changes.unwrap_or_else(|| self.read_all(world)));
    }

    fn read_all(&mut self, world: &World) -> LastRead {
        let view = &world.db.view;
        self.judge.observe_fleet(view, true);
        LastRead {
            at: view.at,
            database_now: view.database_now,
            database_started_at: view.database_started_at,
            resynced_at: view.at,
            counted_at: view.at,
            spoken_for: self.ownership.spoken_for(view.at),
        }
    }

    /// Reads what has changed since the last read. `None`: that is not enough.
    fn read_changes(&mut self, last: LastRead, world: &World) -> Option<LastRead> {
        let (view, rhythm) =
            (&world.db.view, Rhythm { poll: self.settings.poll_interval, resync: span(RESYNC_INTERVAL) });
        if last.is_too_old(view.at, &self.ownership.spoken_for(view.at), rhythm).is_some() {
            return None;
        }
        let called = self.judge.call(view.at);
        let misses = last.misses(false, view.database_started_at, view.at, view.database_now);
        if misses.is_some() || calls_too_many(called.len(), self.judge.watched()) {
            return None;
        }
        let floor = last.floor();
        let mut is_called = vec![false; world.db.slots.len()];
        for id in &called {
            is_called[index_of(id)] = true;
        }
        let rows = world.db.slots.iter().zip(&is_called).filter_map(|(slot, called)| {
            let row = &view.workspaces[(*slot)?];
            let is_new = row.last_heartbeat_at > Some(floor) || row.last_activity_at > Some(floor);
            (is_new || *called).then(|| row.clone())
        });
        let read = FleetRead { workspaces: rows.collect(), ..*view };
        let gone: Vec<WorkspaceId> = called.into_iter().filter(|id| world.db.slots[index_of(id)].is_none()).collect();
        self.judge.observe_changes(&read, floor, &gone);
        for (of, workspace) in world.workspaces.iter().enumerate() {
            self.fill_attempts(&[of], world);
            if !self.attempts[of].is_empty() {
                self.judge.stir(&workspace.id);
            }
        }
        let counts = last.wants_count(view.at, rhythm);
        if counts && self.judge.watched() != view.workspaces.len() {
            return None;
        }
        let counted_at = if counts { view.at } else { last.counted_at };
        Some(LastRead { at: view.at, database_now: view.database_now, counted_at, ..last })
    }

    /// Whether the last read was of all rows.
    pub(super) fn all_are_read(&self) -> bool {
        self.last_read.as_ref().is_none_or(LastRead::is_whole)
    }

    /// Whether a pass over an engine that says this judges everybody there.
    pub(super) fn judges_all(
        &self,
        engine: usize,
        evidence: &EngineEvidence,
        all_are_read: bool,
        world: &World,
    ) -> bool {
        all_are_read || self.judge.must_see_all(&world.engines[engine].name, evidence)
    }

    /// Whether a pass judges a workspace of which its engine showed this.
    pub(super) fn is_concerned(&self, of: usize, sample: Option<&Sample>, world: &World) -> bool {
        self.in_flight[of] || !self.attempts[of].is_empty() || self.judge.concerns(&world.workspaces[of].id, sample)
    }

    /// Reads those of these rows again that are older than the last read, because nothing concerned them until now. Nobody is convicted on an
    /// old row.
    pub(super) fn read_again(&mut self, members: &[usize], world: &World) {
        let calm = members.iter().filter(|of| self.judge.is_calm(&world.workspaces[**of].id));
        let rows: Vec<_> = calm.filter_map(|of| Some(world.db.view.workspaces[world.db.slots[*of]?].clone())).collect();
        if rows.is_empty() {
            return;
        }
        let stamp = super::pass::read_stamp(world, self.moment(world.now));
        let read = FleetRead { at: stamp.at, database_now: stamp.database_now, workspaces: rows, ..world.db.view };
        self.judge.observe_fleet(&read, false);
    }
}
