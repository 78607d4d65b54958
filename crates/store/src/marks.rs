//! The marks that `mark_dead` has made and `mark_recovered` has not yet taken back: `defib.marks`.
//!
//! ```text
//! claim, mark_lost ── mark_dead, and a row here, in one transaction
//!      │ the engine was never asked (finish), a heartbeat proved the recovery (recovered), an external one is back (owe)
//!      ▼
//!   owed ── take_back ── mark_recovered, and the row goes, in one transaction
//!      └── mark_recovered raises, blocks or hangs: tried again after a delay that grows
//! ```
//!
//! The ledger does not wait for this: a recovery is recorded whatever `mark_recovered` does, and `mark_recovered` is called again until it
//! succeeds.

use defib_policy::id::{EngineName, WorkspaceId};
use serde_json::Value;
use tokio_postgres::types::Type;

use crate::Store;
use crate::connect::Connection;
use crate::decode::json;
use crate::error::{Fault, StoreError};
use crate::ledger::{LeaseProof, holds_lease, notify};
use crate::platform;

/// A mark that is to be taken back, or that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwedMark {
    /// The workspace that is marked.
    pub workspace: WorkspaceId,
    /// The attempt that marked it; `None` for an external workspace.
    pub attempt_id: Option<i64>,
}

/// A mark that is about to be made.
pub(crate) struct NewMark<'a> {
    pub(crate) workspace: &'a str,
    pub(crate) engine: &'a str,
    pub(crate) attempt_id: Option<i64>,
    pub(crate) evidence: &'a Value,
}

/// If there is a mark already, whether it stands or is waiting to be taken back, the status from before the first mark is kept, because
/// that status tells whether marking has changed anything. A mark that was waiting to be taken back stands again.
const WRITE: &str = "
    insert into defib.marks as m (workspace_id, engine, attempt_id, since_attempt, status_before) values ($1, $2, $3, $3, $4)
        on conflict (workspace_id) do update
       set engine = excluded.engine, attempt_id = excluded.attempt_id,
           since_attempt = case when m.owed then excluded.since_attempt else coalesce(m.since_attempt, excluded.since_attempt) end,
           marked_at = case when m.owed then excluded.marked_at else m.marked_at end,
           owed = false, tries = 0, next_at = excluded.next_at";

/// Leaves the mark of an external workspace that is still lost as it is.
const UNLESS_IT_STANDS: &str = " where m.owed or m.attempt_id is not null";

/// A message to the webhook about an external workspace, which is on no engine.
const TELL: &str = "
    select defib.tell($1, $2, null, jsonb_build_object('kind', 'external', 'because', left($3 ->> 'because', 500),
                                                       'last_heartbeat_at', $3 -> 'last_heartbeat_at'))";

const STATUS: &str = "
    update defib.marks m set status = f.status::text from defib.fleet f
     where m.workspace_id = $1 and f.workspace_id::text = $1";

const OWED: &str = "
    select workspace_id, attempt_id from defib.marks
     where owed and next_at <= clock_timestamp() and ($1::text[] is null or engine = any ($1))
     order by next_at, workspace_id limit $2";

/// Whoever is alive has no row in `defib.verdicts`. A mark that has just been made is left alone, because the verdict on its workspace may not
/// be written yet.
const STANDING: &str = "
    select m.workspace_id, m.attempt_id from defib.marks m
     where not m.owed and m.marked_at < clock_timestamp() - interval '5 seconds' and ($1::text[] is null or m.engine = any ($1))
       and not exists (select from defib.verdicts v where v.workspace_id = m.workspace_id)
     order by m.marked_at, m.workspace_id limit $2";

/// Changes only the mark that was seen. If another attempt has marked the workspace since then, it is dead, and that mark must stand.
const OWE_STANDING: &str = "
    update defib.marks set owed = true, tries = 0, next_at = clock_timestamp()
     where workspace_id = $1 and not owed and attempt_id is not distinct from $2";

