//! Restarts from their order to their end, question by question, for the tests of those who drive them.
//!
//! There are two programs that drive a [`Restart`](super::Restart) against a world: the daemon's restarter and the simulator. Each has a
//! test that plays this table: its world gives these answers, and it must ask these questions, in this order, and end like this. So neither
//! of them can do anything that the other cannot. The module exists only with the feature `table` and in this crate's own tests.

use std::time::Duration;

use super::{ActAnswer, Answer, CallFailed, CallFault, ClaimAnswer, End};
use crate::attempt::Outcome;
use crate::fleet::Kind;
use crate::moment::{Moment, Timestamp};
use crate::plan::{Remedy, RestartOrder};
use crate::sample::{Exit, Fault, Health, Incarnation, Observation, Transition};
use crate::verdict::{Evidence, HeartbeatEvidence, Rule, Verdict, Witness};

/// A question that reaches the outside world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The ledger is asked for the attempt.
    Claim,
    /// The engine is asked for the container.
    Look,
    /// The database is asked whether the engine may be asked.
    MayAct,
    /// The engine is asked to start it.
    Start,
    /// The engine is asked to kill and start it.
    KillAndStart,
    /// The outcome is written.
    Finish(Outcome),
}

/// One restart.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// What it is about.
    pub name: &'static str,
    /// The order.
    pub order: RestartOrder,
    /// The questions, each with its answer. Where a look is followed by more looks before another question, they are all answered
    /// alike, however many there are.
    pub talk: Vec<(Question, Answer)>,
    /// How it ends.
    pub end: End,
}

/// The life that every order is about.
#[must_use]
pub fn convicted() -> Incarnation {
    Incarnation { container_id: "c1".into(), started_at: Some(Timestamp(1_000_000)) }
}

/// The life after it.
#[must_use]
pub fn successor() -> Incarnation {
    Incarnation { started_at: Some(Timestamp(2_000_000)), ..convicted() }
}

/// An order for workspace `w1` on engine `e1`, given at `at`: `sample` is what convicted the container.
#[must_use]
pub fn order(remedy: Remedy, rule: Rule, sample: Observation, at: Moment) -> RestartOrder {
    let verdict = match rule {
        Rule::RunningWedged => Verdict::Wedged,
        Rule::RunningUnhealthy => Verdict::Unhealthy,
        _ => Verdict::Dead,
    };
    RestartOrder {
        workspace: "w1".into(),
        engine: "e1".into(),
        incarnation: sample.incarnation().cloned(),
        kind: Kind::Container,
        container_ref: None,
        instance_ref: None,
        policy: None,
        remedy,
        attempt: 1,
        verdict,
        evidence: Evidence {
            rule,
            because: "the table says so".to_owned(),
            would_change: rule.would_change(),
            held: None,
            engine: "e1".into(),
            status: "online".into(),
            last_heartbeat_at: None,
            last_activity_at: None,
            heartbeat: HeartbeatEvidence {
                witness: Witness::Stale,
                age_seconds: None,
                window_seconds: 75.0,
                interval_seconds: 30.0,
                interval_learned: false,
            },
            sample: Some(sample),
            sample_age_seconds: Some(0.0),
            probe: None,
            reporters: 0,
            attempt: Some(1),
            retry_in_seconds: None,
            local_health_multiplier: 1,
            own_settings: Vec::new(),
        },
        at,
        stopped_ago: None,
        by_operator: None,
    }
}

fn stopped(incarnation: Incarnation) -> Observation {
    Observation::Stopped { incarnation, exit: Exit::default() }
}

fn running(incarnation: Incarnation) -> Observation {
    Observation::Running { incarnation, health: Health::None }
}

fn created() -> Observation {
    Observation::Transitional { incarnation: convicted(), transition: Transition::Created }
}

fn unhealthy() -> Observation {
    let health = Health::Unhealthy { last_check_at: None, due_within: None };
    Observation::Running { incarnation: convicted(), health }
}

fn failed(kind: CallFault) -> Answer {
    let failed = CallFailed { kind, why: "the engine says no".to_owned() };
    Answer::Called { left_at: Moment::ZERO, result: Err(failed) }
}

fn nothing() -> Answer {
    Answer::Nothing("nobody answers".to_owned())
}

