//! The platform and its operators: parking, deleting, recreating; and what happens to engines and databases.

use defib_policy::id::ContainerId;
use defib_policy::sample::Fault;

use crate::chronicle::By;
use crate::time::{Ms, ms, secs};
use crate::workspace::{Body, EnginePolicy, Mind};
use crate::world::World;

impl World {
    /// The status in the row changes.
    pub fn set_status(&mut self, of: usize, status: &'static str) {
        self.db.facts[of].status = status;
        self.note(of, &format!("status {status}"));
        if !self.db.facts[of].is_watched() {
            self.chronicle.excuse(of, self.now);
        }
        self.refresh_view();
    }

    /// An ancestor is parked, or no longer.
    pub fn set_suspended(&mut self, of: usize, suspended: bool) {
        self.db.facts[of].suspended = suspended;
        if suspended {
            self.chronicle.excuse(of, self.now);
        }
        self.refresh_view();
    }

    /// The platform stops and removes the container, or leaves it stopped.
    pub fn take_down(&mut self, of: usize, remove: bool) {
        let now = self.now;
        let workspace = &mut self.workspaces[of];
        workspace.life += 1;
        workspace.body = if remove { Body::Absent } else { Body::Exited { code: 0, oom: false, at: now } };
        workspace.mind = Mind::Gone;
        workspace.mute_since = Some(now);
        self.note(of, "taken down by the platform");
        self.touch(of);
        self.engine_event(of);
    }

    /// An operator parks it: the row first, the container `gap` later (negative order is [`World::pause_container_first`]).
    pub fn park(&mut self, of: usize, status: &'static str, remove: bool, gap: Ms) {
        self.set_status(of, status);
        self.later(gap, move |world| world.take_down(of, remove));
    }

    /// An operator parks it the wrong way round: the container first, the row `gap` later.
    pub fn pause_container_first(&mut self, of: usize, status: &'static str, gap: Ms) {
        self.workspaces[of].in_hands = true;
        self.take_down(of, true);
        self.later(gap, move |world| {
            world.workspaces[of].in_hands = false;
            world.set_status(of, status);
        });
    }

    /// The platform wakes it: a new container, and the row.
    pub fn unpark(&mut self, of: usize) {
        self.new_container(of);
        self.set_status(of, "online");
        self.begin_life(of, By::Platform);
    }

    /// A container with a new id takes its place, not started.
    pub fn new_container(&mut self, of: usize) {
        let workspace = &mut self.workspaces[of];
        workspace.containers += 1;
        workspace.container = ContainerId::from(format!("c{of:03}.{}", workspace.containers));
        workspace.body = Body::Created;
        workspace.mind = Mind::Gone;
        workspace.life += 1;
        workspace.lie = None;
    }

    /// The platform recreates it under the same name: removing, absent, created, running. Its status stays `status`.
    pub fn recreate(&mut self, of: usize, removing: Ms, absent: Ms, created: Ms) {
        let now = self.now;
        self.note(of, "is recreated by the platform");
        let workspace = &mut self.workspaces[of];
        workspace.in_hands = true;
        workspace.life += 1;
        workspace.mind = Mind::Gone;
        workspace.mute_since = Some(now);
        workspace.body = Body::Removing;
        self.touch(of);
        self.engine_event(of);
        self.later(removing, move |world| {
            world.workspaces[of].body = Body::Absent;
            world.touch(of);
            world.engine_event(of);
        });
        self.later(removing + absent, move |world| {
            world.new_container(of);
            world.touch(of);
        });
        self.later(removing + absent + created, move |world| {
            world.workspaces[of].in_hands = false;
            world.begin_life(of, By::Platform);
        });
    }

    /// The user deletes it: the row is marked, the container is removed `gap` later.
    pub fn delete(&mut self, of: usize, gap: Ms) {
        self.park(of, "removed", true, gap);
    }

