//! What one workspace may be judged by instead of the fleet's knobs: a row's `policy` column, or `defib.*` labels of its
//! container. Both are written by others, so each setting is checked by itself: a bad one is reported and the default holds.

use std::time::Duration;

use crate::settings::{Action, Mode, OnExit0, Settings};

/// Settings of one workspace. Absent ones are the fleet's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `threshold`: spaced misses that convict, 2 to 100.
    pub threshold: Option<u32>,
    /// `window`: the misses must lie within this.
    pub window: Option<Duration>,
    /// `spacing`: samples closer than this are one.
    pub spacing: Option<Duration>,
    /// `settle`: how long a new incarnation may take until its first heartbeat.
    pub settle: Option<Duration>,
    /// `wedged_action`: `report` or `restart`.
    pub wedged_action: Option<Action>,
    /// `mode`: `enforce` or `observe`.
    pub mode: Option<Mode>,
    /// `on_exit_0`: `restart` or `leave`.
    pub on_exit_0: Option<OnExit0>,
}

/// Every key that a workspace's own settings may have.
pub const KEYS: [&str; 7] = ["threshold", "window", "spacing", "settle", "wedged_action", "mode", "on_exit_0"];

impl Overrides {
    /// Reads one setting. The caller parses durations, because it knows their notation: `duration` is `value` read as a duration.
    ///
    /// # Errors
    /// A sentence that names the key and says which values are allowed. Nothing is changed then.
    pub fn set(&mut self, key: &str, value: &str, duration: Option<Duration>) -> Result<(), String> {
        let value = value.trim();
        let within = |min: Duration, max: Duration| {
            duration
                .filter(|duration| (min..=max).contains(duration))
                .map(Some)
                .ok_or_else(|| format!("{key}={value} is not a duration from {min:?} to {max:?}"))
        };
        let day = Duration::from_secs(86_400);
        match key {
            "threshold" => {
                let number = value.parse().ok().filter(|number| (2..=100).contains(number));
                self.threshold =
                    Some(number.ok_or_else(|| format!("{key}={value} is not a whole number from 2 to 100"))?);
            }
            "window" => self.window = within(Duration::from_millis(100), day)?,
            "spacing" => self.spacing = within(Duration::from_millis(50), Duration::from_secs(3_600))?,
            "settle" => self.settle = within(Duration::ZERO, day)?,
            "wedged_action" => {
                self.wedged_action = Some(match value {
                    "report" => Action::Report,
                    "restart" => Action::Restart,
                    _ => return Err(format!("{key}={value} is not one of: report, restart")),
                });
            }
            "mode" => {
                self.mode = Some(match value {
                    "enforce" => Mode::Enforce,
                    "observe" => Mode::Observe,
                    _ => return Err(format!("{key}={value} is not one of: enforce, observe")),
                });
            }
            "on_exit_0" => {
                self.on_exit_0 = Some(match value {
                    "restart" => OnExit0::Restart,
                    "leave" => OnExit0::Leave,
                    _ => return Err(format!("{key}={value} is not one of: restart, leave")),
                });
            }
            _ => return Err(format!("{key} is not a setting of a workspace: there are {}", KEYS.join(", "))),
        }
        Ok(())
    }

