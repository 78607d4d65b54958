//! From calls for restarts to orders: storms, holds, and what is recorded of each opinion.

use std::collections::BTreeSet;
use std::time::Duration;

use super::opinion::{Conviction, Opinion};
use super::{Call, Judge, Look};
use crate::attempt::{Attempt, Outcome};
use crate::backoff::Allowance;
use crate::id::{EngineName, WorkspaceId};
use crate::moment::Moment;
use crate::plan::{Change, External, Plan, Recovery, Remedy, RestartOrder};
use crate::sample::Observation;
use crate::settings::{Action, Mode, Settings};
use crate::track::{ReadStamp, Track};
use crate::verdict::{Held, Rule, Verdict, Witness};

impl Judge {
    /// Whether an opinion is one more death for the storm guard. Those found stopped for the first time count already: when
    /// many of them come at once, the first few must not be convicted before the storm is seen. Those that run count where
    /// they would be restarted: a health check that fails everywhere is no less of a storm.
    pub(super) fn counts_for_storm(&self, look: &Look<'_>, opinion: &Opinion) -> bool {
        let known = self.tracks.get(&look.workspace.id).and_then(|track| track.verdict).map(|(verdict, _)| verdict);
        match opinion.verdict {
            Verdict::Dead => !matches!(known, Some(Verdict::Dead | Verdict::Exhausted)),
            Verdict::Suspect => opinion.rule == Rule::StoppedOnce,
            Verdict::Unhealthy | Verdict::Wedged => {
                let in_doubt = opinion.verdict == Verdict::Unhealthy || opinion.conviction.is_some();
                in_doubt && action(look.settings(&self.settings), opinion.verdict) == Action::Restart
            }
            _ => false,
        }
    }

    /// Counts a death in the fleet and on its engine.
    pub(super) fn note_death(&mut self, now: Moment, engine: Option<&EngineName>, id: &WorkspaceId, plan: &mut Plan) {
        let window = self.health.stretch(self.settings.dead_window);
        if self.fleet_storm.death(id, now, self.watched, window, &self.settings) {
            plan.storms.push((None, true));
        }
        if let Some((name, track)) = engine.and_then(|name| Some((name, self.engines.get_mut(name)?)))
            && track.storm.death(id, now, track.watched, window, &self.settings)
        {
            plan.storms.push((Some(name.clone()), true));
        }
    }

