//! What running daemons say of themselves and of their engines (`defib.replicas`, `defib.engines`), so that `defib status` tells what is
//! true now, and not what a daemon wrote before it died.
//!
//! A replica writes after each pass. A row counts for as long as its holder has the lease on the engine and the next pass is not overdue;
//! after that it is history, and nobody speaks for the engine's workspaces. The engine with an empty name stands for the workspaces that
//! are on no engine (kind `external`). The holder of the first lease by name speaks for them.

use std::collections::BTreeSet;
use std::time::Duration;

use defib_policy::id::EngineName;
use defib_policy::moment::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::Store;
use crate::connect::Connection;
use crate::decode::{json, micros, optional_timestamp, text, timestamp};
use crate::error::{Fault, StoreError};
use crate::lease::{Lease, read_leases};

/// What a replica says of itself.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaReport<'a> {
    /// `DEFIB_REPLICA_ID`.
    pub replica: &'a str,
    /// `DEFIB_MODE`: `enforce` or `observe`.
    pub mode: &'a str,
    /// The version of the program.
    pub version: &'a str,
    /// `DEFIB_WATCHED_STATUSES`.
    pub watched_statuses: &'a [String],
    /// Whether it takes a stale heartbeat as evidence now.
    pub heartbeats_usable: bool,
    /// How long ago its last pass over the fleet ended.
    pub last_pass_ago: Duration,
}

/// What the owner of an engine says of it after a pass.
#[derive(Clone, Debug)]
pub struct EngineReportRow<'a> {
    /// Which engine; `None` for the workspaces on no engine.
    pub engine: Option<&'a EngineName>,
    /// The owner.
    pub holder: &'a str,
    /// Why it gave no usable answer; `None`: it answered.
    pub fault: Option<&'a str>,
    /// How long ago it was asked.
    pub asked_ago: Duration,
    /// How many of its workspaces were judged.
    pub judged: usize,
    /// The storm there, if there is one: `since_seconds`, `batch`, `canaries` (ids), `waiting`.
    pub storm: Option<Value>,
    /// How long from now until the next pass is overdue. If it is shorter than a pass takes, workspaces that are judged are called "not
    /// judged". If it is longer, a daemon that hangs is believed for that long.
    pub good_for: Duration,
}

/// A row of `defib.replicas`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSaid {
    /// `DEFIB_REPLICA_ID`.
    pub name: String,
    /// The engines that it is configured for.
    pub engines: Vec<String>,
    /// `enforce` or `observe`; `None` before its first pass.
    pub mode: Option<String>,
    /// The version of its program.
    pub version: Option<String>,
    /// The statuses that it watches; `None` before its first pass.
    pub watched_statuses: Option<Vec<String>>,
    /// Whether it takes a stale heartbeat as evidence now; `None` before its first pass.
    pub heartbeats_usable: Option<bool>,
    /// How long it has been there.
    pub started_ago: Duration,
    /// How long ago its last pass ended; `None` before its first.
    pub last_pass_ago: Option<Duration>,
    /// For how long its next report has been overdue; `None` while it lives.
    pub gone_for: Option<Duration>,
}

/// A row of `defib.engines` that still counts, because it is by the holder of the lease and the next pass is not overdue.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSaid {
    /// Which engine; empty for the workspaces on no engine.
    pub name: String,
    /// The replica that wrote the row.
    pub holder: String,
    /// Why it gave no usable answer; `None`: it answered.
    pub fault: Option<String>,
    /// How long ago it was asked.
    pub asked_ago: Duration,
    /// How many of its workspaces were judged.
    pub judged: i32,
    /// The storm there, if there is one.
    pub storm: Option<Value>,
    /// When the pass ended.
    pub last_pass_at: Timestamp,
    /// How long ago that was.
    pub last_pass_ago: Duration,
    /// For how long the next pass has been overdue; `None` if it is not overdue.
    pub overdue_for: Option<Duration>,
}

