//! `/metrics`, `/healthz` and `/readyz`, and beside them the status page and its API. All of it only reads, and no command needs it:
//! commands work with the database alone. [`server`] bounds how much of the process strangers can use.

mod server;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::State;
use axum::http::{StatusCode, header};
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
}

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
    let viewer = shown.viewer.clone();
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(shown);
    match viewer {
        Some(viewer) => {
            let api = api::router(Open { viewer: Arc::clone(&viewer), streams });
            router.nest("/api/v1", api).merge(page::router(viewer))
        }
        None => router.fallback(async || (StatusCode::NOT_FOUND, OFF)),
    }
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
