//! The guard of one scope by itself.

use super::*;

const WINDOW: Duration = Duration::from_secs(30);

fn at(seconds: u64) -> Moment {
    Moment::after(Duration::from_secs(1_000 + seconds))
}

fn id(n: usize) -> WorkspaceId {
    WorkspaceId::from(format!("w{n}"))
}

fn engine() -> EngineName {
    "e".into()
}

fn die(guard: &mut StormGuard, n: usize, seconds: u64, watched: usize) -> bool {
    let scale = Scale { scope: None, watched, window: WINDOW, hour: 7 };
    guard.death(&id(n), at(seconds), scale, &Settings::default())
}

fn storm_of(deaths: usize, watched: usize) -> StormGuard {
    let mut guard = StormGuard::default();
    for n in 0..deaths {
        die(&mut guard, n, 0, watched);
    }
    guard
}

fn drawn(guard: &StormGuard, seconds: u64) -> Vec<WorkspaceId> {
    guard.draw(at(seconds), |_| usize::MAX).into_iter().map(|(_, id)| id).collect()
}

fn release_all(guard: &mut StormGuard, seconds: u64) -> Vec<WorkspaceId> {
    let drawn = drawn(guard, seconds);
    for id in &drawn {
        let canary =
            Canary { life: None, attempt_before: None, span: Duration::from_secs(60), released_at: at(seconds) };
        guard.release(id, canary);
        guard.ended(id, End::Made, at(seconds));
    }
    drawn
}

fn see(guard: &mut StormGuard, ids: &[WorkspaceId], what: What, seconds: u64) {
    for id in ids {
        guard.sees(id, Seen { what, life: None, at: at(seconds), in_flight: false, attempt: None }, at(seconds));
    }
}

fn turn(guard: &mut StormGuard, seconds: u64) -> bool {
    guard.turn(at(seconds), &Settings::default())
}

#[test]
fn a_storm_needs_more_than_the_minimum_and_more_than_the_fraction() {
    for (deaths, watched, storm) in
        [(3, 3, false), (4, 4, true), (3, 15, false), (20, 100, false), (21, 100, true), (3, 18, false), (4, 18, true)]
    {
        assert_eq!(storm_of(deaths, watched).is_storm(), storm, "{deaths} of {watched}");
    }
}

#[test]
fn deaths_a_whole_window_apart_are_still_of_one_and_later_ones_are_not() {
    for (last, storm) in [(30, true), (31, false)] {
        assert_eq!(die(&mut storm_of(3, 10), 3, last, 10), storm, "{last} s");
    }
}

#[test]
fn deaths_spread_over_more_than_a_window_are_no_storm_and_one_death_counts_once() {
    let mut guard = StormGuard::default();
    for n in 0..20 {
        assert!(!die(&mut guard, n, 11 * n as u64, 10));
    }
    assert!(guard.counted.len() <= 3 && guard.recent.len() == guard.counted.len(), "old ones are forgotten");
    let mut same = StormGuard::default();
    for second in 0..20 {
        assert!(!die(&mut same, 1, second, 10));
    }
}

#[test]
fn the_first_batch_is_as_large_as_may_die_without_a_storm_and_batches_double_as_most_are_back() {
    let mut guard = storm_of(60, 100);
    (0..60).for_each(|n| guard.waits(&id(n), &engine(), at(0), None));
    let mut sizes = Vec::new();
    for round in 0..4 {
        let released = release_all(&mut guard, round * 10);
        assert!(drawn(&guard, round * 10).is_empty(), "not before they are back");
        sizes.push(released.len());
        see(&mut guard, &released, What::Back, round * 10 + 5);
        turn(&mut guard, round * 10 + 5);
    }
    assert_eq!(sizes, [3, 6, 12, 24]);
}

