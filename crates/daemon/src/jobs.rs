//! Maintenance on a schedule: pruning what has expired, in memory and in the tables. Nothing that decides runs here; the
//! scheduler fires late and has no guard against overlap, so each job brings its own.

use std::sync::Arc;

use anyhow::Context as _;
use defib_store::RetentionSettings;
use tokio::sync::Mutex;
use tokio_cron_scheduler::{Job, JobScheduler};
use tracing::{debug, warn};

use crate::reconcile::{Reconciler, database_fault};

/// Every ten seconds: entries live for minutes.
const PRUNE_AT: &str = "*/10 * * * * *";

/// Every five minutes: in small batches, so that a backlog of days shrinks without a long transaction.
const RETAIN_AT: &str = "20 */5 * * * *";

/// Rows deleted by one statement.
const BATCH: i64 = 5_000;

/// Starts the jobs. They end with the scheduler.
pub(crate) async fn start(reconciler: &Arc<Reconciler>) -> anyhow::Result<JobScheduler> {
    let scheduler = JobScheduler::new().await.context("the maintenance scheduler does not start")?;
    let pruning = Arc::clone(reconciler);
    let prune = Job::new(PRUNE_AT, move |_, _| {
        let pruned = pruning.judge().prune(pruning.now());
        if pruned > 0 {
            debug!(pruned, "probe entries expired");
        }
        pruning.show();
    })
    .context("the pruning job")?;
    let retaining = Arc::clone(reconciler);
    let busy = Arc::new(Mutex::new(()));
    let retain = Job::new_async(RETAIN_AT, move |_, _| {
        let (reconciler, busy) = (Arc::clone(&retaining), Arc::clone(&busy));
        Box::pin(async move {
            // The last one still runs: this one has nothing to add.
            let Ok(_alone) = busy.try_lock() else { return };
            apply_retention(&reconciler).await;
        })
    })
    .context("the retention job")?;
    scheduler.add(prune).await.context("the pruning job")?;
    scheduler.add(retain).await.context("the retention job")?;
    scheduler.start().await.context("the maintenance scheduler does not start")?;
    Ok(scheduler)
}

async fn apply_retention(reconciler: &Reconciler) {
    let config = &reconciler.config;
    let settings = RetentionSettings {
        suspicions: config.suspicion_retention,
        events: config.retention,
        attempts: config.retention,
        batch: BATCH,
    };
    match reconciler.store.retain(settings).await {
        Ok(report) => debug!(?report, "old rows deleted"),
        Err(error) => warn!(error = %database_fault(&error), "old rows not deleted; tried again in five minutes"),
    }
}
