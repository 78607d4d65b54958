//! The judge: all that is remembered between passes, and the pass itself.
//!
//! ```text
//! observe_fleet ──► observe_engine ──► judge ──► Plan
//!   beats, outages     back? other?      table (opinion.rs) ─► storms ─► holds ─► restarts
//! ```
//!
//! A pass covers the workspaces of one engine, so that an engine that hangs delays no other. Evidence may arrive out of
//! order (a focus overtakes a slow tick): a sample older than the newest one judged is void.

mod decide;
mod evidence;

use std::collections::HashMap;
use std::time::Duration;

use crate::abilities::Abilities;
use crate::attempt::Attempt;
use crate::backoff::{self, Allowance};
use crate::cadence::BeatRead;
use crate::fleet::{FleetRead, Kind, Workspace};
use crate::id::{ContainerId, EngineName, WorkspaceId};
use crate::local_health::LocalHealth;
use crate::moment::{Moment, Timestamp};
use crate::opinion::{Context, Conviction, Opinion};
use crate::pipeline::Pipeline;
use crate::plan::Plan;
use crate::probe::ProbeMap;
use crate::restart::End;
use crate::sample::{Fault, Observation, Sample};
use crate::settings::Settings;
use crate::storm::StormGuard;
use crate::suspicion::SuspicionLog;
pub use crate::track::ReadStamp;
use crate::track::Track;
use crate::verdict::{Held, Rule, Verdict};

/// What a pass learned about an engine as such.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineEvidence {
    /// Why it could not be asked; `None` when it answered.
    pub fault: Option<Fault>,
    /// Its own identity, where it was asked for it.
    pub identity: Option<String>,
    /// It restarted since the last pass, as far as the caller could tell (its socket was gone in between).
    pub restarted: bool,
    /// Its clock minus the database's, in microseconds, where measured.
    pub clock_offset_micros: Option<i64>,
    /// What its kind is able to do.
    pub abilities: Abilities,
}

/// One workspace to judge, with what is known of it.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one workspace, not a state")]
pub struct Look<'a> {
    /// The fleet row.
    pub workspace: &'a Workspace,
    /// What its engine said; `None` for external ones.
    pub sample: Option<&'a Sample>,
    /// Its attempts in the ledger, newest first.
    pub attempts: &'a [Attempt],
    /// A restart of it is being made by this process.
    pub in_flight: bool,
    /// That attempt waits for others on its engine, and has not been claimed yet.
    pub queued: bool,
    /// This replica owns its engine. A replica that does not judges all the same, so that it is warm when it has to take
    /// over, but says and does nothing.
    pub ours: bool,
    /// An operator's hold stands on it, on its engine or on the fleet.
    pub on_hold: bool,
    /// What it is judged by instead of the fleet's knobs, if it has settings of its own.
    pub own: Option<&'a OwnSettings>,
}

/// The settings of one workspace, and where they differ from the fleet's.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnSettings {
    /// The fleet's settings with its own in their place.
    pub settings: Settings,
    /// Its own, as text for the evidence, and what was wrong with them.
    pub described: Vec<String>,
}

impl<'a> Look<'a> {
    /// The settings it is judged by.
    fn settings(self, fleet: &'a Settings) -> &'a Settings {
        self.own.map_or(fleet, |own| &own.settings)
    }
}

/// A workspace that is no longer watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    /// Which.
    pub id: WorkspaceId,
    /// This replica has recorded a verdict on it, which has to be cleared.
    pub recorded: bool,
}

#[derive(Debug, Default)]
struct EngineTrack {
    up: Option<bool>,
    identity: Option<String>,
    /// The identity that it told last.
    heard: Option<String>,
    is_other: bool,
    offset: i64,
    /// Until then its own restart policies go first.
    amnesty_until: Moment,
    /// When it was seen to be back.
    returned_at: Moment,
    back_at: Option<Timestamp>,
    watched: usize,
    storm: StormGuard,
}

/// An engine that goes on starting containers after its return is waited for, up to this many dead windows in all.
const AMNESTY_WINDOWS_MAX: u32 = 10;

impl EngineTrack {
    /// A container came up by itself: while the engine is at that, its restart policies are still at work.
    fn goes_on_starting(&mut self, now: Moment, window: Duration) {
        if now < self.amnesty_until {
            self.amnesty_until = (now + window).min(self.returned_at + window * AMNESTY_WINDOWS_MAX);
        }
    }
}

