//! Checks that nothing happens, as [`defib_testkit::eventually`] checks that something does.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// What a test waits for happens within this time, or never. It is ten times what an idle machine takes, because the machine is not idle. A
/// test that shows that something did not wait for the poll sets a poll interval far beyond it.
pub const SOON: Duration = Duration::from_secs(20);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks again and again for all of `span`, and once more at its end.
///
/// # Errors
/// As soon as `look` answers `Err`, with `what` should have stayed true, when, and what it saw.
pub async fn throughout<F>(span: Duration, what: &str, mut look: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<(), String>>,
{
    let begun = Instant::now();
    loop {
        let is_last = begun.elapsed() >= span;
        if let Err(seen) = look().await {
            bail!("{what}: not so after {:?} of {span:?}; seen: {seen}", begun.elapsed());
        }
        if is_last {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn looks_for_the_whole_span_and_at_its_end() {
        let looks = Cell::new(0);
        let begun = Instant::now();
        throughout(Duration::from_secs(1), "nothing", async || {
            looks.set(looks.get() + 1);
            Ok(())
        })
        .await
        .unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1));
        assert_eq!(looks.get(), 21);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_ends_it_with_what_was_seen() {
        let error =
            throughout(Duration::from_secs(9), "peace", async || Err("a restart".to_owned())).await.unwrap_err();
        assert!(error.to_string().starts_with("peace: not so after"), "{error}");
        assert!(error.to_string().ends_with("seen: a restart"), "{error}");
    }
}
