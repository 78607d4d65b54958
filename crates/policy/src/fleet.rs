//! What the database says should live: one row a workspace, with every fact about it that a verdict may use.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{EngineName, WorkspaceId};
use crate::moment::{Moment, Timestamp};

/// What kind of thing a workspace is, and so which evidence there can be of its life (`defib.fleet.kind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A container on an engine: sampled there, restarted there.
    Container,
    /// A machine behind a control plane: sampled and restarted through it.
    Instance,
    /// Nothing that defib can see or restart: judged by its heartbeat alone.
    External,
}

impl Kind {
    /// The word in the database.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Instance => "instance",
            Self::External => "external",
        }
    }
}

/// One row of `defib.fleet`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// `workspace_id`.
    pub id: WorkspaceId,
    /// `status`, a free text of the platform. `DEFIB_WATCHED_STATUSES` says which of these texts are watched, so a whole fleet has few of
    /// them, and its rows share them.
    pub status: Arc<str>,
    /// `kind`.
    pub kind: Kind,
    /// `engine`.
    pub engine: EngineName,
    /// `container_ref`: a container's name or id; `None` means that the container is found by its label.
    pub container_ref: Option<Box<str>>,
    /// `instance_ref`: the control plane's name for it.
    pub instance_ref: Option<Box<str>>,
    /// `suspended`: this workspace or any of its ancestors is parked by somebody. Never judged, never restarted.
    pub suspended: bool,
    /// `last_heartbeat_at`; `None` when it never sent one.
    pub last_heartbeat_at: Option<Timestamp>,
    /// `last_activity_at`: the last successful round trip. Counts as a heartbeat.
    pub last_activity_at: Option<Timestamp>,
    /// `active_tasks`: more than zero means that it says it is working.
    pub active_tasks: i32,
    /// `created_at`.
    pub created_at: Option<Timestamp>,
    /// `policy`: overrides for this workspace, as the JSON text that the platform wrote.
    pub policy: Option<Box<str>>,
}

/// One successful read of the fleet, or of a few workspaces of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetRead {
    /// When the query was sent, on our clock. Ages count from here, so a slow answer never makes anyone look older.
    pub at: Moment,
    /// The database's clock inside that query: what every age is computed with.
    pub database_now: Timestamp,
    /// `pg_postmaster_start_time()`. If it changes, the server was restarted or another one answers, and heartbeats are no witness for a
    /// while (see [`pipeline`](crate::pipeline)).
    pub database_started_at: Timestamp,
    /// The rows, in the order of their ids. Only watched, unsuspended ones.
    pub workspaces: Vec<Workspace>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_the_word_that_the_contract_gives_it() {
        let words = [Kind::Container, Kind::Instance, Kind::External].map(Kind::label);
        assert_eq!(words, ["container", "instance", "external"]);
    }
}
