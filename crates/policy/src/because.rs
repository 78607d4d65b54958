//! The reason of a verdict as one sentence, made of the evidence and of nothing else.

use std::fmt::Write as _;

use crate::pipeline::NoWitness;
use crate::sample::{Fault, Observation};
use crate::verdict::{Evidence, Rule, Witness};

impl Evidence {
    /// The reason as a sentence, made anew from the facts.
    #[must_use]
    pub fn in_words(&self) -> String {
        sentence(self)
    }
}

/// The sentence for `evidence`, without a full stop.
pub(crate) fn sentence(evidence: &Evidence) -> String {
    let mut text = container(evidence);
    if !matches!(evidence.rule, Rule::NoAnswer) {
        text.push_str(&heartbeat(evidence));
    }
    if let Some(probe) = evidence.probe.filter(|_| evidence.rule != Rule::Finished) {
        // Writing to a String cannot fail.
        let _ = write!(text, "; found so in {}", count(probe.misses, "look"));
        match evidence.rule {
            Rule::StoppedStale | Rule::MissingStale => {
                text.push_str(", and a stale heartbeat is the second witness");
            }
            Rule::StoppedOnce | Rule::StoppedSpaced | Rule::RunningUnhealthy => {
                let _ = write!(text, ", {} are needed", probe.threshold);
            }
            _ => {}
        }
    }
    if evidence.rule == Rule::Finished {
        text.push_str("; an exit with code 0 means that it has finished (on_exit_0=leave), so it is left as it is");
    }
    if evidence.rule == Rule::StormNeedsBoth {
        text.push_str("; many died at once, so a restart needs both a container that stays down and a stale heartbeat");
    }
    if evidence.rule == Rule::BeatsWithoutContainer {
        text.push_str(
            "; heartbeats go on although its container is down, so the mapping is wrong or something else sends them",
        );
    }
    if evidence.reporters > 0 {
        let _ = write!(text, "; suspected by {}", count(evidence.reporters, "reporter"));
    }
    text
}

fn container(evidence: &Evidence) -> String {
    let Some(observation) = &evidence.sample else { return "it has no container (kind external)".to_owned() };
    match observation {
        Observation::Running { .. } if evidence.rule == Rule::RunningUnhealthy => {
            "container runs and its health check fails".to_owned()
        }
        Observation::Running { .. } if evidence.rule == Rule::NewIncarnation => "container just started".to_owned(),
        Observation::Running { .. } => "container runs".to_owned(),
        Observation::Stopped { exit, .. } => {
            let mut text = "container stopped".to_owned();
            if let Some(code) = exit.exit_code {
                let _ = write!(text, " (exit {code}{})", if exit.oom_killed { ", out of memory" } else { "" });
            }
            text
        }
        Observation::Missing => "container is missing from its engine".to_owned(),
        Observation::Frozen { .. } => "container is paused in its engine".to_owned(),
        Observation::Transitional { transition, .. } => {
            format!("engine is at work on the container ({transition:?})").to_lowercase()
        }
        Observation::Unknown { fault } => match fault {
            Fault::Unreachable => format!("engine {} cannot be reached", evidence.engine),
            Fault::TimedOut => format!("engine {} did not answer in time", evidence.engine),
            Fault::EngineError => format!("engine {} answered with an error", evidence.engine),
            Fault::Garbled => format!("engine {} gave an answer that cannot be read", evidence.engine),
            Fault::OtherEngine => {
                format!(
                    "engine {} is not the engine that it was before, so what it does not list may still exist",
                    evidence.engine
                )
            }
            Fault::NotConfigured => format!("engine {} is not in DEFIB_ENGINES", evidence.engine),
            Fault::BadReference => "its container_ref cannot be the name of a container".to_owned(),
            Fault::WrongKind => format!("engine {} cannot have a workspace of its kind", evidence.engine),
            Fault::NotAsked => format!("engine {} was not asked about it, to limit the load on it", evidence.engine),
        },
    }
}

fn heartbeat(evidence: &Evidence) -> String {
    let heartbeat = evidence.heartbeat;
    let window = heartbeat.window_seconds;
    // Below ten seconds the whole ones would make an age and its window look equal.
    let short = |seconds: f64| if seconds < 9.95 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") };
    let aged = |word: &str| match heartbeat.age_seconds {
        Some(age) => format!(", heartbeat {word} ({} old, window {})", short(age), short(window)),
        None => ", never sent a heartbeat".to_owned(),
    };
    match heartbeat.witness {
        Witness::Fresh => aged("fresh"),
        Witness::Stale => aged("stale"),
        Witness::None(NoWitness::Starting) => ", no heartbeat since it started".to_owned(),
        Witness::None(NoWitness::Frozen) => {
            ", its heartbeat is not held against it (the container was paused until lately)".to_owned()
        }
        Witness::None(NoWitness::ReadGap) => {
            ", old heartbeats are not held against anybody (the fleet could not be read for a while)".to_owned()
        }
        Witness::None(NoWitness::DatabaseStarted) => {
            ", old heartbeats are not held against anybody (the database started recently)".to_owned()
        }
        Witness::None(NoWitness::PipelineDown) => {
            ", old heartbeats are not held against anybody (much of the fleet went silent at once)".to_owned()
        }
    }
}

fn count(n: u32, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
}
