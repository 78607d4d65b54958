//! Suspicions: reported by proxies, taken once by a daemon.
//!
//! Suspicions are taken by marking rows, in the order of their ids. It is never "all rows after the last id": ids are drawn before the
//! commit, so a row with a smaller id may become visible after one with a larger id. Two daemons that take at the same time skip each
//! other's rows.

use std::time::Duration;

use defib_policy::id::WorkspaceId;
use tokio_postgres::types::Type;

use crate::decode::{text, timestamp};
use crate::error::StoreError;
use crate::{Parameter, Store};

/// A suspicion that was taken, and will not be handed out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// `defib.suspicions.id`.
    pub id: i64,
    /// The workspace as reported: it need not exist.
    pub workspace: WorkspaceId,
    /// The database login that reported it; empty if the row is from before logins were recorded. The function writes it, so the caller
    /// cannot choose it.
    pub login: String,
    /// Who reported it, in the caller's own words.
    pub reporter: String,
    /// A short word, such as `connection_refused`. Free text: never a metric label as it is.
    pub reason: String,
    /// The HTTP status that the request got, if any.
    pub http_status: Option<i32>,
    /// For people.
    pub detail: Option<String>,
    /// How long ago it was reported, by the database's clock.
    pub age: Duration,
}

/// A suspicion to report.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewSuspicion<'a> {
    /// About whom.
    pub workspace: &'a str,
    /// By whom.
    pub reporter: &'a str,
    /// Why.
    pub reason: &'a str,
    /// The HTTP status that the request got.
    pub http_status: Option<i32>,
    /// For people.
    pub detail: Option<&'a str>,
}

/// A suspicion that nobody has taken yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The row.
    pub id: i64,
    /// The workspace; it need not exist.
    pub workspace: WorkspaceId,
}

/// `= any (array(…))` and not `in (…)`: the inner select then runs once, and its limit holds.
const TAKE: &str = "
    with taken as (
        update defib.suspicions set taken_at = now(), taken_by = $2
         where id = any (array(
               select id from defib.suspicions where %which% for update skip locked))
        returning id, workspace_id, reporter, reason, http_status, detail, reported_at, login)
    select id, workspace_id, reporter, reason, http_status, detail, reported_at, clock_timestamp(), login from taken order by id";

impl Store {
    /// Takes up to `limit` pending suspicions, oldest first. Each is handed out once, to one caller.
    pub async fn take_suspicions(&self, limit: i64) -> Result<Vec<Suspicion>, StoreError> {
        let sql = TAKE.replace("%which%", "taken_at is null order by id limit $1");
        self.take(&sql, (&limit, Type::INT8)).await
    }

    async fn take(&self, sql: &str, which: Parameter<'_>) -> Result<Vec<Suspicion>, StoreError> {
        self.within_deadline(async {
            let by = &*self.application_name;
            let mut connection = self.pool.get().await?;
            let rows = connection.query(sql, &[which, (&by, Type::TEXT)]).await?;
            rows.iter()
                .map(|row| {
                    Ok(Suspicion {
                        id: row.try_get(0)?,
                        workspace: row.try_get::<_, &str>(1)?.into(),
                        login: row.try_get(8)?,
                        reporter: row.try_get(2)?,
                        reason: row.try_get(3)?,
                        http_status: row.try_get(4)?,
                        detail: row.try_get(5)?,
                        age: timestamp(row, 7)?.since(timestamp(row, 6)?),
                    })
                })
                .collect()
        })
        .await
        .map_err(StoreError::TakeSuspicions)
    }

    /// Up to `limit` pending suspicions after row `after` (0: from the start), oldest first: for a replica that takes only some
    /// of them. Nothing is remembered of `after` between passes: ids become visible out of order.
    pub async fn pending_suspicions(&self, after: i64, limit: i64) -> Result<Vec<Pending>, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let rows = connection
                .query(
                    "select id, workspace_id from defib.suspicions where taken_at is null and id > $1 order by id limit $2",
                    &[(&after, Type::INT8), (&limit, Type::INT8)],
                )
                .await?;
            rows.iter()
                .map(|row| Ok(Pending { id: row.try_get(0)?, workspace: row.try_get::<_, &str>(1)?.into() }))
                .collect()
        })
        .await
        .map_err(StoreError::TakeSuspicions)
    }

    /// Takes these suspicions, as far as they are still pending. Each is handed out once, to one caller.
    pub async fn take_these_suspicions(&self, ids: &[i64]) -> Result<Vec<Suspicion>, StoreError> {
        let sql = TAKE.replace("%which%", "taken_at is null and id = any ($1)");
        self.take(&sql, (&ids, Type::INT8_ARRAY)).await
    }

    /// Writes what the look that these suspicions asked for has found. Rows that are gone by now are left out.
    pub async fn report_finding(&self, suspicions: &[i64], finding: &str) -> Result<(), StoreError> {
        self.within_deadline(async {
            let finding = text(finding);
            let mut connection = self.pool.get().await?;
            let sql = "update defib.suspicions set finding = $2 where id = any ($1)";
            connection.execute(sql, &[(&suspicions, Type::INT8_ARRAY), (&finding, Type::TEXT)]).await.map(drop)
        })
        .await
        .map_err(StoreError::Report)
    }

    /// Reports a suspicion, as a proxy would.
    pub async fn suspect(&self, suspicion: NewSuspicion<'_>) -> Result<(), StoreError> {
        self.within_deadline(async {
            let detail = suspicion.detail.map(text);
            let mut connection = self.pool.get().await?;
            connection
                .execute(
                    "select defib.report_suspicion($1, $2, $3, $4, $5)",
                    &[
                        (&text(suspicion.workspace), Type::TEXT),
                        (&text(suspicion.reporter), Type::TEXT),
                        (&text(suspicion.reason), Type::TEXT),
                        (&suspicion.http_status, Type::INT4),
                        (&detail, Type::TEXT),
                    ],
                )
                .await?;
            Ok(())
        })
        .await
        .map_err(StoreError::Suspect)
    }
}
