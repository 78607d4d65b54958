//! What was learned of each workspace, `defib.cadences`: its heartbeat interval, which the next process then need not learn again, and what
//! `defib explain` tells about a workspace that is alive.
//!
//! Rows are written lazily, and losing one does no harm: without a row, `DEFIB_HEARTBEAT_INTERVAL` stands in until three intervals were
//! seen.

use std::time::Duration;

use defib_policy::id::{ContainerId, WorkspaceId};
use defib_policy::moment::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::Store;
use crate::decode::{micros, optional_timestamp, system_time, text};
use crate::error::{Fault, StoreError};

/// Rows in one statement. Larger: one write holds its locks for long enough to keep others waiting.
const BATCH: usize = 1_000;

/// What was learned of one workspace.
#[derive(Clone, Debug, PartialEq)]
pub struct CadenceRow {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Mean interval in milliseconds.
    pub mean_ms: f32,
    /// Mean deviation from it in milliseconds.
    pub deviation_ms: f32,
    /// The number of intervals that this was learned from.
    pub intervals: u32,
    /// A heartbeat younger than this was fresh; in whole milliseconds.
    pub window: Option<Duration>,
    /// The container that it was found in.
    pub container_id: Option<ContainerId>,
    /// When that container was started, if the engine has said so.
    pub started_at: Option<Timestamp>,
    /// What its own settings change, and what of them is not used. At most a few lines.
    pub own_settings: Vec<String>,
}

/// The columns that [`from_row`] reads.
pub(crate) const COLUMNS: &str =
    "workspace_id, mean_ms, deviation_ms, intervals, window_ms, container_id, started_at, own_settings";

pub(crate) fn from_row(row: &Row) -> Result<CadenceRow, Fault> {
    let window: Option<f32> = row.try_get(4)?;
    let container: Option<&str> = row.try_get(5)?;
    Ok(CadenceRow {
        workspace: row.try_get::<_, &str>(0)?.into(),
        mean_ms: row.try_get(1)?,
        deviation_ms: row.try_get(2)?,
        intervals: row.try_get::<_, i32>(3)?.unsigned_abs(),
        window: window.and_then(|ms| Duration::try_from_secs_f32(ms.round() / 1_000.0).ok()),
        container_id: container.map(ContainerId::from),
        started_at: optional_timestamp(row, 6)?,
        own_settings: row.try_get::<_, Option<Vec<String>>>(7)?.unwrap_or_default(),
    })
}

/// As many parameters as columns, whatever the number of rows. The settings go as one JSON text each: arrays of arrays must be rectangular.
const SAVE: &str = "
    insert into defib.cadences (workspace_id, mean_ms, deviation_ms, intervals, window_ms, container_id, started_at, own_settings)
    select id, mean, deviation, intervals, fresh, container, started,
           case when own is not null then array(select jsonb_array_elements_text(own::jsonb)) end
      from unnest($1::text[], $2::real[], $3::real[], $4::integer[], $5::real[], $6::text[], $7::timestamptz[], $8::text[])
        as given(id, mean, deviation, intervals, fresh, container, started, own)
        on conflict (workspace_id) do update
       set mean_ms = excluded.mean_ms, deviation_ms = excluded.deviation_ms, intervals = excluded.intervals,
           window_ms = excluded.window_ms, container_id = excluded.container_id, started_at = excluded.started_at,
           own_settings = excluded.own_settings, updated_at = now()";

/// Workspaces of the fleet that beat so seldom that a window covers less than two of their intervals.
#[derive(Clone, Debug, PartialEq)]
pub struct SeldomBeats {
    /// How many there are.
    pub workspaces: i64,
    /// The one that beats least often.
    pub example: WorkspaceId,
    /// Its mean interval.
    pub interval: Duration,
}

const SELDOM: &str = "
    select count(*), (array_agg(c.workspace_id order by c.mean_ms desc, c.workspace_id))[1], max(c.mean_ms)
      from defib.cadences c
     where c.intervals > 0 and c.mean_ms * 2 > $1
       and exists (select from defib.fleet f where f.workspace_id::text = c.workspace_id)";

