//! Waiting for a condition, never for luck.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// The pause between two looks grows from the first to the last: quick for what is quick, cheap for what is slow.
const PAUSE_FIRST: Duration = Duration::from_millis(2);
const PAUSE_LAST: Duration = Duration::from_millis(50);

/// Looks until `attempt` answers `Ok`, and returns what it answered.
///
/// `attempt` is an `async || …` that says in its `Err` what it saw instead; a count that it keeps has to be in a `Cell`.
/// A look that hangs is given up at the deadline.
///
/// # Errors
/// At the deadline, with `what` was waited for and the state last seen.
pub async fn eventually<T, F>(deadline: Duration, what: &str, mut attempt: impl FnMut() -> F) -> Result<T>
where
    // Not `AsyncFnMut`: a future that waits on one cannot be proved `Send`, and so not be spawned (rustc 1.95).
    F: Future<Output = Result<T, String>>,
{
    let until = Instant::now() + deadline;
    let mut last_state = "not looked at yet".to_owned();
    let mut pause = PAUSE_FIRST;
    loop {
        match timeout_at(until, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(state)) => last_state = state,
            Err(_) => bail!("{what}: no answer to the last look after {deadline:?}; seen before it: {last_state}"),
        }
        if Instant::now() + pause >= until {
            bail!("{what}: not so after {deadline:?}; last seen: {last_state}");
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LAST);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_with_the_value_as_soon_as_it_holds() {
        let looks = Cell::new(0);
        let value = eventually(Duration::from_secs(1), "three looks", async || {
            looks.set(looks.get() + 1);
            if looks.get() == 3 { Ok(looks.get()) } else { Err(format!("{} looks", looks.get())) }
        })
        .await
        .unwrap();
        assert_eq!(value, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_reports_the_last_state() {
        let error = eventually(Duration::from_secs(1), "the impossible", async || Err::<(), _>("still not".to_owned()))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "the impossible: not so after 1s; last seen: still not");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_does_not_hang_the_test() {
        let error = eventually::<(), _>(Duration::from_secs(1), "an answer", async || std::future::pending().await)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("no answer to the last look"), "{error}");
    }
}
