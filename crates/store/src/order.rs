//! What operators order, `defib.orders`: a restart by hand, the end of a storm by hand.
//!
//! The command writes a row, through a function that records who called it; the owner of the engine takes it, carries it out
//! through the same protocol as any restart, and writes down what came of it. Nothing here restarts anything.

use std::time::Duration;

use defib_policy::id::{EngineName, WorkspaceId};
use tokio_postgres::types::Type;

use crate::Store;
use crate::decode::{beginning, text, timestamp};
use crate::error::StoreError;

/// Characters of an answer that are kept.
const ANSWER_LENGTH_MAX: usize = 1_000;

/// Who orders, and why.
#[derive(Clone, Copy, Debug)]
pub struct OrderedBy<'a> {
    /// The person (the system user of the command). The database adds its login.
    pub person: &'a str,
    /// Why.
    pub reason: &'a str,
}

/// What is ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ordered {
    /// The restart of a workspace.
    Restart {
        /// The workspace.
        workspace: WorkspaceId,
        /// Whether it is made even against a hold and with a status that is not watched.
        force: bool,
    },
    /// The end of a storm.
    StormEnd {
        /// On which engine; `None`: of the fleet's.
        engine: Option<EngineName>,
    },
}

/// An order that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingOrder {
    /// The row.
    pub id: i64,
    /// What.
    pub what: Ordered,
    /// Why.
    pub reason: String,
    /// The person and the login.
    pub by: String,
    /// How long ago.
    pub age: Duration,
    /// The replica that took it, if one has.
    pub taken_by: Option<String>,
    /// The present status of the workspace.
    pub status: Option<String>,
    /// Whether it, or one above it, is put away now.
    pub suspended: bool,
    /// The engine that it is about: that of the storm, or the one that the workspace is on now. `None`: all of them, or it is not known.
    pub engine: Option<EngineName>,
}

/// What came of an order so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderState {
    /// The replica that took it.
    pub taken_by: Option<String>,
    /// Whether it was carried out; `None`: not yet known.
    pub done: Option<bool>,
    /// What came of it, in a sentence.
    pub answer: Option<String>,
    /// How the restart ended; `None` while it is under way, or where there is none.
    pub outcome: Option<String>,
    /// What went wrong with it.
    pub error: Option<String>,
    /// The replica that owns the engine now.
    pub owner: Option<String>,
}

/// Whether any order stands. It is asked each second, and the answer is nearly always no.
const ANY_STANDS: &str = "select exists (select from defib.orders where ended_at is null)";

/// The rows of the fleet are read in one go, because in a platform's own view the read of a single row may go through all rows.
const STANDING: &str = "
    with standing as materialized (
        select id, kind, workspace_id, engine, force, reason, login, ordered_by, ordered_at, taken_by
          from defib.orders where ended_at is null),
         rows_of_them as materialized (
        select distinct on (f.workspace_id::text)
               f.workspace_id::text as workspace_id, f.engine::text as engine, f.status::text as status, f.suspended
          from defib.fleet f
         where f.workspace_id::text = any (array(select s.workspace_id from standing s where s.workspace_id is not null))
         order by f.workspace_id::text),
         placed as (
        select s.*, coalesce(s.engine, r.engine) as on_engine, r.status, r.suspended,
               row_number() over (partition by s.kind, coalesce(s.engine, r.engine), s.taken_by order by s.id) as place
          from standing s left join rows_of_them r on r.workspace_id = s.workspace_id)
    select id, kind, workspace_id, engine, force, reason,
           case when ordered_by = login then login else ordered_by || ' (login ' || login || ')' end,
           ordered_at, taken_by, clock_timestamp(), status, suspended, on_engine
      from placed where place <= $1 order by place, id limit $2";

