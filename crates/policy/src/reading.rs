//! When a read of what has changed since the last read of the fleet is enough, and when all rows must be read.
//!
//! A read of what has changed brings the rows with a stamp later than the last read, and those that the judge
//! [calls](crate::judge::Judge::call) by their ids. It misses what changes without a new stamp, so all rows are read now and then, and whenever
//! it is not known what was missed.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::id::EngineName;
use crate::moment::{Moment, Timestamp};

/// How far a read of what has changed reaches back beyond the read before it, on the database's clock. This is for stamps whose transaction
/// had not ended at that read, and for writers whose clock is behind. Larger: more rows come twice. Smaller: more rows have to be called by
/// their ids.
const OVERLAP: Duration = Duration::from_secs(2);

/// If the database's clock differs by this much from what our own clock predicts, it has stepped between two reads. Larger: stamps from
/// before and after a step are compared with each other. Smaller: a slow read looks like a step, and costs a read of all rows.
const STEP_MIN: Duration = Duration::from_secs(1);

/// How often in a resync interval the rows are counted, and all of them read if their number is not explained by the rows that have changed.
/// Larger: the database goes through the whole view more often, and a fleet in which many workspaces are parked and un-parked is read in
/// whole more often. Smaller: a workspace that is un-parked without a new stamp is found later.
const COUNTS_PER_RESYNC: u32 = 6;

/// How many rows a read of what has changed may call by their ids, or a quarter of the fleet if that is more.
const CALLED_MIN: usize = 1_000;

/// Why all rows of the fleet are read, and not only what has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resync {
    /// Nothing was read before.
    Start,
    /// `DEFIB_RESYNC_INTERVAL` has passed.
    Interval,
    /// The last read failed, or is too long ago.
    Outage,
    /// Another server answers, or the same one after a restart.
    FailOver,
    /// The database's clock has stepped: stamps from before and after it cannot be compared.
    ClockStep,
    /// What this replica speaks for has changed.
    Lease,
    /// The view or a function beside it was replaced.
    Replaced,
    /// The fleet has more or fewer rows than those that have changed explain.
    Count,
    /// So many workspaces are in trouble that reading them one by one would cost more.
    ManyCalled,
}

impl Resync {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Start,
        Self::Interval,
        Self::Outage,
        Self::FailOver,
        Self::ClockStep,
        Self::Lease,
        Self::Replaced,
        Self::Count,
        Self::ManyCalled,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Interval => "interval",
            Self::Outage => "outage",
            Self::FailOver => "fail_over",
            Self::ClockStep => "clock_step",
            Self::Lease => "lease",
            Self::Replaced => "replaced",
            Self::Count => "count",
            Self::ManyCalled => "many_called",
        }
    }
}

/// How often the fleet is read.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// The time between two reads (`DEFIB_POLL_INTERVAL`).
    pub poll: Duration,
    /// The time between two reads of all rows (`DEFIB_RESYNC_INTERVAL`).
    pub resync: Duration,
}

/// The last read that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRead {
    /// When it was.
    pub at: Moment,
    /// The database's clock then.
    pub database_now: Timestamp,
    /// When that server was started, on its own clock.
    pub database_started_at: Timestamp,
    /// When all rows were read.
    pub resynced_at: Moment,
    /// When they were last read or counted.
    pub counted_at: Moment,
    /// The leases under which this replica spoke.
    pub spoken_for: BTreeSet<Option<EngineName>>,
}

impl LastRead {
    /// Why a read of what has changed since this one would not be enough, as far as that is known before it is made. `spoken_for` is what
    /// this replica speaks for now.
    #[must_use]
    pub fn is_too_old(&self, now: Moment, spoken_for: &BTreeSet<Option<EngineName>>, rhythm: Rhythm) -> Option<Resync> {
        if self.spoken_for != *spoken_for {
            Some(Resync::Lease)
        } else if now - self.at > 2 * rhythm.poll {
            Some(Resync::Outage)
        } else {
            is_due(now - self.resynced_at, rhythm.resync, rhythm).then_some(Resync::Interval)
        }
    }