    /// `docker pause`, for a while.
    pub fn docker_pause(&mut self, of: usize, lasting: Ms) {
        if self.workspaces[of].body != Body::Running {
            return;
        }
        self.workspaces[of].body = Body::Paused;
        let (life, now) = (self.workspaces[of].life, self.now);
        self.workspaces[of].mute_since.get_or_insert(now);
        self.note(of, "docker pause");
        self.touch(of);
        self.engine_event(of);
        self.later(lasting, move |world| {
            let workspace = &mut world.workspaces[of];
            if workspace.life == life && workspace.body == Body::Paused {
                workspace.body = Body::Running;
                workspace.mute_since = None;
                let now = world.now;
                world.chronicle.unpaused(of, now);
                world.touch(of);
                world.note(of, "docker unpause");
            }
        });
    }

    /// Somebody restarts it by hand on the engine.
    pub fn foreign_restart(&mut self, of: usize) {
        if self.workspaces[of].body == Body::Running {
            self.take_down(of, false);
        }
        let (wait, life) = (self.dice.between(50, 600), self.workspaces[of].life);
        self.later(wait, move |world| {
            // A start of what somebody else has started meanwhile does nothing.
            if world.workspaces[of].life == life {
                world.begin_life(of, By::Platform);
            }
        });
    }

    /// Every call to an engine ends in `fault` for a while.
    pub fn engine_fault(&mut self, engine: usize, fault: Fault, lasting: Ms) {
        self.engines[engine].fault = Some(fault);
        self.remark(&format!("engine {engine}: {fault} for {} s", lasting / 1_000));
        let grace = self.grace_after_outage();
        self.obstacle(Some(engine), lasting, grace);
        self.later(lasting, move |world| {
            world.engines[engine].fault = None;
            if fault == Fault::Unreachable {
                world.engines[engine].returns += 1;
            }
            world.remark(&format!("engine {engine}: answers again"));
        });
    }

    /// The engine's daemon restarts: away for `away`, then it starts those with a policy one by one over `span`.
    pub fn daemon_restart(&mut self, engine: usize, away: Ms, span: Ms) {
        self.remark(&format!("engine {engine}: its daemon restarts"));
        self.engines[engine].daemon_up = false;
        let live_restore = self.engines[engine].live_restore;
        let mine: Vec<usize> = (0..self.workspaces.len()).filter(|of| self.workspaces[*of].engine == engine).collect();
        self.engine_fault(engine, Fault::Unreachable, away);
        if !live_restore {
            for of in &mine {
                self.exit(*of, 137, false);
            }
        }
        self.later(away, move |world| {
            world.engines[engine].daemon_up = true;
            let mut wait = 0;
            for of in mine {
                let workspace = &world.workspaces[of];
                let dead = matches!(workspace.body, Body::Exited { .. } | Body::Restarting);
                if dead && !live_restore && workspace.spec.policy == EnginePolicy::UnlessStopped {
                    wait += span / 20;
                    let life = workspace.life;
                    world.later(wait.min(span), move |world| {
                        if world.workspaces[of].life == life {
                            world.begin_life(of, By::Engine);
                        }
                    });
                }
            }
        });
    }

    /// The database is away for a while; `restarted`: another server process answers after it.
    pub fn database_outage(&mut self, lasting: Ms, restarted: bool) {
        self.db.up = false;
        self.remark(&format!("database: away for {} s", lasting / 1_000));
        let grace = self.grace_after_outage();
        self.obstacle(None, lasting, grace);
        self.later(lasting, move |world| {
            world.db.up = true;
            if restarted {
                world.db.started_at = world.now;
            }
            world.remark("database: back");
        });
    }

    /// Heartbeats do not get as far as the database for a while.
    pub fn pipeline_outage(&mut self, lasting: Ms) {
        self.db.pipeline = false;
        self.remark(&format!("heartbeats: nobody's arrive for {} s", lasting / 1_000));
        let grace = self.grace_after_outage();
        self.obstacle(None, lasting, grace);
        self.later(lasting, |world| {
            world.db.pipeline = true;
            world.remark("heartbeats: arrive again");
        });
    }

    /// The time after an outage that the rules grant: amnesty, a window, and our own health coming down again.
    #[must_use]
    pub fn grace_after_outage(&self) -> Ms {
        8 * ms(self.settings.dead_window) + 8 * ms(self.settings.poll_interval) + secs(5)
    }
}
