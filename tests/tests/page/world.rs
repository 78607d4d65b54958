//! A made-up fleet, and a daemon that shows it. The daemon owns none of its engines, so it changes nothing of it.

use anyhow::{Context, Result};
use defib_tests::{Daemon, Stage};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const FLEET: &str = include_str!("../../sql/page.sql");

/// An engine that is never there.
pub(crate) const NO_ENGINE: &str = "unix:///nonexistent/defib-page.sock";

/// An id that an address, a page and a terminal must all take as text.
pub(crate) const HOSTILE: &str = "<script>alert(\"id\")</script>\u{202e}/?#%";

/// This id as it is written in an address.
pub(crate) const HOSTILE_ESCAPED: &str = "%3Cscript%3Ealert%28%22id%22%29%3C%2Fscript%3E%E2%80%AE%2F%3F%23%25";

/// A made-up fleet, that of `sql/page.sql` unless a test brings its own, and the daemon that shows it.
pub(crate) struct World {
    pub(crate) stage: Stage,
    pub(crate) daemon: Daemon,
}

impl World {
    pub(crate) async fn new(workspaces: u32, engines: u32) -> Result<Self> {
        let stage = Stage::new(NO_ENGINE).await?;
        Self::on(stage, workspaces, engines).await
    }

    pub(crate) async fn on(stage: Stage, workspaces: u32, engines: u32) -> Result<Self> {
        let fleet = FLEET.replace("%workspaces%", &workspaces.to_string()).replace("%engines%", &engines.to_string());
        Self::with(stage, &fleet).await
    }

    /// The fleet that these statements make.
    pub(crate) async fn with(stage: Stage, fleet: &str) -> Result<Self> {
        stage
            .db
            .another_connection()
            .await?
            .batch_execute(fleet)
            .await
            .context("the statements that make the fleet")?;
        let daemon = stage.start().await?;
        Ok(Self { stage, daemon })
    }

    /// The address of a place, for a browser.
    pub(crate) fn address(&self, path: &str) -> String {
        format!("http://{}{path}", self.daemon.address())
    }

    /// An answer of the API, which must be JSON.
    pub(crate) async fn json(&self, path: &str) -> Result<(u16, Value)> {
        let (status, body) = self.daemon.get(path).await?;
        Ok((status, serde_json::from_str(&body).with_context(|| format!("{path}: {body}"))?))
    }

    /// A page of the given path, which must be there.
    pub(crate) async fn page(&self, path: &str) -> Result<String> {
        let (status, body) = self.daemon.get(path).await?;
        anyhow::ensure!(status == 200, "{path} answers {status}: {body}");
        Ok(body)
    }

    /// The whole answer to a request with further headers, head and body.
    pub(crate) async fn whole(&self, path: &str, headers: &str) -> Result<String> {
        self.whole_of("defib", path, headers).await
    }

    /// The same, asked by another name.
    pub(crate) async fn whole_of(&self, host: &str, path: &str, headers: &str) -> Result<String> {
        self.answer(&format!("GET {path}"), host, headers).await
    }

    /// The whole answer to a request with this method and path.
    pub(crate) async fn answer(&self, request: &str, host: &str, headers: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.daemon.address()).await?;
        stream.write_all(format!("{request} HTTP/1.0\r\nHost: {host}\r\n{headers}\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}
