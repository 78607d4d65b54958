//! The catalogue over a few seeds: part of `make test`. The long run is `make sim`.

#![allow(clippy::unwrap_used, reason = "a test that cannot find its scenario is broken")]

use std::fmt::Write as _;

use defib_sim::catalogue;
use defib_sim::scenario::{self, Policy};
use defib_sim::world::World;

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
fn there_are_seventy_one_incidents_in_order() {
    let ids: Vec<&str> = catalogue::ALL.iter().map(|scenario| scenario.id).collect();
    let expected: Vec<String> = (1..=71).map(|n| format!("S{n:02}")).collect();
    assert_eq!(ids, expected);
}

#[test]
fn defib_keeps_every_oracle() {
    let mut broken = String::new();
    for scenario in catalogue::ALL.iter().chain(catalogue::CONTROL_PLANES) {
        for (seed, failures) in broken_seeds(scenario.id, SEEDS, Policy::Defib) {
            let _ = writeln!(broken, "--scenario {} --seed {seed}: {failures:#?}", scenario.id);
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

/// Without a platform that could be asked, nobody is able to restart an instance of such a control plane.
#[test]
fn without_the_platforms_restart_the_dead_behind_a_control_plane_stay_dead() {
    for id in ["C01", "C02", "C03"] {
        let scenario = catalogue::find(id).unwrap();
        let mut world = World::new(1);
        let oracle = (scenario.build)(&mut world);
        world.endpoint = None;
        Policy::Defib.enter(&mut world);
        let end = world.zero + oracle.horizon;
        world.run_until(end);
        assert_eq!(world.chronicle.restarts.len(), 0, "{id}: nobody was asked for what nobody can do");
        let dead: Vec<usize> = world.chronicle.losses.iter().map(|loss| loss.workspace).collect();
        assert!(!dead.is_empty() && dead.iter().all(|of| !world.workspaces[*of].is_well()), "{id}: {dead:?}");
        assert!(world.chronicle.losses.iter().all(|loss| !loss.healable), "{id}: it is not held against defib");
    }
}

/// In these somebody's container is removed, which an engine cannot make again. The README says so.
const LEFT_TO_THE_PLATFORM: &[&str] = &["S05", "S39", "S58"];

#[test]
fn defib_leaves_removed_containers_to_the_platform_and_nothing_else() {
    let leaves = |id: &str| {
        let scenario = catalogue::find(id).unwrap();
        (1..=SEEDS).any(|seed| !scenario::run(scenario, seed, Policy::Defib, false).left_to_the_platform.is_empty())
    };
    let left: Vec<&str> = catalogue::ALL.iter().map(|scenario| scenario.id).filter(|id| leaves(id)).collect();
    assert_eq!(left, LEFT_TO_THE_PLATFORM);
}

/// The README shows the table that the report made.
#[test]
fn the_readme_shows_the_summary_of_the_report() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let readme = read("README.md");
    let (_, after) = readme.split_once("<!-- begin simulation -->\n").unwrap();
    let (table, _) = after.split_once("<!-- end simulation -->").unwrap();
    assert_eq!(table, read("docs/simulation/summary.md"));
}

/// Nobody in the comparison sweeps orphans, which is what S44 is about.
const NOBODY_DOES: &[&str] = &["S44"];

/// An oracle that nothing can break proves nothing.
#[test]
fn every_oracle_is_broken_by_somebody() {
    let others: Vec<Policy> = Policy::all().into_iter().filter(|policy| *policy != Policy::Defib).collect();
    let unbroken: Vec<&str> = catalogue::ALL
        .iter()
        .chain(catalogue::CONTROL_PLANES)
        .map(|scenario| scenario.id)
        .filter(|id| !NOBODY_DOES.contains(id))
        .filter(|id| !(1..=60).any(|seed| others.iter().any(|policy| is_broken(id, seed, *policy))))
        .collect();
    assert_eq!(unbroken, Vec::<&str>::new());
}
