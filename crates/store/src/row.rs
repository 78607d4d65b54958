//! A row of `defib.fleet` as the database sends it, held against the contract. Nothing is copied here, because whoever only counts or shows
//! rows keeps little of each.

use defib_policy::fleet::Kind;
use defib_policy::moment::Timestamp;
use tokio_postgres::Row;

use crate::decode::Instant;

/// A longer policy is not used, and a longer reference leads to no container: such a row breaks the contract.
const POLICY_MAX: usize = 4_096;
const REFERENCE_MAX: usize = 1_024;

/// Longer ids are not judged: they would not fit into the indexes of `defib.events` and `defib.verdicts`, and one row that
/// cannot be recorded must not stop the recording of all others.
const ID_LENGTH_MAX: usize = 512;

/// The columns of a row that keeps the contract.
pub(crate) struct Columns<'a> {
    pub(crate) id: &'a str,
    pub(crate) status: &'a str,
    pub(crate) kind: Kind,
    /// `external` for an external workspace whose row names no engine.
    pub(crate) engine: &'a str,
    pub(crate) container_ref: Option<&'a str>,
    pub(crate) instance_ref: Option<&'a str>,
    pub(crate) suspended: bool,
    pub(crate) last_heartbeat_at: Option<Timestamp>,
    pub(crate) last_activity_at: Option<Timestamp>,
    pub(crate) active_tasks: i32,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) policy: Option<&'a str>,
}

impl<'a> Columns<'a> {
    /// The columns; or why the row cannot be used. They stand in the order of the daemon's own read of the fleet.
    pub(crate) fn of(row: &'a Row) -> Result<Self, &'static str> {
        let text = |column| row.try_get::<_, Option<&'a str>>(column).map_err(|_| "a text is not valid UTF-8");
        let id = text(1)?.filter(|id| !id.is_empty()).ok_or("workspace_id is null or empty")?;
        if id.len() > ID_LENGTH_MAX {
            return Err("workspace_id is longer than 512 bytes");
        }
        let kind = match text(3)?.ok_or("kind is null")? {
            "container" => Kind::Container,
            "instance" => Kind::Instance,
            "external" => Kind::External,
            _ => return Err("kind is none of container, instance, external"),
        };
        let engine = match text(4)? {
            Some(engine) if engine.len() > REFERENCE_MAX => return Err("engine is longer than 1024 bytes"),
            Some(engine) => engine,
            // An external workspace has no engine, so a platform may leave the column null.
            None if kind == Kind::External => "external",
            None => return Err("engine is null"),
        };
        let moment = |column, why| match row.try_get::<_, Option<Instant>>(column) {
            Ok(None) => Ok(None),
            Ok(Some(Instant::At(at))) => Ok(Some(at)),
            Ok(Some(Instant::Never)) | Err(_) => Err(why),
        };
        let bounded = |column, most, why| match text(column)? {
            Some(text) if text.len() > most => Err(why),
            text => Ok(text),
        };
        let tasks = row.try_get::<_, Option<i64>>(10).ok().flatten().unwrap_or_default();
        let status = text(2)?.ok_or("status is null")?;
        if status.len() > REFERENCE_MAX {
            return Err("status is longer than 1024 bytes");
        }
        Ok(Self {
            id,
            status,
            kind,
            engine,
            container_ref: bounded(5, REFERENCE_MAX, "container_ref is longer than 1024 bytes")?,
            instance_ref: bounded(6, REFERENCE_MAX, "instance_ref is longer than 1024 bytes")?,
            suspended: row.try_get::<_, Option<bool>>(7).ok().flatten().ok_or("suspended is null")?,
            last_heartbeat_at: moment(8, "last_heartbeat_at is infinite")?,
            last_activity_at: moment(9, "last_activity_at is infinite")?,
            active_tasks: i32::try_from(tasks.max(0)).unwrap_or(i32::MAX),
            created_at: moment(11, "created_at is infinite")?,
            policy: bounded(12, POLICY_MAX, "policy is longer than 4096 bytes")?,
        })
    }
}
