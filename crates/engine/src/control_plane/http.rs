//! Requests to a control plane: each within its deadline, each answer within its bound.
//!
//! HTTP clients do some things unasked that would do harm here. So this one keeps three rules:
//!
//! - no request is sent twice. If an answer is lost, the caller decides what to do;
//! - a redirect is followed for reads only, and only to the same host, because the headers carry a token that no other host may see;
//! - no connection is kept for long. If the server has closed a connection meanwhile, the next request on it fails although the server
//!   never read it. A restart always gets a connection of its own, so that such a failure is not taken for a lost answer.

use std::error::Error as StdError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as HyperClient, Error as HyperError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout_at};

use super::api::Headers;
use super::tls::Trust;

/// How long a connection may stay idle. Larger: servers close idle connections after a few seconds, and the next request may find a dead
/// one. Smaller: each request of a look makes a new connection.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// The most connections that may stay idle: as many as there are requests at once.
const IDLE_CONNECTIONS_MAX: usize = 8;

/// Redirects that are followed for one read.
const REDIRECTS_MAX: usize = 3;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// Nobody was reached, so nothing was sent.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// The deadline passed. The server may still carry out the request.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The connection broke off. The server may have carried out the request.
    #[error("the connection broke off: {0}")]
    BrokenOff(String),
    /// What came back is not HTTP.
    #[error("what came back is not HTTP: {0}")]
    Garbled(String),
    /// The answer is larger than it may be.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The redirect leads to another host, or there are too many of them, or it is the answer to a request that is no read.
    #[error("it redirects to {to}, which is not followed; correct the address")]
    Redirected {
        /// The host that it leads to.
        to: String,
        /// The status. By 307 and 308 a server says that it has done nothing itself; by any other it may have done what it was asked for.
        status: u16,
    },
    /// No request can be made from the address and the reference.
    #[error("no request can be made: {0}")]
    Unsendable(String),
}

/// An answer of any status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
    /// The pause that the server asks for (`Retry-After`).
    pub(crate) retry_after: Option<Duration>,
    /// The server's time (`Date`).
    pub(crate) date: Option<SystemTime>,
}

/// A request.
pub(crate) struct Asking<'a> {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) headers: &'a Headers,
    /// One more header.
    pub(crate) extra: Option<(hyper::header::HeaderName, HeaderValue)>,
    pub(crate) body: Option<String>,
    /// The largest answer that is read, in bytes.
    pub(crate) bytes_max: usize,
    pub(crate) by: Instant,
}

type Connections = HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Makes requests.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    reads: Connections,
    /// Connections that are used once.
    writes: Connections,
}

impl Client {
    pub(crate) fn new(trust: Trust) -> Self {
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(trust.config).https_or_http().enable_http1().build();
        let client = |idle| {
            HyperClient::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_MAX)
                .pool_max_idle_per_host(idle)
                .retry_canceled_requests(idle > 0) // this repeats only requests of which nothing was sent
                .build(connector.clone())
        };
        Self { reads: client(IDLE_CONNECTIONS_MAX), writes: client(0) }
    }

    /// Makes a request, and follows it to another path of the same host if it is a read.
    pub(crate) async fn ask(&self, mut asking: Asking<'_>) -> Result<Answer, NoAnswer> {
        let begun = Instant::now();
        let by = asking.by;
        let whole = async {
            let mut status = 0;
            for _ in 0..=REDIRECTS_MAX {
                let (head, answer) = self.once(&asking).await?;
                let Some(target) = redirect(answer.status, &head) else { return Ok(answer) };
                let next = same_host(&asking.url, &target).filter(|_| asking.method == Method::GET);
                status = answer.status;
                asking.url = next.ok_or_else(|| NoAnswer::Redirected { to: shown(&asking.url, &target), status })?;
            }
            Err(NoAnswer::Redirected { to: "one address after the other".into(), status })
        };
        timeout_at(by, whole).await.unwrap_or_else(|_| Err(NoAnswer::TimedOut(by.saturating_duration_since(begun))))
    }

    async fn once(&self, asking: &Asking<'_>) -> Result<(HeaderMap, Answer), NoAnswer> {
        let uri: Uri = asking.url.parse().map_err(|_| NoAnswer::Unsendable("the address cannot be read".into()))?;
        let body = asking.body.clone().unwrap_or_default();
        let mut request = Request::builder().method(asking.method.clone()).uri(uri);
        if let Some(headers) = request.headers_mut() {
            headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
            headers.insert(USER_AGENT, HeaderValue::from_static(concat!("defib/", env!("CARGO_PKG_VERSION"))));
            if asking.body.is_some() {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
            for (name, value) in asking.headers.iter().cloned().chain(asking.extra.clone()) {
                headers.insert(name, value);
            }
        }
        let request = request.body(Full::from(body)).map_err(|error| NoAnswer::Unsendable(error.to_string()))?;
        let client = if asking.method == Method::GET { &self.reads } else { &self.writes };
        let response = client.request(request).await.map_err(|error| no_answer(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, asking.bytes_max).collect().await;
        let body = body.map_err(|error| body_error(error.as_ref(), asking.bytes_max))?.to_bytes();
        let date = head.headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, date));
        Ok((head.headers, Answer { status: head.status.as_u16(), body, retry_after, date }))
    }
}

