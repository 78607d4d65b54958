//! `defib run`: from a checked configuration to a running loop, and back to an orderly end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use defib_engine::Engine;
use defib_policy::id::EngineName;
use defib_record::Tape;
use defib_store::{ListenEvent, Listener, SchemaState, Store, StoreError, listen};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock;
use crate::config::Config;
use crate::connect::{self, STATEMENT_TIMEOUT};
use crate::driver::{self, Inputs, Parts};
use crate::eviction::Evictor;
use crate::files;
use crate::health::Health;
use crate::http::{self, Shown};
use crate::jobs;
use crate::leases::Leases;
use crate::left_behind::LeftBehind;
use crate::logging::{chain, database_fault};
use crate::marked_status::{self, MarkedStatus};
use crate::marks::Marks;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::news::{EvictionNews, News, RecordingNews, RestartNews};
use crate::orders::Orders;
use crate::outbox::Outbox;
use crate::pass::Passes;
use crate::reading::Reading;
use crate::record::Recorder;
use crate::recording::Recording;
use crate::refused::Refused;
use crate::restarter::{Ended, Knobs, Restarter, StoreLedger};
use crate::sampling::Sampling;
use crate::state::State;
use crate::suspicions::Suspicions;
use crate::told::viewer::Viewer;
use crate::webhook::send::{self, Sender};
use crate::words::Words;

/// Connections for the reads that decisions rest on: the fleet (three at once), focused passes, suspicions and leases.
const READS_POOL: usize = 6;

/// Connections for the ledger. They have a pool of their own because a claim calls the platform's `mark_dead`, which may block. That must
/// not delay any read.
const LEDGER_POOL: usize = 4;

/// Connections for what nobody waits for: verdicts, history, and marks, which call the platform's functions too.
const BOOKS_POOL: usize = 4;

/// Connections for the status page and its API.
const PAGE_POOL: usize = 3;

/// Events of one engine that wait for its worker; more are dropped, and the worker looks at the whole engine instead.
const EVENTS_MAX: usize = 4_096;

/// The pause between two tries while the database is away at the start.
const SCHEMA_RETRY: Duration = Duration::from_secs(1);

/// The daemon, put together.
struct Daemon {
    state: Arc<State>,
    store: Store,
    engines: BTreeMap<EngineName, Arc<dyn Engine>>,
    news: Arc<News>,
    recorder: Arc<Recorder>,
    memory: Arc<Memory>,
    marks: Arc<Marks>,
    leases: Arc<Leases>,
    restarter: Arc<Restarter>,
    evictor: Option<Arc<Evictor>>,
    metrics: Arc<Metrics>,
    /// The tables for the outbox. Nobody waits for the outbox.
    tables: Store,
}

/// Runs until a signal. The configuration has been checked, so only what is outside of the process can be wrong.
pub(crate) async fn run(config: Config, migrate: bool) -> anyhow::Result<()> {
    files::raise_limit();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let config = Arc::new(config);
    let clock = clock::monotonic();
    let engines = connect::engines(&config, &clock)?;
    let names: Vec<EngineName> = engines.keys().cloned().collect();
    let metrics = Arc::new(Metrics::new(&names).context("the metrics")?);
    let recording = Recording::start(&config)?.map(Arc::new);
    let health = Arc::new(Health::new(clock(), turn_within(&config), names.into_iter()));
    let http = http::bind(config.listen_addr).await?;
    let viewer = viewer(&config, &clock)?;
    let (ui, pages) = (viewer.is_some(), viewer.clone());
    let shown = Shown {
        clock: Arc::clone(&clock),
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
        viewer,
        hosts: Arc::new(config.ui_hosts.clone()),
    };
    info!(
        version = env!("CARGO_PKG_VERSION"),
        replica = %config.replica_id,
        listen = %http.local_addr().map(|address| address.to_string()).unwrap_or_default(),
        engines = %config.engines.iter().map(|(name, url)| format!("{name}={url}")).collect::<Vec<_>>().join(","),
        mode = config.policy.mode.label(),
        status_page = ui,
        "defib starts"
    );
    extend_watchdog(&config);
    let (stop, serving) = (CancellationToken::new(), CancellationToken::new());
    let server = tokio::spawn(http::serve(http, shown, serving.clone()));

    let signalled = async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let (ended_sender, ended) = mpsc::unbounded_channel();
    let tape = recording.as_ref().map(|recording| recording.tape());
    let daemon = Arc::new(Daemon::new(config, engines, clock, metrics, Arc::clone(&health), ended_sender, tape)?);
    if let Some(viewer) = pages {
        viewer.know(Arc::clone(&daemon.state));
    }
    let books_stop = CancellationToken::new();
    if let Some(recording) = recording.clone() {
        let (news, stop) = (RecordingNews::new(Arc::clone(&daemon.metrics)), books_stop.clone());
        tokio::spawn(async move { recording.tell(news, stop).await });
    }
    let books = daemon.keep_books(&books_stop);
    let telling = daemon.tell_webhook(&stop)?;
    let mut looping = tokio::spawn(Arc::clone(&daemon).watch_fleet(migrate, ended, stop.clone()));
    let result = tokio::select! {
        by = signalled => {
            info!(by, "stopping");
            health.stopping();
            let _ = sd_notify::notify(&[NotifyState::Stopping]);
            stop.cancel();
            (&mut looping).await.context("the loop")?
        }
        // The loop ends by itself only if it cannot start or has a fault. Otherwise it runs until it is stopped.
        ended = &mut looping => ended.context("the loop")?,
    };
    stop.cancel();
    daemon.restarter.stop();
    // The last verdicts are written now, while the leases are still ours.
    books_stop.cancel();
    for book in books {
        let _ = book.await;
    }
    // Idle engines are released now, so that others take over at once; the busy ones when their restarts have ended.
    daemon.leases.release().await;
    daemon.restarter.shut_down().await;
    daemon.leases.release().await;
    if let Some(telling) = telling {
        let _ = tokio::time::timeout(send::WITHIN + Duration::from_secs(1), telling).await;
    }
    if let Some(recording) = recording {
        recording.stop();
    }
    serving.cancel();
    let _ = server.await;
    if result.is_ok() {
        info!("stopped");
    }
    result
}

