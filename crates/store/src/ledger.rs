//! The ledger, `defib.restarts`: a restart is claimed here before anything is touched, and finished here afterwards.
//!
//! ```text
//! owner:     begin ─ lease? ─ insert ─ mark_dead ─ commit ── inspect ── may_act ── restart ── finish ── … recovered
//! platform:                    begin ─ pause ─ commit                      (mark_dead waits for it, sees it, vetoes)
//! new owner: take the lease … waits for the claim … sees the row: acting_at null ► abandoned, it will never be acted on;
//!                                                                 acting_at set  ► looks at the container until it knows
//! ```
//!
//! Between `may_act` and the engine's answer nothing can be taken back, and an engine cannot check an epoch: that is why the moment
//! is written down (`acting_at`) before the engine is asked. Before it, a lost lease stops the attempt for good; after it, the row
//! stays in the way of every other attempt until the container, or the deadline, has told.
//!
//! The row comes first, and the platform's veto second: of two who claim, one waits on the unique index before it can hold a lock
//! on the platform's row. A veto is kept (`vetoed`, finished at once), because "why was it not restarted" is asked too.
//!
//! A run is the attempts that no verified recovery has ended. Numbers are unique for an incarnation within a run; a container that
//! is missing has no incarnation, so without the end of the run (`run_ended_at`) its second death would find its number taken
//! for good.

use std::time::Duration;

use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::id::{ContainerId, EngineName, WorkspaceId};
use defib_policy::moment::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::Store;
use crate::connect::Connection;
use crate::crash_point;
use crate::decode::{beginning, json, micros, optional_timestamp, system_time, text, timestamp};
use crate::error::{Fault, StoreError};
use crate::fleet::FleetScope;

/// Characters of an error that the ledger keeps. Engines quote whole responses.
const ERROR_LENGTH_MAX: usize = 2_000;
/// Attempts of a workspace that are read, at most: more than any exhaustion threshold.
const ATTEMPTS_MAX: i64 = 20;
/// Refused attempts (vetoed, superseded) of a workspace that are read, at most. They must not crowd out those that count.
const REFUSALS_MAX: i64 = 5;

/// A restart to be claimed.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// Whose.
    pub workspace: &'a WorkspaceId,
    /// Where.
    pub engine: &'a EngineName,
    /// `container_ref` of the row that was judged.
    pub container_ref: Option<&'a str>,
    /// `policy` of the row that was judged.
    pub policy: Option<&'a str>,
    /// The container that is dead; `None` when it is missing and never was seen.
    pub container_id: Option<&'a ContainerId>,
    /// The start of that incarnation.
    pub started_at: Option<Timestamp>,
    /// Number within the run, from 1.
    pub attempt: u32,
    /// The epoch of the lease on `engine` that `claimed_by` holds.
    pub epoch: i64,
    /// The verdict that asks for it.
    pub verdict: &'static str,
    /// What it rests on. `mark_dead` reads `status`, `last_heartbeat_at` and `last_activity_at` (RFC 3339 or null).
    pub evidence: Value,
    /// This replica.
    pub claimed_by: &'a str,
    /// After this the attempt is anybody's to settle: longer than confirming and restarting can take together.
    pub deadline: Duration,
}

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Ours to carry out.
    Granted {
        /// The row.
        id: i64,
    },
    /// The platform refused; the row is finished already.
    Vetoed {
        /// The row.
        id: i64,
    },
    /// Another attempt is under way, or this one was made before.
    Taken,
    /// A hold stands. No row was written.
    Held {
        /// Whose, and why.
        reason: String,
    },
    /// The lease has expired, or another replica holds it. No row was written.
    NotOwner,
}

/// The lease that an attempt is made under.
#[derive(Clone, Copy, Debug)]
pub struct LeaseProof<'a> {
    /// On which engine.
    pub engine: &'a EngineName,
    /// Who holds it.
    pub holder: &'a str,
    /// Since which epoch.
    pub epoch: i64,
}

/// Whether the engine may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayAct {
    /// Yes, and that it will be is written down.
    Yes,
    /// The workspace left the fleet, is no longer watched, is suspended or held.
    NotWanted,
    /// The lease has expired or was taken over, or somebody has settled the attempt.
    NotOwner,
}

