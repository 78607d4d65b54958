//! A short walk through schedules: part of `make test`. The long ones are `make sim`.

use defib_sim::schedules::{Findings, Schedules, explore, replay};
use defib_sim::weakening::Weakening;

fn walk(replicas: usize, steps: u64, weakening: Option<Weakening>) -> Findings {
    explore(&Schedules { replicas, steps, seed: 1, weakening })
}

#[test]
fn no_schedule_of_two_or_three_replicas_restarts_an_incarnation_twice() {
    for replicas in [2, 3] {
        let found = walk(replicas, 50_000, None);
        assert!(found.violation.is_none(), "{replicas} replicas: {:#?}", found.violation);
        assert!(found.steps >= 50_000);
        // A walk on which nothing happens finds nothing.
        let it = found.tally;
        for (what, often) in [
            ("deaths", it.deaths),
            ("faults", it.faults),
            ("take-overs", it.take_overs),
            ("claims", it.claims),
            ("restarts", it.restarts),
            ("settled by others", it.settled),
            ("left late", it.left_late),
        ] {
            assert!(often >= 5, "{replicas} replicas: {often} {what}: {it:?}");
        }
    }
}

/// A walk that notices nothing proves nothing.
#[test]
fn every_rule_that_is_left_out_is_noticed() {
    for weakening in Weakening::ALL {
        let noticed = [2, 3].iter().any(|replicas| walk(*replicas, 300_000, Some(weakening)).violation.is_some());
        assert!(noticed, "{weakening:?}");
    }
}

#[test]
fn a_violation_is_told_and_replays_from_its_seed() {
    let schedules = Schedules { replicas: 2, steps: 50_000, seed: 3, weakening: Some(Weakening::ClaimWithoutTheLease) };
    let violation = explore(&schedules).violation.expect("found");
    assert!(violation.trace.iter().any(|line| line.contains(&violation.what)), "{:#?}", violation.trace);
    assert_eq!(replay(&schedules, violation.seed), violation.trace);
}