/// What reads the fleet for the status page. It has connections of its own, so the daemon never waits for people who look at the page.
fn viewer(config: &Config, clock: &clock::Clock) -> Result<Option<Arc<Viewer>>, Refused> {
    if !config.ui {
        return Ok(None);
    }
    let store =
        connect::store_with(&config.database_url, "defib page", PAGE_POOL, config.fleet_max, Arc::clone(clock))?;
    Ok(Some(Arc::new(Viewer::new(store, config.policy.poll_interval))))
}

impl Daemon {
    fn new(
        config: Arc<Config>,
        engines: BTreeMap<EngineName, Arc<dyn Engine>>,
        clock: clock::Clock,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        ended: mpsc::UnboundedSender<Ended>,
        tape: Option<Box<dyn Tape>>,
    ) -> Result<Self, Refused> {
        let store =
            |pool| connect::store_with(&config.database_url, "defib", pool, config.fleet_max, Arc::clone(&clock));
        let (reads, ledger, books) = (store(READS_POOL)?, store(LEDGER_POOL)?, store(BOOKS_POOL)?);
        connect::listen_settings(&config)?; // it is not used before the schema is there
        let tables = books.clone();
        let ownership = Arc::default();
        let ledger = StoreLedger {
            store: ledger,
            books: books.clone(),
            replica_id: config.replica_id.clone(),
            watched_statuses: config.watched_statuses.clone(),
        };
        let evictor = match (connect::cache(&config)?, &config.evict) {
            (Some(cache), Some(evict)) => {
                let news = EvictionNews::new(Arc::clone(&metrics));
                Some(Arc::new(Evictor::new(evict.patterns.clone(), Arc::new(cache), Arc::clone(&clock), news)))
            }
            _ => None,
        };
        let restarter = Restarter::new(
            Knobs::of(&config),
            Arc::new(ledger),
            &engines,
            Arc::clone(&clock),
            Arc::clone(&ownership),
            RestartNews::new(Arc::clone(&metrics)),
            ended,
        );
        let restarter = Arc::new(restarter.with_evictor(evictor.clone()));
        metrics.mode(config.policy.mode);
        let told = Arc::clone(&metrics);
        let state = Arc::new(State::new(config, clock, ownership).recorded_onto(tape));
        let news = Arc::new(News::new(metrics, health));
        let words = Arc::new(Words::new(Arc::clone(&state), Arc::new(books.clone())));
        let recorder = Recorder::new(Arc::clone(&state), Arc::new(books.clone()), Arc::clone(&news)).with_words(words);
        let recorder = Arc::new(recorder);
        let memory = Arc::new(Memory::new(Arc::clone(&state), Arc::new(books.clone())));
        let marks = Arc::new(Marks::new(Arc::clone(&state), Arc::new(books), Arc::clone(&news)));
        let busy = Arc::clone(&restarter);
        let leases = Arc::new(Leases::new(
            Arc::clone(&state),
            Arc::new(reads.clone()),
            Arc::new(reads.clone()),
            Arc::clone(&recorder),
            Arc::clone(&news),
            Box::new(move || busy.busy_engines()),
            engines.keys().cloned().collect(),
        ));
        Ok(Self {
            state,
            store: reads,
            engines,
            news,
            recorder,
            memory,
            marks,
            leases,
            restarter,
            evictor,
            metrics: told,
            tables,
        })
    }

