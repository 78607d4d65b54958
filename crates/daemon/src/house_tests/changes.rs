//! Between two reads of all rows: what is read, who is judged, and what must not be missed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use defib_policy::reading::Resync;

use super::fakes::{Foundations, House, POLL};
use crate::sync::lock;

const BEATING: [&str; 3] = ["a-1", "a-2", "a-3"];

/// One engine with three workspaces that beat with every poll, and whose beats have been seen for long.
async fn beating(flags: &[&str]) -> House {
    let foundations = Foundations::lay(&["a"], flags);
    for id in BEATING {
        foundations.database.add(id, "a", Duration::ZERO);
    }
    let house = foundations.build().await;
    beat_for(&house, 14).await;
    house
}

/// Lets this many polls pass. Every workspace of the fleet beats before each of them.
async fn beat_for(house: &House, polls: u32) {
    for _ in 0..polls {
        for id in BEATING {
            house.database.beat(id);
        }
        house.after(POLL).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_is_well_is_read_by_what_has_changed_and_in_whole_now_and_then() {
    let house = beating(&[]).await;
    let before = [Resync::Interval, Resync::Outage, Resync::Start].map(|reason| house.resyncs(reason));
    assert_eq!(before[2], 1, "it was read in whole at the start");
    beat_for(&house, 24).await;
    let after = [Resync::Interval, Resync::Outage, Resync::Start].map(|reason| house.resyncs(reason));
    assert_eq!([after[0] - before[0], after[1] - before[1], after[2] - before[2]], [2, 0, 0], "in two minutes");
}

#[tokio::test(start_paused = true)]
async fn a_death_that_no_event_told_is_found_by_the_next_poll_in_between() {
    let house = beating(&[]).await;
    house.dies("a", "a-2");
    house.after(3 * POLL).await;
    assert_eq!(house.restarts.of("a-2").len(), 1, "two looks convict one that has just beaten");
    assert_eq!(house.restarts.of("a-1").len() + house.restarts.of("a-3").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_can_tell_that_all_others_run_is_asked_about_the_restless_alone() {
    let house = beating(&[]).await;
    let engine = house.engine("a");
    engine.tells_restless.store(true, Ordering::SeqCst);
    let lists = engine.lists.load(Ordering::SeqCst);
    beat_for(&house, 12).await;
    assert_eq!(engine.lists.load(Ordering::SeqCst) - lists, 1, "with the read of all rows, once a minute");
    assert_eq!(lock(&engine.restless).as_slice(), [0; 11], "all of them are calm");
    assert!((house.metric("defib_workspaces") - 3.0).abs() < f64::EPSILON, "the calm ones are counted");

    house.dies("a", "a-2");
    house.after(3 * POLL).await;
    assert_eq!(house.restarts.of("a-2").len(), 1, "it cannot tell then, so it is asked about everybody");
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_answer_about_the_restless_says_nothing_of_anybody() {
    let house = beating(&[]).await;
    let engine = house.engine("a");
    engine.tells_restless.store(true, Ordering::SeqCst);
    beat_for(&house, 2).await;
    engine.is_away.store(true, Ordering::SeqCst);
    let lists = engine.lists.load(Ordering::SeqCst);
    beat_for(&house, 2).await;
    assert_eq!(BEATING.map(|id| house.database.verdict(id)), ["unknown"; 3].map(|it| Some(it.to_owned())));
    assert_eq!(engine.lists.load(Ordering::SeqCst), lists, "it is not asked twice in one pass");
}

/// Somebody parks the workspace and stops its container. Its row gets no new stamp, so the daemon is not told.
#[tokio::test(start_paused = true)]
async fn one_that_is_parked_in_between_is_not_restarted_when_its_container_stops() {
    let house = beating(&[]).await;
    lock(&house.database.rows).remove("a-2");
    house.dies("a", "a-2");
    house.after(20 * POLL).await;
    assert_eq!(house.restarts.of("a-2").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_at_the_poll_at_which_it_begins_to_count() {
    let house = beating(&[]).await;
    // Each has beaten with every poll, so its window is as short as it gets: fifteen seconds.
    house.after(POLL).await;
    beat_two(&house, 1).await;
    assert_eq!(house.database.verdict("a-3"), None);
    beat_two(&house, 3).await;
    assert_eq!(house.database.verdict("a-3").as_deref(), Some("silent"));
    assert_eq!(house.database.verdict("a-1"), None);
}

async fn beat_two(house: &House, polls: u32) {
    for _ in 0..polls {
        house.database.beat("a-1");
        house.database.beat("a-2");
        house.after(POLL).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_read_that_failed_all_rows_are_read_and_their_heartbeats_count_anew() {
    let house = beating(&[]).await;
    let before = house.resyncs(Resync::Outage);
    house.database.away.store(true, Ordering::SeqCst);
    house.after(4 * POLL).await;
    house.database.away.store(false, Ordering::SeqCst);
    house.after(2 * POLL).await;
    assert_eq!(house.resyncs(Resync::Outage) - before, 1);
    assert_eq!(house.database.verdict("a-1"), None, "the silence since then is not evidence yet");
}

#[tokio::test(start_paused = true)]
async fn the_gauge_of_the_verdicts_counts_those_who_are_left_out() {
    let house = beating(&[]).await;
    beat_for(&house, 3).await;
    assert!((house.metric("defib_workspaces") - 3.0).abs() < f64::EPSILON);
    house.dies("a", "a-2");
    house.after(2 * POLL).await;
    assert!((house.metric("defib_workspaces") - 3.0).abs() < f64::EPSILON, "one of them is in another row now");
}

/// Its last heartbeat is from before it was parked, so no read of what has changed brings it.
#[tokio::test(start_paused = true)]
async fn one_that_is_parked_and_comes_back_without_a_new_stamp_is_found_by_the_number_of_rows() {
    let house = beating(&[]).await;
    let row = lock(&house.database.rows).remove("a-3").expect("it is there");
    house.dies("a", "a-3");
    beat_for(&house, 30).await;
    assert_eq!(house.restarts.of("a-3").len(), 0, "it is parked");
    let before = [house.resyncs(Resync::Interval), house.resyncs(Resync::Count)];
    while house.resyncs(Resync::Interval) == before[0] {
        beat_for(&house, 1).await;
    }
    beat_for(&house, 3).await; // it comes back in the middle between two reads of all rows
    lock(&house.database.rows).insert(row.id.clone(), row);
    beat_two(&house, 3).await;
    assert_eq!(house.resyncs(Resync::Interval), before[0] + 1, "no other read of all rows was due");
    assert_eq!(house.resyncs(Resync::Count), before[1] + 1, "one is enough");
    assert_eq!(house.restarts.of("a-3").len(), 1, "it is dead, and watched again");
}

#[tokio::test(start_paused = true)]
async fn a_row_with_a_new_stamp_and_one_that_has_left_explain_the_number_of_rows() {
    let house = beating(&[]).await;
    let before = house.resyncs(Resync::Count);
    house.database.add("a-4", "a", Duration::ZERO);
    beat_for(&house, 2).await;
    lock(&house.database.rows).remove("a-4"); // it has not settled in, so it is called, and does not come
    beat_for(&house, 3).await;
    assert_eq!(house.resyncs(Resync::Count), before);
}

/// This was a bug: the attempt that had marked it was acknowledged, or was too old to be read, so nobody noticed the recovery.
#[tokio::test(start_paused = true)]
async fn the_mark_of_one_that_lives_is_taken_back_although_no_attempt_of_it_counts() {
    let house = beating(&[]).await;
    house.dies("a", "a-3");
    beat_for(&house, 2).await;
    lock(&house.database.standing).extend(["a-1", "a-3"].map(Into::into));
    beat_for(&house, 8).await;
    assert_eq!((house.database.calls_for("a-1"), house.database.calls_for("a-3")), (1, 0));
}
