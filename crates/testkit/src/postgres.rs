//! A Postgres server of one's own.
//!
//! Tests stop it, freeze it and start it again, so it cannot be a server that others use; and it must not be left
//! behind, so it has a [`Guardian`]. It runs from the machine's own binaries, in a private directory, on a port of the
//! loopback interface and on a private unix socket, both without a password.
//!
//! Postgres refuses to run as root: then it runs as the `postgres` user that its package makes.
//!
//! A second server can stream from it ([`PrivatePostgres::standby`]), it can speak TLS ([`PrivatePostgres::serve_tls`]), and it
//! can have a disk that is soon full ([`PrivatePostgres::start_with_small_disk`]).

use std::ffi::OsStr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::account::Account;
use crate::certificates::Certificate;
use crate::guardian::Guardian;
use crate::net::free_port;
use crate::process::{self, Signal};
use crate::wait::eventually;

/// The name of the superuser, whoever runs the server.
const USER: &str = "postgres";

/// A start takes 0.1 s, a stop 0.2 s; a busy machine takes a multiple. Larger delays the report of a server that never will.
const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// The tablespace of [`PrivatePostgres::start_with_small_disk`].
pub const SMALL_TABLESPACE: &str = "small";

/// Mounts the small disk and becomes the server. The mount is in a namespace that ends with the last process of the server,
/// however it ends: nothing has to be unmounted.
const MOUNT_AND_SERVE: &str = r#"
size=$1 directory=$2 uid=$3 gid=$4
shift 4
mount --no-mtab -t tmpfs -o "size=$size,mode=700,uid=$uid,gid=$gid" tmpfs "$directory"
exec setpriv --reuid "$uid" --regid "$gid" --clear-groups -- "$@"
"#;

/// With these settings nothing survives a power cut, which is on purpose. Commits stay synchronous, as in production.
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
    /// Sends SIGKILL to all processes, as if the machine had crashed.
    Kill,
}

/// A private server. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct PrivatePostgres {
    binaries: PathBuf,
    account: Option<Account>,
    port: u16,
    settings: Vec<(String, String)>,
    /// Bytes of the tablespace that is a file system of its own.
    small_disk: Option<u64>,
    postmaster: Mutex<Option<Child>>,
    databases_made: AtomicU64,
    guardian: Option<Guardian>, // taken in `drop`, before the wait for the postmaster that it kills
}

impl PrivatePostgres {
    /// A fresh server, ready for connections. Costs about 0.7 s.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// Like [`start`](Self::start), with settings that go over the kit's own (`[("wal_level", "logical")]`).
    pub async fn start_with(settings: &[(&str, &str)]) -> Result<Self> {
        let server = Self::new(SETTINGS.iter().chain(settings))?;
        server.init().await?;
        server.start_server().await?;
        Ok(server)
    }

    /// Like [`start`](Self::start), with a tablespace [`SMALL_TABLESPACE`] of so many bytes: a file system in memory that
    /// is full when they are used up. Its content is lost when the server stops. Needs root, as every mount does.
    pub async fn start_with_small_disk(bytes: u64) -> Result<Self> {
        let mut server = Self::new(SETTINGS)?;
        ensure!(server.account.is_some(), "a small disk has to be mounted, and only root may: run the tests as root");
        server.small_disk = Some(bytes);
        server.make_directory(&server.small_directory())?;
        server.init().await?;
        server.start_server().await?;
        let sql = format!("create tablespace {SMALL_TABLESPACE} location '{}'", server.small_directory().display());
        connect(&server.url("postgres")).await?.batch_execute(&sql).await.context(sql)?;
        Ok(server)
    }

    /// A second server on a copy of this one's data, with its own port, that replays what this one writes. Read only
    /// until [`promote`](Self::promote). Costs about a second.
    pub async fn standby(&self) -> Result<Self> {
        let mut standby = Self::new(&[])?;
        standby.settings.clone_from(&self.settings);
        for directory in [standby.data(), standby.socket_directory()] {
            standby.make_directory(&directory)?;
        }
        let mut copy = standby.command("pg_basebackup");
        copy.args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"]);
        copy.args(["--username", USER, "--port", &self.port.to_string(), "--host"]).arg(self.socket_directory());
        copy.arg("--pgdata").arg(standby.data());
        let output = tokio::process::Command::from(copy).output().await.context("run pg_basebackup")?;
        ensure!(output.status.success(), "pg_basebackup failed: {}", String::from_utf8_lossy(&output.stderr));
        standby.start_server().await?;
        Ok(standby)
    }

