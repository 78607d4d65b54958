//! Answers that do not end: the events of `/api/v1/events`.
//!
//! Each stream occupies a connection of the port. So the number of streams has its own bound, well below that of all connections: browsers
//! that stay open must not keep a scrape out. The server closes a stream after a while, and at its stop at once; browsers connect again by
//! themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The share of the port's connections that may be streams: one in so many.
const CONNECTIONS_SHARE: usize = 4;

/// The places for streams.
#[derive(Clone)]
pub(crate) struct Streams {
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Streams {
    /// The places of a port that takes this many connections at once. All streams end at `stop`.
    pub(crate) fn new(connections_max: usize, stop: CancellationToken) -> Self {
        Self { places: Arc::new(Semaphore::new((connections_max / CONNECTIONS_SHARE).max(1))), stop }
    }

    /// A place, if one is free. Dropping it gives it back.
    pub(crate) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Ends when every stream must.
    pub(crate) async fn stopped(self) {
        self.stop.cancelled().await;
    }
}

/// A connection's mark that its answer is a stream. The server puts one into each request, and the handler sets it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lasting(Arc<AtomicBool>);

impl Lasting {
    /// Marks the answer as a stream.
    pub(crate) fn mark(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the answer is a stream.
    pub(crate) fn is_marked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_connections_may_be_streams_and_one_always() {
        for (connections, streams) in [(64, 16), (4, 1), (1, 1)] {
            let of = Streams::new(connections, CancellationToken::new());
            let places: Vec<_> = std::iter::from_fn(|| of.place()).collect();
            assert_eq!(places.len(), streams);
            drop(places);
            assert!(of.place().is_some(), "places come back");
        }
    }
}
