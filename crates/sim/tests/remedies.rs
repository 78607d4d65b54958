//! What defib can do in the simulated world is what it can do in production: an engine does what its kind is able to do, and a
//! container engine does not make a removed container again.

use defib_policy::abilities::Abilities;
use defib_sim::remedy::{CallError, How};
use defib_sim::scenario::Policy;
use defib_sim::time::{mins, secs};
use defib_sim::workspace::{Body, Spec};
use defib_sim::world::World;

fn world_with(abilities: Abilities) -> World {
    let mut world = World::new(7);
    world.add_fleet(3, 1, Spec::default());
    world.engines[0].abilities = abilities;
    world
}

/// Every combination of what an engine is asked for and what its kind is able to do.
#[test]
fn an_engine_is_asked_for_nothing_that_its_kind_cannot_do() {
    for bits in 0..8_u8 {
        let abilities = Abilities {
            starts: bits & 1 != 0,
            kills: bits & 2 != 0,
            recreates: bits & 4 != 0,
            ..Abilities::CONTAINER_ENGINE
        };
        for (how, able) in
            [(How::Start, abilities.starts), (How::KillAndStart, abilities.kills), (How::Recreate, abilities.recreates)]
        {
            let mut world = world_with(abilities);
            match how {
                How::Start => world.exit(0, 1, false),
                How::KillAndStart => world.wedge(0),
                _ => world.vanish(0),
            }
            let called = world.restart(0, how, secs(30), None);
            assert_eq!(called.result.is_ok(), able, "{how:?} with {abilities:?}");
            assert_eq!(world.chronicle.restarts.len(), usize::from(able), "{how:?} with {abilities:?}");
            world.run_until(world.now + mins(1));
            assert_eq!(world.workspaces[0].is_well(), able, "{how:?} with {abilities:?}");
        }
    }
}

#[test]
fn a_container_engine_refuses_to_make_a_removed_container_and_the_platform_makes_it() {
    let mut world = world_with(Abilities::default());
    world.vanish(0);
    assert_eq!(world.restart(0, How::Recreate, secs(30), None).result, Err(CallError::Refused));
    assert_eq!(world.restart(0, How::Start, secs(30), None).result, Err(CallError::Gone));
    assert_eq!(world.restart(0, How::ByPlatform, secs(30), None).result, Ok(()));
    world.run_until(world.now + mins(1));
    assert!(world.workspaces[0].is_well());
}

/// It is made again by the platform, or by an engine whose kind can, and by nobody else.
#[test]
fn defib_leaves_a_removed_container_to_whoever_can_make_it() {
    for recreates in [false, true] {
        let mut world = world_with(Abilities { recreates, ..Abilities::CONTAINER_ENGINE });
        Policy::Defib.enter(&mut world);
        world.at(0, |world| world.vanish(1));
        world.run_until(world.zero + mins(20));
        assert_eq!(world.workspaces[1].is_well(), recreates);
        assert_eq!(world.workspaces[1].body == Body::Absent, !recreates);
        if !recreates {
            assert_eq!(world.chronicle.restarts.len(), 0, "nobody was asked for what nobody can do");
            assert!(!world.chronicle.losses[0].healable);
            world.recreate(1, 0, 0, secs(1));
            world.run_until(world.now + mins(5));
            assert!(world.workspaces[1].is_well());
        }
    }
}
