//! The fleet as the judge knows it: which workspaces are watched, and which replica speaks for each.

use super::concern::Reading;
use super::{Departed, Judge, Look};
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
            if verdict != Verdict::Alive {
                self.stir(id);
            }
        } else if verdict != Verdict::Alive {
            let down = matches!(verdict, Verdict::Suspect | Verdict::Dead | Verdict::Exhausted);
            let track = Track {
                verdict: Some((verdict, Rule::NoAnswer)),
                told,
                since,
                down_since: down.then_some(since),
                known_since: since,
                ..Track::default()
            };
            self.tracks.insert(id, track);
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
        }
        for workspace in &read.workspaces {
            self.observe_row(workspace, read, Reading { previous, outage, whole });
        }
        if !whole {
            return Vec::new();
        }
        self.pipeline.note_floor(None);
        let tracks = read.workspaces.iter().filter_map(|workspace| self.tracks.get(&workspace.id));
        let stale = tracks.filter(|track| self.is_silent(track, read)).count();
        let departed = self.forget_unwatched();
        self.pipeline.weigh(read.at, stale, self.watched);
        self.count_ours(read.at);
        departed
    }

    /// Remembers whether this replica owns the engine.
    pub(super) fn note_owner(&mut self, name: &EngineName, looks: &[Look<'_>], now: Moment) {
        let (Some(look), Some(engine)) = (looks.first(), self.engines.get_mut(name)) else { return };
        if engine.ours_since.is_some() != look.ours {
            engine.ours_since = look.ours.then_some(now);
            self.count_ours(now);
        }
    }

    /// Counts the workspaces of which a caller with a broken network would accuse a large part to us. Those that are down are not among them,
    /// because accusations of them are dropped. Neither are those of an engine that we have taken over lately: what was reported of them
    /// before went to another replica, so a caller would look honest just because it has only accused the workspaces of the engines that we
    /// had before. An engine counts once we have owned it for half as long as the one that we have owned longest, or for
    /// `DEFIB_WEDGED_AFTER`.
    pub(super) fn count_ours(&mut self, now: Moment) {
        let ours = self.engines.values().filter_map(|engine| Some((now - engine.ours_since?, engine)));
        let longest = ours.clone().map(|(span, _)| span).max().unwrap_or_default();
        let enough = self.settings.wedged_after.min(longest / 2);
        let counted = ours.filter(|(span, _)| *span >= enough);
        self.reported_to_us = counted.map(|(_, engine)| engine.watched.saturating_sub(engine.down)).sum();
    }

    fn forget_unwatched(&mut self) -> Vec<Departed> {
        let left = self.tracks.iter().filter(|(_, track)| track.generation != self.generation);
        let left: Vec<WorkspaceId> = left.map(|(id, _)| id.clone()).collect();
        left.iter().filter_map(|id| self.forget(id)).collect()
    }
}
