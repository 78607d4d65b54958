//! Whom a pass concerns: the cost of a pass follows what is in trouble, and not the size of the fleet.
//!
//! Most workspaces run, beat, and are `alive` in each pass. While the heartbeat of such a workspace is fresh, its verdict stays `alive`,
//! whatever else happens in the fleet. Until the heartbeat leaves its window the workspace is *calm*, and passes leave it out, unless its
//! engine shows something other than the container that ran, or its row has changed in more than its stamps.
//! Everybody else is *restless*, and every pass looks at them: whoever has another verdict, was never judged, has attempts in the ledger, or
//! has begun a life that has not settled in. A canary of a storm is restless until it is `alive`, which ends its part in the storm.
//!
//! A deadline is never too late. It is the moment at which the last heartbeat that was seen leaves its window, without the local health
//! multiplier. A heartbeat that arrives meanwhile moves the deadline only when the deadline has come. So a workspace that falls silent
//! becomes restless at least one poll before a pass over everybody would call it silent, and before that its row is read by its id.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::deadlines::Deadlines;
use super::engines::EngineTrack;
use super::opinion::Opinion;
use super::{Departed, EngineEvidence, Judge, Look};
use crate::cadence::BeatRead;
use crate::fast_hash::IdSet;
use crate::fleet::{FleetRead, Kind, Workspace};
use crate::id::{EngineName, WorkspaceId};
use crate::moment::{Moment, Timestamp};
use crate::sample::{Health, Incarnation, Observation, Sample};
use crate::settings::Settings;
use crate::track::Track;
use crate::verdict::Verdict;

/// A workspace whose stamp came too late for a read of the changes is read with every poll until this many reads of all rows have passed.
/// Larger: one late stamp costs more reads. Smaller: a workspace whose stamps are often late is read late now and then.
const STRAY_READS: u8 = 2;

/// Who is restless, and when each of the others will be.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Concerns {
    /// By the engine whose passes judge them; `None`: no engine has them.
    restless: HashMap<Option<EngineName>, IdSet<WorkspaceId>>,
    /// The deadlines of calm workspaces. An entry that no longer holds is skipped when its moment comes.
    deadlines: Deadlines,
}

/// What is common to the rows of one read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// The read of the fleet before it.
    pub(super) previous: Option<Moment>,
    /// It ends an outage.
    pub(super) outage: bool,
    /// It is of all rows.
    pub(super) whole: bool,
}

impl Concerns {
    fn add(&mut self, seat: Option<&EngineName>, id: &WorkspaceId) {
        self.restless.entry(seat.cloned()).or_default().insert(id.clone());
    }

    fn remove(&mut self, seat: Option<&EngineName>, id: &WorkspaceId) {
        let seat = seat.cloned();
        if let Some(on) = self.restless.get_mut(&seat) {
            on.remove(id);
            if on.is_empty() {
                self.restless.remove(&seat);
            }
        }
    }
}

impl Track {
    /// The engine whose passes judge it; `None`: no engine has it.
    fn seat(&self) -> Option<&EngineName> {
        self.engine.as_ref().filter(|_| !self.external)
    }

    /// When it becomes silent if no further heartbeat arrives: the moment at which the last one that was seen to arrive leaves the window.
    /// `None`: no heartbeat was seen to arrive, so it may be silent already.
    fn silent_from(&self, settings: &Settings) -> Option<Moment> {
        self.cadence.sighted_at().map(|seen| seen + self.cadence.window(settings))
    }

    fn is_calm(&self) -> bool {
        self.calm_until != Moment::ZERO
    }
}

impl Judge {
    /// The workspaces that the next read of the fleet must bring by their ids: the restless ones, and those that would become restless
    /// before the read after it.
    pub fn call(&mut self, now: Moment) -> Vec<WorkspaceId> {
        let horizon = now + self.settings.poll_interval;
        for (at, id) in self.concerns.deadlines.take_due(horizon) {
            let Some(track) = self.tracks.get_mut(&id).filter(|track| track.calm_until == at) else { continue };
            if let Some(until) = track.silent_from(&self.settings).filter(|until| *until > horizon) {
                track.calm_until = until; // it has beaten since
                self.concerns.deadlines.push(until, id);
            } else {
                track.calm_until = Moment::ZERO;
                self.concerns.add(track.seat(), &id);
            }
        }
        self.concerns.restless.values().flatten().cloned().collect()
    }

