//! A restart on its way: claim, confirm, act, outcome (section 5 of DESIGN.md), with the world turning in between.

use defib_policy::attempt::Outcome;
use defib_policy::plan::{Remedy, RestartOrder};
use defib_policy::sample::Observation;

use super::{CLAIM_MARGIN, Defib, ENGINE_TIMEOUT, RESTART_CONCURRENCY, RESTART_TIMEOUT, STOP_GRACE, index_of};
use crate::database::Claimed;
use crate::queue::{Event, Wake};
use crate::remedy::{CallError, How};
use crate::time::Ms;
use crate::world::World;

/// How long an outcome is tried to be written before it is left to whoever settles open attempts.
const WRITES_MAX: u32 = 5;

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
        if let Stage::Finish { .. } = job.stage {
            let now = world.now;
            self.look_at(me, job.of, now, world);
        }
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
                let deadline = now + deadline_of(job.order.remedy) + CLAIM_MARGIN;
                let claimed = world.db.claim(&job.order, of, self.process, now, deadline);
                if let Claimed::Granted(row) = claimed {
                    let inspect = world.engines[world.workspaces[of].engine].inspect;
                    return Some((Stage::Confirm { row }, inspect.min(ENGINE_TIMEOUT)));
                }
                world.note(of, &format!("claim: {claimed:?}"));
                None
            }
            Stage::Confirm { row } => {
                let Some(outcome) = Self::objection(job, world) else {
                    return Some((Stage::Act { row }, world.db.latency));
                };
                world.note(of, &format!("{}: the fresh look does not confirm it", outcome.label()));
                Some((Stage::Finish { row, outcome, tries: 0 }, world.db.latency))
            }
            Stage::Act { row } => Some(self.act(job, row, world)),
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

    fn act(&self, job: &Job, row: usize, world: &mut World) -> (Stage, Ms) {
        let of = job.of;
        let done = |outcome, wait| (Stage::Finish { row, outcome, tries: 0 }, wait);
        if !self.can_read(&world.db) || !self.is_owner(world.now) {
            world.note(of, "abandoned: the lease or the database is gone");
            return done(Outcome::Abandoned, 0);
        }
        if !world.db.still_claimed(row) {
            world.note(of, "vetoed: not wanted any more");
            return done(Outcome::Vetoed, world.db.latency);
        }
        let how = match job.order.remedy {
            Remedy::Start => How::Start,
            Remedy::KillAndStart => How::KillAndStart,
            Remedy::Recreate => How::Recreate,
        };
        let evidence = &job.order.evidence;
        let deadline = deadline_of(job.order.remedy);
        let called = world.restart(of, how, deadline, Some((evidence.rule, evidence.because.clone())));
        match called.result {
            Ok(()) => done(Outcome::Succeeded, called.took),
            Err(error) => {
                world.note(of, &format!("the restart call fails: {error:?}"));
                let gone = error == CallError::Gone;
                done(if gone { Outcome::Superseded } else { Outcome::Failed }, called.took)
            }
        }
    }

    /// What the last look before a restart has against it. No answer is a failure: nothing was confirmed.
    fn objection(job: &Job, world: &mut World) -> Option<Outcome> {
        let engine = &world.engines[world.workspaces[job.of].engine];
        let unasked = engine.fault.is_some() || engine.inspect >= ENGINE_TIMEOUT || engine.impostor.is_some();
        if unasked || world.workspaces[job.of].inspect_hangs {
            return Some(Outcome::Failed);
        }
        let offset = engine.offset;
        let seen = world.workspaces[job.of].observe(world.now, offset, true);
        world.looked(job.of);
        let same = match (seen.incarnation(), &job.order.incarnation) {
            (Some(now), Some(then)) => then.may_be(now),
            (_, None) | (None, _) => true,
        };
        let agrees = match (job.order.remedy, &seen) {
            (Remedy::Start, Observation::Stopped { .. }) | (Remedy::KillAndStart, Observation::Running { .. }) => same,
            (Remedy::Start, Observation::Transitional { .. }) => same && job.order.convicted_in_transition(),
            (Remedy::Recreate, Observation::Missing) => true,
            _ => false,
        };
        (!agrees).then_some(Outcome::Superseded)
    }
}

fn deadline_of(remedy: Remedy) -> Ms {
    match remedy {
        Remedy::KillAndStart => RESTART_TIMEOUT + STOP_GRACE,
        Remedy::Start | Remedy::Recreate => RESTART_TIMEOUT,
    }
}
