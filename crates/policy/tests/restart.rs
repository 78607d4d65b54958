//! Random answers to a restart, also to questions that were not asked, and what must be true whatever the answers are.

use std::time::Duration;

use defib_policy::abilities::Abilities;
use defib_policy::attempt::Outcome;
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::restart::rules::{OUTCOME_MARGIN, OUTCOME_TRIES};
use defib_policy::restart::{
    ActAnswer, Answer, CallFailed, CallFault, Case, ClaimAnswer, Conclusion, End, Ground, How, Restart, Rules,
    Standing, Step,
};
use defib_policy::sample::{Exit, Fault, Health, Incarnation, Observation, Transition};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

const SECOND: Duration = Duration::from_secs(1);
const EPOCH: i64 = 7;

/// One answer of the world, where the process stands when it arrives, and whether the driver then obeys.
#[derive(Clone, Debug)]
struct Turn {
    passed: Duration,
    epoch: Option<i64>,
    stopping: bool,
    answer: Answer,
    /// The driver asks for the call although that is not the step.
    leaves_unbidden: bool,
}

fn life(started: i64) -> Incarnation {
    Incarnation { container_id: "c".into(), started_at: Some(Timestamp(started)) }
}

fn observation() -> impl Strategy<Value = Observation> {
    let incarnation = || prop_oneof![3 => Just(life(5)), 1 => Just(life(9))];
    let health = prop_oneof![
        Just(Health::None),
        Just(Health::Healthy),
        Just(Health::Unhealthy { last_check_at: None, due_within: None }),
    ];
    prop_oneof![
        4 => incarnation().prop_map(|incarnation| Observation::Stopped { incarnation, exit: Exit::default() }),
        4 => (incarnation(), health).prop_map(|(incarnation, health)| Observation::Running { incarnation, health }),
        1 => incarnation().prop_map(|incarnation| Observation::Frozen { incarnation }),
        1 => incarnation()
            .prop_map(|incarnation| Observation::Transitional { incarnation, transition: Transition::Created }),
        1 => Just(Observation::Missing),
        1 => Just(Observation::Unknown { fault: Fault::TimedOut }),
    ]
}

fn claim() -> impl Strategy<Value = ClaimAnswer> {
    prop_oneof![
        9 => Just(ClaimAnswer::Granted { row: 1 }),
        1 => Just(ClaimAnswer::Vetoed),
        1 => Just(ClaimAnswer::Taken),
        1 => Just(ClaimAnswer::Held { reason: "drill".to_owned() }),
        1 => Just(ClaimAnswer::NotOwner),
        1 => Just(ClaimAnswer::FunctionFailed { why: "raised".to_owned() }),
    ]
}

fn result() -> impl Strategy<Value = Result<(), CallFailed>> {
    let failed = |kind| Err(CallFailed { kind, why: "no".to_owned() });
    prop_oneof![
        2 => Just(Ok(())),
        1 => Just(failed(CallFault::Gone)),
        1 => Just(failed(CallFault::NotWanted)),
        1 => Just(failed(CallFault::NotSent)),
        2 => Just(failed(CallFault::Lost)),
        2 => Just(failed(CallFault::Refused)),
    ]
}

/// Answers to each question in turn, with now and then one to another.
fn answer_to(step: &Step, now: Moment) -> BoxedStrategy<Answer> {
    let nothing = || Just(Answer::Nothing("away".to_owned()));
    let seen = || observation().prop_map(Answer::Seen).boxed();
    let right = match step {
        Step::Permit => Just(Answer::Place).boxed(),
        Step::Claim { .. } => claim().prop_map(Answer::Claim).boxed(),
        Step::Confirm | Step::Look { .. } => seen(),
        Step::MayAct { .. } => prop_oneof![
            5 => Just(ActAnswer::Yes),
            1 => Just(ActAnswer::NotWanted),
            1 => Just(ActAnswer::NotOwner),
        ]
        .prop_map(Answer::MayAct)
        .boxed(),
        Step::Leave => result().prop_map(move |result| Answer::Called { left_at: now, result }).boxed(),
        Step::Finish { .. } | Step::Done(_) => Just(Answer::Written).boxed(),
    };
    prop_oneof![20 => right, 2 => nothing(), 1 => seen(), 1 => Just(Answer::Place)].boxed()
}

fn ground() -> impl Strategy<Value = Ground> {
    let sick = Health::Unhealthy { last_check_at: None, due_within: None };
    prop_oneof![
        3 => Just(Ground::Stopped),
        1 => Just(Ground::Transitional),
        1 => Just(Ground::Missing),
        3 => Just(Ground::Wedged { health: Health::None }),
        2 => Just(Ground::Unhealthy { health: sick }),
    ]
}

