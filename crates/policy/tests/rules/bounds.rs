//! Every comparison of the rules at its bound: on it, and one step beyond.

use crate::common::*;
use defib_policy::fleet::Kind;
use defib_policy::pipeline::NoWitness;
use defib_policy::plan::Plan;
use defib_policy::sample::{Exit, Fault, Incarnation, Observation, Transition};
use defib_policy::settings::{Action, Settings};
use defib_policy::verdict::{Held, Verdict, Witness};

fn world() -> World {
    World::new(Settings::default())
}

fn beat_at(world: &mut World, id: &str, ms: i64) {
    world.row(id).last_heartbeat_at = Some(clock_at(ms));
}

#[test]
fn a_heartbeat_as_old_as_the_window_is_stale() {
    for (age_ms, verdict) in [(74_999, Verdict::Alive), (75_000, Verdict::Silent)] {
        let mut world = world().with("w", Some(-1), running());
        beat_at(&mut world, "w", -age_ms);
        world.tick();
        assert_eq!(world.verdict("w"), Some(verdict), "{age_ms}");
    }
}

#[test]
fn heartbeats_accuse_again_exactly_one_window_after_an_outage() {
    for (up_for, verdict) in [(74, Verdict::Alive), (75, Verdict::Silent)] {
        let mut world = world().with("w", Some(-600), running());
        world.database_up_since = -up_for;
        world.tick();
        assert_eq!(world.verdict("w"), Some(verdict), "{up_for}");
    }
}

#[test]
fn a_new_life_settles_until_exactly_the_settle_time() {
    for (age_ms, verdict) in [(29_999, Verdict::Settling), (30_000, Verdict::Silent)] {
        let mut world = world().with("w", Some(-600), running());
        world.tick();
        world.wait_ms(5_000);
        world.see("w", running_since(5_000 - age_ms));
        world.tick();
        assert_eq!(world.verdict("w"), Some(verdict), "{age_ms}");
    }
}

#[test]
fn wedged_and_lost_begin_after_the_grace_and_not_with_it() {
    for (age_ms, beyond) in [(600_000, false), (600_001, true)] {
        let mut world = world().with("c", Some(-1), running()).with("x", Some(-1), unknown(Fault::NotConfigured));
        world.row("x").kind = Kind::External;
        beat_at(&mut world, "c", -age_ms);
        beat_at(&mut world, "x", -age_ms);
        let mut world = world.watched();
        world.tick();
        let expected = if beyond { (Verdict::Wedged, Verdict::Lost) } else { (Verdict::Silent, Verdict::Silent) };
        assert_eq!((world.verdict("c"), world.verdict("x")), (Some(expected.0), Some(expected.1)), "{age_ms}");
    }
}

#[test]
fn a_beat_on_the_margin_was_on_its_way_and_one_beyond_it_contradicts() {
    for (beat_ms, verdict) in [(15_000, Verdict::Suspect), (15_001, Verdict::Contradiction)] {
        let mut world = world().with("w", Some(-1), stopped(0));
        world.wait_ms(15_001);
        beat_at(&mut world, "w", beat_ms);
        world.tick();
        assert_eq!(world.verdict("w"), Some(verdict), "{beat_ms}");
    }
}

#[test]
fn by_our_own_sight_too_only_an_advance_beyond_the_margin_contradicts() {
    let silent_stop = Observation::Stopped { incarnation: life(-3_600_000), exit: Exit::default() };
    let mut world = world().with("w", Some(-1), silent_stop);
    world.in_flight.push("w".to_owned());
    world.tick();
    for _ in 0..3 {
        world.wait_ms(5_000);
        world.tick();
    }
    // The first miss was 20 s ago. An advance since the last read, 15 s after the miss, may have happened on the margin.
    world.wait_ms(5_000);
    world.beat("w");
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Dead));
    world.wait_ms(5_000);
    world.beat("w");
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Contradiction));
}

#[test]
fn a_health_result_of_the_moment_of_the_engines_return_is_void() {
    let mut world = world().with("w", Some(-1), running());
    world.tick();
    world.evidence.fault = Some(Fault::Unreachable);
    world.see("w", unknown(Fault::Unreachable));
    world.wait_ms(5_000);
    world.tick();
    world.evidence.fault = None;
    world.wait_ms(5_000);
    world.see("w", unhealthy(10_000));
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Alive));
    world.wait_ms(1_000);
    world.see("w", unhealthy(10_001));
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Unhealthy));
}

