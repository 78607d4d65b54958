//! A Postgres server of one's own.
//!
//! Tests stop it, freeze it and start it again, so it cannot be a server that others use; and it must not be left
//! behind, so it has a [`Guardian`]. It runs from the machine's own binaries, in a private directory, on a port of the
//! loopback interface and on a private unix socket, both without a password.
//!
//! Postgres refuses to run as root: then it runs as the `postgres` user that its package makes.

use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::guardian::Guardian;
use crate::net::free_port;
use crate::process::{self, Signal};
use crate::wait::eventually;

/// The name of the superuser, whoever runs the server.
const USER: &str = "postgres";

/// A start takes 0.1 s, a stop 0.2 s; a busy machine takes a multiple. Larger delays the report of a server that never will.
const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Nothing here survives a power cut, on purpose. Commits stay synchronous, as in production.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "200"),
    ("shared_buffers", "64MB"),
    ("log_min_messages", "warning"),
];

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Disconnects clients and shuts down cleanly (`pg_ctl stop -m fast`).
    Fast,
    /// Disconnects without a word; the next start replays the log (`pg_ctl stop -m immediate`).
    Immediate,
    /// SIGKILL to all processes: the machine fell over.
    Kill,
}

/// A private server. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct PrivatePostgres {
    binaries: PathBuf,
    account: Option<Account>,
    port: u16,
    settings: Vec<(String, String)>,
    postmaster: Mutex<Option<Child>>,
    databases_made: AtomicU64,
    guardian: Option<Guardian>, // taken in `drop`, before the wait for the postmaster that it kills
}

/// The unprivileged user that a server runs as when we are root.
#[derive(Debug, Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

impl PrivatePostgres {
    /// A fresh server, ready for connections. Costs about 0.7 s.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// Like [`start`](Self::start), with settings that go over the kit's own (`[("wal_level", "logical")]`).
    pub async fn start_with(settings: &[(&str, &str)]) -> Result<Self> {
        let guardian = Guardian::start()?;
        let server = Self {
            binaries: find_binaries()?,
            account: Account::needed()?,
            port: free_port()?,
            settings: SETTINGS.iter().chain(settings).map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            postmaster: Mutex::new(None),
            databases_made: AtomicU64::new(0),
            guardian: Some(guardian),
        };
        server.init().await?;
        server.start_server().await?;
        Ok(server)
    }

    /// One server for the whole test process, started by whoever asks first. Take a database of your own in it
    /// ([`create_database`](Self::create_database)), and neither stop nor pause it: others use it.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<PrivatePostgres> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    /// The port on 127.0.0.1, the same for the life of this value.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database of this server, over TCP.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// The directory of the unix socket, for programs that have no network.
    #[must_use]
    pub fn socket_directory(&self) -> PathBuf {
        self.directory().join("socket")
    }

    /// Makes an empty database with a name of its own, and returns its URL.
    pub async fn create_database(&self) -> Result<String> {
        let name = format!("test_{}", self.databases_made.fetch_add(1, Ordering::Relaxed));
        let client = connect(&self.url("postgres")).await?;
        client.batch_execute(&format!("create database {name}")).await.with_context(|| format!("create {name}"))?;
        Ok(self.url(&name))
    }

    /// Stops the server cleanly and waits until it is gone. Nothing happens when it is not running.
    pub async fn stop_server(&self) -> Result<()> {
        self.stop_server_with(StopMode::Fast).await
    }

    /// Stops the server in the given way and waits until all of its processes are gone.
    pub async fn stop_server_with(&self, mode: StopMode) -> Result<()> {
        let Some(pid) = self.postmaster_pid() else { return Ok(()) };
        match mode {
            StopMode::Fast => process::signal(pid, Signal::INT)?,
            StopMode::Immediate => process::signal(pid, Signal::QUIT)?,
            StopMode::Kill => {
                for pid in self.processes() {
                    let _ = process::signal(pid, Signal::KILL); // one that has just ended is as good
                }
            }
        }
        eventually(STOP_DEADLINE, "the Postgres server stops", async || match self.exit_status() {
            Some(_) if self.processes().is_empty() => Ok(()),
            Some(_) => Err(format!("processes left: {:?}", self.processes())),
            None => Err(format!("still running; its log ends:\n{}", process::tail(&self.log()))),
        })
        .await
    }

    /// Starts the server on its port and its data, and waits until it answers. Nothing happens when it is running.
    pub async fn start_server(&self) -> Result<()> {
        if self.postmaster_pid().is_some() {
            return Ok(());
        }
        let child = self.spawn_postmaster()?;
        *lock(&self.postmaster) = Some(child);
        // Over the private socket: on the port, another process might answer in its place.
        let address = format!("host={} port={} user={USER}", self.socket_directory().display(), self.port);
        let started = eventually(START_DEADLINE, "the Postgres server starts", async || {
            if let Some(status) = self.exit_status() {
                return Ok(Err(status));
            }
            connect(&address).await.map(|_| Ok(())).map_err(|error| format!("{error:#}"))
        })
        .await?;
        match started {
            Ok(()) => Ok(()),
            Err(status) => bail!("Postgres ended at its start ({status}):\n{}", process::tail(&self.log())),
        }
    }

