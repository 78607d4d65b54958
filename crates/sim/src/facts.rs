//! What the platform's own row says of a workspace, and the platform's two functions on it.
//!
//! Both the simulated database and the model of the ledger work on this row. The functions do what `defib.mark_dead` and
//! `defib.mark_recovered` do in `migrations/0001_fleet.sql`.

use defib_policy::moment::Timestamp;

/// Statuses that defib watches.
const WATCHED: [&str; 3] = ["online", "degraded", "offline"];
/// Statuses by which somebody has put a workspace away (`defib.is_parked`).
const PARKED: [&str; 16] = [
    "paused",
    "pausing",
    "hibernated",
    "hibernating",
    "suspended",
    "suspending",
    "stopped",
    "stopping",
    "archived",
    "archiving",
    "removed",
    "removing",
    "deleted",
    "deleting",
    "terminated",
    "terminating",
];

/// The platform's own facts about a workspace.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its status.
    pub status: &'static str,
    /// Whether it or an ancestor is parked.
    pub suspended: bool,
    /// Whether its row exists.
    pub exists: bool,
    /// Its last heartbeat.
    pub heartbeat: Option<Timestamp>,
    /// Its last successful round trip.
    pub activity: Option<Timestamp>,
    /// What it says of its work.
    pub active_tasks: i32,
}

impl Facts {
    /// Whether the platform wants it to run and defib may help.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.exists && !self.suspended && WATCHED.contains(&self.status)
    }

    /// The platform's decision before a restart: `defib.mark_dead` up to its update. False is a veto.
    #[must_use]
    pub fn may_be_marked_dead(&self, evidence: &Evidence<'_>) -> bool {
        let veto = !self.exists
            || self.suspended
            || PARKED.contains(&self.status)
            || *self.status != *evidence.status
            || self.heartbeat > evidence.heartbeat
            || self.activity > evidence.activity;
        !veto
    }

    /// `defib.mark_dead`'s update.
    pub fn mark_dead(&mut self) {
        if matches!(self.status, "online" | "degraded") {
            self.status = "offline";
        }
    }

    /// `defib.mark_recovered`. True when that changed the status.
    pub fn mark_recovered(&mut self) -> bool {
        let marked = self.exists && self.status == "offline";
        if marked {
            self.status = "online";
        }
        marked
    }
}

/// What `mark_dead` reads of the evidence.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The status as it was read.
    pub status: &'a str,
    /// The last heartbeat as it was read.
    pub heartbeat: Option<Timestamp>,
    /// The last round trip as it was read.
    pub activity: Option<Timestamp>,
}
