//! One restart as a value: answers go in, the next step comes out.
//!
//! ```text
//! order ─► place ─► claim (ledger) ─► confirm (look) ─► may act? ─► own clock ─► call ─► outcome (ledger)
//!                   │                 │                 │           │            │
//!                   held, vetoed,     runs, another     not wanted: lease ended, lost: look until the container or the time has
//!                   taken, lease      life, or well     vetoed      or late:     told; left stopped: may act? ─► start it
//!                   lost: nothing     again: superseded lease lost: abandoned
//!                                                       abandoned
//! ```
//!
//! The order of these steps, their deadlines, and what each answer means are decided here and nowhere else. The drivers (the daemon's
//! restarter, the simulator, the checker of random schedules) do what a step says, and hand the answer back.
//!
//! A call that is on its way cannot be taken back, because an engine does not check our epoch. So the lease is checked three times, each
//! time closer to the call: in the claiming transaction, in the statement that writes `acting_at`, and by our own clock on the line before
//! the call. The last check is [`Restart::may_leave`], and only it returns what the call needs. Once `acting_at` is written, the row keeps
//! all other replicas away for as long as the engine may be at work on the call.
//!
//! Two cases cannot be excluded here. First, a process may be suspended between the last check and the call, or together with its clock
//! after it wrote `acting_at`, and wake up when others have settled its row. Second, an engine may carry a call out after the deadline and
//! after the looks that follow a lost answer. In both cases a start finds the container running and does nothing, but a restart of a wedged
//! workspace is made twice.

pub mod confirm;
pub mod lanes;
pub mod left_behind;
pub mod rules;
mod step;
#[cfg(any(test, feature = "table"))]
pub mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::attempt::Outcome;
use crate::moment::Moment;
use crate::plan::Remedy;
use crate::sample::{Fault, Incarnation, Observation};
pub use confirm::{Case, Ground};
pub use rules::Rules;
use rules::{OUTCOME_MARGIN, OUTCOME_PAUSE, OUTCOME_TRIES};
pub use step::{
    ActAnswer, Answer, Call, CallFailed, CallFault, ClaimAnswer, Conclusion, Done, End, How, NotClaimed, Step,
};

/// The state of the process that drives a restart, at the moment at which it hands an answer in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its own monotonic clock.
    pub now: Moment,
    /// The epoch of its lease on the engine, while that surely lasts by its own clock.
    pub epoch: Option<i64>,
    /// Whether it is stopping. Then it hands back a restart that has not reached its engine.
    pub stopping: bool,
}

/// One restart.
#[derive(Debug)]
pub struct Restart {
    case: Case,
    rules: Rules,
    stage: Stage,
}

/// What is waited for.
#[derive(Debug)]
enum Stage {
    Permit,
    Claim { epoch: i64 },
    Confirm { row: i64, epoch: i64 },
    MayAct { acting: Acting, asked_at: Moment },
    Leave { acting: Acting, asked_at: Moment },
    Called { acting: Acting },
    Look { acting: Acting, failed: CallFailed, looks: Looks },
    Finish { row: i64, outcome: Outcome, why: Option<String>, failures: u32 },
    Done,
}

/// An attempt that has been confirmed.
#[derive(Clone, Debug)]
struct Acting {
    row: i64,
    epoch: i64,
    /// The life that the fresh look found.
    life: Incarnation,
    /// Why the first call failed, once it has left the container stopped and a start is to mend that.
    mends: Option<String>,
}

/// How long a container is looked at after a call whose answer was lost.
#[derive(Clone, Copy, Debug)]
struct Looks {
    until: Moment,
    /// Whether the looks go on even when a new life is seen.
    whatever_is_seen: bool,
}

impl Restart {
    /// An order begins.
    #[must_use]
    pub fn new(case: Case, rules: Rules) -> (Self, Step) {
        let can = rules.can(case.ground.remedy());
        let mut restart = Self { case, rules, stage: Stage::Permit };
        let step = if can { Step::Permit } else { restart.not_claimed(NotClaimed::CannotDo) };
        (restart, step)
    }

