//! Births and deaths: what changes the truth about a workspace.

use std::time::Duration;

use crate::chronicle::{By, Death, EndedLife};
use crate::ledger::Restart;
use crate::queue::Event;
use crate::time::{Ms, ms, secs};
use crate::workspace::{Body, EnginePolicy, Fate, Mind, Workspace};
use crate::world::{World, id};

impl World {
    /// Whether the platform wants it to run, and nobody of the platform is at work on it.
    #[must_use]
    pub fn is_wanted(&self, of: usize) -> bool {
        self.db.facts[of].is_watched() && !self.workspaces[of].in_hands
    }

    /// Whether an operator holds restarts of it.
    #[must_use]
    pub fn is_held(&self, of: usize) -> bool {
        let (ledger, workspace) = (&self.db.ledger, &self.workspaces[of]);
        let engine = &self.engines[workspace.engine].name;
        !ledger.holds.is_empty() && ledger.hold_reason(&workspace.id, engine, self.db.clock(self.now)).is_some()
    }

    fn died(&mut self, of: usize, how: Death) {
        let now = self.now;
        let workspace = &mut self.workspaces[of];
        workspace.life += 1;
        workspace.mute_since.get_or_insert(now);
        if self.is_wanted(of) {
            let tries = self.tries(of);
            let Workspace { started_at: began_at, heard, .. } = self.workspaces[of];
            let life = EndedLife { began_at, heard };
            let able = self.abilities(self.workspaces[of].engine);
            let healable = self.platform_recreates
                || match how {
                    Death::Exited => able.starts,
                    Death::Wedged => able.kills,
                    Death::Vanished => able.recreates,
                };
            self.chronicle.death(of, now, how, tries, life, healable);
        }
    }

    /// The attempts that count since the last recovery that held: what its back-off depends on. Each recovery held until
    /// the death that called for the next attempt, which came before its claim by whatever the back-off was.
    fn tries(&self, of: usize) -> u32 {
        let counts = |row: &&Restart| row.outcome.is_none_or(|outcome| outcome.counts(row.acting_at.is_some()));
        let rows = self.db.ledger.rows_of(of).rev();
        let Some(newest) = rows.filter(|row| row.acknowledged_at.is_none()).find(counts) else { return 0 };
        let held = newest.recovered_at.map_or(Duration::ZERO, |recovered| self.db.clock(self.now).since(recovered));
        if held >= self.settings.backoff_reset { 0 } else { newest.attempt }
    }

    /// Its process ends and the container with it.
    pub fn exit(&mut self, of: usize, code: i64, oom: bool) {
        let now = self.now;
        let workspace = &mut self.workspaces[of];
        if !matches!(workspace.body, Body::Running | Body::Paused) {
            return;
        }
        workspace.body = Body::Exited { code, oom, at: now };
        workspace.mind = Mind::Gone;
        let ran = now - workspace.started_at;
        self.note(of, &format!("DIES: exit {code}"));
        self.died(of, Death::Exited);
        if self.workspaces[of].spec.policy == EnginePolicy::UnlessStopped {
            self.engine_will_restart(of, ran);
        }
        self.touch(of);
        self.engine_event(of);
        let children: Vec<usize> =
            (0..self.workspaces.len()).filter(|child| self.workspaces[*child].parent == Some(of)).collect();
        for child in children {
            self.exit(child, 128, false);
        }
    }

    fn engine_will_restart(&mut self, of: usize, ran: Ms) {
        let engine = self.workspaces[of].engine;
        if !self.engines[engine].daemon_up {
            return;
        }
        let workspace = &mut self.workspaces[of];
        if ran >= secs(10) {
            workspace.engine_tries = 0;
        }
        let wait = (100_u64 << workspace.engine_tries.min(10)).min(60_000);
        workspace.engine_tries += 1;
        workspace.body = Body::Restarting;
        let life = workspace.life;
        self.later(wait, move |world| {
            let workspace = &world.workspaces[of];
            if workspace.life == life && workspace.body == Body::Restarting {
                world.begin_life(of, By::Engine);
            }
        });
    }

    /// Its container vanishes (removed by nobody's order).
    pub fn vanish(&mut self, of: usize) {
        let workspace = &mut self.workspaces[of];
        workspace.body = Body::Absent;
        workspace.mind = Mind::Gone;
        self.note(of, "DIES: container vanishes");
        self.died(of, Death::Vanished);
        self.touch(of);
        self.engine_event(of);
    }

    /// Its process is beyond help, its container runs.
    pub fn wedge(&mut self, of: usize) {
        if self.workspaces[of].body != Body::Running {
            return;
        }
        self.workspaces[of].mind = Mind::Wedged;
        self.note(of, "DIES: wedged, container runs");
        self.died(of, Death::Wedged);
        self.touch(of);
    }

