//! What defib can do in the simulated world is what it can do in production: an engine does what its kind is able to do, and a removed
//! container is made again by the platform alone, where one is configured.

use defib_policy::abilities::Abilities;
use defib_sim::endpoint::{Conduct, Endpoint};
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
    for bits in 0..4_u8 {
        let abilities = Abilities { starts: bits & 1 != 0, kills: bits & 2 != 0, ..Abilities::CONTAINER_ENGINE };
        for (how, able) in
            [(How::Start, abilities.starts), (How::KillAndStart, abilities.kills), (How::Recreate, false)]
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
fn no_engine_makes_a_removed_container_and_the_platform_makes_it() {
    let mut world = world_with(Abilities { recreates: true, ..Abilities::default() });
    world.vanish(0);
    assert_eq!(world.restart(0, How::Recreate, secs(30), None).result, Err(CallError::Refused));
    assert_eq!(world.restart(0, How::Start, secs(30), None).result, Err(CallError::Gone));
    world.endpoint = Some(Endpoint::default());
    assert_eq!(world.restart(0, How::Recreate, secs(30), None).result, Ok(()));
    assert_eq!(world.endpoint.as_ref().map(|endpoint| endpoint.accepted_of(0)), Some(1));
    world.run_until(world.now + mins(1));
    assert!(world.workspaces[0].is_well());
}

/// What an endpoint accepts is done, whether its answer arrives or not; what it refuses is not done.
#[test]
fn a_lost_answer_is_no_refusal() {
    for (conduct, result, is_well) in [
        (Conduct::Accepts, Ok(()), true),
        (Conduct::Refuses, Err(CallError::Refused), false),
        (Conduct::LosesItsAnswer, Err(CallError::TimedOut), true),
    ] {
        let mut world = world_with(Abilities::default());
        world.endpoint = Some(Endpoint { conduct, ..Endpoint::default() });
        world.vanish(0);
        assert_eq!(world.restart(0, How::Recreate, secs(30), None).result, result);
        world.run_until(world.now + mins(1));
        assert_eq!(world.workspaces[0].is_well(), is_well, "{conduct:?}");
    }
}

/// A removed container is made again by the platform, where defib is configured with its endpoint, and by nobody else.
#[test]
fn defib_leaves_a_removed_container_to_the_platform() {
    for configured in [false, true] {
        let mut world = world_with(Abilities::CONTAINER_ENGINE);
        world.endpoint = configured.then(Endpoint::default);
        Policy::Defib.enter(&mut world);
        world.at(0, |world| world.vanish(1));
        world.run_until(world.zero + mins(20));
        assert_eq!(world.workspaces[1].is_well(), configured);
        assert_eq!(world.workspaces[1].body == Body::Absent, !configured);
        assert_eq!(world.chronicle.losses[0].healable, configured);
        assert_eq!(world.chronicle.restarts.len(), usize::from(configured), "one request, or none");
        if !configured {
            world.recreate(1, 0, 0, secs(1));
            world.run_until(world.now + mins(5));
            assert!(world.workspaces[1].is_well());
        }
    }
}