    /// Whom every pass over `engine` (`None`: those that no engine has) must look at, in the order of their ids.
    #[must_use]
    pub fn restless_on(&self, engine: Option<&EngineName>) -> Vec<WorkspaceId> {
        let on = self.concerns.restless.get(&engine.cloned());
        let mut ids: Vec<WorkspaceId> = on.into_iter().flatten().cloned().collect();
        ids.sort_unstable();
        ids
    }

    /// Whether a pass must look at this workspace, for which its engine showed `sample`. `None`: the engine was not asked about it, or it
    /// has no engine.
    #[must_use]
    pub fn concerns(&self, id: &WorkspaceId, sample: Option<&Sample>) -> bool {
        let Some(track) = self.tracks.get(id).filter(|track| track.is_calm()) else { return true };
        match sample.map(|sample| &sample.observation) {
            Some(Observation::Running { incarnation, health }) => {
                let same = |known: &Incarnation| {
                    known.may_be(incarnation) && (known.started_at.is_some() || incarnation.started_at.is_none())
                };
                matches!(health, Health::Unhealthy { .. })
                    || !track.life.as_ref().is_some_and(|life| same(&life.incarnation))
            }
            Some(_) => true,
            None => false,
        }
    }

    /// Whether passes leave it out, as long as nothing else happens to it.
    #[must_use]
    pub fn is_calm(&self, id: &WorkspaceId) -> bool {
        self.tracks.get(id).is_some_and(Track::is_calm)
    }

    /// Whether a pass over this engine must look at all workspaces there, because by this evidence it may be another engine than before, or
    /// the right one again.
    #[must_use]
    pub fn must_see_all(&self, engine: &EngineName, evidence: &EngineEvidence) -> bool {
        let Some(known) = self.engines.get(engine.as_str()) else { return true };
        evidence.fault.is_some()
            || known.is_other
            || (evidence.identity.is_some() && evidence.identity != known.identity)
    }

    /// Something has happened to a workspace: the next pass looks at it.
    pub fn stir(&mut self, id: &WorkspaceId) {
        if let Some(track) = self.tracks.get_mut(id).filter(|track| track.is_calm()) {
            track.calm_until = Moment::ZERO;
            self.concerns.add(track.seat(), id);
        }
    }

    /// Makes a workspace calm that a look has just found alive, if only its silence could change that verdict. Its heartbeat is fresh,
    /// because the window in which it was seen to beat ends after the next poll.
    pub(super) fn rest(&mut self, now: Moment, look: &Look<'_>, opinion: &Opinion) {
        let id = &look.workspace.id;
        let runs_well = match look.sample.map(|sample| &sample.observation) {
            Some(Observation::Running { health, .. }) => !matches!(health, Health::Unhealthy { .. }),
            Some(_) => false,
            None => look.workspace.kind == Kind::External,
        };
        let idle = look.attempts.is_empty() && !look.in_flight;
        let alive = opinion.verdict == Verdict::Alive;
        let horizon = now + self.settings.poll_interval;
        let Some(track) = self.tracks.get_mut(id) else { return };
        let settled = track.has_settled_in() && !track.exhausted && track.stray_for == 0;
        let rests = runs_well && idle && alive && settled && opinion.look_at.is_none();
        let Some(until) = track.silent_from(&self.settings).filter(|until| rests && *until > horizon) else {
            return self.stir(id);
        };
        if !track.is_calm() {
            track.calm_until = until;
            self.concerns.remove(track.seat(), id);
            self.concerns.deadlines.push(until, id.clone());
        }
    }

    /// Takes note of what a read of the changes brought: the rows with a stamp later than `floor`, on the database's clock, and those that
    /// were [called](Self::call). `gone` are no longer in the fleet. Returns who is no longer watched.
    pub fn observe_changes(&mut self, read: &FleetRead, floor: Timestamp, gone: &[WorkspaceId]) -> Vec<Departed> {
        let previous = self.pipeline.last_read();
        self.pipeline.observe_clock(read.at, read.database_now);
        let outage = self.pipeline.observe(read, self.settings.poll_interval);
        if outage {
            self.tracks.values_mut().for_each(|track| track.cadence.skip_next_gap());
        }
        for workspace in &read.workspaces {
            self.observe_row(workspace, read, Reading { previous, outage, whole: false });
        }
        self.pipeline.note_floor(Some(floor));
        let departed: Vec<Departed> = gone.iter().filter_map(|id| self.forget(id)).collect();
        // A calm workspace is not stale, and every other one was read just now.
        let restless = self.concerns.restless.values().flatten().filter_map(|id| self.tracks.get(id));
        let stale = restless.filter(|track| self.is_silent(track, read)).count();
        self.pipeline.weigh(read.at, stale, self.watched);
        self.count_ours(read.at);
        departed
    }

