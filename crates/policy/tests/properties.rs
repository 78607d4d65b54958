//! Safety and liveness over arbitrary histories.
//!
//! A history is a list of events in a small world: beats, stops, starts, lies and faults of the engine, outages of the
//! database, parking, fail-overs, passes. The model beside the judge (`model/mod.rs`) remembers only what was shown to it,
//! and checks each order against that:
//!
//! - never on a single witness: a stale heartbeat beside the stop, or spaced samples of the same life;
//! - never one that was last seen running or frozen, or that was never seen: silence of the engine alone restarts nobody;
//! - never one that is parked, not even by a pass that had read the fleet before that; never one on hold, and never one on an engine that
//!   another replica owns;
//! - never twice without an outcome in between, whichever process made the first restart, and never the same number twice for one life;
//! - and the maps stay bounded by their knobs and by the fleet as it is.
//!
//! Liveness: whatever happened before, a workspace that stops for good is restarted within a bound, if the world is well from then on. The
//! bound is computed from the knobs and from what was tried before. And of those that die together, the ones that cannot be helped do not
//! keep the others down.
#![allow(missing_docs, clippy::expect_used, reason = "the names of the tests say it; helpers of tests may panic")]

#[path = "rules/common.rs"]
mod common;
#[path = "rules/mass_death.rs"]
mod mass_death;
mod model;

use std::collections::BTreeSet;

use common::*;
use defib_policy::attempt::Outcome;
use defib_policy::sample::Fault;
use defib_policy::settings::{Action, Settings};
use mass_death::{COOLDOWN, Fate, MassDeath, NEVER_MADE, SETTLE, STARTED_IN_VAIN};
use model::{Event, FLEET, Model, event, name};
use proptest::prelude::*;

/// What may happen around one that runs and says nothing.
#[derive(Clone, Debug)]
enum Silence {
    Run(i64),
    Beat,
    Suspect(usize),
}

fn silence() -> impl Strategy<Value = Silence> {
    prop_oneof![
        8 => (5_i64..120).prop_map(Silence::Run),
        1 => Just(Silence::Beat),
        8 => (0_usize..3).prop_map(Silence::Suspect),
    ]
}

