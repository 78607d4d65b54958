//! Which status the platform's `mark_dead` writes.
//!
//! The daemon must watch that status: a workspace whose first restart fails would otherwise leave the fleet with the mark, and nobody would
//! look at it again. The shipped function writes `offline`. Another one is asked: about a workspace that there is, with evidence that fits
//! its row, in a transaction that is rolled back.

use serde_json::Value;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::connect::Connection;
use crate::error::{Fault, StoreError};
use crate::{Store, platform};

/// What the shipped `mark_dead` writes.
const SHIPPED: &str = "offline";

/// Only the shipped function knows defib's own fleet table and writes that word into it.
const IS_SHIPPED: &str = "
    select coalesce(bool_and(p.prosrc like '%defib.workspaces%' and p.prosrc like '%status = ''offline''%'), false)
      from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
     where n.nspname = 'defib' and p.proname = 'mark_dead'";

/// One workspace for each of a few statuses. Those that are marked already or that have been silent for longest come first: whoever is
/// asked about is locked for a few milliseconds.
const CANDIDATES: &str = "
    select id, jsonb_build_object('status', status, 'last_heartbeat_at', beat, 'last_activity_at', active)
      from (select distinct on (f.status::text) f.workspace_id::text as id, f.status::text as status,
                   f.last_heartbeat_at::timestamptz as beat, f.last_activity_at::timestamptz as active,
                   exists (select from defib.marks m where m.workspace_id = f.workspace_id::text) as is_marked
              from defib.fleet f
             where f.suspended is false and f.status is not null
               and coalesce(isfinite(f.last_heartbeat_at::timestamptz), true)
               and coalesce(isfinite(f.last_activity_at::timestamptz), true)
             order by f.status::text, f.last_heartbeat_at nulls first) each
     order by is_marked desc, beat nulls first limit 8";

impl Store {
    /// The status that `mark_dead` leaves behind. `None` when that cannot be told: it is not the shipped function, and it agrees to mark
    /// none of the workspaces that there are, or changes none of their statuses.
    ///
    /// # Errors
    /// [`StoreError::Check`] when the database gives no answer.
    pub async fn status_that_mark_dead_writes(&self) -> Result<Option<String>, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            if connection.query_one(IS_SHIPPED, &[]).await?.try_get(0)? {
                return Ok(Some(SHIPPED.to_owned()));
            }
            for row in connection.query(CANDIDATES, &[]).await? {
                let (workspace, evidence): (String, Value) = (row.try_get(0)?, row.try_get(1)?);
                if let Some(status) = written(&mut connection, &workspace, &evidence).await? {
                    return Ok(Some(status));
                }
            }
            Ok(None)
        })
        .await
        .map_err(StoreError::Check)
    }
}

/// The status that `mark_dead` gives this workspace, if it changes the status. The call is rolled back.
async fn written(connection: &mut Connection, workspace: &str, evidence: &Value) -> Result<Option<String>, Fault> {
    connection.begin().await?;
    connection.batch(platform::BOUNDS).await?;
    connection.batch("set local lock_timeout = 200").await?;
    let after = match platform::mark_dead(connection, workspace, evidence).await {
        Ok(true) => {
            let sql = "select f.status::text from defib.fleet f where f.workspace_id::text = $1";
            let row = connection.query_opt(sql, &[(&workspace, Type::TEXT)]).await?;
            row.map(|row| row.try_get::<_, Option<String>>(0)).transpose()?.flatten()
        }
        Ok(false) => None,
        Err(Fault::Function { source, .. }) if source.code() != Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => None,
        Err(fault) => return Err(fault),
    };
    connection.rollback().await?;
    let before = evidence.get("status").and_then(Value::as_str);
    Ok(after.filter(|after| Some(after.as_str()) != before))
}
