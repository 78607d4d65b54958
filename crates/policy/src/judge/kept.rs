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
