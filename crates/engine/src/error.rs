//! What can go wrong with an engine, and what each of it proves.
//!
//! The answer is always the same: nothing. But an operator needs to know which nothing it was, so every error maps to one
//! [`Fault`] of a closed set, and it does so here only.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use bollard::errors::Error as BollardError;
use defib_policy::id::{ContainerId, EngineName};
use defib_policy::sample::Fault;

use crate::report::Call;

/// A failed operation on an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The address is that of a control plane.
    #[error("engine {engine}: control planes (cp+http, cp+https) are not supported by this version")]
    ControlPlane {
        /// Which engine.
        engine: EngineName,
    },
    /// `https://` without certificates.
    #[error("engine {engine}: https:// needs ca.pem, cert.pem and key.pem: set DOCKER_CERT_PATH to their directory")]
    CertificatesMissing {
        /// Which engine.
        engine: EngineName,
    },
    /// A certificate file cannot be read, or is none.
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
        /// Why.
        #[source]
        source: Box<BollardError>,
    },
    /// A call got an error, or no answer that can be read.
    #[error("engine {engine}: {} failed", call.label())]
    Call {
        /// Which engine.
        engine: EngineName,
        /// What was called.
        call: Call,
        /// Why.
        #[source]
        source: Box<BollardError>,
    },
    /// Restarting a container failed. It may have happened all the same, where the connection broke on the way.
    #[error("engine {engine}: cannot restart container {container}")]
    Restart {
        /// Which engine.
        engine: EngineName,
        /// Which container.
        container: ContainerId,
        /// Why.
        #[source]
        source: Box<BollardError>,
    },
    /// The container that was to be restarted does not exist (any more), says the engine itself.
    #[error("engine {engine}: container {container} is gone")]
    Gone {
        /// Which engine.
        engine: EngineName,
        /// Which container.
        container: ContainerId,
    },
    /// No answer in time. A restart may still be carried out by the engine: nothing cancels it there.
    #[error("engine {engine}: {} got no answer within {} ms", call.label(), after.as_millis())]
    TimedOut {
        /// Which engine.
        engine: EngineName,
        /// What was called.
        call: Call,
        /// How long it was waited for.
        after: Duration,
    },
}

impl EngineError {
    /// What this proves of the containers behind it: nothing, for one of a closed set of reasons.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::ControlPlane { .. } | Self::CertificatesMissing { .. } | Self::Certificate { .. } => {
                Fault::NotConfigured
            }
            Self::Connect { source, .. } | Self::Call { source, .. } | Self::Restart { source, .. } => fault_of(source),
            Self::Gone { .. } => Fault::EngineError,
            Self::TimedOut { .. } => Fault::TimedOut,
        }
    }

    /// Whether a restart that failed so may have been made all the same, or may still be: it was asked for, and the answer was lost.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::TimedOut { call, .. } => matches!(call, Call::Start | Call::Restart),
            // The engine's own refusal is an answer.
            Self::Restart { source, .. } => fault_of(source) != Fault::EngineError,
            _ => false,
        }
    }
}

/// The fault behind an error of the client library.
///
pub(crate) fn fault_of(error: &BollardError) -> Fault {
    match error {
        BollardError::RequestTimeoutError => Fault::TimedOut,
        BollardError::SocketNotFoundError(_) => Fault::Unreachable,
        BollardError::HyperLegacyError { err } if err.is_connect() => Fault::Unreachable,
        // Before the head of an answer: closed and reset mean that nobody answered; what is not HTTP was an answer.
        BollardError::HyperLegacyError { err } => match hyper_error(err) {
            Some(cause) if cause.is_parse() => Fault::Garbled,
            Some(cause) if cause.is_timeout() => Fault::TimedOut,
            _ => Fault::Unreachable,
        },
        // After the head: the body broke off, or says something that cannot be read. On the event stream, an I/O error
        // is how the engine's death shows.
        BollardError::HyperResponseError { .. }
        | BollardError::IOError { .. }
        | BollardError::JsonDataError { .. }
        | BollardError::JsonSerdeError { .. }
        | BollardError::StrParseError { .. }
        | BollardError::APIVersionParseError {} => Fault::Garbled,
        // An error that the engine itself reports, and trouble in making a request, which it never saw.
        _ => Fault::EngineError,
    }
}

