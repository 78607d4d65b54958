//! Suspicions (sections 4 and 4.4): reports by callers who could not reach a workspace.
//!
//! A suspicion only asks for a sample; it never counts as a miss. Its one use as evidence is as the second witness against a
//! wedged workspace, and there distinct reporters count, not reports: one caller with a broken network accuses everybody it
//! talks to, so a reporter who accuses a large part of the fleet is discounted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::id::WorkspaceId;
use crate::moment::Moment;

/// Workspaces with remembered suspicions, at most.
const WORKSPACES_MAX: usize = 20_000;
/// Reporters remembered for one workspace, at most: two are enough to be distinct, the rest tell the broken ones apart.
const REPORTERS_MAX: usize = 8;
/// A reporter who accuses more workspaces than this, and more than a quarter of the fleet, is the broken one.
const BROKEN_REPORTER_MIN: usize = 5;

/// Whether a report is from so long before our start that it describes a fleet that we never saw: it is ignored.
#[must_use]
pub fn is_too_old(reported_at: Moment, started: Moment, dead_window: Duration) -> bool {
    reported_at < started.minus(dead_window)
}

/// The accusations of one reporter against one workspace.
#[derive(Clone, Debug)]
struct Accusation {
    reporter: Arc<str>,
    first: Moment,
    last: Moment,
}

/// The recent suspicions, bounded in number and in time.
#[derive(Debug, Default)]
pub struct SuspicionLog {
    accused: HashMap<WorkspaceId, Vec<Accusation>>,
    /// How many workspaces each reporter accuses: counted as they come and go, because a flood must not make every look at
    /// one workspace a walk over all.
    accused_by: HashMap<Arc<str>, usize>,
}

/// What the suspicions against a workspace amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accused {
    /// Distinct reporters who are not discounted.
    pub reporters: u32,
    /// From the first of their reports to the last.
    pub over: Duration,
}

impl SuspicionLog {
    /// Takes note of one report. After a silence of more than `lapse` a reporter begins a new accusation.
    pub fn report(&mut self, id: &WorkspaceId, reporter: &str, at: Moment, lapse: Duration) {
        if !self.accused.contains_key(id) && self.accused.len() >= WORKSPACES_MAX {
            return;
        }
        let accusations = self.accused.entry(id.clone()).or_default();
        if let Some(known) = accusations.iter_mut().find(|known| *known.reporter == *reporter) {
            if at > known.last + lapse {
                known.first = at;
            }
            known.last = known.last.max(at);
        } else if accusations.len() < REPORTERS_MAX {
            let reporter: Arc<str> = reporter.into();
            *self.accused_by.entry(Arc::clone(&reporter)).or_default() += 1;
            accusations.push(Accusation { reporter, first: at, last: at });
        }
    }

    /// What stands against `id`, counting reports of the last `within` in a fleet of `watched`.
    #[must_use]
    pub fn against(&self, id: &WorkspaceId, now: Moment, within: Duration, watched: usize) -> Accused {
        let Some(accusations) = self.accused.get(id) else { return Accused::default() };
        let counted: Vec<&Accusation> = accusations
            .iter()
            .filter(|accusation| now - accusation.last <= within)
            .filter(|accusation| !self.is_broken(&accusation.reporter, watched))
            .collect();
        let first = counted.iter().map(|accusation| accusation.first).min();
        let last = counted.iter().map(|accusation| accusation.last).max();
        Accused {
            reporters: u32::try_from(counted.len()).unwrap_or(u32::MAX),
            over: first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first),
        }
    }

    /// Old accusations count here until they are pruned: a broken reporter is believed again a little later.
    fn is_broken(&self, reporter: &str, watched: usize) -> bool {
        let accused = self.accused_by.get(reporter).copied().unwrap_or(0);
        accused > BROKEN_REPORTER_MIN && 4 * accused > watched
    }

    /// Forgets a workspace (it showed a sign of life).
    pub fn clear(&mut self, id: &WorkspaceId) {
        for accusation in self.accused.remove(id).into_iter().flatten() {
            withdraw(&mut self.accused_by, &accusation.reporter);
        }
    }

    /// Drops what is older than `within`.
    pub fn prune(&mut self, now: Moment, within: Duration) {
        let Self { accused, accused_by } = self;
        accused.retain(|_, accusations| {
            accusations.retain(|accusation| {
                let recent = now - accusation.last <= within;
                if !recent {
                    withdraw(accused_by, &accusation.reporter);
                }
                recent
            });
            !accusations.is_empty()
        });
    }
}

