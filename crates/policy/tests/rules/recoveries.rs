//! What the ledger does to a right verdict (section 4.6): back-off, exhaustion, and what proves a recovery.

use crate::common::*;
use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::plan::Remedy;
use defib_policy::sample::{Health, Incarnation, Observation};
use defib_policy::settings::{Action, Settings};
use defib_policy::verdict::{Held, Verdict};

#[test]
fn backoff_holds_the_restart_and_says_when_it_may_go() {
    let mut world = World::new(Settings::default()).with("w", Some(-80), stopped(0));
    world
        .attempts
        .insert("w".into(), vec![attempt(2, 1, Some(Outcome::Failed)), attempt(1, 30, Some(Outcome::Failed))]);
    let plan = world.tick();
    assert!(plan.restarts.is_empty());
    let change = &plan.changes[0];
    assert_eq!((change.to, change.newly_held), (Verdict::Dead, Some(Held::Backoff)));
    let wait = change.evidence.retry_in_seconds.expect("a wait");
    assert!(wait > 9.0 && wait < 19.0, "{wait}");
    let looks: Vec<_> = plan.looks.iter().map(|(_, at)| *at).collect();
    assert_eq!(looks, [world.now() + std::time::Duration::from_secs_f64(wait)], "and it is looked at then");
}

#[test]
fn a_workspace_is_exhausted_after_five_attempts_and_tried_once_each_retry_interval() {
    let mut world = World::new(Settings::default()).with("w", Some(-80), stopped(0));
    let failed = |newest: u64| -> Vec<Attempt> {
        (0..5_u32).map(|n| attempt(i64::from(5 - n), newest + u64::from(n) * 60, Some(Outcome::Failed))).collect()
    };
    world.attempts.insert("w".into(), failed(60));
    let plan = world.tick();
    assert_eq!((world.verdict("w"), plan.changes[0].newly_held), (Some(Verdict::Exhausted), Some(Held::Exhausted)));
    world.attempts.insert("w".into(), failed(1_801));
    assert_eq!(restarted(&world.tick()), ["w"]);
    assert_eq!(world.verdict("w"), Some(Verdict::Exhausted), "the gauge stays up");
}

/// The database's clock was ahead when the last attempt ended, and has been put right. So that end lies in the future, for hours.
#[test]
fn a_clock_that_was_ahead_when_an_attempt_ended_makes_no_wait_longer() {
    let mut world = World::new(Settings::default()).with("w", Some(-80), stopped(0));
    let ended_in_the_future = (1..=5).rev().map(|n| attempt(n, 0, Some(Outcome::Failed))).collect();
    world.attempts.insert("w".into(), ended_in_the_future);
    assert_eq!(world.run(1_795), [], "the exhausted wait for half an hour");
    assert_eq!(world.run(10).len(), 1);
    world.attempts.insert("w".into(), (1..=6).rev().map(|n| attempt(n, 0, Some(Outcome::Failed))).collect());
    assert_eq!(world.run(1_795), [], "and for as long after the next attempt");
}

#[test]
fn an_open_attempt_is_nobody_elses_to_repeat() {
    let mut world = World::new(Settings::default()).with("w", Some(-80), stopped(0));
    world.attempts.insert("w".into(), vec![attempt(1, 5, None)]);
    assert_eq!(world.run(60), []);
}

#[test]
fn only_a_heartbeat_of_the_new_life_is_a_recovery() {
    let mut world = World::new(Settings::default()).with("w", Some(-80), running());
    world.tick();
    world.attempts.insert("w".into(), vec![attempt(7, 5, Some(Outcome::Succeeded))]);
    world.wait_ms(5_000);
    world.see("w", running_since(4_000));
    assert!(world.tick().recoveries.is_empty(), "running is not a recovery");
    world.wait_ms(5_000);
    world.beat("w");
    let plan = world.tick();
    assert_eq!(plan.recoveries.iter().map(|recovery| recovery.attempt_id).collect::<Vec<_>>(), [7]);
}

