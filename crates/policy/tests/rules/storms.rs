//! The storm guard among the other rules: what it counts, what it lets through, and when it ends.

use crate::common::*;
use defib_policy::sample::Observation;
use defib_policy::settings::{Action, Settings};
use defib_policy::verdict::{Held, Rule, Verdict};

fn fleet_with(settings: Settings, size: usize, beat: Option<i64>) -> World {
    let mut world = World::new(settings);
    for n in 0..size {
        world.add(&name(n), beat, running());
    }
    world
}

fn fleet(size: usize, beat: i64) -> World {
    fleet_with(Settings::default(), size, Some(beat))
}

pub(crate) fn name(n: usize) -> String {
    format!("w{n:03}")
}

pub(crate) fn kill(world: &mut World, n: usize) {
    let stop = stopped(world.now_ms);
    world.see(&name(n), stop);
}

/// Ticks each 5 s for `span` seconds, in which those from `alive` on beat, and returns who was restarted and when.
pub(crate) fn run_while_others_beat(world: &mut World, alive: std::ops::Range<usize>, span: i64) -> Vec<(i64, String)> {
    let mut restarts = Vec::new();
    for _ in 0..span / 5 {
        alive.clone().for_each(|n| world.beat(&name(n)));
        restarts.extend(world.run(5));
    }
    restarts
}

/// A fleet of 20 of which the first 12 died at once and have both kinds of witness now. The canaries of the first batch, drawn by lot,
/// were let through: as many as `DEFIB_STORM_MIN` says.
pub(crate) fn storm_with_canaries_out(storm_min: u32) -> (World, Vec<String>) {
    let mut world = fleet_with(Settings { storm_min, ..Settings::default() }, 20, Some(-1));
    world.tick();
    (0..12).for_each(|n| kill(&mut world, n));
    for _ in 0..40 {
        let canaries = at_once(run_while_others_beat(&mut world, 12..20, 5));
        if !canaries.is_empty() {
            assert_eq!(canaries.len(), storm_min as usize, "{canaries:?}");
            return (world, canaries);
        }
    }
    panic!("no canary after {} s", world.now_ms / 1_000);
}

/// The same where the first batch is of one.
pub(crate) fn storm_with_a_canary_out() -> (World, String) {
    let (world, mut canaries) = storm_with_canaries_out(1);
    (world, canaries.remove(0))
}

