//! What is learned of an interval, and how old a heartbeat is, whatever the clocks do.

use super::*;

const ORIGIN: i64 = 1_700_000_000_000_000;

fn at(seconds: u64) -> Moment {
    Moment::after(Duration::from_secs(1_000 + seconds))
}

fn stamp(seconds: i64) -> Timestamp {
    Timestamp(ORIGIN + seconds * 1_000_000)
}

/// A read each 5 s of a workspace that beats after each of `gaps`.
fn beaten(gaps: &[i64]) -> (Cadence, i64) {
    let (settings, mut cadence, mut clock) = (Settings::default(), Cadence::default(), 0_i64);
    let mut beat = 0;
    cadence.observe(read(0, None, Some(0)), &settings);
    for gap in gaps {
        let next = beat + gap;
        while clock < next {
            let previous = clock;
            clock += 5;
            if clock >= next {
                beat = next;
            }
            cadence.observe(read(clock, Some(previous), Some(beat)), &settings);
        }
    }
    (cadence, clock)
}

fn read(seconds: i64, previous: Option<i64>, heartbeat: Option<i64>) -> BeatRead {
    BeatRead {
        at: at(seconds.unsigned_abs()),
        previous: previous.map(|previous| at(previous.unsigned_abs())),
        database_now: stamp(seconds),
        heartbeat: heartbeat.map(stamp),
        activity: None,
    }
}

#[test]
fn until_a_window_after_the_sighting_it_is_fresh_whatever_the_databases_clock_does() {
    let settings = Settings::default();
    let (beaten, clock) = beaten(&[10, 10]);
    let sighted = beaten.sighted_at().expect("an advance was seen");
    let window = beaten.window(&settings);
    let before = (sighted + window).minus(Duration::from_millis(1));
    for step in [-3_600, 0, 3_600] {
        let age = beaten.age(before, at(clock.unsigned_abs()), stamp(clock + step));
        assert!(age.is_some_and(|age| age < window), "{age:?} after a step of {step} s");
    }
    let mut taken_back = beaten;
    taken_back.observe(read(clock + 5, Some(clock), None), &settings);
    assert_eq!(taken_back.sighted_at(), None, "the beat was taken back");
    assert_eq!(Cadence::default().sighted_at(), None);
}

#[test]
fn a_cadence_fits_into_48_bytes() {
    assert!(size_of::<Cadence>() <= 48, "{}", size_of::<Cadence>());
}

#[test]
fn the_configured_interval_stands_in_until_three_intervals_were_seen() {
    let settings = Settings::default();
    let (two, _) = beaten(&[10, 10]);
    assert_eq!(two.window(&settings), Duration::from_secs(75));
    assert_eq!(two.interval(&settings), Duration::from_secs(30));
    assert_eq!(two.overdue_after(&settings), Duration::from_secs(45));
    let (three, _) = beaten(&[10, 10, 10]);
    assert!(three.is_learned());
    assert_eq!(three.interval(&settings), Duration::from_secs(10));
    assert!(three.window(&settings) < Duration::from_secs(30), "{:?}", three.window(&settings));
}

#[test]
fn what_was_learned_is_taken_up_once_and_what_is_known_better_stays() {
    let settings = Settings::default();
    let (quick, _) = beaten(&[10; 20]);
    let learned = quick.learned().expect("it was learned");
    let mut anew = Cadence::default();
    assert!(anew.learned().is_none() && anew.recall(learned));
    assert_eq!(
        (anew.window(&settings), anew.interval(&settings)),
        (quick.window(&settings), quick.interval(&settings))
    );
    assert!(Cadence::default().recall(Learned { intervals: LEARNED_AFTER, ..learned }), "just enough intervals");
    let (mut slow, _) = beaten(&[60; 20]);
    let window = slow.window(&settings);
    assert!(!slow.recall(learned), "it has seen for itself");
    assert_eq!(slow.window(&settings), window);
    for bad in [
        Learned { mean_ms: f32::NAN, ..learned },
        Learned { mean_ms: -1.0, ..learned },
        Learned { deviation_ms: f32::INFINITY, ..learned },
        Learned { intervals: 2, ..learned },
    ] {
        assert!(!Cadence::default().recall(bad), "{bad:?}");
    }
}

