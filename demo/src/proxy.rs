//! The example proxy: it forwards requests to the agents, one after the other. When one cannot be reached, or answers 502 or
//! 503, it says so in one row, and sends the request to the next. It restarts nothing, and asks nobody who is alive.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use tokio_postgres::Client;

use crate::cast::{Role, loopback};
use crate::http::{self, Answer, Failure};

/// Agents that one request is offered to, at most.
const TRIES: usize = 3;

/// All that a proxy has to know of defib.
const REPORT: &str = "select defib.report_suspicion($1, 'demo-proxy', $2, $3)";

/// The running proxy.
#[derive(Clone)]
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
}

struct Shared {
    /// Logged in with the role `defib_reporter` and no other.
    database: Client,
    agents: Vec<(&'static str, SocketAddr)>,
    next: AtomicUsize,
    suspicions: AtomicU64,
}

impl Proxy {
    pub(crate) async fn start(database: Client, roles: &[Role]) -> Result<Self> {
        let agents = roles.iter().map(|role| (role.id, role.address)).collect();
        let next = AtomicUsize::new(0);
        let shared = Arc::new(Shared { database, agents, next, suspicions: AtomicU64::new(0) });
        let router =
            Router::new().route("/", get(to_anybody)).route("/to/{id}", get(to_one)).with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind(loopback(0)).await.context("bind the proxy")?;
        let address = listener.local_addr().context("find the proxy's port")?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { shared, address })
    }

    /// How many suspicions it reported.
    pub(crate) fn suspicions(&self) -> u64 {
        self.shared.suspicions.load(Ordering::Relaxed)
    }
}

/// What comes back to the client.
type Reply = (StatusCode, String);

async fn to_anybody(State(shared): State<Arc<Shared>>) -> Reply {
    let mut reply = unavailable("nobody");
    for _ in 0..TRIES {
        let turn = shared.next.fetch_add(1, Ordering::Relaxed) % shared.agents.len().max(1);
        let Some((id, address)) = shared.agents.get(turn) else { break };
        match forward(&shared, id, *address).await {
            Some(answer) => return relay(answer),
            None => reply = unavailable(id),
        }
    }
    reply
}

async fn to_one(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Reply {
    match shared.agents.iter().find(|(known, _)| *known == id) {
        Some((id, address)) => forward(&shared, id, *address).await.map_or_else(|| unavailable(id), relay),
        None => (StatusCode::NOT_FOUND, format!("no agent {id}\n")),
    }
}

/// The agent's answer; `None` when it was none worth relaying, which is then reported.
async fn forward(shared: &Arc<Shared>, id: &'static str, address: SocketAddr) -> Option<Answer> {
    match http::get(address, "/").await {
        Ok(answer) if !matches!(answer.status, 502 | 503) => Some(answer),
        Ok(answer) => {
            report(shared, id, "http_status", Some(i32::from(answer.status)));
            None
        }
        Err(failure) => {
            report(shared, id, Failure::word(failure), None);
            None
        }
    }
}

/// Reports and does not wait: a slow database is no reason to answer late.
fn report(shared: &Arc<Shared>, id: &'static str, reason: &'static str, http_status: Option<i32>) {
    shared.suspicions.fetch_add(1, Ordering::Relaxed);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        // A report that got lost is made up for by defib's own polling.
        let _ = shared.database.execute(REPORT, &[&id, &reason, &http_status]).await;
    });
}

fn relay(answer: Answer) -> Reply {
    (StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY), answer.body)
}

fn unavailable(id: &str) -> Reply {
    (StatusCode::BAD_GATEWAY, format!("{id} cannot be reached\n"))
}
