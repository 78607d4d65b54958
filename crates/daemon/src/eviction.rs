//! Deletes the keys of a dead workspace from the platform's cache, so that nobody is sent to a dead address while it boots.
//!
//! ```text
//! claimed ─► still dead ─► delete, within 250 ms ─► the engine is asked
//!                              └─ not done ─► tried again beside the restart, until it is done or the workspace is back
//! ```
//!
//! A restart matters more than the cache. When Redis goes away, the restarts that are under way at that moment wait for the bound below.
//! After that no restart waits, until a try that is made beside the restarts has worked. The keys are not in the ledger. If defib dies
//! while some are still to be deleted, they stay until the platform lets them expire, or until the next attempt for that workspace.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib_policy::id::WorkspaceId;
use defib_policy::moment::Moment;
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cache::{Keys, Pattern};
use crate::clock::Clock;
use crate::news::EvictionNews;
use crate::sync::lock;

/// How long a restart waits for the deletion. Larger: a Redis that hangs delays the first restarts by more. Smaller: a Redis that is merely
/// busy is not waited for, and callers may still find the old address while the workspace boots.
const BEFORE_CALL_MAX: Duration = Duration::from_millis(250);

/// The pause before the first further try; it doubles up to [`RETRY_MAX`] while nothing succeeds.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// The longest pause. Larger: after a long outage keys are deleted later. Smaller: more connections to a Redis that is in trouble.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// For how many workspaces the deletion is tried again at the same time, beside the restarts.
const AT_ONCE: usize = 64;

/// How many workspaces may wait for their keys to be deleted. For any more of them the deletion is given up, and their keys stay until they
/// expire.
const WAITING_MAX: usize = 10_000;

/// After this time the deletion is not tried any more, because by then the keys of most platforms have expired. Another attempt for the
/// same workspace begins anew.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15 * 60);

/// Deletes the keys of dead workspaces.
pub(crate) struct Evictor {
    patterns: Vec<Pattern>,
    cache: Arc<dyn Keys>,
    clock: Clock,
    news: EvictionNews,
    waiting: Mutex<Waiting>,
    /// Whether the last try failed. If so, no restart waits for another one.
    away: AtomicBool,
    wake: Notify,
}

/// The workspaces whose keys are still to be deleted.
#[derive(Default)]
struct Waiting {
    by_workspace: HashMap<WorkspaceId, Entry>,
    turns: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    since: Moment,
    /// The workspace with the smallest number is tried next.
    turn: u64,
}

impl Evictor {
    /// An evictor for these keys in this cache.
    pub(crate) fn new(patterns: Vec<Pattern>, cache: Arc<dyn Keys>, clock: Clock, news: EvictionNews) -> Self {
        let waiting = Mutex::default();
        Self { patterns, cache, clock, news, waiting, away: AtomicBool::new(false), wake: Notify::new() }
    }

    /// Deletes the keys of a workspace that is about to be restarted. Takes [`BEFORE_CALL_MAX`] at most; what is not done by then is done
    /// beside the restart.
    pub(crate) async fn evict(&self, workspace: &WorkspaceId) {
        if !lock(&self.waiting).add(workspace, (self.clock)()) {
            self.news.given_up();
            return;
        }
        if self.away.load(Ordering::Relaxed) {
            self.wake.notify_one();
            return;
        }
        let tried = tokio::time::timeout(BEFORE_CALL_MAX, self.cache.delete(&self.keys(workspace))).await;
        let failed = tried.unwrap_or_else(|_| Err(format!("no answer within {} ms", BEFORE_CALL_MAX.as_millis())));
        self.tried(workspace, failed);
    }

    /// The workspace is back, or is not restarted after all, so its keys must not be deleted any more.
    pub(crate) fn is_over(&self, workspace: &WorkspaceId) {
        if lock(&self.waiting).by_workspace.remove(workspace).is_some() {
            self.news.given_up();
        }
    }

    /// Tries again what has failed, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = self.cache.get_ready() => {}
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
            }
            let mut pause = RETRY_FIRST;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                if self.none_is_left().await {
                    break;
                }
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }

    /// Tries those that wait, batch after batch, until a deletion in a batch fails. Returns whether none is left.
    async fn none_is_left(&self) -> bool {
        loop {
            for _ in 0..lock(&self.waiting).forget(GIVE_UP_AFTER, (self.clock)()) {
                self.news.given_up();
            }
            let next = lock(&self.waiting).next(AT_ONCE);
            if next.is_empty() {
                // The cache works again as far as is known, so the next restart waits for its own deletion.
                self.away.store(false, Ordering::Relaxed);
                return true;
            }
            let one = async |workspace: WorkspaceId| {
                let tried = self.cache.delete(&self.keys(&workspace)).await;
                let worked = tried.is_ok();
                self.tried(&workspace, tried);
                worked
            };
            let worked = join_all(next.into_iter().map(one)).await;
            if worked.contains(&true) {
                // The cache may still refuse some keys, as while one of its shards is down. Other restarts still try their own deletion.
                self.away.store(false, Ordering::Relaxed);
            }
            if worked.contains(&false) {
                return false;
            }
        }
    }

    fn keys(&self, workspace: &WorkspaceId) -> Vec<String> {
        self.patterns.iter().map(|pattern| pattern.key(workspace)).collect()
    }

    fn tried(&self, workspace: &WorkspaceId, result: Result<(), String>) {
        match result {
            Ok(()) => {
                lock(&self.waiting).by_workspace.remove(workspace);
                self.news.deleted();
            }
            Err(why) => {
                lock(&self.waiting).goes_last(workspace);
                self.away.store(true, Ordering::Relaxed);
                self.wake.notify_one();
                self.news.failed(workspace, &why);
            }
        }
    }
}

impl Waiting {
    /// Returns false when there is no more room.
    fn add(&mut self, workspace: &WorkspaceId, now: Moment) -> bool {
        self.turns += 1;
        let turn = self.turns;
        let has_room = self.by_workspace.len() < WAITING_MAX || self.by_workspace.contains_key(workspace);
        if has_room {
            self.by_workspace.insert(workspace.clone(), Entry { since: now, turn });
        }
        has_room
    }

    fn goes_last(&mut self, workspace: &WorkspaceId) {
        self.turns += 1;
        if let Some(entry) = self.by_workspace.get_mut(workspace) {
            entry.turn = self.turns;
        }
    }

    /// The workspaces whose last try was longest ago.
    fn next(&self, at_most: usize) -> Vec<WorkspaceId> {
        let mut all: Vec<(u64, &WorkspaceId)> =
            self.by_workspace.iter().map(|(workspace, it)| (it.turn, workspace)).collect();
        all.sort_unstable();
        all.into_iter().take(at_most).map(|(_, workspace)| workspace.clone()).collect()
    }

    /// Drops those that have waited for too long. Returns how many these were.
    fn forget(&mut self, older_than: Duration, now: Moment) -> usize {
        let before = self.by_workspace.len();
        self.by_workspace.retain(|_, entry| now - entry.since < older_than);
        before - self.by_workspace.len()
    }
}

#[cfg(test)]
mod tests;
