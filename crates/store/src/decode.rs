//! Converts between the types of Postgres and ours.

use std::error::Error;
use std::time::{Duration, SystemTime};

use defib_policy::moment::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use crate::error::Fault;

/// 2000-01-01, the origin of a `timestamptz`, in microseconds since 1970.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A `timestamptz`, which may also be infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instant {
    At(Timestamp),
    /// `infinity` or `-infinity`.
    Never,
}

impl<'a> FromSql<'a> for Instant {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let micros = i64::from_be_bytes(raw.try_into()?);
        Ok(match micros {
            i64::MIN | i64::MAX => Self::Never,
            micros => Self::At(Timestamp(micros.saturating_add(POSTGRES_EPOCH))),
        })
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

/// A [`Timestamp`] as a parameter of type `timestamptz`.
pub(crate) fn system_time(at: Timestamp) -> SystemTime {
    let distance = Duration::from_micros(at.0.unsigned_abs());
    if at.0 < 0 { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance }
}

/// A timestamp of a table of our own, where there is no infinity.
pub(crate) fn timestamp(row: &Row, column: usize) -> Result<Timestamp, Fault> {
    optional_timestamp(row, column)?.ok_or_else(|| Fault::Unexpected(format!("column {column} is null or infinite")))
}

/// A timestamp of a table of our own, in a column that may be null.
pub(crate) fn optional_timestamp(row: &Row, column: usize) -> Result<Option<Timestamp>, Fault> {
    Ok(match row.try_get::<_, Option<Instant>>(column)? {
        Some(Instant::At(at)) => Some(at),
        Some(Instant::Never) | None => None,
    })
}

/// A duration in microseconds, for `$n * interval '1 microsecond'`. It is cut to a hundred years, because more than that overflows dates.
pub(crate) fn micros(duration: Duration) -> i64 {
    const CENTURY: i64 = 100 * 365 * 86_400 * 1_000_000;
    i64::try_from(duration.as_micros()).unwrap_or(CENTURY).min(CENTURY)
}

/// A text without NUL, which Postgres cannot hold. So an error message with a `\0` in it is not lost.
pub(crate) fn text(raw: &str) -> std::borrow::Cow<'_, str> {
    if raw.contains('\0') { raw.replace('\0', "\u{fffd}").into() } else { raw.into() }
}

/// JSON that `jsonb` can hold: without NUL, anywhere.
pub(crate) fn json(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(string) => Value::String(text(string).into_owned()),
        Value::Array(items) => Value::Array(items.iter().map(json).collect()),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(key, value)| (text(key).into_owned(), json(value))).collect())
        }
        other => other.clone(),
    }
}

/// The beginning of a text, cut to what a column holds of an engine's words.
pub(crate) fn beginning(raw: &str, length_max: usize) -> &str {
    raw.char_indices().nth(length_max).map_or(raw, |(end, _)| &raw[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_is_replaced_wherever_it_hides() {
        assert_eq!(text("a\0b"), "a\u{fffd}b");
        let dirty = serde_json::json!({"a\0": ["\0", {"b": "x\0"}], "n": 1});
        assert_eq!(json(&dirty), serde_json::json!({"a\u{fffd}": ["\u{fffd}", {"b": "x\u{fffd}"}], "n": 1}));
    }

    #[test]
    fn a_beginning_ends_between_characters() {
        assert_eq!(beginning("äöü", 2), "äö");
        assert_eq!(beginning("ab", 2), "ab");
    }

    #[test]
    fn endless_durations_stay_within_what_a_date_can_hold() {
        assert_eq!(micros(Duration::from_micros(5)), 5);
        assert_eq!(micros(Duration::MAX), 3_153_600_000_000_000);
    }
}
