//! A running `defib run`, and the results of commands.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use defib_testkit::program::Stream;
use defib_testkit::{Program, eventually, process};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::{Metrics, SOON};

/// An answer of the HTTP port takes a millisecond.
const HTTP_DEADLINE: Duration = Duration::from_secs(5);

/// A `defib run`. Dropping it kills it, and prints its log where the test fails.
#[derive(Debug)]
pub struct Daemon {
    /// The process.
    pub program: Program,
    address: SocketAddr,
}

impl Daemon {
    /// Takes over a program that was just started with JSON logs, once its HTTP port listens.
    pub(crate) async fn new(program: Program) -> Result<Self> {
        let line = program.wait_for_line("\"defib starts\"", SOON).await?;
        let started: Value = serde_json::from_str(&line.text).context("the first log line is no JSON")?;
        let address = started["listen"].as_str().context("the first log line has no address")?.parse()?;
        Ok(Self { program, address })
    }

    /// Prints no log when it is dropped: for runs of hundreds.
    #[must_use]
    pub fn quiet(self) -> Self {
        Self { program: self.program.quiet(), ..self }
    }

    /// Where its HTTP port is.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// `GET`: the status and the body.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        timeout(HTTP_DEADLINE, get(self.address, path)).await.with_context(|| format!("GET {path}: no answer"))?
    }

    /// `GET /readyz`: whether it is ready, and the reason.
    pub async fn readiness(&self) -> Result<(bool, String)> {
        let (status, body) = self.get("/readyz").await?;
        let body: Value = serde_json::from_str(&body).with_context(|| format!("/readyz: {body}"))?;
        Ok((status == 200, body["reason"].as_str().context("/readyz gives no reason")?.to_owned()))
    }

    /// Waits until `/readyz` says so.
    pub async fn wait_until_ready(&self) -> Result<()> {
        eventually(SOON, "defib is ready", async || match self.readiness().await {
            Ok((true, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// Waits until `/readyz` says that it is not, for a reason that contains this.
    pub async fn wait_until_unready(&self, because: &str) -> Result<()> {
        eventually(SOON, &format!("defib is not ready: {because}"), async || match self.readiness().await {
            Ok((false, reason)) if reason.contains(because) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// Waits until it has made no pass over the fleet for `span`, which must be shorter than its poll interval.
    pub async fn wait_until_idle(&self, span: Duration) -> Result<()> {
        let last = std::cell::Cell::new((Instant::now(), f64::NAN));
        eventually(SOON + span, "defib is idle", async || {
            let metrics = self.metrics().await.map_err(|error| format!("{error:#}"))?;
            let passes = metrics.sum("defib_ticks_total", "scope=\"fleet\"");
            if last.get().1.total_cmp(&passes).is_ne() {
                last.set((Instant::now(), passes));
            }
            if last.get().0.elapsed() >= span { Ok(()) } else { Err(format!("{passes} passes")) }
        })
        .await
    }

    /// Waits until it has made this many more passes over the fleet, successful or not.
    pub async fn wait_for_passes(&self, more: u32) -> Result<()> {
        let made = async || Ok::<_, anyhow::Error>(self.metrics().await?.sum("defib_ticks_total", "scope=\"fleet\""));
        let wanted = made().await? + f64::from(more);
        eventually(SOON, "some passes later", async || match made().await {
            Ok(passes) if passes >= wanted => Ok(()),
            other => Err(format!("{other:?} of {wanted}")),
        })
        .await
    }

    /// A scrape.
    pub async fn metrics(&self) -> Result<Metrics> {
        let (status, body) = self.get("/metrics").await?;
        ensure!(status == 200, "/metrics answers {status}");
        Metrics::parse(&body)
    }

    /// Waits until a series has a value for which `holds`.
    pub async fn wait_for_metric(&self, series: &str, holds: impl Fn(f64) -> bool, deadline: Duration) -> Result<f64> {
        eventually(deadline, series, async || {
            let value = self.metrics().await.and_then(|metrics| metrics.value(series));
            let value = value.map_err(|error| format!("{error:#}"))?;
            if holds(value) { Ok(value) } else { Err(value.to_string()) }
        })
        .await
    }

    /// The log so far. An error when a line of it is no JSON.
    pub fn log(&self) -> Result<Vec<Value>> {
        let lines = self.program.lines();
        let lines = lines.iter().filter(|line| line.stream == Stream::Err);
        lines.map(|line| serde_json::from_str(&line.text).with_context(|| format!("no JSON: {}", line.text))).collect()
    }

    /// Sends SIGKILL, so that it can finish nothing.
    pub async fn kill(&self) -> Result<()> {
        self.program.signal(process::Signal::KILL)?;
        self.program.wait_exit(SOON).await.map(drop)
    }

    /// SIGTERM, and the wait for its end.
    pub async fn stop(&self, deadline: Duration) -> Result<ExitStatus> {
        self.program.signal(process::Signal::TERM)?;
        self.program.wait_exit(deadline).await
    }
}

/// HTTP/1.0, so that the end of the connection is the end of the answer.
async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: defib\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no HTTP: {answer}"))?;
    let status = head.split(' ').nth(1).with_context(|| format!("no status: {head}"))?;
    Ok((status.parse()?, body.to_owned()))
}

/// The result of a command.
#[derive(Debug)]
pub struct Finished {
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    /// All of it.
    pub stdout: String,
    /// All of it.
    pub stderr: String,
}

impl Finished {
    pub(crate) async fn wait(program: Program) -> Result<Self> {
        let status = program.wait_exit(SOON).await?;
        let finished = Self { code: status.code(), stdout: program.stdout(), stderr: program.stderr() };
        drop(program.quiet());
        Ok(finished)
    }

    /// The same, if it ended with this code.
    pub fn with_code(self, code: i32) -> Result<Self> {
        ensure!(self.code == Some(code), "exit code {:?} and not {code}:\n{}{}", self.code, self.stdout, self.stderr);
        Ok(self)
    }
}