/// Every restart that the drivers must play as written here. The orders are given at `now`.
#[must_use]
#[expect(clippy::too_many_lines, reason = "a table: one restart after the other")]
pub fn conversations(now: Moment) -> Vec<Conversation> {
    use Question::{Claim, Finish, KillAndStart, Look, MayAct, Start};

    let dead = || order(Remedy::Start, Rule::StoppedStale, stopped(convicted()), now);
    let stuck = || order(Remedy::Start, Rule::StoppedStale, created(), now);
    let wedged = || order(Remedy::KillAndStart, Rule::RunningWedged, running(convicted()), now);
    let sick = || order(Remedy::KillAndStart, Rule::RunningUnhealthy, unhealthy(), now);
    let gone = || order(Remedy::Recreate, Rule::MissingStale, Observation::Missing, now);

    let claimed = || (Claim, Answer::Claim(ClaimAnswer::Granted { row: 1 }));
    let refused = |claim| vec![(Claim, Answer::Claim(claim))];
    let sees = |observation| (Look, Answer::Seen(observation));
    let may = |answer| (MayAct, Answer::MayAct(answer));
    let made = || Answer::Called { left_at: Moment::ZERO, result: Ok(()) };
    let ends = |outcome| (Finish(outcome), Answer::Written);
    let unknown = || Observation::Unknown { fault: Fault::TimedOut };
    let same = || stopped(convicted());

    let superseded = |order, seen| (order, vec![claimed(), sees(seen), ends(Outcome::Superseded)], End::NotAsked);
    let asked =
        |order, seen, answer, outcome| (order, vec![claimed(), sees(seen), answer, ends(outcome)], End::NotAsked);
    let called = |order, seen, question, answer, looks: Vec<_>, outcome| {
        let mut talk = vec![claimed(), sees(seen), may(ActAnswer::Yes), (question, answer)];
        talk.extend(looks);
        talk.push(ends(outcome));
        (order, talk, End::of(outcome))
    };
    let started = |order, seen| called(order, seen, Start, made(), vec![], Outcome::Succeeded);
    let killed = |order, seen| called(order, seen, KillAndStart, made(), vec![], Outcome::Succeeded);
    let half = |then: Vec<_>, outcome| {
        let mut looks = vec![sees(same())];
        looks.extend(then);
        called(wedged(), running(convicted()), KillAndStart, failed(CallFault::Refused), looks, outcome)
    };

    let table = vec![
        ("a stopped one is started", started(dead(), same())),
        ("one that was created and never started is started", started(stuck(), created())),
        ("a wedged one is killed and started", killed(wedged(), running(convicted()))),
        ("an unhealthy one is killed and started", killed(sick(), unhealthy())),
        ("a missing one is not restarted by an engine that cannot make it again", (gone(), vec![], End::NotAsked)),
        ("the platform refuses", (dead(), refused(ClaimAnswer::Vetoed), End::NotAsked)),
        ("another attempt is under way", (dead(), refused(ClaimAnswer::Taken), End::NotAsked)),
        ("a hold stands", (dead(), refused(ClaimAnswer::Held { reason: "drill".to_owned() }), End::NotAsked)),
        ("the lease is lost before the claim", (dead(), refused(ClaimAnswer::NotOwner), End::NotAsked)),
        (
            "the platform's function fails",
            (dead(), refused(ClaimAnswer::FunctionFailed { why: "raised".to_owned() }), End::NotAsked),
        ),
        ("the ledger does not answer the claim", (dead(), vec![(Claim, nothing())], End::NotAsked)),
        ("a stopped one runs again", superseded(dead(), running(successor()))),
        ("a stopped one runs, and its engine gives it the same start", superseded(dead(), running(convicted()))),
        ("a stopped one is removed", superseded(dead(), Observation::Missing)),
        ("the engine does not answer the look", superseded(dead(), unknown())),
        ("a stopped one is paused", superseded(dead(), Observation::Frozen { incarnation: convicted() })),
        ("the engine is at work on a stopped one", superseded(dead(), created())),
        ("a wedged one is restarted by somebody else", superseded(wedged(), running(successor()))),
        ("a wedged one stops by itself", superseded(wedged(), same())),
        ("an unhealthy one passes its check again", superseded(sick(), running(convicted()))),
        ("it is parked before the engine is asked", asked(dead(), same(), may(ActAnswer::NotWanted), Outcome::Vetoed)),
        (
            "the lease is lost before the engine is asked",
            asked(dead(), same(), may(ActAnswer::NotOwner), Outcome::Abandoned),
        ),
        (
            "the database is away before the engine is asked",
            asked(dead(), same(), (MayAct, nothing()), Outcome::Abandoned),
        ),
        (
            "the engine refuses to start it",
            called(dead(), same(), Start, failed(CallFault::Refused), vec![sees(same())], Outcome::Failed),
        ),
        (
            "the container is gone when the engine is asked",
            called(dead(), same(), Start, failed(CallFault::Gone), vec![], Outcome::Superseded),
        ),
        (
            "the engine says that the restart is not wanted",
            called(dead(), same(), Start, failed(CallFault::NotWanted), vec![], Outcome::Superseded),
        ),
        (
            "the engine asked to be left alone, and nothing was sent",
            called(dead(), same(), Start, failed(CallFault::NotSent), vec![], Outcome::Superseded),
        ),
        (
            "the engine's answer is lost, and it was started",
            called(
                dead(),
                same(),
                Start,
                failed(CallFault::Lost),
                vec![sees(running(successor()))],
                Outcome::Succeeded,
            ),
        ),
        (
            "the engine's answer is lost, and it stays stopped",
            called(dead(), same(), Start, failed(CallFault::Lost), vec![sees(same())], Outcome::Failed),
        ),
        (
            "the engine's answer is lost, and so are those of the looks",
            called(dead(), same(), Start, failed(CallFault::Lost), vec![sees(unknown())], Outcome::Failed),
        ),
        (
            "the answer to a kill is lost, and it was started",
            called(
                wedged(),
                running(convicted()),
                KillAndStart,
                failed(CallFault::Lost),
                vec![sees(running(successor()))],
                Outcome::Succeeded,
            ),
        ),
        (
            "a kill leaves it stopped, and a start mends that",
            half(vec![may(ActAnswer::Yes), (Start, made())], Outcome::Succeeded),
        ),
        (
            "a kill leaves it stopped, and the start fails too",
            half(vec![may(ActAnswer::Yes), (Start, failed(CallFault::Refused))], Outcome::Failed),
        ),
        (
            "a kill leaves it stopped, and a start is not wanted any more",
            half(vec![may(ActAnswer::NotWanted)], Outcome::Failed),
        ),
        ("a kill leaves it stopped, and the lease is lost", half(vec![may(ActAnswer::NotOwner)], Outcome::Failed)),
        (
            "a refused kill leaves it running",
            called(
                wedged(),
                running(convicted()),
                KillAndStart,
                failed(CallFault::Refused),
                vec![sees(running(convicted()))],
                Outcome::Failed,
            ),
        ),
        ("the outcome is written at the second try", {
            let (order, mut talk, end) = started(dead(), same());
            talk.insert(4, (Finish(Outcome::Succeeded), nothing()));
            (order, talk, end)
        }),
        ("the outcome is never written", {
            let (order, mut talk, end) = started(dead(), same());
            talk.truncate(4);
            talk.extend((0..super::rules::OUTCOME_TRIES).map(|_| (Finish(Outcome::Succeeded), nothing())));
            (order, talk, end)
        }),
    ];
    table.into_iter().map(|(name, (order, talk, end))| Conversation { name, order, talk, end }).collect()
}

