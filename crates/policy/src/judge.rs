//! The judge: all that is remembered between passes, and the pass itself.
//!
//! ```text
//! observe_fleet ──► observe_engine ──► judge ──► Plan
//!   beats, outages     back? other?      table (opinion.rs) ─► storms ─► holds ─► restarts
//! ```
//!
//! A pass covers the workspaces of one engine, so that an engine that hangs delays no other. Evidence may arrive out of
//! order (a focus overtakes a slow tick): a sample older than the newest one judged is void.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::attempt::{Attempt, Outcome};
use crate::backoff::{self, Allowance};
use crate::cadence::BeatRead;
use crate::fleet::{FleetRead, Kind, Workspace};
use crate::id::{ContainerId, EngineName, WorkspaceId};
use crate::local_health::LocalHealth;
use crate::moment::{Moment, Timestamp};
use crate::opinion::{Context, Conviction, Opinion};
use crate::pipeline::Pipeline;
use crate::plan::{Change, Plan, Recovery, Remedy, RestartOrder};
use crate::probe::ProbeMap;
use crate::sample::{Fault, Observation, Sample};
use crate::settings::{Action, Mode, Settings};
use crate::storm::StormGuard;
use crate::suspicion::SuspicionLog;
pub use crate::track::ReadStamp;
use crate::track::Track;
use crate::verdict::{Evidence, HeartbeatEvidence, Held, ProbeEvidence, Rule, Verdict};

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
}

/// One workspace to judge, with what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The fleet row.
    pub workspace: &'a Workspace,
    /// What its engine said; `None` for external ones.
    pub sample: Option<&'a Sample>,
    /// Its attempts in the ledger, newest first.
    pub attempts: &'a [Attempt],
    /// A restart of it is being made by this process.
    pub in_flight: bool,
}

