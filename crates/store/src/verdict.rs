//! What the daemon thinks, written down: current verdicts (`defib.verdicts`) and their changes (`defib.events`).
//!
//! A mass death changes thousands at once, so a batch is three statements whatever its size. Replicas write the same rows; a
//! lock on the batch keeps two of them from waiting for each other row by row.

use std::collections::HashMap;
use std::time::Duration;

use defib_policy::id::{EngineName, WorkspaceId};
use serde_json::Value;
use tokio_postgres::types::Type;

use crate::Store;
use crate::decode::{json, micros, text, timestamp};
use crate::error::StoreError;

/// A current verdict to be written.
#[derive(Clone, Debug)]
pub struct VerdictRow {
    /// About whom.
    pub workspace: WorkspaceId,
    /// The verdict's label.
    pub verdict: &'static str,
    /// How long it has been so.
    pub since_ago: Duration,
    /// Where.
    pub engine: EngineName,
    /// The rule that gave it.
    pub rule: String,
    /// Its reasons in a sentence.
    pub because: String,
    /// What it rests on.
    pub evidence: Value,
    /// Why a restart is being held back; `None`: it is not.
    pub held: Option<String>,
}

/// A change of a verdict to be written.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// About whom.
    pub workspace: WorkspaceId,
    /// What it was; `None` when it was not known.
    pub from: Option<String>,
    /// What it is.
    pub to: String,
    /// What the change rests on.
    pub evidence: Value,
}

/// What one tick changes.
#[derive(Clone, Debug, Default)]
pub struct RecordBatch {
    /// Appended.
    pub events: Vec<EventRow>,
    /// Written over what stands for the workspace; of two for one workspace the last counts.
    pub verdicts: Vec<VerdictRow>,
    /// Alive, or no longer judged. One that is also in `verdicts` is kept.
    pub cleared: Vec<WorkspaceId>,
}

impl RecordBatch {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.verdicts.is_empty() && self.cleared.is_empty()
    }
}

/// A current verdict as an earlier tick, or an earlier daemon, left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredVerdict {
    /// About whom.
    pub workspace: WorkspaceId,
    /// The verdict's label.
    pub verdict: String,
    /// How long it has been so, by the database's clock.
    pub since_ago: Duration,
    /// Where.
    pub engine: EngineName,
    /// The rule that gave it.
    pub rule: String,
    /// Why a restart was being held back.
    pub held: Option<String>,
}

/// Any number that nothing else of the platform's locks: "defib" and the subject.
const LOCK: &str = "select pg_advisory_xact_lock(1684366946, 1)";

const INSERT_EVENTS: &str = "
    insert into defib.events (workspace_id, at, verdict_from, verdict_to, evidence)
    select workspace_id, now(), verdict_from, verdict_to, evidence
      from unnest($1::text[], $2::text[], $3::text[], $4::jsonb[]) as e(workspace_id, verdict_from, verdict_to, evidence)";

const DELETE_VERDICTS: &str = "delete from defib.verdicts where workspace_id = any ($1)";

const UPSERT_VERDICTS: &str = "
    insert into defib.verdicts (workspace_id, verdict, since, engine, rule, because, evidence, held, updated_at)
    select workspace_id, verdict, now() - since_ago * interval '1 microsecond', engine, rule, because, evidence, held, now()
      from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::jsonb[], $8::text[])
           as v(workspace_id, verdict, since_ago, engine, rule, because, evidence, held)
        on conflict (workspace_id) do update
       set verdict = excluded.verdict, since = excluded.since, engine = excluded.engine, rule = excluded.rule,
           because = excluded.because, evidence = excluded.evidence, held = excluded.held, updated_at = excluded.updated_at";

