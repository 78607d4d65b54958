//! What is known of a workspace besides its verdict. It is written down for people, and for the next process, which need not learn it
//! again.

use std::time::Duration;

use super::Judge;
use crate::cadence::Learned;
use crate::id::{EngineName, WorkspaceId};
use crate::moment::{Moment, Timestamp};
use crate::sample::Incarnation;
use crate::storm::StormPortrait;

/// What is known of one workspace.
#[derive(Clone, Debug, PartialEq)]
pub struct Portrait<'a> {
    /// Its heartbeat interval; `None` until it was learned.
    pub learned: Option<Learned>,
    /// A heartbeat younger than this is fresh.
    pub window: Duration,
    /// The life that was last seen.
    pub life: Option<&'a Incarnation>,
}

impl Judge {
    /// What is known of a workspace; `None`: it is not in the fleet.
    #[must_use]
    pub fn portrait(&self, id: &WorkspaceId) -> Option<Portrait<'_>> {
        let track = self.tracks.get(id)?;
        Some(Portrait {
            learned: track.cadence.learned(),
            window: track.cadence.window(&self.settings),
            life: track.life.as_ref().map(|life| &life.incarnation),
        })
    }

    /// The storm that holds restarts on `engine` (`None`: the fleet's): its own, or else that of the whole fleet. The flag says
    /// whether the fleet is in one. `None`: there is no storm.
    #[must_use]
    pub fn storm(&self, engine: Option<&EngineName>, now: Moment) -> Option<(StormPortrait, bool)> {
        let fleet = self.fleet_storm.portrait(now, engine);
        let own = engine.and_then(|name| self.engines.get(name.as_str())?.storm.portrait(now, engine));
        let is_fleet = fleet.is_some();
        // While the fleet is in a storm, the fleet's guard draws whose turn it is.
        fleet.or(own).map(|storm| (storm, is_fleet))
    }

    /// Adopts what other processes have noticed of steps of the database's clock: stamps up to `comparable_from` may be from before a step.
    /// `None`: there was no step lately. Until this is called, only a heartbeat that was seen to arrive proves that a boot is over.
    pub fn recall_steps(&mut self, comparable_from: Option<Timestamp>) {
        self.pipeline.recall_steps(comparable_from);
    }

    /// What other processes have to be told of steps of the database's clock: see [`Pipeline::comparable_from`].
    ///
    /// [`Pipeline::comparable_from`]: crate::pipeline::Pipeline::comparable_from
    #[must_use]
    pub const fn comparable_from(&self) -> Option<Timestamp> {
        self.pipeline.comparable_from()
    }

    /// Adopts what another process has learned of a workspace of the fleet. Returns whether it was of use.
    pub fn recall(&mut self, id: &WorkspaceId, learned: Learned) -> bool {
        self.tracks.get_mut(id).is_some_and(|track| track.cadence.recall(learned))
    }
}
