//! Workspaces that boot for long: for how long their silence is taken for a boot, and which heartbeat proves that a boot has ended although
//! the database's clock was changed.

use crate::common::*;
use defib_policy::judge::Judge;
use defib_policy::sample::Observation;
use defib_policy::settings::{Action, Settings};
use defib_policy::verdict::Verdict;

/// A cold boot that began a minute ago. The workspace's last heartbeat is from the life before it.
fn boots(settings: Settings) -> World {
    let mut world = World::new(settings);
    world.add("w", Some(-3_000), running_since(-60_000));
    world
}

#[test]
fn a_boot_that_was_under_way_when_defib_started_is_a_boot_for_half_an_hour() {
    let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
    let mut world = boots(settings);
    world.tick();
    // It was started 60 s before defib, and is given half an hour from there.
    assert_eq!(restarted_as_two_say_so(&mut world), Some(1_745_000), "nobody boots for longer than that");
}

/// Its last heartbeat was stamped a minute before its start by a clock that was five minutes ahead. Once that clock is right, the stamp
/// seems to be later than the start; it is a heartbeat of the life before all the same.
#[test]
fn a_stamp_from_before_a_step_of_the_databases_clock_proves_no_heartbeat_of_a_boot() {
    let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
    let mut world = World::new(settings);
    world.step_clock(300_000);
    world.add("w", Some(-120), running_since(-60_000));
    world.tick();
    world.wait_ms(30_000);
    world.step_clock(0);
    assert_eq!(restarted_as_two_say_so(&mut world), Some(1_745_000), "half an hour from its start");
}

/// The same, but defib started while the clock was ahead, and after the boot had begun. So the stamp was later than the start from the
/// first look on, and only the step that puts the clock right shows that it proves nothing.
#[test]
fn a_stamp_that_nobody_saw_come_in_proves_nothing_once_the_clock_turns_out_to_have_been_wrong() {
    let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
    let restarted_at = |step_at_ms: Option<i64>| {
        let mut world = World::new(settings.clone());
        world.add("w", Some(-50), running_since(-60_000));
        world.tick();
        world.wait_ms(5_000);
        world.tick();
        if let Some(at_ms) = step_at_ms {
            world.wait_ms(at_ms);
            world.step_clock(-300_000);
        }
        restarted_as_two_say_so(&mut world)
    };
    assert_eq!(restarted_at(None), Some(555_000), "its heartbeat came in ten seconds after its start");
    assert_eq!(restarted_at(Some(30_000)), Some(1_745_000), "half an hour from its start");
}

/// The clock was put right before defib started. Another process has noticed the step, and has written down up to which stamp nothing is
/// proven.
#[test]
fn a_stamp_that_nobody_saw_come_in_proves_nothing_if_others_have_noticed_a_step_after_it() {
    let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
    let restarted_at = |told_of: Option<Option<i64>>| {
        let mut world = World::new(settings.clone());
        if let Some(until) = told_of {
            world.judge.recall_steps(until.map(|seconds| world.clock().shifted(seconds * 1_000_000)));
        } else {
            world.judge = Judge::new(settings.clone());
        }
        world.add("w", Some(-50), running_since(-60_000));
        restarted_as_two_say_so(&mut world)
    };
    assert_eq!(restarted_at(Some(None)), Some(555_000));
    assert_eq!(restarted_at(Some(Some(-51))), Some(555_000), "the step was before the heartbeat");
    assert_eq!(restarted_at(Some(Some(-50))), Some(1_745_000));
    assert_eq!(restarted_at(None), Some(1_745_000), "nobody could be asked");
}

/// When the workspace is restarted, while two callers go on saying that it does not answer.
fn restarted_as_two_say_so(world: &mut World) -> Option<i64> {
    let mut restarted_at = None;
    while restarted_at.is_none() && world.now_ms < 2_500_000 {
        world.wait_ms(5_000);
        for (login, reporter) in [("one", "a"), ("another", "b")] {
            world.report(&"w".into(), login, reporter);
        }
        restarted_at = (!world.tick().restarts.is_empty()).then_some(world.now_ms);
    }
    restarted_at
}

/// A new workspace has no container yet. Meanwhile defib is deployed anew, and takes over what was recorded of it.
#[test]
fn one_that_was_new_before_defib_was_deployed_anew_is_still_new_after_it() {
    let mut world = World::new(Settings::default());
    world.add("w", None, Observation::Missing);
    world.row("w").created_at = None;
    let since = world.now();
    world.judge.take_over(&"w".into(), Verdict::Suspect, since);
    assert_eq!(world.run(25), [], "it may still be starting, although the grace of a missing container is over");
    assert_eq!(world.run(5).len(), 1);
}
