//! One look at one workspace: what is remembered of it after the pass, and which opinion the table gives.

use std::time::Duration;

use super::opinion::{Context, Conviction, Opinion};
use super::{Judge, Look, orders};
use crate::fleet::Kind;
use crate::moment::Moment;
use crate::sample::{Fault, Incarnation, Observation, Sample};
use crate::track::{ReadStamp, Track};
use crate::verdict::Rule;

impl Judge {
    /// Takes note of one look and asks the table. `None` when the look is void.
    pub(super) fn opine(&mut self, now: Moment, stamp: ReadStamp, look: &Look<'_>) -> Option<Opinion> {
        let Look { workspace, .. } = *look;
        let (offset, is_other, engine_back_at) = self
            .engines
            .get(workspace.engine.as_str())
            .map_or((0, false, None), |engine| (engine.offset, engine.is_other, engine.back_at));
        let accused = self.suspicions.against(&workspace.id, now, self.suspicion_memory(), self.reported_to_us);
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
        let was_down = track.container_dead;
        let new_life = note_sample(track, sample, stamp, offset);
        if track.container_dead != was_down
            && let Some(engine) = track.engine.as_ref().and_then(|engine| self.engines.get_mut(engine.as_str()))
        {
            engine.down = if was_down { engine.down.saturating_sub(1) } else { engine.down + 1 };
        }
        if new_life || matches!(sample.observation, Observation::Frozen { .. }) {
            // Reports about an earlier life, or from while the container was frozen, say nothing about this life.
            self.suspicions.clear(&workspace.id);
        } else if matches!(sample.observation, Observation::Stopped { .. } | Observation::Missing) {
            // A workspace that is down is judged by its engine's word alone, and those who report it are right. Their reports are dropped.
            // Otherwise, when many workspaces are down at once, honest reporters would look as if they accused everybody.
            self.suspicions.clear(&workspace.id);
        }
        if new_life
            && matches!(sample.observation, Observation::Running { .. })
            && let Some(engine) = self.engines.get_mut(workspace.engine.as_str())
        {
            engine.goes_on_starting(now, self.health.stretch(self.settings.dead_window));
        }
        if track.beat_is_proven(offset) {
            track.first_beat(now, stamp, offset);
        }
        track.note_stamped_beat(offset, &self.pipeline);
        let opinion = context.judge_container(track, &mut self.probes, workspace, sample);
        if opinion.rule == Rule::RunningFresh {
            self.suspicions.refute(&workspace.id);
        }
        Some(opinion)
    }

    /// How long it has been down, by its engine's word or our own sight, whichever is longer.
    pub(super) fn down_for(&self, now: Moment, stamp: ReadStamp, look: &Look<'_>, opinion: &Opinion) -> Duration {
        if opinion.conviction.is_some_and(|conviction| conviction.running) {
            return opinion.heartbeat.silent_for;
        }
        let offset = self.engines.get(look.workspace.engine.as_str()).map_or(0, |engine| engine.offset);
        let told = orders::stopped_ago(look, stamp, now, offset).unwrap_or(Duration::ZERO);
        let seen = self.tracks.get(&look.workspace.id).and_then(|track| track.down_since);
        told.max(seen.map_or(Duration::ZERO, |since| now - since))
    }

    pub(super) fn incarnation_of<'a>(&'a self, look: &'a Look<'_>, conviction: Conviction) -> Option<&'a Incarnation> {
        let seen = look.sample.and_then(|sample| sample.observation.incarnation());
        let known =
            self.tracks.get(&look.workspace.id).and_then(|track| track.life.as_ref()).map(|life| &life.incarnation);
        if conviction.missing { known } else { known.or(seen) }
    }
}

/// Remembers what one sample says about a workspace. Returns whether it showed a new life.
fn note_sample(track: &mut Track, sample: &Sample, stamp: ReadStamp, offset: i64) -> bool {
    let seen = sample.observation.incarnation();
    // A container that took the place of another one has its own transitions. The lives of one container do not: an engine that tries to start
    // it again and again is at it for all that time.
    let before = track.life.as_ref().map(|life| &life.incarnation.container_id);
    if seen.is_some_and(|seen| before.is_some_and(|before| *before != seen.container_id)) {
        track.transition_since = None;
    }
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
        track.failing_since = None;
    }
    new_life
}
