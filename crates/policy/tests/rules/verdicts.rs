//! The table of verdicts (section 4.4 of docs/design.md), one test for each row. Each world has one or a few workspaces; `-600` is a
//! heartbeat that is ten minutes old. The file is long because it stays beside the table as a whole.

use crate::common::*;
use defib_policy::fleet::Kind;
use defib_policy::plan::{Plan, Remedy};
use defib_policy::sample::{Fault, Health, Incarnation, Observation, Transition};
use defib_policy::settings::{Action, Mode, Settings};
use defib_policy::verdict::{Held, Rule, Verdict, Witness};

fn world() -> World {
    World::new(Settings::default())
}

#[test]
fn running_and_fresh_is_alive_and_says_nothing() {
    let mut world = world().with("w", Some(-10), running());
    let plan = world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Alive));
    assert!(plan.changes.is_empty() && plan.restarts.is_empty(), "{plan:?}");
}

#[test]
fn running_and_stale_is_silent_and_never_restarted_before_it_is_wedged_nor_then_by_default() {
    let mut world = world().with("w", Some(-80), running());
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Silent));
    assert_eq!(world.run(3_600), []);
    assert_eq!(world.verdict("w"), Some(Verdict::Wedged));
}

#[test]
fn running_stale_and_at_work_is_busy_until_the_grace_passes() {
    let mut world = world().with("w", Some(-80), running());
    world.row("w").active_tasks = 1;
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Busy));
    world.run(100);
    assert_eq!(world.verdict("w"), Some(Verdict::Busy), "180 s, the grace itself");
    world.wait_ms(1_000);
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Silent));
}

#[test]
fn wedged_is_restarted_only_if_asked_for_and_only_with_a_second_witness() {
    let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
    let mut world = World::new(settings).with("w", Some(-595), running()).watched();
    world.tick();
    assert_eq!(world.run(60), [], "no second witness");
    assert_eq!(world.verdict("w"), Some(Verdict::Wedged));
    let id = "w".into();
    for reporter in ["proxy-a", "proxy-b"] {
        world.suspect(&id, reporter);
    }
    assert_eq!(world.run(140), [], "two reporters, but not over two windows yet");
    world.suspect(&id, "proxy-a");
    assert_eq!(world.run(5), []);
    world.wait_ms(10_000);
    world.suspect(&id, "proxy-a");
    assert_eq!(restarted(&world.tick()), Vec::<&str>::new(), "the second has said it once");
    world.suspect(&id, "proxy-b");
    let plan = world.tick();
    assert_eq!(restarted(&plan), ["w"]);
    assert_eq!(plan.restarts[0].remedy, Remedy::KillAndStart);
}

/// A list does not say when a container was started. Whoever hangs may have been restarted since by somebody else.
#[test]
fn one_that_runs_is_not_restarted_before_its_start_is_known() {
    for (started_ago_ms, restarts) in [(3_600_000, 1), (5_000, 0)] {
        let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
        let unknown_start =
            Observation::Running { incarnation: Incarnation { started_at: None, ..life(0) }, health: Health::None };
        let mut world = World::new(settings).with("w", Some(-450), unknown_start);
        world.tick();
        let id = "w".into();
        let mut plan = Plan::default();
        for _ in 0..32 {
            for reporter in ["proxy-a", "proxy-b"] {
                world.suspect(&id, reporter);
            }
            world.wait_ms(5_000);
            plan = world.tick();
            if world.verdict("w") == Some(Verdict::Wedged) {
                break;
            }
        }
        assert_eq!((plan.changes[0].evidence.held, plan.restarts.len()), (Some(Held::StartUnknown), 0));
        assert_eq!(plan.looks, [("w".into(), world.now() + Settings::default().probe_spacing)], "and no sooner");
        world.wait_ms(5_000);
        let started_ms = world.now_ms - started_ago_ms;
        world.see("w", running_since(started_ms));
        let plan = world.focus(&["w"]);
        assert_eq!(plan.restarts.len(), restarts, "started {started_ago_ms} ms ago");
        match plan.restarts.first() {
            Some(order) => assert_eq!(order.started_at(), Some(clock_at(started_ms))),
            None => assert_eq!(world.verdict("w"), Some(Verdict::Settling), "another life, and a young one"),
        }
    }
}

