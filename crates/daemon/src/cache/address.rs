//! `DEFIB_REDIS_URL`: one server, a cluster, or a server that sentinels know.
//!
//! ```text
//! redis://[user:password@]host[:6379][/database]      rediss:// with TLS, redis+unix:///socket for a unix socket
//! cluster+redis://[user:password@]host[:port],host…   some nodes of a cluster
//! sentinel+redis://[user:password@]host[:port],host…/service[?db=0&sentinel_user=…&sentinel_password=…]
//! ```
//!
//! With `rediss`, the system's certificate authorities are trusted, or those of the PEM file that `?ca=/path` names instead.

use std::fmt;

use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{Client, ConnectionAddr, IntoConnectionInfo, RedisError, TlsCertificates, TlsMode};

use super::redis::ANSWER_MAX;

/// The address of Redis, and how it is reached.
#[derive(Clone)]
pub(crate) struct Address {
    place: Place,
    ca: Option<String>,
    shown: String,
    secrets: Vec<String>,
}

#[derive(Clone)]
enum Place {
    One(String),
    Cluster(Vec<String>),
    Sentinel { nodes: Vec<String>, service: String, asks_as: Login },
}

/// Our user and password at the sentinels themselves.
#[derive(Clone, Default)]
struct Login {
    user: Option<String>,
    password: Option<String>,
}

/// The library's client for an address.
pub(super) enum Reached {
    One(Box<Client>),
    Cluster(Box<ClusterClient>),
    Sentinel(Box<SentinelClient>),
}

/// Not the address as it was given, because that holds a password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

const FORMS: &str = "write redis://user:password@host:6379/0, rediss:// for TLS, cluster+redis://host:6379,host:6379, or \
                     sentinel+redis://host:26379,host:26379/service";

/// The schemes that the library knows, after `cluster+` or `sentinel+`.
const SCHEMES: [&str; 6] = ["redis", "rediss", "valkey", "valkeys", "redis+unix", "unix"];

