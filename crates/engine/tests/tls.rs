//! Control planes over TLS: real handshakes with certificates that are right, and with those that must not be taken.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use defib_engine::{Engine, EngineSettings, RestartCall, RestartHow, Secret, Target, connect};
use defib_policy::moment::Moment;
use defib_testkit::scripted_control_plane::Dialect;
use defib_testkit::{CertificateAuthority, ScriptedControlPlane};
use support::{LABEL, only};

const TOKEN: &str = "t0ken-s3cret";

/// A control plane as the daemon makes it, which trusts the authority of that file beside the system's.
fn plane(server: &ScriptedControlPlane, own: Option<PathBuf>) -> Arc<dyn Engine> {
    let own = own.map(|path| format!("&ca={}", path.display())).unwrap_or_default();
    let settings = EngineSettings {
        name: "cloud".into(),
        url: format!("cp+{}?preset=generic{own}", server.address()).parse().unwrap(),
        workspace_label: LABEL.into(),
        call_timeout: Duration::from_secs(10),
        full_list_every: Duration::ZERO,
        tls: None,
        token: Some(Secret::from(TOKEN)),
    };
    connect(settings, Arc::new(|| Moment::ZERO)).unwrap()
}

fn instance() -> Target {
    Target::instance("w-a".into(), Some("a".into()))
}

fn call() -> RestartCall {
    RestartCall {
        target: instance(),
        container_id: "a".into(),
        how: RestartHow::Start,
        deadline: Duration::from_secs(10),
        attempt: 7,
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named() {
    let authority = CertificateAuthority::new("ours").unwrap();
    let certificate = authority.issue("localhost").unwrap();
    let server = ScriptedControlPlane::start_tls(Dialect::Generic, &certificate).await.unwrap();
    server.set("a", "stopped");
    let plane = plane(&server, Some(authority.root()));
    assert_eq!(only(&plane.sample_some(&[instance()]).await), "stopped");
    plane.restart(&call()).await.unwrap();
    assert_eq!(server.get("a").as_deref(), Some("running"));
    plane.check().await.unwrap();
}

/// Nothing is evidence that came, or did not come, over such a connection, and no token goes out on it.
async fn is_refused(server: &ScriptedControlPlane, own: Option<PathBuf>, because: &str) {
    server.set("a", "stopped");
    let plane = plane(server, own);
    assert_eq!(only(&plane.sample_some(&[instance()]).await), "unknown:unreachable");
    let error = plane.restart(&call()).await.unwrap_err();
    assert!(!error.may_have_happened(), "{error}");
    let mut told = vec![error.to_string()];
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        told.push(error.to_string());
        cause = error.source();
    }
    let told = told.join(": ");
    assert!(told.contains(because) && !told.contains("s3cret"), "{told}");
    assert!(server.requests().is_empty(), "it was told the token: {:?}", server.requests());
}

#[tokio::test]
async fn the_systems_authorities_do_not_vouch_for_a_private_one() {
    let authority = CertificateAuthority::new("ours").unwrap();
    let certificate = authority.issue("localhost").unwrap();
    let server = ScriptedControlPlane::start_tls(Dialect::Generic, &certificate).await.unwrap();
    is_refused(&server, None, "UnknownIssuer").await;
    let another = CertificateAuthority::new("somebody else's").unwrap();
    is_refused(&server, Some(another.root()), "UnknownIssuer").await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = CertificateAuthority::new("ours").unwrap();
    let certificate = authority.issue("elsewhere.example").unwrap();
    let server = ScriptedControlPlane::start_tls(Dialect::Generic, &certificate).await.unwrap();
    is_refused(&server, Some(authority.root()), "not valid for name").await;
}

#[tokio::test]
async fn one_that_has_expired_is_refused() {
    let authority = CertificateAuthority::new("ours").unwrap();
    let certificate = authority.issue_expired("localhost").unwrap();
    let server = ScriptedControlPlane::start_tls(Dialect::Generic, &certificate).await.unwrap();
    is_refused(&server, Some(authority.root()), "expired").await;
}
