//! A server that strangers cannot use up.
//!
//! Anybody who reaches the port can connect to it, and each connection takes one of the files that the process may open. Connections to
//! engines and to the database are files as well: a process that has none left can restart nobody. So this server limits what strangers can
//! use:
//!
//! - **a number of connections**, which is a share of the files that the process may open. When all are in use, a new connection takes the
//!   place of the oldest one that has not yet sent a whole request, so a scrape always gets through;
//! - **a time for the request** to come in, which is also the longest that a connection may be idle;
//! - **a time for the whole connection**, from the first byte to the last, against clients that do not read their answer. A stream of
//!   events ([`crate::streams`]) may last longer, and the number of streams has its own limit;
//! - **one request for each connection**. Prometheus and probes ask only every few seconds, so this costs them nothing, and no connection
//!   stays open while it waits for another request.
//!
//! ```text
//! accepted ──► request comes in ──► being answered ──► closed
//!    └─ 5 s or evicted ─┘               └─ 10 s from the beginning, or evicted when all are being answered
//! ```

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::streams::Lasting;

/// The largest number of connections at once. Larger: strangers can use more files. Smaller: in a burst of scrapes and probes, one of them
/// takes the place of another.
const CONNECTIONS_MAX: usize = 64;

/// The connections may use one in this many of the process's files. The rest is for the database (its pools and the listener) and for the
/// engines (up to eight calls each and a stream of events).
const FILES_SHARE: u64 = 8;

/// The smallest number of connections, so that even a process with hardly any files can answer a scrape and two probes at once.
const CONNECTIONS_MIN: usize = 4;

/// How large the head of a request may be, in bytes. That of a scrape has a few hundred. hyper accepts no limit below 8 KiB.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The pause after a failed accept, which mostly means that the process has no files left. Larger: a scrape waits for longer. Smaller: the
/// loop uses a whole core while there are no files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a stop waits for the answers that are under way. An answer takes milliseconds, unless its client does not read it.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// What strangers may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Connections at once.
    pub(crate) connections_max: usize,
    /// How long a request may take to arrive.
    pub(crate) request_within: Duration,
    /// How long a connection may last, from its first byte to the last one of the answer.
    pub(crate) answered_within: Duration,
    /// How long a stream of events may last. Its reader then connects again. This also limits how long a client that reads nothing occupies
    /// a place.
    pub(crate) streamed_within: Duration,
}

impl Bounds {
    /// The bounds for a process that may open `files_max` files (its soft limit); `None` if there is no limit.
    pub(crate) fn of_process(files_max: Option<u64>) -> Self {
        let share =
            files_max.map_or(CONNECTIONS_MAX, |files| usize::try_from(files / FILES_SHARE).unwrap_or(usize::MAX));
        Self {
            connections_max: share.clamp(CONNECTIONS_MIN, CONNECTIONS_MAX),
            request_within: Duration::from_secs(5),
            answered_within: Duration::from_secs(10),
            streamed_within: Duration::from_secs(600),
        }
    }
}