    /// Whether it was of all rows.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.resynced_at == self.at
    }

    /// From which stamp on a read of what has changed since this one brings rows.
    #[must_use]
    pub fn floor(&self) -> Timestamp {
        self.database_now.shifted(-i64::try_from(OVERLAP.as_micros()).unwrap_or(i64::MAX))
    }

    /// Whether the next read shall count the rows.
    #[must_use]
    pub fn wants_count(&self, now: Moment, rhythm: Rhythm) -> bool {
        is_due(now - self.counted_at, rhythm.resync / COUNTS_PER_RESYNC, rhythm)
    }

    /// Why a read of what has changed since this one was not enough, as far as the answer of the database shows it. `replaced` says whether
    /// the view or a function beside it is another one than at this read.
    #[must_use]
    pub fn misses(
        &self,
        replaced: bool,
        database_started_at: Timestamp,
        at: Moment,
        database_now: Timestamp,
    ) -> Option<Resync> {
        let expected = self.database_now.plus(at - self.at);
        let apart = expected.since(database_now).max(database_now.since(expected));
        if database_started_at != self.database_started_at {
            Some(Resync::FailOver)
        } else if apart >= STEP_MIN {
            Some(Resync::ClockStep)
        } else {
            replaced.then_some(Resync::Replaced)
        }
    }
}

/// Whether so many rows were called by their ids, in a fleet of `watched`, that reading all of them costs less.
#[must_use]
pub fn calls_too_many(called: usize, watched: usize) -> bool {
    called > (watched / 4).max(CALLED_MIN)
}

/// A poll comes a little early or late.
fn is_due(since: Duration, interval: Duration, rhythm: Rhythm) -> bool {
    since + rhythm.poll / 2 >= interval
}

#[cfg(test)]
mod tests {
    use super::*;

    const RHYTHM: Rhythm = Rhythm { poll: Duration::from_secs(5), resync: Duration::from_secs(60) };

    fn seconds(n: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(n)
    }

    fn last() -> LastRead {
        LastRead {
            at: seconds(100),
            database_now: Timestamp(1_000_000_000),
            database_started_at: Timestamp(1),
            resynced_at: seconds(50),
            counted_at: seconds(95),
            spoken_for: BTreeSet::from([None]),
        }
    }

    #[test]
    fn each_reason_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = Resync::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(names.len(), Resync::ALL.len());
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_') && name.len() > 3));
    }

    #[test]
    fn all_rows_are_read_when_it_is_time_after_a_missed_poll_and_when_what_we_speak_for_changes() {
        let (last, ours) = (last(), BTreeSet::from([None]));
        assert_eq!(last.is_too_old(seconds(105), &ours, RHYTHM), None);
        let half_a_poll_early = seconds(107) + Duration::from_millis(500);
        assert_eq!(last.is_too_old(half_a_poll_early, &ours, RHYTHM), Some(Resync::Interval));
        assert_eq!(last.is_too_old(half_a_poll_early.minus(Duration::from_millis(1)), &ours, RHYTHM), None);
        assert_eq!(last.is_too_old(seconds(110), &ours, RHYTHM), Some(Resync::Interval), "two polls are no outage");
        assert_eq!(last.is_too_old(seconds(111), &ours, RHYTHM), Some(Resync::Outage));
        assert_eq!(last.is_too_old(seconds(105), &BTreeSet::new(), RHYTHM), Some(Resync::Lease));
        assert!(!last.is_whole() && LastRead { resynced_at: last.at, ..last }.is_whole());
    }

    #[test]
    fn stamps_of_another_server_or_from_before_a_step_of_its_clock_are_not_compared() {
        let last = last();
        let after = |micros: i64| Timestamp(1_000_000_000 + 5_000_000 + micros);
        assert_eq!(last.misses(false, Timestamp(1), seconds(105), after(999_999)), None);
        assert_eq!(last.misses(false, Timestamp(1), seconds(105), after(1_000_000)), Some(Resync::ClockStep));
        assert_eq!(last.misses(false, Timestamp(1), seconds(105), after(-1_000_000)), Some(Resync::ClockStep));
        assert_eq!(last.misses(false, Timestamp(2), seconds(105), after(0)), Some(Resync::FailOver));
        assert_eq!(last.misses(true, Timestamp(1), seconds(105), after(0)), Some(Resync::Replaced));
        assert_eq!(last.floor(), Timestamp(998_000_000));
    }

    #[test]
    fn rows_are_counted_six_times_in_an_interval_and_called_up_to_a_quarter_of_a_large_fleet() {
        assert!(!last().wants_count(seconds(102), RHYTHM));
        assert!(last().wants_count(seconds(103), RHYTHM));
        assert!(!calls_too_many(1_000, 100));
        assert!(calls_too_many(1_001, 100));
        assert!(!calls_too_many(2_500, 10_000));
        assert!(calls_too_many(2_501, 10_000));
    }
}
