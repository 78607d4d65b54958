//! The requests that the agent answers. One thread a connection, one request a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::Agent;

/// A client that says nothing keeps a thread for this long.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of a request's head, at most.
const HEAD_MAX: u64 = 8 * 1024;

pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).map_err(|error| format!("cannot listen on {address}: {error}"))
}

pub(crate) fn serve(listener: &TcpListener, agent: &Arc<Agent>) {
    for stream in listener.incoming().flatten() {
        let agent = Arc::clone(agent);
        thread::spawn(move || answer(stream, &agent));
    }
}

/// A client that breaks off gets no answer, which is all there is to do about it.
fn answer(mut stream: TcpStream, agent: &Agent) {
    let _ = stream.set_read_timeout(Some(TIMEOUT));
    let _ = stream.set_write_timeout(Some(TIMEOUT));
    let Some(target) = read_target(&stream) else { return };
    let (status, body) = respond(&target, agent);
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
}

/// The target of the request, once its whole head was read: an answer to half a request would reset the connection.
fn read_target(stream: &TcpStream) -> Option<String> {
    let mut lines = BufReader::new(stream.take(HEAD_MAX)).lines();
    let first = lines.next()?.ok()?;
    while !lines.next()?.ok()?.is_empty() {}
    first.split(' ').nth(1).map(str::to_owned)
}

fn respond(target: &str, agent: &Agent) -> (&'static str, String) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let number = |name: &str| query.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok();
    let id = &agent.id;
    match path {
        "/busy" => {
            let seconds = number("seconds").unwrap_or(6);
            agent.be_busy_for(Duration::from_secs(seconds));
            ("200 OK", format!("{id} is busy for {seconds} s\n"))
        }
        "/503" => {
            let requests = number("requests").unwrap_or(1);
            agent.to_refuse.store(requests, Ordering::Relaxed);
            ("200 OK", format!("{id} refuses the next {requests} requests\n"))
        }
        _ if agent.refuses() => ("503 Service Unavailable", format!("{id} is warming up a cache, come back\n")),
        "/" => ("200 OK", format!("hello from {id}, up for {} s\n", agent.started.elapsed().as_secs())),
        _ => ("404 Not Found", "/, /busy?seconds=6, /503?requests=3\n".to_owned()),
    }
}