/// What happened in a restart.
#[derive(Debug, PartialEq, Eq)]
enum Deed {
    Claimed,
    Looked(Observation),
    Asked(Moment),
    Allowed,
    NotAllowed,
    Called(How),
    Outcome(Outcome),
}

/// Drives a restart with answers that `draw` picks, to its end.
fn drive(
    ground: Ground,
    recreates: bool,
    mut draw: impl FnMut(BoxedStrategy<Answer>) -> Turn,
) -> Result<(Vec<Deed>, Step, usize), TestCaseError> {
    let abilities = Abilities { recreates, ..Abilities::CONTAINER_ENGINE };
    let rules = Rules::new(30 * SECOND, 10 * SECOND, abilities);
    let case = Case { ground, convicted: Some(life(5)), ordered_at: Moment::ZERO };
    let (mut restart, mut step) = Restart::new(case, rules);
    let mut claimed_under = None;
    let (mut now, mut deeds, mut turns) = (Moment::ZERO + 1_000 * SECOND, Vec::new(), 0);
    while !matches!(step, Step::Done(_)) {
        turns += 1;
        prop_assert!(turns < 1_000, "it does not end: {step:?}");
        if let Step::Claim { epoch, .. } = step {
            claimed_under = Some(epoch);
        }
        if let Step::MayAct { epoch, .. } = step {
            prop_assert_eq!(Some(epoch), claimed_under);
            deeds.push(Deed::Asked(now));
        }
        let turn = draw(answer_to(&step, now));
        if let Step::Look { wait } | Step::Finish { wait, .. } = step {
            now = now + wait;
        }
        let before = now;
        now = now + turn.passed;
        let standing = Standing { now, epoch: turn.epoch, stopping: turn.stopping };
        if turn.leaves_unbidden && step != Step::Leave {
            match restart.may_leave(standing) {
                Ok(call) => prop_assert!(false, "{call:?} out of turn, at {step:?}"),
                Err(next) => step = next,
            }
            deeds.extend(outcome_in(&step));
            continue;
        }
        if step == Step::Leave {
            match restart.may_leave(standing) {
                Err(next) => {
                    step = next;
                    deeds.extend(outcome_in(&step));
                    continue;
                }
                Ok(call) => {
                    let asked_at = deeds.iter().rev().find_map(|deed| match deed {
                        Deed::Asked(at) => Some(*at),
                        _ => None,
                    });
                    prop_assert_eq!(turn.epoch, claimed_under, "a call under a lease that has ended");
                    prop_assert!(asked_at.is_some_and(|at| now - at < OUTCOME_MARGIN), "a call too late after its yes");
                    deeds.push(Deed::Called(call.how));
                }
            }
        }
        match (&step, &turn.answer) {
            (Step::Claim { .. }, Answer::Claim(ClaimAnswer::Granted { .. })) => deeds.push(Deed::Claimed),
            (Step::Confirm | Step::Look { .. }, Answer::Seen(seen)) => deeds.push(Deed::Looked(seen.clone())),
            (Step::MayAct { .. }, Answer::MayAct(ActAnswer::Yes)) => deeds.push(Deed::Allowed),
            (Step::MayAct { .. }, _) => deeds.push(Deed::NotAllowed),
            _ => {}
        }
        let answer = match turn.answer {
            Answer::Called { result, .. } => Answer::Called { left_at: before, result },
            answer => answer,
        };
        step = restart.answer(standing, answer);
        deeds.extend(outcome_in(&step));
    }
    Ok((deeds, step, turns))
}

/// The outcome that a step writes for the first time.
fn outcome_in(step: &Step) -> Option<Deed> {
    match step {
        Step::Finish { outcome, wait, .. } if wait.is_zero() => Some(Deed::Outcome(*outcome)),
        _ => None,
    }
}