/// The pause that the server asks for: in seconds, or until a moment. That moment is on the server's clock if the answer tells it, and
/// otherwise on ours.
fn retry_after(text: &str, server_now: Option<SystemTime>) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = server_now.unwrap_or_else(SystemTime::now);
    Some(until.duration_since(now).unwrap_or_default())
}

/// The server's clock in microseconds since 1970.
pub(crate) fn micros(date: SystemTime) -> Option<i64> {
    i64::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_micros()).ok()
}

fn redirect(status: u16, head: &HeaderMap) -> Option<String> {
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    Some(head.get(LOCATION).and_then(|location| location.to_str().ok()).unwrap_or_default().to_owned())
}

/// The address that a redirect leads to, if its scheme, host and port are those of the request. `None` otherwise.
fn same_host(from: &str, to: &str) -> Option<String> {
    let from = url::Url::parse(from).ok()?;
    let to = from.join(to).ok()?;
    (to.origin() == from.origin() && to.username().is_empty() && to.password().is_none()).then(|| to.to_string())
}

/// The host that a redirect leads to. The rest of the address may be secret.
fn shown(from: &str, to: &str) -> String {
    let to = url::Url::parse(from).and_then(|from| from.join(to));
    to.ok().as_ref().and_then(url::Url::host_str).map_or_else(|| "nowhere".to_owned(), str::to_owned)
}

fn no_answer(error: &HyperError) -> NoAnswer {
    let words = chain(error);
    if error.is_connect() {
        return NoAnswer::Unreachable(words);
    }
    match cause(error) {
        Some(cause) if cause.is_parse() => NoAnswer::Garbled(words),
        _ => NoAnswer::BrokenOff(words),
    }
}

fn body_error(error: &(dyn StdError + Send + Sync + 'static), bytes_max: usize) -> NoAnswer {
    if error.is::<LengthLimitError>() { NoAnswer::TooLarge(bytes_max) } else { NoAnswer::BrokenOff(chain(error)) }
}

fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a hyper::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// An error with its causes, as one text. The libraries below put neither an address nor a header into their errors, so no secret is shown.
fn chain(error: &dyn StdError) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !words.ends_with(&more) {
            words.push_str(": ");
            words.push_str(&more);
        }
        next = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seconds_or_a_moment_on_the_servers_clock() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(retry_after(" 120 ", None), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:50:07 GMT", Some(now)), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", Some(now)), Some(Duration::ZERO));
        for text in ["", "soon", "-1", "1.5"] {
            assert_eq!(retry_after(text, Some(now)), None, "{text}");
        }
    }

    #[test]
    fn a_redirect_is_followed_to_the_same_host_only() {
        let from = "https://cp.example/a?x=1";
        for (to, followed) in [
            ("/b", Some("https://cp.example/b")),
            ("https://cp.example/b?y=2", Some("https://cp.example/b?y=2")),
            ("https://cp.example:443/b", Some("https://cp.example/b")),
            ("http://cp.example/b", None),
            ("https://cp.example:8443/b", None),
            ("https://evil.example/b", None),
            ("//evil.example/b", None),
            ("https://cp.example@evil.example/b", None),
            ("https://user@cp.example/b", None),
        ] {
            assert_eq!(same_host(from, to).as_deref(), followed, "{to}");
        }
        assert_eq!(shown(from, "https://user:s3cret@evil.example/b?token=s3cret"), "evil.example");
    }
}
