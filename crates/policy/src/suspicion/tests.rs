//! Whom the log counts as a reporter, and for how long.

use super::*;

const WITHIN: Duration = Duration::from_secs(600);
const PACE: Pace = Pace { lapse: WITHIN, spell: Duration::from_secs(150) };

fn at(seconds: u64) -> Moment {
    Moment::after(Duration::from_secs(1_000 + seconds))
}

/// One report; the name is given as `login/name`.
fn report(log: &mut SuspicionLog, id: &str, who: &str, seconds: u64) {
    let (login, reporter) = who.split_once('/').expect("login/name");
    log.report(&id.into(), Report { reporter, login, at: at(seconds) }, PACE);
}

fn against(log: &SuspicionLog, id: &str, seconds: u64) -> (u32, u64) {
    let accused = log.against(&id.into(), at(seconds), WITHIN, 100);
    (accused.reporters, accused.over.as_secs())
}

#[test]
fn a_report_from_more_than_a_window_before_our_start_is_too_old() {
    let window = Duration::from_secs(60);
    assert!(is_too_old(at(39), at(100), window));
    assert!(!is_too_old(at(40), at(100), window) && !is_too_old(at(200), at(100), window));
}

/// Two callers with broken networks, of two logins, accused everybody. All but a few showed a sign of life at each look, so that only
/// the silent ones were counted, and those that ran were restarted.
#[test]
fn one_that_accuses_everybody_is_broken_though_all_of_them_but_one_are_well() {
    let mut log = SuspicionLog::default();
    for (n, second) in (0..26).zip(0..) {
        report(&mut log, &format!("w{n}"), "one/proxy", second);
        report(&mut log, &format!("w{n}"), "two/proxy", second);
        if n > 0 {
            log.refute(&format!("w{n}").as_str().into());
            assert_eq!(against(&log, &format!("w{n}"), 30), (0, 0));
        }
        assert_eq!(against(&log, "w0", 30).0, if n < 25 { 2 } else { 0 }, "after {n}");
    }
    log.prune(at(605), WITHIN);
    assert_eq!(against(&log, "w25", 605), (0, 0), "a sign of life is not taken back");
    report(&mut log, "w0", "one/proxy", 620);
    report(&mut log, "w0", "two/proxy", 620);
    log.prune(at(750), WITHIN);
    assert_eq!(against(&log, "w0", 750).0, 0, "they are remembered for a quarter longer than they count");
    log.prune(at(760), WITHIN);
    assert_eq!(against(&log, "w0", 760).0, 2);
    log.prune(at(2_000), WITHIN);
    assert!(log.logins.is_empty() && log.accused.is_empty());
}

#[test]
fn one_that_is_accused_again_after_a_sign_of_life_is_accused_from_then_on() {
    let mut log = SuspicionLog::default();
    for second in [0, 50] {
        report(&mut log, "w", "one/proxy", second);
        report(&mut log, "w", "two/proxy", second);
    }
    assert_eq!(against(&log, "w", 50), (2, 50));
    log.refute(&"w".into());
    log.refute(&"w".into());
    report(&mut log, "w", "one/proxy", 60);
    report(&mut log, "w", "two/proxy", 80);
    report(&mut log, "w", "one/proxy", 100);
    report(&mut log, "w", "two/proxy", 100);
    assert_eq!(against(&log, "w", 100), (2, 20));
    report(&mut log, "v", "one/a", 80);
    log.refute(&"v".into());
    report(&mut log, "w", "one/a", 90);
    assert!(!log.logins["one"].names["a"].known, "its word against the other does not stand");
    log.clear(&"w".into());
    log.clear(&"v".into());
    assert!(log.logins.is_empty());
}

#[test]
fn whoever_was_refuted_makes_room_for_another() {
    let mut log = SuspicionLog::default();
    for n in 0..ACCUSATIONS_MAX {
        report(&mut log, "w", &format!("login{n}/proxy"), 0);
    }
    log.refute(&"w".into());
    report(&mut log, "w", "another/proxy", 1);
    assert_eq!((against(&log, "w", 1).0, log.logins.len()), (1, 1));
}

#[test]
fn distinct_reporters_count_and_repetitions_do_not() {
    let mut log = SuspicionLog::default();
    for second in 0..50 {
        report(&mut log, "w", "one/proxy", second);
    }
    assert_eq!(against(&log, "w", 50), (1, 49));
    report(&mut log, "w", "two/proxy", 60);
    assert_eq!(against(&log, "w", 60), (2, 0), "the same name of another login is another reporter");
    report(&mut log, "w", "one/proxy", 90);
    assert_eq!(against(&log, "w", 90), (2, 0), "the second has spoken once");
    report(&mut log, "w", "two/proxy", 100);
    assert_eq!(against(&log, "w", 100), (2, 30), "from when the second began to the last word of the first");
}