    /// Starts the tasks that write to the tables and that nobody waits for.
    fn keep_books(&self, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
        let evicting = self.evictor.iter().map(|evictor| tokio::spawn(Arc::clone(evictor).run(stop.clone())));
        let books = [
            tokio::spawn(Arc::clone(&self.memory).run(stop.clone())),
            tokio::spawn(Arc::clone(&self.recorder).run(stop.clone())),
            tokio::spawn(Arc::clone(&self.marks).run(stop.clone())),
        ];
        books.into_iter().chain(evicting).collect()
    }

    /// Starts the delivery of messages, if a webhook is configured.
    fn tell_webhook(&self, stop: &CancellationToken) -> Result<Option<JoinHandle<()>>, Refused> {
        let Some(webhook) = &self.state.config.webhook else { return Ok(None) };
        let sender = Sender::new(webhook.clone()).map_err(|error| Refused(format!("DEFIB_WEBHOOK_URL: {error}")))?;
        let outbox = Outbox {
            state: Arc::clone(&self.state),
            store: self.tables.clone(),
            metrics: Arc::clone(&self.metrics),
            sender,
        };
        Ok(Some(tokio::spawn(outbox.run(stop.clone()))))
    }

    /// Waits for the database and its schema, then turns the loop until stopped.
    async fn watch_fleet(
        self: Arc<Self>,
        migrate: bool,
        ended: mpsc::UnboundedReceiver<Ended>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            ready = self.wait_for_schema(migrate) => ready?,
        }
        let listener = listen(&connect::listen_settings(&self.state.config)?, driver::CHANNELS)
            .map_err(|error| Refused(format!("DEFIB_LISTEN_DATABASE_URL: {}", chain(&error))))?;
        let inputs = Inputs { notifications: notifications(listener), engines: self.listen_to_engines(&stop), ended };
        tokio::spawn(Arc::new(self.orders()).run(stop.clone()));
        let mut jobs = jobs::start(&self.state, &self.store).await?;
        let ran = driver::run(self.parts(), inputs, stop).await;
        if let Err(error) = jobs.shutdown().await {
            warn!(%error, "the maintenance scheduler did not stop");
        }
        ran
    }

    /// Each engine's events have a queue of their own, so that a flood from one makes no other one miss any.
    fn listen_to_engines(
        &self,
        stop: &CancellationToken,
    ) -> BTreeMap<EngineName, mpsc::Receiver<defib_engine::EngineEvent>> {
        let listen = |(name, engine): (&EngineName, &Arc<dyn Engine>)| {
            let (sender, events) = mpsc::channel(EVENTS_MAX);
            let (engine, stop) = (Arc::clone(engine), stop.clone());
            tokio::spawn(async move { engine.watch(sender, stop).await });
            (name.clone(), events)
        };
        self.engines.iter().map(listen).collect()
    }

    fn orders(&self) -> Orders {
        let restarts = Arc::new(Arc::clone(&self.restarter));
        Orders::new(Arc::clone(&self.state), self.store.clone(), self.engines.clone(), restarts)
    }

    fn parts(&self) -> Parts {
        let database = Arc::new(self.store.clone());
        let state = &self.state;
        Parts {
            state: Arc::clone(state),
            reading: Arc::new(Reading::new(
                Arc::clone(state),
                Arc::clone(&database) as _,
                Arc::clone(&self.leases),
                Arc::clone(&self.recorder),
                Arc::clone(&self.news),
            )),
            passes: Arc::new(Passes {
                state: Arc::clone(state),
                sampling: Sampling::new(Arc::clone(state), self.engines.clone()),
                database: Arc::clone(&database) as _,
                recorder: Arc::clone(&self.recorder),
                marks: Arc::clone(&self.marks),
                restarts: Arc::new(Arc::clone(&self.restarter)),
                news: Arc::clone(&self.news),
            }),
            suspicions: Arc::new(Suspicions::new(Arc::clone(state), database, Arc::clone(&self.news))),
            leases: Arc::clone(&self.leases),
            left_behind: Some(Arc::new(LeftBehind {
                state: Arc::clone(state),
                store: self.store.clone(),
                engines: self.engines.clone(),
                restarter: Arc::clone(&self.restarter),
                news: Arc::clone(&self.news),
            })),
            news: Arc::clone(&self.news),
        }
    }

    async fn wait_for_schema(&self, migrate: bool) -> anyhow::Result<()> {
        loop {
            match self.prepare(migrate).await {
                Ok(refusal) => return refusal.map_or(Ok(()), |refusal| Err(refusal.into())),
                Err(error) if error.is_unavailable() => {
                    self.news.database::<()>(&Err(error));
                    // While the database is away, neither a liveness probe nor the watchdog may kill this process.
                    let first = self.news.health().turned(self.state.now());
                    let mut states = vec![NotifyState::Watchdog, NotifyState::Status("waiting for the database")];
                    if first {
                        states.push(NotifyState::Ready);
                    }
                    let _ = sd_notify::notify(&states);
                }
                Err(error) => return Err(Refused(format!("{}{}", database_fault(&error), remedy(&error))).into()),
            }
            tokio::time::sleep(SCHEMA_RETRY).await;
        }
    }

    /// Brings the schema up to date if asked to, refuses one that does not fit, and takes the leases that are free.
    async fn prepare(&self, migrate: bool) -> Result<Option<Refused>, StoreError> {
        if migrate || self.state.config.auto_migrate {
            let report = self.store.migrate().await?;
            if !report.applied.is_empty() {
                info!(from = report.from, to = report.to, "schema migrated");
            }
            if !report.roles_missing.is_empty() {
                warn!(
                    roles = report.roles_missing.join(", "),
                    "these roles do not exist, and this login may not create roles: have somebody with CREATEROLE run `create role <name> \
                     nologin` for each, and then run `defib migrate`, which grants them their rights"
                );
            }
        }
        let mut refusal = match self.store.schema_state().await? {
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
            refusal = self.unwatched_mark().await?;
        }
        if refusal.is_none() {
            // The leases are taken now, so that the first pass may already record and restart. If this fails, the loop tries again.
            let _ = self.leases.turn().await;
        }
        Ok(refusal.map(Refused))
    }
}

