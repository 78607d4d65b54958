//! One read of the fleet for all readers of the status page and of the API.
//!
//! A request gets the present picture if that is younger than a poll interval. If the picture is a little older, the request still gets it,
//! and a new one is made meanwhile. If the picture is too old, the request waits for the new one. So however many browsers are open, the
//! fleet is read at most once in an interval. While nobody looks, it is not read at all, and the memory of the picture is freed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use defib_store::Store;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::picture::{Change, FleetPicture};
use crate::logging::database_fault;

/// A picture up to this many intervals old is shown while the next one is made.
const STALE_INTERVALS: u32 = 3;

/// When nobody has looked for this long, the picture is dropped.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// Changes from one picture to the next that are told one by one, at most.
pub(crate) const CHANGES_MAX: usize = 500;

/// A picture, and when it was taken.
#[derive(Debug)]
pub(crate) struct Shot {
    pub(crate) picture: FleetPicture,
    /// What differs from the one before, [`CHANGES_MAX`] at most.
    pub(crate) changes: Vec<Change>,
    /// How many more changes there are.
    pub(crate) more_changes: usize,
    taken: Instant,
}

/// The fleet cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct Unread {
    /// Why.
    pub(crate) why: String,
    /// The last picture, if there is one.
    pub(crate) last: Option<Arc<Shot>>,
}

/// Reads the fleet for all readers.
pub(crate) struct Viewer {
    store: Store,
    every: Duration,
    shots: watch::Sender<Option<Arc<Shot>>>,
    /// Held while the fleet is read. What went wrong the last time, and when.
    reading: tokio::sync::Mutex<Option<(Instant, String)>>,
    looked: Mutex<Instant>,
}

impl Viewer {
    /// `every`: the poll interval, before which there is nothing new.
    pub(crate) fn new(store: Store, every: Duration) -> Self {
        let looked = Mutex::new(Instant::now());
        Self { store, every, shots: watch::Sender::new(None), reading: tokio::sync::Mutex::new(None), looked }
    }

    /// For what is asked of a few workspaces.
    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// How long a picture counts as new.
    pub(crate) const fn every(&self) -> Duration {
        self.every
    }

    /// A receiver of every picture from now on.
    pub(crate) fn shots(&self) -> watch::Receiver<Option<Arc<Shot>>> {
        self.shots.subscribe()
    }

    /// The present picture.
    pub(crate) async fn look(self: &Arc<Self>) -> Result<Arc<Shot>, Unread> {
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let last = self.shots.borrow().clone();
        if let Some(shot) = last {
            let age = shot.taken.elapsed();
            if age < self.every {
                return Ok(shot);
            }
            if age < self.every * STALE_INTERVALS {
                if self.reading.try_lock().is_ok() {
                    let viewer = Arc::clone(self);
                    tokio::spawn(async move { viewer.read().await });
                }
                return Ok(shot);
            }
        }
        self.read().await
    }

    /// Reads the fleet, unless somebody else just has.
    async fn read(&self) -> Result<Arc<Shot>, Unread> {
        let mut failure = self.reading.lock().await;
        let last = self.shots.borrow().clone();
        if let Some(shot) = last.as_ref().filter(|shot| shot.taken.elapsed() < self.every) {
            return Ok(Arc::clone(shot));
        }
        if let Some((_, why)) = failure.as_ref().filter(|(at, _)| at.elapsed() < self.every) {
            return Err(Unread { why: why.clone(), last });
        }
        let taken = Instant::now();
        match self.take(taken, last.clone()).await {
            Ok(shot) => {
                *failure = None;
                let shot = Arc::new(shot);
                self.shots.send_replace(Some(Arc::clone(&shot)));
                Ok(shot)
            }
            Err(why) => {
                *failure = Some((Instant::now(), why.clone()));
                Err(Unread { why, last })
            }
        }
    }

    async fn take(&self, taken: Instant, last: Option<Arc<Shot>>) -> Result<Shot, String> {
        let told = |error| database_fault(&error);
        let overview = self.store.overview().await.map_err(told)?;
        // This is read after the fleet. So a workspace that was added in between is newer than the last pass, and is not taken for one that
        // no daemon judges.
        let said = self.store.said().await.map_err(told)?;
        let holds = self.store.holds().await.map_err(told)?;
        let judging = tokio::task::spawn_blocking(move || {
            let picture = FleetPicture::of(overview, said, holds);
            let mut changes = last.map(|last| picture.changes_since(&last.picture)).unwrap_or_default();
            let more_changes = changes.len().saturating_sub(CHANGES_MAX);
            changes.truncate(CHANGES_MAX);
            Shot { picture, changes, more_changes, taken }
        });
        judging.await.map_err(|error| format!("the picture of the fleet could not be made: {error}"))
    }

    /// Drops the picture when nobody has looked for a while, until stopped.
    pub(crate) async fn tidy(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(KEPT_FOR / 2) => {}
            }
            let looked = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.elapsed() >= KEPT_FOR.max(self.every * STALE_INTERVALS) && self.shots.borrow().is_some() {
                self.shots.send_replace(None);
            }
        }
    }
}
