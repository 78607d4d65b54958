//! What the flight recorder tells operators.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use defib_record::{Condition, Torn};
use tracing::{info, warn};

use crate::logging::printable;
use crate::metrics::Metrics;

/// Writes the metrics and the log lines of the flight recorder.
pub(crate) struct RecordingNews {
    metrics: Arc<Metrics>,
    /// Whether a failure was logged, and it has not yet been logged that the recorder works again.
    said: AtomicBool,
}

impl RecordingNews {
    /// Writes into these metrics.
    pub(crate) const fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, said: AtomicBool::new(false) }
    }

    /// The flight recorder begins to record.
    pub(crate) fn begins(directory: &str, max_bytes: u64, torn: Option<&Torn>) {
        info!(directory = %printable(directory), max_bytes, "the flight recorder is on (DEFIB_RECORD_DIR)");
        if let Some(torn) = torn {
            warn!(
                file = %printable(&torn.path.display().to_string()),
                bytes = torn.bytes,
                "the last process was killed while it wrote to its recording; the frame that it had not finished was cut off"
            );
        }
    }

    /// Tells how the flight recorder is doing.
    pub(crate) fn goes(&self, condition: &Condition) {
        self.metrics.recording(condition);
        match &condition.trouble {
            Some(error) if !self.said.swap(true, Ordering::Relaxed) => warn!(
                error = %printable(error),
                "the flight recorder cannot write to DEFIB_RECORD_DIR; what happens meanwhile is missing from the recording, and nothing else is affected"
            ),
            None if self.said.swap(false, Ordering::Relaxed) => info!("the flight recorder writes again"),
            _ => {}
        }
    }
}
