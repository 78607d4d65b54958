//! A restart on its way. What is asked in which order, and what each answer means, is [`defib_policy::restart`]'s, as in the daemon; here
//! each step is taken apart where a process can be stopped in the middle of it.
//!
//! A rule is left out by telling the value what it would hear without it: of a look that nobody made, or by a clock that has not moved.

use defib_policy::moment::Moment;
use defib_policy::restart::{
    ActAnswer, Answer as Heard, CallFailed, CallFault, Case, ClaimAnswer, Ground, How, Restart as Value, Standing, Step,
};
use defib_policy::sample::{Exit, Health, Observation};

use super::deadlines::{RESTART_TIMEOUT, STOP_GRACE, rules};
use super::state::{Answer, Call, Job, Order, Restart, Stage, Statement, Walk};
use crate::ledger::{Claimed, MayAct};
use crate::time::{Ms, hours, ms, secs, span};
use crate::weakening::Weakening;

impl Restart {
    pub(super) fn new(order: Order, ordered_at: Moment) -> Self {
        let health = Health::None;
        let ground = if order.kills { Ground::Wedged { health } } else { Ground::Stopped };
        let case = Case { ground, convicted: Some(order.convicted.clone()), ordered_at };
        let (value, step) = Value::new(case, rules());
        Self {
            order,
            stage: Stage::Permit,
            window: false,
            has_waited: false,
            value,
            step,
            epoch: 0,
            row: None,
            looked_at: 0,
            asked_at: Moment::ZERO,
            left_at: Moment::ZERO,
            container: 0,
            call: None,
        }
    }

    /// A point at which being stopped is interesting: before the claim is heard of, so that others may settle it meanwhile, and wherever
    /// the lease may end unnoticed.
    pub(super) const fn is_delicate(&self) -> bool {
        matches!(self.stage, Stage::ClaimCommits | Stage::LastCheck | Stage::Leaves | Stage::Called)
            || self.waits_for_the_yes()
    }

    /// It has asked whether it may act, and has not heard.
    pub(super) const fn waits_for_the_yes(&self) -> bool {
        matches!((self.stage, &self.step), (Stage::Asked, Step::MayAct { .. }))
    }
}

impl Walk {
    pub(super) fn restart_goes_on(&mut self, number: u64, job: &Job, it: &mut Restart, answer: Answer) -> bool {
        match (it.stage, answer) {
            (Stage::Permit, _) if !it.has_waited => {
                it.has_waited = true;
                let wait = if self.dice.chance(0.1) { self.dice.between(1, secs(20)) } else { 0 };
                self.wait(number, job, wait);
                true
            }
            (Stage::Permit, _) => self.hears(number, job, it, Heard::Place),
            (Stage::ClaimBegins, Answer::Begun) => {
                it.stage = Stage::ClaimInserts;
                self.ask(number, job, Statement::ClaimInsert(Box::new(it.order.clone()), it.epoch));
                true
            }
            (Stage::ClaimInserts, Answer::Claimed(claimed @ (Claimed::Granted { .. } | Claimed::Vetoed { .. }))) => {
                it.row = if let Claimed::Granted { id } = claimed { Some(id) } else { None };
                it.stage = Stage::ClaimCommits;
                self.ask(number, job, Statement::ClaimCommit);
                true
            }
            (Stage::ClaimCommits, Answer::Committed) => {
                let claim = it.row.map_or(ClaimAnswer::Vetoed, |row| ClaimAnswer::Granted { row });
                self.hears(number, job, it, Heard::Claim(claim))
            }
            (Stage::ClaimBegins | Stage::ClaimInserts | Stage::ClaimCommits, answer) => {
                self.hang_up(number, job.process);
                let heard = match answer {
                    Answer::Claimed(Claimed::Taken) => Heard::Claim(ClaimAnswer::Taken),
                    Answer::Claimed(Claimed::Held { reason }) => Heard::Claim(ClaimAnswer::Held { reason }),
                    Answer::Claimed(Claimed::NotOwner) => Heard::Claim(ClaimAnswer::NotOwner),
                    _ => nothing(),
                };
                self.hears(number, job, it, heard)
            }
            (Stage::Asked, answer) => self.answered_by(number, job, it, answer),
            (Stage::NotYet, _) => {
                it.stage = Stage::Asked;
                self.asks(number, job, it)
            }
            (Stage::LastCheck, _) => self.last_check(number, job, it),
            (Stage::Leaves, _) => self.leaves(number, job, it),
            (Stage::Called, answer) => {
                let result = match answer {
                    Answer::CallDone => Ok(()),
                    Answer::CallGone => Err(CallFault::Gone),
                    Answer::CallRefused => Err(CallFault::Refused),
                    _ => Err(CallFault::Lost),
                };
                let result = result.map_err(|kind| CallFailed { kind, why: String::new() });
                let briefly = self.is(Weakening::LookAfterBriefly);
                let now = self.processes[job.process].clock(self.now);
                let left_at = if briefly { now.minus(span(RESTART_TIMEOUT + STOP_GRACE)) } else { it.left_at };
                self.hears(number, job, it, Heard::Called { left_at, result })
            }
        }
    }

    fn standing(&self, job: &Job, it: &Restart) -> Standing {
        let process = &self.processes[job.process];
        let epoch = process.epoch(&self.engines[self.boxes[it.order.of].engine], self.now);
        Standing { now: process.clock(self.now), epoch, stopping: process.is_stopping() }
    }

