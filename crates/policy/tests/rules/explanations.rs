//! What a verdict and an order tell of themselves: the sentence, the evidence, the life that was convicted.

use crate::common::*;
use defib_policy::id::ContainerId;
use defib_policy::sample::{Fault, Observation, Transition};
use defib_policy::settings::Settings;
use defib_policy::verdict::Verdict;

/// The sentence of the last change after `observation` was seen of a workspace with a heartbeat of that age.
fn sentence(settings: Settings, beat: Option<i64>, observation: Observation, reporters: &[&str]) -> String {
    let before = match observation {
        Observation::Stopped { .. } => Observation::Missing,
        Observation::Unknown { .. } => frozen(),
        _ => stopped(-1),
    };
    let mut world = World::new(settings).with("w", beat, before);
    world.tick();
    for reporter in reporters {
        world.suspect(&"w".into(), reporter);
    }
    world.see("w", observation);
    let plan = world.tick();
    plan.changes.last().expect("a change").evidence.because.clone()
}

#[test]
fn the_sentence_names_the_container_the_heartbeat_the_misses_and_who_suspects_it() {
    let default = Settings::default;
    let fresh = ", heartbeat fresh (5.0 s old, window 75 s)";
    let seen = |observation| sentence(default(), Some(-5), observation, &[]);
    assert_eq!(seen(stopped(-100)), format!("container stopped (exit 137){fresh}; found so in 1 look, 2 are needed"));
    assert_eq!(seen(Observation::Missing), format!("container is missing from its engine{fresh}; found so in 1 look"));
    assert_eq!(
        seen(unhealthy(-1)),
        format!("container runs and its health check fails{fresh}; found so in 1 look, 2 are needed")
    );
    assert_eq!(seen(transition(Transition::Removing)), format!("engine is at work on the container (removing){fresh}"));
    assert_eq!(seen(running()), format!("container runs{fresh}"));
    assert_eq!(seen(running_since(-3)), "container just started, no heartbeat since it started");
    let stale = |reporters: &[&str]| sentence(default(), Some(-80), running(), reporters);
    assert_eq!(stale(&[]), "container runs, heartbeat stale (80 s old, window 75 s)");
    assert_eq!(stale(&["a"]), "container runs, heartbeat stale (80 s old, window 75 s); suspected by 1 reporter");
    assert_eq!(stale(&["a", "b"]), "container runs, heartbeat stale (80 s old, window 75 s); suspected by 2 reporters");
    assert_eq!(sentence(default(), None, running(), &[]), "container runs, never sent a heartbeat");
    let second =
        "heartbeat stale (80 s old, window 75 s); found so in 1 look, and a stale heartbeat is the second witness";
    assert_eq!(sentence(default(), Some(-80), stopped(-100), &[]), format!("container stopped (exit 137), {second}"));
    for (age_ms, text) in [(9_949, "9.9 s"), (9_950, "10 s"), (9_951, "10 s")] {
        let mut world = World::new(default()).with("w", Some(-1), stopped(-1));
        world.row("w").last_heartbeat_at = Some(clock_at(-age_ms));
        let because = world.tick().changes[0].evidence.because.clone();
        assert!(because.contains(&format!("({text} old, window 75 s)")), "{age_ms}: {because}");
    }
    for (fault, text) in [
        (Fault::Unreachable, "engine default cannot be reached"),
        (Fault::TimedOut, "engine default did not answer in time"),
        (Fault::EngineError, "engine default answered with an error"),
        (Fault::Garbled, "engine default gave an answer that cannot be read"),
        (
            Fault::OtherEngine,
            "engine default is not the engine that it was before, so what it does not list may still exist",
        ),
        (Fault::NotConfigured, "engine default is not in DEFIB_ENGINES"),
        (Fault::BadReference, "its container_ref cannot be the name of a container"),
        (Fault::WrongKind, "engine default cannot have a workspace of its kind"),
        (Fault::NotAsked, "engine default was not asked about it, to limit the load on it"),
    ] {
        assert_eq!(seen(unknown(fault)), text);
    }
}

#[test]
fn the_sentence_is_made_anew_from_the_evidence_alone() {
    for observation in [running(), stopped(-100), Observation::Missing, unknown(Fault::TimedOut)] {
        let mut world = World::new(Settings::default()).with("w", Some(-80), observation);
        let evidence = world.tick().changes[0].evidence.clone();
        assert!(!evidence.because.is_empty());
        assert_eq!(evidence.in_words(), evidence.because);
    }
}

#[test]
fn the_order_names_the_life_that_was_convicted() {
    let mut world = World::new(Settings::default()).with("w", Some(-80), running());
    world.row("w").container_ref = Some("agent".into());
    world.tick();
    assert_eq!(world.judge.known_container(&"w".into()).map(ContainerId::as_str), Some("container"));
    let (container, verdict) = world.judge.known(&"w".into());
    assert_eq!((container.map(ContainerId::as_str), verdict), (Some("container"), Some(Verdict::Silent)));
    assert_eq!(world.judge.known(&"nobody".into()), (None, None));
    world.see("w", stopped(0));
    let plan = world.tick();
    let order = &plan.restarts[0];
    assert_eq!(
        (order.container_id().map(ContainerId::as_str), order.started_at()),
        (Some("container"), Some(clock_at(-3_600_000)))
    );
    assert_eq!((order.container_ref.as_deref(), order.convicted_in_transition()), (Some("agent"), false));
    assert_eq!((plan.judged, world.judge.watched()), (1, 1));

    let mut stuck = World::new(Settings::default()).with("w", Some(-80), transition(Transition::Created));
    stuck.tick();
    stuck.run(30);
    stuck.wait_ms(5_000);
    assert!(stuck.tick().restarts[0].convicted_in_transition());
}
