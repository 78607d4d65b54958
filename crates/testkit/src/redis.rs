//! A Redis of one's own: one server, a cluster of one, or a server with a sentinel.
//!
//! It listens on a port of 127.0.0.1, keeps nothing on disk, and can be frozen, stopped and started again on its port. Its keys are
//! read and written over a connection that knows four commands, so that the tests depend on no client library.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::certificates::Certificate;
use crate::guardian::Guardian;
use crate::net::free_port;
use crate::process::{self, Signal};
use crate::wait::eventually;

/// How long a start may take. It usually takes some milliseconds.
const DEADLINE: Duration = Duration::from_secs(20);

/// The service that the sentinel knows its server by.
pub const SERVICE: &str = "cache";

/// A Redis server. Dropping it kills it and removes its files.
#[derive(Debug)]
pub struct PrivateRedis {
    program: PathBuf,
    port: u16,
    tls_port: Option<u16>,
    password: Option<String>,
    arguments: Vec<String>,
    process: Mutex<Option<Child>>,
    guardian: Option<Guardian>, // taken in `drop`, before the wait for the process that it kills
}

impl PrivateRedis {
    /// One without a password.
    pub async fn start() -> Result<Self> {
        Self::new(None, &[])?.started().await
    }

    /// One that wants this password.
    pub async fn with_password(password: &str) -> Result<Self> {
        Self::new(Some(password), &["--requirepass", password])?.started().await
    }

    /// One that also serves TLS with this certificate, on a second port.
    pub async fn with_tls(certificate: &Certificate) -> Result<Self> {
        let tls_port = free_port()?;
        let (port, chain) = (tls_port.to_string(), certificate.chain().display().to_string());
        let key = certificate.key().display().to_string();
        let tls = ["--tls-port", &port, "--tls-cert-file", &chain, "--tls-key-file", &key, "--tls-auth-clients", "no"];
        let mut server = Self::new(None, &tls)?;
        server.tls_port = Some(tls_port);
        server.started().await
    }

