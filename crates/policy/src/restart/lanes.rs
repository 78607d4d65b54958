//! Which claims wait for each other.
//!
//! A claim calls the platform's own function, `mark_dead`. That function may raise an error, block or run into its time-out for one
//! workspace, perhaps each time. Such a workspace must not use up the places in which the others on its engine are restarted. So it is
//! tried again with a growing delay, and waits in a separate lane that lets one order through at a time, until the function has answered
//! for it.
//!
//! ```text
//! order ─► never failed, or answered since ─► the engine's places (DEFIB_RESTART_CONCURRENCY)
//!          failed, and its delay is over   ─► the lane of one
//!          failed, and its delay runs      ─► not now; a later pass orders it again
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::ClaimAnswer;
use crate::id::WorkspaceId;
use crate::moment::Moment;

/// How many workspaces are remembered, at most. When there are more, the one that may be tried soonest is forgotten. It then takes one of
/// the engine's places once, as a workspace does that never failed.
const TROUBLED_MAX: usize = 10_000;

/// A failure no longer counts once its delay has been over for this long. Nobody ordered a restart of the workspace in that time, so the
/// next failure has nothing to do with it.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);

/// Where an order waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// With the others on its engine.
    Places,
    /// In the lane of one.
    Apart,
    /// Nowhere: it is not tried again before this moment.
    NotBefore(Moment),
}

/// The workspaces whose last claim failed in the platform's function.
#[derive(Debug)]
pub struct Lanes {
    delay_initial: Duration,
    delay_max: Duration,
    troubled: BTreeMap<WorkspaceId, Trouble>,
}

#[derive(Clone, Copy, Debug)]
struct Trouble {
    failures: u32,
    next_at: Moment,
}

impl Lanes {
    /// No workspace has failed yet. The delay begins with `delay_initial` and doubles with each failure up to `delay_max`.
    #[must_use]
    pub const fn new(delay_initial: Duration, delay_max: Duration) -> Self {
        Self { delay_initial, delay_max, troubled: BTreeMap::new() }
    }

    /// Where an order for `workspace` waits.
    #[must_use]
    pub fn of(&self, workspace: &WorkspaceId, now: Moment) -> Lane {
        match self.trouble_of(workspace, now) {
            None => Lane::Places,
            Some(trouble) if now < trouble.next_at => Lane::NotBefore(trouble.next_at),
            Some(_) => Lane::Apart,
        }
    }

    /// Takes note of how a claim was answered. Returns the delay and the number of failures in a row where the platform's function
    /// has failed for it.
    ///
    /// Only a grant or a veto proves that the function answers again. A claim that is refused earlier has not called it.
    pub fn heard(&mut self, workspace: &WorkspaceId, claim: &ClaimAnswer, now: Moment) -> Option<(Duration, u32)> {
        match claim {
            ClaimAnswer::Granted { .. } | ClaimAnswer::Vetoed => {
                self.troubled.remove(workspace);
                None
            }
            ClaimAnswer::Taken | ClaimAnswer::Held { .. } | ClaimAnswer::NotOwner => None,
            ClaimAnswer::FunctionFailed { .. } => {
                let failures = self.trouble_of(workspace, now).map_or(0, |trouble| trouble.failures);
                let delay = self.delay_initial.saturating_mul(1 << failures.min(20)).min(self.delay_max);
                let trouble = Trouble { failures: failures + 1, next_at: now + delay };
                self.troubled.insert(workspace.clone(), trouble);
                self.make_room();
                Some((delay, failures + 1))
            }
        }
    }

    /// How many are remembered.
    #[must_use]
    pub fn troubled(&self) -> usize {
        self.troubled.len()
    }

    fn trouble_of(&self, workspace: &WorkspaceId, now: Moment) -> Option<Trouble> {
        self.troubled.get(workspace).copied().filter(|trouble| now - trouble.next_at < FORGOTTEN_AFTER)
    }

    fn make_room(&mut self) {
        if self.troubled.len() > TROUBLED_MAX {
            let soonest = self.troubled.iter().min_by_key(|(_, trouble)| trouble.next_at).map(|(id, _)| id.clone());
            if let Some(soonest) = soonest {
                self.troubled.remove(&soonest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(seconds))
    }

    fn lanes() -> Lanes {
        Lanes::new(Duration::from_secs(10), Duration::from_secs(35))
    }

    fn failed() -> ClaimAnswer {
        ClaimAnswer::FunctionFailed { why: "mark_dead raised".to_owned() }
    }

    #[test]
    fn who_fails_in_the_platforms_function_waits_longer_each_time_and_apart_from_the_others() {
        let mut lanes = lanes();
        let (mut now, one, other) = (at(100), WorkspaceId::from("w1"), WorkspaceId::from("w2"));
        assert_eq!(lanes.of(&one, now), Lane::Places);
        for (failures, delay) in [(1, 10), (2, 20), (3, 35), (4, 35)] {
            let delay = Duration::from_secs(delay);
            assert_eq!(lanes.heard(&one, &failed(), now), Some((delay, failures)));
            let due = now + delay;
            assert_eq!(lanes.of(&one, due.minus(Duration::from_nanos(1))), Lane::NotBefore(due));
            assert_eq!(lanes.of(&one, due), Lane::Apart);
            assert_eq!(lanes.of(&other, now), Lane::Places, "it is nobody else's trouble");
            now = due;
        }
    }

    #[test]
    fn only_an_answer_of_the_function_ends_the_trouble() {
        for (answer, ends) in [
            (ClaimAnswer::Granted { row: 1 }, true),
            (ClaimAnswer::Vetoed, true),
            (ClaimAnswer::Taken, false),
            (ClaimAnswer::Held { reason: "drill".to_owned() }, false),
            (ClaimAnswer::NotOwner, false),
        ] {
            let (mut lanes, one) = (lanes(), WorkspaceId::from("w1"));
            lanes.heard(&one, &failed(), at(100));
            assert_eq!(lanes.heard(&one, &answer, at(110)), None);
            let lane = if ends { Lane::Places } else { Lane::Apart };
            assert_eq!(lanes.of(&one, at(110)), lane, "{answer:?}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut lanes = lanes();
        for number in 0..=TROUBLED_MAX {
            let now = at(100) + Duration::from_millis(u64::try_from(number).unwrap());
            lanes.heard(&WorkspaceId::from(format!("w{number}")), &failed(), now);
        }
        assert_eq!(lanes.troubled(), TROUBLED_MAX);
        assert_eq!(lanes.of(&"w0".into(), at(100)), Lane::Places, "it might have been tried soonest");
        assert_ne!(lanes.of(&"w1".into(), at(100)), Lane::Places);
    }

    #[test]
    fn an_old_failure_is_another_story() {
        let (mut lanes, one) = (lanes(), WorkspaceId::from("w1"));
        lanes.heard(&one, &failed(), at(100));
        lanes.heard(&one, &failed(), at(110));
        let forgotten = at(130) + FORGOTTEN_AFTER;
        assert_eq!(lanes.of(&one, forgotten.minus(Duration::from_nanos(1))), Lane::Apart);
        assert_eq!(lanes.of(&one, forgotten), Lane::Places);
        assert_eq!(lanes.heard(&one, &failed(), forgotten), Some((Duration::from_secs(10), 1)));
    }
}
