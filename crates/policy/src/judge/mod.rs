//! The judge: all that is remembered between passes, and the pass itself.
//!
//! ```text
//! observe_fleet ──► observe_engine ──► judge ──► Plan
//!   beats, outages     back? other?      table (opinion.rs) ─► storms ─► holds ─► restarts
//! ```
//!
//! A pass covers the workspaces of one engine, so that an engine that hangs delays no other. Evidence may arrive out of
//! order (a focus overtakes a slow tick): a sample older than the newest one judged is void.

mod by_operator;
mod concern;
mod deadlines;
mod endings;
mod engines;
mod evidence;
mod facts;
mod finished;
mod fleet;
mod kept;
mod looks;
mod opinion;
mod orders;
mod portrait;
mod storms;
mod tracks;

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::by_operator::StormEnded;
pub use self::portrait::Portrait;
use crate::backoff;
use crate::id::{ContainerId, EngineName, WorkspaceId};
use crate::local_health::LocalHealth;
use crate::moment::Moment;
use crate::pipeline::Pipeline;
use crate::plan::Plan;
use crate::probe::ProbeMap;
use crate::settings::Settings;
use crate::storm::StormGuard;
use crate::suspicion::{Pace, Report, SuspicionLog};
pub use crate::track::ReadStamp;
use crate::verdict::{Held, Verdict};
use concern::Concerns;
use endings::Endings;
use engines::EngineTrack;
pub use facts::{Departed, EngineEvidence, Look, OwnSettings};
pub use fleet::Told;
use orders::{Call, Standing, Turn};
use tracks::Tracks;

/// The state of all judging. One per process; its methods take the time and the facts, and never wait.
#[derive(Debug, Serialize, Deserialize)]
pub struct Judge {
    settings: Settings,
    tracks: Tracks,
    probes: ProbeMap,
    pipeline: Pipeline,
    health: LocalHealth,
    suspicions: SuspicionLog,
    engines: HashMap<EngineName, EngineTrack>,
    fleet_storm: StormGuard,
    concerns: Concerns,
    endings: Endings,
    generation: u32,
    watched: usize,
    /// How many of them are running on engines that this replica has owned for long enough: [`Judge::count_ours`].
    reported_to_us: usize,
    counts: [usize; Verdict::ALL.len()],
    exhausted: usize,
}

