//! The shared read of the fleet: the only thing that the passes of all engines have in common.
//!
//! If it fails, nobody is judged: the workers are not woken, and what they still have is the read before, on which they judge only whom
//! an event or a suspicion names, after a read of its row.

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
        // After the new read is published: who is not in it is no longer this replica's by the row, but by what is recorded.
        self.recorder.forget(departed.iter().map(|departed| &departed.id));
        self.leases.follow_moves(fleet.moved_since(&before)).await
    }
}
