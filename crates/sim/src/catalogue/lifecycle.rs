//! D: lifecycle and state-machine races in the platform.

use super::story::{dies, fleet, phase, sometime};
use crate::chronicle::By;
use crate::oracle::Oracle;
use crate::time::{hours, mins, secs};
use crate::workspace::{Body, Fate, Spec};
use crate::world::World;

/// For two hours, workspaces that are paused, hibernated or below a parked ancestor are called every 10 s.
pub(super) fn s35(world: &mut World) -> Oracle {
    fleet(world, 9, 1);
    for of in 0..9 {
        world.workspaces[of].spec.request_every = secs(10);
    }
    world.at(0, |world| {
        world.park(0, "paused", true, 0);
        world.park(1, "hibernated", false, 0);
        world.set_suspended(2, true);
        world.take_down(2, true);
    });
    Oracle::nobody(hours(2)).not_all_well().ends_as(0, "paused").ends_as(1, "hibernated")
}

/// Thirty pauses in which the container is stopped before the row says paused. Half of the agents are busy.
pub(super) fn s36(world: &mut World) -> Oracle {
    fleet(world, 30, 2);
    let mut oracle = Oracle::nobody(mins(10)).not_all_well();
    for of in 0..30 {
        let (at, gap) = (mins(2) + sometime(world, mins(5)), world.dice.between(20, 2_000));
        if world.dice.chance(0.5) {
            world.at(at - secs(100), move |world| world.busy(of, secs(200)));
        }
        world.at(at, move |world| world.pause_container_first(of, "paused", gap));
        oracle = oracle.ends_as(of, "paused");
    }
    oracle
}

/// The row says hibernating, the container stops three seconds later, the row ends as hibernated.
pub(super) fn s37(world: &mut World) -> Oracle {
    fleet(world, 20, 2);
    let mut oracle = Oracle::nobody(mins(10)).not_all_well();
    for of in 0..20 {
        let (at, removes) = (sometime(world, mins(5)), world.dice.chance(0.5));
        world.at(at, move |world| world.park(of, "hibernating", removes, secs(3)));
        world.at(at + secs(1), move |world| world.request_failed(of, 0));
        world.at(at + secs(4), move |world| world.set_status(of, "hibernated"));
        oracle = oracle.ends_as(of, "hibernated");
    }
    oracle
}

/// The platform recreates them, boots take 6 to 25 min, and the status says online all the time. By seed with
/// `DEFIB_WEDGED_ACTION=restart`.
pub(super) fn s38(world: &mut World) -> Oracle {
    if world.dice.chance(0.5) {
        world.settings.wedged_action = defib_policy::settings::Action::Restart;
    }
    fleet(world, 40, 1);
    for of in 0..8 {
        world.workspaces[of].spec.boot_min = mins(6);
        world.workspaces[of].spec.boot_max = mins(25);
        let at = sometime(world, mins(5));
        world.at(at, move |world| world.recreate(of, 500, 1_500, 500));
    }
    Oracle::nobody(mins(40))
}

/// The container is gone. A new one is pending for a minute, while requests fail every few seconds. There must be one new container, with
/// one life. A policy that cannot have a container made again waits for the platform, which makes one after a minute and a half. A start of
/// a container that has been `created` for longer than the settle time does no harm, so two calls are allowed.
pub(super) fn s39(world: &mut World) -> Oracle {
    fleet(world, 6, 1);
    world.workspaces[0].spec.request_every = secs(5);
    let at = phase(world);
    world.at(at, |world| {
        world.engines[0].start_min = secs(55);
        world.engines[0].start_max = secs(65);
        world.vanish(0);
    });
    world.at(at + secs(90), |world| {
        if world.workspaces[0].body == Body::Absent {
            world.new_container(0);
            world.touch(0);
            let (pending, life) = (world.dice.between(secs(55), secs(65)), world.workspaces[0].life);
            world.later(pending, move |world| {
                if world.workspaces[0].life == life {
                    world.begin_life(0, By::Platform);
                }
            });
        }
    });
    Oracle::deaths(mins(10)).at_most(2).check(|world| {
        let (lives, containers) = (world.workspaces[0].life, world.workspaces[0].containers);
        (containers != 1 || !(3..=4).contains(&lives))
            .then(|| format!("{containers} containers were made, and the last life is number {lives}"))
    })
}