#[test]
fn the_window_is_twice_the_mean_and_four_deviations_within_its_bounds() {
    let settings = Settings::default();
    let (steady, _) = beaten(&[30; 40]);
    let window = steady.window(&settings);
    assert!(window >= Duration::from_secs(60) && window < Duration::from_secs(62), "{window:?}");
    let (quick, _) = beaten(&[5; 40]);
    assert_eq!(quick.window(&settings), settings.recent_min);
    let capped = Settings { recent_max: Duration::from_secs(40), ..Settings::default() };
    assert_eq!(steady.window(&capped), Duration::from_secs(40));
    let overdue = steady.overdue_after(&settings);
    assert!(overdue >= Duration::from_secs(30) && overdue < Duration::from_secs(32), "{overdue:?}");
}

#[test]
fn one_long_gap_widens_the_window_and_does_not_capture_it() {
    let settings = Settings::default();
    let (busy, _) = beaten(&[30, 30, 30, 30, 30, 30, 120]);
    let after = busy.window(&settings);
    assert!(after > Duration::from_secs(62) && after < Duration::from_secs(150), "{after:?}");
    assert!(busy.interval(&settings) < Duration::from_secs(40));
    let (settled, _) = beaten(&[30, 30, 30, 30, 30, 30, 120, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30]);
    assert!(settled.window(&settings) < Duration::from_secs(75), "{:?}", settled.window(&settings));
}

#[test]
fn the_estimator_is_jacobsons() {
    let settings = Settings { recent_min: Duration::from_secs(1), ..Settings::default() };
    let mut cadence = Cadence::default();
    for beat in [0, 10, 20, 36] {
        cadence.observe(read(beat, Some(beat - 5), Some(beat)), &settings);
    }
    // 10, 10, 16: the mean goes 10, 10, 10.75 and the deviation 2.5, 1.875, 2.90625.
    let near = |duration: Duration, seconds: f64| (duration.as_secs_f64() - seconds).abs() < 0.001;
    assert!(near(cadence.interval(&settings), 10.75), "{:?}", cadence.interval(&settings));
    assert!(near(cadence.window(&settings), 2.0 * 10.75 + 4.0 * 2.906_25), "{:?}", cadence.window(&settings));
    let overdue = cadence.overdue_after(&settings);
    assert!(near(overdue, 10.75 + 4.0 * 2.906_25), "{overdue:?}");
    // And a shorter one pulls it back: 10.75 + (4 - 10.75) / 8.
    cadence.observe(read(40, Some(36), Some(40)), &settings);
    assert!(near(cadence.interval(&settings), 9.906_25), "{:?}", cadence.interval(&settings));
}

#[test]
fn a_slow_drift_is_followed_so_that_no_gap_is_stale() {
    let settings = Settings::default();
    let mut gaps = vec![30; 10];
    for gap in 30..=80 {
        gaps.extend([gap; 2]);
        let (cadence, _) = beaten(&gaps);
        assert!(cadence.window(&settings) > Duration::from_secs(gap.unsigned_abs() + 1), "gap {gap}");
    }
}

#[test]
fn the_younger_clock_counts() {
    let settings = Settings::default();
    let mut cadence = Cadence::default();
    // The clock of the writer is ten minutes behind: the heartbeat is old by its stamp, and young by our sighting.
    cadence.observe(read(0, None, Some(-600)), &settings);
    assert_eq!(cadence.age(at(0), at(0), stamp(0)), Some(Duration::from_secs(600)), "never seen advancing");
    assert!(cadence.observe(read(5, Some(0), Some(-570)), &settings));
    assert_eq!(cadence.age(at(8), at(5), stamp(5)), Some(Duration::from_secs(3)));
    // We saw it long ago, but its stamp is young, so the stamp counts. This happens when the row of another replica is read for a
    // focused pass.
    let mut old = Cadence::default();
    old.observe(read(0, None, Some(0)), &settings);
    assert_eq!(old.age(at(7), at(5), stamp(5)), Some(Duration::from_secs(7)));
}

#[test]
fn a_stamp_from_the_future_is_not_fresh_for_ever() {
    let settings = Settings::default();
    let mut cadence = Cadence::default();
    cadence.observe(read(0, None, Some(0)), &settings);
    cadence.observe(read(5, Some(0), Some(3_600)), &settings);
    assert_eq!(cadence.lived_at(), Some(stamp(5)));
    for seconds in [10, 200] {
        assert!(!cadence.observe(read(seconds, Some(5), Some(3_600)), &settings), "no advance");
    }
    assert_eq!(cadence.age(at(205), at(200), stamp(200)), Some(Duration::from_secs(200)));
}

