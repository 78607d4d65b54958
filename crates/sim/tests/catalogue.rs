//! The catalogue over a few seeds: part of `make test`. The long run is `make sim`.

#![allow(clippy::unwrap_used, reason = "a test that cannot find its scenario is broken")]

use std::fmt::Write as _;

use defib_sim::catalogue;
use defib_sim::scenario::{self, Policy};

const SEEDS: u64 = 4;

fn broken_seeds(id: &str, seeds: u64, policy: Policy) -> Vec<(u64, Vec<String>)> {
    let scenario = catalogue::find(id).unwrap();
    (1..=seeds)
        .map(|seed| (seed, scenario::run(scenario, seed, policy, false).failures))
        .filter(|(_, failures)| !failures.is_empty())
        .collect()
}

fn is_broken(id: &str, seed: u64, policy: Policy) -> bool {
    !scenario::run(catalogue::find(id).unwrap(), seed, policy, false).failures.is_empty()
}

#[test]
fn there_are_fifty_six_incidents_in_order() {
    let ids: Vec<&str> = catalogue::ALL.iter().map(|scenario| scenario.id).collect();
    let expected: Vec<String> = (1..=56).map(|n| format!("S{n:02}")).collect();
    assert_eq!(ids, expected);
}

#[test]
fn defib_keeps_every_oracle() {
    let mut broken = String::new();
    for scenario in catalogue::ALL {
        for (seed, failures) in broken_seeds(scenario.id, SEEDS, Policy::Defib) {
            let _ = writeln!(broken, "--scenario {} --seed {seed}: {failures:#?}", scenario.id);
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

/// Nobody in the comparison sweeps orphans, which is what S44 is about.
const NOBODY_DOES: &[&str] = &["S44"];

/// An oracle that nothing can break proves nothing.
#[test]
fn every_oracle_is_broken_by_somebody() {
    let others: Vec<Policy> = Policy::all().into_iter().filter(|policy| *policy != Policy::Defib).collect();
    let unbroken: Vec<&str> = catalogue::ALL
        .iter()
        .map(|scenario| scenario.id)
        .filter(|id| !NOBODY_DOES.contains(id))
        .filter(|id| !(1..=60).any(|seed| others.iter().any(|policy| is_broken(id, seed, *policy))))
        .collect();
    assert_eq!(unbroken, Vec::<&str>::new());
}
