//! The catalogue over a few seeds: part of `make test`. The long run is `make sim`.

#![allow(clippy::unwrap_used, reason = "a test that cannot find its scenario is broken")]

use std::fmt::Write as _;
use std::sync::OnceLock;

use defib_sim::catalogue;
use defib_sim::scenario::{self, Policy, Scenario};
use defib_sim::world::World;

const SEEDS: u64 = 4;

/// What became of one seed of a scenario.
struct Ending {
    scenario: &'static str,
    seed: u64,
    failures: Vec<String>,
    leaves_somebody: bool,
}

/// The whole catalogue over a few seeds, which is played once for all the tests that ask how it ended.
fn endings() -> &'static [Ending] {
    static ENDINGS: OnceLock<Vec<Ending>> = OnceLock::new();
    ENDINGS.get_or_init(|| {
        let scenarios = catalogue::ALL.iter().chain(catalogue::CONTROL_PLANES);
        let seeds = scenarios.flat_map(|scenario| (1..=SEEDS).map(move |seed| (scenario, seed)));
        let ending = |(scenario, seed): (&'static Scenario, u64)| {
            let run = scenario::run(scenario, seed, Policy::Defib, false);
            let leaves_somebody = !run.left_to_the_platform.is_empty();
            Ending { scenario: scenario.id, seed, failures: run.failures, leaves_somebody }
        };
        seeds.map(ending).collect()
    })
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
    for Ending { scenario, seed, failures, .. } in endings().iter().filter(|ending| !ending.failures.is_empty()) {
        let _ = writeln!(broken, "--scenario {scenario} --seed {seed}: {failures:#?}");
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
    let leaves = |id: &str| endings().iter().any(|ending| ending.scenario == id && ending.leaves_somebody);
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
