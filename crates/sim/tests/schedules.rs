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

/// A walk that notices nothing proves nothing. Some rules matter in a few schedules of a million only: an attempt that others have settled can
/// act only if its owner slept until the deadline and nobody took its place. So the walk begins at several seeds.
#[test]
fn every_rule_that_is_left_out_is_noticed() {
    // An attempt that never asked its engine counts for nothing and waits with a delay of its own. So the schedules in which a settled attempt
    // does harm have become rare: the last place is a long walk that comes upon one.
    let places =
        [(1, 2, 300_000), (1, 3, 300_000), (6, 2, 300_000), (4, 3, 300_000), (2, 2, 300_000), (3, 2, 2_000_000)];
    let unnoticed: Vec<Weakening> = Weakening::ALL
        .into_iter()
        .filter(|weakening| {
            !places.iter().any(|(seed, replicas, steps)| {
                let weakening = Some(*weakening);
                let schedules = Schedules { replicas: *replicas, steps: *steps, seed: *seed, weakening };
                explore(&schedules).violation.is_some()
            })
        })
        .collect();
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}

#[test]
fn a_violation_is_told_and_replays_from_its_seed() {
    let schedules = Schedules { replicas: 2, steps: 50_000, seed: 3, weakening: Some(Weakening::ClaimWithoutTheLease) };
    let violation = explore(&schedules).violation.expect("found");
    assert!(violation.trace.iter().any(|line| line.contains(&violation.what)), "{:#?}", violation.trace);
    assert_eq!(replay(&schedules, violation.seed), violation.trace);
}
