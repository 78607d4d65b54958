//! What keeps a right verdict from doing harm: outages, engines that return, storms, back-off, our own health.
#![allow(missing_docs, clippy::expect_used, reason = "the names of the tests say it; helpers of tests may panic")]

mod common;

use common::*;
use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::pipeline::NoWitness;
use defib_policy::sample::{Exit, Fault, Observation};
use defib_policy::settings::{Action, Settings};
use defib_policy::verdict::{Held, Rule, Verdict, Witness};

fn fleet(size: usize, beat: i64) -> World {
    let mut world = World::new(Settings::default());
    for n in 0..size {
        world.add(&format!("w{n:03}"), Some(beat), running());
    }
    world
}

fn kill(world: &mut World, n: usize) {
    let stop = stopped(world.now_ms);
    world.see(&format!("w{n:03}"), stop);
}

fn attempt(id: i64, claimed: u64, outcome: Option<Outcome>) -> Attempt {
    Attempt {
        id,
        workspace: "w".into(),
        container_id: Some("container".into()),
        started_at: Some(clock_at(-3_600_000)),
        attempt: u32::try_from(id).expect("small"),
        claimed_ago: seconds(claimed),
        finished_ago: outcome.map(|_| seconds(claimed)),
        finished_at: outcome.map(|_| clock_at(0)),
        outcome,
        recovered_ago: None,
        acknowledged: false,
    }
}

#[test]
fn after_a_gap_in_our_own_reads_heartbeats_accuse_nobody_for_one_window() {
    let mut world = World::new(Settings::default()).with("w", Some(0), running());
    world.tick();
    world.wait_ms(300_000);
    world.see("w", stopped(299_000));
    let plan = world.tick();
    assert_eq!(plan.changes[0].evidence.heartbeat.witness, Witness::None(NoWitness::ReadGap));
    assert!(plan.restarts.is_empty(), "one sample is one witness");
    world.wait_ms(1_000);
    assert_eq!(restarted(&world.tick()), ["w"], "two spaced samples are two");
}

#[test]
fn a_database_that_started_a_moment_ago_accuses_nobody() {
    let mut world = World::new(Settings::default()).with("w", Some(-600), running());
    world.database_up_since = -20;
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Alive));
    world.run(60);
    assert_eq!(world.verdict("w"), Some(Verdict::Silent), "one window after its start");
}

#[test]
fn when_half_of_the_fleet_goes_silent_at_once_the_pipeline_is_accused_and_not_the_fleet() {
    let mut world = fleet(10, -1);
    let plan = world.tick();
    assert!(plan.changes.is_empty());
    world.run(100);
    for n in 0..10 {
        assert_eq!(world.verdict(&format!("w{n:03}")), Some(Verdict::Alive), "{n}");
    }
    // One of them dies for real meanwhile: two samples convict it, the silence does not.
    kill(&mut world, 3);
    assert!(world.tick().restarts.is_empty());
    world.wait_ms(1_000);
    assert_eq!(restarted(&world.tick()), ["w003"]);
}

#[test]
fn a_real_mass_death_does_not_excuse_itself_as_a_broken_pipeline() {
    let mut world = fleet(10, -1);
    world.tick();
    for n in 0..10 {
        kill(&mut world, n);
    }
    let mut restarts = world.run(200);
    restarts.sort();
    assert!(!restarts.is_empty(), "the dead are silent because they are dead");
}

#[test]
fn an_engine_that_came_back_may_restart_its_own_first() {
    for (policy, expected) in [(true, 0), (false, 1)] {
        let mut world = World::new(Settings::default()).with("w", Some(-1), running());
        world.tick();
        world.evidence.fault = Some(Fault::Unreachable);
        world.see("w", unknown(Fault::Unreachable));
        world.run(20);
        world.evidence.fault = None;
        let exit = Exit {
            exit_code: Some(137),
            engine_restarts: policy,
            finished_at: Some(clock_at(world.now_ms)),
            ..Exit::default()
        };
        world.see("w", Observation::Stopped { incarnation: life(-3_600_000), exit });
        let first_window = world.run(30);
        assert_eq!(first_window.len().min(1), expected, "restart policy {policy}");
        assert!(!world.run(10).is_empty(), "after one dead window it is ours in any case");
    }
}

#[test]
fn an_engine_that_answers_badly_was_not_away() {
    for fault in [Fault::EngineError, Fault::Garbled, Fault::TimedOut] {
        let mut world = World::new(Settings::default()).with("w", Some(-80), running());
        world.tick();
        world.evidence.fault = Some(fault);
        world.see("w", unknown(fault));
        assert_eq!(world.run(60), [], "{fault}");
        world.evidence.fault = None;
        let exit = Exit { engine_restarts: true, finished_at: Some(clock_at(world.now_ms)), ..Exit::default() };
        world.see("w", Observation::Stopped { incarnation: life(-3_600_000), exit });
        world.wait_ms(5_000);
        assert_eq!(restarted(&world.tick()), ["w"], "{fault}: found at once");
    }
}

