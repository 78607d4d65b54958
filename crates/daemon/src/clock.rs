//! The process's monotonic clock, and the way from its readings to the database's clock.

use std::sync::Arc;

use defib_policy::moment::{Moment, Timestamp};
use tokio::time::Instant;

/// Reads our monotonic clock.
pub(crate) type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;

/// The clock counts from a moment long before now, so that "an hour ago" can be expressed as well.
const ORIGIN_BEFORE_START: std::time::Duration = std::time::Duration::from_secs(366 * 86_400);

/// A clock that starts now. It reads tokio's time, so that a test can pause it.
pub(crate) fn monotonic() -> Clock {
    let start = Instant::now();
    Arc::new(move || Moment::after(ORIGIN_BEFORE_START + start.elapsed()))
}

/// The system's clock, for what leaves this process without the database.
pub(crate) fn wall() -> Timestamp {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX))
}

/// The difference of a clock and the database's clock, in microseconds. The two were read at different moments of our own clock.
pub(crate) fn offset_micros(theirs: (Moment, Timestamp), database: (Moment, Timestamp)) -> i64 {
    let (at, reading) = theirs;
    let (read_at, database_now) = database;
    let forward = i64::try_from((at - read_at).as_micros()).unwrap_or(i64::MAX);
    let backward = i64::try_from((read_at - at).as_micros()).unwrap_or(i64::MAX);
    let database_then = database_now.shifted(forward - backward);
    reading.0.saturating_sub(database_then.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_offset_is_taken_at_one_moment() {
        let at = |seconds| Moment::after(Duration::from_secs(seconds));
        let database = (at(100), Timestamp(1_000_000_000));
        assert_eq!(offset_micros((at(103), Timestamp(1_003_500_000)), database), 500_000, "half a second ahead");
        assert_eq!(offset_micros((at(98), Timestamp(998_000_000)), database), 0);
    }
}