/// What is said now.
#[derive(Clone, Debug)]
pub struct Said {
    /// The database's clock.
    pub now: Timestamp,
    /// The replicas that live, and those that were there within the last hour; by name.
    pub replicas: Vec<ReplicaSaid>,
    /// What the present owners said of their engines.
    pub engines: Vec<EngineSaid>,
    /// The leases that have not expired, by engine.
    pub leases: Vec<Lease>,
}

const REPORT_REPLICA: &str = "
    update defib.replicas
       set mode = $2, version = $3, watched_statuses = $4, last_pass_at = clock_timestamp() - $5 * interval '1 microsecond',
           heartbeats_usable = $6
     where replica = $1";

/// Writes a row only while the lease is the holder's, because a late write of a former owner must not be taken for the new owner's report.
///
/// The webhook is told of a storm that begins or ends between the report before and this one, even if the report before was another
/// replica's. So every storm that was told to begin is also told to end, even if the engine changed its owner meanwhile.
const REPORT_ENGINES: &str = "
    with said as materialized (
             select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::integer[], $6::text[], $7::bigint[])
                        as it(engine, holder, fault, asked_ago, judged, storm, good_for)),
         before as materialized (select e.engine, e.storm, e.last_pass_at from defib.engines e where e.engine = any ($1)),
         written as (
    insert into defib.engines (engine, holder, answers, fault, asked_at, judged, storm, last_pass_at, good_until)
    select said.engine, said.holder, said.fault is null, said.fault,
           clock_timestamp() - said.asked_ago * interval '1 microsecond', said.judged, said.storm::jsonb, clock_timestamp(),
           clock_timestamp() + said.good_for * interval '1 microsecond'
      from said
     where said.holder = (select l.holder from defib.leases l
                           where l.expires_at > clock_timestamp() and (l.engine = said.engine or said.engine = '')
                           order by l.engine limit 1)
        on conflict (engine) do update
       set holder = excluded.holder, answers = excluded.answers, fault = excluded.fault, asked_at = excluded.asked_at,
           judged = excluded.judged, storm = excluded.storm, last_pass_at = excluded.last_pass_at,
           good_until = excluded.good_until
    returning engine, storm)
    select written.engine,
           case when written.engine = '' then null
                when written.storm is not null and before.storm is null then
                    defib.tell('storm.began', null, written.engine, written.storm)
                when written.storm is null and before.storm is not null then
                    defib.tell('storm.ended', null, written.engine, jsonb_build_object(
                        'fleet', before.storm -> 'fleet',
                        'lasted_seconds', (coalesce((before.storm ->> 'since_seconds')::float8, 0)
                                           + extract(epoch from clock_timestamp() - before.last_pass_at))::bigint))
           end
      from written left join before using (engine)";

const REPLICAS: &str = "
    select replica, engines, mode, version, watched_statuses, started_at, last_pass_at, expires_at, clock_timestamp(), heartbeats_usable
      from defib.replicas where expires_at > clock_timestamp() - interval '1 hour' order by replica";

const ENGINES: &str = "
    select e.engine, e.holder, e.fault, e.asked_at, e.judged, e.storm, e.last_pass_at, e.good_until, clock_timestamp()
      from defib.engines e
     where e.holder = (select l.holder from defib.leases l
                        where l.expires_at > clock_timestamp() and (l.engine = e.engine or e.engine = '')
                        order by l.engine limit 1)
     order by e.engine";

impl Store {
    /// Writes what this replica says of itself. Does nothing before its first lease turn, which makes the row.
    pub async fn report_replica(&self, report: &ReplicaReport<'_>) -> Result<(), StoreError> {
        self.within_deadline(async {
            let ago = micros(report.last_pass_ago);
            let mut connection = self.pool.get().await?;
            let parameters = [
                (&report.replica as _, Type::TEXT),
                (&report.mode as _, Type::TEXT),
                (&report.version as _, Type::TEXT),
                (&report.watched_statuses as _, Type::TEXT_ARRAY),
                (&ago as _, Type::INT8),
                (&report.heartbeats_usable as _, Type::BOOL),
            ];
            connection.execute(REPORT_REPLICA, &parameters).await.map(drop)
        })
        .await
        .map_err(StoreError::Report)
    }