/// Chaos years found healthy workspaces restarted by this: a caller had met one that came to by itself a few seconds later, and ten minutes
/// afterwards the network of another caller broke.
#[test]
fn what_one_said_before_another_began_is_no_agreement() {
    let mut log = SuspicionLog::default();
    report(&mut log, "w", "one/proxy", 0);
    report(&mut log, "w", "one/proxy", 10);
    for second in (20..=200).step_by(20) {
        report(&mut log, "w", "two/proxy", second);
    }
    assert_eq!(against(&log, "w", 200), (2, 0));
    report(&mut log, "w", "three/proxy", 100);
    report(&mut log, "w", "three/proxy", 180);
    assert_eq!(against(&log, "w", 200), (3, 80), "the second and the third");
}

/// A bug that was seen on the running program: a proxy that reported under its request ids counted as two reporters, and a running
/// workspace was restarted.
#[test]
fn names_that_only_ever_accuse_one_workspace_count_once_for_their_login() {
    let mut log = SuspicionLog::default();
    for second in [0, 100, 200] {
        report(&mut log, "w", "proxy/a", second);
        report(&mut log, "w", "proxy/b", second);
    }
    assert_eq!(against(&log, "w", 200), (1, 200));
    report(&mut log, "v", "proxy/a", 200);
    assert_eq!(against(&log, "w", 200), (2, 200), "one is known by another accusation");
    log.clear(&"v".into());
    assert_eq!(against(&log, "w", 200), (2, 200), "and has been ever since");
    log.clear(&"w".into());
    report(&mut log, "w", "proxy/a", 210);
    report(&mut log, "w", "proxy/b", 210);
    assert_eq!(against(&log, "w", 210), (1, 0), "it was forgotten with its last accusation");
}

#[test]
fn unknown_names_of_one_login_have_accused_since_the_first_of_them_did() {
    let mut log = SuspicionLog::default();
    report(&mut log, "w", "proxy/a", 0);
    report(&mut log, "w", "proxy/b", 100);
    assert_eq!(against(&log, "w", 200), (1, 100), "the name that accused first is also the first in the log");
    log.refute(&"w".into());
    report(&mut log, "w", "proxy/b", 210);
    report(&mut log, "w", "proxy/a", 250);
    assert_eq!(against(&log, "w", 300), (1, 40), "the name that accused first is the second in the log");
}

#[test]
fn more_than_a_handful_of_names_within_two_windows_are_one_reporter() {
    for (apart, reporters) in [(30, 1), (40, 6)] {
        let mut log = SuspicionLog::default();
        for n in 0..6 {
            let (who, second) = (format!("proxy/request-{n}"), n * apart);
            report(&mut log, "v", &who, second);
            report(&mut log, "w", &who, second);
        }
        assert_eq!(against(&log, "w", 200).0, reporters, "six names, {apart} s apart");
    }
    let mut log = SuspicionLog::default();
    for n in 0..2_000 {
        report(&mut log, "w", &format!("proxy/request-{n}"), n / 10);
    }
    report(&mut log, "w", "other/proxy", 200);
    assert_eq!(against(&log, "w", 200), (2, 0), "and do not keep others from being heard");
    assert_eq!(log.logins["proxy"].names.len(), 0, "nor are they remembered one by one");
}

#[test]
fn names_that_become_one_have_accused_since_the_first_of_them_did_and_until_the_last_of_them_did() {
    let mut log = SuspicionLog::default();
    report(&mut log, "w", "proxy/a", 0);
    report(&mut log, "w", "proxy/b", 400);
    for n in 0..6 {
        report(&mut log, "w", &format!("proxy/request-{n}"), 640 + n);
    }
    assert_eq!(against(&log, "w", 645), (1, 645), "the login was never silent for ten minutes");
}

#[test]
fn the_word_of_one_login_lasts_as_long_as_that_of_its_second_name() {
    let mut log = SuspicionLog::default();
    for second in [0, 100, 200] {
        report(&mut log, "v", "proxy/a", second);
        report(&mut log, "w", "proxy/a", second);
    }
    for second in [190, 200] {
        report(&mut log, "v", "proxy/b", second);
        report(&mut log, "w", "proxy/b", second);
    }
    assert_eq!(against(&log, "w", 200), (2, 10));
    report(&mut log, "w", "other/proxy", 200);
    assert_eq!(against(&log, "w", 200), (3, 10), "nor is another login believed at once");
    report(&mut log, "w", "other/proxy", 320);
    assert_eq!(against(&log, "w", 320), (3, 10), "the first login has been silent since");
    report(&mut log, "w", "proxy/c", 310);
    assert_eq!(against(&log, "w", 320), (4, 110), "a login speaks under all of its names");
}

/// The second name fell silent long ago. Somebody else whose network has just broken does not make its word older.
#[test]
fn another_login_does_not_make_the_word_of_a_second_name_older() {
    let mut log = SuspicionLog::default();
    for second in [0, 10, 300] {
        report(&mut log, "v", "proxy/a", second);
        report(&mut log, "w", "proxy/a", second);
    }
    for second in [10, 20] {
        report(&mut log, "w", "proxy/b", second);
    }
    assert_eq!(against(&log, "w", 300), (2, 10));
    report(&mut log, "w", "other/proxy", 300);
    assert_eq!(against(&log, "w", 300), (3, 10));
}