/// Those who die together: at least one of them can be helped, and of the others any number cannot.
fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let hopeless = NEVER_MADE.into_iter().chain(STARTED_IN_VAIN).collect::<Vec<_>>();
    let fate = prop_oneof![Just(Fate::Returns), proptest::sample::select(hopeless)];
    proptest::collection::vec(fate, 4..24)
        .prop_map(|mut fates| {
            fates[0] = Fate::Returns;
            fates
        })
        .prop_shuffle()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_history_makes_it_restart_on_a_single_witness_or_one_that_is_parked_or_one_twice(
        events in proptest::collection::vec(event(), 1..160),
    ) {
        // A map that is smaller than the fleet, so that its bound is met.
        let mut model = Model::new(Settings { probe_map_max: 3, ..Settings::default() });
        for event in &events {
            model.apply(event)?;
        }
    }

    #[test]
    fn unknown_alone_never_restarts(
        faults in proptest::collection::vec(proptest::sample::select(Fault::ALL.to_vec()), 1..60),
        gap in 100_i64..60_000,
        stopped_once in any::<bool>(),
    ) {
        let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
        let mut world = World::new(settings).with("w", Some(-1), if stopped_once { stopped(-1) } else { running() });
        prop_assert!(world.tick().restarts.is_empty());
        for (n, fault) in faults.into_iter().enumerate() {
            world.wait_ms(gap);
            world.evidence.fault = Some(fault);
            world.see("w", unknown(fault));
            world.suspect(&"w".into(), ["a", "b"][n % 2]);
            prop_assert!(world.tick().restarts.is_empty());
        }
    }

    #[test]
    fn one_that_runs_is_restarted_only_when_long_silent_and_suspected_by_two(
        events in proptest::collection::vec(silence(), 1..60),
    ) {
        let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
        let mut world = World::new(settings.clone()).with("w", Some(-1), running());
        world.tick();
        let (mut beaten_ms, mut suspected) = (-1_000, Vec::new());
        for event in events {
            let span = match event {
                Silence::Run(span) => span,
                Silence::Beat => {
                    world.beat("w");
                    beaten_ms = world.now_ms;
                    suspected.clear();
                    5
                }
                Silence::Suspect(reporter) => {
                    world.suspect(&"w".into(), ["a", "b", "c"][reporter]);
                    suspected.push((reporter, world.now_ms));
                    continue;
                }
            };
            if let Some((at_ms, _)) = world.run(span).first() {
                let silent_for = std::time::Duration::from_millis((at_ms - beaten_ms).unsigned_abs());
                prop_assert!(silent_for > settings.wedged_after, "silent for {silent_for:?}");
                let reporters: BTreeSet<usize> = suspected.iter().map(|(reporter, _)| *reporter).collect();
                prop_assert!(reporters.len() >= 2, "suspected by {reporters:?}");
                let over_ms = suspected.last().map_or(0, |(_, last)| last - suspected[0].1);
                prop_assert!(over_ms >= 2 * 15_000, "suspected over {over_ms} ms");
                return Ok(());
            }
        }
    }

    #[test]
    fn whatever_happened_before_one_that_stops_for_good_is_restarted_within_the_bound(
        events in proptest::collection::vec(event(), 0..100),
        victim in 0..FLEET,
    ) {
        let settings = Settings::default();
        let mut model = Model::new(settings.clone());
        for event in &events {
            model.apply(event)?;
        }
        // From here on the world is well, and everybody but the victim lives.
        model.apply(&Event::EngineFault(None))?;
        model.apply(&Event::OtherEngine(false))?;
        model.apply(&Event::Ours(true))?;
        model.lies.clear();
        model.claim();
        model.end_restarts(Outcome::Succeeded);
        for n in 0..FLEET {
            model.unpark(n);
            model.apply(&Event::Hold(n, false))?;
            model.start(n);
        }
        model.apply(&Event::Stop(victim))?;
        // Its window (at most DEFIB_RECENT_MAX, stretched while we are unwell ourselves), the storm's cooldown for a round of
        // others that did not come back, the back-off after what was tried before, and a few polls.
        let bound = settings.recent_max + 3 * settings.storm_cooldown + seconds(60) + model.backoff_max(victim);
        let bound_ms = i64::try_from(bound.as_millis()).expect("small");
        let (begun, mut restarted) = (model.world.now_ms, false);
        while model.world.now_ms - begun < bound_ms && !restarted {
            model.world.wait_ms(5_000);
            for n in (0..FLEET).filter(|n| *n != victim) {
                model.apply(&Event::Beat(n))?;
            }
            model.apply(&Event::OwnHealth(true))?;
            model.apply(&Event::Tick)?;
            restarted = model.is_under_way(victim);
            if !restarted {
                // Whoever else was found dead comes back at once.
                model.claim();
                model.end_restarts(Outcome::Succeeded);
            }
        }
        prop_assert!(restarted, "still {:?} after {} s", model.world.verdict(&name(victim)), bound_ms / 1_000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn whoever_and_however_many_are_hopeless_nobody_else_starves(fates in fates(), draw in 0_u64..10_000) {
        let unhindered = MassDeath::new(draw, &vec![Fate::Returns; fates.len()]).until_all_returned();
        let in_vain = fates.iter().filter(|fate| STARTED_IN_VAIN.contains(fate)).count();
        // Each of them makes at most one round fail before all others have been tried once.
        let bound = 2 * unhindered + i64::try_from(in_vain).expect("small") * (COOLDOWN + SETTLE);
        let took = MassDeath::new(draw, &fates).until_all_returned();
        prop_assert!(took <= bound, "{took} s, and at most {bound} s are due to {fates:?}");
    }

    #[test]
    fn one_that_beats_is_never_restarted_whatever_reporters_say_of_it(
        reports in proptest::collection::vec((0_usize..4, 0_usize..6, 0_i64..300), 1..80),
    ) {
        let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
        let mut world = World::new(settings).with("w", Some(-1), running()).watched();
        for (login, name, span) in reports {
            world.report(&"w".into(), &format!("login-{login}"), &format!("name-{name}"));
            world.beat("w");
            for _ in 0..span / 5 {
                world.beat("w");
                prop_assert_eq!(world.run(5), []);
            }
        }
    }

    #[test]
    fn one_that_is_silent_is_never_restarted_on_the_word_of_one_login_whatever_names_it_makes_up(
        gaps in proptest::collection::vec(1_i64..120, 1..80),
    ) {
        let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
        let mut world = World::new(settings).with("w", Some(-700), running()).watched();
        for (n, gap) in gaps.into_iter().enumerate() {
            world.report(&"w".into(), "proxy", &format!("request-{n}"));
            prop_assert_eq!(world.run(gap), []);
        }
    }
}
