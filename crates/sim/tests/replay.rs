//! A seed is the whole story: it replays to the last line.

#![allow(clippy::unwrap_used, reason = "a test that cannot find its scenario is broken")]

use defib_sim::catalogue;
use defib_sim::chaos::{self, Climate};
use defib_sim::scenario::{self, Policy};
use defib_sim::time::{hours, secs};

#[test]
fn a_scenario_replays_from_its_seed() {
    for id in ["S02", "S24", "S30", "S51"] {
        let scenario = catalogue::find(id).unwrap();
        let told = |seed| scenario::run(scenario, seed, Policy::Defib, true).world.timeline();
        assert_eq!(told(7), told(7), "{id}");
        assert_ne!(told(7), told(8), "{id}");
    }
}

#[test]
fn a_chaos_day_replays_from_its_seed() {
    let climate = Climate { fault_every: secs(60), length: hours(12), ..Climate::of_days(1) };
    let told = |seed| chaos::live(climate, seed, Policy::Defib, true).world.timeline();
    assert_eq!(told(3), told(3));
}

#[test]
fn chaos_finds_out_a_policy_that_kills_on_one_observation() {
    let climate = Climate { fault_every: secs(120), ..Climate::of_days(2) };
    let years = chaos::live(climate, 1, Policy::named("proxy-one-shot").unwrap(), false);
    assert!(years.failures.iter().any(|failure| failure.starts_with("FALSE RESTART")), "{:#?}", years.failures.len());
}