    /// Starts a cluster with one node, which has all slots.
    pub async fn cluster() -> Result<Self> {
        // Without this it takes the port that is 10,000 higher than the other one, which somebody may have.
        let bus_port = free_port()?.to_string();
        let server = Self::new(None, &["--cluster-enabled", "yes", "--cluster-port", &bus_port])?.started().await?;
        server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await?;
        eventually(DEADLINE, "the cluster is complete", async || match server.command(&["CLUSTER", "INFO"]).await {
            Ok(Some(info)) if info.contains("cluster_state:ok") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await?;
        Ok(server)
    }

    /// A sentinel that knows `primary` as [`SERVICE`].
    pub async fn sentinel_of(primary: &Self) -> Result<Self> {
        let mut sentinel = Self::new(None, &["--sentinel"])?;
        let guardian = sentinel.guardian.as_ref().context("it is being dropped")?;
        // A sentinel needs a configuration file that it may write to.
        let file = guardian.directory().join("sentinel.conf");
        let text = format!("sentinel monitor {SERVICE} 127.0.0.1 {} 1\n", primary.port);
        std::fs::write(&file, text).context("write sentinel.conf")?;
        sentinel.arguments.insert(0, file.display().to_string());
        sentinel.started().await
    }

    fn new(password: Option<&str>, arguments: &[&str]) -> Result<Self> {
        Ok(Self {
            program: find_program()?,
            port: free_port()?,
            tls_port: None,
            password: password.map(str::to_owned),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            process: Mutex::new(None),
            guardian: Some(Guardian::start()?),
        })
    }

    async fn started(self) -> Result<Self> {
        self.start_server().await?;
        Ok(self)
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, for addresses that are written otherwise.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `redis://…`, with its password.
    #[must_use]
    pub fn url(&self) -> String {
        let login = self.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis://{login}{}", self.host())
    }

    /// `rediss://…`, for a server of this DNS name that serves TLS.
    pub fn tls_url(&self, name: &str) -> Result<String> {
        Ok(format!("rediss://{name}:{}", self.tls_port.context("it serves no TLS")?))
    }

    /// Writes a key.
    pub async fn set(&self, key: &str, value: &str) -> Result<()> {
        self.command(&["SET", key, value]).await.map(drop)
    }

    /// A key's value; `None` where there is no such key.
    pub async fn get(&self, key: &str) -> Result<Option<String>> {
        self.command(&["GET", key]).await
    }

    /// Runs a command.
    ///
    /// # Errors
    /// When the server refuses it, with its words.
    pub async fn command(&self, words: &[&str]) -> Result<Option<String>> {
        let talk = async {
            let mut stream = BufReader::new(TcpStream::connect(self.host()).await.context("connect to Redis")?);
            if let Some(password) = &self.password {
                ask(&mut stream, &["AUTH", password]).await?;
            }
            ask(&mut stream, words).await
        };
        tokio::time::timeout(DEADLINE, talk).await.with_context(|| format!("{words:?}: no answer"))?
    }

    /// Freezes it: connections stay up and nothing answers.
    pub fn pause(&self) -> Result<()> {
        process::freeze(self.pid().context("Redis is not running")?)
    }

    /// Undoes [`pause`](Self::pause).
    pub fn resume(&self) -> Result<()> {
        process::signal(self.pid().context("Redis is not running")?, Signal::CONT)
    }

    /// Ends it. Its keys are lost. Nothing happens when it does not run.
    pub async fn stop_server(&self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        process::signal(pid, Signal::KILL)?;
        eventually(DEADLINE, "Redis ends", async || match self.pid() {
            None => Ok(()),
            Some(_) => Err("it runs".to_owned()),
        })
        .await
    }

    /// Starts it on its port again. Nothing happens when it runs.
    pub async fn start_server(&self) -> Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        let guardian = self.guardian.as_ref().context("it is being dropped")?;
        let mut command = guardian.command(&self.program);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).context("open its log")?;
        command.args(&self.arguments).args(["--bind", "127.0.0.1", "--port", &self.port.to_string()]);
        if !self.arguments.iter().any(|argument| argument == "--sentinel") {
            command.args(["--save", "", "--appendonly", "no"]);
        }
        command.stdout(log).stderr(Stdio::null());
        *lock(&self.process) = Some(command.spawn().context("run redis-server")?);
        eventually(DEADLINE, "Redis answers", async || {
            if self.pid().is_none() {
                return Ok(Err(process::tail(&self.log())));
            }
            self.command(&["PING"]).await.map(|_| Ok(())).map_err(|error| format!("{error:#}"))
        })
        .await?
        .map_err(|log| anyhow::anyhow!("Redis ended at its start; its log ends:\n{log}"))
    }

    fn log(&self) -> PathBuf {
        self.guardian.as_ref().map(|guardian| guardian.directory().join("log")).unwrap_or_default()
    }

    fn pid(&self) -> Option<u32> {
        let mut process = lock(&self.process);
        let child = process.as_mut()?;
        child.try_wait().ok().flatten().is_none().then(|| child.id())
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        drop(self.guardian.take());
        if let Some(mut child) = lock(&self.process).take() {
            let _ = child.wait(); // dead already: this only takes its exit status, so that no zombie stays
        }
    }
}

/// One command and its answer: a text, a number as text, or nothing.
async fn ask(stream: &mut BufReader<TcpStream>, words: &[&str]) -> Result<Option<String>> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.extend(["$", &word.len().to_string(), "\r\n", word, "\r\n"]);
    }
    stream.get_mut().write_all(request.as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let line = line.trim_end();
    ensure!(!line.is_empty(), "{words:?}: Redis closed the connection");
    let (kind, rest) = line.split_at(1);
    match kind {
        "+" | ":" => Ok(Some(rest.to_owned())),
        "-" => bail!("{words:?}: {rest}"),
        "$" if rest == "-1" => Ok(None),
        "$" => {
            let mut bytes = vec![0; rest.parse::<usize>()? + 2];
            stream.read_exact(&mut bytes).await?;
            bytes.truncate(bytes.len() - 2);
            Ok(Some(String::from_utf8(bytes)?))
        }
        _ => bail!("{words:?}: an answer of another kind: {line}"),
    }
}

fn find_program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|directory| directory.join("redis-server")).find(|file| file.is_file());
    found.context("no redis-server on PATH: run deploy/dev/install.sh")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
