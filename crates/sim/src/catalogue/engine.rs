//! B: engine (Docker) faults.

use defib_policy::sample::{Fault, Health};
use defib_policy::settings::Action;

use super::story::{dies, fleet, phase, sometime};
use crate::oracle::Oracle;
use crate::time::{hours, mins, secs, stamp};
use crate::workspace::{Body, EnginePolicy, Fate};
use crate::world::World;

/// The engine answers late for a minute while six forwards fail.
pub(super) fn s09(world: &mut World) -> Oracle {
    fleet(world, 20, 1);
    let start = phase(world);
    world.at(start, |world| {
        world.engine_fault(0, Fault::TimedOut, secs(60));
        for of in 0..6 {
            world.request_failed(of, 0);
        }
    });
    Oracle::nobody(mins(6))
}

/// Half of the containers are started again by the daemon. The other half have no restart policy, and only they must be restarted.
pub(super) fn s10(world: &mut World) -> Oracle {
    fleet(world, 12, 1);
    for of in 0..6 {
        world.workspaces[of].spec.policy = EnginePolicy::UnlessStopped;
    }
    let start = phase(world);
    world.at(start, |world| world.daemon_restart(0, secs(20), secs(40)));
    let mut oracle = Oracle::deaths(mins(45)).within(mins(20)).at_most(6);
    for of in 0..6 {
        oracle = oracle.at_most_of(of, 0);
    }
    oracle
}

/// Two containers were `unhealthy` before the daemon was restarted, and their health stays at that. With `DEFIB_UNHEALTHY_ACTION=restart`.
pub(super) fn s11(world: &mut World) -> Oracle {
    world.settings.unhealthy_action = Action::Restart;
    fleet(world, 8, 1);
    world.engines[0].live_restore = true;
    let (start, away) = (phase(world), world.dice.between(secs(1), secs(12)));
    world.at(start, move |world| {
        for of in 0..2 {
            let last = stamp(world.now - secs(2), world.engines[0].offset);
            world.workspaces[of].frozen_health = Some(Health::Unhealthy {
                last_check_at: Some(last),
                due_within: Some(std::time::Duration::from_secs(120)),
            });
        }
        world.daemon_restart(0, away, secs(1));
    });
    Oracle::nobody(mins(15))
}

/// One inspect hangs, then the list. Those on the other engine are found as ever, and before the list hangs those on this
/// one as well.
pub(super) fn s12(world: &mut World) -> Oracle {
    fleet(world, 12, 2);
    world.at(0, |world| world.workspaces[0].inspect_hangs = true);
    world.at(secs(120), |world| {
        world.engines[0].list = secs(60);
        world.obstacle(Some(0), secs(180), 0);
    });
    world.at(secs(300), |world| world.engines[0].list = 15);
    let phase = phase(world);
    dies(world, 2, secs(60) + phase);
    dies(world, 3, secs(60) + phase);
    dies(world, 5, secs(200) + phase);
    Oracle::deaths(mins(10)).at_most(3)
}

/// By seed: a 404 that is not about the container, an unreadable answer, or another daemon on the socket, which goes after five minutes or
/// stays.
pub(super) fn s13(world: &mut World) -> Oracle {
    fleet(world, 15, 1);
    let (start, variant, stays) = (phase(world), world.dice.below(3), world.dice.chance(0.5));
    world.at(start, move |world| match variant {
        0 => world.engine_fault(0, Fault::EngineError, mins(3)),
        1 => world.engine_fault(0, Fault::Garbled, mins(3)),
        _ => world.engines[0].impostor = Some("daemon-9".to_owned()),
    });
    world.at(mins(5), move |world| {
        if !stays {
            world.engines[0].impostor = None;
        }
    });
    Oracle::nobody(mins(15))
}

/// Two are frozen for twenty minutes, one of them while it is busy. By seed with `DEFIB_WEDGED_ACTION=restart`: after the thaw the last
/// heartbeat is older than `DEFIB_WEDGED_AFTER`, and the proxies have complained all the time, although the workspace is well.
pub(super) fn s14(world: &mut World) -> Oracle {
    if world.dice.chance(0.5) {
        world.settings.wedged_action = Action::Restart;
    }
    fleet(world, 6, 1);
    let start = phase(world);
    world.at(start, |world| {
        world.docker_pause(0, mins(20));
        world.busy(1, secs(100));
    });
    world.at(start + secs(30), |world| world.docker_pause(1, mins(20)));
    Oracle::nobody(mins(30)).verdict_reached(0, "frozen")
}

