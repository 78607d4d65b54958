//! The daemon on fakes in paused time: trouble of one engine, table, function or workspace must not affect others.

#![allow(clippy::float_cmp, reason = "Prometheus writes counts as floats; they are whole")]

mod changes;
mod fakes;

use std::sync::atomic::Ordering;
use std::time::Duration;

use defib_engine::EngineEvent;
use defib_policy::verdict::Verdict;
use defib_store::{EventSubject, StoredVerdict};

use self::fakes::{Foundations, House, POLL};
use crate::sync::lock;

const SILENT: Duration = Duration::from_secs(120);

/// Two engines with one workspace each, which runs and is silent.
async fn house(flags: &[&str]) -> House {
    let foundations = Foundations::lay(&["a", "b"], flags);
    foundations.database.add("on-a", "a", SILENT);
    foundations.database.add("on-b", "b", SILENT);
    let house = foundations.build().await;
    // Heartbeats are no witness in the first window. The extra second is there so that no poll is due at this moment.
    house.after(12 * POLL + Duration::from_secs(1)).await;
    house
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_delays_no_restart_on_another() {
    let house = house(&[]).await;
    *lock(&house.engine("a").takes) = Duration::from_secs(3_600);
    house.after(2 * POLL).await;
    let lists = house.engine("b").lists.load(Ordering::SeqCst);
    house.dies("b", "on-b");
    house.after(POLL + Duration::from_millis(100)).await;
    assert_eq!(house.restarts.of("on-b"), [1]);
    house.after(10 * POLL).await;
    assert!(house.engine("b").lists.load(Ordering::SeqCst) >= lists + 10, "it is still looked at with every poll");
}

/// The writes were made inside the pass, before the restarts were handed over.
#[tokio::test(start_paused = true)]
async fn restarts_go_on_while_the_tables_are_locked_and_the_verdicts_are_right_one_poll_after() {
    let house = house(&[]).await;
    house.database.books_locked.store(true, Ordering::SeqCst);
    house.after(POLL).await;
    house.dies("b", "on-b");
    house.after(POLL + Duration::from_millis(100)).await;
    assert_eq!(house.restarts.of("on-b"), [1]);
    assert_eq!(house.database.verdict("on-b").as_deref(), Some("silent"), "it could not be written");
    house.after(20 * POLL).await;
    house.database.books_locked.store(false, Ordering::SeqCst);
    house.after(POLL + Duration::from_secs(1)).await;
    assert_eq!(house.database.verdict("on-b").as_deref(), Some("dead"));
    let history = house.database.events_of(&EventSubject::Workspace("on-b".into()));
    assert_eq!(history.last().map(String::as_str), Some("dead"), "and the history was kept: {history:?}");
    assert_eq!(house.metric("defib_database_up"), 1.0);
}

/// This was a bug: the read of the fleet waited for what had been said of a workspace that had moved, and failed with that, again and again.
#[tokio::test(start_paused = true)]
async fn while_what_was_said_cannot_be_read_a_workspace_that_moves_stops_no_pass() {
    let house = house(&[]).await;
    house.after(2 * POLL).await;
    house.database.verdicts_locked.store(true, Ordering::SeqCst);
    for row in lock(&house.database.rows).values_mut().filter(|row| row.id.as_str() == "on-a") {
        row.engine = "b".into();
    }
    house.after(POLL).await;
    house.dies("b", "on-b");
    house.after(POLL + Duration::from_secs(2)).await;
    assert_eq!(house.restarts.of("on-b"), [1]);
    assert!(house.news.health().ready().0, "{}", house.news.health().ready().1);
}

/// This was a bug: the leases were held, and nobody was restarted.
#[tokio::test(start_paused = true)]
async fn a_daemon_that_starts_while_what_was_said_cannot_be_read_restarts_all_the_same() {
    let foundations = Foundations::lay(&["a"], &[]);
    foundations.database.add("w", "a", Duration::from_secs(3_600));
    foundations.database.verdicts_locked.store(true, Ordering::SeqCst);
    let begun = tokio::time::Instant::now();
    let house = foundations.build().await;
    house.after(POLL).await;
    house.dies("a", "w");
    house.after(2 * POLL).await;
    assert_eq!(house.restarts.of("w"), [1]);
    assert!(begun.elapsed() < 4 * POLL, "it began late: {:?}", begun.elapsed());
}

/// Whoever does not renew its lease is gone or hangs. Its engines wait for the end of the lease and not for a third of one more.
#[tokio::test(start_paused = true)]
async fn a_turn_is_taken_when_the_lease_of_another_replica_ends() {
    let house = house(&[]).await;
    let turns_in_a_minute = async |others_end_in| {
        *lock(&house.database.others_end_in) = Some(others_end_in);
        house.after(Duration::from_secs(5)).await;
        let before = house.database.turns.load(Ordering::SeqCst);
        house.after(Duration::from_secs(60)).await;
        house.database.turns.load(Ordering::SeqCst) - before
    };
    assert_eq!(turns_in_a_minute(Duration::from_secs(12)).await, 12, "it was renewed: a turn with each third");
    let turns = turns_in_a_minute(Duration::from_secs(2)).await;
    assert!((28..=30).contains(&turns), "{turns} turns");
}

/// This was a bug: verdicts were written once, when they changed, so a write that was lost stayed lost until the next change.
#[tokio::test(start_paused = true)]
async fn what_the_table_says_wrongly_is_made_good_within_a_poll() {
    let house = house(&[]).await;
    for _ in 0..6 {
        house.database.beat("on-a");
        house.after(POLL).await;
    }
    assert_eq!(house.database.verdict("on-a"), None, "it is alive");
    let stale = StoredVerdict {
        workspace: "on-a".into(),
        verdict: Verdict::Dead.label().to_owned(),
        since_ago: Duration::ZERO,
        engine: "a".into(),
        rule: "stopped_stale".to_owned(),
        held: None,
    };
    lock(&house.database.verdicts).insert("on-a".into(), stale);
    lock(&house.database.verdicts).remove("on-b");
    house.database.beat("on-a");
    house.after(POLL + Duration::from_millis(100)).await;
    assert_eq!(house.database.verdict("on-a"), None, "a lost `alive` is made good");
    assert_eq!(house.database.verdict("on-b").as_deref(), Some("silent"), "and a lost verdict");

    lock(&house.database.rows).remove("on-b");
    house.after(2 * POLL).await;
    assert_eq!(house.database.verdict("on-b"), None, "whoever has left the fleet has no verdict");
}

/// This was a bug: an error of the function ended the pass before its restarts were handed over, and was taken for an outage of the
/// database.
#[tokio::test(start_paused = true)]
async fn a_function_that_raises_for_one_workspace_concerns_that_workspace_alone() {
    let house = house(&[]).await;
    for id in ["raises", "works"] {
        house.database.add(id, "a", Duration::ZERO);
        house.database.ended_attempt(id, 1);
    }
    lock(&house.database.raises).insert("raises".into());
    house.dies("a", "on-a");
    let minute = 12;
    for _ in 0..minute {
        house.after(POLL).await;
        house.database.beat("raises");
        house.database.beat("works");
    }
    assert_eq!(house.restarts.of("on-a"), [1], "restarts on the same engine go on");
    let recovered: Vec<String> = lock(&house.database.recovered).iter().map(ToString::to_string).collect();
    assert_eq!(recovered.len(), 2, "the ledger has both: {recovered:?}");
    assert_eq!(house.database.calls_for("works"), 1);
    let calls = house.database.calls_for("raises");
    assert!((2..=5).contains(&calls), "it is called again, with growing delays: {calls} times in a minute");
    assert_eq!(house.metric("defib_adapter_errors_total"), f64::from(u32::try_from(calls).expect("few")));
    assert_eq!(house.metric("defib_database_up"), 1.0, "it is no outage of the database");
    assert!(house.news.health().ready().0, "{}", house.news.health().ready().1);

    lock(&house.database.raises).clear();
    house.after(Duration::from_secs(120)).await;
    assert!(lock(&house.database.owed).is_empty(), "once it works, the mark is taken back");
}

/// The functions hang for workspaces of others, so this one's is not called for a while. That is no failure of this workspace.
#[tokio::test(start_paused = true)]
async fn a_function_that_is_not_called_because_others_hang_has_not_failed() {
    let house = house(&[]).await;
    house.database.add("waits", "a", Duration::ZERO);
    house.database.ended_attempt("waits", 1);
    house.database.busy.store(true, Ordering::SeqCst);
    for _ in 0..12 {
        house.after(POLL).await;
        house.database.beat("waits");
    }
    assert!(lock(&house.database.owed).contains("waits"), "it has recovered, and its mark is owed");
    house.database.busy.store(false, Ordering::SeqCst);
    house.after(Duration::from_millis(1_100)).await;
    assert_eq!(house.database.calls_for("waits"), 1, "it has waited for its turn, and not for a delay that grew");
    assert_eq!(house.metric("defib_adapter_errors_total"), 0.0);
}

/// The functions hang for three hundred workspaces of one tenant. The recovery of another one is in the ledger at once all the same.
#[tokio::test(start_paused = true)]
async fn a_recovery_is_written_down_while_the_functions_of_others_hang() {
    let house = house(&[]).await;
    for n in 0..300 {
        let id = format!("tenant{n}");
        house.database.add(&id, "a", Duration::ZERO);
        lock(&house.database.owed).insert(id.as_str().into());
    }
    house.database.hangs.store(true, Ordering::SeqCst);
    house.after(2 * POLL).await;
    house.database.add("other", "a", Duration::ZERO);
    house.database.ended_attempt("other", 1);
    house.after(POLL).await;
    house.database.beat("other");
    house.after(2 * POLL).await;
    assert!(lock(&house.database.recovered).contains(&"other".into()), "its recovery waits for nobody's function");
}

/// Before engines had events of their own, six short outages of an engine with forty workspaces made 480 events.
#[tokio::test(start_paused = true)]
async fn an_engine_that_goes_away_and_comes_back_is_two_events_and_none_of_its_workspaces() {
    let foundations = Foundations::lay(&["a"], &[]);
    for n in 0..40 {
        foundations.database.add(&format!("w{n}"), "a", Duration::ZERO);
    }
    let house = foundations.build().await;
    let beats = async |polls: u32| {
        for _ in 0..polls {
            (0..40).for_each(|n| house.database.beat(&format!("w{n}")));
            house.after(POLL).await;
        }
    };
    beats(12).await;
    let before = lock(&house.database.events).len();
    for _ in 0..6 {
        house.engine("a").is_away.store(true, Ordering::SeqCst);
        beats(3).await;
        assert_eq!(house.database.verdict("w7").as_deref(), Some("unknown"), "what is known of them is told");
        house.engine("a").is_away.store(false, Ordering::SeqCst);
        beats(3).await;
        assert_eq!(house.database.verdict("w7"), None);
    }
    assert_eq!(house.database.events_of(&EventSubject::Engine("a".into())).len(), 12);
    assert_eq!(lock(&house.database.events).len(), before + 12, "{:#?}", lock(&house.database.events));

    house.engine("a").is_away.store(true, Ordering::SeqCst);
    beats(3).await;
    house.dies("a", "w7");
    house.engine("a").is_away.store(false, Ordering::SeqCst);
    house.after(2 * POLL).await;
    let history = house.database.events_of(&EventSubject::Workspace("w7".into()));
    assert!(!history.is_empty() && !history.iter().any(|verdict| verdict == "unknown"), "{history:?}");
}

/// This was a bug: the ledger was read before the engine was asked, and a slow engine takes seconds to answer. For a workspace that was
/// restarted meanwhile, the first attempt was ordered again, without the back-off.
#[tokio::test(start_paused = true)]
async fn attempts_that_were_made_while_the_engine_was_asked_count() {
    let house = house(&[]).await;
    house.dies("a", "on-a");
    *lock(&house.engine("a").takes) = Duration::from_secs(4);
    house.after(POLL + Duration::from_millis(500)).await; // it is being asked
    assert!(house.restarts.of("on-a").is_empty());
    house.database.ended_attempt("on-a", 1);
    house.after(POLL + Duration::from_secs(2)).await;
    assert!(!house.restarts.of("on-a").contains(&1), "{:?}", house.restarts.of("on-a"));
}

#[tokio::test(start_paused = true)]
async fn one_engines_reconnect_looks_at_that_engine_only() {
    let house = house(&[]).await;
    let lists = |engine: &str| house.engine(engine).lists.load(Ordering::SeqCst);
    let before = (lists("a"), lists("b"));
    house.tells("a", EngineEvent::Connected { engine: "a".into() }).await;
    house.after(Duration::from_millis(50)).await;
    assert_eq!((lists("a"), lists("b")), (before.0 + 1, before.1));
}

#[tokio::test(start_paused = true)]
async fn without_a_read_of_the_fleet_nobody_is_judged() {
    let house = house(&[]).await;
    house.database.away.store(true, Ordering::SeqCst);
    house.after(POLL).await;
    let lists = house.engine("a").lists.load(Ordering::SeqCst);
    house.dies("a", "on-a");
    house.after(10 * POLL).await;
    assert!(house.restarts.of("on-a").is_empty());
    assert_eq!(house.engine("a").lists.load(Ordering::SeqCst), lists, "no pass is made");
    assert_eq!(house.metric("defib_database_up"), 0.0);
    assert!(!house.news.health().ready().0);
}

#[tokio::test(start_paused = true)]
async fn one_that_only_observes_calls_no_function_of_the_platform() {
    let house = house(&["--mode", "observe"]).await;
    house.database.add("back", "a", Duration::ZERO);
    house.database.ended_attempt("back", 1);
    for _ in 0..12 {
        house.after(POLL).await;
        house.database.beat("back");
    }
    assert_eq!(lock(&house.database.recovered).len(), 1, "its own ledger knows");
    assert!(lock(&house.database.calls).is_empty(), "{:?}", lock(&house.database.calls));
}
