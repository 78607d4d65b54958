//! C: database, clock, own process.

use defib_policy::settings::Action;

use super::story::{dies, fleet, phase, someone, sometime};
use crate::oracle::Oracle;
use crate::time::{hours, mins, secs};
use crate::workspace::Fate;
use crate::world::World;

/// The database is away for 300 s. One workspace dies meanwhile, and must be found within 45 s of the end of the outage.
pub(super) fn s24(world: &mut World) -> Oracle {
    fleet(world, 30, 2);
    let restarts = world.dice.chance(0.5);
    world.at(0, move |world| world.database_outage(secs(300), restarts));
    let of = someone(world, 30);
    dies(world, of, secs(150));
    Oracle::deaths(mins(15)).within(secs(345)).at_most(1).check(move |world| {
        let found = world.chronicle.losses.first().and_then(|loss| loss.restarted_at);
        found.is_none_or(|at| at > world.zero + secs(345)).then(|| format!("found at {found:?}, later than 345 s"))
    })
}

/// The view is 200 s behind. Nobody may be restarted for that. A dead workspace is restarted once the view shows its last heartbeat and
/// that has become stale, after 200 s and a window.
pub(super) fn s25(world: &mut World) -> Oracle {
    fleet(world, 20, 2);
    world.at(0, |world| world.db.lag = secs(200));
    let (of, at) = (someone(world, 20), mins(10) + phase(world));
    dies(world, of, at);
    Oracle::deaths(mins(25)).within(secs(200) + secs(105)).at_most(1)
}

/// One workspace is restarted by the platform, another one dies, and afterwards the heartbeats of both are refused. A third one boots
/// slowly, and both proxies complain of it. It sends one heartbeat, and then its heartbeats are refused for a quarter of an hour while it
/// answers everybody. By seed with `DEFIB_WEDGED_ACTION=restart`: complaints from before its last sign of life must not count.
pub(super) fn s26(world: &mut World) -> Oracle {
    if world.dice.chance(0.5) {
        world.settings.wedged_action = Action::Restart;
    }
    fleet(world, 12, 1);
    world.workspaces[2].spec.boot_min = secs(200);
    world.workspaces[2].spec.boot_max = secs(200);
    world.workspaces[2].spec.request_every = secs(15);
    world.at(0, |world| world.foreign_restart(2));
    world.at(secs(205), |world| world.mute(2, mins(15)));
    let start = phase(world);
    for of in 0..2 {
        world.at(start, move |world| {
            world.workspaces[of].fate = Fate::Mute;
            if of == 0 {
                world.foreign_restart(of);
            } else {
                world.exit(of, 1, false);
            }
        });
    }
    Oracle::deaths(mins(30)).at_most(1)
}

/// By seed: a constant skew or a step of each of the clocks. One true death is found as ever.
pub(super) fn s27(world: &mut World) -> Oracle {
    fleet(world, 16, 2);
    let variant = world.dice.below(6);
    let skews = [120_000_000_i64, 2_546_000_000, -300_000_000, -120_000_000];
    let skew = world.dice.pick(&skews).copied().unwrap_or(0);
    match variant {
        0 => world.db.offset = skew,
        1 => world.engines[0].offset = skew,
        2 => (0..8).for_each(|of| world.workspaces[of].writer_offset = skew),
        _ => {}
    }
    for of in 0..16 {
        world.touch(of);
    }
    world.at(secs(60), move |world| match variant {
        3 => world.db.offset = skew,
        4 => {
            world.engines[0].offset = skew;
            (0..16).for_each(|of| world.touch(of));
        }
        5 => (0..8).for_each(|of| world.workspaces[of].writer_offset = skew),
        _ => {}
    });
    let (of, at) = (someone(world, 16), mins(8) + phase(world));
    dies(world, of, at);
    Oracle::deaths(mins(15)).at_most(1).within(secs(90))
}

/// The host of defib sleeps for an hour. By seed its monotonic clock stands still meanwhile, or goes on. One workspace dies in that hour.
pub(super) fn s28(world: &mut World) -> Oracle {
    fleet(world, 16, 2);
    let lost = world.dice.chance(0.5);
    world.at(0, move |world| {
        world.obstacle(None, hours(1), secs(60));
        world.with_detector(0, |detector, world| detector.freeze(world.now, world.now + hours(1), lost));
    });
    let of = someone(world, 16);
    dies(world, of, mins(30));
    Oracle::deaths(hours(1) + mins(10)).at_most(1)
}

