//! Where an engine is, as `DEFIB_ENGINES` and `DOCKER_HOST` write it.
//!
//! The address of a control plane may carry a token. It must never reach a log, so neither `Display` nor `Debug` nor an
//! error shows what stands before an `@`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

/// What every refusal ends with: the reader of the error wants to know what to write instead.
const ACCEPTED: &str = "accepted are unix:///path, tcp://host:port, http://host:port, https://host:port, \
                        cp+http://host/path?preset=NAME, cp+https://host/path?preset=NAME and cp+file:///path";

/// Docker's own port for plain TCP.
const DOCKER_PORT: u16 = 2375;

/// Where an engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineUrl {
    /// `unix:///var/run/docker.sock`: an absolute path. The socket need not exist yet.
    Unix(PathBuf),
    /// `tcp://host:port`, in plain text unless certificates are configured. The port is 2375 when it is missing.
    Tcp(String),
    /// `http://host:port`: always in plain text.
    Http(String),
    /// `https://host:port`: with client certificates.
    Https(String),
    /// `cp+http://…`, `cp+https://…`: the control plane of a platform, at this address. `cp+file:///…`: one whose address is in the preset
    /// that this file holds.
    ControlPlane(ControlPlaneUrl),
}

/// The address of a control plane, with whatever credentials it carries. Shows none of them.
#[derive(Clone, PartialEq, Eq)]
pub struct ControlPlaneUrl(Url);

impl ControlPlaneUrl {
    /// The address to call, credentials included.
    #[must_use]
    pub const fn expose(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for ControlPlaneUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        // Both calls fail only for an address that cannot have credentials.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        shown.set_query(None); // tokens travel there, too
        write!(f, "cp+{shown}")
    }
}

impl fmt::Debug for ControlPlaneUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ControlPlaneUrl({self})")
    }
}

impl fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(authority) => write!(f, "tcp://{authority}"),
            Self::Http(authority) => write!(f, "http://{authority}"),
            Self::Https(authority) => write!(f, "https://{authority}"),
            Self::ControlPlane(url) => url.fmt(f),
        }
    }
}

/// Why an address is refused. The message never repeats the address, which may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineUrlError {
    /// It has no `scheme://`, or one that is not known.
    #[error("an engine address needs a known scheme; {ACCEPTED}")]
    Scheme,
    /// `unix://` without an absolute path.
    #[error("unix:// needs an absolute path, as in unix:///var/run/docker.sock")]
    Path,
    /// `cp+file://` without an absolute path.
    #[error("cp+file:// needs the absolute path of a preset, as in cp+file:///etc/defib/cloud.toml")]
    File,
    /// What follows the scheme is not a host and port.
    #[error("no host and port after {scheme}:// ({reason}); {ACCEPTED}")]
    Authority {
        /// The scheme as written.
        scheme: &'static str,
        /// What the parser found wrong.
        reason: url::ParseError,
    },
    /// A user or password before the host, where it would be silently ignored.
    #[error("{scheme}:// takes no user or password: an engine knows its clients by their certificates")]
    Credentials {
        /// The scheme as written.
        scheme: &'static str,
    },
    /// A path, query or fragment behind the port, where it would be silently ignored.
    #[error("{scheme}:// takes a host and a port, and nothing behind them")]
    Trailing {
        /// The scheme as written.
        scheme: &'static str,
    },
}

impl FromStr for EngineUrl {
    type Err = EngineUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(EngineUrlError::Scheme)?;
        match scheme {
            "unix" if rest.starts_with('/') && rest.len() > 1 => Ok(Self::Unix(PathBuf::from(rest))),
            "unix" => Err(EngineUrlError::Path),
            "tcp" => authority("tcp", rest, Some(DOCKER_PORT)).map(Self::Tcp),
            "http" => authority("http", rest, None).map(Self::Http),
            "https" => authority("https", rest, None).map(Self::Https),
            "cp+http" => control_plane("cp+http", "http", rest).map(Self::ControlPlane),
            "cp+file" if rest.starts_with('/') && rest.len() > 1 && !rest.starts_with("//") => {
                let url = Url::parse(&format!("file://{rest}"));
                let scheme = "cp+file";
                url.map(|url| Self::ControlPlane(ControlPlaneUrl(url)))
                    .map_err(|reason| EngineUrlError::Authority { scheme, reason })
            }
            "cp+file" => Err(EngineUrlError::File),
            "cp+https" => control_plane("cp+https", "https", rest).map(Self::ControlPlane),
            _ => Err(EngineUrlError::Scheme),
        }
    }
}

