//! What the deletion of keys in Redis tells operators.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use defib_policy::id::WorkspaceId;
use tracing::{debug, info, warn};

use crate::logging::printable;
use crate::metrics::{Eviction, Metrics};

/// Writes the metrics and the log lines of evictions.
pub(crate) struct EvictionNews {
    metrics: Arc<Metrics>,
    /// Whether a failure was logged and it has not yet been logged that the deletion works again.
    said: AtomicBool,
}

impl EvictionNews {
    /// Writes into these metrics.
    pub(crate) const fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, said: AtomicBool::new(false) }
    }

    /// The keys of a workspace are gone.
    pub(crate) fn deleted(&self) {
        self.metrics.eviction(Eviction::Deleted);
        if self.said.swap(false, Ordering::Relaxed) {
            info!("keys of dead workspaces are deleted in Redis again");
        }
    }

    /// A try failed.
    pub(crate) fn failed(&self, workspace: &WorkspaceId, why: &str) {
        self.metrics.eviction(Eviction::Failed);
        let (workspace, error) = (printable(workspace.as_str()), printable(why));
        if self.said.swap(true, Ordering::Relaxed) {
            debug!(%workspace, %error, "its keys could not be deleted in Redis");
        } else {
            warn!(
                %workspace,
                %error,
                "keys of a dead workspace could not be deleted in Redis (DEFIB_REDIS_URL); restarts go on without it, and it is tried again"
            );
        }
    }

    /// The deletion is not tried any more.
    pub(crate) fn given_up(&self) {
        self.metrics.eviction(Eviction::GivenUp);
    }
}
