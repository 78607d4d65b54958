//! Retention: old rows are deleted in batches, each in a transaction of its own.
//!
//! One large delete would hold its snapshot for as long as it runs, and all that time vacuum could not clean the platform's tables.

use std::time::Duration;

use tokio_postgres::types::Type;

use crate::Store;
use crate::decode::micros;
use crate::error::{Fault, StoreError};

/// How long rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Suspicions, taken or not, from their report.
    pub suspicions: Duration,
    /// Events.
    pub events: Duration,
    /// Attempts, counted from their end, and holds, counted from theirs. If this is shorter than the longest back-off, attempts are
    /// forgotten too early and their numbers begin again.
    pub attempts: Duration,
    /// How many rows one statement deletes; at least one.
    pub batch: i64,
}

/// How many rows were deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionReport {
    /// From `defib.suspicions`.
    pub suspicions: u64,
    /// From `defib.events`.
    pub events: u64,
    /// From `defib.restarts`.
    pub attempts: u64,
    /// From `defib.holds`.
    pub holds: u64,
}

/// Ids grow with time, more or less. So the batch with the smallest ids is looked at, and the work ends with the first batch that holds a
/// row that is too young. That way no table needs an index on its time, which would make each insert slower.
const SUSPICIONS: &str = "
    delete from defib.suspicions where id = any (array(
        select id from (select id, reported_at from defib.suspicions order by id limit $2) oldest
         where reported_at < now() - $1 * interval '1 microsecond'))";

const EVENTS: &str = "
    delete from defib.events where id = any (array(
        select id from (select id, at from defib.events order by id limit $2) oldest
         where at < now() - $1 * interval '1 microsecond'))";

const ATTEMPTS: &str = "
    delete from defib.restarts where id = any (array(
        select id from defib.restarts where finished_at < now() - $1 * interval '1 microsecond' limit $2))";

const HOLDS: &str = "
    delete from defib.holds where id = any (array(
        select id from defib.holds where coalesce(released_at, expires_at) < now() - $1 * interval '1 microsecond' limit $2))";

impl Store {
    /// Deletes what is older than `settings` say. Each batch has the deadline of a call. After a failure, the batches before it stay
    /// deleted.
    pub async fn retain(&self, settings: RetentionSettings) -> Result<RetentionReport, StoreError> {
        let batch = settings.batch.max(1);
        let remove = |sql, age| self.remove_in_batches(sql, age, batch);
        let report = async {
            Ok(RetentionReport {
                suspicions: remove(SUSPICIONS, settings.suspicions).await?,
                events: remove(EVENTS, settings.events).await?,
                attempts: remove(ATTEMPTS, settings.attempts).await?,
                holds: remove(HOLDS, settings.attempts).await?,
            })
        };
        report.await.map_err(StoreError::Retain)
    }

    async fn remove_in_batches(&self, sql: &str, age: Duration, batch: i64) -> Result<u64, Fault> {
        let age = micros(age);
        let mut removed = 0;
        loop {
            let now_removed = self
                .within_deadline(async {
                    self.pool.get().await?.execute(sql, &[(&age, Type::INT8), (&batch, Type::INT8)]).await
                })
                .await?;
            removed += now_removed;
            if now_removed < batch.unsigned_abs() {
                return Ok(removed);
            }
        }
    }
}
