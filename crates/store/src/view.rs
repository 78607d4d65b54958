//! Reads for people: `defib status` and `defib explain`.
//!
//! They show what there is, odd rows included, and so take nothing of the fleet for granted: every column may be null.

use std::time::Duration;

use defib_policy::id::WorkspaceId;
use defib_policy::moment::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::Store;
use crate::cadence::{self, CadenceRow};
use crate::connect::Connection;
use crate::decode::{Instant, optional_timestamp, timestamp};
use crate::error::{Fault, StoreError};
use crate::hold::{self, Hold};
use crate::ledger::LastWords;

/// One workspace, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRow {
    /// `workspace_id`.
    pub id: String,
    /// `name`.
    pub name: Option<String>,
    /// `status`.
    pub status: Option<String>,
    /// `kind`.
    pub kind: Option<String>,
    /// `engine`.
    pub engine: Option<String>,
    /// `suspended`.
    pub suspended: Option<bool>,
    /// How old the last sign of life is (heartbeat or activity, the later), by the database's clock.
    pub heartbeat_ago: Option<Duration>,
    /// How long ago it was made, by the platform's word.
    pub created_ago: Option<Duration>,
    /// The current verdict; `None`: alive, or not judged.
    pub verdict: Option<CurrentVerdict>,
    /// The newest attempt.
    pub last_restart: Option<LastRestart>,
}

/// A row of `defib.verdicts`.
#[derive(Clone, Debug, PartialEq)]
pub struct CurrentVerdict {
    /// Its label.
    pub verdict: String,
    /// How long it has been so.
    pub since_ago: Duration,
    /// The rule that gave it.
    pub rule: String,
    /// Its reasons in a sentence.
    pub because: String,
    /// What it rests on.
    pub evidence: Value,
    /// Why a restart is being held back.
    pub held: Option<String>,
    /// How long ago the row was last written.
    pub updated_ago: Duration,
}

impl Eq for CurrentVerdict {}

/// The newest attempt of a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRestart {
    /// The row.
    pub id: i64,
    /// Number within its run.
    pub attempt: i32,
    /// How it ended; `None`: it is under way.
    pub outcome: Option<String>,
    /// How long ago it was claimed.
    pub claimed_ago: Duration,
    /// How long ago a heartbeat proved the recovery.
    pub recovered_ago: Option<Duration>,
}

/// What is known of a workspace.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The database's clock.
    pub now: Timestamp,
    /// Its row of the fleet, with verdict and newest attempt; `None`: the fleet does not know it.
    pub workspace: Option<StatusRow>,
    /// `policy` of that row.
    pub policy: Option<String>,
    /// `container_ref` of that row.
    pub container_ref: Option<String>,
    /// `instance_ref` of that row.
    pub instance_ref: Option<String>,
    /// How old `last_heartbeat_at` of that row is.
    pub last_heartbeat_ago: Option<Duration>,
    /// How old `last_activity_at` of that row is.
    pub last_activity_ago: Option<Duration>,
    /// `active_tasks` of that row.
    pub active_tasks: Option<i64>,
    /// What was learned of it, if anything was written down.
    pub learned: Option<CadenceRow>,
    /// The standing holds on it, on its engine and on the fleet.
    pub holds: Vec<Hold>,
    /// What happened, oldest first.
    pub timeline: Vec<TimelineEntry>,
}

