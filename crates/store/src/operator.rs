//! What the command line asks on behalf of an operator who may call a few functions and read no table (role `defib_operator`).

use defib_policy::id::WorkspaceId;
use tokio_postgres::types::Type;

use crate::Store;
use crate::decode::text;
use crate::error::StoreError;
use crate::hold::HoldScope;

impl Store {
    /// Says that the ended attempts of a workspace no longer count, and returns how many there were. The database records its login
    /// beside `person`.
    pub async fn acknowledge_as(&self, workspace: &WorkspaceId, person: &str) -> Result<u64, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let parameters = [(&text(workspace.as_str()) as _, Type::TEXT), (&text(person) as _, Type::TEXT)];
            let row = connection.query_one("select defib.acknowledge($1, $2)", &parameters).await?;
            Ok(row.try_get::<_, i64>(0)?.unsigned_abs())
        })
        .await
        .map_err(StoreError::Acknowledge)
    }

    /// Whether there is such a workspace or engine.
    pub async fn is_known(&self, scope: &HoldScope) -> Result<bool, StoreError> {
        self.within_deadline(async {
            let (scope, target) = scope.parts();
            let mut connection = self.pool.get().await?;
            let parameters = [(&scope as _, Type::TEXT), (&target.map(text) as _, Type::TEXT)];
            Ok(connection.query_one("select defib.is_known($1, $2)", &parameters).await?.try_get(0)?)
        })
        .await
        .map_err(StoreError::Names)
    }

    /// Up to a hundred names that resemble one that does not exist.
    pub async fn names_like(&self, scope: &HoldScope) -> Result<Vec<String>, StoreError> {
        self.within_deadline(async {
            let (scope, target) = scope.parts();
            let mut connection = self.pool.get().await?;
            let parameters = [(&scope as _, Type::TEXT), (&target.map(text) as _, Type::TEXT)];
            let rows = connection.query("select defib.names_like($1, $2)", &parameters).await?;
            rows.iter().map(|row| Ok(row.try_get::<_, Option<String>>(0)?.unwrap_or_default())).collect()
        })
        .await
        .map_err(StoreError::Names)
    }
}
