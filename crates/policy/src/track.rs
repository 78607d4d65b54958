//! What is remembered of every workspace between two passes, whether or not it is in doubt.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cadence::Cadence;
use crate::id::EngineName;
use crate::moment::{Moment, Timestamp};
use crate::pipeline::Pipeline;
use crate::sample::Incarnation;
use crate::verdict::{Held, Rule, Verdict};

/// A start-up that took longer than this was an outage, and is not learned as a property of the workspace.
const STARTUP_MAX: Duration = Duration::from_secs(1_800);

/// How far two clocks may be apart after the correction, because reading the engine's clock takes a call of some milliseconds. A first
/// heartbeat right after the start must not look older than the start for that.
const CLOCKS_APART: Duration = Duration::from_millis(100);

/// The clock readings of the fleet read that a judgement uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadStamp {
    /// When the read was begun.
    pub at: Moment,
    /// The database's clock in it.
    pub database_now: Timestamp,
}

/// One workspace between passes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Track {
    pub(crate) cadence: Cadence,
    /// The life that was last seen.
    pub(crate) life: Option<Life>,
    /// The longest that an incarnation of it took until its first heartbeat, as far as we saw; forgotten slowly.
    pub(crate) startup_ms: u32,
    /// The verdict, the rule that gave it, and since when. `None` until it was judged.
    pub(crate) verdict: Option<(Verdict, Rule)>,
    pub(crate) since: Moment,
    /// What this replica has last said of it, if it is the replica that speaks for it: the verdict, its rule, and the hold.
    pub(crate) told: Option<(Verdict, Rule, Option<Held>)>,
    /// The newest sample that was judged: an older one that arrives late is void.
    pub(crate) sampled_at: Moment,
    pub(crate) missing_since: Option<Moment>,
    /// Since when nothing has been seen running.
    pub(crate) down_since: Option<Moment>,
    /// When its container was last seen frozen. Its silence until then accuses nobody.
    pub(crate) frozen_at: Option<Moment>,
    pub(crate) transition_since: Option<Moment>,
    /// Since when each look at this life has found its health check failing.
    pub(crate) failing_since: Option<Moment>,
    /// The last conclusive sample found it stopped or missing.
    pub(crate) container_dead: bool,
    /// When we first heard of it. It stands in for the age of a workspace that never sent a heartbeat.
    pub(crate) known_since: Moment,
    /// The first read that held it.
    pub(crate) watched_since: Option<Moment>,
    /// Whether it is exhausted: it had too many attempts, and none has helped.
    pub(crate) exhausted: bool,
    /// The read of the whole fleet that last held it.
    pub(crate) generation: u32,
    /// The last read that held its row.
    pub(crate) read_at: Moment,
    /// The engine in its row; `None` until a read has held it.
    pub(crate) engine: Option<EngineName>,
    /// It has no container by design, so no engine judges it.
    pub(crate) external: bool,
    /// Until this moment it says nothing new by itself, and passes leave it out. [`Moment::ZERO`]: every pass looks at it.
    pub(crate) calm_until: Moment,
    /// For how many more reads of all rows it is read with every poll, because its stamps come too late for a read of what is new.
    pub(crate) stray_for: u8,
}

/// One life of one container, as we came to know it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Life {
    pub(crate) incarnation: Incarnation,
    /// The look that first saw it.
    pub(crate) seen_at: Moment,
    /// Whether it was running when we first looked. Then it may be much older than our first sight of it.
    pub(crate) found: bool,
    /// Whether its first heartbeat was seen.
    pub(crate) has_beaten: bool,
    /// What its stamps prove. A heartbeat that merely came in during this life may be a late one of the life before.
    pub(crate) stamped: Stamped,
}

/// Whether a life has sent a heartbeat whose stamp is later than its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stamped {
    /// None is known.
    #[default]
    Never,
    /// There is such a stamp, but this process did not see it come in: this read was the first to show it. If the database's clock has
    /// stepped meanwhile, the stamp may be of another clock and of the life before.
    Found(Moment),
    /// One was seen to come in while this life was going on.
    Seen,
}

impl Life {
    /// When it started, on the database's clock; `offset` is the engine's clock minus the database's in microseconds.
    pub(crate) fn started_at(&self, offset: i64) -> Option<Timestamp> {
        self.incarnation.started_at.map(|started| started.shifted(offset.saturating_neg()))
    }

