//! A restart on its way, as the daemon's `restarter.rs` has it: claim, confirm, ask, look at the own clock, call, look after, finish.

use defib_policy::attempt::Outcome;
use defib_policy::moment::Moment;
use defib_policy::sample::Observation;

use super::engine::Call;
use super::process::Job;
use super::walk::{Answer, Order, Statement, Walk};
use crate::ledger::{Claimed, MayAct};
use crate::time::{Ms, secs, span};
use crate::weakening::Weakening;

/// `DEFIB_RESTART_TIMEOUT`.
pub(super) const RESTART_TIMEOUT: Ms = 30_000;
/// `DEFIB_STOP_GRACE`.
pub(super) const STOP_GRACE: Ms = 10_000;
/// How long a container is looked at after a restart whose answer was lost.
pub(super) const LOOK_AFTER_MAX: Ms = 10_000;
/// Between two of those looks. Longer than the daemon's, for fewer steps in which nothing happens.
const LOOK_AFTER_SPACING: Ms = 2_000;
/// What writing the outcome may take.
const OUTCOME_MARGIN: Ms = 10_000;
/// Tries to write an outcome.
const OUTCOME_TRIES: u32 = 5;

/// How long the engine may take.
pub(super) const fn deadline_of(kills: bool) -> Ms {
    if kills { RESTART_TIMEOUT + STOP_GRACE } else { RESTART_TIMEOUT }
}

/// What it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A permit.
    Permit,
    ClaimBegins,
    ClaimInserts,
    ClaimCommits,
    Confirm,
    MayAct,
    /// The line that looks at the own clock.
    LastCheck,
    /// The line after it, which calls.
    Leaves,
    Called,
    LookAfter,
    LookAgain,
    Finish,
    FinishAgain,
}

/// A restart.
#[derive(Debug)]
pub(super) struct Restart {
    pub(super) order: Order,
    pub(super) stage: Stage,
    /// Its process was stopped where nothing can notice it any more.
    pub(super) window: bool,
    epoch: i64,
    row: Option<i64>,
    looked_at: Ms,
    asked_at: Moment,
    left_at: Ms,
    container: u32,
    /// The restart left it stopped, and this is the start that mends it.
    mends: bool,
    lost: bool,
    until: Ms,
    outcome: Outcome,
    tries: u32,
}

impl Restart {
    pub(super) fn new(order: Order) -> Self {
        Self {
            order,
            stage: Stage::Permit,
            window: false,
            epoch: 0,
            row: None,
            looked_at: 0,
            asked_at: Moment::ZERO,
            left_at: 0,
            container: 0,
            mends: false,
            lost: false,
            until: 0,
            outcome: Outcome::Abandoned,
            tries: 0,
        }
    }

    /// A point at which being stopped is interesting.
    pub(super) const fn is_delicate(&self) -> bool {
        matches!(self.stage, Stage::MayAct | Stage::LastCheck | Stage::Leaves | Stage::Called)
    }
}

impl Walk {
    pub(super) fn restart_goes_on(&mut self, number: u64, job: &Job, it: &mut Restart, answer: Answer) -> bool {
        match (it.stage, answer) {
            (Stage::Permit, _) if it.tries == 0 => {
                // Others are at work on its engine.
                it.tries = 1;
                let wait = if self.dice.chance(0.1) { self.dice.between(1, secs(20)) } else { 0 };
                self.wait(number, job, wait);
                true
            }
            (Stage::Permit, _) => self.claim_begins(number, job, it),
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
            (Stage::ClaimCommits, Answer::Committed) => it.row.is_some() && self.confirm(number, job, it),
            (Stage::ClaimBegins | Stage::ClaimInserts | Stage::ClaimCommits, _) => {
                self.hang_up(number, job.process);
                false
            }
            (Stage::Confirm, answer) => self.confirmed(number, job, it, &answer),
            (Stage::MayAct, answer) => self.allowed(number, job, it, &answer),
            (Stage::LastCheck, _) => self.last_check(number, job, it),
            (Stage::Leaves, _) => self.leaves(number, job, it),
            (Stage::Called, answer) => self.called(number, job, it, &answer),
            (Stage::LookAfter, answer) => self.looks_after(number, job, it, &answer),
            (Stage::LookAgain, _) => self.look_after(number, job, it),
            (Stage::Finish, Answer::Ended) => false,
            (Stage::Finish, _) => {
                it.tries += 1;
                it.stage = Stage::FinishAgain;
                self.wait(number, job, 100 << it.tries);
                it.tries < OUTCOME_TRIES
            }
            (Stage::FinishAgain, _) => self.finish_with(number, job, it),
        }
    }

    fn epoch_of(&self, job: &Job, it: &Restart) -> Option<i64> {
        self.processes[job.process].epoch(&self.engines[self.boxes[it.order.of].engine], self.now)
    }

    fn claim_begins(&mut self, number: u64, job: &Job, it: &mut Restart) -> bool {
        let Some(epoch) = self.epoch_of(job, it) else { return false };
        it.epoch = epoch;
        it.stage = Stage::ClaimBegins;
        self.ask(number, job, Statement::ClaimBegin(Box::new(it.order.clone()), epoch));
        true
    }

    fn confirm(&mut self, number: u64, job: &Job, it: &mut Restart) -> bool {
        it.stage = Stage::Confirm;
        if self.is(Weakening::NoFreshLook) {
            it.container = self.boxes[it.order.of].containers;
            it.looked_at = self.now;
            return self.ask_to_act(number, job, it);
        }
        self.look(number, job.ticket, job.process, it.order.of);
        true
    }