    /// Takes the answer to the last step and returns the next one. An answer to a different step counts as no answer.
    pub fn answer(&mut self, standing: Standing, answer: Answer) -> Step {
        match (std::mem::replace(&mut self.stage, Stage::Done), answer) {
            (Stage::Permit, Answer::Place) => self.has_a_place(standing),
            (Stage::Claim { epoch }, Answer::Claim(claim)) => self.claimed(epoch, claim),
            (Stage::Confirm { row, epoch }, Answer::Seen(seen)) => self.confirmed(row, epoch, &seen, standing),
            (Stage::MayAct { acting, asked_at }, Answer::MayAct(answer)) => self.allowed(acting, asked_at, answer),
            (Stage::Called { acting }, Answer::Called { left_at, result }) => {
                self.called(acting, standing.now, left_at, result)
            }
            (Stage::Look { acting, failed, looks }, Answer::Seen(seen)) => {
                self.looked(acting, failed, looks, &seen, standing.now)
            }
            (Stage::Finish { outcome, .. }, Answer::Written) => Self::ended(outcome, true),
            (stage, Answer::Nothing(why)) => self.no_answer(stage, standing, why),
            (stage, _) => self.no_answer(stage, standing, "the answer was to another question".to_owned()),
        }
    }

    /// Checks the lease for the third and last time, on the line before the call. Returns what to call.
    ///
    /// Only our own clock is asked. It does not know whether a turn that is under way gives the lease up, or whether another process of our
    /// name has taken it. But whatever becomes of the lease, the row keeps everybody else away for as long as the engine may take, for the
    /// looks after it, and for [`OUTCOME_MARGIN`]. So a call that leaves within that margin has been carried out, or never will be, before
    /// others may settle its row.
    ///
    /// # Errors
    ///
    /// The step that takes the place of the call, which must not be made.
    pub fn may_leave(&mut self, standing: Standing) -> Result<Call, Step> {
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Leave { acting, asked_at } => {
                if standing.epoch != Some(acting.epoch) || standing.now - asked_at >= OUTCOME_MARGIN {
                    let why = "the lease ended, or too much time passed, right before the engine was asked";
                    return Err(self.hands_back(acting, Outcome::Abandoned, why));
                }
                let call = self.call(&acting);
                self.stage = Stage::Called { acting };
                Ok(call)
            }
            stage => Err(self.no_answer(stage, standing, "the engine was not to be asked".to_owned())),
        }
    }

    /// The failure of an earlier call that left the container stopped, while it is being started again.
    #[must_use]
    pub fn mends(&self) -> Option<&str> {
        match &self.stage {
            Stage::MayAct { acting, .. } | Stage::Leave { acting, .. } | Stage::Called { acting } => {
                acting.mends.as_deref()
            }
            _ => None,
        }
    }

    fn has_a_place(&mut self, standing: Standing) -> Step {
        if standing.stopping {
            return self.not_claimed(NotClaimed::Stopping);
        }
        let Some(epoch) = standing.epoch else { return self.not_claimed(NotClaimed::NotOwner) };
        self.stage = Stage::Claim { epoch };
        Step::Claim { epoch, deadline: self.rules.claim_deadline(self.remedy()) }
    }

    fn claimed(&mut self, epoch: i64, claim: ClaimAnswer) -> Step {
        let refused = match claim {
            ClaimAnswer::Granted { row } => {
                self.stage = Stage::Confirm { row, epoch };
                return Step::Confirm;
            }
            ClaimAnswer::Vetoed => NotClaimed::Vetoed,
            ClaimAnswer::Taken => NotClaimed::Taken,
            ClaimAnswer::Held { reason } => NotClaimed::Held { reason },
            ClaimAnswer::NotOwner => NotClaimed::NotOwner,
            ClaimAnswer::FunctionFailed { why } => NotClaimed::FunctionFailed { why },
        };
        self.not_claimed(refused)
    }

    fn confirmed(&mut self, row: i64, epoch: i64, seen: &Observation, standing: Standing) -> Step {
        match self.case.confirm(seen, standing.now) {
            // The restart was not tried, so this uses up no attempt.
            Err(why) => self.finish(row, Outcome::Superseded, Some(why)),
            Ok(_) if standing.stopping => {
                self.finish(row, Outcome::Abandoned, Some("handed back: defib is stopping".to_owned()))
            }
            Ok(life) => self.ask(Acting { row, epoch, life, mends: None }, standing.now),
        }
    }

    fn ask(&mut self, acting: Acting, now: Moment) -> Step {
        let within = self.rules.acting_deadline(self.remedy());
        let step = Step::MayAct { row: acting.row, epoch: acting.epoch, within };
        self.stage = Stage::MayAct { acting, asked_at: now };
        step
    }

    fn allowed(&mut self, acting: Acting, asked_at: Moment, answer: ActAnswer) -> Step {
        match answer {
            ActAnswer::Yes => {
                self.stage = Stage::Leave { acting, asked_at };
                Step::Leave
            }
            ActAnswer::NotWanted => {
                let why = "it is no longer watched, it is suspended or held, or it hung and was heard of again, when it was to be restarted";
                self.hands_back(acting, Outcome::Vetoed, why)
            }
            ActAnswer::NotOwner => {
                self.hands_back(acting, Outcome::Abandoned, "the lease on its engine is no longer ours")
            }
        }
    }

    fn call(&self, acting: &Acting) -> Call {
        let (how, remedy) = match self.remedy() {
            Remedy::KillAndStart if acting.mends.is_none() => {
                (How::KillAndStart { grace: self.rules.stop_grace }, Remedy::KillAndStart)
            }
            Remedy::Recreate => (How::Recreate, Remedy::Recreate),
            Remedy::Start | Remedy::KillAndStart => (How::Start, Remedy::Start),
        };
        Call {
            container: acting.life.container_id.clone(),
            how,
            deadline: self.rules.deadline(remedy),
            mends: acting.mends.clone(),
        }
    }

    fn called(&mut self, acting: Acting, now: Moment, left_at: Moment, result: Result<(), CallFailed>) -> Step {
        let Err(failed) = result else { return self.finish(acting.row, Outcome::Succeeded, None) };
        if let Some(first) = acting.mends {
            let why = format!("{first}; and the start after it: {}", failed.why);
            return self.finish(acting.row, Outcome::Failed, Some(why));
        }
        // Nothing was restarted and the engine was not asked, so this uses up no attempt.
        if matches!(failed.kind, CallFault::Gone | CallFault::NotWanted | CallFault::NotSent) {
            return self.finish(acting.row, Outcome::Superseded, Some(failed.why));
        }
        // A late start does nothing to a container that runs. A late restart kills the life that runs by then. And no look can tell whether
        // our call began the life that is seen, or somebody else did before our call. So that attempt stays open for as long as the engine
        // may be at work on it.
        let whatever_is_seen = self.remedy() == Remedy::KillAndStart;
        let until = if whatever_is_seen {
            left_at + self.rules.deadline(Remedy::KillAndStart) + self.rules.look_after_max()
        } else {
            now + self.rules.look_after_max().saturating_sub(self.rules.look_spacing)
        };
        self.stage = Stage::Look { acting, failed, looks: Looks { until, whatever_is_seen } };
        Step::Look { wait: Duration::ZERO }
    }

    /// What follows a call that failed. If only its answer was lost, the container is looked at until it tells what became of the call. If
    /// the call stopped the container and did not start it again, it is started now, because it must not be left worse than it was found.
    fn looked(&mut self, acting: Acting, failed: CallFailed, looks: Looks, seen: &Observation, now: Moment) -> Step {
        let restarted = matches!(seen, Observation::Running { incarnation, .. } if !acting.life.may_be(incarnation));
        let told = restarted && !looks.whatever_is_seen;
        if failed.kind == CallFault::Lost && !told && now < looks.until {
            self.stage = Stage::Look { acting, failed, looks };
            return Step::Look { wait: self.rules.look_spacing };
        }
        if restarted {
            let why = format!("the engine made it although its answer was lost: {}", failed.why);
            return self.finish(acting.row, Outcome::Succeeded, Some(why));
        }
        let left_stopped = self.remedy() == Remedy::KillAndStart
            && matches!(seen, Observation::Stopped { incarnation, .. } if acting.life.may_be(incarnation));
        if left_stopped {
            // Much time may have passed, so the database is asked again whether a start is still wanted and still ours to make.
            return self.ask(Acting { mends: Some(failed.why), ..acting }, now);
        }
        self.finish(acting.row, Outcome::Failed, Some(failed.why))
    }

    /// Ends the attempt without asking the engine. If an earlier call has touched the container, the attempt has failed.
    fn hands_back(&mut self, acting: Acting, outcome: Outcome, why: &str) -> Step {
        let (outcome, why) = match (acting.mends, outcome) {
            (Some(first), _) => (Outcome::Failed, format!("{first}; left stopped, and not started: {why}")),
            (None, Outcome::Abandoned) => (outcome, format!("handed back: {why}")),
            (None, _) => (outcome, why.to_owned()),
        };
        self.finish(acting.row, outcome, Some(why))
    }

    /// What a missing answer means depends on what was asked.
    fn no_answer(&mut self, stage: Stage, standing: Standing, why: String) -> Step {
        match stage {
            Stage::Permit if standing.stopping => self.not_claimed(NotClaimed::Stopping),
            Stage::Permit | Stage::Claim { .. } | Stage::Done => self.not_claimed(NotClaimed::NoAnswer { why }),
            Stage::Confirm { row, .. } => {
                let why = format!("the look before the restart failed: {why}; nothing was touched");
                self.finish(row, Outcome::Superseded, Some(why))
            }
            Stage::MayAct { acting, .. } | Stage::Leave { acting, .. } => {
                self.hands_back(acting, Outcome::Abandoned, &format!("the database could not confirm the claim: {why}"))
            }
            Stage::Called { acting } => {
                let failed = CallFailed { kind: CallFault::Lost, why };
                self.called(acting, standing.now, standing.now, Err(failed))
            }
            Stage::Look { acting, failed, looks } => {
                let unknown = Observation::Unknown { fault: Fault::Garbled };
                self.looked(acting, failed, looks, &unknown, standing.now)
            }
            Stage::Finish { row, outcome, why, failures } if failures + 1 < OUTCOME_TRIES => {
                let wait = OUTCOME_PAUSE * (1 << failures);
                self.stage = Stage::Finish { row, outcome, why: why.clone(), failures: failures + 1 };
                Step::Finish { row, outcome, why, wait }
            }
            Stage::Finish { outcome, .. } => Self::ended(outcome, false),
        }
    }

    fn finish(&mut self, row: i64, outcome: Outcome, why: Option<String>) -> Step {
        self.stage = Stage::Finish { row, outcome, why: why.clone(), failures: 0 };
        Step::Finish { row, outcome, why, wait: Duration::ZERO }
    }

    fn not_claimed(&mut self, why: NotClaimed) -> Step {
        self.stage = Stage::Done;
        Step::Done(Done { end: End::NotAsked, look_again: false, conclusion: Conclusion::NotClaimed(why) })
    }

    const fn ended(outcome: Outcome, written: bool) -> Step {
        Step::Done(Done { end: End::of(outcome), look_again: true, conclusion: Conclusion::Ended { outcome, written } })
    }

    const fn remedy(&self) -> Remedy {
        self.case.ground.remedy()
    }
}
