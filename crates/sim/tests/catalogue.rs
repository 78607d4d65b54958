//! The catalogue over a few seeds: part of `make test`. The long run is `make sim`.

#![allow(clippy::unwrap_used, reason = "a test that cannot find its scenario is broken")]

use std::fmt::Write as _;

use defib_sim::catalogue;
use defib_sim::scenario::{self, Policy};

const SEEDS: u64 = 4;

/// Incidents whose oracle the policy does not keep yet, with what is wrong. A line goes when its cause is mended; until then
/// the test holds that it is still so, so that no line stays longer than it must.
const NOT_KEPT: &[(&str, &str)] = &[
    ("S03", "`unhealthy` with action report hides `wedged` with action restart"),
    ("S14", "silence is counted through the time in which an operator had frozen the container"),
    ("S19", "back-off and exhaustion are forgotten 10 min after the last recovery even if it died meanwhile"),
    ("S26", "suspicions older than the last sign of life still count as the second witness"),
    ("S32", "as S19"),
    ("S38", "a first slow boot of more than DEFIB_WEDGED_AFTER is `wedged` and restarted"),
    ("S47", "one dead window of amnesty is shorter than an engine needs to start its containers"),
    ("S48", "running convictions (unhealthy) pass by the storm guard"),
    ("S49", "as S48"),
    ("S55", "as S19"),
];

fn broken_seeds(id: &str, seeds: u64, policy: Policy) -> Vec<(u64, Vec<String>)> {
    let scenario = scenario::find(id).unwrap();
    (1..=seeds)
        .map(|seed| (seed, scenario::run(scenario, seed, policy, false).failures))
        .filter(|(_, failures)| !failures.is_empty())
        .collect()
}

fn is_broken(id: &str, seed: u64, policy: Policy) -> bool {
    !scenario::run(scenario::find(id).unwrap(), seed, policy, false).failures.is_empty()
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
        if NOT_KEPT.iter().any(|(id, _)| *id == scenario.id) {
            continue;
        }
        for (seed, failures) in broken_seeds(scenario.id, SEEDS, Policy::Defib) {
            let _ = writeln!(broken, "--scenario {} --seed {seed}: {failures:#?}", scenario.id);
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

#[test]
fn what_is_listed_as_not_kept_is_still_not_kept() {
    for (id, why) in NOT_KEPT {
        assert!(!broken_seeds(id, 12, Policy::Defib).is_empty(), "{id} is kept now: strike the line ({why})");
    }
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
