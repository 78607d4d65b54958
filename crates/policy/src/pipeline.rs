//! When stale heartbeats accuse nobody, because the way that heartbeats take was broken.
//!
//! A heartbeat travels from the agent through a network, a platform and a database before we read it. When that pipeline
//! was down, a stale heartbeat accuses the pipeline and not the workspace. So after each such time heartbeat ages count
//! from its end:
//!
//! ```text
//!   beat        database away                back       one window later
//! ───●──────────░░░░░░░░░░░░░░░░░░░░░░░░░░░░░│──────────────│─────────►
//!    └ the stamp's own age ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┼┄┄┄┄┄┄┄┄┄┄┄┄┄┄►  would convict the whole fleet
//!                                            └──────────────►  the age that counts
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fleet::FleetRead;
use crate::moment::{Moment, Timestamp};

/// Fewer stale workspaces than this never mean that the pipeline is down.
const PIPELINE_MIN: usize = 5;

/// When the database's clock has advanced between two reads by this much more or less than ours, that clock has stepped. Larger: a smaller
/// step goes unnoticed, and a heartbeat stamped before it may seem to be of a life that began after it. Smaller: a slow read looks like a
/// step.
const STEP_MIN: Duration = Duration::from_secs(2);

/// What other processes noticed of steps of the database's clock matters for this long. Larger: a stamp that is fine proves nothing for
/// longer. Smaller: a boot may still be under way that began before the step; none takes longer than half an hour.
pub const STEP_MATTERS_FOR: Duration = Duration::from_secs(3_600);

/// The step that the database's clock made while nobody watched it, if it made one. `was_ahead` is by how much, in microseconds, it was ahead
/// of the clock of a process's host when that was last written down, and `is_ahead` is by how much it is now. Stamps up to the answer may be
/// from before the step. A step of the host's own clock looks the same, and then stamps that are fine prove nothing for a while.
#[must_use]
pub fn unseen_step(was_ahead: i64, is_ahead: i64, database_now: Timestamp) -> Option<Timestamp> {
    let as_it_was = database_now.shifted(was_ahead.saturating_sub(is_ahead));
    let apart = as_it_was.since(database_now).max(database_now.since(as_it_was));
    (apart >= STEP_MIN).then(|| as_it_was.max(database_now))
}

/// Why a heartbeat that is not fresh is not held against a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoWitness {
    /// We did not read the fleet for more than two poll intervals.
    ReadGap,
    /// The database started, or another server answers now (a fail-over).
    DatabaseStarted,
    /// At least half of the fleet went stale at once.
    PipelineDown,
    /// It never sent one in this incarnation and may still be starting.
    Starting,
    /// Its container was frozen until a moment ago.
    Frozen,
}

/// The state of the way that heartbeats take, common to the whole fleet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Pipeline {
    last_read: Option<Moment>,
    server_started: Option<Timestamp>,
    /// The end of the last outage and its cause: ages count from here.
    usable_from: Option<(Moment, NoWitness)>,
    down: bool,
    /// Our clock and the database's in the newest read, of whichever rows.
    clocks: Option<(Moment, Timestamp)>,
    /// The last read before which the database's clock had stepped.
    stepped_at: Option<Moment>,
    /// Stamps up to this may be from before a step that this process has noticed.
    comparable_from: Option<Timestamp>,
    /// The same of the steps that other processes have noticed.
    others: OthersSteps,
    /// The last read of the fleet did not bring rows whose stamps are older than this; `None`: it brought all of them.
    floor: Option<Timestamp>,
}

/// What this process knows of the steps of the database's clock that other processes have noticed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
enum OthersSteps {
    /// Nobody has been asked yet.
    #[default]
    NotAsked,
    /// Stamps up to this may be from before one; `None`: there was none lately.
    Known(Option<Timestamp>),
}

impl Pipeline {
    /// Takes note of a successful read of the whole fleet. Returns whether the gap before it was an outage.
    pub fn observe(&mut self, read: &FleetRead, poll_interval: Duration) -> bool {
        let mut outage = false;
        if self.last_read.is_some_and(|last| read.at - last > 2 * poll_interval) {
            self.usable_from = Some((read.at, NoWitness::ReadGap));
            outage = true;
        }
        let known = self.server_started.replace(read.database_started_at);
        match known {
            // The first read: the server's own start is the end of the outage, however long ago it was.
            None => {
                let uptime = read.database_now.since(read.database_started_at);
                self.usable_from = Some((read.at.minus(uptime), NoWitness::DatabaseStarted));
            }
            // The start time has changed: the server was restarted, or a stand-by was promoted. Nobody knows which heartbeats were lost.
            Some(known) if known != read.database_started_at => {
                self.usable_from = Some((read.at, NoWitness::DatabaseStarted));
                outage = true;
            }
            Some(_) => {}
        }
        self.last_read = Some(read.at);
        outage
    }

