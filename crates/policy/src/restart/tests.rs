use super::table::{self, Question, Script};
use super::*;
use crate::abilities::Abilities;
use crate::sample::{Exit, Health};

const SECOND: Duration = Duration::from_secs(1);
const EPOCH: i64 = 7;

fn rules() -> Rules {
    Rules::new(30 * SECOND, 10 * SECOND, Abilities::CONTAINER_ENGINE)
}

fn at(seconds: u64) -> Moment {
    Moment::after(Duration::from_secs(1_000 + seconds))
}

fn here(seconds: u64) -> Standing {
    Standing { now: at(seconds), epoch: Some(EPOCH), stopping: false }
}

fn case(ground: Ground) -> Case {
    Case { ground, convicted: Some(table::convicted()), ordered_at: at(0) }
}

fn wedged() -> Case {
    case(Ground::Wedged { health: Health::None })
}

fn stopped() -> Answer {
    Answer::Seen(Observation::Stopped { incarnation: table::convicted(), exit: Exit::default() })
}

fn running(incarnation: Incarnation) -> Answer {
    Answer::Seen(Observation::Running { incarnation, health: Health::None })
}

fn lost(left_at: Moment) -> Answer {
    let failed = CallFailed { kind: CallFault::Lost, why: "lost".to_owned() };
    Answer::Called { left_at, result: Err(failed) }
}

const PLACE: Answer = Answer::Place;
const GRANTED: Answer = Answer::Claim(ClaimAnswer::Granted { row: 1 });
const YES: Answer = Answer::MayAct(ActAnswer::Yes);

/// A restart to which these answers were given, all at second 1, and the step that it wants then.
fn after(case: Case, answers: impl IntoIterator<Item = Answer>) -> (Restart, Step) {
    let (mut restart, mut step) = Restart::new(case, rules());
    for answer in answers {
        step = restart.answer(here(1), answer);
    }
    (restart, step)
}

/// A restart whose call has left at second 2, of which it hears at `heard`.
fn called(case: Case, seen: Answer, heard: u64, answer: Answer) -> (Restart, Step) {
    let (mut restart, step) = after(case, [PLACE, GRANTED, seen, YES]);
    assert_eq!(step, Step::Leave);
    restart.may_leave(here(2)).expect("a call");
    let step = restart.answer(here(heard), answer);
    (restart, step)
}

fn outcome(step: &Step) -> Option<(Outcome, &str)> {
    match step {
        Step::Finish { outcome, why, .. } => Some((*outcome, why.as_deref().unwrap_or_default())),
        _ => None,
    }
}

/// Plays a conversation as a driver would, in the most direct way.
#[test]
fn every_restart_of_the_table_asks_its_questions_in_their_order() {
    for conversation in table::conversations(at(0)) {
        let mut script = Script::new(&conversation);
        let (mut restart, mut step) = Restart::new(Case::of(&conversation.order), rules());
        let mut now = at(1);
        let done = loop {
            let mut ask = |question| script.ask(question).unwrap();
            let answer = match step {
                Step::Permit => Answer::Place,
                Step::Claim { .. } => ask(Question::Claim),
                Step::Confirm => ask(Question::Look),
                Step::MayAct { .. } => ask(Question::MayAct),
                Step::Leave => {
                    let call = restart.may_leave(Standing { now, epoch: Some(EPOCH), stopping: false }).unwrap();
                    let question = if call.how == How::Start { Question::Start } else { Question::KillAndStart };
                    match ask(question) {
                        Answer::Called { result, .. } => Answer::Called { left_at: now, result },
                        other => other,
                    }
                }
                Step::Look { wait } => {
                    now = now + wait;
                    ask(Question::Look)
                }
                Step::Finish { outcome, wait, .. } => {
                    now = now + wait;
                    ask(Question::Finish(outcome))
                }
                Step::Done(done) => break done,
            };
            assert!(now < at(1) + table::LASTS_MAX, "{}", conversation.name);
            step = restart.answer(Standing { now, epoch: Some(EPOCH), stopping: false }, answer);
        };
        script.is_over().unwrap();
        assert_eq!(done.end, conversation.end, "{}", conversation.name);
        let claimed = conversation.talk.iter().any(|(question, _)| *question == Question::Look);
        assert_eq!(done.look_again, claimed, "{}", conversation.name);
        assert_eq!(matches!(done.conclusion, Conclusion::Ended { .. }), claimed, "{}", conversation.name);
    }
}