    /// How long it has been going on: by the clocks or by our own sight, whichever is longer.
    pub(crate) fn age(&self, now: Moment, stamp: ReadStamp, offset: i64) -> Duration {
        let sighted = now - self.seen_at;
        match self.started_at(offset) {
            Some(started) => sighted.max(stamp.database_now.since(started) + (now - stamp.at)),
            None if self.found => Duration::MAX,
            None => sighted,
        }
    }

    /// Whether it began while we watched, or at a moment that is known. Otherwise nobody can tell how long it has been going on.
    pub(crate) const fn is_surely_young(&self) -> bool {
        !self.found || self.incarnation.started_at.is_some()
    }
}

impl Life {
    /// Whether a later look that saw `seen`, started so long before it, can have seen this life.
    ///
    /// A list does not tell starts. The start that an inspect tells afterwards belongs to this life only if it lies before our
    /// first sight of it: else somebody has restarted the container between the two.
    fn may_go_on_as(&self, seen: &Incarnation, started_ago: Option<Duration>, at: Moment) -> bool {
        let began_later = started_ago.is_some_and(|ago| ago + CLOCKS_APART < at - self.seen_at);
        self.incarnation.may_be(seen) && (self.incarnation.started_at.is_some() || !began_later)
    }
}

impl Track {
    /// Takes note of the life that a sample saw at `at`. Returns whether it is a new one.
    pub(crate) fn note_life(&mut self, seen: &Incarnation, at: Moment, stamp: ReadStamp, offset: i64) -> bool {
        let engine_now = stamp.database_now.shifted(offset).plus(at - stamp.at);
        let started_ago = seen.started_at.map(|started| engine_now.since(started));
        match &mut self.life {
            Some(life) if life.may_go_on_as(seen, started_ago, at) => {
                if life.incarnation.started_at.is_none() {
                    life.incarnation.started_at = seen.started_at;
                }
                false
            }
            known => {
                let found = known.is_none();
                self.failing_since = None;
                *known = Some(Life {
                    incarnation: seen.clone(),
                    seen_at: at,
                    found,
                    has_beaten: false,
                    stamped: Stamped::Never,
                });
                if !found {
                    self.cadence.skip_next_gap();
                }
                !found
            }
        }
    }

    /// Whether its last sign of life belongs to the present life. One that is older than the start of this life does not. If the life began
    /// before we watched and its start is not known, the sign of life counts as its own.
    pub(crate) fn beat_is_current(&self, offset: i64) -> bool {
        let Some(life) = &self.life else { return self.cadence.has_lived() };
        let untold = life.found && life.incarnation.started_at.is_none() && self.cadence.lived_at().is_some();
        untold || self.beat_is_proven(offset)
    }

    /// Whether its last sign of life is known to belong to the present life: by its stamp, which is later than the start, or because it
    /// was seen to come in while this life was going on.
    pub(crate) fn beat_is_proven(&self, offset: i64) -> bool {
        let Some(life) = &self.life else { return self.cadence.has_lived() };
        life.has_beaten || self.beat_is_stamped(offset) || self.beat_was_seen()
    }

    /// Whether its last sign of life is stamped later than the start of the present life.
    fn beat_is_stamped(&self, offset: i64) -> bool {
        let started = self.life.as_ref().and_then(|life| life.started_at(offset));
        started.zip(self.cadence.lived_at()).is_some_and(|(started, lived)| lived.plus(CLOCKS_APART) >= started)
    }

    /// Whether its last sign of life was seen to come in while the present life was going on, whatever its stamp says.
    fn beat_was_seen(&self) -> bool {
        let seen = self.cadence.seen_between().zip(self.life.as_ref());
        seen.is_some_and(|((after, _), life)| after >= life.seen_at)
    }

    /// Whether it was found lost, by this process or by the replica that owned it before, and has not been heard of since.
    pub(crate) fn is_lost(&self) -> bool {
        let said = self.told.map(|(verdict, ..)| verdict);
        let found = self.verdict.map(|(verdict, _)| verdict);
        said == Some(Verdict::Lost) || found == Some(Verdict::Lost)
    }

    /// Whether its silence may mean that it hangs: it has beaten in this life, or the `age` of this life exceeds the longest start-up time.
    ///
    /// A boot that was under way when this process started counts as a boot once its start is known. Until then the workspace may have been
    /// running for long, and a workspace whose start is not known is not restarted.
    pub(crate) fn may_hang(&self, age: Duration, pipeline: &Pipeline) -> bool {
        let Some(life) = &self.life else { return true };
        let has_beaten = match life.stamped {
            Stamped::Never => false,
            Stamped::Found(read_at) => {
                self.cadence.lived_at().is_some_and(|stamp| pipeline.vouches_for(stamp, read_at))
            }
            Stamped::Seen => true,
        };
        has_beaten || !life.is_surely_young() || age > STARTUP_MAX
    }

