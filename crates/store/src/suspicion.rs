//! Suspicions: reported by proxies, taken once by a daemon.
//!
//! Taking marks rows, in the order of their ids but never "all after the last id": identity values are drawn before the commit,
//! so a row with a smaller id may become visible after one with a larger. Two daemons that take at once skip each other's rows.

use std::time::Duration;

use defib_policy::id::WorkspaceId;
use tokio_postgres::types::Type;

use crate::Store;
use crate::decode::{text, timestamp};
use crate::error::StoreError;

/// A suspicion that was taken, and will not be handed out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// `defib.suspicions.id`.
    pub id: i64,
    /// The workspace as reported: it need not exist.
    pub workspace: WorkspaceId,
    /// Who reported it.
    pub reporter: String,
    /// A short word, such as `connection_refused`. Free text: never a metric label as it is.
    pub reason: String,
    /// What the request got, if anything.
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
    /// What the request got.
    pub http_status: Option<i32>,
    /// For people.
    pub detail: Option<&'a str>,
}

/// `= any (array(…))` and not `in (…)`: the inner select then runs once, and its limit holds.
const TAKE: &str = "
    with taken as (
        update defib.suspicions set taken_at = now(), taken_by = $2
         where id = any (array(
               select id from defib.suspicions where taken_at is null order by id limit $1 for update skip locked))
        returning id, workspace_id, reporter, reason, http_status, detail, reported_at)
    select id, workspace_id, reporter, reason, http_status, detail, reported_at, clock_timestamp() from taken order by id";

impl Store {
    /// Takes up to `limit` pending suspicions, oldest first. Each is handed out once, to one caller.
    pub async fn take_suspicions(&self, limit: i64) -> Result<Vec<Suspicion>, StoreError> {
        self.within_deadline(async {
            let by = &*self.application_name;
            let mut connection = self.pool.get().await?;
            let rows = connection.query(TAKE, &[(&limit, Type::INT8), (&by, Type::TEXT)]).await?;
            rows.iter()
                .map(|row| {
                    Ok(Suspicion {
                        id: row.try_get(0)?,
                        workspace: row.try_get::<_, &str>(1)?.into(),
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
