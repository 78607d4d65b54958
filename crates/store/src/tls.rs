//! TLS to Postgres by rustls, with the rules of libpq for what is trusted.
//!
//! libpq verifies nothing below `verify-ca`, except that `require` with a root certificate means `verify-ca`. If we verified more than the
//! operator asked for, we would refuse servers that psql accepts. We must never verify less.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::SettingsError;
use crate::url::SslMode;

/// The connector for a mode. Whether TLS is used at all is not decided here.
pub(crate) fn connector(mode: SslMode, root_cert: Option<&Path>) -> Result<MakeRustlsConnect, SettingsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust = trust(mode, root_cert, &provider)?;
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| SettingsError::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { trust, provider }))
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// Which certificates to trust.
#[derive(Debug)]
enum Trust {
    Anyone,
    Roots { chain: Arc<WebPkiServerVerifier>, pinned: Vec<CertificateDer<'static>>, host_must_match: bool },
}

fn trust(mode: SslMode, root_cert: Option<&Path>, provider: &Arc<CryptoProvider>) -> Result<Trust, SettingsError> {
    let host_must_match = mode == SslMode::VerifyFull;
    let certificates = match (mode, root_cert) {
        (SslMode::Disable | SslMode::Allow | SslMode::Prefer, _) | (SslMode::Require, None) => {
            return Ok(Trust::Anyone);
        }
        (SslMode::VerifyCa, None) => return Err(SettingsError::NoRootCertificate),
        (SslMode::VerifyFull, None) => system_certificates()?,
        (_, Some(path)) if path.as_os_str() == "system" => {
            if !host_must_match {
                return Err(SettingsError::Invalid {
                    option: "sslmode",
                    expected: "verify-full with sslrootcert=system",
                });
            }
            system_certificates()?
        }
        (_, Some(path)) => read_certificates(path)?,
    };
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    if usable == 0 {
        return Err(unusable(root_cert, "it holds no usable certificate"));
    }
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| SettingsError::Tls(error.to_string()))?;
    Ok(Trust::Roots { chain, pinned: certificates, host_must_match })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(Some(path), &error.to_string()))
}

fn system_certificates() -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let loaded = rustls_native_certs::load_native_certs();
    if loaded.certs.is_empty() {
        let reason = loaded.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
        return Err(unusable(None, &reason));
    }
    Ok(loaded.certs)
}

fn unusable(path: Option<&Path>, reason: &str) -> SettingsError {
    let path = path.map_or_else(|| "system".to_owned(), |path| path.display().to_string());
    SettingsError::RootCertificate { path, reason: reason.to_owned() }
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Trust::Roots { chain, pinned, host_must_match } = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        // A self-signed server certificate that is its own root: OpenSSL takes it, webpki refuses any CA as an end entity.
        if pinned.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
            if *host_must_match {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last: all else was found in order.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !host_must_match => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
