//! What can go wrong with the database. [`StoreError`] names the operation that failed, and [`Fault`] how it failed.
//!
//! No error holds any part of the URL, because in a mistyped URL the password may be anywhere.

use std::error::Error as _;
use std::time::Duration;

use rustls::CertificateError;
use tokio_postgres::error::SqlState;

/// Why the settings are unusable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Neither a URL nor a list of `key=value`.
    #[error("the database URL cannot be read: {0}")]
    Malformed(&'static str),
    /// A libpq option that is not supported here.
    #[error("the database URL's option `{0}` is not supported")]
    Unsupported(&'static str),
    /// An option that has another set of values.
    #[error("the database URL's option `{option}` must be one of {expected}")]
    Invalid {
        /// The option.
        option: &'static str,
        /// Its values.
        expected: &'static str,
    },
    /// An option that nobody knows. Its name is not shown: it may be the tail of a password with an `&` in it.
    #[error(
        "the database URL has an option that is not known here (special characters in a password must be percent-encoded)"
    )]
    UnknownOption,
    /// `verify-ca` without a certificate authority.
    #[error("sslmode=verify-ca needs sslrootcert=<file> (verify-full may do with the system's certificates)")]
    NoRootCertificate,
    /// The file of `sslrootcert` is unusable.
    #[error("the certificates of sslrootcert={path} cannot be used: {reason}")]
    RootCertificate {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// rustls refused its configuration.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The pool refused its configuration.
    #[error("the connection pool cannot be set up: {0}")]
    Pool(String),
}

/// How a call to the database failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// No connection could be made.
    #[error("no connection to the database")]
    Connect(#[source] tokio_postgres::Error),
    /// The certificate of the server was not accepted.
    #[error("the database server's certificate is refused: {why}")]
    Certificate {
        /// What is wrong with it, and what it was verified against.
        why: String,
        /// The library's word.
        source: tokio_postgres::Error,
    },
    /// No connection was made in time.
    #[error("no connection to the database within {0:?}")]
    ConnectTimeout(Duration),
    /// Every connection of the pool stayed in use.
    #[error("every database connection stayed in use")]
    Busy,
    /// No answer in time. What was asked may or may not have been done.
    #[error("no answer from the database within {0:?}")]
    Timeout(Duration),
    /// The server takes no writes. Nothing can be claimed there, and the heartbeats that it has may be old.
    #[error("the database is read-only (a standby, or default_transaction_read_only)")]
    ReadOnly,
    /// The fleet has more rows than the store was set up for.
    #[error(
        "defib.fleet has more than {most} rows to watch: raise DEFIB_FLEET_MAX, or narrow the view or DEFIB_WATCHED_STATUSES"
    )]
    TooMany {
        /// How many it may have.
        most: usize,
    },
    /// The database refused, or the connection broke.
    #[error("the database refused or broke off")]
    Query(#[source] tokio_postgres::Error),
    /// A function of the platform raised, waited for a lock in vain, or ran into its own time-out. The database is well.
    #[error("defib.{function} failed")]
    Function {
        /// Which, without its schema.
        function: &'static str,
        /// What the server said.
        source: tokio_postgres::Error,
    },
    /// A function of the platform was not called, because earlier calls have not ended.
    #[error("defib.{function} was not called: earlier calls of the platform's functions have not ended")]
    FunctionBusy {
        /// Which, without its schema.
        function: &'static str,
    },
    /// The database answered with something that the contract excludes.
    #[error("an answer that the contract of schema defib excludes: {0}")]
    Unexpected(String),
}

/// Every value of [`StoreError::kind`], for a metric that exists at zero from the start.
pub const KINDS: [&str; 13] = [
    "settings",
    "connect",
    "timeout",
    "busy",
    "connection",
    "resources",
    "lock",
    "read_only",
    "permission",
    "schema",
    "contract",
    "function",
    "query",
];

impl Fault {
    /// A connection that was not made. `trusted` is what certificates are held against.
    pub(crate) fn connect(error: tokio_postgres::Error, trusted: &str) -> Self {
        match certificate_error(&error) {
            Some(fault) => Self::Certificate { why: refusal(fault, trusted), source: error },
            None => Self::Connect(error),
        }
    }