#[test]
fn a_lasting_restart_of_the_engines_own_is_left_to_it_while_it_has_just_come_back() {
    for (state, held) in [(Transition::Restarting, Some(Held::EngineReturned)), (Transition::Created, None)] {
        let mut world = world().with("w", Some(-80), transition(state));
        world.tick();
        world.evidence.fault = Some(Fault::Unreachable);
        world.see("w", unknown(Fault::Unreachable));
        world.run(40);
        world.evidence.fault = None;
        world.see("w", transition(state));
        world.wait_ms(5_000);
        let plan = world.tick();
        assert_eq!(plan.changes.last().and_then(|change| change.newly_held), held, "{state:?}");
        assert_eq!(plan.restarts.is_empty(), held.is_some(), "{state:?}");
    }
}

#[test]
fn an_unhealthy_one_is_looked_at_again_only_if_a_restart_hangs_on_it() {
    let looks = |plan: &Plan| plan.looks.iter().map(|(_, at)| *at).collect::<Vec<_>>();
    for (action, first) in [(Action::Report, vec![]), (Action::Restart, vec![moment_at(1_000)])] {
        let mut world =
            World::new(Settings { unhealthy_action: action, ..Settings::default() }).with("w", Some(-1), unhealthy(-1));
        assert_eq!(looks(&world.tick()), first, "{action:?}");
        world.wait_ms(1_000);
        assert_eq!(looks(&world.tick()), [], "{action:?}: convicted, or of no consequence");
    }
}

#[test]
fn missing_convicts_with_the_end_of_its_grace() {
    for (missing_ms, convicted) in [(14_999, false), (15_000, true)] {
        let mut world = world().with("w", Some(-80), running());
        world.tick();
        world.see("w", Observation::Missing);
        world.tick();
        world.wait_ms(missing_ms / 2);
        world.tick();
        world.wait_ms(missing_ms - missing_ms / 2);
        assert_eq!(!world.tick().restarts.is_empty(), convicted, "{missing_ms}");
    }
}

#[test]
fn a_start_at_the_very_end_of_the_amnesty_does_not_renew_it() {
    for (at_ms, renewed) in [(29_999, true), (30_000, false)] {
        let mut world = world().with("w", Some(-80), running()).with("v", Some(-80), running());
        world.engine_goes_away_and_w_stops();
        world.wait_ms(5_000);
        world.tick();
        world.wait_ms(at_ms);
        world.see("v", running_since(world.now_ms));
        world.focus(&["v"]);
        world.wait_ms(5_000);
        assert_eq!(world.focus(&["w"]).restarts.is_empty(), renewed, "{at_ms}");
    }
}

#[test]
fn silence_before_this_life_begins_with_the_window_and_needs_one_of_usable_heartbeats() {
    for (beat_ms, up_since, convicted) in
        [(-69_000, -900, true), (-68_999, -900, false), (-90_000, -69, true), (-90_000, -68, false)]
    {
        let mut world = world().with("w", Some(-1), running());
        beat_at(&mut world, "w", beat_ms);
        world.database_up_since = up_since;
        world.tick();
        world.wait_ms(5_000);
        world.see("w", running_since(4_000));
        world.tick();
        world.wait_ms(1_000);
        world.see("w", stopped_life(4_000, 6_000));
        assert_eq!(!world.focus(&["w"]).restarts.is_empty(), convicted, "beat at {beat_ms}, up since {up_since}");
    }
}

#[test]
fn the_second_witnesses_against_a_wedged_one_must_last_for_two_windows_and_no_longer() {
    let settings = || Settings { wedged_action: Action::Restart, ..Settings::default() };
    for (over_ms, convicted) in [(149_999, false), (150_000, true)] {
        let mut suspected = World::new(settings()).with("w", Some(-700), running());
        let mut failing = World::new(settings()).with("w", Some(-700), unhealthy(0));
        for reporter in ["a", "b"] {
            suspected.tick();
            suspected.suspect(&"w".into(), reporter);
        }
        for _ in 0..29 {
            for world in [&mut suspected, &mut failing] {
                assert_eq!(restarted(&world.tick()), Vec::<&str>::new(), "at {}", world.now_ms);
                world.wait_ms(5_000);
            }
            failing.see("w", unhealthy(failing.now_ms));
        }
        suspected.wait_ms(over_ms - 145_000);
        suspected.suspect(&"w".into(), "a");
        suspected.suspect(&"w".into(), "b");
        failing.wait_ms(over_ms - 145_000);
        assert_eq!(!suspected.tick().restarts.is_empty(), convicted, "suspected over {over_ms}");
        assert_eq!(!failing.tick().restarts.is_empty(), convicted, "failing over {over_ms}");
    }
}

