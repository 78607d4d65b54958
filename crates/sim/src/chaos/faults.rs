//! Faults that strike: deaths, what looks like one, operators at work, trouble of engines, of the database and of defib itself.

use defib_policy::sample::{Fault, Health};

use crate::time::{hours, mins, ms, secs, stamp};
use crate::workspace::{Fate, Lie, Mind};
use crate::world::World;

/// One fault.
pub(super) fn draw(world: &mut World) {
    let of = world.dice.index(world.workspaces.len());
    let engine = world.dice.index(world.engines.len());
    match world.dice.below(100) {
        0..=33 => hurt(world, of),
        34..=61 => disturb(world, of),
        62..=72 => operate(world, of),
        73..=87 => strain(world, engine),
        88..=94 => starve(world),
        _ => stumble(world),
    }
}

/// True deaths.
fn hurt(world: &mut World, of: usize) {
    if world.workspaces[of].mind != Mind::Working || !world.is_wanted(of) {
        return;
    }
    match world.dice.below(20) {
        0..=9 => {
            let code = world.dice.pick(&[0, 1, 137, 139]).copied().unwrap_or(1);
            world.exit(of, code, code == 137);
        }
        10..=13 => vanish(world, of),
        14 | 15 => world.wedge(of),
        16..=18 => {
            // A crash loop for a while.
            let after = world.dice.between(secs(2), mins(8));
            world.workspaces[of].fate = Fate::DiesAfter(after);
            world.exit(of, 1, false);
            let lasting = world.dice.between(mins(2), hours(2));
            world.later(lasting, move |world| world.workspaces[of].fate = Fate::Works);
        }
        _ => {
            // Many at once.
            let n = world.workspaces.len() / 5 + world.dice.index(world.workspaces.len() / 4);
            for victim in world.dice.some_of(n, world.workspaces.len()) {
                let wait = world.dice.below(secs(40));
                world.later(wait, move |world| {
                    if world.is_wanted(victim) {
                        world.exit(victim, 137, false);
                    }
                });
            }
        }
    }
}

/// Its container is removed. Somebody of the platform makes it again, sooner or later, unless whoever is on trial had it made.
pub(super) fn vanish(world: &mut World, of: usize) {
    world.vanish(of);
    let (life, lasting) = (world.workspaces[of].life, world.dice.between(mins(2), hours(6)));
    world.later(lasting, move |world| {
        if world.workspaces[of].life == life && world.is_wanted(of) {
            world.recreate(of, 0, 0, secs(1));
        }
    });
}

/// What looks like death and is none.
fn disturb(world: &mut World, of: usize) {
    match world.dice.below(10) {
        0..=2 => {
            let lie = if world.dice.chance(0.5) { Lie::Stopped } else { Lie::Missing };
            world.lie_about(of, lie);
        }
        3..=5 => {
            let lasting = world.dice.between(secs(20), mins(5));
            world.db.facts[of].active_tasks = i32::from(world.dice.chance(0.5));
            world.refresh_view();
            world.busy(of, lasting);
            if world.dice.chance(0.4) {
                let wait = world.dice.below(lasting);
                world.later(wait, move |world| world.lie_about(of, Lie::Stopped));
            }
        }
        6 => {
            let lasting = world.dice.between(mins(1), mins(40));
            world.mute(of, lasting);
        }
        7 => {
            let lasting = world.dice.between(secs(5), mins(30));
            world.docker_pause(of, lasting);
        }
        8 => {
            let n = world.workspaces.len();
            for victim in world.dice.some_of(n / 2, n) {
                if world.workspaces[victim].mind == Mind::Mute {
                    continue; // two witnesses that both lie of it are no fault of the rules
                }
                let at = stamp(world.now, 0);
                world.workspaces[victim].frozen_health = Some(Health::Unhealthy {
                    last_check_at: Some(at),
                    due_within: Some(std::time::Duration::from_secs(120)),
                });
                world.touch(victim);
                world.later(mins(5), move |world| {
                    world.workspaces[victim].frozen_health = None;
                    world.touch(victim);
                });
            }
        }
        _ => {
            let lasting = world.dice.between(mins(1), mins(20));
            world.break_proxies(&[1], lasting);
        }
    }
}