/// Who was restarted, all of them in one pass.
fn at_once(restarts: Vec<(i64, String)>) -> Vec<String> {
    assert!(restarts.iter().all(|(at, _)| *at == restarts[0].0), "{restarts:?}");
    restarts.into_iter().map(|(_, id)| id).collect()
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
    let held =
        plan.changes.iter().find(|change| change.workspace.as_str() == "w005").map(|change| change.evidence.held);
    assert_eq!(held, Some(Some(Held::Storm)));
    // The rest of the fleet goes on beating; the dead become stale, and the first batch of them goes.
    let mut restarts = Vec::new();
    for _ in 0..20 {
        for n in 12..20 {
            world.beat(&format!("w{n:03}"));
        }
        restarts.extend(world.run(5));
    }
    assert_eq!(restarts.len(), 3, "the canaries of the first batch, and none of them has come back: {restarts:?}");
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
    assert_eq!(rounds, [3, 6, 12, 19], "{rounds:?}");
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

#[test]
fn a_canary_has_two_windows_to_come_back_in_and_not_a_moment_more() {
    // It was seen to run 5 s after it was let through, and its time counts from there.
    for (late_ms, next) in [(155_000, 2), (155_001, 0)] {
        let mut world = World::new(Settings { storm_min: 1, ..Settings::default() });
        for n in 0..10 {
            world.add(&format!("w{n}"), Some(-1), if n < 4 { stopped(0) } else { running() });
        }
        let others_beat = |world: &mut World| (4..10).for_each(|n| world.beat(&format!("w{n}")));
        let mut released = Vec::new();
        while released.is_empty() && world.now_ms < 300_000 {
            world.wait_ms(5_000);
            others_beat(&mut world);
            released = restarted(&world.tick()).into_iter().map(str::to_owned).collect();
        }
        assert_eq!(released.len(), 1, "{released:?}");
        let (canary, released_ms) = (released.remove(0), world.now_ms);
        world.see(&canary, running_since(released_ms));
        for after_ms in (5_000..155_000).step_by(5_000).chain([late_ms]) {
            others_beat(&mut world);
            world.now_ms = released_ms + after_ms;
            assert!(world.tick().restarts.is_empty(), "not back after {after_ms}");
        }
        world.wait_ms(1);
        world.beat(&canary);
        assert_eq!(world.tick().restarts.len(), next, "back after it was missed for {late_ms}");
    }
}

#[test]
fn in_a_storm_the_longest_window_without_a_sign_of_life_is_as_good_as_stale_from_its_end_on() {
    // Six of ten run and have not beaten for long, so heartbeats are no witness. Four die at once.
    let mut world = World::new(Settings::default());
    for n in 0..10 {
        world.add(&format!("w{n}"), Some(-3_000), if n < 4 { stopped(0) } else { running() });
    }
    world.tick();
    assert_eq!(world.run(595), []);
    world.wait_ms(4_999);
    assert!(world.tick().restarts.is_empty());
    world.wait_ms(1);
    assert_eq!(restarted(&world.tick()).len(), 3, "down for DEFIB_RECENT_MAX, and the first batch");
}

#[test]
fn a_fifth_of_an_engine_is_no_storm_and_one_more_is() {
    for (deaths, storm) in [(5, false), (6, true)] {
        let mut world = World::new(Settings::default());
        for n in 0..25 {
            world.add(&format!("w{n:02}"), Some(-1), if n < deaths { stopped(-1) } else { running() });
        }
        world.tick();
        let engine = world.engine.clone();
        assert_eq!((world.judge.is_storm(None), world.judge.is_storm(Some(&engine))), (storm, storm), "{deaths}");
    }
}

#[test]
fn containers_that_vanish_count_when_they_convict_and_once() {
    let mut world = fleet(20, -1);
    world.evidence.abilities.recreates = true;
    world.tick();
    (0..12).for_each(|n| world.see(&name(n), Observation::Missing));
    let restarts = run_while_others_beat(&mut world, 12..20, 50);
    assert_eq!(restarts.len(), 3, "{restarts:?}");
    assert!(restarts.iter().all(|(at, _)| *at == 45_000), "overdue at 45 s, and then a storm: {restarts:?}");
    assert!(world.judge.is_storm(None));
    assert_eq!(run_while_others_beat(&mut world, 12..20, 60), [], "the others wait for them");
}

#[test]
fn failing_checks_count_when_they_first_fail_and_only_where_they_would_restart() {
    for (unhealthy_action, storm) in [(Action::Restart, true), (Action::Report, false)] {
        let mut world = fleet_with(Settings { unhealthy_action, ..Settings::default() }, 20, Some(-1));
        (0..20).for_each(|n| world.see(&name(n), unhealthy(-1)));
        world.tick();
        assert_eq!(world.judge.is_storm(None), storm, "{unhealthy_action:?}");
        world.wait_ms(1_000);
        assert!(world.focus(&["w003"]).restarts.is_empty(), "convicted by itself, and the storm was seen before");
    }
}

#[test]
fn hangs_count_when_a_second_witness_agrees() {
    let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
    let mut world = fleet_with(settings, 20, Some(-1));
    (0..4).for_each(|n| world.row(&name(n)).last_heartbeat_at = Some(clock_at(-700_000)));
    world.tick();
    for _ in 0..15 {
        (4..20).for_each(|n| world.beat(&name(n)));
        world.run(5);
    }
    assert_eq!(world.verdict("w003"), Some(Verdict::Wedged));
    assert!(!world.judge.is_storm(Some(&world.engine)), "nobody would be restarted");
}

#[test]
fn a_storm_of_one_engine_is_held_back_and_turned_though_the_fleet_has_none() {
    let mut world = fleet(100, -1);
    (10..100).for_each(|n| world.row(&name(n)).engine = "other".into());
    world.tick();
    (0..6).for_each(|n| kill(&mut world, n));
    let mut rounds = Vec::new();
    for _ in 0..60 {
        (6..100).for_each(|n| world.beat(&name(n)));
        world.wait_ms(5_000);
        let plan = world.tick();
        for order in &plan.restarts {
            world.see(order.workspace.as_str(), running_since(world.now_ms));
            world.beat(order.workspace.as_str());
        }
        rounds.extend((!plan.restarts.is_empty()).then_some(plan.restarts.len()));
    }
    assert!(!world.judge.is_storm(None));
    assert_eq!(rounds, [3, 3], "six of an engine of ten are a storm there, and none of a hundred");
    assert!(!world.judge.is_storm(Some(&"default".into())), "and it ended");
}

/// The platform evacuates an engine on which many have died. Those that it moves are judged on another engine from then on, and must not keep
/// the turns of those that have stayed.
#[test]
fn those_that_move_away_in_a_storm_wait_there_no_longer_and_it_ends() {
    let mut world = fleet(100, -1);
    (10..100).for_each(|n| world.row(&name(n)).engine = "other".into());
    world.tick();
    (0..6).for_each(|n| kill(&mut world, n));
    for _ in 0..2 {
        (6..100).for_each(|n| world.beat(&name(n)));
        world.wait_ms(5_000);
        assert!(world.tick().restarts.is_empty(), "each of them lacks a witness");
    }
    assert!(world.judge.is_storm(Some(&"default".into())));
    world.run(70); // they are stale then, and the first batch is about to go
    (0..4).for_each(|n| world.row(&name(n)).engine = "other".into());
    let mut restarted = Vec::new();
    for _ in 0..60 {
        (6..100).for_each(|n| world.beat(&name(n)));
        world.wait_ms(5_000);
        let plan = world.tick();
        for order in &plan.restarts {
            world.see(order.workspace.as_str(), running_since(world.now_ms));
            world.beat(order.workspace.as_str());
            restarted.push(order.workspace.to_string());
        }
    }
    restarted.sort();
    assert_eq!(restarted, [name(4), name(5)]);
    assert!(!world.judge.is_storm(Some(&"default".into())), "it has ended");
}

#[test]
fn a_storm_of_the_fleet_is_held_back_and_turned_though_no_engine_has_one() {
    let mut world = fleet(10, -1);
    (5..10).for_each(|n| world.row(&name(n)).engine = "other".into());
    world.tick();
    for n in [0, 1, 2, 5, 6] {
        kill(&mut world, n);
    }
    let (mut rounds, mut ends) = (Vec::new(), 0);
    for _ in 0..100 {
        for n in [3, 4, 7, 8, 9] {
            world.beat(&name(n));
        }
        world.wait_ms(5_000);
        for engine in ["default", "other"] {
            world.engine = engine.into();
            let plan = world.tick();
            for order in &plan.restarts {
                world.see(order.workspace.as_str(), running_since(world.now_ms));
                world.beat(order.workspace.as_str());
            }
            rounds.extend(plan.restarts.iter().map(|order| order.workspace.to_string()));
            ends += plan.storms.iter().filter(|storm| **storm == (None, false)).count();
            assert!(!world.judge.is_storm(Some(&world.engine)));
        }
    }
    rounds.sort();
    assert_eq!((rounds.len(), ends), (5, 1), "{rounds:?}");
}

#[test]
fn those_who_never_beat_are_back_when_they_have_run_through_their_settle_time() {
    let mut world = fleet_with(Settings::default(), 20, None);
    (12..20).for_each(|n| world.beat(&name(n)));
    world.tick();
    (0..12).for_each(|n| kill(&mut world, n));
    let mut rounds = Vec::new();
    for _ in 0..40 {
        (12..20).for_each(|n| world.beat(&name(n)));
        world.wait_ms(5_000);
        let plan = world.tick();
        for order in &plan.restarts {
            world.see(order.workspace.as_str(), running_since(world.now_ms));
        }
        rounds.extend((!plan.restarts.is_empty()).then_some((world.now_ms / 1_000, plan.restarts.len())));
    }
    let first = rounds[0].0;
    assert_eq!(rounds, [(first, 3), (first + 30, 6), (first + 60, 3)], "{rounds:?}");
}

#[test]
fn a_canary_that_runs_and_is_not_heard_of_is_not_back() {
    let (mut world, canary) = storm_with_a_canary_out();
    world.see(&canary, running_since(world.now_ms));
    assert_eq!(run_while_others_beat(&mut world, 12..20, 145), [], "it runs, and has a heartbeat to be heard of by");
    assert_eq!(world.verdict(&canary), Some(Verdict::Silent));
}

#[test]
fn a_canary_that_takes_a_moment_to_come_up_has_not_failed() {
    let (mut world, canary) = storm_with_a_canary_out();
    assert_eq!(run_while_others_beat(&mut world, 12..20, 10), [], "still being started");
    world.see(&canary, running_since(world.now_ms));
    assert_eq!(run_while_others_beat(&mut world, 12..20, 5), []);
    world.beat(&canary);
    assert_eq!(run_while_others_beat(&mut world, 12..20, 5).len(), 2);
}

#[test]
fn a_canary_that_is_found_dead_again_fails_its_round_at_once() {
    let (mut world, canary) = storm_with_a_canary_out();
    let released = world.now_ms;
    world.see(&canary, running_since(released));
    assert_eq!(run_while_others_beat(&mut world, 12..20, 5), []);
    world.see(&canary, stopped_life(released, world.now_ms));
    let next = run_while_others_beat(&mut world, 12..20, 135);
    // It is found stopped again after 10 s, which fails the round: the next goes one cooldown from there.
    assert_eq!(next.first().map(|(at, _)| *at), Some(released + 10_000 + 120_000), "{next:?}");
    assert_eq!(next.len(), 1, "one canary again");
}

#[test]
fn a_batch_of_which_most_are_found_dead_again_fails_at_once_and_others_go_after_one_cooldown() {
    let (mut world, canaries) = storm_with_canaries_out(3);
    let released = world.now_ms;
    for id in &canaries {
        world.see(id, running_since(released));
    }
    assert_eq!(run_while_others_beat(&mut world, 12..20, 5), []);
    canaries[..2].iter().for_each(|id| world.see(id, stopped_life(released, released + 5_000)));
    // They are found stopped after 10 s, and that pass ends the round: one cooldown from there.
    assert_eq!(run_while_others_beat(&mut world, 12..20, 120), []);
    let next = at_once(run_while_others_beat(&mut world, 12..20, 5));
    assert_eq!((world.now_ms, next.len()), (released + 10_000 + 120_000, 3), "the first batch again");
    assert!(next.iter().all(|id| !canaries.contains(id)), "{next:?} after {canaries:?}");
}

#[test]
fn one_canary_of_three_that_is_found_dead_again_speaks_for_itself_alone() {
    let (mut world, canaries) = storm_with_canaries_out(3);
    let released = world.now_ms;
    for id in &canaries {
        world.see(id, running_since(released));
    }
    assert_eq!(run_while_others_beat(&mut world, 12..20, 5), []);
    world.see(&canaries[0], stopped_life(released, released + 5_000));
    assert_eq!(run_while_others_beat(&mut world, 12..20, 5), []);
    for id in &canaries[1..] {
        world.beat(id);
    }
    let next = at_once(run_while_others_beat(&mut world, 12..20, 5));
    assert_eq!(next.len(), 6, "most are back, so twice as many go: {next:?}");
    assert!(!next.contains(&canaries[0]), "and it waits for all who were not tried yet");
}

#[test]
fn a_storm_does_not_end_while_somebody_who_is_not_looked_at_waits() {
    let (mut world, canary) = storm_with_a_canary_out();
    run_while_others_beat(&mut world, 12..20, 200);
    let another = (0..12).map(name).find(|id| *id != canary).unwrap_or_default();
    assert_eq!(world.verdict(&another), Some(Verdict::Dead));
    world.wait_ms(1_000);
    world.focus(&["w019"]);
    assert!(world.judge.is_storm(None), "eleven wait for their turn");
}

#[test]
fn one_that_needs_the_other_kind_of_witness_is_looked_at_one_spacing_later() {
    let mut world = fleet(20, -1);
    world.tick();
    (0..12).for_each(|n| kill(&mut world, n));
    world.tick();
    world.wait_ms(1_000);
    let plan = world.tick();
    assert_eq!(rule_of(&plan, "w005"), Some(Rule::StormNeedsBoth));
    assert!(plan.looks.contains(&("w005".into(), moment_at(2_000))), "{:?}", plan.looks);
    assert_eq!(plan.changes[0].newly_held, Some(Held::Storm));
}

#[test]
fn a_storm_of_the_fleet_is_not_ended_by_an_engine_on_which_nobody_died() {
    // Heartbeats are no witness: the whole fleet has been silent for long. Two die on each of two engines.
    let mut world = fleet(12, -3_000);
    (4..8).for_each(|n| world.row(&name(n)).engine = "second".into());
    (8..12).for_each(|n| world.row(&name(n)).engine = "third".into());
    world.tick();
    for n in [0, 1, 4, 5] {
        kill(&mut world, n);
    }
    while world.now_ms < 580_000 {
        world.wait_ms(5_000);
        for engine in ["default", "second", "third"] {
            world.engine = engine.into();
            assert_eq!(restarted(&world.tick()), Vec::<&str>::new(), "{engine} at {}", world.now_ms);
        }
        assert!(world.judge.is_storm(None), "at {}", world.now_ms);
    }
}

/// Which of twelve dead are the canaries of a storm of `engine` alone, in a fleet that has none.
fn canaries_on(engine: &str) -> Vec<String> {
    let mut world = fleet(120, -1);
    (0..120).for_each(|n| world.row(&name(n)).engine = if n < 20 { engine } else { "others" }.into());
    world.engine = engine.into();
    world.tick();
    (0..12).for_each(|n| kill(&mut world, n));
    for _ in 0..40 {
        let canaries = at_once(run_while_others_beat(&mut world, 12..120, 5));
        if !canaries.is_empty() {
            assert!(!world.judge.is_storm(None));
            return canaries;
        }
    }
    panic!("no canary after {} s", world.now_ms / 1_000);
}

#[test]
fn each_engine_has_a_draw_of_its_own() {
    assert_ne!(canaries_on("a"), canaries_on("b"));
    assert_eq!(canaries_on("a"), canaries_on("a"));
}

/// An earlier attempt is still open, so it does not stand in line. What keeps it from another restart is the storm all the same.
#[test]
fn one_that_lacks_a_witness_is_held_by_the_storm_although_it_does_not_stand_in_line() {
    let mut world = fleet(20, -1);
    world.attempts.insert(name(0), vec![attempt(1, 5, None)]);
    world.tick();
    (0..12).for_each(|n| kill(&mut world, n));
    let mut held = None;
    for _ in 0..5 {
        (12..20).for_each(|n| world.beat(&name(n)));
        world.wait_ms(5_000);
        let plan = world.tick();
        let of_it = plan.changes.iter().rfind(|change| change.workspace.as_str() == name(0));
        held = of_it.map_or(held, |change| Some((change.evidence.rule, change.evidence.held)));
    }
    assert_eq!(held, Some((Rule::StormNeedsBoth, Some(Held::Storm))));
}
