//! The soak: replicas are killed and Postgres is restarted at random while workspaces die at random, and afterwards the engine's own
//! count of starts must be the count of deaths, and the ledger must tell the same story row by row. Every replica records what it judges by,
//! and a replay of all recordings must say what was said.
//!
//! The engine is the scripted one, because it counts its starts, and because its restarts can be made so slow that a kill falls into the
//! middle of one. Everything random comes from one seed. But the order in which things happen also depends on the scheduler, so a seed does
//! not replay a run exactly.

mod neighbours;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use defib_testkit::scripted_engine::{Call, Fault};
use defib_testkit::{PrivatePostgres, ScriptedEngine, StopMode, eventually};

use crate::recordings::{Recordings, Replayed};
use crate::{Daemon, Pulse, Stage, Workspace, container, is_running};

const REPLICAS: usize = 3;
const WORKSPACES: usize = 10;
/// How long it may take until everything that died runs again: a lease, an attempt's deadline, a few back-offs.
const RECOVERY: Duration = Duration::from_secs(90);

/// What is broken at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaking {
    /// One of the replicas, by SIGKILL.
    Replicas,
    /// Postgres, by an immediate shutdown.
    Postgres,
    /// One or the other.
    Both,
    /// The neighbours of those that die: what they run in, the platform's functions, the tables, the proxies; and sometimes a replica.
    Neighbours,
}

/// A soak.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// The seed of everything random.
    pub seed: u64,
    /// Rounds: deaths, and one breaking each.
    pub rounds: usize,
    /// What is broken.
    pub breaking: Breaking,
}

/// The result of a soak.
#[derive(Clone, Copy, Debug, Default)]
pub struct SoakReport {
    /// Workspaces that died.
    pub deaths: usize,
    /// Containers that the engine started because it was asked to.
    pub starts: usize,
    /// Calls for a restart that reached the engine.
    pub calls: usize,
    /// Workspaces that were in trouble of their own for a round.
    pub troubles: usize,
    /// Replicas killed.
    pub kills: usize,
    /// Restarts of Postgres.
    pub outages: usize,
    /// Attempts cut in two by a breaking, and settled by whoever owned the engine next.
    pub settled: usize,
    /// Attempts that were handed back, or abandoned before the engine was asked.
    pub abandoned: usize,
    /// What the replay of the recordings of all replicas has compared.
    pub replayed: Replayed,
}

impl fmt::Display for SoakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} deaths, {} of them in trouble of their own, {} starts by {} calls; {} replicas killed, {} outages of Postgres; {} attempts cut in two and settled, {} abandoned; {}",
            self.deaths,
            self.troubles,
            self.starts,
            self.calls,
            self.kills,
            self.outages,
            self.settled,
            self.abandoned,
            self.replayed
        )
    }
}

/// `SplitMix64` (Steele, Lea, Flood 2014): small, and any seed will do.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.roll() % bound).unwrap_or_default()
    }

    fn millis(&mut self, most: usize) -> Duration {
        Duration::from_millis(u64::try_from(self.below(most + 1)).unwrap_or_default())
    }
}

/// The world of one soak.
struct Arena {
    server: PrivatePostgres,
    engine: Arc<ScriptedEngine>,
    stage: Stage,
    /// By name. The recording of each is in the place that it has in this list.
    replicas: Vec<(String, Daemon)>,
    recordings: Recordings,
    dice: Dice,
    named: usize,
    /// Which lives ended, by workspace: the starts of those lives.
    deaths: BTreeMap<String, Vec<SystemTime>>,
    report: SoakReport,
    _pulse: Pulse,
}

/// Runs it to its end.
///
/// # Errors
/// When the engine and the ledger do not agree with the deaths, with what they say.
pub async fn soak(soak: Soak) -> Result<SoakReport> {
    let mut arena = Arena::new(soak).await?;
    if soak.breaking == Breaking::Neighbours {
        for round in 0..soak.rounds {
            arena.round_among_neighbours().await.with_context(|| format!("seed {}, round {round}", soak.seed))?;
        }
        arena.nothing_is_left_open().await?;
        arena.report.calls = ids().map(|id| arena.engine.restarts_of(&id)).sum();
        arena.replay().await.with_context(|| format!("seed {}", soak.seed))?;
        return Ok(arena.report);
    }
    for round in 0..soak.rounds {
        arena.round(soak.breaking).await.with_context(|| format!("seed {}, round {round}", soak.seed))?;
    }
    arena.verify().await.with_context(|| format!("seed {}, after {} rounds", soak.seed, soak.rounds))
}

