//! Virtual time: milliseconds of one true clock, from which every other clock in the world is derived.
//!
//! Nobody in the world reads this clock. The database, the engines and the writers have wall clocks that are off by an offset
//! (which may step), a replica of defib has a monotonic one that stands still while its host sleeps. The truth is kept for the
//! oracles.

use std::time::Duration;

use defib_policy::moment::{Moment, Timestamp};

/// Milliseconds of true time since the beginning of the world.
pub type Ms = u64;

/// The first instant of every world: far enough from zero that nothing saturates when it looks back.
pub const ORIGIN: Ms = 1_000_000_000;

/// What a correct wall clock shows at true time zero, in microseconds since 1970.
const EPOCH_MICROS: i64 = 1_800_000_000_000_000;

/// Seconds as milliseconds.
#[must_use]
pub const fn secs(n: u64) -> Ms {
    n * 1_000
}

/// Minutes as milliseconds.
#[must_use]
pub const fn mins(n: u64) -> Ms {
    n * 60_000
}

/// Hours as milliseconds.
#[must_use]
pub const fn hours(n: u64) -> Ms {
    n * 3_600_000
}

/// Days as milliseconds.
#[must_use]
pub const fn days(n: u64) -> Ms {
    n * 86_400_000
}

/// A duration of the policy's settings as milliseconds, rounded up.
#[must_use]
pub fn ms(duration: Duration) -> Ms {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// A span of true time as the policy's duration.
#[must_use]
pub const fn span(ms: Ms) -> Duration {
    Duration::from_millis(ms)
}

/// What a monotonic clock shows that stood still for `lost`.
#[must_use]
pub fn moment(at: Ms, lost: Ms) -> Moment {
    Moment::after(Duration::from_millis(at.saturating_sub(lost)))
}

/// What a wall clock shows that is off by `offset` microseconds.
#[must_use]
pub fn stamp(at: Ms, offset: i64) -> Timestamp {
    let micros = i64::try_from(at.saturating_mul(1_000)).unwrap_or(i64::MAX);
    Timestamp(EPOCH_MICROS.saturating_add(micros).saturating_add(offset))
}

/// A true time as seconds since `zero`, for people.
#[must_use]
pub fn clock(at: Ms, zero: Ms) -> String {
    let (sign, distance) = if at < zero { ('-', zero - at) } else { ('+', at - zero) };
    format!("{sign}{}.{:03}", distance / 1_000, distance % 1_000)
}
