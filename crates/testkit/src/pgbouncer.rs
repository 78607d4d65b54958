//! A pgbouncer of one's own, in transaction mode: what stands between most programs and their Postgres.
//!
//! It is strict on purpose. In transaction mode it hands a server connection to whoever begins the next transaction, so a
//! statement prepared in one is unknown in the next, a session's settings are somebody else's, and LISTEN is answered and then
//! lost. With a pool of two connections all of that happens within a few statements.

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio_postgres::SimpleQueryMessage;

use crate::account::Account;
use crate::guardian::Guardian;
use crate::net::free_port;
use crate::postgres::{PrivatePostgres, connect};
use crate::process::{self, Signal};
use crate::wait::eventually;

/// A start takes some milliseconds. Larger only delays the report of one that never will.
const DEADLINE: Duration = Duration::from_secs(20);

/// A pgbouncer before a [`PrivatePostgres`], for all of its databases. Dropping it kills it and removes its files.
#[derive(Debug)]
pub struct PgBouncer {
    program: PathBuf,
    account: Option<Account>,
    port: u16,
    pool_size: usize,
    process: Mutex<Option<Child>>,
    guardian: Option<Guardian>, // taken in `drop`, before the wait for the process that it kills
}

impl PgBouncer {
    /// Starts one before `server`, with so many server connections for each database and user.
    ///
    /// # Errors
    /// When there is no pgbouncer, with what to install.
    pub async fn before(server: &PrivatePostgres, pool_size: usize) -> Result<Self> {
        let pooler = Self {
            program: find_program()?,
            account: Account::needed()?,
            port: free_port()?,
            pool_size,
            process: Mutex::new(None),
            guardian: Some(Guardian::start()?),
        };
        pooler.configure(server)?;
        pooler.start().await?;
        Ok(pooler)
    }

    /// The same address with this pooler's port: `postgres://user@127.0.0.1:…/database`.
    pub fn url(&self, direct: &str) -> Result<String> {
        let (before, after) = direct.rsplit_once(':').context("the address has no port")?;
        let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
        Ok(format!("{before}:{}{after}", self.port))
    }

    /// Makes the pooler connect to `server` from now on, as an operator does after a fail-over: by another configuration and a reload.
    /// Server connections to the old one end with their transactions.
    pub async fn point_at(&self, server: &PrivatePostgres) -> Result<()> {
        self.configure(server)?;
        self.admin("RELOAD").await.map(drop)
    }

    /// Ends it; its clients are cut off. Nothing happens when it does not run.
    pub async fn stop(&self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        process::signal(pid, Signal::TERM)?;
        eventually(DEADLINE, "pgbouncer ends", async || match self.pid() {
            None => Ok(()),
            Some(_) => Err(format!("its log ends:\n{}", process::tail(&self.log()))),
        })
        .await
    }

    /// Starts it on its port again. Nothing happens when it runs.
    pub async fn start(&self) -> Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        let guardian = self.guardian.as_ref().context("it is being dropped")?;
        let mut command = guardian.command(&self.program);
        if let Some(account) = self.account {
            account.run(&mut command);
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).context("open its log")?;
        command.arg("pgbouncer.ini").stdout(Stdio::null()).stderr(log);
        *lock(&self.process) = Some(command.spawn().context("run pgbouncer")?);
        eventually(DEADLINE, "pgbouncer answers", async || {
            let state = || format!("its log ends:\n{}", process::tail(&self.log()));
            if self.pid().is_none() {
                return Ok(Err(state()));
            }
            self.admin("SHOW VERSION").await.map(|_| Ok(())).map_err(|error| format!("{error:#}; {}", state()))
        })
        .await?
        .map_err(|state| anyhow::anyhow!("pgbouncer ended at its start; {state}"))
    }

    /// Starts it again whenever it has ended, as a service manager does, until this is dropped or a start fails. Version 1.18, which is
    /// Debian 12's, now and then ends itself with "bad client state: 0" when a client has asked it to cancel a statement and leaves
    /// (pgbouncer's issue 801).
    pub async fn start_whenever_it_ends(&self) -> Result<Infallible> {
        loop {
            self.start().await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// How many transactions it has passed on, over all databases: proof that somebody was served.
    pub async fn transactions(&self) -> Result<u64> {
        let rows = self.admin("SHOW STATS_TOTALS").await?;
        let counts = rows.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get("xact_count")?.parse::<u64>()),
            _ => None,
        });
        Ok(counts.collect::<Result<Vec<_>, _>>().context("SHOW STATS_TOTALS")?.iter().sum())
    }

    /// The end of its log, for the message of a failed test.
    #[must_use]
    pub fn log_tail(&self) -> String {
        process::tail(&self.log())
    }

    /// A command of its console.
    async fn admin(&self, command: &str) -> Result<Vec<SimpleQueryMessage>> {
        let console = connect(&format!("postgres://postgres@127.0.0.1:{}/pgbouncer", self.port)).await?;
        console.simple_query(command).await.with_context(|| command.to_owned())
    }

    /// The pooler looks users up in the server, and no user has a password. A server that cannot be reached is tried again after a second,
    /// and not after fifteen: tests have no time for that.
    fn configure(&self, server: &PrivatePostgres) -> Result<()> {
        let guardian = self.guardian.as_ref().context("it is being dropped")?;
        let (server, port, pool_size) = (server.port(), self.port, self.pool_size);
        let users = guardian.directory().join("users.txt");
        let configuration = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={server}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             pool_mode = transaction\n\
             default_pool_size = {pool_size}\n\
             max_client_conn = 200\n\
             server_login_retry = 1\n\
             auth_type = trust\n\
             auth_file = {users}\n\
             auth_user = postgres\n\
             auth_query = select rolname, '' from pg_catalog.pg_roles where rolname = $1\n\
             admin_users = postgres\n",
            users = users.display(),
        );
        std::fs::write(&users, "\"postgres\" \"\"\n").context("write users.txt")?;
        std::fs::write(guardian.directory().join("pgbouncer.ini"), configuration).context("write pgbouncer.ini")
    }

    fn log(&self) -> PathBuf {
        self.guardian.as_ref().map(|guardian| guardian.directory().join("log")).unwrap_or_default()
    }

    /// Its process; `None` when it does not run.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let mut process = lock(&self.process);
        let child = process.as_mut()?;
        child.try_wait().ok().flatten().is_none().then(|| child.id())
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.guardian.take());
        if let Some(mut child) = lock(&self.process).take() {
            let _ = child.wait(); // dead already: this only takes its exit status, so that no zombie stays
        }
    }
}

/// Debian puts it where an ordinary user's PATH does not lead.
fn find_program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = directories.map(|directory| directory.join("pgbouncer")).find(|program| program.is_file());
    found.context("no pgbouncer on PATH or in /usr/sbin: run deploy/dev/install.sh")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
