//! The metrics and the log lines of a restart, from its order to its end.

use std::sync::Arc;
use std::time::Duration;

use defib_policy::attempt::Outcome;
use defib_policy::moment::Moment;
use defib_policy::plan::RestartOrder;
use defib_policy::restart::{Conclusion, Done, NotClaimed};
use tracing::{debug, error, info, warn};

use crate::logging::printable;
use crate::metrics::Metrics;

/// Writes the metrics and the log lines of restarts.
pub(crate) struct RestartNews {
    metrics: Arc<Metrics>,
}

impl RestartNews {
    /// Writes into these metrics.
    pub(crate) const fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }

    /// The platform's function has failed for a workspace, `failures` times in a row. The first failure is a warning. The function is
    /// called again after `retry_in`.
    pub(crate) fn function_failed(&self, order: &RestartOrder, failures: u32, retry_in: Duration, why: &str) {
        self.metrics.adapter_error("mark_dead");
        let (workspace, retry_in_ms) = (printable(order.workspace.as_str()), retry_in.as_millis());
        if failures == 1 {
            warn!(
                %workspace,
                engine = %order.engine,
                error = why,
                retry_in_ms,
                "the platform's mark_dead fails for this workspace, so it is not restarted; it is tried again with a growing delay"
            );
        } else {
            debug!(%workspace, engine = %order.engine, error = why, failures, retry_in_ms, "mark_dead fails again");
        }
    }

    /// The engine is about to be asked. `mends` is why an earlier call failed that left the container stopped.
    pub(crate) fn leaves(&self, order: &RestartOrder, epoch: i64, mends: Option<&str>, now: Moment) {
        let workspace = printable(order.workspace.as_str());
        if let Some(failed) = mends {
            warn!(%workspace, engine = %order.engine, error = failed, "the restart left the container stopped; starting it");
            return;
        }
        if let Some(stopped_ago) = order.stopped_ago {
            self.metrics.detected_after(stopped_ago + (now - order.at));
        }
        warn!(
            %workspace,
            engine = %order.engine,
            container = %order.container_id().map_or("", |id| short(id.as_str())),
            attempt = order.attempt,
            epoch,
            verdict = order.verdict.label(),
            rule = order.evidence.rule.label(),
            because = %order.evidence.because,
            evidence = %serde_json::to_string(&order.evidence).unwrap_or_default(),
            "restarting"
        );
    }

    /// The engine has answered, or the deadline has passed.
    pub(crate) fn called(&self, order: &RestartOrder, took: Duration) {
        self.metrics.restart_took(&order.engine, took);
    }

    /// The outcome is known, and is about to be written.
    pub(crate) fn outcome(&self, order: &RestartOrder, outcome: Outcome, why: Option<&str>) {
        self.metrics.restart(&order.engine, outcome);
        let (workspace, engine, attempt) = (printable(order.workspace.as_str()), &order.engine, order.attempt);
        let why = why.unwrap_or_default();
        match outcome {
            Outcome::Succeeded => info!(%workspace, %engine, attempt, why, "restarted; waiting for its heartbeat"),
            Outcome::Failed => error!(%workspace, %engine, attempt, error = why, "restart failed"),
            Outcome::Superseded | Outcome::Vetoed | Outcome::Abandoned => {
                info!(%workspace, %engine, outcome = outcome.label(), why, "restart not made");
            }
        }
    }

    /// The restart has ended.
    pub(crate) fn done(&self, order: &RestartOrder, done: &Done) {
        let (workspace, engine) = (printable(order.workspace.as_str()), &order.engine);
        let not_claimed = match &done.conclusion {
            Conclusion::Ended { written: true, .. } => return,
            Conclusion::Ended { written: false, .. } => {
                error!(%workspace, "outcome not written; the row stays open, and the engine's owner settles it by looking");
                return;
            }
            Conclusion::NotClaimed(not_claimed) => not_claimed,
        };
        match not_claimed {
            NotClaimed::CannotDo => debug!(
                %workspace,
                %engine,
                "not restarted: nothing that defib is configured for can do what this workspace needs"
            ),
            NotClaimed::Vetoed => {
                self.metrics.restart(engine, Outcome::Vetoed);
                info!(%workspace, %engine, "restart vetoed by the platform: its row changed since the evidence");
            }
            NotClaimed::Held { reason } => {
                self.metrics.held_by_operator();
                info!(%workspace, %engine, reason = %printable(reason), "restart held by an operator");
            }
            NotClaimed::NotOwner => {
                info!(%workspace, %engine, "restart left to the engine's owner: the lease is not ours, or no longer");
            }
            NotClaimed::NoAnswer { why } => {
                warn!(%workspace, %engine, error = %why, "restart not claimed, so not made");
            }
            // These are not logged here. `function_failed` has logged the failure, and another attempt or the next process logs what it
            // does.
            NotClaimed::FunctionFailed { .. } | NotClaimed::Taken | NotClaimed::Stopping => {}
        }
    }
}

/// The part of a container id that people read.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
