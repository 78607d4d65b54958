//! A restart that an operator orders: whatever the verdict is, but through the same protocol as any other.

use super::{Judge, Look};
use crate::backoff;
use crate::id::EngineName;
use crate::moment::Moment;
use crate::pipeline::NoWitness;
use crate::plan::{ByOperator, Remedy, RestartOrder};
use crate::sample::Observation;
use crate::storm::StormGuard;
use crate::verdict::{Evidence, HeartbeatEvidence, Held, Rule, Witness};

/// What came of ending a storm by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StormEnded {
    /// There was no storm.
    None,
    /// Its dead are restarted without waiting for each other.
    Ended,
    /// The storm of the engine has ended, but the fleet is in a storm as well, which still holds the dead of this engine.
    FleetHolds,
}

impl Judge {
    /// Ends the storm of an engine (`None`: every storm there is). The storm of the fleet ends with it if no other engine is in a storm.
    pub fn end_storm(&mut self, engine: Option<&EngineName>) -> StormEnded {
        let Some(name) = engine else {
            let any = self.fleet_storm.is_storm() || self.engines.values().any(|engine| engine.storm.is_storm());
            self.fleet_storm = StormGuard::default();
            self.engines.values_mut().for_each(|engine| engine.storm = StormGuard::default());
            return if any { StormEnded::Ended } else { StormEnded::None };
        };
        let was = self.is_storm(Some(name)) || self.fleet_storm.is_storm();
        if let Some(engine) = self.engines.get_mut(name.as_str()) {
            engine.storm = StormGuard::default();
        }
        let others = self.engines.values().any(|engine| engine.storm.is_storm());
        match (was, self.fleet_storm.is_storm() && others) {
            (false, _) => StormEnded::None,
            (true, true) => StormEnded::FleetHolds,
            (true, false) => {
                self.fleet_storm = StormGuard::default();
                StormEnded::Ended
            }
        }
    }

    /// The order to restart a workspace because an operator wants it. The look at its container must have told its start.
    ///
    /// # Errors
    /// Why it cannot be ordered, as a sentence.
    pub fn order_by_operator(&self, now: Moment, look: &Look<'_>, by: ByOperator) -> Result<RestartOrder, String> {
        let workspace = look.workspace;
        let Some(sample) = look.sample else { return Err("it has no container that could be restarted".to_owned()) };
        let engine = self.engines.get(workspace.engine.as_str());
        let abilities = engine.map(|engine| engine.abilities).unwrap_or_default();
        let (remedy, rule) = match &sample.observation {
            Observation::Running { .. } if abilities.kills => (Remedy::KillAndStart, Rule::RunningFresh),
            Observation::Stopped { .. } if abilities.starts => (Remedy::Start, Rule::StoppedOnce),
            Observation::Missing if abilities.recreates => (Remedy::Recreate, Rule::MissingGrace),
            Observation::Running { .. } | Observation::Stopped { .. } => {
                return Err(Held::CannotRestart.sentence().to_owned());
            }
            Observation::Missing => return Err(Held::CannotRecreate.sentence().to_owned()),
            Observation::Frozen { .. } => return Err("somebody paused its container: unpause it first".to_owned()),
            Observation::Transitional { .. } => {
                return Err("its engine is at work on it: try again in a moment".to_owned());
            }
            Observation::Unknown { fault } => return Err(format!("its engine gives no answer about it ({fault})")),
        };
        let settings = look.settings(&self.settings);
        let last_life = || Some(self.tracks.get(&workspace.id)?.life.as_ref()?.incarnation.clone());
        let incarnation = match remedy {
            Remedy::Recreate => last_life(),
            Remedy::Start | Remedy::KillAndStart => sample.observation.incarnation().cloned(),
        };
        let allowance = backoff::allowance(look.attempts, incarnation.as_ref(), std::time::Duration::ZERO, settings);
        if look.in_flight || allowance.open {
            return Err("a restart of it is under way already".to_owned());
        }
        let cadence = self.tracks.get(&workspace.id).map(|track| track.cadence).unwrap_or_default();
        let evidence = Evidence {
            rule,
            because: format!("{} ordered it: {}", by.by, by.reason),
            would_change: rule.would_change(),
            held: None,
            engine: workspace.engine.clone(),
            status: workspace.status.clone(),
            last_heartbeat_at: workspace.last_heartbeat_at,
            last_activity_at: workspace.last_activity_at,
            heartbeat: HeartbeatEvidence {
                witness: Witness::None(NoWitness::Starting),
                age_seconds: None,
                window_seconds: cadence.window(settings).as_secs_f64(),
                interval_seconds: cadence.interval(settings).as_secs_f64(),
                interval_learned: cadence.is_learned(),
            },
            sample: Some(sample.observation.clone()),
            sample_age_seconds: Some((now - sample.at).as_secs_f64()),
            probe: None,
            reporters: 0,
            attempt: Some(allowance.attempt),
            retry_in_seconds: None,
            local_health_multiplier: self.health.multiplier(),
            own_settings: look.own.map(|own| own.described.clone()).unwrap_or_default(),
        };
        Ok(RestartOrder {
            workspace: workspace.id.clone(),
            engine: workspace.engine.clone(),
            kind: workspace.kind,
            incarnation,
            container_ref: workspace.container_ref.clone(),
            instance_ref: workspace.instance_ref.clone(),
            policy: workspace.policy.clone(),
            remedy,
            attempt: allowance.attempt,
            verdict: self.verdict(&workspace.id).unwrap_or(crate::verdict::Verdict::Alive),
            evidence,
            at: now,
            stopped_ago: None,
            by_operator: Some(by),
        })
    }
}