/// Ten seconds after the first failure, then twice as long each time, to ten minutes.
const LATER: &str = "
    update defib.marks
       set tries = tries + 1,
           next_at = clock_timestamp() + least(interval '10 seconds' * 2 ^ least(tries, 10), interval '10 minutes')
     where workspace_id = $1 and owed";

/// Inserts or renews a mark. Its row stays locked until the transaction ends.
pub(crate) async fn write(connection: &mut Connection, mark: &NewMark<'_>) -> Result<(), Fault> {
    write_where(connection, mark, WRITE).await.map(drop)
}

async fn write_where(connection: &mut Connection, mark: &NewMark<'_>, sql: &str) -> Result<bool, Fault> {
    let status_before = mark.evidence.get("status").and_then(Value::as_str);
    let parameters = [
        (&mark.workspace as _, Type::TEXT),
        (&mark.engine as _, Type::TEXT),
        (&mark.attempt_id as _, Type::INT8),
        (&status_before as _, Type::TEXT),
    ];
    Ok(connection.execute(sql, &parameters).await? > 0)
}

impl Store {
    /// Marks an external workspace dead, for which there is nothing to restart. True means that it is marked, by this call or an earlier
    /// one. False means that the platform has vetoed, or that the lease is no longer this replica's.
    ///
    /// # Errors
    /// [`StoreError::MarkLost`]; by [`StoreError::function`] it is the platform's `mark_dead` that failed.
    pub async fn mark_lost(
        &self,
        workspace: &WorkspaceId,
        evidence: &Value,
        lease: LeaseProof<'_>,
    ) -> Result<bool, StoreError> {
        self.within_deadline(async {
            let _turn = self.platform_turn(platform::MARK_DEAD).await?;
            let mut connection = self.pool.get().await?;
            connection.begin().await?;
            match mark_lost_within(&mut connection, workspace.as_str(), &json(evidence), lease).await {
                Ok(Lost::Marked) => {
                    connection.commit().await?;
                    Ok(true)
                }
                Ok(nothing_done) => {
                    connection.rollback().await?;
                    Ok(matches!(nothing_done, Lost::Standing))
                }
                Err(fault) => Err(platform::rolled_back(&mut connection, fault).await),
            }
        })
        .await
        .map_err(StoreError::MarkLost)
    }

    /// The marks that are to be taken back now, those that have waited longest first. With `engines`, only the marks of workspaces on
    /// these.
    pub async fn owed_marks(&self, engines: Option<&[EngineName]>, limit: i64) -> Result<Vec<OwedMark>, StoreError> {
        self.read_marks(OWED, engines, limit).await
    }

    /// The marks that stand although no verdict but `alive` is on record for their workspaces, the oldest first. With `engines`, only those
    /// of workspaces on these. Such a mark stays behind when the attempt that made it no longer counts, because an operator has
    /// acknowledged that attempt or it is too old to be read.
    pub async fn standing_marks(
        &self,
        engines: Option<&[EngineName]>,
        limit: i64,
    ) -> Result<Vec<OwedMark>, StoreError> {
        self.read_marks(STANDING, engines, limit).await
    }

    /// Takes note that a mark which [stands](Self::standing_marks) is to be taken back. False when another attempt has renewed it since, or when
    /// that was noted before.
    pub async fn owe_standing(&self, mark: &OwedMark) -> Result<bool, StoreError> {
        self.within_deadline(async {
            let parameters = [(&mark.workspace.as_str() as _, Type::TEXT), (&mark.attempt_id as _, Type::INT8)];
            Ok(self.pool.get().await?.execute(OWE_STANDING, &parameters).await? > 0)
        })
        .await
        .map_err(StoreError::Marks)
    }

    async fn read_marks(
        &self,
        sql: &str,
        engines: Option<&[EngineName]>,
        limit: i64,
    ) -> Result<Vec<OwedMark>, StoreError> {
        self.within_deadline(async {
            let engines: Option<Vec<&str>> = engines.map(|names| names.iter().map(EngineName::as_str).collect());
            let mut connection = self.pool.get().await?;
            let rows = connection.query(sql, &[(&engines, Type::TEXT_ARRAY), (&limit, Type::INT8)]).await?;
            rows.iter()
                .map(|row| Ok(OwedMark { workspace: row.try_get::<_, &str>(0)?.into(), attempt_id: row.try_get(1)? }))
                .collect()
        })
        .await
        .map_err(StoreError::Marks)
    }