/// A writer whose clock is far behind: by its stamps everybody has been silent for ever, until one beat is seen.
#[test]
fn at_our_start_nobody_is_wedged_or_lost_before_a_window_has_been_watched() {
    for (window_ms, verdicts) in
        [(74_999, (Verdict::Silent, Verdict::Silent)), (75_000, (Verdict::Wedged, Verdict::Lost))]
    {
        let mut world = world().with("c", Some(-900), running()).with("x", Some(-900), unknown(Fault::NotConfigured));
        world.row("x").kind = Kind::External;
        world.tick();
        world.run(70);
        world.wait_ms(window_ms - 70_000);
        world.tick();
        assert_eq!((world.verdict("c"), world.verdict("x")), (Some(verdicts.0), Some(verdicts.1)), "{window_ms} ms");
    }
    // With a shorter `DEFIB_WEDGED_AFTER`, that is how long we must have watched it.
    let settings = Settings { wedged_after: seconds(20), busy_grace: seconds(10), ..Settings::default() };
    let mut world = World::new(settings).with("c", Some(-900), running());
    world.tick();
    world.run(15);
    assert_eq!(world.verdict("c"), Some(Verdict::Silent));
    world.run(5);
    assert_eq!(world.verdict("c"), Some(Verdict::Wedged));
}

#[test]
fn a_health_check_that_goes_on_failing_is_a_second_witness_against_a_wedged_one() {
    for unhealthy_action in [Action::Ignore, Action::Report] {
        let settings = Settings { wedged_action: Action::Restart, unhealthy_action, ..Settings::default() };
        let mut world = World::new(settings).with("w", Some(-700), running()).watched();
        world.see("w", unhealthy(-5_000));
        for _ in 0..30 {
            let plan = world.tick();
            assert_eq!((world.verdict("w"), plan.restarts.len()), (Some(Verdict::Wedged), 0), "at {}", world.now_ms);
            world.wait_ms(5_000);
            world.see("w", unhealthy(world.now_ms - 1));
        }
        assert_eq!(restarted(&world.tick()), ["w"], "two windows of 75 s");
    }
}

/// Docker checks each 30 s by default, and some images each five minutes. The engine says `unhealthy` only after several checks have
/// failed, and takes it back with the first that passes: that word is the witness, and not the number of checks that we happen to see.
#[test]
fn a_health_check_is_a_second_witness_however_far_apart_its_checks_are() {
    for interval in [5, 30, 60, 300] {
        let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
        let mut world = World::new(settings).with("w", Some(-700), running()).watched();
        let mut restarted_at = None;
        while restarted_at.is_none() && world.now_ms < 1_000_000 {
            let last_check = world.now_ms / (interval * 1_000) * interval * 1_000 - 1;
            world.see("w", checked(last_check, 2 * interval.unsigned_abs()));
            restarted_at = (!world.tick().restarts.is_empty()).then_some(world.now_ms);
            world.wait_ms(5_000);
        }
        assert_eq!(restarted_at, Some(150_000), "two windows of 75 s, with a check each {interval} s");
    }
}

#[test]
fn a_check_that_is_overdue_is_no_witness_however_often_it_is_seen() {
    let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
    let mut world = World::new(settings).with("w", Some(-700), checked(-1, 120));
    for _ in 0..60 {
        assert_eq!(restarted(&world.tick()), Vec::<&str>::new(), "at {}", world.now_ms);
        world.wait_ms(5_000);
    }
}

#[test]
fn a_check_that_passes_again_withdraws_what_it_said_against_a_wedged_one() {
    let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
    let mut world = World::new(settings).with("w", Some(-700), unhealthy(-5_000));
    for round in 1..60 {
        let checked = world.now_ms - 1;
        world.see("w", if round % 20 == 0 { running() } else { unhealthy(checked) });
        assert_eq!(restarted(&world.tick()), Vec::<&str>::new());
        world.wait_ms(5_000);
    }
}

#[test]
fn unhealthy_is_reported_ignored_or_restarted_after_spaced_misses() {
    for (action, verdict, restarts) in [
        (Action::Report, Verdict::Unhealthy, 0),
        (Action::Ignore, Verdict::Alive, 0),
        (Action::Restart, Verdict::Unhealthy, 1),
    ] {
        let mut world = World::new(Settings { unhealthy_action: action, ..Settings::default() }).with(
            "w",
            Some(-1),
            unhealthy(-1_000),
        );
        assert_eq!(restarted(&world.tick()).len(), 0, "one sample is one sample");
        world.wait_ms(999);
        assert_eq!(restarted(&world.tick()).len(), 0);
        world.wait_ms(1);
        assert_eq!((restarted(&world.tick()).len(), world.verdict("w")), (restarts, Some(verdict)), "{action:?}");
    }
}

