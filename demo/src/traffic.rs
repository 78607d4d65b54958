//! The traffic: one request after the other through the proxy, as clients that do not know what stands behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::http;

/// 40 requests a second. More only warms the machine.
const PACE: Duration = Duration::from_millis(25);

/// The running generator.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    flows: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Traffic {
    /// Begins to send.
    pub(crate) fn start(proxy: SocketAddr) -> Self {
        let traffic = Self::default();
        traffic.flow();
        let shared = Arc::clone(&traffic.shared);
        tokio::spawn(async move {
            let mut pace = tokio::time::interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pace.tick().await;
                if shared.flows.load(Ordering::Relaxed) {
                    tokio::spawn(one_request(proxy, Arc::clone(&shared)));
                }
            }
        });
        traffic
    }

    pub(crate) fn flow(&self) {
        self.shared.flows.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stop(&self) {
        self.shared.flows.store(false, Ordering::Relaxed);
    }

    /// Requests answered with success, and those that were not.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.shared.answered.load(Ordering::Relaxed), self.shared.failed.load(Ordering::Relaxed))
    }
}

async fn one_request(proxy: SocketAddr, shared: Arc<Shared>) {
    let count = match http::get(proxy, "/").await {
        Ok(answer) if answer.status == 200 => &shared.answered,
        _ => &shared.failed,
    };
    count.fetch_add(1, Ordering::Relaxed);
}