/// A stall of 51 s at any phase, and false samples right after it.
pub(super) fn s29(world: &mut World) -> Oracle {
    fleet(world, 20, 2);
    let start = phase(world);
    world.at(start, |world| {
        world.with_detector(0, |detector, world| detector.freeze(world.now, world.now + secs(51), false));
    });
    for of in 0..10 {
        let at = start + secs(45) + sometime(world, secs(20));
        world.at(at, move |world| world.lie_about(of, crate::workspace::Lie::Stopped));
    }
    Oracle::nobody(mins(5))
}

/// The owner crashes, or stalls for 20 s, somewhere between the death and the outcome. With the help of the other replica the workspace
/// must be started exactly once.
pub(super) fn s30(world: &mut World) -> Oracle {
    world.replicas = 2;
    fleet(world, 8, 1);
    let at = phase(world);
    dies(world, 0, at);
    let (wait, stalls) = (world.dice.below(2_500), world.dice.chance(0.5));
    world.at(at + wait, move |world| {
        if stalls {
            world.with_detector(0, |detector, world| detector.freeze(world.now, world.now + secs(20), false));
        } else {
            world.crash_detector(0);
        }
    });
    Oracle::deaths(mins(8)).within(secs(15 + 40 + 30)).check(|world| {
        let lives = world.workspaces[0].life;
        (lives != 2).then(|| format!("life {lives}: not exactly one start"))
    })
}

/// The owner is cut off. The other replica takes over when the lease has ended, and no workspace is restarted twice.
pub(super) fn s31(world: &mut World) -> Oracle {
    world.replicas = 2;
    fleet(world, 8, 1);
    let start = phase(world);
    world.at(start, |world| world.with_detector(0, |detector, _| detector.cut_off(true)));
    world.at(mins(2), |world| world.with_detector(0, |detector, _| detector.cut_off(false)));
    dies(world, 0, start + secs(5));
    Oracle::deaths(mins(8)).within(secs(35)).at_most(1)
}

/// defib itself lives twenty times for 50 s. One workspace crash-loops, and another one dies in the middle.
pub(super) fn s32(world: &mut World) -> Oracle {
    fleet(world, 8, 1);
    for n in 0..20 {
        world.at(secs(50) * n, |world| world.restart_detector(0));
    }
    let start = phase(world);
    world.at(start, |world| {
        world.workspaces[0].fate = Fate::DiesAfter(secs(20));
        world.exit(0, 1, false);
    });
    let at = secs(300) + sometime(world, secs(100));
    dies(world, 1, at);
    let oracle = Oracle::deaths(mins(25)).not_all_well().at_most(1 + 6).at_most_of(0, 6).at_most_of(1, 1);
    oracle
        .check(|world| {
            let loss = world.chronicle.losses.iter().find(|loss| loss.workspace == 1)?;
            let took = loss.restarted_at.map(|at| at - loss.at);
            took.is_none_or(|took| took > secs(60)).then(|| format!("the dead one was found after {took:?} ms"))
        })
        .within(mins(31))
}

/// 5,000 suspicions a second are reported about three workspaces, one of which has no row any more. Another workspace dies meanwhile.
pub(super) fn s33(world: &mut World) -> Oracle {
    fleet(world, 20, 2);
    let start = phase(world);
    world.at(start, |world| {
        world.db.facts[2].exists = false;
        world.refresh_view();
        flood(world, 1_000);
    });
    dies(world, 7, start + secs(5));
    Oracle::deaths(mins(3)).at_most(1).within(secs(11)).check(|world| {
        let calls = world.chronicle.engine_calls;
        (calls > 1_000).then(|| format!("{calls} calls to engines"))
    })
}

fn flood(world: &mut World, ticks_left: u32) {
    for n in 0..50_u8 {
        world.request_failed(usize::from(n % 3), n % 2);
    }
    if ticks_left > 1 {
        world.later(10, move |world| flood(world, ticks_left - 1));
    }
}

/// One proxy of two reaches nobody for half an hour; two workspaces have lost their heartbeats as well. With
/// `DEFIB_WEDGED_ACTION=restart`.
pub(super) fn s34(world: &mut World) -> Oracle {
    world.settings.wedged_action = Action::Restart;
    fleet(world, 40, 2);
    world.at(0, |world| {
        world.broken_proxies.insert(1);
        world.mute(0, mins(25));
        world.mute(1, mins(25));
    });
    world.at(mins(30), |world| world.broken_proxies.clear());
    Oracle::nobody(mins(35))
}