    /// Takes note of how far back the last read of the fleet went; `None`: it brought every row.
    pub const fn note_floor(&mut self, floor: Option<Timestamp>) {
        self.floor = floor;
    }

    /// How far back the last read of the fleet went; `None`: it brought every row.
    #[must_use]
    pub const fn floor(&self) -> Option<Timestamp> {
        self.floor
    }

    /// Takes note of the database's clock in a read, be it of the whole fleet or of a few rows.
    pub fn observe_clock(&mut self, at: Moment, database_now: Timestamp) {
        if let Some((last, theirs)) = self.clocks {
            if at < last {
                return; // reads may overtake each other
            }
            let ours = theirs.plus(at - last);
            let apart = ours.since(database_now).max(database_now.since(ours));
            if apart >= STEP_MIN {
                self.stepped_at = Some(at);
                self.comparable_from = self.comparable_from.max(Some(ours.max(database_now)));
            }
        }
        self.clocks = Some((at, database_now));
    }

    /// Whether the database's clock has stepped since a read, or right before it: then a stamp that this read was the first to see may be
    /// of another clock than what is compared with it now.
    #[must_use]
    pub fn has_stepped_since(&self, read_at: Moment) -> bool {
        self.stepped_at.is_some_and(|stepped| stepped >= read_at)
    }

    /// Takes up what other processes have noticed of steps of the database's clock: stamps up to `comparable_from` may be from before one.
    /// `None` when there was none lately.
    pub fn recall_steps(&mut self, comparable_from: Option<Timestamp>) {
        self.others = OthersSteps::Known(comparable_from);
    }

    /// What other processes have to be told: stamps up to this may be from before a step of the database's clock. `None` while no step has
    /// been noticed.
    #[must_use]
    pub const fn comparable_from(&self) -> Option<Timestamp> {
        self.comparable_from
    }

    /// Whether a stamp that the read at `read_at` was the first to show is of the clock that the database has now. This process did not see
    /// the stamp come in, so it has to know of the steps before its own time too.
    #[must_use]
    pub fn vouches_for(&self, stamp: Timestamp, read_at: Moment) -> bool {
        let later_than_all_steps = match self.others {
            OthersSteps::NotAsked => false,
            OthersSteps::Known(until) => until.is_none_or(|until| stamp > until),
        };
        later_than_all_steps && !self.has_stepped_since(read_at)
    }

    /// The read of the whole fleet before the present one.
    #[must_use]
    pub const fn last_read(&self) -> Option<Moment> {
        self.last_read
    }

    /// Takes note of how many watched workspaces are stale although their containers are not known to be down. A workspace whose container
    /// is down does not count: its silence is explained, and counting it would make a real mass death look like an outage of the
    /// heartbeats.
    pub fn weigh(&mut self, at: Moment, stale: usize, watched: usize) {
        let down = stale >= PIPELINE_MIN && 2 * stale >= watched;
        if down || self.down {
            self.usable_from = Some((at, NoWitness::PipelineDown));
        }
        self.down = down;
    }

    /// Whether at least half of the fleet is stale at once, now.
    #[must_use]
    pub const fn is_down(&self) -> bool {
        self.down
    }

    /// How long heartbeats have been usable, and what made them unusable before. Ages are capped by this.
    #[must_use]
    pub fn usable_for(&self, now: Moment) -> (Duration, NoWitness) {
        match self.usable_from {
            Some((_, cause)) if self.down => (Duration::ZERO, cause),
            Some((from, cause)) => (now - from, cause),
            None => (Duration::MAX, NoWitness::ReadGap),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(10_000 + seconds))
    }

    fn read(seconds: u64, server_started: i64) -> FleetRead {
        FleetRead {
            at: at(seconds),
            database_now: Timestamp(i64::try_from(seconds).unwrap() * 1_000_000),
            database_started_at: Timestamp(server_started * 1_000_000),
            workspaces: Vec::new(),
        }
    }

    #[test]
    fn a_gap_of_more_than_two_polls_is_an_outage_and_ages_count_from_its_end() {
        let mut pipeline = Pipeline::default();
        assert!(!pipeline.observe(&read(0, -9_000), POLL));
        assert!(!pipeline.observe(&read(10, -9_000), POLL), "two polls are not more than two");
        assert!(pipeline.usable_for(at(10)).0 >= Duration::from_secs(9_000));
        assert!(pipeline.observe(&read(21, -9_000), POLL));
        assert_eq!(pipeline.usable_for(at(26)), (Duration::from_secs(5), NoWitness::ReadGap));
    }

