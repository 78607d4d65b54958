//! What the agent says to the platform: two requests of plain HTTP. No answer is no reason to stop working.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Larger: a platform that hangs delays the next heartbeat. Smaller: a busy machine loses one.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The example platform, by its address.
pub(crate) struct Platform {
    address: SocketAddr,
}

impl Platform {
    pub(crate) const fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// The configuration for this agent; `None` when nobody answers. The platform counts these requests as starts.
    pub(crate) fn configuration(&self, id: &str) -> Option<String> {
        self.request("GET", &format!("/agents/{id}/configuration"))
    }

    /// Says that the agent lives, and on how many tasks it works.
    pub(crate) fn beat(&self, id: &str, active_tasks: u32) {
        // A heartbeat that got lost is followed by the next one.
        let _ = self.request("POST", &format!("/agents/{id}/heartbeat?active_tasks={active_tasks}"));
    }

    /// The body of an answer with status 200.
    fn request(&self, method: &str, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, TIMEOUT).ok()?;
        stream.set_read_timeout(Some(TIMEOUT)).ok()?;
        stream.set_write_timeout(Some(TIMEOUT)).ok()?;
        let host = self.address;
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        stream.take(64 * 1024).read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200 ").then(|| body.to_owned())
    }
}
