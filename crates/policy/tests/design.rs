//! `docs/design.md` tells every verdict, every reason to hold a restart back, every outcome and every knob of the rules.

use defib_policy::attempt::Outcome;
use defib_policy::sample::Observation;
use defib_policy::verdict::{Held, Verdict};

const DESIGN: &str = include_str!("../../../docs/design.md");

#[test]
fn the_design_tells_every_word_of_the_tables() {
    let verdicts = Verdict::ALL.map(Verdict::label);
    let (held, outcomes) = (Held::ALL.map(Held::label), Outcome::ALL.map(Outcome::label));
    for word in verdicts.iter().chain(&held).chain(&outcomes) {
        assert!(DESIGN.contains(&format!("`{word}`")), "docs/design.md does not tell what `{word}` is");
    }
    for observation in Observation::LABELS {
        assert!(
            DESIGN.contains(&format!("\n| {observation} | ")),
            "section 4.1 does not tell what {observation} means"
        );
    }
}

/// The knobs whose default or bound decides a verdict. `docs/configuration.md` has the table of all.
#[test]
fn the_design_tells_every_knob_of_the_rules() {
    for knob in [
        "POLL_INTERVAL",
        "HEARTBEAT_INTERVAL",
        "RECENT_MIN",
        "RECENT_MAX",
        "DEAD_THRESHOLD",
        "DEAD_WINDOW",
        "PROBE_SPACING",
        "PROBE_TTL",
        "PROBE_MAP_MAX",
        "MISSING_GRACE",
        "BUSY_GRACE",
        "WEDGED_AFTER",
        "WEDGED_ACTION",
        "UNHEALTHY_ACTION",
        "SETTLE",
        "BACKOFF_INITIAL",
        "BACKOFF_MAX",
        "BACKOFF_RESET",
        "EXHAUSTED_AFTER",
        "EXHAUSTED_RETRY",
        "STORM_FRACTION",
        "STORM_MIN",
        "STORM_COOLDOWN",
    ] {
        let named = ["`", "="].iter().any(|end| DESIGN.contains(&format!("`DEFIB_{knob}{end}")));
        assert!(named, "docs/design.md does not name DEFIB_{knob}");
    }
}
