//! `/metrics`, `/healthz` and `/readyz`, and beside them the status page and its API. All of it only reads, and no command needs it:
//! commands work with the database alone. [`server`] bounds how much of the process strangers can use.

mod server;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus::{Encoder as _, TextEncoder};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::server::Bounds;
use crate::api::{self, Open};
use crate::clock::Clock;
use crate::health::Health;
use crate::hosts::Hosts;
use crate::metrics::Metrics;
use crate::page;
use crate::streams::Streams;
use crate::told::viewer::Viewer;

/// What the endpoints show.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) clock: Clock,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    /// What reads the fleet for the status page; `None` if the page is off.
    pub(crate) viewer: Option<Arc<Viewer>>,
    /// The names by which browsers may ask for it.
    pub(crate) hosts: Arc<Hosts>,
}

/// How many characters of a refused name the answer repeats.
const NAME_SHOWN: usize = 100;

/// What is answered in the place of the status page while it is off.
const OFF: &str = "The status page and /api/v1 are off here: start defib with DEFIB_UI=on (auto turns them on where \
                   DEFIB_LISTEN_ADDR is a loopback address). There are /metrics, /healthz and /readyz.\n";

/// Binds the address. This is done before anything is started, so that defib does not start if the port is in use.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("DEFIB_LISTEN_ADDR={address} cannot be listened on: choose a free port or stop what listens there")
    })
}

/// Serves until stopped.
pub(crate) async fn serve(listener: TcpListener, shown: Shown, stop: CancellationToken) {
    let files_max = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let bounds = Bounds::of_process(files_max);
    let streams = Streams::new(bounds.connections_max, stop.clone());
    if let Some(viewer) = shown.viewer.clone() {
        let stop = stop.clone();
        tokio::spawn(async move { viewer.tidy(stop).await });
    }
    server::serve(listener, router(shown, streams), bounds, stop).await;
}

fn router(shown: Shown, streams: Streams) -> Router {
    let (viewer, hosts) = (shown.viewer.clone(), Arc::clone(&shown.hosts));
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(shown);
    match viewer {
        Some(viewer) => {
            let api = api::router(Open { viewer: Arc::clone(&viewer), streams });
            let guarded = Router::new().nest("/api/v1", api).merge(page::router(viewer));
            router.merge(guarded.layer(middleware::from_fn_with_state(hosts, refuse_strange_names)))
        }
        None => router.fallback(async || (StatusCode::NOT_FOUND, OFF)),
    }
}

/// Answers no request that names this server as another site would: see [`crate::hosts`]. What is for Prometheus and for probes is not
/// refused, because they ask by whatever name they are given.
async fn refuse_strange_names(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    let Some(name) = hosts.strange_name(request.headers()) else { return next.run(request).await };
    let name: String = name.chars().take(NAME_SHOWN).collect();
    let detail = format!(
        "the status page and /api/v1 are not served by the name {}: ask by an address, or add the name to DEFIB_UI_HOSTS",
        name.escape_default()
    );
    if request.uri().path().starts_with("/api/") {
        return api::misdirected(detail);
    }
    (StatusCode::MISDIRECTED_REQUEST, [(header::CACHE_CONTROL, "no-store")], format!("{detail}\n")).into_response()
}

async fn metrics(State(shown): State<Shown>) -> Response {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&shown.metrics.registry.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn healthz(State(shown): State<Shown>) -> (StatusCode, Json<Value>) {
    answer(shown.health.alive((shown.clock)()))
}

async fn readyz(State(shown): State<Shown>) -> (StatusCode, Json<Value>) {
    answer(shown.health.ready())
}

fn answer((well, body): (bool, Value)) -> (StatusCode, Json<Value>) {
    (if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body))
}
