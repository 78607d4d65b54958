//! What is done about the row of a daemon that died, or lost its lease, between claim and outcome.
//!
//! While its row is open, nobody restarts that workspace. The replica that owns the engine now ends the row:
//!
//! ```text
//! claimed under a later epoch than ours ─► another replica has taken the engine over from us and is at work on the row: leave it
//!                                          alone before its deadline
//! acting_at null ─► abandon it at once: the statement that writes acting_at asks for the lease and locks the row, so an older epoch
//!                   can never turn to the engine any more
//! acting_at set ──► the container tells: started since ─► succeeded
//!                                        not (yet)     ─► wait, for the engine may still be at it; at the deadline, abandoned
//! ```
//!
//! A container that was started since the claim need not have been started by this attempt. If the attempt's own start is still on its way,
//! that does no harm: a start does nothing to a container that runs. But a restart of a container that ran (a wedged one) kills whatever
//! runs when the engine gets to it. So an attempt to restart what runs stays open until its deadline, whatever the container shows.
//!
//! While the engine gives no answer the row waits. The exception is a workspace that has moved to another engine: then the row is abandoned
//! at its deadline, so that the workspace can be restarted where it is now. The same holds for an engine that no replica is configured for,
//! because nobody asks it ([`without_an_owner`]).

use std::time::Duration;

use crate::attempt::Outcome;
use crate::id::ContainerId;
use crate::moment::Timestamp;
use crate::plan::BY_OPERATOR;
use crate::sample::Observation;
use crate::verdict::Verdict;

/// What is to be done about an open attempt whose daemon is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Abandon it: its owner never turned to the engine, and cannot do so any more.
    Unasked,
    /// End it as succeeded: the engine made the restart.
    Succeeded,
    /// Abandon it: the engine has not made the restart by its deadline.
    Abandoned,
    /// Abandon it: its engine cannot be asked, and nothing depends on the answer any more.
    OutOfReach,
    /// Leave it open: what came of it is not known yet.
    Wait,
}

impl Settle {
    /// The outcome to write and the reason for the ledger; `None` while the row stays open.
    ///
    /// For [`Settle::Unasked`] it is written only if the owner has still not turned to the engine at that moment.
    #[must_use]
    pub const fn conclusion(self) -> Option<(Outcome, &'static str)> {
        match self {
            Self::Wait => None,
            Self::Unasked => Some((Outcome::Abandoned, "its daemon went away before the engine was asked")),
            Self::Succeeded => {
                Some((Outcome::Succeeded, "its daemon went away; the container has been started since the claim"))
            }
            Self::Abandoned => {
                let why = "its daemon went away, and the container was not started by the deadline";
                Some((Outcome::Abandoned, why))
            }
            Self::OutOfReach => {
                Some((Outcome::Abandoned, "its daemon went away, and its engine cannot be asked what came of it"))
            }
        }
    }
}

/// How long after its deadline an attempt is kept open in case a replica that is configured for its engine comes back.
///
/// Longer: the row of an engine that was removed for good stays open for longer. Shorter: a replica that was away for a while no longer
/// finds out what came of its restarts.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);

/// An open attempt, as its row has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The epoch of the lease that it was claimed under.
    pub epoch: i64,
    /// Its owner has turned to the engine.
    pub acting: bool,
    /// Its deadline has passed.
    pub overdue: bool,
}

/// What the ledger alone tells the owner of an engine of an open attempt there; `None` when the container must be asked
/// ([`by_its_container`]).
///
/// If somebody deletes the leases, epochs begin at one again, and a row may seem to be claimed under a later epoch for ever. So a later
/// epoch is respected only until the deadline.
#[must_use]
pub fn by_its_row(attempt: Row, ours: i64) -> Option<Settle> {
    if attempt.epoch > ours && !attempt.overdue {
        return Some(Settle::Wait);
    }
    (!attempt.acting).then_some(Settle::Unasked)
}

/// Whether an attempt with this reason (a verdict's label or `operator`, as the ledger has it) kills and restarts a running container, rather
/// than start a stopped one. What an operator ordered may be either, and is taken for the one that can do harm.
#[must_use]
pub fn restarts_what_runs(reason: &str) -> bool {
    reason == BY_OPERATOR || [Verdict::Wedged, Verdict::Unhealthy].iter().any(|it| it.label() == reason)
}

