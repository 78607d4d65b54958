//! From calls for restarts to orders: holds, storms, and what is recorded of each opinion.

use std::time::Duration;

use super::opinion::{Conviction, Opinion};
use super::{Judge, Look};
use crate::attempt::{Attempt, Outcome};
use crate::backoff::Allowance;
use crate::id::WorkspaceId;
use crate::moment::Moment;
use crate::plan::{Change, External, Plan, Recovery, Remedy, RestartOrder};
use crate::sample::Observation;
use crate::settings::{Action, Mode, Settings};
use crate::storm::Canary;
use crate::track::{ReadStamp, Track};
use crate::verdict::{Held, Rule, Verdict, Witness};

/// The evidence calls for this restart. Storms and holds have not been considered yet.
pub(super) struct Call<'a> {
    pub(super) look: &'a Look<'a>,
    pub(super) opinion: Opinion,
    pub(super) conviction: Conviction,
    pub(super) allowance: Allowance,
}

/// How a call for a restart stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is due; in a storm it waits for its turn.
    Due,
    /// Not due yet: in a storm both kinds of witness are needed, and one is missing.
    Doubted,
    /// Something stands in its way.
    Blocked(Held),
    /// An attempt is under way already, or the restart is another replica's to make.
    Idle,
}

/// How a call stands, and whether the storms of its engine and of the fleet let it through now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) standing: Standing,
    pub(super) its_turn: bool,
}

impl Judge {
    /// How a call for a restart stands: due, blocked, or lacking a witness that a storm asks for. Whether it is its turn in a storm is
    /// decided later.
    pub(super) fn standing(&self, now: Moment, stamp: ReadStamp, call: &Call<'_>) -> Standing {
        let Call { look, opinion, conviction, allowance } = call;
        let abilities =
            self.engines.get(look.workspace.engine.as_str()).map(|engine| engine.abilities).unwrap_or_default();
        let settings = look.settings(&self.settings);
        // Only the start distinguishes the life that hangs from the next one. Without it, a life that somebody else has begun since, or the
        // one that our own restart begins, would be taken for the one that hangs.
        let nameless = conviction.running
            && self.incarnation_of(look, *conviction).is_none_or(|incarnation| incarnation.started_at.is_none());
        let hindrances = Hindrances {
            on_hold: look.on_hold,
            beyond_defib: match conviction {
                Conviction { missing: true, .. } => (!abilities.recreates).then_some(Held::CannotRecreate),
                Conviction { running: true, .. } => (!abilities.kills).then_some(Held::CannotRestart),
                _ => (!abilities.starts).then_some(Held::CannotRestart),
            },
            left_to_engine: conviction.engine_restarts && self.left_to_engine(now, stamp, call).is_some(),
            nameless,
        };
        if let Some(held) = hold(settings, *allowance, hindrances, opinion.verdict) {
            Standing::Blocked(held)
        } else if allowance.open || !look.ours {
            Standing::Idle
        } else if self.lacks_a_witness(now, stamp, call) {
            Standing::Doubted
        } else {
            Standing::Due
        }
    }

    /// Until when the restart is left to the policies of its engine, which has just come back.
    fn left_to_engine(&self, now: Moment, stamp: ReadStamp, call: &Call<'_>) -> Option<Moment> {
        let window = self.health.stretch(self.settings.dead_window);
        let down_for = self.down_for(now, stamp, call.look, &call.opinion);
        self.engines.get(call.look.workspace.engine.as_str())?.waits_for_its_engine(now, down_for, window)
    }

    /// In a storm both kinds of witness are needed: spaced samples and a stale heartbeat.
    fn lacks_a_witness(&self, now: Moment, stamp: ReadStamp, call: &Call<'_>) -> bool {
        let Call { look, opinion, conviction, .. } = call;
        if !self.in_storm(&look.workspace.engine) {
            return false;
        }
        // Where half of the fleet never sends heartbeats, a stale heartbeat would never be a witness, and the dead of a storm would stay
        // dead. So a workspace that has been down for the longest window without a sign of life counts as stale. If that is wrong, the
        // small batches of a storm bound the harm.
        let silent = conviction.stale
            || (opinion.heartbeat.witness != Witness::Fresh
                && self.down_for(now, stamp, look, opinion) >= self.settings.recent_max);
        if conviction.running { !conviction.stale } else { !(conviction.spaced && silent) }
    }

