//! How the judge uses the storm guards: which deaths count, which workspaces wait, what became of the canaries, and whose turn it is.
//!
//! A restart that is due must be let through by the guard of its engine and by that of the fleet. Only one of the two draws, so that
//! they cannot draw different workspaces and wait for each other: the fleet's, while it is in a storm, else the engine's. The other
//! only says how much room it has.
//!
//! A replica draws among the workspaces that it may restart itself. On an engine that it does not own, it counts deaths and lets no restart
//! through.

use super::opinion::Opinion;
use super::orders::{Call, Standing};
use super::{Judge, Look};
use crate::attempt::{Attempt, Outcome};
use crate::id::{EngineName, WorkspaceId};
use crate::moment::Moment;
use crate::plan::Plan;
use crate::restart::End;
use crate::sample::Observation;
use crate::settings::Action;
use crate::storm::{Canary, Scale, Seen, StormGuard, What};
use crate::track::ReadStamp;
use crate::verdict::{Rule, Verdict};

/// When it is the turn of workspaces that are not part of this pass: how many of them are looked at before the next poll.
const LOOKS_MAX: usize = 16;

impl Judge {
    /// Whether an opinion is one more death for the storm guard. A workspace counts as soon as it is first found stopped: when many are
    /// found at once, the first few must not be convicted before the storm is noticed. One that runs counts where its verdict would lead to
    /// a restart, because a health check that fails everywhere is a storm too.
    pub(super) fn counts_for_storm(&self, look: &Look<'_>, opinion: &Opinion) -> bool {
        let known = self.tracks.get(&look.workspace.id).and_then(|track| track.verdict);
        match opinion.verdict {
            // One that a storm made a suspicion of was counted when that storm began. It does not begin another one when an operator has ended
            // that storm.
            Verdict::Dead => !matches!(
                known,
                Some((Verdict::Dead | Verdict::Exhausted, _) | (Verdict::Suspect, Rule::StormNeedsBoth))
            ),
            Verdict::Suspect => opinion.rule == Rule::StoppedOnce,
            Verdict::Unhealthy | Verdict::Wedged => {
                let in_doubt = opinion.verdict == Verdict::Unhealthy || opinion.conviction.is_some();
                in_doubt && super::orders::action(look.settings(&self.settings), opinion.verdict) == Action::Restart
            }
            _ => false,
        }
    }

    /// Counts a death in the fleet and on its engine.
    pub(super) fn note_death(
        &mut self,
        now: Moment,
        stamp: ReadStamp,
        engine: Option<&EngineName>,
        id: &WorkspaceId,
        plan: &mut Plan,
    ) {
        let window = self.health.stretch(self.settings.dead_window);
        let hour = stamp.database_now.0.div_euclid(3_600_000_000);
        let scale = Scale { scope: None, watched: self.watched, window, hour };
        if self.fleet_storm.death(id, now, scale, &self.settings) {
            plan.storms.push((None, true));
        }
        if let Some((name, track)) = engine.and_then(|name| Some((name, self.engines.get_mut(name)?)))
            && track.storm.death(id, now, Scale { scope: Some(name), watched: track.watched, ..scale }, &self.settings)
        {
            plan.storms.push((Some(name.clone()), true));
        }
    }

    /// Whether restarts on an engine are let through one batch at a time.
    pub(super) fn in_storm(&self, engine: &EngineName) -> bool {
        self.fleet_storm.is_storm() || self.is_storm(Some(engine))
    }

    /// Does the same with both guards that a workspace of `engine` is subject to.
    fn with_guards(&mut self, engine: &EngineName, mut act: impl FnMut(&mut StormGuard)) {
        act(&mut self.fleet_storm);
        if let Some(track) = self.engines.get_mut(engine.as_str()) {
            act(&mut track.storm);
        }
    }

    /// Tells the guards what this look says of one of their canaries.
    pub(super) fn observe_canary(&mut self, now: Moment, look: &Look<'_>, opinion: &Opinion) {
        let (id, engine) = (&look.workspace.id, &look.workspace.engine);
        let awaited = self.fleet_storm.awaits(id)
            || self.engines.get(engine.as_str()).is_some_and(|engine| engine.storm.awaits(id));
        let (true, Some(sample)) = (awaited, look.sample) else { return };
        let has_lived = self.tracks.get(id).is_some_and(|track| track.cadence.has_lived());
        let beats = matches!(opinion.rule, Rule::RunningFresh | Rule::RunningBusy);
        let survives = matches!(opinion.verdict, Verdict::Alive | Verdict::Silent) && !has_lived;
        let what = match &sample.observation {
            _ if !look.ours => What::Gone,
            _ if opinion.verdict == Verdict::Contradiction => What::Gone,
            Observation::Frozen { .. } => What::Gone,
            Observation::Unknown { .. } => What::Unknown,
            Observation::Running { .. } if beats || survives => What::Back,
            Observation::Running { .. } => What::Runs,
            Observation::Transitional { .. } if opinion.conviction.is_none() => What::Runs,
            _ => What::Down,
        };
        let life = sample.observation.incarnation();
        let attempt = look.attempts.first().map(|attempt| (attempt.id, end_of(attempt)));
        let seen = Seen { what, life, at: sample.at, in_flight: look.in_flight, attempt };
        self.with_guards(engine, |guard| guard.sees(id, seen, now));
    }