/// A chaos year had a healthy one restarted that beat every ten seconds: two windows of it are less than a minute, in which two callers with
/// broken networks had not met enough others to be seen to accuse everybody.
#[test]
fn the_second_witnesses_against_one_that_beats_quickly_must_last_for_two_windows_of_the_configured_interval() {
    for (over_s, convicted) in [(145, false), (150, true)] {
        let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
        let mut world = World::new(settings).with("w", Some(-1), running());
        for _ in 0..20 {
            world.beat("w");
            world.run(5);
        }
        assert_eq!(world.run(700), []);
        assert_eq!(world.verdict("w"), Some(Verdict::Wedged));
        for waited in [over_s, 0] {
            for reporter in ["a", "b"] {
                world.suspect(&"w".into(), reporter);
            }
            assert_eq!(world.run(waited), []);
        }
        assert_eq!(!world.tick().restarts.is_empty(), convicted, "over {over_s} s");
    }
}

#[test]
fn of_two_reasons_that_end_together_the_wider_one_is_named() {
    for (frozen_for, reason) in [(60, NoWitness::Frozen), (55, NoWitness::DatabaseStarted)] {
        let mut world = world().with("w", Some(-600), frozen());
        world.database_up_since = 55;
        world.now_ms = 55_000;
        world.tick();
        for _ in (55..frozen_for).step_by(5) {
            world.wait_ms(5_000);
            world.tick();
        }
        world.wait_ms(5_000);
        world.see("w", stopped(world.now_ms));
        let plan = world.tick();
        assert_eq!(plan.changes[0].evidence.heartbeat.witness, Witness::None(reason), "frozen until {frozen_for}");
    }
}

#[test]
fn the_pipeline_is_accused_by_heartbeats_as_old_as_the_window() {
    for (age_ms, usable) in [(74_999, true), (75_000, false)] {
        let mut world = world();
        for n in 0..10 {
            world.add(&format!("w{n}"), Some(-1), running());
            if n < 5 {
                beat_at(&mut world, &format!("w{n}"), -age_ms);
            }
        }
        world.tick();
        assert_eq!(world.judge.heartbeats_usable(world.now()), usable, "{age_ms}");
    }
}

#[test]
fn one_that_is_missing_is_looked_at_again_when_its_grace_ends() {
    let mut world = world().with("w", Some(-80), Observation::Missing);
    assert_eq!(world.tick().looks, [("w".into(), moment_at(15_000))]);
}

#[test]
fn a_third_of_the_containers_does_not_make_it_the_right_engine_and_none_of_none_neither() {
    let mut third =
        world().with("a", Some(-80), running()).with("b", Some(-80), running()).with("c", Some(-80), running());
    third.tick();
    third.evidence.identity = Some("engine-2".into());
    third.see("b", Observation::Missing);
    third.see("c", Observation::Missing);
    third.wait_ms(5_000);
    third.tick();
    assert_eq!(third.verdict("b"), Some(Verdict::Unknown));

    let mut none = world().with("a", Some(-80), running());
    none.tick();
    none.fleet.clear();
    none.evidence.identity = Some("engine-2".into());
    none.wait_ms(5_000);
    none.tick();
    none.add("b", Some(-80), Observation::Missing);
    none.wait_ms(5_000);
    none.tick();
    assert_eq!(none.verdict("b"), Some(Verdict::Unknown), "nobody was there to know it by");
}

/// The platform moves a workspace to another engine first and makes its container there afterwards.
#[test]
fn the_grace_of_a_missing_container_begins_anew_on_another_engine() {
    let mut world = world().with("w", Some(-80), running()).with("v", Some(-1), running());
    world.tick();
    world.see("w", Observation::Missing);
    world.on_hold.push("w".to_owned());
    world.run(65);
    world.on_hold.clear();
    world.row("w").engine = "other".into();
    world.tick();
    world.engine = "other".into();
    assert!(world.tick().restarts.is_empty(), "nobody has missed it there for long");
    assert_eq!(world.run(10), []);
    world.wait_ms(4_999);
    assert!(world.tick().restarts.is_empty());
    world.wait_ms(1);
    assert_eq!(restarted(&world.tick()), ["w"]);
}

/// A slow removal is followed by the creation of another container under the same name: the platform is about to start it.
#[test]
fn a_container_in_the_place_of_another_one_has_its_own_time_to_come_up() {
    let created = |container: &str| Observation::Transitional {
        incarnation: Incarnation { container_id: container.into(), started_at: None },
        transition: Transition::Created,
    };
    let mut world = world().with("w", Some(-80), running());
    world.tick();
    world.see("w", transition(Transition::Removing));
    assert_eq!(world.run(120), [], "it is being removed");
    world.see("w", created("another"));
    let began = world.now_ms + 5_000;
    let restarts = world.run(60);
    let settle = 30_000;
    assert_eq!(restarts.first(), Some(&(began + settle + 5_000, "w".to_owned())));
}