    /// Decides what becomes of a call for a restart: it is ordered, held back or, in a storm, downgraded to a suspicion. `its_turn` says
    /// whether the storms of its engine and of the fleet let it through, if there are any.
    pub(super) fn answer(&mut self, now: Moment, stamp: ReadStamp, call: Call<'_>, turn: Turn, plan: &mut Plan) {
        let lacks_a_witness = self.lacks_a_witness(now, stamp, &call);
        let left_to_engine = self.left_to_engine(now, stamp, &call);
        let Call { look, mut opinion, conviction, allowance } = call;
        let workspace = look.workspace;
        let soon = now + self.health.stretch(self.settings.probe_spacing);
        let storm = self.in_storm(&workspace.engine);
        let held = match turn.standing {
            Standing::Blocked(held) => Some(held),
            Standing::Doubted => Some(Held::Storm),
            Standing::Due if storm && !turn.its_turn => Some(Held::Storm),
            Standing::Idle if lacks_a_witness => Some(Held::Storm),
            Standing::Due | Standing::Idle => None,
        };
        if lacks_a_witness {
            if !conviction.running {
                opinion.verdict = Verdict::Suspect;
                opinion.rule = Rule::StormNeedsBoth;
                opinion.look_at.get_or_insert(soon);
            }
            return self.settle_opinion(now, look, &opinion, held, None, plan);
        }
        match held {
            Some(Held::StartUnknown) => opinion.look_at = Some(soon),
            Some(Held::Backoff | Held::Exhausted) => opinion.look_at = Some(now + allowance.wait),
            Some(Held::EngineReturned) => opinion.look_at = left_to_engine,
            _ => {}
        }
        self.settle_opinion(now, look, &opinion, held, Some(allowance), plan);
        if held.is_some() || turn.standing != Standing::Due {
            return;
        }
        let incarnation = self.incarnation_of(look, conviction).cloned();
        if storm {
            let settle = self.health.stretch(look.settings(&self.settings).settle);
            let settle = self.tracks.get(&workspace.id).map_or(settle, |track| track.settle(settle));
            let canary = Canary {
                life: incarnation.clone(),
                attempt_before: look.attempts.first().map(|attempt| attempt.id),
                span: 2 * settle.max(opinion.heartbeat.window),
                released_at: now,
            };
            self.release(look, &canary);
        }
        let offset = self.engines.get(workspace.engine.as_str()).map_or(0, |engine| engine.offset);
        plan.restarts.push(RestartOrder {
            workspace: workspace.id.clone(),
            engine: workspace.engine.clone(),
            incarnation,
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

    /// The attempt that this opinion proves to be a recovery. Only a heartbeat of the new life proves that or, for a workspace that never
    /// sends one, that it ran through the settle window.
    fn recovered(&self, look: &Look<'_>, opinion: &Opinion) -> Option<i64> {
        // A superseded attempt counts here too: its claim told the platform that the workspace is dead, and that has to be taken back.
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
    // The container may have stopped after the fleet was read. Then only the time since the stop counts, not the whole time since the read.
    let after_read = finished.since(stamp.database_now);
    Some((stamp.database_now.since(finished) + (now - stamp.at)).saturating_sub(after_read))
}

/// What may stand in the way of a restart besides the settings and the back-off.
#[derive(Clone, Copy, Debug)]
struct Hindrances {
    on_hold: bool,
    /// Nothing that defib is configured for can do what it needs.
    beyond_defib: Option<Held>,
    left_to_engine: bool,
    nameless: bool,
}

/// Why a restart that the evidence calls for is not made now, storms apart.
fn hold(settings: &Settings, allowance: Allowance, hindrances: Hindrances, verdict: Verdict) -> Option<Held> {
    if hindrances.on_hold {
        Some(Held::Operator)
    } else if action(settings, verdict) != Action::Restart {
        Some(Held::ReportOnly)
    } else if settings.mode == Mode::Observe {
        Some(Held::Observe)
    } else if hindrances.beyond_defib.is_some() {
        hindrances.beyond_defib
    } else if hindrances.left_to_engine {
        Some(Held::EngineReturned)
    } else if !allowance.wait.is_zero() {
        Some(if allowance.exhausted { Held::Exhausted } else { Held::Backoff })
    } else {
        hindrances.nameless.then_some(Held::StartUnknown)
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
pub(super) const fn action(settings: &Settings, verdict: Verdict) -> Action {
    match verdict {
        Verdict::Wedged => settings.wedged_action,
        Verdict::Unhealthy => settings.unhealthy_action,
        _ => Action::Restart,
    }
}