/// Something that happened to a workspace.
#[derive(Clone, Debug)]
pub struct TimelineEntry {
    /// When, by the database's clock.
    pub at: Timestamp,
    /// What.
    pub what: TimelineWhat,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum TimelineWhat {
    /// The verdict changed.
    Verdict {
        /// From; `None`: not known.
        from: Option<String>,
        /// To.
        to: String,
        /// What it rests on.
        evidence: Value,
    },
    /// The engine that the workspace is on went away or came back.
    Engine {
        /// Which engine.
        engine: String,
        /// What it was; `None`: not known.
        from: Option<String>,
        /// What it is.
        to: String,
        /// What is known of it.
        evidence: Value,
    },
    /// A restart was claimed.
    Claimed {
        /// The row.
        id: i64,
        /// Number within its run.
        attempt: i32,
        /// The container that was found dead.
        container_id: Option<String>,
        /// The verdict that asked for it.
        verdict: String,
        /// The replica.
        claimed_by: Option<String>,
        /// What it rests on.
        evidence: Value,
    },
    /// How its container had ended before the attempt restarted it.
    LastWords {
        /// The row.
        id: i64,
        /// What was kept.
        words: LastWords,
    },
    /// An attempt ended.
    Finished {
        /// The row.
        id: i64,
        /// How.
        outcome: String,
        /// What went wrong.
        error: Option<String>,
    },
    /// A heartbeat proved the recovery.
    Recovered {
        /// The row.
        id: i64,
    },
    /// An operator said that an attempt no longer counts.
    Acknowledged {
        /// The row.
        id: i64,
        /// The person and the login; `None`: written by an earlier version.
        by: Option<String>,
    },
    /// Somebody suspected it.
    Suspected {
        /// Who.
        reporter: String,
        /// Why.
        reason: String,
        /// What the request got.
        http_status: Option<i32>,
        /// For people.
        detail: Option<String>,
        /// Which replica took it, and how long after the report; `None`: nobody has yet.
        taken: Option<(String, Duration)>,
        /// What the look that it asked for found.
        finding: Option<String>,
    },
    /// An operator ordered a restart by hand.
    Ordered {
        /// The person and the login.
        by: String,
        /// Why.
        reason: String,
        /// Also against a hold and a status that is not watched.
        force: bool,
    },
    /// What came of that.
    Answered {
        /// Whether it was carried out.
        done: bool,
        /// In a sentence.
        answer: String,
    },
    /// Restarts were held.
    Held {
        /// `fleet`, `engine` or `workspace`.
        scope: String,
        /// By whom.
        owner: String,
        /// Why.
        reason: String,
        /// Until when.
        expires_at: Option<Timestamp>,
    },
    /// A hold was released.
    Released {
        /// `fleet`, `engine` or `workspace`.
        scope: String,
        /// Whose it was.
        owner: String,
        /// The person and the login; `None`: written by an earlier version.
        by: Option<String>,
    },
}

/// `%where%` narrows it. The fleet's columns are cast as in the daemon's read: the view may be anybody's.
const STATUS: &str = "
    select f.workspace_id::text, f.name::text, f.status::text, f.kind::text, f.engine::text, f.suspended,
           greatest(f.last_heartbeat_at::timestamptz, f.last_activity_at::timestamptz),
           v.verdict, v.since, v.rule, v.because, v.evidence, v.held, v.updated_at,
           r.id, r.attempt, r.outcome, r.claimed_at, r.recovered_at, now(),
           f.policy::text, f.container_ref::text, f.instance_ref::text,
           f.last_heartbeat_at::timestamptz, f.last_activity_at::timestamptz, f.active_tasks::bigint,
           f.created_at::timestamptz
      from defib.fleet f
      left join defib.verdicts v on v.workspace_id = f.workspace_id::text
      left join (select distinct on (workspace_id) * from defib.restarts %restarts% order by workspace_id, id desc) r
             on r.workspace_id = f.workspace_id::text
     %where%
     order by f.workspace_id::text";

/// The events of the workspace, and those of the engine that it is on.
const EVENTS: &str = "
    (select at, verdict_from, verdict_to, evidence, engine from defib.events where workspace_id = $1 order by id desc limit $2)
    union all
    (select at, verdict_from, verdict_to, evidence, engine from defib.events where engine = $3 order by id desc limit $2)";
const ATTEMPTS: &str = "
    select r.id, r.attempt, r.container_id, r.verdict, r.claimed_by, r.evidence, r.claimed_at, r.finished_at, r.outcome, r.error,
           r.recovered_at, r.acknowledged_at, w.taken_at, w.exit_code, w.oom_killed, w.finished_at, w.log, w.log_fault, w.health,
           r.acknowledged_by
      from defib.restarts r left join defib.last_words w on w.attempt_id = r.id
     where r.workspace_id = $1 order by r.id desc limit $2";
const SUSPICIONS: &str = "
    select reported_at, reporter, reason, http_status, detail, taken_at, taken_by, finding
      from defib.suspicions where workspace_id = $1 order by id desc limit $2";
const ORDERS: &str = "
    select ordered_at, case when ordered_by = login then login else ordered_by || ' (login ' || login || ')' end, reason, force,
           ended_at, done, answer
      from defib.orders where workspace_id = $1 order by id desc limit $2";
const HOLDS: &str = "
    select created_at, scope, owner, reason, expires_at, released_at, released_by from defib.holds
     where scope = 'fleet' or (scope, target) in (('workspace', $1), ('engine', $3)) order by id desc limit $2";

impl Store {
    /// Every workspace of the fleet, by id, with its verdict and its newest attempt.
    pub async fn status(&self) -> Result<Vec<StatusRow>, StoreError> {
        self.within_deadline(async {
            let sql = STATUS.replace("%restarts%", "").replace("%where%", "");
            self.pool.get().await?.query(&sql, &[]).await?.iter().map(status_from_row).collect()
        })
        .await
        .map_err(StoreError::Status)
    }

