//! Asking an engine about its workspaces. Cannot fail: a fault is a sample.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use defib_engine::{Engine, EngineReport, Target};
use defib_policy::abilities::Abilities;
use defib_policy::fast_hash::IdMap;
use defib_policy::fleet::Workspace;
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::{EngineEvidence, ReadStamp};
use defib_policy::moment::Moment;
use defib_policy::sample::{Fault, Observation, Sample};
use defib_policy::verdict::Verdict;

use crate::clock::offset_micros;
use crate::own_settings::Labels;
use crate::state::State;

/// The engines of the configuration, and how they are asked.
pub(crate) struct Sampling {
    state: Arc<State>,
    engines: BTreeMap<EngineName, Arc<dyn Engine>>,
}

/// What an engine said of the workspaces that it was asked about.
pub(crate) struct Seen {
    /// When it was asked.
    pub(crate) asked_at: Moment,
    /// `None` for workspaces that no engine has.
    report: Option<EngineReport>,
    places: Places,
    abilities: Abilities,
    /// A call that takes longer than this is slow. It is half of an engine's time-out.
    slow_after: std::time::Duration,
}

/// Where each workspace's sample is in a report. Samples are paired by id, so the order of a report affects speed alone. Mostly it is the
/// order of the ids, and the samples are asked for in that order.
#[derive(Default)]
struct Places {
    /// Only of a report that is not in the order of the ids.
    by_id: Option<IdMap<WorkspaceId, usize>>,
    /// The place after the one that was found last.
    next: AtomicUsize,
}

impl Places {
    fn of(samples: &[(WorkspaceId, Sample)]) -> Self {
        if samples.is_sorted_by(|(one, _), (other, _)| one < other) {
            return Self::default();
        }
        let by_id = samples.iter().enumerate().map(|(place, (id, _))| (id.clone(), place)).collect();
        Self { by_id: Some(by_id), next: AtomicUsize::default() }
    }

    fn find<'a>(&self, samples: &'a [(WorkspaceId, Sample)], id: &WorkspaceId) -> Option<&'a Sample> {
        let next = self.next.load(Ordering::Relaxed);
        let place = match (samples.get(next), &self.by_id) {
            (Some((known, _)), _) if known == id => next,
            (_, Some(by_id)) => *by_id.get(id)?,
            (_, None) => samples.binary_search_by(|(known, _)| known.cmp(id)).ok()?,
        };
        self.next.store(place + 1, Ordering::Relaxed);
        samples.get(place).map(|(_, sample)| sample)
    }
}

impl Sampling {
    /// Asks these engines.
    pub(crate) fn new(state: Arc<State>, engines: BTreeMap<EngineName, Arc<dyn Engine>>) -> Self {
        Self { state, engines }
    }

    /// Asks `engine` (`None`: no engine has them) about `workspaces`: all that it has (`whole`), or a few of them.
    pub(crate) async fn ask(&self, engine: Option<&EngineName>, workspaces: &[&Workspace], whole: bool) -> Seen {
        let asked_at = self.state.now();
        let known = engine.and_then(|name| self.engines.get(name));
        let report = match (engine, known) {
            (None, _) => None,
            (Some(name), None) => Some(not_configured(name, workspaces, asked_at)),
            (Some(_), Some(engine)) => {
                let targets = self.targets(workspaces);
                Some(if whole { engine.sample_all(&targets).await } else { engine.sample_some(&targets).await })
            }
        };
        self.seen(asked_at, report, known)
    }

    /// Asks `engine` (`None`: no engine has them) about `restless` workspaces, where it can tell cheaply that all others there run as they
    /// did when it was last asked about everybody. `None`: it cannot tell that now.
    pub(crate) async fn ask_of_restless(&self, engine: Option<&EngineName>, restless: &[&Workspace]) -> Option<Seen> {
        let asked_at = self.state.now();
        let Some(name) = engine else { return Some(self.seen(asked_at, None, None)) };
        let known = self.engines.get(name)?;
        let report = known.sample_restless(&self.targets(restless)).await?;
        Some(self.seen(asked_at, Some(report), Some(known)))
    }

    fn seen(&self, asked_at: Moment, report: Option<EngineReport>, engine: Option<&Arc<dyn Engine>>) -> Seen {
        let samples = report.as_ref().map_or(&[][..], |report| &report.samples);
        let places = Places::of(samples);
        let abilities = engine.map(|engine| engine.abilities()).unwrap_or_default();
        Seen { asked_at, report, places, abilities, slow_after: self.state.config.engine_timeout / 2 }
    }

