//! The calls by which a detector (or anybody else) restarts, and the truth about each at the moment it is made.
//!
//! An engine does what its kind is able to do ([`Engine::abilities`](crate::engine::Engine)) and nothing else, so that defib can do
//! nothing here that it cannot do in production: a container engine does not make a removed container again. The platform can, and the
//! policies that run inside a platform are given that power.

use defib_policy::sample::Fault;
use defib_policy::verdict::Rule;

use crate::chronicle::{By, Merit, Restart};
use crate::time::Ms;
use crate::workspace::{Body, Mind};
use crate::world::World;

/// How to restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Start what does not run.
    Start,
    /// Stop and start.
    KillAndStart,
    /// Ask the engine to make a container again that does not exist any more.
    Recreate,
    /// Ask the platform for a new one; it looks at its row before it starts it.
    ByPlatform,
    /// Stop it and make a new one without another look, on any engine that answers. That is how the platform used to do it.
    ByPlatformBlindly,
}

/// What the caller learns, and after how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Called {
    /// When the answer (or the deadline) comes.
    pub took: Ms,
    /// The answer.
    pub result: Result<(), CallError>,
}

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// No answer in time; it may still be done.
    TimedOut,
    /// The engine cannot be reached.
    Unreachable,
    /// The engine refused, or has no such call.
    Refused,
    /// The engine does not know the container.
    Gone,
}

impl World {
    /// A restart call of the detector.
    pub fn restart(&mut self, of: usize, how: How, deadline: Ms, because: Option<(Rule, String)>) -> Called {
        let failed = |took, error| Called { took, result: Err(error) };
        self.chronicle.engine_calls += 1;
        let engine = &self.engines[self.workspaces[of].engine];
        let late = engine.fault == Some(Fault::TimedOut);
        let able = match how {
            How::Start => engine.abilities.starts,
            How::KillAndStart => engine.abilities.kills,
            How::Recreate => engine.abilities.recreates,
            How::ByPlatform | How::ByPlatformBlindly => true,
        };
        if !able {
            return failed(0, CallError::Refused);
        }
        if how != How::ByPlatform {
            match engine.fault {
                Some(Fault::Unreachable) => return failed(1, CallError::Unreachable),
                // Nothing cancels a call on the engine, so it also carries out a call that it could not answer in time.
                None | Some(Fault::TimedOut) => {}
                Some(_) => return failed(5, CallError::Refused),
            }
            if matches!(how, How::Recreate | How::ByPlatformBlindly) {
                // An engine that does not know the container gets a second one.
            } else if engine.impostor.is_some() || self.workspaces[of].body == Body::Absent {
                return failed(5, CallError::Gone);
            }
        }
        let (low, high, refuses, hangs) = (engine.start_min, engine.start_max, engine.starts_fail, engine.kill_hangs);
        let hopeless = self.workspaces[of].start_refused;
        let merit = self.merit_of(of, how);
        let now = self.now;
        self.note(of, &format!("RESTART by the detector: {how:?}, {merit:?}{}", reason(because.as_ref())));
        self.chronicle.restarts.push(Restart { workspace: of, at: now, merit, because });
        // While its engine refuses to start it, no call mends the death. It counts as answered by the first call after that.
        if merit == Merit::Needed && !hopeless {
            self.chronicle.answer(of, now);
        }
        let takes = self.dice.between(low, high);
        if refuses || hopeless {
            return failed(takes, CallError::Refused);
        }
        if how == How::KillAndStart && hangs {
            return failed(deadline, CallError::TimedOut);
        }
        match (how, self.workspaces[of].body) {
            (How::Start, Body::Running) => return Called { took: 5, result: Ok(()) },
            (How::Start, Body::Paused) => return failed(5, CallError::Refused),
            _ => {}
        }
        self.carry_out(of, how, takes);
        if late || takes > deadline {
            failed(deadline, CallError::TimedOut)
        } else {
            Called { took: takes, result: Ok(()) }
        }
    }

    fn merit_of(&self, of: usize, how: How) -> Merit {
        let workspace = &self.workspaces[of];
        if how == How::Start && matches!(workspace.body, Body::Running | Body::Paused) {
            Merit::Idle
        } else if workspace.is_well() {
            Merit::Healthy
        } else if !self.is_wanted(of) || self.is_held(of) {
            Merit::NotOurs
        } else {
            Merit::Needed
        }
    }

    fn carry_out(&mut self, of: usize, how: How, takes: Ms) {
        let now = self.now;
        let workspace = &mut self.workspaces[of];
        if how != How::Start {
            // It is stopped now, and its process is gone, whatever it did before.
            workspace.life += 1;
            workspace.mind = Mind::Gone;
            workspace.body = Body::Exited { code: 137, oom: false, at: now };
            workspace.mute_since.get_or_insert(now);
        }
        let blind = how == How::ByPlatformBlindly;
        if how == How::Recreate || how == How::ByPlatform || blind {
            // A new one is made, which is pending until it starts.
            self.new_container(of);
        }
        self.touch(of);
        let life = self.workspaces[of].life;
        self.later(takes, move |world| {
            let parked = how == How::ByPlatform && !world.db.facts[of].is_watched();
            if (world.workspaces[of].life == life || blind) && !parked {
                world.begin_life(of, By::Detector);
            }
        });
    }
}

fn reason(because: Option<&(Rule, String)>) -> String {
    because.map(|(rule, why)| format!(" ({rule:?}: {why})")).unwrap_or_default()
}