    /// What is known of `workspace`: its row, what stands against a restart, and the newest `limit` entries of each kind.
    pub async fn explain(&self, workspace: &WorkspaceId, limit: i64) -> Result<Explanation, StoreError> {
        self.within_deadline(async {
            let id = workspace.as_str();
            let mut connection = self.pool.get().await?;
            let now = timestamp(&connection.query_one("select now()", &[]).await?, 0)?;
            let sql = STATUS
                .replace("%restarts%", "where workspace_id = $1")
                .replace("%where%", "where f.workspace_id::text = $1");
            let row = connection.query_opt(&sql, &[(&id, Type::TEXT)]).await?;
            let detail = |column| -> Result<Option<String>, Fault> {
                Ok(row.as_ref().map(|row| row.try_get(column)).transpose()?.flatten())
            };
            let age = |column| row.as_ref().map_or(Ok(None), |row| age(row, column, now));
            let engine = detail(4)?;
            let holds_sql = format!(
                "select {} from defib.holds where released_at is null and (expires_at is null or expires_at > now())
                    and (scope = 'fleet' or (scope, target) in (('workspace', $1), ('engine', $2))) order by id",
                hold::COLUMNS
            );
            let holds = connection.query(&holds_sql, &[(&id, Type::TEXT), (&engine, Type::TEXT)]).await?;
            Ok(Explanation {
                now,
                workspace: row.as_ref().map(status_from_row).transpose()?,
                policy: detail(20)?,
                container_ref: detail(21)?,
                instance_ref: detail(22)?,
                last_heartbeat_ago: age(23)?,
                last_activity_ago: age(24)?,
                active_tasks: row.as_ref().map(|row| row.try_get(25)).transpose()?.flatten(),
                learned: learned(&mut connection, id).await?,
                holds: holds.iter().map(hold::from_row).collect::<Result<_, _>>()?,
                timeline: timeline(&mut connection, id, engine.as_deref(), limit).await?,
            })
        })
        .await
        .map_err(StoreError::Explain)
    }
}

async fn learned(connection: &mut Connection, id: &str) -> Result<Option<CadenceRow>, Fault> {
    let sql = format!("select {} from defib.cadences where workspace_id = $1", cadence::COLUMNS);
    connection.query_opt(&sql, &[(&id, Type::TEXT)]).await?.as_ref().map(cadence::from_row).transpose()
}

/// How old a moment of the platform's is; `None` where there is none, or one that no clock shows.
fn age(row: &Row, column: usize, now: Timestamp) -> Result<Option<Duration>, Fault> {
    Ok(match row.try_get::<_, Option<Instant>>(column)? {
        Some(Instant::At(at)) => Some(now.since(at)),
        Some(Instant::Never) | None => None,
    })
}

fn status_from_row(row: &Row) -> Result<StatusRow, Fault> {
    let now = timestamp(row, 19)?;
    let ago = |column| -> Result<Duration, Fault> { Ok(now.since(timestamp(row, column)?)) };
    let heartbeat_ago = age(row, 6, now)?;
    let verdict = match row.try_get::<_, Option<String>>(7)? {
        Some(verdict) => Some(CurrentVerdict {
            verdict,
            since_ago: ago(8)?,
            rule: row.try_get(9)?,
            because: row.try_get(10)?,
            evidence: row.try_get(11)?,
            held: row.try_get(12)?,
            updated_ago: ago(13)?,
        }),
        None => None,
    };
    let last_restart = match row.try_get::<_, Option<i64>>(14)? {
        Some(id) => Some(LastRestart {
            id,
            attempt: row.try_get(15)?,
            outcome: row.try_get(16)?,
            claimed_ago: ago(17)?,
            recovered_ago: optional_timestamp(row, 18)?.map(|at| now.since(at)),
        }),
        None => None,
    };
    Ok(StatusRow {
        id: row.try_get::<_, Option<String>>(0)?.unwrap_or_default(),
        name: row.try_get(1)?,
        status: row.try_get(2)?,
        kind: row.try_get(3)?,
        engine: row.try_get(4)?,
        suspended: row.try_get(5)?,
        heartbeat_ago,
        created_ago: age(row, 26, now)?,
        verdict,
        last_restart,
    })
}

async fn timeline(
    connection: &mut Connection,
    id: &str,
    engine: Option<&str>,
    limit: i64,
) -> Result<Vec<TimelineEntry>, Fault> {
    let of = [(&id as _, Type::TEXT), (&limit as _, Type::INT8)];
    let mut entries = Vec::new();
    let of_both = [(&id as _, Type::TEXT), (&limit as _, Type::INT8), (&engine as _, Type::TEXT)];
    for row in connection.query(EVENTS, &of_both).await? {
        let (from, to, evidence) = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        let what = match row.try_get::<_, Option<String>>(4)? {
            Some(engine) => TimelineWhat::Engine { engine, from, to, evidence },
            None => TimelineWhat::Verdict { from, to, evidence },
        };
        entries.push(TimelineEntry { at: timestamp(&row, 0)?, what });
    }
    for row in connection.query(SUSPICIONS, &of).await? {
        let what = TimelineWhat::Suspected {
            reporter: row.try_get(1)?,
            reason: row.try_get(2)?,
            http_status: row.try_get(3)?,
            detail: row.try_get(4)?,
            taken: optional_timestamp(&row, 5)?
                .zip(row.try_get::<_, Option<String>>(6)?)
                .map(|(at, by)| Ok::<_, Fault>((by, at.since(timestamp(&row, 0)?))))
                .transpose()?,
            finding: row.try_get(7)?,
        };
        entries.push(TimelineEntry { at: timestamp(&row, 0)?, what });
    }
    for row in connection.query(ATTEMPTS, &of).await? {
        entries.extend(attempt_entries(&row)?);
    }
    for row in connection.query(ORDERS, &of).await? {
        let what = TimelineWhat::Ordered { by: row.try_get(1)?, reason: row.try_get(2)?, force: row.try_get(3)? };
        entries.push(TimelineEntry { at: timestamp(&row, 0)?, what });
        if let Some(at) = optional_timestamp(&row, 4)? {
            let what = TimelineWhat::Answered {
                done: row.try_get::<_, Option<bool>>(5)?.unwrap_or(false),
                answer: row.try_get::<_, Option<String>>(6)?.unwrap_or_default(),
            };
            entries.push(TimelineEntry { at, what });
        }
    }
    for row in connection.query(HOLDS, &of_both).await? {
        entries.extend(hold_entries(&row)?);
    }
    entries.sort_by_key(|entry| entry.at); // stable: what one transaction wrote keeps its order
    Ok(entries)
}

fn attempt_entries(row: &Row) -> Result<Vec<TimelineEntry>, Fault> {
    let id = row.try_get(0)?;
    let what = TimelineWhat::Claimed {
        id,
        attempt: row.try_get(1)?,
        container_id: row.try_get(2)?,
        verdict: row.try_get(3)?,
        claimed_by: row.try_get(4)?,
        evidence: row.try_get(5)?,
    };
    let mut entries = vec![TimelineEntry { at: timestamp(row, 6)?, what }];
    if let Some(at) = optional_timestamp(row, 12)? {
        let words = LastWords {
            exit_code: row.try_get(13)?,
            oom_killed: row.try_get(14)?,
            finished_at: optional_timestamp(row, 15)?,
            log: row.try_get(16)?,
            log_fault: row.try_get(17)?,
            health: row.try_get(18)?,
        };
        entries.push(TimelineEntry { at, what: TimelineWhat::LastWords { id, words } });
    }
    if let (Some(at), Some(outcome)) = (optional_timestamp(row, 7)?, row.try_get(8)?) {
        entries.push(TimelineEntry { at, what: TimelineWhat::Finished { id, outcome, error: row.try_get(9)? } });
    }
    if let Some(at) = optional_timestamp(row, 10)? {
        entries.push(TimelineEntry { at, what: TimelineWhat::Recovered { id } });
    }
    if let Some(at) = optional_timestamp(row, 11)? {
        entries.push(TimelineEntry { at, what: TimelineWhat::Acknowledged { id, by: row.try_get(19)? } });
    }
    Ok(entries)
}

fn hold_entries(row: &Row) -> Result<Vec<TimelineEntry>, Fault> {
    let (scope, owner): (String, String) = (row.try_get(1)?, row.try_get(2)?);
    let mut entries = Vec::new();
    if let Some(at) = optional_timestamp(row, 5)? {
        let what = TimelineWhat::Released { scope: scope.clone(), owner: owner.clone(), by: row.try_get(6)? };
        entries.push(TimelineEntry { at, what });
    }
    let what = TimelineWhat::Held { scope, owner, reason: row.try_get(3)?, expires_at: optional_timestamp(row, 4)? };
    entries.push(TimelineEntry { at: timestamp(row, 0)?, what });
    Ok(entries)
}