    /// Whether the first heartbeats of this life have told all that they can tell, so that a pass learns nothing more from the next one.
    pub(crate) fn has_settled_in(&self) -> bool {
        self.external
            || self.life.as_ref().is_some_and(|life| {
                life.has_beaten && (life.stamped == Stamped::Seen || life.incarnation.started_at.is_none())
            })
    }

    /// How long a new life of it may take until its first heartbeat.
    pub(crate) fn settle(&self, configured: Duration) -> Duration {
        let learned = Duration::from_millis(self.startup_ms.into());
        configured.max((learned + learned / 2).min(STARTUP_MAX))
    }

    /// Whether its last sign of life is stamped so much later than the start of the present life that it cannot be of the life before. A
    /// heartbeat from right before the start may be stamped a little later than the start, because the clocks may be a little apart.
    fn beat_is_surely_stamped(&self, offset: i64) -> bool {
        let started = self.life.as_ref().and_then(|life| life.started_at(offset));
        started.zip(self.cadence.lived_at()).is_some_and(|(started, lived)| lived >= started.plus(CLOCKS_APART))
    }

    /// Takes note of what the stamp of its last heartbeat proves of the present life. A stamp from before a step of the database's clock
    /// proves nothing, because it may seem to be of a life that began after it.
    pub(crate) fn note_stamped_beat(&mut self, offset: i64, pipeline: &Pipeline) {
        let first_read_at = self.cadence.first_read_at();
        if !self.beat_is_surely_stamped(offset) || pipeline.has_stepped_since(first_read_at) {
            return;
        }
        let seen = self.beat_was_seen();
        if let Some(life) = &mut self.life
            && life.stamped != Stamped::Seen
        {
            life.stamped = if seen { Stamped::Seen } else { Stamped::Found(first_read_at) };
        }
    }

    /// Takes note of the first heartbeat of a life.
    pub(crate) fn first_beat(&mut self, now: Moment, stamp: ReadStamp, offset: i64) {
        let Some(life) = &mut self.life else { return };
        if life.has_beaten {
            return;
        }
        life.has_beaten = true;
        if life.found {
            return;
        }
        let took = u32::try_from(life.age(now, stamp, offset).min(STARTUP_MAX).as_millis()).unwrap_or(u32::MAX);
        self.startup_ms = took.max(self.startup_ms - self.startup_ms / 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cadence::BeatRead;
    use crate::settings::Settings;

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(10_000 + seconds))
    }

    fn clock(seconds: i64) -> Timestamp {
        Timestamp(1_700_000_000_000_000 + seconds * 1_000_000)
    }

    fn stamp(seconds: u64) -> ReadStamp {
        ReadStamp { at: at(seconds), database_now: clock(seconds.cast_signed()) }
    }

    fn life(container: &str, started: Option<i64>) -> Incarnation {
        Incarnation { container_id: container.into(), started_at: started.map(clock) }
    }

    fn beat(track: &mut Track, seconds: u64, previous: Option<u64>, heartbeat: i64) {
        let read = BeatRead {
            at: at(seconds),
            previous: previous.map(at),
            database_now: clock(seconds.cast_signed()),
            heartbeat: Some(clock(heartbeat)),
            activity: None,
        };
        track.cadence.observe(read, &Settings::default());
    }

    fn note(track: &mut Track, seen: &Incarnation, seconds: u64) -> bool {
        track.note_life(seen, at(seconds), stamp(seconds), 0)
    }

    /// A list sees it run since before 10, an inspect at 100 when it was started.
    #[test]
    fn a_start_after_our_first_sight_is_another_life_than_the_one_that_did_not_tell_its_start() {
        for (started_ms, another) in
            [(-500_000, false), (10_000, false), (10_100, false), (10_101, true), (99_000, true)]
        {
            let mut track = Track::default();
            assert!(!note(&mut track, &life("a", None), 10));
            let started = Timestamp(clock(0).0 + started_ms * 1_000);
            let seen = Incarnation { container_id: "a".into(), started_at: Some(started) };
            // The engine's clock is an hour ahead, and the rows were read two seconds before.
            let ahead = Incarnation { started_at: Some(started.shifted(3_600_000_000)), ..seen.clone() };
            let mut other = track.clone();
            assert_eq!(note(&mut track, &seen, 100), another, "{started_ms}");
            assert_eq!(other.note_life(&ahead, at(100), stamp(98), 3_600_000_000), another, "{started_ms}, ahead");
            assert_eq!(track.life.as_ref().map(|life| life.found), Some(!another));
            assert!(!note(&mut track, &seen, 200), "its start is known now");
        }
    }