#[test]
fn in_a_storm_every_death_needs_both_kinds_of_witness() {
    let mut world = fleet(20, -1);
    world.tick();
    for n in 0..12 {
        kill(&mut world, n);
    }
    world.wait_ms(1_000);
    let first = world.tick();
    assert!(first.storms.iter().any(|(scope, began)| scope.is_none() && *began), "seen before anybody is convicted");
    world.wait_ms(1_000);
    let plan = world.tick();
    assert!(plan.restarts.is_empty(), "{:?}", restarted(&plan));
    assert_eq!(rule_of(&plan, "w005"), Some(Rule::StormNeedsBoth));
    // The rest of the fleet goes on beating; the dead become stale and go one by one.
    let mut restarts = Vec::new();
    for _ in 0..20 {
        for n in 12..20 {
            world.beat(&format!("w{n:03}"));
        }
        restarts.extend(world.run(5));
    }
    assert_eq!(restarts.len(), 1, "one canary, and it has not come back: {restarts:?}");
}

#[test]
fn a_bad_view_of_a_healthy_fleet_restarts_nobody() {
    let mut world = fleet(50, -1);
    world.tick();
    for n in 0..50 {
        kill(&mut world, n);
    }
    // The engine says all are stopped; every one of them goes on beating.
    for _ in 0..240 {
        for n in 0..50 {
            world.beat(&format!("w{n:03}"));
        }
        assert_eq!(world.run(5), []);
    }
}

#[test]
fn canaries_that_come_back_let_the_rest_go_in_doubling_batches() {
    let mut world = fleet(60, -100);
    for n in 0..60 {
        world.beat(&format!("w{n:03}"));
    }
    world.tick();
    for n in 0..40 {
        kill(&mut world, n);
    }
    let mut rounds: Vec<usize> = Vec::new();
    for _ in 0..80 {
        for n in 40..60 {
            world.beat(&format!("w{n:03}"));
        }
        world.wait_ms(5_000);
        let plan = world.tick();
        if !plan.restarts.is_empty() {
            rounds.push(plan.restarts.len());
        }
        for order in &plan.restarts {
            let started = running_since(world.now_ms);
            world.see(order.workspace.as_str(), started);
        }
        world.wait_ms(500);
        for order in &plan.restarts {
            world.beat(order.workspace.as_str());
        }
    }
    assert_eq!(rounds.iter().sum::<usize>(), 40, "{rounds:?}");
    assert_eq!(rounds[..4], [1, 2, 4, 8], "{rounds:?}");
}

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
    assert_eq!(plan.looks.len(), 1, "and it is looked at then");
}

