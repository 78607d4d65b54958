//! A proxy before a Docker engine that lets through the calls of a list, answers 403 to all others, and remembers both.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use crate::relay::{Handling, Relay};

const FORBIDDEN: &[u8] =
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: 31\r\nConnection: close\r\n\r\n\
                           {\"message\":\"not on the list\"}\r\n";

/// A call: its method, and its path without version and query, in which `{id}` stands for any container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedCall {
    /// `GET`, `POST`.
    pub method: String,
    /// `/containers/{id}/json`.
    pub path: String,
}

/// The proxy. It ends with its value.
#[derive(Debug)]
pub struct FilteringProxy {
    relay: Relay,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    used: BTreeSet<ListedCall>,
    refused: Vec<String>,
}

impl FilteringProxy {
    /// In front of the engine at `unix://…`.
    pub async fn before(engine: &str, listed: Vec<ListedCall>) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        let decide = move |method: &str, target: &str| {
            let path = target.split('?').next().unwrap_or_default();
            let Some(call) = listed.iter().find(|call| call.is(method, path)) else {
                lock(&shared).refused.push(format!("{method} {path}"));
                return Handling::Answer(FORBIDDEN);
            };
            lock(&shared).used.insert(call.clone());
            Handling::Pass
        };
        Ok(Self { relay: Relay::before(engine, decide).await?, seen })
    }

    /// The address, as defib takes it.
    #[must_use]
    pub fn url(&self) -> &str {
        self.relay.url()
    }

    /// The calls of the list that have been made so far.
    #[must_use]
    pub fn used(&self) -> BTreeSet<ListedCall> {
        lock(&self.seen).used.clone()
    }

    /// The calls that were refused: method and path.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        lock(&self.seen).refused.clone()
    }
}

impl ListedCall {
    /// Whether a request is this call.
    fn is(&self, method: &str, path: &str) -> bool {
        let wanted = self.path.split('/').skip(1);
        let mut asked = path.split('/').skip(1).peekable();
        let is_version = |part: &&str| part.strip_prefix("v1.").is_some_and(|minor| minor.parse::<u32>().is_ok());
        let _ = asked.next_if(is_version);
        let is_name = |part: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
            part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(plain)
        };
        let asked: Vec<&str> = asked.collect();
        let wanted: Vec<&str> = wanted.collect();
        let fits = |(wanted, asked): (&&str, &&str)| if *wanted == "{id}" { is_name(asked) } else { wanted == asked };
        self.method == method && wanted.len() == asked.len() && wanted.iter().zip(&asked).all(fits)
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_told_from_its_neighbours() {
        let of = |method: &str, path: &str| ListedCall { method: method.to_owned(), path: path.to_owned() };
        let inspect = of("GET", "/containers/{id}/json");
        for path in ["/containers/a1/json", "/v1.41/containers/ws-a_1.b/json"] {
            assert!(inspect.is("GET", path), "{path}");
        }
        for path in [
            "/containers/json",
            "/containers/../json",
            "/containers/a%2Fb/json",
            "/containers/a/b/json",
            "/v1.x/containers/a/json",
        ] {
            assert!(!inspect.is("GET", path), "{path}");
        }
        assert!(!inspect.is("POST", "/containers/a1/json"));
        assert!(of("GET", "/containers/json").is("GET", "/v1.44/containers/json"));
    }
}
