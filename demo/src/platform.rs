//! The example platform: it receives heartbeats and writes them into `defib.workspaces`, hands out configurations, and lets an
//! operator pause and resume workspaces. It restarts nothing by itself.
//!
//! It answers two more requests, as the first platform does (`deploy/control-planes/molecule-core.toml`): what state an instance is in,
//! and a request to restart a workspace, for which it makes a new instance or a new container.
//!
//! It also counts the starts of each agent, as a witness that is neither defib nor the engine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use defib_testkit::EngineHandle;
use serde::Deserialize;
use tokio_postgres::Client;

use crate::cast::{self, Role, loopback};
use crate::engine;
use crate::machines::Machines;

/// With which the control plane wants to be asked.
pub(crate) const CONTROL_PLANE_SECRET: &str = "demo-shared-secret";
/// With which the server wants to be asked for a restart.
pub(crate) const ADMIN_TOKEN: &str = "demo-admin-token";

/// How long an instance is pending before it boots: long enough to be seen.
const PENDING: Duration = Duration::from_millis(700);

/// What the platform knows of a workspace, besides its row.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    home: Home,
    /// Where its agent listens.
    address: SocketAddr,
    /// Requests to restart it that were accepted.
    restarts_asked: u32,
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

/// Where an agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Home {
    /// In the container of this name.
    Container(String),
    /// On the instance of this name.
    Instance(String),
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
    machines: Machines,
    address: SocketAddr,
    records: Mutex<BTreeMap<String, Record>>,
}

/// What a handler answers when something is wrong.
type Refusal = (StatusCode, String);

impl Platform {
    pub(crate) async fn start(
        database: Client,
        engine: EngineHandle,
        machines: Machines,
        roles: &[Role],
        container_name: impl Fn(&str) -> String,
    ) -> Result<Self> {
        let record = |role: &Role| {
            let home = match &role.instance {
                None => Home::Container(container_name(role.id)),
                Some(instance) => Home::Instance(instance.clone()),
            };
            (role.id.to_owned(), Record::new(home, role.address))
        };
        let records = Mutex::new(roles.iter().map(record).collect());
        let listener = tokio::net::TcpListener::bind(loopback(0)).await.context("bind the platform")?;
        let address = listener.local_addr().context("find the platform's port")?;
        let shared = Arc::new(Shared { database, engine, machines, address, records });
        let router = Router::new()
            .route("/", get(overview))
            .route("/agents/{id}/configuration", get(configuration))
            .route("/agents/{id}/heartbeat", post(heartbeat))
            .route("/workspaces/{id}/pause", post(pause))
            .route("/workspaces/{id}/resume", post(resume))
            .route("/workspaces/{id}/configuration/{which}", post(roll_out))
            .route("/workspaces/{id}/restart", post(restart))
            .route("/cp/workspaces/{id}/status", get(state))
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { shared, address })
    }

    /// What it counted.
    pub(crate) fn records(&self) -> BTreeMap<String, Record> {
        self.shared.records().clone()
    }

    /// How often it was asked to restart a workspace.
    pub(crate) fn restarts_asked(&self, id: &str) -> u32 {
        self.shared.records().get(id).map_or(0, |record| record.restarts_asked)
    }

    /// The instance that a workspace has now; `None`: it has none.
    pub(crate) fn instance_of(&self, id: &str) -> Option<String> {
        match &self.shared.records().get(id)?.home {
            Home::Instance(instance) => Some(instance.clone()),
            Home::Container(_) => None,
        }
    }

    /// Boots the instance of a workspace.
    pub(crate) fn boot_instance(&self, id: &str) -> Result<()> {
        let instance = self.instance_of(id).with_context(|| format!("{id} has no instance"))?;
        self.shared.boot(id, &instance)
    }

    /// `kill -9` of a workspace's agent, on its instance.
    pub(crate) fn kill_instance(&self, id: &str) -> Result<()> {
        let instance = self.instance_of(id).with_context(|| format!("{id} has no instance"))?;
        self.shared.machines.kill(&instance)
    }

    /// Ends what runs on instances.
    pub(crate) fn stop_instances(&self) {
        self.shared.machines.stop();
    }
}