    /// Takes note of which workspaces wait for a restart and which do not.
    pub(super) fn line_up(&mut self, now: Moment, look: &Look<'_>, standing: Standing) {
        let (id, engine) = (&look.workspace.id, &look.workspace.engine);
        let tried_ago = look.attempts.first().map(|attempt| attempt.claimed_ago);
        self.with_guards(engine, |guard| match standing {
            Standing::Due => guard.waits(id, engine, now, tried_ago),
            Standing::Doubted => guard.doubts(id),
            Standing::Idle | Standing::Blocked(_) => guard.leaves(id),
        });
    }

    /// Takes note that a workspace is no longer watched.
    pub(super) fn forget_in_storms(&mut self, id: &WorkspaceId) {
        self.fleet_storm.forget(id);
        self.engines.values_mut().for_each(|engine| engine.storm.forget(id));
    }

    /// Lets the storms that this pass has to do with begin their next round, or end.
    pub(super) fn turn_storms(&mut self, now: Moment, engine: Option<&EngineName>, plan: &mut Plan) {
        if self.fleet_storm.turn(now, &self.settings) {
            plan.storms.push((None, false));
        }
        if let Some((name, track)) = engine.and_then(|name| Some((name, self.engines.get_mut(name)?)))
            && track.storm.turn(now, &self.settings)
        {
            plan.storms.push((Some(name.clone()), false));
        }
    }

    /// Whose turn it is now, on `engine` or on all. On an engine without a storm of its own, workspaces are drawn only while the fleet is
    /// in one.
    fn draw(&self, now: Moment, engine: Option<&EngineName>) -> Vec<(EngineName, WorkspaceId)> {
        let room = |name: &EngineName| self.engines.get(name).map_or(usize::MAX, |engine| engine.storm.room(now));
        if self.fleet_storm.is_storm() {
            return self.fleet_storm.draw(now, room);
        }
        if let Some(name) = engine {
            return self.engines.get(name).map_or_else(Vec::new, |engine| engine.storm.draw(now, |_| usize::MAX));
        }
        // In the order of their names, so that the same evidence always leads to the same looks.
        let mut engines: Vec<_> = self.engines.iter().filter(|(_, engine)| engine.storm.is_storm()).collect();
        engines.sort_unstable_by_key(|(name, _)| *name);
        engines.into_iter().flat_map(|(_, engine)| engine.storm.draw(now, |_| usize::MAX)).collect()
    }

    /// The workspaces of this engine whose turn it is. Asks for a look at those that are not in the pass.
    pub(super) fn turns_on(
        &self,
        now: Moment,
        engine: &EngineName,
        calls: &[Call<'_>],
        plan: &mut Plan,
    ) -> std::collections::HashSet<WorkspaceId> {
        if !self.in_storm(engine) {
            return std::collections::HashSet::new();
        }
        let drawn = self.draw(now, Some(engine)).into_iter().filter(|(on, _)| on == engine).map(|(_, id)| id);
        let drawn: Vec<WorkspaceId> = drawn.collect();
        if !drawn.is_empty() {
            let here: std::collections::HashSet<&WorkspaceId> =
                calls.iter().map(|call| &call.look.workspace.id).collect();
            let soon = now + self.health.stretch(self.settings.probe_spacing);
            let absent = drawn.iter().filter(|id| !here.contains(id)).take(LOOKS_MAX);
            plan.looks.extend(absent.map(|id| (id.clone(), soon)));
        }
        drawn.into_iter().collect()
    }

    /// Lets a restart through.
    pub(super) fn release(&mut self, look: &Look<'_>, canary: &Canary) {
        let (id, engine) = (&look.workspace.id, &look.workspace.engine);
        self.with_guards(engine, |guard| guard.release(id, canary.clone()));
    }

    /// Takes note of how an order of this judge ended. What it says about the workspace is in the ledger; what it says about a storm
    /// that the workspace is a canary of is decided here: a canary that the engine was not asked for, or whose call failed, has said
    /// nothing, and leaves its place to another. Returns whose turn it is now, and on which engine: a look at them finds the restart due
    /// at once instead of with the next poll.
    pub fn order_ended(&mut self, id: &WorkspaceId, end: End, now: Moment) -> Vec<(EngineName, WorkspaceId)> {
        let mut awaited = self.fleet_storm.ended(id, end, now);
        for engine in self.engines.values_mut() {
            awaited |= engine.storm.ended(id, end, now);
        }
        if awaited && end != End::Made { self.draw(now, None) } else { Vec::new() }
    }
}

/// How an attempt ended, as far as that tells anything about its scope; `None` while it is open. An attempt that failed says nothing about
/// the scope, and what came of an abandoned one is not known.
fn end_of(attempt: &Attempt) -> Option<End> {
    Some(match attempt.outcome? {
        Outcome::Succeeded => End::Made,
        Outcome::Failed => End::Failed,
        Outcome::Abandoned | Outcome::Superseded | Outcome::Vetoed => End::NotAsked,
    })
}