    /// Whether the database refused what a row holds. Then it may still take other rows; after any other fault it will take none.
    pub(crate) fn is_of_a_row(&self) -> bool {
        matches!(self, Self::Query(_)) && self.kind() == "query"
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) | Self::Certificate { .. } | Self::ConnectTimeout(_) => "connect",
            Self::ReadOnly => "read_only",
            Self::Busy | Self::FunctionBusy { .. } => "busy",
            Self::Timeout(_) => "timeout",
            Self::Unexpected(_) | Self::TooMany { .. } => "contract",
            Self::Function { .. } => "function",
            Self::Query(error) => query_kind(error),
        }
    }
}

/// Why TLS refused the server's certificate, if that is what the error is about.
fn certificate_error(error: &tokio_postgres::Error) -> Option<&CertificateError> {
    // `io::Error::source` skips what it holds.
    let held = error.source()?.downcast_ref::<std::io::Error>()?.get_ref()?;
    match held.downcast_ref()? {
        rustls::Error::InvalidCertificate(fault) => Some(fault),
        _ => None,
    }
}

/// In words that name what to look at.
fn refusal(fault: &CertificateError, trusted: &str) -> String {
    match fault {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("it was not issued by {trusted}")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another host than the URL names, and sslmode=verify-full compares them".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; is a clock wrong?".to_owned()
        }
        _ => format!("it does not do for {trusted}"),
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Query(error)
    }
}

/// Decided by the class of the `SQLSTATE`. Without one, the answer did not arrive completely.
fn query_kind(error: &tokio_postgres::Error) -> &'static str {
    let Some(state) = error.code() else {
        return if error.to_string().starts_with("error deserializing") { "contract" } else { "connection" };
    };
    match *state {
        SqlState::LOCK_NOT_AVAILABLE | SqlState::T_R_DEADLOCK_DETECTED | SqlState::T_R_SERIALIZATION_FAILURE => "lock",
        SqlState::QUERY_CANCELED => "timeout",
        SqlState::READ_ONLY_SQL_TRANSACTION => "read_only",
        SqlState::INSUFFICIENT_PRIVILEGE => "permission",
        SqlState::UNDEFINED_TABLE
        | SqlState::UNDEFINED_COLUMN
        | SqlState::UNDEFINED_FUNCTION
        | SqlState::INVALID_SCHEMA_NAME => "schema",
        _ => match &state.code()[..2] {
            "08" | "57" => "connection", // connection exception; shut down, starting up
            "53" => "resources",         // disk full, out of memory, too many connections
            _ => "query",
        },
    }
}