    fn hears(&mut self, number: u64, job: &Job, it: &mut Restart, heard: Heard) -> bool {
        let mut standing = self.standing(job, it);
        let looks_on = matches!((&it.step, &heard), (Step::Look { .. }, Heard::Seen(seen))
            if matches!(seen, Observation::Running { incarnation, .. } if !it.order.convicted.may_be(incarnation)));
        if looks_on && self.is(Weakening::AnyNewLifeIsOurs) {
            standing.now = standing.now + span(hours(1));
        }
        let step = it.value.answer(standing, heard);
        self.follow(number, job, it, step)
    }

    /// What the step asks for, now or when it is due.
    fn follow(&mut self, number: u64, job: &Job, it: &mut Restart, step: Step) -> bool {
        it.step = step;
        match it.step {
            Step::Look { wait } | Step::Finish { wait, .. } if !wait.is_zero() => {
                it.stage = Stage::NotYet;
                self.wait(number, job, ms(wait));
                true
            }
            _ => {
                it.stage = Stage::Asked;
                self.asks(number, job, it)
            }
        }
    }

    fn asks(&mut self, number: u64, job: &Job, it: &mut Restart) -> bool {
        match it.step {
            Step::Done(_) => return false,
            Step::Permit => it.stage = Stage::Permit,
            Step::Claim { epoch, deadline } => {
                it.stage = Stage::ClaimBegins;
                (it.epoch, it.order.deadline) = (epoch, deadline);
                self.ask(number, job, Statement::ClaimBegin(Box::new(it.order.clone()), epoch));
            }
            Step::Confirm if self.is(Weakening::NoFreshLook) => {
                let incarnation = it.order.convicted.clone();
                let observation = if it.order.kills {
                    Observation::Running { incarnation, health: Health::None }
                } else {
                    Observation::Stopped { incarnation, exit: Exit::default() }
                };
                return self.has_seen(number, job, it, observation, self.now);
            }
            Step::Confirm | Step::Look { .. } => self.look(number, job.ticket, job.process, it.order.of),
            Step::MayAct { row, epoch, within } => {
                it.window = false;
                it.asked_at = self.processes[job.process].clock(self.now);
                if self.is(Weakening::MendUnasked) && it.value.mends().is_some() {
                    return self.hears(number, job, it, Heard::MayAct(ActAnswer::Yes));
                }
                self.ask(number, job, Statement::MayAct { id: row, of: it.order.of, epoch, within });
            }
            Step::Leave => {
                it.stage = Stage::LastCheck;
                self.wait(number, job, 0);
            }
            Step::Finish { row, outcome, .. } => self.ask(number, job, Statement::Finish(row, outcome)),
        }
        true
    }

    fn answered_by(&mut self, number: u64, job: &Job, it: &mut Restart, answer: Answer) -> bool {
        let heard = match answer {
            Answer::Seen { observation, at, .. } => return self.has_seen(number, job, it, observation, at),
            Answer::MayAct(MayAct::Yes) => Heard::MayAct(ActAnswer::Yes),
            Answer::MayAct(MayAct::NotWanted) => Heard::MayAct(ActAnswer::NotWanted),
            Answer::MayAct(MayAct::NotOwner) => Heard::MayAct(ActAnswer::NotOwner),
            Answer::Ended => Heard::Written,
            _ => nothing(),
        };
        self.hears(number, job, it, heard)
    }

    fn has_seen(&mut self, number: u64, job: &Job, it: &mut Restart, seen: Observation, at: Ms) -> bool {
        it.looked_at = at;
        if it.step == Step::Confirm {
            it.container = self.boxes[it.order.of].containers;
        }
        self.hears(number, job, it, Heard::Seen(seen))
    }

    fn last_check(&mut self, number: u64, job: &Job, it: &mut Restart) -> bool {
        let mut standing = self.standing(job, it);
        let unasked = self.is(Weakening::MendUnasked) && it.value.mends().is_some();
        if self.is(Weakening::NoLocalClock) || unasked {
            (standing.now, standing.epoch) = (it.asked_at, Some(it.epoch));
        } else if self.is(Weakening::OnlyTheLeasesClock) {
            standing.now = it.asked_at;
        }
        match it.value.may_leave(standing) {
            Err(instead) => self.follow(number, job, it, instead),
            Ok(call) => {
                it.call = Some(call);
                it.stage = Stage::Leaves;
                self.wait(number, job, 0);
                true
            }
        }
    }

    fn leaves(&mut self, number: u64, job: &Job, it: &mut Restart) -> bool {
        let (Some(row), Some(call)) = (it.row, it.call.take()) else { return false };
        it.stage = Stage::Called;
        it.left_at = self.processes[job.process].clock(self.now);
        self.call(Call {
            row,
            of: it.order.of,
            process: job.process,
            epoch: it.epoch,
            kills: matches!(call.how, How::KillAndStart { .. }),
            life: it.order.life,
            container: it.container,
            looked_at: it.looked_at,
            left_at: self.now,
            deadline: ms(call.deadline),
            window: it.window,
            job: number,
            ticket: job.ticket,
        });
        true
    }
}

fn nothing() -> Heard {
    Heard::Nothing("no answer".to_owned())
}