#[test]
fn one_that_never_beats_recovers_by_running_through_its_settle_window() {
    let mut world = World::new(Settings::default()).with("w", None, running());
    world.tick();
    world.see("w", running_since(1_000));
    world.attempts.insert("w".into(), vec![attempt(7, 10, Some(Outcome::Succeeded))]);
    world.wait_ms(5_000);
    assert!(world.tick().recoveries.is_empty());
    world.attempts.insert("w".into(), vec![attempt(7, 40, Some(Outcome::Succeeded))]);
    world.run(30);
    world.wait_ms(5_000);
    assert_eq!(world.tick().recoveries.len(), 1);
}

#[test]
fn one_that_never_beats_has_recovered_with_the_end_of_its_settle_time() {
    for (ago, recoveries) in [(29, 0), (30, 1)] {
        let mut world = World::new(Settings::default()).with("w", None, running());
        world.tick();
        world.wait_ms(35_000);
        world.see("w", running_since(1_000));
        let attempt = Attempt {
            id: 1,
            workspace: "w".into(),
            container_id: Some("container".into()),
            started_at: Some(clock_at(-3_600_000)),
            attempt: 1,
            claimed_ago: seconds(ago),
            finished_ago: Some(seconds(ago)),
            finished_at: None,
            outcome: Some(Outcome::Succeeded),
            recovered_ago: None,
            asked: true,
            acknowledged: false,
        };
        world.attempts.insert("w".to_owned(), vec![attempt]);
        assert_eq!(world.tick().recoveries.len(), recoveries, "{ago} s after its restart");
    }
}

#[test]
fn the_time_that_one_was_down_before_us_counts_against_its_recovery() {
    // Recovered 700 s ago, found missing by an earlier process 300 s ago: well for 400 s, which is not enough to forget.
    for (down_s, next) in [(300, 2), (50, 1)] {
        let mut world = World::new(Settings::default()).with("w", Some(-800), Observation::Missing);
        world.judge.take_over(&"w".into(), Verdict::Dead, moment_at(-down_s * 1_000));
        let attempt = Attempt {
            id: 1,
            workspace: "w".into(),
            container_id: None,
            started_at: None,
            attempt: 1,
            claimed_ago: seconds(720),
            finished_ago: Some(seconds(715)),
            finished_at: None,
            outcome: Some(Outcome::Succeeded),
            recovered_ago: Some(seconds(700)),
            asked: true,
            acknowledged: false,
        };
        world.attempts.insert("w".to_owned(), vec![attempt]);
        world.tick();
        world.run(10);
        world.wait_ms(5_000);
        let plan = world.tick();
        assert_eq!(plan.restarts.first().map(|order| order.attempt), Some(next), "down for {down_s} s");
    }
}

/// Whose attempts a pass takes for recoveries, when a container that runs `life` last beat at `beat_ms`.
fn recoveries(attempts: Vec<Attempt>, life: &Observation, beat_ms: i64) -> Vec<i64> {
    let mut world = World::new(Settings::default()).with("w", Some(-80), running());
    world.tick();
    world.attempts.insert("w".into(), attempts);
    world.wait_ms(10_000);
    world.see("w", life.clone());
    world.row("w").last_heartbeat_at = Some(clock_at(beat_ms));
    world.tick().recoveries.iter().map(|recovery| recovery.attempt_id).collect()
}

fn running_as(container: &str, started_ms: Option<i64>) -> Observation {
    let incarnation = Incarnation { container_id: container.into(), started_at: started_ms.map(clock_at) };
    Observation::Running { incarnation, health: Health::None }
}