/// An attempt that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenAttempt {
    /// The row.
    pub id: i64,
    /// Whose.
    pub workspace: WorkspaceId,
    /// Where.
    pub engine: EngineName,
    /// The container that was found dead.
    pub container_id: Option<ContainerId>,
    /// The start of that incarnation.
    pub started_at: Option<Timestamp>,
    /// When it was claimed, by the database's clock.
    pub claimed_at: Timestamp,
    /// Who claimed it.
    pub claimed_by: Option<String>,
    /// Under which epoch of its lease.
    pub epoch: i64,
    /// The verdict that asked for it.
    pub verdict: String,
    /// Its owner has turned to the engine, so a restart may have been made or may still be made.
    pub acting: bool,
    /// How long ago its deadline passed, if it has: what its owner asked of the engine has been done by now, or never will be.
    pub overdue_by: Option<Duration>,
    /// The fleet, whatever the status there, no longer has the workspace on that engine.
    pub elsewhere: bool,
}

const INSERT: &str = "
    insert into defib.restarts (workspace_id, engine, container_id, started_at, attempt, epoch, verdict, evidence, claimed_by,
                                claimed_at, deadline_at)
    select $1, $2, $3, $4, $5, $6, $7, $8, $9, now(), now() + $10 * interval '1 microsecond'
        on conflict do nothing
    returning id";

/// Of the workspaces whose run goes on or ended within the reset: the newest attempts that counted, and the newest refusals.
const ATTEMPTS: &str = "
    select r.id, r.workspace_id, r.container_id, r.started_at, r.attempt, r.claimed_at, r.finished_at, r.outcome, r.recovered_at,
           now(), r.acting_at is not null
      from (select distinct workspace_id from defib.restarts
             where (run_ended_at is null or run_ended_at > now() - $1 * interval '1 microsecond')
               and acknowledged_at is null %scope%) c
     cross join lateral (
           (select * from defib.restarts a
             where a.workspace_id = c.workspace_id and a.acknowledged_at is null
               and (a.outcome is null or a.outcome not in ('vetoed', 'superseded'))
               and (a.run_ended_at is null or a.claimed_at > now() - interval '7 days')
             order by a.id desc limit $2)
           union all
           (select * from defib.restarts a
             where a.workspace_id = c.workspace_id and a.acknowledged_at is null
               and a.outcome in ('vetoed', 'superseded') and a.claimed_at > now() - interval '7 days'
             order by a.id desc limit $3)) r
     order by r.workspace_id, r.id desc";

/// Short, and without anybody's text but two ids: a payload has 8,000 bytes.
const FINISH: &str = "
    with finished as (
        update defib.restarts
           set finished_at = clock_timestamp(), outcome = $2, error = $3,
               run_ended_at = case when $2 in ('vetoed', 'superseded') then clock_timestamp() end
         where id = $1 and finished_at is null %unasked%
        returning id, workspace_id, engine, outcome)
    select pg_notify('defib_events', json_build_object(
               'event', 'restart', 'id', id, 'workspace_id', left(workspace_id, 200), 'engine', left(engine, 200),
               'outcome', outcome)::text) is null
      from finished";

/// All in one statement: the row lock of the update is what a new owner that settles the attempt waits for.
const MAY_ACT: &str = "
    with facts as materialized (
        select exists (select from defib.leases l
                        where l.engine = $3 and l.holder = $4 and l.epoch = $5 and l.expires_at > clock_timestamp()) as owner,
               exists (select from defib.fleet f
                        where f.workspace_id::text =
                              (select r.workspace_id from defib.restarts r where r.id = $1)
                          and (f.status::text = any ($2) or f.status::text = 'offline')
                          and f.suspended is false
                          and f.engine::text = $3 and f.kind::text <> 'external'
                          and defib.hold_reason(f.workspace_id::text, f.engine::text) is null) as wanted),
         acting as (
        update defib.restarts r
           set acting_at = clock_timestamp(),
               deadline_at = clock_timestamp() + $6 * interval '1 microsecond'
          from facts
         where r.id = $1 and r.finished_at is null and facts.owner and facts.wanted
        returning r.id)
    select facts.owner, facts.wanted, exists (select from acting) from facts";

const OPEN: &str = "
    select id, workspace_id, engine, container_id, started_at, claimed_at, claimed_by, epoch, acting_at is not null, deadline_at,
           clock_timestamp(), verdict,
           not exists (select from defib.fleet f where f.workspace_id::text = r.workspace_id and f.engine::text = r.engine)
      from defib.restarts r where finished_at is null %which% order by id limit 1000";

const WITHOUT_OWNER: &str = "
    and not exists (select from defib.replicas p where p.expires_at > clock_timestamp() and r.engine = any (p.engines))
    and not exists (select from defib.leases l where l.expires_at > clock_timestamp() and l.engine = r.engine)";

