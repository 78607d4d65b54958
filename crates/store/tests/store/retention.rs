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
    assert_eq!(report, RetentionReport { suspicions: 250, events: 100, attempts: 130, holds: 2 });
    let left = "select concat_ws(' ', (select count(*) from defib.suspicions), (select count(*) from defib.events),
                                      (select count(*) from defib.restarts), (select count(*) from defib.holds))";
    assert_eq!(fixture.text(left).await, "7 3 2 2");
    assert_eq!(fixture.store.retain(settings).await.unwrap(), RetentionReport::default());
    let careless = RetentionSettings { batch: 0, suspicions: Duration::MAX, ..settings };
    assert_eq!(fixture.store.retain(careless).await.unwrap(), RetentionReport::default());
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
    let words = LastWords { exit_code: Some(137), log: Some("a\0b".to_owned()), ..LastWords::default() };
    fixture.store.keep_last_words(7, &words).await.unwrap();
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