/// The row of an order, for an update. While somebody else has locked it, it is not found, so that nobody waits for it: the order stands, and
/// is looked at again in the next turn.
const UNLOCKED: &str =
    "(select u.id from defib.orders u where u.id = $1 and u.ended_at is null %and% for no key update skip locked)";

/// Answers an order by its row in the ledger, once that attempt has ended.
const SETTLE: &str = "
    update defib.orders o
       set ended_at = clock_timestamp(), done = r.outcome = 'succeeded', restart_id = r.id,
           answer = case r.outcome when 'succeeded' then 'restarted (attempt ' || r.attempt || ')' else r.outcome || coalesce(': ' || r.error, '') end
      from defib.restarts r
     where o.id = %unlocked% and r.workspace_id = o.workspace_id and r.verdict = 'operator'
       and r.evidence ->> 'order' = o.id::text and r.finished_at is not null";

/// Only an order whose attempt has ended.
const HAS_ENDED: &str = "
    and exists (select from defib.restarts e where e.workspace_id = u.workspace_id and e.verdict = 'operator'
                   and e.evidence ->> 'order' = u.id::text and e.finished_at is not null)";

const UNDER_WAY: &str = "
    select exists (select from defib.restarts r join defib.orders o on o.workspace_id = r.workspace_id
                    where o.id = $1 and r.verdict = 'operator' and r.evidence ->> 'order' = o.id::text and r.finished_at is null)";

fn unlocked(sql: &str, and: &str) -> String {
    sql.replace("%unlocked%", &UNLOCKED.replace("%and%", and))
}

impl Store {
    /// Answers an order by what the ledger says about its restart. False when the restart has not ended yet, or when the order was answered
    /// before.
    pub async fn settle_order(&self, id: i64) -> Result<bool, StoreError> {
        let sql = unlocked(SETTLE, HAS_ENDED);
        self.within_deadline(async { Ok(self.pool.get().await?.execute(&sql, &[(&id, Type::INT8)]).await? > 0) })
            .await
            .map_err(StoreError::Orders)
    }

