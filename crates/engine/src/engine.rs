//! The interface of an engine for the daemon: how to ask it, how to make it restart something, and what its kind is able to do.
//!
//! Every kind keeps the same promises, so that the rules need not know which one they deal with:
//!
//! - a look cannot fail: whatever goes wrong becomes an [`Unknown`] sample for exactly the workspaces that it concerns;
//! - a report has exactly one sample for each target. They are paired by the workspace's id, never by position;
//! - a target of a kind that the engine does not run gets [`Unknown`] with [`WrongKind`], whether the engine answers or not;
//! - each call asks for a restart once. No kind of engine repeats the request on its own.
//!
//! [`Unknown`]: defib_policy::sample::Observation::Unknown
//! [`WrongKind`]: defib_policy::sample::Fault::WrongKind

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use defib_policy::abilities::Abilities;
use defib_policy::id::{ContainerId, EngineName};
use defib_policy::sample::Sample;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::control_plane::ControlPlane;
use crate::docker::DockerEngine;
use crate::{Clock, EngineError, EngineEvent, EngineReport, EngineSettings, EngineUrl, Target};

/// Something that workspaces run on: a container engine, or a control plane of instances.
///
/// It is made without connecting, because defib often starts before its engines and outlives them. Every use connects if that is needed.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Its name, as in `DEFIB_ENGINES` and `defib.fleet.engine`.
    fn name(&self) -> &EngineName;

    /// What its kind is able to do. Never changes.
    fn abilities(&self) -> Abilities;

    /// Looks at all workspaces of this engine, as cheaply as its kind can. Takes at most twice the call time-out; what was
    /// not reached by then is unknown.
    async fn sample_all(&self, targets: &[Target]) -> EngineReport;

    /// Looks at these workspaces, where it can be told cheaply that all others of the last [`sample_all`](Self::sample_all) run as they did
    /// then. `None`: that cannot be told now, and only a look at all of them can tell how they are. Takes at most twice the call time-out.
    async fn sample_restless(&self, _targets: &[Target]) -> Option<EngineReport> {
        None
    }

    /// Looks at a few workspaces. Takes at most twice the call time-out.
    async fn sample_some(&self, targets: &[Target]) -> EngineReport;

    /// The last look before a restart. It asks for the container to which the workspace's references lead *now*. If the container was
    /// replaced since it was judged, the sample shows the new incarnation, even if the old one still exists.
    async fn confirm(&self, target: &Target) -> Sample;

    /// Restarts what a workspace runs in. `Ok` means that the engine says so, not that the workspace is back. To start something that runs
    /// already is `Ok` too.
    ///
    /// # Errors
    ///
    /// [`EngineError::Gone`] when the engine does not know the container or instance, [`EngineError::TimedOut`] when it has
    /// not answered within the deadline (and may still do it), [`EngineError::Restart`] with the engine's words for everything
    /// else.
    async fn restart(&self, call: &RestartCall) -> Result<(), EngineError>;

    /// The last lines that a container wrote, and of them at most the last `most` bytes. `Ok(None)`: its kind has no logs. Takes two
    /// seconds at most.
    ///
    /// # Errors
    ///
    /// When none of the log could be read: the engine hangs, the container is gone, or its log is kept elsewhere.
    async fn last_lines(
        &self,
        _container: &ContainerId,
        _lines: u32,
        _most: usize,
    ) -> Result<Option<LastLines>, EngineError> {
        Ok(None)
    }

    /// Whether the log of a container may be lost by a start, because something else is created in the container's place.
    fn start_forgets(&self) -> bool {
        false
    }

    /// Listens for changes until `stop`, and connects again after each failure. Never waits for the receiver. Ends early only if the
    /// receiver is gone, or if its kind has no events.
    async fn watch(&self, events: mpsc::Sender<EngineEvent>, stop: CancellationToken);

    /// Whether the engine answers, and what it is. For `defib check`.
    async fn check(&self) -> Result<EngineCheck, EngineError>;

    /// How the answers of an interface are understood, for `defib check`. It asks about the instances of the list and about these examples.
    /// Kinds whose interface is the same everywhere have nothing to explain.
    async fn explain(&self, _examples: &[Target]) -> Explanation {
        Explanation::default()
    }
}

