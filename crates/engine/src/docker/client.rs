//! The client library: connecting, agreeing on a version of the interface, and the calls whose shape depends on the library's release.
//!
//! Whatever the next release of bollard changes for us is in this file:
//!
//! | | 0.21 | on its main branch |
//! | --- | --- | --- |
//! | version in the path | left out: an engine answers in its own newest one | in front, by default one that older engines refuse |
//! | `negotiate_version` | changes the client and all of its clones | returns a new client |
//! | what a start answers | nothing | whether the container ran already |
//!
//! So the version in a path is always put there by us, in place of one that is there already, and we agree on it ourselves: `/version` is
//! asked without a version, because an engine refuses one that it does not speak (dockerd 20.10 all above 1.41, Docker 29 all below 1.44) even
//! there.

use std::fmt::Write as _;
use std::path::Path;

use bollard::errors::Error as BollardError;
use bollard::query_parameters::{RestartContainerOptionsBuilder, StartContainerOptions};
use bollard::{API_DEFAULT_VERSION, BollardRequest, ClientVersion, Docker};
use futures_util::{Stream, StreamExt};
use hyper::Uri;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::TokioExecutor;
use hyperlocal::UnixConnector;
use serde::de::DeserializeOwned;

use crate::settings::{EngineSettings, TlsPaths};
use crate::url::EngineUrl;

/// The client library's time-out counts in whole seconds. It is this much longer than ours, so that ours decides.
const TIMEOUT_SLACK: std::time::Duration = std::time::Duration::from_secs(5);

/// The longest answer, in bytes, that is collected whole. The record of a container with many mounts and health checks has some ten thousand.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// A client, and what the engine said of itself when the version was agreed upon.
pub(super) struct Agreed {
    pub(super) client: Docker,
    /// It is podman's service, which speaks Docker's interface.
    pub(super) is_podman: bool,
}

/// How much is read from a socket at a time, in bytes, and how long the head of an answer may be. Larger: more memory, because all engines
/// send their lists at once. Smaller: a list of a megabyte takes more reads.
const READ_BYTES_MAX: usize = 32 << 10;

/// Makes a client. Opens no connection, but wants to see a socket.
pub(super) fn connect(settings: &EngineSettings, version: &ClientVersion) -> Result<Docker, BollardError> {
    let timeout = (settings.call_timeout + TIMEOUT_SLACK).as_secs() + 1;
    match (&settings.url, &settings.tls) {
        (EngineUrl::Unix(path), _) => connect_to_socket(path, timeout, version),
        (EngineUrl::Tcp(authority) | EngineUrl::Https(authority), Some(tls)) => {
            let TlsPaths { ca, cert, key } = tls;
            Docker::connect_with_ssl(authority, key, cert, ca, timeout, version)
        }
        (EngineUrl::Tcp(authority) | EngineUrl::Http(authority), _) => {
            Docker::connect_with_http(authority, timeout, version)
        }
        // Refused by `DockerEngine::new`.
        (url @ (EngineUrl::Https(_) | EngineUrl::ControlPlane(_)), _) => {
            Err(BollardError::UnsupportedURISchemeError { uri: url.to_string() })
        }
    }
}

/// As the library itself connects to a socket, with a connection for each call, but with a smaller buffer.
fn connect_to_socket(path: &Path, timeout: u64, version: &ClientVersion) -> Result<Docker, BollardError> {
    if !path.exists() {
        return Err(BollardError::SocketNotFoundError(path.to_string_lossy().into_owned()));
    }
    let mut builder = HyperClient::builder(TokioExecutor::new());
    builder.pool_max_idle_per_host(0).http1_max_buf_size(READ_BYTES_MAX);
    let client = builder.build(UnixConnector);
    let transport = move |request: BollardRequest| {
        let asking = client.request(request);
        async move { asking.await.map_err(BollardError::from) }
    };
    let host = path.to_string_lossy().bytes().fold(String::new(), |mut host, byte| {
        let _ = write!(host, "{byte:02x}");
        host
    });
    Docker::connect_with_custom_transport(transport, Some(format!("unix://{host}")), timeout, version)
}

/// Makes a client whose every call names the newest version that both sides speak.
///
/// # Errors
/// The engine was not reached, refused, or did not say which versions it speaks.
pub(super) async fn agree(settings: &EngineSettings) -> Result<Agreed, BollardError> {
    let asking = connect(settings, API_DEFAULT_VERSION)?.with_request_modifier(|request| aimed(request, None));
    let told = asking.version().await?;
    let newest = told.api_version.as_deref().and_then(read_version).ok_or(BollardError::APIVersionParseError {})?;
    let oldest = told.min_api_version.as_deref().and_then(read_version);
    let version = common(API_DEFAULT_VERSION, oldest.as_ref(), newest);
    let prefix = version.to_string();
    let client = connect(settings, &version)?.with_request_modifier(move |request| aimed(request, Some(&prefix)));
    let is_podman = told.components.iter().flatten().any(|component| component.name == "Podman Engine");
    Ok(Agreed { client, is_podman })
}