#[test]
fn a_recovery_is_told_of_the_newest_attempt_that_may_have_told_the_platform_and_once() {
    let base = || attempt(7, 5, Some(Outcome::Succeeded));
    let born = running_since(4_000);
    assert_eq!(recoveries(vec![base()], &born, 9_000), [7]);
    assert_eq!(recoveries(vec![Attempt { recovered_ago: Some(seconds(1)), ..base() }], &born, 9_000), [0; 0]);
    assert_eq!(recoveries(vec![Attempt { acknowledged: true, ..base() }], &born, 9_000), [0; 0]);
    assert_eq!(recoveries(vec![attempt(8, 4, Some(Outcome::Vetoed)), base()], &born, 9_000), [7], "vetoed: not told");
    assert_eq!(recoveries(vec![attempt(8, 4, Some(Outcome::Superseded)), base()], &born, 9_000), [8]);
    assert_eq!(recoveries(vec![attempt(8, 4, None), base()], &born, 9_000), [7], "not ended yet");

    let mut in_flight = World::new(Settings::default()).with("w", Some(-80), running());
    in_flight.tick();
    in_flight.attempts.insert("w".into(), vec![base()]);
    in_flight.in_flight.push("w".to_owned());
    in_flight.wait_ms(10_000);
    in_flight.see("w", running_since(4_000));
    in_flight.beat("w");
    assert!(in_flight.tick().recoveries.is_empty(), "the row is being written to");
}

#[test]
fn a_beat_of_another_life_or_later_than_the_attempts_end_proves_it_and_no_other() {
    // The attempt on the life that began an hour ago ended at 9 s.
    let row = || Attempt { finished_at: Some(clock_at(9_000)), ..attempt(7, 1, Some(Outcome::Failed)) };
    for (life, beat_ms, proves) in [
        (running(), 9_000, false),
        (running(), 9_001, true),
        (running_since(4_000), 8_000, true),
        (running_as("another", Some(-3_600_000)), 8_000, true),
        (running_as("container", None), 8_000, false),
        (running_as("container", None), 9_001, true),
    ] {
        assert_eq!(recoveries(vec![row()], &life, beat_ms), vec![7; usize::from(proves)], "{life:?} {beat_ms}");
    }
}

#[test]
fn one_that_has_beaten_before_does_not_recover_by_running_nor_by_lying_still() {
    for life in [running_since(-40_000), stopped(9_000)] {
        let old = Attempt { finished_ago: Some(seconds(40)), ..attempt(7, 40, Some(Outcome::Succeeded)) };
        assert_eq!(recoveries(vec![old], &life, -80_000), [0; 0], "{life:?}");
    }
}

#[test]
fn what_an_engine_that_came_back_may_do_itself_is_left_to_it_until_exactly_one_dead_window_later() {
    for (at_ms, held) in [(29_999, true), (30_000, false)] {
        let mut world = World::new(Settings::default()).with("w", Some(-80), running());
        world.engine_goes_away_and_w_stops();
        world.wait_ms(5_000);
        let plan = world.tick();
        assert_eq!(plan.changes[0].newly_held, Some(Held::EngineReturned));
        assert_eq!(plan.looks, [("w".into(), moment_at(40_000))], "looked at when the window ends");
        world.wait_ms(at_ms);
        assert_eq!(world.focus(&["w"]).restarts.is_empty(), held, "{at_ms}");
    }
}

#[test]
fn one_that_is_missing_is_made_again_and_its_first_attempt_waits_for_nothing() {
    let mut world = World::new(Settings::default()).with("w", Some(-80), running());
    world.tick();
    world.see("w", Observation::Missing);
    world.tick();
    world.wait_ms(7_500);
    world.tick();
    world.wait_ms(7_500);
    let order = &world.tick().restarts[0];
    assert_eq!((order.remedy, order.evidence.retry_in_seconds), (Remedy::Recreate, None));
    assert_eq!(order.started_at(), Some(clock_at(-3_600_000)), "the life that was seen last");
}