    #[test]
    fn a_young_or_other_database_makes_heartbeats_unusable_for_a_while() {
        let mut young = Pipeline::default();
        young.observe(&read(30, 20), POLL);
        assert_eq!(young.usable_for(at(33)), (Duration::from_secs(13), NoWitness::DatabaseStarted));
        let mut failed_over = Pipeline::default();
        failed_over.observe(&read(0, -9_000), POLL);
        assert!(failed_over.observe(&read(5, -500), POLL));
        assert_eq!(failed_over.usable_for(at(6)), (Duration::from_secs(1), NoWitness::DatabaseStarted));
    }

    #[test]
    fn half_of_the_fleet_and_at_least_five_stale_at_once_accuse_the_pipeline() {
        for (stale, watched, down) in [(4, 8, false), (4, 4, false), (5, 10, true), (5, 11, false), (50, 100, true)] {
            let mut pipeline = Pipeline::default();
            pipeline.weigh(at(0), stale, watched);
            assert_eq!(pipeline.is_down(), down, "{stale} of {watched}");
        }
    }

    #[test]
    fn a_step_of_the_databases_clock_makes_the_stamps_that_were_read_before_it_incomparable() {
        let clock = |millis: i64| Timestamp(millis * 1_000);
        for (second_read, stepped) in
            [(5_000, false), (6_999, false), (7_000, true), (3_001, false), (3_000, true), (-278_000, true)]
        {
            let mut pipeline = Pipeline::default();
            pipeline.observe_clock(at(0), clock(0));
            pipeline.observe_clock(at(5), clock(second_read));
            assert_eq!(pipeline.has_stepped_since(at(0)), stepped, "{second_read}");
            assert_eq!(
                pipeline.has_stepped_since(at(5)),
                stepped,
                "what the read after the step saw may be from before it"
            );
            let newest_stamp_before = stepped.then(|| clock(second_read.max(5_000)));
            assert_eq!(pipeline.comparable_from(), newest_stamp_before, "{second_read}");
            pipeline.observe_clock(at(10), clock(second_read + 5_000));
            assert!(!pipeline.has_stepped_since(at(10)));
            assert_eq!(pipeline.comparable_from(), newest_stamp_before, "it is not forgotten");
            pipeline.observe_clock(at(7), clock(0));
            assert!(!pipeline.has_stepped_since(at(10)), "a read that was overtaken says nothing");
        }
    }

    #[test]
    fn a_step_that_nobody_saw_shows_in_how_far_the_clock_is_ahead() {
        let (second, now) = (1_000_000, Timestamp(1_000_000_000));
        for (was, is, until) in [
            (0, 0, None),
            (5 * second, 7 * second - 1, None),
            (-second, second, Some(now)),
            (0, 300 * second, Some(now)),
            (300 * second, 0, Some(now.shifted(300 * second))),
            (-second, -3 * second, Some(now.shifted(2 * second))),
        ] {
            assert_eq!(unseen_step(was, is, now), until, "{was}, {is}");
        }
    }

    #[test]
    fn a_stamp_that_was_found_is_vouched_for_once_the_steps_that_others_noticed_are_known() {
        let clock = |seconds: i64| Timestamp(seconds * 1_000_000);
        let mut pipeline = Pipeline::default();
        assert!(!pipeline.vouches_for(clock(10), at(0)), "nobody has told of a step or of none");
        pipeline.recall_steps(None);
        assert!(pipeline.vouches_for(clock(10), at(0)));
        pipeline.recall_steps(Some(clock(10)));
        assert!(!pipeline.vouches_for(clock(10), at(0)) && pipeline.vouches_for(Timestamp(10_000_001), at(0)));
        pipeline.observe_clock(at(0), clock(20));
        pipeline.observe_clock(at(5), clock(90));
        assert!(!pipeline.vouches_for(clock(80), at(5)), "a step of this process's own time");
    }

    #[test]
    fn after_the_pipeline_came_back_ages_count_from_then() {
        let mut pipeline = Pipeline::default();
        pipeline.weigh(at(0), 6, 10);
        assert_eq!(pipeline.usable_for(at(60)).0, Duration::ZERO, "while it is down nothing is stale");
        pipeline.weigh(at(60), 1, 10);
        assert_eq!(pipeline.usable_for(at(70)), (Duration::from_secs(10), NoWitness::PipelineDown));
        pipeline.weigh(at(65), 1, 10);
        assert_eq!(pipeline.usable_for(at(70)).0, Duration::from_secs(10), "only the end of the outage counts");
    }

    #[test]
    fn a_read_that_was_overtaken_tells_no_step_and_one_of_the_same_moment_does() {
        let clock = |seconds: i64| Timestamp(seconds * 1_000_000);
        for (second, theirs, stepped) in [(90, 90, false), (100, 90, true), (100, 100, false), (110, 110, false)] {
            let mut pipeline = Pipeline::default();
            pipeline.observe_clock(at(100), clock(100));
            pipeline.observe_clock(at(second), clock(theirs));
            assert_eq!(pipeline.comparable_from().is_some(), stepped, "{second} {theirs}");
        }
    }
}
