//! The least that an engine must allow: everything that defib does to one, behind proxies that refuse all calls that are not on the list of
//! docs/engine-access.md.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use defib_testkit::filtering_proxy::{FilteringProxy, ListedCall};
use defib_testkit::{PrivateDockerd, PrivatePodman, eventually, free_port};
use defib_tests::{Agent, SOON, Stage, Workspace};

const PAGE: &str = include_str!("../../../docs/engine-access.md");
const HAPROXY: &str = include_str!("../../../deploy/engine-proxy/haproxy.cfg");

/// The calls of the page's table.
fn listed() -> Vec<ListedCall> {
    let cells = |line: &'static str| -> Option<ListedCall> {
        let mut cells = line.strip_prefix("| `")?.split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
        Some(ListedCall { method: cells.next()?, path: cells.next()? })
    };
    PAGE.lines().filter_map(cells).collect()
}

#[tokio::test]
async fn the_calls_of_the_list_are_enough_and_each_is_needed() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let proxy = FilteringProxy::before(dockerd.url(), listed()).await?;
    everything_is_done(dockerd, proxy.url(), "listed").await?;
    ensure!(proxy.refused().is_empty(), "not on the list: {:?}", proxy.refused());
    let unused: BTreeSet<ListedCall> =
        listed().into_iter().collect::<BTreeSet<_>>().difference(&proxy.used()).cloned().collect();
    ensure!(listed().len() > 5 && unused.is_empty(), "on the list, and not needed: {unused:?}");
    Ok(())
}

