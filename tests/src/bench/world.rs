//! The world of a bench: a fleet in a Postgres of its own, and engines that have its containers.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use defib_testkit::PrivatePostgres;

use super::engines::Engines;
use super::process;
use crate::{Daemon, Stage};

/// Heartbeats come in so many shares, one a poll.
pub(super) const SHARES: usize = 6;

/// How long the first look at everything may take.
const READY_MAX: Duration = Duration::from_secs(60);

/// A fleet, and where it runs.
pub(super) struct World {
    pub(super) workspaces: usize,
    pub(super) engines: Engines,
    pub(super) stage: Stage,
    pub(super) poll: Duration,
    share: usize,
    // Last: the others use it.
    _server: PrivatePostgres,
}

impl World {
    /// `workspaces` spread evenly over `engines`, all of them running and just heard of.
    pub(super) async fn new(workspaces: usize, engines: usize, poll: Duration) -> Result<Self> {
        let server = PrivatePostgres::start().await?;
        let scripted = Engines::start(engines, workspaces).await.context("start the engines")?;
        let mut stage = Stage::on(&server, &scripted.urls[0]).await?;
        for (number, url) in scripted.urls.iter().enumerate().skip(1) {
            stage = stage.engine(&engine_name(number), url);
        }
        let millis = format!("{}ms", poll.as_millis());
        // All rows are read as often as by default, and not as often as in tests.
        let stage = stage.knob("POLL_INTERVAL", &millis).knob("RESYNC_INTERVAL", "60s").knob("LEASE_TTL", "15s");
        let insert = format!(
            "insert into defib.workspaces (id, name, status, kind, engine, last_heartbeat_at)
             select '00000000-0000-4000-8000-' || lpad(n::text, 12, '0'), 'workspace ' || n, 'online', 'container',
                    case n % {engines} when 0 then 'default' else 'rack-' || lpad((n % {engines})::text, 3, '0') end, now()
               from generate_series(0, {workspaces} - 1) as n;"
        );
        stage.db.execute(&insert).await.context("fill the fleet")?;
        stage.db.execute("vacuum analyze defib.workspaces").await?;
        Ok(Self { workspaces, engines: scripted, stage, poll, share: 0, _server: server })
    }

    /// Starts the daemon with knobs that differ from the others', and waits until it has looked at everything.
    pub(super) async fn daemon(&self, knobs: &[(&str, &str)]) -> Result<Daemon> {
        self.replica("bench", knobs).await
    }

    /// The same for a replica with a name of its own. Where another one has the leases, it owns nothing.
    pub(super) async fn replica(&self, name: &str, knobs: &[(&str, &str)]) -> Result<Daemon> {
        let daemon = self.stage.start_with(name, knobs).await?.quiet();
        daemon
            .wait_for_metric("defib_ticks_total{result=\"ok\",scope=\"fleet\"}", |ticks| ticks >= 1.0, READY_MAX)
            .await?;
        Ok(daemon)
    }

    /// Another share of the fleet beats.
    pub(super) async fn beat(&mut self) -> Result<()> {
        self.share = (self.share + 1) % SHARES;
        let share = self.share;
        let update = format!(
            "update defib.workspaces set last_heartbeat_at = now() where (substr(id, 25)::bigint) % {SHARES} = {share}"
        );
        self.stage.db.execute(&update).await
    }

    /// Everybody beats.
    pub(super) async fn beat_all(&self) -> Result<()> {
        self.stage.db.execute("update defib.workspaces set last_heartbeat_at = now()").await?;
        self.stage.db.execute("vacuum defib.workspaces").await
    }

    /// The processor time of all connections to the database but our own, each by the process id of its backend.
    pub(super) async fn backends(&self) -> Result<BTreeMap<u32, Duration>> {
        let others =
            "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()";
        let rows = self.stage.db.query(others, &[]).await?;
        let pids: Vec<u32> = rows.iter().filter_map(|row| u32::try_from(row.get::<_, i32>(0)).ok()).collect();
        Ok(process::cpu_of_each(&pids))
    }

    /// What the floor needs to read the same things.
    pub(super) fn addresses(&self) -> BTreeMap<String, String> {
        let sockets: Vec<&str> = self.engines.urls.iter().map(|url| url.trim_start_matches("unix://")).collect();
        BTreeMap::from([
            ("BENCH_DATABASE".to_owned(), self.stage.db.url().to_owned()),
            ("BENCH_SOCKETS".to_owned(), sockets.join(",")),
        ])
    }
}

/// The name of the engine with this number.
fn engine_name(number: usize) -> String {
    if number == 0 { "default".to_owned() } else { format!("rack-{number:03}") }
}

/// The id of the workspace with this number.
pub(super) fn workspace(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}
