//! Reads for people: `defib status`, `defib explain`, `defib check`.
//!
//! They show what there is, odd rows included, and so take nothing of the fleet for granted: every column may be null.
//!
//! The file is long because the three commands show the same rows, and the types of these rows stand beside the statements that read them.

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
use crate::migrate::{SCHEMA_VERSION, SchemaState, version};

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
    },
}

/// What `defib check` needs to know of the database.
#[derive(Clone, Debug)]
pub struct CheckFacts {
    /// `server_version`.
    pub server_version: String,
    /// Whom we are logged in as.
    pub user: String,
    /// The database.
    pub database: String,
    /// The database's clock.
    pub now: Timestamp,
    /// Our own wall clock at the same time, half the round trip in.
    pub our_now: Timestamp,
    /// When the server started.
    pub started_at: Timestamp,
    /// A standby: nothing can be claimed there.
    pub in_recovery: bool,
    /// Transactions may not write.
    pub read_only: bool,
    /// The schema.
    pub schema: SchemaState,
    /// defib's roles.
    pub roles: Vec<RoleFact>,
    /// What the daemon needs, object by object. Objects that do not exist are not granted.
    pub privileges: Vec<Privilege>,
    /// The fleet, or why it cannot be read (the whole chain of the error).
    pub fleet: Result<FleetFacts, String>,
}

/// A role of defib's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleFact {
    /// Its name.
    pub name: String,
    /// Whether it exists.
    pub exists: bool,
    /// Whether we have its rights.
    pub ours: bool,
}

/// A right that the daemon needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privilege {
    /// The object.
    pub object: String,
    /// Of `USAGE`, `SELECT`, `INSERT`, `UPDATE`, `DELETE`, `EXECUTE`.
    pub needed: String,
    /// Whether we have it.
    pub granted: bool,
}

/// The fleet in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetFacts {
    /// Workspaces by status, the most frequent first; `None` is a null.
    pub by_status: Vec<(Option<String>, i64)>,
    /// Suspended ones.
    pub suspended: i64,
    /// Unsuspended ones that never sent a heartbeat.
    pub never_beat: i64,
    /// Age of the latest sign of life of the others: the youngest, the median, the 95th percentile and the oldest.
    pub heartbeat_ages: Option<[Duration; 4]>,
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

/// Of the workspace, and of the engine that it is on.
const EVENTS: &str = "
    (select at, verdict_from, verdict_to, evidence, engine from defib.events where workspace_id = $1 order by id desc limit $2)
    union all
    (select at, verdict_from, verdict_to, evidence, engine from defib.events where engine = $3 order by id desc limit $2)";
const ATTEMPTS: &str = "
    select r.id, r.attempt, r.container_id, r.verdict, r.claimed_by, r.evidence, r.claimed_at, r.finished_at, r.outcome, r.error,
           r.recovered_at, r.acknowledged_at, w.taken_at, w.exit_code, w.oom_killed, w.finished_at, w.log, w.log_fault
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
    select created_at, scope, owner, reason, expires_at, released_at from defib.holds
     where scope = 'fleet' or (scope, target) in (('workspace', $1), ('engine', $3)) order by id desc limit $2";