#[test]
fn what_the_engine_cannot_do_is_not_even_claimed() {
    let (_, step) = Restart::new(case(Ground::Missing), rules());
    let done = Done { end: End::NotAsked, look_again: false, conclusion: Conclusion::NotClaimed(NotClaimed::CannotDo) };
    assert_eq!(step, Step::Done(done));
    let able = Rules { abilities: Abilities { recreates: true, ..Abilities::CONTAINER_ENGINE }, ..rules() };
    let (mut restart, step) = Restart::new(case(Ground::Missing), able);
    assert_eq!(step, Step::Permit);
    for answer in [PLACE, GRANTED, Answer::Seen(Observation::Missing), YES] {
        restart.answer(here(1), answer);
    }
    let call = restart.may_leave(here(2)).unwrap();
    assert_eq!((call.how, call.deadline, &*call.container.as_str().to_owned()), (How::Recreate, 30 * SECOND, "c1"));
}

#[test]
fn deadlines_are_those_of_the_rules() {
    let (_, step) = after(wedged(), [PLACE]);
    assert_eq!(step, Step::Claim { epoch: EPOCH, deadline: 60 * SECOND });
    let (mut restart, step) = after(wedged(), [PLACE, GRANTED, running(table::convicted())]);
    assert_eq!(step, Step::MayAct { row: 1, epoch: EPOCH, within: 60 * SECOND });
    restart.answer(here(1), YES);
    let call = restart.may_leave(here(1)).unwrap();
    assert_eq!((call.how, call.deadline), (How::KillAndStart { grace: 10 * SECOND }, 40 * SECOND));
    assert_eq!((call.mends, restart.mends()), (None, None));
}

#[test]
fn without_the_lease_nothing_is_claimed_and_a_process_that_stops_claims_nothing() {
    for (standing, why) in [
        (Standing { epoch: None, ..here(1) }, NotClaimed::NotOwner),
        (Standing { stopping: true, ..here(1) }, NotClaimed::Stopping),
    ] {
        let (mut restart, _) = Restart::new(case(Ground::Stopped), rules());
        let Step::Done(done) = restart.answer(standing, PLACE) else { panic!("not done") };
        assert_eq!(done.conclusion, Conclusion::NotClaimed(why));
        assert_eq!((done.end, done.look_again), (End::NotAsked, false));
    }
    let (mut restart, _) = Restart::new(case(Ground::Stopped), rules());
    let stopping = Standing { stopping: true, ..here(1) };
    let Step::Done(done) = restart.answer(stopping, Answer::Nothing(String::new())) else { panic!("not done") };
    assert_eq!(done.conclusion, Conclusion::NotClaimed(NotClaimed::Stopping));
}

#[test]
fn a_process_that_stops_hands_back_what_it_has_not_asked_the_engine_for() {
    let (mut restart, _) = after(case(Ground::Stopped), [PLACE, GRANTED]);
    let step = restart.answer(Standing { stopping: true, ..here(1) }, stopped());
    assert_eq!(outcome(&step), Some((Outcome::Abandoned, "handed back: defib is stopping")));
    // What is superseded is superseded, whoever stops.
    let (mut restart, _) = after(case(Ground::Stopped), [PLACE, GRANTED]);
    let step = restart.answer(Standing { stopping: true, ..here(1) }, running(table::successor()));
    assert_eq!(outcome(&step).map(|(outcome, _)| outcome), Some(Outcome::Superseded));
}

#[test]
fn the_call_leaves_only_under_the_lease_that_was_claimed_under_and_within_the_margin() {
    for (now, epoch, leaves) in [
        (at(1), Some(EPOCH), true),
        (at(10), Some(EPOCH), true),
        (at(11), Some(EPOCH), false),
        (at(2), Some(EPOCH + 1), false),
        (at(2), None, false),
    ] {
        let (mut restart, step) = after(case(Ground::Stopped), [PLACE, GRANTED, stopped(), YES]);
        assert_eq!(step, Step::Leave);
        match restart.may_leave(Standing { now, epoch, stopping: false }) {
            Ok(call) => assert!(leaves, "{call:?}"),
            Err(step) => {
                assert!(!leaves, "{now:?} {epoch:?}");
                let (outcome, why) = outcome(&step).unwrap();
                assert_eq!(outcome, Outcome::Abandoned);
                assert!(why.starts_with("handed back: the lease ended, or too much time passed"), "{why}");
            }
        }
    }
}

#[test]
fn a_call_is_handed_out_once_and_never_before_its_turn() {
    let answers = [PLACE, GRANTED, stopped(), YES];
    for given in 0..answers.len() {
        let (mut restart, _) = after(case(Ground::Stopped), answers[..given].to_vec());
        assert!(restart.may_leave(here(1)).is_err(), "after {given} answers");
        assert!(restart.may_leave(here(1)).is_err(), "after {given} answers, again");
    }
    let (mut restart, _) = after(case(Ground::Stopped), answers);
    assert!(restart.may_leave(here(1)).is_ok());
    assert_eq!(restart.may_leave(here(1)), Err(Step::Look { wait: Duration::ZERO }), "it counts as lost");
}

