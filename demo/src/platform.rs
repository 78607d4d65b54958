//! The example platform: it receives heartbeats and writes them into `defib.workspaces`, hands out configurations, and lets an
//! operator pause and resume workspaces. It restarts nothing.
//!
//! It also counts the starts of each agent, as a witness that is neither defib nor the engine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use defib_testkit::EngineHandle;
use serde::Deserialize;
use tokio_postgres::Client;

use crate::cast::{Role, loopback};
use crate::engine;

/// What the platform knows of a workspace, besides its row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// The container's name.
    container: String,
    /// How many times its agent was started, by whomever.
    pub(crate) starts: u32,
    /// Those that were an operator's.
    pub(crate) started_by_operator: u32,
    /// Those that died at once of a bad configuration.
    pub(crate) crashed: u32,
    /// Heartbeats received.
    pub(crate) beats: u32,
    has_bad_configuration: bool,
}

/// The running platform.
#[derive(Clone)]
pub(crate) struct Platform {
    shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
}

struct Shared {
    database: Client,
    engine: EngineHandle,
    records: Mutex<BTreeMap<String, Record>>,
}

/// What a handler answers when something is wrong.
type Refusal = (StatusCode, String);

impl Platform {
    pub(crate) async fn start(
        database: Client,
        engine: EngineHandle,
        roles: &[Role],
        container_name: impl Fn(&str) -> String,
    ) -> Result<Self> {
        let record = |role: &Role| {
            let container = container_name(role.id);
            (role.id.to_owned(), Record { container, ..Record::default() })
        };
        let records = Mutex::new(roles.iter().map(record).collect());
        let shared = Arc::new(Shared { database, engine, records });
        let router = Router::new()
            .route("/", get(overview))
            .route("/agents/{id}/configuration", get(configuration))
            .route("/agents/{id}/heartbeat", post(heartbeat))
            .route("/workspaces/{id}/pause", post(pause))
            .route("/workspaces/{id}/resume", post(resume))
            .route("/workspaces/{id}/configuration/{which}", post(roll_out))
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind(loopback(0)).await.context("bind the platform")?;
        let address = listener.local_addr().context("find the platform's port")?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { shared, address })
    }

    /// What it counted.
    pub(crate) fn records(&self) -> BTreeMap<String, Record> {
        self.shared.records().clone()
    }
}

impl Shared {
    fn records(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_record<T>(&self, id: &str, change: impl FnOnce(&mut Record) -> T) -> Result<T, Refusal> {
        self.records().get_mut(id).map(change).ok_or_else(|| (StatusCode::NOT_FOUND, format!("no workspace {id}\n")))
    }

    async fn set_status(&self, id: &str, status: &str) -> Result<(), Refusal> {
        let update = "update defib.workspaces set status = $2, updated_at = now() where id = $1";
        self.database.execute(update, &[&id, &status]).await.map(|_| ()).map_err(broken)
    }
}

/// The one thing that a platform must do for defib.
async fn heartbeat(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(beat): Query<Beat>,
) -> Result<(), Refusal> {
    shared.with_record(&id, |record| record.beats += 1)?;
    let update = "update defib.workspaces set last_heartbeat_at = now(), active_tasks = $2 where id = $1";
    shared.database.execute(update, &[&id, &beat.active_tasks]).await.map(|_| ()).map_err(broken)
}

#[derive(Debug, Deserialize)]
struct Beat {
    active_tasks: i32,
}

/// An agent asks for it once, at its start.
async fn configuration(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<&'static str, Refusal> {
    shared.with_record(&id, |record| {
        record.starts += 1;
        record.crashed += u32::from(record.has_bad_configuration);
        if record.has_bad_configuration { "bad" } else { "good" }
    })
}

async fn roll_out(
    State(shared): State<Arc<Shared>>,
    Path((id, which)): Path<(String, String)>,
) -> Result<String, Refusal> {
    shared.with_record(&id, |record| record.has_bad_configuration = which == "bad")?;
    Ok(format!("{id} gets a {which} configuration at its next start\n"))
}

/// First the status, then the container: nobody may find a stopped container that is said to be online.
async fn pause(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<String, Refusal> {
    let container = shared.with_record(&id, |record| record.container.clone())?;
    shared.set_status(&id, "paused").await?;
    engine::stop(&shared.engine, &container).await.map_err(broken)?;
    Ok(format!("{id} is paused\n"))
}

/// The other way round, for the same reason.
async fn resume(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<String, Refusal> {
    let container = shared.with_record(&id, |record| {
        record.started_by_operator += 1;
        record.container.clone()
    })?;
    engine::start(&shared.engine, &container).await.map_err(broken)?;
    shared.set_status(&id, "online").await?;
    Ok(format!("{id} is online again\n"))
}

async fn overview(State(shared): State<Arc<Shared>>) -> String {
    let mut text = "The example platform.\n\n".to_owned();
    // Writing to a String cannot fail.
    for (id, record) in &*shared.records() {
        let _ = writeln!(text, "{id:<8} started {} times", record.starts);
    }
    text.push_str(
        "\nPOST /workspaces/{id}/pause\nPOST /workspaces/{id}/resume\nPOST /workspaces/{id}/configuration/bad (or good)\n",
    );
    text
}

fn broken(error: impl Into<anyhow::Error>) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{:#}\n", error.into()))
}
