//! The receiver of a webhook, which keeps every message and fails on command.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::scripted_control_plane::{ApiFault, ApiRequest, asked, fail, respond};

#[derive(Debug, Default)]
struct State {
    fault: Option<ApiFault>,
    faults: VecDeque<ApiFault>,
    taken: Vec<ApiRequest>,
    asked: Vec<ApiRequest>,
}

/// The server. It stops when it is dropped.
#[derive(Debug)]
pub struct WebhookReceiver {
    state: Arc<Mutex<State>>,
    port: u16,
    server: JoinHandle<()>,
}

impl Drop for WebhookReceiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl WebhookReceiver {
    /// One that takes everything with 204.
    pub async fn start() -> Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::clone(&state);
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let service = service_fn(move |request| {
                    let state = Arc::clone(&state);
                    async move {
                        let asked = asked(request).await?;
                        let fault = {
                            let mut state = lock(&state);
                            state.asked.push(asked.clone());
                            let fault = state.faults.pop_front().or_else(|| state.fault.clone());
                            if fault.is_none() {
                                state.taken.push(asked);
                            }
                            fault
                        };
                        match fault {
                            Some(fault) => fail(fault).await,
                            None => respond(204, &[], bytes::Bytes::new()),
                        }
                    }
                });
                connections.spawn(async move {
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { state, port, server })
    }

    /// Where it listens, with a path that is a secret.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hooks/T0P-S3CRET", self.port)
    }

    /// Everything is answered so from now on; `None`: everything is taken again.
    pub fn set_fault(&self, fault: Option<ApiFault>) {
        lock(&self.state).fault = fault;
    }

    /// The next message is answered so.
    pub fn fail_next(&self, fault: ApiFault) {
        lock(&self.state).faults.push_back(fault);
    }

    /// The messages that it took, in their order.
    #[must_use]
    pub fn taken(&self) -> Vec<ApiRequest> {
        lock(&self.state).taken.clone()
    }

    /// All requests, also those that it did not take.
    #[must_use]
    pub fn asked(&self) -> Vec<ApiRequest> {
        lock(&self.state).asked.clone()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
