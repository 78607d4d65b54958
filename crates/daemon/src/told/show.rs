//! How commands write things: ages, tables, text from outside.

use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use defib_policy::moment::Timestamp;

use crate::logging::printable;

/// A line on standard output. A reader who has seen enough (`| head`) changes nothing about how the command ends.
pub(crate) fn line(text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A line on standard error, if that can be written.
pub(crate) fn complain(text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// An age in at most two units: `3s`, `4m 12s`, `2d 3h`.
pub(crate) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let whole = match seconds {
        0..3_600 => seconds,
        3_600..86_400 => seconds - seconds % 60,
        _ => seconds - seconds % 3_600,
    };
    humantime::format_duration(Duration::from_secs(whole)).to_string()
}

/// A clock reading as `2026-11-23 18:19:40.123Z`.
pub(crate) fn clock(at: Timestamp) -> String {
    clock_of(&at.to_string())
}

/// The same of a reading that evidence holds as text. Text of another form is shown as it is.
pub(crate) fn clock_of(text: &str) -> String {
    match (text.split_once('T'), text.len()) {
        (Some((date, time)), 27) if text.is_ascii() => format!("{date} {}Z", time.get(..12).unwrap_or(time)),
        _ => printable(text),
    }
}

/// Text from outside, or a dash.
pub(crate) fn or_dash(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), printable)
}

/// A table without lines, which `awk` and people can both read.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table
}

/// The lines of a table without the padding at its edges.
pub(crate) fn lines(table: &Table) -> impl Iterator<Item = String> {
    table.lines().map(|line| line.trim_end().strip_prefix(' ').unwrap_or(&line).trim_end().to_owned())
}

/// The system user who runs the command, for the record: by name, or by number where the environment does not tell (a service, a
/// container).
pub(crate) fn user() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    named.unwrap_or_else(|| {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata("/proc/self")
            .map_or_else(|_| "somebody".to_owned(), |process| format!("uid {}", process.uid()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (252, "4m 12s"), (7_384, "2h 3m"), (183_700, "2days 3h")] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_clock_reading_has_milliseconds() {
        assert_eq!(clock(Timestamp(1_709_210_096_123_456)), "2024-02-29 12:34:56.123Z");
        assert_eq!(clock_of("2024-02-29T12:34:56.123456Z"), "2024-02-29 12:34:56.123Z");
        assert_eq!(clock_of("a Tuesday"), "a Tuesday", "text of another form is shown as it is");
    }
}