/// The state of all judging. One per process; its methods take the time and the facts, and never wait.
#[derive(Debug)]
pub struct Judge {
    settings: Settings,
    tracks: HashMap<WorkspaceId, Track>,
    probes: ProbeMap,
    pipeline: Pipeline,
    health: LocalHealth,
    suspicions: SuspicionLog,
    engines: HashMap<EngineName, EngineTrack>,
    fleet_storm: StormGuard,
    generation: u32,
    watched: usize,
    counts: [usize; Verdict::ALL.len()],
    exhausted: usize,
}

/// A call for a restart that the evidence makes, before storms and holds.
struct Call<'a> {
    look: &'a Look<'a>,
    opinion: Opinion,
    conviction: Conviction,
    allowance: Allowance,
}

impl Judge {
    /// A judge who knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let probes = ProbeMap::new(settings.probe_ttl, settings.probe_map_max);
        Self {
            settings,
            tracks: HashMap::new(),
            probes,
            pipeline: Pipeline::default(),
            health: LocalHealth::default(),
            suspicions: SuspicionLog::default(),
            engines: HashMap::new(),
            fleet_storm: StormGuard::default(),
            generation: 0,
            watched: 0,
            counts: [0; Verdict::ALL.len()],
            exhausted: 0,
        }
    }

    /// Takes over the word on a workspace from an earlier process or another replica: `verdict`, since `since`, is what was
    /// recorded of it (alive: nothing is), so the next judgement that says anything else is a change. Its rule is not taken
    /// over: the next judgement gives its own.
    pub fn take_over(&mut self, id: &WorkspaceId, verdict: Verdict, since: Moment) {
        let told = Some((verdict, Rule::NoAnswer, None));
        if let Some(track) = self.tracks.get_mut(id) {
            track.told = told;
            if track.verdict.is_some_and(|(ours, _)| ours == verdict) {
                track.since = track.since.min(since);
            }
        } else if verdict != Verdict::Alive {
            let down = matches!(verdict, Verdict::Suspect | Verdict::Dead | Verdict::Exhausted);
            let track = Track {
                verdict: Some((verdict, Rule::NoAnswer)),
                told,
                since,
                down_since: down.then_some(since),
                ..Track::default()
            };
            self.tracks.insert(id.clone(), track);
            self.counts[verdict.index()] += 1;
        }
    }

    /// Leaves the word on a workspace to another replica: what is recorded of it is no longer known here.
    pub fn hand_over(&mut self, id: &WorkspaceId) {
        if let Some(track) = self.tracks.get_mut(id) {
            track.told = None;
        }
    }

    /// Takes note of a read of the fleet; `whole` says that it was all of it. Returns who is no longer watched.
    pub fn observe_fleet(&mut self, read: &FleetRead, whole: bool) -> Vec<Departed> {
        let previous = self.pipeline.last_read();
        let outage = whole && self.pipeline.observe(read, self.settings.poll_interval);
        if whole {
            self.generation = self.generation.wrapping_add(1);
            self.watched = read.workspaces.len();
            self.engines.values_mut().for_each(|engine| engine.watched = 0);
        }
        let mut stale = 0;
        for workspace in &read.workspaces {
            let track = self
                .tracks
                .entry(workspace.id.clone())
                .or_insert_with(|| Track { known_since: read.at, ..Track::default() });
            track.watched_since.get_or_insert(read.at);
            if outage {
                track.cadence.skip_next_gap();
            }
            let beat = BeatRead {
                at: read.at,
                previous,
                database_now: read.database_now,
                heartbeat: workspace.last_heartbeat_at,
                activity: workspace.last_activity_at,
            };
            track.cadence.observe(beat, &self.settings);
            if whole {
                track.generation = self.generation;
                let age = track.cadence.age(read.at, read.at, read.database_now);
                let window = self.health.stretch(track.cadence.window(&self.settings));
                if !track.container_dead && age.is_some_and(|age| age >= window) {
                    stale += 1;
                }
                match self.engines.get_mut(workspace.engine.as_str()) {
                    Some(engine) => engine.watched += 1,
                    None => {
                        self.engines
                            .insert(workspace.engine.clone(), EngineTrack { watched: 1, ..EngineTrack::default() });
                    }
                }
            }
        }
        if !whole {
            return Vec::new();
        }
        self.pipeline.weigh(read.at, stale, self.watched);
        self.forget_unwatched()
    }

    fn forget_unwatched(&mut self) -> Vec<Departed> {
        let generation = self.generation;
        let mut departed = Vec::new();
        self.tracks.retain(|id, track| {
            let watched = track.generation == generation;
            if !watched {
                let recorded = track.told.is_some_and(|(verdict, ..)| verdict != Verdict::Alive);
                departed.push((Departed { id: id.clone(), recorded }, track.verdict));
                self.exhausted -= usize::from(track.exhausted);
            }
            watched
        });
        departed
            .into_iter()
            .map(|(departed, verdict)| {
                if let Some((verdict, _)) = verdict {
                    self.counts[verdict.index()] -= 1;
                }
                self.probes.clear(&departed.id);
                self.suspicions.clear(&departed.id);
                departed
            })
            .collect()
    }

    /// Takes note of a suspicion reported at `at`. It convicts nobody; it may speak as the second witness against one that
    /// runs and is silent. Returns whether the workspace is watched.
    pub fn observe_suspicion(&mut self, id: &WorkspaceId, reporter: &str, at: Moment) -> bool {
        let Some(track) = self.tracks.get(id) else { return false };
        // Reports of one reporter that lie further apart than this are two stories.
        let lapse = (4 * track.cadence.window(&self.settings)).max(self.settings.wedged_after);
        self.suspicions.report(id, reporter, at, lapse);
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

    /// Takes note of how an order of this judge ended. What it says about the workspace is in the ledger; what it says about a storm
    /// that the workspace is a canary of is decided here.
    pub fn order_ended(&mut self, id: &WorkspaceId, end: End, now: Moment) {
        let _ = (id, end, now);
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
        }
        let mut calls = Vec::new();
        for look in looks {
            let Some(opinion) = self.opine(now, stamp, look) else { continue };
            if self.counts_for_storm(look, &opinion) {
                self.note_death(now, engine.map(|(name, _)| name), &look.workspace.id, &mut plan);
            }
            let in_flight = look.in_flight;
            let mut opinion = opinion;
            if self.note_exhaustion(look) && in_flight && opinion.verdict == Verdict::Dead {
                // The rare try of one that is exhausted is no new death.
                opinion.verdict = Verdict::Exhausted;
            }
            match opinion.conviction {
                Some(conviction) if !in_flight => {
                    let incarnation = self.incarnation_of(look, conviction);
                    let allowance = backoff::allowance(
                        look.attempts,
                        incarnation,
                        self.down_for(now, stamp, look, &opinion),
                        &self.settings,
                    );
                    calls.push(Call { look, opinion, conviction, allowance });
                }
                _ => {
                    let held = (in_flight && look.queued).then_some(Held::Queued);
                    self.settle_opinion(now, look, &opinion, held, None, &mut plan);
                }
            }
        }
        self.turn_storms(now, engine.map(|(name, _)| name), &calls, &mut plan);
        for call in calls {
            self.answer(now, stamp, call, &mut plan);
        }
        plan
    }

    /// Keeps count of those whose attempts were too many and did not help. Returns whether this is one.
    fn note_exhaustion(&mut self, look: &Look<'_>) -> bool {
        let exhausted = backoff::is_exhausted(look.attempts, look.settings(&self.settings));
        if let Some(track) = self.tracks.get_mut(&look.workspace.id)
            && std::mem::replace(&mut track.exhausted, exhausted) != exhausted
        {
            self.exhausted = if exhausted { self.exhausted + 1 } else { self.exhausted - 1 };
        }
        exhausted
    }

    /// Section 4.1: an engine that just came back gets one dead window for its own restart policies, and one with another
    /// identity proves nothing by what it lacks.
    fn observe_engine(&mut self, name: &EngineName, evidence: &EngineEvidence, stamp: ReadStamp, now: Moment) {
        let window = self.health.stretch(self.settings.dead_window);
        let engine = self.engines.entry(name.clone()).or_default();
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
            engine.returned_at = now;
            engine.amnesty_until = now + window;
            engine.back_at = Some(stamp.database_now.shifted(engine.offset));
        }
    }

    /// An engine with another identity that has at least half of the containers is the right one: its identity was learned
    /// wrong (another daemon answered when we started), or was given anew.
    fn recognise_engine(&mut self, name: &EngineName, looks: &[Look<'_>]) {
        let Some(engine) = self.engines.get_mut(name).filter(|engine| engine.is_other) else { return };
        let has = |look: &&Look<'_>| look.sample.is_some_and(|sample| sample.observation.incarnation().is_some());
        let present = looks.iter().filter(has).count();
        if present > 0 && 2 * present >= engine.watched {
            engine.identity.clone_from(&engine.heard);
            engine.is_other = false;
        }
    }

    /// Takes note of one look and asks the table. `None` when the look is void.
    fn opine(&mut self, now: Moment, stamp: ReadStamp, look: &Look<'_>) -> Option<Opinion> {
        let Look { workspace, .. } = *look;
        let (offset, is_other, engine_back_at) = self
            .engines
            .get(workspace.engine.as_str())
            .map_or((0, false, None), |engine| (engine.offset, engine.is_other, engine.back_at));
        let accused = self.suspicions.against(&workspace.id, now, self.suspicion_memory(), self.watched);
        let track = self.tracks.get_mut(&workspace.id)?;
        let context = Context {
            now,
            stamp,
            settings: look.settings(&self.settings),
            pipeline: &self.pipeline,
            health: self.health,
            offset,
            engine_back_at,
            accused,
        };
        if workspace.kind == Kind::External {
            return Some(context.judge_external(track, workspace));
        }
        let sample = look.sample?;
        if sample.at < track.sampled_at {
            return None;
        }
        track.sampled_at = sample.at;
        let elsewhere;
        let mut sample = sample;
        if is_other && sample.observation == Observation::Missing {
            elsewhere = Sample { at: sample.at, observation: Observation::Unknown { fault: Fault::OtherEngine } };
            sample = &elsewhere;
        }
        let new_life = note_sample(track, sample, stamp, offset);
        if new_life || matches!(sample.observation, Observation::Frozen { .. }) {
            // What was said of the life before, or while somebody had it frozen, says nothing about this one.
            self.suspicions.clear(&workspace.id);
        }
        if new_life
            && matches!(sample.observation, Observation::Running { .. })
            && let Some(engine) = self.engines.get_mut(workspace.engine.as_str())
        {
            engine.goes_on_starting(now, self.health.stretch(self.settings.dead_window));
        }
        if track.beat_is_current(offset) {
            track.first_beat(now, stamp, offset);
        }
        let opinion = context.judge_container(track, &mut self.probes, workspace, sample);
        if opinion.rule == Rule::RunningFresh {
            self.suspicions.clear(&workspace.id);
        }
        Some(opinion)
    }

    /// How long it has been down, by its engine's word or our own sight, whichever is longer.
    fn down_for(&self, now: Moment, stamp: ReadStamp, look: &Look<'_>, opinion: &Opinion) -> Duration {
        if opinion.conviction.is_some_and(|conviction| conviction.running) {
            return opinion.heartbeat.silent_for;
        }
        let offset = self.engines.get(look.workspace.engine.as_str()).map_or(0, |engine| engine.offset);
        let told = decide::stopped_ago(look, stamp, now, offset).unwrap_or(Duration::ZERO);
        let seen = self.tracks.get(&look.workspace.id).and_then(|track| track.down_since);
        told.max(seen.map_or(Duration::ZERO, |since| now - since))
    }

    fn incarnation_of<'a>(
        &'a self,
        look: &'a Look<'_>,
        conviction: Conviction,
    ) -> Option<&'a crate::sample::Incarnation> {
        let seen = look.sample.and_then(|sample| sample.observation.incarnation());
        let known =
            self.tracks.get(&look.workspace.id).and_then(|track| track.life.as_ref()).map(|life| &life.incarnation);
        if conviction.missing { known } else { known.or(seen) }
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

/// Keeps what one sample says about a workspace beyond this pass. Returns whether it showed a new life.
fn note_sample(track: &mut Track, sample: &Sample, stamp: ReadStamp, offset: i64) -> bool {
    let seen = sample.observation.incarnation();
    let new_life = seen.is_some_and(|incarnation| track.note_life(incarnation, sample.at, stamp, offset));
    match &sample.observation {
        Observation::Unknown { .. } => return false,
        Observation::Missing | Observation::Transitional { .. } | Observation::Stopped { .. } => {
            track.container_dead = true;
            track.down_since.get_or_insert(sample.at);
        }
        Observation::Running { .. } | Observation::Frozen { .. } => {
            track.container_dead = false;
            track.down_since = None;
        }
    }
    if !matches!(sample.observation, Observation::Missing) {
        track.missing_since = None;
    }
    if !matches!(sample.observation, Observation::Transitional { .. }) {
        track.transition_since = None;
    }
    if matches!(sample.observation, Observation::Frozen { .. }) {
        track.frozen_at = Some(sample.at);
    }
    new_life
}
