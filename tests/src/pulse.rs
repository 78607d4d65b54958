//! The heartbeats of agents: every agent that runs beats.

use std::collections::BTreeSet;
use std::time::Duration;

use defib_testkit::scripted_engine::ContainerState;
use defib_testkit::{ScriptedEngine, postgres};
use tokio::task::JoinHandle;

/// How often an agent that runs beats. Well below the window of [`Stage::quick_heartbeats`](crate::Stage::quick_heartbeats).
const BEAT: Duration = Duration::from_millis(200);

/// Makes the agents of a scripted engine beat, for as long as it is kept, and across outages of the database.
#[derive(Debug)]
pub struct Pulse {
    beating: JoinHandle<()>,
}

impl Pulse {
    /// Sends heartbeats for these workspaces, whose containers have the same names, to the database at this address.
    #[must_use]
    pub fn of(engine: &ScriptedEngine, ids: impl IntoIterator<Item = String>, database: &str) -> Self {
        let ids: BTreeSet<String> = ids.into_iter().collect();
        Self { beating: tokio::spawn(beat(engine.clone(), ids, database.to_owned())) }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

/// Whether the container of a workspace runs.
#[must_use]
pub fn is_running(engine: &ScriptedEngine, id: &str) -> bool {
    engine.container(id).is_some_and(|container| container.state == ContainerState::Running)
}

async fn beat(engine: ScriptedEngine, ids: BTreeSet<String>, database: String) {
    loop {
        if let Ok(client) = postgres::connect(&database).await {
            loop {
                let running: Vec<&String> = ids.iter().filter(|id| is_running(&engine, id)).collect();
                // Leaves out rows that somebody has locked at the moment, so that the heartbeats of the others do not wait for them.
                let beating = "update defib.workspaces set last_heartbeat_at = clock_timestamp() where id in
                    (select id from defib.workspaces where id = any ($1) for update skip locked)";
                if client.execute(beating, &[&running]).await.is_err() {
                    break;
                }
                tokio::time::sleep(BEAT).await;
            }
        }
        tokio::time::sleep(BEAT).await;
    }
}