/// Serves until stopped, and then waits a little for the answers under way.
pub(super) async fn serve(listener: TcpListener, router: Router, bounds: Bounds, stop: CancellationToken) {
    let mut connections = Connections::new(router, bounds);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = connections.one_ended() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connections.admit(stream).await,
                // The client went away before we accepted it.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    debug!(%error, "no connection can be accepted");
                    // Mostly the process has no files left. Closing an idle connection gives one back.
                    if let Some(idle) = connections.oldest_unasked() {
                        connections.evict(&idle).await;
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    connections.finish().await;
}

/// The connections, oldest first.
struct Connections {
    router: Router,
    bounds: Bounds,
    tasks: JoinSet<()>,
    /// The connections by their number; a later one has a greater number.
    known: BTreeMap<u64, Connection>,
    accepted: u64,
}

struct Connection {
    task: AbortHandle,
    /// Whether its request has arrived.
    asked: Arc<AtomicBool>,
}

impl Connections {
    fn new(router: Router, bounds: Bounds) -> Self {
        Self { router, bounds, tasks: JoinSet::new(), known: BTreeMap::new(), accepted: 0 }
    }

    /// Begins to serve a connection. If that would be one too many, another one is closed first.
    async fn admit(&mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        while self.tasks.len() >= self.bounds.connections_max {
            let oldest = || self.known.values().next().map(|connection| connection.task.clone());
            let Some(evicted) = self.oldest_unasked().or_else(oldest) else { break };
            self.evict(&evicted).await;
        }
        let asked = Arc::new(AtomicBool::new(false));
        let answering = answer(stream, self.router.clone(), self.bounds, Arc::clone(&asked));
        let task = self.tasks.spawn(answering);
        self.accepted += 1;
        self.known.insert(self.accepted, Connection { task, asked });
    }

    /// The oldest connection without a whole request.
    fn oldest_unasked(&self) -> Option<AbortHandle> {
        let mut unasked = self.known.values().filter(|connection| !connection.asked.load(Ordering::Relaxed));
        unasked.next().map(|connection| connection.task.clone())
    }

    /// Closes a connection. Returns when one has really ended, so that a file is free again.
    async fn evict(&mut self, connection: &AbortHandle) {
        connection.abort();
        self.one_ended().await;
    }

    /// Waits until a connection has ended; for ever while there is none.
    async fn one_ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => self.forget(id),
            // It was aborted, or a handler panicked. Either way it is closed.
            Some(Err(error)) => self.forget(error.id()),
            None => std::future::pending().await,
        }
    }

    fn forget(&mut self, id: Id) {
        self.known.retain(|_, connection| connection.task.id() != id);
    }

    /// Closes those without a whole request, and waits a little for the others.
    async fn finish(&mut self) {
        for connection in self.known.values().filter(|connection| !connection.asked.load(Ordering::Relaxed)) {
            connection.task.abort();
        }
        let ending = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FINISH_WITHIN, ending).await.is_err() {
            debug!(connections = self.tasks.len(), "answers that were not read in time are cut off");
        }
    }
}

