//! A proxy before a Docker engine that lets through the calls of a list, answers 403 to all others, and remembers both.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

/// Heads of requests of a Docker client have some hundred bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

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
    url: String,
    seen: Arc<Mutex<Seen>>,
    server: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    used: BTreeSet<ListedCall>,
    refused: Vec<String>,
}

impl FilteringProxy {
    /// In front of the engine at `unix://…`.
    pub async fn before(engine: &str, listed: Vec<ListedCall>) -> Result<Self> {
        let socket = engine.strip_prefix("unix://").context("the engine has no unix socket")?.to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen")?;
        let url = format!("tcp://{}", listener.local_addr()?);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (shared, listed) = (Arc::clone(&seen), Arc::new(listed));
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (socket, seen, listed) = (socket.clone(), Arc::clone(&shared), Arc::clone(&listed));
                connections.spawn(async move { relay(client, &socket, &listed, &seen).await });
            }
        });
        Ok(Self { url, seen, server })
    }

    /// The address, as defib takes it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
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

impl Drop for FilteringProxy {
    fn drop(&mut self) {
        self.server.abort();
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

/// One request: the engine is told to close the connection after it, so that none comes in unseen behind it.
async fn relay(mut client: TcpStream, socket: &str, listed: &[ListedCall], seen: &Mutex<Seen>) -> Result<()> {
    let mut head = Vec::new();
    let line_end = loop {
        let mut chunk = [0; 1024];
        let read = client.read(&mut chunk).await?;
        head.extend_from_slice(&chunk[..read]);
        if let Some(end) = head.windows(2).position(|pair| pair == b"\r\n") {
            break end;
        }
        if read == 0 || head.len() > HEAD_BYTES_MAX {
            return Ok(());
        }
    };
    let line = String::from_utf8_lossy(&head[..line_end]).into_owned();
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let Some(call) = listed.iter().find(|call| call.is(method, path)) else {
        lock(seen).refused.push(format!("{method} {path}"));
        return Ok(client.write_all(FORBIDDEN).await?);
    };
    lock(seen).used.insert(call.clone());
    let mut engine = UnixStream::connect(socket).await?;
    engine.write_all(&head[..line_end]).await?;
    engine.write_all(b"\r\nConnection: close").await?;
    engine.write_all(&head[line_end..]).await?;
    copy_bidirectional(&mut client, &mut engine).await?;
    Ok(())
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