    /// Whether the restart that an order asks for was claimed and has not ended.
    pub async fn order_is_under_way(&self, id: i64) -> Result<bool, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let row = connection.query_one(UNDER_WAY, &[(&id, Type::INT8)]).await?;
            Ok(row.try_get(0)?)
        })
        .await
        .map_err(StoreError::Orders)
    }

    /// Orders something, and returns the id of the order. If the restart of this workspace is ordered already, that is the id of the
    /// earlier order.
    pub async fn order(&self, what: &Ordered, by: OrderedBy<'_>) -> Result<i64, StoreError> {
        self.within_deadline(async {
            let (person, reason) = (text(by.person), text(by.reason));
            let mut connection = self.pool.get().await?;
            let row = match what {
                Ordered::Restart { workspace, force } => {
                    let parameters = [
                        (&workspace.as_str() as _, Type::TEXT),
                        (&reason as _, Type::TEXT),
                        (&person as _, Type::TEXT),
                        (force as _, Type::BOOL),
                    ];
                    connection.query_one("select defib.order_restart($1, $2, $3, $4)", &parameters).await?
                }
                Ordered::StormEnd { engine } => {
                    let engine = engine.as_ref().map(EngineName::as_str);
                    let parameters =
                        [(&engine as _, Type::TEXT), (&reason as _, Type::TEXT), (&person as _, Type::TEXT)];
                    connection.query_one("select defib.order_storm_end($1, $2, $3)", &parameters).await?
                }
            };
            Ok(row.try_get(0)?)
        })
        .await
        .map_err(StoreError::Orders)
    }

    /// What came of an order so far; `None`: there is no such order.
    pub async fn order_state(&self, id: i64) -> Result<Option<OrderState>, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let sql = "select taken_by, done, answer, outcome, error, owner from defib.order_state($1)";
            let row = connection.query_opt(sql, &[(&id, Type::INT8)]).await?;
            row.map(|row| {
                Ok(OrderState {
                    taken_by: row.try_get(0)?,
                    done: row.try_get(1)?,
                    answer: row.try_get(2)?,
                    outcome: row.try_get(3)?,
                    error: row.try_get(4)?,
                    owner: row.try_get(5)?,
                })
            })
            .transpose()
        })
        .await
        .map_err(StoreError::Orders)
    }

    /// Takes back an order that no replica has taken yet. False when a replica has taken it, or when it has ended.
    pub async fn withdraw_order(&self, id: i64) -> Result<bool, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let row = connection.query_one("select defib.withdraw_order($1)", &[(&id, Type::INT8)]).await?;
            Ok(row.try_get(0)?)
        })
        .await
        .map_err(StoreError::Orders)
    }

    /// Orders that have not ended. For each kind, engine and replica that took them (or none), these are the `places` oldest, so that
    /// orders which stand for long take no places from others. If there are more than `limit`, the oldest of every engine come before the
    /// later ones of any engine.
    pub async fn standing_orders(&self, places: i64, limit: i64) -> Result<Vec<StandingOrder>, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            if !connection.query_one(ANY_STANDS, &[]).await?.try_get::<_, bool>(0)? {
                return Ok(Vec::new());
            }
            connection.begin_for_a_few_rows().await?;
            let rows = connection.query(STANDING, &[(&places, Type::INT8), (&limit, Type::INT8)]).await?;
            connection.commit().await?;
            rows.iter()
                .map(|row| {
                    let workspace: Option<&str> = row.try_get(2)?;
                    let engine: Option<&str> = row.try_get(3)?;
                    let what = match workspace {
                        Some(workspace) => Ordered::Restart { workspace: workspace.into(), force: row.try_get(4)? },
                        None => Ordered::StormEnd { engine: engine.map(EngineName::from) },
                    };
                    Ok(StandingOrder {
                        id: row.try_get(0)?,
                        what,
                        reason: row.try_get(5)?,
                        by: row.try_get(6)?,
                        age: timestamp(row, 9)?.since(timestamp(row, 7)?),
                        taken_by: row.try_get(8)?,
                        status: row.try_get(10)?,
                        suspended: row.try_get::<_, Option<bool>>(11)?.unwrap_or(false),
                        engine: row.try_get::<_, Option<&str>>(12)?.map(EngineName::from),
                    })
                })
                .collect()
        })
        .await
        .map_err(StoreError::Orders)
    }

    /// Takes an order for this replica. False when another replica has taken it, when it has ended, or while somebody has locked its row.
    pub async fn take_order(&self, id: i64, replica: &str) -> Result<bool, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let sql = "update defib.orders set taken_by = $2, taken_at = clock_timestamp() where id = %unlocked%";
            let sql = unlocked(sql, "and u.taken_at is null");
            Ok(connection.execute(&sql, &[(&id, Type::INT8), (&replica, Type::TEXT)]).await? > 0)
        })
        .await
        .map_err(StoreError::Orders)
    }

    /// Writes down what came of an order. False when that was done before, or while somebody has locked its row.
    pub async fn end_order(
        &self,
        id: i64,
        done: bool,
        answer: &str,
        restart_id: Option<i64>,
    ) -> Result<bool, StoreError> {
        self.within_deadline(async {
            let answer = text(beginning(answer, ANSWER_LENGTH_MAX));
            let mut connection = self.pool.get().await?;
            let sql = "update defib.orders
                          set ended_at = clock_timestamp(), done = $2, answer = $3, restart_id = coalesce($4, restart_id)
                        where id = %unlocked%";
            let parameters = [
                (&id as _, Type::INT8),
                (&done as _, Type::BOOL),
                (&answer as _, Type::TEXT),
                (&restart_id as _, Type::INT8),
            ];
            Ok(connection.execute(&unlocked(sql, ""), &parameters).await? > 0)
        })
        .await
        .map_err(StoreError::Orders)
    }
}
