//! A restart under way, while the world goes on. As in the daemon, [`defib_policy::restart`] says what is asked in which order and what
//! each answer means. Here the simulated world is asked, and each answer takes time.

use defib_policy::abilities::Abilities;
use defib_policy::attempt::Outcome;
use defib_policy::id::WorkspaceId;
use defib_policy::plan::RestartOrder;
use defib_policy::restart::lanes::Lane;
use defib_policy::restart::{
    ActAnswer, Answer, Call, CallFailed, CallFault, Case, ClaimAnswer, Conclusion, Done, End, How, Restart, Rules,
    Standing, Step,
};

use super::state::{
    Defib, Drive, ENGINE_TIMEOUT, Job, LOOK_AFTER_SPACING, Places, RESTART_CONCURRENCY, RESTART_TIMEOUT, STOP_GRACE,
    index_of,
};
use crate::lease::LeaseProof;
use crate::ledger::{Claimed, MayAct};
use crate::queue::{Event, Wake};
use crate::remedy::{self, CallError};
use crate::time::{Ms, ms, span};
use crate::world::World;

impl Places {
    fn take(&mut self, number: u32, apart: bool) -> bool {
        let (free, waiting) = if apart {
            (!self.apart_taken, &mut self.waiting_apart)
        } else {
            (self.taken < RESTART_CONCURRENCY, &mut self.waiting)
        };
        if !free {
            waiting.push_back(number);
            return false;
        }
        if apart {
            self.apart_taken = true;
        } else {
            self.taken += 1;
        }
        true
    }

    /// A restart has ended and gives its place back. Returns the workspace that has the place now.
    fn give_back(&mut self, apart: bool) -> Option<u32> {
        let next = if apart { self.waiting_apart.pop_front() } else { self.waiting.pop_front() };
        if next.is_none() {
            if apart {
                self.apart_taken = false;
            } else {
                self.taken = self.taken.saturating_sub(1);
            }
        }
        next
    }
}

/// What a restart asks, and who answers it.
trait Outside {
    /// Where the process stands now.
    fn standing(&self, order: &RestartOrder) -> Standing;
    fn claim(&mut self, order: &RestartOrder, epoch: i64, deadline: Ms) -> Answer;
    fn look(&mut self, order: &RestartOrder) -> Answer;
    fn may_act(&mut self, order: &RestartOrder, row: i64, epoch: i64, within: Ms) -> Answer;
    /// Makes a call. Returns how long the answer takes.
    fn call(&mut self, order: &RestartOrder, call: &Call) -> (Result<(), CallFailed>, Ms);
    fn finish(&mut self, row: i64, outcome: Outcome, why: Option<&str>) -> Answer;
    /// How long the transaction of a claim takes, with the platform's function in it.
    fn claim_takes(&self) -> Ms;
    /// How long a statement takes.
    fn latency(&self) -> Ms;
    /// How long a look takes.
    fn look_takes(&self) -> Ms;
}

impl Drive {
    fn new(order: RestartOrder, rules: Rules) -> Self {
        let (restart, step) = Restart::new(Case::of(&order), rules);
        Self { order, restart, step, answer: None }
    }

    /// How it ended, once it has.
    fn done(&self) -> Option<&Done> {
        match &self.step {
            Step::Done(done) => Some(done),
            _ => None,
        }
    }

    /// There is a place for it, or what it has waited for is due. Returns after how long it is to go on; `None` when it has ended.
    fn go_on(&mut self, outside: &mut impl Outside) -> Option<Ms> {
        let answer = match self.answer.take() {
            Some(answer) => answer,
            None => match &self.step {
                Step::Permit => Answer::Place,
                Step::Claim { epoch, deadline } => outside.claim(&self.order, *epoch, ms(*deadline)),
                Step::Confirm | Step::Look { .. } => outside.look(&self.order),
                Step::MayAct { row, epoch, within } => outside.may_act(&self.order, *row, *epoch, ms(*within)),
                Step::Finish { row, outcome, why, .. } => outside.finish(*row, *outcome, why.as_deref()),
                Step::Leave | Step::Done(_) => Answer::Nothing("nothing was asked".to_owned()),
            },
        };
        self.step = self.restart.answer(outside.standing(&self.order), answer);
        if self.step == Step::Leave {
            let standing = outside.standing(&self.order);
            match self.restart.may_leave(standing) {
                Err(instead) => self.step = instead,
                Ok(call) => {
                    let (result, took) = outside.call(&self.order, &call);
                    self.answer = Some(Answer::Called { left_at: standing.now, result });
                    return Some(took);
                }
            }
        }
        match &self.step {
            Step::Permit | Step::Leave => Some(0),
            Step::Claim { .. } => Some(outside.claim_takes()),
            Step::MayAct { .. } => Some(outside.latency()),
            Step::Confirm => Some(outside.look_takes()),
            Step::Look { wait } => Some(ms(*wait) + outside.look_takes()),
            Step::Finish { wait, .. } => Some(ms(*wait) + outside.latency()),
            Step::Done(_) => None,
        }
    }
}

