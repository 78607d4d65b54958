//! The answer for a terminal.

use std::fmt::Write as _;

use crate::report::{Difference, Report, Result};

/// Differences that are written out; the rest are counted.
const DIFFERENCES_MAX: usize = 40;

/// A column of the table: its heading, and what stands in it.
pub(crate) type Column = (&'static str, fn(&Result) -> String);

/// The columns, for the terminal and for the page.
pub(crate) const COLUMNS: &[Column] = &[
    ("restarts", |it| it.restarts.to_string()),
    ("needed", |it| it.needed.to_string()),
    ("not needed", |it| it.not_needed.to_string()),
    ("cannot be told", |it| it.untold.to_string()),
    ("deaths answered", |it| format!("{} of {}", it.answered, it.deaths)),
    ("missed", |it| it.missed.to_string()),
    ("others first", |it| it.ended_by_others.to_string()),
    ("detection median", |it| time(it.detection_median_seconds)),
    ("p95", |it| time(it.detection_p95_seconds)),
    ("mistakes / 1000 d", |it| format!("{:.2}", it.mistakes_per_1000_workspace_days)),
    ("mistake lasts", |it| time(it.mistake_duration_mean_seconds)),
];

/// Seconds for people.
pub(crate) fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 10.0 => format!("{seconds:.1} s"),
        Some(seconds) if seconds < 120.0 => format!("{seconds:.0} s"),
        Some(seconds) if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        Some(seconds) => format!("{:.1} h", seconds / 3_600.0),
    }
}

/// What was replayed, in a few lines.
pub(crate) fn head(report: &Report) -> Vec<String> {
    let recording = &report.recording;
    let (length, unit) = match recording.workspace_seconds {
        seconds if seconds >= 86_400.0 => (seconds / 86_400.0, "workspace-days"),
        seconds if seconds >= 3_600.0 => (seconds / 3_600.0, "workspace-hours"),
        seconds => (seconds / 60.0, "workspace-minutes"),
    };
    let mut lines = vec![format!(
        "{} to {}: {} workspaces, {length:.1} {unit}, recorded in mode {} by defib {}",
        recording.from.as_deref().unwrap_or("?"),
        recording.until.as_deref().unwrap_or("?"),
        recording.workspaces,
        recording.mode,
        recording.programs.join(", "),
    )];
    let exact = &report.exactness;
    let compared = match exact.calls {
        0 => format!("{} passes", exact.passes),
        calls => format!("{} passes and {calls} reads of what had changed", exact.passes),
    };
    lines.push(match (exact.differing, exact.differing_by_rules) {
        (0, 0) => format!(
            "exact: with the recorded settings the replay said what was recorded in all {compared} ({} changes of verdicts, {} orders)",
            exact.verdicts, exact.orders
        ),
        (differing @ 1.., _) => format!(
            "NOT exact: in {differing} of {compared} the replay said something else than was recorded, first at {}. Please report this",
            exact.first_difference.as_deref().unwrap_or("?")
        ),
        (0, differing) => format!(
            "the rules have changed since it was recorded: in {differing} of {compared} the present ones say something else, first at {}",
            exact.first_difference.as_deref().unwrap_or("?")
        ),
    });
    lines
}

impl Report {
    /// The answer as text, without a line's end.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = head(self).join("\n");
        text.push_str("\n\n");
        table(&mut text, &self.results);
        // Writing to a String cannot fail.
        if self.results.len() > 1 {
            let count = self.differences.len();
            let _ = writeln!(
                text,
                "\nlives that some would have ended and others not: {count}; those whose restart was not needed stand first"
            );
            let mut differences: Vec<&Difference> = self.differences.iter().collect();
            differences.sort_by_key(|difference| difference.outcome != "not_needed");
            for difference in differences.into_iter().take(DIFFERENCES_MAX) {
                let _ = writeln!(
                    text,
                    "\n{} {}: {}\n  restarted by {}; left alone by {}\n  {}",
                    difference.at,
                    difference.workspace,
                    outcome(difference.outcome),
                    difference.restarted_by.join(", "),
                    difference.left_alone_by.join(", "),
                    difference.because,
                );
                for said in difference.defib_said.iter().filter(|said| **said != difference.because) {
                    let _ = writeln!(text, "  {said}");
                }
            }
            if self.differences.len() > DIFFERENCES_MAX {
                let _ = writeln!(text, "\n{} more: --format json has them", self.differences.len() - DIFFERENCES_MAX);
            }
        }
        text.push('\n');
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        let _ = write!(text, "replayed at {:.1} million workspace-seconds a second", self.speed / 1e6);
        text
    }
}

/// An outcome in words.
pub(crate) fn outcome(label: &str) -> &'static str {
    match label {
        "needed" => "a restart was needed",
        "not_needed" => "a restart was not needed, because the same life gave a sign of life afterwards",
        _ => "whether a restart was needed cannot be told",
    }
}

fn table(text: &mut String, results: &[Result]) {
    let mut rows: Vec<Vec<String>> = vec![vec!["policy".to_owned()]];
    rows[0].extend(COLUMNS.iter().map(|(heading, _)| (*heading).to_owned()));
    for result in results {
        let cells = COLUMNS.iter().map(|(_, cell)| cell(result));
        rows.push(std::iter::once(result.policy.clone()).chain(cells).collect());
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..=COLUMNS.len()).map(width).collect();
    for row in &rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // The names stand at the left, the numbers at the right.
            let _ = if column == 0 { write!(text, "{cell:<width$}") } else { write!(text, "  {cell:>width$}") };
        }
        text.push('\n');
    }
}
