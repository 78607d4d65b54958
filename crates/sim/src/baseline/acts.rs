//! How these policies look and act: naive looks, and the restarts of their sources.

use crate::queue::{Event, Wake};
use crate::remedy::How;
use crate::time::{Ms, secs};
use crate::workspace::Body;
use crate::world::World;

/// What the naive look at a container says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// `State.Running` is true (which it is when paused, and when restarting).
    Running,
    /// It is false, or the container is not there.
    NotRunning,
    /// The engine gave no answer.
    Error,
}

/// `inspect`, read as these policies read it.
pub(super) fn inspect(world: &mut World, of: usize) -> Seen {
    let engine = &world.engines[world.workspaces[of].engine];
    let hangs = engine.inspect >= 5_000 || world.workspaces[of].inspect_hangs;
    if engine.fault.is_some() || hangs {
        world.chronicle.engine_calls += 1;
        return Seen::Error;
    }
    let impostor = engine.impostor.is_some();
    let lie = world.workspaces[of].lie.is_some();
    let running = matches!(world.workspaces[of].body, Body::Running | Body::Paused | Body::Restarting);
    world.looked(of);
    if impostor || lie || !running { Seen::NotRunning } else { Seen::Running }
}

/// `docker restart`, or a new one where there is nothing to restart.
pub(super) fn restart(world: &mut World, of: usize) {
    let how = if world.workspaces[of].body == Body::Absent { How::ByPlatform } else { How::KillAndStart };
    world.restart(of, how, secs(30), None);
}

/// The platform's own restart: stop, and make a new one, without a second look at the row (molecule-core's action set).
pub(super) fn recreate(world: &mut World, of: usize) {
    world.restart(of, How::ByPlatformBlindly, secs(30), None);
}

/// Whether the platform wants it to run, as far as its row tells now.
pub(super) fn is_watched(world: &World, of: usize) -> bool {
    world.db.up && world.db.facts[of].is_watched()
}

/// Schedules the next sweep. `due` guards against a second chain after a crash.
pub(super) fn sweep_in(wait: Ms, due: &mut Ms, me: u8, world: &mut World) {
    *due = world.now + wait;
    world.push(*due, Event::Wake(me, Wake::Sweep));
}
