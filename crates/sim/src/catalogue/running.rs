//! H: what runs. With `DEFIB_WEDGED_ACTION=restart` or `DEFIB_UNHEALTHY_ACTION=restart`, which are off by default.

use defib_policy::settings::Action;

use super::story::{dies, fleet, phase, someone, sometime};
use crate::oracle::Oracle;
use crate::time::{mins, ms, secs};
use crate::world::World;

/// One hangs, nobody calls it, and its health check runs each 5 s, 30 s or 5 min: a check that goes on failing is the second witness,
/// however far apart its runs are.
pub(super) fn s64(world: &mut World) -> Oracle {
    world.settings.wedged_action = Action::Restart;
    fleet(world, 12, 1);
    let (of, at) = (someone(world, 12), phase(world));
    let every = world.dice.pick(&[secs(5), secs(30), mins(5)]).copied().unwrap_or(secs(30));
    let spec = &mut world.workspaces[of].spec;
    (spec.health_check, spec.health_interval, spec.request_every) = (true, every, 0);
    world.at(at, move |world| world.wedge(of));
    Oracle { wedged_too: true, ..Oracle::deaths(mins(60)) }.at_most(1).check(move |world| {
        let loss = world.chronicle.losses.first()?;
        let silent = ms(world.settings.wedged_after).max(3 * (every + secs(1)));
        // Then it must go on failing for two windows, and two of its runs may lie beside each other.
        let limit = silent + secs(200) + 2 * every;
        let took = loss.restarted_at.map(|at| at - loss.at);
        took.is_none_or(|took| took > limit)
            .then(|| format!("with a check each {every} ms it was restarted after {took:?} ms, allowed are {limit}"))
    })
}

/// defib is started while four boot for up to 25 min, with heartbeats from before those boots; requests to them fail at two proxies.
pub(super) fn s68(world: &mut World) -> Oracle {
    world.settings.wedged_action = Action::Restart;
    fleet(world, 12, 1);
    for of in 0..4 {
        world.workspaces[of].next_boot = Some(mins(14) + sometime(world, mins(11)));
        world.workspaces[of].spec.request_every = secs(10);
        let at = phase(world);
        world.at(at, move |world| world.foreign_restart(of));
    }
    let wait = secs(20) + sometime(world, mins(9));
    world.at(wait, |world| world.restart_detector(0));
    Oracle::nobody(mins(40))
}

/// One hangs, and its health check fails. Its restart waits, because all places on its engine are taken for a minute. Meanwhile it recovers
/// by itself: its check passes, but its next heartbeat has not arrived yet, or does not arrive for a while.
pub(super) fn s69(world: &mut World) -> Oracle {
    world.settings.unhealthy_action = Action::Restart;
    fleet(world, 40, 1);
    let start = phase(world);
    let spec = &mut world.workspaces[0].spec;
    (spec.health_check, spec.health_interval) = (true, secs(10));
    (world.engines[0].start_min, world.engines[0].start_max) = (secs(28), secs(28));
    // Unhealthy after three runs; the places are taken a few seconds earlier.
    for of in 1..9 {
        dies(world, of, start + secs(22) + 100 * of as u64);
    }
    let lasting = secs(46) + sometime(world, secs(10));
    let beats_again = world.dice.chance(0.3);
    world.at(start, move |world| world.wedge_for(0, lasting, beats_again));
    world.at(start + mins(8), |world| world.workspaces[0].mind = crate::workspace::Mind::Working);
    Oracle::deaths(mins(15)).within(mins(10)).at_most(8).at_most_of(0, 0)
}

/// Three workspaces run, and their heartbeats are lost for 25 minutes. By seed, one login accuses them under the id of each request; or it
/// accuses them under one name and, from shortly before they are found hanging, under a second one. The second name is used for less than
/// the two windows after which it would be a witness.
pub(super) fn s70(world: &mut World) -> Oracle {
    world.settings.wedged_action = Action::Restart;
    fleet(world, 30, 2);
    let by_requests = world.dice.chance(0.5);
    let (begins, ends) = if by_requests { (0, mins(25)) } else { (mins(9), mins(9) + secs(50)) };
    if by_requests {
        world.names_requests = Some(2);
    } else {
        world.logins.insert(2, 0);
    }
    world.at(0, |world| (0..3).for_each(|of| world.mute(of, mins(25))));
    for n in 0..150 {
        let (of, at) = (someone(world, 3), secs(10) * n + sometime(world, secs(9)));
        let proxy = if by_requests || (at > begins && world.dice.chance(0.5)) { 2 } else { 0 };
        if at < ends {
            world.at(at, move |world| world.request_failed(of, proxy));
        }
    }
    Oracle::nobody(mins(40))
}