impl Store {
    /// The workspaces of the fleet of which two learned intervals are longer than `window`. `None`: there are none.
    pub async fn seldom_beats(&self, window: Duration) -> Result<Option<SeldomBeats>, StoreError> {
        self.within_deadline(async {
            // A mean that has been rounded up is not yet longer.
            let longest = window.as_secs_f32() * 1_000.0 * 1.001;
            let mut connection = self.pool.get().await?;
            let row = connection.query_one(SELDOM, &[(&longest, Type::FLOAT4)]).await?;
            let (example, mean): (Option<&str>, Option<f32>) = (row.try_get(1)?, row.try_get(2)?);
            let interval = Duration::try_from_secs_f32(mean.unwrap_or_default() / 1_000.0).unwrap_or_default();
            let workspaces = row.try_get(0)?;
            Ok(example.map(|example| SeldomBeats { workspaces, example: example.into(), interval }))
        })
        .await
        .map_err(StoreError::Cadences)
    }

    /// Keeps what was learned of these workspaces. No id may be among them twice.
    pub async fn save_cadences(&self, rows: &[CadenceRow]) -> Result<(), StoreError> {
        let mut rows: Vec<&CadenceRow> = rows.iter().collect();
        rows.sort_unstable_by(|a, b| a.workspace.cmp(&b.workspace)); // one order for all writers: no deadlock
        for batch in rows.chunks(BATCH) {
            self.within_deadline(self.save_batch(batch)).await.map_err(StoreError::Cadences)?;
        }
        Ok(())
    }

    async fn save_batch(&self, rows: &[&CadenceRow]) -> Result<(), Fault> {
        let ids: Vec<&str> = rows.iter().map(|row| row.workspace.as_str()).collect();
        let means: Vec<f32> = rows.iter().map(|row| row.mean_ms).collect();
        let deviations: Vec<f32> = rows.iter().map(|row| row.deviation_ms).collect();
        let intervals: Vec<i32> = rows.iter().map(|row| i32::try_from(row.intervals).unwrap_or(i32::MAX)).collect();
        let windows: Vec<Option<f32>> =
            rows.iter().map(|row| row.window.map(|window| window.as_secs_f32() * 1_000.0)).collect();
        let containers: Vec<Option<_>> =
            rows.iter().map(|row| row.container_id.as_ref().map(|id| text(id.as_str()))).collect();
        let starts: Vec<Option<_>> = rows.iter().map(|row| row.started_at.map(system_time)).collect();
        let own: Vec<Option<String>> = rows
            .iter()
            .map(|row| (!row.own_settings.is_empty()).then(|| serde_json::json!(row.own_settings).to_string()))
            .collect();
        let parameters = [
            (&ids as _, Type::TEXT_ARRAY),
            (&means as _, Type::FLOAT4_ARRAY),
            (&deviations as _, Type::FLOAT4_ARRAY),
            (&intervals as _, Type::INT4_ARRAY),
            (&windows as _, Type::FLOAT4_ARRAY),
            (&containers as _, Type::TEXT_ARRAY),
            (&starts as _, Type::TIMESTAMPTZ_ARRAY),
            (&own as _, Type::TEXT_ARRAY),
        ];
        self.pool.get().await?.execute(SAVE, &parameters).await.map(drop)
    }

    /// Up to `limit` of what was learned, the most recently written first.
    pub async fn read_cadences(&self, limit: i64) -> Result<Vec<CadenceRow>, StoreError> {
        self.within_deadline(async {
            let sql = format!("select {COLUMNS} from defib.cadences order by updated_at desc limit $1");
            let mut connection = self.pool.get().await?;
            connection.query(&sql, &[(&limit, Type::INT8)]).await?.iter().map(from_row).collect()
        })
        .await
        .map_err(StoreError::Cadences)
    }

    /// Forgets up to `limit` rows that were not written for `age`, and returns how many there were. Rows of workspaces that are still in
    /// the fleet are written again before they reach that age.
    pub async fn forget_cadences(&self, age: Duration, limit: i64) -> Result<u64, StoreError> {
        self.within_deadline(async {
            let age = micros(age);
            let mut connection = self.pool.get().await?;
            connection
                .execute(
                    "delete from defib.cadences where workspace_id = any (array(
                         select workspace_id from defib.cadences where updated_at < now() - $1 * interval '1 microsecond' limit $2))",
                    &[(&age, Type::INT8), (&limit, Type::INT8)],
                )
                .await
        })
        .await
        .map_err(StoreError::Cadences)
    }
}
