//! The fleet, read through `defib.fleet`: one statement, one snapshot, one reading of the database's clock.
//!
//! The view may be the platform's own, so whatever a row holds must not affect more than that row. A null, an unknown kind or an infinite
//! timestamp makes the row malformed: it is reported, and its workspace is left alone. An error in the view itself makes the whole read
//! fail. Then nothing is known about any workspace, and no verdict follows.
//!
//! The clock comes in a row of its own, above the fleet's: an empty fleet has a clock too, and a hundred thousand rows
//! need not carry it.

use std::collections::{BTreeSet, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use defib_policy::fleet::{FleetRead, Workspace};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::{Moment, Timestamp};
use futures_util::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::decode::Instant;
use crate::error::{Fault, StoreError};
use crate::row::Columns;
use crate::{Parameter, Store};

/// Which part of the fleet to read.
#[derive(Clone, Copy, Debug)]
pub enum FleetScope<'a> {
    /// All of it.
    All,
    /// These workspaces.
    Some(&'a [WorkspaceId]),
}

impl FleetScope<'_> {
    /// The ids as texts; `None` for all.
    pub(crate) fn ids(&self) -> Option<Vec<&str>> {
        match self {
            Self::All => None,
            Self::Some(ids) => Some(ids.iter().map(WorkspaceId::as_str).collect()),
        }
    }
}

/// A row of the view that breaks the contract, and so is not judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// `workspace_id`, if it has one.
    pub id: Option<String>,
    /// What is wrong with it.
    pub why: &'static str,
}

/// How many malformed rows one read reports, at most. Where every row breaks the contract, that many examples are enough.
pub const MALFORMED_MAX: usize = 32;

/// The clock's row also tells whether the server takes writes (the last column), when a standby that was promoted last
/// heard of its primary (the status), what the view is defined as (the kind), and how many watched rows it has (the tasks).
///
/// Suspended rows come too, and are left out here: a condition on `suspended` beside the column would make the server
/// compute it twice for each row.
const CLOCK: &str = "
    select now(), null::text, pg_catalog.pg_last_xact_replay_timestamp()::text, %definition%, null::text, null::text, null::text,
           null::boolean, null::timestamptz, null::timestamptz, %count%, pg_catalog.pg_postmaster_start_time(),
           pg_catalog.current_setting('transaction_read_only')";

/// What the view and the functions beside it are at present: whoever replaces one of them changes this text.
const DEFINITION: &str = "(
    select pg_catalog.string_agg(it.part, ' ' order by it.part) from (
        select r.oid::text || '-' || r.xmin::text from pg_catalog.pg_rewrite r
         where r.ev_class = pg_catalog.to_regclass('defib.fleet')
        union all
        select p.oid::text || '-' || p.xmin::text from pg_catalog.pg_proc p
         where p.pronamespace = (select n.oid from pg_catalog.pg_namespace n where n.nspname = 'defib')) it(part))";

/// How many watched rows the view has, those included that are suspended or break the contract.
const COUNT: &str = "(select count(*) from defib.fleet f where f.status::text = any ($3) or f.status is null)";

/// A row of the fleet, below the clock's. Of a policy that is too long to be used, the server sends one character more than is allowed, so
/// that we see that it is too long.
pub(crate) const ROWS: &str = "
    select null::timestamptz, f.workspace_id::text, f.status::text, f.kind::text, f.engine::text, f.container_ref::text,
           f.instance_ref::text, f.suspended, f.last_heartbeat_at::timestamptz, f.last_activity_at::timestamptz,
           f.active_tasks::bigint, f.created_at::timestamptz, left(f.policy::text, 4097)
      from defib.fleet f";

/// The watched rows. The limit is one more than the daemon is ready to hold.
const WATCHED: &str = "where (f.status::text = any ($1) or f.status is null) %scope% limit $2";

/// How many characters of a malformed row's id are reported.
const ID_SHOWN_MAX: usize = 64;

