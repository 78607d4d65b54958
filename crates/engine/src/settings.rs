//! What the operator configured of one engine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use defib_policy::id::EngineName;

use crate::secret::Secret;
use crate::url::EngineUrl;

/// What the operator configured of one engine.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// As in `DEFIB_ENGINES` and `defib.fleet.engine`.
    pub name: EngineName,
    /// Where it is.
    pub url: EngineUrl,
    /// The label that carries a workspace's id (`DEFIB_WORKSPACE_LABEL`).
    pub workspace_label: String,
    /// How long one call may take (`DEFIB_ENGINE_TIMEOUT`). A whole look at the engine may take twice as long.
    /// Larger: a hanging engine delays its own verdicts for longer. Smaller: a loaded one is never heard.
    pub call_timeout: Duration,
    /// How old a full list may be by which quick lists are understood (`DEFIB_RESYNC_INTERVAL`). Larger: a container that was removed
    /// unheard seems to run for longer. Smaller: more work for the engine. Zero: all lists are full ones.
    pub full_list_every: Duration,
    /// Certificates. Needed by `https://`; with `tcp://` they turn TLS on, as `DOCKER_TLS_VERIFY` does for docker.
    pub tls: Option<TlsPaths>,
    /// Our token at a control plane (`DEFIB_ENGINE_TOKEN_<ENGINE>`). Container engines have none.
    pub token: Option<Secret>,
}

/// The PEM files for TLS: our certificate and its key, and the authority that signed the engine's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPaths {
    /// The authority that signed the engine's certificate.
    pub ca: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl TlsPaths {
    /// `ca.pem`, `cert.pem` and `key.pem` of a directory, as `DOCKER_CERT_PATH` names one.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self { ca: directory.join("ca.pem"), cert: directory.join("cert.pem"), key: directory.join("key.pem") }
    }
}
