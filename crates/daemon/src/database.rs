//! What the parts of the daemon need from the database, one trait for each subject, so that each part can be tested in paused time on a
//! database in memory. [`Store`] implements all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use defib_policy::attempt::Attempt;
use defib_policy::fleet::FleetRead;
use defib_policy::id::{EngineName, WorkspaceId};
use defib_store::{
    Changes, EventRow, FleetScope, Hold, LeaseProof, LeaseTable, LeaseTurn, Malformed, OwedMark, Pending, Store,
    StoreError, StoredVerdict, Suspicion, VerdictRow, Wanted,
};
use serde_json::Value;

/// What passes read.
#[async_trait]
pub(crate) trait FleetTables: Send + Sync {
    /// The watched rows of the fleet, and the rows that break the contract.
    async fn read_fleet(
        &self,
        scope: FleetScope<'_>,
        watched: &[String],
    ) -> Result<(FleetRead, Vec<Malformed>), StoreError>;

    /// The rows that have changed, and those that are called by their ids.
    async fn read_changes(&self, wanted: Wanted<'_>) -> Result<Changes, StoreError>;

    /// The attempts that back-off and recovery depend on, by workspace and newest first.
    async fn read_attempts(&self, scope: FleetScope<'_>, reset: Duration) -> Result<Vec<Attempt>, StoreError>;

    /// The holds that stand.
    async fn holds(&self) -> Result<Vec<Hold>, StoreError>;
}

/// Where verdicts and their history are written down.
#[async_trait]
pub(crate) trait VerdictTables: Send + Sync {
    /// Every verdict that is recorded.
    async fn read_verdicts(&self) -> Result<Vec<StoredVerdict>, StoreError>;

    /// Writes verdicts and clears others. Returns the workspaces whose row was refused.
    async fn record_verdicts(
        &self,
        verdicts: &[VerdictRow],
        cleared: &[WorkspaceId],
    ) -> Result<Vec<WorkspaceId>, StoreError>;

    /// Appends to the history. Returns how many rows were refused.
    async fn record_events(&self, events: &[EventRow]) -> Result<usize, StoreError>;
}

/// What the platform is told of its workspaces, through functions of its own.
#[async_trait]
pub(crate) trait PlatformMarks: Send + Sync {
    /// Writes down in the ledger that an attempt brought its workspace back. False when that was written before.
    async fn recovered(&self, attempt: i64, workspace: &WorkspaceId) -> Result<bool, StoreError>;

    /// Tells the platform that a workspace without a container is dead. False when the platform vetoes, or when the lease is not ours.
    async fn mark_lost(
        &self,
        workspace: &WorkspaceId,
        evidence: &Value,
        lease: LeaseProof<'_>,
    ) -> Result<bool, StoreError>;

    /// Writes down that the platform must be told that a workspace lives.
    async fn owe(&self, workspace: &WorkspaceId) -> Result<(), StoreError>;

    /// The workspaces of which the platform must be told now that they live. With `engines`, only those on these engines.
    async fn owed_marks(&self, engines: Option<&[EngineName]>, limit: i64) -> Result<Vec<OwedMark>, StoreError>;

    /// The marks that stand although nothing is said of their workspaces.
    async fn standing_marks(&self, engines: Option<&[EngineName]>, limit: i64) -> Result<Vec<OwedMark>, StoreError>;

    /// Takes note that such a mark is to be taken back. False if it is another one by now.
    async fn owe_standing(&self, mark: &OwedMark) -> Result<bool, StoreError>;

    /// Tells the platform that a workspace lives, if it must be told. False if not.
    async fn take_back(&self, workspace: &WorkspaceId, evidence: &Value) -> Result<bool, StoreError>;
}

/// Which replica owns which engine.
#[async_trait]
pub(crate) trait LeaseTables: Send + Sync {
    /// Takes this replica's turn at the leases.
    async fn take_lease_turn(&self, turn: &LeaseTurn<'_>) -> Result<LeaseTable, StoreError>;

    /// Gives leases up.
    async fn release_leases(&self, replica: &str, owned: &BTreeMap<EngineName, i64>) -> Result<(), StoreError>;
}

/// What proxies report.
#[async_trait]
pub(crate) trait SuspicionTables: Send + Sync {
    /// Takes pending suspicions, oldest first.
    async fn take_suspicions(&self, limit: i64) -> Result<Vec<Suspicion>, StoreError>;

    /// Looks through pending suspicions after row `after`.
    async fn pending_suspicions(&self, after: i64, limit: i64) -> Result<Vec<Pending>, StoreError>;

    /// Takes these suspicions, as far as they are still pending.
    async fn take_these_suspicions(&self, ids: &[i64]) -> Result<Vec<Suspicion>, StoreError>;
}

#[async_trait]
impl FleetTables for Store {
    async fn read_fleet(
        &self,
        scope: FleetScope<'_>,
        watched: &[String],
    ) -> Result<(FleetRead, Vec<Malformed>), StoreError> {
        self.read_fleet(scope, watched).await
    }

    async fn read_changes(&self, wanted: Wanted<'_>) -> Result<Changes, StoreError> {
        self.read_changes(wanted).await
    }

    async fn read_attempts(&self, scope: FleetScope<'_>, reset: Duration) -> Result<Vec<Attempt>, StoreError> {
        self.read_attempts(scope, reset).await
    }

    async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        self.holds().await
    }
}

#[async_trait]
impl VerdictTables for Store {
    async fn read_verdicts(&self) -> Result<Vec<StoredVerdict>, StoreError> {
        self.read_verdicts().await
    }

    async fn record_verdicts(
        &self,
        verdicts: &[VerdictRow],
        cleared: &[WorkspaceId],
    ) -> Result<Vec<WorkspaceId>, StoreError> {
        self.record_verdicts(verdicts, cleared).await
    }

    async fn record_events(&self, events: &[EventRow]) -> Result<usize, StoreError> {
        self.record_events(events).await.map(|refused| refused.len())
    }
}

#[async_trait]
impl PlatformMarks for Store {
    async fn recovered(&self, attempt: i64, workspace: &WorkspaceId) -> Result<bool, StoreError> {
        self.recovered(attempt, workspace).await
    }

    async fn mark_lost(
        &self,
        workspace: &WorkspaceId,
        evidence: &Value,
        lease: LeaseProof<'_>,
    ) -> Result<bool, StoreError> {
        self.mark_lost(workspace, evidence, lease).await
    }

    async fn owe(&self, workspace: &WorkspaceId) -> Result<(), StoreError> {
        self.owe(workspace).await.map(drop)
    }

    async fn owed_marks(&self, engines: Option<&[EngineName]>, limit: i64) -> Result<Vec<OwedMark>, StoreError> {
        self.owed_marks(engines, limit).await
    }

    async fn standing_marks(&self, engines: Option<&[EngineName]>, limit: i64) -> Result<Vec<OwedMark>, StoreError> {
        self.standing_marks(engines, limit).await
    }

    async fn owe_standing(&self, mark: &OwedMark) -> Result<bool, StoreError> {
        self.owe_standing(mark).await
    }

    async fn take_back(&self, workspace: &WorkspaceId, evidence: &Value) -> Result<bool, StoreError> {
        self.take_back(workspace, evidence).await
    }
}

#[async_trait]
impl LeaseTables for Store {
    async fn take_lease_turn(&self, turn: &LeaseTurn<'_>) -> Result<LeaseTable, StoreError> {
        self.take_lease_turn(turn).await
    }

    async fn release_leases(&self, replica: &str, owned: &BTreeMap<EngineName, i64>) -> Result<(), StoreError> {
        self.release_leases(replica, owned).await
    }
}

#[async_trait]
impl SuspicionTables for Store {
    async fn take_suspicions(&self, limit: i64) -> Result<Vec<Suspicion>, StoreError> {
        self.take_suspicions(limit).await
    }

    async fn pending_suspicions(&self, after: i64, limit: i64) -> Result<Vec<Pending>, StoreError> {
        self.pending_suspicions(after, limit).await
    }

    async fn take_these_suspicions(&self, ids: &[i64]) -> Result<Vec<Suspicion>, StoreError> {
        self.take_these_suspicions(ids).await
    }
}
