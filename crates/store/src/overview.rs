//! Reads for the status page: the whole fleet in little memory, the ledger page by page, and what is shown of a few.
//!
//! The page keeps one picture of the fleet for all who look at it. It holds a hundred thousand workspaces, so a row of it is small:
//! words that many share are shared, and evidence stays in the database until somebody asks for one workspace.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use defib_policy::fast_hash::IdSet;
use defib_policy::fleet::Workspace;
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::Timestamp;
use futures_util::TryStreamExt;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::Store;
use crate::connect::Connection;
use crate::decode::{Instant, optional_timestamp, timestamp};
use crate::error::{Fault, StoreError};
use crate::row::Columns;
use crate::view::{CurrentVerdict, LastRestart};

/// One workspace of the fleet. Its row may break the contract.
#[derive(Clone, Debug)]
pub struct Entry {
    /// `workspace_id`; empty where the row has none.
    pub id: WorkspaceId,
    /// `name`.
    pub name: Option<Box<str>>,
    /// `status`.
    pub status: Option<Arc<str>>,
    /// `kind`.
    pub kind: Option<Arc<str>>,
    /// `engine`.
    pub engine: Option<EngineName>,
    /// `suspended`.
    pub suspended: Option<bool>,
    /// The last sign of life: heartbeat or activity, the later.
    pub beat_at: Option<Timestamp>,
    /// When it was made, as the platform says.
    pub created_at: Option<Timestamp>,
    /// The current verdict without its evidence; `None`: alive, or not judged.
    pub verdict: Option<Box<CurrentVerdict>>,
    /// Why a daemon does not read the row.
    pub breach: Option<&'static str>,
}

/// The whole fleet.
#[derive(Debug)]
pub struct Overview {
    /// The database's clock before the fleet was read.
    pub now: Timestamp,
    /// In no order.
    pub entries: Vec<Entry>,
}

/// What the tables say at one moment about workspaces whose rows are known already.
#[derive(Debug)]
pub struct Present {
    /// The database's clock.
    pub now: Timestamp,
    /// The verdicts that are not `alive`, by workspace.
    pub verdicts: HashMap<String, CurrentVerdict>,
}

impl Overview {
    /// The workspaces that a daemon has in its memory, `count` or so, without their names, with the verdicts of this moment.
    pub fn of_known<'a>(present: Present, rows: impl Iterator<Item = &'a Workspace>, count: usize) -> Self {
        let Present { now, mut verdicts } = present;
        let mut kinds = Shared::<Arc<str>>::default();
        let entry = |row: &Workspace| Entry {
            id: row.id.clone(),
            name: None,
            status: Some(Arc::clone(&row.status)),
            kind: Some(kinds.share(row.kind.label())),
            engine: Some(row.engine.clone()),
            suspended: Some(row.suspended),
            beat_at: row.last_heartbeat_at.max(row.last_activity_at),
            created_at: row.created_at,
            verdict: if verdicts.is_empty() { None } else { verdicts.remove(row.id.as_str()).map(Box::new) },
            breach: None,
        };
        let mut entries = Vec::with_capacity(count);
        entries.extend(rows.map(entry));
        Self { now, entries }
    }
}

/// A row of the ledger.
#[derive(Clone, Debug)]
pub struct RestartRow {
    /// The attempt.
    pub id: i64,
    /// Whose.
    pub workspace_id: String,
    /// Where.
    pub engine: String,
    /// The container that was found dead.
    pub container_id: Option<String>,
    /// Number within its run.
    pub attempt: i32,
    /// The verdict that asked for it.
    pub verdict: String,
    /// The verdict's reasons in a sentence.
    pub because: Option<String>,
    /// The replica.
    pub claimed_by: Option<String>,
    /// When it was claimed.
    pub claimed_at: Timestamp,
    /// When it ended; `None`: it is under way.
    pub finished_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
    /// When a heartbeat proved the recovery.
    pub recovered_at: Option<Timestamp>,
    /// When an operator said that it no longer counts.
    pub acknowledged_at: Option<Timestamp>,
}

