//! When the next attempt may be made: exponential back-off with full jitter, exhaustion, and the delay after refusals.
//!
//! Everything is derived from the ledger's rows, so that it survives restarts and fail-overs of defib itself. The jitter is
//! a hash of the last attempt's id for the same reason: every replica and every tick computes the same delay.
//!
//! Only an attempt in which the engine was asked counts ([`Attempt::counts`]). The platform's veto, a fresh look that did not bear
//! the evidence out, or a daemon that stopped before it asked the engine touched nothing: such a row uses up no number and brings
//! no workspace nearer to being exhausted. It has a delay of its own, which doubles with each further refusal of the same life, so
//! that a platform that refuses for ever costs a row each `DEFIB_BACKOFF_MAX` and not one each ten seconds.
//!
//! Full jitter ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015) draws from zero to the ceiling. Here the
//! draw for attempt n + 1 is from the ceiling of attempt n to its own: still spread over the whole of each new span, but
//! delays never shrink while a crash loop goes on.

use std::time::Duration;

use serde::Serialize;

use crate::attempt::Attempt;
use crate::sample::Incarnation;
use crate::settings::Settings;

/// What the ledger allows for a workspace now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Allowance {
    /// The number that the next attempt would have.
    pub attempt: u32,
    /// How long it must wait; zero when it may be made at once.
    #[serde(skip)]
    pub wait: Duration,
    /// Too many attempts went without a verified recovery.
    pub exhausted: bool,
    /// An attempt is open, so a restart is under way.
    pub open: bool,
}

/// Reads a workspace's attempts (newest first) and says what is allowed for `incarnation`, which has been down for
/// `down_for`.
#[must_use]
pub fn allowance(
    attempts: &[Attempt],
    incarnation: Option<&Incarnation>,
    down_for: Duration,
    settings: &Settings,
) -> Allowance {
    let last = last_of_run(attempts, down_for, settings.backoff_reset);
    let tries = last.map_or(0, |last| last.attempt);
    let exhausted = tries >= settings.exhausted_after;
    let after_tries = last.map_or(Duration::ZERO, |last| {
        let delay = if exhausted { settings.exhausted_retry } else { delay(tries, last.id, settings) };
        delay.saturating_sub(last.finished_ago.unwrap_or(Duration::ZERO))
    });
    let after_refusal = after_refusals(attempts, incarnation, settings);
    Allowance {
        attempt: tries.max(given_to(attempts, incarnation)) + 1,
        wait: after_tries.max(after_refusal),
        exhausted,
        open: attempts.iter().any(|attempt| attempt.outcome.is_none()),
    }
}

/// Whether the attempts (newest first) were too many without a verified recovery, and nobody has acknowledged that.
#[must_use]
pub fn is_exhausted(attempts: &[Attempt], settings: &Settings) -> bool {
    let newest = attempts.iter().find(|attempt| attempt.counts());
    newest.is_some_and(|it| {
        let helped = recovered_ago(attempts).is_some() && !is_crash_loop(attempts, settings);
        !it.acknowledged && !helped && it.attempt >= settings.exhausted_after
    })
}

/// How long ago the workspace recovered from the newest attempt that counts. Somebody else may have started it first, so that a later attempt
/// was superseded: then the recovery is told of that one, and it ends the same run.
fn recovered_ago(attempts: &[Attempt]) -> Option<Duration> {
    let newest = attempts.iter().position(Attempt::counts)?;
    attempts.iter().take(newest + 1).find_map(|attempt| attempt.recovered_ago)
}

/// Whether a workspace recovers after each restart and dies again soon: the last `DEFIB_EXHAUSTED_AFTER` attempts are of one run, all of
/// them recovered, and the last of these recoveries has not yet held for `DEFIB_BACKOFF_RESET`. The attempts are of one run because none of
/// the earlier recoveries held for that long either.
fn is_crash_loop(attempts: &[Attempt], settings: &Settings) -> bool {
    let enough = settings.exhausted_after as usize;
    let last: Vec<&Attempt> = attempts.iter().filter(|attempt| attempt.counts()).take(enough).collect();
    last.len() == enough
        && last.iter().all(|attempt| attempt.recovered_ago.is_some())
        && last[0].recovered_ago.is_some_and(|ago| ago < settings.backoff_reset)
}

