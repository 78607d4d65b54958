//! `defib run`: from a checked configuration to a running loop, and back to an orderly end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use defib_engine::{Engine, EngineSettings, TlsPaths};
use defib_policy::id::EngineName;
use defib_store::{ListenSettings, SchemaState, Store, StoreSettings, listen};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::Refused;
use crate::clock::{self, Clock};
use crate::config::{Config, Secret};
use crate::driver::{self, Inputs};
use crate::health::Health;
use crate::http::{self, Shown};
use crate::jobs;
use crate::metrics::Metrics;
use crate::reconcile::{Reconciler, database_fault};
use crate::restarter::Restarter;

/// A connection, TLS and login included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One call to the database. Ten polls of a large fleet fit into it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections: one for each kind of work that may wait (reads, suspicions, records) and the claims of a few engines.
const POOL_SIZE: usize = 8;

/// Engine events waiting for the loop; more are dropped, and the loop looks at everything instead.
const EVENTS_MAX: usize = 4_096;

/// Between looks for a database that is away at the start.
const SCHEMA_RETRY: Duration = Duration::from_secs(1);

/// A store for a command or for the daemon.
pub(crate) fn store(url: &Secret, name: &str, clock: Clock) -> Result<Store, Refused> {
    let settings = StoreSettings {
        url: url.expose().to_owned(),
        application_name: name.to_owned(),
        pool_size: POOL_SIZE,
        connect_timeout: CONNECT_TIMEOUT,
        statement_timeout: STATEMENT_TIMEOUT,
    };
    Store::new(&settings, clock)
        .map_err(|error| Refused(format!("DEFIB_DATABASE_URL: {}", crate::logging::chain(&error))))
}

/// The engines of the configuration.
pub(crate) fn engines(config: &Config, clock: &Clock) -> Result<BTreeMap<EngineName, Arc<dyn Engine>>, Refused> {
    let tls = std::env::var_os("DOCKER_CERT_PATH").map(|path| TlsPaths::in_directory(Path::new(&path)));
    let verify = std::env::var_os("DOCKER_TLS_VERIFY").is_some_and(|value| !value.is_empty());
    let mut engines = BTreeMap::new();
    for (name, url) in &config.engines {
        let https = matches!(url, defib_engine::EngineUrl::Https(_));
        let settings = EngineSettings {
            name: name.clone(),
            url: url.clone(),
            workspace_label: config.workspace_label.clone(),
            call_timeout: config.engine_timeout,
            tls: tls.clone().filter(|_| https || verify),
            token: config.engine_tokens.get(name).map(|token| token.expose().into()),
        };
        let engine = defib_engine::connect(settings, Arc::clone(clock))
            .map_err(|error| Refused(format!("DEFIB_ENGINES: {}", crate::logging::chain(&error))))?;
        engines.insert(name.clone(), engine);
    }
    Ok(engines)
}

/// Runs until a signal. The configuration has been checked; what can still be wrong is the world.
pub(crate) async fn run(config: Config, migrate: bool) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let config = Arc::new(config);
    let clock = clock::monotonic();
    let engines = engines(&config, &clock)?;
    let store = store(&config.database_url, "defib", Arc::clone(&clock))?;
    let names: Vec<EngineName> = engines.keys().cloned().collect();
    let metrics = Arc::new(Metrics::new(&names).context("the metrics")?);
    let health = Arc::new(Health::new(clock(), turn_within(&config), names.into_iter()));
    let http = http::bind(config.listen_addr).await?;
    let stop = CancellationToken::new();
    let shown = Shown { clock: Arc::clone(&clock), health: Arc::clone(&health), metrics: Arc::clone(&metrics) };
    info!(
        version = env!("CARGO_PKG_VERSION"),
        replica = %config.replica_id,
        listen = %http.local_addr().map(|address| address.to_string()).unwrap_or_default(),
        engines = %config.engines.iter().map(|(name, url)| format!("{name}={url}")).collect::<Vec<_>>().join(","),
        mode = ?config.policy.mode,
        "defib starts"
    );
    extend_watchdog(&config);
    let server = tokio::spawn(http::serve(http, shown, stop.clone()));

    let signalled = async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let (ended_sender, ended) = mpsc::unbounded_channel();
    let restarter = Arc::new(Restarter::new(
        Arc::clone(&config),
        store.clone(),
        &engines,
        Arc::clone(&clock),
        Arc::clone(&metrics),
        ended_sender,
    ));
    let reconciler = Arc::new(Reconciler::new(Arc::clone(&restarter), engines, Arc::clone(&health)));
    let (looping_stop, looping_reconciler) = (stop.clone(), Arc::clone(&reconciler));
    let mut looping = tokio::spawn(watch_fleet(looping_reconciler, migrate, ended, looping_stop));
    let result = tokio::select! {
        by = signalled => {
            info!(by, "stopping");
            health.stopping();
            let _ = sd_notify::notify(&[NotifyState::Stopping]);
            stop.cancel();
            (&mut looping).await.context("the loop")?
        }
        // Only when it cannot start: once it turns, it turns until it is stopped.
        ended = &mut looping => ended.context("the loop")?,
    };
    // What nothing is under way on goes to the others at once, the rest when it has ended.
    restarter.stop();
    reconciler.release_leases().await;
    restarter.shut_down().await;
    reconciler.release_leases().await;
    stop.cancel();
    let _ = server.await;
    if result.is_ok() {
        info!("stopped");
    }
    result
}

