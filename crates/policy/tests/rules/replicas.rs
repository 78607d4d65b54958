//! A replica that does not own an engine: it judges, so that it is warm, and says and does nothing until it takes over.

use crate::common::{World, moment_at, running, stopped};
use defib_policy::judge::Departed;
use defib_policy::settings::Settings;
use defib_policy::verdict::{Held, Verdict};

#[test]
fn a_replica_that_does_not_own_the_engine_knows_the_dead_and_says_and_does_nothing() {
    let mut world = World::new(Settings::default()).with("w", Some(-200), running());
    world.ours = false;
    world.tick();
    world.wait_ms(5_000);
    world.see("w", stopped(world.now_ms));
    let plan = world.tick();
    assert!(plan.changes.is_empty() && plan.restarts.is_empty() && plan.recoveries.is_empty(), "{plan:?}");
    assert_eq!(world.verdict("w"), Some(Verdict::Dead));
    assert_eq!(world.judge.counts()[Verdict::Dead.index()], 1);
}

#[test]
fn one_that_takes_over_acts_on_what_it_has_seen_and_says_what_differs_from_the_record() {
    let mut world = World::new(Settings::default())
        .with("w", Some(-200), running())
        .with("back", Some(-1), running())
        .with("same", Some(-200), running());
    world.ours = false;
    world.tick();
    world.wait_ms(5_000);
    let since = world.now();
    world.see("w", stopped(world.now_ms));
    world.beat("back");
    world.tick();

    world.wait_ms(5_000);
    world.ours = true;
    for (id, verdict) in [("w", Verdict::Suspect), ("back", Verdict::Dead), ("same", Verdict::Silent)] {
        world.judge.take_over(&id.into(), verdict, since);
    }
    world.beat("back");
    let plan = world.tick();
    let told: Vec<_> = plan.changes.iter().map(|change| (change.workspace.as_str(), change.from, change.to)).collect();
    assert_eq!(
        told,
        [
            ("back", Some(Verdict::Dead), Verdict::Alive),
            ("same", Some(Verdict::Silent), Verdict::Silent),
            ("w", Some(Verdict::Suspect), Verdict::Dead),
        ]
    );
    assert_eq!(plan.restarts.len(), 1, "without waiting for more misses");
    assert!(world.tick().changes.is_empty(), "said once");
}

#[test]
fn misses_counted_before_the_take_over_count_after_it() {
    // Heartbeats are no witness, so only two spaced samples convict.
    let mut world = World::new(Settings::default()).with("w", Some(-1), running());
    world.database_up_since = -1;
    world.ours = false;
    world.tick();
    world.wait_ms(5_000);
    world.see("w", stopped(world.now_ms));
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Suspect));
    world.wait_ms(5_000);
    world.ours = true;
    assert_eq!(world.tick().restarts.len(), 1);
}

#[test]
fn who_leaves_the_fleet_is_cleared_by_the_replica_that_recorded_it() {
    for (told, recorded) in [(Some(Verdict::Silent), true), (Some(Verdict::Alive), false), (None, false)] {
        let mut world = World::new(Settings::default()).with("w", Some(-200), running());
        world.ours = false;
        world.tick();
        if let Some(verdict) = told {
            world.judge.take_over(&"w".into(), verdict, world.now());
        }
        world.fleet.remove("w");
        let read = defib_policy::fleet::FleetRead {
            at: world.now(),
            database_now: world.clock(),
            database_started_at: world.clock(),
            workspaces: Vec::new(),
        };
        let departed = world.judge.observe_fleet(&read, true);
        assert_eq!(departed, [Departed { id: "w".into(), recorded }], "{told:?}");
    }
}

#[test]
fn what_was_handed_over_is_not_this_replicas_to_clear_or_to_repeat() {
    let mut world = World::new(Settings::default()).with("w", Some(-200), running());
    assert_eq!(world.tick().changes.len(), 1, "silent");
    world.ours = false;
    world.judge.hand_over(&"w".into());
    world.wait_ms(5_000);
    assert!(world.tick().changes.is_empty());
    world.ours = true;
    let change = world.tick().changes.remove(0);
    assert_eq!(
        (change.from, change.to),
        (None, Verdict::Silent),
        "nothing is known of the record until it is taken over"
    );
}

#[test]
fn a_hold_holds_and_is_said_and_its_end_lets_the_restart_go() {
    let mut world = World::new(Settings::default()).with("w", Some(-200), running());
    world.tick();
    world.wait_ms(5_000);
    world.see("w", stopped(world.now_ms));
    world.on_hold.push("w".to_owned());
    let plan = world.tick();
    assert!(plan.restarts.is_empty());
    let change = &plan.changes[0];
    assert_eq!(
        (change.to, change.evidence.held, change.newly_held),
        (Verdict::Dead, Some(Held::Operator), Some(Held::Operator))
    );
    world.wait_ms(5_000);
    assert!(world.tick().changes.is_empty(), "said once");
    world.on_hold.clear();
    world.wait_ms(5_000);
    let plan = world.tick();
    assert_eq!(plan.restarts.len(), 1);
    assert_eq!((plan.changes[0].to, plan.changes[0].evidence.held), (Verdict::Dead, None));
}

#[test]
fn what_both_replicas_say_has_lasted_since_the_first_said_it_and_what_differs_has_not() {
    for (recorded, since_ms) in [(Verdict::Silent, -60_000), (Verdict::Suspect, 0)] {
        let mut world = World::new(Settings::default()).with("w", Some(-200), running());
        world.ours = false;
        world.tick();
        world.ours = true;
        world.judge.take_over(&"w".into(), recorded, moment_at(-60_000));
        world.wait_ms(5_000);
        let change = world.tick().changes.remove(0);
        assert_eq!((change.to, change.since), (Verdict::Silent, moment_at(since_ms)), "{recorded:?}");
    }
}