impl Daemon {
    /// Refuses to start if `mark_dead` writes a status that is not watched, because a dead workspace would leave the fleet when it is first
    /// marked.
    async fn unwatched_mark(&self) -> Result<Option<String>, StoreError> {
        match marked_status::find(&self.store, &self.state.config).await {
            Ok(MarkedStatus::Unwatched(why)) => Ok(Some(why)),
            Ok(MarkedStatus::Watched(_) | MarkedStatus::Unknown | MarkedStatus::NeverWritten) => Ok(None),
            Err(error) if error.is_unavailable() => Err(error),
            Err(error) => {
                let error = database_fault(&error);
                warn!(error, "it cannot be told which status defib.mark_dead writes, nor whether it is watched");
                Ok(None)
            }
        }
    }
}

/// What to do about an error that ends the start.
fn remedy(error: &StoreError) -> &'static str {
    match error {
        StoreError::Migrate(_) if error.kind() == "permission" => {
            ": have the owner of the schema, or a login that may create schemas in this database, run `defib migrate`"
        }
        error if error.kind() == "permission" => {
            ": grant this login what the daemon needs, as in `grant defib_daemon to <login>`"
        }
        _ => "",
    }
}

/// The notifications of the database as a queue. It ends when nobody reads it any more.
fn notifications(mut listener: Listener) -> mpsc::Receiver<ListenEvent> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move { while sender.send(listener.next().await).await.is_ok() {} });
    receiver
}

/// The watchdog of the systemd unit does not know our poll interval. If it is too short for it, systemd is asked for a longer one, so that
/// it does not kill a healthy daemon.
fn extend_watchdog(config: &Config) {
    let needed = turn_within(config);
    if sd_notify::watchdog_enabled().is_some_and(|watchdog| watchdog < needed) {
        let micros = u32::try_from(needed.as_micros()).unwrap_or(u32::MAX);
        let _ = sd_notify::notify(&[NotifyState::WatchdogUsec(micros)]);
    }
}

/// The longest time between the ends of two passes over the fleet, however badly they go.
fn turn_within(config: &Config) -> Duration {
    3 * config.policy.poll_interval + 4 * config.engine_timeout + 2 * STATEMENT_TIMEOUT
}
