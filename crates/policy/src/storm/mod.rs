//! The storm guard: what one bad view of the fleet can do is bounded.
//!
//! When more than max(`DEFIB_STORM_MIN`, `DEFIB_STORM_FRACTION` of the watched) die within one dead window, the scope (one engine, or the
//! fleet) is in a storm. Either something really killed them all, or our view is wrong. The guard does the right thing in both cases: it
//! lets a few restarts through, and more only when these have helped:
//!
//! ```text
//!   3 ──verified──► 6 ──verified──► 12 ──► 24 …       a real mass death recovers in logarithmic rounds
//!   │                │
//!   └─most failed────┴──► wait one cooldown ──► 3     a bad view restarts nobody, or three
//! ```
//!
//! The first batch is as many as may die without being a storm (`DEFIB_STORM_MIN`); one canary alone would let one workspace speak for
//! all. Who goes is drawn by lot (`queue.rs`), and what a batch says is decided in `round.rs`.
//!
//! The queue holds only workspaces whose restart is due: not those that are exhausted, held, parked or only reported, and not those whose
//! back-off still runs. A storm ends when nobody waits for a turn or for a second witness, no canary's answer is awaited, and a cooldown
//! has passed since a workspace last died in it for the first time. Only the first death of a workspace counts for that, so one that dies
//! again and again does not keep the storm open.

mod portrait;
mod queue;
mod round;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{EngineName, WorkspaceId};
use crate::moment::Moment;
use crate::restart::End;
use crate::settings::Settings;
pub use portrait::StormPortrait;
use queue::{Queue, lot};
pub(crate) use round::{Canary, Seen, What};
use round::{Come, Round};

/// The guard of one scope.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StormGuard {
    /// The workspaces that were newly found dead within the dead window, by time.
    recent: VecDeque<(Moment, WorkspaceId)>,
    /// The same, by workspace.
    counted: HashSet<WorkspaceId>,
    storm: Option<Storm>,
}

/// What decides whether deaths are a storm.
#[derive(Clone, Copy, Debug)]
pub struct Scale<'a> {
    /// The engine whose guard it is; `None` is the fleet's.
    pub scope: Option<&'a EngineName>,
    /// Its workspaces in the last read of the whole fleet.
    pub watched: usize,
    /// Deaths within this belong together.
    pub window: Duration,
    /// The hour on the database's clock. All replicas share it, so they draw the same lots, and a storm in another hour has other lots.
    pub hour: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Storm {
    /// When it began.
    began: Moment,
    /// What its draws are seeded with.
    seed: u64,
    /// All workspaces that have died in it.
    died: HashSet<WorkspaceId>,
    /// When one of them last died for the first time. The storm may end a cooldown after that.
    last_death: Moment,
    /// The workspaces whose restart is due.
    queue: Queue,
    /// The workspaces that lack one kind of witness. If the storm ended now, they would be restarted on the other kind alone.
    doubted: HashSet<WorkspaceId>,
    /// How often each workspace was a canary.
    drawn: HashMap<WorkspaceId, u32>,
    round: Round,
}

impl Storm {
    fn begin(now: Moment, scale: Scale<'_>, died: HashSet<WorkspaceId>, settings: &Settings) -> Self {
        let scope = scale.scope.map_or("", EngineName::as_str);
        let seed = lot(scale.hour.cast_unsigned(), scope);
        Self {
            began: now,
            seed,
            died,
            last_death: now,
            queue: Queue::new(seed),
            doubted: HashSet::new(),
            drawn: HashMap::new(),
            round: Round::first(settings.storm_min as usize),
        }
    }

    fn next_round(&mut self, failed: Option<(Moment, usize)>) {
        self.round = self.round.next(failed);
        self.queue.shuffle(self.seed.wrapping_add(self.round.number.into()));
    }
}

impl StormGuard {
    /// Takes note of a workspace that was newly found dead. Returns whether this began a storm.
    pub fn death(&mut self, id: &WorkspaceId, now: Moment, scale: Scale<'_>, settings: &Settings) -> bool {
        while let Some((at, _)) = self.recent.front()
            && now - *at > scale.window
        {
            if let Some((_, old)) = self.recent.pop_front() {
                self.counted.remove(&old);
            }
        }
        if self.counted.insert(id.clone()) {
            self.recent.push_back((now, id.clone()));
        }
        if let Some(storm) = &mut self.storm {
            if storm.died.insert(id.clone()) {
                storm.last_death = now;
            }
            return false;
        }
        if self.recent.len() <= threshold(scale.watched, settings) {
            return false;
        }
        self.storm = Some(Storm::begin(now, scale, self.counted.clone(), settings));
        true
    }

