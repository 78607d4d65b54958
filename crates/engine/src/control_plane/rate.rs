//! How often a control plane is asked.
//!
//! The API of a platform serves others too, and answers every request with 429 to a client that asks too often. So each request takes a
//! turn first: within the rate, and not before the moment that a `Retry-After` named. A request that cannot have a turn before its deadline
//! is not sent at all, and fails at once.
//!
//! A 429, and a 503 for a list, hold off all requests. A 503 for one instance holds off those about it alone, unless it is one of several
//! in a row; see [`Unavailable`].
//!
//! Turns are given in the order in which they are asked for, with one exception: of the requests of a look at the whole fleet, only one at
//! a time is in the queue. So the last look before a restart waits for one of them, and not for a thousand.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::unavailable::{Instance, Unavailable};

/// The longest pause that a `Retry-After` can cause. Larger: if a server makes a mistake (a date in another year), its instances are not
/// watched for that long. Smaller: a server that really wants a longer pause is asked in vain.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// The first pause after a 429 that does not say how long. It doubles with each one that follows.
const PAUSE_INITIAL: Duration = Duration::from_secs(1);

/// The longest pause of everything if the server has named none for everything: if it sends 429 without saying for how long, or 503 for
/// several instances. Larger: if these instances are alone in their trouble, all others are not watched for that long. Smaller: a server that
/// is unavailable for longer is asked in vain more often.
const PAUSE_UNTOLD_MAX: Duration = Duration::from_secs(60);

/// Requests in a time, as in `10/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    requests: u32,
    per: Duration,
}

impl Rate {
    /// The rate if the preset names none. At ten requests a second, fifty instances can be looked at in one poll interval.
    pub(crate) const DEFAULT: Self = Self { requests: 10, per: Duration::from_secs(1) };

    /// Reads `10/s`, `600/m` or `3600/h`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (requests, unit) = text.split_once('/')?;
        let requests = requests.trim().parse().ok().filter(|requests| *requests > 0)?;
        let per = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            _ => return None,
        };
        Some(Self { requests, per: Duration::from_secs(per) })
    }

    /// The time between two requests.
    fn interval(self) -> Duration {
        self.per / self.requests
    }

    /// How much earlier than it is due a turn may be given, so that a second's worth of requests can be made at once.
    fn burst(self) -> Duration {
        Duration::from_secs(1).saturating_sub(self.interval())
    }
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A look at the whole fleet, which is repeated in any case.
    Sweep,
    /// Somebody is waiting for the answer.
    Urgent,
}

/// Gives turns.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: Rate,
    state: Mutex<State>,
    /// The holder of this lock has the next turn. Those who wait for it are served in order.
    queue: tokio::sync::Mutex<()>,
    /// The holder of this lock is the one request of a look at the whole fleet that is in the queue.
    sweepers: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// When the next turn would be due if no burst were allowed. `None` before the first turn.
    next: Option<Instant>,
    paused_until: Option<Instant>,
    /// How many answers in a row said 429 without saying for how long.
    refusals: u32,
    unavailable: Unavailable,
}

impl State {
    /// The pause after a 429 that does not say how long.
    fn untold(&mut self) -> Duration {
        let pause = PAUSE_INITIAL * 2_u32.saturating_pow(self.refusals.min(6));
        self.refusals += 1;
        pause.min(PAUSE_UNTOLD_MAX)
    }
}

/// There was no turn before the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoTurn {
    /// What is left of the pause that the server asked for. `None` if the rate is used up.
    pub(crate) paused_for: Option<Duration>,
}

