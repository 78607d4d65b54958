//! One look at a control plane.
//!
//! Two kinds of trouble are distinguished. A control plane that cannot be reached, refuses our token or answers nothing but errors is
//! *down*, and says nothing about any instance. If one instance gets an error while others get answers, only that instance is in trouble,
//! however often that repeats. A 503 for one instance is such a trouble of its own, until several instances in a row get one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use defib_policy::fleet::Kind;
use defib_policy::id::WorkspaceId;
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::sample::{Fault, Observation, Sample, Transition};
use futures_util::{StreamExt, stream};
use hyper::Method;
use tokio::time::Instant;

use super::ControlPlane;
use super::answer::{self, Understood};
use super::api::{Api, Get, Headers, List};
use super::http::{self, Answer, Asking, NoAnswer};
use super::list;
use super::rate::Urgency;
use super::template::Values;
use super::unavailable::Instance;
use crate::{Call, CallTiming, EngineReport, Reached, Target};

/// How many requests run at once. More requests would not make the server faster; each answer would only take longer.
const AT_ONCE: usize = 8;

/// The largest answer about one instance, in bytes.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// An interface without a list is asked about one instance after the other. A look at the whole fleet then waits for turns for the call
/// time-out divided by this number. Larger: fewer instances are asked about in one look. Smaller: a look may take longer than a poll
/// interval.
const SWEEP_SHARE: u32 = 2;

/// Why a request was not sent.
#[derive(Debug)]
pub(super) enum NotAsked {
    /// The rate, a pause of everything or the time did not allow it.
    NoTurn,
    /// The instance's own pause is not over.
    Delayed,
}

/// One look.
pub(super) struct Look<'a> {
    plane: &'a ControlPlane,
    at: Moment,
    ends_at: Instant,
    calls: Mutex<Vec<Asked>>,
}

/// A request that was sent.
struct Asked {
    timing: CallTiming,
    /// The answer was a 503 for one instance.
    is_one_unavailable: bool,
}

/// A target for which the interface has a name, so that it can be asked about.
struct Named<'t> {
    index: usize,
    target: &'t Target,
    reference: &'t str,
}

impl<'a> Look<'a> {
    pub(super) fn begin(plane: &'a ControlPlane) -> Self {
        let ends_at = Instant::now() + plane.settings.call_timeout * 2;
        Self { plane, at: plane.now(), ends_at, calls: Mutex::default() }
    }

    pub(super) fn api(&self) -> &Api {
        &self.plane.line.api
    }

    /// All instances.
    pub(super) async fn whole(self, targets: &[Target]) -> EngineReport {
        let (mut samples, named) = self.sort_out(targets);
        let report = match (&self.api().list, &self.api().get) {
            (Some(list), get) => self.listed(list, get.as_ref(), named, &mut samples).await,
            (None, Some(get)) => {
                let found = self.swept(get, named).await;
                place(&mut samples, found);
                None
            }
            (None, None) => None,
        };
        self.plane.memory().keep(targets.iter().map(|target| &target.workspace));
        self.report(targets, samples, report)
    }

    /// A few instances.
    pub(super) async fn few(self, targets: &[Target]) -> EngineReport {
        let (mut samples, mut named) = self.sort_out(targets);
        let mut list_fault = None;
        self.longest_unasked_first(&mut named);
        match (&self.api().get, &self.api().list) {
            (Some(get), list) => {
                let mut found = self.each(get, named, Urgency::Urgent, self.ends_at).await;
                let missing = |(_, sample): &(usize, Sample)| sample.observation == Observation::Missing;
                if let Some(list) = list.as_ref().filter(|_| found.iter().any(missing)) {
                    let listing = list::read(&self, list, Urgency::Urgent).await;
                    for (index, sample) in &mut found {
                        let reference = self.plane.reference(&targets[*index]).unwrap_or_default();
                        let absent = listing.as_ref().is_ok_and(|l| l.complete && !l.entries.contains_key(reference));
                        if sample.observation == Observation::Missing && !absent {
                            sample.observation = Observation::Unknown { fault: Fault::EngineError };
                        }
                    }
                }
                place(&mut samples, found);
            }
            (None, Some(list)) => list_fault = self.listed(list, None, named, &mut samples).await,
            (None, None) => {}
        }
        self.report(targets, samples, list_fault)
    }

