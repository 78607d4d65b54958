//! The storm guard (section 4.7): what one bad view of the fleet can do is bounded.
//!
//! When more than max(`DEFIB_STORM_MIN`, `DEFIB_STORM_FRACTION` of the watched) die within one dead window, the scope (one
//! engine, or the fleet) is in a storm. Either something really killed them all, or our view is wrong; the guard is right in
//! both cases, because it lets restarts through half-open:
//!
//! ```text
//!   1 ──verified──► 2 ──verified──► 4 ──► 8 …        a real mass death recovers in logarithmic rounds
//!   │                │
//!   └──not back──────┴──► wait one cooldown ──► 1    a bad view restarts nobody, or one
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::id::WorkspaceId;
use crate::moment::Moment;
use crate::settings::Settings;

/// The guard of one scope.
#[derive(Clone, Debug, Default)]
pub struct StormGuard {
    /// Who was newly found dead, and when; bounded by the dead window.
    recent: VecDeque<(Moment, WorkspaceId)>,
    storm: Option<Storm>,
}

/// A workspace that was let through.
#[derive(Clone, Debug)]
struct Canary {
    id: WorkspaceId,
    /// When.
    released_at: Moment,
    /// By when it must be back.
    by: Moment,
}

#[derive(Clone, Debug)]
struct Storm {
    /// The last newly dead one: a cooldown after it the storm ends.
    last_death: Moment,
    /// How many may be out at once in this round.
    batch: usize,
    /// Those let through in this round whose return was not seen yet.
    outstanding: Vec<Canary>,
    /// How many of this round were let through.
    released: usize,
    /// A round failed: nothing goes before this.
    closed_until: Option<Moment>,
}

impl StormGuard {
    /// Takes note of a workspace that was newly found dead. Returns whether this began a storm.
    pub fn death(
        &mut self,
        id: &WorkspaceId,
        now: Moment,
        watched: usize,
        window: Duration,
        settings: &Settings,
    ) -> bool {
        while self.recent.front().is_some_and(|(at, _)| now - *at > window) {
            self.recent.pop_front();
        }
        if !self.recent.iter().any(|(_, known)| known == id) {
            self.recent.push_back((now, id.clone()));
        }
        if let Some(storm) = &mut self.storm {
            storm.last_death = now;
            return false;
        }
        if self.recent.len() <= threshold(watched, settings) {
            return false;
        }
        self.storm =
            Some(Storm { last_death: now, batch: 1, outstanding: Vec::new(), released: 0, closed_until: None });
        true
    }

    /// Whether the scope is in a storm.
    #[must_use]
    pub const fn is_storm(&self) -> bool {
        self.storm.is_some()
    }

    /// Moves rounds and the end along. `returned` says of a workspace let through at a moment whether it is verified to be
    /// back (`Some(true)`), known to have failed since (`Some(false)`), or not decided yet. Returns whether this ended the
    /// storm.
    pub fn turn(
        &mut self,
        now: Moment,
        waiting: &BTreeSet<WorkspaceId>,
        settings: &Settings,
        mut returned: impl FnMut(&WorkspaceId, Moment) -> Option<bool>,
    ) -> bool {
        let Some(storm) = &mut self.storm else { return false };
        let mut failed = false;
        storm.outstanding.retain(|canary| match returned(&canary.id, canary.released_at) {
            Some(true) => false,
            Some(false) => {
                failed = true;
                false
            }
            // One that is late fails its whole round, and then nobody of it is waited for any more.
            None => {
                failed |= now > canary.by;
                true
            }
        });
        if failed {
            storm.batch = 1;
            storm.released = 0;
            storm.outstanding.clear();
            storm.closed_until = Some(now + settings.storm_cooldown);
        } else if storm.outstanding.is_empty() && storm.released >= storm.batch {
            storm.batch = storm.batch.saturating_mul(2);
            storm.released = 0;
        }
        if storm.closed_until.is_some_and(|until| now >= until) {
            storm.closed_until = None;
        }
        let over =
            now - storm.last_death > settings.storm_cooldown && storm.outstanding.is_empty() && waiting.is_empty();
        if over {
            self.storm = None;
            self.recent.clear();
        }
        over
    }

    /// Whether a restart of `id` may go now.
    #[must_use]
    pub fn admits(&self, id: &WorkspaceId) -> bool {
        self.storm.as_ref().is_none_or(|storm| {
            storm.closed_until.is_none()
                && storm.released < storm.batch
                && !storm.outstanding.iter().any(|canary| canary.id == *id)
        })
    }