/// An open attempt whose owner had turned to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The container that was to be restarted, where the ledger has it.
    pub container: Option<&'a ContainerId>,
    /// The start of the life that was to be restarted, on the engine's clock.
    pub convicted: Option<Timestamp>,
    /// Whether that life was running ([`restarts_what_runs`]).
    pub ran: bool,
    /// Its deadline has passed.
    pub overdue: bool,
    /// The fleet no longer has the workspace on that engine.
    pub elsewhere: bool,
}

/// What a look at the container tells of an attempt. Both starts are on the engine's clock, so that no skew matters.
///
/// The start of the convicted life may be unknown, because a list does not tell it. But if another container has come to life in its place,
/// that one was made since the claim, because the convicted container was the last that there was.
#[must_use]
pub fn by_its_container(seen: &Observation, asked: Asked<'_>) -> Settle {
    let unknown = matches!(seen, Observation::Unknown { .. });
    if unknown && asked.overdue && asked.elsewhere {
        return Settle::OutOfReach;
    }
    if unknown || (asked.ran && !asked.overdue) {
        return Settle::Wait;
    }
    let life = seen.incarnation();
    let is_another = asked.container.zip(life).is_some_and(|(convicted, life)| *convicted != life.container_id);
    let has_lived = matches!(seen, Observation::Running { .. } | Observation::Stopped { .. });
    match (life.and_then(|life| life.started_at), asked.convicted) {
        (Some(started), Some(convicted)) if started > convicted => Settle::Succeeded,
        (_, None) if is_another && has_lived => Settle::Succeeded,
        _ if asked.overdue => Settle::Abandoned,
        _ => Settle::Wait,
    }
}