impl Pace {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            rate,
            state: Mutex::default(),
            queue: tokio::sync::Mutex::default(),
            sweepers: tokio::sync::Mutex::default(),
        }
    }

    /// Waits for a turn, until `by` at most.
    pub(crate) async fn turn(&self, urgency: Urgency, by: Instant) -> Result<(), NoTurn> {
        if self.due() > by {
            return Err(self.no_turn()); // without standing in the queue first
        }
        let late = |_| self.no_turn();
        let _sweeper = match urgency {
            Urgency::Sweep => Some(timeout_at(by, self.sweepers.lock()).await.map_err(late)?),
            Urgency::Urgent => None,
        };
        let _first = timeout_at(by, self.queue.lock()).await.map_err(late)?;
        loop {
            let due = self.due();
            if due > by {
                return Err(self.no_turn());
            }
            if due <= Instant::now() {
                break;
            }
            // A pause may begin during the wait, so the loop looks again.
            sleep_until(due).await;
        }
        let mut state = self.state();
        let now = Instant::now();
        state.next = Some(state.next.unwrap_or(now).max(now) + self.rate.interval());
        Ok(())
    }

    /// When the next turn is due.
    fn due(&self) -> Instant {
        let state = self.state();
        let now = Instant::now();
        let by_rate = state.next.and_then(|next| next.checked_sub(self.rate.burst())).unwrap_or(now);
        state.paused_until.map_or(by_rate, |until| until.max(by_rate))
    }

    fn no_turn(&self) -> NoTurn {
        let now = Instant::now();
        let paused_for = self.state().paused_until.and_then(|until| until.checked_duration_since(now));
        NoTurn { paused_for: paused_for.filter(|pause| !pause.is_zero()) }
    }

    /// Takes note of an answer to a request about `instance`, or about no single one. If it refuses for now, a pause begins: of that
    /// instance, or of everything.
    pub(crate) fn note(&self, instance: Option<Instance<'_>>, status: u16, retry_after: Option<Duration>) {
        let now = Instant::now();
        let asked_for = retry_after.map(|pause| pause.min(PAUSE_MAX));
        let mut state = self.state();
        if status != 429 {
            state.refusals = 0;
        }
        if status != 503 {
            state.unavailable.answered(instance);
        }
        let pause_of_everything = match (status, instance) {
            (429, _) => Some(asked_for.unwrap_or_else(|| state.untold())),
            (503, None) => asked_for,
            (503, Some(instance)) => {
                state.unavailable.note(instance, asked_for.unwrap_or_default(), now);
                asked_for.filter(|_| state.unavailable.is_whole()).map(|pause| pause.min(PAUSE_UNTOLD_MAX))
            }
            _ => None,
        };
        if let Some(pause) = pause_of_everything {
            let until = now + pause;
            state.paused_until = Some(state.paused_until.map_or(until, |known| known.max(until)));
        }
    }

    /// Whether nothing about this instance may be sent now, because of its own pause.
    pub(crate) fn delays(&self, instance: Instance<'_>) -> bool {
        self.state().unavailable.until(instance, Instant::now()).is_some()
    }

    /// Waits until the instance's own pause is over, until `by` at most. Those who wait here are not in anybody's way.
    pub(crate) async fn end_of_delay(&self, instance: Instance<'_>, by: Instant) -> Result<(), NoTurn> {
        let now = Instant::now();
        let until = self.state().unavailable.until(instance, now);
        match until {
            None => Ok(()),
            Some(until) if until > by => Err(NoTurn { paused_for: Some(until - now) }),
            Some(until) => {
                sleep_until(until).await;
                Ok(())
            }
        }
    }

    /// Whether the last answers say that the control plane as a whole is unavailable.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.state().unavailable.is_whole()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Held for a few assignments only, none of which panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A 503 for this instance.
    fn unavailable(pace: &Pace, workspace: &str, retry_after: Option<Duration>) {
        pace.note(Some(Instance { workspace, reference: "i-1" }), 503, retry_after);
    }

    async fn turns(pace: &Pace, count: usize) {
        for _ in 0..count {
            pace.turn(Urgency::Urgent, Instant::now() + 1_000 * SECOND).await.unwrap();
        }
    }

    #[test]
    fn a_rate_is_a_number_and_a_unit() {
        for (text, interval) in [("10/s", 100), ("1/s", 1_000), ("600/m", 100), (" 3600 / h ", 1_000)] {
            assert_eq!(Rate::parse(text).unwrap().interval(), Duration::from_millis(interval), "{text}");
        }
        for text in ["", "10", "10/d", "0/s", "-1/s", "1.5/s", "s/1"] {
            assert_eq!(Rate::parse(text), None, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_of_requests_may_be_made_at_once_and_then_the_rate_holds() {
        let pace = Pace::new(Rate::parse("10/s").unwrap());
        let begun = Instant::now();
        turns(&pace, 10).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        turns(&pace, 20).await;
        assert!((2 * SECOND..2 * SECOND + SECOND / 10).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        tokio::time::sleep(100 * SECOND).await;
        let begun = Instant::now();
        turns(&pace, 11).await;
        assert!(begun.elapsed() >= SECOND / 10, "nothing is saved up beyond a second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_cannot_have_a_turn_in_time_fails_at_once() {
        let pace = Pace::new(Rate::parse("1/m").unwrap());
        turns(&pace, 1).await;
        let begun = Instant::now();
        let refused = pace.turn(Urgency::Urgent, begun + 5 * SECOND).await;
        assert_eq!((refused, begun.elapsed()), (Err(NoTurn { paused_for: None }), Duration::ZERO));
        assert_eq!(pace.turn(Urgency::Sweep, begun + 60 * SECOND).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_was_asked_for_is_kept_and_bounded() {
        let pace = Pace::new(Rate::DEFAULT);
        pace.note(None, 503, Some(30 * SECOND));
        let begun = Instant::now();
        let refused = pace.turn(Urgency::Urgent, begun + 10 * SECOND).await;
        assert_eq!(refused, Err(NoTurn { paused_for: Some(30 * SECOND) }));
        turns(&pace, 1).await;
        assert!((30 * SECOND..31 * SECOND).contains(&begun.elapsed()));
        pace.note(None, 429, Some(1_000_000 * SECOND));
        let begun = Instant::now();
        turns(&pace, 1).await;
        assert!((PAUSE_MAX..PAUSE_MAX + SECOND).contains(&begun.elapsed()));
        pace.note(None, 503, None);
        pace.note(None, 500, Some(30 * SECOND));
        assert_eq!(pace.turn(Urgency::Urgent, Instant::now()).await, Ok(()), "only 429 and 503 ask for a pause");
    }

    #[tokio::test(start_paused = true)]
    async fn a_503_for_one_instance_delays_it_alone_and_not_for_longer_than_a_pause_may_last() {
        let pace = Pace::new(Rate::DEFAULT);
        let (a, b) = (Instance { workspace: "a", reference: "i-1" }, Instance { workspace: "b", reference: "i-1" });
        unavailable(&pace, "a", Some(30 * SECOND));
        assert_eq!(pace.turn(Urgency::Urgent, Instant::now()).await, Ok(()), "the others go on");
        assert!(pace.delays(a) && !pace.delays(b));
        let begun = Instant::now();
        let refused = pace.end_of_delay(a, begun + 29 * SECOND).await;
        assert_eq!((refused, begun.elapsed()), (Err(NoTurn { paused_for: Some(30 * SECOND) }), Duration::ZERO));
        assert_eq!(pace.end_of_delay(b, begun).await, Ok(()));
        assert_eq!(pace.end_of_delay(a, begun + 30 * SECOND).await, Ok(()));
        assert!(begun.elapsed() >= 30 * SECOND && !pace.delays(a), "{:?}", begun.elapsed());
        unavailable(&pace, "a", Some(1_000_000 * SECOND));
        tokio::time::sleep(PAUSE_MAX + SECOND / 100).await;
        assert!(!pace.delays(a));
        unavailable(&pace, "a", None);
        assert!(!pace.delays(a), "it did not say for how long");
    }

    #[tokio::test(start_paused = true)]
    async fn a_503_for_several_instances_in_a_row_pauses_everything_for_a_minute_at_most() {
        for (retry_after, paused) in
            [(Some(600 * SECOND), PAUSE_UNTOLD_MAX), (Some(20 * SECOND), 20 * SECOND), (None, Duration::ZERO)]
        {
            let pace = Pace::new(Rate::DEFAULT);
            for workspace in ["a", "b", "c"] {
                assert!(!pace.is_unavailable());
                assert_eq!(pace.turn(Urgency::Urgent, Instant::now()).await, Ok(()), "before {workspace}");
                unavailable(&pace, workspace, retry_after);
            }
            assert!(pace.is_unavailable());
            let begun = Instant::now();
            turns(&pace, 1).await;
            assert!(
                (paused..paused + SECOND / 10).contains(&begun.elapsed()),
                "{:?} for {retry_after:?}",
                begun.elapsed()
            );
            pace.note(None, 200, None);
            assert!(!pace.is_unavailable());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_that_does_not_say_how_long_doubles_the_pause() {
        let pace = Pace::new(Rate::DEFAULT);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            pace.note(None, 429, None);
            let begun = Instant::now();
            turns(&pace, 1).await;
            let waited = begun.elapsed();
            assert!((seconds * SECOND..(seconds + 1) * SECOND).contains(&waited), "{waited:?} for {seconds}");
        }
        pace.note(None, 200, None);
        pace.note(None, 429, None);
        let begun = Instant::now();
        turns(&pace, 1).await;
        assert!(begun.elapsed() < 2 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn an_urgent_request_does_not_wait_for_a_look_at_the_whole_fleet() {
        let pace = Arc::new(Pace::new(Rate::parse("1/s").unwrap()));
        turns(&pace, 1).await;
        for _ in 0..100 {
            let pace = Arc::clone(&pace);
            tokio::spawn(async move { pace.turn(Urgency::Sweep, Instant::now() + 1_000 * SECOND).await });
        }
        tokio::time::sleep(SECOND / 2).await;
        let begun = Instant::now();
        turns(&pace, 1).await;
        assert!(begun.elapsed() <= 2 * SECOND, "{:?}", begun.elapsed());
    }
}