    /// Its process is beyond help for a while, and then comes to: it answers again, and its heartbeats arrive or still do not.
    pub fn wedge_for(&mut self, of: usize, lasting: Ms, beats_again: bool) {
        self.wedge(of);
        let life = self.workspaces[of].life;
        self.later(lasting, move |world| {
            let workspace = &mut world.workspaces[of];
            if workspace.life != life || workspace.mind != Mind::Wedged {
                return;
            }
            workspace.mind = if beats_again { Mind::Working } else { Mind::Mute };
            workspace.mute_since = None;
            let now = world.now;
            workspace.came_to_at = Some(now);
            world.note(of, "comes to");
            world.chronicle.back(of, now);
            world.touch(of);
            world.push(now, Event::Beat(id(of), life));
        });
    }

    /// A new life of its container begins.
    pub fn begin_life(&mut self, of: usize, by: By) {
        let now = self.now;
        let workspace = &mut self.workspaces[of];
        workspace.life += 1;
        workspace.body = Body::Running;
        workspace.mind = Mind::Booting;
        workspace.started_at = now;
        workspace.heard = false;
        workspace.mute_since = Some(now);
        // A start resets the health check to `starting`.
        workspace.frozen_health = None;
        let (life, spec, fate) = (workspace.life, workspace.spec, workspace.fate);
        self.note(of, &format!("started by the {}", Self::by(by)));
        if by != By::Detector {
            self.chronicle.foreign_restarts += 1;
            self.chronicle.excuse(of, now);
        }
        let usual = self.dice.between(spec.boot_min, spec.boot_max);
        let boot = self.workspaces[of].next_boot.take().unwrap_or(usual);
        self.push(now + boot, Event::Ready(id(of), life));
        let orphan = self.workspaces[of].parent.is_some_and(|parent| self.workspaces[parent].body != Body::Running);
        if orphan {
            // No network to join.
            self.later(200, move |world| {
                if world.workspaces[of].life == life {
                    world.exit(of, 128, false);
                }
            });
        }
        if let Fate::DiesAfter(ms) = fate {
            self.later(ms, move |world| {
                if world.workspaces[of].life == life {
                    world.exit(of, 1, false);
                }
            });
        }
        self.touch(of);
        self.engine_event(of);
    }

    pub(crate) fn ready(&mut self, of: usize, life: u32) {
        let now = self.now;
        let workspace = &mut self.workspaces[of];
        if workspace.life != life || workspace.mind != Mind::Booting {
            return;
        }
        workspace.mind = if workspace.fate == Fate::Mute { Mind::Mute } else { Mind::Working };
        workspace.mute_since = None;
        self.note(of, "works again");
        self.chronicle.back(of, now);
        self.touch(of);
        self.push(now, Event::Beat(id(of), life));
    }

    /// It is so busy for a while that it neither beats nor answers.
    pub fn busy(&mut self, of: usize, lasting: Ms) {
        let now = self.now;
        let workspace = &mut self.workspaces[of];
        if workspace.mind != Mind::Working {
            return;
        }
        workspace.mind = Mind::Busy;
        workspace.mute_since = Some(now);
        let life = workspace.life;
        self.note(of, &format!("is busy for {} s", lasting / 1_000));
        self.touch(of);
        self.later(lasting, move |world| {
            let workspace = &mut world.workspaces[of];
            if workspace.life == life && workspace.mind == Mind::Busy {
                workspace.mind = Mind::Working;
                workspace.mute_since = None;
                world.touch(of);
                world.push(world.now, Event::Beat(id(of), life));
            }
        });
    }

    /// Its heartbeats do not arrive for a while; it answers.
    pub fn mute(&mut self, of: usize, lasting: Ms) {
        let workspace = &mut self.workspaces[of];
        if workspace.mind != Mind::Working {
            return;
        }
        workspace.mind = Mind::Mute;
        let life = workspace.life;
        self.note(of, "loses its heartbeats");
        self.later(lasting, move |world| {
            let workspace = &mut world.workspaces[of];
            if workspace.life == life && workspace.mind == Mind::Mute {
                workspace.mind = Mind::Working;
            }
        });
    }

    /// The networks of these proxies are broken for a while: they reach nobody. They are not believed for as long after that as what they
    /// said is remembered.
    pub fn break_proxies(&mut self, proxies: &'static [u8], lasting: Ms) {
        self.broken_proxies.extend(proxies);
        self.chronicle.callers_fall_out();
        self.remark(&format!("the networks of the proxies {proxies:?} break"));
        self.later(lasting, move |world| {
            let memory = world.settings.wedged_after.max(2 * world.settings.recent_max) * 5 / 4;
            for proxy in proxies {
                world.broken_proxies.remove(proxy);
                world.discredited.insert(*proxy, world.now + ms(memory));
            }
            world.remark(&format!("the networks of the proxies {proxies:?} work"));
        });
    }

    /// The next look at it is wrong.
    pub fn lie_about(&mut self, of: usize, lie: crate::workspace::Lie) {
        self.workspaces[of].lie = Some(lie);
        self.note(of, "(the next look at it will be wrong)");
        self.touch(of);
    }

    /// A look was taken: a wrong one is wrong once.
    pub fn looked(&mut self, of: usize) {
        self.chronicle.engine_calls += 1;
        if self.workspaces[of].lie.take().is_some() {
            self.touch(of);
        }
    }
}
