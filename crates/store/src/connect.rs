//! Connections: they are made as `sslmode` says, kept in a pool, and thrown away when an answer did not come.
//!
//! A call that is given up in the middle leaves a connection in an unknown state, and a server process at work. The next caller
//! must not get that connection, and the process must not stay behind: blocked on a lock, it would never notice that its
//! client went away, and a daemon that tries again each tick would fill the server with them. So [`Connection`] cancels and
//! discards itself unless its last answer came whole.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Connect, Manager, ManagerConfig, Object, PoolError, RecyclingMethod, Runtime, Timeouts};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Row, RowStream, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::StoreSettings;
use crate::error::{Fault, SettingsError};
use crate::url::{self, SslMode};
use crate::{Parameter, tls};

/// How long a request to cancel may take. It is a courtesy to the server; nobody waits for it.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection whose peer went away without a word is noticed after `15 + 3 × 5` seconds without an answer.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVES_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVES_RETRIES: u32 = 3;
/// A connection that still has something to send is noticed after this time.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a transaction waits for one lock, unless it says otherwise.
const LOCK_TIMEOUT: Duration = Duration::from_millis(750);

/// How long a transaction that reads, or that lets an attempt act, may wait for our next statement. Larger: when a host vanishes in the middle
/// of one, its replica's successor waits for longer. Smaller: a process that was not scheduled for so long loses its transaction.
const SILENCE_MAX: Duration = Duration::from_millis(2_500);
/// Where Debian's and most others' servers have their socket, for a URL that names no host.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

pub(crate) type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
pub(crate) type Driver = tokio_postgres::Connection<Socket, TlsStream>;

/// Makes connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector {
    /// For each host, in order: one configuration for each way to try, in order.
    hosts: Vec<Vec<Config>>,
    tls: MakeRustlsConnect,
    /// What the certificate of a server is verified against. The message of a failed verification names it.
    trusted: Arc<str>,
    timeout: Duration,
}

impl Connector {
    pub(crate) fn new(url: &str, application_name: &str, timeout: Duration) -> Result<Self, SettingsError> {
        let parsed = url::parse(url)?;
        let tls = tls::connector(parsed.ssl_mode, parsed.ssl_root_cert.as_deref())?;
        let given = |option: &str| parsed.given.iter().any(|given| given == option);
        let mut config = parsed.config;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            let local = if Path::new(SOCKET_DIRECTORY).is_dir() { SOCKET_DIRECTORY } else { "localhost" };
            config.host(local);
        }
        if !given("application_name") {
            config.application_name(application_name);
        }
        if !given("keepalives_idle") {
            config.keepalives_idle(KEEPALIVES_IDLE);
        }
        if !given("keepalives_interval") {
            config.keepalives_interval(KEEPALIVES_INTERVAL);
        }
        if !given("keepalives_retries") {
            config.keepalives_retries(KEEPALIVES_RETRIES);
        }
        if !given("tcp_user_timeout") {
            config.tcp_user_timeout(TCP_USER_TIMEOUT);
        }
        let hosts = each_host(&config);
        if hosts.len() > 1 && !given("target_session_attrs") {
            // A server that takes no writes is of no use to us, and when a URL names several hosts, one of them usually is a standby.
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let with_ways = |mut host: Config| -> Vec<Config> {
            let on_this_machine = matches!(host.get_hosts(), [Host::Unix(_)]);
            host.target_session_attrs(config.get_target_session_attrs());
            let modes = ways(if on_this_machine { SslMode::Disable } else { parsed.ssl_mode });
            modes.iter().map(|mode| host.clone().ssl_mode(*mode).clone()).collect()
        };
        let hosts = hosts.into_iter().map(with_ways).collect();
        let trusted = match parsed.ssl_root_cert.as_deref().filter(|path| path.as_os_str() != "system") {
            Some(path) => format!("sslrootcert={}", path.display()),
            None => "the system's authorities (there is no sslrootcert)".to_owned(),
        };
        Ok(Self { hosts, tls, trusted: trusted.into(), timeout })
    }

    /// One connection, and what drives it.
    pub(crate) async fn open(&self) -> Result<(Client, Driver), Fault> {
        tokio::time::timeout(self.timeout, self.open_some_host())
            .await
            .map_err(|_| Fault::ConnectTimeout(self.timeout))?
            .map_err(|error| Fault::connect(error, &self.trusted))
    }

    /// Connects to the first host that will do. A host that gives no answer at all (its machine hangs, or has vanished) may use up its
    /// share of the time and no more, so that the hosts after it get theirs. The last one has all the time that is left.
    async fn open_some_host(&self) -> Result<(Client, Driver), tokio_postgres::Error> {
        let share = self.timeout / u32::try_from(self.hosts.len()).unwrap_or(u32::MAX).max(1);
        let (last, first) = self.hosts.split_last().map_or((&[][..], &[][..]), |(last, first)| (&last[..], first));
        for ways in first {
            if let Ok(Ok(connected)) = tokio::time::timeout(share, self.open_some_way(ways)).await {
                return Ok(connected);
            }
        }
        self.open_some_way(last).await
    }