    fn confirmed(&mut self, number: u64, job: &Job, it: &mut Restart, answer: &Answer) -> bool {
        let Answer::Seen { observation, at, .. } = answer else {
            return self.finish(number, job, it, Outcome::Superseded);
        };
        let same = observation.incarnation().is_some_and(|life| it.order.convicted.may_be(life));
        let agrees = match observation {
            Observation::Running { .. } => it.order.kills,
            Observation::Stopped { .. } => !it.order.kills,
            _ => false,
        };
        if !same || !agrees {
            return self.finish(number, job, it, Outcome::Superseded);
        }
        it.looked_at = *at;
        it.container = self.boxes[it.order.of].containers;
        if self.processes[job.process].is_stopping() {
            return self.finish(number, job, it, Outcome::Abandoned);
        }
        self.ask_to_act(number, job, it)
    }

    fn ask_to_act(&mut self, number: u64, job: &Job, it: &mut Restart) -> bool {
        let Some(id) = it.row else { return false };
        it.stage = Stage::MayAct;
        it.window = false;
        it.asked_at = self.processes[job.process].clock(self.now);
        let within = span(deadline_of(it.order.kills) + LOOK_AFTER_MAX + OUTCOME_MARGIN);
        self.ask(number, job, Statement::MayAct { id, of: it.order.of, epoch: it.epoch, within });
        true
    }

    fn allowed(&mut self, number: u64, job: &Job, it: &mut Restart, answer: &Answer) -> bool {
        let refused = match answer {
            Answer::MayAct(MayAct::Yes) => None,
            Answer::MayAct(MayAct::NotWanted) => Some(Outcome::Vetoed),
            _ => Some(Outcome::Abandoned),
        };
        if let Some(outcome) = refused {
            return self.finish(number, job, it, if it.mends { Outcome::Failed } else { outcome });
        }
        it.stage = Stage::LastCheck;
        self.wait(number, job, 0);
        true
    }

    fn last_check(&mut self, number: u64, job: &Job, it: &mut Restart) -> bool {
        let since_asked = self.processes[job.process].clock(self.now) - it.asked_at;
        let late = since_asked >= span(OUTCOME_MARGIN) && !self.is(Weakening::OnlyTheLeasesClock);
        let lapsed = self.epoch_of(job, it) != Some(it.epoch);
        if (late || lapsed) && !self.is(Weakening::NoLocalClock) {
            let outcome = if it.mends { Outcome::Failed } else { Outcome::Abandoned };
            return self.finish(number, job, it, outcome);
        }
        it.stage = Stage::Leaves;
        self.wait(number, job, 0);
        true
    }

    fn leaves(&mut self, number: u64, job: &Job, it: &mut Restart) -> bool {
        let Some(row) = it.row else { return false };
        it.stage = Stage::Called;
        it.left_at = self.now;
        self.call(Call {
            row,
            of: it.order.of,
            process: job.process,
            epoch: it.epoch,
            kills: it.order.kills && !it.mends,
            life: it.order.life,
            container: it.container,
            looked_at: it.looked_at,
            left_at: self.now,
            window: it.window,
            job: number,
            ticket: job.ticket,
        });
        true
    }

    fn called(&mut self, number: u64, job: &Job, it: &mut Restart, answer: &Answer) -> bool {
        match answer {
            Answer::CallDone => self.finish(number, job, it, Outcome::Succeeded),
            _ if it.mends => self.finish(number, job, it, Outcome::Failed),
            Answer::CallGone => self.finish(number, job, it, Outcome::Superseded),
            _ => {
                it.lost = matches!(answer, Answer::CallLost);
                // An engine that is at a restart finishes it, whoever waits; a start that comes late does nothing.
                let briefly = !it.order.kills || self.is(Weakening::LookAfterBriefly);
                it.until = LOOK_AFTER_MAX + if briefly { self.now } else { it.left_at + deadline_of(true) };
                self.look_after(number, job, it)
            }
        }
    }

    fn look_after(&mut self, number: u64, job: &Job, it: &mut Restart) -> bool {
        it.stage = Stage::LookAfter;
        self.look(number, job.ticket, job.process, it.order.of);
        true
    }

    fn looks_after(&mut self, number: u64, job: &Job, it: &mut Restart, answer: &Answer) -> bool {
        let Answer::Seen { observation, at, .. } = answer else { return false };
        let same = observation.incarnation().is_some_and(|life| it.order.convicted.may_be(life));
        let restarted = matches!(observation, Observation::Running { .. }) && !same;
        let whatever_is_seen = it.order.kills && !self.is(Weakening::AnyNewLifeIsOurs);
        if it.lost && (whatever_is_seen || !restarted) && self.now < it.until {
            it.stage = Stage::LookAgain;
            self.wait(number, job, LOOK_AFTER_SPACING);
            return true;
        }
        if restarted {
            return self.finish(number, job, it, Outcome::Succeeded);
        }
        let left_stopped = it.order.kills && same && matches!(observation, Observation::Stopped { .. });
        if !left_stopped || self.epoch_of(job, it).is_none() {
            return self.finish(number, job, it, Outcome::Failed);
        }
        it.mends = true;
        it.looked_at = *at;
        if self.is(Weakening::MendUnasked) {
            it.window = false;
            it.stage = Stage::Leaves;
            self.wait(number, job, 0);
            return true;
        }
        self.ask_to_act(number, job, it)
    }

    fn finish(&mut self, number: u64, job: &Job, it: &mut Restart, outcome: Outcome) -> bool {
        it.outcome = outcome;
        it.tries = 0;
        self.finish_with(number, job, it)
    }

    fn finish_with(&mut self, number: u64, job: &Job, it: &mut Restart) -> bool {
        let Some(id) = it.row else { return false };
        it.stage = Stage::Finish;
        self.ask(number, job, Statement::Finish(id, it.outcome));
        true
    }
}