    /// Moves the storms of this pass along.
    pub(super) fn turn_storms(
        &mut self,
        now: Moment,
        engine: Option<&EngineName>,
        calls: &[Call<'_>],
        plan: &mut Plan,
    ) {
        let stormy = self.fleet_storm.is_storm() || engine.is_some_and(|name| self.is_storm(Some(name)));
        if !stormy {
            return;
        }
        let waiting = self.anybody_dead(calls.iter().map(|call| call.look.workspace.id.clone()).collect());
        let tracks = &self.tracks;
        // Back is who beats again; or who never beats, and is through its settle window; or who is watched no more. Failed
        // is who was found dead again since.
        let returned = |id: &WorkspaceId, released_at: Moment| {
            let Some(track) = tracks.get(id) else { return Some(true) };
            let (verdict, rule) = track.verdict?;
            let beats = matches!(rule, Rule::RunningFresh | Rule::RunningBusy);
            let survives = matches!(verdict, Verdict::Alive | Verdict::Silent) && !track.cadence.has_lived();
            let again = matches!(verdict, Verdict::Dead | Verdict::Exhausted) && track.since > released_at;
            if beats || survives { Some(true) } else { again.then_some(false) }
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
        if self.counts[Verdict::Dead.index()] == 0 {
            return dead; // the usual case, without a walk over the fleet
        }
        let others = self.tracks.iter().filter(|(_, track)| matches!(track.verdict, Some((Verdict::Dead, _))));
        dead.extend(others.map(|(id, _)| id.clone()));
        dead
    }

    /// Decides what becomes of a call for a restart: a suspicion only (storm), held back, or an order.
    pub(super) fn answer(&mut self, now: Moment, stamp: ReadStamp, call: Call<'_>, plan: &mut Plan) {
        let Call { look, mut opinion, conviction, allowance } = call;
        let workspace = look.workspace;
        let id = &workspace.id;
        let fleet_storm = self.fleet_storm.is_storm();
        let engine = self.engines.get(workspace.engine.as_str());
        let storm = fleet_storm || engine.is_some_and(|engine| engine.storm.is_storm());
        if storm && conviction.running && !conviction.stale {
            return self.settle_opinion(now, look, &opinion, Some(Held::Storm), None, plan);
        }
        // Where heartbeats are no witness for good (half of the fleet never beats), the second kind would never come. One
        // that was down for the longest window without a sign of life is as good as stale; the canaries bound the rest.
        let silent = conviction.stale
            || (opinion.heartbeat.witness != Witness::Fresh
                && self.down_for(now, stamp, look, &opinion) >= self.settings.recent_max);
        if storm && !conviction.running && !(conviction.spaced && silent) {
            opinion.verdict = Verdict::Suspect;
            opinion.rule = Rule::StormNeedsBoth;
            opinion.look_at.get_or_insert(now + self.health.stretch(self.settings.probe_spacing));
            return self.settle_opinion(now, look, &opinion, Some(Held::Storm), None, plan);
        }
        if allowance.exhausted && !conviction.running {
            opinion.verdict = Verdict::Exhausted;
        }
        let admitted = !storm || (self.fleet_storm.admits(id) && engine.is_none_or(|engine| engine.storm.admits(id)));
        let window = self.health.stretch(self.settings.dead_window);
        let down_for = self.down_for(now, stamp, look, &opinion);
        let left_to_engine = engine.and_then(|engine| engine.waits_for_its_engine(now, down_for, window));
        let settings = look.settings(&self.settings);
        let held = if look.on_hold {
            Some(Held::Operator)
        } else {
            let cannot_recreate = conviction.missing && !engine.is_some_and(|engine| engine.abilities.recreates);
            hold(settings, conviction, allowance, admitted, left_to_engine, cannot_recreate, opinion.verdict)
        };
        // Only its start tells the life that is to be ended from the next one. Without it, whoever has restarted it since would be
        // taken for the one that hangs, and so would the life that our own restart begins.
        let nameless = conviction.running
            && self.incarnation_of(look, conviction).is_none_or(|incarnation| incarnation.started_at.is_none());
        let held = held.or(nameless.then_some(Held::StartUnknown));
        match held {
            Some(Held::StartUnknown) => {
                opinion.look_at = Some(now + self.health.stretch(self.settings.probe_spacing));
            }
            Some(Held::Backoff | Held::Exhausted) => opinion.look_at = Some(now + allowance.wait),
            Some(Held::EngineReturned) => opinion.look_at = left_to_engine,
            _ => {}
        }
        self.settle_opinion(now, look, &opinion, held, Some(allowance), plan);
        if held.is_some() || allowance.open || !look.ours {
            return;
        }
        let back_by = now + 2 * self.health.stretch(self.settings.settle).max(opinion.heartbeat.window);
        if fleet_storm {
            self.fleet_storm.release(id, now, back_by);
        }
        if let Some(engine) = self.engines.get_mut(workspace.engine.as_str()) {
            engine.storm.release(id, now, back_by);
        }
        let offset = self.engines.get(workspace.engine.as_str()).map_or(0, |engine| engine.offset);
        plan.restarts.push(RestartOrder {
            workspace: id.clone(),
            engine: workspace.engine.clone(),
            incarnation: self.incarnation_of(look, conviction).cloned(),
            kind: workspace.kind,
            container_ref: workspace.container_ref.clone(),
            instance_ref: workspace.instance_ref.clone(),
            policy: workspace.policy.clone(),
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
            by_operator: None,
        });
    }

    /// Records an opinion: the change, if it is one, and what follows from a sign of life.
    pub(super) fn settle_opinion(
        &mut self,
        now: Moment,
        look: &Look<'_>,
        opinion: &Opinion,
        held: Option<Held>,
        allowance: Option<Allowance>,
        plan: &mut Plan,
    ) {
        let id = &look.workspace.id;
        let held = held.or_else(|| idle_hold(look.settings(&self.settings), opinion));
        if let Some(at) = opinion.look_at {
            plan.looks.push((id.clone(), at));
        }
        if let Some(attempt_id) = self.recovered(look, opinion).filter(|_| look.ours) {
            let evidence = self.evidence(now, look, opinion, held, allowance);
            plan.recoveries.push(Recovery { workspace: id.clone(), attempt_id, evidence });
        }
        if look.ours
            && look.settings(&self.settings).mode == Mode::Enforce
            && let Some(lost) = self.external_news(id, opinion)
        {
            let evidence = self.evidence(now, look, opinion, held, allowance);
            plan.external.push(External { workspace: id.clone(), lost, evidence });
        }
        let Some(track) = self.tracks.get_mut(id) else { return };
        let before = track.verdict.map(|(verdict, _)| verdict);
        if before != Some(opinion.verdict) {
            track.since = now;
            if let Some(before) = before {
                self.counts[before.index()] -= 1;
            }
            self.counts[opinion.verdict.index()] += 1;
        }
        track.verdict = Some((opinion.verdict, opinion.rule));
        if !look.ours {
            return;
        }
        let saying = (opinion.verdict, opinion.rule, held);
        let told = track.told.replace(saying);
        if told == Some(saying) {
            return;
        }
        let since = track.since;
        let from = told.map(|(verdict, ..)| verdict);
        let newly_held = held.filter(|held| told.is_none_or(|(.., before)| before != Some(*held)));
        let unremarkable = opinion.verdict == Verdict::Alive && from.is_none_or(|verdict| verdict == Verdict::Alive);
        if unremarkable {
            return;
        }
        let evidence = self.evidence(now, look, opinion, held, allowance);
        plan.changes.push(Change { workspace: id.clone(), from, to: opinion.verdict, since, evidence, newly_held });
    }

    /// Whether the platform must hear that an external workspace is lost (`true`) or that it is back.
    fn external_news(&self, id: &WorkspaceId, opinion: &Opinion) -> Option<bool> {
        let was_lost = self.tracks.get(id).is_some_and(Track::is_lost);
        match opinion.verdict {
            Verdict::Lost => Some(true),
            _ if was_lost => Some(false),
            _ => None,
        }
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
            && newest.finished_ago.is_some_and(|ago| ago >= track.settle(look.settings(&self.settings).settle));
        (beats || survives).then_some(newest.id)
    }
}

pub(super) fn stopped_ago(look: &Look<'_>, stamp: ReadStamp, now: Moment, offset: i64) -> Option<Duration> {
    let Observation::Stopped { exit, .. } = &look.sample?.observation else { return None };
    let finished = exit.finished_at?.shifted(offset.saturating_neg());
    // The stop may lie between the read and now: then only the later part of that span is known to have passed.
    let after_read = finished.since(stamp.database_now);
    Some((stamp.database_now.since(finished) + (now - stamp.at)).saturating_sub(after_read))
}

/// Why a restart that the evidence calls for is not made now.
fn hold(
    settings: &Settings,
    conviction: Conviction,
    allowance: Allowance,
    admitted: bool,
    left_to_engine: Option<Moment>,
    cannot_recreate: bool,
    verdict: Verdict,
) -> Option<Held> {
    if action(settings, verdict) != Action::Restart {
        Some(Held::ReportOnly)
    } else if settings.mode == Mode::Observe {
        Some(Held::Observe)
    } else if cannot_recreate {
        Some(Held::CannotRecreate)
    } else if conviction.engine_restarts && left_to_engine.is_some() {
        Some(Held::EngineReturned)
    } else if !allowance.wait.is_zero() {
        Some(if allowance.exhausted { Held::Exhausted } else { Held::Backoff })
    } else if !admitted {
        Some(Held::Storm)
    } else {
        None
    }
}

/// A workspace that runs is reported and not restarted while nothing agrees that it is beyond help.
fn idle_hold(settings: &Settings, opinion: &Opinion) -> Option<Held> {
    let waiting = opinion.verdict == Verdict::Wedged && opinion.conviction.is_none();
    waiting.then_some(match settings.wedged_action {
        Action::Restart => Held::SecondWitness,
        Action::Report | Action::Ignore => Held::ReportOnly,
    })
}

/// What the settings say is to be done about a verdict that calls for a restart.
const fn action(settings: &Settings, verdict: Verdict) -> Action {
    match verdict {
        Verdict::Wedged => settings.wedged_action,
        Verdict::Unhealthy => settings.unhealthy_action,
        _ => Action::Restart,
    }
}
