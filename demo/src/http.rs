//! A request of plain HTTP over a connection of its own. Enough for the proxy, the traffic and the operator, and it tells
//! refused from timed out, which a proxy has to.

use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Larger: a caller of an agent that hangs waits for longer. Smaller: a busy machine looks like a dead agent.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of an answer, at most.
const ANSWER_MAX: u64 = 1024 * 1024;

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Why there was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Refused,
    TimedOut,
    /// Cut off, or not HTTP.
    Broken,
}

impl Failure {
    /// The short word that a suspicion carries as its reason.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Refused => "connection_refused",
            Self::TimedOut => "timeout",
            Self::Broken => "connection_reset",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl std::error::Error for Failure {}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<Answer, Failure> {
    request("GET", address, path).await
}

/// A POST without a body. Patient, because an operator's request stops and starts containers.
pub(crate) async fn post(address: SocketAddr, path: &str) -> Result<Answer, Failure> {
    tokio::time::timeout(10 * TIMEOUT, exchange("POST", address, path)).await.unwrap_or(Err(Failure::TimedOut))
}

async fn request(method: &str, address: SocketAddr, path: &str) -> Result<Answer, Failure> {
    tokio::time::timeout(TIMEOUT, exchange(method, address, path)).await.unwrap_or(Err(Failure::TimedOut))
}

async fn exchange(method: &str, address: SocketAddr, path: &str) -> Result<Answer, Failure> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => Failure::Refused,
        _ => Failure::Broken,
    })?;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await.map_err(|_| Failure::Broken)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).await.map_err(|_| Failure::Broken)?;
    parse(&String::from_utf8_lossy(&answer)).ok_or(Failure::Broken)
}

fn parse(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_answer_is_none() {
        let whole = parse("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno").unwrap();
        assert_eq!((whole.status, whole.body.as_str()), (503, "no"));
        assert!(parse("HTTP/1.1 200 OK\r\ncontent-le").is_none());
        assert!(parse("").is_none());
    }
}