const PRIVILEGES: &str = "
    select object, needed, granted
      from (values ('defib', 'n', 'USAGE'), ('fleet', 'c', 'SELECT'),
                   ('suspicions', 'c', 'SELECT'), ('suspicions', 'c', 'UPDATE'), ('suspicions', 'c', 'DELETE'),
                   ('restarts', 'c', 'SELECT'), ('restarts', 'c', 'INSERT'), ('restarts', 'c', 'UPDATE'),
                   ('restarts', 'c', 'DELETE'), ('verdicts', 'c', 'SELECT'), ('verdicts', 'c', 'INSERT'),
                   ('verdicts', 'c', 'UPDATE'), ('verdicts', 'c', 'DELETE'), ('events', 'c', 'SELECT'),
                   ('events', 'c', 'INSERT'), ('events', 'c', 'DELETE'), ('marks', 'c', 'SELECT'), ('marks', 'c', 'INSERT'),
                   ('marks', 'c', 'UPDATE'), ('marks', 'c', 'DELETE'), ('leases', 'c', 'SELECT'),
                   ('leases', 'c', 'INSERT'), ('leases', 'c', 'UPDATE'), ('holds', 'c', 'SELECT'), ('holds', 'c', 'INSERT'),
                   ('holds', 'c', 'UPDATE'), ('holds', 'c', 'DELETE'), ('replicas', 'c', 'SELECT'),
                   ('replicas', 'c', 'INSERT'), ('replicas', 'c', 'UPDATE'), ('replicas', 'c', 'DELETE'),
                   ('engines', 'c', 'SELECT'), ('engines', 'c', 'INSERT'), ('engines', 'c', 'UPDATE'),
                   ('cadences', 'c', 'SELECT'), ('cadences', 'c', 'INSERT'), ('cadences', 'c', 'UPDATE'),
                   ('cadences', 'c', 'DELETE'), ('orders', 'c', 'SELECT'), ('orders', 'c', 'UPDATE'), ('orders', 'c', 'DELETE'),
                   ('last_words', 'c', 'SELECT'), ('last_words', 'c', 'INSERT'), ('clock_steps', 'c', 'SELECT'),
                   ('clock_steps', 'c', 'INSERT'), ('clock_steps', 'c', 'DELETE'),
                   ('outbox', 'c', 'SELECT'), ('outbox', 'c', 'INSERT'), ('outbox', 'c', 'UPDATE'), ('outbox', 'c', 'DELETE'),
                   ('webhook', 'c', 'SELECT'), ('webhook', 'c', 'INSERT'), ('webhook', 'c', 'UPDATE'), ('tell', 'p', 'EXECUTE'),
                   ('mark_dead', 'p', 'EXECUTE'), ('mark_recovered', 'p', 'EXECUTE'), ('report_suspicion', 'p', 'EXECUTE'),
                   ('hold_reason', 'p', 'EXECUTE')) as wanted(name, class, needed)
     cross join lateral (
        select case class when 'n' then name else 'defib.' || name end as object,
               coalesce(case class
                   when 'n' then (select has_schema_privilege(n.oid, needed) from pg_catalog.pg_namespace n
                                   where n.nspname = name)
                   when 'c' then (select has_table_privilege(c.oid, needed) from pg_catalog.pg_class c
                                    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                                   where n.nspname = 'defib' and c.relname = name)
                   else (select bool_and(has_function_privilege(p.oid, needed)) from pg_catalog.pg_proc p
                           join pg_catalog.pg_namespace n on n.oid = p.pronamespace
                          where n.nspname = 'defib' and p.proname = name) end, false) as granted) found";

