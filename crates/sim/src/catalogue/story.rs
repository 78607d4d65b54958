//! What the stories are made of: fleets, victims, moments.

use crate::dice::Dice;
use crate::time::{Ms, secs};
use crate::workspace::Spec;
use crate::world::World;

/// A fleet on its engines, with intervals, health checks and traffic of its own.
pub(super) fn fleet(world: &mut World, n: usize, engines: usize) {
    while world.engines.len() < engines {
        world.add_engine();
    }
    for number in 0..n {
        let spec = usual(&mut world.dice);
        world.add(number % engines, spec);
    }
}

pub(super) fn usual(dice: &mut Dice) -> Spec {
    let interval = if dice.chance(0.8) { 30_000 } else { dice.between(10_000, 45_000) };
    let health_check = dice.chance(0.5);
    Spec { interval, jitter: dice.between(1, 8), health_check, ..Spec::default() }
}

/// A workspace of a fleet of `n`, and a moment within `within` after the scenario's beginning.
pub(super) fn someone(world: &mut World, n: usize) -> usize {
    usize::try_from(world.dice.below(n as u64)).unwrap_or(0)
}

pub(super) fn sometime(world: &mut World, within: Ms) -> Ms {
    world.dice.below(within)
}

/// A death this long after the beginning, by exit.
pub(super) fn dies(world: &mut World, of: usize, at: Ms) {
    world.at(at, move |world| world.exit(of, 137, false));
}

/// A moment of a poll's length, so that events fall at any phase of the sweep.
pub(super) fn phase(world: &mut World) -> Ms {
    world.dice.below(secs(5))
}
