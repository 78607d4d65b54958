//! One read of the fleet for all readers of the status page and of the API.
//!
//! A request gets the present picture if that is younger than a poll interval. If the picture is a little older, the request still gets it,
//! and a new one is made meanwhile. If the picture is too old, the request waits for the new one. So however many browsers are open, the
//! fleet is read at most once in an interval. While nobody looks, it is not read at all, and the memory of the picture is freed.
//!
//! So the first look finds no picture, and a read of a large fleet takes longer than a person should wait. The first page is then drawn from
//! the rows that the daemon has in its memory and from what the tables say of them at this moment, which is little. It says of itself that
//! it is a part, and the whole picture takes its place as soon as it is read.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use defib_store::{Overview, Store};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::picture::{Change, FleetPicture};
use crate::logging::database_fault;
use crate::snapshot::Snapshot;
use crate::state::State;

/// A picture up to this many intervals old is shown while the next one is made.
const STALE_INTERVALS: u32 = 3;

/// When nobody has looked for this long, the picture is dropped.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// From so many workspaces on, a first look gets a part of the picture. Larger: the first page of a fleet comes later. Smaller: it says of
/// itself that it is a part, although the whole one would have been there as soon.
const PART_MIN: usize = 10_000;

/// How many workspaces in trouble the first page lists, so for that many a part of a picture has what is shown of each.
pub(crate) const NAMED: usize = 12;

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
    /// What the daemon knows. Not set in a process that has only begun to start.
    known: OnceLock<Arc<State>>,
    /// The part of a picture that is shown while there is none. Held while it is made.
    part: tokio::sync::Mutex<Option<Arc<Shot>>>,
}

impl Viewer {
    /// `every`: the poll interval, before which there is nothing new.
    pub(crate) fn new(store: Store, every: Duration) -> Self {
        Self {
            store,
            every,
            shots: watch::Sender::new(None),
            reading: tokio::sync::Mutex::default(),
            looked: Mutex::new(Instant::now()),
            known: OnceLock::new(),
            part: tokio::sync::Mutex::default(),
        }
    }

    /// Lets first looks use what this daemon knows.
    pub(crate) fn know(&self, state: Arc<State>) {
        let _ = self.known.set(state); // the first one stays
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

    /// The present picture. While there is none yet, the part of it that can be had at once; the whole one is being read then.
    pub(crate) async fn glance(self: &Arc<Self>) -> Result<Arc<Shot>, Unread> {
        self.note_look();
        if !self.has_picture()
            && let Some(part) = self.part().await
        {
            let viewer = Arc::clone(self);
            tokio::spawn(async move { viewer.read().await });
            return Ok(part);
        }
        self.look().await
    }

    fn note_look(&self) {
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn has_picture(&self) -> bool {
        self.shots.borrow().as_ref().is_some_and(|shot| shot.taken.elapsed() < self.every * STALE_INTERVALS)
    }

    /// The part of a picture that has the workspaces that this daemon watches. `None`: the whole picture is there meanwhile, or the daemon's
    /// rows are few or too old, or the tables give no answer, which the read of the whole fleet then tells.
    async fn part(&self) -> Option<Arc<Shot>> {
        let mut part = self.part.lock().await;
        if self.has_picture() {
            return None;
        }
        if let Some(shot) = part.as_ref().filter(|shot| shot.taken.elapsed() < self.every) {
            return Some(Arc::clone(shot));
        }
        let has_failed = self.reading.try_lock().is_ok_and(|failure| failure.is_some());
        let fleet = self.known.get().filter(|_| !has_failed).and_then(|state| recent(state, self.every * 2))?;
        let shot = Arc::new(self.take_part(fleet).await?);
        *part = Some(Arc::clone(&shot));
        Some(shot)
    }

    async fn take_part(&self, fleet: Arc<Snapshot>) -> Option<Shot> {
        let taken = Instant::now();
        let present = self.store.present().await.ok()?;
        let (said, holds) = (self.store.said().await.ok()?, self.store.holds().await.ok()?);
        let judging = tokio::task::spawn_blocking(move || {
            FleetPicture::of(Overview::of_known(present, fleet.rows(), fleet.count()), said, holds)
        });
        let mut picture = judging.await.ok()?;
        let shown = picture.troubled.iter().take(NAMED).filter_map(|place| picture.at_place(*place));
        let ids: Vec<&str> = shown.map(|seen| seen.entry.id.as_str()).collect();
        if !ids.is_empty() {
            let read = self.store.entries(&ids).await.ok()?;
            picture.show(read);
        }
        picture.is_part = true;
        Some(Shot { picture, changes: Vec::new(), more_changes: 0, taken })
    }

    /// The present picture.
    pub(crate) async fn look(self: &Arc<Self>) -> Result<Arc<Shot>, Unread> {
        self.note_look();
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
                self.drop_part();
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
            if looked.elapsed() >= KEPT_FOR.max(self.every * STALE_INTERVALS) {
                self.shots.send_replace(None);
                self.drop_part();
            }
        }
    }

    fn drop_part(&self) {
        // Whoever holds it is making a part, and sees the picture that is there then.
        if let Ok(mut part) = self.part.try_lock() {
            *part = None;
        }
    }
}

/// The daemon's last read of a large fleet, if it is at most this old.
fn recent(state: &State, age_max: Duration) -> Option<Arc<Snapshot>> {
    let fleet = state.fleet();
    let is_recent = fleet.stamp().is_some_and(|stamp| state.now() - stamp.at <= age_max);
    (is_recent && fleet.count() >= PART_MIN).then_some(fleet)
}
