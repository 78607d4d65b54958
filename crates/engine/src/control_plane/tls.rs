//! Which certificate authorities are trusted for a control plane: those that the system trusts, and the operator's own.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// The TLS configuration with the roots that are trusted.
#[derive(Debug)]
pub(crate) struct Trust {
    pub(crate) config: ClientConfig,
    /// How many roots there are. Without any, no `https://` address can be reached.
    pub(crate) roots: usize,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("the file holds no certificate")]
    Empty,
    #[error(transparent)]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// Trusts the system's roots and those of a PEM file.
///
/// It is no error if the system has no roots, as in a small container image: the operator's own roots may be all that is needed, and
/// `http://` needs none.
pub(crate) fn trust(own: Option<&Path>) -> Result<Trust, TrustError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(own) = own {
        let mut found = false;
        for certificate in CertificateDer::pem_file_iter(own)? {
            roots.add(certificate?)?;
            found = true;
        }
        if !found {
            return Err(TrustError::Empty);
        }
    }
    let count = roots.len();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Trust { config, roots: count })
}
