//! The stage: everything that has to run before the first scene, and the order in which it comes and goes.
//!
//! ```text
//!  traffic ──► proxy ──► agents                   heartbeats: agents ──► platform ──► Postgres
//!                │                                                                        │
//!                └── suspicions ──► Postgres ◄──────────── defib ──► Docker engine ◄──────┘
//! ```
//!
//! Agents run in containers, and one on an instance, of which only the platform's control plane can tell anything. What the engine cannot
//! restart, defib asks the platform for.
//!
//! Whatever is started here ends with its value, except what is on somebody else's engine: `Engine::clear` removes that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use defib_testkit::eventually;
use defib_testkit::program::built_program;
use tokio_postgres::Client;

use crate::cast::{self, Instance, Player, Role};
use crate::database::{Database, Login};
use crate::defib::{self, Daemon};
use crate::engine::{self, Engine};
use crate::machines::Machines;
use crate::platform::{Platform, Record};
use crate::proxy::Proxy;
use crate::traffic::Traffic;
use crate::voice::Voice;

/// Containers that are started at once.
const STARTS_AT_ONCE: usize = 4;

/// Intervals between heartbeats from which defib learns their length.
const INTERVALS: u32 = 3;

/// Until the first heartbeat of every agent has arrived.
const FIRST_BEATS_DEADLINE: Duration = Duration::from_secs(20);

/// The stage with everybody on it.
pub(crate) struct Stage<'a> {
    pub(crate) voice: &'a Voice,
    pub(crate) engine: &'a Engine,
    pub(crate) daemon: Daemon,
    pub(crate) platform: Platform,
    pub(crate) proxy: Proxy,
    pub(crate) traffic: Traffic,
    /// For looking, as `defib_viewer`.
    pub(crate) viewer: Client,
    /// Those in containers.
    pub(crate) players: Vec<Player>,
    /// The one without.
    pub(crate) instance: Instance,
    pub(crate) program: PathBuf,
    deaths: Mutex<BTreeMap<&'static str, u32>>,
    database: Database,
}

impl<'a> Stage<'a> {
    /// Starts everything, and says what.
    pub(crate) async fn set(voice: &'a Voice, engine: &'a Engine, database: Database) -> Result<Self> {
        let say = |who: &str, text: &str| voice.line(voice.elapsed(), who, text);
        say("engine", &engine.describe().await?);
        let program = built_program("defib")?;
        let agent = agent_program()?;
        engine.clear().await.context("remove what an earlier demo left behind")?;
        engine.import_agent(&agent).await?;
        let machines = Machines::new(&agent)?;

        defib::command(&program, &database.url(Login::Owner), &["migrate"]).await?;
        database.create_logins().await?;
        let mut roles = cast::roles()?;
        let first = machines.reserve();
        let on_instance = cast::role_on(first.clone())?;
        let instance = Instance { id: on_instance.id, address: on_instance.address, first };
        roles.push(on_instance);
        let container_name = |id: &str| engine.container_name(id);
        database.enter(&roles, container_name).await?;
        say("database", &format!("Postgres on 127.0.0.1:{}, private; `defib migrate` has run", database.port()));

        let as_platform = database.connect(Login::Platform).await?;
        let platform = Platform::start(as_platform, engine.handle().clone(), machines, &roles, container_name).await?;
        say(
            "platform",
            &format!("http://{}: takes heartbeats, pauses, resumes, and restarts what no engine can", platform.address),
        );
        let players = start_agents(engine, &platform, &roles).await?;
        platform.boot_instance(instance.id)?;
        first_beats(&platform, &database).await?;
        say("agents", &format!("{} containers and 1 instance run, and all of them beat", players.len()));

        let proxy = Proxy::start(database.connect(Login::Proxy).await?, &roles).await?;
        let traffic = Traffic::start(proxy.address);
        say("proxy", &format!("http://{}: forwards, suspects, restarts nothing; traffic flows", proxy.address));

        let (log, recording) = (kept("defib.log")?, kept("recording")?);
        if recording.exists() {
            std::fs::remove_dir_all(&recording).context("remove the recording of an earlier demo")?;
        }
        let url = database.url(Login::Daemon);
        let daemon = Daemon::start(&program, &url, engine.handle().url(), &platform, log, recording)?;
        daemon.is_ready().await.with_context(|| format!("see {}", daemon.log().display()))?;
        let alive = all_alive(&daemon, roles.len()).await?;
        say("page", &format!("http://{}/ shows the fleet, live, while the scenes play", daemon.address));
        say("defib", &format!("process {}, log {}: {alive} alive", daemon.pid(), show(daemon.log())));

        intervals_to_learn_from(&platform).await?;
        say("defib", "has seen a few heartbeats of each, and knows now how often they come");

        let viewer = database.connect(Login::Viewer).await?;
        let deaths = Mutex::default();
        Ok(Self {
            voice,
            engine,
            daemon,
            platform,
            proxy,
            traffic,
            viewer,
            players,
            instance,
            program,
            deaths,
            database,
        })
    }

    /// Ends defib as an operator would, and then everything else. Each takes a second or two to be sure that nothing is left
    /// of it, so they do it side by side.
    pub(crate) async fn clear(self) -> Result<()> {
        self.traffic.stop();
        self.daemon.stop().await?;
        let Self { daemon, database, platform, .. } = self;
        let gone = tokio::try_join!(
            tokio::task::spawn_blocking(move || drop(daemon)),
            tokio::task::spawn_blocking(move || drop(database)),
            tokio::task::spawn_blocking(move || platform.stop_instances())
        );
        gone.map(|_| ()).context("clean up")
    }

