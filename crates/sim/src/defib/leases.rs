//! What a replica owns, as the daemon's `leases.rs` and `recovery.rs` have it: turns, hand-overs, and what was left behind.

use std::collections::{BTreeMap, BTreeSet};

use defib_policy::attempt::Outcome;
use defib_policy::fleet::Kind;
use defib_policy::id::EngineName;
use defib_policy::moment::Moment;
use defib_policy::recovery::{self, Asked, Settle};
use defib_policy::sample::{Fault, Observation};
use defib_policy::verdict::Verdict;

use super::{Defib, ENGINE_TIMEOUT, LEASE_TTL};
use crate::lease::LeaseTurn;
use crate::time::{moment, span};
use crate::world::World;

/// What the last turn came to.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    owned: Option<BTreeMap<EngineName, i64>>,
    first: Option<EngineName>,
    valid_until: Moment,
}

impl Ownership {
    /// The epoch of our lease on an engine, while it surely lasts by our own clock.
    pub(super) fn epoch(&self, engine: &EngineName, now: Moment) -> Option<i64> {
        self.owned.as_ref()?.get(engine).copied().filter(|_| now < self.valid_until)
    }

    /// Whether what no engine has is ours: it belongs to the holder of the first lease.
    pub(super) fn has_the_fleet(&self, now: Moment) -> bool {
        self.first.as_ref().is_some_and(|first| self.epoch(first, now).is_some())
    }

    fn has_lapsed(&self, now: Moment) -> bool {
        self.owned.is_some() && now >= self.valid_until
    }

    fn engines(&self, now: Moment) -> BTreeSet<EngineName> {
        self.owned.iter().filter(|_| now < self.valid_until).flat_map(BTreeMap::keys).cloned().collect()
    }
}

impl Defib {
    /// Whether what is said of a workspace is ours to say.
    pub(super) fn speaks_for(&self, of: usize, world: &World) -> bool {
        let now = self.moment(world.now);
        let workspace = &world.workspaces[of];
        if workspace.spec.kind == Kind::External {
            return self.ownership.has_the_fleet(now);
        }
        self.ownership.epoch(&world.engines[workspace.engine].name, now).is_some()
    }

    /// Whether the engine is ours.
    pub(super) fn owns(&self, engine: usize, world: &World) -> bool {
        self.ownership.epoch(&world.engines[engine].name, self.moment(world.now)).is_some()
    }

    /// Takes a turn where what was ours has ended without one: whose word a pass is must be known before it is judged.
    pub(super) fn turn_if_lapsed(&mut self, world: &mut World) {
        if self.ownership.has_lapsed(self.moment(world.now)) {
            self.turn_leases(world);
        }
    }

    /// Takes our turn at the leases, and takes over from the tables what has become ours to say.
    pub(super) fn turn_leases(&mut self, world: &mut World) {
        if !self.can_write(&world.db) {
            return;
        }
        let at = self.moment(world.now);
        let busy = self.jobs.values().map(|job| world.engines[world.workspaces[job.of].engine].name.clone()).collect();
        let engines: Vec<EngineName> = world.engines.iter().map(|engine| engine.name.clone()).collect();
        let fit = engines.iter().cloned().collect();
        let turn = LeaseTurn {
            replica: &self.name,
            engines: &engines,
            fit: &fit,
            owned: self.ownership.owned.as_ref(),
            busy: &busy,
            ttl: span(LEASE_TTL),
        };
        let clock = world.db.clock(world.now);
        let Some(table) = world.db.ledger.leases.take_lease_turn(&turn, clock) else { return };
        let (before, kept) = (self.ownership.engines(at), self.ownership.owned.as_ref() == Some(&table.owned));
        let first = table.leases.first().map(|lease| lease.engine.clone());
        let same = kept && first == self.ownership.first && !self.ownership.has_lapsed(at);
        self.ownership = Ownership { owned: Some(table.owned), first, valid_until: at + span(LEASE_TTL) };
        if !same {
            self.hand_over_and_take_over(&before, at, world);
        }
    }

    fn hand_over_and_take_over(&mut self, before: &BTreeSet<EngineName>, at: Moment, world: &World) {
        for (of, workspace) in world.workspaces.iter().enumerate() {
            let ours = self.speaks_for(of, world);
            let was_ours = before.contains(&world.engines[workspace.engine].name);
            if !ours {
                self.judge.hand_over(&workspace.id);
            } else if !was_ours {
                let (verdict, since) = match world.db.recorded[of] {
                    Some((verdict, since)) => (verdict, moment(since, self.lost)),
                    None => (Verdict::Alive, at),
                };
                self.judge.take_over(&workspace.id, verdict, since);
            }
        }
    }

    /// Settles the open attempts on engines of ours that this process is not at work on.
    pub(super) fn settle_left_behind(&self, world: &mut World) {
        let now = self.moment(world.now);
        let engines: Vec<EngineName> = self.ownership.engines(now).into_iter().collect();
        for attempt in world.db.ledger.open_attempts(&engines, world.db.clock(world.now)) {
            let Some(ours) = self.ownership.epoch(&attempt.engine, now) else { continue };
            if self.in_flight[attempt.of] {
                continue;
            }
            let settle = recovery::by_its_row(attempt.row, ours).unwrap_or_else(|| {
                let seen = Self::look_back(attempt.of, world);
                let ran = recovery::restarts_what_runs(attempt.verdict);
                let overdue = attempt.row.overdue;
                let asked = Asked { convicted: attempt.started_at, ran, overdue, elsewhere: false };
                recovery::by_its_container(&seen, asked)
            });
            let outcome = match settle {
                Settle::Wait => continue,
                Settle::Succeeded => Outcome::Succeeded,
                Settle::Abandoned | Settle::OutOfReach => Outcome::Abandoned,
                Settle::Unasked => {
                    world.db.abandon_unasked(attempt.id, world.now);
                    world.note(attempt.of, "left behind, the engine was not asked: abandoned");
                    continue;
                }
            };
            world.db.finish(attempt.id, outcome, world.now);
            world.note(attempt.of, &format!("left behind: {}", outcome.label()));
        }
    }

    /// An inspect of a workspace's container, as it answers now.
    pub(super) fn look_back(of: usize, world: &mut World) -> Observation {
        let engine = &world.engines[world.workspaces[of].engine];
        let silent = engine.inspect >= ENGINE_TIMEOUT || world.workspaces[of].inspect_hangs;
        let fault = engine.fault.or(silent.then_some(Fault::TimedOut));
        let fault = fault.or_else(|| engine.impostor.is_some().then_some(Fault::OtherEngine));
        if let Some(fault) = fault {
            return Observation::Unknown { fault };
        }
        let offset = engine.offset;
        let seen = world.workspaces[of].observe(world.now, offset, true);
        world.looked(of);
        seen
    }
}
