//! What `defib status` tells operators about a storm.

use std::time::Duration;

use super::StormGuard;
use crate::id::{EngineName, WorkspaceId};
use crate::moment::Moment;

/// A storm as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StormPortrait {
    /// How long ago it began.
    pub since: Duration,
    /// How many restarts the present round lets through.
    pub batch: usize,
    /// The workspaces that were let through in this round and whose recovery is not yet verified, sorted.
    pub canaries: Vec<WorkspaceId>,
    /// How many whose restart is due wait for a later round.
    pub waiting: usize,
}

impl StormGuard {
    /// The storm as it stands, where those who wait are counted on one engine (`None`: on all of them). `None`: there is no storm.
    #[must_use]
    pub fn portrait(&self, now: Moment, engine: Option<&EngineName>) -> Option<StormPortrait> {
        let storm = self.storm.as_ref()?;
        let mut canaries: Vec<WorkspaceId> = storm.round.outstanding().cloned().collect();
        canaries.sort();
        Some(StormPortrait {
            since: now - storm.began,
            batch: storm.round.size(),
            canaries,
            waiting: storm.queue.waiting(engine),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use crate::storm::{Canary, Scale};

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(1_000 + seconds))
    }

    #[test]
    fn a_storm_tells_since_when_how_many_go_at_once_who_is_under_way_and_how_many_wait_where() {
        let (x, y) = (EngineName::from("x"), EngineName::from("y"));
        let ids: Vec<WorkspaceId> = (0..6).map(|n| format!("w{n}").into()).collect();
        let mut guard = StormGuard::default();
        assert_eq!(guard.portrait(at(0), None), None);
        for id in &ids {
            let scale = Scale { scope: None, watched: 6, window: Duration::from_secs(30), hour: 0 };
            guard.death(id, at(0), scale, &Settings::default());
        }
        for (n, id) in ids.iter().enumerate() {
            guard.waits(id, if n < 5 { &x } else { &y }, at(0), None);
        }
        for id in [&ids[3], &ids[1]] {
            let span = Duration::from_secs(60);
            guard.release(id, Canary { life: None, attempt_before: None, span, released_at: at(5) });
        }
        let told = |waiting| {
            let canaries = vec![ids[1].clone(), ids[3].clone()];
            Some(StormPortrait { since: Duration::from_secs(40), batch: 3, canaries, waiting })
        };
        assert_eq!(guard.portrait(at(40), None), told(4));
        assert_eq!(guard.portrait(at(40), Some(&x)), told(3));
        assert_eq!(guard.portrait(at(40), Some(&y)), told(1));
    }
}