    /// Whether a workspace is silent and its container is not known to be down, which would explain the silence.
    pub(super) fn is_silent(&self, track: &Track, read: &FleetRead) -> bool {
        let age = track.cadence.age(read.at, read.at, read.database_now);
        let window = self.health.stretch(track.cadence.window(&self.settings));
        !track.container_dead && age.is_some_and(|age| age >= window)
    }

    /// Takes note of one row of a read.
    pub(super) fn observe_row(&mut self, workspace: &Workspace, read: &FleetRead, reading: Reading) {
        let Self { tracks, concerns, engines, settings, pipeline, probes, fleet_storm, .. } = self;
        let Reading { previous, outage, whole } = reading;
        let id = &workspace.id;
        let track = tracks.get_or_insert(id, || Track { known_since: read.at, ..Track::default() });
        track.watched_since.get_or_insert(read.at);
        if whole {
            track.generation = self.generation;
            track.stray_for = track.stray_for.saturating_sub(1);
        }
        if outage {
            track.cadence.skip_next_gap();
        }
        let mut beat = BeatRead {
            at: read.at,
            previous,
            database_now: read.database_now,
            heartbeat: workspace.last_heartbeat_at,
            activity: workspace.last_activity_at,
        };
        // Had this stamp been written in time, an earlier read of the changes would have brought it. So it was written late, at any time
        // since the row was last read, and other beats may have come and gone meanwhile: the gap before it teaches no interval.
        let newest = workspace.last_heartbeat_at.max(workspace.last_activity_at);
        let is_late = track.cadence.is_older_than(newest)
            && pipeline.floor().is_some_and(|floor| newest <= Some(floor))
            && previous.is_some_and(|previous| track.read_at < previous);
        if is_late {
            track.cadence.skip_next_gap();
            track.stray_for = STRAY_READS;
            beat.previous = (track.read_at != Moment::ZERO).then_some(track.read_at);
        }
        track.cadence.observe(beat, settings);
        track.read_at = read.at;
        let external = workspace.kind == Kind::External;
        if track.engine.as_ref() != Some(&workspace.engine) || track.external != external {
            let seat = track.seat().cloned();
            if let Some(before) = track.engine.replace(workspace.engine.clone()) {
                concerns.remove(seat.as_ref(), id);
                leave(engines, &before, track.container_dead);
                // No pass over the engine that it has left comes upon it again, so it must not wait for a turn there. On its new engine it is
                // lined up by the next pass, and what was missed or under way on the old one is no evidence.
                if let Some(engine) = engines.get_mut(before.as_str()) {
                    engine.storm.forget(id);
                }
                fleet_storm.leaves(id);
                probes.clear(id);
                (track.missing_since, track.transition_since) = (None, None);
            } else {
                self.watched += 1;
            }
            track.external = external;
            track.calm_until = Moment::ZERO;
            concerns.add(track.seat(), id);
            if !engines.contains_key(workspace.engine.as_str()) {
                engines.insert(workspace.engine.clone(), EngineTrack::default());
            }
            if let Some(engine) = engines.get_mut(workspace.engine.as_str()) {
                engine.watched += 1;
                engine.down += usize::from(track.container_dead);
            }
        } else if track.is_calm() {
            match track.silent_from(settings).filter(|_| !is_late) {
                Some(until) if until >= track.calm_until => {}
                Some(until) => {
                    track.calm_until = until; // its window has shrunk
                    concerns.deadlines.push(until, id.clone());
                }
                None => {
                    track.calm_until = Moment::ZERO;
                    concerns.add(track.seat(), id);
                }
            }
        }
    }

