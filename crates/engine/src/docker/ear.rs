//! What has been heard of an engine over its event stream, and whether anything may have been missed.
//!
//! Quick lists (`quick`) leave out the containers that run, so they cannot show that a container was removed, renamed, or replaced under
//! its name. The event stream tells of that. Here it is noted which stream is open and how much of what it told concerns our containers.
//! What the last full list showed (a [`Roster`]) is believed as long as the same stream is open and nothing of that kind has come since.
//!
//! ```text
//! stream 7 open ── full list asked ── answer ───────── quick list ── quick list ── rename of ours ── next: a full list
//!                        │ an event of ours in between │
//!                        └── is newer than the answer: next, a full list again
//! ```
//!
//! An event that comes while a full list is under way may concern somebody who is known only when the list has arrived. So the containers that
//! such events name are kept until then.
//!
//! **A stream that has gone deaf** stays open and tells nothing any more, for example when a firewall forgot the connection. Nothing in a
//! stream shows that. But once a minute `/info` says how many containers live. If that number has changed between two answers, and the
//! stream told of nothing in between, not even of strangers, then it is deaf: the roster is thrown away, and the stream is opened anew. What
//! remains: changes that leave the number as it was, such as one container that was removed and another one that was started. These show
//! with the next full list.

use std::sync::Arc;

use super::DockerEngine;
use super::quick::Words;
use super::roster::Roster;

/// How many names and ids of events are kept while a full list is under way. A list takes a few tens of milliseconds. If more come in that
/// time, another full list follows. Larger: more memory on a host where many containers come and go. Smaller: more full lists there.
const MEANWHILE_MAX: usize = 1_024;

/// How much has been heard of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// Which event stream is open.
    stream: u64,
    /// How many events it has brought about containers that matter.
    changes: u64,
}

/// What an event says about the container that it is about.
pub(super) struct About<'a> {
    /// The container's id.
    pub(super) container: &'a str,
    /// Its name, without the `/` in front.
    pub(super) name: Option<&'a str>,
    /// It carries the workspace label.
    pub(super) is_labelled: bool,
    /// It is about a health check. Such events do not count as changes: quick lists show every container that is not healthy, and podman
    /// sends an event for each check of each container.
    pub(super) is_health: bool,
}

/// What has been heard so far, and what was known when.
#[derive(Debug, Default)]
pub(super) struct Ear {
    /// The number of the stream that is open.
    open: Option<u64>,
    /// How many streams were opened.
    streams: u64,
    /// How many events came about containers that matter.
    changes: u64,
    /// How many events came, strangers' included.
    messages: u64,
    /// Full lists that are under way.
    full_lists: usize,
    /// The names and ids that the events had meanwhile.
    meanwhile: Vec<Box<str>>,
    /// Whether some of these were not kept, because there were too many.
    overflowed: bool,
    census: Option<Census>,
    /// What the last full list showed.
    roster: Option<Arc<Roster>>,
    pub(super) words: Words,
}

/// How many containers lived, and how much had been heard by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Census {
    living: i64,
    /// The stream that is open, or the next one: that one begins with what has happened since this answer.
    stream: u64,
    messages: u64,
}

impl Ear {
    /// From now on another engine may answer, so nothing that was known before holds any more.
    pub(super) fn forget(&mut self) {
        self.roster = None;
        self.census = None;
        self.words = Words::default();
    }

    fn opened(&mut self) {
        if self.open.is_none() {
            self.streams += 1;
            self.open = Some(self.streams);
        }
    }

    fn ended(&mut self) {
        self.open = None;
        self.roster = None;
    }

    fn heard(&self) -> Option<Heard> {
        Some(Heard { stream: self.open?, changes: self.changes })
    }

    fn told(&mut self, about: &About<'_>) {
        self.messages += 1;
        if about.is_health {
            return;
        }
        let names = || std::iter::once(about.container).chain(about.name);
        let is_ours = |roster: &Arc<Roster>| names().any(|name| roster.is_named(name));
        if about.is_labelled || self.roster.as_ref().is_some_and(is_ours) {
            self.changes += 1;
        } else if self.full_lists > 0 {
            if self.meanwhile.len() < MEANWHILE_MAX {
                self.meanwhile.extend(names().map(Into::into));
            } else {
                self.overflowed = true;
            }
        }
    }

    /// The roster, unless something has been heard since that it does not know.
    pub(super) fn roster(&self) -> Option<&Arc<Roster>> {
        self.roster.as_ref().filter(|roster| self.heard() == Some(roster.heard))
    }

    /// A full list is about to be asked for. Returns what has been heard before it.
    pub(super) fn full_list_begins(&mut self) -> Option<Heard> {
        self.full_lists += 1;
        self.heard()
    }

    /// A full list has come, with this roster, or has brought none.
    pub(super) fn full_list_ends(&mut self, roster: Option<Roster>) {
        let is_current = |roster: &Roster| {
            self.heard() == Some(roster.heard)
                && !self.overflowed
                && !self.meanwhile.iter().any(|name| roster.is_named(name))
        };
        self.roster = roster.filter(is_current).map(Arc::new);
        self.full_lists -= 1;
        if self.full_lists == 0 {
            self.meanwhile = Vec::new();
            self.overflowed = false;
        }
    }

    /// The engine has said how many containers live; `None`: it does not say. Returns whether the event stream has gone deaf.
    pub(super) fn counted(&mut self, living: Option<i64>) -> bool {
        let stream = self.open.unwrap_or(self.streams + 1);
        let now = living.map(|living| Census { living, stream, messages: self.messages });
        let before = std::mem::replace(&mut self.census, now);
        let is_deaf = self.open.is_some()
            && before.zip(now).is_some_and(|(before, now)| before.living != now.living && before.is_silent_until(now));
        if is_deaf {
            self.roster = None;
        }
        is_deaf
    }
}

impl Census {
    fn is_silent_until(self, later: Self) -> bool {
        (self.stream, self.messages) == (later.stream, later.messages)
    }
}

impl DockerEngine {
    /// The event stream has told of a container.
    pub(super) fn stream_told(&self, about: &About<'_>) {
        self.link().ear.told(about);
    }
}

/// A subscription to the engine's events. When it is dropped, the stream is not open any more, whatever it ended by.
pub(super) struct Subscription<'a> {
    engine: &'a DockerEngine,
    is_open: bool,
}

impl<'a> Subscription<'a> {
    /// One that is being asked for.
    pub(super) const fn new(engine: &'a DockerEngine) -> Self {
        Self { engine, is_open: false }
    }

    /// The engine sends events from now on.
    pub(super) fn opened(&mut self) {
        if !self.is_open {
            self.is_open = true;
            self.engine.link().ear.opened();
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.is_open
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.engine.link().ear.ended();
    }
}