impl Arena {
    async fn new(soak: Soak) -> Result<Self> {
        let server = PrivatePostgres::start().await?;
        let engine = Arc::new(ScriptedEngine::start().await?);
        let mut stage = Stage::on(&server, &engine.url()).await?.quick_heartbeats();
        for (knob, value) in [
            ("LEASE_TTL", "2s"),
            ("RESTART_TIMEOUT", "5s"),
            ("PROBE_SPACING", "300ms"),
            ("SETTLE", "1s"),
            ("BACKOFF_INITIAL", "100ms"),
            ("BACKOFF_MAX", "500ms"),
            // A recovery counts as verified after a second, so that the attempt after the next death is a first one again. The workspaces
            // die so often that restarts would always go in the batches of a storm, so its minimum is put out of reach, except where
            // neighbours are in trouble.
            ("BACKOFF_RESET", "1s"),
            ("EXHAUSTED_AFTER", "1000"),
            ("MISSING_GRACE", "500ms"),
            ("STORM_COOLDOWN", "2s"),
            ("STORM_MIN", if soak.breaking == Breaking::Neighbours { "3" } else { "1000000" }),
        ] {
            stage = stage.knob(knob, value);
        }
        for n in 0..WORKSPACES {
            let id = format!("w{n}");
            engine.add(container(&id));
            stage.db.add(Workspace::new(&id)).await?;
        }
        let pulse = Pulse::of(&engine, ids(), stage.db.url());
        let mut arena = Self {
            server,
            engine,
            stage,
            replicas: Vec::new(),
            recordings: Recordings::new()?,
            dice: Dice(soak.seed),
            named: 0,
            deaths: BTreeMap::new(),
            report: SoakReport::default(),
            _pulse: pulse,
        };
        if soak.breaking == Breaking::Neighbours {
            arena.platform_may_misbehave().await?;
        }
        for place in 0..REPLICAS {
            arena.start_replica(place).await?;
        }
        Ok(arena)
    }

    async fn start_replica(&mut self, place: usize) -> Result<()> {
        self.named += 1;
        let name = format!("replica-{}", self.named);
        let directory = self.recordings.place(place)?;
        let daemon = self.stage.start_with(&name, &[("DEFIB_RECORD_DIR", &directory)]).await?.quiet();
        daemon.wait_until_ready().await?;
        self.replicas.insert(place, (name, daemon));
        Ok(())
    }

    /// Stops the replicas and replays what they have recorded.
    async fn replay(&mut self) -> Result<()> {
        for (name, daemon) in self.replicas.drain(..) {
            daemon.stop(RECOVERY).await.with_context(|| format!("stop {name}"))?;
        }
        self.report.replayed = self.recordings.replay(&self.stage, REPLICAS).await?;
        Ok(())
    }

    /// Some workspaces die, something is broken while they are restarted, and in the end all run again.
    async fn round(&mut self, breaking: Breaking) -> Result<()> {
        let slow = Duration::from_millis(50) + self.dice.millis(1_500);
        self.engine.clear_faults();
        self.engine.set_fault(Call::Start, Fault::Delay(slow));
        for _ in 0..=self.dice.below(3) {
            self.somebody_dies()?;
            tokio::time::sleep(self.dice.millis(200)).await;
        }
        // From before the first look to after the last answer.
        tokio::time::sleep(self.dice.millis(2_500)).await;
        let replicas = match breaking {
            Breaking::Replicas | Breaking::Neighbours => true,
            Breaking::Postgres => false,
            Breaking::Both => self.dice.below(2) == 0,
        };
        if replicas {
            self.kill_a_replica().await?;
        } else {
            self.restart_postgres().await?;
        }
        if self.dice.below(2) == 0 {
            self.somebody_dies()?;
        }
        let engine = Arc::clone(&self.engine);
        eventually(RECOVERY, "everybody runs again", async || {
            let down: Vec<String> = ids().filter(|id| !is_running(&engine, id)).collect();
            if down.is_empty() { Ok(()) } else { Err(format!("{down:?}")) }
        })
        .await?;
        // Long enough to be verified, so that a new death begins a new run.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        Ok(())
    }

