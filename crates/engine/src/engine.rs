//! What the daemon knows of an engine: how to ask it, how to have it restart something, and what its kind is able to do.
//!
//! Every kind keeps the same promises, so that the rules need not know which one they deal with:
//!
//! - a look cannot fail: whatever goes wrong becomes an [`Unknown`] sample for exactly the workspaces that it concerns;
//! - a report has exactly one sample for each target. They are paired by the workspace's id, never by position;
//! - a target of a kind that the engine does not run gets [`Unknown`] with [`WrongKind`], whether the engine answers or not;
//! - a restart is asked for once by each call. A kind never repeats one on its own.
//!
//! [`Unknown`]: defib_policy::sample::Observation::Unknown
//! [`WrongKind`]: defib_policy::sample::Fault::WrongKind

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use defib_policy::abilities::Abilities;
use defib_policy::id::{ContainerId, EngineName};
use defib_policy::sample::Sample;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::docker::DockerEngine;
use crate::{Clock, EngineError, EngineEvent, EngineReport, EngineSettings, EngineUrl, Target};

/// Something that workspaces run on: a container engine, or a control plane of instances.
///
/// It is made without connecting, because defib often starts before its engines and outlives them; every use connects when
/// that is due.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Its name, as in `DEFIB_ENGINES` and `defib.fleet.engine`.
    fn name(&self) -> &EngineName;

    /// What its kind is able to do. Never changes.
    fn abilities(&self) -> Abilities;

    /// Looks at all workspaces of this engine, as cheaply as its kind can. Takes at most twice the call time-out; what was
    /// not reached by then is unknown.
    async fn sample_all(&self, targets: &[Target]) -> EngineReport;

    /// Looks at a few workspaces. Takes at most twice the call time-out.
    async fn sample_some(&self, targets: &[Target]) -> EngineReport;

    /// The last look before a restart. It asks for what the workspace's references lead to *now*: for a container that was
    /// replaced since it was judged, the sample shows the new incarnation, even where the old one still lies around.
    async fn confirm(&self, target: &Target) -> Sample;

    /// Restarts what a workspace runs in. `Ok` is the engine's word for it, not a recovery. Something that runs already when
    /// it is to be started is `Ok` too.
    ///
    /// # Errors
    ///
    /// [`EngineError::Gone`] when the engine does not know the container or instance, [`EngineError::TimedOut`] when it has
    /// not answered within the deadline (and may still do it), [`EngineError::Restart`] with the engine's words for everything
    /// else.
    async fn restart(&self, call: &RestartCall) -> Result<(), EngineError>;

    /// Listens for changes until `stop`, and connects anew for as long as that takes. Never waits for the receiver; ends
    /// early only when that is gone, or when its kind has no events.
    async fn watch(&self, events: mpsc::Sender<EngineEvent>, stop: CancellationToken);

    /// Whether the engine is there, and what it is. For `defib check`.
    async fn check(&self) -> Result<EngineCheck, EngineError>;
}

/// One restart to ask an engine for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartCall {
    /// Whose container or instance, and what its engine may call it.
    pub target: Target,
    /// The container or instance that the fresh look before this call confirmed. For an instance it is its `instance_ref`.
    pub container_id: ContainerId,
    /// What to do.
    pub how: RestartHow,
    /// How long to wait for the answer.
    pub deadline: Duration,
    /// The ledger's id of the attempt: the same for every call of one attempt, and of no other. A kind whose interface knows
    /// idempotency sends it along, so that a repeated request is carried out once.
    pub attempt: i64,
}

/// How something is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartHow {
    /// It does not run: start it. One that was created and never started is started as well.
    Start,
    /// It runs and is stuck: stop it, by force when it has not ended within the grace, and start it.
    KillAndStart {
        /// Container engines take whole seconds: it is rounded up, and cut where the deadline would leave no time for the
        /// start.
        grace: Duration,
    },
}

/// What `defib check` tells of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineCheck {
    /// Its identity.
    pub id: String,
    /// Its host's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The newest version of the interface that it speaks.
    pub api_version: String,
    /// How many containers it has, stopped ones included.
    pub containers: i64,
    /// Whose containers carry the workspace label: its value and the container's name, by value. `None` when they could not be listed,
    /// or its kind knows no labels.
    pub labelled: Option<Vec<(String, String)>>,
}

/// Makes the engine that the address asks for. Does not connect: it may not be there yet.
///
/// # Errors
///
/// Only for what can never work: a control plane, `https://` without certificates, unreadable certificates.
pub fn connect(settings: EngineSettings, clock: Clock) -> Result<Arc<dyn Engine>, EngineError> {
    match &settings.url {
        EngineUrl::ControlPlane(_) => Err(EngineError::ControlPlane { engine: settings.name }),
        EngineUrl::Unix(_) | EngineUrl::Tcp(_) | EngineUrl::Http(_) | EngineUrl::Https(_) => {
            Ok(Arc::new(DockerEngine::new(settings, clock)?))
        }
    }
}