/// One connection, from the first byte to the last.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    bounds: Bounds,
    asked: Arc<AtomicBool>,
) {
    let router = TowerToHyperService::new(router);
    let lasting = Lasting::default();
    let mark = lasting.clone();
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(mark.clone());
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.request_within)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut ended = tokio::time::timeout(bounds.answered_within, &mut connection).await;
    if ended.is_err() && lasting.is_marked() {
        let left = bounds.streamed_within.saturating_sub(bounds.answered_within);
        ended = tokio::time::timeout(left, connection).await;
    }
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection ended early"),
        Err(_) => debug!("a connection took too long and was closed"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use axum::Extension;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpStream;
    use tokio::time::Instant;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        connections_max: 4,
        request_within: Duration::from_secs(5),
        answered_within: Duration::from_secs(10),
        streamed_within: Duration::from_secs(40),
    };

    /// Longer than any connection in these tests lasts.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn router() -> Router {
        Router::new()
            .route("/well", get(async || "well"))
            .route("/long", get(async || "0123456789".repeat(10_000)))
            .route("/never", get(std::future::pending::<()>))
            .route("/stream", get(stream))
    }

    async fn stream(Extension(lasting): Extension<Lasting>) {
        lasting.mark();
        std::future::pending::<()>().await;
    }

    fn connections() -> Connections {
        Connections::new(router(), BOUNDS)
    }

    /// A connection whose client has sent this so far.
    async fn connected(connections: &mut Connections, sent: &str) -> DuplexStream {
        let (mut ours, theirs) = duplex(64);
        connections.admit(theirs).await;
        ours.write_all(sent.as_bytes()).await.expect("sent");
        ours
    }

    /// Everything that arrives until the connection is closed.
    async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
        let mut text = Vec::new();
        // If the connection is reset after the answer, that is an end as well.
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text)).await.expect("closed");
        String::from_utf8(text).expect("text")
    }

    fn request(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: defib\r\n\r\n")
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_ends_its_connection() {
        let mut connections = connections();
        let mut client = connected(&mut connections, &request("/well")).await;
        let answer = rest(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("connection: close") && answer.ends_with("\r\n\r\nwell"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_come_in_is_waited_for_until_its_deadline_and_no_longer() {
        for sent in ["", "GET /we", "GET /well HTTP/1.1\r\nHost: "] {
            let mut connections = connections();
            let begun = Instant::now();
            let mut client = connected(&mut connections, sent).await;
            assert!(!rest(&mut client).await.contains("200"), "{sent:?}");
            let took = begun.elapsed();
            assert!(took >= BOUNDS.request_within && took < BOUNDS.request_within * 2, "{sent:?}: {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_trickles_in_does_not_renew_its_deadline() {
        let mut connections = connections();
        let begun = Instant::now();
        let mut client = connected(&mut connections, "GET /").await;
        while client.write_all(b"x").await.is_ok() {
            assert!(begun.elapsed() < PATIENCE, "still open");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(begun.elapsed() < BOUNDS.request_within * 2, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_the_answer_is_cut_off() {
        let mut connections = connections();
        let begun = Instant::now();
        let _client = connected(&mut connections, &request("/long")).await;
        tokio::time::timeout(PATIENCE, connections.one_ended()).await.expect("it ends");
        assert_eq!(begun.elapsed(), BOUNDS.answered_within);
        assert!(connections.known.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_outlasts_other_answers_and_ends_at_its_own_deadline() {
        let mut connections = connections();
        let begun = Instant::now();
        let _client = connected(&mut connections, &request("/stream")).await;
        tokio::time::timeout(PATIENCE, connections.one_ended()).await.expect("it ends");
        assert_eq!(begun.elapsed(), BOUNDS.streamed_within);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_are_taken_the_oldest_without_a_request_makes_room() {
        let mut connections = connections();
        let begun = Instant::now();
        let busy = connected(&mut connections, &request("/never")).await;
        let mut half = connected(&mut connections, "GET /").await;
        let others = [connected(&mut connections, "").await, connected(&mut connections, "").await];
        tokio::task::yield_now().await; // so that the first request is being handled
        let mut scrape = connected(&mut connections, &request("/well")).await;
        assert!(rest(&mut scrape).await.ends_with("well"));
        assert_eq!(rest(&mut half).await, "");
        assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waited");
        assert!(connections.tasks.len() <= BOUNDS.connections_max);
        drop((busy, others));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_are_being_answered_the_oldest_makes_room() {
        let mut connections = connections();
        let mut busy = Vec::new();
        for _ in 0..BOUNDS.connections_max {
            busy.push(connected(&mut connections, &request("/never")).await);
            tokio::task::yield_now().await;
        }
        let begun = Instant::now();
        let mut scrape = connected(&mut connections, &request("/well")).await;
        assert!(rest(&mut scrape).await.ends_with("well"));
        assert_eq!(rest(&mut busy[0]).await, "");
        assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waited");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_a_little_for_answers_and_not_at_all_for_requests() {
        let mut connections = connections();
        let mut half = connected(&mut connections, "GET /").await;
        let begun = Instant::now();
        connections.finish().await;
        assert_eq!((rest(&mut half).await.as_str(), begun.elapsed()), ("", Duration::ZERO));

        let _busy = connected(&mut connections, &request("/never")).await;
        tokio::task::yield_now().await;
        connections.finish().await;
        assert_eq!(begun.elapsed(), FINISH_WITHIN);
    }

    #[test]
    fn the_connections_are_a_share_of_the_files() {
        for (files, connections) in
            [(Some(16), 4), (Some(64), 8), (Some(256), 32), (Some(1_024), 64), (Some(u64::MAX), 64), (None, 64)]
        {
            assert_eq!(Bounds::of_process(files).connections_max, connections, "{files:?}");
        }
    }

    async fn ask(address: SocketAddr, sent: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(sent.as_bytes()).await.expect("sent");
        stream
    }

    #[tokio::test]
    async fn hundreds_of_half_sent_requests_do_not_keep_a_scrape_out_and_are_closed() {
        let bounds = Bounds { request_within: Duration::from_secs(1), connections_max: 32, ..BOUNDS };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, router(), bounds, stop.clone()));
        let mut half_sent = Vec::new();
        for n in 0..371 {
            half_sent.push(ask(address, "GET /metr").await);
            if n % 100 == 0 {
                assert!(rest(&mut ask(address, &request("/well")).await).await.ends_with("well"), "after {n}");
            }
        }
        assert!(rest(&mut ask(address, &request("/well")).await).await.ends_with("well"));
        for stream in &mut half_sent {
            assert_eq!(rest(stream).await, "");
        }
        stop.cancel();
        tokio::time::timeout(PATIENCE, serving).await.expect("it stops").expect("in order");
    }
}
