//! What a restart asks of the database: the attempt's row in the ledger, from its claim to its outcome.
//!
//! Every failure is an answer as well. [`defib_policy::restart`] decides what it means for the restart. This module only distinguishes a
//! failure of the platform's own function, which concerns one workspace, from a database that does not answer.

use std::time::Duration;

use async_trait::async_trait;
use defib_policy::attempt::Outcome;
use defib_policy::plan::RestartOrder;
use defib_policy::restart::{ActAnswer, Answer, ClaimAnswer};
use defib_store::{Claim, Claimed, LastWords, LeaseProof, MayAct, Store};

use crate::logging::{chain, database_fault};

/// The ledger, as the restarter uses it.
#[async_trait]
pub(crate) trait Ledger: Send + Sync {
    /// Claims the attempt under the lease of this epoch. After `deadline` others may settle it. Answers [`Answer::Claim`].
    async fn claim(&self, order: &RestartOrder, epoch: i64, deadline: Duration) -> Answer;

    /// Asks whether the engine may be asked now. If so, that is written down, and others leave the row alone for `within`. Answers
    /// [`Answer::MayAct`].
    async fn may_act(&self, order: &RestartOrder, row: i64, epoch: i64, within: Duration) -> Answer;

    /// Writes the outcome. Answers [`Answer::Written`].
    async fn finish(&self, row: i64, outcome: Outcome, why: Option<&str>) -> Answer;

    /// Keeps the last words of the container that the attempt restarts.
    ///
    /// # Errors
    /// Why the last words are lost. Nothing depends on them.
    async fn keep_last_words(&self, row: i64, words: &LastWords) -> Result<(), String>;
}

/// `defib.restarts` on Postgres.
pub(crate) struct StoreLedger {
    /// The database.
    pub(crate) store: Store,
    /// The same database over other connections, for writes that no restart waits for.
    pub(crate) books: Store,
    /// `DEFIB_REPLICA_ID`.
    pub(crate) replica_id: String,
    /// `DEFIB_WATCHED_STATUSES`.
    pub(crate) watched_statuses: Vec<String>,
}

/// The evidence that `mark_dead` and the ledger are given. An operator may order the restart of a living workspace, so a sign of life that
/// is later than the look must not lead to a veto. The evidence of such an order therefore has the latest time there can be.
fn evidence(order: &RestartOrder) -> serde_json::Value {
    let mut evidence = serde_json::to_value(&order.evidence).unwrap_or_default();
    if let Some(by) = &order.by_operator {
        evidence["rule"] = "operator".into();
        evidence["would_change"] = "nothing: an operator ordered it".into();
        evidence["order"] = by.order.into();
        evidence["force"] = by.force.into();
        evidence["last_heartbeat_at"] = "infinity".into();
        evidence["last_activity_at"] = "infinity".into();
    }
    evidence
}

#[async_trait]
impl Ledger for StoreLedger {
    async fn claim(&self, order: &RestartOrder, epoch: i64, deadline: Duration) -> Answer {
        let claim = Claim {
            workspace: &order.workspace,
            engine: &order.engine,
            container_ref: order.container_ref.as_deref(),
            instance_ref: order.instance_ref.as_deref(),
            policy: order.policy.as_deref(),
            container_id: order.container_id(),
            started_at: order.started_at(),
            attempt: order.attempt,
            epoch,
            verdict: order.asked_by(),
            evidence: evidence(order),
            claimed_by: &self.replica_id,
            deadline,
        };
        Answer::Claim(match self.store.claim(&claim).await {
            Ok(Claimed::Granted { id }) => ClaimAnswer::Granted { row: id },
            Ok(Claimed::Vetoed { .. }) => ClaimAnswer::Vetoed,
            Ok(Claimed::Taken) => ClaimAnswer::Taken,
            Ok(Claimed::Held { reason }) => ClaimAnswer::Held { reason },
            Ok(Claimed::NotOwner) => ClaimAnswer::NotOwner,
            // A claim calls only `mark_dead`. If it was not called at all, because calls for others have not ended, that is not this workspace's
            // failure: it is claimed anew with the next pass.
            Err(error) if error.function().is_some() => ClaimAnswer::FunctionFailed { why: database_fault(&error) },
            Err(error) => return Answer::Nothing(database_fault(&error)),
        })
    }

    async fn may_act(&self, order: &RestartOrder, row: i64, epoch: i64, within: Duration) -> Answer {
        let lease = LeaseProof { engine: &order.engine, holder: &self.replica_id, epoch };
        match self.store.may_act(row, &self.watched_statuses, lease, within).await {
            Ok(MayAct::Yes) => Answer::MayAct(ActAnswer::Yes),
            Ok(MayAct::NotWanted) => Answer::MayAct(ActAnswer::NotWanted),
            Ok(MayAct::NotOwner) => Answer::MayAct(ActAnswer::NotOwner),
            Err(error) => Answer::Nothing(chain(&error)),
        }
    }

    async fn finish(&self, row: i64, outcome: Outcome, why: Option<&str>) -> Answer {
        match self.store.finish(row, outcome, why).await {
            Ok(_) => Answer::Written,
            Err(error) => Answer::Nothing(chain(&error)),
        }
    }

    async fn keep_last_words(&self, row: i64, words: &LastWords) -> Result<(), String> {
        self.books.keep_last_words(row, words).await.map_err(|error| chain(&error))
    }
}
