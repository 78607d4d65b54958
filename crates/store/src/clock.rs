//! Steps of the database's clock, `defib.clock_steps`: what a daemon that starts anew has to know of the time before it.

use std::time::Duration;

use defib_policy::moment::Timestamp;
use tokio_postgres::types::Type;

use crate::Store;
use crate::decode::{micros, optional_timestamp, system_time, text, timestamp};
use crate::error::StoreError;

/// What is known of the database's clock when a daemon starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockHistory {
    /// Stamps up to this one may be from before a step of the clock that was noticed lately. `None` if there was no such step.
    pub comparable_from: Option<Timestamp>,
    /// By how many microseconds it was ahead of the clock of a daemon's host when that was last written down. `None` before the first time.
    pub was_ahead: Option<i64>,
    /// By how many microseconds it is ahead of the caller's clock.
    pub is_ahead: i64,
    /// Its reading.
    pub now: Timestamp,
}

impl Store {
    /// Writes down by how much the database's clock is ahead of the caller's, which reads `host_now`, and that `replica` has noticed a step:
    /// stamps up to `comparable_from` may be from before it. `None`: there was no step. Forgets what was written more than a week ago.
    pub async fn note_clock(
        &self,
        comparable_from: Option<Timestamp>,
        host_now: Timestamp,
        replica: &str,
    ) -> Result<(), StoreError> {
        let (until, by, host_now) = (comparable_from.map(system_time), text(replica), system_time(host_now));
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            connection
                .execute(
                    "with forgotten as (delete from defib.clock_steps where noticed_at < clock_timestamp() - interval '7 days')
                     insert into defib.clock_steps (comparable_from, noticed_by, ahead) values ($1, $2, clock_timestamp() - $3)",
                    &[(&until, Type::TIMESTAMPTZ), (&by, Type::TEXT), (&host_now, Type::TIMESTAMPTZ)],
                )
                .await
                .map(drop)
        })
        .await
        .map_err(StoreError::ClockSteps)
    }

    /// What was written down of the clock's steps that were noticed less than `within` ago, and by how much the clock is ahead of the
    /// caller's, which reads `host_now`.
    ///
    /// While the clock was far ahead, a step may have been noticed at a time that is in the future now. It counts for no longer than a step
    /// of the past.
    pub async fn clock_history(&self, within: Duration, host_now: Timestamp) -> Result<ClockHistory, StoreError> {
        let (within, host_now) = (micros(within), system_time(host_now));
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let row = connection
                .query_one(
                    "select max(comparable_from) filter (where noticed_at between clock.now - $1 * interval '1 microsecond'
                                                                              and clock.now + $1 * interval '1 microsecond'),
                            (select (extract(epoch from ahead) * 1000000)::bigint from defib.clock_steps
                              where ahead is not null order by id desc limit 1),
                            (extract(epoch from clock.now - $2) * 1000000)::bigint,
                            clock.now
                       from (select clock_timestamp() as now) clock left join defib.clock_steps on true
                      group by clock.now",
                    &[(&within, Type::INT8), (&host_now, Type::TIMESTAMPTZ)],
                )
                .await?;
            Ok(ClockHistory {
                comparable_from: optional_timestamp(&row, 0)?,
                was_ahead: row.try_get(1)?,
                is_ahead: row.try_get(2)?,
                now: timestamp(&row, 3)?,
            })
        })
        .await
        .map_err(StoreError::ClockSteps)
    }
}
