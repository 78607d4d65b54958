//! `--set key=value`: settings that a replay judges by instead of the recorded ones.

use std::time::Duration;

use defib_policy::judge::OwnSettings;
use defib_policy::settings::{Action, Settings};

use crate::contender::{Unknown, nearest};

/// A setting that may be replaced.
struct Key {
    name: &'static str,
    parse: fn(&mut Settings, &str) -> Option<()>,
    same: fn(&Settings, &Settings) -> bool,
    copy: fn(&Settings, &mut Settings),
    form: &'static str,
}

macro_rules! keys {
    ($($name:ident: $parse:ident, $form:literal;)*) => {
        const KEYS: &[Key] = &[$(Key {
            name: stringify!($name),
            parse: |settings, text| { settings.$name = $parse(text)?; Some(()) },
            same: |a, b| PartialEq::eq(&a.$name, &b.$name),
            copy: |from, to| to.$name = from.$name,
            form: $form,
        },)*];
    };
}

keys! {
    heartbeat_interval: duration, "a duration such as 30s";
    recent_min: duration, "a duration such as 15s";
    recent_max: duration, "a duration such as 10m";
    dead_threshold: number, "a whole number";
    dead_window: duration, "a duration such as 30s";
    probe_spacing: duration, "a duration such as 1s";
    probe_ttl: duration, "a duration such as 2m";
    probe_map_max: number, "a whole number";
    missing_grace: duration, "a duration such as 15s";
    busy_grace: duration, "a duration such as 3m";
    wedged_after: duration, "a duration such as 10m";
    wedged_action: action, "report or restart";
    unhealthy_action: action, "ignore, report or restart";
    settle: duration, "a duration such as 30s";
    backoff_initial: duration, "a duration such as 10s";
    backoff_max: duration, "a duration such as 5m";
    backoff_reset: duration, "a duration such as 10m";
    exhausted_after: number, "a whole number";
    exhausted_retry: duration, "a duration such as 30m";
    storm_fraction: fraction, "a number from 0 to 1";
    storm_min: number, "a whole number";
    storm_cooldown: duration, "a duration such as 2m";
}

/// The settings that are no keys, each with the reason.
const NOT_REPLACED: [(&str, &str); 3] = [
    ("mode", "a backtest always asks what would have been restarted"),
    ("poll_interval", "the recording has the polls that were made, and no others"),
    ("on_exit_0", "only single workspaces have it, in the policy of their row or in a label"),
];

fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.parse().ok()
}

fn fraction(text: &str) -> Option<f64> {
    text.parse().ok().filter(|it| (0.0..=1.0).contains(it))
}

fn action(text: &str) -> Option<Action> {
    match text {
        "ignore" => Some(Action::Ignore),
        "report" => Some(Action::Report),
        "restart" => Some(Action::Restart),
        _ => None,
    }
}

/// Replacements, checked.
#[derive(Clone, Debug, Default)]
pub struct Changes(Vec<(usize, String)>);