fn turn(answers: BoxedStrategy<Answer>) -> impl Strategy<Value = Turn> {
    (
        prop_oneof![8 => 0..2_000u64, 1 => 2_000..60_000u64],
        prop_oneof![12 => Just(Some(EPOCH)), 1 => Just(None), 1 => Just(Some(EPOCH + 1))],
        prop::bool::weighted(0.05),
        answers,
        prop::bool::weighted(0.03),
    )
        .prop_map(|(passed, epoch, stopping, answer, leaves_unbidden)| Turn {
            passed: Duration::from_millis(passed),
            epoch,
            stopping,
            answer,
            leaves_unbidden,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_restart_never_acts_twice_unseen_or_unasked_and_always_ends(
        ground in ground(),
        recreates in any::<bool>(),
        seed in any::<[u8; 32]>(),
    ) {
        let rng = proptest::test_runner::TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &seed);
        let mut runner = proptest::test_runner::TestRunner::new_with_rng(ProptestConfig::default(), rng);
        let draw = |answers| turn(answers).new_tree(&mut runner).expect("a turn").current();
        let (deeds, end, _) = drive(ground, recreates, draw)?;
        let Step::Done(done) = end else { return Err(TestCaseError::fail("not done")) };

        // Nothing is done before the claim, and what was claimed has exactly one outcome.
        let claimed = deeds.contains(&Deed::Claimed);
        prop_assert!(claimed || deeds.is_empty() || deeds == [Deed::NotAllowed], "{deeds:?}");
        let outcomes: Vec<Outcome> =
            deeds.iter().filter_map(|deed| if let Deed::Outcome(outcome) = deed { Some(*outcome) } else { None }).collect();
        prop_assert_eq!(outcomes.len(), usize::from(claimed), "{:?}", &deeds);
        match (&done.conclusion, outcomes.first()) {
            (Conclusion::NotClaimed(_), None) => prop_assert_eq!((done.end, done.look_again), (End::NotAsked, false)),
            (Conclusion::Ended { outcome, .. }, Some(last)) => {
                prop_assert_eq!(outcome, last);
                prop_assert_eq!((done.end, done.look_again), (End::of(*outcome), true));
            }
            other => prop_assert!(false, "{other:?}"),
        }

        let calls: Vec<usize> =
            (0..deeds.len()).filter(|place| matches!(deeds[*place], Deed::Called(_))).collect();
        prop_assert!(calls.len() <= 2, "{deeds:?}");
        for (nth, place) in calls.iter().enumerate() {
            // Right before each call: a look that agrees, and a yes of the database to the question after it.
            prop_assert_eq!(&deeds[place - 1], &Deed::Allowed, "{:?}", &deeds);
            let Deed::Asked(_) = deeds[place - 2] else { return Err(TestCaseError::fail(format!("{deeds:?}"))) };
            let seen = &deeds[place - 3];
            let Deed::Called(how) = deeds[*place] else { continue };
            match how {
                How::Start => {
                    let asleep = matches!(seen, Deed::Looked(Observation::Stopped { incarnation, .. }
                        | Observation::Transitional { incarnation, .. }) if *incarnation == life(5));
                    prop_assert!(asleep, "{deeds:?}");
                }
                How::KillAndStart { .. } => {
                    let runs = matches!(seen, Deed::Looked(Observation::Running { incarnation, .. }) if *incarnation == life(5));
                    prop_assert!(runs && nth == 0, "{deeds:?}");
                }
                How::Recreate => prop_assert!(recreates && *seen == Deed::Looked(Observation::Missing), "{deeds:?}"),
            }
        }
        // A second call only mends what a kill left stopped.
        if calls.len() == 2 {
            prop_assert!(matches!(deeds[calls[0]], Deed::Called(How::KillAndStart { .. })), "{deeds:?}");
            prop_assert_eq!(&deeds[calls[1]], &Deed::Called(How::Start));
        }
        // Whoever refuses ends it.
        if let Some(place) = deeds.iter().position(|deed| *deed == Deed::NotAllowed) {
            prop_assert!(calls.iter().all(|call| *call < place), "a call after a no: {deeds:?}");
        }
        // An attempt whose call reached the engine is never recorded as one that touched nothing. The exception is a container that the
        // engine itself says is gone.
        if !calls.is_empty() {
            prop_assert!(
                matches!(outcomes[0], Outcome::Succeeded | Outcome::Failed | Outcome::Superseded),
                "{deeds:?}"
            );
        } else if claimed {
            prop_assert!(!matches!(outcomes[0], Outcome::Succeeded | Outcome::Failed), "{deeds:?}");
        }
    }

    #[test]
    fn an_outcome_is_not_tried_for_ever(seen in observation()) {
        let mut tries = 0;
        let mut first = true;
        let answers = [Answer::Place, Answer::Claim(ClaimAnswer::Granted { row: 1 }), Answer::Seen(seen)];
        let mut answers = answers.into_iter().chain([Answer::MayAct(ActAnswer::NotOwner)]);
        let (_, _, turns) = drive(Ground::Stopped, false, |_| {
            let answer = answers.next().unwrap_or(Answer::Nothing("away".to_owned()));
            tries += u32::from(!std::mem::take(&mut first) && matches!(answer, Answer::Nothing(_)));
            Turn { passed: Duration::ZERO, epoch: Some(EPOCH), stopping: false, answer, leaves_unbidden: false }
        })?;
        prop_assert!(tries <= OUTCOME_TRIES && turns <= 4 + OUTCOME_TRIES as usize, "{tries} {turns}");
    }
}
