//! What a canary of a storm says by what is seen of it: it is back, it has failed, it says nothing and leaves its place to another, or it is
//! still waited for.

use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::id::WorkspaceId;
use defib_policy::plan::Plan;
use defib_policy::restart::End;
use defib_policy::sample::{Fault, Observation, Transition};

use crate::common::*;
use crate::storms::*;

/// Those of the fleet that did not die.
const ALIVE: std::ops::Range<usize> = 12..20;

/// One pass over all, after five seconds in which those that live have beaten.
fn pass(world: &mut World) -> Plan {
    ALIVE.for_each(|n| world.beat(&name(n)));
    world.wait_ms(5_000);
    world.tick()
}

/// How many are restarted in the next two passes.
fn go_next(world: &mut World) -> usize {
    pass(world).restarts.len() + pass(world).restarts.len()
}

/// A storm whose canary was started a moment ago.
fn started() -> (World, String) {
    let (mut world, canary) = storm_with_a_canary_out();
    let now = world.now_ms;
    world.see(&canary, running_since(now));
    assert_eq!(pass(&mut world).restarts.len(), 0, "it is waited for");
    (world, canary)
}

/// Its engine is starting it again, in the life that is seen of it.
fn restarting(world: &World, id: &str) -> Observation {
    let incarnation = world.seen[id].incarnation().expect("it runs").clone();
    Observation::Transitional { incarnation, transition: Transition::Restarting }
}

#[test]
fn while_a_canary_is_waited_for_nobody_else_goes() {
    let (mut world, _) = storm_with_a_canary_out();
    assert_eq!(go_next(&mut world), 0);
}

#[test]
fn one_that_somebody_froze_or_that_beats_without_its_container_leaves_its_place() {
    let (mut world, canary) = storm_with_a_canary_out();
    world.see(&canary, frozen());
    assert_eq!(go_next(&mut world), 1, "frozen");

    let (mut world, canary) = storm_with_a_canary_out();
    world.wait_ms(1_000);
    world.beat(&canary);
    assert_eq!(go_next(&mut world), 1, "it beats, so whoever says that it is stopped is wrong");
}

#[test]
fn one_that_is_no_longer_ours_or_has_left_the_fleet_leaves_its_place() {
    let (mut world, _) = storm_with_a_canary_out();
    world.ours = false;
    assert_eq!(pass(&mut world).restarts.len(), 0, "none of them is ours");
    world.ours = true;
    assert_eq!(go_next(&mut world), 1, "ours again, and the canary may have been tried by another replica");

    let (mut world, canary) = storm_with_a_canary_out();
    world.fleet.remove(&canary);
    assert_eq!(go_next(&mut world), 1, "it has left the fleet");
}

#[test]
fn one_of_which_its_engine_says_nothing_or_on_which_it_is_at_work_has_not_failed() {
    for nothing in [true, false] {
        let (mut world, canary) = started();
        let seen = if nothing { unknown(Fault::TimedOut) } else { restarting(&world, &canary) };
        world.see(&canary, seen.clone());
        assert_eq!(pass(&mut world).restarts.len(), 0, "{seen:?}");
        let now = world.now_ms;
        world.see(&canary, running_since(now));
        world.wait_ms(1_000);
        world.beat(&canary);
        assert_eq!(go_next(&mut world), 2, "{seen:?}: it is back, and the next batch is twice as large");
    }
}

/// A container that its engine starts again and again is down, also between two starts.
#[test]
fn one_that_its_engine_cannot_bring_up_has_failed() {
    let (mut world, canary) = started();
    let failed =
        |world: &World| world.judge.storm(None, world.now()).is_some_and(|(storm, _)| storm.canaries.is_empty());
    let seen = restarting(&world, &canary);
    world.see(&canary, seen);
    let before = world.now_ms;
    while !failed(&world) {
        pass(&mut world);
        assert!(world.now_ms - before < 600_000, "it has not failed");
    }
    let settle = i64::try_from(world.judge.settings().settle.as_millis()).expect("small");
    assert!(world.now_ms - before <= settle + 10_000, "after {} ms", world.now_ms - before);
}

#[test]
fn what_the_ledger_says_of_its_attempt_is_what_its_order_would_have_said() {
    for (outcome, goes) in [
        (Some(Outcome::Failed), 1),
        (Some(Outcome::Vetoed), 1),
        (Some(Outcome::Abandoned), 1),
        (Some(Outcome::Succeeded), 0),
        (None, 0),
    ] {
        let (mut world, canary) = storm_with_a_canary_out();
        let made = Attempt { workspace: canary.as_str().into(), ..attempt(1, 1, outcome) };
        world.attempts.insert(canary, vec![made]);
        assert_eq!(go_next(&mut world), goes, "{outcome:?}");
    }
}

/// Whose turn it is once an order has ended, so that a look at them need not wait for the next poll.
#[test]
fn when_an_order_comes_to_nothing_the_next_one_is_told_at_once() {
    for (end, next) in [(End::NotAsked, 1), (End::Failed, 1), (End::Made, 0)] {
        let (mut world, canary) = storm_with_a_canary_out();
        let now = world.now();
        let turns = world.judge.order_ended(&WorkspaceId::from(canary.as_str()), end, now);
        assert_eq!(turns.len(), next, "{end:?}");
        assert!(turns.iter().all(|(engine, id)| engine.as_str() == "default" && id.as_str() != canary), "{turns:?}");
    }
    let (mut world, canary) = storm_with_a_canary_out();
    let now = world.now();
    world.judge.order_ended(&canary.as_str().into(), End::NotAsked, now);
    assert_eq!(world.judge.order_ended(&"w019".into(), End::NotAsked, now), [], "it was no canary");
}

/// A storm of one engine of a fleet that has none, and one of the fleet while no engine has one.
#[test]
fn the_canary_of_one_scope_alone_is_a_canary() {
    for deaths in [[4, 0, 0, 0, 0], [3, 3, 3, 3, 3]] {
        let mut world = crate::by_operator::storms(deaths);
        let mut orders = Vec::new();
        for _ in 0..60 {
            for (engine, dead) in crate::by_operator::ENGINES.iter().zip(deaths) {
                (dead..12).for_each(|n| world.beat(&format!("{engine}{n}")));
            }
            world.wait_ms(5_000);
            for engine in crate::by_operator::ENGINES {
                world.engine = engine.into();
                orders.extend(world.tick().restarts);
            }
            if !orders.is_empty() {
                break;
            }
        }
        let canary = orders.first().expect("one goes").workspace.clone();
        let now = world.now();
        assert_eq!(world.judge.order_ended(&canary, End::NotAsked, now).len(), 1, "{deaths:?}");
    }
}

/// The turn of somebody who is not in a pass comes with a look of its own.
#[test]
fn whoevers_turn_it_is_and_is_not_in_the_pass_is_looked_at_soon() {
    let (mut world, canary) = started();
    world.wait_ms(1_000);
    world.beat(&canary);
    let plan = world.focus(&[&canary]);
    assert_eq!(plan.restarts.len(), 0);
    let looks: Vec<&str> = plan.looks.iter().map(|(id, _)| id.as_str()).collect();
    assert!(looks.len() == 2 && !looks.contains(&canary.as_str()), "the next batch is of two: {looks:?}");
    let drawn: Vec<String> = looks.iter().map(|id| (*id).to_owned()).collect();
    let plan = world.focus(&[&drawn[0]]);
    assert_eq!(restarted(&plan), [drawn[0].as_str()], "it was in the pass");
    let looks: Vec<&str> = plan.looks.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(looks, [drawn[1].as_str()], "and the other one is looked at");
}
