//! What is on trial: anything that watches the world and restarts.

use crate::queue::Wake;
use crate::world::World;

/// A detector. It sees of the world what its kind sees in production, and acts through the same calls.
pub trait Detector {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// It starts as detector number `me`: schedules its first wake.
    fn start(&mut self, me: u8, world: &mut World);

    /// Something happened that it is told of.
    fn wake(&mut self, me: u8, wake: Wake, world: &mut World);

    /// Its process is killed; `start` begins a new one.
    fn crash(&mut self) {}

    /// Its process stands still between these true times; `lost` says whether its monotonic clock stood still as well.
    fn freeze(&mut self, _from: crate::time::Ms, _until: crate::time::Ms, _lost: bool) {}

    /// It loses its database, alone.
    fn cut_off(&mut self, _cut: bool) {}
}