/// The highest number that an attempt of this very life has. The newest attempt need not have it: an attempt that was judged before an
/// acknowledgement may be claimed after an attempt that was judged after it. The ledger gives each number once for a life, so going by the
/// newest attempt would ask again and again for a number that is taken.
fn given_to(attempts: &[Attempt], incarnation: Option<&Incarnation>) -> u32 {
    let Some(Incarnation { container_id, started_at: Some(started_at) }) = incarnation else { return 0 };
    let same = attempts.iter().filter(|attempt| {
        attempt.container_id.as_ref() == Some(container_id)
            && attempt.started_at == Some(*started_at)
            && !attempt.was_refused()
    });
    same.map(|attempt| attempt.attempt).max().unwrap_or(0)
}

/// The newest attempt that counts; `None` when its run is over. A run is over when an operator acknowledged it, or when the workspace
/// recovered and was well for `reset` before it went down again. The number of the newest attempt is the length of the run, because every
/// number was given by this same rule. So a run is remembered as a whole, however long its pauses were.
fn last_of_run(attempts: &[Attempt], down_for: Duration, reset: Duration) -> Option<&Attempt> {
    let newest = attempts.iter().find(|attempt| attempt.counts())?;
    let well_for = recovered_ago(attempts).map(|recovered| recovered.saturating_sub(down_for));
    let over = newest.acknowledged || well_for.is_some_and(|well| well >= reset);
    (!over).then_some(newest)
}

/// How long the refusals of `incarnation` delay the next try. Evidence that was refused a moment ago would be refused again, so each
/// refusal in a row doubles the delay. An attempt that counts ends the series of refusals. So does a new life of the workspace, because the
/// evidence about it is new.
fn after_refusals(attempts: &[Attempt], incarnation: Option<&Incarnation>, settings: &Settings) -> Duration {
    let Some(newest) = attempts.first() else { return Duration::ZERO };
    let in_a_row = attempts.iter().take_while(|attempt| attempt.was_refused() && is_of(attempt, incarnation)).count();
    let delay = ceiling(u32::try_from(in_a_row).unwrap_or(u32::MAX), settings);
    if in_a_row == 0 { Duration::ZERO } else { delay.saturating_sub(newest.finished_ago.unwrap_or(Duration::ZERO)) }
}

/// Whether an attempt was made for this life, as far as both lives are known. A life of `None` is that of a missing container that was
/// never seen.
fn is_of(attempt: &Attempt, incarnation: Option<&Incarnation>) -> bool {
    match (incarnation, &attempt.container_id) {
        (Some(now), Some(then)) => {
            now.container_id == *then && (now.started_at == attempt.started_at || now.started_at.is_none())
        }
        (None, None) => true,
        _ => false,
    }
}

/// The longest delay after the `n`th try or refusal: it doubles from `DEFIB_BACKOFF_INITIAL` up to `DEFIB_BACKOFF_MAX`.
fn ceiling(n: u32, settings: &Settings) -> Duration {
    let factor = 2_u32.checked_pow(n.saturating_sub(1)).unwrap_or(u32::MAX);
    settings.backoff_initial.saturating_mul(factor).min(settings.backoff_max)
}

/// The delay after `tries` attempts, of which the last has the ledger's id `seed`.
#[must_use]
pub fn delay(tries: u32, seed: i64, settings: &Settings) -> Duration {
    match tries {
        0 => Duration::ZERO,
        1 => ceiling(1, settings).mul_f64(unit(seed)),
        n => {
            let (floor, ceiling) = (ceiling(n - 1, settings), ceiling(n, settings));
            // At the cap the span would be empty and every workspace of a mass death would retry in step.
            let floor = if floor == ceiling { ceiling / 2 } else { floor };
            floor + ceiling.saturating_sub(floor).mul_f64(unit(seed))
        }
    }
}