/// Ages in seconds. `filter` and not `where`: one pass over the view.
const FLEET_FACTS: &str = "
    select count(*) filter (where suspended), count(*) filter (where suspended is not true and beat is null),
           (percentile_disc(array[0, 0.5, 0.95, 1]) within group (order by age) filter (where suspended is not true))::float8[]
      from (select suspended, beat, extract(epoch from now() - beat) as age
              from (select suspended,
                           nullif(nullif(greatest(last_heartbeat_at::timestamptz, last_activity_at::timestamptz), 'infinity'),
                                  '-infinity') as beat
                      from defib.fleet) beats) ages";

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

    /// The facts of the database that decide whether a daemon can work with it.
    ///
    /// # Errors
    /// [`StoreError::Check`] when it cannot be asked at all. A fleet that cannot be read is a fact.
    pub async fn check_facts(&self) -> Result<CheckFacts, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let (asked, asked_at) = (std::time::Instant::now(), wall_clock());
            let server = connection
                .query_one(
                    "select current_setting('server_version'), current_user::text, current_database()::text, clock_timestamp(),
                            pg_catalog.pg_postmaster_start_time(), pg_is_in_recovery(),
                            current_setting('transaction_read_only') = 'on'",
                    &[],
                )
                .await?;
            let our_now = asked_at.plus(asked.elapsed() / 2);
            let roles = connection
                .query(
                    "select name, r.oid is not null, coalesce(pg_has_role(r.oid, 'USAGE'), false)
                       from unnest(array['defib_daemon', 'defib_operator', 'defib_reporter', 'defib_viewer']) as wanted(name)
                       left join pg_catalog.pg_roles r on r.rolname = wanted.name order by name",
                    &[],
                )
                .await?;
            let privileges = connection.query(PRIVILEGES, &[]).await?;
            let schema = match version(&mut connection).await {
                Ok(0) => SchemaState::Missing,
                Ok(have) if have < SCHEMA_VERSION => SchemaState::Older { have, want: SCHEMA_VERSION },
                Ok(have) if have > SCHEMA_VERSION => SchemaState::Newer { have, want: SCHEMA_VERSION },
                Ok(_) => SchemaState::Current,
                // There, and hidden from us: the rights below say so.
                Err(Fault::Query(error)) if error.as_db_error().is_some() => SchemaState::Current,
                Err(fault) => return Err(fault),
            };
            let fleet = match fleet_facts(&mut connection).await {
                Err(Fault::Query(error)) if error.as_db_error().is_some() => {
                    Err(error.as_db_error().map(ToString::to_string).unwrap_or_default())
                }
                other => Ok(other?),
            };
            Ok(CheckFacts {
                server_version: server.try_get(0)?,
                user: server.try_get(1)?,
                database: server.try_get(2)?,
                now: timestamp(&server, 3)?,
                our_now,
                started_at: timestamp(&server, 4)?,
                in_recovery: server.try_get(5)?,
                read_only: server.try_get(6)?,
                schema,
                roles: roles
                    .iter()
                    .map(|row| Ok(RoleFact { name: row.try_get(0)?, exists: row.try_get(1)?, ours: row.try_get(2)? }))
                    .collect::<Result<_, Fault>>()?,
                privileges: privileges
                    .iter()
                    .map(|row| Ok(Privilege { object: row.try_get(0)?, needed: row.try_get(1)?, granted: row.try_get(2)? }))
                    .collect::<Result<_, Fault>>()?,
                fleet,
            })
        })
        .await
        .map_err(StoreError::Check)
    }
}

async fn learned(connection: &mut Connection, id: &str) -> Result<Option<CadenceRow>, Fault> {
    let sql = format!("select {} from defib.cadences where workspace_id = $1", cadence::COLUMNS);
    connection.query_opt(&sql, &[(&id, Type::TEXT)]).await?.as_ref().map(cadence::from_row).transpose()
}

/// The only look at our own wall clock: to tell an operator how far it is from the database's. No decision uses it.
fn wall_clock() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    Timestamp::default().plus(since.unwrap_or_default())
}

async fn fleet_facts(connection: &mut Connection) -> Result<FleetFacts, Fault> {
    let statuses = connection
        .query("select status::text, count(*) from defib.fleet group by 1 order by 2 desc, 1 limit 100", &[])
        .await?;
    let row = connection.query_one(FLEET_FACTS, &[]).await?;
    let seconds: Option<Vec<f64>> = row.try_get(2)?;
    let ages = seconds.and_then(|seconds| <[f64; 4]>::try_from(seconds).ok());
    Ok(FleetFacts {
        by_status: statuses.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, Fault>>()?,
        suspended: row.try_get(0)?,
        never_beat: row.try_get(1)?,
        // A heartbeat of the future (a skewed writer) has age zero.
        heartbeat_ages: ages.map(|ages| ages.map(|age| Duration::try_from_secs_f64(age).unwrap_or_default())),
    })
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
        entries.push(TimelineEntry { at, what: TimelineWhat::Acknowledged { id } });
    }
    Ok(entries)
}

fn hold_entries(row: &Row) -> Result<Vec<TimelineEntry>, Fault> {
    let (scope, owner): (String, String) = (row.try_get(1)?, row.try_get(2)?);
    let mut entries = Vec::new();
    if let Some(at) = optional_timestamp(row, 5)? {
        entries.push(TimelineEntry { at, what: TimelineWhat::Released { scope: scope.clone(), owner: owner.clone() } });
    }
    let what = TimelineWhat::Held { scope, owner, reason: row.try_get(3)?, expires_at: optional_timestamp(row, 4)? };
    entries.push(TimelineEntry { at: timestamp(row, 0)?, what });
    Ok(entries)
}