/// The columns after the name stand as in the daemon's own read, so that the same code judges whether the row can be used.
const FLEET: &str = "
    select f.name::text, f.workspace_id::text, f.status::text, f.kind::text, f.engine::text, f.container_ref::text,
           f.instance_ref::text, f.suspended, f.last_heartbeat_at::timestamptz, f.last_activity_at::timestamptz,
           f.active_tasks::bigint, f.created_at::timestamptz, left(f.policy::text, 4097)
      from defib.fleet f";

const SOME: &str = "where f.workspace_id::text = any ($1)";

const VERDICTS: &str = "
    select workspace_id, verdict, since, rule, because, held, updated_at, now() from defib.verdicts";

const RESTARTS: &str = "
    select id, workspace_id, engine, container_id, attempt, verdict, evidence ->> 'because', claimed_by, claimed_at, finished_at,
           outcome, error, recovered_at, acknowledged_at
      from defib.restarts where finished_at %which% and ($2::bigint is null or id < $2) order by id desc limit $1";

const LAST_RESTARTS: &str = "
    select w.id, r.id, r.attempt, r.outcome, r.claimed_at, r.recovered_at, now()
      from unnest($1) as w(id)
     cross join lateral (select * from defib.restarts r where r.workspace_id = w.id order by r.id desc limit 1) r";

impl Store {
    /// The whole fleet, row by row, so that no more than the answer is held.
    pub async fn overview(&self) -> Result<Overview, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            connection.begin_for_many_rows().await?;
            let Present { now, mut verdicts } = present(&mut connection).await?;
            let mut words = Words::default();
            let mut entries = Vec::new();
            {
                let mut stream = pin!(connection.stream(FLEET, Vec::new()).await?);
                while let Some(row) = stream.try_next().await? {
                    let mut entry = entry(&row, &mut words)?;
                    if !verdicts.is_empty() {
                        entry.verdict = verdicts.remove(entry.id.as_str()).map(Box::new);
                    }
                    entries.push(entry);
                }
            }
            connection.rows_ended();
            connection.commit().await?;
            Ok(Overview { now, entries })
        })
        .await
        .map_err(StoreError::Overview)
    }

    /// The verdicts of this moment, for workspaces whose rows are known already.
    pub async fn present(&self) -> Result<Present, StoreError> {
        self.within_deadline(async { present(&mut self.pool.get().await?).await }).await.map_err(StoreError::Overview)
    }

    /// The rows of a few workspaces, without their verdicts.
    pub async fn entries(&self, workspaces: &[&str]) -> Result<Vec<Entry>, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            connection.begin_for_a_few_rows().await?;
            let rows = connection.query(&format!("{FLEET} {SOME}"), &[(&workspaces, Type::TEXT_ARRAY)]).await?;
            connection.commit().await?;
            let mut words = Words::default();
            rows.iter().map(|row| entry(row, &mut words)).collect()
        })
        .await
        .map_err(StoreError::Overview)
    }

    /// The restarts that are under way, newest first.
    pub async fn restarts_under_way(&self, limit: i64) -> Result<Vec<RestartRow>, StoreError> {
        self.restarts("is null", None, limit).await
    }

    /// The restarts that have ended, newest first; those claimed before the attempt `before` where one is given.
    pub async fn restarts_ended(&self, before: Option<i64>, limit: i64) -> Result<Vec<RestartRow>, StoreError> {
        self.restarts("is not null", before, limit).await
    }

    async fn restarts(&self, which: &str, before: Option<i64>, limit: i64) -> Result<Vec<RestartRow>, StoreError> {
        self.within_deadline(async {
            let sql = RESTARTS.replace("%which%", which);
            let parameters = [(&limit as _, Type::INT8), (&before as _, Type::INT8)];
            self.pool.get().await?.query(&sql, &parameters).await?.iter().map(restart).collect()
        })
        .await
        .map_err(StoreError::Overview)
    }

    /// The newest attempt of each of these workspaces that has one.
    pub async fn last_restarts(&self, workspaces: &[&str]) -> Result<HashMap<String, LastRestart>, StoreError> {
        self.within_deadline(async {
            let rows = self.pool.get().await?.query(LAST_RESTARTS, &[(&workspaces, Type::TEXT_ARRAY)]).await?;
            rows.iter()
                .map(|row| {
                    let now = timestamp(row, 6)?;
                    let last = LastRestart {
                        id: row.try_get(1)?,
                        attempt: row.try_get(2)?,
                        outcome: row.try_get(3)?,
                        claimed_ago: now.since(timestamp(row, 4)?),
                        recovered_ago: optional_timestamp(row, 5)?.map(|at| now.since(at)),
                    };
                    Ok((row.try_get(0)?, last))
                })
                .collect()
        })
        .await
        .map_err(StoreError::Overview)
    }
}

