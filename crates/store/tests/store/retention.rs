//! Retention: the old goes in batches, the young and the unfinished stay.

use std::time::Duration;

use defib_store::{LAST_WORDS_MAX, LastWords, RetentionReport, RetentionSettings};

use crate::fixture::Fixture;

#[tokio::test]
async fn old_rows_go_in_batches_and_the_rest_stays() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.suspicions (workspace_id, reporter, reason, reported_at, taken_at)
             select 'w', 'p' || n, 'r', now() - interval '2 days', case when n % 2 = 0 then now() end from generate_series(1, 250) n;
             insert into defib.suspicions (workspace_id, reporter, reason) select 'w', 'q' || n, 'r' from generate_series(1, 7) n;
             insert into defib.events (workspace_id, at, verdict_to) select 'w', now() - interval '8 days', 'dead' from generate_series(1, 100);
             insert into defib.events (workspace_id, verdict_to) select 'w', 'dead' from generate_series(1, 3);
             insert into defib.restarts (workspace_id, engine, attempt, verdict, claimed_at, finished_at, outcome)
             select 'w', 'e', n, 'dead', now() - interval '40 days', now() - interval '40 days', 'failed' from generate_series(1, 130) n;
             insert into defib.restarts (workspace_id, engine, attempt, verdict, finished_at, outcome) values ('w', 'e', 900, 'dead', now(), 'failed');
             insert into defib.restarts (workspace_id, engine, attempt, verdict, claimed_at) values ('w', 'e', 901, 'dead', now() - interval '99 days');
             insert into defib.holds (scope, owner, reason, expires_at, released_at) values
                ('fleet', 'a', 'expired', now() - interval '31 days', null), ('fleet', 'a', 'released', null, now() - interval '31 days'),
                ('fleet', 'a', 'standing', null, null), ('fleet', 'a', 'over', now() - interval '1 day', null)",
        )
        .await;
    let days = |n: u64| Duration::from_secs(n * 86_400);
    let settings = RetentionSettings { suspicions: days(1), events: days(7), attempts: days(30), batch: 60 };
    let report = fixture.store.retain(settings).await.unwrap();
    let expected =
        RetentionReport { suspicions: 250, events: 100, attempts: 130, holds: 2, ..RetentionReport::default() };
    assert_eq!(report, expected);
    let left = "select concat_ws(' ', (select count(*) from defib.suspicions), (select count(*) from defib.events),
                                      (select count(*) from defib.restarts), (select count(*) from defib.holds))";
    assert_eq!(fixture.text(left).await, "7 3 2 2");
    assert_eq!(fixture.store.retain(settings).await.unwrap(), RetentionReport::default());
    let careless = RetentionSettings { batch: 0, suspicions: Duration::MAX, ..settings };
    assert_eq!(fixture.store.retain(careless).await.unwrap(), RetentionReport::default());
}

/// The back-off reads the attempts of a run that goes on whatever their age. Without them an exhausted workspace would begin again with its
/// first attempt.
#[tokio::test]
async fn what_the_back_off_still_needs_is_kept_and_what_nobody_needs_any_more_is_not() {
    let fixture = Fixture::new().await;
    fixture.workspace("w").await;
    fixture
        .run(
            "insert into defib.restarts (workspace_id, engine, attempt, verdict, claimed_at, finished_at, outcome, acting_at)
             select 'w', 'default', n, 'dead', now() - interval '40 days', now() - interval '40 days', 'failed', now() - interval '40 days'
               from generate_series(1, 25) n;
             insert into defib.restarts (workspace_id, engine, attempt, verdict, claimed_at, finished_at, outcome, acting_at, run_ended_at)
             select 'w', 'default', 100 + n, 'dead', now() - interval '60 days', now() - interval '60 days', 'succeeded',
                    now() - interval '60 days', now() - n * interval '20 days' from generate_series(1, 3) n;
             insert into defib.orders (kind, workspace_id, reason, login, ordered_by, ended_at, done, answer) values
                ('restart', 'w', 'r', 'l', 'o', now() - interval '31 days', true, 'done'),
                ('restart', 'w', 'r', 'l', 'o', now(), true, 'done'), ('restart', 'v', 'r', 'l', 'o', null, null, null);
             insert into defib.marks (workspace_id, engine, marked_at) values
                ('w', 'default', now() - interval '40 days'), ('gone', 'default', now() - interval '40 days'), ('new', 'default', now());
             insert into defib.outbox (type, subject, data, happened_at) values
                ('t', 's', '{}', now() - interval '2 days'), ('t', 's', '{}', now())",
        )
        .await;
    let days = |n: u64| Duration::from_secs(n * 86_400);
    let settings = RetentionSettings { suspicions: days(1), events: days(7), attempts: days(30), batch: 3 };
    let report = fixture.store.retain(settings).await.unwrap();
    let expected = RetentionReport { attempts: 7, orders: 1, marks: 1, messages: 1, ..RetentionReport::default() };
    assert_eq!(report, expected, "five that are too many to be read, and two whose run has ended long ago");
    assert_eq!(fixture.text("select min(attempt) || ' ' || max(attempt) from defib.restarts").await, "6 101");
    fixture.run("delete from defib.workspaces").await;
    assert_eq!(
        fixture.store.retain(settings).await.unwrap().attempts,
        20,
        "a workspace that is gone backs off no more"
    );
}

#[tokio::test]
async fn last_words_are_kept_once_and_go_with_their_attempt() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "insert into defib.restarts (id, workspace_id, engine, attempt, verdict, claimed_at, finished_at, outcome)
             overriding system value values (7, 'w', 'e', 1, 'dead', now() - interval '40 days', now() - interval '40 days', 'failed')",
        )
        .await;
    let health = Some("health check, exit code 1: no answer".to_owned());
    let words = LastWords { exit_code: Some(137), health, log: Some("a\0b".to_owned()), ..LastWords::default() };
    fixture.store.keep_last_words(7, &words).await.unwrap();
    let in_short = fixture.text("select last_words from defib.restarts").await;
    assert_eq!(in_short, "exit code 137\nhealth check, exit code 1: no answer\na\u{fffd}b");
    let full = LastWords { log: Some(format!("{}end", "ü".repeat(LAST_WORDS_MAX))), ..words.clone() }.in_short();
    assert!(
        full.len() <= LAST_WORDS_MAX && full.starts_with("exit code 137") && full.ends_with("üend"),
        "{}",
        full.len()
    );
    fixture.store.keep_last_words(7, &LastWords::default()).await.unwrap();
    let kept = "select string_agg(exit_code || log, ' ') from defib.last_words";
    assert_eq!(fixture.text(kept).await, "137a\u{fffd}b");
    let too_much = LastWords { log: Some("x".repeat(LAST_WORDS_MAX + 1)), ..LastWords::default() };
    fixture.store.keep_last_words(7, &too_much).await.unwrap_err();
    fixture.store.keep_last_words(8, &words).await.unwrap_err();
    let days = |n: u64| Duration::from_secs(n * 86_400);
    let settings = RetentionSettings { suspicions: days(1), events: days(7), attempts: days(30), batch: 60 };
    assert_eq!(fixture.store.retain(settings).await.unwrap().attempts, 1);
    assert_eq!(fixture.text("select count(*) from defib.last_words").await, "0");
}
