//! LISTEN, on a direct connection of its own.
//!
//! A notification only makes a look happen sooner, so losing some is harmless. But we must not believe that we receive notifications when
//! none can arrive. There are three ways for that to happen without an error. The other end of the connection is gone: keepalives find
//! that, and a query of our own each [`ALIVE_INTERVAL`]. The server hangs: that query has a deadline. Or a transaction pooler answers
//! LISTEN with OK and then delivers nothing: so a notification from a second connection must arrive before we say that we are connected.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Notification};

use crate::connect::{Connector, Driver};
use crate::error::{Fault, StoreError};

/// How often we make sure that the connection lives. Larger: after a break that nobody noticed, suspicions wait for the poll for longer.
const ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long the probe's notification may take to arrive.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Between attempts to connect: doubled from the first to the second, with jitter.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(15);
/// Notifications waiting for the daemon, at most. More are dropped: they all say "look at the table".
const QUEUE_MAX: usize = 10_000;

/// Where to listen.
#[derive(Clone)]
pub struct ListenSettings {
    /// A direct connection (`DEFIB_LISTEN_DATABASE_URL`): no transaction pooler in between. Secret.
    pub url: String,
    /// What `pg_stat_activity` shows.
    pub application_name: String,
    /// For one connection to be made, and for one query on it to be answered.
    pub connect_timeout: Duration,
}

/// The URL holds a password.
impl std::fmt::Debug for ListenSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListenSettings").field("url", &"_").finish_non_exhaustive()
    }
}

/// What is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenEvent {
    /// From now on notifications arrive. Earlier ones may have been missed, so the receiver has to look at the table once.
    Connected,
    /// Until the next [`Connected`](Self::Connected) no notification arrives, so the receiver has to poll. It comes once for each loss, and
    /// once when the first try to connect fails.
    Lost {
        /// Why, in words.
        why: String,
    },
    /// A notification.
    Notified {
        /// The channel that it came on.
        channel: &'static str,
        /// Its payload.
        payload: String,
    },
}

/// A subscription. Dropping it ends its connection.
#[derive(Debug)]
pub struct Listener {
    events: mpsc::Receiver<ListenEvent>,
    task: JoinHandle<()>,
}

impl Listener {
    /// The next event. Waits for ever when there is none.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> ListenEvent {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// An event that is there already.
    pub fn try_next(&mut self) -> Option<ListenEvent> {
        self.events.try_recv().ok()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens on `channels` (plain lower-case names), connecting and reconnecting for as long as the [`Listener`] lives.
///
/// # Errors
/// [`StoreError::Settings`]. A database that is away is no error: the listener says [`ListenEvent::Lost`] and goes on trying.
pub fn listen(settings: &ListenSettings, channels: &'static [&'static str]) -> Result<Listener, StoreError> {
    let connector = Connector::new(&settings.url, &settings.application_name, settings.connect_timeout)
        .map_err(StoreError::Settings)?;
    let (sender, events) = mpsc::channel(QUEUE_MAX);
    let subscription = Subscription { connector, channels, timeout: settings.connect_timeout, sender };
    Ok(Listener { events, task: tokio::spawn(subscription.run()) })
}

/// Whether a connection can be made from this URL, as far as that is known without making one.
///
/// # Errors
/// [`StoreError::Settings`]: what is wrong with it.
pub fn check_url(url: &str) -> Result<(), StoreError> {
    Connector::new(url, "defib", Duration::from_secs(1)).map(drop).map_err(StoreError::Settings)
}

/// Tries once whether notifications arrive. The error says in words why they do not.
pub async fn can_listen(settings: &ListenSettings, channels: &'static [&'static str]) -> Result<(), String> {
    let connector = Connector::new(&settings.url, &settings.application_name, settings.connect_timeout)
        .map_err(|error| error.to_string())?;
    let (sender, _) = mpsc::channel(1);
    let subscription = Subscription { connector, channels, timeout: settings.connect_timeout, sender };
    let (notifications, mut arrived) = mpsc::channel(QUEUE_MAX);
    subscription.subscribe(notifications, &mut arrived).await.map(drop)
}

struct Subscription {
    connector: Connector,
    channels: &'static [&'static str],
    timeout: Duration,
    sender: mpsc::Sender<ListenEvent>,
}