/// Where to listen: a connection of its own.
pub(crate) fn listen_settings(config: &Config) -> ListenSettings {
    ListenSettings {
        url: config.listen_database_url.expose().to_owned(),
        application_name: "defib listen".to_owned(),
        connect_timeout: CONNECT_TIMEOUT,
    }
}

/// Waits for the database and its schema, then turns the loop until stopped.
async fn watch_fleet(
    reconciler: Arc<Reconciler>,
    migrate: bool,
    ended: mpsc::UnboundedReceiver<(EngineName, defib_policy::id::WorkspaceId)>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        ready = wait_for_schema(&reconciler, migrate) => ready?,
    }
    let config = &reconciler.config;
    let notifications = listen(&listen_settings(config), driver::CHANNELS)
        .map_err(|error| Refused(format!("DEFIB_LISTEN_DATABASE_URL: {}", crate::logging::chain(&error))))?;
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    for engine in reconciler.engines.values() {
        let (engine, sender, stop) = (Arc::clone(engine), sender.clone(), stop.clone());
        tokio::spawn(async move { engine.watch(sender, stop).await });
    }
    let mut jobs = jobs::start(&reconciler).await?;
    driver::run(Arc::clone(&reconciler), Inputs { notifications, engines: events, ended }, stop).await;
    if let Err(error) = jobs.shutdown().await {
        warn!(%error, "the maintenance scheduler did not stop");
    }
    Ok(())
}

async fn wait_for_schema(reconciler: &Reconciler, migrate: bool) -> anyhow::Result<()> {
    loop {
        let prepared = prepare(reconciler, migrate).await;
        match prepared {
            Ok(refusal) => return refusal.map_or(Ok(()), |refusal| Err(refusal.into())),
            Err(error) if error.is_unavailable() => {
                let fault = database_fault(&error);
                if reconciler.health.database(Err(fault.clone())) {
                    warn!(error = %fault, "waiting for the database");
                }
                // A database that is away is no reason to be killed by a liveness probe or a watchdog.
                let first = reconciler.health.turned(reconciler.now());
                let mut states = vec![NotifyState::Watchdog, NotifyState::Status("waiting for the database")];
                if first {
                    states.push(NotifyState::Ready);
                }
                let _ = sd_notify::notify(&states);
            }
            Err(error) => return Err(Refused(database_fault(&error)).into()),
        }
        tokio::time::sleep(SCHEMA_RETRY).await;
    }
}

/// Brings the schema up to date if asked to, refuses one that does not fit, and takes the leases that are free.
async fn prepare(reconciler: &Reconciler, migrate: bool) -> Result<Option<Refused>, defib_store::StoreError> {
    let store = &reconciler.store;
    if migrate || reconciler.config.auto_migrate {
        let report = store.migrate().await?;
        if !report.applied.is_empty() {
            info!(from = report.from, to = report.to, "schema migrated");
        }
    }
    let refusal = match store.schema_state().await? {
        SchemaState::Current => None,
        SchemaState::Missing => {
            Some("the database has no schema defib: run `defib migrate`, or start with --migrate".to_owned())
        }
        SchemaState::Older { have, want } => Some(format!(
            "the schema defib is version {have} and this program needs {want}: run `defib migrate`, or start with --migrate"
        )),
        SchemaState::Newer { have, want } => {
            Some(format!("the schema defib is version {have} and this program knows {want}: start a newer defib"))
        }
    };
    if refusal.is_none() {
        // So that the first pass has a voice. If it fails the loop tries again, and says why.
        let _ = reconciler.turn_leases().await;
    }
    Ok(refusal.map(Refused))
}

/// The unit's watchdog knows nothing of our poll interval: a longer one is asked for, or a healthy daemon would be killed.
fn extend_watchdog(config: &Config) {
    let needed = turn_within(config);
    if sd_notify::watchdog_enabled().is_some_and(|watchdog| watchdog < needed) {
        let micros = u32::try_from(needed.as_micros()).unwrap_or(u32::MAX);
        let _ = sd_notify::notify(&[NotifyState::WatchdogUsec(micros)]);
    }
}

/// A pass over the fleet ends at least this often, however badly it goes.
fn turn_within(config: &Config) -> Duration {
    3 * config.policy.poll_interval + 4 * config.engine_timeout + 2 * STATEMENT_TIMEOUT
}
