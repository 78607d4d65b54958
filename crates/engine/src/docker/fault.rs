//! An error of the client library proves nothing about the containers behind an engine. This module says which [`Fault`] it is, of a closed
//! set.

use std::error::Error as StdError;

use bollard::errors::Error as BollardError;
use defib_policy::sample::Fault;

/// The fault behind an error of the client library.
pub(crate) fn fault_of(error: &BollardError) -> Fault {
    match error {
        BollardError::RequestTimeoutError => Fault::TimedOut,
        BollardError::SocketNotFoundError(_) => Fault::Unreachable,
        BollardError::HyperLegacyError { err } if err.is_connect() => Fault::Unreachable,
        // The error came before the head of an answer. If the connection was closed or reset, nobody answered. If what came is not HTTP,
        // somebody did.
        BollardError::HyperLegacyError { err } => match hyper_error(err) {
            Some(cause) if cause.is_parse() => Fault::Garbled,
            Some(cause) if cause.is_timeout() => Fault::TimedOut,
            _ => Fault::Unreachable,
        },
        // The error came after the head of an answer: the body broke off, or cannot be read. On the event stream, an I/O error also means
        // that the engine has died.
        BollardError::HyperResponseError { .. }
        | BollardError::IOError { .. }
        | BollardError::JsonDataError { .. }
        | BollardError::JsonSerdeError { .. }
        | BollardError::StrParseError { .. }
        | BollardError::APIVersionParseError {} => Fault::Garbled,
        // The engine itself reports an error, or the request could not be made, so that the engine never saw it.
        _ => Fault::EngineError,
    }
}

/// Whether the engine itself says that there is no such container. A proxy without such a route, a missing network and a missing image have
/// the status 404 as well, with other words.
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
}