#[test]
fn a_health_result_older_than_the_engines_return_is_void() {
    let settings = Settings { unhealthy_action: Action::Restart, ..Settings::default() };
    let mut world = World::new(settings).with("w", Some(-1), running());
    world.tick();
    world.evidence.fault = Some(Fault::Unreachable);
    world.see("w", unknown(Fault::Unreachable));
    world.wait_ms(5_000);
    world.tick();
    world.evidence.fault = None;
    world.see("w", unhealthy(1_000));
    world.beat("w");
    assert_eq!(world.run(120), []);
    world.beat("w");
    world.wait_ms(1_000);
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Alive));
}

#[test]
fn a_health_result_that_should_have_been_followed_by_another_is_void() {
    let settings = Settings { unhealthy_action: Action::Restart, ..Settings::default() };
    let mut world = World::new(settings).with("w", Some(-1), unhealthy(-120_001));
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Alive));
    world.see("w", unhealthy(-120_000));
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Unhealthy), "two intervals and time-outs, not more");
}

#[test]
fn stopped_and_stale_is_dead_on_one_sample() {
    let mut world = world().with("w", Some(-80), stopped(-100));
    let plan = world.tick();
    assert_eq!((world.verdict("w"), rule_of(&plan, "w")), (Some(Verdict::Dead), Some(Rule::StoppedStale)));
    let order = &plan.restarts[0];
    assert_eq!(
        (order.attempt, order.remedy, order.stopped_ago),
        (1, Remedy::Start, Some(std::time::Duration::from_millis(100)))
    );
    assert_eq!(order.evidence.heartbeat.witness, Witness::Stale);
}

#[test]
fn stopped_and_fresh_needs_the_spaced_misses() {
    let mut world = world().with("w", Some(-5), stopped(-100));
    let plan = world.tick();
    assert_eq!((world.verdict("w"), plan.restarts.len()), (Some(Verdict::Suspect), 0));
    assert_eq!(plan.looks, [("w".into(), moment_at(1_000))], "looks again one spacing later");
    world.wait_ms(999);
    assert_eq!(world.focus(&["w"]).restarts.len(), 0);
    world.wait_ms(1);
    let plan = world.focus(&["w"]);
    assert_eq!((restarted(&plan), rule_of(&plan, "w")), (vec!["w"], Some(Rule::StoppedSpaced)));
}

#[test]
fn a_good_sample_in_between_clears_the_misses() {
    let mut world = world().with("w", Some(-1), stopped(-100));
    for _ in 0..20 {
        assert!(world.tick().restarts.is_empty());
        world.wait_ms(2_000);
        world.see("w", running());
        world.beat("w");
        assert!(world.tick().restarts.is_empty());
        assert!(world.judge.probes().is_empty());
        world.wait_ms(2_000);
        world.see("w", stopped(-100));
    }
}

#[test]
fn misses_outside_the_window_do_not_add_up() {
    let mut world = world().with("w", Some(-1), stopped(-100));
    for _ in 0..5 {
        world.beat("w");
        // Heartbeats after a stop would make it a contradiction. This test is about misses, so the time of the stop moves along with them.
        world.see("w", stopped(world.now_ms - 100));
        assert!(world.tick().restarts.is_empty());
        for _ in 0..7 {
            world.wait_ms(5_000);
            world.beat("w");
            world.see("w", unknown(Fault::TimedOut));
            world.tick();
        }
    }
}

#[test]
fn unknown_neither_counts_nor_clears() {
    let mut world = world().with("w", Some(-5), stopped(-100));
    world.tick();
    for fault in Fault::ALL {
        world.wait_ms(1_000);
        world.see("w", unknown(fault));
        assert!(world.tick().restarts.is_empty());
        assert_eq!(world.verdict("w"), Some(Verdict::Unknown));
    }
    world.wait_ms(1_000);
    world.see("w", stopped(-100));
    assert_eq!(restarted(&world.tick()), ["w"], "the first miss still counts");
}

#[test]
fn missing_convicts_only_after_the_grace_and_with_a_beat_overdue() {
    let mut stale = world().with("w", Some(-80), running());
    stale.tick();
    stale.see("w", Observation::Missing);
    let gone_at = stale.now_ms + 5_000;
    let restarts = stale.run(25);
    assert_eq!(restarts.first(), Some(&(gone_at + 15_000, "w".to_owned())));

    let mut fresh = world().with("w", Some(0), running());
    fresh.tick();
    fresh.see("w", Observation::Missing);
    let restarts = fresh.run(60);
    assert_eq!(restarts.first(), Some(&(50_000, "w".to_owned())), "one beat of 30 s is overdue after 45 s");
}