    async fn open_some_way(&self, ways: &[Config]) -> Result<(Client, Driver), tokio_postgres::Error> {
        let Some((last, first)) = ways.split_last() else {
            return Config::new().connect(self.tls.clone()).await; // never: there is a way for every mode
        };
        for way in first {
            if let ControlFlow::Break(result) = try_way(way, &self.tls).await {
                return result;
            }
        }
        last.connect(self.tls.clone()).await
    }
}

/// One configuration for each host. The library can try hosts one after the other as well, but it has no time-out that would make it leave
/// a host that accepted the connection and then hangs.
fn each_host(config: &Config) -> Vec<Config> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = hosts.len().max(addresses.len());
    let mismatch = (hosts.len() != count && !hosts.is_empty())
        || (addresses.len() != count && !addresses.is_empty())
        || (ports.len() > 1 && ports.len() != count);
    if count < 2 || mismatch {
        return vec![config.clone()]; // a mismatch is refused by the library, in its words
    }
    (0..count)
        .map(|nth| {
            let mut one = without_hosts(config);
            match hosts.get(nth) {
                Some(Host::Tcp(name)) => _ = one.host(name),
                Some(Host::Unix(path)) => _ = one.host_path(path),
                None => {}
            }
            if let Some(address) = addresses.get(nth) {
                one.hostaddr(*address);
            }
            if let Some(port) = ports.get(nth).or_else(|| ports.first()) {
                one.port(*port);
            }
            one
        })
        .collect()
}

/// A copy of a configuration without its hosts.
fn without_hosts(config: &Config) -> Config {
    let mut one = Config::new();
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(dbname) = config.get_dbname() {
        one.dbname(dbname);
    }
    if let Some(options) = config.get_options() {
        one.options(options);
    }
    if let Some(name) = config.get_application_name() {
        one.application_name(name);
    }
    if let Some(timeout) = config.get_connect_timeout() {
        one.connect_timeout(*timeout);
    }
    if let Some(timeout) = config.get_tcp_user_timeout() {
        one.tcp_user_timeout(*timeout);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    one.keepalives(config.get_keepalives());
    one.keepalives_idle(config.get_keepalives_idle());
    one.ssl_negotiation(config.get_ssl_negotiation());
    one.channel_binding(config.get_channel_binding());
    one.load_balance_hosts(config.get_load_balance_hosts());
    one
}

/// The ways that libpq tries for a mode.
fn ways(mode: SslMode) -> &'static [tokio_postgres::config::SslMode] {
    use tokio_postgres::config::SslMode::{Disable, Prefer, Require};
    match mode {
        SslMode::Disable => &[Disable],
        SslMode::Allow => &[Disable, Require],
        SslMode::Prefer => &[Prefer, Disable],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Require],
    }
}

/// Tries one way to connect. `Continue`: it failed for a reason that another way may not have.
async fn try_way(
    way: &Config,
    tls: &MakeRustlsConnect,
) -> ControlFlow<Result<(Client, Driver), tokio_postgres::Error>> {
    match way.connect(tls.clone()).await {
        // pg_hba.conf has no entry for this way, or TLS itself failed; the library does not tell these apart.
        Err(error)
            if error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
                || error.to_string().contains("TLS handshake") =>
        {
            ControlFlow::Continue(())
        }
        result => ControlFlow::Break(result),
    }
}

impl Connect for Connector {
    fn connect(
        &self,
        _: &Config,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + '_>>
    {
        Box::pin(async {
            let (client, driver) = self.open_some_host().await?; // the pool has the timeout
            let driving = tokio::spawn(async move {
                if let Err(error) = driver.await {
                    tracing::debug!(%error, "database connection ended");
                }
            });
            Ok((client, driving))
        })
    }
}

/// The connections that calls share.
#[derive(Clone)]
pub(crate) struct Pool {
    connections: deadpool_postgres::Pool,
    tls: MakeRustlsConnect,
    trusted: Arc<str>,
    connect_timeout: Duration,
    statement_timeout: Duration,
}

impl Pool {
    pub(crate) fn new(connector: Connector, settings: &StoreSettings) -> Result<Self, SettingsError> {
        let (tls, trusted) = (connector.tls.clone(), Arc::clone(&connector.trusted));
        let config = connector.hosts.first().and_then(|ways| ways.first()).cloned().unwrap_or_default();
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(config, connector, recycling);
        let connections = deadpool_postgres::Pool::builder(manager)
            .max_size(settings.pool_size.max(1))
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts {
                wait: Some(settings.statement_timeout),
                create: Some(settings.connect_timeout),
                recycle: Some(settings.connect_timeout),
            })
            .build()
            .map_err(|error| SettingsError::Pool(error.to_string()))?;
        let (connect_timeout, statement_timeout) = (settings.connect_timeout, settings.statement_timeout);
        Ok(Self { connections, tls, trusted, connect_timeout, statement_timeout })
    }

