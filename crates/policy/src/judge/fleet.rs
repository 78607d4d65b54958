//! The fleet as the judge knows it: which workspaces are watched, and which replica speaks for each.

use super::engines::EngineTrack;
use super::{Departed, Judge, Look};
use crate::cadence::BeatRead;
use crate::fleet::FleetRead;
use crate::id::{EngineName, WorkspaceId};
use crate::moment::Moment;
use crate::track::Track;
use crate::verdict::{Held, Rule, Verdict};

/// What was last said of a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The verdict.
    pub verdict: Verdict,
    /// The rule that gave it.
    pub rule: Rule,
    /// Why a restart that it calls for is held back.
    pub held: Option<Held>,
    /// Since when it has had this verdict.
    pub since: Moment,
}

impl Judge {
    /// Begins speaking for a workspace after an earlier process or another replica did. The recorded verdict is `verdict` since `since`
    /// (`alive` if none is recorded), so a next judgement that says anything else is a change. The rule is not taken over, because the next
    /// judgement gives its own.
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

    /// Stops speaking for a workspace, because another replica does so now. What is recorded of it is no longer known here.
    pub fn hand_over(&mut self, id: &WorkspaceId) {
        if let Some(track) = self.tracks.get_mut(id) {
            track.told = None;
        }
    }

    /// What this replica has last said of a workspace; `None` if it has said nothing, or if another replica speaks for it. The recorder
    /// compares this with the tables.
    #[must_use]
    pub fn told(&self, id: &WorkspaceId) -> Option<Told> {
        let track = self.tracks.get(id)?;
        let (verdict, rule, held) = track.told?;
        Some(Told { verdict, rule, held, since: track.since })
    }

    /// Takes note of a read of the fleet; `whole` says whether it was the whole fleet. Returns the workspaces that are no longer watched.
    pub fn observe_fleet(&mut self, read: &FleetRead, whole: bool) -> Vec<Departed> {
        let previous = self.pipeline.last_read();
        self.pipeline.observe_clock(read.at, read.database_now);
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
                if !self.engines.contains_key(workspace.engine.as_str()) {
                    self.engines.insert(workspace.engine.clone(), EngineTrack::default());
                }
                if let Some(engine) = self.engines.get_mut(workspace.engine.as_str()) {
                    engine.watched += 1;
                }
            }
        }
        if !whole {
            return Vec::new();
        }
        self.pipeline.weigh(read.at, stale, self.watched);
        self.count_ours();
        self.forget_unwatched()
    }

    /// Remembers whether this replica owns the engine.
    pub(super) fn note_owner(&mut self, name: &EngineName, looks: &[Look<'_>]) {
        let (Some(look), Some(engine)) = (looks.first(), self.engines.get_mut(name)) else { return };
        if std::mem::replace(&mut engine.is_ours, look.ours) != look.ours {
            self.count_ours();
        }
    }

    fn count_ours(&mut self) {
        self.reported_to_us = self.engines.values().filter(|engine| engine.is_ours).map(|engine| engine.watched).sum();
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
                self.forget_in_storms(&departed.id);
                departed
            })
            .collect()
    }
}
