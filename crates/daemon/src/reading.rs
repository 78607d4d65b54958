//! The shared read of the fleet: the only thing that the passes of all engines have in common.
//!
//! If it fails, the workers are not woken, and nobody is judged by it. They still have the read before. A workspace that an event or a
//! suspicion names is judged after its row was read by itself.

use std::sync::Arc;

use defib_store::{FleetScope, StoreError};

use crate::database::FleetTables;
use crate::holds::Holds;
use crate::leases::Leases;
use crate::news::News;
use crate::record::Recorder;
use crate::snapshot::Snapshot;
use crate::state::State;

/// Reads the fleet for everybody.
pub(crate) struct Reading {
    pub(crate) state: Arc<State>,
    pub(crate) database: Arc<dyn FleetTables>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) news: Arc<News>,
}

impl Reading {
    /// Reads the fleet, its attempts and the holds, and publishes them.
    pub(crate) async fn read(&self) -> Result<(), StoreError> {
        // After an outage leases have lapsed. They are renewed first, because they decide whether the passes may record what they say.
        let lapsed = self.state.ownership().has_lapsed(self.state.now());
        if lapsed {
            self.leases.turn().await?;
        }
        let (watched, reset) = (&self.state.config.watched_statuses, self.state.config.policy.attempts_horizon());
        let ((read, malformed), attempts, holds) = tokio::try_join!(
            self.database.read_fleet(FleetScope::All, watched),
            self.database.read_attempts(FleetScope::All, reset),
            self.database.holds()
        )?;
        self.news.malformed(malformed);
        let departed = self.state.judge().observe_fleet(&read, true);
        self.state.forget_settings(departed.iter().map(|departed| &departed.id));
        let fleet = Arc::new(Snapshot::new(read, attempts, Holds::new(holds)));
        let before = self.state.publish(Arc::clone(&fleet));
        // This comes after the new read was published: whether a workspace that is not in it is ours then follows from what is recorded of
        // it, and no longer from its row.
        self.recorder.forget(departed.iter().map(|departed| &departed.id));
        self.leases.follow_moves(fleet.moved_since(&before)).await
    }
}