/// A replica and its world.
struct Inside<'a> {
    defib: &'a mut Defib,
    world: &'a mut World,
    of: usize,
}

impl Outside for Inside<'_> {
    fn standing(&self, order: &RestartOrder) -> Standing {
        let now = self.defib.moment(self.world.now);
        Standing { now, epoch: self.defib.ownership.epoch(&order.engine, now), stopping: false }
    }

    fn claim(&mut self, order: &RestartOrder, epoch: i64, deadline: Ms) -> Answer {
        if !self.defib.can_write(&self.world.db) {
            return no_database();
        }
        let (now, lease) = (self.world.now, LeaseProof { engine: &order.engine, holder: &self.defib.name, epoch });
        let claim = match self.world.db.claim(order, self.of, lease, now, span(deadline)) {
            Some(Claimed::Granted { id }) => ClaimAnswer::Granted { row: id },
            Some(Claimed::Vetoed { .. }) => ClaimAnswer::Vetoed,
            Some(Claimed::Taken) => ClaimAnswer::Taken,
            Some(Claimed::Held { reason }) => ClaimAnswer::Held { reason },
            Some(Claimed::NotOwner) => ClaimAnswer::NotOwner,
            None if self.world.db.functions[self.of].mark_dead.fails() => {
                ClaimAnswer::FunctionFailed { why: "mark_dead raised, blocked or took too long".to_owned() }
            }
            None => return Answer::Nothing("a lock was waited for in vain".to_owned()),
        };
        let now = self.defib.moment(now);
        self.defib.lanes.heard(&order.workspace, &claim, now);
        Answer::Claim(claim)
    }

    fn look(&mut self, _: &RestartOrder) -> Answer {
        Answer::Seen(Defib::look_back(self.of, self.world))
    }

    fn may_act(&mut self, order: &RestartOrder, row: i64, epoch: i64, within: Ms) -> Answer {
        if !self.defib.can_write(&self.world.db) {
            return no_database();
        }
        let (now, lease) = (self.world.now, LeaseProof { engine: &order.engine, holder: &self.defib.name, epoch });
        Answer::MayAct(match self.world.db.may_act(row, self.of, lease, span(within), now) {
            MayAct::Yes => ActAnswer::Yes,
            MayAct::NotWanted => ActAnswer::NotWanted,
            MayAct::NotOwner => ActAnswer::NotOwner,
        })
    }

    fn call(&mut self, order: &RestartOrder, call: &Call) -> (Result<(), CallFailed>, Ms) {
        let how = match call.how {
            How::Start => remedy::How::Start,
            How::KillAndStart { .. } => remedy::How::KillAndStart,
            How::Recreate => remedy::How::Recreate,
        };
        let because = Some((order.evidence.rule, order.evidence.because.clone()));
        let called = self.world.restart(self.of, how, ms(call.deadline), because);
        let result = called.result.map_err(|error| {
            self.world.note(self.of, &format!("the restart call fails: {error:?}"));
            let kind = match error {
                CallError::TimedOut => CallFault::Lost,
                CallError::Gone => CallFault::Gone,
                CallError::Unreachable | CallError::Refused => CallFault::Refused,
            };
            CallFailed { kind, why: format!("{error:?}") }
        });
        (result, called.took)
    }

    fn finish(&mut self, row: i64, outcome: Outcome, why: Option<&str>) -> Answer {
        if !self.defib.can_write(&self.world.db) {
            return no_database();
        }
        let now = self.world.now;
        if self.world.db.finish(row, outcome, now) && outcome != Outcome::Succeeded {
            self.world.note(self.of, &format!("{}: {}", outcome.label(), why.unwrap_or_default()));
        }
        Answer::Written
    }

    fn claim_takes(&self) -> Ms {
        self.world.db.claim_takes(self.of)
    }

    fn latency(&self) -> Ms {
        self.world.db.latency
    }

    fn look_takes(&self) -> Ms {
        self.world.engines[self.world.workspaces[self.of].engine].inspect.min(ENGINE_TIMEOUT)
    }
}

impl Defib {
    pub(super) fn submit(&mut self, me: u8, order: RestartOrder, world: &mut World) {
        let of = index_of(&order.workspace);
        if self.in_flight[of] {
            return;
        }
        let at = self.moment(world.now);
        let lane = self.lanes.of(&order.workspace, at);
        if let Lane::NotBefore(_) = lane {
            self.ended(me, &order.workspace, End::NotAsked, world);
            return;
        }
        let (engine, apart) = (world.workspaces[of].engine, lane == Lane::Apart);
        let drive = Drive::new(order, rules(world.abilities(engine)));
        if let Some(done) = drive.done() {
            self.ended(me, &drive.order.workspace, done.end, world);
            return;
        }
        self.in_flight[of] = true;
        let number = self.number();
        self.jobs.insert(number, Job { of, apart, drive });
        if self.places[engine].take(number, apart) {
            world.push(world.now, Event::Wake(me, Wake::Job(number)));
        }
    }

