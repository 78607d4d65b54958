//! A judge that goes on with other settings: a backtest takes the memory of a recorded judge and asks what it would have said with them.

use super::Judge;
use crate::settings::Settings;

impl Judge {
    /// The same judge with other settings, from now on.
    #[must_use]
    pub fn with_settings(self, settings: Settings) -> Self {
        let probes = self.probes.bounded(settings.probe_ttl, settings.probe_map_max);
        Self { settings, probes, ..self }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn from_now_on_it_judges_by_the_other_settings() {
        let other = Settings { settle: Duration::from_secs(7), probe_map_max: 3, ..Settings::default() };
        assert_eq!(Judge::new(Settings::default()).with_settings(other.clone()).settings(), &other);
    }
}