    /// Ends the idle connections of the pool. The next caller makes a new connection, perhaps to another host.
    pub(crate) fn renew(&self) {
        self.connections.retain(|_, _| false);
    }

    pub(crate) async fn get(&self) -> Result<Connection, Fault> {
        let object = self.connections.get().await.map_err(|error| match error {
            PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => Fault::Busy,
            PoolError::Timeout(_) => Fault::ConnectTimeout(self.connect_timeout),
            PoolError::Backend(error) => Fault::connect(error, &self.trusted),
            other => Fault::Unexpected(other.to_string()),
        })?;
        Ok(Connection {
            object: Some(object),
            tls: self.tls.clone(),
            statement_timeout: self.statement_timeout,
            asked: false,
            in_transaction: false,
        })
    }
}

/// One connection, out of the pool for one call.
pub(crate) struct Connection {
    /// `None` only after the drop.
    object: Option<Object>,
    tls: MakeRustlsConnect,
    statement_timeout: Duration,
    /// Whether a statement was sent whose answer has not arrived completely.
    asked: bool,
    in_transaction: bool,
}

impl Connection {
    /// Rows of a statement.
    pub(crate) async fn query(&mut self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Fault> {
        self.asked = true;
        let answer = self.client()?.query_typed(sql, parameters).await;
        self.answered(answer)
    }

    /// The first row of a statement, if there is one.
    pub(crate) async fn query_opt(&mut self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Option<Row>, Fault> {
        Ok(self.query(sql, parameters).await?.into_iter().next())
    }

    /// The only row of a statement that always has one.
    pub(crate) async fn query_one(&mut self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Row, Fault> {
        self.query_opt(sql, parameters).await?.ok_or_else(|| Fault::Unexpected("no row where one always is".into()))
    }

    /// Rows as they arrive. [`rows_ended`](Self::rows_ended) must follow the last one, else the connection is discarded.
    pub(crate) async fn stream(&mut self, sql: &str, parameters: Vec<Parameter<'_>>) -> Result<RowStream, Fault> {
        self.asked = true;
        Ok(self.client()?.query_typed_raw(sql, parameters).await?)
    }

    pub(crate) fn rows_ended(&mut self) {
        self.asked = false;
    }

    /// How many rows a statement changed.
    pub(crate) async fn execute(&mut self, sql: &str, parameters: &[Parameter<'_>]) -> Result<u64, Fault> {
        self.asked = true;
        let answer = self.client()?.execute_typed(sql, parameters).await;
        self.answered(answer)
    }

    /// Several statements without parameters.
    pub(crate) async fn batch(&mut self, sql: &str) -> Result<(), Fault> {
        self.asked = true;
        let answer = self.client()?.batch_execute(sql).await;
        self.answered(answer)
    }

    /// Begins a transaction that the server ends by itself if it no longer hears from us: at the deadline of our call, or when the
    /// transaction has waited for a lock for three quarters of a second.
    ///
    /// The lock time-out is below `deadlock_timeout` (1 s). If we and the platform take locks in opposite orders, we give up before the
    /// server looks for a transaction to abort, which could have been the platform's.
    pub(crate) async fn begin(&mut self) -> Result<(), Fault> {
        self.begin_unless_idle_for(self.statement_timeout).await
    }

    /// Begins a transaction that the server ends also when it has received no statement of ours for this time.
    pub(crate) async fn begin_unless_idle_for(&mut self, idle: Duration) -> Result<(), Fault> {
        self.begin_within(idle, LOCK_TIMEOUT).await
    }

    /// The same, with a time-out of its own for each lock, too.
    pub(crate) async fn begin_within(&mut self, idle: Duration, lock: Duration) -> Result<(), Fault> {
        let bound = self.statement_timeout.as_millis().max(1);
        let idle = idle.as_millis().clamp(1, bound);
        let sql = format!(
            "begin isolation level read committed; \
             set local statement_timeout = {bound}; \
             set local idle_in_transaction_session_timeout = {idle}; \
             set local lock_timeout = {lock}",
            lock = lock.as_millis().clamp(1, bound),
        );
        self.in_transaction = true;
        self.batch(&sql).await
    }

    /// A transaction that reads a few rows of the fleet: the shipped view then walks up from each of them to see whether an ancestor is parked,
    /// instead of walking down every parked tree. A platform's own view may ignore it.
    ///
    /// The server ends it if it no longer hears from us, because the transaction holds locks on tables of others.
    pub(crate) async fn begin_for_a_few_rows(&mut self) -> Result<(), Fault> {
        self.begin_to_read("set local defib.walk = 'up'; ").await
    }

    /// A transaction that reads the whole fleet.
    pub(crate) async fn begin_for_many_rows(&mut self) -> Result<(), Fault> {
        self.begin_to_read("").await
    }

    /// `jit` is off, because the server would compile the plan for a large fleet although each row is only passed on: compiling takes
    /// longer than it saves. The settings end with the transaction, also behind a pooler. A statement has the time-out of our role, if any.
    async fn begin_to_read(&mut self, settings: &str) -> Result<(), Fault> {
        let silence = SILENCE_MAX.min(self.statement_timeout).as_millis().max(1);
        self.in_transaction = true;
        let timeout = format!("set local idle_in_transaction_session_timeout = {silence}");
        self.batch(&format!("begin isolation level read committed; set local jit = off; {settings}{timeout}")).await
    }

    /// Begins a transaction to which the server sets no time limits.
    pub(crate) async fn begin_unbounded(&mut self) -> Result<(), Fault> {
        self.in_transaction = true;
        self.batch("begin isolation level read committed").await
    }

    /// Commits. If the connection is dropped before that, it is discarded, and the server rolls back.
    pub(crate) async fn commit(&mut self) -> Result<(), Fault> {
        self.batch("commit").await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Rolls a transaction back. That works also after the server has refused a statement in it.
    pub(crate) async fn rollback(&mut self) -> Result<(), Fault> {
        self.batch("rollback").await?;
        self.in_transaction = false;
        Ok(())
    }

    fn client(&self) -> Result<&Client, Fault> {
        self.object.as_ref().map(|object| &***object).ok_or(Fault::Busy)
    }

    fn answered<T>(&mut self, answer: Result<T, tokio_postgres::Error>) -> Result<T, Fault> {
        // A refusal by the server is a complete answer. After anything else it is not known what state the connection is in.
        self.asked = answer.as_ref().err().is_some_and(|error| error.as_db_error().is_none());
        Ok(answer?)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        if !self.asked && !self.in_transaction {
            return; // back to the pool
        }
        let client = Object::take(object);
        if self.asked
            && !client.is_closed()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (cancel, tls) = (client.cancel_token(), self.tls.clone());
            runtime.spawn(async move {
                let _ = tokio::time::timeout(CANCEL_TIMEOUT, cancel.cancel_query(tls)).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connector(url: &str) -> Connector {
        Connector::new(url, "defib", Duration::from_secs(4)).unwrap()
    }

    #[test]
    fn each_of_several_hosts_is_tried_by_itself_with_all_that_the_url_says() {
        let connector = connector("postgres://u:p@a:1,b:2/d?application_name=x&keepalives_retries=7&sslmode=require");
        let hosts: Vec<&Config> = connector.hosts.iter().flatten().collect();
        assert_eq!(hosts.len(), 2);
        for (host, (name, port)) in hosts.iter().zip([("a", 1), ("b", 2)]) {
            assert_eq!((host.get_hosts(), host.get_ports()), (&[Host::Tcp(name.into())][..], &[port][..]));
            assert_eq!((host.get_user(), host.get_password()), (Some("u"), Some(&b"p"[..])));
            assert_eq!((host.get_dbname(), host.get_application_name()), (Some("d"), Some("x")));
            assert_eq!(host.get_keepalives_retries(), Some(7));
            assert_eq!(host.get_tcp_user_timeout(), Some(&TCP_USER_TIMEOUT));
        }
    }

    #[test]
    fn of_several_hosts_the_one_that_can_be_written_to_is_meant_unless_the_url_says_otherwise() {
        for (url, attributes) in [
            ("postgres://a,b/d", TargetSessionAttrs::ReadWrite),
            ("postgres://a,b/d?target_session_attrs=primary", TargetSessionAttrs::ReadWrite),
            ("postgres://a,b/d?target_session_attrs=any", TargetSessionAttrs::Any),
            ("postgres://a/d", TargetSessionAttrs::Any),
        ] {
            for config in connector(url).hosts.iter().flatten() {
                assert_eq!(config.get_target_session_attrs(), attributes, "{url}");
            }
        }
    }

    #[test]
    fn a_socket_beside_a_host_goes_without_tls() {
        use tokio_postgres::config::SslMode::{Disable, Require};
        let connector = connector("host=/run/pg,b dbname=d sslmode=require");
        let modes: Vec<_> = connector.hosts.iter().flatten().map(Config::get_ssl_mode).collect();
        assert_eq!(modes, [Disable, Require]);
    }
}
