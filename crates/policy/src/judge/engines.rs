//! What is remembered of an engine between passes: whether it was away, its identity, and how long we wait for its own restart policies.
//!
//! An engine that was away and is back gets one dead window in which its own restart policies may act before ours (its amnesty). The window
//! begins again with each container that comes up by itself, and with each further absence of the engine. Both are bounded, because a
//! connection to the engine that breaks every few seconds must not keep anybody dead:
//!
//! - if an engine seems to come back again and again, but only because a list of its containers failed in between, these returns share ten
//!   windows, until the engine has answered for ten windows without a break. An engine that really restarted (its event stream ended as
//!   well) gets ten new windows;
//! - no workspace waits longer than ten windows after it went down, whatever the engine does ([`EngineTrack::waits_for_its_engine`]).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{EngineEvidence, Judge, Look};
use crate::abilities::Abilities;
use crate::id::EngineName;
use crate::moment::{Moment, Timestamp};
use crate::sample::Fault;
use crate::storm::StormGuard;
use crate::track::ReadStamp;

/// How many dead windows, at most, we wait for an engine's own restart policies. Larger: an unsteady engine keeps its dead workspaces down
/// for longer. Smaller: we restart containers that an engine with hundreds of them would have started itself.
const AMNESTY_WINDOWS_MAX: u32 = 10;

/// One engine between passes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct EngineTrack {
    /// Whether it could be reached; `None` until it was asked.
    pub(super) up: Option<bool>,
    /// The identity that is believed: what is absent from an engine with another identity is not held to be missing.
    pub(super) identity: Option<String>,
    /// The identity that it told last.
    pub(super) heard: Option<String>,
    /// Whether it now tells another identity than the one that is believed.
    pub(super) is_other: bool,
    /// Its clock minus the database's, in microseconds.
    pub(super) offset: i64,
    /// What its kind is able to do.
    pub(super) abilities: Abilities,
    /// Until then its own restart policies go first.
    pub(super) amnesty_until: Moment,
    /// The first of the returns that share one bound.
    returned_at: Moment,
    /// The last return.
    last_return: Moment,
    /// When it was last seen to come back, on its own clock.
    pub(super) back_at: Option<Timestamp>,
    /// Its workspaces in the last read of the whole fleet.
    pub(super) watched: usize,
    /// How many of them are down: stopped, missing, or under the engine's hands.
    pub(super) down: usize,
    /// Since when this replica has owned it; `None`: it did not at the last look.
    pub(super) ours_since: Option<Moment>,
    pub(super) storm: StormGuard,
}

impl EngineTrack {
    /// Takes note that it was away and is back. `surely` says that it really restarted, and was not merely out of our reach.
    fn returns(&mut self, now: Moment, window: Duration, surely: bool) {
        let calm = self.amnesty_until == Moment::ZERO || now - self.last_return >= window * AMNESTY_WINDOWS_MAX;
        if surely || calm {
            self.returned_at = now;
        }
        self.last_return = now;
        self.extend_amnesty(now, window);
    }

    /// A container came up by itself, so the engine's restart policies are still at work: the amnesty begins again.
    pub(super) fn goes_on_starting(&mut self, now: Moment, window: Duration) {
        if now < self.amnesty_until {
            self.extend_amnesty(now, window);
        }
    }

    fn extend_amnesty(&mut self, now: Moment, window: Duration) {
        self.amnesty_until = (now + window).min(self.returned_at + window * AMNESTY_WINDOWS_MAX);
    }

    /// Until when a container with a restart policy of its own, down for `down_for`, is left to its engine. `None`: we may restart it now.
    pub(super) fn waits_for_its_engine(&self, now: Moment, down_for: Duration, window: Duration) -> Option<Moment> {
        let longest = window * AMNESTY_WINDOWS_MAX;
        let until = self.amnesty_until.min(now + longest.saturating_sub(down_for));
        (now < until).then_some(until)
    }
}

impl Judge {
    /// Takes note of what a pass learned about the engine itself: whether it is back, and whether it is the one that we know. That a
    /// container is missing from another engine proves nothing.
    pub(super) fn observe_engine(
        &mut self,
        name: &EngineName,
        evidence: &EngineEvidence,
        stamp: ReadStamp,
        now: Moment,
    ) {
        let window = self.health.stretch(self.settings.dead_window);
        let engine = self.engines.entry(name.clone()).or_default();
        engine.abilities = evidence.abilities;
        if let Some(fault) = evidence.fault {
            // Only a connection that could not be made or was cut says that the engine was away; one that answers badly
            // is up, and its restart policies have no reason to act.
            if fault == Fault::Unreachable {
                engine.up = Some(false);
            }
            return;
        }
        let mut back = evidence.restarted || engine.up == Some(false);
        engine.up = Some(true);
        if let Some(offset) = evidence.clock_offset_micros {
            engine.offset = offset;
        }
        if let Some(identity) = &evidence.identity {
            engine.heard = Some(identity.clone());
            match &engine.identity {
                None => engine.identity = Some(identity.clone()),
                Some(known) => {
                    let is_other = known != identity;
                    back |= is_other != engine.is_other;
                    engine.is_other = is_other;
                }
            }
        }
        if back {
            engine.returns(now, window, evidence.restarted);
            engine.back_at = Some(stamp.database_now.shifted(engine.offset));
        }
    }

    /// An engine with another identity that has at least half of the containers is the right one. Then its identity was learned wrongly,
    /// because another daemon answered when we started, or it has been given a new one.
    pub(super) fn recognise_engine(&mut self, name: &EngineName, looks: &[Look<'_>]) {
        let Some(engine) = self.engines.get_mut(name).filter(|engine| engine.is_other) else { return };
        let has = |look: &&Look<'_>| look.sample.is_some_and(|sample| sample.observation.incarnation().is_some());
        let present = looks.iter().filter(has).count();
        if present > 0 && 2 * present >= engine.watched {
            engine.identity.clone_from(&engine.heard);
            engine.is_other = false;
        }
    }
}