    #[test]
    fn a_life_that_was_there_before_us_is_old_and_one_that_appears_is_young() {
        let mut track = Track::default();
        assert!(!note(&mut track, &life("a", None), 0));
        assert_eq!(track.life.as_ref().map(|life| life.age(at(1), stamp(1), 0)), Some(Duration::MAX));
        assert!(!note(&mut track, &life("a", Some(-500)), 5), "the list did not tell, the inspect did");
        assert_eq!(track.life.as_ref().map(|life| life.age(at(10), stamp(8), 0)), Some(Duration::from_secs(510)));
        assert!(note(&mut track, &life("a", Some(20)), 21), "started again");
        assert!(note(&mut track, &life("b", None), 30), "recreated");
        assert_eq!(track.life.as_ref().map(|life| life.age(at(33), stamp(33), 0)), Some(Duration::from_secs(3)));
    }

    #[test]
    fn the_engines_clock_is_corrected_before_it_is_compared() {
        let mut track = Track::default();
        note(&mut track, &life("a", Some(3_600)), 0);
        let ahead_by_an_hour = 3_600_000_000;
        assert_eq!(
            track.life.as_ref().map(|life| life.age(at(7), stamp(7), ahead_by_an_hour)),
            Some(Duration::from_secs(7))
        );
        beat(&mut track, 5, None, 2);
        assert!(track.beat_is_current(ahead_by_an_hour));
        assert!(!track.beat_is_current(0));
    }

    #[test]
    fn a_first_beat_is_not_void_for_a_few_milliseconds_between_the_clocks_nor_revoked_later() {
        for (before_ms, current) in [(0, true), (100, true), (101, false)] {
            let mut track = Track::default();
            let started = Timestamp(clock(0).0 + before_ms * 1_000);
            note(&mut track, &Incarnation { container_id: "a".into(), started_at: Some(started) }, 0);
            beat(&mut track, 5, None, 0);
            assert_eq!(track.beat_is_current(0), current, "{before_ms} ms");
            if current {
                track.first_beat(at(5), stamp(5), 0);
                assert!(track.beat_is_current(-3_600_000_000), "whatever the clocks say later");
            }
        }
    }

    #[test]
    fn a_beat_older_than_the_life_is_void_until_one_is_seen_advancing_in_it() {
        let mut track = Track::default();
        beat(&mut track, 0, None, -10);
        assert!(track.beat_is_current(0), "no container known: nothing to be older than");
        note(&mut track, &life("a", Some(-5)), 1);
        assert!(!track.beat_is_current(0));
        beat(&mut track, 5, Some(2), 3);
        assert!(track.beat_is_current(0));
        // The clock of the writer is an hour behind. By its stamp the heartbeat is of an earlier life. By our sight it is of this one, if
        // it came in between two reads of this life.
        for (previous, current) in [(7, false), (8, true)] {
            let mut track = track.clone();
            assert!(note(&mut track, &life("a", Some(7)), 8));
            beat(&mut track, 15, Some(previous), 4);
            assert_eq!(track.beat_is_current(0), current, "{previous}");
        }
    }

    #[test]
    fn the_start_up_time_is_learned_with_half_as_much_again_to_spare() {
        let mut track = Track::default();
        let settle = Duration::from_secs(30);
        note(&mut track, &life("a", Some(0)), 0);
        track.first_beat(at(300), stamp(300), 0);
        assert_eq!(track.settle(settle), settle, "how long a life took that we found running is not known");
        note(&mut track, &life("b", Some(1_000)), 1_000);
        track.first_beat(at(1_100), stamp(1_100), 0);
        track.first_beat(at(1_500), stamp(1_500), 0);
        assert_eq!(track.settle(settle), Duration::from_secs(150), "only the first beat of a life counts");
        note(&mut track, &life("c", Some(2_000)), 2_000);
        track.first_beat(at(2_010), stamp(2_010), 0);
        assert_eq!(track.settle(settle), Duration::from_millis(112_500), "a quick start is believed slowly");
        note(&mut track, &life("d", Some(3_000)), 3_000);
        track.first_beat(at(90_000), stamp(90_000), 0);
        assert_eq!(track.settle(settle), STARTUP_MAX);
    }

