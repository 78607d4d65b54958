//! Steps of the database's clock, `defib.clock_steps`: what a daemon that starts anew has to know of the time before it.

use std::time::Duration;

use defib_policy::moment::Timestamp;
use tokio_postgres::types::Type;

use crate::Store;
use crate::decode::{micros, optional_timestamp, system_time, text};
use crate::error::StoreError;

impl Store {
    /// Writes down that `replica` has noticed a step: stamps up to `comparable_from` may be from before it. Forgets those of more than a
    /// week ago.
    pub async fn note_clock_step(&self, comparable_from: Timestamp, replica: &str) -> Result<(), StoreError> {
        let (until, by) = (system_time(comparable_from), text(replica));
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            connection
                .execute(
                    "with forgotten as (delete from defib.clock_steps where noticed_at < clock_timestamp() - interval '7 days')
                     insert into defib.clock_steps (comparable_from, noticed_by) values ($1, $2)",
                    &[(&until, Type::TIMESTAMPTZ), (&by, Type::TEXT)],
                )
                .await
                .map(drop)
        })
        .await
        .map_err(StoreError::ClockSteps)
    }

    /// Up to which stamp those may be from before a step that was noticed less than `within` ago. `None` when there was none.
    ///
    /// A step that was noticed in what is the future now, while the clock was far ahead, counts no longer than one of the past.
    pub async fn clock_steps(&self, within: Duration) -> Result<Option<Timestamp>, StoreError> {
        let within = micros(within);
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let rows = connection
                .query(
                    "select max(comparable_from) from defib.clock_steps
                      where noticed_at between clock_timestamp() - $1 * interval '1 microsecond'
                                           and clock_timestamp() + $1 * interval '1 microsecond'",
                    &[(&within, Type::INT8)],
                )
                .await?;
            rows.first().map_or(Ok(None), |row| optional_timestamp(row, 0))
        })
        .await
        .map_err(StoreError::ClockSteps)
    }
}