/// What becomes of an open attempt on an engine that no live replica is configured for: `overdue_by` is how long ago its
/// deadline passed, `elsewhere` as in [`Asked`].
///
/// The replica may only be away for a while, and can still find out what came of the attempt when it is back. So the row is kept for
/// [`FORGOTTEN_AFTER`] unless it keeps the workspace from being restarted elsewhere.
#[must_use]
pub fn without_an_owner(overdue_by: Option<Duration>, elsewhere: bool) -> Settle {
    match overdue_by {
        Some(by) if elsewhere || by >= FORGOTTEN_AFTER => Settle::OutOfReach,
        _ => Settle::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Exit, Fault, Health, Incarnation, Transition};

    fn life(started: Option<i64>) -> Incarnation {
        Incarnation { container_id: "c".into(), started_at: started.map(Timestamp) }
    }

    fn running(started: Option<i64>) -> Observation {
        Observation::Running { incarnation: life(started), health: Health::None }
    }

    #[test]
    fn a_later_start_is_a_success_and_what_is_not_started_is_waited_for_until_the_deadline() {
        let stopped = |started| Observation::Stopped { incarnation: life(Some(started)), exit: Exit::default() };
        for (seen, convicted, before, after) in [
            (running(Some(9)), Some(5), Settle::Succeeded, Settle::Succeeded),
            // It was started and has died again since. The restart was made.
            (stopped(9), Some(5), Settle::Succeeded, Settle::Succeeded),
            (stopped(5), Some(5), Settle::Wait, Settle::Abandoned),
            (running(Some(5)), Some(5), Settle::Wait, Settle::Abandoned),
            (running(None), Some(5), Settle::Wait, Settle::Abandoned),
            (running(Some(9)), None, Settle::Wait, Settle::Abandoned),
            (Observation::Missing, Some(5), Settle::Wait, Settle::Abandoned),
            (Observation::Unknown { fault: Fault::TimedOut }, Some(5), Settle::Wait, Settle::Wait),
        ] {
            for elsewhere in [false, true] {
                let convicted = convicted.map(Timestamp);
                let asked = |ran, overdue| Asked { container: None, convicted, ran, overdue, elsewhere };
                let unknown = matches!(seen, Observation::Unknown { .. });
                let after = if unknown && elsewhere { Settle::OutOfReach } else { after };
                assert_eq!(by_its_container(&seen, asked(false, false)), before, "{seen:?}");
                assert_eq!(by_its_container(&seen, asked(false, true)), after, "{seen:?}, overdue");
                assert_eq!(by_its_container(&seen, asked(true, false)), Settle::Wait, "{seen:?}, it ran");
                assert_eq!(by_its_container(&seen, asked(true, true)), after, "{seen:?}, it ran, overdue");
            }
        }
    }

    #[test]
    fn another_container_in_the_place_of_one_whose_start_is_not_known_is_a_success_once_it_has_lived() {
        let pending = Observation::Transitional { incarnation: life(None), transition: Transition::Created };
        let stopped = Observation::Stopped { incarnation: life(None), exit: Exit::default() };
        for (convicted, seen, settle) in [
            ("c0", running(Some(9)), Settle::Succeeded),
            ("c0", running(None), Settle::Succeeded),
            ("c0", stopped, Settle::Succeeded),
            ("c0", pending, Settle::Wait),
            ("c0", Observation::Missing, Settle::Wait),
            ("c", running(Some(9)), Settle::Wait),
        ] {
            let container = ContainerId::from(convicted);
            let asked =
                Asked { container: Some(&container), convicted: None, ran: false, overdue: false, elsewhere: false };
            assert_eq!(by_its_container(&seen, asked), settle, "{convicted}: {seen:?}");
            // One that ran may still be killed by a late call, whichever runs by then.
            assert_eq!(by_its_container(&seen, Asked { ran: true, ..asked }), Settle::Wait, "{convicted}: {seen:?}");
        }
    }

    #[test]
    fn only_a_start_that_was_seen_is_a_success() {
        let outcome = |settle: Settle| settle.conclusion().map(|(outcome, _)| outcome);
        assert_eq!(outcome(Settle::Wait), None);
        assert_eq!(outcome(Settle::Succeeded), Some(Outcome::Succeeded));
        for settle in [Settle::Unasked, Settle::Abandoned, Settle::OutOfReach] {
            assert_eq!(outcome(settle), Some(Outcome::Abandoned), "{settle:?}");
        }
    }

    #[test]
    fn without_an_owner_it_goes_at_its_deadline_if_the_workspace_has_moved_and_long_after_it_if_not() {
        let long_ago = FORGOTTEN_AFTER;
        let lately = FORGOTTEN_AFTER.checked_sub(Duration::from_micros(1)).unwrap();
        for (overdue_by, elsewhere, settle) in [
            (None, true, Settle::Wait),
            (None, false, Settle::Wait),
            (Some(Duration::ZERO), true, Settle::OutOfReach),
            (Some(lately), false, Settle::Wait),
            (Some(long_ago), false, Settle::OutOfReach),
        ] {
            assert_eq!(without_an_owner(overdue_by, elsewhere), settle, "{overdue_by:?} {elsewhere}");
        }
    }

    #[test]
    fn what_runs_is_restarted_for_two_verdicts_and_perhaps_by_an_operator() {
        let reasons = Verdict::ALL.iter().map(|it| it.label()).chain([BY_OPERATOR]);
        let restarted: Vec<&str> = reasons.filter(|it| restarts_what_runs(it)).collect();
        assert_eq!(restarted, ["wedged", "unhealthy", "operator"]);
    }

    #[test]
    fn an_attempt_of_an_older_epoch_is_settled_and_one_of_a_later_epoch_is_left_alone() {
        for (epoch, acting, before, after) in [
            (3, false, Some(Settle::Unasked), Some(Settle::Unasked)),
            (4, false, Some(Settle::Unasked), Some(Settle::Unasked)), // our own claim, whose answer we never got
            (5, false, Some(Settle::Wait), Some(Settle::Unasked)),
            (5, true, Some(Settle::Wait), None),
            (4, true, None, None),
            (3, true, None, None),
        ] {
            assert_eq!(by_its_row(Row { epoch, acting, overdue: false }, 4), before, "{epoch} {acting}");
            assert_eq!(by_its_row(Row { epoch, acting, overdue: true }, 4), after, "{epoch} {acting}, overdue");
        }
    }
}