    /// Waits until `standby` has replayed all that this server has written by now.
    pub async fn wait_until_replayed_by(&self, standby: &Self) -> Result<()> {
        let written = connect(&self.url("postgres")).await?.query_one("select pg_current_wal_lsn()::text", &[]).await?;
        let written: String = written.get(0);
        let client = connect(&standby.url("postgres")).await?;
        let sql = format!("select pg_last_wal_replay_lsn() >= '{written}'::pg_lsn, pg_last_wal_replay_lsn()::text");
        eventually(START_DEADLINE, "the standby catches up", async || {
            let row = client.query_one(&sql, &[]).await.map_err(|error| error.to_string())?;
            if row.get(0) { Ok(()) } else { Err(format!("at {:?} of {written}", row.get::<_, Option<String>>(1))) }
        })
        .await
    }

    /// Makes a standby a primary, whatever has become of its former primary.
    pub async fn promote(&self) -> Result<()> {
        let client = connect(&self.url("postgres")).await?;
        let promoted = client.query_one("select pg_promote(true, 30)", &[]).await.context("pg_promote")?;
        ensure!(promoted.get::<_, bool>(0), "the standby was not promoted; its log ends:\n{}", self.log_tail());
        Ok(())
    }

    /// Offers TLS from now on, with this certificate. Connections without it stay possible.
    pub async fn serve_tls(&self, certificate: &Certificate) -> Result<()> {
        let client = connect(&self.url("postgres")).await?;
        for (setting, given) in [("ssl_cert_file", certificate.chain()), ("ssl_key_file", certificate.key())] {
            let copy = self.directory().join(setting);
            std::fs::copy(given, &copy).with_context(|| format!("copy {}", given.display()))?;
            // Postgres takes no key that others may read, and none that is another user's.
            std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o600)).context("protect the key")?;
            self.account.map_or(Ok(()), |account| account.own(&copy))?;
            client.batch_execute(&format!("alter system set {setting} = '{}'", copy.display())).await?;
        }
        client.batch_execute("alter system set ssl = on").await?;
        client.batch_execute("select pg_reload_conf()").await?;
        let address = format!("{}?sslmode=require", self.url("postgres"));
        eventually(START_DEADLINE, "TLS is served", async || {
            // No TLS is needed here: the kind of the refusal shows whether the server offers it.
            match connect(&address).await.map_err(|error| format!("{error:#}")) {
                Err(refusal) if refusal.contains("no TLS implementation configured") => Ok(()),
                other => Err(format!("{:?}", other.map(drop))),
            }
        })
        .await
    }

    fn new<'a>(settings: impl IntoIterator<Item = &'a (&'a str, &'a str)>) -> Result<Self> {
        let guardian = Guardian::start()?;
        Ok(Self {
            binaries: find_binaries()?,
            account: Account::needed()?,
            port: free_port()?,
            settings: settings.into_iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            small_disk: None,
            postmaster: Mutex::new(None),
            databases_made: AtomicU64::new(0),
            guardian: Some(guardian),
        })
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
        process::freeze(pid)?; // first: it cannot fork another backend after this
        for backend in process::children(pid) {
            let _ = process::freeze(backend); // one that has just ended is as good
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

    /// All of the server's log: what it refused, and what it thought of its clients.
    #[must_use]
    pub fn whole_log(&self) -> String {
        std::fs::read(self.log()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn make_directory(&self, directory: &Path) -> Result<()> {
        let made = std::fs::DirBuilder::new().mode(0o700).create(directory);
        made.with_context(|| format!("make {}", directory.display()))?;
        self.account.map_or(Ok(()), |account| account.own(directory))
    }

    async fn init(&self) -> Result<()> {
        for directory in [self.data(), self.socket_directory()] {
            self.make_directory(&directory)?;
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
        let mut command = match (self.small_disk, self.account) {
            (Some(bytes), Some(Account { uid, gid })) => {
                let mut command = self.bare_command(OsStr::new("unshare"));
                command.args(["--mount", "--propagation=private", "--", "sh", "-ec", MOUNT_AND_SERVE, "small-disk"]);
                command.arg(bytes.to_string()).arg(self.small_directory()).args([uid.to_string(), gid.to_string()]);
                command.arg(self.binaries.join("postgres"));
                command
            }
            _ => self.command("postgres"),
        };
        command.arg("-D").arg(self.data()).arg("-k").arg(self.socket_directory());
        command.args(["-p", &self.port.to_string()]);
        for (name, value) in &self.settings {
            command.args(["-c", &format!("{name}={value}")]);
        }
        command.stdout(Stdio::null()).stderr(log).spawn().context("run postgres")
    }

    /// A command of Postgres, as the user that it wants to be.
    fn command(&self, program: &str) -> Command {
        let mut command = self.bare_command(self.binaries.join(program).as_os_str());
        if let Some(account) = self.account {
            account.run(&mut command);
        }
        command
    }

    fn bare_command(&self, program: &OsStr) -> Command {
        let mut command = match &self.guardian {
            Some(guardian) => guardian.command(program),
            None => Command::new(program), // only while being dropped
        };
        // The variables of the test's own environment (PGDATA, PGPORT, LC_ALL …) must not change what it does.
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

    fn small_directory(&self) -> PathBuf {
        self.directory().join("small")
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
