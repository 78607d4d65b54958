//! All access to Postgres: no other crate sends statements.
//!
//! ```text
//! platform ── defib.fleet (a view) ─────────► read_fleet, read_changes ──► policy
//! proxies ─── defib.report_suspicion() ─────► take_suspicions
//! operators ─ defib.holds ──────────────────┐
//! replicas ── defib.leases ─────────────────┼► claim ► may_act ► finish ► recovered   (defib.restarts)
//! platform ── mark_dead(): veto ────────────┘     └─────────────┴─► owed ► take_back   (defib.marks)
//! platform ◄─ mark_recovered() ───────────────────────────────────────────────┘
//! policy ──── verdicts, events ► record_verdicts, record_events
//! all of these ── defib.tell() ► defib.outbox ► take_message ► the operator's webhook
//! ```
//!
//! Three rules hold for every statement here. First, it works through a pgbouncer in transaction mode: there is no prepared statement and
//! no session state, and what belongs together is one transaction. Second, it ends: each call has a deadline, and when that has passed, the
//! statement is cancelled at the server and the connection is thrown away. Third, it distinguishes a refusal of the database from a
//! database that gives no answer. The latter is an error, and never a fact about a workspace.

mod belong;
mod cadence;
mod changes;
mod check_facts;
mod clock;
mod connect;
mod contract;
mod crash_point;
mod decode;
mod error;
mod event;
mod fleet;
mod halving;
mod hold;
mod lease;
mod ledger;
mod listen;
mod marks;
mod migrate;
mod operator;
mod order;
mod outbox;
mod overview;
mod platform;
mod retention;
mod row;
mod said;
mod suspicion;
mod tls;
mod url;
mod verdict;
mod view;
mod written_status;

use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib_policy::moment::Moment;
use tokio::sync::Semaphore;
use tokio_postgres::types::Type;

pub use crate::cadence::{CadenceRow, SeldomBeats};
pub use crate::changes::{Changes, Wanted};
pub use crate::check_facts::{CheckFacts, FleetFacts, Privilege, RoleFact};
pub use crate::clock::ClockHistory;
pub use crate::contract::{Answer, Breach, ContractFacts, Question, Trial};
pub use crate::error::{Fault, KINDS, SettingsError, StoreError};
pub use crate::event::{EventRow, EventSubject};
pub use crate::fleet::{FleetScope, MALFORMED_MAX, Malformed};
pub use crate::hold::{Hold, HoldScope, NewHold};
pub use crate::lease::{Lease, LeaseTable, LeaseTurn};
pub use crate::ledger::{Claim, Claimed, HEALTH_MAX, LAST_WORDS_MAX, LastWords, LeaseProof, MayAct, OpenAttempt};
pub use crate::listen::{ListenEvent, ListenSettings, Listener, can_listen, check_url, listen};
pub use crate::marks::OwedMark;
pub use crate::migrate::{MigrateReport, SCHEMA_VERSION, SchemaState};
pub use crate::order::{OrderState, Ordered, OrderedBy, StandingOrder};
pub use crate::outbox::{
    DIGEST_ABOVE, EXPIRES_AFTER, GATHERED_FOR, GivenUp, Message, NotDelivered, PENDING_MAX, TAKEN_FOR, WANTED_FOR,
    WebhookRow, WebhookState,
};
pub use crate::overview::{Entry, Overview, Present, RestartRow};
pub use crate::retention::{RetentionReport, RetentionSettings};
pub use crate::said::{EngineReportRow, EngineSaid, ReplicaReport, ReplicaSaid, Said};
pub use crate::suspicion::{NewSuspicion, Pending, Suspicion};
pub use crate::verdict::{StoredVerdict, VerdictRow};
pub use crate::view::{CurrentVerdict, Explanation, LastRestart, StatusRow, TimelineEntry, TimelineWhat};

use crate::connect::{Connector, Pool};

/// Our monotonic clock. It is passed in, so that a test or the simulator can set the time.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;

/// How to reach the database, and how long to wait for it.
#[derive(Clone)]
pub struct StoreSettings {
    /// A URL (`postgres://…`) or libpq's `key=value` form, with `sslmode` and `sslrootcert` as libpq means them. Secret.
    pub url: String,
    /// The name that `pg_stat_activity` shows, unless the URL gives another one. It is also written into `taken_by` of suspicions.
    pub application_name: String,
    /// Connections, at most. A call that finds all of them in use waits for one, within its own deadline.
    pub pool_size: usize,
    /// How long it may take to make one connection, TLS and login included.
    pub connect_timeout: Duration,
    /// How long one call may take: waiting for a connection, the statements, and reading the answer. Larger: a database that hangs delays
    /// the tick by that much. Smaller: the read of a large fleet never succeeds.
    pub statement_timeout: Duration,
    /// Rows of the fleet, at most. A view with more is refused, before its rows take up all memory.
    pub fleet_max: usize,
}

/// The URL holds a password.
impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSettings")
            .field("url", &"_")
            .field("application_name", &self.application_name)
            .field("pool_size", &self.pool_size)
            .field("connect_timeout", &self.connect_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("fleet_max", &self.fleet_max)
            .finish()
    }
}

/// The database, for all who need it. Cheap to clone: clones share one pool.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    clock: Clock,
    application_name: Arc<str>,
    statement_timeout: Duration,
    fleet_max: usize,
    promotions: Arc<fleet::Promotions>,
    /// What is kept of the last read of all rows.
    whole: Arc<Mutex<fleet::Whole>>,
    /// How many rows the last read of what has changed kept.
    last_changes: Arc<AtomicUsize>,
    /// How many calls of the platform's functions may be under way: half of the pool.
    platform_turns: Arc<Semaphore>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("application_name", &self.application_name).finish_non_exhaustive()
    }
}

impl Store {
    /// Parses the settings. Connects to nothing: a daemon that starts before its database waits for it.
    ///
    /// # Errors
    /// [`StoreError::Settings`], which names the fault and never quotes the URL.
    pub fn new(settings: &StoreSettings, clock: Clock) -> Result<Self, StoreError> {
        let connector = Connector::new(&settings.url, &settings.application_name, settings.connect_timeout)
            .map_err(StoreError::Settings)?;
        let pool = Pool::new(connector, settings).map_err(StoreError::Settings)?;
        Ok(Self {
            pool,
            clock,
            application_name: settings.application_name.as_str().into(),
            statement_timeout: settings.statement_timeout,
            fleet_max: settings.fleet_max,
            promotions: Arc::default(),
            whole: Arc::default(),
            last_changes: Arc::default(),
            platform_turns: Arc::new(Semaphore::new((settings.pool_size / 2).max(1))),
        })
    }

    /// Asks the database for a sign of life.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.within_deadline(async {
            self.pool.get().await?.execute("select 1", &[]).await?;
            Ok(())
        })
        .await
        .map_err(StoreError::Ping)
    }

    /// Runs one call under the deadline that all calls have.
    async fn within_deadline<T>(&self, call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        within(self.statement_timeout, call).await
    }
}

/// Runs `call` for `deadline` at most.
pub(crate) async fn within<T>(deadline: Duration, call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::time::timeout(deadline, call).await.unwrap_or(Err(Fault::Timeout(deadline)))
}

/// A parameter with its type, as the statements without preparation want it.
pub(crate) type Parameter<'a> = (&'a (dyn tokio_postgres::types::ToSql + Sync), Type);
