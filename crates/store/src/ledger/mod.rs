//! The ledger, `defib.restarts`: a restart is claimed here before anything is touched, and finished here afterwards.
//!
//! ```text
//! owner:     begin ─ lease? ─ insert ─ mark_dead ─ commit ── inspect ── may_act ── restart ── finish ── … recovered
//! platform:                    begin ─ pause ─ commit                      (mark_dead waits for it, sees it, vetoes)
//! new owner: take the lease … waits for the claim … sees the row: acting_at null ► abandoned, it will never be acted on;
//!                                                                 acting_at set  ► looks at the container until it knows
//! ```
//!
//! A call to the engine cannot be taken back, and an engine cannot check an epoch. That is why `may_act` writes down (`acting_at`) that the
//! engine is about to be asked. If the lease is lost before that, the attempt ends for good. After it, the row keeps every other attempt
//! away until the container tells what became of the call, or the deadline has passed.
//!
//! The row is inserted first, and the platform is asked second. So of two processes that claim the same restart, one waits on the unique
//! index, and holds no lock on the platform's row while it does. A veto is kept as a row (`vetoed`, finished at once), because an operator
//! also asks why somebody was *not* restarted.
//!
//! A run is a series of attempts that no verified recovery has ended. Within a run, numbers are unique for an incarnation. A missing
//! container has no incarnation, so if runs did not end (`run_ended_at`), the number of its first death would be taken for ever. An attempt
//! that ends without having asked the engine counts for nothing, so its run ends at once.

mod act;
mod claim;
mod finish;
mod read;
mod words;

use std::time::Duration;

use defib_policy::id::{ContainerId, EngineName, WorkspaceId};
use defib_policy::moment::Timestamp;
use serde_json::Value;
use tokio_postgres::types::Type;

use crate::connect::Connection;
use crate::error::Fault;

pub(crate) use self::read::ATTEMPTS_MAX;
pub use self::words::{HEALTH_MAX, LAST_WORDS_MAX, LastWords};

/// A restart to be claimed.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// Whose.
    pub workspace: &'a WorkspaceId,
    /// Where.
    pub engine: &'a EngineName,
    /// `container_ref` of the row that was judged.
    pub container_ref: Option<&'a str>,
    /// `instance_ref` of the row that was judged.
    pub instance_ref: Option<&'a str>,
    /// `policy` of the row that was judged.
    pub policy: Option<&'a str>,
    /// The container that is dead; `None` when it is missing and never was seen.
    pub container_id: Option<&'a ContainerId>,
    /// The start of that incarnation.
    pub started_at: Option<Timestamp>,
    /// Number within the run, from 1.
    pub attempt: u32,
    /// The epoch of the lease on `engine` that `claimed_by` holds.
    pub epoch: i64,
    /// The verdict that asks for it.
    pub verdict: &'static str,
    /// What it rests on. `mark_dead` reads `status`, `last_heartbeat_at` and `last_activity_at` (RFC 3339 or null).
    pub evidence: Value,
    /// This replica.
    pub claimed_by: &'a str,
    /// After this time others may settle the attempt. It must be longer than confirming and restarting can take together.
    pub deadline: Duration,
}

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The attempt is ours, and is now carried out.
    Granted {
        /// The row.
        id: i64,
    },
    /// The platform refused; the row is finished already.
    Vetoed {
        /// The row.
        id: i64,
    },
    /// Another attempt is under way, or this one was made before.
    Taken,
    /// A hold stands. No row was written.
    Held {
        /// Whose, and why.
        reason: String,
    },
    /// The lease has expired, or another replica holds it. No row was written.
    NotOwner,
}

/// The lease that an attempt is made under.
#[derive(Clone, Copy, Debug)]
pub struct LeaseProof<'a> {
    /// On which engine.
    pub engine: &'a EngineName,
    /// Who holds it.
    pub holder: &'a str,
    /// The epoch under which it is held.
    pub epoch: i64,
}

/// Whether the engine may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayAct {
    /// Yes, and that it will be is written down.
    Yes,
    /// The workspace left the fleet, is no longer watched, is suspended or held; or it was found hanging, and was heard of since.
    NotWanted,
    /// The lease has expired or was taken over, or somebody has settled the attempt.
    NotOwner,
}

/// An attempt that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenAttempt {
    /// The row.
    pub id: i64,
    /// Whose.
    pub workspace: WorkspaceId,
    /// Where.
    pub engine: EngineName,
    /// The container that was found dead.
    pub container_id: Option<ContainerId>,
    /// The start of that incarnation.
    pub started_at: Option<Timestamp>,
    /// When it was claimed, by the database's clock.
    pub claimed_at: Timestamp,
    /// Who claimed it.
    pub claimed_by: Option<String>,
    /// Under which epoch of its lease.
    pub epoch: i64,
    /// The verdict that asked for it.
    pub verdict: String,
    /// Whether its owner has turned to the engine. If so, a restart may have been made or may still be made.
    pub acting: bool,
    /// How long ago its deadline passed, if it has passed. By then the engine has done what it was asked, or never will.
    pub overdue_by: Option<Duration>,
    /// Whether the fleet no longer has the workspace on that engine, whatever its status.
    pub elsewhere: bool,
    /// For an instance, its present reference in the fleet (empty if it has none yet). The platform may have replaced the instance since
    /// the claim.
    pub instance: Option<String>,
}

/// Whether a lease is held and has not expired. If so, it cannot be taken over until the transaction ends. The lock is shared with other
/// claims and with renewals, but not with a take-over, which waits for it and then sees what was claimed.
pub(crate) async fn holds_lease(connection: &mut Connection, lease: LeaseProof<'_>) -> Result<bool, Fault> {
    let found = connection
        .query_opt(
            "select 1 from defib.leases
              where engine = $1 and holder = $2 and epoch = $3 and expires_at > clock_timestamp() for key share",
            &[(&lease.engine.as_str(), Type::TEXT), (&lease.holder, Type::TEXT), (&lease.epoch, Type::INT8)],
        )
        .await?;
    Ok(found.is_some())
}

const NOTIFY: &str = "
    select pg_notify('defib_events', json_build_object('event', $1, 'workspace_id', $2)::text) is null";

/// Tells `defib_events`; delivered when the transaction commits.
pub(crate) async fn notify(connection: &mut Connection, event: &str, workspace: &str) -> Result<(), Fault> {
    connection.query(NOTIFY, &[(&event, Type::TEXT), (&workspace, Type::TEXT)]).await.map(drop)
}
