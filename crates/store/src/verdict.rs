//! What the daemon thinks now: the current verdicts that are not alive (`defib.verdicts`).
//!
//! A mass death changes thousands at once, so a batch is three statements whatever its size. Replicas may write the same rows: all lock
//! them in the order of their ids, nobody waits for a row that another has locked, and no lock spans more than the rows of a batch. The
//! table says what is so *now*, so a row that could not be written is written by a later call.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use defib_policy::id::{EngineName, WorkspaceId};
use serde_json::Value;
use tokio_postgres::types::Type;

use crate::Store;
use crate::connect::Connection;
use crate::decode::{json, micros, text, timestamp};
use crate::error::{Fault, StoreError};
use crate::halving::{Halving, IDLE_TIMEOUT, LOCK_TIMEOUT};

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

/// A current verdict as it stands in the table.
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

/// Locks the rows of these workspaces as far as nobody else has them locked, in the order of their ids, and tells the others.
const LOCKED_BY_OTHERS: &str = "
    with ours as materialized (
        select workspace_id from defib.verdicts where workspace_id = any ($1) order by workspace_id for update skip locked)
    select v.workspace_id from defib.verdicts v
     where v.workspace_id = any ($1) and v.workspace_id not in (select workspace_id from ours)";

const DELETE_VERDICTS: &str = "delete from defib.verdicts where workspace_id = any ($1)";

/// Tells the webhook of each workspace that is now `contradiction` or `exhausted` and was not according to its row before.
const UPSERT_VERDICTS: &str = "
    with before as materialized (select workspace_id, verdict from defib.verdicts where workspace_id = any ($1)),
         written as (
    insert into defib.verdicts (workspace_id, verdict, since, engine, rule, because, evidence, held, updated_at)
    select workspace_id, verdict, now() - since_ago * interval '1 microsecond', engine, rule, because, evidence, held, now()
      from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::jsonb[], $8::text[])
           as v(workspace_id, verdict, since_ago, engine, rule, because, evidence, held)
        on conflict (workspace_id) do update
       set verdict = excluded.verdict, since = excluded.since, engine = excluded.engine, rule = excluded.rule,
           because = excluded.because, evidence = excluded.evidence, held = excluded.held, updated_at = excluded.updated_at
    returning workspace_id, verdict, engine, rule, because)
    select defib.tell_all(array_agg('workspace.' || w.verdict order by w.workspace_id), array_agg(w.workspace_id order by w.workspace_id),
                          array_agg(nullif(w.engine, '') order by w.workspace_id),
                          array_agg(jsonb_build_object('rule', w.rule, 'because', left(w.because, 500)) order by w.workspace_id))
      from written w left join before b using (workspace_id)
     where w.verdict in ('contradiction', 'exhausted') and w.verdict is distinct from b.verdict
    having count(*) > 0";

impl Store {
    /// Writes current verdicts over what stands for their workspaces (of two for one workspace the last counts), and removes those of
    /// `cleared` (alive, or no longer judged; one that is also in `rows` is kept).
    ///
    /// Returns the workspaces that were not written: the database refuses their rows, or another transaction has them locked. All others
    /// are written. Try these again later.
    ///
    /// # Errors
    /// [`StoreError::RecordVerdicts`] when the database is away, or the table as a whole is locked. Some of the rows may have been written.
    pub async fn record_verdicts(
        &self,
        rows: &[VerdictRow],
        cleared: &[WorkspaceId],
    ) -> Result<Vec<WorkspaceId>, StoreError> {
        let changes = changes(rows, cleared);
        let mut unwritten = Vec::new();
        let mut halving = Halving::new(changes.len());
        while let Some(range) = halving.next() {
            let part = &changes[range.clone()];
            match self.within_deadline(self.write_verdicts(part)).await {
                Ok(locked) => unwritten.extend(locked),
                Err(fault) if fault.is_of_a_row() => {
                    let refused = halving.refused(range);
                    unwritten.extend(changes[refused].iter().map(|change| change.workspace().clone()));
                }
                Err(fault) => return Err(StoreError::RecordVerdicts(fault)),
            }
        }
        Ok(unwritten)
    }

    /// Writes some changes in one transaction. Returns the workspaces whose rows another transaction has locked; they are left out.
    async fn write_verdicts(&self, changes: &[Change<'_>]) -> Result<Vec<WorkspaceId>, Fault> {
        let mut connection = self.pool.get().await?;
        connection.begin_within(IDLE_TIMEOUT, LOCK_TIMEOUT).await?;
        match write_verdicts_within(&mut connection, changes).await {
            Ok(locked) => {
                connection.commit().await?;
                Ok(locked)
            }
            Err(fault) => {
                if fault.is_of_a_row() {
                    connection.rollback().await?;
                }
                Err(fault)
            }
        }
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

/// What is to become of one row of `defib.verdicts`.
enum Change<'a> {
    Write(&'a VerdictRow),
    Clear(&'a WorkspaceId),
}

impl Change<'_> {
    const fn workspace(&self) -> &WorkspaceId {
        match self {
            Self::Write(row) => &row.workspace,
            Self::Clear(workspace) => workspace,
        }
    }
}

/// One change a workspace, in the order of their ids: two writers that lock rows in the same order cannot wait for each other in a circle.
fn changes<'a>(rows: &'a [VerdictRow], cleared: &'a [WorkspaceId]) -> Vec<Change<'a>> {
    let cleared = cleared.iter().map(|workspace| (workspace.as_str(), Change::Clear(workspace)));
    let written = rows.iter().map(|row| (row.workspace.as_str(), Change::Write(row)));
    let last: BTreeMap<&str, Change<'a>> = cleared.chain(written).collect();
    last.into_values().collect()
}

async fn write_verdicts_within(connection: &mut Connection, changes: &[Change<'_>]) -> Result<Vec<WorkspaceId>, Fault> {
    let ids: Vec<&str> = changes.iter().map(|change| change.workspace().as_str()).collect();
    let locked = connection.query(LOCKED_BY_OTHERS, &[(&ids, Type::TEXT_ARRAY)]).await?;
    let locked: BTreeSet<&str> = locked.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let ours = || changes.iter().filter(|change| !locked.contains(change.workspace().as_str()));
    let cleared: Vec<&str> = ours()
        .filter_map(|change| match change {
            Change::Clear(workspace) => Some(workspace.as_str()),
            Change::Write(_) => None,
        })
        .collect();
    if !cleared.is_empty() {
        connection.execute(DELETE_VERDICTS, &[(&cleared, Type::TEXT_ARRAY)]).await?;
    }
    let written: Vec<&VerdictRow> = ours()
        .filter_map(|change| match change {
            Change::Write(row) => Some(*row),
            Change::Clear(_) => None,
        })
        .collect();
    if !written.is_empty() {
        connection.query(UPSERT_VERDICTS, &VerdictColumns::new(&written).parameters()).await?;
    }
    Ok(locked.into_iter().map(WorkspaceId::from).collect())
}

/// Verdicts by column, as `unnest` wants them.
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
    fn new(rows: &[&'a VerdictRow]) -> Self {
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