/// One could ask for one restart in half an hour. By section 4.1 of docs/design.md a lasting `restarting` is judged as stopped, and by
/// section 4.6 there are five attempts and then one in half an hour. The oracle holds defib to that.
pub(super) fn s15(world: &mut World) -> Oracle {
    fleet(world, 5, 1);
    world.workspaces[0].spec.policy = EnginePolicy::UnlessStopped;
    let start = phase(world);
    world.at(start, |world| {
        world.workspaces[0].fate = Fate::DiesAfter(secs(2));
        world.exit(0, 1, false);
    });
    Oracle::deaths(hours(1)).within(hours(1)).not_all_well().at_most(7)
}

/// Recreations of every kind and length within the missing grace.
pub(super) fn s16(world: &mut World) -> Oracle {
    fleet(world, 10, 1);
    for of in 0..10 {
        let (at, absent) = (sometime(world, mins(5)), world.dice.between(secs(1), secs(12)));
        world.at(at, move |world| world.recreate(of, secs(2), absent, secs(2)));
        if world.dice.chance(0.5) {
            let before = at.saturating_sub(secs(30));
            world.at(before, move |world| world.busy(of, secs(100)));
        }
    }
    Oracle::nobody(mins(10))
}

/// A container is recreated within a second, and the engine's list takes almost as long, so that its answer still shows the old container.
pub(super) fn s17(world: &mut World) -> Oracle {
    fleet(world, 10, 1);
    world.engines[0].list = 900;
    for of in 0..10 {
        let at = sometime(world, mins(5));
        world.at(at, move |world| world.recreate(of, 200, 400, 200));
    }
    Oracle::nobody(mins(10))
}

/// One workspace quits although it should run; another one quits because it is being hibernated.
pub(super) fn s18(world: &mut World) -> Oracle {
    fleet(world, 6, 1);
    let start = phase(world);
    world.at(start, |world| {
        world.exit(0, 0, false);
        world.park(1, "hibernating", false, 500);
    });
    world.at(start + secs(20), |world| world.set_status(1, "hibernated"));
    Oracle::deaths(mins(5)).at_most(1).at_most_of(1, 0).ends_as(1, "hibernated")
}

/// The workspace gets five attempts, and after those one every 30 minutes.
pub(super) fn s19(world: &mut World) -> Oracle {
    fleet(world, 5, 1);
    let start = phase(world);
    world.at(start, |world| {
        world.workspaces[0].fate = Fate::DiesAfter(secs(90));
        world.exit(0, 137, true);
    });
    Oracle::deaths(hours(1)).not_all_well().at_most(7).verdict_reached(0, "exhausted")
}

/// With `DEFIB_WEDGED_ACTION=restart`: the long silence and two reporters. It is called so often that both have gone on for two windows long
/// before it has been silent for long enough.
pub(super) fn s20(world: &mut World) -> Oracle {
    world.settings.wedged_action = Action::Restart;
    fleet(world, 6, 1);
    (world.workspaces[0].spec.health_check, world.workspaces[0].spec.request_every) = (false, secs(10));
    let start = phase(world);
    world.at(start, |world| world.wedge(0));
    let oracle = Oracle { wedged_too: true, ..Oracle::deaths(mins(20)) };
    oracle.at_most(1).within(mins(10) + secs(60))
}

/// The kill hangs for ever. One could ask for a single attempt; the oracle allows what back-off and exhaustion allow (section 4.6 of
/// docs/design.md).
pub(super) fn s21(world: &mut World) -> Oracle {
    world.settings.wedged_action = Action::Restart;
    fleet(world, 6, 1);
    world.at(0, |world| {
        world.engines[0].kill_hangs = true;
        world.wedge(0);
    });
    Oracle::deaths(mins(40)).not_all_well().at_most(5)
}

/// The engine sends no events, so the poll has to find the death.
pub(super) fn s22(world: &mut World) -> Oracle {
    fleet(world, 6, 1);
    world.engines[0].events = false;
    let at = secs(30) + phase(world);
    dies(world, 0, at);
    Oracle::deaths(mins(5)).at_most(1)
}

/// A start takes 200 s. However often it is asked for, one life begins.
pub(super) fn s23(world: &mut World) -> Oracle {
    fleet(world, 6, 1);
    world.at(0, |world| {
        world.engines[0].start_min = secs(200);
        world.engines[0].start_max = secs(200);
    });
    let at = phase(world);
    dies(world, 0, at);
    Oracle::deaths(mins(15)).check(|world| {
        let lives = world.workspaces[0].life;
        let body = world.workspaces[0].body;
        (lives != 2 || body != Body::Running)
            .then(|| format!("after life {lives} it is {body:?}: not exactly one start"))
    })
}