    /// Tells the judge how an order ended, and looks at once at those whose turn it is now.
    fn ended(&mut self, me: u8, workspace: &WorkspaceId, end: End, world: &mut World) {
        let now = world.now;
        for (_, next) in self.judge.order_ended(workspace, end, self.moment(now)) {
            self.look_at(me, index_of(&next), now, world);
        }
    }

    pub(super) fn advance(&mut self, me: u8, number: u32, world: &mut World) {
        let Some(mut job) = self.jobs.remove(&number) else { return };
        let wait = job.drive.go_on(&mut Inside { defib: self, world, of: job.of });
        if let Some(wait) = wait {
            self.jobs.insert(number, job);
            world.push(world.now + wait, Event::Wake(me, Wake::Job(number)));
            return;
        }
        self.in_flight[job.of] = false;
        let engine = world.workspaces[job.of].engine;
        if let Some(next) = self.places[engine].give_back(job.apart) {
            world.push(world.now, Event::Wake(me, Wake::Job(next)));
        }
        if let Some(done) = job.drive.done() {
            let now = world.now;
            self.ended(me, &job.drive.order.workspace, done.end, world);
            if let Conclusion::NotClaimed(why) = &done.conclusion {
                world.note(job.of, &format!("no claim: {why:?}"));
            }
            if done.look_again {
                self.look_at(me, job.of, now, world);
            }
        }
    }
}

fn rules(abilities: Abilities) -> Rules {
    let rules = Rules::new(span(RESTART_TIMEOUT), span(STOP_GRACE), abilities);
    Rules { look_spacing: span(LOOK_AFTER_SPACING), ..rules }
}

fn no_database() -> Answer {
    Answer::Nothing("the database does not answer, or takes no writes".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use defib_policy::moment::Moment;
    use defib_policy::restart::table::{self, Question, Script};

    use super::*;

    /// The world of a conversation.
    struct Told {
        script: Script,
        now: Ms,
    }

    impl Outside for Told {
        fn standing(&self, _: &RestartOrder) -> Standing {
            Standing { now: Moment::after(span(self.now)), epoch: Some(1), stopping: false }
        }

        fn claim(&mut self, _: &RestartOrder, _: i64, _: Ms) -> Answer {
            self.script.ask(Question::Claim).unwrap()
        }

        fn look(&mut self, _: &RestartOrder) -> Answer {
            self.script.ask(Question::Look).unwrap()
        }

        fn may_act(&mut self, _: &RestartOrder, _: i64, _: i64, _: Ms) -> Answer {
            self.script.ask(Question::MayAct).unwrap()
        }

        fn call(&mut self, _: &RestartOrder, call: &Call) -> (Result<(), CallFailed>, Ms) {
            let question = if call.how == How::Start { Question::Start } else { Question::KillAndStart };
            match self.script.ask(question).unwrap() {
                Answer::Called { result, .. } => (result, 0),
                other => panic!("{other:?}"),
            }
        }

        fn finish(&mut self, _: i64, outcome: Outcome, _: Option<&str>) -> Answer {
            self.script.ask(Question::Finish(outcome)).unwrap()
        }

        fn claim_takes(&self) -> Ms {
            2
        }

        fn latency(&self) -> Ms {
            2
        }

        fn look_takes(&self) -> Ms {
            5
        }
    }

    /// The daemon's restarter plays the same table.
    #[test]
    fn the_simulator_asks_what_the_daemon_asks() {
        for conversation in table::conversations(Moment::after(Duration::from_secs(1_000))) {
            let mut told = Told { script: Script::new(&conversation), now: 1_000_000 };
            let mut drive = Drive::new(conversation.order.clone(), rules(Abilities::CONTAINER_ENGINE));
            while drive.done().is_none() {
                told.now += drive.go_on(&mut told).unwrap_or_default();
                assert!(told.now < 1_000_000 + ms(table::LASTS_MAX), "{}", conversation.name);
            }
            told.script.is_over().unwrap();
            assert_eq!(drive.done().map(|done| done.end), Some(conversation.end), "{}", conversation.name);
        }
    }

    #[test]
    fn whoever_waits_has_the_place_of_whoever_ends() {
        let mut places = Places::default();
        for number in 0..4 {
            assert!(places.take(number, false));
        }
        assert!(!places.take(4, false));
        assert!(places.take(5, true), "the lane of one is another");
        assert!(!places.take(6, true));
        assert_eq!(places.give_back(false), Some(4));
        assert_eq!(places.give_back(true), Some(6));
        assert_eq!((places.give_back(false), places.give_back(true)), (None, None));
        assert!(places.take(7, false) && places.take(8, true));
    }
}