impl Store {
    /// Reads the watched, unsuspended workspaces of `scope`, in the order of their ids, and the rows that break the
    /// contract ([`MALFORMED_MAX`] at most).
    ///
    /// `watched` are values of `status`. Ages count from before the statement was sent, so that a slow answer makes nobody
    /// look older than they are.
    ///
    /// # Errors
    /// [`StoreError::ReadFleet`]; then nothing is known about any workspace. The read also fails if the fleet has more rows than
    /// the store was set up for, or if the server takes no writes: a standby may lag, and nothing could be claimed there. In that case all
    /// connections to the server are given up, so that the next one may find the primary.
    pub async fn read_fleet(
        &self,
        scope: FleetScope<'_>,
        watched: &[String],
    ) -> Result<(FleetRead, Vec<Malformed>), StoreError> {
        let read = self.within_deadline(self.stream_fleet(scope, watched)).await;
        if let Err(Fault::ReadOnly) = read {
            self.pool.renew();
        }
        read.map_err(StoreError::ReadFleet)
    }

    async fn stream_fleet(
        &self,
        scope: FleetScope<'_>,
        watched: &[String],
    ) -> Result<(FleetRead, Vec<Malformed>), Fault> {
        let (ids, most) = (scope.ids(), self.rows_max());
        let mut parameters: Vec<Parameter<'_>> = vec![(&watched, Type::TEXT_ARRAY), (&most, Type::INT8)];
        let scope = if let Some(ids) = &ids {
            parameters.push((ids, Type::TEXT_ARRAY));
            "and f.workspace_id::text = any ($3)"
        } else {
            ""
        };
        let asked = if ids.is_none() { Asked::Definition } else { Asked::Clock };
        let sql = format!("{} union all ({ROWS} {})", clock(asked), WATCHED.replace("%scope%", scope));

        let mut connection = self.pool.get().await?;
        if ids.is_some() {
            connection.begin_for_a_few_rows().await?;
        } else {
            connection.begin_for_many_rows().await?;
        }
        let at = (self.clock)();
        // Room for as many as last time and some more: a growing vector would be moved, and in memory twice, again and again.
        let expected = ids.as_ref().map_or_else(|| self.last_whole().rows * 17 / 16, Vec::len);
        let mut rows = Reading::with_capacity(expected.min(self.fleet_max));
        {
            let mut stream = pin!(connection.stream(&sql, parameters).await?);
            while let Some(row) = stream.try_next().await? {
                rows.add(&row)?;
                if rows.received > self.fleet_max {
                    return Err(Fault::TooMany { most: self.fleet_max });
                }
            }
        }
        connection.rows_ended();
        connection.commit().await?;
        drop(connection); // not kept from others while we sort

        rows.sort();
        if ids.is_none() {
            let whole = Whole { definition: rows.definition.take(), rows: rows.received };
            *self.whole.lock().unwrap_or_else(PoisonError::into_inner) = whole;
        }
        self.finish_read(at, rows)
    }

    /// What is kept of the last read of all rows.
    pub(crate) fn last_whole(&self) -> Whole {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One row more than the daemon is ready to hold: then it is known that there are too many.
    pub(crate) fn rows_max(&self) -> i64 {
        i64::try_from(self.fleet_max.saturating_add(1)).unwrap_or(i64::MAX)
    }

    /// What was read, with the readings of the clocks that go with it.
    pub(crate) fn finish_read(&self, at: Moment, rows: Reading) -> Result<(FleetRead, Vec<Malformed>), Fault> {
        let Clock { now: database_now, server_started, is_promoted } =
            rows.clock.ok_or_else(|| Fault::Unexpected("the database's clock did not come with the fleet".into()))?;
        let database_started_at =
            if is_promoted { self.promotions.seen(server_started, database_now) } else { server_started };
        let mut workspaces = rows.workspaces;
        workspaces.shrink_to_fit(); // they are kept until the next read of all of them
        Ok((FleetRead { at, database_now, database_started_at, workspaces }, rows.malformed))
    }
}

/// What is kept of a read of all rows, for the reads of changes after it to compare with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whole {
    /// What the view was defined as.
    pub(crate) definition: Option<String>,
    /// How many watched rows it had, those included that are suspended or break the contract.
    pub(crate) rows: usize,
}

/// What the row above the fleet's is to tell.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    /// The time.
    Clock,
    /// The time, and what the view is defined as.
    Definition,
    /// The time, what the view is defined as, and how many watched rows it has. The statement's `$3` are the watched statuses.
    DefinitionAndCount,
}

/// The statement of the row above the fleet's.
pub(crate) fn clock(asked: Asked) -> String {
    let (definition, count) = match asked {
        Asked::Clock => ("null::text", "null::bigint"),
        Asked::Definition => (DEFINITION, "null::bigint"),
        Asked::DefinitionAndCount => (DEFINITION, COUNT),
    };
    CLOCK.replace("%definition%", definition).replace("%count%", count)
}

