//! Retention: old rows are deleted in batches, each in a transaction of its own.
//!
//! One large delete would hold its snapshot for as long as it runs, and all that time vacuum could not clean the platform's tables.

use std::time::Duration;

use tokio_postgres::types::Type;

use crate::Store;
use crate::decode::micros;
use crate::error::{Fault, StoreError};
use crate::ledger::ATTEMPTS_MAX;
use crate::outbox::EXPIRES_AFTER;

/// How long rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Suspicions, taken or not, from their report.
    pub suspicions: Duration,
    /// Events.
    pub events: Duration,
    /// Attempts, counted from the end of their run, and holds and orders, counted from theirs. Attempts of a run that goes on are kept for as
    /// long as the back-off reads them. Also the marks of workspaces that are no longer in the fleet, counted from when they were marked.
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
    /// From `defib.orders`.
    pub orders: u64,
    /// From `defib.marks`.
    pub marks: u64,
    /// From `defib.outbox`.
    pub messages: u64,
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

/// While the run of a workspace goes on, its newest attempts are kept, because the back-off and `exhausted` rest on them. Once the
/// workspace has left the fleet, nothing rests on them.
const ATTEMPTS: &str = "
    delete from defib.restarts where id = any (array(
        select r.id from defib.restarts r
         where r.finished_at < now() - $1 * interval '1 microsecond'
           and (r.run_ended_at < now() - $1 * interval '1 microsecond'
                or r.run_ended_at is null
                   and (r.id not in (select n.id from defib.restarts n
                                      where n.workspace_id = r.workspace_id and n.run_ended_at is null
                                      order by n.id desc limit %kept%)
                        or not exists (select from defib.fleet f where f.workspace_id::text = r.workspace_id)))
         limit $2))";

const HOLDS: &str = "
    delete from defib.holds where id = any (array(
        select id from defib.holds where coalesce(released_at, expires_at) < now() - $1 * interval '1 microsecond' limit $2))";

const ORDERS: &str = "
    delete from defib.orders where id = any (array(
        select id from defib.orders where ended_at < now() - $1 * interval '1 microsecond' limit $2))";

/// The mark of a workspace that is in the fleet is taken back when that workspace lives again.
const MARKS: &str = "
    delete from defib.marks where workspace_id = any (array(
        select m.workspace_id from defib.marks m
         where m.marked_at < now() - $1 * interval '1 microsecond'
           and not exists (select from defib.fleet f where f.workspace_id::text = m.workspace_id)
         limit $2))";

/// Messages that nobody sends any more, because no daemon has a webhook. While a daemon has one, that daemon gives up old messages itself,
/// and counts them.
const MESSAGES: &str = "
    delete from defib.outbox where id = any (array(
        select id from defib.outbox
         where happened_at < now() - $1 * interval '1 microsecond' and coalesce(taken_until <= clock_timestamp(), true)
           and not exists (select from defib.webhook where wanted_until > clock_timestamp())
         order by id limit $2))";

impl Store {
    /// Deletes what is older than `settings` say. Each batch has the deadline of a call. After a failure, the batches before it stay
    /// deleted.
    pub async fn retain(&self, settings: RetentionSettings) -> Result<RetentionReport, StoreError> {
        let batch = settings.batch.max(1);
        let attempts = ATTEMPTS.replace("%kept%", &ATTEMPTS_MAX.to_string());
        let remove = |sql, age| self.remove_in_batches(sql, age, batch);
        let report = async {
            Ok(RetentionReport {
                suspicions: remove(SUSPICIONS, settings.suspicions).await?,
                events: remove(EVENTS, settings.events).await?,
                holds: remove(HOLDS, settings.attempts).await?,
                orders: remove(ORDERS, settings.attempts).await?,
                messages: remove(MESSAGES, EXPIRES_AFTER).await?,
                // These read the platform's view. If it is broken, all others have been deleted by now.
                attempts: remove(&attempts, settings.attempts).await?,
                marks: remove(MARKS, settings.attempts).await?,
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
