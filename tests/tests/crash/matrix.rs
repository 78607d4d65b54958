//! The steps of a restart, and what must be true at whichever step the daemon died.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::scripted_engine::{Call, ContainerState, Fault, Health};
use defib_testkit::{PrivateDockerd, ScriptedEngine, eventually};
use defib_tests::{Agent, Daemon, SOON, Stage, Workspace, container, throughout};

/// How long nothing more may happen. Several polls, leases and looks.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// An attempt whose engine was asked is left alone until its deadline: the restart's time-out, as long again for the looks after a lost
/// answer, and ten seconds for writing the outcome.
pub(crate) const SETTLED: Duration = Duration::from_secs(40);

#[derive(Clone, Copy)]
pub(crate) enum Company {
    /// The next daemon is started after the crash.
    Alone,
    /// Another replica has been watching all the time.
    Replica,
}

macro_rules! matrix {
    ($($step:ident: $point:literal, $(,)?)+) => {
        mod alone {
            $(#[tokio::test]
            async fn $step() -> anyhow::Result<()> {
                super::stopped_one_is_restarted_once($point, super::Company::Alone).await
            })+
        }

        mod with_a_replica {
            $(#[tokio::test]
            async fn $step() -> anyhow::Result<()> {
                super::stopped_one_is_restarted_once($point, super::Company::Replica).await
            })+
        }

        mod of_one_that_runs {
            $(#[tokio::test]
            async fn $step() -> anyhow::Result<()> {
                super::sick_one_is_restarted_once($point, super::Company::Replica).await
            })+
        }
    };
}

matrix! {
    before_claim: "before_claim", // nothing is written
    claim_inserted: "claim_inserted", // inside the claiming transaction, after the row
    claim_before_commit: "claim_before_commit", // inside it, after mark_dead
    claimed: "claimed", // the row is there
    confirmed: "confirmed", // the look before the restart agreed
    acting: "acting", // it is written down that the engine is asked, and it is not yet
    answered: "answered", // the engine has made it
    before_outcome: "before_outcome", // the outcome is not written
    after_outcome: "after_outcome", // all is written
}

async fn stopped_one_is_restarted_once(point: &str, company: Company) -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = stage(&engine.url()).await?;
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    let (crashing, replica) = cast(&stage, point, company).await?;
    stage.db.wait_for_verdict("w1", Some("silent")).await?;

    engine.exit("w1", 137)?;
    has_crashed(&crashing, point).await?;
    let _next = after_the_crash(&stage, replica).await?;
    is_restarted_once(&stage, &engine).await
}

/// A container that runs and fails its health check is killed and started again. The engine does both, and a crash of the daemon must not
/// leave the container stopped.
async fn sick_one_is_restarted_once(point: &str, company: Company) -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = stage(&engine.url()).await?.knob("UNHEALTHY_ACTION", "restart").knob("STOP_GRACE", "0ms");
    engine.add(container("w1").health(Health::Healthy));
    stage.db.add(Workspace::new("w1").silent()).await?;
    let (crashing, replica) = cast(&stage, point, company).await?;
    stage.db.wait_for_verdict("w1", Some("silent")).await?;

    engine.set_health("w1", Health::Unhealthy)?;
    has_crashed(&crashing, point).await?;
    let _next = after_the_crash(&stage, replica).await?;
    is_restarted_once(&stage, &engine).await
}

/// The daemon is killed while the engine works on the call, so nobody receives the answer.
#[tokio::test]
async fn killed_during_a_slow_restart_that_the_engine_finishes() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = stage(&engine.url()).await?.knob("RESTART_TIMEOUT", "10s");
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    let first = stage.run_as("first").await?;
    let _second = stage.run_as("second").await?;
    stage.db.wait_for_verdict("w1", Some("silent")).await?;
    engine.set_fault(Call::Start, Fault::Delay(Duration::from_secs(5)));
    engine.exit("w1", 137)?;
    eventually(SOON, "the engine is asked", async || match engine.restarts_of("w1") {
        0 => Err("not yet".to_owned()),
        _ => Ok(()),
    })
    .await?;
    first.kill().await?;
    // The other replica has the lease after two seconds. It sees the container stopped, and must wait all the same.
    is_restarted_once(&stage, &engine).await
}