#[test]
fn a_stop_is_as_old_as_the_pass_finds_it_whether_it_was_before_the_read_or_after() {
    for (stopped_ms, ago_ms) in [(-100, 150), (0, 50), (20, 30), (60, 0)] {
        let mut world = World::new(Settings::default()).with("w", Some(-80), stopped(stopped_ms));
        world.lag_ms = 50;
        let ago = std::time::Duration::from_millis(ago_ms);
        assert_eq!(world.tick().restarts[0].stopped_ago, Some(ago), "stopped at {stopped_ms} ms");
    }
}

#[test]
fn a_hang_is_held_back_with_its_reason_and_reported_only_where_that_is_what_is_wanted() {
    for (wedged_action, alone, agreed, restarts) in
        [(Action::Restart, Held::SecondWitness, None, 1), (Action::Report, Held::ReportOnly, None, 0)]
    {
        let world = World::new(Settings { wedged_action, ..Settings::default() }).with("w", Some(-590), running());
        let mut world = world.watched();
        world.tick();
        assert_eq!(world.verdict("w"), Some(Verdict::Silent));
        world.run(10);
        world.wait_ms(5_000);
        let plan = world.tick();
        assert_eq!((plan.changes[0].to, plan.changes[0].newly_held), (Verdict::Wedged, Some(alone)));
        for reporter in ["a", "b"] {
            world.suspect(&"w".into(), reporter);
        }
        world.run(145);
        world.wait_ms(5_000);
        for reporter in ["a", "b"] {
            world.suspect(&"w".into(), reporter);
        }
        let plan = world.tick();
        assert_eq!(plan.restarts.len(), restarts, "{wedged_action:?}");
        assert_eq!(plan.changes.last().and_then(|change| change.newly_held), agreed, "nothing new is held");
    }
}

#[test]
fn exhausted_ones_are_counted_until_one_recovers_or_is_acknowledged_whatever_becomes_of_a_try() {
    let mut world =
        World::new(Settings::default()).with("w", Some(-700), stopped(-60_000)).with("v", Some(-1), running());
    let failed = |n: u32| Attempt { attempt: n, ..attempt(n.into(), 4_000, Some(Outcome::Failed)) };
    let counted = |world: &mut World| {
        world.tick();
        (world.judge.exhausted(), world.verdict("w").unwrap())
    };
    world.attempts.insert("w".into(), (1..5).rev().map(failed).collect());
    assert_eq!(counted(&mut world), (0, Verdict::Dead));
    world.attempts.insert("w".into(), (1..6).rev().map(failed).collect());
    assert_eq!(counted(&mut world), (1, Verdict::Exhausted));
    // The rare try of an exhausted workspace is under way. Then it starts, and stays silent.
    world.attempts.get_mut("w").unwrap().insert(0, Attempt { attempt: 6, ..attempt(6, 1, None) });
    world.in_flight = vec!["w".into()];
    assert_eq!(counted(&mut world), (1, Verdict::Exhausted));
    world.in_flight.clear();
    world.attempts.get_mut("w").unwrap()[0].outcome = Some(Outcome::Succeeded);
    world.wait_ms(1_000);
    world.see("w", running_since(500));
    assert_eq!(counted(&mut world), (1, Verdict::Settling));
    for ends in [
        Attempt { recovered_ago: Some(seconds(1)), ..world.attempts["w"][0].clone() },
        Attempt { acknowledged: true, ..world.attempts["w"][0].clone() },
    ] {
        let before = std::mem::replace(&mut world.attempts.get_mut("w").unwrap()[0], ends);
        assert_eq!(counted(&mut world).0, 0);
        world.attempts.get_mut("w").unwrap()[0] = before;
        assert_eq!(counted(&mut world).0, 1);
    }
    world.fleet.remove("w");
    world.tick();
    assert_eq!(world.judge.exhausted(), 0, "nobody watches it any more");
}