fn withdraw(accused_by: &mut HashMap<Arc<str>, usize>, reporter: &str) {
    if let Some(count) = accused_by.get_mut(reporter) {
        *count -= 1;
        if *count == 0 {
            accused_by.remove(reporter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(600);

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(1_000 + seconds))
    }

    #[test]
    fn a_report_from_more_than_a_window_before_our_start_is_too_old() {
        let window = Duration::from_secs(60);
        assert!(is_too_old(at(39), at(100), window));
        assert!(!is_too_old(at(40), at(100), window) && !is_too_old(at(200), at(100), window));
    }

    #[test]
    fn distinct_reporters_count_and_repetitions_do_not() {
        let (mut log, id) = (SuspicionLog::default(), WorkspaceId::from("w"));
        for second in 0..50 {
            log.report(&id, "proxy-a", at(second), WITHIN);
        }
        assert_eq!(log.against(&id, at(50), WITHIN, 100), Accused { reporters: 1, over: Duration::from_secs(49) });
        log.report(&id, "proxy-b", at(60), WITHIN);
        assert_eq!(log.against(&id, at(60), WITHIN, 100), Accused { reporters: 2, over: Duration::from_secs(60) });
    }

    #[test]
    fn a_reporter_who_was_content_for_long_begins_anew() {
        for (again, over) in [(160, 160), (161, 0)] {
            let (mut log, id) = (SuspicionLog::default(), WorkspaceId::from("w"));
            for second in [0, again] {
                log.report(&id, "proxy", at(second), Duration::from_secs(160));
            }
            assert_eq!(log.against(&id, at(again), WITHIN, 100).over, Duration::from_secs(over), "{again}");
        }
    }

    #[test]
    fn a_reporter_who_accuses_a_large_part_of_the_fleet_is_discounted() {
        let mut log = SuspicionLog::default();
        let ids: Vec<WorkspaceId> = (0..26).map(|n| WorkspaceId::from(format!("w{n}"))).collect();
        for id in &ids {
            log.report(id, "broken", at(0), WITHIN);
        }
        log.report(&ids[0], "honest", at(1), WITHIN);
        assert_eq!(log.against(&ids[0], at(1), WITHIN, 100).reporters, 1, "26 of 100 is more than a quarter");
        assert_eq!(log.against(&ids[0], at(1), WITHIN, 104).reporters, 2, "26 of 104 is not");
        let mut small = SuspicionLog::default();
        for id in ids.iter().take(5) {
            small.report(id, "proxy", at(0), WITHIN);
        }
        assert_eq!(small.against(&ids[0], at(1), WITHIN, 6).reporters, 1, "five are too few to call it broken");
    }

    #[test]
    fn old_reports_count_for_nothing_and_are_dropped() {
        let (mut log, id) = (SuspicionLog::default(), WorkspaceId::from("w"));
        log.report(&id, "a", at(0), WITHIN);
        assert_eq!(log.against(&id, at(600), WITHIN, 10).reporters, 1);
        assert_eq!(log.against(&id, at(601), WITHIN, 10).reporters, 0);
        log.prune(at(600), WITHIN);
        assert_eq!((log.accused.len(), log.accused_by.get("a")), (1, Some(&1)));
        log.prune(at(601), WITHIN);
        assert!(log.accused.is_empty() && log.accused_by.is_empty());
    }

    #[test]
    fn the_log_is_bounded() {
        let mut log = SuspicionLog::default();
        for n in 0..(WORKSPACES_MAX + 10) {
            log.report(&WorkspaceId::from(format!("w{n}")), "a", at(0), WITHIN);
        }
        assert_eq!(log.accused.len(), WORKSPACES_MAX);
        let id = WorkspaceId::from("w0");
        for n in 0..20 {
            log.report(&id, &format!("r{n}"), at(0), WITHIN);
        }
        assert_eq!(log.accused[&id].len(), REPORTERS_MAX);
        log.clear(&id);
        assert_eq!(log.accused.len(), WORKSPACES_MAX - 1);
        assert_eq!(log.accused_by.get("a"), Some(&(WORKSPACES_MAX - 1)));
        assert_eq!(log.accused_by.len(), 1, "the other reporters accuse nobody any more");
    }
}
