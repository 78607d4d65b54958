//! How often a workspace beats, learned from the moments at which its heartbeat advances.
//!
//! Every fixed window is wrong for some workspaces. One of 15 s kills half of a fleet that beats each 30 s. With one of 10 min, a workspace
//! that beats each second stays dead for minutes. So each workspace has its own mean and mean deviation, by the estimator that TCP uses
//! for its retransmission timer (Jacobson, "Congestion Avoidance and Control", 1988; gains 1/8 and 1/4). A single long gap, as a busy agent
//! makes one, is clipped to the present window before it is learned: it widens the window and does not capture it.
//!
//! Freshness has two clocks. The database's says how old the stamp is; ours says how long ago we *saw* it advance. The
//! younger one counts, because the stamp may come from a skewed writer and must not make anyone look dead. A stamp ahead
//! of the database's clock says nothing about age at all, so then only our sighting counts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::moment::{Moment, Timestamp};
use crate::settings::Settings;

/// Intervals that must be seen before the learned window replaces the configured one.
const LEARNED_AFTER: u8 = 3;

/// What is known of one workspace's heartbeat. 48 bytes: it exists for every workspace of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cadence {
    /// The last stamp as written, for telling an advance from a repetition.
    stamp: i64,
    /// The last stamp, but never later than the database's clock at the read that first saw it.
    lived_at: i64,
    /// The last heartbeat stamp alone (`stamp` also counts activity), for learning the interval.
    beat: i64,
    /// The read that first saw the present stamp, whether or not we saw it advance.
    seen_at: Moment,
    mean_ms: f32,
    deviation_ms: f32,
    /// How long before `seen_at` the older stamp was last read, in milliseconds: the advance happened in between.
    unseen_for_ms: u32,
    intervals: u8,
    seen: bool,
    /// The next gap spans an outage or a restart, so the interval is not learned from it.
    skip_next_gap: bool,
}

/// What was learned of a heartbeat's interval: what a daemon that starts anew need not learn again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    /// Mean interval in milliseconds.
    pub mean_ms: f32,
    /// Mean deviation from it in milliseconds.
    pub deviation_ms: f32,
    /// The number of intervals that this was learned from; counting stops at 255.
    pub intervals: u8,
}

/// No heartbeat at all.
const NEVER: i64 = i64::MIN;

impl Default for Cadence {
    fn default() -> Self {
        Self {
            stamp: NEVER,
            lived_at: NEVER,
            beat: NEVER,
            seen_at: Moment::ZERO,
            mean_ms: 0.0,
            deviation_ms: 0.0,
            unseen_for_ms: 0,
            intervals: 0,
            seen: false,
            skip_next_gap: false,
        }
    }
}

/// One read's facts about a workspace's life.
#[derive(Clone, Copy, Debug)]
pub struct BeatRead {
    /// When the read was begun.
    pub at: Moment,
    /// The read before this one, if it was recent enough to tell when an advance happened.
    pub previous: Option<Moment>,
    /// The database's clock in this read.
    pub database_now: Timestamp,
    /// `last_heartbeat_at`.
    pub heartbeat: Option<Timestamp>,
    /// `last_activity_at`.
    pub activity: Option<Timestamp>,
}

impl Cadence {
    /// Takes note of a read. Returns whether it showed a new sign of life.
    pub fn observe(&mut self, read: BeatRead, settings: &Settings) -> bool {
        let beat = read.heartbeat.map_or(NEVER, |stamp| stamp.0);
        let stamp = beat.max(read.activity.map_or(NEVER, |stamp| stamp.0));
        let first = self.stamp == NEVER;
        let advanced = stamp > self.stamp && !(first && read.previous.is_none());
        if stamp > self.stamp {
            self.lived_at = stamp.min(read.database_now.0);
            self.seen_at = read.at;
            if advanced {
                self.seen = true;
                let unseen = read.previous.map_or(Duration::MAX, |previous| read.at - previous);
                self.unseen_for_ms = u32::try_from(unseen.as_millis()).unwrap_or(u32::MAX);
            }
        } else if stamp < self.stamp {
            // Somebody wrote an older stamp. Within the window that is two writers or a clock's jitter; beyond it the
            // beat that we saw has been taken back, and the sighting goes with it.
            if stamp == NEVER || Timestamp(self.stamp).since(Timestamp(stamp)) > self.window(settings) {
                self.seen = false;
            }
            self.lived_at = stamp.min(read.database_now.0);
        }
        self.stamp = stamp;
        self.learn(beat, settings);
        advanced
    }

    fn learn(&mut self, beat: i64, settings: &Settings) {
        if beat > self.beat && self.beat != NEVER {
            if self.skip_next_gap {
                self.skip_next_gap = false;
            } else {
                let gap = Timestamp(beat).since(Timestamp(self.beat)).min(self.window(settings));
                self.learn_gap(gap.as_secs_f32() * 1_000.0);
            }
        }
        if beat != NEVER {
            self.beat = beat;
        }
    }

