//! Measures how fast the simulation runs.

use std::time::Instant;

use crate::scenario::Policy;
use crate::time::hours;
use crate::workspace::Spec;
use crate::world::World;

/// Simulated workspace-seconds per second of real time, for an uneventful fleet of `n` workspaces on `engines` engines over this many
/// simulated hours.
#[must_use]
pub fn speed(n: usize, engines: usize, length: u64) -> f64 {
    let mut world = World::new(1);
    world.add_fleet(n, engines, Spec::default());
    Policy::Defib.enter(&mut world);
    let begin = Instant::now();
    let end = world.now + hours(length);
    world.run_until(end);
    n as f64 * length as f64 * 3_600.0 / begin.elapsed().as_secs_f64()
}