#[test]
fn a_stamp_of_this_very_moment_is_not_ahead() {
    let settings = Settings::default();
    let mut cadence = Cadence::default();
    cadence.observe(read(0, None, Some(-100)), &settings);
    cadence.observe(read(5, Some(0), Some(5)), &settings);
    assert_eq!(cadence.age(at(25), at(20), stamp(5)), Some(Duration::from_secs(5)), "the database's clock stood still");
}

#[test]
fn one_window_back_is_jitter_and_more_is_taken_back() {
    let settings = Settings::default();
    for (back, seen) in [(75, 0), (76, 76)] {
        let mut cadence = Cadence::default();
        cadence.observe(read(0, None, Some(0)), &settings);
        cadence.observe(read(100, Some(95), Some(100)), &settings);
        cadence.observe(read(100, Some(100), Some(100 - back)), &settings);
        assert_eq!(cadence.age(at(100), at(100), stamp(100)), Some(Duration::from_secs(seen)), "{back}");
    }
}

#[test]
fn a_database_clock_that_steps_back_leaves_our_sighting() {
    let settings = Settings::default();
    let mut cadence = Cadence::default();
    cadence.observe(read(0, None, Some(0)), &settings);
    cadence.observe(read(5, Some(0), Some(5)), &settings);
    assert_eq!(cadence.age(at(25), at(20), stamp(-280)), Some(Duration::from_secs(20)));
}

#[test]
fn a_beat_taken_back_takes_the_sighting_with_it_and_jitter_does_not() {
    let settings = Settings::default();
    let mut cadence = Cadence::default();
    cadence.observe(read(0, None, Some(0)), &settings);
    cadence.observe(read(5, Some(0), Some(5)), &settings);
    assert!(!cadence.observe(read(10, Some(5), Some(3)), &settings));
    assert_eq!(cadence.age(at(10), at(10), stamp(10)), Some(Duration::from_secs(5)), "seen at 5");
    assert!(!cadence.observe(read(15, Some(10), Some(-600)), &settings));
    assert_eq!(cadence.age(at(15), at(15), stamp(15)), Some(Duration::from_secs(615)));
    cadence.observe(read(20, Some(15), None), &settings);
    assert_eq!(cadence.age(at(20), at(20), stamp(20)), None);
}

#[test]
fn activity_counts_as_life_and_teaches_nothing_about_the_interval() {
    let settings = Settings::default();
    let mut cadence = Cadence::default();
    cadence.observe(read(0, None, Some(0)), &settings);
    for seconds in 1..=10 {
        let busy = BeatRead { activity: Some(stamp(seconds)), ..read(seconds, Some(seconds - 1), Some(0)) };
        assert!(cadence.observe(busy, &settings));
    }
    assert_eq!(cadence.age(at(10), at(10), stamp(10)), Some(Duration::ZERO));
    assert!(!cadence.is_learned());
}

#[test]
fn a_gap_over_an_outage_is_not_learned() {
    let settings = Settings::default();
    let (mut cadence, clock) = beaten(&[30; 10]);
    let window = cadence.window(&settings);
    cadence.skip_next_gap();
    cadence.observe(read(clock + 300, Some(clock + 295), Some(clock + 300)), &settings);
    assert_eq!(cadence.window(&settings), window);
    cadence.observe(read(clock + 400, Some(clock + 395), Some(clock + 400)), &settings);
    assert!(cadence.window(&settings) > window, "only one gap is skipped");
}

#[test]
fn the_first_read_of_a_beat_is_no_sighting_but_a_first_beat_is() {
    let settings = Settings::default();
    let mut known = Cadence::default();
    assert!(!known.observe(read(0, None, Some(-10)), &settings));
    assert_eq!(known.seen_between(), None);
    let mut booting = Cadence::default();
    booting.observe(read(0, None, None), &settings);
    assert!(booting.observe(read(5, Some(0), Some(4)), &settings));
    assert_eq!(booting.seen_between(), Some((at(0), at(5))));
}

#[test]
fn a_row_shows_a_new_sign_of_life_only_if_its_stamp_is_later_than_the_last_one() {
    let (cadence, _) = beaten(&[30]);
    for (newest, is_new) in [(None, false), (Some(29), false), (Some(30), false), (Some(31), true)] {
        assert_eq!(cadence.is_older_than(newest.map(stamp)), is_new, "{newest:?}");
    }
    assert!(Cadence::default().is_older_than(Some(stamp(0))), "the first one of all");
}