/// podman's service is asked for nothing else than dockerd is.
#[tokio::test]
async fn the_calls_of_the_list_are_enough_for_podman_too() -> Result<()> {
    let podman = PrivatePodman::shared().await?;
    let proxy = FilteringProxy::before(podman.url(), listed()).await?;
    let stage = Stage::new(proxy.url()).await?.quick_heartbeats();
    let dies = Agent::start(podman, "listed-dies").await?;
    let asked = Agent::start(podman, "listed-asked").await?;
    for agent in [&dies, &asked] {
        stage.db.add(Workspace::new(&agent.id).silent()).await?;
    }
    let said = stage.defib(&["check"]).await?.stdout;
    ensure!(said.contains("ok    engine"), "{said}");
    let _daemon = stage.run().await?;
    for agent in [&dies, &asked] {
        stage.db.wait_for_verdict(&agent.id, Some("silent")).await?;
    }
    podman.kill_main_process(&dies.container).await?;
    stage.db.wait_for_restart(&dies.id, "succeeded", SOON).await?;
    stage.defib(&["restart", &asked.id, "--reason", "it was asked for"]).await?.with_code(0)?;
    stage.db.wait_for_restart(&asked.id, "succeeded", SOON).await?;
    let words = "select count(*) from defib.last_words where log is not null";
    eventually(SOON, "their last words are kept", async || match stage.db.count(words).await {
        Ok(2) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    ensure!(proxy.refused().is_empty(), "not on the list: {:?}", proxy.refused());
    Ok(())
}

#[tokio::test]
async fn without_logs_and_events_the_dead_are_restarted_all_the_same() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let mut calls = listed();
    calls.retain(|call| !call.path.ends_with("/logs") && call.path != "/events");
    let proxy = FilteringProxy::before(dockerd.url(), calls).await?;
    let stage = Stage::new(proxy.url()).await?.quick_heartbeats();
    let agent = Agent::start(dockerd, "without").await?;
    stage.db.add(Workspace::new(&agent.id).silent()).await?;
    let _daemon = stage.run().await?;
    agent.die().await?;
    stage.db.wait_for_restart(&agent.id, "succeeded", SOON).await?;
    let fault = "select count(*) from defib.last_words where exit_code = 137 and log is null and log_fault like '%not on the list%'";
    eventually(SOON, "why its log is not known is told", async || match stage.db.count(fault).await {
        Ok(1) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
}

#[tokio::test]
async fn the_proxy_that_ships_lets_through_what_is_on_the_list_and_nothing_else() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    let proxy = Haproxy::before(dockerd.url()).await?;
    for (method, path) in [
        ("POST", "/containers/create"),
        ("POST", "/v1.41/containers/x/exec"),
        ("POST", "/containers/x/kill"),
        ("DELETE", "/containers/x"),
        ("GET", "/images/json"),
        ("GET", "/containers/x/archive"),
        ("POST", "/containers/x/json"),
        ("GET", "/containers/..%2Fimages/json"),
    ] {
        ensure!(proxy.status(method, path).await? == 403, "{method} {path} is let through");
    }
    ensure!(proxy.status("GET", "/v1.41/containers/nobody/json").await? == 404, "the engine's own word");
    everything_is_done(dockerd, &proxy.url(), "haproxy").await
}

/// A check, a death, a removal, a pause, and a restart by hand.
async fn everything_is_done(dockerd: &PrivateDockerd, url: &str, name: &str) -> Result<()> {
    let stage = Stage::new(url).await?.quick_heartbeats().knob("MISSING_GRACE", "500ms");
    let dies = Agent::start(dockerd, &format!("{name}-dies")).await?;
    let goes = Agent::start(dockerd, &format!("{name}-goes")).await?;
    let rests = Agent::start(dockerd, &format!("{name}-rests")).await?;
    let asked = Agent::start(dockerd, &format!("{name}-asked")).await?;
    for agent in [&dies, &goes, &rests, &asked] {
        stage.db.add(Workspace::new(&agent.id).silent()).await?;
    }
    let said = stage.defib(&["check"]).await?.stdout;
    ensure!(said.contains("ok    engine"), "{said}");
    let _daemon = stage.run().await?;
    dockerd.client().await?.pause_container(&rests.container).await?;

    dies.die().await?;
    stage.db.wait_for_restart(&dies.id, "succeeded", SOON).await?;
    ensure!(dies.starts().await? == 2, "it was started {} times", dies.starts().await?);
    goes.remove().await?;
    eventually(SOON, "who is removed is found missing", async || match stage.db.held(&goes.id).await {
        Ok(held) if held.as_deref() == Some("cannot_recreate") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    stage.defib(&["restart", &asked.id, "--reason", "it was asked for"]).await?.with_code(0)?;
    stage.db.wait_for_restart(&asked.id, "succeeded", SOON).await?;
    ensure!(stage.db.restarts(&rests.id).await?.is_empty(), "who is paused was restarted");
    let words = "select count(*) from defib.last_words where log is not null";
    eventually(SOON, "their last words are kept", async || match stage.db.count(words).await {
        Ok(2) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    dockerd.client().await?.unpause_container(&rests.container).await?;
    Ok(())
}

/// `HAProxy` with the file that ships, but for its port and the engine's socket.
struct Haproxy {
    port: u16,
    process: Child,
    file: PathBuf,
}

impl Haproxy {
    async fn before(engine: &str) -> Result<Self> {
        let socket = engine.strip_prefix("unix://").context("the engine has no unix socket")?;
        let port = free_port()?;
        let text =
            HAPROXY.replace("bind :2375", &format!("bind 127.0.0.1:{port}")).replace("/var/run/docker.sock", socket);
        ensure!(
            text.contains(socket) && text.contains(&port.to_string()),
            "the file has another port or socket by now"
        );
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("haproxy-{port}.cfg"));
        std::fs::write(&file, text)?;
        let mut command = Command::new("haproxy");
        // In the foreground, as a child that dies with the test.
        command.arg("-db").arg("-f").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().context("run haproxy: `make install` brings it (Debian package haproxy)")?;
        let proxy = Self { port, process, file };
        eventually(SOON, "HAProxy answers", async || match proxy.status("GET", "/version").await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await?;
        Ok(proxy)
    }

    fn url(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// The status of an answer.
    async fn status(&self, method: &str, path: &str) -> Result<u16> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await?;
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).with_context(|| format!("no status: {answer}"))
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}