impl Record {
    const fn new(home: Home, address: SocketAddr) -> Self {
        Self {
            home,
            address,
            restarts_asked: 0,
            starts: 0,
            started_by_operator: 0,
            crashed: 0,
            beats: 0,
            has_bad_configuration: false,
        }
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

    /// The container of a workspace that has one.
    fn container_of(&self, id: &str) -> Result<String, Refusal> {
        match self.with_record(id, |record| record.home.clone())? {
            Home::Container(name) => Ok(name),
            Home::Instance(instance) => Err((StatusCode::CONFLICT, format!("{id} runs on instance {instance}\n"))),
        }
    }

    fn environment(&self, id: &str) -> Result<Vec<String>> {
        let record = self.records().get(id).cloned().with_context(|| format!("no workspace {id}"))?;
        Ok(cast::environment(id, record.address, self.address))
    }

    fn boot(&self, id: &str, instance: &str) -> Result<()> {
        self.machines.boot(instance, &self.environment(id)?)
    }

    /// Makes a new container or a new instance in the place of the one that is gone.
    async fn make_again(&self, id: &str, home: Home) -> Result<()> {
        let online =
            "update defib.workspaces set status = 'online', instance_ref = $2, updated_at = now() where id = $1";
        match home {
            Home::Container(name) => {
                engine::run_agent(&self.engine, &name, self.environment(id)?).await?;
                self.database.execute(online, &[&id, &None::<String>]).await?;
            }
            Home::Instance(_) => {
                let instance = self.machines.reserve();
                if let Some(record) = self.records().get_mut(id) {
                    record.home = Home::Instance(instance.clone());
                }
                self.database.execute(online, &[&id, &Some(&instance)]).await?;
                tokio::time::sleep(PENDING).await;
                self.boot(id, &instance)?;
            }
        }
        Ok(())
    }
}

/// Whoever has no such token is refused.
fn must_know(token: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers.get("authorization").and_then(|value| value.to_str().ok());
    let knows = given.and_then(|value| value.strip_prefix("Bearer ")) == Some(token);
    if knows { Ok(()) } else { Err((StatusCode::UNAUTHORIZED, "wrong token\n".to_owned())) }
}

/// The control plane: what state an instance is in.
async fn state(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<AskedState>,
    headers: HeaderMap,
) -> Result<String, Refusal> {
    must_know(CONTROL_PLANE_SECRET, &headers)?;
    let state = shared.machines.state(&asked.instance_id);
    let state = state.ok_or_else(|| (StatusCode::NOT_FOUND, "{\"error\": \"not found\"}\n".to_owned()))?;
    Ok(format!("{{\"state\": \"{state}\"}}\n"))
}

#[derive(Debug, Deserialize)]
struct AskedState {
    instance_id: String,
}

/// The server: a restart is accepted at once, and made afterwards.
async fn restart(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<&'static str, Refusal> {
    must_know(ADMIN_TOKEN, &headers)?;
    let home = shared.with_record(&id, |record| {
        record.restarts_asked += 1;
        record.home.clone()
    })?;
    shared.set_status(&id, "provisioning").await?;
    tokio::spawn(async move {
        if let Err(error) = shared.make_again(&id, home).await {
            eprintln!("the platform cannot make {id} again: {error:#}");
        }
    });
    Ok("{\"status\": \"provisioning\"}\n")
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
    let container = shared.container_of(&id)?;
    shared.set_status(&id, "paused").await?;
    engine::stop(&shared.engine, &container).await.map_err(broken)?;
    Ok(format!("{id} is paused\n"))
}

/// The other way round, for the same reason.
async fn resume(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<String, Refusal> {
    let container = shared.container_of(&id)?;
    shared.with_record(&id, |record| record.started_by_operator += 1)?;
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