/// The newest version that both sides speak. An engine that speaks only newer ones than the client library knows is asked in its oldest: the
/// few fields that are read here have been the same for years.
fn common(ours: &ClientVersion, oldest: Option<&ClientVersion>, newest: ClientVersion) -> ClientVersion {
    let known = if newest < *ours { newest } else { copy(ours) };
    match oldest {
        Some(oldest) if known < *oldest => copy(oldest),
        _ => known,
    }
}

const fn copy(version: &ClientVersion) -> ClientVersion {
    ClientVersion { major_version: version.major_version, minor_version: version.minor_version }
}

fn read_version(text: &str) -> Option<ClientVersion> {
    let (major, minor) = text.split_once('.')?;
    Some(ClientVersion { major_version: major.parse().ok()?, minor_version: minor.parse().ok()? })
}

/// The answer to a GET of this path and query, part by part as it arrives.
///
/// The client library hands out the bytes of an answer for a few calls only, of which exporting a container is one. It also lets us change any
/// request before it is sent. So an export is begun, and the request that leaves asks for something else.
pub(super) fn get(client: &Docker, target: String) -> impl Stream<Item = Result<impl AsRef<[u8]>, BollardError>> {
    let prefix = client.client_version().to_string();
    let asking = client.clone().with_request_modifier(move |request| {
        let request = with_target(request, &target);
        aimed(request, Some(&prefix))
    });
    asking.export_container("unnamed")
}

/// The answer to a GET of this path and query, decoded. Fields that nobody reads are passed over.
///
/// # Errors
/// The engine was not reached, refused, or sent something else.
pub(super) async fn read<T: DeserializeOwned>(client: &Docker, target: String) -> Result<T, BollardError> {
    let mut parts = std::pin::pin!(get(client, target));
    let mut answer = Vec::new();
    while let Some(part) = parts.next().await {
        answer.extend_from_slice(part?.as_ref());
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(garbled(format!("an answer is longer than {ANSWER_BYTES_MAX} bytes")));
        }
    }
    serde_json::from_slice(&answer).map_err(|error| garbled(error.to_string()))
}

/// Starts a container; one that runs already is left as it is.
pub(super) async fn start(client: &Docker, id: &str) -> Result<(), BollardError> {
    client.start_container(id, None::<StartContainerOptions>).await
}

/// Stops and starts a container, with so many seconds between the signals TERM and KILL.
pub(super) async fn restart(client: &Docker, id: &str, grace_seconds: i32) -> Result<(), BollardError> {
    let options = RestartContainerOptionsBuilder::default().t(grace_seconds).build();
    client.restart_container(id, Some(options)).await
}

/// What arrived is not what was asked for.
pub(super) const fn garbled(message: String) -> BollardError {
    BollardError::JsonDataError { message, column: 0 }
}

/// The same request with this version of the interface in front of its path, or with none.
fn aimed(request: BollardRequest, version: Option<&str>) -> BollardRequest {
    let Some(target) = request.uri().path_and_query().map(|target| bare(target.as_str()).to_owned()) else {
        return request;
    };
    match version {
        Some(version) => with_target(request, &format!("/v{version}{target}")),
        None => with_target(request, &target),
    }
}

/// A path without the version in front of it.
fn bare(target: &str) -> &str {
    let rest = target.strip_prefix("/v").unwrap_or_default();
    let is_version = |part: &str| part.contains('.') && part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match rest.split_once('/') {
        Some((version, _)) if is_version(version) => &rest[version.len()..],
        _ => target,
    }
}

/// The same request with another path and query.
fn with_target(mut request: BollardRequest, target: &str) -> BollardRequest {
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = target.parse().ok();
    // A request that cannot be put together is sent as it was. The engine's answer to it is not what is expected, and is refused as such.
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_in_front_of_a_path_is_taken_off_and_nothing_else_is() {
        for (target, without) in [
            ("/v1.53/containers/json?all=true", "/containers/json?all=true"),
            ("/v1.41/_ping", "/_ping"),
            ("/version", "/version"),
            ("/volumes/v1.2/x", "/volumes/v1.2/x"),
            ("/v1.53", "/v1.53"),
            ("/vast/x", "/vast/x"),
            ("/v2/x", "/v2/x"),
        ] {
            assert_eq!(bare(target), without);
        }
    }

    #[test]
    fn the_newest_version_that_both_speak_is_agreed_upon() {
        let read = |text| read_version(text).unwrap();
        for (ours, oldest, newest, agreed) in [
            ("1.53", "1.12", "1.41", "1.41"),
            ("1.53", "1.44", "1.52", "1.52"),
            ("1.53", "1.44", "1.60", "1.53"),
            ("1.53", "1.60", "1.70", "1.60"),
            ("1.53", "1.24", "1.53", "1.53"),
        ] {
            let common = common(&read(ours), Some(&read(oldest)), read(newest));
            assert_eq!(common.to_string(), agreed, "of {oldest} to {newest}");
        }
        for text in ["", "1", "1.x", "v1.41", "1.41.0"] {
            assert!(read_version(text).is_none(), "{text}");
        }
    }
}
