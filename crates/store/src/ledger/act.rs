//! The moment before the engine is asked: the database says whether it may still be asked, and writes down that it will be.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::{LeaseProof, MayAct};
use crate::Store;
use crate::decode::micros;
use crate::error::StoreError;

/// It is all one statement, because a new owner that wants to settle the attempt waits for the row lock of this update.
const MAY_ACT: &str = "
    with facts as materialized (
        select exists (select from defib.leases l
                        where l.engine = $3 and l.holder = $4 and l.epoch = $5 and l.expires_at > clock_timestamp()) as owner,
               exists (select from defib.fleet f
                        where f.workspace_id::text =
                              (select r.workspace_id from defib.restarts r where r.id = $1)
                          and (f.status::text = any ($2) or %forced%
                               or f.status::text = (select m.status from defib.marks m
                                                  where m.workspace_id = f.workspace_id::text and m.attempt_id = $1))
                          and f.suspended is false
                          and f.engine::text = $3 and f.kind::text <> 'external'
                          and (defib.hold_reason(f.workspace_id::text, f.engine::text) is null or %forced%)
                          and not exists (select from defib.restarts r
                                           where r.id = $1 and r.verdict = 'wedged' and r.acting_at is null
                                             and (defib.has_advanced(f.last_heartbeat_at::timestamptz, r.evidence ->> 'last_heartbeat_at')
                                                  or defib.has_advanced(f.last_activity_at::timestamptz, r.evidence ->> 'last_activity_at')))
                         ) as wanted),
         acting as (
        update defib.restarts r
           set acting_at = clock_timestamp(),
               deadline_at = clock_timestamp() + $6 * interval '1 microsecond'
          from facts
         where r.id = $1 and r.finished_at is null and facts.owner and facts.wanted
        returning r.id)
    select facts.owner, facts.wanted, exists (select from acting) from facts";

/// Whether an operator ordered the restart by force, against any hold and whatever the status of the workspace is.
const FORCED: &str = "exists (select from defib.restarts o where o.id = $1 and o.verdict = 'operator' and o.evidence ->> 'force' = 'true')";

impl Store {
    /// Asks whether attempt `id` may turn to the engine, right before it does. After a yes the attempt is recorded as `acting`, and others
    /// settle it if it has not ended after `within`.
    ///
    /// Yes while the lease is ours and unexpired, the attempt is under way, its workspace is in the fleet, watched and unsuspended, and no
    /// hold stands. The status that `mark_dead` has written for this attempt counts as watched. A workspace that was found hanging must not
    /// have sent a sign of life since, because then it has recovered by itself. This is only asked until the attempt has turned to the
    /// engine.
    pub async fn may_act(
        &self,
        id: i64,
        watched: &[String],
        lease: LeaseProof<'_>,
        within: Duration,
    ) -> Result<MayAct, StoreError> {
        self.within_deadline(async {
            let (engine, within) = (lease.engine.as_str(), micros(within));
            let mut connection = self.pool.get().await?;
            connection.begin_for_a_few_rows().await?;
            let row = connection
                .query_one(
                    &MAY_ACT.replace("%forced%", FORCED),
                    &[
                        (&id, Type::INT8),
                        (&watched, Type::TEXT_ARRAY),
                        (&engine, Type::TEXT),
                        (&lease.holder, Type::TEXT),
                        (&lease.epoch, Type::INT8),
                        (&within, Type::INT8),
                    ],
                )
                .await?;
            connection.commit().await?;
            let (owner, wanted, acting): (bool, bool, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            Ok(match (owner, wanted, acting) {
                (_, _, true) => MayAct::Yes,
                (true, false, false) => MayAct::NotWanted,
                (false, ..) | (true, true, false) => MayAct::NotOwner,
            })
        })
        .await
        .map_err(StoreError::MayAct)
    }
}