impl Store {
    /// Writes what a tick changed, all or nothing.
    pub async fn record(&self, changes: &RecordBatch) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            connection.begin().await?;
            connection.query(LOCK, &[]).await?;
            if !changes.events.is_empty() {
                let events = EventColumns::new(&changes.events);
                connection.execute(INSERT_EVENTS, &events.parameters()).await?;
            }
            if !changes.cleared.is_empty() {
                let ids: Vec<&str> = changes.cleared.iter().map(WorkspaceId::as_str).collect();
                connection.execute(DELETE_VERDICTS, &[(&ids, Type::TEXT_ARRAY)]).await?;
            }
            if !changes.verdicts.is_empty() {
                let verdicts = VerdictColumns::new(&changes.verdicts);
                connection.execute(UPSERT_VERDICTS, &verdicts.parameters()).await?;
            }
            connection.commit().await
        })
        .await
        .map_err(StoreError::Record)
    }

    /// The current verdicts, by workspace: what the daemon starts from.
    pub async fn read_verdicts(&self) -> Result<Vec<StoredVerdict>, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let rows = connection
                .query(
                    "select workspace_id, verdict, since, engine, rule, held, now() from defib.verdicts order by workspace_id",
                    &[],
                )
                .await?;
            rows.iter()
                .map(|row| {
                    Ok(StoredVerdict {
                        workspace: row.try_get::<_, &str>(0)?.into(),
                        verdict: row.try_get(1)?,
                        since_ago: timestamp(row, 6)?.since(timestamp(row, 2)?),
                        engine: row.try_get::<_, &str>(3)?.into(),
                        rule: row.try_get(4)?,
                        held: row.try_get(5)?,
                    })
                })
                .collect()
        })
        .await
        .map_err(StoreError::ReadVerdicts)
    }
}

/// Events by column, as `unnest` wants them.
struct EventColumns<'a> {
    workspaces: Vec<&'a str>,
    from: Vec<Option<&'a str>>,
    to: Vec<&'a str>,
    evidence: Vec<Value>,
}

impl<'a> EventColumns<'a> {
    fn new(events: &'a [EventRow]) -> Self {
        Self {
            workspaces: events.iter().map(|event| event.workspace.as_str()).collect(),
            from: events.iter().map(|event| event.from.as_deref()).collect(),
            to: events.iter().map(|event| event.to.as_str()).collect(),
            evidence: events.iter().map(|event| json(&event.evidence)).collect(),
        }
    }

    fn parameters(&self) -> [crate::Parameter<'_>; 4] {
        [
            (&self.workspaces, Type::TEXT_ARRAY),
            (&self.from, Type::TEXT_ARRAY),
            (&self.to, Type::TEXT_ARRAY),
            (&self.evidence, Type::JSONB_ARRAY),
        ]
    }
}

/// Verdicts by column; one row a workspace, the last.
struct VerdictColumns<'a> {
    workspaces: Vec<&'a str>,
    verdicts: Vec<&'a str>,
    since_ago: Vec<i64>,
    engines: Vec<&'a str>,
    rules: Vec<std::borrow::Cow<'a, str>>,
    because: Vec<std::borrow::Cow<'a, str>>,
    evidence: Vec<Value>,
    held: Vec<Option<std::borrow::Cow<'a, str>>>,
}

impl<'a> VerdictColumns<'a> {
    fn new(rows: &'a [VerdictRow]) -> Self {
        let last: HashMap<&str, usize> =
            rows.iter().enumerate().map(|(index, row)| (row.workspace.as_str(), index)).collect();
        let rows: Vec<&VerdictRow> = rows
            .iter()
            .enumerate()
            .filter(|(index, row)| last.get(row.workspace.as_str()) == Some(index))
            .map(|(_, row)| row)
            .collect();
        Self {
            workspaces: rows.iter().map(|row| row.workspace.as_str()).collect(),
            verdicts: rows.iter().map(|row| row.verdict).collect(),
            since_ago: rows.iter().map(|row| micros(row.since_ago)).collect(),
            engines: rows.iter().map(|row| row.engine.as_str()).collect(),
            rules: rows.iter().map(|row| text(&row.rule)).collect(),
            because: rows.iter().map(|row| text(&row.because)).collect(),
            evidence: rows.iter().map(|row| json(&row.evidence)).collect(),
            held: rows.iter().map(|row| row.held.as_deref().map(text)).collect(),
        }
    }

    fn parameters(&self) -> [crate::Parameter<'_>; 8] {
        [
            (&self.workspaces, Type::TEXT_ARRAY),
            (&self.verdicts, Type::TEXT_ARRAY),
            (&self.since_ago, Type::INT8_ARRAY),
            (&self.engines, Type::TEXT_ARRAY),
            (&self.rules, Type::TEXT_ARRAY),
            (&self.because, Type::TEXT_ARRAY),
            (&self.evidence, Type::JSONB_ARRAY),
            (&self.held, Type::TEXT_ARRAY),
        ]
    }
}
