//! `/metrics`, `/healthz` and `/readyz`. Read only, and nothing in the product depends on it: the commands work against the
//! database alone. What strangers can take of the process is bounded by [`server`].

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
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::server::Bounds;
use crate::clock::Clock;
use crate::health::Health;
use crate::metrics::Metrics;

/// What the endpoints show.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) clock: Clock,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Binds the address. Done before anything is started, so that a port in use stops the start.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("DEFIB_LISTEN_ADDR={address} cannot be listened on: choose a free port or stop what listens there")
    })
}

/// Serves until stopped.
pub(crate) async fn serve(listener: TcpListener, shown: Shown, stop: CancellationToken) {
    let files_max = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    server::serve(listener, router(shown), Bounds::of_process(files_max), stop).await;
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(|| async {
            (StatusCode::NOT_FOUND, Json(json!({ "reason": "there are /metrics, /healthz and /readyz" })))
        })
        .with_state(shown)
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
