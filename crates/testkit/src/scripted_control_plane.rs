//! A control plane that fails on command, and answers otherwise as one of the interfaces for which presets ship.
//!
//! It keeps every request, so that a test can say what was *not* asked, and with which headers.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::{TlsAcceptor, rustls};

use crate::certificates::Certificate;

mod dialects;

pub use self::dialects::Dialect;

/// What is answered in place of the truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiFault {
    /// This status, these headers and this body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The connection is closed without an answer.
    Eof,
    /// Never an answer.
    Hang,
    /// The truth, this much later.
    Late(Duration),
    /// A body of this many bytes.
    Huge(usize),
}

impl ApiFault {
    /// A status with a small body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), "{\"message\":\"scripted\"}".into())
    }
}

/// One request that came in.
#[derive(Debug, Clone)]
pub struct ApiRequest {
    /// `GET`, `POST`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// By name, in small letters.
    pub headers: BTreeMap<String, String>,
    /// As it came.
    pub body: String,
}

#[derive(Debug)]
struct State {
    dialect: Dialect,
    /// Their states by name, in the words of the dialect.
    instances: BTreeMap<String, String>,
    fault: Option<ApiFault>,
    /// What is answered to every request about these instances, by their names.
    instance_faults: BTreeMap<String, ApiFault>,
    /// Answers for the next restarts only. `None`: they are made.
    restart_faults: VecDeque<Option<ApiFault>>,
    /// Answers for the next reads only. `None`: the truth.
    read_faults: VecDeque<Option<ApiFault>>,
    page_size: usize,
    requests: Vec<ApiRequest>,
}

/// The server. It stops when it is dropped.
#[derive(Debug)]
pub struct ScriptedControlPlane {
    state: Arc<Mutex<State>>,
    port: u16,
    server: JoinHandle<()>,
    tls: bool,
}

impl Drop for ScriptedControlPlane {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl ScriptedControlPlane {
    /// One without instances.
    pub async fn start(dialect: Dialect) -> Result<Self> {
        Self::serve(dialect, None).await
    }

    /// The same, with TLS and this certificate.
    pub async fn start_tls(dialect: Dialect, certificate: &Certificate) -> Result<Self> {
        let chain = CertificateDer::pem_file_iter(certificate.chain())?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(certificate.key())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_no_client_auth().with_single_cert(chain, key)?;
        Self::serve(dialect, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn serve(dialect: Dialect, tls: Option<TlsAcceptor>) -> Result<Self> {
        let has_tls = tls.is_some();
        let state = Arc::new(Mutex::new(State {
            dialect,
            instances: BTreeMap::new(),
            fault: None,
            instance_faults: BTreeMap::new(),
            restart_faults: VecDeque::new(),
            read_faults: VecDeque::new(),
            page_size: 2,
            requests: Vec::new(),
        }));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::clone(&state);
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let tls = tls.clone();
                connections.spawn(async move {
                    // The errors are the client's, or what a fault asked for.
                    let _ = match tls {
                        None => converse(stream, state).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => converse(stream, state).await,
                            Err(error) => Err(error.into()),
                        },
                    };
                });
            }
        });
        Ok(Self { state, port, server, tls: has_tls })
    }

    /// `http://host:port`, or `https://localhost:port`.
    #[must_use]
    pub fn address(&self) -> String {
        let host = if self.tls { "https://localhost" } else { "http://127.0.0.1" };
        format!("{host}:{}", self.port)
    }

    /// Adds an instance, or changes the state of one.
    pub fn set(&self, name: &str, state: &str) {
        self.state().instances.insert(name.to_owned(), state.to_owned());
    }

    /// Removes an instance.
    pub fn remove(&self, name: &str) {
        self.state().instances.remove(name);
    }

    /// An instance's state.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        self.state().instances.get(name).cloned()
    }

    /// Everything is answered so from now on; `None`: the truth again.
    pub fn set_fault(&self, fault: Option<ApiFault>) {
        self.state().fault = fault;
    }

    /// Every request about this instance is answered so from now on; `None`: the truth again. Requests about others and for the list are
    /// answered as before.
    pub fn fail_instance(&self, name: &str, fault: Option<ApiFault>) {
        let faults = &mut self.state().instance_faults;
        match fault {
            Some(fault) => faults.insert(name.to_owned(), fault),
            None => faults.remove(name),
        };
    }

    /// The next restart is answered so, and not made.
    pub fn fail_restart(&self, fault: ApiFault) {
        self.script_restarts([Some(fault)]);
    }

    /// The next restarts are answered so, one after the other. `None`: they are made.
    pub fn script_restarts(&self, answers: impl IntoIterator<Item = Option<ApiFault>>) {
        self.state().restart_faults.extend(answers);
    }

    /// The next reads are answered so, one after the other. `None`: the truth.
    pub fn script_reads(&self, answers: impl IntoIterator<Item = Option<ApiFault>>) {
        self.state().read_faults.extend(answers);
    }

    /// What has come in so far.
    #[must_use]
    pub fn requests(&self) -> Vec<ApiRequest> {
        self.state().requests.clone()
    }

    /// Those that were no reads.
    #[must_use]
    pub fn restarts(&self) -> Vec<ApiRequest> {
        self.requests().into_iter().filter(|request| request.method != "GET").collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// The fault of the instance that this path is about. Its name is a part of the path, or a parameter of the query.
    fn fault_of(&self, path: &str) -> Option<ApiFault> {
        path.split(['/', '?', '&', '=']).find_map(|part| self.instance_faults.get(part)).cloned()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, state: Arc<Mutex<State>>) -> Result<()> {
    let service = service_fn(move |request| answer(request, Arc::clone(&state)));
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    Ok(served?)
}

/// A request as it came.
pub(crate) async fn asked(request: Request<Incoming>) -> Result<ApiRequest> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let header = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Ok(ApiRequest {
        method: head.method.to_string(),
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: head.headers.iter().map(header).collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// Answers as a fault says.
pub(crate) async fn fail(fault: ApiFault) -> Result<Response<Full<Bytes>>> {
    match fault {
        ApiFault::Answer(status, headers, body) => respond(status, &headers, body.into()),
        ApiFault::Eof => Err(anyhow!("scripted end")),
        ApiFault::Hang => std::future::pending::<Result<_, Infallible>>().await.map_err(|never| match never {}),
        ApiFault::Huge(bytes) => respond(200, &[], vec![b' '; bytes].into()),
        ApiFault::Late(delay) => {
            tokio::time::sleep(delay).await;
            respond(204, &[], Bytes::new())
        }
    }
}

async fn answer(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<Full<Bytes>>> {
    let asked = asked(request).await?;
    let is_read = asked.method == Method::GET.as_str();
    let fault = {
        let mut state = lock(&state);
        state.requests.push(asked.clone());
        let once = if is_read { state.read_faults.pop_front() } else { state.restart_faults.pop_front() };
        once.unwrap_or_else(|| state.fault_of(&asked.path).or_else(|| state.fault.clone()))
    };
    if let Some(ApiFault::Late(delay)) = fault {
        tokio::time::sleep(delay).await;
    }
    match fault {
        None | Some(ApiFault::Late(_)) => {
            let (status, body) = lock(&state).truth(&asked);
            respond(status, &[], body.to_string().into())
        }
        Some(fault) => fail(fault).await,
    }
}

pub(crate) fn respond(status: u16, headers: &[(&'static str, String)], body: Bytes) -> Result<Response<Full<Bytes>>> {
    let mut response = Response::builder().status(status).header("content-type", "application/json");
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    Ok(response.body(Full::new(body))?)
}