/// The row above the fleet's.
#[derive(Clone, Copy)]
struct Clock {
    now: Timestamp,
    server_started: Timestamp,
    /// It was a standby before.
    is_promoted: bool,
}

/// Promoted servers, by when their process started, and when we first saw them as primaries.
///
/// When a standby takes over, its process has been up for days, and only a superuser is told when the take-over was. If we went by the
/// start of its process, we would believe that heartbeats could be written to it for all that time. So for us it starts at the moment at
/// which we first see it. A daemon that is started later waits one window longer than necessary, which delays the restart of a dead
/// workspace by one spacing.
#[derive(Debug, Default)]
pub(crate) struct Promotions(Mutex<Option<(Timestamp, Timestamp)>>);

impl Promotions {
    /// When the promoted server that started at `started` was first seen: `now`, unless it was before.
    fn seen(&self, started: Timestamp, now: Timestamp) -> Timestamp {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((server, first_seen)) if server == started => first_seen,
            _ => {
                *known = Some((started, now));
                now
            }
        }
    }
}

/// A read in progress.
pub(crate) struct Reading {
    clock: Option<Clock>,
    /// What the view is defined as, where that was asked for.
    pub(crate) definition: Option<String>,
    /// How many watched rows the view has, where that was asked for.
    pub(crate) count: Option<i64>,
    pub(crate) workspaces: Vec<Workspace>,
    malformed: Vec<Malformed>,
    /// How many rows of the fleet have arrived, those included that are not used.
    pub(crate) received: usize,
    /// A fleet has few engines: one allocation for each, not for each row.
    engines: HashSet<EngineName>,
    /// A fleet has few different statuses as well.
    statuses: HashSet<Arc<str>>,
}

impl Reading {
    pub(crate) fn with_capacity(rows: usize) -> Self {
        let (workspaces, malformed) = (Vec::with_capacity(rows), Vec::new());
        Self {
            clock: None,
            definition: None,
            count: None,
            workspaces,
            malformed,
            received: 0,
            engines: HashSet::new(),
            statuses: HashSet::new(),
        }
    }

    /// Takes a row: the clock's, or one of the fleet. Returns whether it is of a workspace that can be judged.
    pub(crate) fn add(&mut self, row: &Row) -> Result<bool, Fault> {
        if let Some(Instant::At(now)) = row.try_get(0)? {
            if row.try_get::<_, Option<&str>>(12)? == Some("on") {
                return Err(Fault::ReadOnly);
            }
            if let Some(Instant::At(server_started)) = row.try_get(11)? {
                let is_promoted = row.try_get::<_, Option<&str>>(2)?.is_some();
                self.clock = Some(Clock { now, server_started, is_promoted });
                self.definition = row.try_get(3)?;
                self.count = row.try_get(10)?;
            }
            return Ok(true);
        }
        self.received += 1;
        if row.try_get::<_, Option<bool>>(7)? == Some(true) {
            return Ok(false);
        }
        match self.workspace(row) {
            Ok(workspace) => {
                self.workspaces.push(workspace);
                Ok(true)
            }
            Err(why) => {
                let id: Option<String> = row.try_get(1).unwrap_or_default();
                self.report(id.map(|id| id.chars().take(ID_SHOWN_MAX).collect()), why);
                Ok(false)
            }
        }
    }

    /// Counts a row that the caller has no use for.
    pub(crate) const fn pass_over(&mut self) -> bool {
        self.received += 1;
        false
    }

    fn report(&mut self, id: Option<String>, why: &'static str) {
        if self.malformed.len() < MALFORMED_MAX {
            self.malformed.push(Malformed { id, why });
        }
    }

