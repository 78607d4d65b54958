//! The two kinds of time that a decision may use, neither of which this crate ever reads for itself.
//!
//! A [`Moment`] is monotonic and ours: differences between two moments are durations that really passed. A [`Timestamp`] is what somebody's
//! wall clock said (the database's, an engine's, an agent's): it orders events of the *same* clock, and may jump. Mixing the two would
//! declare a healthy fleet dead after a step of the clock, so they are two types.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A reading of our own monotonic clock: nanoseconds since an origin that the caller fixes once (program start, or the
/// beginning of a simulated world).
///
/// It is kept as one more than the nanoseconds, because a number that is never zero needs no further bytes in an `Option`: what is known of
/// a workspace has many moments that have not come yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Moment(NonZeroU64);

impl Moment {
    /// The origin.
    pub const ZERO: Self = Self(NonZeroU64::MIN);

    /// The moment `since_origin` after the origin. Saturates after 584 years.
    #[must_use]
    pub fn after(since_origin: Duration) -> Self {
        Self::at_nanos(nanos_of(since_origin))
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0.get() - 1
    }

    /// The moment so many nanoseconds after the origin.
    #[must_use]
    pub const fn at_nanos(nanos: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }

    /// How long `earlier` lies back; zero when it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos().saturating_sub(earlier.nanos()))
    }

    /// The moment `by` before this one, not before the origin.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self::at_nanos(self.nanos().saturating_sub(nanos_of(by)))
    }
}

/// In nanoseconds. Saturates after 584 years.
fn nanos_of(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Default for Moment {
    fn default() -> Self {
        Self::ZERO
    }
}

impl From<u64> for Moment {
    fn from(nanos: u64) -> Self {
        Self::at_nanos(nanos)
    }
}

impl From<Moment> for u64 {
    fn from(moment: Moment) -> Self {
        moment.nanos()
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Moment({})", self.nanos())
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos_of(by)))
    }
}

impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// A reading of a wall clock, in microseconds since 1970-01-01 00:00 UTC (the resolution of a Postgres `timestamptz`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The time from `earlier` to this reading of the same clock; zero when `earlier` is the later one.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }

    /// This reading moved by a signed number of microseconds (a clock offset).
    #[must_use]
    pub const fn shifted(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// The reading `by` later.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// RFC 3339 in UTC with microseconds, as Postgres and every log reader parses it.
///
/// The calendar arithmetic is Howard Hinnant's `civil_from_days` ("chrono-Compatible Low-Level Date Algorithms"), here
/// because this crate depends on nothing that could also read a clock.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MICROS_PER_DAY: i64 = 86_400_000_000;
        let (days, of_day) = (self.0.div_euclid(MICROS_PER_DAY), self.0.rem_euclid(MICROS_PER_DAY));
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (seconds, micros) = (of_day / 1_000_000, of_day % 1_000_000);
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

/// As text for people, and as the number that it is in binary formats.
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_i64(self.0) }
    }
}

/// From the number that binary formats hold. The text is for people and is not read back.
impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        i64::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer as _;
    use serde::de::value::{Error, I64Deserializer};

    use super::*;

    #[test]
    fn a_timestamp_is_read_back_from_its_number() {
        let number: I64Deserializer<Error> = (-5_i64).into_deserializer();
        assert_eq!(Timestamp::deserialize(number), Ok(Timestamp(-5)));
    }

    #[test]
    fn a_moment_keeps_its_nanoseconds_and_costs_nothing_more_where_it_may_be_absent() {
        assert_eq!(size_of::<Option<Moment>>(), size_of::<u64>());
        for nanos in [0, 1, u64::MAX - 1] {
            assert_eq!(Moment::at_nanos(nanos).nanos(), nanos);
            assert_eq!(u64::from(Moment::from(nanos)), nanos);
            assert_eq!(format!("{:?}", Moment::at_nanos(nanos)), format!("Moment({nanos})"));
        }
        assert_eq!(Moment::at_nanos(u64::MAX), Moment::at_nanos(u64::MAX - 1), "it saturates");
        assert_eq!(Moment::default(), Moment::ZERO);
        assert_eq!(Moment::ZERO.minus(Duration::from_secs(1)), Moment::ZERO);
        assert!(Moment::ZERO < Moment::at_nanos(1));
    }

    #[test]
    fn a_timestamp_prints_as_rfc_3339_on_both_sides_of_the_epoch_and_in_a_leap_year() {
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp(-1).to_string(), "1969-12-31T23:59:59.999999Z");
        assert_eq!(Timestamp(1_709_210_096_000_123).to_string(), "2024-02-29T12:34:56.000123Z");
        assert_eq!(Timestamp(1_709_251_200_000_000).to_string(), "2024-03-01T00:00:00.000000Z");
    }

    #[test]
    fn the_calendar_knows_its_centuries() {
        for (seconds, day) in [
            (-11_676_096_000, "1600-01-01"),
            (-11_670_998_400, "1600-02-29"),
            (-2_209_075_200, "1899-12-31"),
            (-2_203_977_600, "1900-02-28"),
            (-2_203_891_200, "1900-03-01"),
            (946_598_400, "1999-12-31"),
            (951_782_400, "2000-02-29"),
            (978_220_800, "2000-12-31"),
            (978_307_200, "2001-01-01"),
            (4_107_456_000, "2100-02-28"),
            (4_107_542_400, "2100-03-01"),
            (13_569_379_200, "2399-12-31"),
            (13_574_563_200, "2400-02-29"),
            (13_601_001_600, "2400-12-31"),
        ] {
            assert_eq!(Timestamp(seconds * 1_000_000).to_string(), format!("{day}T00:00:00.000000Z"));
        }
    }

    #[test]
    fn time_never_runs_backwards_in_a_difference() {
        let (early, late) = (Moment::after(Duration::from_secs(1)), Moment::after(Duration::from_secs(3)));
        assert_eq!(late - early, Duration::from_secs(2));
        assert_eq!(early - late, Duration::ZERO);
        assert_eq!(late.minus(Duration::from_secs(1)), Moment::after(Duration::from_secs(2)));
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(Timestamp(9).since(Timestamp(5)), Duration::from_micros(4));
    }
}
