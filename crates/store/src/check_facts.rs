//! What `defib check` asks of the database itself: the server, the schema, roles, rights, and the fleet in numbers.
//!
//! A fleet that cannot be read is a fact, not an error, because `defib check` has to say why.

use std::time::Duration;

use defib_policy::moment::Timestamp;

use crate::Store;
use crate::connect::Connection;
use crate::decode::timestamp;
use crate::error::{Fault, StoreError};
use crate::migrate::{SCHEMA_VERSION, SchemaState, version};

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
                // The schema exists, and we may not read it. The rights that are listed below show that.
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