    fn somebody_dies(&mut self) -> Result<()> {
        let alive: Vec<String> = ids().filter(|id| is_running(&self.engine, id)).collect();
        if alive.is_empty() {
            return Ok(());
        }
        let id = alive[self.dice.below(alive.len())].clone();
        let life = self.engine.container(&id).and_then(|container| container.started_at);
        self.deaths.entry(id.clone()).or_default().push(life.context("a container that runs has started")?);
        self.report.deaths += 1;
        self.engine.exit(&id, 137)
    }

    async fn kill_a_replica(&mut self) -> Result<()> {
        // Mostly the owner is chosen, because nothing is interrupted when an observer dies.
        let mut victim = self.dice.below(self.replicas.len());
        if self.dice.below(3) > 0 {
            let holder = self.stage.db.query("select holder from defib.leases where expires_at > now()", &[]).await?;
            let holder = holder.first().map(|row| row.try_get::<_, String>(0)).transpose()?;
            victim = self.replicas.iter().position(|(name, _)| Some(name) == holder.as_ref()).unwrap_or(victim);
        }
        self.replicas.remove(victim).1.kill().await?;
        self.report.kills += 1;
        self.start_replica(victim).await
    }

    async fn restart_postgres(&mut self) -> Result<()> {
        self.server.stop_server_with(StopMode::Immediate).await?;
        tokio::time::sleep(self.dice.millis(1_500)).await;
        self.server.start_server().await?;
        self.report.outages += 1;
        self.stage.db.reconnect().await
    }

    /// Checks that the engine's count, the ledger and the deaths agree.
    async fn verify(mut self) -> Result<SoakReport> {
        let open = "select count(*) from defib.restarts where finished_at is null";
        let db = &self.stage.db;
        eventually(RECOVERY, "no attempt is under way", async || match db.count(open).await {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await?;
        for id in ids() {
            let lives = self.deaths.get(&id).map_or(&[][..], Vec::as_slice);
            let (starts, calls) = (self.engine.starts_of(&id), self.engine.restarts_of(&id));
            self.report.starts += starts;
            self.report.calls += calls;
            ensure!(
                starts == lives.len() && calls == lives.len(),
                "{id} died {} times, and was started {starts} times by {calls} calls: {:#?}",
                lives.len(),
                self.stage.db.restarts(&id).await?
            );
            self.the_ledger_agrees(&id, lives).await?;
        }
        let abandoned = "select count(*) from defib.restarts where outcome = 'abandoned'";
        self.report.abandoned = usize::try_from(self.stage.db.count(abandoned).await?)?;
        let settled = "select count(*) from defib.restarts where outcome = 'succeeded' and error is not null";
        self.report.settled = usize::try_from(self.stage.db.count(settled).await?)?;
        let failed = "select count(*) from defib.restarts where outcome = 'failed'";
        ensure!(self.stage.db.count(failed).await? == 0, "failed attempts on an engine that never fails");
        self.replay().await?;
        // A kill costs what the last second held, orders included.
        ensure!(
            self.report.kills > 0 || self.report.replayed.orders >= self.report.calls,
            "the engine was called {} times, and the recordings have {} orders only",
            self.report.calls,
            self.report.replayed.orders
        );
        Ok(self.report)
    }

    /// One succeeded attempt for each life that ended, and for no other.
    async fn the_ledger_agrees(&self, id: &str, lives: &[SystemTime]) -> Result<()> {
        let sql = "select started_at from defib.restarts where workspace_id = $1 and outcome = 'succeeded' order by started_at";
        let rows = self.stage.db.query(sql, &[&id]).await?;
        let restarted: Vec<SystemTime> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let mut ended: Vec<SystemTime> = lives.to_vec();
        ended.sort_unstable();
        let same = restarted.len() == ended.len()
            && restarted.iter().zip(&ended).all(|(restarted, ended)| {
                // Postgres keeps microseconds.
                restarted.duration_since(*ended).unwrap_or_else(|before| before.duration()) < Duration::from_micros(2)
            });
        if !same {
            bail!("{id}: lives that ended {ended:?}, lives restarted by the ledger {restarted:?}");
        }
        Ok(())
    }
}

fn ids() -> impl Iterator<Item = String> {
    (0..WORKSPACES).map(|n| format!("w{n}"))
}