#[test]
fn a_container_that_comes_back_within_the_grace_is_left_alone() {
    let mut world = world().with("w", Some(-80), running());
    world.tick();
    for _ in 0..10 {
        world.see("w", Observation::Missing);
        assert_eq!(world.run(10), []);
        world.see("w", running_since(world.now_ms));
        assert_eq!(world.run(5), []);
    }
}

#[test]
fn missing_on_another_engine_proves_nothing() {
    let mut world = world().with("w", Some(-80), running());
    world.tick();
    world.evidence.identity = Some("engine-2".into());
    world.see("w", Observation::Missing);
    assert_eq!(world.run(600), []);
    assert_eq!(world.verdict("w"), Some(Verdict::Unknown));
    world.evidence.identity = Some("engine-1".into());
    assert!(!world.run(60).is_empty(), "absent from its own engine it is dead");
}

#[test]
fn what_beats_without_its_container_is_a_contradiction_while_it_beats_and_dead_after() {
    for gone in [stopped(-60_000), Observation::Missing] {
        let mut world = world().with("w", Some(-1), gone.clone());
        for tick in 0..60 {
            if tick % 6 == 0 {
                world.beat("w");
            }
            let plan = world.tick();
            assert!(plan.restarts.is_empty(), "{gone:?} at {}", world.now_ms);
            world.wait_ms(5_000);
        }
        assert_eq!(world.verdict("w"), Some(Verdict::Contradiction));
        assert!(!world.run(120).is_empty(), "it stopped beating");
    }
}

#[test]
fn a_last_beat_in_flight_is_no_contradiction() {
    let mut world = world().with("w", Some(1), stopped(0));
    world.wait_ms(1_500);
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Suspect));
    world.wait_ms(1_000);
    assert_eq!(restarted(&world.tick()), ["w"]);
}

#[test]
fn frozen_is_an_operators_doing() {
    let mut world = world().with("w", Some(-5), running());
    world.tick();
    world.see("w", frozen());
    assert_eq!(world.run(3_600), []);
    assert_eq!(world.verdict("w"), Some(Verdict::Frozen));
}

#[test]
fn a_transition_is_not_a_miss_unless_it_lasts_beyond_settle() {
    for (state, convicted) in
        [(Transition::Created, true), (Transition::Restarting, true), (Transition::Removing, false)]
    {
        let mut world = world().with("w", Some(-80), transition(state));
        world.tick();
        assert_eq!(world.run(30), [], "{state:?}");
        assert_eq!(world.verdict("w"), Some(Verdict::Settling));
        assert_eq!(!world.run(10).is_empty(), convicted, "{state:?}");
    }
}

#[test]
fn a_new_incarnation_settles_and_an_exit_while_it_settles_is_dead_without_delay() {
    let mut world = world().with("w", Some(-5), running());
    world.tick();
    world.wait_ms(5_000);
    world.see("w", running_since(4_000));
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Settling));
    world.wait_ms(1_000);
    world.see("w", stopped_life(4_000, 6_000));
    let plan = world.focus(&["w"]);
    assert_eq!(
        (world.verdict("w"), plan.restarts.len()),
        (Some(Verdict::Suspect), 0),
        "the old beat is void, not held against it"
    );
    world.wait_ms(1_000);
    assert_eq!(restarted(&world.focus(&["w"])), ["w"]);
}

#[test]
fn one_that_was_silent_before_and_exits_while_it_settles_is_dead_on_one_sample() {
    let mut world = world().with("w", Some(-80), running());
    world.tick();
    world.wait_ms(5_000);
    world.see("w", running_since(4_000));
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Settling));
    world.wait_ms(1_000);
    world.see("w", stopped_life(4_000, 6_000));
    assert_eq!(restarted(&world.focus(&["w"])), ["w"]);
}

#[test]
fn a_heartbeat_ends_settling_and_silence_after_it_is_silence() {
    let mut beating = world().with("w", Some(-5), running());
    beating.tick();
    beating.wait_ms(5_000);
    beating.see("w", running_since(4_000));
    let plan = beating.tick();
    assert_eq!(plan.looks, [("w".into(), moment_at(7_000))], "nobody tells when its first heartbeat arrives");
    beating.wait_ms(3_000);
    beating.beat("w");
    beating.tick();
    assert_eq!(beating.verdict("w"), Some(Verdict::Alive));

    let mut mute = world().with("w", Some(-80), running());
    mute.tick();
    mute.see("w", running_since(4_000));
    mute.run(30);
    assert_eq!(mute.verdict("w"), Some(Verdict::Settling));
    mute.run(10);
    assert_eq!(mute.verdict("w"), Some(Verdict::Silent));
}

