//! Our own health. A detector that is slow itself accuses others.
//!
//! The local health multiplier of Lifeguard (Dadgar, Phillips, Currey: "Lifeguard: Local Health Awareness for More Accurate
//! Failure Detection", 2018): each sign that we are the slow one raises it, each clean tick lowers it, and spacing, windows
//! and grace times are multiplied by it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The multiplier never exceeds this.
const MULTIPLIER_MAX: u32 = 8;

/// A multiplier from 1 (well) to 8 (do not trust yourself).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalHealth {
    multiplier: u32,
}

impl Default for LocalHealth {
    fn default() -> Self {
        Self { multiplier: 1 }
    }
}

impl LocalHealth {
    /// The multiplier.
    #[must_use]
    pub const fn multiplier(self) -> u32 {
        self.multiplier
    }

    /// A duration, stretched by the multiplier.
    #[must_use]
    pub fn stretch(self, duration: Duration) -> Duration {
        duration.saturating_mul(self.multiplier)
    }

    /// Takes note of a tick of the whole fleet: clean, or with a late start, or a slow or failed call in it.
    pub fn tick(&mut self, clean: bool) {
        self.multiplier =
            if clean { self.multiplier.saturating_sub(1).max(1) } else { (self.multiplier + 1).min(MULTIPLIER_MAX) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_multiplier_rises_to_eight_falls_to_one_and_stretches_in_between() {
        let mut health = LocalHealth::default();
        assert_eq!(health.stretch(Duration::from_secs(3)), Duration::from_secs(3));
        let risen: Vec<u32> = (0..9)
            .map(|_| {
                health.tick(false);
                health.multiplier()
            })
            .collect();
        assert_eq!(risen, [2, 3, 4, 5, 6, 7, 8, 8, 8]);
        assert_eq!(health.stretch(Duration::from_secs(3)), Duration::from_secs(24));
        let fallen: Vec<u32> = (0..9)
            .map(|_| {
                health.tick(true);
                health.multiplier()
            })
            .collect();
        assert_eq!(fallen, [7, 6, 5, 4, 3, 2, 1, 1, 1]);
    }
}