macro_rules! store_errors {
    ($($(#[$doc:meta])* $variant:ident = $display:literal,)+) => {
        /// An operation that failed, with the way it failed as its source.
        #[derive(Debug, thiserror::Error)]
        #[non_exhaustive]
        pub enum StoreError {
            /// The settings are unusable; nothing was tried.
            #[error("the database settings are unusable")]
            Settings(#[source] SettingsError),
            /// Another version of defib made the schema: an older binary must not touch it.
            #[error("schema defib is at version {have}, this defib knows up to {want}")]
            NewerSchema {
                /// The version that is there.
                have: i32,
                /// The newest that this binary knows.
                want: i32,
            },
            $($(#[$doc])* #[error($display)] $variant(#[source] Fault),)+
        }

        impl StoreError {
            fn fault(&self) -> Option<&Fault> {
                match self {
                    Self::Settings(_) | Self::NewerSchema { .. } => None,
                    $(Self::$variant(fault) => Some(fault),)+
                }
            }
        }
    };
}

store_errors! {
    /// [`ping`](crate::Store::ping).
    Ping = "cannot reach the database",
    /// [`schema_state`](crate::Store::schema_state).
    SchemaState = "cannot read the version of schema defib",
    /// [`migrate`](crate::Store::migrate).
    Migrate = "cannot migrate schema defib",
    /// [`read_fleet`](crate::Store::read_fleet).
    ReadFleet = "cannot read the fleet",
    /// [`suspect`](crate::Store::suspect).
    Suspect = "cannot report a suspicion",
    /// [`take_suspicions`](crate::Store::take_suspicions) and [`pending_suspicions`](crate::Store::pending_suspicions).
    TakeSuspicions = "cannot take the suspicions",
    /// [`read_attempts`](crate::Store::read_attempts).
    ReadAttempts = "cannot read the ledger",
    /// [`claim`](crate::Store::claim).
    Claim = "cannot claim a restart",
    /// [`may_act`](crate::Store::may_act).
    MayAct = "cannot check a claim",
    /// [`take_lease_turn`](crate::Store::take_lease_turn), [`release_leases`](crate::Store::release_leases) and
    /// [`leases`](crate::Store::leases).
    Leases = "cannot read or write leases",
    /// [`finish`](crate::Store::finish) and [`abandon_unasked`](crate::Store::abandon_unasked).
    Finish = "cannot finish an attempt",
    /// [`keep_last_words`](crate::Store::keep_last_words).
    KeepLastWords = "cannot keep the last words of a container",
    /// [`recovered`](crate::Store::recovered).
    Recovered = "cannot record a recovery",
    /// [`take_back`](crate::Store::take_back).
    TakeBack = "cannot tell the platform that a workspace is no longer dead",
    /// [`owed_marks`](crate::Store::owed_marks) and [`owe`](crate::Store::owe).
    Marks = "cannot read or write the marks that are to be taken back",
    /// [`mark_lost`](crate::Store::mark_lost).
    MarkLost = "cannot mark a workspace lost",
    /// [`open_attempts`](crate::Store::open_attempts).
    OpenAttempts = "cannot read the attempts that are under way",
    /// [`acknowledge`](crate::Store::acknowledge).
    Acknowledge = "cannot acknowledge the attempts of a workspace",
    /// [`read_verdicts`](crate::Store::read_verdicts).
    ReadVerdicts = "cannot read the current verdicts",
    /// [`record_verdicts`](crate::Store::record_verdicts).
    RecordVerdicts = "cannot record verdicts",
    /// [`record_events`](crate::Store::record_events).
    RecordEvents = "cannot record events",
    /// [`hold`](crate::Store::hold), [`release`](crate::Store::release) and [`holds`](crate::Store::holds).
    Holds = "cannot read or write holds",
    /// [`retain`](crate::Store::retain).
    Retain = "cannot remove old rows",
    /// [`status`](crate::Store::status).
    Status = "cannot read the status of the fleet",
    /// [`overview`](crate::Store::overview) and what is shown of the ledger.
    Overview = "cannot read the fleet and its restarts for the status page",
    /// [`explain`](crate::Store::explain).
    Explain = "cannot read the history of a workspace",
    /// [`configure_webhook`](crate::Store::configure_webhook), [`take_message`](crate::Store::take_message) and what becomes of a message.
    Outbox = "cannot read or write what the webhook is owed",
    /// [`report_replica`](crate::Store::report_replica) and [`report_engines`](crate::Store::report_engines).
    Report = "cannot record what this replica says of itself and of its engines",
    /// [`said`](crate::Store::said).
    Said = "cannot read what the replicas say of themselves and of their engines",
    /// [`save_cadences`](crate::Store::save_cadences), [`read_cadences`](crate::Store::read_cadences) and
    /// [`forget_cadences`](crate::Store::forget_cadences).
    Cadences = "cannot read or write the learned heartbeat intervals",
    /// [`note_clock`](crate::Store::note_clock) and [`clock_history`](crate::Store::clock_history).
    ClockSteps = "cannot read or write the steps of the database's clock",
    /// [`order`](crate::Store::order) and what is done about orders.
    Orders = "cannot read or write orders",
    /// [`is_known`](crate::Store::is_known) and [`names_like`](crate::Store::names_like).
    Names = "cannot look a name up",
    /// [`check_facts`](crate::Store::check_facts), [`check_contract`](crate::Store::check_contract) and
    /// [`status_that_mark_dead_writes`](crate::Store::status_that_mark_dead_writes).
    Check = "cannot examine the database",
}

impl StoreError {
    /// What kind of failure, from [`KINDS`]: a metric label.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Settings(_) => "settings",
            Self::NewerSchema { .. } => "schema",
            _ => self.fault().map_or("query", Fault::kind),
        }
    }

    /// Whether the database gave no answer, as opposed to an answer that is an error. Then nothing is known, and trying again later may
    /// help. A server that takes no writes counts as one without an answer: after a fail-over, another server is the one that we mean to
    /// ask.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self.kind(), "connect" | "timeout" | "busy" | "connection" | "resources" | "read_only")
            && !self.is_function_busy()
    }

    /// Whether a function of the platform was not called, because earlier calls for other workspaces have not ended. That says nothing about
    /// the workspace, nor about the database.
    #[must_use]
    pub fn is_function_busy(&self) -> bool {
        matches!(self.fault(), Some(Fault::FunctionBusy { .. }))
    }

    /// Which function of the platform failed: it raised, stayed blocked or took too long. That concerns the workspace that it was called
    /// for and nobody else, so it is never a database outage.
    #[must_use]
    pub fn function(&self) -> Option<&'static str> {
        match self.fault()? {
            Fault::Function { function, .. } => Some(function),
            _ => None,
        }
    }
}
