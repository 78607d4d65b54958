//! The same matrix with `DEFIB_RESTART_BY=platform`: the daemon dies at every step of a restart that the platform is asked for, and the
//! platform is asked exactly once.
//!
//! A platform answers 200 and works on by itself, so an accepted request cannot be taken back, and nothing but the container tells what
//! became of it. One window remains, and the last tests measure it: a request that was accepted while its answer was lost, by a platform
//! that has nothing to show for it by the attempt's deadline. Then it is asked again, and not before (docs/control-planes.md).

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use defib_testkit::scripted_control_plane::{ApiFault, ApiRequest, Dialect};
use defib_testkit::scripted_engine::{Call, ContainerState, Health};
use defib_testkit::{Guardian, PrivateDockerd, ScriptedControlPlane, ScriptedEngine, eventually};
use defib_tests::{Agent, SOON, Stage, Workspace, container, throughout};

use crate::matrix::{Company, SETTLED, after_the_crash, cast, has_crashed, nothing_is_left_open, stage};

/// How long nothing more may happen. Several polls, leases and looks.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// After this long an attempt that turned to the platform is settled by others: `DEFIB_RESTART_TIMEOUT` (1 s here) for the call, as long
/// again for the looks after a lost answer, and ten seconds for writing the outcome.
const DEADLINE: Duration = Duration::from_secs(12);

macro_rules! matrix {
    ($($step:ident: $point:literal,)+) => {
        mod of_a_stopped_one {
            $(#[tokio::test]
            async fn $step() -> anyhow::Result<()> {
                super::is_asked_for_once($point, super::Company::Replica, super::Death::Stops).await
            })+
        }

        mod of_a_removed_one {
            $(#[tokio::test]
            async fn $step() -> anyhow::Result<()> {
                super::is_asked_for_once($point, super::Company::Alone, super::Death::IsRemoved).await
            })+
        }

        mod of_one_that_runs {
            $(#[tokio::test]
            async fn $step() -> anyhow::Result<()> {
                super::is_asked_for_once($point, super::Company::Replica, super::Death::IsUnhealthy).await
            })+
        }
    };
}

matrix! {
    before_claim: "before_claim",
    claim_inserted: "claim_inserted",
    claim_before_commit: "claim_before_commit",
    claimed: "claimed",
    confirmed: "confirmed",
    acting: "acting",
    answered: "answered",
    before_outcome: "before_outcome",
    after_outcome: "after_outcome",
}

#[derive(Clone, Copy, Debug)]
enum Death {
    Stops,
    IsRemoved,
    IsUnhealthy,
}

async fn is_asked_for_once(point: &str, company: Company, death: Death) -> Result<()> {
    let platform = Platform::start("molecule-core").await?;
    let (crashing, replica) = cast(&platform.stage, point, company).await?;
    platform.stage.db.wait_for_verdict("w1", Some("silent")).await?;
    platform.dies(death)?;
    eventually(SOON, "it crashes", async || {
        platform.work()?;
        crashing.program.exit_status().map(drop).ok_or_else(|| "not yet".to_owned())
    })
    .await?;
    has_crashed(&crashing, point).await?;
    let _next = after_the_crash(&platform.stage, replica).await?;
    platform.is_settled(1).await?;
    platform.was_asked(1).await
}

/// The daemon is killed while the platform has the request. The answer is lost, and the platform makes the restart.
#[tokio::test]
async fn killed_before_the_answer_to_a_request_that_the_platform_carries_out() -> Result<()> {
    let mut platform = Platform::start("molecule-core").await?;
    platform.stage = platform.stage.knob("RESTART_TIMEOUT", "10s");
    platform.server.fail_restart(ApiFault::Late(Duration::from_secs(5)));
    let first = platform.stage.run_as("first").await?;
    let _second = platform.stage.run_as("second").await?;
    platform.stage.db.wait_for_verdict("w1", Some("silent")).await?;
    platform.dies(Death::Stops)?;
    platform.has_been_asked(1).await?;
    first.kill().await?;
    // The other replica has the lease after a second and sees the container stopped: it must wait for the platform.
    throughout(AFTERWARDS, "the platform is not asked again", async || platform.count(1)).await?;
    platform.is_settled(1).await?;
    platform.was_asked(1).await
}

