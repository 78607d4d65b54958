//! Chaos years: faults of every kind, drawn and combined for years of fleet time.
//!
//! Two invariants hold. No workspace is restarted that is well, or that is not ours to restart. And every death that a restart can mend is
//! answered within its bound ([`liveness`]), whatever the neighbours do. Any share of those that die together may be impossible to start,
//! missing, or dying again and again, or may make the platform's functions raise.
//!
//! | file | draws |
//! | --- | --- |
//! | `faults.rs` | deaths, what looks like one, operators, engines, the database, defib itself |
//! | `neighbours.rs` | the hopeless, vetoes, functions that raise, locks, lying reporters, boots under way |

mod faults;
mod neighbours;

use defib_policy::settings::Action;

use crate::chronicle::{Death, Loss};
use crate::liveness::{self, Within};
use crate::oracle;
use crate::scenario::Policy;
use crate::time::{Ms, clock, days, hours, mins, ms, secs};
use crate::workspace::{EnginePolicy, Spec};
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

/// A storm that lasts longer than this is a fault of its guard, however many of its dead cannot be helped.
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
    live_with(climate, seed, |world| {
        world.chronicle.trace = trace.then(Vec::new);
        policy.enter(world);
    })
}

/// Lives through a climate with whoever `enter` puts on trial.
pub fn live_with(climate: Climate, seed: u64, enter: impl FnOnce(&mut World)) -> Years {
    let mut world = World::new(seed ^ 0xC4A0_5000_0000);
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
            health_interval: world.dice.between(secs(5), mins(5)),
            request_every: secs(60),
            ..Spec::default()
        };
        world.add(number % climate.engines, spec);
    }
    enter(&mut world);
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
    if world.dice.chance(0.3) {
        neighbours::draw(world);
    } else {
        faults::draw(world);
    }
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
        failures.extend(liveness::late(world, loss, Within::BesideStorms(bound(world, loss))));
    }
    for storm in &world.chronicle.storms {
        if storm.until.min(world.now) - storm.from > STORM_MAX {
            failures.push(format!("STORM: from {} it lasted longer than it may", clock(storm.from, world.zero)));
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
    liveness::bound(world, loss) + learned + settle + ms(settings.backoff_initial) + 2 * ms(settings.poll_interval)
}
