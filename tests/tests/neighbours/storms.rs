//! Twelve workspaces die together, and some of them cannot be brought back. The others are brought back as if those were not there.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::scripted_engine::{Call, Fault, FaultRule};
use defib_testkit::{ScriptedEngine, eventually};
use defib_tests::{Pulse, Stage, is_running};

use crate::{fleet, ids};

const SIZE: usize = 12;

/// What twelve take that can all come back, several times over: three rounds, each of which a heartbeat ends.
const WITHOUT_A_COOLDOWN: Duration = Duration::from_secs(40);

/// A cooldown that is longer than any test, so that a workspace that waits for it is noticed.
const COOLDOWN: &str = "10m";

#[tokio::test]
async fn those_whose_start_is_refused_cost_the_others_nothing() -> Result<()> {
    let disaster = Disaster::new(COOLDOWN).await?;
    disaster.refuse_starts(0..3);
    disaster.strikes(3).await
}

#[tokio::test]
async fn those_whose_containers_were_removed_cost_the_others_nothing() -> Result<()> {
    let disaster = Disaster::new(COOLDOWN).await?;
    let _daemon = disaster.stage.run().await?;
    for id in ids(0..3) {
        disaster.engine.remove(&id)?;
    }
    disaster.the_others_die_and_run_again(3).await
}

#[tokio::test]
async fn those_that_the_platform_vetoes_cost_the_others_nothing() -> Result<()> {
    let disaster = Disaster::new(COOLDOWN).await?;
    disaster.veto(0..3).await?;
    disaster.strikes(3).await
}

#[tokio::test]
async fn with_a_third_refused_and_a_third_vetoed_the_last_third_runs_again() -> Result<()> {
    let disaster = Disaster::new(COOLDOWN).await?;
    disaster.refuse_starts(0..4);
    disaster.veto(4..8).await?;
    disaster.strikes(8).await
}

/// They start and exit again. Each round that fails because of them costs a cooldown; in most draws few rounds fail.
#[tokio::test]
async fn with_a_third_that_dies_again_the_others_run_again_within_a_few_cooldowns() -> Result<()> {
    let disaster = Disaster::new("2s").await?;
    for id in ids(0..4) {
        let dies_again = Fault::DoneThenExit(Duration::from_millis(100), 1);
        disaster.engine.add_fault(FaultRule::new(Call::Start, dies_again).container(id));
    }
    disaster.strikes(4).await
}

#[tokio::test]
async fn a_storm_in_which_nobody_else_waits_is_over_although_the_hopeless_are_dead() -> Result<()> {
    let disaster = Disaster::new("2s").await?;
    let stage = disaster.stage.knob("EXHAUSTED_AFTER", "2").knob("EXHAUSTED_RETRY", "1h").knob("BACKOFF_RESET", "1m");
    let disaster = Disaster { stage, ..disaster };
    disaster.refuse_starts(0..3);
    let daemon = disaster.stage.run().await?;
    for id in ids(0..3) {
        disaster.engine.exit(&id, 137)?;
    }
    disaster.the_others_die_and_run_again(3).await?;
    daemon.wait_for_metric("defib_exhausted_workspaces", |exhausted| exhausted == 3.0, Duration::from_secs(60)).await?;
    daemon.wait_for_metric("defib_storm{engine=\"default\"}", |storm| storm == 0.0, Duration::from_secs(60)).await?;
    Ok(())
}

/// A fleet before something happens to it.
struct Disaster {
    stage: Stage,
    engine: ScriptedEngine,
    _pulse: Pulse,
}

impl Disaster {
    async fn new(cooldown: &str) -> Result<Self> {
        let (stage, engine, pulse) = fleet(SIZE).await?;
        Ok(Self { stage: stage.knob("STORM_COOLDOWN", cooldown), engine, _pulse: pulse })
    }

    fn refuse_starts(&self, hopeless: std::ops::Range<usize>) {
        for id in ids(hopeless) {
            let refused = Fault::server_error("scripted: no space left on device");
            self.engine.add_fault(FaultRule::new(Call::Start, refused).container(id));
        }
    }

    async fn veto(&self, hopeless: std::ops::Range<usize>) -> Result<()> {
        let hopeless: Vec<String> = ids(hopeless).collect();
        let hopeless: Vec<&str> = hopeless.iter().map(String::as_str).collect();
        self.stage.db.replace_function_for("mark_dead", &hopeless, "return false;").await
    }

    /// All workspaces die. The first of them, as many as the argument says, cannot come back.
    async fn strikes(&self, hopeless: usize) -> Result<()> {
        let _daemon = self.stage.run().await?;
        for id in ids(0..hopeless) {
            self.engine.exit(&id, 137)?;
        }
        self.the_others_die_and_run_again(hopeless).await
    }

    async fn the_others_die_and_run_again(&self, hopeless: usize) -> Result<()> {
        for id in ids(hopeless..SIZE) {
            self.engine.exit(&id, 137)?;
        }
        eventually(WITHOUT_A_COOLDOWN, "the others run again", async || {
            let down: Vec<String> = ids(hopeless..SIZE).filter(|id| !is_running(&self.engine, id)).collect();
            if down.is_empty() { Ok(()) } else { Err(format!("down: {down:?}")) }
        })
        .await?;
        for id in ids(hopeless..SIZE) {
            let calls = self.engine.restarts_of(&id);
            ensure!(calls == 1, "{id} was restarted {calls} times");
        }
        Ok(())
    }
}