/// Operators at work.
fn operate(world: &mut World, of: usize) {
    if !world.is_wanted(of) || !world.workspaces[of].is_well() {
        return;
    }
    match world.dice.below(5) {
        0 | 1 => {
            let (removing, absent, created) =
                (world.dice.below(secs(3)), world.dice.below(secs(9)), world.dice.below(secs(2)));
            world.recreate(of, removing, absent, created);
        }
        2 => world.foreign_restart(of),
        3 => {
            let status = world.dice.pick(&["paused", "hibernated", "removed"]).copied().unwrap_or("paused");
            let (removes, gap) = (world.dice.chance(0.5), world.dice.below(secs(4)));
            world.park(of, status, removes, gap);
            let lasting = gap + world.dice.between(mins(1), hours(6));
            world.later(lasting, move |world| world.unpark(of));
        }
        _ => {
            let gap = world.dice.between(20, 2_000);
            world.pause_container_first(of, "paused", gap);
            let lasting = world.dice.between(mins(1), hours(6));
            world.later(lasting, move |world| world.unpark(of));
        }
    }
}

/// Engine trouble.
fn strain(world: &mut World, engine: usize) {
    if world.engines[engine].fault.is_some() || !world.engines[engine].is_plain() || !world.engines[engine].daemon_up {
        return;
    }
    let lasting = world.dice.between(secs(3), mins(10));
    let grace = world.grace_after_outage();
    match world.dice.below(9) {
        0..=2 => {
            let faults = [Fault::TimedOut, Fault::Unreachable, Fault::EngineError, Fault::Garbled];
            let fault = world.dice.pick(&faults).copied().unwrap_or(Fault::TimedOut);
            world.engine_fault(engine, fault, lasting);
        }
        3 => {
            world.engines[engine].impostor = Some("daemon-9".to_owned());
            world.obstacle(Some(engine), lasting, grace);
            world.later(lasting, move |world| world.engines[engine].impostor = None);
        }
        4 => {
            world.engines[engine].list = world.dice.between(200, secs(9));
            world.obstacle(Some(engine), lasting, grace);
            world.later(lasting, move |world| world.engines[engine].list = 15);
        }
        5 => {
            world.engines[engine].starts_fail = true;
            world.obstacle(Some(engine), lasting, grace + ms(world.settings.backoff_max));
            world.later(lasting, move |world| world.engines[engine].starts_fail = false);
        }
        6 => {
            world.engines[engine].events = false;
            world.later(lasting, move |world| world.engines[engine].events = true);
        }
        7 => {
            (world.engines[engine].start_min, world.engines[engine].start_max) = (secs(20), secs(90));
            world.obstacle(Some(engine), lasting, grace);
            world.later(lasting, move |world| {
                (world.engines[engine].start_min, world.engines[engine].start_max) = (200, 900);
            });
        }
        _ => {
            world.engines[engine].live_restore = world.dice.chance(0.5);
            let away = world.dice.between(secs(1), secs(60));
            world.daemon_restart(engine, away, secs(60));
            world.obstacle(Some(engine), hours(1), 0);
        }
    }
}

/// Database trouble.
fn starve(world: &mut World) {
    if !world.db.up || !world.db.writable || !world.db.pipeline || world.db.lag > 0 {
        return;
    }
    let lasting = world.dice.between(secs(3), mins(8));
    let grace = world.grace_after_outage();
    match world.dice.below(6) {
        0 | 1 => {
            let restarted = world.dice.chance(0.5);
            world.database_outage(lasting, restarted);
        }
        2 => {
            world.db.writable = false;
            world.obstacle(None, lasting, grace);
            world.later(lasting, |world| world.db.writable = true);
        }
        3 => world.pipeline_outage(lasting),
        4 => {
            world.db.lag = world.dice.between(secs(1), mins(4));
            let lag = world.db.lag;
            world.obstacle(None, lasting, grace + 3 * lag);
            world.later(lasting, |world| world.db.lag = 0);
        }
        _ => {
            // The clock of the database steps, and is put right again.
            let step = i64::try_from(world.dice.below(600_000)).unwrap_or(0) * 1_000 - 300_000_000;
            world.step_clock(step);
            world.obstacle(None, lasting, grace);
            world.later(lasting, |world| world.step_clock(0));
        }
    }
}

/// Trouble of defib itself.
fn stumble(world: &mut World) {
    let which = u8::try_from(world.dice.below(u64::from(world.detectors()))).unwrap_or(0);
    let lasting = world.dice.between(secs(1), mins(10));
    let grace = world.grace_after_outage() + secs(60);
    world.obstacle(None, lasting, grace);
    match world.dice.below(3) {
        0 => {
            let lost = world.dice.chance(0.5);
            world.with_detector(which, |detector, world| detector.freeze(world.now, world.now + lasting, lost));
        }
        1 => {
            world.crash_detector(which);
            world.later(lasting, move |world| world.restart_detector(which));
        }
        _ => {
            world.with_detector(which, |detector, _| detector.cut_off(true));
            world.later(lasting, move |world| world.with_detector(which, |detector, _| detector.cut_off(false)));
        }
    }
}
