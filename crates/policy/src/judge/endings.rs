//! How long ago the last attempt of each workspace ended, by the database's clock or by our own, whichever says longer.
//!
//! The stamps of the ledger are the database's. If its clock was ahead when an attempt ended, and has been put right since, that attempt
//! ends in the future, and a back-off that counts by the stamp alone lasts for as much longer as the clock was ahead: a day, if it was
//! ahead by a day. So the judge remembers when it was first told of the end of the attempt, and lets that time pass as well.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::attempt::Attempt;
use crate::id::WorkspaceId;
use crate::moment::Moment;

/// The two clocks are read a moment apart, so a difference up to this says nothing.
const TOLERANCE: Duration = Duration::from_secs(2);

/// The end of an attempt, when we were first told of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Ending {
    attempt: i64,
    told_at: Moment,
    /// How long ago it was then, by the database's clock.
    ago: Duration,
}

/// What is remembered of those who are due for another attempt.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Endings(HashMap<WorkspaceId, Ending>);

impl Endings {
    /// The attempts of a workspace (newest first) with ages that have grown at least as much as our own clock since the newest of them ended.
    pub(super) fn aged<'a>(&mut self, id: &WorkspaceId, attempts: &'a [Attempt], now: Moment) -> Cow<'a, [Attempt]> {
        let newest = attempts.first().and_then(|newest| Some((newest.id, newest.finished_ago?)));
        let Some((attempt, ago)) = newest else {
            self.0.remove(id);
            return Cow::Borrowed(attempts);
        };
        let ending = match self.0.get(id) {
            Some(known) if known.attempt == attempt => *known,
            _ => {
                let ending = Ending { attempt, told_at: now, ago };
                self.0.insert(id.clone(), ending);
                ending
            }
        };
        let behind = (ending.ago + (now - ending.told_at)).saturating_sub(ago);
        if behind <= TOLERANCE {
            return Cow::Borrowed(attempts);
        }
        let mut attempts = attempts.to_vec();
        // All of them have ended before the clock was put back, because the newest has.
        attempts.iter_mut().filter_map(|it| it.finished_ago.as_mut()).for_each(|ago| *ago += behind);
        Cow::Owned(attempts)
    }

    /// Forgets a workspace that is no longer watched.
    pub(super) fn forget(&mut self, id: &WorkspaceId) {
        self.0.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::Outcome;

    /// The database's clock stands still, and ours goes on.
    #[test]
    fn an_age_grows_by_our_own_clock_once_the_two_are_more_than_two_seconds_apart() {
        let (id, mut endings) = (WorkspaceId::from("w"), Endings::default());
        let ended = Attempt {
            id: 1,
            workspace: id.clone(),
            container_id: None,
            started_at: None,
            attempt: 1,
            claimed_ago: Duration::ZERO,
            finished_ago: Some(Duration::ZERO),
            finished_at: None,
            outcome: Some(Outcome::Failed),
            recovered_ago: None,
            asked: true,
            acknowledged: false,
        };
        let first = Moment::ZERO + Duration::from_secs(1_000);
        let mut age_after = |ms: u64| {
            let now = first + Duration::from_millis(ms);
            endings.aged(&id, std::slice::from_ref(&ended), now)[0].finished_ago
        };
        assert_eq!(age_after(0), Some(Duration::ZERO));
        assert_eq!(age_after(2_000), Some(Duration::ZERO));
        assert_eq!(age_after(2_001), Some(Duration::from_millis(2_001)));
    }
}
