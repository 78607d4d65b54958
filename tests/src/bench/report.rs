//! The table that a bench prints, as text and as JSON.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::Plan;
use super::process::machine;

/// One figure beside its floor.
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    unit: &'static str,
    measured: Vec<f64>,
    floor: Vec<f64>,
    rule: Rule,
}

/// What a figure is held against.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// The largest ratio of the two medians.
    Ratio(f64),
    /// The figures are what remains after their floors were taken off. This quantile of them is at most so large.
    Beyond { quantile: f64, most: f64 },
    /// This quantile of the figures is at most so large.
    Within { quantile: f64, most: f64 },
    /// The largest median.
    AtMost(f64),
    /// Nothing; the ratio of the two medians is told.
    Beside,
    /// Nothing.
    Told,
}

impl Row {
    /// Times beside those of the floor; `target` is the largest ratio of the two medians.
    #[must_use]
    pub fn ratio(what: &str, measured: &[Duration], floor: &[Duration], target: f64) -> Self {
        Self {
            what: what.to_owned(),
            unit: "ms",
            measured: millis(measured),
            floor: millis(floor),
            rule: Rule::Ratio(target),
        }
    }

    /// Times, each less the one of the floor that was measured beside it; `most` is the largest value of what remains, in
    /// milliseconds, at this quantile.
    #[must_use]
    pub fn beyond(what: &str, measured: &[Duration], floor: &[Duration], (quantile, most): (f64, f64)) -> Self {
        let floor = millis(floor);
        let measured = millis(measured).into_iter().zip(&floor).map(|(time, floor)| time - floor).collect();
        Self { what: what.to_owned(), unit: "ms", measured, floor, rule: Rule::Beyond { quantile, most } }
    }

    /// Times, of which this quantile is at most so long.
    #[must_use]
    pub fn within(what: &str, measured: &[Duration], (quantile, most): (f64, Duration)) -> Self {
        let rule = Rule::Within { quantile, most: most.as_secs_f64() * 1_000.0 };
        Self { what: what.to_owned(), unit: "ms", measured: millis(measured), floor: Vec::new(), rule }
    }

    /// Times beside those of somebody else, which are no target.
    #[must_use]
    pub fn beside(what: &str, measured: &[Duration], others: &[Duration]) -> Self {
        let (measured, floor) = (millis(measured), millis(others));
        Self { what: what.to_owned(), unit: "ms", measured, floor, rule: Rule::Beside }
    }

    /// Times that are told for orientation.
    #[must_use]
    pub fn told(what: &str, measured: &[Duration]) -> Self {
        Self { what: what.to_owned(), unit: "ms", measured: millis(measured), floor: Vec::new(), rule: Rule::Told }
    }

    /// A size in MiB, and the largest that it may be, where a target is set for a fleet of this size.
    #[must_use]
    pub fn size(what: &str, mebibytes: f64, most: Option<f64>) -> Self {
        let rule = most.map_or(Rule::Told, Rule::AtMost);
        Self { what: what.to_owned(), unit: "MiB", measured: vec![mebibytes], floor: Vec::new(), rule }
    }

    /// What is held against the target.
    fn value(&self) -> f64 {
        match self.rule {
            Rule::Ratio(_) | Rule::Beside => quantile(&self.measured, 0.5) / quantile(&self.floor, 0.5),
            Rule::Beyond { quantile: at, .. } | Rule::Within { quantile: at, .. } => quantile(&self.measured, at),
            Rule::AtMost(_) | Rule::Told => quantile(&self.measured, 0.5),
        }
    }

    fn target(&self) -> Option<f64> {
        match self.rule {
            Rule::Ratio(most) | Rule::Beyond { most, .. } | Rule::Within { most, .. } | Rule::AtMost(most) => {
                Some(most)
            }
            Rule::Told | Rule::Beside => None,
        }
    }

