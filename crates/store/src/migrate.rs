//! The schema, brought up to date: every migration in one transaction, under a lock.
//!
//! Replicas start together and all migrate: the advisory lock lets one through, the others find nothing left to do. The lock is the
//! transaction's, so it works through a pooler and dies with its owner. Advisory locks belong to one database, but roles belong to the
//! whole cluster. So `roles.sql` copes with a migration of another database that creates the roles at the same moment.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::Type;

use crate::connect::Connection;
use crate::error::{Fault, StoreError};
use crate::{Store, within};

/// A file of `migrations/`.
struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
}

macro_rules! migrations {
    ($($version:literal $name:literal),+) => {
        &[$(Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../../migrations/", $name, ".sql")),
        }),+]
    };
}

/// The migrations. Each is applied once, in this order, and never changed afterwards.
const MIGRATIONS: &[Migration] = migrations![
    1 "0001_fleet", 2 "0002_suspicions", 3 "0003_ledger", 4 "0004_verdicts", 5 "0005_replicas", 6 "0006_neighbours", 7 "0007_operators",
    8 "0008_outbox", 9 "0009_last_words", 10 "0010_clock", 11 "0011_clock_ahead",
    12 "0012_last_words_and_locks"
];

/// Applied by every migration run.
const ROLES: &str = include_str!("../../../migrations/roles.sql");
const ROLE_NAMES: [&str; 4] = ["defib_daemon", "defib_operator", "defib_reporter", "defib_viewer"];

/// The version of the schema that this binary works with.
pub const SCHEMA_VERSION: i32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// How long a migration may take. It may have to wait for another one, and a new index of a large table takes minutes. This is longer than
/// any deployment waits.
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a migration waits for the lock of a table. Larger: daemons that read the table wait for as long. Smaller: on a busy database the lock is
/// not got between two others.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// How long the others have the tables for themselves before it waits again. Larger: a migration takes longer. Smaller: they wait more often.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// The key of the advisory lock. It may be any number that nothing else of the platform locks; this one spells "defib" and the subject.
const LOCK: &str = "select pg_advisory_xact_lock(1684366946, 0)";

/// How the database's schema compares with what this binary wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// There is no schema.
    Missing,
    /// The schema is older, and `defib migrate` has to be run.
    Older {
        /// What is there.
        have: i32,
        /// What this binary wants.
        want: i32,
    },
    /// The schema has the version that this binary wants.
    Current,
    /// The schema is newer: a newer defib has migrated it.
    Newer {
        /// What is there.
        have: i32,
        /// What this binary wants.
        want: i32,
    },
}

/// What a migration run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrateReport {
    /// The version before; 0 when there was no schema.
    pub from: i32,
    /// The version now.
    pub to: i32,
    /// Names of the migrations that were applied.
    pub applied: Vec<&'static str>,
    /// Roles that do not exist and could not be created: a DBA creates them, then migrates again.
    pub roles_missing: Vec<&'static str>,
}

impl Store {
    /// Compares the schema with what this binary wants.
    pub async fn schema_state(&self) -> Result<SchemaState, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let want = SCHEMA_VERSION;
            Ok(match version(&mut connection).await? {
                0 => SchemaState::Missing,
                have if have < want => SchemaState::Older { have, want },
                have if have > want => SchemaState::Newer { have, want },
                _ => SchemaState::Current,
            })
        })
        .await
        .map_err(StoreError::SchemaState)
    }

    /// Brings the schema, the roles and the rights up to date. Migrations that were applied before are skipped.
    ///
    /// # Errors
    /// [`StoreError::Migrate`], after which nothing has changed; [`StoreError::NewerSchema`] when a newer defib has migrated the schema.
    pub async fn migrate(&self) -> Result<MigrateReport, StoreError> {
        let report = within(MIGRATE_TIMEOUT, self.migrate_between_others()).await.map_err(StoreError::Migrate)?;
        if report.from > SCHEMA_VERSION {
            return Err(StoreError::NewerSchema { have: report.from, want: SCHEMA_VERSION });
        }
        Ok(report)
    }

    /// Migrates beside whatever else uses the tables. If somebody reads one of them for long, all later reads of it wait behind a migration that
    /// waits for its lock, those of every daemon among them. So the migration waits for a moment only, lets the others go first, and begins
    /// anew.
    async fn migrate_between_others(&self) -> Result<MigrateReport, Fault> {
        let began = Instant::now();
        loop {
            match self.migrate_in_one_transaction().await {
                Err(fault) if fault.kind() == "lock" && began.elapsed() + LOCK_WAIT + LOCK_PAUSE < MIGRATE_TIMEOUT => {
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                ended => return ended,
            }
        }
    }

    async fn migrate_in_one_transaction(&self) -> Result<MigrateReport, Fault> {
        let mut connection = self.pool.get().await?;
        connection.begin_unbounded().await?;
        connection.query(LOCK, &[]).await?;
        connection.batch(&format!("set local lock_timeout = {}", LOCK_WAIT.as_millis())).await?;
        let from = version(&mut connection).await?;
        let mut report =
            MigrateReport { from, to: from.max(SCHEMA_VERSION), applied: Vec::new(), roles_missing: Vec::new() };
        if from > SCHEMA_VERSION {
            return Ok(report); // rolled back: nothing was done
        }
        for migration in MIGRATIONS.iter().filter(|migration| migration.version > from) {
            connection.batch(migration.sql).await?;
            connection
                .execute(
                    "insert into defib.schema_version (version, name) values ($1, $2)",
                    &[(&migration.version, Type::INT4), (&migration.name, Type::TEXT)],
                )
                .await?;
            report.applied.push(migration.name);
        }
        connection.batch(ROLES).await?;
        let present = connection
            .query_one(
                "select array(select rolname::text from pg_catalog.pg_roles where rolname::text = any ($1))",
                &[(&ROLE_NAMES.as_slice(), Type::TEXT_ARRAY)],
            )
            .await?
            .try_get::<_, Vec<String>>(0)?;
        report.roles_missing = ROLE_NAMES.into_iter().filter(|role| present.iter().all(|have| have != role)).collect();
        connection.commit().await?;
        Ok(report)
    }
}

/// The newest migration that was applied; 0 when there is no schema. Asks the catalogue first: a query on a table that is not
/// there would end a transaction, and one that may not be read is not a missing one.
pub(crate) async fn version(connection: &mut Connection) -> Result<i32, Fault> {
    let there = connection
        .query_one(
            "select exists (select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                             where n.nspname = 'defib' and c.relname = 'schema_version')",
            &[],
        )
        .await?;
    if !there.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    Ok(connection.query_one("select coalesce(max(version), 0) from defib.schema_version", &[]).await?.try_get(0)?)
}
