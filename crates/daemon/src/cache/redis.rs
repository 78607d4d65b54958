//! Deletes keys in Redis, over one connection that is made at the start, and made anew after every failure. A connection that has ended meanwhile
//! (Redis ends idle ones where `timeout` is set, and all of them when it restarts) is noticed at the next deletion, which then makes another one
//! and tries once more at once. A deletion that is made twice does no harm.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Client, RedisError, cmd};
use tokio::sync::Mutex;

use super::Keys;
use super::address::{Address, Reached};

/// How long a connection or an answer may take. Larger: a hung Redis is noticed later, and deletions wait longer for the next try.
/// Smaller: a Redis that is busy for a moment looks like one that is away.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(1);

/// A Redis.
pub(crate) struct RedisCache {
    address: Address,
    reached: How,
    /// `None` when the next caller has to make it.
    connection: Mutex<Option<Connection>>,
}

enum How {
    One(Box<Client>),
    Cluster(Box<ClusterClient>),
    /// Asks the sentinels each time which server is the primary now.
    Sentinel(Mutex<Box<SentinelClient>>),
}

/// Commands of several callers travel over it side by side.
#[derive(Clone)]
enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl RedisCache {
    /// Does not connect: Redis may not be there yet.
    ///
    /// # Errors
    /// A sentence without any of the secrets in it.
    pub(crate) fn new(address: Address) -> Result<Self, String> {
        let reached = match address.reach().map_err(|why| address.redacted(&why))? {
            Reached::One(client) => How::One(client),
            Reached::Cluster(client) => How::Cluster(client),
            Reached::Sentinel(client) => How::Sentinel(Mutex::new(client)),
        };
        Ok(Self { address, reached, connection: Mutex::default() })
    }

    async fn connection(&self) -> Result<Connection, RedisError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref() {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new();
        let config = config.set_connection_timeout(Some(ANSWER_MAX)).set_response_timeout(Some(ANSWER_MAX));
        let made = match &self.reached {
            How::One(client) => Connection::One(client.get_multiplexed_async_connection_with_config(&config).await?),
            How::Cluster(client) => Connection::Cluster(client.get_async_connection().await?),
            How::Sentinel(client) => {
                Connection::One(client.lock().await.get_async_connection_with_config(&config).await?)
            }
        };
        *kept = Some(made.clone());
        Ok(made)
    }

    async fn delete_all(&self, keys: &[String]) -> Result<(), RedisError> {
        let connection = self.connection().await?;
        // There is one command for each key, because the keys of a cluster are on several servers.
        let deleted = try_join_all(keys.iter().map(|key| {
            let mut connection = connection.clone();
            async move {
                let mut delete = cmd("DEL");
                delete.arg(key);
                match &mut connection {
                    Connection::One(connection) => delete.query_async::<i64>(connection).await,
                    Connection::Cluster(connection) => delete.query_async::<i64>(connection).await,
                }
            }
        }));
        deleted.await.map(drop)
    }
}

#[async_trait]
impl Keys for RedisCache {
    async fn delete(&self, keys: &[String]) -> Result<(), String> {
        let mut was_kept = self.connection.lock().await.is_some();
        loop {
            // If the caller gives up, the connection stays as it is, and the library ends it by its own time-out.
            let result = tokio::time::timeout(2 * ANSWER_MAX, self.delete_all(keys)).await;
            let (why, has_ended) = match result {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => (error.to_string(), error.is_io_error() && !error.is_timeout()),
                Err(_) => ("no answer in time".to_owned(), false),
            };
            *self.connection.lock().await = None;
            if !(was_kept && has_ended) {
                return Err(self.address.redacted(&why));
            }
            was_kept = false;
        }
    }

    async fn get_ready(&self) {
        let _ = tokio::time::timeout(2 * ANSWER_MAX, self.connection()).await;
    }
}