    pub(crate) fn player(&self, id: &str) -> Result<&Player> {
        self.players.iter().find(|player| player.id == id).with_context(|| format!("nobody plays {id}"))
    }

    /// Where a viewer connects.
    pub(crate) fn viewer_url(&self) -> String {
        self.database.url(Login::Viewer)
    }

    /// `kill -9` of an agent, for the books.
    pub(crate) async fn kill(&self, player: &Player) -> Result<SystemTime> {
        let at = self.count_death(player.id);
        self.engine.kill_agent(&player.container).await?;
        Ok(at)
    }

    /// Enters a kill or a removal into the books, and returns when it is.
    pub(crate) fn count_death(&self, id: &'static str) -> SystemTime {
        *self.deaths().entry(id).or_default() += 1;
        SystemTime::now()
    }

    fn deaths(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, u32>> {
        self.deaths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often an agent died, by a kill, by a removal or of a bad configuration.
    pub(crate) fn deaths_of(&self, id: &str, record: &Record) -> u32 {
        self.deaths().get(id).copied().unwrap_or_default() + record.crashed
    }

    /// An operator's command, with the operator's rights.
    pub(crate) async fn defib_as_operator(&self, arguments: &[&str]) -> Result<String> {
        defib::command(&self.program, &self.database.url(Login::Daemon), arguments).await
    }

    /// A command that only looks.
    pub(crate) async fn defib_as_viewer(&self, arguments: &[&str]) -> Result<String> {
        defib::command(&self.program, &self.viewer_url(), arguments).await
    }
}

async fn start_agents(engine: &Engine, platform: &Platform, roles: &[Role]) -> Result<Vec<Player>> {
    let mut players = Vec::new();
    let in_containers: Vec<&Role> = roles.iter().filter(|role| role.instance.is_none()).collect();
    for group in in_containers.chunks(STARTS_AT_ONCE) {
        let starts: Vec<_> = group.iter().copied().map(|role| start_agent(engine, platform, role)).collect();
        players.extend(futures_util::future::try_join_all(starts).await?);
    }
    Ok(players)
}

async fn start_agent(engine: &Engine, platform: &Platform, role: &Role) -> Result<Player> {
    let container_name = engine.container_name(role.id);
    let environment = cast::environment(role.id, role.address, platform.address);
    let container = engine::run_agent(engine.handle(), &container_name, environment).await?;
    let started_at = engine.handle().started_at(&container).await?.context("the container has no start time")?;
    Ok(Player { id: role.id, address: role.address, container, container_name, started_at })
}

/// Waits for a heartbeat of everybody. On somebody else's engine this is where it shows that it is not of this machine.
async fn first_beats(platform: &Platform, database: &Database) -> Result<()> {
    let client = database.connect(Login::Platform).await?;
    let beats = eventually(FIRST_BEATS_DEADLINE, "every agent has sent a heartbeat", async || {
        let silent = client.query("select id from defib.workspaces where last_heartbeat_at is null order by id", &[]);
        let silent = silent.await.map_err(|error| error.to_string())?;
        let silent: Vec<String> = silent.iter().map(|row| row.get(0)).collect();
        if silent.is_empty() { Ok(()) } else { Err(format!("none yet of {}", silent.join(", "))) }
    });
    beats.await.with_context(|| {
        let address = platform.address;
        format!("agents do not reach the platform at {address}; is the engine of another machine? try ENGINE=private")
    })
}

/// Waits until defib has found everybody alive, and returns how many they are.
async fn all_alive(daemon: &Daemon, wanted: usize) -> Result<f64> {
    eventually(FIRST_BEATS_DEADLINE, "defib finds everybody alive", async || {
        match daemon.metric("defib_workspaces{verdict=\"alive\"}").await {
            Ok(Some(alive)) if alive >= wanted as f64 => Ok(alive),
            found => Err(format!("{found:?} of {wanted}")),
        }
    })
    .await
}

/// Waits until everybody has sent as many heartbeats as defib needs to know the interval.
async fn intervals_to_learn_from(platform: &Platform) -> Result<()> {
    let before = platform.records();
    eventually(FIRST_BEATS_DEADLINE, "a few heartbeats of every agent", async || {
        let records = platform.records();
        let beats = |id: &String| before.get(id).map_or(0, |record| record.beats);
        match records.iter().find(|(id, record)| record.beats < beats(id) + INTERVALS) {
            None => Ok(()),
            Some((id, record)) => Err(format!("{} of {id}", record.beats)),
        }
    })
    .await
}

/// Built by `make demo` with `-C target-feature=+crt-static`.
fn agent_program() -> Result<PathBuf> {
    let path = std::env::var_os("AGENT").map(PathBuf::from);
    path.filter(|path| path.is_file()).context("AGENT does not name the static agent: start the demo by `make demo`")
}

/// The path of a file or a directory in `target/demo`. What is there outlives the demo, so that it can be looked at.
fn kept(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the running program")?;
    let directory = own.ancestors().nth(2).context("the program is in no target directory")?.join("demo");
    std::fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    Ok(directory.join(name))
}

/// A path as short as the working directory allows.
pub(crate) fn show(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}
