//! The facts beside a verdict, as they are recorded and explained.

use super::opinion::Opinion;
use super::{Judge, Look};
use crate::backoff::Allowance;
use crate::moment::Moment;
use crate::verdict::{Evidence, HeartbeatEvidence, Held, ProbeEvidence};

impl Judge {
    pub(super) fn evidence(
        &self,
        now: Moment,
        look: &Look<'_>,
        opinion: &Opinion,
        held: Option<Held>,
        allowance: Option<Allowance>,
    ) -> Evidence {
        let workspace = look.workspace;
        let settings = look.settings(&self.settings);
        let heartbeat = opinion.heartbeat;
        let cadence = self.tracks.get(&workspace.id).map(|track| track.cadence).unwrap_or_default();
        let probe = self.probes.get(&workspace.id, now).map(|probe| ProbeEvidence {
            misses: probe.misses_within(self.health.stretch(settings.dead_window)),
            threshold: settings.dead_threshold,
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
                interval_seconds: cadence.interval(settings).as_secs_f64(),
                interval_learned: cadence.is_learned(),
            },
            sample: sample.map(|sample| sample.observation.clone()),
            sample_age_seconds: sample.map(|sample| (now - sample.at).as_secs_f64()),
            probe,
            reporters: self
                .suspicions
                .against(&workspace.id, now, self.suspicion_memory(), self.reported_to_us)
                .reporters,
            attempt: allowance.map(|allowance| allowance.attempt),
            retry_in_seconds: allowance.map(|allowance| allowance.wait.as_secs_f64()).filter(|wait| *wait > 0.0),
            local_health_multiplier: self.health.multiplier(),
            own_settings: look.own.map(|own| own.described.clone()).unwrap_or_default(),
        };
        evidence.because = crate::because::sentence(&evidence);
        evidence
    }
}
