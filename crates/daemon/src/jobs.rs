//! Maintenance on a schedule: pruning what has expired, in memory and in the tables. Nothing that decides runs here; the
//! scheduler fires late and has no guard against overlap, so each job brings its own.

use std::sync::Arc;

use anyhow::Context as _;
use defib_store::{RetentionSettings, Store};
use tokio::sync::Mutex;
use tokio_cron_scheduler::{Job, JobScheduler};
use tracing::{debug, warn};

use crate::logging::database_fault;
use crate::memory::FORGOTTEN_AFTER;
use crate::state::State;

/// Pruning in memory every ten seconds is often enough, because entries live for minutes.
const PRUNE_AT: &str = "*/10 * * * * *";

/// The tables are pruned every five minutes in small batches, so that a backlog of days shrinks without a long transaction.
const RETAIN_AT: &str = "20 */5 * * * *";

/// Rows deleted by one statement.
const BATCH: i64 = 5_000;

/// Starts the jobs. They end with the scheduler.
pub(crate) async fn start(state: &Arc<State>, store: &Store) -> anyhow::Result<JobScheduler> {
    let scheduler = JobScheduler::new().await.context("the maintenance scheduler does not start")?;
    let pruning = Arc::clone(state);
    let prune = Job::new(PRUNE_AT, move |_, _| {
        let pruned = pruning.judge().prune(pruning.now());
        if pruned > 0 {
            debug!(pruned, "probe entries expired");
        }
    })
    .context("the pruning job")?;
    let retaining = (Arc::clone(state), store.clone());
    let busy = Arc::new(Mutex::new(()));
    let retain = Job::new_async(RETAIN_AT, move |_, _| {
        let ((state, store), busy) = (retaining.clone(), Arc::clone(&busy));
        Box::pin(async move {
            // The run before has not ended, so this one is left out.
            let Ok(_alone) = busy.try_lock() else { return };
            apply_retention(&state, &store).await;
        })
    })
    .context("the retention job")?;
    scheduler.add(prune).await.context("the pruning job")?;
    scheduler.add(retain).await.context("the retention job")?;
    scheduler.start().await.context("the maintenance scheduler does not start")?;
    Ok(scheduler)
}

async fn apply_retention(state: &State, store: &Store) {
    let config = &state.config;
    let settings = RetentionSettings {
        suspicions: config.suspicion_retention,
        events: config.retention,
        attempts: config.retention,
        batch: BATCH,
    };
    match store.retain(settings).await {
        Ok(report) => debug!(?report, "old rows deleted"),
        Err(error) => warn!(error = %database_fault(&error), "old rows not deleted; tried again in five minutes"),
    }
    match store.forget_cadences(FORGOTTEN_AFTER, BATCH).await {
        Ok(rows) => debug!(rows, "what was learned of workspaces that are gone is forgotten"),
        Err(error) => {
            warn!(error = %database_fault(&error), "what was learned of workspaces that are gone is kept for now");
        }
    }
}
