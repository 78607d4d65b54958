//! Starting what is dead, and restarting what is wedged.
//!
//! There are two calls, chosen by what they leave behind if defib dies in the middle of one:
//!
//! - **Start** for a container that does not run. If somebody else has started it meanwhile, the engine answers that it runs already, which
//!   is success. A restart would kill what they have just started.
//! - **Restart** for a container that runs and is stuck: the engine stops and starts it in one call, and finishes even if nobody waits for
//!   the answer. A stop and a start of our own would leave the container down if defib died in between.
//!
//! One race remains: nothing cancels a call on the engine. The engine may still carry out the restart after our deadline, so
//! [`EngineError::TimedOut`] means that the outcome is not known, and a caller looks at the container before it tries again.

use std::time::Duration;

use defib_policy::fleet::Kind;

use super::deadline::{Budget, CallError};
use super::fault::fault_of;
use super::listing::valid_reference;
use super::{DockerEngine, client};
use crate::report::Call;
use crate::{EngineError, RestartCall, RestartHow};

/// The part of the deadline that is kept for the start, after the grace. Smaller: the restart of a container that ignores TERM always
/// misses the deadline. A start takes 0.2 s, and more if many start at once.
const START_SHARE: Duration = Duration::from_secs(2);

/// By how much the client library's own time-out exceeds the deadline, so that the deadline decides.
const CLIENT_TIMEOUT_SLACK: Duration = Duration::from_secs(10);

impl DockerEngine {
    /// Restarts the container that was confirmed.
    pub(super) async fn restart(&self, asked: &RestartCall) -> Result<(), EngineError> {
        let RestartCall { container_id: container, how, deadline, .. } = asked;
        let deadline = *deadline;
        let gone = || EngineError::Gone { engine: self.name().clone(), container: container.clone() };
        if asked.target.kind != Kind::Container {
            return Err(EngineError::WrongKind {
                engine: self.name().clone(),
                workspace: asked.target.workspace.clone(),
            });
        }
        if asked.how == RestartHow::Recreate {
            let what = "it cannot create a removed container again; set DEFIB_PLATFORM_URL";
            return Err(EngineError::Unable { engine: self.name().clone(), what });
        }
        let id = valid_reference(container.as_str()).ok_or_else(gone)?;
        let budget = Budget::new(deadline, deadline);
        let client = self.hello(&budget).await.map_err(|error| self.error(Call::Version, error))?;
        let client = client.with_timeout(deadline.saturating_add(CLIENT_TIMEOUT_SLACK));

        let (call, done) = match *how {
            RestartHow::Start | RestartHow::Recreate => {
                (Call::Start, budget.call(Call::Start, client::start(&client, id)).await)
            }
            RestartHow::KillAndStart { grace } => {
                let restarting = client::restart(&client, id, grace_seconds(grace, deadline));
                (Call::Restart, budget.call(Call::Restart, restarting).await)
            }
        };
        done.map_err(|error| match error {
            error if error.is_no_such_container() => gone(),
            CallError::Engine(source) => EngineError::Restart {
                engine: self.name().clone(),
                container: container.clone(),
                fault: fault_of(&source),
                source: Box::new(source),
            },
            error => self.error(call, error),
        })
    }
}

fn grace_seconds(grace: Duration, deadline: Duration) -> i32 {
    let wanted = grace.as_secs().saturating_add(u64::from(grace.subsec_nanos() > 0));
    let allowed = deadline.saturating_sub(START_SHARE).as_secs();
    i32::try_from(wanted.min(allowed)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grace_is_whole_seconds_and_leaves_time_for_the_start() {
        let seconds = Duration::from_secs;
        assert_eq!(grace_seconds(seconds(10), seconds(30)), 10);
        assert_eq!(grace_seconds(Duration::from_millis(1_200), seconds(30)), 2);
        assert_eq!(grace_seconds(seconds(30), seconds(30)), 28);
        assert_eq!(grace_seconds(seconds(10), seconds(1)), 0);
        assert_eq!(grace_seconds(Duration::ZERO, seconds(30)), 0);
        assert_eq!(grace_seconds(Duration::MAX, Duration::MAX), i32::MAX);
    }
}