    /// A clean stop and a start. Connections are lost, the start time changes.
    pub async fn restart(&self) -> Result<()> {
        self.stop_server().await?;
        self.start_server().await
    }

    /// Freezes every process of the server: connections stay up and nothing answers.
    pub fn pause(&self) -> Result<()> {
        let pid = self.postmaster_pid().context("the Postgres server is not running")?;
        process::signal(pid, Signal::STOP)?; // first: it cannot fork another backend after this
        for backend in process::children(pid) {
            let _ = process::signal(backend, Signal::STOP); // one that has just ended is as good
        }
        Ok(())
    }

    /// Undoes [`pause`](Self::pause).
    pub fn resume(&self) -> Result<()> {
        let pid = self.postmaster_pid().context("the Postgres server is not running")?;
        for backend in process::children(pid) {
            let _ = process::signal(backend, Signal::CONT);
        }
        process::signal(pid, Signal::CONT)
    }

    /// The end of the server's log, for the message of a failed test.
    #[must_use]
    pub fn log_tail(&self) -> String {
        process::tail(&self.log())
    }

    async fn init(&self) -> Result<()> {
        for directory in [self.data(), self.socket_directory()] {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .create(&directory)
                .with_context(|| format!("make {}", directory.display()))?;
            if let Some(Account { uid, gid }) = self.account {
                chown(&directory, Some(uid), Some(gid))
                    .with_context(|| format!("give away {}", directory.display()))?;
            }
        }
        let mut initdb = self.command("initdb");
        initdb.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username", USER, "--pgdata"]);
        initdb.arg(self.data());
        let output = tokio::process::Command::from(initdb).output().await.context("run initdb")?;
        ensure!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn spawn_postmaster(&self) -> Result<Child> {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.log()).context("open Postgres's log")?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(self.socket_directory());
        command.args(["-p", &self.port.to_string()]);
        for (name, value) in &self.settings {
            command.args(["-c", &format!("{name}={value}")]);
        }
        command.stdout(Stdio::null()).stderr(log).spawn().context("run postgres")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = match &self.guardian {
            Some(guardian) => guardian.command(self.binaries.join(program)),
            None => Command::new(self.binaries.join(program)), // only while being dropped
        };
        if let Some(Account { uid, gid }) = self.account {
            command.uid(uid).gid(gid); // drops the supplementary groups as well
        }
        // The test's own PGDATA, PGPORT, LC_ALL … must not steer it.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C");
        command
    }

    fn directory(&self) -> &Path {
        self.guardian.as_ref().map_or(Path::new("/nonexistent"), Guardian::directory)
    }

    fn data(&self) -> PathBuf {
        self.directory().join("data")
    }

    fn log(&self) -> PathBuf {
        self.directory().join("log")
    }

    /// Every process of the server works in its data directory.
    fn processes(&self) -> Vec<u32> {
        process::working_under(&self.data())
    }

    fn postmaster_pid(&self) -> Option<u32> {
        match self.exit_status() {
            None => lock(&self.postmaster).as_ref().map(Child::id),
            Some(_) => None,
        }
    }

    /// How the server ended; `None` while it runs and when it was never started.
    fn exit_status(&self) -> Option<ExitStatus> {
        lock(&self.postmaster).as_mut().and_then(|child| child.try_wait().ok().flatten())
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        drop(self.guardian.take());
        if let Some(mut child) = lock(&self.postmaster).take() {
            let _ = child.wait(); // dead already: this only takes its exit status, so that no zombie stays
        }
    }
}

/// Connects, with the connection driven by a task of its own. For statements that a test makes itself.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.with_context(|| format!("connect to {url}"))?;
    tokio::spawn(connection);
    Ok(client)
}

impl Account {
    /// `None` when we are an ordinary user and run the server ourselves.
    fn needed() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
        passwd
            .lines()
            .find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
                (name == USER).then_some(Self { uid, gid })
            })
            .map(Some)
            .context("Postgres refuses to run as root, and there is no user `postgres`: run deploy/dev/install.sh")
    }
}

/// The directory with `initdb` and `postgres`: the newest that Debian's packages installed, else where PATH leads.
fn find_binaries() -> Result<PathBuf> {
    let has_both = |directory: &PathBuf| ["initdb", "postgres"].iter().all(|name| directory.join(name).is_file());
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let directory = entry.path().join("bin");
        has_both(&directory).then_some((version, directory))
    });
    if let Some((_, directory)) = installed.max() {
        return Ok(directory);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .find(has_both)
        .context("no initdb and postgres in /usr/lib/postgresql/*/bin or on PATH: run deploy/dev/install.sh")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
