//! What the log says when a verdict changes, word by word, for each verdict and each rule: `golden/log-verdicts.txt`.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib_policy::moment::{Moment, Timestamp};
use defib_policy::pipeline::NoWitness;
use defib_policy::plan::Change;
use defib_policy::sample::{Exit, Fault, Health, Incarnation, Observation, Transition};
use defib_policy::verdict::{Evidence, HeartbeatEvidence, Held, ProbeEvidence, Rule, Verdict, Witness};

use super::announce;
use crate::golden_file;
use crate::sync::lock;

/// One example: the verdict, the rule, what the engine said, the heartbeat, the looks that found it so, and why the restart is held back.
type Case = (Verdict, Rule, Option<Observation>, Witness, Option<u32>, Option<Held>);

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn life() -> Incarnation {
    Incarnation { container_id: "c0ffee012345".into(), started_at: Some(Timestamp(1_764_000_000_000_000)) }
}

fn runs(health: Health) -> Observation {
    Observation::Running { incarnation: life(), health }
}

fn stopped(exit_code: i64, oom_killed: bool) -> Observation {
    let exit = Exit { exit_code: Some(exit_code), oom_killed, ..Exit::default() };
    Observation::Stopped { incarnation: life(), exit }
}

fn cases() -> Vec<Case> {
    let unhealthy = Health::Unhealthy { last_check_at: None, due_within: None };
    let works = Observation::Transitional { incarnation: life(), transition: Transition::Restarting };
    let silent = Observation::Unknown { fault: Fault::TimedOut };
    let (fresh, stale) = (Witness::Fresh, Witness::Stale);
    let none = Witness::None;
    vec![
        (Verdict::Alive, Rule::RunningFresh, Some(runs(Health::Healthy)), fresh, None, None),
        (Verdict::Alive, Rule::RunningNoWitness, Some(runs(Health::None)), none(NoWitness::PipelineDown), None, None),
        (Verdict::Alive, Rule::RunningNoWitness, Some(runs(Health::None)), none(NoWitness::ReadGap), None, None),
        (
            Verdict::Alive,
            Rule::RunningNoWitness,
            Some(runs(Health::None)),
            none(NoWitness::DatabaseStarted),
            None,
            None,
        ),
        (Verdict::Alive, Rule::RunningNoWitness, Some(runs(Health::None)), none(NoWitness::Frozen), None, None),
        (Verdict::Alive, Rule::ExternalBeating, None, fresh, None, None),
        (Verdict::Busy, Rule::RunningBusy, Some(runs(Health::None)), stale, None, None),
        (Verdict::Silent, Rule::RunningSilent, Some(runs(Health::None)), stale, None, None),
        (Verdict::Silent, Rule::ExternalSilent, None, stale, None, None),
        (Verdict::Wedged, Rule::RunningWedged, Some(runs(Health::None)), stale, None, Some(Held::SecondWitness)),
        (Verdict::Unhealthy, Rule::RunningUnhealthy, Some(runs(unhealthy)), fresh, Some(2), Some(Held::ReportOnly)),
        (Verdict::Suspect, Rule::StoppedOnce, Some(stopped(1, false)), fresh, Some(1), None),
        (Verdict::Suspect, Rule::MissingGrace, Some(Observation::Missing), stale, Some(1), None),
        (Verdict::Suspect, Rule::MissingBeating, Some(Observation::Missing), fresh, Some(3), None),
        (Verdict::Suspect, Rule::StormNeedsBoth, Some(stopped(137, false)), fresh, Some(2), None),
        (Verdict::Dead, Rule::StoppedStale, Some(stopped(137, true)), stale, Some(1), None),
        (Verdict::Dead, Rule::StoppedSpaced, Some(stopped(0, false)), fresh, Some(2), Some(Held::Storm)),
        (Verdict::Dead, Rule::MissingStale, Some(Observation::Missing), stale, Some(4), Some(Held::CannotRecreate)),
        (Verdict::Dead, Rule::MissingOverdue, Some(Observation::Missing), fresh, Some(4), Some(Held::Operator)),
        (Verdict::Dead, Rule::StoppedStale, Some(stopped(0, false)), stale, Some(1), Some(Held::CannotRestart)),
        (Verdict::Exhausted, Rule::StoppedStale, Some(stopped(1, false)), stale, Some(2), Some(Held::Exhausted)),
        (Verdict::Contradiction, Rule::BeatsWithoutContainer, Some(stopped(137, false)), fresh, Some(2), None),
        (Verdict::Frozen, Rule::EngineFrozen, Some(Observation::Frozen { incarnation: life() }), stale, None, None),
        (Verdict::Frozen, Rule::Finished, Some(stopped(0, false)), stale, Some(2), None),
        (Verdict::Settling, Rule::NewIncarnation, Some(runs(Health::Starting)), none(NoWitness::Starting), None, None),
        (Verdict::Settling, Rule::EngineTransition, Some(works), stale, None, None),
        (Verdict::Unknown, Rule::NoAnswer, Some(silent), stale, None, None),
        (Verdict::Lost, Rule::ExternalLost, None, stale, None, None),
    ]
}

fn change((to, rule, sample, witness, misses, held): Case) -> Change {
    let mut evidence = Evidence {
        rule,
        because: String::new(),
        would_change: rule.would_change(),
        held,
        engine: "default".into(),
        status: "online".into(),
        last_heartbeat_at: None,
        last_activity_at: None,
        heartbeat: HeartbeatEvidence {
            witness,
            age_seconds: Some(if witness == Witness::Fresh { 12.0 } else { 80.4 }),
            window_seconds: 75.0,
            interval_seconds: 30.0,
            interval_learned: true,
        },
        sample,
        sample_age_seconds: Some(0.1),
        probe: misses.map(|misses| ProbeEvidence { misses, threshold: 2, since_first_seconds: 5.0 }),
        reporters: u32::from(to == Verdict::Wedged),
        attempt: None,
        retry_in_seconds: None,
        local_health_multiplier: 1,
        own_settings: Vec::new(),
    };
    evidence.because = evidence.in_words();
    let from = if to == Verdict::Alive { Verdict::Settling } else { Verdict::Alive };
    let since = Moment::after(Duration::from_secs(1_000));
    Change { workspace: "w1".into(), from: Some(from), to, since, evidence, newly_held: None }
}

#[test]
fn the_log_line_of_each_verdict_is_as_it_was_read_and_approved() {
    let cases = cases();
    for verdict in Verdict::ALL {
        assert!(cases.iter().any(|case| case.0 == verdict), "{verdict:?} has no line");
    }
    for rule in Rule::ALL {
        assert!(cases.iter().any(|case| case.1 == rule), "{rule:?} has no line");
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        for case in cases {
            announce(&change(case));
        }
    });
    let text = String::from_utf8(lock(&log.0).clone()).unwrap();
    golden_file::matches("log-verdicts", &text);
}

#[test]
fn each_reason_to_hold_a_restart_back_has_its_sentence() {
    let lines: Vec<String> = Held::ALL.iter().map(|held| format!("{}: {}", held.label(), held.sentence())).collect();
    golden_file::matches("held", &lines.join("\n"));
}