    /// Whether the scope is in a storm.
    #[must_use]
    pub const fn is_storm(&self) -> bool {
        self.storm.is_some()
    }

    /// The restart of a workspace is due, and waits for its turn. `tried_ago` is how long ago it was last tried, by the ledger. By that a
    /// process that has just taken over knows who was a canary before.
    pub fn waits(&mut self, id: &WorkspaceId, engine: &EngineName, now: Moment, tried_ago: Option<Duration>) {
        if let Some(storm) = &mut self.storm {
            let tried = tried_ago.is_some_and(|ago| ago <= now - storm.began);
            let drawn = storm.drawn.get(id).copied().unwrap_or_default().max(u32::from(tried));
            storm.queue.insert(id, engine, drawn);
            storm.doubted.remove(id);
        }
    }

    /// A workspace lacks one kind of witness.
    pub fn doubts(&mut self, id: &WorkspaceId) {
        if let Some(storm) = &mut self.storm {
            storm.queue.remove(id);
            storm.doubted.insert(id.clone());
        }
    }

    /// A workspace no longer waits for anything.
    pub fn leaves(&mut self, id: &WorkspaceId) {
        if let Some(storm) = &mut self.storm {
            storm.queue.remove(id);
            storm.doubted.remove(id);
        }
    }

    /// A workspace is no longer watched.
    pub fn forget(&mut self, id: &WorkspaceId) {
        self.leaves(id);
        if let Some(storm) = &mut self.storm {
            storm.round.leaves(id);
        }
    }

    /// How many more may go now: any number where there is no storm.
    #[must_use]
    pub fn room(&self, now: Moment) -> usize {
        self.storm.as_ref().map_or(usize::MAX, |storm| storm.round.room(now))
    }

    /// Whose turn it is now, of each engine no more than `room_on` says.
    pub fn draw(&self, now: Moment, room_on: impl Fn(&EngineName) -> usize) -> Vec<(EngineName, WorkspaceId)> {
        self.storm.as_ref().map_or_else(Vec::new, |storm| storm.queue.draw(storm.round.room(now), room_on))
    }

    /// Whether `id` was let through in this round, and its answer is awaited.
    #[must_use]
    pub fn awaits(&self, id: &WorkspaceId) -> bool {
        self.storm.as_ref().is_some_and(|storm| storm.round.has(id))
    }

    /// A restart of `id` goes now.
    pub(crate) fn release(&mut self, id: &WorkspaceId, canary: Canary) {
        self.leaves(id);
        if let Some(storm) = &mut self.storm {
            *storm.drawn.entry(id.clone()).or_default() += 1;
            storm.round.release(id, canary);
        }
    }

    /// The order for a workspace has ended. Returns whether the workspace was a canary of this scope.
    pub fn ended(&mut self, id: &WorkspaceId, end: End, now: Moment) -> bool {
        let awaited = self.awaits(id);
        if let Some(storm) = &mut self.storm {
            storm.round.ended(id, end, now);
        }
        awaited
    }

    /// A pass saw one of the canaries.
    pub(crate) fn sees(&mut self, id: &WorkspaceId, seen: Seen<'_>, now: Moment) {
        if let Some(storm) = &mut self.storm {
            storm.round.sees(id, seen, now);
        }
    }

    /// Ends the round or the storm, if it is time to. Returns whether the storm has ended.
    pub fn turn(&mut self, now: Moment, settings: &Settings) -> bool {
        let Some(storm) = &mut self.storm else { return false };
        storm.round.give_up_on_the_late(now);
        match storm.round.come() {
            Come::Through => storm.next_round(None),
            Come::Failed => storm.next_round(Some((now + settings.storm_cooldown, settings.storm_min as usize))),
            Come::Open => {}
        }
        let waited_for = !(storm.round.is_idle() && storm.queue.is_empty() && storm.doubted.is_empty());
        let over = now - storm.last_death > settings.storm_cooldown && !waited_for;
        if over {
            *self = Self::default();
        }
        over
    }
}

fn threshold(watched: usize, settings: &Settings) -> usize {
    let fraction = settings.storm_fraction * watched as f64;
    let least = settings.storm_min as usize;
    // Truncation is right: "more than 20 % of 18" begins at 4, since 3 is not more than 3.6.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a fraction of a count of workspaces")]
    least.max(fraction as usize)
}

#[cfg(test)]
mod tests;