    fn workspace(&mut self, row: &Row) -> Result<Workspace, &'static str> {
        let columns = Columns::of(row)?;
        Ok(Workspace {
            id: columns.id.into(),
            status: self.status(columns.status),
            kind: columns.kind,
            engine: self.engine(columns.engine),
            container_ref: columns.container_ref.map(Box::from),
            instance_ref: columns.instance_ref.map(Box::from),
            suspended: columns.suspended,
            last_heartbeat_at: columns.last_heartbeat_at,
            last_activity_at: columns.last_activity_at,
            active_tasks: columns.active_tasks,
            created_at: columns.created_at,
            policy: columns.policy.map(Box::from),
        })
    }

    fn engine(&mut self, name: &str) -> EngineName {
        if let Some(last) = self.workspaces.last().map(|workspace| &workspace.engine)
            && last.as_str() == name
        {
            return last.clone(); // most rows follow one of their own engine, or there is only one
        }
        if let Some(known) = self.engines.get(name) {
            return known.clone();
        }
        let new = EngineName::from(name);
        self.engines.insert(new.clone());
        new
    }

    fn status(&mut self, text: &str) -> Arc<str> {
        if let Some(last) = self.workspaces.last().map(|workspace| &workspace.status)
            && **last == *text
        {
            return Arc::clone(last);
        }
        if let Some(known) = self.statuses.get(text) {
            return Arc::clone(known);
        }
        let new = Arc::<str>::from(text);
        self.statuses.insert(Arc::clone(&new));
        new
    }

    /// Sorts by id. If an id comes twice (a join in the view multiplies rows), it is not clear which row is meant, so none of them is kept.
    /// Returns those ids.
    pub(crate) fn sort(&mut self) -> BTreeSet<WorkspaceId> {
        let in_order = |pair: &[Workspace]| pair[0].id < pair[1].id;
        if self.workspaces.windows(2).all(in_order) {
            return BTreeSet::new();
        }
        sort_by_id(&mut self.workspaces);
        let same = |pair: &&[Workspace]| pair[0].id == pair[1].id;
        let twice: BTreeSet<WorkspaceId> =
            self.workspaces.windows(2).filter(same).map(|pair| pair[0].id.clone()).collect();
        if !twice.is_empty() {
            self.workspaces.retain(|workspace| !twice.contains(&workspace.id));
            for id in &twice {
                self.report(Some(id.as_str().to_owned()), "workspace_id is in more than one row");
            }
        }
        twice
    }
}

/// Sorts a hundred thousand rows in a tenth of the time of a plain sort: what is compared is the beginning of each id, side by side
/// in memory, and the rows (two hundred bytes each, their ids elsewhere) are moved once. Stable, so that the sorted
/// stretches in which a table keeps its rows are made use of.
fn sort_by_id(workspaces: &mut [Workspace]) {
    let mut order: Vec<(u128, u32)> =
        (0_u32..).zip(workspaces.iter()).map(|(index, workspace)| (beginning(workspace), index)).collect();
    order.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| workspaces[a.1 as usize].id.cmp(&workspaces[b.1 as usize].id)));
    // Follows each cycle of the permutation once. A place that is done points to itself.
    for start in 0..order.len() {
        let mut place = start;
        loop {
            let from = std::mem::replace(&mut order[place].1, u32::try_from(place).unwrap_or(u32::MAX)) as usize;
            if from == start || from == place {
                break;
            }
            workspaces.swap(place, from);
            place = from;
        }
    }
}

/// The first sixteen bytes of the id, as a number of the same order.
fn beginning(workspace: &Workspace) -> u128 {
    let mut bytes = [0; 16];
    for (byte, of_id) in bytes.iter_mut().zip(workspace.id.as_str().bytes()) {
        *byte = of_id;
    }
    u128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use defib_policy::fleet::Kind;

    use super::*;

    fn workspace(id: &str) -> Workspace {
        Workspace {
            id: id.into(),
            status: "online".into(),
            kind: Kind::Container,
            engine: "e".into(),
            container_ref: None,
            instance_ref: None,
            suspended: false,
            last_heartbeat_at: None,
            last_activity_at: None,
            active_tasks: 0,
            created_at: None,
            policy: None,
        }
    }

    #[test]
    fn rows_are_ordered_by_their_whole_ids() {
        let mut seed = 7_u64;
        let mut rows: Vec<Workspace> = (0..3_000)
            .map(|n| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let random = seed >> 33;
                match n % 4 {
                    0 => workspace(&format!("{random:x}")),
                    1 => workspace(&format!("a-common-beginning-{random}")),
                    2 => workspace(&format!("ws-{n:06}")),
                    _ => workspace(&"x".repeat((random % 40) as usize)),
                }
            })
            .collect();
        let mut expected: Vec<String> = rows.iter().map(|row| row.id.to_string()).collect();
        expected.sort();
        sort_by_id(&mut rows);
        assert_eq!(rows.iter().map(|row| row.id.to_string()).collect::<Vec<_>>(), expected);
    }
}