    /// Writes what the owners of engines say of them, one row for each engine, in one statement. Returns the engines on which something was
    /// written (the empty name: workspaces on no engine); on the others the lease is not the holder's.
    pub async fn report_engines(&self, reports: &[EngineReportRow<'_>]) -> Result<BTreeSet<String>, StoreError> {
        self.within_deadline(async {
            let engines: Vec<&str> = reports.iter().map(|it| it.engine.map_or("", EngineName::as_str)).collect();
            let holders: Vec<&str> = reports.iter().map(|it| it.holder).collect();
            let faults: Vec<Option<_>> = reports.iter().map(|it| it.fault.map(text)).collect();
            let asked: Vec<i64> = reports.iter().map(|it| micros(it.asked_ago)).collect();
            let judged: Vec<i32> = reports.iter().map(|it| i32::try_from(it.judged).unwrap_or(i32::MAX)).collect();
            let storms: Vec<Option<String>> =
                reports.iter().map(|it| Some(json(it.storm.as_ref()?).to_string())).collect();
            let good: Vec<i64> = reports.iter().map(|it| micros(it.good_for)).collect();
            let mut connection = self.pool.get().await?;
            let parameters = [
                (&engines as _, Type::TEXT_ARRAY),
                (&holders as _, Type::TEXT_ARRAY),
                (&faults as _, Type::TEXT_ARRAY),
                (&asked as _, Type::INT8_ARRAY),
                (&judged as _, Type::INT4_ARRAY),
                (&storms as _, Type::TEXT_ARRAY),
                (&good as _, Type::INT8_ARRAY),
            ];
            let written = connection.query(REPORT_ENGINES, &parameters).await?;
            written.iter().map(|row| Ok(row.try_get(0)?)).collect()
        })
        .await
        .map_err(StoreError::Report)
    }

    /// What the replicas say now.
    pub async fn said(&self) -> Result<Said, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let now = timestamp(&connection.query_one("select clock_timestamp()", &[]).await?, 0)?;
            let leases = read_leases(&mut connection).await?;
            Ok(Said {
                now,
                replicas: read_replicas(&mut connection).await?,
                engines: connection.query(ENGINES, &[]).await?.iter().map(engine).collect::<Result<_, Fault>>()?,
                leases,
            })
        })
        .await
        .map_err(StoreError::Said)
    }
}

async fn read_replicas(connection: &mut Connection) -> Result<Vec<ReplicaSaid>, Fault> {
    let rows = connection.query(REPLICAS, &[]).await?;
    rows.iter()
        .map(|row| {
            let now = timestamp(row, 8)?;
            let expires_at = timestamp(row, 7)?;
            Ok(ReplicaSaid {
                name: row.try_get(0)?,
                engines: row.try_get(1)?,
                mode: row.try_get(2)?,
                version: row.try_get(3)?,
                watched_statuses: row.try_get(4)?,
                heartbeats_usable: row.try_get(9)?,
                started_ago: now.since(timestamp(row, 5)?),
                last_pass_ago: optional_timestamp(row, 6)?.map(|at| now.since(at)),
                gone_for: (expires_at < now).then(|| now.since(expires_at)),
            })
        })
        .collect()
}

fn engine(row: &Row) -> Result<EngineSaid, Fault> {
    let (now, last_pass_at, good_until) = (timestamp(row, 8)?, timestamp(row, 6)?, timestamp(row, 7)?);
    Ok(EngineSaid {
        name: row.try_get(0)?,
        holder: row.try_get(1)?,
        fault: row.try_get(2)?,
        asked_ago: now.since(timestamp(row, 3)?),
        judged: row.try_get(4)?,
        storm: row.try_get(5)?,
        last_pass_at,
        last_pass_ago: now.since(last_pass_at),
        overdue_for: (good_until < now).then(|| now.since(good_until)),
    })
}