/// The same on a real engine, at the steps around the call.
#[tokio::test]
async fn a_crash_around_the_call_to_a_real_engine_costs_exactly_one_start() -> Result<()> {
    let dockerd = PrivateDockerd::shared().await?;
    for point in ["claimed", "confirmed", "answered", "before_outcome"] {
        let stage = stage(dockerd.url()).await?;
        let agent = Agent::start(dockerd, "crash").await?;
        stage.db.add(Workspace::new(&agent.id).silent()).await?;
        let (crashing, replica) = cast(&stage, point, Company::Replica).await?;
        stage.db.wait_for_verdict(&agent.id, Some("silent")).await?;
        agent.die().await?;
        has_crashed(&crashing, point).await?;
        let _next = after_the_crash(&stage, replica).await?;
        stage.db.wait_for_restart(&agent.id, "succeeded", SETTLED).await?;
        throughout(AFTERWARDS, "it was started twice, by us and once at its birth", async || {
            match (agent.starts().await, agent.is_running().await) {
                (Ok(2), Ok(true)) => Ok(()),
                other => Err(format!("{point}: {other:?}")),
            }
        })
        .await?;
        nothing_is_left_open(&stage).await?;
    }
    Ok(())
}

pub(crate) async fn stage(engine_url: &str) -> Result<Stage> {
    let stage = Stage::new(engine_url).await?.quick_heartbeats();
    Ok(stage.knob("LEASE_TTL", "1s").knob("RESTART_TIMEOUT", "1s").knob("BACKOFF_INITIAL", "100ms"))
}

/// The one that will crash owns the engine; the other one, if there is one, came later and watches.
pub(crate) async fn cast(stage: &Stage, point: &str, company: Company) -> Result<(Daemon, Option<Daemon>)> {
    let crashing = stage.run_crashing_at("crashing", point).await?;
    let replica = match company {
        Company::Alone => None,
        Company::Replica => Some(stage.run_as("watching").await?),
    };
    let owner = "select count(*) from defib.leases where holder = 'crashing' and expires_at > now()";
    ensure!(stage.db.count(owner).await? == 1, "the crashing one does not own the engine");
    Ok((crashing, replica))
}

pub(crate) async fn has_crashed(crashing: &Daemon, point: &str) -> Result<()> {
    use std::os::unix::process::ExitStatusExt as _;
    let ended = crashing.program.wait_exit(SOON).await?;
    ensure!(ended.signal() == Some(6), "at {point}: it ended with {ended} and not by its own abort");
    Ok(())
}

pub(crate) async fn after_the_crash(stage: &Stage, replica: Option<Daemon>) -> Result<Daemon> {
    match replica {
        Some(replica) => Ok(replica),
        None => stage.run_as("next").await,
    }
}

async fn is_restarted_once(stage: &Stage, engine: &ScriptedEngine) -> Result<()> {
    let settled = "select count(*) from defib.restarts where outcome = 'succeeded'";
    eventually(SETTLED, "it is restarted and its row is settled", async || {
        let settled = stage.db.count(settled).await.map_err(|error| format!("{error:#}"))?;
        match (engine.starts_of("w1"), settled) {
            (1, 1) => Ok(()),
            other => Err(format!("{other:?}; {:#?}", stage.db.all_restarts().await)),
        }
    })
    .await?;
    throughout(AFTERWARDS, "one restart, and it runs", async || {
        let is_running = engine.container("w1").is_some_and(|container| container.state == ContainerState::Running);
        match (engine.restarts_of("w1"), engine.starts_of("w1"), is_running) {
            (1, 1, true) => Ok(()),
            other => Err(format!("{other:?}; {:#?}", stage.db.all_restarts().await)),
        }
    })
    .await?;
    nothing_is_left_open(stage).await
}

pub(crate) async fn nothing_is_left_open(stage: &Stage) -> Result<()> {
    let open = stage.db.count("select count(*) from defib.restarts where finished_at is null").await?;
    ensure!(open == 0, "{:#?}", stage.db.all_restarts().await);
    Ok(())
}