impl Judge {
    /// A judge that has seen nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let probes = ProbeMap::new(settings.probe_ttl, settings.probe_map_max);
        Self {
            settings,
            tracks: Tracks::default(),
            probes,
            pipeline: Pipeline::default(),
            health: LocalHealth::default(),
            suspicions: SuspicionLog::default(),
            engines: HashMap::new(),
            fleet_storm: StormGuard::default(),
            concerns: Concerns::default(),
            endings: Endings::default(),
            generation: 0,
            watched: 0,
            reported_to_us: 0,
            counts: [0; Verdict::ALL.len()],
            exhausted: 0,
        }
    }

    /// Takes note of a suspicion. It convicts nobody; it may speak as the second witness against one that runs and is silent.
    /// Returns whether the workspace is watched.
    pub fn observe_suspicion(&mut self, id: &WorkspaceId, report: Report<'_>) -> bool {
        let Some(track) = self.tracks.get(id) else { return false };
        let window = track.cadence.window(&self.settings);
        // Two reports of one reporter that lie further apart than the lapse do not belong to the same accusation.
        let pace = Pace { lapse: (4 * window).max(self.settings.wedged_after), spell: 2 * window };
        self.suspicions.report(id, report, pace);
        self.stir(id);
        true
    }

    /// Takes note of a tick of the whole fleet: whether it began in time and all of its calls were quick and answered.
    pub fn observe_tick(&mut self, clean: bool) {
        self.health.tick(clean);
    }

    /// How many workspaces had `DEFIB_EXHAUSTED_AFTER` attempts without a verified recovery or an acknowledgement since. Whatever
    /// their verdict is while they are tried again.
    #[must_use]
    pub const fn exhausted(&self) -> usize {
        self.exhausted
    }

    /// The container last seen for a workspace, for asking its engine directly.
    #[must_use]
    pub fn known_container(&self, id: &WorkspaceId) -> Option<&ContainerId> {
        self.tracks.get(id)?.life.as_ref().map(|life| &life.incarnation.container_id)
    }

    /// The container last seen for a workspace and the verdict on it: what an engine is asked with, at one look.
    #[must_use]
    pub fn known(&self, id: &WorkspaceId) -> (Option<&ContainerId>, Option<Verdict>) {
        let Some(track) = self.tracks.get(id) else { return (None, None) };
        let container = track.life.as_ref().map(|life| &life.incarnation.container_id);
        (container, track.verdict.map(|(verdict, _)| verdict))
    }

    /// Drops what has expired. Returns how many probe entries that were.
    pub fn prune(&mut self, now: Moment) -> usize {
        self.suspicions.prune(now, self.suspicion_memory());
        self.probes.prune(now)
    }

    fn suspicion_memory(&self) -> Duration {
        self.settings.wedged_after.max(2 * self.settings.recent_max)
    }

    /// Judges workspaces of one engine (`None`: external ones) on one read of the fleet.
    pub fn judge(
        &mut self,
        now: Moment,
        stamp: ReadStamp,
        engine: Option<(&EngineName, &EngineEvidence)>,
        looks: &[Look<'_>],
    ) -> Plan {
        let mut plan = Plan { judged: looks.len(), ..Plan::default() };
        if let Some((name, evidence)) = engine {
            self.observe_engine(name, evidence, stamp, now);
            self.recognise_engine(name, looks);
            self.note_owner(name, looks, now);
        }
        let mut calls = Vec::new();
        for look in looks {
            let Some(opinion) = self.opine(now, stamp, look) else { continue };
            let opinion = self.leave_finished(look, opinion);
            if self.counts_for_storm(look, &opinion) {
                self.note_death(now, stamp, engine.map(|(name, _)| name), &look.workspace.id, &mut plan);
            }
            self.observe_canary(now, look, &opinion);
            let in_flight = look.in_flight;
            let mut opinion = opinion;
            if self.note_exhaustion(look) && in_flight && opinion.verdict == Verdict::Dead {
                // An exhausted workspace that is tried again is no new death.
                opinion.verdict = Verdict::Exhausted;
            }
            match opinion.conviction {
                Some(conviction) if !in_flight => {
                    let attempts = self.endings.aged(&look.workspace.id, look.attempts, now);
                    let incarnation = self.incarnation_of(look, conviction);
                    let allowance = backoff::allowance(
                        &attempts,
                        incarnation,
                        self.down_for(now, stamp, look, &opinion),
                        &self.settings,
                    );
                    if allowance.exhausted && !conviction.running {
                        opinion.verdict = Verdict::Exhausted;
                    }
                    self.stir(&look.workspace.id);
                    calls.push(Call { look, opinion, conviction, allowance });
                }
                _ => {
                    self.line_up(now, look, Standing::Idle);
                    let held = (in_flight && look.queued).then_some(Held::Queued);
                    self.settle_opinion(now, look, &opinion, held, None, &mut plan);
                    self.rest(now, look, &opinion);
                }
            }
        }
        let standings: Vec<Standing> = calls.iter().map(|call| self.standing(now, stamp, call)).collect();
        for (call, standing) in calls.iter().zip(&standings) {
            self.line_up(now, call.look, *standing);
        }
        let name = engine.map(|(name, _)| name);
        self.turn_storms(now, name, &mut plan);
        let turns = name.map(|name| self.turns_on(now, name, &calls, &mut plan)).unwrap_or_default();
        for (call, standing) in calls.into_iter().zip(standings) {
            let its_turn = turns.contains(&call.look.workspace.id);
            self.answer(now, stamp, call, Turn { standing, its_turn }, &mut plan);
        }
        plan
    }

    /// Keeps the count of exhausted workspaces. Returns whether this workspace is exhausted.
    fn note_exhaustion(&mut self, look: &Look<'_>) -> bool {
        let exhausted = backoff::is_exhausted(look.attempts, look.settings(&self.settings));
        if let Some(track) = self.tracks.get_mut(&look.workspace.id)
            && std::mem::replace(&mut track.exhausted, exhausted) != exhausted
        {
            self.exhausted = if exhausted { self.exhausted + 1 } else { self.exhausted - 1 };
        }
        exhausted
    }

    /// The knobs in force.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many workspaces have each verdict, in the order of [`Verdict::ALL`].
    #[must_use]
    pub const fn counts(&self) -> &[usize; Verdict::ALL.len()] {
        &self.counts
    }

    /// The verdict on a workspace, if it was judged.
    #[must_use]
    pub fn verdict(&self, id: &WorkspaceId) -> Option<Verdict> {
        self.tracks.get(id).and_then(|track| track.verdict).map(|(verdict, _)| verdict)
    }

    /// The probe map.
    #[must_use]
    pub const fn probes(&self) -> &ProbeMap {
        &self.probes
    }

    /// The local health multiplier.
    #[must_use]
    pub const fn multiplier(&self) -> u32 {
        self.health.multiplier()
    }

    /// Whether a stale heartbeat is held against anybody now.
    #[must_use]
    pub fn heartbeats_usable(&self, now: Moment) -> bool {
        self.pipeline.usable_for(now).0 >= self.settings.recent_min
    }

    /// Whether an engine (`None`: the fleet) is in a storm.
    #[must_use]
    pub fn is_storm(&self, engine: Option<&EngineName>) -> bool {
        match engine {
            None => self.fleet_storm.is_storm(),
            Some(name) => self.engines.get(name).is_some_and(|engine| engine.storm.is_storm()),
        }
    }

    /// Workspaces in the last read of the whole fleet.
    #[must_use]
    pub const fn watched(&self) -> usize {
        self.watched
    }
}
