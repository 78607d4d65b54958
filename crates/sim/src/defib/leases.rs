//! A replica's turns at the leases, what it takes over and hands over, and what it does about rows that were left behind.
//!
//! Whose word counts is [`Ownership`](defib_policy::ownership::Ownership)'s, as in the daemon; so is what is done about a row
//! ([`left_behind`]).

use std::collections::BTreeSet;

use defib_policy::fleet::Kind;
use defib_policy::id::EngineName;
use defib_policy::moment::Moment;
use defib_policy::restart::left_behind::{self, Asked, Settle};
use defib_policy::sample::{Fault, Observation};
use defib_policy::verdict::Verdict;

use super::state::{Defib, ENGINE_TIMEOUT, LEASE_TTL};
use crate::lease::LeaseTurn;
use crate::time::{moment, span};
use crate::world::World;

impl Defib {
    /// Whether what is said of a workspace is ours to say.
    pub(super) fn speaks_for(&self, of: usize, world: &World) -> bool {
        let now = self.moment(world.now);
        let workspace = &world.workspaces[of];
        if workspace.spec.kind == Kind::External {
            return self.ownership.fleet(now).is_some();
        }
        self.ownership.epoch(&world.engines[workspace.engine].name, now).is_some()
    }

    /// Whether the engine is ours.
    pub(super) fn owns(&self, engine: usize, world: &World) -> bool {
        self.ownership.epoch(&world.engines[engine].name, self.moment(world.now)).is_some()
    }

    /// Takes a turn if our leases have ended because none came in time. A pass must know which engines are ours before it judges.
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
            owned: self.ownership.as_of_the_last_turn(),
            busy: &busy,
            ttl: span(LEASE_TTL),
        };
        let clock = world.db.clock(world.now);
        let Some(table) = world.db.ledger.leases.take_lease_turn(&turn, clock) else { return };
        let lapsed = self.ownership.has_lapsed(at);
        let before: BTreeSet<EngineName> = self.ownership.owned(at).into_keys().collect();
        let change = self.ownership.turn(table.turned(at), span(LEASE_TTL), &engines, at);
        // What other replicas have recorded is in the tables, and is taken over at once.
        self.ownership.catch_up(change.gained.clone());
        if lapsed || !change.gained.is_empty() || !change.lost.is_empty() {
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
        let engines: Vec<EngineName> = self.ownership.owned(now).into_keys().collect();
        for attempt in world.db.ledger.open_attempts(&engines, world.db.clock(world.now)) {
            let Some(ours) = self.ownership.epoch(&attempt.engine, now) else { continue };
            if self.in_flight[attempt.of] {
                continue;
            }
            let settle = left_behind::by_its_row(attempt.row, ours).unwrap_or_else(|| {
                let seen = Self::look_back(attempt.of, world);
                let ran = left_behind::restarts_what_runs(attempt.verdict);
                let overdue = attempt.row.overdue;
                let container = attempt.container_id.as_ref();
                let asked = Asked { container, convicted: attempt.started_at, ran, overdue, elsewhere: false };
                left_behind::by_its_container(&seen, asked)
            });
            let Some((outcome, _)) = settle.conclusion() else { continue };
            if settle == Settle::Unasked {
                world.db.abandon_unasked(attempt.id, world.now);
                world.note(attempt.of, "left behind, the engine was not asked: abandoned");
                continue;
            }
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