/// Words that many rows share. Each word is allocated once, and not once for each row.
#[derive(Default)]
struct Words {
    statuses_and_kinds: Shared<Arc<str>>,
    engines: Shared<EngineName>,
}

struct Shared<T>(IdSet<T>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(IdSet::default())
    }
}

impl<T: Borrow<str> + Clone + Eq + Hash + for<'a> From<&'a str>> Shared<T> {
    fn share(&mut self, word: &str) -> T {
        if let Some(known) = self.0.get(word) {
            return known.clone();
        }
        let new = T::from(word);
        self.0.insert(new.clone());
        new
    }
}

fn entry(row: &Row, Words { statuses_and_kinds, engines }: &mut Words) -> Result<Entry, Fault> {
    // Any column may be null in a row that breaks the contract.
    let text = |column| row.try_get::<_, Option<&str>>(column);
    let mut shared =
        |column| -> Result<Option<Arc<str>>, Fault> { Ok(text(column)?.map(|word| statuses_and_kinds.share(word))) };
    let moment = |column| -> Result<Option<Timestamp>, Fault> {
        Ok(match row.try_get::<_, Option<Instant>>(column)? {
            Some(Instant::At(at)) => Some(at),
            Some(Instant::Never) | None => None,
        })
    };
    let (beat_at, created_at, breach) = match Columns::of(row) {
        Ok(columns) => (columns.last_heartbeat_at.max(columns.last_activity_at), columns.created_at, None),
        Err(why) => (moment(8)?.max(moment(9)?), moment(11)?, Some(why)),
    };
    Ok(Entry {
        id: WorkspaceId::from(text(1)?.unwrap_or_default()),
        name: text(0)?.map(Into::into),
        status: shared(2)?,
        kind: shared(3)?,
        engine: text(4)?.map(|engine| engines.share(engine)),
        suspended: row.try_get(7)?,
        beat_at,
        created_at,
        verdict: None,
        breach,
    })
}

async fn present(connection: &mut Connection) -> Result<Present, Fault> {
    let now = timestamp(&connection.query_one("select clock_timestamp()", &[]).await?, 0)?;
    let rows = connection.query(VERDICTS, &[]).await?;
    let verdicts = rows.iter().map(|row| Ok((row.try_get(0)?, current(row)?))).collect::<Result<_, Fault>>()?;
    Ok(Present { now, verdicts })
}

fn current(row: &Row) -> Result<CurrentVerdict, Fault> {
    let now = timestamp(row, 7)?;
    let ago = |column| -> Result<Duration, Fault> { Ok(now.since(timestamp(row, column)?)) };
    Ok(CurrentVerdict {
        verdict: row.try_get(1)?,
        since_ago: ago(2)?,
        rule: row.try_get(3)?,
        because: row.try_get(4)?,
        evidence: Value::Null,
        held: row.try_get(5)?,
        updated_ago: ago(6)?,
    })
}

fn restart(row: &Row) -> Result<RestartRow, Fault> {
    Ok(RestartRow {
        id: row.try_get(0)?,
        workspace_id: row.try_get(1)?,
        engine: row.try_get(2)?,
        container_id: row.try_get(3)?,
        attempt: row.try_get(4)?,
        verdict: row.try_get(5)?,
        because: row.try_get(6)?,
        claimed_by: row.try_get(7)?,
        claimed_at: timestamp(row, 8)?,
        finished_at: optional_timestamp(row, 9)?,
        outcome: row.try_get(10)?,
        error: row.try_get(11)?,
        recovered_at: optional_timestamp(row, 12)?,
        acknowledged_at: optional_timestamp(row, 13)?,
    })
}