/// A number in [0, 1) that looks random and is a function of `seed` (the finaliser of splitmix64, Steele et al. 2014).
fn unit(seed: i64) -> f64 {
    let mut z = seed.cast_unsigned().wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::Outcome;
    use crate::moment::Timestamp;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// The attempt with this number, claimed so many seconds ago.
    fn attempt(id: i64, claimed: u64, outcome: Option<Outcome>, recovered: Option<u64>) -> Attempt {
        Attempt {
            id,
            workspace: "w".into(),
            container_id: Some("c".into()),
            started_at: Some(Timestamp(id)),
            attempt: u32::try_from(id).unwrap(),
            claimed_ago: seconds(claimed),
            finished_ago: outcome.map(|_| seconds(claimed.saturating_sub(1))),
            finished_at: None,
            outcome,
            recovered_ago: recovered.map(seconds),
            asked: true,
            acknowledged: false,
        }
    }

    /// What the ledger allows for a workspace that went down just now.
    fn allowed(attempts: &[Attempt], incarnation: Option<&Incarnation>) -> Allowance {
        allowance(attempts, incarnation, Duration::ZERO, &Settings::default())
    }

    /// Somebody else started it before the sixth attempt could, and it has been well since.
    #[test]
    fn a_recovery_that_is_told_of_a_superseded_attempt_ends_the_run_as_well() {
        let settings = Settings::default();
        let mut attempts: Vec<Attempt> =
            (1..=5).rev().map(|id| attempt(id, 4_000, Some(Outcome::Failed), None)).collect();
        assert!(is_exhausted(&attempts, &settings));
        attempts.insert(0, attempt(6, 2_000, Some(Outcome::Superseded), None));
        assert!(is_exhausted(&attempts, &settings), "it has not recovered yet");
        attempts[0].recovered_ago = Some(seconds(1_900));
        assert!(!is_exhausted(&attempts, &settings));
        assert_eq!(allowed(&attempts, None).attempt, 1, "it was well for longer than a run lasts");
        attempts[0].recovered_ago = Some(seconds(10));
        assert_eq!(allowed(&attempts, None).attempt, 6, "it was well for a moment");
    }

    #[test]
    fn the_first_restart_is_at_once() {
        assert_eq!(allowed(&[], None), Allowance { attempt: 1, ..Allowance::default() });
    }

    #[test]
    fn delays_grow_within_their_spans_up_to_the_cap() {
        let settings = Settings::default();
        let spans = [(1, 0, 10), (2, 10, 20), (3, 20, 40), (4, 40, 80), (5, 80, 160), (6, 160, 300), (7, 150, 300)];
        for (tries, floor, ceiling) in spans {
            let drawn: Vec<Duration> = (0..500).map(|seed| delay(tries, seed, &settings)).collect();
            let (least, most) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
            assert!(*least >= seconds(floor) && *most < seconds(ceiling), "{tries}: {least:?} to {most:?}");
            let span = seconds(ceiling - floor);
            assert!(
                *least < seconds(floor) + span / 20 && *most + span / 20 > seconds(ceiling),
                "spread over the span"
            );
        }
        assert_eq!(delay(0, 7, &settings), Duration::ZERO);
        assert!(delay(60, 7, &settings) <= settings.backoff_max, "no overflow");
        assert_eq!(delay(3, 7, &settings), delay(3, 7, &settings), "every replica computes the same");
    }

    #[test]
    fn the_wait_counts_from_the_end_of_the_last_attempt() {
        let one = [attempt(1, 3, Some(Outcome::Failed), None)];
        let expected = delay(1, 1, &Settings::default()).saturating_sub(seconds(2));
        assert_eq!(allowed(&one, None).wait, expected);
        let long_ago = allowed(&[attempt(1, 500, Some(Outcome::Failed), None)], None);
        assert_eq!((long_ago.wait, long_ago.attempt), (Duration::ZERO, 2));
    }

    #[test]
    fn a_recovery_that_held_forgets_and_one_that_did_not_hold_counts() {
        let settings = Settings::default();
        let recovered = |ago| [attempt(1, ago + 20, Some(Outcome::Succeeded), Some(ago))];
        for (ago, down_for, next) in
            [(700, 0, 1), (600, 0, 1), (599, 0, 2), (700, 100, 1), (700, 101, 2), (9_000, 8_800, 2)]
        {
            let allowed = allowance(&recovered(ago), None, seconds(down_for), &settings);
            assert_eq!(allowed.attempt, next, "recovered {ago} s ago, down for {down_for} s");
        }
    }

    #[test]
    fn a_run_is_as_long_as_its_last_number_says_however_long_its_pauses_were() {
        // Healthy for four minutes after each, dead for half an hour in between.
        let loops: Vec<Attempt> = (0..5_u64)
            .map(|n| attempt(5 - n.cast_signed(), n * 2_000 + 300, Some(Outcome::Succeeded), Some(n * 2_000 + 290)))
            .collect();
        let allowed = allowance(&loops, None, seconds(50), &Settings::default());
        assert!(allowed.exhausted && allowed.attempt == 6, "{allowed:?}");
        let after_a_new_run_began =
            [attempt(1, 10, Some(Outcome::Failed), None), attempt(7, 2_100, Some(Outcome::Failed), None)];
        assert_eq!(allowance(&after_a_new_run_began, None, Duration::ZERO, &Settings::default()).attempt, 2);
    }

    /// A random schedule found this. Attempt 1 failed, and an order for attempt 2 was judged. Then an operator acknowledged, so that
    /// attempt 1 no longer counted, and an order for a second attempt 1 was judged. Attempt 2 was claimed and failed, and the second
    /// attempt 1 was claimed and failed. Number 2 was taken by then, but the rule asked for number 2 again for ever.
    #[test]
    fn a_number_that_was_given_to_this_life_is_not_asked_for_again() {
        let of_life = |id, number| Attempt {
            started_at: Some(Timestamp(9)),
            attempt: number,
            ..attempt(id, 100, Some(Outcome::Failed), None)
        };
        let life = |started| Incarnation { container_id: "c".into(), started_at: Some(Timestamp(started)) };
        let attempts = [of_life(3, 1), of_life(2, 2)];
        assert_eq!(allowed(&attempts, Some(&life(9))).attempt, 3);
        assert_eq!(allowed(&attempts, Some(&life(10))).attempt, 2, "another life");
        assert_eq!(allowed(&attempts, None).attempt, 2, "missing");
        let refused = Attempt { outcome: Some(Outcome::Vetoed), ..of_life(2, 2) };
        assert_eq!(allowed(&[of_life(3, 1), refused], Some(&life(9))).attempt, 2, "a refusal gives its number back");
    }

    #[test]
    fn exhausted_means_one_try_each_retry_interval() {
        let failed = |n: i64, newest: u64| -> Vec<Attempt> {
            (0..n).map(|k| attempt(n - k, newest + k.unsigned_abs() * 60, Some(Outcome::Failed), None)).collect()
        };
        assert!(!allowed(&failed(4, 10), None).exhausted);
        let five = allowed(&failed(5, 10), None);
        assert!(five.exhausted);
        assert_eq!((five.attempt, five.wait), (6, seconds(1_800 - 9)));
        assert_eq!(allowed(&failed(5, 1_801), None).wait, Duration::ZERO);
        let mut acknowledged = failed(5, 10);
        for attempt in &mut acknowledged {
            attempt.acknowledged = true;
        }
        let after = allowed(&acknowledged, None);
        assert_eq!((after.exhausted, after.wait, after.attempt), (false, Duration::ZERO, 1));
    }

    /// Abandoned while defib was stopping, or because the database had gone before the engine was asked.
    fn handed_back(id: i64, claimed: u64) -> Attempt {
        Attempt { asked: false, ..attempt(id, claimed, Some(Outcome::Abandoned), None) }
    }

    #[test]
    fn an_attempt_that_never_asked_the_engine_exhausts_nobody_and_gives_its_number_back() {
        let life = |started| Incarnation { container_id: "c".into(), started_at: Some(Timestamp(started)) };
        let many: Vec<Attempt> = (1..=8).rev().map(|id| handed_back(id, 400)).collect();
        let after = allowed(&many, Some(&life(8)));
        assert_eq!((after.attempt, after.exhausted, after.wait), (1, false, Duration::ZERO));
        assert!(!is_exhausted(&many, &Settings::default()));
        let mut with_one_that_counts = many;
        with_one_that_counts.push(attempt(0, 500, Some(Outcome::Failed), None));
        with_one_that_counts.last_mut().unwrap().attempt = 4;
        assert_eq!(allowed(&with_one_that_counts, Some(&life(9))).attempt, 5, "the fifth is the next");
    }

    #[test]
    fn refusals_in_a_row_double_their_delay_up_to_the_cap_and_an_attempt_or_another_life_ends_the_row() {
        let of_life = |id, outcome| Attempt { started_at: Some(Timestamp(9)), ..attempt(id, 1, Some(outcome), None) };
        let life = |started| Incarnation { container_id: "c".into(), started_at: Some(Timestamp(started)) };
        let mut refusals: Vec<Attempt> = Vec::new();
        for (n, delay) in (1..).zip([10, 20, 40, 80, 160, 300, 300]) {
            let outcome = if n % 2 == 0 { Outcome::Vetoed } else { Outcome::Superseded };
            refusals.insert(0, of_life(n, outcome));
            assert_eq!(allowed(&refusals, Some(&life(9))).wait, seconds(delay), "after {n}");
            assert_eq!(allowed(&refusals, Some(&life(10))).wait, Duration::ZERO, "another life");
        }
        refusals.insert(2, of_life(70, Outcome::Succeeded));
        refusals[2].claimed_ago = seconds(4_000);
        refusals[2].finished_ago = Some(seconds(4_000));
        assert_eq!(allowed(&refusals, Some(&life(9))).wait, seconds(20), "two since an attempt that counts");
    }

    #[test]
    fn attempts_that_touched_nothing_do_not_count_but_are_not_repeated_at_once() {
        let life = |started| Incarnation { container_id: "c".into(), started_at: Some(Timestamp(started)) };
        for outcome in [Outcome::Superseded, Outcome::Vetoed] {
            let refused = [attempt(4, 4, Some(outcome), None)];
            let same = allowed(&refused, Some(&life(4)));
            assert_eq!((same.attempt, same.exhausted, same.wait), (1, false, seconds(7)), "{outcome:?}");
            assert_eq!(allowed(&refused, Some(&life(5))).wait, Duration::ZERO, "another incarnation");
            assert_eq!(allowed(&refused, None).wait, Duration::ZERO, "missing now, seen then");
        }
        let handed_back = [handed_back(4, 4)];
        assert_eq!(allowed(&handed_back, Some(&life(4))).wait, seconds(7), "nothing was touched");
        let abandoned = [attempt(1, 400, Some(Outcome::Abandoned), None)];
        assert_eq!(allowed(&abandoned, Some(&life(4))).attempt, 2, "it may have been touched");
    }

    #[test]
    fn a_refusal_of_one_that_was_missing_is_not_repeated_at_once_either() {
        let mut refused = attempt(4, 4, Some(Outcome::Vetoed), None);
        refused.container_id = None;
        assert_eq!(allowed(&[refused.clone()], None).wait, seconds(7));
        let seen = Incarnation { container_id: "c".into(), started_at: None };
        assert_eq!(allowed(&[refused], Some(&seen)).wait, Duration::ZERO, "it is there now");
    }

    #[test]
    fn the_jitter_is_splitmix64() {
        // The reference implementation's first outputs for these seeds, as fractions of 2^64.
        for (seed, output) in [(0_i64, 0xe220_a839_7b1d_cdaf_u64), (1_234_567, 0x599e_d017_fb08_fc85)] {
            let expected = (output >> 11) as f64 / 2_f64.powi(53);
            assert!((unit(seed) - expected).abs() < f64::EPSILON, "{seed}: {} {expected}", unit(seed));
        }
    }

    #[test]
    fn an_open_attempt_is_seen() {
        assert!(allowed(&[attempt(4, 4, None, None)], None).open);
        assert!(!allowed(&[attempt(4, 4, Some(Outcome::Failed), None)], None).open);
    }
}
