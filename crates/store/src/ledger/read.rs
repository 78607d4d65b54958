//! Reads of the ledger: the attempts that the policy takes into account, and the attempts that are under way.

use std::time::Duration;

use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::id::EngineName;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::OpenAttempt;
use crate::Store;
use crate::decode::{micros, optional_timestamp, timestamp};
use crate::error::{Fault, StoreError};
use crate::fleet::FleetScope;

/// Attempts of a workspace that are read, at most: more than any exhaustion threshold.
pub(crate) const ATTEMPTS_MAX: i64 = 20;

/// Refused attempts of a workspace (vetoed, superseded, or ended before the engine was asked) that are read, at most. The delay between
/// them grows with their number and has reached its limit by then. They must not crowd out those that count.
const REFUSALS_MAX: i64 = 8;

/// For each workspace whose run goes on or has ended within the reset: its newest attempts that counted, and its newest refusals.
const ATTEMPTS: &str = "
    select r.id, r.workspace_id, r.container_id, r.started_at, r.attempt, r.claimed_at, r.finished_at, r.outcome, r.recovered_at,
           now(), r.acting_at is not null
      from (select distinct workspace_id from defib.restarts
             where (run_ended_at is null or run_ended_at > now() - $1 * interval '1 microsecond')
               and acknowledged_at is null %scope%) c
     cross join lateral (
           (select * from defib.restarts a
             where a.workspace_id = c.workspace_id and a.acknowledged_at is null
               and (a.outcome is null or (a.outcome not in ('vetoed', 'superseded') and a.acting_at is not null))
               and (a.run_ended_at is null or a.claimed_at > now() - interval '7 days')
             order by a.id desc limit $2)
           union all
           (select * from defib.restarts a
             where a.workspace_id = c.workspace_id and a.acknowledged_at is null
               and (a.outcome in ('vetoed', 'superseded') or (a.outcome is not null and a.acting_at is null))
               and a.claimed_at > now() - interval '7 days'
             order by a.id desc limit $3)) r
     order by r.workspace_id, r.id desc";

const OPEN: &str = "
    select id, workspace_id, engine, container_id, started_at, claimed_at, claimed_by, epoch, acting_at is not null, deadline_at,
           clock_timestamp(), verdict,
           not exists (select from defib.fleet f where f.workspace_id::text = r.workspace_id and f.engine::text = r.engine),
           (select coalesce(f.instance_ref::text, '') from defib.fleet f
             where f.workspace_id::text = r.workspace_id and f.kind::text = 'instance' limit 1)
      from defib.restarts r where finished_at is null %which% order by id limit 1000";

const WITHOUT_OWNER: &str = "
    and not exists (select from defib.replicas p where p.expires_at > clock_timestamp() and r.engine = any (p.engines))
    and not exists (select from defib.leases l where l.expires_at > clock_timestamp() and l.engine = r.engine)";

impl Store {
    /// The attempts that back-off, settling and exhaustion depend on: of each workspace in `scope` whose run of attempts goes
    /// on, or ended less than `reset` ago, the newest twenty that counted and the newest eight refusals, by workspace and
    /// newest first. Acknowledged ones are left out.
    pub async fn read_attempts(&self, scope: FleetScope<'_>, reset: Duration) -> Result<Vec<Attempt>, StoreError> {
        self.within_deadline(async {
            let (ids, reset) = (scope.ids(), micros(reset));
            let mut parameters: Vec<crate::Parameter<'_>> =
                vec![(&reset, Type::INT8), (&ATTEMPTS_MAX, Type::INT8), (&REFUSALS_MAX, Type::INT8)];
            let sql = if let Some(ids) = &ids {
                parameters.push((ids, Type::TEXT_ARRAY));
                ATTEMPTS.replace("%scope%", "and workspace_id = any ($4)")
            } else {
                ATTEMPTS.replace("%scope%", "")
            };
            let mut connection = self.pool.get().await?;
            connection.query(&sql, &parameters).await?.iter().map(attempt_from_row).collect()
        })
        .await
        .map_err(StoreError::ReadAttempts)
    }

    /// The attempts that are under way on `engines`, oldest first. The engine's present owner settles those that another process claimed.
    pub async fn open_attempts(&self, engines: &[EngineName]) -> Result<Vec<OpenAttempt>, StoreError> {
        let engines: Vec<&str> = engines.iter().map(EngineName::as_str).collect();
        self.open("and engine = any ($1)", &[(&engines, Type::TEXT_ARRAY)]).await
    }

    /// The attempts that are under way on an engine that no live replica is configured for, and that nobody holds the lease of.
    /// Oldest first.
    pub async fn attempts_without_owner(&self) -> Result<Vec<OpenAttempt>, StoreError> {
        self.open(WITHOUT_OWNER, &[]).await
    }

    async fn open(&self, which: &str, parameters: &[crate::Parameter<'_>]) -> Result<Vec<OpenAttempt>, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let rows = connection.query(&OPEN.replace("%which%", which), parameters).await?;
            rows.iter().map(open_from_row).collect()
        })
        .await
        .map_err(StoreError::OpenAttempts)
    }
}

fn open_from_row(row: &Row) -> Result<OpenAttempt, Fault> {
    let (deadline, now) = (timestamp(row, 9)?, timestamp(row, 10)?);
    Ok(OpenAttempt {
        id: row.try_get(0)?,
        workspace: row.try_get::<_, &str>(1)?.into(),
        engine: row.try_get::<_, &str>(2)?.into(),
        container_id: row.try_get::<_, Option<&str>>(3)?.map(Into::into),
        started_at: optional_timestamp(row, 4)?,
        claimed_at: timestamp(row, 5)?,
        claimed_by: row.try_get(6)?,
        epoch: row.try_get(7)?,
        acting: row.try_get(8)?,
        overdue_by: (deadline < now).then(|| now.since(deadline)),
        verdict: row.try_get(11)?,
        elsewhere: row.try_get(12)?,
        instance: row.try_get(13)?,
    })
}

fn attempt_from_row(row: &Row) -> Result<Attempt, Fault> {
    let now = timestamp(row, 9)?;
    let finished_at = optional_timestamp(row, 6)?;
    let outcome = row
        .try_get::<_, Option<&str>>(7)?
        .map(|label| Outcome::from_label(label).ok_or_else(|| Fault::Unexpected(format!("outcome {label}"))))
        .transpose()?;
    Ok(Attempt {
        id: row.try_get(0)?,
        workspace: row.try_get::<_, &str>(1)?.into(),
        container_id: row.try_get::<_, Option<&str>>(2)?.map(Into::into),
        started_at: optional_timestamp(row, 3)?,
        attempt: row.try_get::<_, i32>(4)?.try_into().unwrap_or(1),
        claimed_ago: now.since(timestamp(row, 5)?),
        finished_ago: finished_at.map(|at| now.since(at)),
        finished_at,
        outcome,
        recovered_ago: optional_timestamp(row, 8)?.map(|at| now.since(at)),
        asked: row.try_get(10)?,
        acknowledged: false,
    })
}
