//! What can go wrong with an engine.
//!
//! An error proves nothing about a container. But an operator needs to know what went wrong, so every error maps to one [`Fault`] of a
//! closed set. The kind of engine that met the error says to which.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use defib_policy::id::{ContainerId, EngineName, WorkspaceId};
use defib_policy::sample::Fault;

use crate::control_plane::PresetError;
use crate::report::Call;

/// The error of an engine's client library.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// A failed operation on an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The address is that of a control plane, where that of a container engine is needed.
    #[error("engine {engine}: this is the address of a control plane")]
    ControlPlane {
        /// Which engine.
        engine: EngineName,
    },
    /// The address is not that of a control plane, where one is needed.
    #[error("engine {engine}: this is not the address of a control plane")]
    NoControlPlane {
        /// Which engine.
        engine: EngineName,
    },
    /// The preset of a control plane, a variable of it or a certificate is wrong.
    #[error("engine {engine}")]
    Preset {
        /// Which engine.
        engine: EngineName,
        /// What, and where.
        #[source]
        source: PresetError,
    },
    /// The engine has no way of doing this, so nothing was asked of it.
    #[error("engine {engine}: {what}")]
    Unable {
        /// Which engine.
        engine: EngineName,
        /// What is missing.
        what: &'static str,
    },
    /// The restart was not sent: the engine asked to be left alone, or its rate is used up.
    #[error("engine {engine}: the restart was not sent")]
    NotSent {
        /// Which engine.
        engine: EngineName,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The engine says that the restart is not wanted: somebody else is at work on it, or has parked it.
    #[error("engine {engine}: the restart of {container} is not wanted: it answered {status}")]
    Superseded {
        /// Which engine.
        engine: EngineName,
        /// Which container or instance.
        container: ContainerId,
        /// The HTTP status that said so.
        status: u16,
    },
    /// `https://` without certificates.
    #[error("engine {engine}: https:// needs ca.pem, cert.pem and key.pem: set DOCKER_CERT_PATH to their directory")]
    CertificatesMissing {
        /// Which engine.
        engine: EngineName,
    },
    /// A certificate file cannot be read, or holds no certificate.
    #[error("engine {engine}: cannot use {}", path.display())]
    Certificate {
        /// Which engine.
        engine: EngineName,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The client could not be made: no socket (yet), or an address that it refuses.
    #[error("engine {engine}: cannot connect")]
    Connect {
        /// Which engine.
        engine: EngineName,
        /// The reason why this error is no evidence.
        fault: Fault,
        /// Why.
        #[source]
        source: Cause,
    },
    /// A call got an error, or no answer that can be read.
    #[error("engine {engine}: {} failed", call.label())]
    Call {
        /// Which engine.
        engine: EngineName,
        /// What was called.
        call: Call,
        /// The reason why this error is no evidence.
        fault: Fault,
        /// Why.
        #[source]
        source: Cause,
    },
    /// Restarting a container failed. If the connection broke on the way, the engine may still have restarted it.
    #[error("engine {engine}: cannot restart container {container}")]
    Restart {
        /// Which engine.
        engine: EngineName,
        /// Which container.
        container: ContainerId,
        /// The reason why this error is no evidence.
        fault: Fault,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The engine itself says that the container that was to be restarted does not exist.
    #[error("engine {engine}: container {container} is gone")]
    Gone {
        /// Which engine.
        engine: EngineName,
        /// Which container.
        container: ContainerId,
    },
    /// The workspace is of a kind that this engine does not run, so nothing was asked of it.
    #[error("engine {engine} does not run workspaces of the kind of {workspace}")]
    WrongKind {
        /// Which engine.
        engine: EngineName,
        /// Which workspace.
        workspace: WorkspaceId,
    },
    /// No answer came in time. The engine may still carry out a restart, because nothing cancels it there.
    #[error("engine {engine}: {} got no answer within {} ms", call.label(), after.as_millis())]
    TimedOut {
        /// Which engine.
        engine: EngineName,
        /// What was called.
        call: Call,
        /// How long defib has waited.
        after: Duration,
    },
}

impl EngineError {
    /// The reason why this error is no evidence about the containers of the engine.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::ControlPlane { .. }
            | Self::NoControlPlane { .. }
            | Self::Preset { .. }
            | Self::Unable { .. }
            | Self::CertificatesMissing { .. }
            | Self::Certificate { .. } => Fault::NotConfigured,
            Self::NotSent { .. } => Fault::NotAsked,
            Self::Connect { fault, .. } | Self::Call { fault, .. } | Self::Restart { fault, .. } => *fault,
            Self::WrongKind { .. } => Fault::WrongKind,
            Self::Gone { .. } | Self::Superseded { .. } => Fault::EngineError,
            Self::TimedOut { .. } => Fault::TimedOut,
        }
    }

    /// Whether the restart may have been made, or may still be made, in spite of this error: it was asked for, and the answer was lost.
    #[must_use]
    pub const fn may_have_happened(&self) -> bool {
        match self {
            Self::TimedOut { call, .. } => matches!(call, Call::Start | Call::Restart),
            // The engine's own refusal is an answer.
            Self::Restart { fault, .. } => !matches!(fault, Fault::EngineError),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_answer_is_told_from_a_refusal_and_from_a_call_that_was_never_made() {
        let source = || Cause::from("reset");
        let restart =
            |fault| EngineError::Restart { engine: "e".into(), container: "c".into(), fault, source: source() };
        let timed_out = |call| EngineError::TimedOut { engine: "e".into(), call, after: Duration::from_secs(1) };
        let version =
            EngineError::Call { engine: "e".into(), call: Call::Version, fault: Fault::EngineError, source: source() };
        for (error, may) in [
            (timed_out(Call::Start), true),
            (timed_out(Call::Restart), true),
            (timed_out(Call::Version), false),
            (restart(Fault::Garbled), true),
            (restart(Fault::TimedOut), true),
            (restart(Fault::Unreachable), true),
            (restart(Fault::EngineError), false),
            (version, false),
            (EngineError::Gone { engine: "e".into(), container: "c".into() }, false),
            (EngineError::WrongKind { engine: "e".into(), workspace: "w".into() }, false),
        ] {
            assert_eq!(error.may_have_happened(), may, "{error}");
        }
    }

    #[test]
    fn an_error_names_its_engine_and_its_call_once() {
        let error = EngineError::Call {
            engine: "rack-7".into(),
            call: Call::List,
            fault: Fault::EngineError,
            source: Cause::from("database is locked"),
        };
        assert_eq!(error.to_string(), "engine rack-7: list failed");
        assert!(StdError::source(&error).expect("source").to_string().contains("database is locked"));
    }
}
