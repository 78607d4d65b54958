//! F: many die together, and some of them cannot be helped.

use std::collections::BTreeSet;
use std::time::Duration;

use super::story::{dies, fleet, phase, sometime};
use crate::functions::Conduct;
use crate::ledger::{Hold, HoldScope};
use crate::liveness;
use crate::oracle::Oracle;
use crate::scenario::Policy;
use crate::time::{Ms, hours, mins, secs};
use crate::workspace::Fate;
use crate::world::World;

/// How many die together.
const DEAD: usize = 12;
/// How many workspaces the fleet has, all on one engine. The deaths are a storm in a fleet of this size.
const FLEET: usize = 30;

/// What is wrong with one that cannot be helped.
#[derive(Clone, Copy, Debug)]
enum Hopeless {
    Refused,
    Removed,
    Vetoed,
    DiesAgain,
}

/// Twelve die together, and the engine refuses to start three of them.
pub(super) fn s57(world: &mut World) -> Oracle {
    the_others_live(world, &[Hopeless::Refused; 3])
}

/// Twelve die together, and the containers of three are removed.
pub(super) fn s58(world: &mut World) -> Oracle {
    the_others_live(world, &[Hopeless::Removed; 3])
}

/// Twelve die together, and the platform vetoes the restarts of three.
pub(super) fn s59(world: &mut World) -> Oracle {
    the_others_live(world, &[Hopeless::Vetoed; 3])
}

/// Twelve die together; the engine refuses to start a third of them, the platform vetoes another third.
pub(super) fn s60(world: &mut World) -> Oracle {
    use Hopeless::{Refused, Vetoed};
    the_others_live(world, &[Refused, Refused, Refused, Refused, Vetoed, Vetoed, Vetoed, Vetoed])
}

/// Twelve die together, and up to a third of them die again two seconds after each start. Whatever the lots are, nobody may wait for longer
/// than it takes to try everybody once. How many rounds fail is counted over many draws in a test of the policy.
pub(super) fn s61(world: &mut World) -> Oracle {
    let n = 1 + sometime(world, 4);
    let hopeless = vec![Hopeless::DiesAgain; usize::try_from(n).unwrap_or(1)];
    let victims = strike(world, &hopeless);
    let lasts: Vec<usize> = victims.into_iter().skip(hopeless.len()).collect();
    Oracle::deaths(hours(2)).not_all_well().check(move |world| {
        let mut late = world.chronicle.losses.iter().filter(|loss| lasts.contains(&loss.workspace));
        late.find_map(|loss| liveness::late(world, loss, liveness::by_the_knobs(world, loss)))
    })
}

/// Eight die together and come back. By seed, three more die again and again until they are exhausted, or are held by an operator, or run
/// and are only reported. The storm must end although these stay as they are, and a workspace that dies an hour later must not wait for it.
pub(super) fn s62(world: &mut World) -> Oracle {
    fleet(world, FLEET, 1);
    let kind = sometime(world, 3);
    let victims = world.dice.some_of(DEAD, FLEET);
    for (place, of) in victims.iter().copied().enumerate() {
        let troubled = place < 3;
        if troubled && kind == 2 {
            world.workspaces[of].spec.health_check = true;
            world.at(0, move |world| world.wedge(of));
            continue;
        }
        if place == DEAD - 1 {
            dies(world, of, hours(1));
            continue;
        }
        let at = sometime(world, secs(2));
        world.at(at, move |world| {
            if troubled && kind == 0 {
                world.workspaces[of].fate = Fate::DiesAfter(secs(2));
            }
            if troubled && kind == 1 {
                hold(world, of, hours(3));
            }
            world.exit(of, 1, false);
        });
    }
    let last = victims[DEAD - 1];
    let oracle = Oracle::deaths(hours(2)).not_all_well().within(hours(2)).check(|world| {
        let goes_on = world.chronicle.storming.len();
        (goes_on > 0).then(|| format!("{goes_on} storms still go on"))
    });
    oracle.check(move |world| {
        let loss = world.chronicle.losses.iter().find(|loss| loss.workspace == last)?;
        liveness::late(world, loss, liveness::Within::Exactly(liveness::bound(world, loss)))
    })
}

/// An operator holds one workspace for the time `lasting`.
pub(super) fn hold(world: &mut World, of: usize, lasting: Ms) {
    let scope = HoldScope::Workspace(world.workspaces[of].id.clone());
    let ends = world.db.clock(world.now).plus(Duration::from_millis(lasting));
    let (owner, reason) = ("operator".into(), "maintenance".into());
    world.db.ledger.holds.push(Hold { scope, owner, reason, expires_at: Some(ends) });
}

/// The others run again within twice the time that it takes when nobody is hopeless. That time is measured in a twin of this world.
fn the_others_live(world: &mut World, hopeless: &[Hopeless]) -> Oracle {
    let mut twin = World::new(0);
    twin.dice = world.dice.clone();
    let victims = strike(world, hopeless);
    let (dead, healable): (BTreeSet<usize>, BTreeSet<usize>) =
        (victims.iter().copied().collect(), victims[hopeless.len()..].iter().copied().collect());
    strike(&mut twin, &[]);
    Policy::Defib.enter(&mut twin);
    while !all_are_back(&twin, &dead) && twin.now < twin.zero + hours(1) {
        twin.run_until(twin.now + secs(1));
    }
    let limit = 2 * (twin.now - twin.zero);
    Oracle::deaths(mins(40)).not_all_well().check(move |world| {
        let at =
            |of: &usize| world.chronicle.losses.iter().find(|loss| loss.workspace == *of).and_then(|it| it.back_at);
        let late: Vec<&str> = healable
            .iter()
            .filter(|of| at(of).is_none_or(|at| at - world.zero > limit))
            .map(|of| world.workspaces[*of].id.as_str())
            .collect();
        let all = healable.len();
        (!late.is_empty()).then(|| {
            let n = late.len();
            format!("{n} of the {all} who can be helped did not run again within {limit} ms: {}", late.join(", "))
        })
    })
}

fn all_are_back(world: &World, dead: &BTreeSet<usize>) -> bool {
    world.now > world.zero + secs(10) && dead.iter().all(|of| world.workspaces[*of].is_well())
}

/// Twelve die within two seconds, the hopeless first of those that are returned.
fn strike(world: &mut World, hopeless: &[Hopeless]) -> Vec<usize> {
    fleet(world, FLEET, 1);
    let start = phase(world);
    let victims = world.dice.some_of(DEAD, FLEET);
    for (place, of) in victims.iter().copied().enumerate() {
        let (at, trouble) = (start + sometime(world, secs(2)), hopeless.get(place).copied());
        world.at(at, move |world| match trouble {
            None => world.exit(of, 137, false),
            Some(Hopeless::Refused) => {
                world.workspaces[of].start_refused = true;
                world.obstacle_of(of, hours(9), 0);
                world.exit(of, 137, false);
            }
            Some(Hopeless::Removed) => world.vanish(of),
            Some(Hopeless::Vetoed) => {
                world.db.functions[of].mark_dead = Conduct::Vetoes;
                world.obstacle_of(of, hours(9), 0);
                world.exit(of, 137, false);
            }
            Some(Hopeless::DiesAgain) => {
                world.workspaces[of].fate = Fate::DiesAfter(secs(2));
                world.exit(of, 1, false);
            }
        });
    }
    victims
}
