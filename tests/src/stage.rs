//! The database, the engines and the knobs of one test.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use defib_testkit::{PrivatePostgres, Program, ScriptedEngine};

use crate::{Daemon, Database, Finished, Workspace, container, throughout};

/// What tests change in the defaults of `defib run`: the poll interval, because five seconds are too long for a test, and what a program
/// needs that runs in a test.
const KNOBS: &[(&str, &str)] =
    &[("POLL_INTERVAL", "500ms"), ("LEASE_TTL", "2s"), ("LISTEN_ADDR", "127.0.0.1:0"), ("LOG_FORMAT", "json")];

/// How often all rows of the fleet are read in tests.
const RESYNC: &str = "3s";

/// One test's world, but for its containers.
#[derive(Debug)]
pub struct Stage {
    /// Its own database, with the schema.
    pub db: Database,
    knobs: BTreeMap<String, String>,
    engines: Vec<(String, String)>,
}

impl Stage {
    /// A fresh database with the schema, on the Postgres that all tests share, and one engine, `default`.
    pub async fn new(engine_url: &str) -> Result<Self> {
        let stage = Self::bare(PrivatePostgres::shared().await?, engine_url).await?;
        stage.db.wait_until_heartbeats_count().await?;
        stage.defib(&["migrate"]).await?.with_code(0).context("defib migrate")?;
        Ok(stage)
    }

    /// A stage with a scripted engine on which the container of `w1` runs, and with the row `w1` of that workspace.
    pub async fn with_one(w1: Workspace<'_>) -> Result<(Self, ScriptedEngine)> {
        let engine = ScriptedEngine::start().await?;
        engine.add(container("w1"));
        let stage = Self::new(&engine.url()).await?;
        stage.db.add(w1).await?;
        Ok((stage, engine))
    }

    /// A stage on a Postgres of its own, which the test may stop and freeze.
    pub async fn on(server: &PrivatePostgres, engine_url: &str) -> Result<Self> {
        let stage = Self::bare(server, engine_url).await?;
        stage.defib(&["migrate"]).await?.with_code(0).context("defib migrate")?;
        Ok(stage)
    }

    /// Without the schema.
    pub async fn bare(server: &PrivatePostgres, engine_url: &str) -> Result<Self> {
        let db = Database::connect(server.create_database().await?).await?;
        let knobs = KNOBS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Ok(Self { db, knobs, engines: vec![("default".to_owned(), engine_url.to_owned())] })
    }

    /// Sets a knob, without its `DEFIB_`.
    #[must_use]
    pub fn knob(mut self, name: &str, value: &str) -> Self {
        self.knobs.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Removes a knob again, for commands that are run without the daemon's settings.
    #[must_use]
    pub fn without_knob(mut self, name: &str) -> Self {
        self.knobs.remove(name);
        self
    }

    /// Heartbeats are expected each 400 ms, so one that is older than a second is stale.
    ///
    /// With the defaults a heartbeat is fresh for 75 s, and for as long again the heartbeats in a Postgres that has just started are no
    /// witness (section 4.3 of docs/design.md).
    #[must_use]
    pub fn quick_heartbeats(self) -> Self {
        self.knob("HEARTBEAT_INTERVAL", "400ms").knob("RECENT_MIN", "500ms")
    }

    /// Another engine.
    #[must_use]
    pub fn engine(mut self, name: &str, url: &str) -> Self {
        self.engines.push((name.to_owned(), url.to_owned()));
        self
    }

    /// The environment that `defib` gets.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        let engines: Vec<String> = self.engines.iter().map(|(name, url)| format!("{name}={url}")).collect();
        let own = [("DATABASE_URL", self.db.url().to_owned()), ("ENGINES", engines.join(","))];
        // All rows are read as many times less often as by default, where the poll is as quick as in a test.
        let is_quick = self.knobs.get("POLL_INTERVAL").is_some_and(|poll| poll.ends_with("ms"));
        let resync = is_quick.then(|| ("RESYNC_INTERVAL", RESYNC.to_owned()));
        let own = own.into_iter().chain(resync).map(|(name, value)| (name.to_owned(), value));
        own.chain(self.knobs.clone()).map(|(name, value)| (format!("DEFIB_{name}"), value)).collect()
    }

    /// Starts `defib run`, and waits until it is ready.
    pub async fn run(&self) -> Result<Daemon> {
        let daemon = self.start().await?;
        daemon.wait_until_ready().await?;
        Ok(daemon)
    }

    /// Starts a replica of this name, and waits until it is ready.
    pub async fn run_as(&self, replica: &str) -> Result<Daemon> {
        let daemon = Daemon::new(Program::defib(["run"], &self.environment_of(replica))?).await?;
        daemon.wait_until_ready().await?;
        Ok(daemon)
    }

    /// The same, but it dies at the step of a restart named `point`.
    pub async fn run_crashing_at(&self, replica: &str, point: &str) -> Result<Daemon> {
        let daemon = Daemon::new(Program::defib_crashing_at(point, ["run"], &self.environment_of(replica))?).await?;
        daemon.wait_until_ready().await?;
        Ok(daemon)
    }

    /// Starts `defib run` as a process that may have so many files, and waits until it is ready.
    pub async fn run_with_files(&self, files_max: u32) -> Result<Daemon> {
        let daemon = Daemon::new(Program::defib_with_files(files_max, &["run"], &self.environment())?).await?;
        daemon.wait_until_ready().await?;
        Ok(daemon)
    }

    /// Starts a replica of this name in an environment that differs from the others', and waits for its HTTP port alone.
    pub async fn start_with(&self, replica: &str, differing: &[(&str, &str)]) -> Result<Daemon> {
        let mut environment = self.environment_of(replica);
        environment.extend(differing.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Daemon::new(Program::defib(["run"], &environment)?).await
    }

    fn environment_of(&self, replica: &str) -> BTreeMap<String, String> {
        let mut environment = self.environment();
        environment.insert("DEFIB_REPLICA_ID".to_owned(), replica.to_owned());
        environment
    }

    /// Starts `defib run`, and waits for its HTTP port alone.
    pub async fn start(&self) -> Result<Daemon> {
        Daemon::new(Program::defib(["run"], &self.environment())?).await
    }

    /// Runs a command to its end.
    pub async fn defib(&self, arguments: &[&str]) -> Result<Finished> {
        Finished::wait(Program::defib(arguments.iter().copied(), &self.environment())?).await
    }

    /// Checks that for as long as `span` no restart is even claimed.
    pub async fn nothing_is_claimed(&self, span: Duration) -> Result<()> {
        throughout(span, "nothing is claimed", async || {
            let restarts = self.db.all_restarts().await.map_err(|error| format!("{error:#}"))?;
            if restarts.is_empty() { Ok(()) } else { Err(format!("{restarts:#?}")) }
        })
        .await
    }
}
