//! One that recovers after each restart, beats for a while and dies again is a crash loop, and is tried rarely in the end.

use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::settings::Settings;
use defib_policy::verdict::{Held, Verdict};

use crate::common::*;

/// Restarts 1 to `n`, the newest first. Each recovered after 10 s, held for `held` seconds, and was followed by the next; the newest one has
/// just died.
fn recoveries_that_held(n: i64, held: u64) -> Vec<Attempt> {
    let of = |back: u64| {
        let claimed = (back + 1) * (held + 10);
        let id = n - back.cast_signed();
        Attempt { recovered_ago: Some(seconds(claimed - 10)), ..attempt(id, claimed, Some(Outcome::Succeeded)) }
    };
    (0..n.unsigned_abs()).map(of).collect()
}

/// The world of one that is down, after these attempts.
fn down_after(attempts: Vec<Attempt>) -> World {
    let mut world = World::new(Settings::default()).with("w", Some(-80), stopped(0)).watched();
    world.attempts.insert("w".into(), attempts);
    world.tick();
    world.wait_ms(1_000);
    world
}

#[test]
fn five_recoveries_that_each_held_for_less_than_the_reset_are_a_crash_loop() {
    for (n, held, verdict) in
        [(5, 240, Verdict::Exhausted), (5, 590, Verdict::Exhausted), (4, 240, Verdict::Dead), (5, 700, Verdict::Dead)]
    {
        let mut world = down_after(recoveries_that_held(n, held));
        let plan = world.tick();
        let is_loop = verdict == Verdict::Exhausted;
        assert_eq!(world.verdict("w"), Some(verdict), "{n} that held for {held} s");
        assert_eq!(world.judge.exhausted(), usize::from(is_loop), "{n} that held for {held} s");
        if is_loop {
            assert_eq!(restarted(&plan), [""; 0]);
            assert_eq!(world.judge.told(&"w".into()).and_then(|told| told.held), Some(Held::Exhausted));
        }
    }
}

#[test]
fn a_crash_loop_is_tried_each_half_hour_and_forgotten_once_a_recovery_holds() {
    let mut world = down_after(recoveries_that_held(5, 240));
    assert_eq!(world.run(1_500), [], "the next try is half an hour after the last");
    let mut up = World::new(Settings::default()).with("w", Some(-5), running()).watched();
    let mut attempts = recoveries_that_held(5, 240);
    attempts[0].recovered_ago = Some(seconds(599));
    up.attempts.insert("w".into(), attempts.clone());
    up.beat("w");
    up.tick();
    assert_eq!((up.verdict("w"), up.judge.exhausted()), (Some(Verdict::Alive), 1), "it may die again any moment");
    attempts[0].recovered_ago = Some(seconds(600));
    up.attempts.insert("w".into(), attempts);
    up.tick();
    assert_eq!(up.judge.exhausted(), 0);
}