/// The window: the answer is lost together with the daemon, and the platform has nothing to show by the attempt's deadline.
#[tokio::test]
async fn a_platform_that_has_nothing_to_show_by_the_deadline_is_asked_once_more() -> Result<()> {
    let platform = Platform::start("molecule-core").await?;
    let (crashing, replica) = cast(&platform.stage, "answered", Company::Replica).await?;
    platform.stage.db.wait_for_verdict("w1", Some("silent")).await?;
    platform.dies(Death::IsRemoved)?;
    platform.has_been_asked(1).await?;
    let asked_at = Instant::now();
    has_crashed(&crashing, "answered").await?;
    let _next = after_the_crash(&platform.stage, replica).await?;
    // It is slow, and makes the container only when it has been asked twice.
    platform.has_been_asked(2).await?;
    let waited = asked_at.elapsed();
    ensure!(waited >= DEADLINE.saturating_sub(Duration::from_secs(1)), "asked again after {waited:?} already");
    platform.is_settled(2).await?;
    platform.was_asked(2).await?;
    let outcomes: Vec<Option<String>> =
        platform.stage.db.restarts("w1").await?.into_iter().map(|restart| restart.outcome).collect();
    ensure!(outcomes == [Some("abandoned".to_owned()), Some("succeeded".to_owned())], "{outcomes:?}");
    Ok(())
}

/// Where the platform knows idempotency, each attempt has a key of its own: its row in the ledger. So a request that is repeated on the
/// way counts once, and a second attempt is not mistaken for the first.
#[tokio::test]
async fn each_attempt_has_a_key_of_its_own() -> Result<()> {
    let files = Guardian::start()?;
    let platform = Platform::with_preset(|server| own_preset(files.directory(), server)).await?;
    platform.server.fail_restart(ApiFault::Eof);
    let _daemon = platform.stage.run_as("first").await?;
    platform.stage.db.wait_for_verdict("w1", Some("silent")).await?;
    platform.dies(Death::Stops)?;
    // The answer to the first is lost, and nothing was made of it.
    platform.has_been_asked(2).await?;
    platform.is_settled(2).await?;
    let rows: BTreeSet<String> =
        platform.stage.db.restarts("w1").await?.into_iter().map(|restart| restart.id.to_string()).collect();
    let keys: BTreeSet<String> = platform.server.restarts().iter().map(key).collect();
    ensure!(rows.len() == 2 && keys == rows, "the keys are {keys:?}, and the rows {rows:?}");
    Ok(())
}

/// A removed container on a real engine, at the steps around the request.
#[tokio::test]
async fn a_crash_around_the_request_for_a_real_container_asks_the_platform_once() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    for point in ["confirmed", "answered"] {
        let server = ScriptedControlPlane::start(Dialect::Molecule).await?;
        let stage = restarted_by(stage(dockerd.url()).await?, &format!("{}?preset=molecule-core", server.address()));
        let mut agent = Agent::start(dockerd, "recreated").await?;
        stage.db.add(Workspace::new(&agent.id).silent()).await?;
        let (crashing, replica) = cast(&stage, point, Company::Replica).await?;
        stage.db.wait_for_verdict(&agent.id, Some("silent")).await?;
        agent.remove().await?;
        has_crashed(&crashing, point).await?;
        let _next = after_the_crash(&stage, replica).await?;
        eventually(SOON, "the platform is asked", async || match server.restarts().len() {
            1 => Ok(()),
            other => Err(format!("{point}: {other} times")),
        })
        .await?;
        agent.make_again().await?;
        stage.db.wait_for_restart(&agent.id, "succeeded", SETTLED).await?;
        throughout(AFTERWARDS, "the platform was asked once, and its container is the one", async || {
            match (server.restarts().len(), agent.starts().await, agent.is_running().await) {
                (1, Ok(1), Ok(true)) => Ok(()),
                other => Err(format!("{point}: {other:?}")),
            }
        })
        .await?;
        nothing_is_left_open(&stage).await?;
    }
    Ok(())
}

/// An engine with one workspace, and a platform that makes its container again when it is asked.
struct Platform {
    engine: ScriptedEngine,
    server: ScriptedControlPlane,
    stage: Stage,
    /// Requests that it has carried out.
    made: Cell<usize>,
}

impl Platform {
    async fn start(preset: &str) -> Result<Self> {
        Self::with_preset(|server| Ok(format!("{server}?preset={preset}"))).await
    }

