//! The platform's own restart (`DEFIB_PLATFORM_URL`).
//!
//! An engine cannot make every restart. A container that was removed has to be created again, and a control plane may tell the states of
//! instances without being able to restart one. And if the platform keeps addresses or secrets that a plain start would leave stale, it has
//! to make every restart itself (`DEFIB_RESTART_BY=platform`). This module uses the `[restart]` of a preset, and nothing else of it, at the
//! platform's address and with the platform's token.

use defib_policy::id::EngineName;
use tokio::time::Instant;

use super::preset::Purpose;
use super::restart::{About, send, step_end};
use super::{Line, PresetError};
use crate::engine::{RestartCall, RestartHow};
use crate::error::EngineError;
use crate::secret::Secret;
use crate::url::{ControlPlaneUrl, EngineUrl, EngineUrlError};

/// The environment variable that holds the platform's token.
pub const TOKEN_VARIABLE: &str = "DEFIB_PLATFORM_TOKEN";

/// The platform's endpoint for restarts.
pub struct PlatformRestart {
    url: ControlPlaneUrl,
    line: Line,
}

/// Why the platform's endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// The address is invalid.
    #[error("the address begins with http://, https:// or file:///, as in https://host?preset=NAME")]
    Address(#[source] EngineUrlError),
    /// Its preset, a variable or a certificate is wrong.
    #[error(transparent)]
    Preset(PresetError),
}

impl PlatformRestart {
    /// Reads the preset that the address names: `https://host?preset=NAME`, or `file:///path` for one of the operator's own. Does not
    /// connect.
    pub fn new(url: &str, token: Option<&Secret>) -> Result<Self, PlatformError> {
        let url = match format!("cp+{}", url.trim().trim_start_matches("cp+")).parse() {
            Ok(EngineUrl::ControlPlane(url)) => url,
            Ok(_) => return Err(PlatformError::Address(EngineUrlError::Scheme)),
            Err(error) => return Err(PlatformError::Address(error)),
        };
        let line =
            Line::open(&url, token, TOKEN_VARIABLE.to_owned(), Purpose::Platform).map_err(PlatformError::Preset)?;
        Ok(Self { url, line })
    }

    /// Where the requests go, without what may be secret.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.line.api.restart.as_ref().map_or(&self.line.api.base, |restart| &restart.base)
    }

    /// Whether it can restart a workspace that is running.
    #[must_use]
    pub fn kills(&self) -> bool {
        self.line.api.restart.as_ref().is_some_and(|restart| !restart.kill_steps.is_empty())
    }

    /// Asks the platform to restart the workspace of `call`. `Ok` means that the platform accepted the request, not that the workspace is
    /// back.
    ///
    /// `engine` is where the workspace lives, for the errors.
    ///
    /// # Errors
    ///
    /// The same as those of [`Engine::restart`](crate::Engine::restart).
    pub async fn restart(&self, engine: &EngineName, call: &RestartCall) -> Result<(), EngineError> {
        let unable = |what| EngineError::Unable { engine: engine.clone(), what };
        let restart = self.line.api.restart.as_ref().ok_or_else(|| unable("the platform's preset has no [restart]"))?;
        let steps = match call.how {
            RestartHow::KillAndStart { .. } if !restart.kill_steps.is_empty() => &restart.kill_steps,
            RestartHow::KillAndStart { .. } => {
                return Err(unable(
                    "the platform's preset has no [[restart.kill_steps]], so it cannot restart what runs",
                ));
            }
            RestartHow::Start | RestartHow::Recreate => &restart.steps,
        };
        let begun = Instant::now();
        let about = About {
            workspace: call.target.workspace.as_str(),
            instance: call.target.instance_ref.as_deref().unwrap_or(call.container_id.as_str()),
            attempt: call.attempt,
        };
        for (number, step) in (1..).zip(steps) {
            let end = send(&self.line, restart, step, number, about, begun + call.deadline).await;
            step_end(call, engine, number, end, begun.elapsed(), "the platform's own restart: ")?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for PlatformRestart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PlatformRestart({})", self.url)
    }
}
