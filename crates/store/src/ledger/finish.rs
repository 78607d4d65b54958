//! The end of an attempt, the recovery that a heartbeat proves later, and an operator's acknowledgement.

use defib_policy::attempt::Outcome;
use defib_policy::id::WorkspaceId;
use tokio_postgres::types::Type;

use super::notify;
use crate::Store;
use crate::decode::{beginning, text};
use crate::error::StoreError;

/// Characters of an error that the ledger keeps. Engines quote whole responses.
const ERROR_LENGTH_MAX: usize = 2_000;

/// Ends an attempt, and decides what becomes of the mark that its claim made.
///
/// An attempt that was vetoed or abandoned before the engine was asked has done nothing. Unless an earlier attempt under the same mark has
/// asked the engine, the mark is owed back; a mark that changed no status (the platform had written that word itself) is forgotten. An
/// attempt that was superseded leaves the mark standing until a heartbeat proves that the workspace is back.
///
/// If the engine was asked, the webhook is told whether it made the restart, did not make it, or left that unknown. Telling never fails,
/// and waits for a lock for a twentieth of a second at most.
///
/// The notification holds two ids and no other text, because a payload may have 8,000 bytes at most.
pub(super) const FINISH: &str = "
    with finished as (
        update defib.restarts
           set finished_at = clock_timestamp(), outcome = $2, error = $3,
               run_ended_at = case when $2 in ('vetoed', 'superseded') or acting_at is null then clock_timestamp() end
         where id = $1 and finished_at is null %unasked%
        returning id, workspace_id, engine, outcome, acting_at, attempt, verdict, container_id, error, claimed_by),
         idle as (
        select m.workspace_id, m.status is distinct from m.status_before as wrote
          from finished f join defib.marks m on m.workspace_id = f.workspace_id and m.attempt_id = f.id
         where f.acting_at is null and f.outcome in ('vetoed', 'abandoned')
           and not exists (select from defib.restarts r
                            where r.workspace_id = f.workspace_id and r.id >= m.since_attempt and r.acting_at is not null)),
         owed as (
        update defib.marks m set owed = true, tries = 0, next_at = clock_timestamp()
          from idle where m.workspace_id = idle.workspace_id and idle.wrote),
         forgotten as (
        delete from defib.marks m using idle where m.workspace_id = idle.workspace_id and not idle.wrote)
    select pg_notify('defib_events', json_build_object(
               'event', 'restart', 'id', id, 'workspace_id', workspace_id, 'engine', left(engine, 200),
               'outcome', outcome)::text) is null,
           case when outcome in ('succeeded', 'failed') or outcome = 'abandoned' and acting_at is not null
                then defib.tell(
                    case outcome when 'succeeded' then 'restart.succeeded' else 'restart.failed' end, workspace_id, engine,
                    jsonb_build_object(
                        'restart_id', id, 'attempt', attempt, 'verdict', verdict, 'outcome', outcome, 'container_id', container_id,
                        'error', left(error, 500), 'replica', claimed_by)) end
      from finished";

/// Of a recovery, the webhook is told in the transaction that records it.
const TELL_RECOVERED: &str = "
    select defib.tell('workspace.recovered', r.workspace_id, r.engine,
                      jsonb_build_object('restart_id', r.id, 'attempt', r.attempt, 'verdict', r.verdict,
                                         'down_seconds', extract(epoch from r.recovered_at - r.claimed_at)::bigint))
      from defib.restarts r where r.id = $1";

/// The platform is told by `Store::take_back`, after this transaction: if the platform's function raises, the recovery must be in the
/// ledger all the same.
/// The mark is left alone if a later attempt is open or has asked the engine, because the workspace has died again.
const OWE: &str = "
    update defib.marks set owed = true, tries = 0, next_at = clock_timestamp()
     where workspace_id = $1 and not owed
       and not exists (select from defib.restarts later where later.workspace_id = $1 and later.id > $2
                          and (later.finished_at is null or later.acting_at is not null))";

