//! What keeps a right verdict from doing harm: outages, engines that return, our own health, and what voids a suspicion or a miss.

use crate::common::*;
use defib_policy::pipeline::NoWitness;
use defib_policy::sample::{Exit, Fault, Observation};
use defib_policy::settings::{Action, Settings};
use defib_policy::verdict::{Verdict, Witness};

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
    // One of them really dies meanwhile. Two samples convict it; its silence does not count.
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
    world.judge.take_over(&"w".into(), Verdict::Suspect, begun);
    world.judge.take_over(&"s".into(), Verdict::Silent, begun);
    world.judge.take_over(&"gone".into(), Verdict::Dead, begun);
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
            world.suspect(&"w".into(), reporter);
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
            world.suspect(&"w".into(), reporter);
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
            world.suspect(&"w".into(), reporter);
        }
        assert_eq!(world.run(5), [], "at {} s", world.now_ms / 1_000);
    }
    assert_eq!(world.verdict("w"), Some(Verdict::Silent), "just under half an hour");
    for _ in 0..10 {
        world.suspect(&"w".into(), "a");
        world.suspect(&"w".into(), "b");
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
            world.suspect(&"w".into(), reporter);
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

/// One that has a restart policy of its engine and stopped while the engine was away. When is it restarted, if from its return on each
/// `every`th list of the engine fails (or, with `restarts`, the engine itself restarts then)?
fn restarted_on_an_unsteady_engine(every: i64, restarts: bool) -> Option<i64> {
    let mut world = World::new(Settings::default()).with("w", Some(-80), running());
    world.tick();
    world.wait_ms(5_000);
    let exit = Exit { engine_restarts: true, finished_at: Some(clock_at(world.now_ms)), ..Exit::default() };
    let down = Observation::Stopped { incarnation: life(-3_600_000), exit };
    for n in 0..240 {
        let fails = n % every == 0;
        world.evidence.fault = fails.then_some(Fault::Unreachable);
        world.evidence.restarted = restarts && n % every == 1;
        world.see("w", if fails { unknown(Fault::Unreachable) } else { down.clone() });
        if !world.tick().restarts.is_empty() {
            return Some(world.now_ms / 1_000);
        }
        world.wait_ms(5_000);
    }
    None
}

#[test]
fn lists_that_fail_now_and_then_do_not_leave_one_to_its_engine_for_ever() {
    assert_eq!(restarted_on_an_unsteady_engine(1_000, false), Some(40), "one dead window after its return");
    for every in [3, 4, 6] {
        assert_eq!(restarted_on_an_unsteady_engine(every, false), Some(310), "ten windows, each {every}th list fails");
    }
    assert_eq!(restarted_on_an_unsteady_engine(4, true), Some(310), "nor does one that goes on restarting");
}

#[test]
fn an_engine_that_really_restarts_again_gets_its_window_and_so_does_one_that_was_steady_for_long() {
    for (gap, restarted, waits) in [(100, true, true), (100, false, false), (300, false, true)] {
        let mut world = World::new(Settings::default()).with("w", Some(-80), running());
        world.tick();
        let absence = |world: &mut World, restarted: bool| {
            world.wait_ms(5_000);
            world.evidence.fault = Some(Fault::Unreachable);
            world.see("w", unknown(Fault::Unreachable));
            world.tick();
            world.wait_ms(5_000);
            (world.evidence.fault, world.evidence.restarted) = (None, restarted);
            world.see("w", running());
            world.tick();
            world.evidence.restarted = false;
        };
        // The path breaks for five minutes, so that its ten windows are used up.
        for _ in 0..29 {
            absence(&mut world, false);
        }
        world.run(gap - 10);
        absence(&mut world, restarted);
        let exit = Exit { engine_restarts: true, finished_at: Some(clock_at(world.now_ms)), ..Exit::default() };
        world.see("w", Observation::Stopped { incarnation: life(-3_600_000), exit });
        world.wait_ms(1_000);
        assert_eq!(world.tick().restarts.is_empty(), waits, "steady for {gap} s, restarted: {restarted}");
    }
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

/// Whether one that hangs is restarted by the last of these reports, with passes each 5 s before it.
fn restarted_by_reports(reports: &[(i64, &str)]) -> bool {
    let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
    let mut world = World::new(settings).with("w", Some(-700), running());
    world.tick();
    for (at_ms, reporter) in reports {
        while world.now_ms + 5_000 < *at_ms {
            assert_eq!(world.run(5), [], "before the report at {at_ms}");
        }
        world.now_ms = *at_ms;
        world.suspect(&"w".into(), reporter);
    }
    !world.tick().restarts.is_empty()
}

#[test]
fn a_reporter_tells_one_story_for_as_long_as_it_is_not_silent_for_longer_than_a_hang_takes() {
    let b_goes_on = [(300_000, "b"), (598_000, "b")];
    let again = |at_ms| restarted_by_reports(&[&[(0, "a")], &b_goes_on[..], &[(at_ms, "a")]].concat());
    assert!(again(600_000), "a has told of it for ten minutes");
    assert!(!again(600_001), "a has begun anew");
}

#[test]
fn a_report_counts_for_twice_the_longest_window_and_no_longer() {
    for (released_ms, restarted) in [(1_350_000, true), (1_350_001, false)] {
        let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
        let mut world = World::new(settings).with("w", Some(-700), running());
        world.on_hold = vec!["w".into()];
        world.tick();
        for silent_for in [150, 1_195] {
            for reporter in ["a", "b"] {
                world.suspect(&"w".into(), reporter);
            }
            world.run(silent_for);
        }
        world.now_ms = released_ms;
        world.on_hold.clear();
        assert_eq!(!world.tick().restarts.is_empty(), restarted, "{released_ms}");
    }
}

/// A bug that the simulator found: one login had accused a silent workspace for long, the network of another caller broke, and its first
/// report convicted the workspace.
#[test]
fn two_reporters_must_both_have_gone_on_for_two_windows() {
    assert!(!restarted_by_reports(&[(0, "a"), (550_000, "a"), (599_000, "b"), (600_000, "b"), (600_000, "a")]));
    assert!(!restarted_by_reports(&[(0, "a"), (400_000, "b"), (600_000, "a")]), "b has said it once");
    assert!(!restarted_by_reports(&[(0, "a"), (0, "b"), (149_999, "b"), (300_000, "a")]));
    assert!(restarted_by_reports(&[(0, "a"), (400_000, "b"), (600_000, "b"), (600_000, "a")]));
}
