//! What the fresh look before the act may say.
//!
//! An order may have waited: for a permit, for a lock, for a slow database. So the container is looked at once more right before the engine
//! is asked, and the order is judged again on what that look shows. If the look does not bear the evidence out, the attempt ends without
//! touching anything. If the workspace is still in trouble, the next pass orders a restart again.
//!
//! A running container is judged as strictly as when the order was given. If it was to be killed for its failing health check, it is spared
//! when the check passes now, or when the next check is overdue. The claim has already compared its heartbeat with the evidence, after the
//! order waited for its place.

use std::time::Duration;

use crate::moment::Moment;
use crate::plan::{Remedy, RestartOrder};
use crate::sample::{Health, Incarnation, Observation};
use crate::verdict::Rule;

/// The part of an order that decides about its steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What was held against the container.
    pub ground: Ground,
    /// The life that was convicted; `None` when no container was ever seen.
    pub convicted: Option<Incarnation>,
    /// When the order was given.
    pub ordered_at: Moment,
}

/// What was held against a container when it was convicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// It does not run.
    Stopped,
    /// It has been between two states for too long.
    Transitional,
    /// It is gone.
    Missing,
    /// It runs and has been silent for too long.
    Wedged {
        /// What its health check said then. A failing one may be the second witness.
        health: Health,
    },
    /// Nothing is held against it: an operator ordered the restart.
    Ordered {
        /// It runs.
        running: bool,
    },
    /// It runs and its health check fails.
    Unhealthy {
        /// What its health check said then.
        health: Health,
    },
}

impl Ground {
    /// How it is brought back.
    #[must_use]
    pub const fn remedy(self) -> Remedy {
        match self {
            Self::Stopped | Self::Transitional | Self::Ordered { running: false } => Remedy::Start,
            Self::Missing => Remedy::Recreate,
            Self::Wedged { .. } | Self::Unhealthy { .. } | Self::Ordered { running: true } => Remedy::KillAndStart,
        }
    }
}

impl Case {
    /// Made of the order's `remedy`, `incarnation` and `at`, and of the `rule` and `sample` of its evidence.
    #[must_use]
    pub fn of(order: &RestartOrder) -> Self {
        let health = match order.evidence.sample {
            Some(Observation::Running { health, .. }) => health,
            _ => Health::None,
        };
        let ground = match order.remedy {
            Remedy::Start if order.by_operator.is_some() => Ground::Ordered { running: false },
            Remedy::KillAndStart if order.by_operator.is_some() => Ground::Ordered { running: true },
            Remedy::Start if order.convicted_in_transition() => Ground::Transitional,
            Remedy::Start => Ground::Stopped,
            Remedy::Recreate => Ground::Missing,
            Remedy::KillAndStart if order.evidence.rule == Rule::RunningUnhealthy => Ground::Unhealthy { health },
            Remedy::KillAndStart => Ground::Wedged { health },
        };
        Self { ground, convicted: order.incarnation.clone(), ordered_at: order.at }
    }

    /// The life to act on, if the look that was begun at `now` bears the evidence out.
    ///
    /// # Errors
    ///
    /// Why it does not, as a sentence for the ledger. Nothing may be touched then.
    pub fn confirm(&self, seen: &Observation, now: Moment) -> Result<Incarnation, String> {
        let not = |why: &str| Err(why.to_owned());
        match (seen, self.ground) {
            (Observation::Unknown { fault }, _) => {
                Err(format!("the look before the restart got no answer ({fault}); nothing was touched"))
            }
            (Observation::Frozen { .. }, _) => not("somebody paused its container"),
            (Observation::Running { incarnation, .. }, _) if !self.is_convicted(incarnation) => {
                not("somebody else restarted it first")
            }
            (Observation::Running { incarnation, health }, Ground::Wedged { health: then }) => {
                if is_failing(then) {
                    self.still_fails(then, *health, now).map(|()| incarnation.clone())
                } else if *health == Health::Healthy && then != Health::Healthy {
                    not("its health check passes now")
                } else {
                    Ok(incarnation.clone())
                }
            }
            (Observation::Running { incarnation, health }, Ground::Unhealthy { health: then }) => {
                self.still_fails(then, *health, now).map(|()| incarnation.clone())
            }
            (Observation::Running { incarnation, .. }, Ground::Ordered { running: true }) => Ok(incarnation.clone()),
            (Observation::Running { .. }, _) => not("the look before the restart found it running"),
            (Observation::Stopped { incarnation, .. }, _) if !self.is_convicted(incarnation) => {
                not("another incarnation of it stopped since")
            }
            (
                Observation::Stopped { incarnation, .. },
                Ground::Stopped | Ground::Transitional | Ground::Ordered { running: false },
            ) => Ok(incarnation.clone()),
            (Observation::Stopped { .. }, Ground::Missing) => not("its container is back"),
            (Observation::Stopped { .. }, _) => not("it stopped by itself since"),
            // This container was convicted because it was in this state for longer than its settle window, so nobody is at work on it.
            (Observation::Transitional { incarnation, .. }, Ground::Transitional) if self.is_convicted(incarnation) => {
                Ok(incarnation.clone())
            }
            (Observation::Transitional { .. }, _) => not("its engine is at work on it"),
            (Observation::Missing, Ground::Missing) => {
                let unseen = || Incarnation { container_id: "".into(), started_at: None };
                Ok(self.convicted.clone().unwrap_or_else(unseen))
            }
            (Observation::Missing, _) => not("its container was removed since"),
        }
    }