/// The same for an external workspace, whose mark no attempt has made.
const OWE_EXTERNAL: &str = "
    update defib.marks set owed = true, tries = 0, next_at = clock_timestamp()
     where workspace_id = $1 and not owed and attempt_id is null";

impl Store {
    /// Ends attempt `id` and notifies `defib_events`. False when it had ended already, because another replica has settled it.
    pub async fn finish(&self, id: i64, outcome: Outcome, error: Option<&str>) -> Result<bool, StoreError> {
        self.end(&FINISH.replace("%unasked%", ""), id, outcome, error).await
    }

    /// Abandons attempt `id` of an owner that is gone, unless that owner turned to the engine. False when it did, or when the attempt had
    /// ended already.
    pub async fn abandon_unasked(&self, id: i64, why: &str) -> Result<bool, StoreError> {
        self.end(&FINISH.replace("%unasked%", "and acting_at is null"), id, Outcome::Abandoned, Some(why)).await
    }

    async fn end(&self, sql: &str, id: i64, outcome: Outcome, error: Option<&str>) -> Result<bool, StoreError> {
        self.within_deadline(async {
            let error = error.map(|error| text(beginning(error, ERROR_LENGTH_MAX)));
            let outcome = outcome.label();
            let mut connection = self.pool.get().await?;
            let parameters = [(&id as _, Type::INT8), (&outcome as _, Type::TEXT), (&error as _, Type::TEXT)];
            Ok(connection.query_opt(sql, &parameters).await?.is_some())
        })
        .await
        .map_err(StoreError::Finish)
    }

    /// A heartbeat proved that attempt `id` brought `workspace` back: ends its run, and tells `defib_events`. False when that was recorded
    /// before. From then on the mark is owed: [`take_back`](Self::take_back) tells the platform.
    pub async fn recovered(&self, id: i64, workspace: &WorkspaceId) -> Result<bool, StoreError> {
        self.within_deadline(async {
            let of = workspace.as_str();
            let mut connection = self.pool.get().await?;
            connection.begin().await?;
            let first = connection
                .execute(
                    "update defib.restarts set recovered_at = now(), run_ended_at = now()
                      where id = $1 and workspace_id = $2 and recovered_at is null and finished_at is not null",
                    &[(&id, Type::INT8), (&of, Type::TEXT)],
                )
                .await?
                > 0;
            if first {
                connection
                    .execute(
                        "update defib.restarts set run_ended_at = now()
                          where workspace_id = $2 and id < $1 and run_ended_at is null and finished_at is not null",
                        &[(&id, Type::INT8), (&of, Type::TEXT)],
                    )
                    .await?;
                connection.execute(OWE, &[(&of, Type::TEXT), (&id, Type::INT8)]).await?;
                notify(&mut connection, "recovered", of).await?;
                connection.query(TELL_RECOVERED, &[(&id, Type::INT8)]).await?;
            }
            connection.commit().await?;
            Ok(first)
        })
        .await
        .map_err(StoreError::Recovered)
    }

    /// Takes note that an external workspace is back, so that its mark is taken back. False when there is no mark, or when that was noted
    /// before.
    pub async fn owe(&self, workspace: &WorkspaceId) -> Result<bool, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            Ok(connection.execute(OWE_EXTERNAL, &[(&workspace.as_str(), Type::TEXT)]).await? > 0)
        })
        .await
        .map_err(StoreError::Marks)
    }

    /// Acknowledges a workspace for an operator: its finished attempts no longer count. Returns how many these are.
    pub async fn acknowledge(&self, workspace: &WorkspaceId) -> Result<u64, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            connection
                .execute(
                    "update defib.restarts set acknowledged_at = now(), run_ended_at = coalesce(run_ended_at, now())
                      where workspace_id = $1 and acknowledged_at is null and finished_at is not null",
                    &[(&workspace.as_str(), Type::TEXT)],
                )
                .await
        })
        .await
        .map_err(StoreError::Acknowledge)
    }
}