    fn targets(&self, workspaces: &[&Workspace]) -> Vec<Target> {
        let judge = self.state.judge();
        let target = |workspace: &&Workspace| {
            let (known, verdict) = judge.known(&workspace.id);
            Target {
                workspace: workspace.id.clone(),
                kind: workspace.kind,
                container_ref: workspace.container_ref.clone(),
                instance_ref: workspace.instance_ref.clone(),
                known: known.cloned(),
                // A workspace with one of these verdicts may run. Then its health or its start decides, which only an inspect tells.
                inspect: matches!(verdict, Some(Verdict::Wedged | Verdict::Unhealthy | Verdict::Dead)),
                in_doubt: verdict != Some(Verdict::Alive),
            }
        };
        workspaces.iter().map(target).collect()
    }
}

impl Seen {
    /// What was seen of one workspace; `None` where no engine has it.
    pub(crate) fn of(&self, workspace: &WorkspaceId) -> Option<&Sample> {
        self.places.find(&self.report.as_ref()?.samples, workspace)
    }

    /// The whole report of an engine that was asked; `None` where there is none that this replica is configured for.
    pub(crate) fn asked(&self) -> Option<&EngineReport> {
        self.report.as_ref().filter(|report| !matches!(report.reach, Err(Fault::NotConfigured)))
    }

    /// The settings that containers carry, where a complete list was read.
    pub(crate) fn own_labels(&self) -> Option<&BTreeMap<WorkspaceId, Labels>> {
        self.report.as_ref()?.own_labels.as_ref()
    }

    /// Whether the engine as such answered; `None` for workspaces that no engine has.
    pub(crate) fn reach(&self) -> Option<Result<(), Fault>> {
        self.report.as_ref().map(|report| report.reach.as_ref().map(drop).map_err(|fault| *fault))
    }

    /// Whether a call took long, or got no answer in time. Only slowness may be our own fault; an engine that refuses at once is not slow.
    pub(crate) fn is_slow(&self) -> bool {
        let Some(report) = &self.report else { return false };
        let slow = report.calls.iter().any(|call| call.took > self.slow_after);
        slow || matches!(report.reach, Err(Fault::TimedOut))
    }

    /// The same of everybody in `workspaces`, if the engine as such did not answer.
    pub(crate) fn of_everybody(mut self, workspaces: &[&Workspace]) -> Self {
        if let Some(report) = &mut self.report
            && let Err(fault) = report.reach
        {
            let unheard = Sample { at: report.at, observation: Observation::Unknown { fault } };
            let is_there = |workspace: &Workspace| self.places.find(&report.samples, &workspace.id).is_some();
            let others: Vec<&Workspace> = workspaces.iter().copied().filter(|workspace| !is_there(workspace)).collect();
            report.samples.extend(others.into_iter().map(|workspace| (workspace.id.clone(), unheard.clone())));
            self.places = Places::of(&report.samples);
        }
        self
    }

    /// What this says of the engine as such, for a judgement on a read of the fleet at `stamp`.
    pub(crate) fn evidence(&self, stamp: ReadStamp) -> Option<EngineEvidence> {
        let abilities = self.abilities;
        Some(match &self.report.as_ref()?.reach {
            Err(fault) => EngineEvidence { fault: Some(*fault), abilities, ..EngineEvidence::default() },
            Ok(reached) => EngineEvidence {
                fault: None,
                identity: reached.identity.clone(),
                restarted: reached.reconnected,
                clock_offset_micros: reached
                    .engine_now
                    .map(|theirs| offset_micros(theirs, (stamp.at, stamp.database_now))),
                abilities,
            },
        })
    }
}

/// What is known of workspaces on an engine that this replica is not configured for: nothing.
fn not_configured(name: &EngineName, workspaces: &[&Workspace], at: Moment) -> EngineReport {
    let sample = Sample { at, observation: Observation::Unknown { fault: Fault::NotConfigured } };
    EngineReport {
        engine: name.clone(),
        at,
        reach: Err(Fault::NotConfigured),
        samples: workspaces.iter().map(|workspace| (workspace.id.clone(), sample.clone())).collect(),
        own_labels: None,
        calls: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each sample of a report, with a moment that tells it from the others.
    fn samples(ids: &[&str]) -> Vec<(WorkspaceId, Sample)> {
        let sample = |n: u64| Sample { at: Moment::from(n), observation: Observation::Missing };
        (0..).zip(ids).map(|(n, id)| ((*id).into(), sample(n))).collect()
    }

    /// A sample of somebody else could convict a workspace that is well.
    #[test]
    fn a_workspace_is_paired_with_its_own_sample_in_whatever_order_a_report_comes_and_is_asked() {
        for ids in [["a", "b", "c", "d"], ["c", "a", "d", "b"]] {
            let report = samples(&ids);
            for asked in [["a", "b", "c", "d"], ["d", "c", "b", "a"], ["b", "b", "a", "d"]] {
                let places = Places::of(&report);
                for id in asked {
                    let own = report.iter().find(|(known, _)| known.as_str() == id).map(|(_, sample)| sample.at);
                    assert_eq!(places.find(&report, &id.into()).map(|sample| sample.at), own, "{id} in {ids:?}");
                    assert!(places.find(&report, &format!("{id}x").as_str().into()).is_none());
                }
            }
        }
    }
}
