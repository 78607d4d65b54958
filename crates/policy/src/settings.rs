//! The knobs that the rules read (`docs/configuration.md` has all knobs), with their defaults, and the combinations that cannot work.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What to do with a workspace that runs but shows a fault (`DEFIB_WEDGED_ACTION`, `DEFIB_UNHEALTHY_ACTION`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing is done, and the workspace does not even get a verdict for it.
    Ignore,
    /// The verdict is reported, and nothing is restarted.
    Report,
    /// The verdict is reported, and the workspace is restarted once a second witness agrees.
    Restart,
}

/// Whether verdicts have consequences (`DEFIB_MODE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// defib judges, and restarts what is dead.
    Enforce,
    /// defib judges and records, and restarts nothing.
    Observe,
}

impl Mode {
    /// The mode as `DEFIB_MODE` has it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// What is made of a container that exited with code 0 (`on_exit_0` in a workspace's own settings).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExit0 {
    /// The workspace died as it would have with any other code, and is restarted.
    #[default]
    Restart,
    /// The workspace has finished its work, and is left as it is.
    Leave,
}

/// Everything by which the rules can be tuned. The fields have the names of the `DEFIB_*` variables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// How often the fleet is read. After a gap of more than two intervals between reads, heartbeats are no witness for a while.
    pub poll_interval: Duration,
    /// The heartbeat interval that is assumed of a workspace until its own has been learned.
    pub heartbeat_interval: Duration,
    /// The shortest window in which a heartbeat counts as fresh, however often a workspace beats.
    pub recent_min: Duration,
    /// The longest window in which a heartbeat counts as fresh, however seldom a workspace beats.
    pub recent_max: Duration,
    /// How many spaced misses convict a workspace whose heartbeat does not accuse it as well. A number below 2 would be a single witness.
    pub dead_threshold: u32,
    /// How long a time may lie between the first and the last of these misses.
    pub dead_window: Duration,
    /// Two samples that are closer together than this count as one.
    pub probe_spacing: Duration,
    /// How long the misses of a workspace are remembered when no new one is added.
    pub probe_ttl: Duration,
    /// How many workspaces the probe map has room for.
    pub probe_map_max: usize,
    /// How long a container must be missing before its absence counts as evidence.
    pub missing_grace: Duration,
    /// How long a workspace with active tasks may go without a heartbeat before it is `silent` rather than `busy`.
    pub busy_grace: Duration,
    /// How long a running container may go without a heartbeat before it is `wedged`.
    pub wedged_after: Duration,
    /// What is done with a `wedged` workspace.
    pub wedged_action: Action,
    /// What is done with a workspace whose health check fails.
    pub unhealthy_action: Action,
    /// How long a new incarnation may take until its first heartbeat.
    pub settle: Duration,
    /// The longest delay before the second attempt. The delay itself is drawn at random.
    pub backoff_initial: Duration,
    /// The longest delay before any attempt.
    pub backoff_max: Duration,
    /// How long a workspace must have been well before its attempts are forgotten.
    pub backoff_reset: Duration,
    /// How many attempts in a row may end without a verified recovery before a workspace is `exhausted`.
    pub exhausted_after: u32,
    /// How long an `exhausted` workspace waits for its next attempt.
    pub exhausted_retry: Duration,
    /// A storm begins when more than this fraction of an engine's watched workspaces die within one dead window, and more than `storm_min`.
    pub storm_fraction: f64,
    /// A storm needs more deaths than this, however small the engine is.
    pub storm_min: u32,
    /// A storm ends when this time has passed without another death.
    pub storm_cooldown: Duration,
    /// Whether verdicts lead to restarts.
    pub mode: Mode,
    /// What an exit with code 0 means. It is no knob of the daemon: only the settings of a single workspace change it.
    pub on_exit_0: OnExit0,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(30),
            recent_min: Duration::from_secs(15),
            recent_max: Duration::from_secs(600),
            dead_threshold: 2,
            dead_window: Duration::from_secs(30),
            probe_spacing: Duration::from_secs(1),
            probe_ttl: Duration::from_secs(120),
            probe_map_max: 100_000,
            missing_grace: Duration::from_secs(15),
            busy_grace: Duration::from_secs(180),
            wedged_after: Duration::from_secs(600),
            wedged_action: Action::Report,
            unhealthy_action: Action::Report,
            settle: Duration::from_secs(30),
            backoff_initial: Duration::from_secs(10),
            backoff_max: Duration::from_secs(300),
            backoff_reset: Duration::from_secs(600),
            exhausted_after: 5,
            exhausted_retry: Duration::from_secs(1_800),
            storm_fraction: 0.2,
            storm_min: 3,
            storm_cooldown: Duration::from_secs(120),
            mode: Mode::Enforce,
            on_exit_0: OnExit0::Restart,
        }
    }
}

impl Settings {
    /// How far back the ledger must be read for the back-off: as long as an attempt can be the last of a run that goes on.
    #[must_use]
    pub fn attempts_horizon(&self) -> Duration {
        self.backoff_reset + 2 * self.exhausted_retry.max(self.backoff_max)
    }

