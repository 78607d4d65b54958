//! What an operator orders: a restart whatever the verdict is, and the end of a storm.

use defib_policy::abilities::Abilities;
use defib_policy::attempt::Outcome;
use defib_policy::id::EngineName;
use defib_policy::judge::{Look, StormEnded};
use defib_policy::plan::{ByOperator, Remedy, RestartOrder};
use defib_policy::sample::{Fault, Observation, Sample, Transition};
use defib_policy::settings::Settings;
use defib_policy::verdict::Held;

use crate::common::*;

const NOTHING: Abilities = Abilities { lists: true, starts: false, kills: false, recreates: false, tells_starts: true };

/// What comes of an order to restart `w`.
fn order(world: &World) -> Result<RestartOrder, String> {
    let sample = Sample { at: world.now(), observation: world.seen["w"].clone() };
    let look = Look {
        workspace: &world.fleet["w"],
        sample: Some(&sample),
        attempts: world.attempts.get("w").map_or(&[][..], Vec::as_slice),
        in_flight: world.in_flight.iter().any(|id| id == "w"),
        queued: false,
        ours: true,
        on_hold: false,
        own: None,
    };
    let by = ByOperator { order: 1, by: "ada".into(), reason: "its user waits".into(), force: false };
    world.judge.order_by_operator(world.now(), &look, by)
}

fn world(observation: Observation, abilities: Abilities) -> World {
    let mut world = World::new(Settings::default()).with("w", Some(-1), running());
    world.evidence.abilities = abilities;
    world.tick();
    world.see("w", observation);
    world
}

#[test]
fn a_restart_is_ordered_by_what_its_engine_can_do() {
    for (seen, able, remedy) in [
        (running(), Abilities { kills: true, ..NOTHING }, Remedy::KillAndStart),
        (stopped(0), Abilities { starts: true, ..NOTHING }, Remedy::Start),
        (Observation::Missing, Abilities { recreates: true, ..NOTHING }, Remedy::Recreate),
    ] {
        let ordered = order(&world(seen.clone(), able)).expect("it can be made");
        assert_eq!((ordered.remedy, ordered.attempt, ordered.asked_by()), (remedy, 1, "operator"));
        assert_eq!(RestartOrder { by_operator: None, ..ordered.clone() }.asked_by(), ordered.verdict.label());
        assert_eq!(
            ordered.incarnation,
            Some(life(if matches!(seen, Observation::Missing) { -3_600_000 } else { started(&seen) }))
        );
        assert_eq!(ordered.evidence.because, "ada ordered it: its user waits");
        let others = Abilities { kills: !able.kills, starts: !able.starts, recreates: !able.recreates, ..NOTHING };
        let refused = order(&world(seen.clone(), others)).expect_err("the engine cannot do that");
        let held = if matches!(seen, Observation::Missing) { Held::CannotRecreate } else { Held::CannotRestart };
        assert_eq!(refused, held.sentence());
    }
    for seen in [frozen(), transition(Transition::Restarting), unknown(Fault::TimedOut)] {
        assert!(order(&world(seen.clone(), ALL)).is_err(), "{seen:?}");
    }
}

fn started(seen: &Observation) -> i64 {
    let started = seen.incarnation().and_then(|life| life.started_at).expect("its start is known");
    (started.0 - clock_at(0).0) / 1_000
}

#[test]
fn a_restart_that_is_under_way_is_not_ordered_again() {
    let mut world = world(running(), ALL);
    assert!(order(&world).is_ok());
    world.in_flight.push("w".into());
    assert_eq!(order(&world).expect_err("by this process"), "a restart of it is under way already");
    world.in_flight.clear();
    world.attempts.insert("w".into(), vec![attempt(1, 5, None)]);
    assert_eq!(order(&world).expect_err("by any other"), "a restart of it is under way already");
    world.attempts.insert("w".into(), vec![attempt(1, 5, Some(Outcome::Succeeded))]);
    assert_eq!(order(&world).expect("it has ended").attempt, 2);
}

pub(crate) const ENGINES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Twelve workspaces on each of five engines, of which so many have just died. Four of an engine, or thirteen of the fleet, are a storm.
pub(crate) fn storms(deaths: [usize; 5]) -> World {
    let settings = Settings { storm_min: 3, storm_fraction: 0.2, ..Settings::default() };
    let mut world = World::new(settings);
    for engine in ENGINES {
        world.engine = engine.into();
        (0..12).for_each(|n| world.add(&format!("{engine}{n}"), Some(-1), running()));
    }
    let pass = |world: &mut World| {
        for engine in ENGINES {
            world.engine = engine.into();
            world.tick();
        }
    };
    pass(&mut world);
    for (engine, deaths) in ENGINES.iter().zip(deaths) {
        (0..deaths).for_each(|n| world.see(&format!("{engine}{n}"), stopped(0)));
    }
    world.wait_ms(5_000);
    pass(&mut world);
    world
}

/// Deaths by engine, and what comes of ending the storm of the first engine, and of ending all storms instead.
#[test]
fn a_storm_ends_where_it_is_and_the_fleets_ends_with_the_last_engines() {
    for (deaths, of_engine, of_all) in [
        ([0; 5], StormEnded::None, StormEnded::None),
        ([4, 0, 0, 0, 0], StormEnded::Ended, StormEnded::Ended),
        ([0, 4, 0, 0, 0], StormEnded::None, StormEnded::Ended),
        ([3, 3, 3, 3, 3], StormEnded::Ended, StormEnded::Ended),
        ([4, 4, 0, 0, 0], StormEnded::Ended, StormEnded::Ended),
        ([4, 4, 3, 3, 3], StormEnded::FleetHolds, StormEnded::Ended),
        ([0, 4, 4, 4, 4], StormEnded::FleetHolds, StormEnded::Ended),
    ] {
        let first: EngineName = "a".into();
        assert_eq!(storms(deaths).judge.end_storm(Some(&first)), of_engine, "{deaths:?}");
        let mut world = storms(deaths);
        assert_eq!(world.judge.end_storm(None), of_all, "{deaths:?}");
        assert_eq!(world.judge.end_storm(None), StormEnded::None, "{deaths:?}: there is none any more");
    }
}

/// Those who lacked a witness in a storm are counted in it. When it is ended, they are restarted, and do not begin it anew.
#[test]
fn a_storm_that_was_ended_does_not_begin_again_with_the_same_dead() {
    let mut world = World::new(Settings::default());
    (0..20).for_each(|n| world.add(&format!("w{n}"), Some(-1), running()));
    world.tick();
    (0..12).for_each(|n| world.see(&format!("w{n}"), stopped(0)));
    let beat = |world: &mut World| (12..20).for_each(|n| world.beat(&format!("w{n}")));
    for _ in 0..5 {
        beat(&mut world);
        world.wait_ms(5_000);
        assert!(world.tick().restarts.is_empty(), "their heartbeats are fresh");
    }
    assert!(world.judge.is_storm(None));
    world.judge.end_storm(None);
    beat(&mut world);
    world.wait_ms(5_000);
    let plan = world.tick();
    assert!(!world.judge.is_storm(None) && !world.judge.is_storm(Some(&world.engine)));
    assert_eq!(plan.restarts.len(), 12, "{:?}", restarted(&plan));
}