    /// A restart of `id` goes now; it must be back by `by`.
    pub fn release(&mut self, id: &WorkspaceId, released_at: Moment, by: Moment) {
        if let Some(storm) = &mut self.storm {
            storm.released += 1;
            storm.outstanding.push(Canary { id: id.clone(), released_at, by });
        }
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
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(1_000 + seconds))
    }

    fn id(n: usize) -> WorkspaceId {
        WorkspaceId::from(format!("w{n}"))
    }

    fn nobody() -> BTreeSet<WorkspaceId> {
        BTreeSet::new()
    }

    fn storm_of(deaths: usize, watched: usize) -> StormGuard {
        let mut guard = StormGuard::default();
        for n in 0..deaths {
            guard.death(&id(n), at(0), watched, WINDOW, &Settings::default());
        }
        guard
    }

    #[test]
    fn a_storm_needs_more_than_the_minimum_and_more_than_the_fraction() {
        for (deaths, watched, storm) in [
            (3, 3, false),
            (4, 4, true),
            (3, 15, false),
            (20, 100, false),
            (21, 100, true),
            (3, 18, false),
            (4, 18, true),
        ] {
            assert_eq!(storm_of(deaths, watched).is_storm(), storm, "{deaths} of {watched}");
        }
    }

    #[test]
    fn deaths_a_whole_window_apart_are_still_of_one_and_later_ones_are_not() {
        for (last, storm) in [(30, true), (31, false)] {
            let (mut guard, settings) = (storm_of(3, 10), Settings::default());
            assert_eq!(guard.death(&id(3), at(last), 10, WINDOW, &settings), storm, "{last} s");
        }
    }

    #[test]
    fn deaths_spread_over_more_than_a_window_are_no_storm_and_one_death_counts_once() {
        let (mut guard, settings) = (StormGuard::default(), Settings::default());
        for n in 0..20_u64 {
            let began = guard.death(&id(usize::try_from(n).unwrap()), at(n * 11), 10, WINDOW, &settings);
            assert!(!began);
        }
        let mut same = StormGuard::default();
        for second in 0..20 {
            assert!(!same.death(&id(1), at(second), 10, WINDOW, &settings));
        }
    }

    #[test]
    fn batches_double_as_each_is_verified() {
        let (mut guard, settings) = (storm_of(60, 100), Settings::default());
        let mut sizes = Vec::new();
        let mut next = 0;
        for round in 0..4 {
            let mut size = 0;
            while size < 9 && guard.admits(&id(next)) {
                guard.release(&id(next), at(0), at(round * 10 + 60));
                next += 1;
                size += 1;
            }
            sizes.push(size);
            guard.turn(at(round * 10 + 1), &nobody(), &settings, |_, _| None);
            assert!(!guard.admits(&id(next)), "not before they are back");
            guard.turn(at(round * 10 + 5), &nobody(), &settings, |_, _| Some(true));
        }
        assert_eq!(sizes, [1, 2, 4, 8]);
    }

    #[test]
    fn a_batch_that_does_not_come_back_starts_again_at_one_after_the_cooldown() {
        for outcome in [Some(false), None] {
            let (mut guard, settings) = (storm_of(60, 100), Settings::default());
            guard.release(&id(0), at(0), at(10));
            guard.turn(at(5), &nobody(), &settings, |_, _| Some(true));
            assert!(guard.admits(&id(1)));
            guard.release(&id(1), at(0), at(10));
            guard.release(&id(2), at(0), at(10));
            guard.turn(at(11), &nobody(), &settings, |_, _| outcome);
            guard.death(&id(1), at(12), 100, WINDOW, &settings);
            assert!(!guard.admits(&id(3)));
            guard.turn(at(130), &nobody(), &settings, |_, _| None);
            assert!(!guard.admits(&id(3)), "one cooldown after the round failed");
            guard.turn(at(131), &nobody(), &settings, |_, _| None);
            assert!(guard.admits(&id(3)));
            guard.release(&id(3), at(0), at(200));
            assert!(!guard.admits(&id(4)), "one canary again");
        }
    }

    #[test]
    fn a_canary_that_is_due_now_is_not_late_and_not_back() {
        let (mut guard, settings) = (storm_of(60, 100), Settings::default());
        guard.release(&id(0), at(0), at(10));
        guard.turn(at(10), &nobody(), &settings, |_, _| None);
        assert!(!guard.admits(&id(1)), "not back");
        guard.turn(at(10), &nobody(), &settings, |_, _| Some(true));
        assert!(guard.admits(&id(1)), "not late");
    }

    #[test]
    fn it_ends_when_a_cooldown_passes_with_nothing_new_and_nobody_waiting() {
        let (mut guard, settings) = (storm_of(4, 10), Settings::default());
        let waiting = BTreeSet::from([id(1)]);
        assert!(!guard.turn(at(120), &nobody(), &settings, |_, _| None));
        assert!(!guard.turn(at(121), &waiting, &settings, |_, _| None), "somebody still waits for a restart");
        assert!(guard.turn(at(121), &nobody(), &settings, |_, _| None));
        assert!(!guard.is_storm() && guard.admits(&id(1)));
        assert!(!guard.death(&id(9), at(122), 10, WINDOW, &settings), "the old deaths are forgotten");
    }
}