const NOTIFY: &str = "
    select pg_notify('defib_events', json_build_object('event', $1, 'workspace_id', left($2, 200))::text) is null";

impl Store {
    /// Claims a restart in one transaction: the lease is ours, no hold stands, nobody else is at it, and the platform does not
    /// veto.
    ///
    /// # Errors
    /// [`StoreError::Claim`]: nothing was claimed, or (when the answer to the commit was lost) the claim stands without an
    /// owner until its deadline. Of kind `lock` when the platform's row stayed locked: no claim, judge again.
    pub async fn claim(&self, claim: &Claim<'_>) -> Result<Claimed, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            connection.begin().await?;
            let claimed = claim_within(&mut connection, claim).await?;
            crash_point!("claim_before_commit");
            connection.commit().await?;
            Ok(claimed)
        })
        .await
        .map_err(StoreError::Claim)
    }

    /// Asks whether attempt `id` may turn to the engine, right before it does, and writes down that it did: after a yes the
    /// attempt is `acting`, and `within` is how long until it is settled by others if it never ends.
    ///
    /// Yes while the lease is ours and unexpired, the attempt is under way, its workspace is in the fleet, watched and unsuspended, and
    /// no hold stands. `offline` counts as watched: it is what `mark_dead` has just written.
    pub async fn may_act(
        &self,
        id: i64,
        watched: &[String],
        lease: LeaseProof<'_>,
        within: Duration,
    ) -> Result<MayAct, StoreError> {
        self.within_deadline(async {
            let (engine, within) = (lease.engine.as_str(), micros(within));
            let mut connection = self.pool.get().await?;
            let row = connection
                .query_one(
                    MAY_ACT,
                    &[
                        (&id, Type::INT8),
                        (&watched, Type::TEXT_ARRAY),
                        (&engine, Type::TEXT),
                        (&lease.holder, Type::TEXT),
                        (&lease.epoch, Type::INT8),
                        (&within, Type::INT8),
                    ],
                )
                .await?;
            let (owner, wanted, acting): (bool, bool, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            Ok(match (owner, wanted, acting) {
                (_, _, true) => MayAct::Yes,
                (true, false, false) => MayAct::NotWanted,
                (false, ..) | (true, true, false) => MayAct::NotOwner,
            })
        })
        .await
        .map_err(StoreError::MayAct)
    }

    /// Ends attempt `id` and tells `defib_events`. False when it had ended already: somebody settled it for us.
    pub async fn finish(&self, id: i64, outcome: Outcome, error: Option<&str>) -> Result<bool, StoreError> {
        self.end(&FINISH.replace("%unasked%", ""), id, outcome, error).await
    }

    /// Abandons attempt `id` of an owner that is gone, unless it has turned to the engine. False when it has, or had ended already.
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

    /// A heartbeat proved that attempt `id` brought `workspace` back: ends its run, lets the platform mark it recovered, and
    /// tells `defib_events`. False when that was recorded before.
    pub async fn recovered(&self, id: i64, workspace: &WorkspaceId, evidence: &Value) -> Result<bool, StoreError> {
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
                mark_recovered(&mut connection, of, evidence).await?;
                notify(&mut connection, "recovered", of).await?;
            }
            connection.commit().await?;
            Ok(first)
        })
        .await
        .map_err(StoreError::Recovered)
    }

    /// Marks a workspace dead that there is nothing to restart for (kind `external`). False is the platform's veto, or that the
    /// replica does not own anything under that lease any more.
    pub async fn mark_lost(
        &self,
        workspace: &WorkspaceId,
        evidence: &Value,
        lease: LeaseProof<'_>,
    ) -> Result<bool, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            connection.begin().await?;
            if !holds_lease(&mut connection, lease).await? {
                return Ok(false);
            }
            let marked = mark_dead(&mut connection, workspace.as_str(), evidence).await?;
            if marked {
                notify(&mut connection, "lost", workspace.as_str()).await?;
            }
            connection.commit().await?;
            Ok(marked)
        })
        .await
        .map_err(StoreError::MarkLost)
    }

    /// Marks a workspace recovered that came back without an attempt of ours. True when that changed its status.
    pub async fn mark_recovered(&self, workspace: &WorkspaceId, evidence: &Value) -> Result<bool, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            connection.begin().await?;
            let marked = mark_recovered(&mut connection, workspace.as_str(), evidence).await?;
            if marked {
                notify(&mut connection, "recovered", workspace.as_str()).await?;
            }
            connection.commit().await?;
            Ok(marked)
        })
        .await
        .map_err(StoreError::Recovered)
    }

    /// The attempts that back-off, settling and exhaustion depend on: of each workspace in `scope` whose run of attempts goes
    /// on, or ended less than `reset` ago, the newest twenty that counted and the newest five refusals, by workspace and
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

    /// The attempts that are under way on `engines`, oldest first: what their owner settles whose own they are not.
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

    /// An operator looked into it: the finished attempts of `workspace` no longer count. Returns how many did.
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