    #[test]
    fn a_gap_over_a_restart_teaches_nothing_and_the_first_look_at_a_life_is_no_restart() {
        let settings = Settings::default();
        let mut track = Track::default();
        beat(&mut track, 0, None, 0);
        note(&mut track, &life("a", Some(-500)), 0);
        for seconds in [10, 20, 30] {
            beat(&mut track, seconds, Some(seconds - 5), seconds.cast_signed());
        }
        assert!(track.cadence.is_learned(), "three intervals");
        let window = track.cadence.window(&settings);
        note(&mut track, &life("b", Some(40)), 40);
        beat(&mut track, 70, Some(65), 70);
        assert_eq!(track.cadence.window(&settings), window);
    }

    #[test]
    fn a_life_that_was_never_heard_of_may_hang_after_the_longest_start_up_time() {
        let (mut track, clock_is_steady) = (Track::default(), Pipeline::default());
        let may_hang = |track: &Track, age| track.may_hang(age, &clock_is_steady);
        assert!(may_hang(&track, Duration::ZERO), "no container is known");
        note(&mut track, &life("a", None), 0);
        assert!(may_hang(&track, Duration::ZERO), "it was there before us, and nobody knows since when");
        note(&mut track, &life("a", Some(-5)), 1);
        assert!(!may_hang(&track, STARTUP_MAX), "a boot that was under way when we came is a boot");
        assert!(may_hang(&track, STARTUP_MAX + Duration::from_nanos(1)));
        note(&mut track, &life("b", Some(10)), 10);
        assert!(!may_hang(&track, STARTUP_MAX) && may_hang(&track, STARTUP_MAX + Duration::from_nanos(1)));
        beat(&mut track, 20, Some(15), 9);
        track.first_beat(at(20), stamp(20), 0);
        track.note_stamped_beat(0, &clock_is_steady);
        assert!(!may_hang(&track, STARTUP_MAX), "a late heartbeat of the life before came in");
        beat(&mut track, 25, Some(20), 18);
        track.note_stamped_beat(0, &clock_is_steady);
        assert!(may_hang(&track, Duration::ZERO));
    }

    /// A chaos year had a workspace that was restarted by hand 60 ms after a heartbeat, and it booted for long while defib was started anew.
    #[test]
    fn a_heartbeat_from_right_before_a_start_does_not_prove_that_the_start_is_over() {
        let mut clock_is_steady = Pipeline::default();
        clock_is_steady.recall_steps(None);
        for (beat_ms, may_hang) in [(-60, false), (99, false), (100, true)] {
            let mut track = Track::default();
            note(&mut track, &life("a", Some(10)), 11);
            let read = BeatRead {
                at: at(11),
                previous: None,
                database_now: clock(11),
                heartbeat: Some(clock(10).shifted(beat_ms * 1_000)),
                activity: None,
            };
            track.cadence.observe(read, &Settings::default());
            track.note_stamped_beat(0, &clock_is_steady);
            assert_eq!(track.may_hang(STARTUP_MAX, &clock_is_steady), may_hang, "{beat_ms} ms after the start");
            assert!(track.beat_is_current(0), "it is fresh all the same");
        }
    }

    #[test]
    fn it_is_lost_if_it_was_found_so_here_or_by_the_owner_before() {
        let (lost, alive) = (Verdict::Lost, Verdict::Alive);
        for (told, found, is_lost) in [
            (None, None, false),
            (Some(lost), None, true),
            (None, Some(lost), true),
            (Some(lost), Some(alive), true),
            (Some(alive), Some(lost), true),
            (Some(alive), Some(alive), false),
        ] {
            let track = Track {
                told: told.map(|told| (told, Rule::ExternalLost, None)),
                verdict: found.map(|found| (found, Rule::ExternalLost)),
                ..Track::default()
            };
            assert_eq!(track.is_lost(), is_lost, "{told:?} {found:?}");
        }
    }

    #[test]
    fn it_has_settled_in_when_a_beat_of_its_life_is_surely_stamped_or_can_never_be() {
        for (has_beaten, stamped, started, settled) in [
            (false, Stamped::Seen, Some(5), false),
            (false, Stamped::Never, None, false),
            (true, Stamped::Never, Some(5), false),
            (true, Stamped::Found(at(0)), Some(5), false),
            (true, Stamped::Seen, Some(5), true),
            (true, Stamped::Seen, None, true),
            (true, Stamped::Never, None, true),
        ] {
            let life = Life { incarnation: life("c", started), seen_at: at(0), found: true, has_beaten, stamped };
            let track = Track { life: Some(life), ..Track::default() };
            assert_eq!(track.has_settled_in(), settled, "{has_beaten} {stamped:?} {started:?}");
        }
        assert!(!Track::default().has_settled_in());
        assert!(Track { external: true, ..Track::default() }.has_settled_in());
    }
}