    /// Whether this can be the life that was convicted.
    #[must_use]
    pub fn is_convicted(&self, incarnation: &Incarnation) -> bool {
        self.convicted.as_ref().is_none_or(|convicted| convicted.may_be(incarnation))
    }

    /// Whether a health check that failed when the order was given still speaks against the container.
    fn still_fails(&self, then: Health, seen: Health, now: Moment) -> Result<(), String> {
        if !is_failing(seen) {
            return Err(if seen == Health::Healthy {
                "its health check passes now".to_owned()
            } else {
                "its health check no longer fails".to_owned()
            });
        }
        let same_check = check_of(then).is_some_and(|(then, _)| check_of(seen).is_some_and(|(now, _)| now == then));
        let due_within = check_of(then).and_then(|(_, due_within)| due_within);
        if same_check && due_within.is_some_and(|within| now - self.ordered_at > within) {
            return Err("its health check has not been made again since the order was given".to_owned());
        }
        Ok(())
    }
}

const fn is_failing(health: Health) -> bool {
    matches!(health, Health::Unhealthy { .. })
}

/// When the last check ended, where that is known, and within what time the next one should have.
fn check_of(health: Health) -> Option<(crate::moment::Timestamp, Option<Duration>)> {
    let Health::Unhealthy { last_check_at, due_within } = health else { return None };
    last_check_at.map(|at| (at, due_within))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moment::Timestamp;
    use crate::plan::ByOperator;
    use crate::restart::table;
    use crate::sample::{Exit, Fault, Transition};

    fn life(container: &str, started: Option<i64>) -> Incarnation {
        Incarnation { container_id: container.into(), started_at: started.map(Timestamp) }
    }

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(seconds))
    }

    fn case(ground: Ground) -> Case {
        Case { ground, convicted: Some(life("c", Some(5))), ordered_at: at(100) }
    }

    fn running(health: Health) -> Observation {
        Observation::Running { incarnation: life("c", Some(5)), health }
    }

    fn failed(checked: i64) -> Health {
        Health::Unhealthy { last_check_at: Some(Timestamp(checked)), due_within: Some(Duration::from_secs(60)) }
    }

    #[test]
    fn what_is_held_against_it_is_what_the_order_says() {
        let order = |remedy, rule, health, by_operator: bool| RestartOrder {
            by_operator: by_operator.then(|| ByOperator {
                order: 1,
                by: "anna".to_owned(),
                reason: "a new image".to_owned(),
                force: false,
            }),
            ..table::order(remedy, rule, running(health), at(100))
        };
        let (start, kill) = (Remedy::Start, Remedy::KillAndStart);
        for (order, ground) in [
            (order(start, Rule::StoppedStale, Health::None, false), Ground::Stopped),
            (order(Remedy::Recreate, Rule::MissingStale, Health::None, false), Ground::Missing),
            (order(kill, Rule::RunningWedged, failed(50), false), Ground::Wedged { health: failed(50) }),
            (order(kill, Rule::RunningWedged, Health::Healthy, false), Ground::Wedged { health: Health::Healthy }),
            (order(kill, Rule::RunningUnhealthy, failed(50), false), Ground::Unhealthy { health: failed(50) }),
            (order(start, Rule::StoppedStale, Health::None, true), Ground::Ordered { running: false }),
            (order(kill, Rule::RunningWedged, Health::Healthy, true), Ground::Ordered { running: true }),
        ] {
            let case = Case { ground, convicted: Some(life("c", Some(5))), ordered_at: at(100) };
            assert_eq!(Case::of(&order), case, "{order:?}");
        }
        let created = Observation::Transitional { incarnation: life("c", Some(5)), transition: Transition::Created };
        let order = table::order(start, Rule::StoppedStale, created, at(100));
        assert_eq!(Case::of(&order).ground, Ground::Transitional);
    }

    #[test]
    fn what_an_operator_ordered_needs_no_accusation_but_the_life_that_was_seen() {
        let (runs, stopped) = (case(Ground::Ordered { running: true }), case(Ground::Ordered { running: false }));
        let ended = Observation::Stopped { incarnation: life("c", Some(5)), exit: Exit::default() };
        assert_eq!(runs.ground.remedy(), Remedy::KillAndStart);
        assert_eq!(stopped.ground.remedy(), Remedy::Start);
        assert!(runs.confirm(&running(Health::Healthy), at(101)).is_ok());
        assert!(stopped.confirm(&ended, at(101)).is_ok());
        assert!(runs.confirm(&ended, at(101)).is_err(), "it stopped by itself");
        assert!(stopped.confirm(&running(Health::None), at(101)).is_err(), "somebody started it");
        let next = Observation::Running { incarnation: life("c", Some(6)), health: Health::None };
        assert!(runs.confirm(&next, at(101)).is_err(), "another life");
    }

    const UNTOLD: Health = Health::Unhealthy { last_check_at: None, due_within: None };

    #[test]
    fn what_the_look_shows_must_be_what_was_convicted() {
        let stopped = |incarnation| Observation::Stopped { incarnation, exit: Exit::default() };
        let created = |incarnation| Observation::Transitional { incarnation, transition: Transition::Created };
        let (same, untold) = (life("c", Some(5)), life("c", None));
        let others = [life("c", Some(6)), life("d", Some(5))];
        let wedged = Ground::Wedged { health: Health::None };
        let grounds = [Ground::Stopped, Ground::Transitional, Ground::Missing, wedged];
        // For each look: whether it bears out each of the grounds, in their order above.
        for (seen, agrees) in [
            (stopped(same.clone()), [true, true, false, false]),
            (stopped(untold.clone()), [true, true, false, false]),
            (stopped(others[0].clone()), [false; 4]),
            (stopped(others[1].clone()), [false; 4]),
            (created(same.clone()), [false, true, false, false]),
            (created(others[0].clone()), [false; 4]),
            (running(Health::None), [false, false, false, true]),
            (Observation::Running { incarnation: others[0].clone(), health: Health::None }, [false; 4]),
            (Observation::Missing, [false, false, true, false]),
            (Observation::Frozen { incarnation: same.clone() }, [false; 4]),
            (Observation::Unknown { fault: Fault::TimedOut }, [false; 4]),
        ] {
            for (ground, agrees) in grounds.into_iter().zip(agrees) {
                let confirmed = case(ground).confirm(&seen, at(101));
                assert_eq!(confirmed.is_ok(), agrees, "{ground:?}: {seen:?}: {confirmed:?}");
                if let (Ok(confirmed), Some(incarnation)) = (confirmed, seen.incarnation()) {
                    assert_eq!(&confirmed, incarnation);
                }
            }
        }
    }

    #[test]
    fn a_missing_one_that_was_never_seen_has_no_container_to_name() {
        let never_seen = Case { convicted: None, ..case(Ground::Missing) };
        assert_eq!(never_seen.confirm(&Observation::Missing, at(101)), Ok(life("", None)));
        assert_eq!(case(Ground::Missing).confirm(&Observation::Missing, at(101)), Ok(life("c", Some(5))));
    }

    #[test]
    fn an_unhealthy_one_is_spared_once_its_check_passes_or_says_nothing() {
        let order = case(Ground::Unhealthy { health: failed(50) });
        for (health, acts) in [
            (failed(50), true),
            (failed(80), true),
            (UNTOLD, true),
            (Health::Healthy, false),
            (Health::Starting, false),
            (Health::None, false),
        ] {
            assert_eq!(order.confirm(&running(health), at(101)).is_ok(), acts, "{health:?}");
        }
        assert_eq!(order.confirm(&running(Health::Healthy), at(101)), Err("its health check passes now".to_owned()));
    }

    #[test]
    fn a_failing_check_that_is_not_made_again_is_no_evidence_any_more() {
        for ground in [Ground::Unhealthy { health: failed(50) }, Ground::Wedged { health: failed(50) }] {
            let order = case(ground);
            assert!(order.confirm(&running(failed(50)), at(160)).is_ok(), "the next check may still be due");
            assert!(order.confirm(&running(failed(50)), at(161)).is_err(), "it is overdue");
            assert!(order.confirm(&running(failed(51)), at(161)).is_ok(), "it was made again, and failed");
        }
        let untold = case(Ground::Unhealthy { health: UNTOLD });
        assert!(untold.confirm(&running(UNTOLD), at(900)).is_ok(), "an engine that does not tell is believed");
        let no_interval = Health::Unhealthy { last_check_at: Some(Timestamp(50)), due_within: None };
        let order = case(Ground::Unhealthy { health: no_interval });
        assert!(order.confirm(&running(no_interval), at(900)).is_ok(), "nobody knows when the next one is due");
    }

    #[test]
    fn a_wedged_one_is_spared_when_its_health_check_changes_its_mind() {
        for (then, seen, acts) in [
            (Health::None, Health::None, true),
            (Health::None, Health::Healthy, false),
            (Health::Starting, Health::Healthy, false),
            (Health::None, failed(80), true),
            (failed(50), Health::Healthy, false),
            (failed(50), Health::Starting, false),
            // Its reporters convicted it although the check passed, and that has not changed.
            (Health::Healthy, Health::Healthy, true),
            (Health::Healthy, failed(80), true),
        ] {
            let confirmed = case(Ground::Wedged { health: then }).confirm(&running(seen), at(101));
            assert_eq!(confirmed.is_ok(), acts, "{then:?}, then {seen:?}: {confirmed:?}");
        }
    }
}