    /// Whether the target is met; `None` where there is none.
    #[must_use]
    pub fn is_met(&self) -> Option<bool> {
        self.target().map(|target| self.value() <= target)
    }

    fn verdict(&self) -> &'static str {
        match self.is_met() {
            Some(true) => "met",
            Some(false) => "missed",
            None => "",
        }
    }

    fn json(&self) -> Value {
        let spread = |values: &[f64]| match values {
            [] => Value::Null,
            values => {
                json!({ "n": values.len(), "median": quantile(values, 0.5), "min": quantile(values, 0.0), "max": quantile(values, 1.0) })
            }
        };
        let ratio = matches!(self.rule, Rule::Ratio(_) | Rule::Beside).then(|| self.value());
        let held = self.target().map(|_| self.value());
        json!({
            "what": self.what, "unit": self.unit, "measured": spread(&self.measured), "floor": spread(&self.floor),
            "ratio": ratio, "held": held, "target": self.target(), "met": self.is_met(),
        })
    }

    /// What stands in the columns of the table.
    fn cells(&self) -> [String; 7] {
        let unit = self.unit;
        let spread = |values: &[f64]| match values {
            [] => String::new(),
            [one] => format!("{one:.1} {unit}"),
            values => {
                let at = |part| quantile(values, part);
                format!("{:.1} {unit} ({:.1} to {:.1})", at(0.5), at(0.0), at(1.0))
            }
        };
        let (ratio, target) = match self.rule {
            Rule::Ratio(most) => (format!("{:.2}", self.value()), format!("ratio {most}")),
            Rule::Beyond { quantile, most } if quantile < 1.0 => (String::new(), format!("{most} {unit} over it")),
            Rule::Beyond { most, .. } => (String::new(), format!("all {most} {unit} over it")),
            Rule::Within { quantile, most } => (String::new(), format!("p{:.0} {most} {unit}", quantile * 100.0)),
            Rule::AtMost(most) => (String::new(), format!("{most} {unit}")),
            Rule::Beside => (format!("{:.2}", self.value()), String::new()),
            Rule::Told => (String::new(), String::new()),
        };
        let measured = match self.rule {
            // The quantile is what is held against the target.
            Rule::Within { quantile: at, .. } if !self.measured.is_empty() => {
                let (median, most) = (quantile(&self.measured, 0.5), quantile(&self.measured, 1.0));
                format!("{median:.1} {unit} (p{:.0} {:.1}, at most {most:.1})", at * 100.0, self.value())
            }
            _ => spread(&self.measured),
        };
        [
            self.what.clone(),
            self.measured.len().to_string(),
            measured,
            spread(&self.floor),
            ratio,
            target,
            self.verdict().to_owned(),
        ]
    }
}

/// All rows of one run.
#[derive(Clone, Debug)]
pub struct Report {
    plan: Plan,
    rows: Vec<Row>,
    /// What was not measured, and why.
    left_out: Vec<String>,
}

impl Report {
    pub(super) const fn new(plan: Plan) -> Self {
        Self { plan, rows: Vec::new(), left_out: Vec::new() }
    }

    pub(super) fn add(&mut self, row: Row) {
        eprintln!("{}", row.cells().join(" | "));
        self.rows.push(row);
    }

    pub(super) fn leave_out(&mut self, what: &str, why: &str) {
        self.left_out.push(format!("{what}: {why}"));
    }

