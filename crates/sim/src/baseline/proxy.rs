//! The proxy that restarts on the request path, before and after its first cure.

use super::acts::{Seen, inspect, recreate};
use crate::queue::Wake;
use crate::time::{Ms, secs};
use crate::world::{Detector, World};

/// A failed request is followed by an inspect, and that by a restart.
#[derive(Debug)]
pub(super) struct Proxy {
    debounce: bool,
    /// Counters of each process: first observation and how many, by workspace.
    counters: Vec<Vec<(Ms, u32)>>,
}

impl Proxy {
    /// One observation that is not "running", an error included, is enough.
    #[must_use]
    pub(super) fn one_shot() -> Self {
        Self { debounce: false, counters: Vec::new() }
    }

    /// With a heartbeat of at most 15 s, two observations within 30 s are needed; errors count as alive; each process counts alone.
    #[must_use]
    pub(super) fn debounced() -> Self {
        Self { debounce: true, counters: Vec::new() }
    }

    fn is_dead(&mut self, of: usize, proxy: u8, world: &mut World) -> bool {
        let seen = inspect(world, of);
        if !self.debounce {
            return seen != Seen::Running;
        }
        self.counters.resize_with(usize::from(world.proxies).max(usize::from(proxy) + 1), Vec::new);
        let counters = &mut self.counters[usize::from(proxy)];
        counters.resize(world.workspaces.len(), (0, 0));
        if seen != Seen::NotRunning {
            counters[of] = (0, 0);
            return false;
        }
        // A database error reads as "no recent heartbeat", as the reviewers noted.
        let clock = world.db.clock(world.now);
        let beat = world.db.facts[of].heartbeat.filter(|_| world.db.up);
        let recent = beat.is_some_and(|beat| clock.since(beat).as_millis() <= 15_000);
        if !recent {
            return true;
        }
        let (first, count) = counters[of];
        let fresh = count > 0 && world.now - first <= secs(30);
        counters[of] = if fresh { (first, count + 1) } else { (world.now, 1) };
        counters[of].1 >= 2
    }
}

impl Detector for Proxy {
    fn name(&self) -> &'static str {
        if self.debounce { "proxy-debounce" } else { "proxy-one-shot" }
    }

    fn start(&mut self, _me: u8, _world: &mut World) {}

    fn wake(&mut self, _me: u8, wake: Wake, world: &mut World) {
        if let Wake::Failed(of, proxy) = wake
            && may_be_marked(world, of as usize)
            && self.is_dead(of as usize, proxy, world)
        {
            recreate(world, of as usize);
        }
    }

    fn crash(&mut self) {
        self.counters.clear();
    }
}

/// The guard of the source: whatever is neither removed nor being provisioned may be marked offline, and is then restarted.
fn may_be_marked(world: &World, of: usize) -> bool {
    let facts = &world.db.facts[of];
    facts.exists && !["removed", "provisioning"].contains(&facts.status)
}
