//! The generated tables of the documentation, made from where the things are declared.

use std::fmt::Write as _;

use crate::config::knobs::KNOBS;
use crate::metrics::HELP;

/// The knobs, as a Markdown table.
pub(super) fn knobs() -> String {
    let mut text = String::from("| variable | default | bounds | |\n| --- | --- | --- | --- |\n");
    for knob in KNOBS {
        let default = knob.default.map_or_else(String::new, |default| format!("`{default}`"));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{}` | {default} | {} | {} |", knob.variable(), knob.bounds(), knob.help);
    }
    text
}

/// The metrics, as a Markdown table.
pub(super) fn metrics() -> String {
    let mut text = String::from("| metric | labels | |\n| --- | --- | --- |\n");
    for metric in HELP {
        let _ = writeln!(text, "| `{}` | {} | {} |", metric.name, metric.labels.join(", "), metric.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use defib_policy::verdict::{Held, Rule, Verdict};

    const README: &str = include_str!("../../../../README.md");
    const CONFIGURATION: &str = include_str!("../../../../docs/configuration.md");
    const METRICS: &str = include_str!("../../../../docs/metrics.md");
    const VERDICTS: &str = include_str!("../../../../docs/verdicts.md");
    const RUNBOOK: &str = include_str!("../../../../docs/runbook.md");

    fn table(page: &'static str, name: &str) -> &'static str {
        let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
        let from = page.find(&begin).expect("a begin marker") + begin.len();
        let to = page.find(&end).expect("an end marker");
        &page[from..to]
    }

    #[test]
    fn the_tables_of_the_documentation_are_those_of_the_program() {
        let hint = "make doc-tables writes them anew";
        assert_eq!(table(CONFIGURATION, "knobs"), super::knobs(), "{hint}");
        assert_eq!(table(METRICS, "metrics"), super::metrics(), "{hint}");
        assert_eq!(table(README, "simulation"), include_str!("../../../../docs/simulation/summary.md"), "{hint}");
    }

    #[test]
    fn the_table_of_verdicts_names_every_rule_and_every_verdict() {
        for rule in Rule::ALL {
            assert!(VERDICTS.contains(&format!("`{}`", rule.label())), "{}", rule.label());
        }
        for verdict in Verdict::ALL {
            assert!(VERDICTS.contains(&format!("`{}`", verdict.label())), "{}", verdict.label());
        }
    }

    #[test]
    fn the_runbook_has_a_section_for_every_verdict_and_every_reason_to_hold_back() {
        let sections: Vec<&str> = RUNBOOK.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        let wanted = Verdict::ALL.iter().map(|verdict| format!("verdict: {}", verdict.label()));
        for section in wanted.chain(Held::ALL.iter().map(|held| format!("held: {}", held.label()))) {
            assert!(sections.contains(&section.as_str()), "docs/runbook.md has no section `{section}`");
        }
    }
}
