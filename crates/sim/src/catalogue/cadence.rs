//! A: windows, cadence, sampling.

use defib_policy::settings::Action;

use super::story::{dies, fleet, phase, someone, sometime};
use crate::database::Report;
use crate::oracle::Oracle;
use crate::time::{hours, mins, secs};
use crate::workspace::{Lie, Spec};
use crate::world::World;

/// Each of 30 workspaces gets ten false samples an hour, `stopped` or `missing`, at any phase of its heartbeat.
pub(super) fn s01(world: &mut World) -> Oracle {
    fleet(world, 30, 2);
    for of in 0..30 {
        for _ in 0..10 {
            let (at, lie) =
                (sometime(world, hours(1)), if world.dice.chance(0.5) { Lie::Stopped } else { Lie::Missing });
            world.at(at, move |world| world.lie_about(of, lie));
        }
    }
    Oracle::nobody(hours(1) + mins(2))
}

/// Ten agents that are busy every five minutes; some of them say so. Beside that there are false samples. Together with a stale heartbeat
/// these are two witnesses, so only the look before the restart can save the agents.
pub(super) fn s02(world: &mut World) -> Oracle {
    fleet(world, 10, 1);
    for of in 0..10 {
        let says_so = world.dice.chance(0.5);
        for round in 0..6 {
            let (at, lasting) = (mins(5) * round + phase(world), world.dice.between(secs(60), secs(125)));
            world.at(at, move |world| {
                world.db.facts[of].active_tasks = i32::from(says_so);
                world.refresh_view();
                world.busy(of, lasting);
            });
            let lie_at = at + world.dice.between(secs(20), lasting);
            if world.dice.chance(0.3) {
                world.at(lie_at, move |world| world.lie_about(of, Lie::Stopped));
            }
        }
    }
    Oracle::nobody(mins(35))
}

/// It answers for ten minutes without heartbeats (its activity advances), then it is wedged. With
/// `DEFIB_WEDGED_ACTION=restart`.
pub(super) fn s03(world: &mut World) -> Oracle {
    world.settings.wedged_action = Action::Restart;
    world.writes_activity = true;
    fleet(world, 6, 1);
    let of = someone(world, 6);
    world.at(0, move |world| world.mute(of, mins(10)));
    world.at(mins(10), move |world| world.wedge(of));
    let oracle = Oracle { wedged_too: true, ..Oracle::deaths(mins(40)) };
    oracle.at_most(1).within(mins(10) + mins(4))
}

/// Ten requests fail within 50 ms.
pub(super) fn s04(world: &mut World) -> Oracle {
    fleet(world, 5, 1);
    let (of, start) = (someone(world, 5), phase(world));
    for n in 0..10 {
        world.at(start + 5 * n, move |world| {
            world.lie_about(of, Lie::Stopped);
            world.request_failed(of, 0);
        });
    }
    Oracle::nobody(mins(3))
}

/// A workspace dies, and is called only twice.
pub(super) fn s05(world: &mut World) -> Oracle {
    world.add_engine();
    let silent = Spec { request_every: 0, ..Spec::default() };
    for _ in 0..4 {
        world.add(0, silent);
    }
    let (of, vanishes, at) = (someone(world, 4), world.dice.chance(0.5), phase(world));
    if vanishes {
        world.at(at, move |world| world.vanish(of));
    } else {
        dies(world, of, at);
    }
    for after in [5, 50] {
        world.at(at + secs(after), move |world| world.request_through(of, 0));
    }
    Oracle::deaths(mins(5)).at_most(1)
}

/// For ten minutes, another engine daemon and ours answer by turns on the same socket, ten seconds each.
pub(super) fn s06(world: &mut World) -> Oracle {
    fleet(world, 8, 1);
    let start = phase(world);
    for n in 0..60 {
        world.at(start + secs(10) * n, move |world| {
            world.engines[0].impostor = (n % 2 == 0).then(|| "daemon-9".to_owned());
        });
    }
    Oracle::nobody(mins(13))
}

/// The heartbeats of all workspaces are throttled step by step, from one in 35 s to one in 80 s.
pub(super) fn s07(world: &mut World) -> Oracle {
    fleet(world, 12, 1);
    for of in 0..12 {
        for (n, interval) in [35, 45, 60, 80].into_iter().enumerate() {
            let at = mins(15) * n as u64 + phase(world);
            world.at(at, move |world| world.workspaces[of].spec.interval = secs(interval));
        }
    }
    Oracle::nobody(mins(75))
}

/// defib starts without any memory on 150 rows, with suspicions from the last two hours in the table.
pub(super) fn s08(world: &mut World) -> Oracle {
    fleet(world, 150, 3);
    world.at(0, |world| {
        world.db.suspicions.clear();
        for of in 0..150 {
            for back in 1..5 {
                let at = world.now - mins(20) * back;
                world.db.suspicions.push(Report { of, login: 0, name: 0, at });
            }
        }
        world.restart_detector(0);
    });
    for _ in 0..6 {
        let (of, at) = (someone(world, 150), sometime(world, secs(20)));
        world.at(at, move |world| world.lie_about(of, Lie::Stopped));
    }
    Oracle::nobody(mins(5))
}
