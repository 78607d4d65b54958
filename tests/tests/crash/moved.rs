//! The daemon dies with a restart under way, the engine is lost for good, and the platform moves the workspace to another one. Its row
//! must not keep it from being restarted there.

use anyhow::{Result, ensure};
use defib_testkit::{ScriptedEngine, eventually};
use defib_tests::{Daemon, Stage, Workspace, container};

use crate::matrix::{SETTLED, has_crashed, nothing_is_left_open, stage};

#[tokio::test]
async fn who_moved_from_an_engine_without_an_owner_is_restarted_where_it_is_now() -> Result<()> {
    let fleet = Fleet::with_an_attempt_on_the_old_engine().await?;
    let engines = format!("default={}", fleet.new.url());
    let _next = fleet.stage.start_with("next", &[("DEFIB_ENGINES", engines.as_str())]).await?;
    fleet.is_restarted_where_it_is_now().await
}

#[tokio::test]
async fn who_moved_from_an_engine_that_does_not_answer_is_restarted_where_it_is_now() -> Result<()> {
    let fleet = Fleet::with_an_attempt_on_the_old_engine().await?;
    fleet.old.refuse_connections(true).await?;
    let _next = fleet.stage.start_with("next", &[]).await?;
    fleet.is_restarted_where_it_is_now().await
}

struct Fleet {
    stage: Stage,
    old: ScriptedEngine,
    new: ScriptedEngine,
    _crashed: Daemon,
}

impl Fleet {
    async fn with_an_attempt_on_the_old_engine() -> Result<Self> {
        let (old, new) = (ScriptedEngine::start().await?, ScriptedEngine::start().await?);
        let stage = stage(&new.url()).await?.engine("old", &old.url());
        old.add(container("w1"));
        stage.db.add(Workspace::new("w1").engine("old").silent()).await?;
        let crashed = stage.run_crashing_at("crashing", "acting").await?;
        stage.db.wait_for_verdict("w1", Some("silent")).await?;
        old.exit("w1", 137)?;
        has_crashed(&crashed, "acting").await?;

        new.add(container("w1"));
        new.exit("w1", 137)?;
        stage.db.execute("update defib.workspaces set engine = 'default', status = 'online' where id = 'w1'").await?;
        Ok(Self { stage, old, new, _crashed: crashed })
    }

    async fn is_restarted_where_it_is_now(&self) -> Result<()> {
        let rows = "select count(*) filter (where engine = 'old' and outcome = 'abandoned')
                         + 10 * count(*) filter (where engine = 'default' and outcome = 'succeeded') from defib.restarts";
        eventually(SETTLED, "the old attempt is abandoned, and a new one made", async || {
            match (self.stage.db.count(rows).await, self.new.starts_of("w1")) {
                (Ok(11), 1) => Ok(()),
                other => Err(format!("{other:?}; {:#?}", self.stage.db.all_restarts().await)),
            }
        })
        .await?;
        ensure!(self.old.starts_of("w1") == 0, "it was started on the engine that it has left");
        nothing_is_left_open(&self.stage).await
    }
}