#[test]
fn after_a_lost_answer_to_a_start_a_new_life_is_the_end_of_it() {
    let (mut restart, step) = called(case(Ground::Stopped), stopped(), 20, lost(at(2)));
    assert_eq!(step, Step::Look { wait: Duration::ZERO });
    assert_eq!(restart.answer(here(21), stopped()), Step::Look { wait: rules::LOOK_AFTER_SPACING });
    let step = restart.answer(here(22), running(table::successor()));
    let (outcome, why) = outcome(&step).unwrap();
    assert_eq!(outcome, Outcome::Succeeded);
    assert_eq!(why, "the engine made it although its answer was lost: lost");
}

#[test]
fn after_a_lost_answer_to_a_start_the_looks_end_with_their_time() {
    // Ten seconds of looks from when the answer was lost, the last of which begins one spacing before the end.
    for (seconds, nanos, ends) in [(29, 749_999_999, false), (29, 750_000_000, true)] {
        let (mut restart, _) = called(case(Ground::Stopped), stopped(), 20, lost(at(2)));
        let now = at(seconds) + Duration::from_nanos(nanos);
        let step = restart.answer(Standing { now, ..here(0) }, stopped());
        assert_eq!(outcome(&step), ends.then_some((Outcome::Failed, "lost")), "{now:?}");
    }
}

#[test]
fn after_a_lost_answer_to_a_kill_the_looks_go_on_for_as_long_as_the_engine_may_be_at_it() {
    // The call left at second 2; forty seconds for the engine, and ten for the looks.
    let seen = || running(table::convicted());
    for (now, ends) in [(51, false), (52, true)] {
        let (mut restart, _) = called(wedged(), seen(), 3, lost(at(2)));
        let step = restart.answer(here(now), running(table::successor()));
        assert_eq!(outcome(&step).map(|(outcome, _)| outcome), ends.then_some(Outcome::Succeeded), "{now}");
        if !ends {
            assert_eq!(step, Step::Look { wait: rules::LOOK_AFTER_SPACING });
        }
    }
    // The moment of the call counts, and not when we asked or heard.
    let (mut restart, _) = called(wedged(), seen(), 30, lost(at(5)));
    assert!(outcome(&restart.answer(here(54), stopped())).is_none());
    assert!(outcome(&restart.answer(here(55), running(table::convicted()))).is_some());
}

#[test]
fn a_refused_call_is_looked_at_once() {
    let failed = || CallFailed { kind: CallFault::Refused, why: "no space left".to_owned() };
    let refused = || Answer::Called { left_at: at(2), result: Err(failed()) };
    let (mut restart, step) = called(case(Ground::Stopped), stopped(), 3, refused());
    assert_eq!(step, Step::Look { wait: Duration::ZERO });
    assert_eq!(outcome(&restart.answer(here(4), stopped())), Some((Outcome::Failed, "no space left")));
    // Somebody else was faster, or the engine says no and does it all the same.
    let (mut restart, _) = called(wedged(), running(table::convicted()), 3, refused());
    let step = restart.answer(here(4), running(table::successor()));
    assert_eq!(outcome(&step).map(|(outcome, _)| outcome), Some(Outcome::Succeeded));
    // Another life that has stopped is not the one that a start would mend.
    let (mut restart, _) = called(wedged(), running(table::convicted()), 3, refused());
    let another = Observation::Stopped { incarnation: table::successor(), exit: Exit::default() };
    assert_eq!(outcome(&restart.answer(here(4), Answer::Seen(another))), Some((Outcome::Failed, "no space left")));
}

