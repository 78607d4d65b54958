//! Holds: an operator says that nothing in a scope may be restarted for now.

use std::time::Duration;

use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::Store;
use crate::decode::{micros, optional_timestamp, text, timestamp};
use crate::error::{Fault, StoreError};

/// What a hold covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldScope {
    /// Everything.
    Fleet,
    /// All workspaces of an engine.
    Engine(EngineName),
    /// One workspace.
    Workspace(WorkspaceId),
}

impl HoldScope {
    /// The columns `scope` and `target`.
    #[must_use]
    pub fn parts(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Fleet => ("fleet", None),
            Self::Engine(name) => ("engine", Some(name.as_str())),
            Self::Workspace(id) => ("workspace", Some(id.as_str())),
        }
    }

    fn from_parts(scope: &str, target: Option<&str>) -> Result<Self, Fault> {
        match (scope, target) {
            ("fleet", None) => Ok(Self::Fleet),
            ("engine", Some(name)) => Ok(Self::Engine(name.into())),
            ("workspace", Some(id)) => Ok(Self::Workspace(id.into())),
            _ => Err(Fault::Unexpected(format!("a hold of scope {scope}"))),
        }
    }
}

/// A hold that is to be placed.
#[derive(Clone, Debug)]
pub struct NewHold<'a> {
    /// On what.
    pub scope: HoldScope,
    /// By whom.
    pub owner: &'a str,
    /// Why.
    pub reason: &'a str,
    /// For how long; `None` until it is released.
    pub expires_in: Option<Duration>,
}

/// A row of `defib.holds` that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its id.
    pub id: i64,
    /// On what.
    pub scope: HoldScope,
    /// By whom.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub created_at: Timestamp,
    /// Until when; `None` until it is released.
    pub expires_at: Option<Timestamp>,
    /// How much is left; `None` until it is released.
    pub expires_in: Option<Duration>,
}

/// The columns that [`from_row`] reads.
pub(crate) const COLUMNS: &str = "id, scope, target, owner, reason, created_at, expires_at, now()";

pub(crate) fn from_row(row: &Row) -> Result<Hold, Fault> {
    let expires_at = optional_timestamp(row, 6)?;
    let now = timestamp(row, 7)?;
    Ok(Hold {
        id: row.try_get(0)?,
        scope: HoldScope::from_parts(row.try_get(1)?, row.try_get(2)?)?,
        owner: row.try_get(3)?,
        reason: row.try_get(4)?,
        created_at: timestamp(row, 5)?,
        expires_at,
        expires_in: expires_at.map(|at| at.since(now)),
    })
}

impl Store {
    /// Places a hold, and returns its id. Every replica respects it from the next claim on.
    pub async fn hold(&self, hold: &NewHold<'_>) -> Result<i64, StoreError> {
        self.within_deadline(async {
            let (scope, target) = hold.scope.parts();
            let expires_in = hold.expires_in.map(micros);
            let mut connection = self.pool.get().await?;
            let row = connection
                .query_one(
                    "select defib.place_hold($1, $2, $4, $3, $5 * interval '1 microsecond')",
                    &[
                        (&scope, Type::TEXT),
                        (&target, Type::TEXT),
                        (&text(hold.owner), Type::TEXT),
                        (&text(hold.reason), Type::TEXT),
                        (&expires_in, Type::INT8),
                    ],
                )
                .await?;
            Ok(row.try_get(0)?)
        })
        .await
        .map_err(StoreError::Holds)
    }

    /// Releases every standing hold on exactly this scope, and returns how many there were.
    pub async fn release(&self, scope: &HoldScope) -> Result<u64, StoreError> {
        self.release_as(scope, "").await
    }

    /// Releases the holds on a scope on behalf of a person. The database records the login besides the name.
    pub async fn release_as(&self, scope: &HoldScope, person: &str) -> Result<u64, StoreError> {
        self.within_deadline(async {
            let (scope, target) = scope.parts();
            let mut connection = self.pool.get().await?;
            let parameters =
                [(&scope as _, Type::TEXT), (&target.map(text) as _, Type::TEXT), (&text(person) as _, Type::TEXT)];
            let row = connection.query_one("select defib.release_holds($1, $2, $3)", &parameters).await?;
            Ok(row.try_get::<_, i64>(0)?.unsigned_abs())
        })
        .await
        .map_err(StoreError::Holds)
    }

    /// The holds that stand, oldest first.
    pub async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let sql = format!(
                "select {COLUMNS} from defib.holds
                  where released_at is null and (expires_at is null or expires_at > now()) order by id"
            );
            connection.query(&sql, &[]).await?.iter().map(from_row).collect()
        })
        .await
        .map_err(StoreError::Holds)
    }
}