    fn learn_gap(&mut self, gap_ms: f32) {
        if self.intervals == 0 {
            self.mean_ms = gap_ms;
            self.deviation_ms = gap_ms / 4.0;
        } else {
            let error = gap_ms - self.mean_ms;
            self.mean_ms += error / 8.0;
            self.deviation_ms += (error.abs() - self.deviation_ms) / 4.0;
        }
        self.intervals = self.intervals.saturating_add(1);
    }

    /// The next gap between heartbeats is caused by an outage or a restart, so the interval is not learned from it.
    pub fn skip_next_gap(&mut self) {
        self.skip_next_gap = true;
    }

    /// Whether it ever showed a sign of life.
    #[must_use]
    pub const fn has_lived(&self) -> bool {
        self.stamp != NEVER
    }

    /// The last sign of life on the database's clock, never in the future of the read that saw it.
    #[must_use]
    pub fn lived_at(&self) -> Option<Timestamp> {
        self.has_lived().then_some(Timestamp(self.lived_at))
    }

    /// The read that first saw the last sign of life.
    #[must_use]
    pub const fn first_read_at(&self) -> Moment {
        self.seen_at
    }

    /// Whether a row with this newest stamp shows a sign of life that was not seen before.
    pub(crate) fn is_older_than(&self, newest: Option<Timestamp>) -> bool {
        newest.is_some_and(|newest| newest.0 > self.stamp)
    }

    /// The read that last saw it advance, if one did. It is fresh for one window from this moment, whatever the clocks do, and not for
    /// longer unless another beat comes.
    #[must_use]
    pub fn sighted_at(&self) -> Option<Moment> {
        (self.seen && self.has_lived()).then_some(self.seen_at)
    }

    /// When we saw it advance, if we did: it happened between the first moment and the second.
    #[must_use]
    pub fn seen_between(&self) -> Option<(Moment, Moment)> {
        let unseen = Duration::from_millis(self.unseen_for_ms.into());
        (self.seen && self.unseen_for_ms != u32::MAX).then(|| (self.seen_at.minus(unseen), self.seen_at))
    }

    /// Age of the last sign of life at `now`, by the database's clock or by our sighting, whichever is younger. `None` when
    /// there never was one.
    #[must_use]
    pub fn age(&self, now: Moment, read_at: Moment, database_now: Timestamp) -> Option<Duration> {
        if !self.has_lived() {
            return None;
        }
        let seen = self.seen.then(|| now - self.seen_at);
        let ahead = self.lived_at > database_now.0;
        let stamped = (!ahead).then(|| database_now.since(Timestamp(self.lived_at)) + (now - read_at));
        Some(match (seen, stamped) {
            (Some(seen), Some(stamped)) => seen.min(stamped),
            (Some(age), None) | (None, Some(age)) => age,
            (None, None) => Duration::ZERO,
        })
    }

    /// Whether enough intervals were seen for the learned window to count.
    #[must_use]
    pub const fn is_learned(&self) -> bool {
        self.intervals >= LEARNED_AFTER
    }

    /// What was learned; `None` until enough intervals were seen.
    #[must_use]
    pub fn learned(&self) -> Option<Learned> {
        let Self { mean_ms, deviation_ms, intervals, .. } = *self;
        self.is_learned().then_some(Learned { mean_ms, deviation_ms, intervals })
    }

    /// Adopts what another process has learned, unless this process has already seen enough intervals itself. Returns whether it adopted
    /// it.
    pub fn recall(&mut self, learned: Learned) -> bool {
        let usable = [learned.mean_ms, learned.deviation_ms].iter().all(|ms| ms.is_finite() && *ms >= 0.0);
        if self.is_learned() || !usable || learned.intervals < LEARNED_AFTER {
            return false;
        }
        (self.mean_ms, self.deviation_ms, self.intervals) = (learned.mean_ms, learned.deviation_ms, learned.intervals);
        true
    }

    /// The mean interval: learned, or assumed until then.
    #[must_use]
    pub fn interval(&self, settings: &Settings) -> Duration {
        if self.is_learned() { millis(self.mean_ms) } else { settings.heartbeat_interval }
    }

    /// Younger than this is fresh: `clamp(2 x mean + 4 x deviation, DEFIB_RECENT_MIN, DEFIB_RECENT_MAX)`, with
    /// 2.5 x `DEFIB_HEARTBEAT_INTERVAL` in its place until the interval was learned.
    #[must_use]
    pub fn window(&self, settings: &Settings) -> Duration {
        let window = if self.is_learned() {
            millis(2.0 * self.mean_ms + 4.0 * self.deviation_ms)
        } else {
            settings.heartbeat_interval * 5 / 2
        };
        window.clamp(settings.recent_min, settings.recent_max)
    }

    /// Older than this, a beat is overdue: mean + 4 x deviation; half as much again as the mean until it was learned.
    #[must_use]
    pub fn overdue_after(&self, settings: &Settings) -> Duration {
        if self.is_learned() {
            millis(self.mean_ms + 4.0 * self.deviation_ms)
        } else {
            settings.heartbeat_interval * 3 / 2
        }
    }
}

fn millis(ms: f32) -> Duration {
    Duration::try_from_secs_f32(ms / 1_000.0).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