    /// Forgets one that is no longer watched.
    pub(super) fn forget(&mut self, id: &WorkspaceId) -> Option<Departed> {
        let track = self.tracks.remove(id)?;
        if let Some(engine) = &track.engine {
            self.watched = self.watched.saturating_sub(1);
            leave(&mut self.engines, engine, track.container_dead);
        }
        self.concerns.remove(track.seat(), id);
        self.exhausted -= usize::from(track.exhausted);
        if let Some((verdict, _)) = track.verdict {
            self.counts[verdict.index()] -= 1;
        }
        self.probes.clear(id);
        self.suspicions.clear(id);
        self.endings.forget(id);
        self.forget_in_storms(id);
        let recorded = track.told.is_some_and(|(verdict, ..)| verdict != Verdict::Alive);
        Some(Departed { id: id.clone(), recorded })
    }
}

/// One workspace less on an engine; `down` says whether it was down.
fn leave(engines: &mut HashMap<EngineName, EngineTrack>, engine: &EngineName, down: bool) {
    if let Some(engine) = engines.get_mut(engine.as_str()) {
        engine.watched = engine.watched.saturating_sub(1);
        engine.down = engine.down.saturating_sub(usize::from(down));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn moment(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(1_000 + seconds))
    }

    /// The database's clock shows the same seconds.
    fn stamp(seconds: i64) -> Timestamp {
        Timestamp(1_000_000_000).shifted(seconds * 1_000_000)
    }

    fn row(id: &str, engine: &str, beat: i64) -> Workspace {
        Workspace {
            id: id.into(),
            status: "online".into(),
            kind: Kind::Container,
            engine: engine.into(),
            container_ref: None,
            instance_ref: None,
            suspended: false,
            last_heartbeat_at: Some(stamp(beat)),
            last_activity_at: None,
            active_tasks: 0,
            created_at: None,
            policy: None,
        }
    }

    fn read(seconds: u32, workspaces: Vec<Workspace>) -> FleetRead {
        FleetRead {
            at: moment(seconds.into()),
            database_now: stamp(seconds.into()),
            database_started_at: stamp(-100_000),
            workspaces,
        }
    }

    #[test]
    fn whoever_moves_or_leaves_is_counted_where_it_is() {
        let mut judge = Judge::new(Settings::default());
        let counts = |judge: &Judge, engine: &str| judge.engines.get(engine).map(|track| (track.watched, track.down));
        judge.observe_fleet(&read(0, vec![row("a", "one", 0), row("b", "one", 0)]), true);
        judge.tracks.get_mut(&"a".into()).unwrap().container_dead = true;
        judge.engines.get_mut("one").unwrap().down = 1;
        assert_eq!(counts(&judge, "one"), Some((2, 1)));
        judge.observe_changes(&read(5, vec![row("a", "two", 5)]), stamp(-2), &[]);
        assert_eq!((counts(&judge, "one"), counts(&judge, "two")), (Some((1, 0)), Some((1, 1))));
        judge.observe_changes(&read(10, Vec::new()), stamp(3), &["a".into()]);
        assert_eq!((counts(&judge, "one"), counts(&judge, "two")), (Some((1, 0)), Some((0, 0))));
    }

    /// It was parked, say, and its agent has not run for ten minutes.
    #[test]
    fn one_that_is_new_with_an_old_stamp_was_not_seen_to_beat() {
        let mut judge = Judge::new(Settings::default());
        judge.observe_fleet(&read(0, vec![row("a", "one", 0)]), true);
        judge.observe_changes(&read(5, Vec::new()), stamp(-2), &[]);
        judge.observe_changes(&read(10, vec![row("b", "one", -600)]), stamp(3), &[]);
        let seen = |id: &str| judge.tracks.get(&id.into()).unwrap().cadence.sighted_at();
        assert_eq!((seen("a"), seen("b")), (None, None));
    }

    #[test]
    fn a_beat_in_time_adds_no_deadline_to_that_of_one_that_is_calm() {
        let mut judge = Judge::new(Settings::default());
        judge.observe_fleet(&read(0, vec![row("a", "one", 0)]), true);
        judge.observe_changes(&read(5, vec![row("a", "one", 5)]), stamp(-2), &[]);
        let track = judge.tracks.get_mut(&"a".into()).unwrap();
        let until = track.silent_from(&judge.settings).unwrap();
        track.calm_until = until;
        judge.concerns.deadlines.push(until, "a".into());
        judge.observe_changes(&read(10, vec![row("a", "one", 10)]), stamp(3), &[]);
        assert_eq!(judge.tracks.get(&"a".into()).unwrap().calm_until, until);
        assert_eq!(judge.concerns.deadlines.take_due(moment(10_000)).len(), 1);
    }
}