/// One restart to ask an engine for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartCall {
    /// The workspace, and the names by which its engine may know it.
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
    /// It runs and is stuck: stop it (by force if it has not ended within the grace), and start it.
    KillAndStart {
        /// How long it may take to end. Container engines count whole seconds, so this is rounded up. It is cut if the deadline would leave
        /// no time for the start.
        grace: Duration,
    },
    /// It is gone: create it again. The call's `container_id` is that of the container that is gone, or empty if none was ever seen.
    Recreate,
}

/// One result of a health check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckResult {
    /// How the check ended: zero is well.
    pub exit_code: i64,
    /// What it printed, as the engine passes it on.
    pub output: String,
}

/// The end of a log.
#[derive(Debug)]
pub struct LastLines {
    /// The last results of its health check, the oldest first. None if it has no health check, or if they could not be read.
    pub health: Vec<CheckResult>,
    /// As it was written: any bytes.
    pub bytes: Vec<u8>,
    /// Why the rest of the log could not be read. `None` if it was read to its end.
    pub broke_off: Option<EngineError>,
}

/// What `defib check` tells of an engine that is there. `Display` is the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineCheck {
    /// A container engine.
    Containers {
        /// Its identity.
        id: String,
        /// Its host's name.
        name: String,
        /// Its version.
        version: String,
        /// The newest version of the interface that it speaks.
        api_version: String,
        /// How many containers it has, stopped ones included.
        containers: i64,
        /// The containers that carry the workspace label: the value of the label and the container's name, ordered by the value. `None` if
        /// they could not be listed.
        labelled: Option<Vec<(String, String)>>,
    },
    /// A control plane.
    ControlPlane {
        /// The preset by which it is understood.
        preset: String,
        /// Where it is.
        address: String,
        /// How many instances its list has. `None` if it has no list, and so was not asked anything.
        instances: Option<usize>,
    },
}

impl EngineCheck {
    /// The containers that carry the workspace label: the value of the label and the container's name, ordered by the value. `None` if they
    /// could not be listed, or if this kind of engine has no labels.
    #[must_use]
    pub fn labelled(&self) -> Option<&[(String, String)]> {
        match self {
            Self::Containers { labelled, .. } => labelled.as_deref(),
            Self::ControlPlane { .. } => None,
        }
    }
}

impl fmt::Display for EngineCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Containers { id, name, version, api_version, containers, .. } => {
                let plural = if *containers == 1 { "" } else { "s" };
                write!(f, "{name} {version} (API {api_version}), {containers} container{plural}, id {id}")
            }
            Self::ControlPlane { preset, address, instances: Some(instances) } => {
                write!(f, "control plane at {address} (preset {preset}), {instances} instances")
            }
            Self::ControlPlane { preset, address, instances: None } => {
                write!(f, "control plane at {address} (preset {preset}), which has no list")
            }
        }
    }
}

/// How the answers of an engine are understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// What is wrong, each with what to do.
    pub faults: Vec<String>,
    /// The answers. Those that were understood alike are counted together.
    pub answers: Vec<AnswerSeen>,
}

/// Answers that were understood alike. `Display` is the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerSeen {
    /// The interface's own word for the state, where the answer had one.
    pub word: Option<String>,
    /// The observation that it is understood as: a label of [`Observation`](defib_policy::sample::Observation).
    pub understood: &'static str,
    /// How many answers.
    pub count: usize,
    /// One of the instances that they were about.
    pub example: String,
    /// Why these answers are no evidence. `None` if they are.
    pub complaint: Option<String>,
}

impl fmt::Display for AnswerSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.word {
            Some(word) => write!(f, "the state {word:?} is understood as {}", self.understood)?,
            None => write!(f, "an answer without a state is understood as {}", self.understood)?,
        }
        write!(f, " ({} such, for example {:?})", self.count, self.example)?;
        self.complaint.as_ref().map_or(Ok(()), |complaint| write!(f, ": {complaint}"))
    }
}

/// Makes the engine that the address asks for. Does not connect: it may not be there yet.
///
/// # Errors
///
/// Only for what can never work: `https://` without certificates, unreadable certificates, and everything that is wrong with
/// a control plane's preset.
pub fn connect(settings: EngineSettings, clock: Clock) -> Result<Arc<dyn Engine>, EngineError> {
    match &settings.url {
        EngineUrl::ControlPlane(_) => Ok(Arc::new(ControlPlane::new(settings, clock)?)),
        EngineUrl::Unix(_) | EngineUrl::Tcp(_) | EngineUrl::Http(_) | EngineUrl::Https(_) => {
            Ok(Arc::new(DockerEngine::new(settings, clock)?))
        }
    }
}