    /// `url` turns the address of the server into the platform's address that defib is given.
    async fn with_preset(url: impl FnOnce(&str) -> Result<String>) -> Result<Self> {
        let (engine, server) = (ScriptedEngine::start().await?, ScriptedControlPlane::start(Dialect::Molecule).await?);
        let stage = restarted_by(stage(&engine.url()).await?, &url(&server.address())?);
        engine.add(container("w1").health(Health::Healthy));
        stage.db.add(Workspace::new("w1").silent()).await?;
        Ok(Self { engine, server, stage, made: Cell::new(0) })
    }

    fn dies(&self, death: Death) -> Result<()> {
        match death {
            Death::Stops => self.engine.exit("w1", 137),
            Death::IsRemoved => self.engine.remove("w1"),
            Death::IsUnhealthy => self.engine.set_health("w1", Health::Unhealthy),
        }
    }

    /// Makes a new container of the same name for each request that came in since.
    fn work(&self) -> Result<(), String> {
        while self.made.get() < self.server.restarts().len() {
            self.made.set(self.made.get() + 1);
            if self.engine.container("w1").is_some() {
                self.engine.remove("w1").map_err(|error| format!("{error:#}"))?;
            }
            let mut again = container("w1").name("w1").health(Health::Healthy).started_at(SystemTime::now());
            again.id = format!("w1-{}", self.made.get());
            self.engine.add(again);
        }
        Ok(())
    }

    fn count(&self, times: usize) -> Result<(), String> {
        match self.server.restarts() {
            asked if asked.len() == times => Ok(()),
            other => Err(format!("asked {} times: {other:#?}", other.len())),
        }
    }

    /// Waits until the platform was asked this many times. It does nothing about the requests.
    async fn has_been_asked(&self, times: usize) -> Result<()> {
        eventually(SETTLED, "the platform is asked", async || self.count(times)).await
    }

    /// Lets the platform work on its requests, until all of them are carried out and a restart has succeeded.
    async fn is_settled(&self, times: usize) -> Result<()> {
        let settled = "select count(*) from defib.restarts where outcome = 'succeeded'";
        eventually(SETTLED, "it is restarted and its row is settled", async || {
            self.work()?;
            let settled = self.stage.db.count(settled).await.map_err(|error| format!("{error:#}"))?;
            match (self.made.get(), settled) {
                (made, 1) if made == times => Ok(()),
                other => Err(format!("{other:?}; {:#?}", self.stage.db.all_restarts().await)),
            }
        })
        .await
    }

    /// Checks that the platform was asked this many times in all, that the engine was asked to restart nothing, and that the container
    /// runs.
    async fn was_asked(&self, times: usize) -> Result<()> {
        throughout(AFTERWARDS, "the platform is not asked again, and the container runs", async || {
            self.count(times)?;
            let by_engine = self.engine.count(Call::Start) + self.engine.count(Call::Restart);
            let runs = self.engine.container("w1").is_some_and(|container| container.state == ContainerState::Running);
            if by_engine == 0 && runs { Ok(()) } else { Err(format!("{by_engine} calls to the engine, runs: {runs}")) }
        })
        .await?;
        nothing_is_left_open(&self.stage).await
    }
}

fn restarted_by(stage: Stage, platform: &str) -> Stage {
    let stage =
        stage.knob("PLATFORM_URL", platform).knob("PLATFORM_TOKEN", "adm1n-s3cret").knob("RESTART_BY", "platform");
    let stage = stage.knob("MISSING_GRACE", "500ms").knob("UNHEALTHY_ACTION", "restart");
    // What is accepted and still down after the back-off is asked for again, so the platform of these tests must be faster.
    stage.knob("STOP_GRACE", "0ms").knob("BACKOFF_INITIAL", "2s")
}

/// A preset of one's own, for a platform that knows idempotency.
fn own_preset(directory: &Path, server: &str) -> Result<String> {
    let path = directory.join("platform.toml");
    let text = format!(
        "base = '{server}'\nheaders = {{ Authorization = 'Bearer ${{token}}' }}\n[restart]\nidempotency_header = 'Idempotency-Key'\n\
         steps = [{{ method = 'POST', path = '/workspaces/{{workspace_id}}/restart', body = '{{}}' }}]\n"
    );
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(format!("file://{}", path.display()))
}

fn key(request: &ApiRequest) -> String {
    request.headers.get("idempotency-key").cloned().unwrap_or_default()
}