#[test]
fn external_is_judged_by_its_heartbeat_alone_and_never_restarted() {
    let mut world = world().with("w", Some(-10), unknown(Fault::NotConfigured));
    world.row("w").kind = Kind::External;
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Alive));
    assert_eq!(world.run(100), []);
    assert_eq!(world.verdict("w"), Some(Verdict::Silent));
    assert_eq!(world.run(3_600), []);
    assert_eq!(world.verdict("w"), Some(Verdict::Lost));
    world.beat("w");
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Alive));
}

#[test]
fn one_that_never_beat_is_never_wedged_or_lost() {
    let mut world = world().with("w", None, running()).with("x", None, running());
    world.row("x").kind = Kind::External;
    assert_eq!(world.run(7_200), []);
    assert_eq!((world.verdict("w"), world.verdict("x")), (Some(Verdict::Silent), Some(Verdict::Silent)));
    world.see("w", stopped(7_200_000));
    assert_eq!(world.run(5).len(), 1, "but its container tells when it dies");
}

#[test]
fn a_sample_that_arrives_late_is_void() {
    let mut world = world().with("w", Some(-80), running());
    world.wait_ms(10_000);
    world.tick();
    world.wait_ms(-5_000);
    world.see("w", stopped(0));
    assert!(world.focus(&["w"]).restarts.is_empty());
    assert_eq!(world.verdict("w"), Some(Verdict::Silent));
}

#[test]
fn nobody_is_restarted_twice_while_it_is_in_flight_or_when_only_observing() {
    let mut world = world().with("w", Some(-80), stopped(0));
    world.in_flight.push("w".to_owned());
    world.queued.push("w".to_owned());
    let held = |plan: &Plan| plan.changes.last().map(|change| change.evidence.held);
    assert_eq!(held(&world.tick()), Some(Some(Held::Queued)));
    assert_eq!(held(&world.tick()), None, "said once");
    world.queued.clear();
    assert_eq!(held(&world.tick()), Some(None), "it is its turn");
    // It waits in no queue, because no restart of it was ordered.
    world.in_flight.clear();
    world.queued.push("w".to_owned());
    world.attempts.insert("w".into(), vec![attempt(1, 0, None)]);
    assert_eq!(held(&world.tick()), None);
    world.attempts.clear();
    world.queued.clear();
    world.in_flight.push("w".to_owned());
    assert_eq!(world.run(60), []);
    assert_eq!(world.verdict("w"), Some(Verdict::Dead));
    world.in_flight.clear();
    assert!(!world.run(5).is_empty());

    let mut observer =
        World::new(Settings { mode: Mode::Observe, ..Settings::default() }).with("w", Some(-80), stopped(0));
    let plan = observer.tick();
    assert!(plan.restarts.is_empty());
    assert_eq!(plan.changes[0].newly_held, Some(Held::Observe));
    assert!(observer.tick().changes.is_empty(), "said once");
}

#[test]
fn one_that_is_no_longer_watched_is_forgotten() {
    let mut world = world().with("w", Some(-5), stopped(0)).with("v", Some(-5), running());
    world.tick();
    assert_eq!(world.judge.counts()[Verdict::Suspect.index()], 1);
    world.fleet.remove("w");
    world.wait_ms(1_000);
    world.tick();
    assert!(world.judge.probes().is_empty());
    assert_eq!(world.judge.counts().iter().sum::<usize>(), 1);
    assert!(!world.suspect(&"w".into(), "proxy"));
}

#[test]
fn starting_health_is_no_fault() {
    let mut world = world().with("w", Some(-5), running());
    let Observation::Running { incarnation, .. } = running() else { unreachable!() };
    for health in [Health::Starting, Health::Healthy, Health::None] {
        world.see("w", Observation::Running { incarnation: incarnation.clone(), health });
        world.tick();
        assert_eq!(world.verdict("w"), Some(Verdict::Alive));
    }
}

#[test]
fn one_without_any_age_of_its_own_is_as_old_as_our_knowledge_of_it() {
    let mut world = world().with("w", None, Observation::Missing);
    world.row("w").created_at = None;
    world.tick();
    assert_eq!(world.run(25), [], "it may still be starting");
    assert!(!world.run(30).is_empty());
}

#[test]
fn expired_probes_are_pruned_by_the_job() {
    let mut world = world().with("w", Some(-5), stopped(0));
    world.tick();
    world.wait_ms(120_000);
    assert_eq!(world.judge.prune(world.now()), 0);
    world.wait_ms(1);
    assert_eq!(world.judge.prune(world.now()), 1);
    assert_eq!(world.judge.prune(world.now()), 0);
}
