//! A restart on its way: claim, confirm, act, outcome (section 5 of DESIGN.md), with the world turning in between.

use defib_policy::attempt::Outcome;
use defib_policy::plan::{Remedy, RestartOrder};
use defib_policy::sample::{Incarnation, Observation};

use super::{
    CLAIM_MARGIN, Defib, ENGINE_TIMEOUT, LOOK_AFTER_MAX, OUTCOME_MARGIN, RESTART_CONCURRENCY, RESTART_TIMEOUT,
    STOP_GRACE, index_of,
};
use crate::lease::LeaseProof;
use crate::ledger::{Claimed, MayAct};
use crate::queue::{Event, Wake};
use crate::remedy::{CallError, How};
use crate::time::{Ms, span};
use crate::world::World;

/// How long an outcome is tried to be written before it is left to whoever settles open attempts.
const WRITES_MAX: u32 = 5;

/// Between two looks after a restart whose answer was lost.
const LOOK_AFTER_SPACING: Ms = 1_000;

/// One restart.
#[derive(Debug)]
pub(super) struct Job {
    order: RestartOrder,
    pub(super) of: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Claim,
    Confirm { row: i64, epoch: i64 },
    Act { row: i64, epoch: i64 },
    LookAfter { row: i64, until: Ms },
    Finish { row: i64, outcome: Outcome, tries: u32 },
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
            world.push(world.now + world.db.claim_takes(of), Event::Wake(me, Wake::Job(number)));
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
            let wait = self.jobs.get(&next).map_or(0, |job| world.db.claim_takes(job.of));
            world.push(world.now + wait, Event::Wake(me, Wake::Job(next)));
        }
    }

    /// One stage; the next one and when it is due, or `None` at the end.
    fn step(&self, job: &Job, world: &mut World) -> Option<(Stage, Ms)> {
        let (now, of) = (world.now, job.of);
        match job.stage {
            Stage::Claim => {
                let epoch = self.ownership.epoch(&job.order.engine, self.moment(now));
                let Some(epoch) = epoch.filter(|_| self.can_write(&world.db)) else {
                    world.note(of, "no claim: no database or no lease");
                    return None;
                };
                let deadline = span(deadline_of(job.order.remedy) + CLAIM_MARGIN);
                let lease = LeaseProof { engine: &job.order.engine, holder: &self.name, epoch };
                let claimed = world.db.claim(&job.order, of, lease, now, deadline);
                if let Some(Claimed::Granted { id: row }) = claimed {
                    let inspect = world.engines[world.workspaces[of].engine].inspect;
                    return Some((Stage::Confirm { row, epoch }, inspect.min(ENGINE_TIMEOUT)));
                }
                world.note(of, &format!("claim: {claimed:?}"));
                None
            }
            Stage::Confirm { row, epoch } => {
                if Self::confirms(job, world) {
                    return Some((Stage::Act { row, epoch }, world.db.latency));
                }
                world.note(of, "superseded: the fresh look does not confirm it");
                Some((Stage::Finish { row, outcome: Outcome::Superseded, tries: 0 }, world.db.latency))
            }
            Stage::Act { row, epoch } => Some(self.act(job, row, epoch, world)),
            Stage::LookAfter { row, until } => {
                let seen = Self::look_back(of, world);
                let another = |life: &Incarnation| job.order.incarnation.as_ref().is_none_or(|then| !then.may_be(life));
                let made = matches!(&seen, Observation::Running { incarnation, .. } if another(incarnation));
                let ran = job.order.remedy == Remedy::KillAndStart;
                if (ran || !made) && now + LOOK_AFTER_SPACING < until {
                    return Some((Stage::LookAfter { row, until }, LOOK_AFTER_SPACING));
                }
                let outcome = if made { Outcome::Succeeded } else { Outcome::Failed };
                Some((Stage::Finish { row, outcome, tries: 0 }, world.db.latency))
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

    fn act(&self, job: &Job, row: i64, epoch: i64, world: &mut World) -> (Stage, Ms) {
        let (of, now) = (job.of, world.now);
        let done = |outcome, wait| (Stage::Finish { row, outcome, tries: 0 }, wait);
        let deadline = deadline_of(job.order.remedy);
        let lease = LeaseProof { engine: &job.order.engine, holder: &self.name, epoch };
        let within = span(deadline + LOOK_AFTER_MAX + OUTCOME_MARGIN);
        let may = self.can_write(&world.db).then(|| world.db.may_act(row, of, lease, within, now));
        if may == Some(MayAct::NotWanted) {
            world.note(of, "vetoed: not wanted any more");
            return done(Outcome::Vetoed, world.db.latency);
        }
        if may != Some(MayAct::Yes) || self.ownership.epoch(&job.order.engine, self.moment(now)) != Some(epoch) {
            world.note(of, "abandoned: the lease or the database is gone");
            return done(Outcome::Abandoned, 0);
        }
        let how = match job.order.remedy {
            Remedy::Start => How::Start,
            Remedy::KillAndStart => How::KillAndStart,
            Remedy::Recreate => How::Recreate,
        };
        let evidence = &job.order.evidence;
        let called = world.restart(of, how, deadline, Some((evidence.rule, evidence.because.clone())));
        match called.result {
            Ok(()) => done(Outcome::Succeeded, called.took),
            Err(error) => {
                world.note(of, &format!("the restart call fails: {error:?}"));
                match error {
                    CallError::TimedOut => {
                        (Stage::LookAfter { row, until: now + called.took + LOOK_AFTER_MAX }, called.took)
                    }
                    CallError::Gone => done(Outcome::Superseded, called.took),
                    CallError::Unreachable | CallError::Refused => done(Outcome::Failed, called.took),
                }
            }
        }
    }

    /// Whether the last look before a restart bears the evidence out. No answer does not.
    fn confirms(job: &Job, world: &mut World) -> bool {
        let seen = Self::look_back(job.of, world);
        let same = match (seen.incarnation(), &job.order.incarnation) {
            (Some(now), Some(then)) => then.may_be(now),
            (_, None) | (None, _) => true,
        };
        match (job.order.remedy, &seen) {
            (Remedy::Start, Observation::Stopped { .. }) | (Remedy::KillAndStart, Observation::Running { .. }) => same,
            (Remedy::Start, Observation::Transitional { .. }) => same && job.order.convicted_in_transition(),
            (Remedy::Recreate, Observation::Missing) => true,
            _ => false,
        }
    }
}

fn deadline_of(remedy: Remedy) -> Ms {
    match remedy {
        Remedy::KillAndStart => RESTART_TIMEOUT + STOP_GRACE,
        Remedy::Start | Remedy::Recreate => RESTART_TIMEOUT,
    }
}