/// It dies, and the user restarts it at once and once again.
pub(super) fn s40(world: &mut World) -> Oracle {
    fleet(world, 8, 1);
    for of in 0..4 {
        let at = sometime(world, mins(3));
        dies(world, of, at);
        let first = at + world.dice.between(100, 2_000);
        world.at(first, move |world| world.foreign_restart(of));
        world.at(first + secs(4), move |world| world.foreign_restart(of));
    }
    let mut oracle = Oracle::deaths(mins(10));
    for of in 0..4 {
        oracle = oracle.at_most_of(of, 1);
    }
    oracle
}

/// A workspace dies and is deleted a moment later. Nothing of it may survive.
pub(super) fn s41(world: &mut World) -> Oracle {
    fleet(world, 12, 1);
    let mut oracle = Oracle::deaths(mins(8));
    for of in 0..10 {
        let (at, vanishes) = (sometime(world, mins(3)), world.dice.chance(0.5));
        let gap = if vanishes { world.dice.between(secs(10), secs(60)) } else { world.dice.between(10, 3_000) };
        world.at(at, move |world| if vanishes { world.vanish(of) } else { world.exit(of, 1, false) });
        world.at(at + gap, move |world| world.delete(of, 600));
        oracle = oracle.ends_as(of, "removed").check(move |world| {
            let body = world.workspaces[of].body;
            (body != Body::Absent)
                .then(|| format!("{} was deleted and its container is {body:?}", world.workspaces[of].id))
        });
    }
    oracle
}

/// Somebody else starts a workspace. Its boot takes 626 s and is healthy, although its health check fails meanwhile.
pub(super) fn s42(world: &mut World) -> Oracle {
    fleet(world, 5, 1);
    let spec = &mut world.workspaces[0].spec;
    (spec.boot_min, spec.boot_max, spec.health_check) = (secs(626), secs(626), true);
    let at = phase(world);
    world.at(at, |world| world.foreign_restart(0));
    Oracle::nobody(mins(20))
}

/// One could ask for a single attempt, because the configuration is broken. But no engine tells the kind of a failure, so the oracle allows
/// what back-off and exhaustion allow: five attempts within half an hour (section 4.6 of docs/design.md).
pub(super) fn s43(world: &mut World) -> Oracle {
    fleet(world, 5, 1);
    let at = phase(world);
    world.at(at, |world| {
        world.workspaces[0].fate = Fate::DiesAfter(secs(2));
        world.exit(0, 1, false);
    });
    Oracle::deaths(mins(29)).not_all_well().at_most(5).verdict_reached(0, "exhausted")
}

/// defib removes no containers that have no row. It must not touch them while they have none, nor when their rows come back.
pub(super) fn s44(world: &mut World) -> Oracle {
    fleet(world, 15, 1);
    let lasting = world.dice.between(secs(10), mins(10));
    let set = |world: &mut World, exists| {
        world.db.facts.iter_mut().for_each(|facts| facts.exists = exists);
        world.refresh_view();
    };
    world.at(0, move |world| set(world, false));
    world.at(lasting, move |world| set(world, true));
    Oracle::nobody(mins(20))
}

/// No heartbeat arrives for ten minutes; somebody's idle sweep hibernates all; two minutes later requests wake all.
pub(super) fn s45(world: &mut World) -> Oracle {
    fleet(world, 25, 2);
    world.at(0, |world| world.pipeline_outage(mins(10)));
    world.at(mins(6), |world| (0..25).for_each(|of| world.park(of, "hibernated", false, 1_000)));
    world.at(mins(8), |world| {
        (0..25).for_each(|of| {
            let wait = world.dice.below(secs(10));
            world.later(wait, move |world| world.unpark(of));
        });
    });
    Oracle::nobody(mins(25))
}

/// An external workspace, of which only the heartbeat can be seen, is reported as lost and never touched.
pub(super) fn s46(world: &mut World) -> Oracle {
    fleet(world, 5, 1);
    let spec = Spec { kind: defib_policy::fleet::Kind::External, ..Spec::default() };
    let of = world.add(0, spec);
    let at = phase(world);
    world.at(at, move |world| world.mute(of, hours(1)));
    Oracle::nobody(mins(30)).verdict_reached(of, "lost")
}