impl Address {
    /// Reads an address and checks all of it, the file of certificate authorities included. Does not connect.
    ///
    /// # Errors
    /// A sentence without any of the secrets in it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (kind, plain) = match text.split_once('+') {
            Some((kind @ ("cluster" | "sentinel"), plain)) => (Some(kind), plain),
            _ => (None, text),
        };
        let not_one = || format!("it is not an address of a Redis: {FORMS}");
        let (scheme, after) = plain.split_once("://").ok_or_else(not_one)?;
        if !SCHEMES.contains(&scheme) {
            return Err(not_one());
        }
        let (place, query) = after.split_once('?').unwrap_or((after, ""));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (format!("{login}@"), hosts),
            None => (String::new(), authority),
        };
        if kind.is_none() && hosts.contains(',') {
            return Err("it names several hosts: begin it with cluster+ or sentinel+".to_owned());
        }
        let parameters = redis::parse_redis_url(&format!("redis://host/?{query}")).ok_or_else(not_one)?;
        let parameter = |name: &str| {
            parameters
                .query_pairs()
                .find(|(key, value)| key == name && !value.is_empty())
                .map(|(_, value)| value.into_owned())
        };
        let ours = ["ca", "sentinel_user", "sentinel_password"];
        let theirs: Vec<&str> = query
            .split('&')
            .filter(|pair| !pair.is_empty() && !ours.iter().any(|name| pair.split('=').next() == Some(name)))
            .collect();
        let theirs = if theirs.is_empty() { String::new() } else { format!("?{}", theirs.join("&")) };
        let nodes = || hosts.split(',').map(|host| format!("{scheme}://{login}{host}")).collect();
        let place = match kind {
            None => Place::One(format!("{scheme}://{login}{hosts}/{path}{theirs}")),
            Some("cluster") if !path.is_empty() => {
                return Err(
                    "it names a database, and a cluster has only one: leave out what follows the hosts".to_owned()
                );
            }
            Some("cluster") => Place::Cluster(nodes()),
            Some(_) if path.is_empty() => {
                return Err("it names no service: write sentinel+redis://host:26379/service".to_owned());
            }
            Some(_) => {
                let asks_as = Login { user: parameter("sentinel_user"), password: parameter("sentinel_password") };
                let database = parameter("db").map(|database| format!("/{database}")).unwrap_or_default();
                let nodes = hosts.split(',').map(|host| format!("{scheme}://{login}{host}{database}")).collect();
                Place::Sentinel { nodes, service: path.to_owned(), asks_as }
            }
        };
        let kind = kind.map(|kind| format!("{kind}+")).unwrap_or_default();
        let slash = if path.is_empty() { "" } else { "/" };
        let mut address = Self {
            place,
            ca: parameter("ca"),
            shown: format!("{kind}{scheme}://{hosts}{slash}{path}"),
            secrets: Vec::new(),
        };
        address.secrets =
            [parameter("sentinel_password"), parameter("pass"), address.password(), given_password(&login)]
                .into_iter()
                .flatten()
                .collect();
        address.reach().map_err(|why| address.redacted(&format!("{why}: {FORMS}")))?;
        Ok(address)
    }

    /// The address without user, password and parameters.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// A text from the server without our passwords in it. They may be in it because an old server repeats a command that it does not know.
    pub(super) fn redacted(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "(secret)"))
    }

    /// The library's client. Does not connect.
    pub(super) fn reach(&self) -> Result<Reached, String> {
        let ca = self.ca.as_ref().map(|path| {
            std::fs::read(path)
                .map_err(|error| format!("the file {path:?} of its parameter ca cannot be read ({error})"))
        });
        let certificates = ca.transpose()?.map(|ca| TlsCertificates { client_tls: None, root_cert: Some(ca) });
        self.client(certificates).map_err(|error| error.to_string())
    }

    fn client(&self, certificates: Option<TlsCertificates>) -> Result<Reached, RedisError> {
        match &self.place {
            Place::One(url) => Ok(Reached::One(Box::new(match certificates {
                Some(certificates) => Client::build_with_tls(url.as_str(), certificates)?,
                None => Client::open(url.as_str())?,
            }))),
            Place::Cluster(nodes) => {
                let builder = ClusterClientBuilder::new(nodes.iter().map(String::as_str));
                let builder = builder.retries(1).connection_timeout(ANSWER_MAX).response_timeout(ANSWER_MAX);
                let builder = certificates.into_iter().fold(builder, ClusterClientBuilder::certs);
                Ok(Reached::Cluster(Box::new(builder.build()?)))
            }
            Place::Sentinel { nodes, service, asks_as } => {
                let infos =
                    nodes.iter().map(|node| node.as_str().into_connection_info()).collect::<Result<Vec<_>, _>>()?;
                let addresses: Vec<ConnectionAddr> = infos.iter().map(|info| info.addr().clone()).collect();
                let mut builder = SentinelClientBuilder::new(addresses, service.clone(), SentinelServerType::Master)?;
                if nodes.iter().any(|node| node.starts_with("rediss") || node.starts_with("valkeys")) {
                    builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
                }
                if let Some(certificates) = certificates {
                    builder = builder.set_client_to_redis_certificates(certificates.clone());
                    builder = builder.set_client_to_sentinel_certificates(certificates);
                }
                if let Some(info) = infos.first().map(redis::ConnectionInfo::redis_settings) {
                    builder = builder.set_client_to_redis_db(info.db());
                    builder =
                        info.username().into_iter().fold(builder, SentinelClientBuilder::set_client_to_redis_username);
                    builder =
                        info.password().into_iter().fold(builder, SentinelClientBuilder::set_client_to_redis_password);
                }
                builder = asks_as.user.iter().fold(builder, SentinelClientBuilder::set_client_to_sentinel_username);
                builder = asks_as.password.iter().fold(builder, SentinelClientBuilder::set_client_to_sentinel_password);
                Ok(Reached::Sentinel(Box::new(builder.build()?)))
            }
        }
    }

    /// The password as the library reads it: decoded.
    fn password(&self) -> Option<String> {
        let url = match &self.place {
            Place::One(url) => url,
            Place::Cluster(nodes) | Place::Sentinel { nodes, .. } => nodes.first()?,
        };
        url.as_str().into_connection_info().ok()?.redis_settings().password().map(str::to_owned)
    }
}

/// The password as it was written.
fn given_password(login: &str) -> Option<String> {
    let (_, password) = login.strip_suffix('@')?.split_once(':')?;
    (!password.is_empty()).then(|| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_shown_without_its_secrets() {
        for (text, shown) in [
            ("redis://cache:6379/2", "redis://cache:6379/2"),
            ("redis://me:s3cret@cache", "redis://cache"),
            ("rediss://:s3cret@cache:6380/0", "rediss://cache:6380/0"),
            ("redis+unix:///run/redis.sock?db=1&pass=s3cret", "redis+unix:///run/redis.sock"),
            ("cluster+redis://me:s3cret@a:7000,b:7001", "cluster+redis://a:7000,b:7001"),
            ("sentinel+redis://me:s3cret@a:1,b:2/main?db=3&sentinel_password=s3cret", "sentinel+redis://a:1,b:2/main"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.shown(), shown);
            assert_eq!(format!("{address:?}"), shown);
            assert_eq!(address.redacted("with args: `s3cret`").contains("s3cret"), !text.contains("s3cret"), "{text}");
        }
    }

    #[test]
    fn a_wrong_one_is_refused_with_what_to_write_and_without_its_secrets() {
        for (text, says) in [
            ("cache:6379", "write redis://"),
            ("http://me:s3cret@cache", "write redis://"),
            ("redis://me:s3cret@cache/two", "write redis://"),
            ("redis://a,b", "begin it with cluster+ or sentinel+"),
            ("cluster+redis://a:1/2", "a cluster has only one"),
            ("sentinel+redis://a:1", "names no service"),
            ("rediss://:s3cret@cache?ca=/nowhere/ca.pem", "/nowhere/ca.pem"),
            ("redis://me:s3cret@cache:sixty", "write redis://"),
        ] {
            let said = Address::parse(text).unwrap_err();
            assert!(said.contains(says) && !said.contains("s3cret"), "{text}: {said}");
        }
    }
}
