//! Policies that look at containers: a sweep, docker-autoheal, and a kubelet-like probe.

use super::acts::{Seen, inspect, is_watched, recreate, restart, sweep_in};
use crate::queue::Wake;
use crate::time::{Ms, mins, secs};
use crate::workspace::Body;
use crate::world::{Detector, World};
use defib_policy::sample::Health;

/// Every 15 s: whatever is not running is restarted, errors count as alive.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    due: Ms,
}

impl Detector for Sweep {
    fn name(&self) -> &'static str {
        "sweep-15s"
    }

    fn start(&mut self, me: u8, world: &mut World) {
        sweep_in(secs(15), &mut self.due, me, world);
    }

    fn wake(&mut self, me: u8, wake: Wake, world: &mut World) {
        if wake != Wake::Sweep || world.now != self.due {
            return;
        }
        for of in 0..world.workspaces.len() {
            if is_watched(world, of) && !is_external(world, of) && inspect(world, of) == Seen::NotRunning {
                recreate(world, of);
            }
        }
        sweep_in(secs(15), &mut self.due, me, world);
    }
}

/// Every 5 s: whatever the engine lists as unhealthy is restarted, unless it is restarting. No memory.
#[derive(Debug, Default)]
pub(super) struct Autoheal {
    due: Ms,
}

impl Detector for Autoheal {
    fn name(&self) -> &'static str {
        "docker-autoheal"
    }

    fn start(&mut self, me: u8, world: &mut World) {
        sweep_in(secs(5), &mut self.due, me, world);
    }

    fn wake(&mut self, me: u8, wake: Wake, world: &mut World) {
        if wake != Wake::Sweep || world.now != self.due {
            return;
        }
        for of in 0..world.workspaces.len() {
            let engine = &world.engines[world.workspaces[of].engine];
            let answers = engine.fault.is_none() && engine.impostor.is_none() && engine.list < secs(30);
            let offset = engine.offset;
            let workspace = &world.workspaces[of];
            // It filters nothing but the health: a paused container keeps its last one, and is listed.
            let listed = matches!(workspace.body, Body::Running | Body::Paused);
            let unhealthy = matches!(workspace.health(world.now, offset), Health::Unhealthy { .. });
            if answers && listed && unhealthy {
                restart(world, of);
            }
        }
        sweep_in(secs(5), &mut self.due, me, world);
    }
}

/// Each container is probed each 10 s with 1 s to answer; three failures in a row kill it. What exited is started again within a
/// second (relist). Back-off from 10 s, doubled up to 300 s, reset by ten minutes of running. A start-up probe covers the first
/// 30 s, as its documentation advises.
#[derive(Debug, Default)]
pub(super) struct Kubelet {
    due: Ms,
    ticks: u64,
    pods: Vec<Pod>,
}

#[derive(Clone, Debug, Default)]
struct Pod {
    failures: u32,
    backoff: Ms,
    not_before: Ms,
}

impl Kubelet {
    fn restart(&mut self, of: usize, world: &mut World) {
        let pod = &mut self.pods[of];
        if world.now < pod.not_before {
            return;
        }
        if world.now.saturating_sub(world.workspaces[of].started_at) >= mins(10) {
            pod.backoff = 0;
        }
        pod.not_before = world.now + pod.backoff;
        pod.backoff = (pod.backoff * 2).clamp(secs(10), secs(300));
        pod.failures = 0;
        restart(world, of);
    }
}

impl Detector for Kubelet {
    fn name(&self) -> &'static str {
        "kubelet-probe"
    }

    fn start(&mut self, me: u8, world: &mut World) {
        sweep_in(secs(1), &mut self.due, me, world);
    }

    fn wake(&mut self, me: u8, wake: Wake, world: &mut World) {
        if wake != Wake::Sweep || world.now != self.due {
            return;
        }
        self.ticks += 1;
        self.pods.resize_with(world.workspaces.len(), Pod::default);
        for of in 0..world.workspaces.len() {
            // It manages its own pods. A parked workspace has no pod, so it needs no database to leave it alone.
            if !world.db.facts[of].is_watched() || is_external(world, of) {
                continue;
            }
            let body = world.workspaces[of].body;
            match body {
                Body::Running if (self.ticks + of as u64).is_multiple_of(10) => {
                    let starting = world.now.saturating_sub(world.workspaces[of].started_at) < secs(30);
                    let failed = !world.workspaces[of].answers() && !starting;
                    let pod = &mut self.pods[of];
                    pod.failures = if failed { pod.failures + 1 } else { 0 };
                    if pod.failures >= 3 {
                        self.restart(of, world);
                    }
                }
                Body::Exited { .. } | Body::Absent if inspect(world, of) == Seen::NotRunning => self.restart(of, world),
                _ => {}
            }
        }
        sweep_in(secs(1), &mut self.due, me, world);
    }

    fn crash(&mut self) {
        self.pods.clear();
    }
}

fn is_external(world: &World, of: usize) -> bool {
    world.workspaces[of].spec.kind == defib_policy::fleet::Kind::External
}
