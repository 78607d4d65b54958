//! What defib decided, and why, as it stands in its own tables: suspicions, changes of verdicts, restarts.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use tokio_postgres::{Client, Row};

/// Everything since a moment, of one workspace or (null) of all. Of suspicions only the first of each workspace: the second
/// says nothing new to a reader.
const NEWS: &str = "
    with first_suspicions as (
        select workspace_id, min(id) as id from defib.suspicions
         where ($1::text is null or workspace_id = $1) and reported_at >= to_timestamp($2::float8)
         group by workspace_id)
    select extract(epoch from at)::float8 as at, workspace_id, kind, id, number, word, more, held from (
        select reported_at as at, workspace_id, 'suspicion' as kind, id, http_status as number,
               reason as word, null as more, null as held
          from defib.suspicions join first_suspicions using (workspace_id, id)
        union all
        select at, workspace_id, 'verdict', id, null, verdict_to, evidence ->> 'because', evidence ->> 'held'
          from defib.events
        union all
        select finished_at, workspace_id, 'restart', id, attempt, outcome, error, null
          from defib.restarts
        union all
        select recovered_at, workspace_id, 'recovery', id, null, null, null, null
          from defib.restarts) news
     where at >= to_timestamp($2::float8) and ($1::text is null or workspace_id = $1)
     order by at, kind, id";

/// One thing that happened.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) at: SystemTime,
    pub(crate) workspace: String,
    pub(crate) what: What,
}

/// What it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Suspicion { reason: String, http_status: Option<i32> },
    Verdict { to: String, because: String, held: Option<String> },
    Restart { attempt: i32, outcome: String, error: Option<String> },
    Recovery,
}

/// Reads the tables again and again, and tells each thing once.
pub(crate) struct News<'a> {
    database: &'a Client,
    workspace: Option<&'a str>,
    since: SystemTime,
    told: BTreeSet<(String, i64)>,
}

impl<'a> News<'a> {
    pub(crate) fn new(database: &'a Client, workspace: Option<&'a str>, since: SystemTime) -> Self {
        Self { database, workspace, since, told: BTreeSet::new() }
    }

    /// What was not told yet, in the order in which it happened.
    pub(crate) async fn fresh(&mut self) -> Result<Vec<Item>> {
        let since = epoch_seconds(self.since);
        let rows = self.database.query(NEWS, &[&self.workspace, &since]).await.context("read defib's tables")?;
        Ok(rows.iter().filter(|row| self.told.insert((row.get("kind"), row.get("id")))).map(item).collect())
    }
}

fn item(row: &Row) -> Item {
    let what = match row.get("kind") {
        "suspicion" => What::Suspicion { reason: row.get("word"), http_status: row.get("number") },
        "verdict" => What::Verdict {
            to: row.get("word"),
            because: row.get::<_, Option<String>>("more").unwrap_or_default(),
            held: row.get("held"),
        },
        "restart" => What::Restart { attempt: row.get("number"), outcome: row.get("word"), error: row.get("more") },
        _ => What::Recovery,
    };
    let at = UNIX_EPOCH + Duration::try_from_secs_f64(row.get("at")).unwrap_or_default();
    Item { at, workspace: row.get("workspace_id"), what }
}

pub(crate) fn epoch_seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