#[test]
fn one_that_hangs_is_not_called_exhausted_while_it_runs() {
    let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
    let mut world = World::new(settings).with("w", Some(-700), running());
    world.attempts.insert("w".into(), (0..5).map(|n| attempt(5 - n, 60, Some(Outcome::Failed))).collect());
    world.tick();
    for reporter in ["a", "b"] {
        world.suspect(&"w".into(), reporter);
    }
    world.run(145);
    world.wait_ms(5_000);
    for reporter in ["a", "b"] {
        world.suspect(&"w".into(), reporter);
    }
    let plan = world.tick();
    assert_eq!((world.verdict("w"), plan.changes[0].newly_held), (Some(Verdict::Wedged), Some(Held::Exhausted)));
}

/// A control plane may only tell states. An order to restart there could only be refused, pass after pass, and the verdict said nothing of it.
#[test]
fn one_that_nothing_is_configured_to_restart_is_held_and_the_sentence_says_what_to_set() {
    let unhealthy = Settings { unhealthy_action: Action::Restart, ..Settings::default() };
    for (settings, seen, starts, kills, held) in [
        (Settings::default(), stopped(-5_000), false, true, Some(Held::CannotRestart)),
        (Settings::default(), stopped(-5_000), true, false, None),
        (unhealthy.clone(), self::unhealthy(-1), true, false, Some(Held::CannotRestart)),
        (unhealthy, self::unhealthy(-1), false, true, None),
    ] {
        let mut world = World::new(settings).with("w", Some(-700), running());
        world.evidence.abilities.starts = starts;
        world.evidence.abilities.kills = kills;
        world.tick();
        world.see("w", seen);
        let restarts = world.run(30);
        let told = world.judge.told(&"w".into()).and_then(|told| told.held);
        if held.is_some() {
            assert_eq!((told, restarts.as_slice()), (held, &[][..]), "starts {starts}, kills {kills}");
        } else {
            assert!(!restarts.is_empty(), "starts {starts}, kills {kills}: {told:?}");
        }
    }
    assert!(Held::CannotRestart.sentence().contains("DEFIB_PLATFORM_URL"));
}

/// An engine cannot make a removed container again. Such an order could only fail, and used up one attempt after the other.
#[test]
fn one_whose_container_was_removed_is_held_where_nobody_can_make_it_again() {
    for (recreates, restarts, held) in [(true, 1, None), (false, 0, Some(Held::CannotRecreate))] {
        let mut world = World::new(Settings::default()).with("w", Some(-80), running());
        world.evidence.abilities.recreates = recreates;
        world.tick();
        world.see("w", Observation::Missing);
        world.run(10);
        let plan = {
            world.wait_ms(10_000);
            world.tick()
        };
        assert_eq!((world.verdict("w"), plan.restarts.len()), (Some(Verdict::Dead), restarts), "{recreates}");
        assert_eq!(world.judge.told(&"w".into()).map(|told| (told.verdict, told.held)), Some((Verdict::Dead, held)));
        if !recreates {
            assert_eq!(world.run(3_600), [], "however long it takes");
            world.see("w", stopped(world.now_ms));
            world.wait_ms(5_000);
            assert_eq!(world.tick().restarts.len(), 1, "one that is there and stopped is started");
        }
    }
}

#[test]
fn an_attempt_that_never_asked_the_engine_is_repeated_after_ten_seconds_under_its_own_number() {
    let mut world = World::new(Settings::default()).with("w", Some(-80), stopped(0));
    let handed_back = |id: i64, ago: u64| Attempt { asked: false, ..attempt(id, ago, Some(Outcome::Abandoned)) };
    world
        .attempts
        .insert("w".into(), (1..=6).rev().map(|id| handed_back(id, 9 + 400 * (6 - id).unsigned_abs())).collect());
    let plan = world.tick();
    assert_eq!((world.verdict("w"), plan.restarts.len()), (Some(Verdict::Dead), 0), "never exhausted by such");
    assert_eq!(plan.changes[0].newly_held, Some(Held::Backoff));
    world.attempts.insert("w".into(), vec![handed_back(1, 10)]);
    assert_eq!(world.tick().restarts.first().map(|order| order.attempt), Some(1));
}