async fn claim_within(connection: &mut Connection, claim: &Claim<'_>) -> Result<Claimed, Fault> {
    let (workspace, engine) = (claim.workspace.as_str(), claim.engine.as_str());
    let lease = LeaseProof { engine: claim.engine, holder: claim.claimed_by, epoch: claim.epoch };
    if !holds_lease(connection, lease).await? {
        return Ok(Claimed::NotOwner);
    }
    let held = connection
        .query_one("select defib.hold_reason($1, $2)", &[(&workspace, Type::TEXT), (&engine, Type::TEXT)])
        .await?;
    if let Some(reason) = held.try_get(0)? {
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

    connection.batch("savepoint unmarked").await?;
    let why = if !mark_dead(connection, workspace, &evidence).await? {
        "defib.mark_dead refused: its row changed since the evidence, or the platform wants it left alone"
    } else if !is_as_judged(connection, claim).await? {
        // The platform is not told that it is dead.
        connection.batch("rollback to savepoint unmarked").await?;
        "its engine, container_ref, kind or policy changed since the evidence"
    } else {
        return Ok(Claimed::Granted { id });
    };
    let parameters = [(&id as _, Type::INT8), (&"vetoed" as _, Type::TEXT), (&Some(why) as _, Type::TEXT)];
    connection.query(&FINISH.replace("%unasked%", ""), &parameters).await?;
    Ok(Claimed::Vetoed { id })
}

/// Whether the fleet still has the workspace where it was judged, and as what. Asked when `mark_dead` has the platform's row
/// locked: what a transaction that it waited for has changed is seen, and no other can change it before ours ends.
async fn is_as_judged(connection: &mut Connection, claim: &Claim<'_>) -> Result<bool, Fault> {
    let (workspace, engine) = (claim.workspace.as_str(), claim.engine.as_str());
    let found = connection
        .query_opt(
            "select 1 from defib.fleet f
              where f.workspace_id::text = $1 and f.engine::text = $2 and f.kind::text <> 'external'
                and f.container_ref::text is not distinct from $3 and f.policy::text is not distinct from $4
              limit 1",
            &[
                (&workspace, Type::TEXT),
                (&engine, Type::TEXT),
                (&claim.container_ref, Type::TEXT),
                (&claim.policy, Type::TEXT),
            ],
        )
        .await?;
    Ok(found.is_some())
}

/// Whether a lease is held and has not expired; if so, until the transaction ends it cannot be taken over. Shared with other claims and
/// with renewals, but not with a take-over: that waits, and then sees what was claimed.
async fn holds_lease(connection: &mut Connection, lease: LeaseProof<'_>) -> Result<bool, Fault> {
    let found = connection
        .query_opt(
            "select 1 from defib.leases
              where engine = $1 and holder = $2 and epoch = $3 and expires_at > clock_timestamp() for key share",
            &[(&lease.engine.as_str(), Type::TEXT), (&lease.holder, Type::TEXT), (&lease.epoch, Type::INT8)],
        )
        .await?;
    Ok(found.is_some())
}

/// An adapter that returns null has not agreed.
async fn mark_dead(connection: &mut Connection, workspace: &str, evidence: &Value) -> Result<bool, Fault> {
    let row = connection
        .query_one(
            "select coalesce(defib.mark_dead($1, $2), false)",
            &[(&workspace, Type::TEXT), (&json(evidence), Type::JSONB)],
        )
        .await?;
    Ok(row.try_get(0)?)
}

async fn mark_recovered(connection: &mut Connection, workspace: &str, evidence: &Value) -> Result<bool, Fault> {
    let row = connection
        .query_one(
            "select coalesce(defib.mark_recovered($1, $2), false)",
            &[(&workspace, Type::TEXT), (&json(evidence), Type::JSONB)],
        )
        .await?;
    Ok(row.try_get(0)?)
}

/// Tells `defib_events`; delivered when the transaction commits.
async fn notify(connection: &mut Connection, event: &str, workspace: &str) -> Result<(), Fault> {
    connection.query(NOTIFY, &[(&event, Type::TEXT), (&workspace, Type::TEXT)]).await.map(drop)
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
