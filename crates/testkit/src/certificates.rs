//! Certificates. The `openssl` program makes them when they are needed, so the repository holds none that could expire.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};

use crate::guardian::Guardian;

/// Stands in for the machine's own configuration of openssl, which may contain anything.
const CONFIGURATION: &str = "
[req]
distinguished_name = nobody
prompt = no
[nobody]
CN = nobody
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
[ca]
default_ca = past
[past]
database = index.txt
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
";

/// Days that certificates are valid for: longer than any test, also with a clock that is a day behind.
const DAYS: &str = "2";

/// A certificate authority that nobody knows. Its files, and those of all that it issued, are removed with it.
#[derive(Debug)]
pub struct CertificateAuthority {
    guardian: Guardian,
    issued: AtomicU64,
}

/// A certificate and its key, in two PEM files. Gone when its authority is.
#[derive(Debug, Clone)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
}

impl CertificateAuthority {
    /// A new one, named like this.
    pub fn new(name: &str) -> Result<Self> {
        let authority = Self { guardian: Guardian::start()?, issued: AtomicU64::new(0) };
        std::fs::write(authority.path("openssl.cnf"), CONFIGURATION).context("write openssl.cnf")?;
        authority.request(&["-subj", &format!("/CN={name}"), "-extensions", "authority"], "ca")?;
        Ok(authority)
    }

    /// Its own certificate: what `sslrootcert` wants.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Issues a certificate for a server of this DNS name.
    pub fn issue(&self, host: &str) -> Result<Certificate> {
        let name = format!("server-{}", self.issued.fetch_add(1, Ordering::Relaxed));
        let (subject, alternative) = (format!("/CN={host}"), format!("subjectAltName=DNS:{host}"));
        let (root, root_key) = (self.root().display().to_string(), self.path("ca.key").display().to_string());
        let by_us = ["-CA", &root, "-CAkey", &root_key];
        let what = ["-subj", &subject, "-addext", &alternative, "-extensions", "server"];
        self.request(&[&by_us[..], &what].concat(), &name)?;
        Ok(Certificate { chain: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) })
    }

    /// Issues a certificate for a server of this DNS name that was valid on one day, long ago.
    pub fn issue_expired(&self, host: &str) -> Result<Certificate> {
        let name = format!("server-{}", self.issued.fetch_add(1, Ordering::Relaxed));
        let [chain, key, request, extensions] =
            ["pem", "key", "csr", "ext"].map(|kind| self.path(&format!("{name}.{kind}")).display().to_string());
        std::fs::write(&extensions, format!("subjectAltName=DNS:{host}\nextendedKeyUsage=serverAuth\n"))?;
        std::fs::write(self.path("index.txt"), "")?;
        let subject = format!("/CN={host}");
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let asked = ["req", "-new", "-config", "openssl.cnf", "-subj", &subject, "-out", &request, "-keyout", &key];
        self.openssl(&[&asked[..], &curve].concat())?;
        let (root, root_key) = (self.root().display().to_string(), self.path("ca.key").display().to_string());
        let by_us = ["ca", "-batch", "-notext", "-config", "openssl.cnf", "-cert", &root, "-keyfile", &root_key];
        let what = ["-in", &request, "-out", &chain, "-extfile", &extensions];
        let when = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"];
        self.openssl(&[&by_us[..], &what, &when].concat())?;
        Ok(Certificate { chain: chain.into(), key: key.into() })
    }

    fn request(&self, arguments: &[&str], name: &str) -> Result<()> {
        let what = ["req", "-x509", "-config", "openssl.cnf", "-days", DAYS, "-nodes"];
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
        let (chain, key) = (format!("{name}.pem"), format!("{name}.key"));
        self.openssl(&[&what[..], &curve, arguments, &["-out", &chain, "-keyout", &key]].concat())
    }

    fn openssl(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.guardian.command("openssl");
        command.args(arguments);
        let output = command.output().context("run openssl (not there? run deploy/dev/install.sh)")?;
        ensure!(output.status.success(), "openssl failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.guardian.directory().join(name)
    }
}

impl Certificate {
    /// The file with the certificate.
    #[must_use]
    pub fn chain(&self) -> &Path {
        &self.chain
    }

    /// The file with its key.
    #[must_use]
    pub fn key(&self) -> &Path {
        &self.key
    }
}