    /// These settings, and those of `other` where these are absent.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            threshold: self.threshold.or(other.threshold),
            window: self.window.or(other.window),
            spacing: self.spacing.or(other.spacing),
            settle: self.settle.or(other.settle),
            wedged_action: self.wedged_action.or(other.wedged_action),
            mode: self.mode.or(other.mode),
            on_exit_0: self.on_exit_0.or(other.on_exit_0),
        }
    }

    /// The fleet's settings with these in their place.
    ///
    /// # Errors
    /// The combinations that cannot work together with the fleet's settings. Then none of the workspace's own settings is used.
    pub fn apply(&self, fleet: &Settings) -> Result<Settings, Vec<String>> {
        let settings = Settings {
            dead_threshold: self.threshold.unwrap_or(fleet.dead_threshold),
            dead_window: self.window.unwrap_or(fleet.dead_window),
            probe_spacing: self.spacing.unwrap_or(fleet.probe_spacing),
            settle: self.settle.unwrap_or(fleet.settle),
            wedged_action: self.wedged_action.unwrap_or(fleet.wedged_action),
            // A fleet that only observes is not made to act by one of its rows.
            mode: if fleet.mode == Mode::Observe { Mode::Observe } else { self.mode.unwrap_or(fleet.mode) },
            on_exit_0: self.on_exit_0.unwrap_or(fleet.on_exit_0),
            ..fleet.clone()
        };
        let faults = settings.faults();
        if faults.is_empty() { Ok(settings) } else { Err(faults) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str, Option<u64>)]) -> (Overrides, Vec<String>) {
        let (mut overrides, mut faults) = (Overrides::default(), Vec::new());
        for (key, value, seconds) in pairs {
            faults.extend(overrides.set(key, value, seconds.map(Duration::from_secs)).err());
        }
        (overrides, faults)
    }

    #[test]
    fn every_setting_takes_effect_and_absent_ones_are_the_fleets() {
        let (overrides, faults) = set(&[
            ("threshold", "4", None),
            ("window", "60s", Some(60)),
            ("spacing", "5s", Some(5)),
            ("settle", "10m", Some(600)),
            ("wedged_action", "restart", None),
            ("mode", "observe", None),
            ("on_exit_0", "leave", None),
        ]);
        assert_eq!(faults, Vec::<String>::new());
        let fleet = Settings::default();
        let settings = overrides.apply(&fleet).expect("they work together");
        let expected = Settings {
            dead_threshold: 4,
            dead_window: Duration::from_secs(60),
            probe_spacing: Duration::from_secs(5),
            settle: Duration::from_secs(600),
            wedged_action: Action::Restart,
            mode: Mode::Observe,
            on_exit_0: OnExit0::Leave,
            ..fleet.clone()
        };
        assert_eq!(settings, expected);
        assert_eq!(Overrides::default().apply(&fleet), Ok(fleet));
    }

    #[test]
    fn each_word_of_a_setting_has_its_meaning_and_others_are_refused() {
        for (value, action) in [("report", Action::Report), ("restart", Action::Restart)] {
            assert_eq!(set(&[("wedged_action", value, None)]).0.wedged_action, Some(action));
        }
        for (value, mode) in [("enforce", Mode::Enforce), ("observe", Mode::Observe)] {
            assert_eq!(set(&[("mode", value, None)]).0.mode, Some(mode));
        }
        for (value, on_exit_0) in [("restart", OnExit0::Restart), ("leave", OnExit0::Leave)] {
            assert_eq!(set(&[("on_exit_0", value, None)]).0.on_exit_0, Some(on_exit_0));
        }
        assert_eq!(set(&[("on_exit_0", "stop", None)]).1, ["on_exit_0=stop is not one of: restart, leave"]);
    }

    #[test]
    fn a_bad_setting_is_named_and_changes_nothing() {
        let (overrides, faults) = set(&[
            ("threshold", "1", None),
            ("threshold", "101", None),
            ("window", "soon", None),
            ("spacing", "2h", Some(7_200)),
            ("mode", "kill", None),
            ("wedged_action", "ignore", None),
            ("treshold", "3", None),
        ]);
        assert_eq!(overrides, Overrides::default());
        assert_eq!(faults.len(), 7, "{faults:?}");
        assert!(faults[6].contains("treshold is not a setting") && faults[2].contains("window=soon"), "{faults:?}");
        assert_eq!(set(&[("threshold", "2", None), ("threshold", "100", None)]).0.threshold, Some(100));
    }

    #[test]
    fn what_cannot_work_with_the_fleets_knobs_is_refused_as_a_whole() {
        let (overrides, _) = set(&[("spacing", "40s", Some(40))]);
        let faults = overrides.apply(&Settings::default()).expect_err("two misses do not fit into the window");
        assert!(faults[0].contains("DEFIB_DEAD_WINDOW"), "{faults:?}");
    }

    #[test]
    fn an_observing_fleet_is_not_made_to_act_by_a_row() {
        let (overrides, _) = set(&[("mode", "enforce", None)]);
        let observing = Settings { mode: Mode::Observe, ..Settings::default() };
        assert_eq!(overrides.apply(&observing).map(|settings| settings.mode), Ok(Mode::Observe));
    }

    #[test]
    fn the_first_source_wins_setting_by_setting() {
        let (row, _) = set(&[("threshold", "3", None)]);
        let (labels, _) = set(&[("threshold", "5", None), ("settle", "1s", Some(1))]);
        let both = row.or(&labels);
        assert_eq!((both.threshold, both.settle), (Some(3), Some(Duration::from_secs(1))));
    }
}