#[test]
fn exhausted_after_five_and_one_try_each_retry_interval() {
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
fn our_own_trouble_stretches_the_spacing() {
    let mut world = World::new(Settings::default()).with("w", Some(-1), stopped(0));
    world.judge.observe_tick(false);
    world.judge.observe_tick(false);
    assert_eq!(world.judge.multiplier(), 3);
    world.tick();
    world.wait_ms(2_999);
    assert!(world.tick().restarts.is_empty());
    world.wait_ms(1);
    assert_eq!(restarted(&world.tick()), ["w"]);
}

#[test]
fn a_verdict_of_an_earlier_process_ends_in_the_tables_too() {
    let mut world = World::new(Settings::default()).with("w", Some(-1), running()).with("s", Some(-80), running());
    let begun = world.now();
    world.judge.restore("w".into(), Verdict::Suspect, begun);
    world.judge.restore("s".into(), Verdict::Silent, begun);
    world.judge.restore("gone".into(), Verdict::Dead, begun);
    world.wait_ms(5_000);
    world.beat("w");
    let plan = world.tick();
    let (silent, ended) = (&plan.changes[0], &plan.changes[1]);
    assert_eq!((ended.from, ended.to), (Some(Verdict::Suspect), Verdict::Alive));
    assert_eq!(
        (silent.from, silent.to, silent.since),
        (Some(Verdict::Silent), Verdict::Silent, begun),
        "it has lasted"
    );
    assert_eq!(world.judge.counts().iter().sum::<usize>(), 2);
}

#[test]
fn a_skewed_writer_makes_nobody_look_dead_or_alive_for_ever() {
    for skew in [-3_600, 3_600] {
        let mut world = World::new(Settings::default()).with("w", Some(skew), running());
        for _ in 0..40 {
            let stamp = world.clock().shifted(skew * 1_000_000);
            world.row("w").last_heartbeat_at = Some(stamp);
            assert_eq!(world.run(30), []);
        }
        assert_eq!(world.verdict("w"), Some(Verdict::Alive), "skew {skew}");
        world.run(120);
        assert_eq!(world.verdict("w"), Some(Verdict::Silent), "skew {skew}");
    }
}

#[test]
fn a_writer_who_is_behind_speaks_for_a_young_container_that_was_there_before_us() {
    // Started five minutes before we first looked; its writer's clock is an hour behind, so each stamp is older than that.
    let mut world = World::new(Settings::default()).with("w", Some(-3_600), running_since(-300_000));
    world.tick();
    for _ in 0..10 {
        let stamp = world.clock().shifted(-3_600_000_000);
        world.row("w").last_heartbeat_at = Some(stamp);
        world.run(30);
    }
    assert_eq!(world.verdict("w"), Some(Verdict::Alive), "seen to advance, and by our own clock it is fresh");
    world.see("w", stopped_life(-300_000, world.now_ms));
    world.wait_ms(1_000);
    assert!(world.tick().restarts.is_empty(), "one sample is one witness");
    world.wait_ms(1_000);
    assert_eq!(restarted(&world.tick()), ["w"]);
}

#[test]
fn usable_heartbeats_and_storms_can_be_asked_for() {
    let mut world = fleet(20, -1);
    world.database_up_since = -10;
    world.tick();
    assert!(!world.judge.heartbeats_usable(world.now()), "the database started 10 s ago");
    world.wait_ms(5_000);
    world.tick();
    assert!(world.judge.heartbeats_usable(world.now()), "15 s, the shortest window");
    let engine = world.engine.clone();
    assert!(!world.judge.is_storm(None) && !world.judge.is_storm(Some(&engine)));
    for n in 0..12 {
        kill(&mut world, n);
    }
    world.tick();
    world.wait_ms(1_000);
    world.tick();
    assert!(world.judge.is_storm(None) && world.judge.is_storm(Some(&engine)));
    assert!(!world.judge.is_storm(Some(&"other".into())));
}

#[test]
fn a_health_check_that_fails_everywhere_restarts_nobody_who_beats() {
    let settings = Settings { unhealthy_action: Action::Restart, ..Settings::default() };
    let mut world = World::new(settings);
    for n in 0..20 {
        world.add(&format!("w{n:03}"), Some(-1), running());
    }
    world.tick();
    for _ in 0..60 {
        world.wait_ms(5_000);
        for n in 0..20 {
            world.beat(&format!("w{n:03}"));
            let sick = unhealthy(world.now_ms - 1_000);
            world.see(&format!("w{n:03}"), sick);
        }
        assert_eq!(restarted(&world.tick()), Vec::<&str>::new());
        let few = world.focus(&["w003"]);
        assert!(few.restarts.is_empty());
    }
}

#[test]
fn misses_of_a_health_check_and_of_a_stop_do_not_add_up() {
    let mut world = World::new(Settings::default()).with("w", Some(-1), unhealthy(-1));
    world.tick();
    world.wait_ms(5_000);
    world.beat("w");
    world.tick();
    world.wait_ms(5_000);
    world.see("w", stopped(9_900));
    let plan = world.tick();
    assert_eq!((world.verdict("w"), plan.restarts.len()), (Some(Verdict::Suspect), 0));
    world.wait_ms(1_000);
    assert_eq!(restarted(&world.tick()), ["w"]);
}

#[test]
fn being_frozen_explains_silence_and_voids_what_was_said_meanwhile() {
    let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
    let mut world = World::new(settings).with("w", Some(-1), running());
    world.tick();
    world.see("w", frozen());
    for _ in 0..200 {
        world.run(5);
        for reporter in ["a", "b"] {
            world.judge.observe_suspicion(&"w".into(), reporter, world.now());
        }
    }
    world.see("w", running());
    assert_eq!(world.run(70), [], "thawed, and not heard of yet");
    assert_eq!(world.verdict("w"), Some(Verdict::Alive));
    world.run(10);
    assert_eq!(world.verdict("w"), Some(Verdict::Silent), "one window later its silence is its own");
    assert_eq!(world.run(700), [], "what was said while it was frozen does not convict it later either");
    assert_eq!(world.verdict("w"), Some(Verdict::Wedged));
}

#[test]
fn suspicions_of_the_life_before_do_not_convict_the_next_one() {
    let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
    let mut world = World::new(settings).with("w", Some(-1), running()).with("v", Some(-1), running());
    world.tick();
    for _ in 0..40 {
        world.run(5);
        for reporter in ["a", "b"] {
            world.judge.observe_suspicion(&"w".into(), reporter, world.now());
        }
    }
    let started = running_since(world.now_ms);
    world.see("w", started);
    world.run(5);
    world.beat("w");
    world.row("w").last_heartbeat_at = Some(clock_at(world.now_ms - 1));
    assert_eq!(world.run(700), []);
    assert_eq!((world.verdict("w"), world.judge.watched()), (Some(Verdict::Wedged), 2));
}

#[test]
fn a_life_that_never_beat_is_not_wedged_while_it_may_still_be_booting() {
    let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
    let mut world = World::new(settings).with("w", Some(-1), running());
    world.tick();
    world.see("w", running_since(1_000));
    for _ in 0..355 {
        for reporter in ["a", "b"] {
            world.judge.observe_suspicion(&"w".into(), reporter, world.now());
        }
        assert_eq!(world.run(5), [], "at {} s", world.now_ms / 1_000);
    }
    assert_eq!(world.verdict("w"), Some(Verdict::Silent), "just under half an hour");
    for _ in 0..10 {
        world.judge.observe_suspicion(&"w".into(), "a", world.now());
        world.judge.observe_suspicion(&"w".into(), "b", world.now());
        world.run(5);
    }
    assert_eq!(world.verdict("w"), Some(Verdict::Wedged));
}

#[test]
fn suspicions_of_an_earlier_life_or_before_a_sign_of_life_are_void() {
    let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
    let mut world = World::new(settings).with("w", Some(-400), running());
    world.tick();
    for _ in 0..30 {
        for reporter in ["a", "b"] {
            world.judge.observe_suspicion(&"w".into(), reporter, world.now());
        }
        world.run(5);
    }
    world.beat("w");
    world.run(5);
    assert_eq!(world.run(700), [], "it beat after they were made");
    assert_eq!(world.verdict("w"), Some(Verdict::Wedged));
}

#[test]
fn an_engine_with_the_containers_is_the_right_one_whatever_it_calls_itself() {
    let mut world = fleet(4, -80);
    world.evidence.identity = Some("another daemon that answered first".into());
    for n in 0..4 {
        world.see(&format!("w{n:03}"), Observation::Missing);
    }
    world.tick();
    world.evidence.identity = Some("engine-1".into());
    for n in 0..4 {
        world.see(&format!("w{n:03}"), running());
    }
    world.run(5);
    world.see("w000", Observation::Missing);
    assert!(!world.run(60).is_empty(), "what is missing from it is missing");
}

#[test]
fn an_engine_that_goes_on_starting_after_its_return_is_waited_for() {
    let mut world = fleet(6, -80);
    world.tick();
    world.evidence.fault = Some(Fault::Unreachable);
    world.run(30);
    world.evidence.fault = None;
    let down = |at: i64| Observation::Stopped {
        incarnation: life(-3_600_000),
        exit: Exit { engine_restarts: true, finished_at: Some(clock_at(at)), ..Exit::default() },
    };
    let at = world.now_ms;
    for n in 0..6 {
        world.see(&format!("w{n:03}"), down(at));
    }
    let run = |world: &mut World, up: usize, span: i64| -> Vec<String> {
        let mut restarts = Vec::new();
        for _ in 0..span / 5 {
            for n in 0..up {
                world.beat(&format!("w{n:03}"));
            }
            restarts.extend(world.run(5).into_iter().map(|(_, id)| id));
        }
        restarts
    };
    for n in 0..5 {
        assert_eq!(run(&mut world, n, 20), Vec::<String>::new(), "it starts one each 20 s, {n} so far");
        let started = running_since(world.now_ms);
        world.see(&format!("w{n:03}"), started);
    }
    assert_eq!(run(&mut world, 5, 25), Vec::<String>::new());
    assert_eq!(run(&mut world, 5, 60).first().map(String::as_str), Some("w005"), "and leaves one down");
}

#[test]
fn half_of_the_containers_are_enough_to_know_an_engine_by_and_fewer_are_not() {
    for (present, known) in [(2, true), (1, false)] {
        let mut world = fleet(4, -80);
        world.tick();
        world.evidence.identity = Some("engine-2".into());
        for n in present..4 {
            world.see(&format!("w{n:03}"), Observation::Missing);
        }
        world.wait_ms(5_000);
        world.tick();
        let expected = if known { Verdict::Suspect } else { Verdict::Unknown };
        assert_eq!(world.verdict("w003"), Some(expected), "{present} of 4");
    }
}

#[test]
fn a_storm_in_a_fleet_that_hardly_beats_leaves_nobody_dead_for_ever() {
    // Six of ten run and have not beaten for long: heartbeats are no witness. Four die at once.
    let mut world = fleet(10, -3_000);
    world.tick();
    for n in 0..4 {
        kill(&mut world, n);
    }
    assert_eq!(world.run(580), [], "both kinds of witness are wanted, and one is not to be had");
    let restarts = world.run(60);
    assert!(!restarts.is_empty(), "down for the longest window, and not a sign of life");
}