#[test]
fn what_a_kill_left_stopped_is_started_if_that_is_still_ours() {
    let mending = |now: u64| {
        let failed = CallFailed { kind: CallFault::Refused, why: "first".to_owned() };
        let refused = Answer::Called { left_at: at(2), result: Err(failed) };
        let (mut restart, _) = called(wedged(), running(table::convicted()), 3, refused);
        assert_eq!(restart.answer(here(now), stopped()), Step::MayAct { row: 1, epoch: EPOCH, within: 60 * SECOND });
        restart
    };
    let mut restart = mending(20);
    assert_eq!(restart.mends(), Some("first"), "while it asks whether it may");
    assert_eq!(restart.answer(here(21), YES), Step::Leave);
    assert_eq!(restart.mends(), Some("first"), "while the call waits to leave");
    // The margin counts from the second question.
    let call = restart.may_leave(here(29)).unwrap();
    assert_eq!((call.how, call.deadline, call.mends.as_deref()), (How::Start, 30 * SECOND, Some("first")));
    assert_eq!(restart.mends(), Some("first"), "while the engine is at it");
    let second = CallFailed { kind: CallFault::Gone, why: "second".to_owned() };
    let step = restart.answer(here(30), Answer::Called { left_at: at(29), result: Err(second) });
    assert_eq!(outcome(&step), Some((Outcome::Failed, "first; and the start after it: second")));

    let refused = |answer: Answer| {
        let mut restart = mending(20);
        let step = restart.answer(here(21), answer);
        let (outcome, why) = outcome(&step).expect("an end");
        assert_eq!(outcome, Outcome::Failed, "the container was touched, whoever owns it now");
        why.to_owned()
    };
    let first = "first; left stopped, and not started: ";
    let not_wanted = refused(Answer::MayAct(ActAnswer::NotWanted));
    assert_eq!(
        not_wanted,
        format!(
            "{first}it is no longer watched, it is suspended or held, or it hung and was heard of again, when it was to be restarted"
        )
    );
    let not_owner = refused(Answer::MayAct(ActAnswer::NotOwner));
    assert_eq!(not_owner, format!("{first}the lease on its engine is no longer ours"));
    assert!(refused(Answer::Nothing("away".to_owned())).ends_with("could not confirm the claim: away"));

    let mut restart = mending(20);
    restart.answer(here(21), YES);
    let step = restart.may_leave(here(30)).unwrap_err();
    assert_eq!(outcome(&step).map(|(outcome, _)| outcome), Some(Outcome::Failed));
}

#[test]
fn an_outcome_is_tried_five_times_with_longer_pauses() {
    let seen = running(table::successor());
    let (mut restart, mut step) = after(case(Ground::Stopped), [PLACE, GRANTED, seen]);
    let mut waits = Vec::new();
    let done = loop {
        match step {
            Step::Finish { row, outcome, why, wait } => {
                assert_eq!(
                    (row, outcome, why.as_deref()),
                    (1, Outcome::Superseded, Some("somebody else restarted it first"))
                );
                waits.push(wait);
            }
            Step::Done(done) => break done,
            other => panic!("{other:?}"),
        }
        step = restart.answer(here(1), Answer::Nothing("away".to_owned()));
    };
    assert_eq!(waits, [0, 200, 400, 800, 1_600].map(Duration::from_millis));
    let conclusion = Conclusion::Ended { outcome: Outcome::Superseded, written: false };
    assert_eq!(done, Done { end: End::NotAsked, look_again: true, conclusion });
    let again = restart.answer(here(1), PLACE);
    assert!(matches!(again, Step::Done(_)), "what has ended does not begin again: {again:?}");
}

#[test]
fn no_answer_is_read_as_what_does_the_least_harm() {
    let nothing = || Answer::Nothing("away".to_owned());
    let answers = || [PLACE, GRANTED, stopped(), YES];
    for (given, expected, says) in [
        (2, Outcome::Superseded, "the look before the restart failed: away; nothing was touched"),
        (3, Outcome::Abandoned, "handed back: the database could not confirm the claim: away"),
        (4, Outcome::Abandoned, "handed back: the database could not confirm the claim: away"),
    ] {
        let (mut restart, _) = after(case(Ground::Stopped), answers()[..given].to_vec());
        assert_eq!(outcome(&restart.answer(here(1), nothing())), Some((expected, says)));
    }
    for given in [0, 1] {
        let (mut restart, _) = after(case(Ground::Stopped), answers()[..given].to_vec());
        let Step::Done(done) = restart.answer(here(1), nothing()) else { panic!("not done") };
        let why = "away".to_owned();
        assert_eq!(done.conclusion, Conclusion::NotClaimed(NotClaimed::NoAnswer { why }));
    }
    let (mut restart, step) = called(case(Ground::Stopped), stopped(), 3, nothing());
    assert_eq!(step, Step::Look { wait: Duration::ZERO }, "the call may have been carried out");
    assert_eq!(restart.answer(here(4), nothing()), Step::Look { wait: rules::LOOK_AFTER_SPACING });
    assert_eq!(outcome(&restart.answer(here(40), nothing())), Some((Outcome::Failed, "away")));
}

#[test]
fn the_answer_to_another_question_is_no_answer() {
    let (mut restart, _) = after(case(Ground::Stopped), [PLACE, GRANTED]);
    let (outcome, why) = match restart.answer(here(1), YES) {
        Step::Finish { outcome, why, .. } => (outcome, why.unwrap()),
        other => panic!("{other:?}"),
    };
    assert_eq!(outcome, Outcome::Superseded);
    assert!(why.contains("the answer was to another question"), "{why}");
}

#[test]
fn outcomes_say_whether_the_engine_was_asked() {
    let ends = Outcome::ALL.map(End::of);
    assert_eq!(ends, [End::Made, End::Failed, End::NotAsked, End::NotAsked, End::NotAsked]);
}
