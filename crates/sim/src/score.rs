//! How good a detector is, by the measures of Chen, Toueg and Aguilera ("On the Quality of Service of Failure Detectors", IEEE
//! Transactions on Computers 51(5), 2002), with a restart as the act of suspecting: detection time, mistakes and how often they
//! recur; and by what the owner of a fleet asks besides.

use crate::chronicle::{Death, Merit};
use crate::time::Ms;
use crate::world::World;

/// Sums over any number of worlds.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// Workspace-milliseconds lived.
    pub lived: u64,
    /// True deaths that were the detector's to answer.
    pub deaths: usize,
    /// True deaths that were never answered.
    pub missed: usize,
    /// Times from death to restart call, of containers that stopped or vanished.
    pub detection: Vec<Ms>,
    /// The same of those that ran and were beyond help.
    pub wedged: Vec<Ms>,
    /// Restart calls that did something.
    pub restarts: usize,
    /// Restarts of workspaces that were well or not ours to restart.
    pub mistakes: usize,
    /// Restarts with a rule and a sentence.
    pub explained: usize,
    /// Calls to engines.
    pub engine_calls: u64,
}

impl Score {
    /// Adds a world that has lived from its warm-up on.
    pub fn add(&mut self, world: &World) {
        self.lived += (world.now - world.zero) * world.workspaces.len() as u64;
        let chronicle = &world.chronicle;
        self.engine_calls += chronicle.engine_calls;
        for restart in chronicle.restarts.iter().filter(|it| it.merit != Merit::Idle) {
            self.restarts += 1;
            self.mistakes += usize::from(restart.merit != Merit::Needed);
            self.explained += usize::from(restart.because.is_some());
        }
        for loss in &chronicle.losses {
            match (loss.restarted_at, loss.how) {
                (Some(at), Death::Wedged) => self.wedged.push(at - loss.at),
                (Some(at), _) => self.detection.push(at - loss.at),
                (None, _) if loss.excused_at.is_some() || loss.back_at.is_some() => continue,
                (None, _) => self.missed += 1,
            }
            self.deaths += 1;
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: Self) {
        self.lived += other.lived;
        self.deaths += other.deaths;
        self.missed += other.missed;
        self.detection.extend(other.detection);
        self.wedged.extend(other.wedged);
        self.restarts += other.restarts;
        self.mistakes += other.mistakes;
        self.explained += other.explained;
        self.engine_calls += other.engine_calls;
    }

    /// Days that workspaces lived.
    #[must_use]
    pub fn workspace_days(&self) -> f64 {
        self.lived as f64 / 86_400_000.0
    }

    /// Mistakes in a thousand workspace-days.
    #[must_use]
    pub fn false_restarts(&self) -> f64 {
        if self.lived == 0 { 0.0 } else { self.mistakes as f64 * 1_000.0 / self.workspace_days() }
    }

    /// Mean time between two mistakes about one workspace, in days; `None` without mistakes.
    #[must_use]
    pub fn mistake_recurrence(&self) -> Option<f64> {
        (self.mistakes > 0).then(|| self.workspace_days() / self.mistakes as f64)
    }

    /// Restarts for each true death.
    #[must_use]
    pub fn restarts_per_death(&self) -> Option<f64> {
        (self.deaths > 0).then(|| self.restarts as f64 / self.deaths as f64)
    }

    /// Share of the restarts that come with a rule and a sentence.
    #[must_use]
    pub fn explained_share(&self) -> Option<f64> {
        (self.restarts > 0).then(|| self.explained as f64 / self.restarts as f64)
    }
}

/// The time that a share of `times` does not exceed. Sorts them.
#[must_use]
pub fn quantile(times: &mut [Ms], share: f64) -> Option<Ms> {
    times.sort_unstable();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into a vector")]
    let place = (share * times.len() as f64).ceil() as usize;
    times.get(place.saturating_sub(1).min(times.len().saturating_sub(1))).copied()
}

/// Milliseconds as seconds for a table.
#[must_use]
pub fn shown(time: Option<Ms>) -> String {
    time.map_or_else(|| "–".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1_000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_members_of_the_sample() {
        let mut times: Vec<Ms> = (1..=100).rev().collect();
        assert_eq!(quantile(&mut times, 0.5), Some(50));
        assert_eq!(quantile(&mut times, 0.99), Some(99));
        assert_eq!(quantile(&mut times, 1.0), Some(100));
        assert_eq!(quantile(&mut [], 0.5), None);
    }

    #[test]
    fn without_mistakes_nothing_recurs() {
        let mut score = Score { lived: 86_400_000 * 10, ..Score::default() };
        assert_eq!(score.mistake_recurrence(), None);
        score.mistakes = 2;
        assert_eq!(score.mistake_recurrence(), Some(5.0));
        assert!((score.false_restarts() - 200.0).abs() < 1e-9);
    }
}