    /// Takes a mark back: `mark_recovered` is called, and the mark is forgotten. False when there is no mark to be taken back for this
    /// workspace, or when another replica is taking it back.
    ///
    /// # Errors
    /// [`StoreError::TakeBack`]. By [`StoreError::function`] it is `mark_recovered` that failed: the mark stays owed, and is not among
    /// [`owed_marks`](Self::owed_marks) again before a delay that grows has passed.
    pub async fn take_back(&self, workspace: &WorkspaceId, evidence: &Value) -> Result<bool, StoreError> {
        self.within_deadline(async {
            let _turn = self.platform_turn(platform::MARK_RECOVERED).await?;
            let mut connection = self.pool.get().await?;
            connection.begin().await?;
            match take_back_within(&mut connection, workspace.as_str(), &json(evidence)).await {
                Ok(taken) => {
                    connection.commit().await?;
                    Ok(taken)
                }
                Err(fault @ Fault::Function { .. }) => {
                    connection.rollback().await?;
                    connection.execute(LATER, &[(&workspace.as_str(), Type::TEXT)]).await?;
                    Err(fault)
                }
                Err(fault) => Err(fault),
            }
        })
        .await
        .map_err(StoreError::TakeBack)
    }
}

/// What came of marking an external workspace.
enum Lost {
    Marked,
    /// It was marked before, and has not been back since.
    Standing,
    /// The platform has vetoed, or the lease is not ours.
    Refused,
}

async fn mark_lost_within(
    connection: &mut Connection,
    workspace: &str,
    evidence: &Value,
    lease: LeaseProof<'_>,
) -> Result<Lost, Fault> {
    if !holds_lease(connection, lease).await? {
        return Ok(Lost::Refused);
    }
    connection.batch(platform::BOUNDS).await?;
    let mark = NewMark { workspace, engine: lease.engine.as_str(), attempt_id: None, evidence };
    if !write_where(connection, &mark, &format!("{WRITE}{UNLESS_IT_STANDS}")).await? {
        return Ok(Lost::Standing);
    }
    if !platform::mark_dead(connection, workspace, evidence).await? {
        return Ok(Lost::Refused);
    }
    connection.execute(STATUS, &[(&workspace, Type::TEXT)]).await?;
    notify(connection, "lost", workspace).await?;
    tell(connection, "workspace.lost", workspace, evidence).await?;
    Ok(Lost::Marked)
}

async fn tell(connection: &mut Connection, kind: &str, workspace: &str, evidence: &Value) -> Result<(), Fault> {
    let parameters = [(&kind as _, Type::TEXT), (&workspace as _, Type::TEXT), (&evidence as _, Type::JSONB)];
    connection.query(TELL, &parameters).await.map(drop)
}

async fn take_back_within(connection: &mut Connection, workspace: &str, evidence: &Value) -> Result<bool, Fault> {
    let of = [(&workspace as _, Type::TEXT)];
    let owed = connection
        .query_opt("select attempt_id from defib.marks where workspace_id = $1 and owed for update skip locked", &of)
        .await?;
    let Some(owed) = owed else { return Ok(false) };
    let attempt_id: Option<i64> = owed.try_get(0)?;
    connection.batch(platform::BOUNDS).await?;
    let changed = platform::mark_recovered(connection, workspace, evidence).await?;
    connection.execute("delete from defib.marks where workspace_id = $1", &of).await?;
    // The webhook hears of a restart that brought its workspace back from `recovered`. A mark that is taken back without a restart is no
    // recovery.
    if changed && attempt_id.is_none() {
        notify(connection, "recovered", workspace).await?;
        tell(connection, "workspace.recovered", workspace, evidence).await?;
    }
    Ok(true)
}
