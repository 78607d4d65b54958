//! The deadlines and margins of a restart, each with what breaks if it is longer or shorter.
//!
//! ```text
//! claim ── CLAIM_MARGIN for claim, look and question ──┐
//! may act ── OUTCOME_MARGIN ── call ── deadline of the call ── looks after a lost answer ── outcome
//!            (a call leaves within it, or not at all)                                       (the rest of the margin)
//! ```

use std::time::Duration;

use crate::abilities::Abilities;
use crate::plan::Remedy;

/// How long claiming, confirming and writing the outcome may take, not counting the restart itself.
///
/// Longer: the row of a daemon that died is settled later. Shorter: with a slow database, others settle a row that is still being
/// worked on.
pub const CLAIM_MARGIN: Duration = Duration::from_secs(20);

/// How much time may pass between the question whether to act and the call, and how long writing the outcome may take, before others may
/// settle an attempt that turned to its engine.
///
/// Longer: a workspace whose daemon died waits longer for its next attempt. Shorter: an outcome that a slow database takes late finds
/// its row settled by somebody else.
pub const OUTCOME_MARGIN: Duration = Duration::from_secs(10);

/// How long a container is looked at after a call whose answer was lost, at most.
///
/// Longer: a failed attempt blocks the next one for longer. Shorter: more restarts that were made count as failed. The next attempt
/// looks first, so nothing is restarted twice either way.
pub const LOOK_AFTER_MAX: Duration = Duration::from_secs(10);

/// The pause between two of those looks.
///
/// Longer: a restart that was made is noticed later. Shorter: more calls to an engine that may be in trouble.
pub const LOOK_AFTER_SPACING: Duration = Duration::from_millis(250);

/// How often writing an outcome is tried before the row is left open. The engine's owner settles it later.
pub const OUTCOME_TRIES: u32 = 5;

/// The pause after the first try to write an outcome that failed. It doubles with each try.
pub const OUTCOME_PAUSE: Duration = Duration::from_millis(200);

/// What the engine can do and how long things may take, the same for every restart on one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `DEFIB_RESTART_TIMEOUT`: how long the engine may take to start a container.
    pub restart_timeout: Duration,
    /// `DEFIB_STOP_GRACE`: how long a container that runs may take to end by itself before it is killed.
    pub stop_grace: Duration,
    /// The pause between two looks after a lost answer: [`LOOK_AFTER_SPACING`], longer only where a simulation saves steps.
    pub look_spacing: Duration,
    /// What the engine can do. An order for anything else is refused before it is claimed.
    pub abilities: Abilities,
}

impl Rules {
    /// The rules with these two knobs on an engine of these abilities.
    #[must_use]
    pub const fn new(restart_timeout: Duration, stop_grace: Duration, abilities: Abilities) -> Self {
        Self { restart_timeout, stop_grace, look_spacing: LOOK_AFTER_SPACING, abilities }
    }

    /// Whether the engine can do this at all.
    #[must_use]
    pub const fn can(&self, remedy: Remedy) -> bool {
        match remedy {
            Remedy::Start => self.abilities.starts,
            Remedy::KillAndStart => self.abilities.kills,
            Remedy::Recreate => self.abilities.recreates,
        }
    }

    /// How long the engine may take to answer a call. A container that runs also gets its grace.
    #[must_use]
    pub fn deadline(&self, remedy: Remedy) -> Duration {
        match remedy {
            Remedy::KillAndStart => self.restart_timeout + self.stop_grace,
            Remedy::Start | Remedy::Recreate => self.restart_timeout,
        }
    }

    /// How long after its claim an attempt that never turned to its engine may be settled by others.
    #[must_use]
    pub fn claim_deadline(&self, remedy: Remedy) -> Duration {
        self.deadline(remedy) + CLAIM_MARGIN
    }

    /// How long after the database allowed the call the attempt may be settled by others: by then the engine has done what it was
    /// asked, or never will.
    #[must_use]
    pub fn acting_deadline(&self, remedy: Remedy) -> Duration {
        self.deadline(remedy) + self.look_after_max() + OUTCOME_MARGIN
    }

    /// How long a container is looked at after a lost answer: no longer than the engine may take for a start.
    #[must_use]
    pub fn look_after_max(&self) -> Duration {
        self.restart_timeout.min(LOOK_AFTER_MAX)
    }

    /// How long a process that stops waits for the restarts that it has under way.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.claim_deadline(Remedy::KillAndStart)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn deadlines_follow_from_the_knobs_and_the_margins() {
        let rules = Rules::new(30 * SECOND, 7 * SECOND, Abilities::CONTAINER_ENGINE);
        for (remedy, call, claim, acting) in
            [(Remedy::Start, 30, 50, 50), (Remedy::Recreate, 30, 50, 50), (Remedy::KillAndStart, 37, 57, 57)]
        {
            assert_eq!(rules.deadline(remedy), call * SECOND, "{remedy:?}");
            assert_eq!(rules.claim_deadline(remedy), claim * SECOND, "{remedy:?}");
            assert_eq!(rules.acting_deadline(remedy), acting * SECOND, "{remedy:?}");
        }
        assert_eq!(rules.longest(), 57 * SECOND);
        assert_eq!(rules.look_spacing, LOOK_AFTER_SPACING);
    }

    #[test]
    fn a_short_time_out_shortens_the_looks_after_a_lost_answer() {
        let rules = Rules::new(3 * SECOND, SECOND, Abilities::CONTAINER_ENGINE);
        assert_eq!(rules.look_after_max(), 3 * SECOND);
        assert_eq!(rules.acting_deadline(Remedy::Start), 16 * SECOND);
    }

    #[test]
    fn an_engine_is_asked_for_nothing_that_it_cannot_do() {
        let all = Abilities { lists: true, starts: true, kills: true, recreates: true, tells_starts: true };
        let can = |abilities| {
            let rules = Rules::new(SECOND, SECOND, abilities);
            [Remedy::Start, Remedy::KillAndStart, Remedy::Recreate].map(|remedy| rules.can(remedy))
        };
        assert_eq!(can(all), [true, true, true]);
        assert_eq!(can(Abilities { starts: false, ..all }), [false, true, true]);
        assert_eq!(can(Abilities { kills: false, ..all }), [true, false, true]);
        assert_eq!(can(Abilities { recreates: false, ..all }), [true, true, false]);
    }
}
