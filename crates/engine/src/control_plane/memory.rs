//! What a control plane keeps in mind between two looks.
//!
//! Without a list, a look at ten thousand instances cannot ask about each of them: that would flood the interface, and every answer would
//! be late. So an instance that is not in doubt is not asked about again. The last look at it is reported once more, with the moment of
//! that look, so that no rule takes it for a new one.
//!
//! Only a sign of life is repeated, and never a stop: an instance must be seen stopped in the very pass that convicts it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use defib_policy::id::WorkspaceId;
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::sample::{Fault, Observation, Sample};

/// How long the last sign of life of an instance is repeated while the instance is in doubt and cannot be asked about. Longer: the instance
/// is judged by an old look although its heartbeat is silent. Shorter: if many instances are in doubt at once and the rate is low, each of
/// them becomes unknown between two looks.
const REPEATED_IN_DOUBT: Duration = Duration::from_secs(120);

/// What is known of the other end and of the instances.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Why the control plane did not answer when it was last asked. `None` if it answered.
    pub(crate) down: Option<Fault>,
    /// The control plane was away, and no report has said so yet.
    pub(crate) outage: bool,
    /// The server's time as last heard, and the moment on our clock when it was heard.
    pub(crate) server_now: Option<(Moment, Timestamp)>,
    seen: HashMap<WorkspaceId, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// The name of the instance at that time.
    reference: Box<str>,
    asked_at: Moment,
    /// The last look that found it alive, unless a later one found something else.
    living: Option<Sample>,
}

impl Memory {
    /// Takes note of a look at an instance.
    pub(crate) fn note(&mut self, workspace: &WorkspaceId, reference: &str, sample: &Sample) {
        let living = match &sample.observation {
            Observation::Running { .. } | Observation::Frozen { .. } => Some(sample.clone()),
            // A look that is no evidence does not change what is known.
            Observation::Unknown { .. } => {
                let known = self.seen.remove(workspace).filter(|seen| &*seen.reference == reference);
                known.and_then(|seen| seen.living)
            }
            _ => None,
        };
        self.seen.insert(workspace.clone(), Seen { reference: reference.into(), asked_at: sample.at, living });
    }

    /// When it was last asked about.
    pub(crate) fn asked_at(&self, workspace: &WorkspaceId, reference: &str) -> Option<Moment> {
        self.known(workspace, reference).map(|seen| seen.asked_at)
    }

    /// The sample of an instance that is not asked about now: its last sign of life, or else unknown.
    pub(crate) fn unasked(&self, workspace: &WorkspaceId, reference: &str, in_doubt: bool, now: Moment) -> Sample {
        let living = self.known(workspace, reference).and_then(|seen| seen.living.as_ref());
        let living = living.filter(|sample| !in_doubt || now - sample.at <= REPEATED_IN_DOUBT);
        let unknown = || Sample { at: now, observation: Observation::Unknown { fault: Fault::NotAsked } };
        living.cloned().unwrap_or_else(unknown)
    }

    /// Forgets all instances except these.
    pub(crate) fn keep<'w>(&mut self, workspaces: impl Iterator<Item = &'w WorkspaceId>) {
        let kept: HashSet<&WorkspaceId> = workspaces.collect();
        self.seen.retain(|workspace, _| kept.contains(workspace));
    }

    fn known(&self, workspace: &WorkspaceId, reference: &str) -> Option<&Seen> {
        self.seen.get(workspace).filter(|seen| &*seen.reference == reference)
    }
}

#[cfg(test)]
mod tests {
    use defib_policy::sample::{Exit, Health, Incarnation};

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(seconds))
    }

    fn running(seconds: u64) -> Sample {
        let incarnation = Incarnation { container_id: "i-1".into(), started_at: None };
        Sample { at: at(seconds), observation: Observation::Running { incarnation, health: Health::None } }
    }

    fn stopped(seconds: u64) -> Sample {
        let incarnation = Incarnation { container_id: "i-1".into(), started_at: None };
        Sample { at: at(seconds), observation: Observation::Stopped { incarnation, exit: Exit::default() } }
    }

    fn unknown(seconds: u64, fault: Fault) -> Sample {
        Sample { at: at(seconds), observation: Observation::Unknown { fault } }
    }

    #[test]
    fn a_sign_of_life_stands_while_nobody_doubts_it() {
        let (mut memory, w) = (Memory::default(), WorkspaceId::from("w"));
        assert_eq!(memory.unasked(&w, "i-1", false, at(1)), unknown(1, Fault::NotAsked));
        memory.note(&w, "i-1", &running(1));
        assert_eq!(memory.unasked(&w, "i-1", false, at(5_000)), running(1));
        assert_eq!(memory.unasked(&w, "i-1", true, at(121)), running(1));
        assert_eq!(memory.unasked(&w, "i-1", true, at(122)), unknown(122, Fault::NotAsked));
        assert_eq!(memory.unasked(&w, "i-2", false, at(2)), unknown(2, Fault::NotAsked), "another instance");
        memory.note(&w, "i-1", &unknown(9, Fault::TimedOut));
        assert_eq!(memory.unasked(&w, "i-1", false, at(10)), running(1), "no answer takes nothing back");
        assert_eq!(memory.asked_at(&w, "i-1"), Some(at(9)));
        memory.keep([].into_iter());
        assert_eq!(memory.asked_at(&w, "i-1"), None);
    }

    #[test]
    fn a_stop_is_never_repeated() {
        let (mut memory, w) = (Memory::default(), WorkspaceId::from("w"));
        memory.note(&w, "i-1", &running(1));
        memory.note(&w, "i-1", &stopped(2));
        assert_eq!(memory.unasked(&w, "i-1", false, at(3)), unknown(3, Fault::NotAsked));
        memory.note(&w, "i-1", &unknown(4, Fault::TimedOut));
        assert_eq!(memory.unasked(&w, "i-1", true, at(5)), unknown(5, Fault::NotAsked));
    }
}
