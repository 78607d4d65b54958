//! What has changed in the fleet since the last read: the cheap read between two reads of all rows.
//!
//! It asks nothing of the platform but the columns of the contract: no index, no trigger, no column of its own. A row comes when its
//! heartbeat, its activity or its creation is later than a moment on the database's clock, or when it is asked for by its id. What a row of
//! an older stamp has become (parked, moved, deleted, written late) is seen when it is asked for, or by the next read of all rows. Whether one
//! has come or gone without a new stamp shows in the number of watched rows, which is counted when the caller asks for it.

use std::pin::pin;
use std::sync::atomic::Ordering;

use defib_policy::fast_hash::IdSet;
use defib_policy::fleet::FleetRead;
use defib_policy::id::WorkspaceId;
use defib_policy::moment::Timestamp;
use futures_util::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::decode::{Instant, system_time};
use crate::error::{Fault, StoreError};
use crate::fleet::{Asked, Malformed, ROWS, Reading, clock};
use crate::{Parameter, Store};

/// What one read of the changes brought.
#[derive(Clone, Debug)]
pub struct Changes {
    /// The watched rows that have changed or were asked for.
    pub read: FleetRead,
    /// The workspaces that were asked for or have changed and are not watched any more: they have left the fleet, were parked, have another
    /// status, or their row breaks the contract.
    pub gone: Vec<WorkspaceId>,
    /// The rows among them that break the contract.
    pub malformed: Vec<Malformed>,
    /// Whether the view, or a function beside it, was replaced since all rows were last read. If so, the rows that did not come may be
    /// other ones now.
    pub replaced: bool,
    /// How many watched rows the view has, those included that are suspended or break the contract; `None`: they were not counted.
    pub rows: Option<usize>,
    /// How many it had when all rows were last read.
    pub rows_before: usize,
    /// How many rows the database sent.
    pub received: usize,
}

/// What a read of the changes is to bring.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The rows whose newest stamp is later than this.
    pub since: Timestamp,
    /// These workspaces, whatever their stamps are.
    pub called: &'a [WorkspaceId],
    /// The values of `status` that are watched.
    pub watched: &'a [String],
    /// The number of watched rows too. The server goes through the view a second time for it, which doubles what the read costs it.
    pub count: bool,
}

/// Rows of every status are read, because a workspace that has left the watched statuses has changed as well.
const NEWER: &str =
    "greatest(f.last_heartbeat_at::timestamptz, f.last_activity_at::timestamptz, f.created_at::timestamptz) > $1";

impl Store {
    /// Reads the rows that have changed or are called by their ids, in one statement, so on one snapshot.
    ///
    /// # Errors
    /// As [`read_fleet`](Self::read_fleet).
    pub async fn read_changes(&self, wanted: Wanted<'_>) -> Result<Changes, StoreError> {
        let read = self.within_deadline(self.stream_changes(wanted)).await;
        if let Err(Fault::ReadOnly) = read {
            self.pool.renew();
        }
        read.map_err(StoreError::ReadFleet)
    }

    async fn stream_changes(&self, wanted: Wanted<'_>) -> Result<Changes, Fault> {
        let Wanted { since, called, watched, count } = wanted;
        let (since, most) = (system_time(since), self.rows_max());
        let ids: Vec<&str> = called.iter().map(WorkspaceId::as_str).collect();
        let mut parameters: Vec<Parameter<'_>> =
            vec![(&since, Type::TIMESTAMPTZ), (&most, Type::INT8), (&watched, Type::TEXT_ARRAY)];
        let asked = if count { Asked::DefinitionAndCount } else { Asked::Definition };
        let mut sql = format!("{} union all ({ROWS} where {NEWER} limit $2)", clock(asked));
        if !ids.is_empty() {
            parameters.push((&ids, Type::TEXT_ARRAY));
            sql = format!("{sql} union all ({ROWS} where f.workspace_id::text = any ($4) and ({NEWER}) is not true)");
        }
        let mut connection = self.pool.get().await?;
        connection.begin_for_many_rows().await?;
        let at = (self.clock)();
        // About as many rows as last time: a growing vector is copied again and again.
        let mut rows = Reading::with_capacity(ids.len().max(self.last_changes.load(Ordering::Relaxed)));
        // The workspaces that were asked for and whose rows have not come yet.
        let mut awaited: IdSet<&str> = ids.iter().copied().collect();
        let mut gone = Vec::new();
        {
            let mut stream = pin!(connection.stream(&sql, parameters).await?);
            while let Some(row) = stream.try_next().await? {
                let is_watched = match row.try_get::<_, Option<&str>>(2) {
                    Ok(Some(status)) if !is_clock(&row)? => watched.iter().any(|watched| watched == status),
                    _ => true,
                };
                let is_kept = if is_watched { rows.add(&row)? } else { rows.pass_over() };
                if rows.received > self.fleet_max {
                    return Err(Fault::TooMany { most: self.fleet_max });
                }
                if let Ok(Some(id)) = row.try_get::<_, Option<&str>>(1) {
                    if is_kept {
                        awaited.remove(id);
                    } else if !awaited.contains(id) {
                        gone.push(WorkspaceId::from(id));
                    }
                }
            }
        }
        connection.rows_ended();
        connection.commit().await?;
        drop(connection); // not kept from others while we sort

        self.last_changes.store(rows.workspaces.len(), Ordering::Relaxed);
        gone.extend(awaited.into_iter().map(WorkspaceId::from));
        gone.extend(rows.sort());
        let whole = self.last_whole();
        let (received, replaced) = (rows.received, rows.definition != whole.definition);
        let count = rows.count.and_then(|count| usize::try_from(count).ok());
        let (read, malformed) = self.finish_read(at, rows)?;
        Ok(Changes { read, gone, malformed, replaced, rows: count, rows_before: whole.rows, received })
    }
}

/// Whether it is the row with the clock, which comes before the rows of the fleet.
fn is_clock(row: &Row) -> Result<bool, Fault> {
    Ok(row.try_get::<_, Option<Instant>>(0)?.is_some())
}
