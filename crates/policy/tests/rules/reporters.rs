//! Whose word counts against one that runs: the names are the callers' text, the logins are the database's.

use crate::common::*;
use defib_policy::fleet::Workspace;
use defib_policy::sample::Observation;
use defib_policy::settings::{Action, Settings};
use defib_policy::verdict::Verdict;

/// Whether one that has been silent for long is restarted within twenty minutes in which `reports` come each 5 s: the login and the
/// name of each, and the workspace that is accused.
fn restarted_by(reports: impl Fn(i64) -> Vec<(&'static str, String, &'static str)>) -> Option<i64> {
    let settings = Settings { wedged_action: Action::Restart, ..Settings::default() };
    let mut world = World::new(settings).with("w", Some(-700), running()).watched();
    for id in ["v", "u"] {
        world.add(id, Some(-1), running());
    }
    world.tick();
    for n in 0..240 {
        for (login, reporter, id) in reports(n) {
            world.report(&id.into(), login, &reporter);
        }
        for id in ["v", "u"] {
            // Silent, but far from wedged: an accusation of it stands.
            if n % 60 == 59 {
                world.beat(id);
            }
        }
        if let Some((at_ms, id)) = world.run(5).first() {
            assert_eq!(id, "w");
            return Some(*at_ms / 1_000);
        }
    }
    assert_eq!(world.verdict("w"), Some(Verdict::Wedged));
    None
}

/// A bug that was seen on the running program: a proxy used its request ids as names, and a running workspace was restarted on its word
/// alone.
#[test]
fn one_login_with_a_new_name_for_each_request_is_one_reporter() {
    assert_eq!(restarted_by(|n| vec![("proxy", format!("request-{n}"), "w")]), None);
    assert_eq!(
        restarted_by(|n| vec![("proxy", format!("request-{n}"), "w"), ("proxy", format!("request-{n}"), "v")]),
        None,
        "nor do they become known by accusing two"
    );
}

#[test]
fn two_names_of_one_login_that_accuse_nobody_else_are_one_reporter() {
    assert_eq!(restarted_by(|n| vec![("proxy", format!("pod-{}", n % 2), "w")]), None);
}

#[test]
fn two_logins_are_two_reporters_whatever_they_call_themselves() {
    let two = |_| vec![("proxy", "a".to_owned(), "w"), ("gateway", "a".to_owned(), "w")];
    assert_eq!(restarted_by(two), Some(155), "two windows of 75 s");
}

#[test]
fn a_second_name_of_one_login_counts_when_it_is_known_and_has_accused_for_two_windows_itself() {
    let proxies = |n: i64| {
        let second = if n >= 40 { "b" } else { "a" };
        let both = ["w", "v"].into_iter();
        both.flat_map(|id| [("proxy", "a".to_owned(), id), ("proxy", second.to_owned(), id)]).collect()
    };
    assert_eq!(restarted_by(proxies), Some(355), "its second name began at 200 s");
}

/// A bug that the simulator found: a quarter of the fleet was down and could not be helped, so honest callers looked broken, and nobody
/// counted as a witness against one that hung.
#[test]
fn callers_who_accuse_those_that_are_down_are_believed_of_one_that_runs() {
    let settings = Settings { wedged_action: Action::Restart, storm_min: 100, ..Settings::default() };
    let mut world = World::new(settings).with("w", Some(-700), running());
    for n in 0..9 {
        world.add(&format!("d{n}"), Some(-1), Observation::Missing);
    }
    world.tick();
    let restarted = (0..240).any(|round| {
        for login in ["one", "two"] {
            world.report(&"w".into(), login, "proxy");
            // Each of them is called once in a while.
            world.report(&format!("d{}", round % 9).as_str().into(), login, "proxy");
        }
        world.run(5).iter().any(|(_, id)| id == "w")
    });
    assert!(restarted);
}

/// `w` hangs on the engine of this world, and nine others there beat with each tick, as do those on `another`. Two callers whose networks are broken accuse all ten.
struct BrokenCallers {
    world: World,
}

impl BrokenCallers {
    const RUNNING: [&str; 9] = ["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8"];

    fn new() -> Self {
        let settings = Settings { wedged_action: Action::Restart, storm_min: 100, ..Settings::default() };
        let mut world = World::new(settings).with("w", Some(-700), running()).watched();
        for id in Self::RUNNING {
            world.add(id, Some(-1), running());
        }
        Self { world }
    }

    /// Whether `w` is restarted within so many seconds.
    fn have_it_restarted_within(&mut self, seconds: i64) -> bool {
        (0..seconds / 5).any(|_| {
            let beats = |row: &&Workspace| row.engine.as_str() == "another" || Self::RUNNING.contains(&row.id.as_str());
            let beating: Vec<String> = self.world.fleet.values().filter(beats).map(|row| row.id.to_string()).collect();
            for id in &beating {
                self.world.beat(id);
            }
            for (id, login) in Self::RUNNING.iter().chain(&["w"]).flat_map(|id| [(*id, "one"), (*id, "two")]) {
                self.world.report(&id.into(), login, "proxy");
            }
            self.world.run(5).iter().any(|(_, id)| id == "w")
        })
    }
}

/// A bug that the simulator found. Reports about those that are down are dropped, so broken callers accused a small part of the fleet.
#[test]
fn those_that_are_down_do_not_make_a_caller_look_honest_who_accuses_all_that_run() {
    let mut callers = BrokenCallers::new();
    for n in 0..40 {
        callers.world.add(&format!("d{n}"), Some(-700), Observation::Missing);
    }
    assert!(!callers.have_it_restarted_within(1_200));
}

/// A bug that the simulator found. A replica that had just taken over the other engines took two broken callers for honest ones, because
/// they had not accused anybody there yet.
#[test]
fn engines_that_were_just_taken_over_do_not_make_a_caller_look_honest() {
    let mut callers = BrokenCallers::new();
    callers.world.engine = "another".into();
    for n in 0..40 {
        callers.world.add(&format!("a{n}"), Some(-1), running());
    }
    callers.world.engine = "default".into();
    assert!(!callers.have_it_restarted_within(1_200), "they accuse all that is ours");
    callers.world.engine = "another".into();
    callers.world.tick();
    callers.world.engine = "default".into();
    assert!(!callers.have_it_restarted_within(595), "they would have to accuse others within DEFIB_WEDGED_AFTER");
    assert!(callers.have_it_restarted_within(5), "ten of fifty are no large part");
}
