//! How these policies look and act in the simulated world: naive looks, and the restarts of their sources.

use defib_policy::fleet::Kind;
use defib_policy::moment::Timestamp;
use defib_policy::sample::Health;

use super::rule::{Doing, Fleet, Rule, Seen};
use crate::queue::{Event, Wake};
use crate::remedy::How;
use crate::time::{Ms, secs, stamp};
use crate::workspace::Body;
use crate::world::{Detector, World};

/// A rule as a detector.
#[derive(Debug)]
pub(super) struct Ruled {
    pub(super) name: &'static str,
    pub(super) rule: Box<dyn Rule>,
    /// The next sweep. It guards against a second chain after a crash.
    pub(super) due: Ms,
}

impl Ruled {
    fn sweep_in(&mut self, me: u8, world: &mut World) {
        if let Some(every) = self.rule.every() {
            self.due = world.now + every;
            world.push(self.due, Event::Wake(me, Wake::Sweep));
        }
    }
}

impl Detector for Ruled {
    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&mut self, me: u8, world: &mut World) {
        self.sweep_in(me, world);
    }

    fn wake(&mut self, me: u8, wake: Wake, world: &mut World) {
        match wake {
            Wake::Sweep if world.now == self.due => {
                self.rule.sweep(world);
                self.sweep_in(me, world);
            }
            Wake::Failed(of, proxy) => self.rule.failed(of as usize, proxy, world),
            _ => {}
        }
    }

    fn crash(&mut self) {
        self.rule.forget();
    }
}

impl Fleet for World {
    fn now(&self) -> Ms {
        self.now
    }

    fn size(&self) -> usize {
        self.workspaces.len()
    }

    fn is_watched(&self, of: usize) -> bool {
        self.db.up && self.db.facts[of].is_watched()
    }

    /// A parked workspace has no pod, so it needs no database to be left alone.
    fn is_managed(&self, of: usize) -> bool {
        self.db.facts[of].is_watched()
    }

    fn may_be_marked(&self, of: usize) -> bool {
        let facts = &self.db.facts[of];
        facts.exists && !["removed", "provisioning"].contains(&facts.status)
    }

    fn is_external(&self, of: usize) -> bool {
        self.workspaces[of].spec.kind == Kind::External
    }

    fn heartbeat(&self, of: usize) -> Option<Timestamp> {
        self.db.view.workspaces[self.db.slots[of]?].last_heartbeat_at
    }

    fn heartbeat_age(&self, of: usize) -> Option<Ms> {
        u64::try_from(stamp(self.now, 0).since(self.heartbeat(of)?).as_millis()).ok()
    }

    fn heartbeat_age_in_database(&self, of: usize) -> Option<Ms> {
        let beat = self.db.facts[of].heartbeat.filter(|_| self.db.up)?;
        u64::try_from(self.db.clock(self.now).since(beat).as_millis()).ok()
    }

    fn inspect(&mut self, of: usize) -> Seen {
        let engine = &self.engines[self.workspaces[of].engine];
        let hangs = engine.inspect >= 5_000 || self.workspaces[of].inspect_hangs;
        if engine.fault.is_some() || hangs {
            self.chronicle.engine_calls += 1;
            return Seen::Error;
        }
        let impostor = engine.impostor.is_some();
        let lie = self.workspaces[of].lie.is_some();
        let running = matches!(self.workspaces[of].body, Body::Running | Body::Paused | Body::Restarting);
        self.looked(of);
        if impostor || lie || !running { Seen::NotRunning } else { Seen::Running }
    }

    fn is_listed_unhealthy(&self, of: usize) -> bool {
        let workspace = &self.workspaces[of];
        let engine = &self.engines[workspace.engine];
        let answers = engine.fault.is_none() && engine.impostor.is_none() && engine.list < secs(30);
        // The list is filtered by health alone. A paused container keeps the health that it had last, so it is listed.
        let listed = matches!(workspace.body, Body::Running | Body::Paused);
        answers && listed && matches!(workspace.health(self.now, engine.offset), Health::Unhealthy { .. })
    }

    fn doing(&self, of: usize) -> Doing {
        match self.workspaces[of].body {
            Body::Running => Doing::Runs,
            Body::Exited { .. } | Body::Absent => Doing::Down,
            _ => Doing::Other,
        }
    }

    fn started_ago(&self, of: usize) -> Ms {
        self.now.saturating_sub(self.workspaces[of].started_at)
    }

    fn answers(&self, of: usize) -> bool {
        self.workspaces[of].answers()
    }

    fn restart(&mut self, of: usize) {
        let how = if self.workspaces[of].body == Body::Absent { How::ByPlatform } else { How::KillAndStart };
        World::restart(self, of, how, secs(30), None);
    }

    fn recreate(&mut self, of: usize) {
        World::restart(self, of, How::ByPlatformBlindly, secs(30), None);
    }
}