#[test]
fn many_logins_find_room_and_one_with_many_names_makes_it() {
    let mut log = SuspicionLog::default();
    for n in 0..5 {
        report(&mut log, "w", &format!("many/{n}"), n);
    }
    for n in 0..6 {
        report(&mut log, "w", &format!("login-{n}/proxy"), 5);
    }
    assert_eq!(against(&log, "w", 5).0, 7, "the five names are one");
    for n in 6..20 {
        report(&mut log, "w", &format!("login-{n}/proxy"), 5);
    }
    assert_eq!(log.accused[&WorkspaceId::from("w")].len(), ACCUSATIONS_MAX);
    log.clear(&"w".into());
    assert!(log.logins.is_empty(), "{:?}", log.logins);
}

#[test]
fn a_reporter_who_was_content_for_long_begins_anew() {
    for (again, over) in [(160, 160), (161, 0)] {
        let mut log = SuspicionLog::default();
        for second in [0, again] {
            let pace = Pace { lapse: Duration::from_secs(160), ..PACE };
            log.report(&"w".into(), Report { reporter: "proxy", login: "proxy", at: at(second) }, pace);
        }
        assert_eq!(against(&log, "w", again).1, over, "{again}");
    }
}

#[test]
fn a_reporter_who_accuses_a_large_part_of_the_fleet_is_discounted() {
    for name in ["broken", "request-"] {
        let mut log = SuspicionLog::default();
        let ids: Vec<WorkspaceId> = (0..26).map(|n| WorkspaceId::from(format!("w{n}"))).collect();
        for (n, id) in ids.iter().enumerate() {
            let who = if name == "broken" { "proxy/broken".to_owned() } else { format!("proxy/{name}{n}") };
            report(&mut log, id.as_str(), &who, 0);
        }
        report(&mut log, "w0", "other/honest", 1);
        let reporters = |watched| log.against(&ids[0], at(1), WITHIN, watched).reporters;
        assert_eq!(reporters(100), 1, "{name}: 26 of 100 is more than a quarter");
        assert_eq!(reporters(104), 2, "{name}: 26 of 104 is not");
    }
    let mut small = SuspicionLog::default();
    for n in 0..5 {
        report(&mut small, &format!("w{n}"), "a/proxy", 0);
    }
    assert_eq!(small.against(&"w0".into(), at(1), WITHIN, 6).reporters, 1, "five are too few to call it broken");
}

#[test]
fn old_reports_count_for_nothing_and_are_dropped() {
    let (mut log, id) = (SuspicionLog::default(), WorkspaceId::from("w"));
    report(&mut log, "w", "a/a", 0);
    assert_eq!(log.against(&id, at(600), WITHIN, 10).reporters, 1);
    assert_eq!(log.against(&id, at(601), WITHIN, 10).reporters, 0);
    log.prune(at(600), WITHIN);
    assert_eq!((log.accused.len(), log.logins["a"].accuses), (1, 1));
    report(&mut log, "w", "a/b", 1);
    log.prune(at(601), WITHIN);
    assert_eq!((log.logins["a"].accuses, log.logins["a"].names.len()), (1, 1), "the younger name stands");
    log.prune(at(602), WITHIN);
    assert!(log.accused.is_empty() && log.logins.is_empty());
}

#[test]
fn the_log_is_bounded() {
    let mut log = SuspicionLog::default();
    for n in 0..(WORKSPACES_MAX + 10) {
        report(&mut log, &format!("w{n}"), "a/a", 0);
    }
    assert_eq!((log.accused.len(), log.logins["a"].accuses), (WORKSPACES_MAX, WORKSPACES_MAX));
    log.clear(&"w0".into());
    assert_eq!((log.accused.len(), log.logins["a"].names["a"].accuses), (WORKSPACES_MAX - 1, WORKSPACES_MAX - 1));
}

#[test]
fn a_name_is_known_from_its_second_workspace_on_until_its_word_stands_against_none() {
    let mut name = Name::default();
    name.rises();
    assert!(!name.known);
    name.falls();
    assert!(!name.known);
    name.rises();
    name.rises();
    assert!(name.known);
    name.falls();
    assert!(name.known, "its word stands against one");
    name.falls();
    assert!(!name.known);
}

#[test]
fn only_a_login_with_several_names_gives_places_to_others() {
    let (mut accusations, mut logins) = (Vec::new(), HashMap::new());
    for (login, name) in [("one", "a"), ("two", "b"), ("three", "c")] {
        accusations.push(Accusation {
            login: login.into(),
            name: Some(name.into()),
            first: at(0),
            last: at(1),
            refuted: false,
        });
    }
    make_room(&mut accusations, &mut logins);
    assert!(accusations.iter().all(|it| it.name.is_some()), "{accusations:?}");
    accusations.push(Accusation { name: Some("d".into()), ..accusations[1].clone() });
    make_room(&mut accusations, &mut logins);
    let mut left: Vec<(&str, bool)> = accusations.iter().map(|it| (&*it.login, it.name.is_some())).collect();
    left.sort_unstable();
    assert_eq!(left, [("one", true), ("three", true), ("two", false)]);
}