    /// Returns a sample for each target, which is unknown until the target was asked about, and the targets that can be asked about.
    fn sort_out<'t>(&self, targets: &'t [Target]) -> (Vec<Sample>, Vec<Named<'t>>)
    where
        'a: 't,
    {
        let (mut samples, mut named) = (Vec::with_capacity(targets.len()), Vec::new());
        for (index, target) in targets.iter().enumerate() {
            let fault = match self.plane.reference(target) {
                _ if target.kind != Kind::Instance => Fault::WrongKind,
                None => Fault::BadReference,
                Some(reference) => {
                    named.push(Named { index, target, reference });
                    Fault::NotAsked
                }
            };
            samples.push(unknown(self.at, fault));
        }
        (samples, named)
    }

    /// Takes samples from the list, and asks about the instances that the list leaves in doubt, as many as there are turns, beginning with
    /// the one that was asked about longest ago. Returns the fault if there was no list.
    async fn listed(
        &self,
        list: &List,
        get: Option<&Get>,
        named: Vec<Named<'_>>,
        samples: &mut [Sample],
    ) -> Option<Fault> {
        let listed_at = self.plane.now();
        let listing = match list::read(self, list, Urgency::Sweep).await {
            Ok(listing) => listing,
            Err(no_list) => {
                for Named { index, .. } in named {
                    samples[index] = unknown(listed_at, no_list.fault);
                }
                return Some(no_list.fault);
            }
        };
        let (mut in_doubt, mut said) = (Vec::new(), Vec::new());
        for one in named {
            let entry = listing.entries.get(one.reference);
            let observation = match entry {
                Some(Some(understood)) => understood.observation.clone(),
                Some(None) => Observation::Unknown { fault: Fault::Garbled },
                None => Observation::Unknown { fault: Fault::EngineError },
            };
            let settled = match &observation {
                Observation::Running { .. } => !one.target.inspect,
                Observation::Frozen { .. } | Observation::Transitional { .. } => true,
                Observation::Stopped { .. } | Observation::Missing | Observation::Unknown { .. } => false,
            };
            samples[one.index] = Sample { at: listed_at, observation };
            if !settled && get.is_some() {
                said.push((one.index, entry.is_some()));
                in_doubt.push(one);
            }
        }
        let get = get?;
        self.longest_unasked_first(&mut in_doubt);
        let found = self.each(get, in_doubt, Urgency::Sweep, self.ends_at).await;
        for (index, mut sample) in found {
            let was_listed = said.iter().any(|(known, listed)| *known == index && *listed);
            let lives = matches!(samples[index].observation, Observation::Running { .. });
            match &sample.observation {
                Observation::Missing if was_listed => sample.observation = removing(&samples[index].observation),
                Observation::Missing if !listing.complete => {
                    sample.observation = Observation::Unknown { fault: Fault::EngineError };
                }
                // The list said that the instance runs. That stands, although the closer look failed.
                Observation::Unknown { .. } if lives => continue,
                _ => {}
            }
            samples[index] = sample;
        }
        None
    }

    /// Takes samples where there is no list. Asks about the instances that are in doubt or were never asked about, as many as there are
    /// turns: first those in doubt, beginning with the one that was asked about longest ago.
    async fn swept(&self, get: &Get, named: Vec<Named<'_>>) -> Vec<(usize, Sample)> {
        let (mut asked, mut unasked) = (Vec::new(), Vec::new());
        {
            let memory = self.plane.memory();
            for one in named {
                let asked_at = memory.asked_at(&one.target.workspace, one.reference);
                if one.target.in_doubt || one.target.inspect || asked_at.is_none() {
                    // Instances in doubt come before those that are only new.
                    asked.push((!one.target.in_doubt, asked_at, one));
                } else {
                    unasked.push((one.index, self.repeat(&memory, &one)));
                }
            }
        }
        asked.sort_by_key(|(is_new, asked_at, _)| (*is_new, *asked_at));
        let asked = asked.into_iter().map(|(_, _, one)| one).collect();
        let by = (Instant::now() + self.plane.settings.call_timeout / SWEEP_SHARE).min(self.ends_at);
        unasked.extend(self.each(get, asked, Urgency::Sweep, by).await);
        unasked
    }

    /// Puts those first that were never asked about, and then those that were asked about longest ago. There may be turns for only a part
    /// of them. If that were the same part in each look, a few dozen instances that stay in doubt for good, or a few that never answer,
    /// would keep all others from ever being asked about.
    fn longest_unasked_first(&self, named: &mut [Named<'_>]) {
        let memory = self.plane.memory();
        named.sort_by_cached_key(|one| memory.asked_at(&one.target.workspace, one.reference));
    }

    fn repeat(&self, memory: &super::memory::Memory, one: &Named<'_>) -> Sample {
        memory.unasked(&one.target.workspace, one.reference, one.target.in_doubt, self.at)
    }

    /// Asks about each of these instances, several at once. A request waits for its turn until `by` at most.
    async fn each(&self, get: &Get, named: Vec<Named<'_>>, urgency: Urgency, by: Instant) -> Vec<(usize, Sample)> {
        let asking = named.into_iter().map(|one| async move {
            let at = self.plane.now();
            let understood = self.get(get, &one.target.workspace, one.reference, urgency, by).await;
            let mut memory = self.plane.memory();
            let sample = match understood {
                Ok(understood) => {
                    let sample = Sample { at, observation: understood.observation };
                    memory.note(&one.target.workspace, one.reference, &sample);
                    sample
                }
                Err(NotAsked::NoTurn) => self.repeat(&memory, &one),
                Err(NotAsked::Delayed) => unknown(at, Fault::NotAsked),
            };
            (one.index, sample)
        });
        stream::iter(asking.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await
    }

    /// Asks about one instance. Does not wait for the end of the instance's own pause, so that it takes no other's place meanwhile.
    pub(super) async fn get(
        &self,
        get: &Get,
        workspace: &WorkspaceId,
        reference: &str,
        urgency: Urgency,
        by: Instant,
    ) -> Result<Understood, NotAsked> {
        let values = Values { workspace: workspace.as_str(), instance: reference, ..Values::default() };
        let Some(path) = get.path.fill(values) else {
            let refused = Err(NoAnswer::Unsendable("the reference cannot stand in a path".into()));
            return Ok(answer::of_get(self.api(), get, reference, &refused));
        };
        let instance = Instance { workspace: workspace.as_str(), reference };
        if self.plane.line.pace.delays(instance) {
            return Err(NotAsked::Delayed);
        }
        let answer = self.ask(Some(instance), path, &get.headers, ANSWER_BYTES_MAX, urgency, by).await?;
        Ok(answer::of_get(self.api(), get, reference, &answer))
    }

    /// Asks for a page of a list.
    pub(super) async fn read_page(
        &self,
        path: String,
        headers: &Headers,
        bytes_max: usize,
        urgency: Urgency,
    ) -> Result<Result<Answer, NoAnswer>, NotAsked> {
        self.ask(None, path, headers, bytes_max, urgency, self.ends_at).await
    }

    /// Asks about an instance, or for a page of a list.
    async fn ask(
        &self,
        instance: Option<Instance<'_>>,
        path: String,
        headers: &Headers,
        bytes_max: usize,
        urgency: Urgency,
        turn_by: Instant,
    ) -> Result<Result<Answer, NoAnswer>, NotAsked> {
        let line = &self.plane.line;
        line.pace.turn(urgency, turn_by.min(self.ends_at)).await.map_err(|_| NotAsked::NoTurn)?;
        let (begun, at) = (Instant::now(), self.plane.now());
        let by = self.ends_at.min(begun + self.plane.settings.call_timeout);
        if by <= begun {
            return Err(NotAsked::NoTurn);
        }
        let url = format!("{}{path}", line.api.base);
        let asking = Asking { method: Method::GET, url, headers, extra: None, body: None, bytes_max, by };
        let answer = line.client.ask(asking).await;
        let fault = match &answer {
            Ok(answer) => {
                line.pace.note(instance, answer.status, answer.retry_after);
                self.note_clock(at, answer);
                // Any other refusal is an answer about the instance that was asked about.
                is_everybodys(answer.status).then_some(Fault::EngineError)
            }
            Err(error) => Some(answer::fault_of(error)),
        };
        let call = if instance.is_some() { Call::Inspect } else { Call::List };
        let is_one_unavailable = instance.is_some() && answer.as_ref().is_ok_and(|answer| answer.status == 503);
        self.calls().push(Asked { timing: CallTiming { call, took: begun.elapsed(), fault }, is_one_unavailable });
        Ok(answer)
    }

    /// Notes the server's time. A server writes it when its work is done, in whole seconds, so half a second is added as the best guess.
    fn note_clock(&self, at: Moment, answer: &Answer) {
        if let Some(micros) = answer.date.and_then(http::micros) {
            self.plane.memory().server_now = Some((at, Timestamp(micros.saturating_add(500_000))));
        }
    }

    /// Makes the report. `list_fault` says why the list could not be read, if the samples depend on one.
    fn report(self, targets: &[Target], samples: Vec<Sample>, list_fault: Option<Fault>) -> EngineReport {
        let asked = std::mem::take(&mut *self.calls());
        let all_are_unavailable = self.plane.line.pace.is_unavailable();
        let of_everybody =
            |asked: &Asked| asked.timing.fault.filter(|_| !asked.is_one_unavailable || all_are_unavailable);
        let faults: Vec<Option<Fault>> = asked.iter().map(of_everybody).collect();
        let calls = asked.into_iter().map(|asked| asked.timing).collect();
        let mut memory = self.plane.memory();
        let down = list_fault.filter(|fault| *fault != Fault::NotAsked).or_else(|| down(&faults, memory.down));
        memory.down = down;
        let reach = match down {
            Some(fault) => {
                memory.outage |= matches!(fault, Fault::Unreachable | Fault::TimedOut);
                Err(fault)
            }
            None => Ok(Reached {
                identity: Some(self.plane.line.api.base.clone()),
                engine_now: memory.server_now,
                reconnected: std::mem::take(&mut memory.outage),
                spoiled: false,
            }),
        };
        drop(memory);
        let samples = targets.iter().map(|target| target.workspace.clone()).zip(samples).collect();
        let engine = self.plane.settings.name.clone();
        EngineReport { engine, at: self.at, reach, samples, own_labels: None, calls }
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Asked>> {
        // Nothing panics while the lock is held, so it is never poisoned. If it were, the record would still be usable.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an answer of this status is about our access or the whole server, rather than about one instance.
const fn is_everybodys(status: u16) -> bool {
    matches!(status, 401 | 403 | 407 | 429 | 500..)
}

/// Why the control plane is down, if the calls of a look show that it is. There is a fault for each call that says something against the
/// control plane, and `None` for each other one. A look without any call changes nothing.
fn down(faults: &[Option<Fault>], before: Option<Fault>) -> Option<Fault> {
    if faults.is_empty() {
        return before;
    }
    if faults.contains(&None) {
        return None;
    }
    let transport = faults.iter().all(|fault| matches!(fault, Some(Fault::Unreachable | Fault::TimedOut)));
    // If only one instance is asked about, and it gets an error each time, the control plane must not count as down.
    faults.first().copied().flatten().filter(|_| transport || faults.len() > 1)
}

fn place(samples: &mut [Sample], found: Vec<(usize, Sample)>) {
    for (index, sample) in found {
        samples[index] = sample;
    }
}

/// An instance that was in the list and is gone at the closer look is being removed.
fn removing(listed: &Observation) -> Observation {
    let unknown = Observation::Unknown { fault: Fault::EngineError };
    listed.incarnation().map_or(unknown, |incarnation| Observation::Transitional {
        incarnation: incarnation.clone(),
        transition: Transition::Removing,
    })
}

const fn unknown(at: Moment, fault: Fault) -> Sample {
    Sample { at, observation: Observation::Unknown { fault } }
}

/// The deadline of a request that is made outside of a look.
pub(super) fn within(call_timeout: Duration) -> Instant {
    Instant::now() + call_timeout
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_fails_alone_says_nothing_about_the_control_plane() {
        let (bad, away) = (Some(Fault::EngineError), Some(Fault::Unreachable));
        for (faults, before, expected) in [
            (&[][..], None, None),
            (&[], away, away),
            (&[bad], away, None),
            (&[bad, bad], None, bad),
            (&[bad, None, bad], None, None),
            (&[away], None, away),
            (&[Some(Fault::TimedOut)], None, Some(Fault::TimedOut)),
            (&[Some(Fault::Garbled)], None, None),
            (&[away, bad], None, away),
        ] {
            assert_eq!(down(faults, before), expected, "{faults:?}");
        }
    }
}
