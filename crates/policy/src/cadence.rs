//! How often a workspace beats, learned from the moments at which its heartbeat advances.
//!
//! Every fixed window is wrong for some workspaces. One of 15 s kills half of a fleet that beats each 30 s, and one of 10 min leaves a
//! workspace dead for minutes that beats each second. So each workspace has its own mean and mean deviation, by the estimator that TCP uses
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

    /// The read that saw it advance last, if one did. Until a window after this moment it is fresh, whatever the clocks do, and without
    /// another beat no longer.
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
mod tests {
    use super::*;

    const ORIGIN: i64 = 1_700_000_000_000_000;

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(1_000 + seconds))
    }

    fn stamp(seconds: i64) -> Timestamp {
        Timestamp(ORIGIN + seconds * 1_000_000)
    }

    /// A read each 5 s of a workspace that beats after each of `gaps`.
    fn beaten(gaps: &[i64]) -> (Cadence, i64) {
        let (settings, mut cadence, mut clock) = (Settings::default(), Cadence::default(), 0_i64);
        let mut beat = 0;
        cadence.observe(read(0, None, Some(0)), &settings);
        for gap in gaps {
            let next = beat + gap;
            while clock < next {
                let previous = clock;
                clock += 5;
                if clock >= next {
                    beat = next;
                }
                cadence.observe(read(clock, Some(previous), Some(beat)), &settings);
            }
        }
        (cadence, clock)
    }

    fn read(seconds: i64, previous: Option<i64>, heartbeat: Option<i64>) -> BeatRead {
        BeatRead {
            at: at(seconds.unsigned_abs()),
            previous: previous.map(|previous| at(previous.unsigned_abs())),
            database_now: stamp(seconds),
            heartbeat: heartbeat.map(stamp),
            activity: None,
        }
    }

    #[test]
    fn until_a_window_after_the_sighting_it_is_fresh_whatever_the_databases_clock_does() {
        let settings = Settings::default();
        let (beaten, clock) = beaten(&[10, 10]);
        let sighted = beaten.sighted_at().expect("an advance was seen");
        let window = beaten.window(&settings);
        let before = (sighted + window).minus(Duration::from_millis(1));
        for step in [-3_600, 0, 3_600] {
            let age = beaten.age(before, at(clock.unsigned_abs()), stamp(clock + step));
            assert!(age.is_some_and(|age| age < window), "{age:?} after a step of {step} s");
        }
        let mut taken_back = beaten;
        taken_back.observe(read(clock + 5, Some(clock), None), &settings);
        assert_eq!(taken_back.sighted_at(), None, "the beat was taken back");
        assert_eq!(Cadence::default().sighted_at(), None);
    }

    #[test]
    fn a_cadence_fits_into_48_bytes() {
        assert!(size_of::<Cadence>() <= 48, "{}", size_of::<Cadence>());
    }

    #[test]
    fn the_configured_interval_stands_in_until_three_intervals_were_seen() {
        let settings = Settings::default();
        let (two, _) = beaten(&[10, 10]);
        assert_eq!(two.window(&settings), Duration::from_secs(75));
        assert_eq!(two.interval(&settings), Duration::from_secs(30));
        assert_eq!(two.overdue_after(&settings), Duration::from_secs(45));
        let (three, _) = beaten(&[10, 10, 10]);
        assert!(three.is_learned());
        assert_eq!(three.interval(&settings), Duration::from_secs(10));
        assert!(three.window(&settings) < Duration::from_secs(30), "{:?}", three.window(&settings));
    }

    #[test]
    fn what_was_learned_is_taken_up_once_and_what_is_known_better_stays() {
        let settings = Settings::default();
        let (quick, _) = beaten(&[10; 20]);
        let learned = quick.learned().expect("it was learned");
        let mut anew = Cadence::default();
        assert!(anew.learned().is_none() && anew.recall(learned));
        assert_eq!(
            (anew.window(&settings), anew.interval(&settings)),
            (quick.window(&settings), quick.interval(&settings))
        );
        let (mut slow, _) = beaten(&[60; 20]);
        let window = slow.window(&settings);
        assert!(!slow.recall(learned), "it has seen for itself");
        assert_eq!(slow.window(&settings), window);
        for bad in [
            Learned { mean_ms: f32::NAN, ..learned },
            Learned { mean_ms: -1.0, ..learned },
            Learned { deviation_ms: f32::INFINITY, ..learned },
            Learned { intervals: 2, ..learned },
        ] {
            assert!(!Cadence::default().recall(bad), "{bad:?}");
        }
    }

    #[test]
    fn the_window_is_twice_the_mean_and_four_deviations_within_its_bounds() {
        let settings = Settings::default();
        let (steady, _) = beaten(&[30; 40]);
        let window = steady.window(&settings);
        assert!(window >= Duration::from_secs(60) && window < Duration::from_secs(62), "{window:?}");
        let (quick, _) = beaten(&[5; 40]);
        assert_eq!(quick.window(&settings), settings.recent_min);
        let capped = Settings { recent_max: Duration::from_secs(40), ..Settings::default() };
        assert_eq!(steady.window(&capped), Duration::from_secs(40));
        let overdue = steady.overdue_after(&settings);
        assert!(overdue >= Duration::from_secs(30) && overdue < Duration::from_secs(32), "{overdue:?}");
    }

    #[test]
    fn one_long_gap_widens_the_window_and_does_not_capture_it() {
        let settings = Settings::default();
        let (busy, _) = beaten(&[30, 30, 30, 30, 30, 30, 120]);
        let after = busy.window(&settings);
        assert!(after > Duration::from_secs(62) && after < Duration::from_secs(150), "{after:?}");
        assert!(busy.interval(&settings) < Duration::from_secs(40));
        let (settled, _) = beaten(&[30, 30, 30, 30, 30, 30, 120, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30]);
        assert!(settled.window(&settings) < Duration::from_secs(75), "{:?}", settled.window(&settings));
    }

    #[test]
    fn the_estimator_is_jacobsons() {
        let settings = Settings { recent_min: Duration::from_secs(1), ..Settings::default() };
        let mut cadence = Cadence::default();
        for beat in [0, 10, 20, 36] {
            cadence.observe(read(beat, Some(beat - 5), Some(beat)), &settings);
        }
        // 10, 10, 16: the mean goes 10, 10, 10.75 and the deviation 2.5, 1.875, 2.90625.
        let near = |duration: Duration, seconds: f64| (duration.as_secs_f64() - seconds).abs() < 0.001;
        assert!(near(cadence.interval(&settings), 10.75), "{:?}", cadence.interval(&settings));
        assert!(near(cadence.window(&settings), 2.0 * 10.75 + 4.0 * 2.906_25), "{:?}", cadence.window(&settings));
        let overdue = cadence.overdue_after(&settings);
        assert!(near(overdue, 10.75 + 4.0 * 2.906_25), "{overdue:?}");
        // And a shorter one pulls it back: 10.75 + (4 - 10.75) / 8.
        cadence.observe(read(40, Some(36), Some(40)), &settings);
        assert!(near(cadence.interval(&settings), 9.906_25), "{:?}", cadence.interval(&settings));
    }

    #[test]
    fn a_slow_drift_is_followed_so_that_no_gap_is_stale() {
        let settings = Settings::default();
        let mut gaps = vec![30; 10];
        for gap in 30..=80 {
            gaps.extend([gap; 2]);
            let (cadence, _) = beaten(&gaps);
            assert!(cadence.window(&settings) > Duration::from_secs(gap.unsigned_abs() + 1), "gap {gap}");
        }
    }

    #[test]
    fn the_younger_clock_counts() {
        let settings = Settings::default();
        let mut cadence = Cadence::default();
        // The clock of the writer is ten minutes behind: the heartbeat is old by its stamp, and young by our sighting.
        cadence.observe(read(0, None, Some(-600)), &settings);
        assert_eq!(cadence.age(at(0), at(0), stamp(0)), Some(Duration::from_secs(600)), "never seen advancing");
        assert!(cadence.observe(read(5, Some(0), Some(-570)), &settings));
        assert_eq!(cadence.age(at(8), at(5), stamp(5)), Some(Duration::from_secs(3)));
        // We saw it long ago, but its stamp is young, so the stamp counts. This happens when the row of another replica is read for a
        // focused pass.
        let mut old = Cadence::default();
        old.observe(read(0, None, Some(0)), &settings);
        assert_eq!(old.age(at(7), at(5), stamp(5)), Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_stamp_from_the_future_is_not_fresh_for_ever() {
        let settings = Settings::default();
        let mut cadence = Cadence::default();
        cadence.observe(read(0, None, Some(0)), &settings);
        cadence.observe(read(5, Some(0), Some(3_600)), &settings);
        assert_eq!(cadence.lived_at(), Some(stamp(5)));
        for seconds in [10, 200] {
            assert!(!cadence.observe(read(seconds, Some(5), Some(3_600)), &settings), "no advance");
        }
        assert_eq!(cadence.age(at(205), at(200), stamp(200)), Some(Duration::from_secs(200)));
    }

    #[test]
    fn a_stamp_of_this_very_moment_is_not_ahead() {
        let settings = Settings::default();
        let mut cadence = Cadence::default();
        cadence.observe(read(0, None, Some(-100)), &settings);
        cadence.observe(read(5, Some(0), Some(5)), &settings);
        assert_eq!(
            cadence.age(at(25), at(20), stamp(5)),
            Some(Duration::from_secs(5)),
            "the database's clock stood still"
        );
    }

    #[test]
    fn one_window_back_is_jitter_and_more_is_taken_back() {
        let settings = Settings::default();
        for (back, seen) in [(75, 0), (76, 76)] {
            let mut cadence = Cadence::default();
            cadence.observe(read(0, None, Some(0)), &settings);
            cadence.observe(read(100, Some(95), Some(100)), &settings);
            cadence.observe(read(100, Some(100), Some(100 - back)), &settings);
            assert_eq!(cadence.age(at(100), at(100), stamp(100)), Some(Duration::from_secs(seen)), "{back}");
        }
    }

    #[test]
    fn a_database_clock_that_steps_back_leaves_our_sighting() {
        let settings = Settings::default();
        let mut cadence = Cadence::default();
        cadence.observe(read(0, None, Some(0)), &settings);
        cadence.observe(read(5, Some(0), Some(5)), &settings);
        assert_eq!(cadence.age(at(25), at(20), stamp(-280)), Some(Duration::from_secs(20)));
    }

    #[test]
    fn a_beat_taken_back_takes_the_sighting_with_it_and_jitter_does_not() {
        let settings = Settings::default();
        let mut cadence = Cadence::default();
        cadence.observe(read(0, None, Some(0)), &settings);
        cadence.observe(read(5, Some(0), Some(5)), &settings);
        assert!(!cadence.observe(read(10, Some(5), Some(3)), &settings));
        assert_eq!(cadence.age(at(10), at(10), stamp(10)), Some(Duration::from_secs(5)), "seen at 5");
        assert!(!cadence.observe(read(15, Some(10), Some(-600)), &settings));
        assert_eq!(cadence.age(at(15), at(15), stamp(15)), Some(Duration::from_secs(615)));
        cadence.observe(read(20, Some(15), None), &settings);
        assert_eq!(cadence.age(at(20), at(20), stamp(20)), None);
    }

    #[test]
    fn activity_counts_as_life_and_teaches_nothing_about_the_interval() {
        let settings = Settings::default();
        let mut cadence = Cadence::default();
        cadence.observe(read(0, None, Some(0)), &settings);
        for seconds in 1..=10 {
            let busy = BeatRead { activity: Some(stamp(seconds)), ..read(seconds, Some(seconds - 1), Some(0)) };
            assert!(cadence.observe(busy, &settings));
        }
        assert_eq!(cadence.age(at(10), at(10), stamp(10)), Some(Duration::ZERO));
        assert!(!cadence.is_learned());
    }

    #[test]
    fn a_gap_over_an_outage_is_not_learned() {
        let settings = Settings::default();
        let (mut cadence, clock) = beaten(&[30; 10]);
        let window = cadence.window(&settings);
        cadence.skip_next_gap();
        cadence.observe(read(clock + 300, Some(clock + 295), Some(clock + 300)), &settings);
        assert_eq!(cadence.window(&settings), window);
        cadence.observe(read(clock + 400, Some(clock + 395), Some(clock + 400)), &settings);
        assert!(cadence.window(&settings) > window, "only one gap is skipped");
    }

    #[test]
    fn the_first_read_of_a_beat_is_no_sighting_but_a_first_beat_is() {
        let settings = Settings::default();
        let mut known = Cadence::default();
        assert!(!known.observe(read(0, None, Some(-10)), &settings));
        assert_eq!(known.seen_between(), None);
        let mut booting = Cadence::default();
        booting.observe(read(0, None, None), &settings);
        assert!(booting.observe(read(5, Some(0), Some(4)), &settings));
        assert_eq!(booting.seen_between(), Some((at(0), at(5))));
    }
}
