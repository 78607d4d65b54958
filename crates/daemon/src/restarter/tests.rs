//! The restarter against a ledger and an engine in memory, on paused time.

mod stage;

use async_trait::async_trait;
use defib_policy::attempt::Outcome;
use defib_policy::restart::table::{self, Question, Script};
use defib_policy::restart::{ActAnswer, rules};

use self::stage::*;
use super::*;
use crate::cache::{Keys, Pattern};
use crate::metrics::Metrics;
use crate::news::EvictionNews;

/// The simulator plays the same table.
#[tokio::test(start_paused = true)]
async fn the_daemon_asks_what_the_simulator_asks() {
    let mut stage = stage();
    for conversation in table::conversations((stage.clock)()) {
        lock(&stage.fake.world).scripts = BTreeMap::from([("w1".into(), Script::new(&conversation))]);
        stage.restarter.carry_out(vec![conversation.order.clone()]);
        let (ended, took) = stage.end().await;
        assert!(took < table::LASTS_MAX, "{}: {took:?}", conversation.name);
        assert_eq!(ended.end, conversation.end, "{}", conversation.name);
        lock(&stage.fake.world).scripts["w1"].is_over().unwrap();
        // A workspace for which the platform's function has failed waits. The next conversation is about a new workspace of the same name.
        tokio::time::sleep(7_200 * SECOND).await;
        own(&stage.ownership, &stage.clock, 3_600 * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_uses_up_its_deadline_and_the_looks_after_it_tell() {
    let mut stage = stage();
    stage.hangs("w1", Kind::Call);
    stage.give("w1", Kind::Look, [stopped(), stopped(), restarted()].map(Answer::Seen));
    stage.restarter.carry_out(vec![stage.order("w1")]);
    let (ended, took) = stage.end().await;
    assert_eq!((ended.end, ended.look_again), (End::Made, true));
    assert_eq!(took, 30 * SECOND + rules::LOOK_AFTER_SPACING);
    assert_eq!(stage.outcomes(), [("w1".to_owned(), Outcome::Succeeded)]);
    assert!(stage.why().contains("although its answer was lost"), "{}", stage.why());
}

#[tokio::test(start_paused = true)]
async fn a_wedged_one_whose_answer_is_lost_stays_open_for_as_long_as_its_engine_may_be_at_it() {
    let mut stage = stage();
    stage.give("w1", Kind::Call, [call_failed(CallFault::Lost)]);
    let looks = std::iter::once(running()).chain(std::iter::repeat_n(restarted(), 1_000));
    stage.give("w1", Kind::Look, looks.map(Answer::Seen));
    stage.restarter.carry_out(vec![stage.wedged("w1")]);
    let (ended, took) = stage.end().await;
    assert_eq!(ended.end, End::Made);
    assert_eq!(took, 50 * SECOND, "thirty for the restart, ten for the grace, ten for the looks");
}

#[tokio::test(start_paused = true)]
async fn what_a_kill_has_left_stopped_is_started() {
    use Question::{Claim, Finish, KillAndStart, Look, MayAct, Start};

    let mut stage = stage();
    stage.give("w1", Kind::Call, [call_failed(CallFault::Refused)]);
    stage.give("w1", Kind::Look, [running(), stopped()].map(Answer::Seen));
    stage.restarter.carry_out(vec![stage.wedged("w1")]);
    let (ended, _) = stage.end().await;
    assert_eq!(ended.end, End::Made);
    let asked = [Claim, Look, MayAct, KillAndStart, Look, MayAct, Start, Finish(Outcome::Succeeded)];
    assert_eq!(stage.asked("w1"), asked);
}

#[tokio::test(start_paused = true)]
async fn a_stop_hands_back_what_waits_and_waits_for_what_has_reached_its_engine() {
    let mut stage = stage();
    stage.takes(Kind::Call, 20 * SECOND);
    let orders = ["w1", "w2", "w3", "w4", "w5", "w6"].map(|workspace| stage.order(workspace));
    stage.restarter.carry_out(orders.into());
    tokio::time::sleep(SECOND).await;
    assert_eq!((stage.restarter.in_flight().len(), stage.restarter.queued().len()), (6, 2));
    assert_eq!(stage.restarter.busy_engines().len(), 1);
    stage.restarter.stop();
    for _ in 0..2 {
        let (ended, took) = stage.end().await;
        assert_eq!((ended.end, ended.look_again, took), (End::NotAsked, false, Duration::ZERO));
    }
    stage.restarter.carry_out(vec![stage.order("w7")]);
    stage.restarter.shut_down().await;
    assert_eq!(stage.outcomes().iter().filter(|(_, outcome)| *outcome == Outcome::Succeeded).count(), 4);
    assert!(stage.asked("w7").is_empty(), "a process that stops takes no orders");
    assert!(stage.restarter.in_flight().is_empty() && stage.restarter.busy_engines().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_between_claim_and_call_hands_the_attempt_back() {
    let mut stage = stage();
    stage.takes(Kind::Look, 2 * SECOND);
    stage.restarter.carry_out(vec![stage.order("w1")]);
    tokio::time::sleep(SECOND).await;
    assert_eq!(stage.asked("w1"), [Question::Claim]);
    stage.restarter.stop();
    let (ended, _) = stage.end().await;
    assert_eq!((ended.end, ended.look_again), (End::NotAsked, true));
    assert_eq!(stage.outcomes(), [("w1".to_owned(), Outcome::Abandoned)]);
    assert_eq!(stage.why(), "handed back: defib is stopping");
}

/// The database allows the call, but its answer takes so long that by our own clock the lease has ended when the call is to be made.
#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_by_our_own_clock_stops_the_call_that_the_database_allowed() {
    for (lasting, answer_takes, leaves) in [(3, 2, true), (2, 3, false), (60, 9, true), (60, 10, false)] {
        let mut stage = stage();
        own(&stage.ownership, &stage.clock, lasting * SECOND);
        stage.takes(Kind::MayAct, answer_takes * SECOND);
        stage.restarter.carry_out(vec![stage.order("w1")]);
        let (ended, _) = stage.end().await;
        assert_eq!(ended.end == End::Made, leaves, "{lasting} {answer_takes}");
        assert_eq!(stage.asked("w1").contains(&Question::Start), leaves, "{lasting} {answer_takes}");
        if !leaves {
            assert!(
                stage.why().starts_with("handed back: the lease ended, or too much time passed"),
                "{}",
                stage.why()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_that_waited_too_long_for_its_place_is_left_to_the_engines_owner() {
    let mut stage = stage();
    own(&stage.ownership, &stage.clock, 5 * SECOND);
    stage.takes(Kind::Call, 10 * SECOND);
    stage.restarter.carry_out(["w1", "w2", "w3", "w4", "w5"].map(|workspace| stage.order(workspace)).into());
    for _ in 0..5 {
        stage.end().await;
    }
    assert!(stage.asked("w5").is_empty(), "the lease ended while it waited");
    assert_eq!(stage.outcomes().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_database_that_refuses_the_outcome_is_asked_five_times() {
    let mut stage = stage();
    let away = || Answer::Nothing("away".to_owned());
    stage.give("w1", Kind::Finish, std::iter::repeat_with(away).take(5));
    stage.restarter.carry_out(vec![stage.order("w1")]);
    let (ended, took) = stage.end().await;
    assert_eq!((ended.end, ended.look_again), (End::Made, true));
    assert_eq!(took, 3 * SECOND, "0.2, 0.4, 0.8 and 1.6 seconds");
    assert!(stage.outcomes().is_empty());
    assert_eq!(stage.asked("w1").iter().filter(|question| matches!(question, Question::Finish(_))).count(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_platforms_function_that_fails_is_called_again_with_a_growing_delay() {
    let mut stage = stage();
    stage.give("w1", Kind::Claim, [function_failed(), function_failed()]);
    stage.restarter.carry_out(vec![stage.order("w1")]);
    assert_eq!(stage.end().await.0.end, End::NotAsked);
    for (wait, asked) in [(9, 1), (1, 2), (19, 2), (1, 3)] {
        tokio::time::sleep(wait * SECOND).await;
        // Each pass orders it again, and each time the end of the order is told.
        stage.restarter.carry_out(vec![stage.order("w1")]);
        stage.end().await;
        let claims = stage.asked("w1").iter().filter(|question| **question == Question::Claim).count();
        assert_eq!(claims, asked, "after {wait} more seconds");
    }
    assert_eq!(stage.outcomes(), [("w1".to_owned(), Outcome::Succeeded)]);
}

/// Twenty workspaces for which the function hangs until its own time-out, and which each pass orders again, take no places from the others.
#[tokio::test(start_paused = true)]
async fn those_for_whom_the_function_fails_do_not_use_up_the_places() {
    let mut stage = stage();
    stage.takes(Kind::Claim, 2 * SECOND);
    let troubled: Vec<String> = (0..20).map(|number| format!("t{number:02}")).collect();
    for workspace in &troubled {
        stage.give(workspace, Kind::Claim, std::iter::repeat_with(function_failed).take(1_000));
    }
    stage.restarter.carry_out(troubled.iter().map(|workspace| stage.order(workspace)).collect());
    for _ in &troubled {
        stage.end().await;
    }
    // Their delays are over. All of them are ordered, and after them one for which the function answers.
    tokio::time::sleep(20 * SECOND).await;
    stage.restarter.carry_out(troubled.iter().map(|workspace| stage.order(workspace)).collect());
    let begun = (stage.clock)();
    stage.restarter.carry_out(vec![stage.order("well")]);
    let ended = loop {
        let (ended, _) = stage.end().await;
        if ended.workspace == "well".into() {
            break ended;
        }
    };
    assert_eq!((ended.end, (stage.clock)() - begun), (End::Made, Duration::ZERO));
    assert_eq!(stage.outcomes(), [("well".to_owned(), Outcome::Succeeded)]);
}

#[tokio::test(start_paused = true)]
async fn one_order_a_workspace_is_under_way() {
    let mut stage = stage();
    stage.takes(Kind::Call, SECOND);
    stage.restarter.carry_out(vec![stage.order("w1"), stage.order("w1")]);
    stage.restarter.carry_out(vec![stage.order("w1")]);
    stage.end().await;
    assert_eq!(stage.asked("w1").iter().filter(|question| **question == Question::Claim).count(), 1);
    assert!(stage.ended.try_recv().is_err(), "the dropped orders are not told: the one under way is");
}

#[tokio::test(start_paused = true)]
async fn an_order_for_an_engine_that_is_not_configured_ends_at_once() {
    let mut stage = stage();
    let order = RestartOrder { engine: "nobodys".into(), ..stage.order("w1") };
    stage.restarter.carry_out(vec![order]);
    assert_eq!(stage.end().await.0.end, End::NotAsked);
    assert!(stage.asked("w1").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_hangs_delays_no_start_and_another_restart_by_half_a_second() {
    let mut stage = stage();
    stage.takes(Kind::Log, 2 * SECOND);
    stage.restarter.carry_out(vec![stage.order("w1")]);
    assert_eq!(stage.end().await.1, Duration::ZERO);
    assert_eq!(stage.words(1), None, "it is still being read");
    stage.restarter.carry_out(vec![stage.wedged("w2")]);
    stage.give("w2", Kind::Look, [Answer::Seen(running())]);
    assert_eq!(stage.end().await.1, Duration::from_millis(500));
    tokio::time::sleep(3 * SECOND).await;
    for attempt in [1, 2] {
        assert_eq!(stage.words(attempt).as_deref(), Some("out of cheese"), "{attempt}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_one_that_is_not_restarted_no_words_are_kept() {
    let mut stage = stage();
    stage.give("w1", Kind::Look, [Answer::Seen(restarted())]);
    stage.restarter.carry_out(vec![stage.order("w1")]);
    stage.end().await;
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(stage.words(1), None);
}

/// A hold is placed, or somebody else restarts it, while the log is being read.
#[tokio::test(start_paused = true)]
async fn the_look_and_the_databases_word_are_not_older_for_the_wait_for_a_log() {
    let mut stage = stage();
    stage.takes(Kind::Log, 2 * SECOND);
    for (workspace, kind, news) in
        [("w1", Kind::MayAct, Answer::MayAct(ActAnswer::NotWanted)), ("w2", Kind::Look, Answer::Seen(restarted()))]
    {
        stage.give(workspace, Kind::Look, [Answer::Seen(running())]);
        stage.restarter.carry_out(vec![stage.wedged(workspace)]);
        tokio::time::sleep(Duration::from_millis(400)).await;
        stage.give(workspace, kind, [news]);
        assert_eq!(stage.end().await.0.end, End::NotAsked, "{workspace}");
        assert!(!stage.asked(workspace).contains(&Question::KillAndStart), "{workspace}");
    }
}

/// A Redis that answers after a while.
struct SlowCache;

#[async_trait]
impl Keys for SlowCache {
    async fn delete(&self, _: &[String]) -> Result<(), String> {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn the_databases_word_is_not_older_for_the_wait_for_a_cache() {
    let mut stage = stage_with(|clock| {
        let news = EvictionNews::new(Arc::new(Metrics::new(&[]).unwrap()));
        let patterns = vec![Pattern::parse("ws:{workspace_id}").unwrap()];
        Some(Arc::new(Evictor::new(patterns, Arc::new(SlowCache), Arc::clone(clock), news)))
    });
    stage.restarter.carry_out(vec![stage.order("w1")]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    stage.give("w1", Kind::MayAct, [Answer::MayAct(ActAnswer::NotWanted)]);
    assert_eq!(stage.end().await.0.end, End::NotAsked);
    assert!(!stage.asked("w1").contains(&Question::Start));
}