#[test]
fn a_batch_that_fails_is_followed_by_a_cooldown_and_by_others() {
    let mut guard = storm_of(20, 20);
    (0..20).for_each(|n| guard.waits(&id(n), &engine(), at(0), None));
    let first = release_all(&mut guard, 0);
    see(&mut guard, &first[..2], What::Down, 5);
    turn(&mut guard, 5);
    for id in &first {
        guard.waits(id, &engine(), at(6), None);
    }
    assert!(drawn(&guard, 124).is_empty());
    let second = drawn(&guard, 125);
    assert_eq!(second.len(), 3, "one cooldown after the round failed");
    assert!(second.iter().all(|id| !first.contains(id)), "{second:?} after {first:?}");
}

#[test]
fn one_that_was_tried_since_the_storm_began_waits_for_the_others_whoever_tried_it() {
    let mut guard = storm_of(20, 20);
    // Nine of them in the moment in which it began, nine later, and one before.
    let tried = |n: usize| {
        [30, 10, 31].into_iter().zip([0..9, 9..18, 18..19]).find_map(|(ago, of)| of.contains(&n).then_some(ago))
    };
    for n in 0..20 {
        guard.waits(&id(n), &engine(), at(30), tried(n).map(Duration::from_secs));
    }
    let first = drawn(&guard, 30);
    assert!(first.contains(&id(18)) && first.contains(&id(19)), "{first:?}");
}

#[test]
fn a_storm_ends_when_a_cooldown_passes_with_nothing_new_and_nobody_waits_or_is_waited_for() {
    let ends = |guard: &mut StormGuard, seconds| turn(guard, seconds);
    assert!(!ends(&mut storm_of(4, 10), 120));
    let mut over = storm_of(4, 10);
    assert!(ends(&mut over, 121) && !over.is_storm());
    assert!(!die(&mut over, 9, 122, 10), "the old deaths are forgotten");

    let mut waiting = storm_of(4, 10);
    waiting.waits(&id(1), &engine(), at(0), None);
    assert!(!ends(&mut waiting, 121), "somebody waits for a turn");
    let released = release_all(&mut waiting, 121);
    assert!(!ends(&mut waiting, 122), "somebody is waited for");
    see(&mut waiting, &released, What::Back, 125);
    assert!(ends(&mut waiting, 125));

    let mut doubted = storm_of(4, 10);
    doubted.doubts(&id(1));
    assert!(!ends(&mut doubted, 121), "somebody would be restarted on one kind of witness");
    doubted.leaves(&id(1));
    assert!(ends(&mut doubted, 121));
}

#[test]
fn one_that_dies_again_and_again_does_not_keep_it_open_and_one_that_dies_for_the_first_time_does() {
    for (who, over) in [(2, true), (7, false)] {
        let mut guard = storm_of(4, 10);
        die(&mut guard, who, 100, 10);
        assert_eq!(turn(&mut guard, 121), over, "w{who}");
    }
}

#[test]
fn one_that_is_watched_no_more_is_neither_drawn_nor_waited_for() {
    let mut guard = storm_of(5, 10);
    (0..5).for_each(|n| guard.waits(&id(n), &engine(), at(0), None));
    release_all(&mut guard, 0);
    (0..5).for_each(|n| guard.forget(&id(n)));
    assert!(drawn(&guard, 1).is_empty() && turn(&mut guard, 121));
}

#[test]
fn two_scopes_and_two_hours_have_different_draws_and_two_replicas_the_same() {
    let draw = |scope: &str, hour| {
        let (mut guard, name) = (StormGuard::default(), EngineName::from(scope));
        let scale = Scale { scope: Some(&name), watched: 40, window: WINDOW, hour };
        (0..40).for_each(|n| _ = guard.death(&id(n), at(0), scale, &Settings::default()));
        (0..40).for_each(|n| guard.waits(&id(n), &name, at(0), None));
        drawn(&guard, 0)
    };
    assert_eq!(draw("a", 1), draw("a", 1));
    assert!(draw("a", 1) != draw("b", 1) && draw("a", 1) != draw("a", 2));
}
