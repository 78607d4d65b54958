//! The calls by which a detector (or anybody else) restarts, and the truth about each at the moment it is made.
//!
//! An engine does what its kind is able to do ([`Engine::abilities`](crate::engine::Engine)) and nothing else, so that defib can do
//! nothing here that it cannot do in production: no engine makes a removed container again. What the engine cannot do, the platform is asked
//! for, where defib is configured with its endpoint ([`Endpoint`](crate::endpoint::Endpoint)). Policies that run inside a platform are given
//! its power without that.

use defib_policy::sample::Fault;
use defib_policy::verdict::Rule;

use crate::chronicle::{By, Merit, Restart};
use crate::endpoint::Conduct;
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
    /// Ask the platform's endpoint to make a container again that does not exist any more.
    Recreate,
    /// As a part of the platform: make a new one, after a look at its row.
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
        let own = self.engines[self.workspaces[of].engine].abilities;
        let by_engine = match how {
            How::Start => own.starts,
            How::KillAndStart => own.kills,
            How::Recreate => false,
            How::ByPlatform | How::ByPlatformBlindly => true,
        };
        if !by_engine {
            return self.ask_endpoint(of, how, deadline, because);
        }
        self.chronicle.engine_calls += 1;
        let engine = &self.engines[self.workspaces[of].engine];
        let late = engine.fault == Some(Fault::TimedOut);
        if how != How::ByPlatform {
            match engine.fault {
                Some(Fault::Unreachable) => return failed(1, CallError::Unreachable),
                // Nothing cancels a call on the engine, so it also carries out a call that it could not answer in time.
                None | Some(Fault::TimedOut) => {}
                Some(_) => return failed(5, CallError::Refused),
            }
            if how == How::ByPlatformBlindly {
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

    /// The same by the platform's endpoint, which is asked for what the engine cannot do. What it accepts it makes anew, pending at first.
    fn ask_endpoint(&mut self, of: usize, how: How, deadline: Ms, because: Option<(Rule, String)>) -> Called {
        let refused = Called { took: 20, result: Err(CallError::Refused) };
        let able = self.abilities(self.workspaces[of].engine);
        let can = match how {
            How::Start => able.starts,
            How::KillAndStart => able.kills,
            _ => able.recreates,
        };
        let Some(endpoint) = self.endpoint.as_mut().filter(|_| can) else { return refused };
        if endpoint.conduct == Conduct::Refuses {
            self.note(of, "the platform refuses to restart it");
            return refused;
        }
        endpoint.accepted.push(of);
        let loses = endpoint.conduct == Conduct::LosesItsAnswer;
        let (low, high) = (endpoint.pending_min, endpoint.pending_max);
        // The platform makes a new container, so no such call is idle: a container that runs well would be lost.
        let merit = self.merit_of(of, How::ByPlatform);
        self.note(of, &format!("RESTART by the platform: {how:?}, {merit:?}{}", reason(because.as_ref())));
        let now = self.now;
        self.chronicle.restarts.push(Restart { workspace: of, at: now, merit, because });
        if merit == Merit::Needed {
            self.chronicle.answer(of, now);
        }
        let pending = self.dice.between(low, high);
        self.carry_out(of, How::ByPlatform, pending);
        if loses {
            Called { took: deadline, result: Err(CallError::TimedOut) }
        } else {
            Called { took: 20, result: Ok(()) }
        }
    }

    /// Whether it hung until a moment ago, and came to after the database was last asked about it. No answer can tell of what happens while
    /// it is on its way.
    fn came_to_unknown(&self, of: usize) -> bool {
        self.workspaces[of].came_to_at.is_some_and(|at| self.now - at < self.db.latency)
    }

    fn merit_of(&self, of: usize, how: How) -> Merit {
        let workspace = &self.workspaces[of];
        if how == How::Start && matches!(workspace.body, Body::Running | Body::Paused) {
            Merit::Idle
        } else if workspace.is_well() && !self.came_to_unknown(of) {
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
        if how == How::ByPlatform || blind {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::secs;
    use crate::workspace::Spec;

    #[test]
    fn one_that_comes_to_while_the_last_answer_is_on_its_way_is_no_mistake_and_any_earlier_is() {
        let mut world = World::new(1);
        world.add_fleet(1, 1, Spec::default());
        world.db.latency = 50;
        world.run_until(world.now + secs(60));
        assert_eq!(world.merit_of(0, How::KillAndStart), Merit::Healthy, "it never hung");
        world.wedge_for(0, secs(10), true);
        assert_eq!(world.merit_of(0, How::KillAndStart), Merit::Needed);
        let comes_to = world.now + secs(10);
        world.run_until(comes_to + 49);
        assert_eq!(world.merit_of(0, How::KillAndStart), Merit::Needed, "the database was asked before it came to");
        world.run_until(comes_to + 50);
        assert_eq!(world.merit_of(0, How::KillAndStart), Merit::Healthy, "the database was asked after it had come to");
    }
}