/// `host` or `host:port`, checked and normalised.
fn authority(scheme: &'static str, rest: &str, default_port: Option<u16>) -> Result<String, EngineUrlError> {
    let parsed_as = if scheme == "https" { "https" } else { "http" };
    let url = parse(scheme, parsed_as, rest)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(EngineUrlError::Credentials { scheme });
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(EngineUrlError::Trailing { scheme });
    }
    let host = url.host_str().ok_or(EngineUrlError::Authority { scheme, reason: url::ParseError::EmptyHost })?;
    let written = rest.trim_end_matches('/').ends_with(":80"); // http's default port, which the parser drops
    let port = url.port().or(if written { Some(80) } else { default_port });
    Ok(port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

fn control_plane(scheme: &'static str, parsed_as: &str, rest: &str) -> Result<ControlPlaneUrl, EngineUrlError> {
    let url = parse(scheme, parsed_as, rest)?;
    if url.fragment().is_some() {
        return Err(EngineUrlError::Trailing { scheme });
    }
    Ok(ControlPlaneUrl(url))
}

fn parse(scheme: &'static str, parsed_as: &str, rest: &str) -> Result<Url, EngineUrlError> {
    if rest.is_empty() || rest.starts_with('/') {
        // The parser would take `http:///path` for the host `path`.
        return Err(EngineUrlError::Authority { scheme, reason: url::ParseError::EmptyHost });
    }
    Url::parse(&format!("{parsed_as}://{rest}")).map_err(|reason| EngineUrlError::Authority { scheme, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_addresses_print_as_they_were_meant() {
        for (written, printed) in [
            ("unix:///var/run/docker.sock", "unix:///var/run/docker.sock"),
            (" unix:///run/podman/podman.sock ", "unix:///run/podman/podman.sock"),
            ("tcp://10.0.0.7:2375", "tcp://10.0.0.7:2375"),
            ("tcp://engine", "tcp://engine:2375"),
            ("tcp://engine:80", "tcp://engine:80"),
            ("tcp://[::1]:2375/", "tcp://[::1]:2375"),
            ("http://engine:8080", "http://engine:8080"),
            ("https://engine.example:2376", "https://engine.example:2376"),
            ("cp+https://cp.example/v1", "cp+https://cp.example/v1"),
            ("cp+http://cp.example:8080", "cp+http://cp.example:8080/"),
            ("cp+file:///etc/defib/cloud.toml?org=acme", "cp+file:///etc/defib/cloud.toml"),
        ] {
            let url = written.parse::<EngineUrl>().unwrap_or_else(|error| panic!("{written}: {error}"));
            assert_eq!(url.to_string(), printed);
        }
    }

    #[test]
    fn a_refusal_says_what_is_wrong_and_what_to_write() {
        for (written, expected) in [
            ("", "known scheme"),
            ("/var/run/docker.sock", "known scheme"),
            ("npipe:////./pipe/docker_engine", "accepted are unix:///path"),
            ("ssh://host", "cp+https://host/path"),
            ("UNIX:///x", "known scheme"),
            ("unix://", "absolute path"),
            ("unix:///", "absolute path"),
            ("unix://relative.sock", "absolute path"),
            ("tcp://", "no host and port after tcp://"),
            ("tcp://host:70000", "invalid port number"),
            ("tcp:///var/run/docker.sock", "no host and port"),
            ("tcp://host:2375/v1.41", "nothing behind them"),
            ("https://host:2376?x=1", "nothing behind them"),
            ("cp+file://", "absolute path of a preset"),
            ("cp+file://host/x", "absolute path of a preset"),
            ("cp+https://", "no host and port after cp+https://"),
        ] {
            let error = written.parse::<EngineUrl>().expect_err(written).to_string();
            assert!(error.contains(expected), "{written:?} gave {error:?}");
        }
    }

    #[test]
    fn credentials_are_shown_by_nothing() {
        let url: EngineUrl = "cp+https://user:s3cret@cp.example/v1?token=s3cret".parse().unwrap();
        assert_eq!(url.to_string(), "cp+https://cp.example/v1");
        assert!(!format!("{url:?}").contains("s3cret"));
        let EngineUrl::ControlPlane(control_plane) = url else { panic!("not a control plane") };
        assert_eq!(control_plane.expose().password(), Some("s3cret"));
        let refused = "tcp://user:s3cret@host:1".parse::<EngineUrl>().unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains("s3cret"), "{refused:?}");
    }
}
