//! `on_exit_0: leave`: one whose process ends with code 0 has finished, and is left down.

use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::judge::OwnSettings;
use defib_policy::sample::{Exit, Observation};
use defib_policy::settings::{OnExit0, Settings};
use defib_policy::verdict::{Rule, Verdict};

use crate::common::*;

fn exited(code: Option<i64>, oom_killed: bool) -> Observation {
    Observation::Stopped {
        incarnation: life(-3_600_000),
        exit: Exit { exit_code: code, oom_killed, finished_at: Some(clock_at(-1_000)), engine_restarts: false },
    }
}

/// Workspaces that are silent and exited so; those of `leave` have the setting.
fn world(ids: &[String], leave: bool, observation: &Observation) -> World {
    let mut world = World::new(Settings::default());
    for id in ids {
        world.add(id, Some(-80), observation.clone());
        if leave {
            let settings = Settings { on_exit_0: OnExit0::Leave, ..Settings::default() };
            world.own.insert(id.clone(), OwnSettings { settings, described: Vec::new() });
        }
    }
    world.watched()
}

fn one() -> Vec<String> {
    vec!["w".to_owned()]
}

#[test]
fn one_that_ended_well_is_left_down_and_any_other_end_is_a_death() {
    for (leave, code, oom, left) in [
        (true, Some(0), false, true),
        (true, Some(0), true, false),
        (true, Some(1), false, false),
        (true, None, false, false),
        (false, Some(0), false, false),
    ] {
        let mut world = world(&one(), leave, &exited(code, oom));
        let restarts = world.run(60);
        assert_eq!(restarts.is_empty(), left, "leave {leave}: exit {code:?}, out of memory {oom}");
        assert_eq!(world.verdict("w") == Some(Verdict::Frozen), left);
    }
}

#[test]
fn a_workspace_that_finished_is_called_so_and_judged_again_once_it_is_started() {
    let mut world = world(&one(), true, &running());
    world.beat("w");
    world.tick();
    world.see("w", exited(Some(0), false));
    world.wait_ms(5_000);
    let plan = world.tick();
    assert_eq!(rule_of(&plan, "w"), Some(Rule::Finished));
    assert!(plan.looks.is_empty(), "it is not looked at again before the next poll: {:?}", plan.looks);
    let because = &plan.changes[0].evidence.because;
    assert!(
        because.ends_with("an exit with code 0 means that it has finished (on_exit_0=leave), so it is left as it is"),
        "{because}"
    );
    world.see("w", running_since(5_000));
    world.wait_ms(5_000);
    world.tick();
    assert_eq!(world.verdict("w"), Some(Verdict::Settling));
}

/// The container and the start that an attempt was made on, whether it asked the engine, and whether the workspace has finished.
#[test]
fn only_an_attempt_that_asked_the_engine_for_this_very_life_may_have_ended_it() {
    for (container, started_ms, asked, left) in [
        ("container", -3_600_000, true, false),
        ("container", -3_600_000, false, true),
        ("container", -7_200_000, true, true),
        ("another", -3_600_000, true, true),
    ] {
        let mut world = world(&one(), true, &exited(Some(0), false));
        let made = attempt(1, 3_000, Some(Outcome::Succeeded));
        let started_at = Some(clock_at(started_ms));
        let made = Attempt { container_id: Some(container.into()), started_at, asked, ..made };
        world.attempts.insert("w".into(), vec![made]);
        assert_eq!(world.run(60).is_empty(), left, "{container} {started_ms} {asked}");
    }
}

#[test]
fn an_exit_that_a_restart_of_ours_may_have_made_is_not_its_end() {
    let mut world = world(&one(), true, &exited(Some(0), false));
    world.attempts.insert("w".into(), vec![attempt(1, 3_000, Some(Outcome::Failed))]);
    if let Some(Observation::Stopped { incarnation, .. }) = world.seen.get("w").cloned() {
        let attempts = world.attempts.get_mut("w").expect("one");
        attempts[0].container_id = Some(incarnation.container_id);
        attempts[0].started_at = incarnation.started_at;
    }
    assert!(!world.run(60).is_empty());
}

#[test]
fn many_that_finish_at_once_are_no_storm() {
    let ids: Vec<String> = (0..20).map(|n| format!("w{n}")).collect();
    let mut world = world(&ids, true, &exited(Some(0), false));
    assert_eq!(world.run(60), []);
    assert!(!world.judge.is_storm(None) && !world.judge.is_storm(Some(&"default".into())));
}