/// Aborts the task that drives a connection when the connection is given up.
struct Driving(JoinHandle<()>);

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Subscription {
    async fn run(self) {
        let mut retry = RETRY_MIN;
        let mut said_lost = false;
        loop {
            let (heard_for, why) = self.listen_until_lost(&mut said_lost).await;
            if !said_lost {
                said_lost = true;
                if self.sender.send(ListenEvent::Lost { why }).await.is_err() {
                    return;
                }
            }
            // After a connection that lasted, we try again at once; after one that was never made, with a growing delay.
            retry = if heard_for > RETRY_MAX { RETRY_MIN } else { (retry * 2).min(RETRY_MAX) };
            sleep(retry.mul_f64(0.5 + 0.5 * jitter())).await;
        }
    }

    /// Makes one connection and uses it until it is lost. Returns how long it lasted and why it was lost.
    async fn listen_until_lost(&self, said_lost: &mut bool) -> (Duration, String) {
        let (notifications, mut arrived) = mpsc::channel(QUEUE_MAX);
        let (client, _driving) = match self.subscribe(notifications, &mut arrived).await {
            Ok(subscribed) => subscribed,
            Err(why) => return (Duration::ZERO, why),
        };
        let since = Instant::now();
        *said_lost = false;
        if self.sender.send(ListenEvent::Connected).await.is_err() {
            return (Duration::ZERO, "nobody listens".into());
        }
        loop {
            match timeout(ALIVE_INTERVAL, arrived.recv()).await {
                Ok(Some(notification)) => {
                    let known = self.channels.iter().find(|channel| **channel == notification.channel());
                    if let Some(channel) = known {
                        let event = ListenEvent::Notified { channel, payload: notification.payload().to_owned() };
                        // The queue is full. The daemon has reason enough to look, so this notification is dropped.
                        let _ = self.sender.try_send(event);
                    }
                }
                Ok(None) => return (since.elapsed(), "the connection ended".into()),
                Err(_) => match timeout(self.timeout, client.batch_execute("select 1")).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return (since.elapsed(), described(&Fault::Query(error))),
                    Err(_) => return (since.elapsed(), "the connection no longer answers".into()),
                },
            }
        }
    }

    /// Connects and listens; returns once a notification from elsewhere has arrived.
    async fn subscribe(
        &self,
        notifications: mpsc::Sender<Notification>,
        arrived: &mut mpsc::Receiver<Notification>,
    ) -> Result<(Client, Driving), String> {
        let (client, driver) = self.connector.open().await.map_err(|fault| described(&fault))?;
        let driving = Driving(tokio::spawn(drive(driver, notifications)));
        let probe = probe_name();
        timeout(
            self.timeout,
            client.batch_execute(&format!("listen {}; listen {probe}", self.channels.join("; listen "))),
        )
        .await
        .map_err(|_| "LISTEN was not answered in time".to_owned())?
        .map_err(|error| described(&Fault::Query(error)))?;
        if self.notify_from_elsewhere(&probe).await {
            let heard = async {
                while let Some(notification) = arrived.recv().await {
                    if notification.channel() == probe {
                        return;
                    }
                }
            };
            if timeout(PROBE_TIMEOUT, heard).await.is_err() {
                // A pooler would keep the server connection that listens now, and very likely hand it to the next client.
                let _ = timeout(self.timeout, client.batch_execute("unlisten *")).await;
                return Err(
                    "LISTEN is answered but nothing arrives: is there a transaction pooler in between? (DEFIB_LISTEN_DATABASE_URL)"
                        .to_owned(),
                );
            }
        }
        Ok((client, driving))
    }

    /// Sends the probe through a second connection. False when no second connection can be made, because of a connection limit. Then we
    /// believe without proof that the first one works.
    async fn notify_from_elsewhere(&self, probe: &str) -> bool {
        let Ok((client, driver)) = self.connector.open().await else { return false };
        let _driving = Driving(tokio::spawn(async {
            let _ = driver.await;
        }));
        let parameters = [(&probe as _, Type::TEXT)];
        let sent = client.execute_typed("select pg_notify($1, '')", &parameters);
        matches!(timeout(self.timeout, sent).await, Ok(Ok(_)))
    }
}

/// Drives a connection and hands its notifications on, until it ends.
async fn drive(mut driver: Driver, notifications: mpsc::Sender<Notification>) {
    while let Some(Ok(message)) = poll_fn(|cx| driver.poll_message(cx)).await {
        if let AsyncMessage::Notification(notification) = message {
            let _ = notifications.try_send(notification);
        }
    }
}

/// The whole chain of causes as a text.
fn described(fault: &Fault) -> String {
    let mut words = fault.to_string();
    let mut source = std::error::Error::source(fault);
    while let Some(error) = source {
        words.push_str(": ");
        words.push_str(&error.to_string());
        source = error.source();
    }
    words
}

/// A channel that nobody else listens on.
fn probe_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nth = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("defib_probe_{:x}_{nth:x}_{:x}", std::process::id(), nanoseconds())
}

/// Between 0 and 1, from the clock: replicas that lost the same database need not return in step.
fn jitter() -> f64 {
    f64::from(nanoseconds() % 1_000) / 1_000.0
}

fn nanoseconds() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos())
}
