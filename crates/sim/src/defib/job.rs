//! A restart on its way: claim, confirm, act, outcome (section 5 of DESIGN.md), with the world turning in between.

use defib_policy::attempt::Outcome;
use defib_policy::plan::{Remedy, RestartOrder};
use defib_policy::sample::Observation;

use super::{Defib, RESTART_CONCURRENCY, RESTART_TIMEOUT, index_of};
use crate::database::Claimed;
use crate::queue::{Event, Wake};
use crate::remedy::How;
use crate::time::Ms;
use crate::world::World;

/// How long an outcome is tried to be written before it is left to whoever settles open attempts.
const WRITES_MAX: u32 = 30;

/// One restart.
#[derive(Debug)]
pub(super) struct Job {
    order: RestartOrder,
    of: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Claim,
    Confirm { row: usize },
    Act { row: usize },
    Finish { row: usize, outcome: Outcome, tries: u32 },
}

impl Defib {
    pub(super) fn submit(&mut self, me: u8, order: RestartOrder, world: &mut World) {
        let of = index_of(&order.workspace);
        if self.in_flight[of] {
            return;
        }
        self.in_flight[of] = true;
        let engine = world.workspaces[of].engine;
        let number = self.number();
        self.jobs.insert(number, Job { order, of, stage: Stage::Claim });
        if self.acting[engine] < RESTART_CONCURRENCY {
            self.acting[engine] += 1;
            world.push(world.now + world.db.latency, Event::Wake(me, Wake::Job(number)));
        } else {
            self.waiting[engine].push_back(number);
        }
    }

    pub(super) fn advance(&mut self, me: u8, number: u32, world: &mut World) {
        let Some(mut job) = self.jobs.remove(&number) else { return };
        if let Some((stage, wait)) = self.step(&job, world) {
            job.stage = stage;
            self.jobs.insert(number, job);
            world.push(world.now + wait, Event::Wake(me, Wake::Job(number)));
            return;
        }
        self.in_flight[job.of] = false;
        let engine = world.workspaces[job.of].engine;
        self.acting[engine] = self.acting[engine].saturating_sub(1);
        if let Some(next) = self.waiting[engine].pop_front() {
            self.acting[engine] += 1;
            world.push(world.now + world.db.latency, Event::Wake(me, Wake::Job(next)));
        }
    }

    /// One stage; the next one and when it is due, or `None` at the end.
    fn step(&self, job: &Job, world: &mut World) -> Option<(Stage, Ms)> {
        let (now, of) = (world.now, job.of);
        match job.stage {
            Stage::Claim => {
                if !self.can_write(&world.db) || !self.is_owner(now) {
                    world.note(of, "no claim: no database or no lease");
                    return None;
                }
                let deadline = now + RESTART_TIMEOUT + 10_000;
                let claimed = world.db.claim(&job.order, of, self.process, now, deadline);
                if let Claimed::Granted(row) = claimed {
                    let inspect = world.engines[world.workspaces[of].engine].inspect;
                    return Some((Stage::Confirm { row }, inspect.min(5_000)));
                }
                world.note(of, &format!("claim: {claimed:?}"));
                None
            }
            Stage::Confirm { row } => {
                let stands = self.confirms(job, world);
                if !stands {
                    world.note(of, "superseded: the fresh look disagrees");
                    return Some((Stage::Finish { row, outcome: Outcome::Superseded, tries: 0 }, world.db.latency));
                }
                Some((Stage::Act { row }, world.db.latency))
            }
            Stage::Act { row } => {
                if !self.can_read(&world.db) || !self.is_owner(now) || !self.owns(row, world) {
                    world.note(of, "abandoned: the lease or the database is gone");
                    return None;
                }
                if !world.db.still_claimed(row) {
                    world.note(of, "superseded: not wanted any more");
                    return Some((Stage::Finish { row, outcome: Outcome::Superseded, tries: 0 }, world.db.latency));
                }
                let how = match job.order.remedy {
                    Remedy::Start => How::Start,
                    Remedy::KillAndStart => How::KillAndStart,
                    Remedy::Recreate => How::Recreate,
                };
                let evidence = &job.order.evidence;
                let called = world.restart(of, how, RESTART_TIMEOUT, Some((evidence.rule, evidence.because.clone())));
                let outcome = if called.result.is_ok() { Outcome::Succeeded } else { Outcome::Failed };
                if let Err(error) = called.result {
                    world.note(of, &format!("the restart call fails: {error:?}"));
                }
                Some((Stage::Finish { row, outcome, tries: 0 }, called.took))
            }
            Stage::Finish { row, outcome, tries } => {
                if self.can_write(&world.db) {
                    world.db.finish(row, outcome, now);
                } else if tries < WRITES_MAX {
                    return Some((Stage::Finish { row, outcome, tries: tries + 1 }, 1_000));
                }
                None
            }
        }
    }

    fn owns(&self, row: usize, world: &World) -> bool {
        world.db.ledger[row].claimed_by == self.process
    }

    /// The last look before a restart. No answer confirms nothing.
    fn confirms(&self, job: &Job, world: &mut World) -> bool {
        let engine = &world.engines[world.workspaces[job.of].engine];
        if engine.fault.is_some() || engine.inspect >= 5_000 || world.workspaces[job.of].inspect_hangs {
            return false;
        }
        let (impostor, offset) = (engine.impostor.is_some(), engine.offset);
        let seen = if impostor { Observation::Missing } else { world.workspaces[job.of].observe(world.now, offset, true) };
        world.looked(job.of);
        let same = match (seen.incarnation(), &job.order.incarnation) {
            (Some(now), Some(then)) => now.may_be(then),
            (_, None) | (None, _) => true,
        };
        match (job.order.remedy, &seen) {
            (Remedy::Start, Observation::Stopped { .. } | Observation::Transitional { .. })
            | (Remedy::KillAndStart, Observation::Running { .. }) => same,
            (Remedy::Recreate, Observation::Missing) => !impostor,
            _ => false,
        }
    }
}