    /// Every combination of knobs that cannot work, one sentence each, naming the variables. Empty when all is well.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut refuse = |broken: bool, why: &str| {
            if broken {
                faults.push(why.to_owned());
            }
        };
        refuse(self.dead_threshold < 2, "DEFIB_DEAD_THRESHOLD must be at least 2: one miss would be a single witness");
        refuse(
            self.recent_min > self.recent_max,
            "DEFIB_RECENT_MIN must not exceed DEFIB_RECENT_MAX: there is no window between them",
        );
        refuse(
            self.recent_max < 2 * self.heartbeat_interval,
            "DEFIB_RECENT_MAX must be at least twice DEFIB_HEARTBEAT_INTERVAL: a healthy workspace would look stale \
             between two heartbeats",
        );
        refuse(
            self.probe_spacing * self.dead_threshold.saturating_sub(1) >= self.dead_window,
            "DEFIB_DEAD_WINDOW must be longer than (DEFIB_DEAD_THRESHOLD - 1) x DEFIB_PROBE_SPACING: that many spaced \
             misses would never fit into it",
        );
        refuse(
            self.probe_ttl < self.dead_window,
            "DEFIB_PROBE_TTL must not be shorter than DEFIB_DEAD_WINDOW: misses would be forgotten before they count",
        );
        refuse(
            self.backoff_initial > self.backoff_max,
            "DEFIB_BACKOFF_INITIAL must not exceed DEFIB_BACKOFF_MAX: the delay could not grow",
        );
        refuse(
            self.busy_grace > self.wedged_after,
            "DEFIB_BUSY_GRACE must not exceed DEFIB_WEDGED_AFTER: a workspace would be wedged before it stops being busy",
        );
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_together() {
        assert_eq!(Settings::default().faults(), Vec::<String>::new());
    }

    #[test]
    fn every_impossible_combination_is_named_and_all_at_once() {
        let second = Duration::from_secs(1);
        let impossible = Settings {
            dead_threshold: 1,
            recent_min: Duration::from_secs(30),
            recent_max: Duration::from_secs(20),
            dead_window: Duration::ZERO,
            backoff_initial: 2 * second,
            backoff_max: second,
            busy_grace: 2 * second,
            wedged_after: second,
            ..Settings::default()
        };
        let faults = impossible.faults();
        assert_eq!(faults.len(), 6, "{faults:#?}");
        let ttl = Settings { probe_ttl: second, ..Settings::default() }.faults();
        assert!(ttl[0].contains("DEFIB_PROBE_TTL"), "{ttl:?}");
    }

    #[test]
    fn each_bound_is_exact() {
        let fine = Settings {
            recent_min: Duration::from_secs(60),
            recent_max: Duration::from_secs(60),
            probe_spacing: Duration::from_secs(10),
            dead_threshold: 3,
            dead_window: Duration::from_millis(20_001),
            probe_ttl: Duration::from_millis(20_001),
            backoff_initial: Duration::from_secs(5),
            backoff_max: Duration::from_secs(5),
            busy_grace: Duration::from_secs(600),
            ..Settings::default()
        };
        assert_eq!(fine.faults(), Vec::<String>::new());
        assert_eq!(Settings { dead_window: Duration::from_secs(20), ..fine.clone() }.faults().len(), 1);
        assert_eq!(Settings { recent_max: Duration::from_millis(59_999), ..fine }.faults().len(), 2);
    }

    #[test]
    fn each_fault_begins_one_step_beyond_its_bound_and_names_its_variable() {
        let base = Settings::default;
        let seconds = Duration::from_secs;
        for (broken, variable) in [
            (Settings { dead_threshold: 1, ..base() }, "DEFIB_DEAD_THRESHOLD must"),
            (Settings { recent_min: Duration::from_millis(600_001), ..base() }, "DEFIB_RECENT_MIN must"),
            (Settings { heartbeat_interval: Duration::from_millis(300_001), ..base() }, "DEFIB_RECENT_MAX must"),
            (Settings { probe_spacing: seconds(30), ..base() }, "DEFIB_DEAD_WINDOW must"),
            (Settings { probe_ttl: Duration::from_millis(29_999), ..base() }, "DEFIB_PROBE_TTL must"),
            (Settings { backoff_initial: Duration::from_millis(300_001), ..base() }, "DEFIB_BACKOFF_INITIAL must"),
            (Settings { busy_grace: Duration::from_millis(600_001), ..base() }, "DEFIB_BUSY_GRACE must"),
        ] {
            let faults = broken.faults();
            assert!(faults.len() == 1 && faults[0].starts_with(variable), "{variable}: {faults:?}");
        }
    }

    #[test]
    fn the_ledger_is_read_back_for_the_reset_and_twice_the_longest_pause() {
        assert_eq!(Settings::default().attempts_horizon(), Duration::from_secs(600 + 2 * 1_800));
        let slow = Settings { backoff_max: Duration::from_secs(2_000), ..Settings::default() };
        assert_eq!(slow.attempts_horizon(), Duration::from_secs(600 + 2 * 2_000));
    }

    #[test]
    fn a_mode_has_the_word_of_its_knob() {
        assert_eq!([Mode::Enforce, Mode::Observe].map(Mode::label), ["enforce", "observe"]);
    }
}