#[derive(Debug, Default)]
struct EngineTrack {
    up: Option<bool>,
    identity: Option<String>,
    is_other: bool,
    offset: i64,
    /// Until then its own restart policies go first.
    amnesty_until: Moment,
    back_at: Option<Timestamp>,
    watched: usize,
    storm: StormGuard,
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
        }
    }

    /// Takes over a verdict that an earlier process recorded, so that its end is recorded too. Its rule is not taken over:
    /// the first judgement gives its own.
    pub fn restore(&mut self, id: WorkspaceId, verdict: Verdict, since: Moment) {
        let track = Track { verdict: Some((verdict, Rule::NoAnswer)), since, ..Track::default() };
        if self.tracks.insert(id, track).is_none() {
            self.counts[verdict.index()] += 1;
        }
    }

    /// Takes note of a read of the fleet; `whole` says that it was all of it. Returns who is no longer watched.
    pub fn observe_fleet(&mut self, read: &FleetRead, whole: bool) -> Vec<WorkspaceId> {
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

    fn forget_unwatched(&mut self) -> Vec<WorkspaceId> {
        let generation = self.generation;
        let mut departed = Vec::new();
        self.tracks.retain(|id, track| {
            let watched = track.generation == generation;
            if !watched {
                departed.push((id.clone(), track.verdict));
            }
            watched
        });
        departed
            .into_iter()
            .map(|(id, verdict)| {
                if let Some((verdict, _)) = verdict {
                    self.counts[verdict.index()] -= 1;
                }
                self.probes.clear(&id);
                self.suspicions.clear(&id);
                id
            })
            .collect()
    }

    /// Takes note of a suspicion reported at `at`. It convicts nobody; it may speak as the second witness against one that
    /// runs and is silent. Returns whether the workspace is watched.
    pub fn observe_suspicion(&mut self, id: &WorkspaceId, reporter: &str, at: Moment) -> bool {
        let watched = self.tracks.contains_key(id);
        if watched {
            self.suspicions.report(id, reporter, at);
        }
        watched
    }

    /// Takes note of a tick of the whole fleet: whether it began in time and all of its calls were quick and answered.
    pub fn observe_tick(&mut self, clean: bool) {
        self.health.tick(clean);
    }

    /// The container last seen for a workspace, for asking its engine directly.
    #[must_use]
    pub fn known_container(&self, id: &WorkspaceId) -> Option<&ContainerId> {
        self.tracks.get(id)?.life.as_ref().map(|life| &life.incarnation.container_id)
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
        }
        let mut calls = Vec::new();
        for look in looks {
            let Some(opinion) = self.opine(now, stamp, look) else { continue };
            let in_flight = look.in_flight;
            match opinion.conviction {
                Some(conviction) if !in_flight => {
                    let incarnation = self.incarnation_of(look, conviction);
                    let allowance = backoff::allowance(look.attempts, incarnation, &self.settings);
                    calls.push(Call { look, opinion, conviction, allowance });
                }
                _ => self.settle_opinion(now, look, &opinion, None, None, &mut plan),
            }
        }
        self.turn_storms(now, engine.map(|(name, _)| name), &calls, &mut plan);
        for call in calls {
            self.answer(now, stamp, call, &mut plan);
        }
        plan
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
            engine.amnesty_until = now + window;
            engine.back_at = Some(stamp.database_now.shifted(engine.offset));
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
            settings: &self.settings,
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
        note_sample(track, sample);
        if track.beat_is_current(offset) {
            track.first_beat(now, stamp, offset);
        }
        Some(context.judge_container(track, &mut self.probes, workspace, sample))
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

    fn turn_storms(&mut self, now: Moment, engine: Option<&EngineName>, calls: &[Call<'_>], plan: &mut Plan) {
        let window = self.health.stretch(self.settings.dead_window);
        for call in calls.iter().filter(|call| !call.conviction.running) {
            let id = &call.look.workspace.id;
            let known = self.tracks.get(id).and_then(|track| track.verdict);
            if matches!(known, Some((Verdict::Dead | Verdict::Exhausted, _))) {
                continue;
            }
            if self.fleet_storm.death(id, now, self.watched, window, &self.settings) {
                plan.storms.push((None, true));
            }
            if let Some((name, track)) = engine.and_then(|name| Some((name, self.engines.get_mut(name)?)))
                && track.storm.death(id, now, track.watched, window, &self.settings)
            {
                plan.storms.push((Some(name.clone()), true));
            }
        }
        let stormy = self.fleet_storm.is_storm() || engine.is_some_and(|name| self.is_storm(Some(name)));
        if !stormy {
            return;
        }
        let waiting = self.anybody_dead(calls.iter().map(|call| call.look.workspace.id.clone()).collect());
        let tracks = &self.tracks;
        // Back is who beats again; or who never beats, and is through its settle window; or who is watched no more.
        let returned = |id: &WorkspaceId| {
            let Some(track) = tracks.get(id) else { return Some(true) };
            let beats = matches!(track.verdict, Some((_, Rule::RunningFresh | Rule::RunningBusy)));
            let survives = matches!(track.verdict, Some((Verdict::Alive | Verdict::Silent, _)));
            (beats || (survives && !track.cadence.has_lived())).then_some(true)
        };
        if self.fleet_storm.turn(now, &waiting, &self.settings, returned) {
            plan.storms.push((None, false));
        }
        if let Some((name, track)) = engine.and_then(|name| Some((name, self.engines.get_mut(name)?)))
            && track.storm.turn(now, &waiting, &self.settings, returned)
        {
            plan.storms.push((Some(name.clone()), false));
        }
    }

    /// Whoever of the fleet still waits for a restart, judged in this pass or an earlier one.
    fn anybody_dead(&self, mut dead: BTreeSet<WorkspaceId>) -> BTreeSet<WorkspaceId> {
        if self.counts[Verdict::Dead.index()] > 0 {
            let others = self.tracks.iter().filter(|(_, track)| matches!(track.verdict, Some((Verdict::Dead, _))));
            dead.extend(others.map(|(id, _)| id.clone()));
        }
        dead
    }

    /// Decides what becomes of a call for a restart: a suspicion only (storm), held back, or an order.
    fn answer(&mut self, now: Moment, stamp: ReadStamp, call: Call<'_>, plan: &mut Plan) {
        let Call { look, mut opinion, conviction, allowance } = call;
        let workspace = look.workspace;
        let id = &workspace.id;
        let fleet_storm = self.fleet_storm.is_storm();
        let engine = self.engines.get(workspace.engine.as_str());
        let storm = fleet_storm || engine.is_some_and(|engine| engine.storm.is_storm());
        if storm && !conviction.running && !(conviction.spaced && conviction.stale) {
            opinion.verdict = Verdict::Suspect;
            opinion.rule = Rule::StormNeedsBoth;
            opinion.look_at.get_or_insert(now + self.health.stretch(self.settings.probe_spacing));
            return self.settle_opinion(now, look, &opinion, Some(Held::Storm), None, plan);
        }
        if allowance.exhausted && !conviction.running {
            opinion.verdict = Verdict::Exhausted;
        }
        let admitted = !storm || (self.fleet_storm.admits(id) && engine.is_none_or(|engine| engine.storm.admits(id)));
        let amnesty_until = engine.map_or(Moment::ZERO, |engine| engine.amnesty_until);
        let held = self.hold(now, conviction, allowance, admitted, amnesty_until, opinion.verdict);
        match held {
            Some(Held::Backoff | Held::Exhausted) => opinion.look_at = Some(now + allowance.wait),
            Some(Held::EngineReturned) => opinion.look_at = Some(amnesty_until),
            _ => {}
        }
        self.settle_opinion(now, look, &opinion, held, Some(allowance), plan);
        if held.is_some() || allowance.open {
            return;
        }
        let back_by = now + 2 * self.health.stretch(self.settings.settle).max(opinion.heartbeat.window);
        if fleet_storm {
            self.fleet_storm.release(id, back_by);
        }
        if let Some(engine) = self.engines.get_mut(workspace.engine.as_str()) {
            engine.storm.release(id, back_by);
        }
        let offset = self.engines.get(workspace.engine.as_str()).map_or(0, |engine| engine.offset);
        plan.restarts.push(RestartOrder {
            workspace: id.clone(),
            engine: workspace.engine.clone(),
            incarnation: self.incarnation_of(look, conviction).cloned(),
            container_ref: workspace.container_ref.clone(),
            remedy: match conviction {
                Conviction { missing: true, .. } => Remedy::Recreate,
                Conviction { running: true, .. } => Remedy::KillAndStart,
                _ => Remedy::Start,
            },
            attempt: allowance.attempt,
            verdict: opinion.verdict,
            evidence: self.evidence(now, look, &opinion, None, Some(allowance)),
            at: now,
            stopped_ago: stopped_ago(look, stamp, now, offset),
        });
    }

    fn hold(
        &self,
        now: Moment,
        conviction: Conviction,
        allowance: Allowance,
        admitted: bool,
        amnesty_until: Moment,
        verdict: Verdict,
    ) -> Option<Held> {
        let action = match verdict {
            Verdict::Wedged => self.settings.wedged_action,
            Verdict::Unhealthy => self.settings.unhealthy_action,
            _ => Action::Restart,
        };
        if action != Action::Restart {
            Some(Held::ReportOnly)
        } else if self.settings.mode == Mode::Observe {
            Some(Held::Observe)
        } else if conviction.engine_restarts && now < amnesty_until {
            Some(Held::EngineReturned)
        } else if !allowance.wait.is_zero() {
            Some(if allowance.exhausted { Held::Exhausted } else { Held::Backoff })
        } else if !admitted {
            Some(Held::Storm)
        } else {
            None
        }
    }

    /// Records an opinion: the change, if it is one, and what follows from a sign of life.
    fn settle_opinion(
        &mut self,
        now: Moment,
        look: &Look<'_>,
        opinion: &Opinion,
        held: Option<Held>,
        allowance: Option<Allowance>,
        plan: &mut Plan,
    ) {
        let id = &look.workspace.id;
        let held = held.or_else(|| self.idle_hold(opinion));
        if let Some(at) = opinion.look_at {
            plan.looks.push((id.clone(), at));
        }
        if let Some(attempt_id) = self.recovered(look, opinion) {
            let evidence = self.evidence(now, look, opinion, held, allowance);
            plan.recoveries.push(Recovery { workspace: id.clone(), attempt_id, evidence });
        }
        let Some(track) = self.tracks.get_mut(id) else { return };
        let from = track.verdict;
        let same_verdict = from.is_some_and(|(verdict, _)| verdict == opinion.verdict);
        let same_held = track.held == held;
        if same_held && from == Some((opinion.verdict, opinion.rule)) {
            return;
        }
        let newly_held = held.filter(|_| !same_held);
        if !same_verdict {
            track.since = now;
            if let Some((verdict, _)) = from {
                self.counts[verdict.index()] -= 1;
            }
            self.counts[opinion.verdict.index()] += 1;
        }
        track.verdict = Some((opinion.verdict, opinion.rule));
        track.held = held;
        let since = track.since;
        let unremarkable =
            opinion.verdict == Verdict::Alive && from.is_none_or(|(verdict, _)| verdict == Verdict::Alive);
        if unremarkable {
            return;
        }
        let evidence = self.evidence(now, look, opinion, held, allowance);
        plan.changes.push(Change {
            workspace: id.clone(),
            from: from.map(|(verdict, _)| verdict),
            to: opinion.verdict,
            since,
            evidence,
            newly_held,
        });
    }

    /// A workspace that runs is reported and not restarted while nothing agrees that it is beyond help.
    fn idle_hold(&self, opinion: &Opinion) -> Option<Held> {
        let waiting = opinion.verdict == Verdict::Wedged && opinion.conviction.is_none();
        waiting.then_some(match self.settings.wedged_action {
            Action::Restart => Held::SecondWitness,
            Action::Report | Action::Ignore => Held::ReportOnly,
        })
    }

    /// The attempt that this opinion proves to be a recovery (section 4.6): only a heartbeat of the new life does, or for
    /// one that never beats, running through the settle window.
    fn recovered(&self, look: &Look<'_>, opinion: &Opinion) -> Option<i64> {
        // A superseded one too: claiming it told the platform that the workspace is dead, and it is not.
        let ended = |attempt: &&Attempt| attempt.outcome.is_some_and(|outcome| outcome != Outcome::Vetoed);
        let newest = look.attempts.iter().find(ended)?;
        if newest.recovered_ago.is_some() || newest.acknowledged || look.in_flight {
            return None;
        }
        let track = self.tracks.get(&look.workspace.id)?;
        let life = track.life.as_ref()?;
        let another = Some(&life.incarnation.container_id) != newest.container_id.as_ref()
            || (life.incarnation.started_at.is_some() && life.incarnation.started_at != newest.started_at);
        let later = newest.finished_at.zip(track.cadence.lived_at()).is_some_and(|(end, lived)| lived > end);
        let beats = opinion.rule == Rule::RunningFresh && (another || later);
        let survives = matches!(opinion.rule, Rule::RunningSilent | Rule::RunningNoWitness)
            && !track.cadence.has_lived()
            && newest.finished_ago.is_some_and(|ago| ago >= track.settle(self.settings.settle));
        (beats || survives).then_some(newest.id)
    }

    fn evidence(
        &self,
        now: Moment,
        look: &Look<'_>,
        opinion: &Opinion,
        held: Option<Held>,
        allowance: Option<Allowance>,
    ) -> Evidence {
        let workspace = look.workspace;
        let heartbeat = opinion.heartbeat;
        let cadence = self.tracks.get(&workspace.id).map(|track| track.cadence).unwrap_or_default();
        let probe = self.probes.get(&workspace.id, now).map(|probe| ProbeEvidence {
            misses: probe.misses_within(self.health.stretch(self.settings.dead_window)),
            threshold: self.settings.dead_threshold,
            since_first_seconds: (now - probe.first_miss).as_secs_f64(),
        });
        let sample = look.sample;
        let mut evidence = Evidence {
            rule: opinion.rule,
            because: String::new(),
            would_change: opinion.rule.would_change(),
            held,
            engine: workspace.engine.clone(),
            status: workspace.status.clone(),
            last_heartbeat_at: workspace.last_heartbeat_at,
            last_activity_at: workspace.last_activity_at,
            heartbeat: HeartbeatEvidence {
                witness: heartbeat.witness,
                age_seconds: heartbeat.age.map(|age| age.as_secs_f64()),
                window_seconds: heartbeat.window.as_secs_f64(),
                interval_seconds: cadence.interval(&self.settings).as_secs_f64(),
                interval_learned: cadence.is_learned(),
            },
            sample: sample.map(|sample| sample.observation.clone()),
            sample_age_seconds: sample.map(|sample| (now - sample.at).as_secs_f64()),
            probe,
            reporters: self.suspicions.against(&workspace.id, now, self.suspicion_memory(), self.watched).reporters,
            attempt: allowance.map(|allowance| allowance.attempt),
            retry_in_seconds: allowance.map(|allowance| allowance.wait.as_secs_f64()).filter(|wait| *wait > 0.0),
            local_health_multiplier: self.health.multiplier(),
        };
        evidence.because = crate::because::sentence(&evidence);
        evidence
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

/// Keeps what one sample says about a workspace beyond this pass.
fn note_sample(track: &mut Track, sample: &Sample) {
    if let Some(incarnation) = sample.observation.incarnation() {
        track.note_life(incarnation, sample.at);
    }
    match &sample.observation {
        Observation::Unknown { .. } => return,
        Observation::Missing => {
            track.container_dead = true;
            track.transition_since = None;
            return;
        }
        Observation::Transitional { .. } => track.container_dead = true,
        Observation::Stopped { .. } => {
            track.container_dead = true;
            track.transition_since = None;
        }
        Observation::Running { .. } | Observation::Frozen { .. } => {
            track.container_dead = false;
            track.transition_since = None;
        }
    }
    track.missing_since = None;
}

fn stopped_ago(look: &Look<'_>, stamp: ReadStamp, now: Moment, offset: i64) -> Option<Duration> {
    let Observation::Stopped { exit, .. } = &look.sample?.observation else { return None };
    let finished = exit.finished_at?.shifted(offset.saturating_neg());
    // The stop may lie between the read and now: then only the later part of that span is known to have passed.
    let after_read = finished.since(stamp.database_now);
    Some((stamp.database_now.since(finished) + (now - stamp.at)).saturating_sub(after_read))
}
