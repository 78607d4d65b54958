//! Workspaces without a container: what the platform must hear of them, in every pass.

use crate::common::*;
use defib_policy::fleet::Kind;
use defib_policy::plan::Plan;
use defib_policy::sample::Fault;
use defib_policy::settings::{Mode, Settings};
use defib_policy::verdict::{Rule, Verdict};

fn external(settings: Settings, beat: i64) -> World {
    let mut world = World::new(settings).with("x", Some(beat), unknown(Fault::NotConfigured));
    world.row("x").kind = Kind::External;
    world.watched()
}

fn told(plan: &Plan) -> Vec<(&str, bool)> {
    plan.external.iter().map(|external| (external.workspace.as_str(), external.lost)).collect()
}

/// A mark that failed or was vetoed once was never tried again.
#[test]
fn one_that_is_lost_is_told_in_every_pass_and_once_when_it_is_back() {
    let mut world = external(Settings::default(), -590);
    assert!(told(&world.tick()).is_empty());
    world.run(10);
    for _ in 0..30 {
        world.wait_ms(5_000);
        let plan = world.tick();
        assert_eq!(told(&plan), [("x", true)], "at {}", world.now_ms);
        assert_eq!(plan.external[0].evidence.rule, Rule::ExternalLost);
    }
    world.beat("x");
    assert_eq!(told(&world.tick()), [("x", false)]);
    world.wait_ms(5_000);
    assert!(told(&world.tick()).is_empty());
}

#[test]
fn one_that_another_process_found_lost_is_back_with_its_heartbeat() {
    let mut world = external(Settings::default(), -700);
    world.tick();
    let mut successor = World::new(Settings::default());
    successor.fleet.clone_from(&world.fleet);
    successor.seen.clone_from(&world.seen);
    successor.now_ms = world.now_ms;
    successor.judge.take_over(&"x".into(), Verdict::Lost, world.now());
    successor.wait_ms(5_000);
    assert_eq!(told(&successor.tick()), [("x", true)]);
    successor.beat("x");
    assert_eq!(told(&successor.tick()), [("x", false)]);
}

#[test]
fn an_outage_in_which_heartbeats_prove_nothing_does_not_bring_one_back() {
    let mut world = external(Settings::default(), -700);
    assert_eq!(told(&world.tick()), [("x", true)]);
    world.wait_ms(60_000); // we read nothing for a minute
    for _ in 0..40 {
        assert_eq!((told(&world.tick()), world.verdict("x")), (vec![("x", true)], Some(Verdict::Lost)));
        world.wait_ms(5_000);
    }
}

#[test]
fn nobody_is_told_where_another_replica_has_the_word_or_defib_only_observes() {
    let mut observing = external(Settings { mode: Mode::Observe, ..Settings::default() }, -700);
    let plan = observing.tick();
    assert_eq!((told(&plan), observing.verdict("x")), (vec![], Some(Verdict::Lost)));
    let mut others = external(Settings::default(), -700);
    others.ours = false;
    assert_eq!((told(&others.tick()), others.verdict("x")), (vec![], Some(Verdict::Lost)));
}
