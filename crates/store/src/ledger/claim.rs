//! The claim: one transaction in which the lease is checked, the row inserted and the platform asked.

use tokio_postgres::types::Type;

use super::finish::FINISH;
use super::{Claim, Claimed, LeaseProof, holds_lease};
use crate::Store;
use crate::connect::Connection;
use crate::crash_point;
use crate::decode::{json, micros, system_time, text};
use crate::error::{Fault, StoreError};
use crate::marks::{self, NewMark};
use crate::platform;
use defib_policy::id::ContainerId;

const INSERT: &str = "
    insert into defib.restarts (workspace_id, engine, container_id, started_at, attempt, epoch, verdict, evidence, claimed_by,
                                claimed_at, deadline_at)
    select $1, $2, $3, $4, $5, $6, $7, $8, $9, now(), now() + $10 * interval '1 microsecond'
        on conflict do nothing
    returning id";

/// Writes the status that `mark_dead` has given the workspace into the mark, if the fleet still has the workspace on the same engine and
/// with the same references as when it was judged. This is asked while `mark_dead` has the platform's row locked. So it sees what a
/// transaction that `mark_dead` waited for has changed, and nobody can change it again before ours ends.
const STATUS_IF_AS_JUDGED: &str = "
    update defib.marks m set status = f.status::text
      from defib.fleet f
     where m.workspace_id = $1 and f.workspace_id::text = $1 and f.engine::text = $2 and f.kind::text <> 'external'
       and f.container_ref::text is not distinct from $3 and f.instance_ref::text is not distinct from $4
       and f.policy::text is not distinct from $5";

impl Store {
    /// Claims a restart in one transaction, if the lease is ours, no hold stands, no other attempt is under way, and the platform does not
    /// veto.
    ///
    /// # Errors
    /// [`StoreError::Claim`]: nothing was claimed, or (when the answer to the commit was lost) the claim stands without an
    /// owner until its deadline. [`StoreError::function`] tells whether it was the platform's `mark_dead` that raised, stayed blocked or
    /// took too long: that concerns this workspace alone, and the database is well.
    pub async fn claim(&self, claim: &Claim<'_>) -> Result<Claimed, StoreError> {
        self.within_deadline(async {
            let _turn = self.platform_turn(platform::MARK_DEAD).await?;
            let mut connection = self.pool.get().await?;
            connection.begin().await?;
            match claim_within(&mut connection, claim).await {
                Ok(claimed) => {
                    crash_point!("claim_before_commit");
                    connection.commit().await?;
                    Ok(claimed)
                }
                Err(fault) => Err(platform::rolled_back(&mut connection, fault).await),
            }
        })
        .await
        .map_err(StoreError::Claim)
    }
}

async fn claim_within(connection: &mut Connection, claim: &Claim<'_>) -> Result<Claimed, Fault> {
    let (workspace, engine) = (claim.workspace.as_str(), claim.engine.as_str());
    let lease = LeaseProof { engine: claim.engine, holder: claim.claimed_by, epoch: claim.epoch };
    if !holds_lease(connection, lease).await? {
        return Ok(Claimed::NotOwner);
    }
    let held = connection
        .query_one("select defib.hold_reason($1, $2)", &[(&workspace, Type::TEXT), (&engine, Type::TEXT)])
        .await?;
    let forced = claim.verdict == "operator" && claim.evidence.get("force") == Some(&true.into());
    if let Some(reason) = held.try_get::<_, Option<String>>(0)?.filter(|_| !forced) {
        return Ok(Claimed::Held { reason });
    }

    let started_at = claim.started_at.map(system_time);
    let container_id = claim.container_id.map(ContainerId::as_str);
    let attempt = i32::try_from(claim.attempt.max(1)).unwrap_or(i32::MAX);
    let evidence = json(&claim.evidence);
    let deadline = micros(claim.deadline);
    let inserted = connection
        .query_opt(
            INSERT,
            &[
                (&workspace, Type::TEXT),
                (&engine, Type::TEXT),
                (&container_id, Type::TEXT),
                (&started_at, Type::TIMESTAMPTZ),
                (&attempt, Type::INT4),
                (&claim.epoch, Type::INT8),
                (&claim.verdict, Type::TEXT),
                (&evidence, Type::JSONB),
                (&text(claim.claimed_by), Type::TEXT),
                (&deadline, Type::INT8),
            ],
        )
        .await?;
    let Some(row) = inserted else { return Ok(Claimed::Taken) };
    let id = row.try_get(0)?;
    crash_point!("claim_inserted");

    // Everywhere the mark's row is locked first and the platform's row second.
    connection.batch(&format!("savepoint unmarked; {}", platform::BOUNDS)).await?;
    marks::write(connection, &NewMark { workspace, engine, attempt_id: Some(id), evidence: &evidence }).await?;
    let why = if !platform::mark_dead(connection, workspace, &evidence).await? {
        "defib.mark_dead refused: its row changed since the evidence, or the platform wants it left alone"
    } else if !is_as_judged(connection, claim).await? {
        "its engine, container_ref, instance_ref, kind or policy changed since the evidence"
    } else {
        return Ok(Claimed::Granted { id });
    };
    // This also undoes what `mark_dead` has written, so that the platform does not take the workspace for dead.
    connection.batch("rollback to savepoint unmarked").await?;
    let parameters = [(&id as _, Type::INT8), (&"vetoed" as _, Type::TEXT), (&Some(why) as _, Type::TEXT)];
    connection.query(&FINISH.replace("%unasked%", ""), &parameters).await?;
    Ok(Claimed::Vetoed { id })
}

async fn is_as_judged(connection: &mut Connection, claim: &Claim<'_>) -> Result<bool, Fault> {
    let (workspace, engine) = (claim.workspace.as_str(), claim.engine.as_str());
    let found = connection
        .execute(
            STATUS_IF_AS_JUDGED,
            &[
                (&workspace, Type::TEXT),
                (&engine, Type::TEXT),
                (&claim.container_ref, Type::TEXT),
                (&claim.instance_ref, Type::TEXT),
                (&claim.policy, Type::TEXT),
            ],
        )
        .await?;
    Ok(found > 0)
}
