//! An error of the client library proves nothing about the containers behind an engine. It is told here which of a closed set of reasons it
//! stands for.

use std::error::Error as StdError;

use bollard::errors::Error as BollardError;
use defib_policy::sample::Fault;

/// The fault behind an error of the client library.
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
}
