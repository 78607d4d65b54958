//! The floor: the same rows by a plain `query_raw`, and the same lists by plain hyper, both decoded and thrown away. It runs in a
//! process of its own, so that its processor time is its own.

use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio_postgres::NoTls;

use super::process::{cpu, cpu_since};
use super::world::World;

/// So many lists are read at a time.
const AT_ONCE: usize = 8;

/// How long it may take in all.
const DEADLINE: Duration = Duration::from_secs(120);

/// What it cost, in microseconds, a figure for each round.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Floor {
    /// Its own processor time.
    cpu: Vec<u64>,
    /// The part of it that the rows took; the rest is the lists'.
    rows_cpu: Vec<u64>,
    /// That of the database's backend.
    server_cpu: Vec<u64>,
    /// From the first row to the last list.
    wall: Vec<u64>,
}

/// What of an entry is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    id: String,
    state: String,
    status: String,
}

impl Floor {
    /// Runs it as a process.
    pub(super) async fn measure(world: &World, rounds: usize) -> Result<Self> {
        let own = std::env::current_exe().context("find the running program")?;
        let program = defib_testkit::Program::start(own, ["floor", &rounds.to_string()], &world.addresses())?.quiet();
        let status = program.wait_exit(DEADLINE).await?;
        anyhow::ensure!(status.success(), "the floor failed: {}", program.transcript());
        serde_json::from_str(&program.stdout()).context("what the floor said")
    }

    pub(super) fn cpu(&self) -> Vec<Duration> {
        self.cpu.iter().copied().map(Duration::from_micros).collect()
    }

    pub(super) fn rows_cpu(&self) -> Vec<Duration> {
        self.rows_cpu.iter().copied().map(Duration::from_micros).collect()
    }

    pub(super) fn server_cpu(&self) -> Vec<Duration> {
        self.server_cpu.iter().copied().map(Duration::from_micros).collect()
    }

    pub(super) fn wall(&self) -> Vec<Duration> {
        self.wall.iter().copied().map(Duration::from_micros).collect()
    }
}

/// What the process does: reads everything once to warm up and then `rounds` times, and prints what that cost.
///
/// # Errors
/// Something could not be read.
pub async fn read_all(rounds: usize) -> Result<()> {
    let url = std::env::var("BENCH_DATABASE").context("BENCH_DATABASE")?;
    let sockets = std::env::var("BENCH_SOCKETS").context("BENCH_SOCKETS")?;
    let sockets: Vec<String> = sockets.split(',').map(str::to_owned).collect();
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    let backend: i32 = client.query_one("select pg_backend_pid()", &[]).await?.get(0);
    let backend = u32::try_from(backend)?;
    let mut floor = Floor::default();
    let micros = |time: Duration| u64::try_from(time.as_micros());
    for round in 0..=rounds {
        let (begun, before, server_before) = (Instant::now(), cpu(std::process::id())?, cpu(backend)?);
        let rows = read_rows(&client).await?;
        let between = cpu(std::process::id())?;
        let lists = stream::iter(sockets.clone()).map(|socket| tokio::spawn(list(socket))).buffer_unordered(AT_ONCE);
        let containers: usize = lists.map(|listed| listed?).try_fold(0, async |sum, one| Ok(sum + one)).await?;
        anyhow::ensure!(rows > 0 && containers == rows, "{rows} rows and {containers} containers");
        if round > 0 {
            floor.wall.push(micros(begun.elapsed())?);
            floor.cpu.push(micros(cpu_since(std::process::id(), before)?)?);
            floor.rows_cpu.push(micros(between.saturating_sub(before))?);
            floor.server_cpu.push(micros(cpu_since(backend, server_before)?)?);
        }
    }
    println!("{}", serde_json::to_string(&floor)?);
    Ok(())
}

async fn read_rows(client: &tokio_postgres::Client) -> Result<usize> {
    let columns = "workspace_id::text, status::text, kind::text, engine::text, container_ref::text, suspended,
                   extract(epoch from last_heartbeat_at)::float8";
    let rows = client.query_raw(&format!("select {columns} from defib.fleet"), Vec::<String>::new()).await?;
    let mut rows = pin!(rows);
    let (mut count, mut bytes) = (0, 0);
    while let Some(row) = rows.try_next().await? {
        bytes += (0..4).map(|column| row.get::<_, &str>(column).len()).sum::<usize>();
        bytes += usize::from(row.get::<_, f64>(6) > 0.0);
        count += 1;
    }
    anyhow::ensure!(bytes > count, "the rows are empty");
    Ok(count)
}

/// How many containers of an engine run, by a plain list.
pub(super) async fn list(socket: String) -> Result<usize> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request =
        hyper::Request::get("/containers/json?all=true").header("host", "engine").body(Empty::<Bytes>::new())?;
    let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
    let entries: Vec<Entry> = serde_json::from_slice(&body)?;
    connection.abort();
    let runs = |entry: &&Entry| !entry.id.is_empty() && entry.state == "running" && !entry.status.is_empty();
    Ok(entries.iter().filter(runs).count())
}