impl Changes {
    /// Reads `key=value` pairs. A key is the name of a knob without its `DEFIB_`, in any case.
    ///
    /// # Errors
    /// A key does not exist (the message names the nearest one that does), or a value is invalid.
    pub fn parse(pairs: &[String]) -> Result<Self, Unknown> {
        let mut changes = Vec::new();
        for pair in pairs {
            let Some((given, value)) = pair.split_once('=') else {
                return Err(Unknown(format!("--set {pair} has no value: write it as --set dead_threshold=3")));
            };
            let lower = given.trim().to_ascii_lowercase();
            let key = lower.strip_prefix("defib_").unwrap_or(&lower);
            if let Some((_, why)) = NOT_REPLACED.iter().find(|(name, _)| *name == key) {
                return Err(Unknown(format!("--set {given} cannot be replaced in a recording: {why}")));
            }
            let Some(place) = KEYS.iter().position(|it| it.name == key) else {
                let hint = nearest(key, KEYS.iter().map(|it| it.name));
                let hint = hint.map_or_else(
                    || format!("the keys are {}", KEYS.iter().map(|it| it.name).collect::<Vec<_>>().join(", ")),
                    |name| format!("did you mean {name}?"),
                );
                return Err(Unknown(format!("--set {given}: there is no such setting: {hint}")));
            };
            let value = value.trim();
            if (KEYS[place].parse)(&mut Settings::default(), value).is_none() {
                return Err(Unknown(format!("--set {given}={value}: give {}", KEYS[place].form)));
            }
            changes.retain(|(other, _)| *other != place);
            changes.push((place, value.to_owned()));
        }
        Ok(Self(changes))
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The settings with the replacements.
    #[must_use]
    pub fn applied(&self, settings: &Settings) -> Settings {
        let mut changed = settings.clone();
        for (place, value) in &self.0 {
            let _ = (KEYS[*place].parse)(&mut changed, value);
        }
        changed
    }

    /// The settings of a single workspace: its own stay, and the fleet's in them are replaced.
    #[must_use]
    pub(crate) fn applied_to(&self, own: &OwnSettings, recorded: &Settings) -> OwnSettings {
        let fleet = self.applied(recorded);
        let mut changed = own.clone();
        for (place, _) in &self.0 {
            if (KEYS[*place].same)(&own.settings, recorded) {
                (KEYS[*place].copy)(&fleet, &mut changed.settings);
            }
        }
        changed
    }

    /// As text: `dead_threshold=3, settle=1m`.
    #[must_use]
    pub fn text(&self) -> String {
        let pairs: Vec<String> = self.0.iter().map(|(place, value)| format!("{}={value}", KEYS[*place].name)).collect();
        pairs.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[&str]) -> Result<Changes, String> {
        let pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
        Changes::parse(&pairs).map_err(|error| error.0)
    }

    #[test]
    fn keys_are_replaced_and_misspelt_ones_are_refused_with_the_nearest() {
        let changes = parse(&["dead_threshold=3", "DEFIB_SETTLE=1m", "dead_threshold=4"]).expect("good ones");
        let applied = changes.applied(&Settings::default());
        assert_eq!((applied.dead_threshold, applied.settle), (4, Duration::from_secs(60)));
        assert_eq!(changes.text(), "settle=1m, dead_threshold=4");
        let refused = |pair: &str| parse(&[pair]).expect_err("refused");
        assert!(refused("dead_treshold=3").contains("did you mean dead_threshold?"));
        assert!(refused("dead_threshold=many").contains("give a whole number"));
        assert!(refused("dead_threshold").contains("has no value"));
        assert!(refused("poll_interval=1s").contains("cannot be replaced"));
    }

    #[test]
    fn each_setting_of_the_rules_can_be_replaced_or_is_refused_with_a_reason() {
        // The derived `Debug` names each field once, at the beginning of a line.
        let all = format!("{:#?}", Settings::default());
        let is_field = |line: &&str| line.starts_with("    ") && !line.starts_with("     ");
        let fields = all.lines().filter(is_field).filter_map(|line| line.trim().split_once(": "));
        let missing: Vec<&str> = fields
            .map(|(name, _)| name)
            .filter(|name| !KEYS.iter().any(|key| key.name == *name))
            .filter(|name| !parse(&[&format!("{name}=1")]).expect_err("no key").contains("cannot be replaced"))
            .collect();
        assert_eq!(missing, Vec::<&str>::new());
        assert!(all.lines().filter(is_field).count() > 20, "the fields were not found: {all}");
    }

    #[test]
    fn what_a_workspace_has_of_its_own_stays() {
        let recorded = Settings::default();
        let settings = Settings { settle: Duration::from_secs(300), ..recorded.clone() };
        let own = OwnSettings { settings, described: Vec::new() };
        let changes = parse(&["settle=1m", "dead_threshold=3"]).expect("good ones");
        let mine = changes.applied_to(&own, &recorded).settings;
        assert_eq!((mine.settle, mine.dead_threshold), (Duration::from_secs(300), 3));
    }
}
