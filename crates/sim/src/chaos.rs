//! Chaos years: faults of every kind, drawn and combined for years of fleet time.
//!
//! Two invariants: nobody is restarted who is well or not ours, and every death is answered within its bound, where the clock of
//! the bound stands still while something stands in the way (an outage with the grace after it, a parked workspace, a storm), and, for
//! one that is wedged, begins anew after it ([`oracle::late`]).

use defib_policy::sample::{Fault, Health};
use defib_policy::settings::Action;

use crate::chronicle::{Death, Loss};
use crate::oracle;
use crate::scenario::Policy;
use crate::time::{Ms, clock, days, hours, mins, ms, secs, stamp};
use crate::workspace::{Body, EnginePolicy, Fate, Lie, Mind, Spec};
use crate::world::World;

/// What the years are made of.
#[derive(Clone, Copy, Debug)]
pub struct Climate {
    /// Workspaces.
    pub workspaces: usize,
    /// Engines.
    pub engines: usize,
    /// Mean time between faults of any kind.
    pub fault_every: Ms,
    /// How long.
    pub length: Ms,
}

impl Climate {
    /// So many days of a hundred workspaces on five engines, with a fault each ten minutes or so: thousands a month.
    #[must_use]
    pub fn of_days(n: u64) -> Self {
        Self { workspaces: 100, engines: 5, fault_every: mins(10), length: days(n) }
    }
}

/// A storm that lasts longer is a guard that does not let go.
const STORM_MAX: Ms = hours(3);

/// What came of it.
pub struct Years {
    /// The world at its end.
    pub world: World,
    /// What was broken.
    pub failures: Vec<String>,
    /// Faults that were drawn.
    pub faults: u64,
}

/// Lives through a climate.
#[must_use]
pub fn live(climate: Climate, seed: u64, policy: Policy, trace: bool) -> Years {
    let mut world = World::new(seed ^ 0xC4A0_5000_0000);
    world.chronicle.trace = trace.then(Vec::new);
    // Two years of three with company: owners and those who only watch, hand-overs and take-overs.
    world.replicas = world.dice.pick(&[1, 2, 3]).copied().unwrap_or(2);
    world.settings.wedged_action = Action::Restart;
    for _ in 0..climate.engines {
        world.add_engine();
    }
    for number in 0..climate.workspaces {
        let interval = if world.dice.chance(0.7) { secs(30) } else { world.dice.between(secs(10), secs(45)) };
        let spec = Spec {
            interval,
            jitter: world.dice.between(1, 10),
            boot_min: secs(2),
            boot_max: if world.dice.chance(0.1) { mins(6) } else { secs(15) },
            policy: if world.dice.chance(0.3) { EnginePolicy::UnlessStopped } else { EnginePolicy::No },
            health_check: world.dice.chance(0.4),
            request_every: secs(60),
            ..Spec::default()
        };
        world.add(number % climate.engines, spec);
    }
    policy.enter(&mut world);
    let first = world.dice.wait(climate.fault_every);
    let counter = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = std::rc::Rc::clone(&counter);
    let last = climate.length.saturating_sub(hours(2));
    world.at(first, move |world| strike(world, climate.fault_every, last, &count));
    let end = world.zero + climate.length;
    world.run_until(end);
    let failures = failures(&world);
    Years { world, failures, faults: counter.get() }
}

fn strike(world: &mut World, every: Ms, last: Ms, count: &std::rc::Rc<std::cell::Cell<u64>>) {
    count.set(count.get() + 1);
    draw(world);
    let wait = world.dice.wait(every);
    let count = std::rc::Rc::clone(count);
    if world.now + wait < world.zero + last {
        world.later(wait, move |world| strike(world, every, last, &count));
    }
}

/// Mistakes, and deaths that were answered too late.
fn failures(world: &World) -> Vec<String> {
    let mut failures = oracle::mistakes(world);
    for loss in world.chronicle.losses.iter().filter(|loss| loss.healable) {
        failures.extend(oracle::late(world, loss, Some(bound(world, loss))));
    }
    for storm in world.chronicle.storming.iter().map(|(_, _, place)| &world.chronicle.obstacles[*place]) {
        if world.now - storm.from > STORM_MAX {
            failures.push(format!("a storm has lasted since {}", clock(storm.from, world.zero)));
        }
    }
    failures
}

/// The stated bound: what the knobs give, the learned window's share for one that vanished or was restarted a moment ago
/// (their heartbeat decides), and the retry after a refused claim or a superseded look.
fn bound(world: &World, loss: &Loss) -> Ms {
    let settings = &world.settings;
    let learned = match loss.how {
        Death::Vanished => ms(settings.recent_max) / 2,
        Death::Exited | Death::Wedged => 0,
    };
    // What its engine keeps restarting is judged after the settle time.
    let by_engine = world.workspaces[loss.workspace].spec.policy == EnginePolicy::UnlessStopped;
    let settle = if by_engine { 2 * ms(settings.settle) } else { 0 };
    oracle::bound(settings, loss) + learned + settle + ms(settings.backoff_initial) + 2 * ms(settings.poll_interval)
}

fn draw(world: &mut World) {
    let of = number(world, world.workspaces.len());
    let engine = number(world, world.engines.len());
    match world.dice.below(100) {
        0..=33 => hurt(world, of),
        34..=61 => disturb(world, of),
        62..=72 => operate(world, of),
        73..=87 => strain(world, engine),
        88..=94 => starve(world),
        _ => stumble(world),
    }
}

fn number(world: &mut World, below: usize) -> usize {
    usize::try_from(world.dice.below(below as u64)).unwrap_or(0)
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
            let n = world.workspaces.len() / 5 + number(world, world.workspaces.len() / 4);
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
fn vanish(world: &mut World, of: usize) {
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
            world.broken_proxy = Some(1);
            let lasting = world.dice.between(mins(1), mins(20));
            world.later(lasting, |world| world.broken_proxy = None);
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
            world.db.offset = step;
            world.obstacle(None, lasting, grace);
            world.later(lasting, |world| world.db.offset = 0);
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
            world.with_detector(which, |detector, _| detector.crash());
            world.later(lasting, move |world| {
                world.with_detector(which, |detector, world| {
                    detector.crash();
                    detector.start(which, world);
                });
            });
        }
        _ => {
            world.with_detector(which, |detector, _| detector.cut_off(true));
            world.later(lasting, move |world| world.with_detector(which, |detector, _| detector.cut_off(false)));
        }
    }
}

/// Whether anybody is left dead for want of a body: for reports.
#[must_use]
pub fn left_dead(world: &World) -> usize {
    (0..world.workspaces.len())
        .filter(|of| {
            world.is_wanted(*of) && !world.workspaces[*of].is_well() && world.workspaces[*of].body != Body::Paused
        })
        .count()
}
