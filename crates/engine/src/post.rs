//! Messages to an address that an operator has given, such as a webhook.
//!
//! This uses the client of the control planes and keeps its rules: a message is sent once, on a connection of its own; a redirect is not
//! followed; the answer is bounded in time and size; and no error quotes the address. It is in this crate because the client is.

use std::fmt;
use std::time::Duration;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::control_plane::http::{Asking, Client};
use crate::control_plane::tls::trust;

/// The largest answer that is read. Nobody needs more of it than its first line.
const ANSWER_MAX: usize = 64 * 1024;

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// The status.
    pub status: u16,
    /// The body, as far as it is text.
    pub body: String,
    /// The pause that the receiver asks for (`Retry-After`).
    pub retry_after: Option<Duration>,
}

/// Why no answer came. The receiver may have read the message all the same.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotPosted(String);

/// Sends messages.
pub struct Poster {
    client: Client,
    roots: usize,
}

impl fmt::Debug for Poster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poster").field("roots", &self.roots).finish_non_exhaustive()
    }
}

impl Poster {
    /// Trusts the certificates that the system trusts. Connects to nothing.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new() -> Result<Self, NotPosted> {
        let trust = trust(None).map_err(|error| NotPosted(error.to_string()))?;
        let roots = trust.roots;
        Ok(Self { client: Client::new(trust), roots })
    }

    /// How many root certificates the system has. Without any, no `https://` address can be reached.
    #[must_use]
    pub const fn roots(&self) -> usize {
        self.roots
    }

    /// Sends JSON to `url`, with these headers besides the usual ones, and waits `within` for the whole answer.
    ///
    /// # Errors
    /// When no whole answer came.
    pub async fn post(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        json: String,
        within: Duration,
    ) -> Result<Posted, NotPosted> {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                let mut value = HeaderValue::from_str(value)
                    .map_err(|_| NotPosted(format!("the header {name} cannot hold this value")))?;
                value.set_sensitive(true);
                Ok((HeaderName::from_static(name), value))
            })
            .collect::<Result<Vec<_>, NotPosted>>()?;
        let asking = Asking {
            method: Method::POST,
            url: url.to_owned(),
            headers: &headers,
            extra: None,
            body: Some(json),
            bytes_max: ANSWER_MAX,
            by: Instant::now() + within,
        };
        let answer = self.client.ask(asking).await.map_err(|error| NotPosted(error.to_string()))?;
        Ok(Posted {
            status: answer.status,
            body: String::from_utf8_lossy(&answer.body).into_owned(),
            retry_after: answer.retry_after,
        })
    }
}