/// Whether this is the engine's own "there is no such container", and not one of the other things that are not found: a
/// route of a proxy (`404 page not found`), a network, an image.
pub(crate) fn is_no_such_container(error: &BollardError) -> bool {
    // dockerd: `No such container: x`. podman: `no container with name or ID "x" found: no such container`.
    matches!(error, BollardError::DockerResponseServerError { status_code: 404, message }
        if message.to_ascii_lowercase().contains("no such container"))
}

fn hyper_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a hyper::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status_code: u16, message: &str) -> BollardError {
        BollardError::DockerResponseServerError { status_code, message: message.to_owned() }
    }

    #[test]
    fn only_the_engines_own_words_mean_no_such_container() {
        assert!(is_no_such_container(&response(404, "No such container: a1b2")));
        assert!(is_no_such_container(&response(404, r#"no container with name or ID "a" found: no such container"#)));
        for other in [
            response(404, "404 page not found"),
            response(404, "page not found"),
            response(404, ""),
            response(404, "network mesh not found"),
            response(404, "No such image: busybox"),
            response(500, "No such container: a1b2"),
            response(409, "No such container: a1b2"),
            BollardError::RequestTimeoutError,
        ] {
            assert!(!is_no_such_container(&other), "{other}");
        }
    }

    #[test]
    fn every_error_is_a_fault_of_its_kind() {
        let json = BollardError::JsonDataError { message: "unknown variant `stopped`".into(), column: 7 };
        for (error, fault) in [
            (BollardError::RequestTimeoutError, Fault::TimedOut),
            (BollardError::SocketNotFoundError("/run/x.sock".into()), Fault::Unreachable),
            (response(500, "oops"), Fault::EngineError),
            (response(503, ""), Fault::EngineError),
            (response(404, "404 page not found"), Fault::EngineError),
            (response(400, "client version 1.53 is too new"), Fault::EngineError),
            (json, Fault::Garbled),
            (BollardError::IOError { err: std::io::Error::other("reset") }, Fault::Garbled),
            (BollardError::APIVersionParseError {}, Fault::Garbled),
        ] {
            assert_eq!(fault_of(&error), fault, "{error}");
        }
    }

    #[test]
    fn a_lost_answer_is_told_from_a_refusal_and_from_a_call_that_was_never_made() {
        let restart =
            |source| EngineError::Restart { engine: "e".into(), container: "c".into(), source: Box::new(source) };
        let timed_out = |call| EngineError::TimedOut { engine: "e".into(), call, after: Duration::from_secs(1) };
        let version =
            EngineError::Call { engine: "e".into(), call: Call::Version, source: Box::new(response(500, "")) };
        for (error, may) in [
            (timed_out(Call::Start), true),
            (timed_out(Call::Restart), true),
            (timed_out(Call::Version), false),
            (restart(BollardError::IOError { err: std::io::Error::other("reset") }), true),
            (restart(BollardError::RequestTimeoutError), true),
            (restart(response(500, "no space left")), false),
            (version, false),
            (EngineError::Gone { engine: "e".into(), container: "c".into() }, false),
        ] {
            assert_eq!(error.may_have_happened(), may, "{error}");
        }
    }

    #[test]
    fn an_error_names_its_engine_and_its_call_once() {
        let error = EngineError::Call {
            engine: "rack-7".into(),
            call: Call::List,
            source: Box::new(response(500, "database is locked")),
        };
        assert_eq!(error.to_string(), "engine rack-7: list failed");
        assert!(StdError::source(&error).expect("source").to_string().contains("database is locked"));
    }
}