    /// The same as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let (cores, memory) = machine();
        json!({
            "machine": { "cores": cores, "memory_gib": memory },
            "workspaces": self.plan.workspaces, "engines": self.plan.engines, "poll_ms": self.plan.poll.as_millis(),
            "rows": rows, "left_out": self.left_out,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cores, memory) = machine();
        let Plan { workspaces, engines, poll, .. } = self.plan;
        writeln!(
            f,
            "{workspaces} workspaces on {engines} engines, a poll each {poll:?}; {cores} cores, {memory:.0} GiB"
        )?;
        let head = ["what", "n", "measured", "floor", "ratio", "target", "verdict"].map(str::to_owned);
        let lines: Vec<[String; 7]> = std::iter::once(head).chain(self.rows.iter().map(Row::cells)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..7).map(width).collect();
        for (number, line) in lines.iter().enumerate() {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(f, "| {} |", cells.collect::<Vec<_>>().join(" | "))?;
            if number == 0 {
                let rules = widths.iter().map(|width| "-".repeat(*width));
                writeln!(f, "| {} |", rules.collect::<Vec<_>>().join(" | "))?;
            }
        }
        self.left_out.iter().try_for_each(|what| writeln!(f, "not measured: {what}"))
    }
}

fn millis(times: &[Duration]) -> Vec<f64> {
    times.iter().map(|time| time.as_secs_f64() * 1_000.0).collect()
}

/// The value below which this part of them lies, 0.5 for the median: always one that was measured. Not a number where there is none.
fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place among a few dozen values"
    )]
    let place = (sorted.len() as f64 * part) as usize;
    sorted.get(place.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(millis: &[u64]) -> Vec<Duration> {
        millis.iter().copied().map(Duration::from_millis).collect()
    }

    #[test]
    fn a_row_is_met_up_to_its_target_and_missed_beyond() {
        let ratio = |measured: &[u64]| Row::ratio("x", &times(measured), &times(&[90, 100, 400]), 0.5).is_met();
        assert_eq!(ratio(&[1, 50, 900]), Some(true), "the medians count");
        assert_eq!(ratio(&[1, 51, 52]), Some(false));
        let beyond = |measured: &[u64], quantile| {
            Row::beyond("x", &times(measured), &times(&[10, 20, 30]), (quantile, 8.0)).is_met()
        };
        assert_eq!(beyond(&[18, 28, 90], 0.5), Some(true), "each counts beside its own floor");
        assert_eq!(beyond(&[18, 29, 90], 0.5), Some(false));
        assert_eq!(beyond(&[18, 28, 90], 0.99), Some(false), "the slowest of three is among the slowest hundredth");
        assert_eq!(beyond(&[], 0.5), Some(false), "nothing was measured");
        let within = |measured: &[u64], quantile| {
            Row::within("x", &times(measured), (quantile, Duration::from_millis(100))).is_met()
        };
        assert_eq!(within(&[10, 100, 300], 0.5), Some(true));
        assert_eq!(within(&[10, 100, 300], 0.95), Some(false));
        assert_eq!(within(&[], 0.95), Some(false), "nothing was measured");
        assert_eq!(Row::size("x", 96.0, Some(96.0)).is_met(), Some(true));
        assert_eq!(Row::size("x", 96.1, Some(96.0)).is_met(), Some(false));
        assert_eq!(Row::size("x", 96.1, None).is_met(), None);
    }

    #[test]
    fn the_table_and_the_json_say_the_same() {
        let mut report = Report::new(Plan::quick());
        report.add(Row::ratio("steady", &times(&[10, 20, 30]), &times(&[40]), 0.4));
        report.add(Row::within("page", &times(&[10, 20, 90]), (0.95, Duration::from_millis(100))));
        report.leave_out("podman", "it is not installed");
        let text = report.to_string();
        assert!(
            text.contains("| steady | 3 | 20.0 ms (10.0 to 30.0)           | 40.0 ms | 0.50  | ratio 0.4  | missed  |"),
            "{text}"
        );
        assert!(text.contains("| 20.0 ms (p95 90.0, at most 90.0) |"), "{text}");
        assert!(text.contains("not measured: podman: it is not installed"), "{text}");
        let row = &report.json()["rows"][0];
        assert_eq!(row["measured"]["median"], 20.0);
        assert_eq!((&row["ratio"], &row["met"]), (&json!(0.5), &json!(false)));
    }
}
