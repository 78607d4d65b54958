//! E: fleet level.

use defib_policy::sample::{Fault, Health};
use defib_policy::settings::Action;

use super::story::{dies, fleet, phase, someone, sometime};
use crate::oracle::Oracle;
use crate::time::{hours, mins, secs, stamp};
use crate::workspace::{EnginePolicy, Fate};
use crate::world::World;

/// Twenty of fifty workspaces are on a host that reboots. Three of them have no restart policy.
pub(super) fn s47(world: &mut World) -> Oracle {
    world.add_engine();
    world.add_engine();
    for number in 0..50 {
        let mut spec = super::story::usual(&mut world.dice);
        if number >= 3 {
            spec.policy = EnginePolicy::UnlessStopped;
        }
        world.add(usize::from(number >= 20), spec);
    }
    let at = phase(world);
    world.at(at, |world| world.daemon_restart(0, secs(180), secs(60)));
    Oracle::deaths(mins(40)).at_most(3).within(mins(10))
}

/// Heartbeats go on. By seed `DEFIB_UNHEALTHY_ACTION` is report or restart.
pub(super) fn s48(world: &mut World) -> Oracle {
    if world.dice.chance(0.5) {
        world.settings.unhealthy_action = Action::Restart;
    }
    fleet(world, 30, 2);
    world.at(0, |world| set_sick(world, 27, true));
    for n in 1..20 {
        world.at(secs(30) * n, |world| set_sick(world, 27, true));
    }
    world.at(mins(10), |world| set_sick(world, 27, false));
    Oracle::nobody(mins(20))
}

fn set_sick(world: &mut World, n: usize, sick: bool) {
    for of in 0..n {
        let checked = stamp(world.now, world.engines[world.workspaces[of].engine].offset);
        world.workspaces[of].frozen_health = sick.then_some(Health::Unhealthy {
            last_check_at: Some(checked),
            due_within: Some(std::time::Duration::from_secs(120)),
        });
        world.touch(of);
    }
}

/// For two hours the health of all workspaces changes every 30 s, to unhealthy and back. By seed with `DEFIB_UNHEALTHY_ACTION=restart`.
pub(super) fn s49(world: &mut World) -> Oracle {
    if world.dice.chance(0.5) {
        world.settings.unhealthy_action = Action::Restart;
    }
    fleet(world, 20, 2);
    for n in 0..240 {
        world.at(secs(30) * n, move |world| set_sick(world, 20, n % 2 == 0));
    }
    Oracle::nobody(hours(2) + mins(5))
}

/// For 43 s the engine cannot be reached, and the heartbeats of its workspaces do not arrive.
pub(super) fn s50(world: &mut World) -> Oracle {
    fleet(world, 20, 2);
    let at = phase(world);
    world.at(at, |world| {
        world.engine_fault(0, Fault::Unreachable, secs(43));
        for of in (0..20).step_by(2) {
            world.mute(of, secs(43));
        }
    });
    Oracle::nobody(mins(8))
}

/// Sixty of a hundred die within a minute. By seed they can be brought back at once, or each start fails for ten minutes.
pub(super) fn s51(world: &mut World) -> Oracle {
    fleet(world, 50, 5);
    let lasts = world.dice.chance(0.5);
    for of in world.dice.some_of(30, 50) {
        let at = sometime(world, secs(60));
        world.at(at, move |world| {
            if lasts {
                world.workspaces[of].fate = Fate::DiesAfter(secs(2));
            }
            world.exit(of, 1, false);
        });
        world.at(mins(10), move |world| world.workspaces[of].fate = Fate::Works);
    }
    Oracle::deaths(mins(75)).within(mins(50)).check(move |world| {
        let back = world.chronicle.losses.iter().filter_map(|loss| loss.back_at).max()?;
        let limit = world.zero + if lasts { mins(60) } else { mins(15) };
        (back > limit).then(|| format!("the last one was back only after {} s", (back - world.zero) / 1_000))
    })
}

/// One workspace dies in a fleet of two or three. That is a third or half of the fleet, and no storm.
pub(super) fn s52(world: &mut World) -> Oracle {
    let n = if world.dice.chance(0.5) { 2 } else { 3 };
    fleet(world, n, 1);
    let (of, at) = (someone(world, n), phase(world));
    dies(world, of, at);
    Oracle::deaths(mins(5)).at_most(1)
}

/// Sixty of a hundred workspaces die, one every three minutes. Each is recovered, and no storm begins.
pub(super) fn s53(world: &mut World) -> Oracle {
    fleet(world, 100, 4);
    for (n, of) in world.dice.some_of(60, 100).into_iter().enumerate() {
        let at = mins(3) * n as u64 + sometime(world, secs(60));
        dies(world, of, at);
    }
    Oracle::deaths(hours(3) + mins(10)).at_most(60).check(|world| {
        let storms = world.chronicle.storms.len();
        (storms > 0).then(|| format!("{storms} storms were called"))
    })
}

/// The platform recreates forty workspaces at once. Their engine answers late, and each of them boots for ten minutes.
pub(super) fn s54(world: &mut World) -> Oracle {
    fleet(world, 40, 2);
    for of in 0..40 {
        world.workspaces[of].spec.boot_min = mins(2);
        world.workspaces[of].spec.boot_max = mins(10);
        let (at, absent) = (sometime(world, secs(30)), world.dice.between(500, secs(8)));
        world.at(at, move |world| world.recreate(of, secs(1), absent, secs(1)));
    }
    world.at(0, |world| world.engines[0].list = secs(3));
    world.at(mins(10), |world| world.engines[0].list = 15);
    Oracle::nobody(mins(20))
}

/// The workspace is well for four minutes after each start. It gets five attempts, and after those one every 30 minutes.
pub(super) fn s55(world: &mut World) -> Oracle {
    fleet(world, 5, 1);
    let at = phase(world);
    world.at(at, |world| {
        world.workspaces[0].fate = Fate::DiesAfter(mins(4));
        world.exit(0, 1, false);
    });
    Oracle::deaths(hours(6)).not_all_well().at_most(5 + 12).verdict_reached(0, "exhausted")
}

/// The policy does not know which workspace is whose parent. So restarts of the children fail until the parent is up, and back-off must
/// carry them until then: in the end all are well, with fewer restarts than exhaust a workspace. Four deaths in a fleet of twelve are a
/// storm. If a child is its canary, it takes two windows until that canary has failed, and then a cooldown.
pub(super) fn s56(world: &mut World) -> Oracle {
    fleet(world, 12, 1);
    for child in 1..4 {
        world.workspaces[child].parent = Some(0);
    }
    let at = phase(world);
    dies(world, 0, at);
    Oracle::deaths(mins(15)).within(mins(6)).at_most_of(0, 1).at_most_of(1, 4).at_most_of(2, 4).at_most_of(3, 4)
}