/// Checks a driver's questions against a conversation, and gives its answers.
#[derive(Debug)]
pub struct Script {
    name: &'static str,
    talk: Vec<(Question, Answer)>,
    next: usize,
    last_look: Option<Answer>,
}

impl Script {
    /// The world of one conversation.
    #[must_use]
    pub fn new(conversation: &Conversation) -> Self {
        Self { name: conversation.name, talk: conversation.talk.clone(), next: 0, last_look: None }
    }

    /// The answer to a question.
    ///
    /// # Errors
    ///
    /// What was asked instead of what the conversation has next.
    pub fn ask(&mut self, question: Question) -> Result<Answer, String> {
        let expected = self.talk.get(self.next);
        if let Some((_, answer)) = expected.filter(|(expected, _)| *expected == question) {
            self.next += 1;
            self.last_look = (question == Question::Look).then(|| answer.clone());
            return Ok(answer.clone());
        }
        match &self.last_look {
            Some(answer) if question == Question::Look => Ok(answer.clone()),
            _ => Err(format!("{}: asked {question:?} where {expected:?} comes next", self.name)),
        }
    }

    /// Whether everything was asked.
    ///
    /// # Errors
    ///
    /// The question that was not asked.
    pub fn is_over(&self) -> Result<(), String> {
        match self.talk.get(self.next) {
            None => Ok(()),
            Some((question, _)) => Err(format!("{}: ended without asking {question:?}", self.name)),
        }
    }
}

/// How long a driver's test may let the clock of its world run for one conversation.
pub const LASTS_MAX: Duration = Duration::from_secs(120);
