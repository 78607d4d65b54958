//! Quick lists: between two full lists, an engine is asked only for the containers that do not run, and for those that are not healthy where
//! there are health checks.
//!
//! A full list costs the engine a tenth of a millisecond for each container, and most of them run and ran at the last list. Those
//! that do not run are few, and an engine finds them by its own status filter at a quarter of the cost. If a quick list shows exactly the
//! containers that did not run at the last full list (kept as a [`Roster`]), then every container that ran at that list still runs.
//!
//! A quick list is believed only while nothing else can have happened. A full list is asked for instead:
//!
//! - when the caller wants one ([`sample_all`](crate::Engine::sample_all));
//! - when the event stream has not been open without a break since before the last full list was asked for, or has gone deaf (`ear`);
//! - when an event told of any container that matters, unless it was about its health;
//! - when a container is new in the quick list, has another state there, or is missing from it;
//! - when a workspace is asked about that the roster does not know: a new row, another reference, another container, or no container that
//!   carries the label of the workspace. A name that no container has is asked for by an inspect, as after a full list;
//! - when a workspace seems to run and has come into doubt since the last full list: if its heartbeats have stopped, its container may have
//!   gone while the event stream was deaf;
//! - when another engine answers, or this one was away;
//! - when the last full list is older than `full_list_every`, or was not complete.
//!
//! What remains: where the event stream has gone deaf, a container that was removed, or removed and replaced under its name, seems to run until
//! its heartbeats are missed, `/info` shows it (`ear`), or the next full list does. Nobody is convicted by that: a conviction and the call after
//! it rest on an inspect.
//!
//! Strangers' containers on the same host come and go without any of this.

use std::collections::HashMap;
use std::sync::Arc;

use bollard::Docker;
use defib_policy::moment::Moment;
use defib_policy::sample::{Fault, Health, Incarnation, Observation, Sample};

use super::deadline::{Budget, CallError};
use super::ear::Heard;
use super::entry::Entry;
use super::listing::{Handle, Listing};
use super::look::{Finding, Look, Question, read_entry, unknown};
use super::roster::{Found, Place, Roster};
use super::{DockerEngine, Link};
use crate::Target;
use crate::report::Call;

/// The states other than running, in the words of each kind of engine. An engine refuses a word that it does not know.
const NOT_RUNNING: [&[&str]; 2] = [
    &["created", "paused", "restarting", "removing", "exited", "dead"],
    // The states of podman. Its filter does not know its own state `stopping`, so a container in that state is found by a full list.
    &["created", "initialized", "paused", "stopped", "exited", "removing", "unknown"],
];

/// The states of a health check that are asked for. Every other container that runs is well, or has no health check.
const NOT_HEALTHY: [&str; 2] = ["starting", "unhealthy"];

/// Whose words for states an engine is asked with: Docker's or podman's.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// How many of [`NOT_RUNNING`] were refused, beginning with those of the engine's own kind.
    refused_kinds: usize,
    /// How many quick lists in a row were refused.
    refusals: usize,
    /// When the engine had refused the words of each kind. Then no quick list is asked for until the next full list is due, and after it
    /// quick lists are tried again.
    refused_at: Option<Moment>,
}

impl Words {
    fn refused(&mut self, at: Moment) {
        self.refused_kinds += 1;
        self.refusals += 1;
        if self.refusals >= NOT_RUNNING.len() {
            self.refused_at = Some(at);
        }
    }

    const fn understood(&mut self) {
        self.refusals = 0;
        self.refused_at = None;
    }
}

/// Those that do not run, and those that are not healthy.
struct Quick {
    /// By id. One that is in both lists counts once.
    entries: HashMap<Box<str>, Entry>,
}

impl DockerEngine {
    /// The roster, if it can still be believed.
    fn roster(&self, now: Moment) -> Option<Arc<Roster>> {
        let Link { ear, outage, identified, identity, .. } = &*self.link();
        let every = self.settings.full_list_every;
        let roster = ear.roster()?;
        let is_current = !outage
            && *identified
            && identity.as_deref() == Some(&*roster.identity)
            && now.since(roster.at) < every
            && ear.words.refused_at.is_none_or(|at| now.since(at) >= every);
        is_current.then(|| Arc::clone(roster))
    }

    /// Asks for a quick list. `None`: it shows that something has changed, or the engine refused it.
    ///
    /// # Errors
    /// The engine was not reached in time: for a full list it would not be, either.
    async fn quick_list(
        &self,
        client: &Docker,
        roster: &Arc<Roster>,
        budget: &Budget,
    ) -> Result<Option<Quick>, CallError> {
        let at = self.now();
        let words = {
            let link = self.link();
            let kind = (usize::from(link.is_podman) + link.ear.words.refused_kinds) % NOT_RUNNING.len();
            NOT_RUNNING.get(kind).copied().unwrap_or_default()
        };
        let stopped = serde_json::json!({ "status": words }).to_string();
        let unhealthy = serde_json::json!({ "health": NOT_HEALTHY }).to_string();
        let ask = async |filters: &str| self.list(client, Call::QuickList, Some(filters), budget).await;
        let unhealthy = async { if roster.has_checks { ask(&unhealthy).await.map(Some) } else { Ok(None) } };
        let lists = async { tokio::try_join!(ask(&stopped), unhealthy) };
        let (lists, ()) = tokio::join!(lists, self.refresh_info(client, budget));
        let (stopped, unhealthy) = match lists {
            Ok(lists) => lists,
            Err(error) if error.fault() == Fault::EngineError => {
                self.link().ear.words.refused(at);
                return Ok(None);
            }
            Err(error) if error.fault() == Fault::Garbled => return Ok(None),
            Err(error) => return Err(error),
        };
        self.link().ear.words.understood();
        let complete = stopped.complete && unhealthy.as_ref().is_none_or(|listed| listed.complete);
        let entries = stopped.entries.into_iter().chain(unhealthy.into_iter().flat_map(|listed| listed.entries));
        let entries: HashMap<Box<str>, Entry> = entries.map(|entry| (entry.id.clone(), entry)).collect();
        // What was heard while it was asked for is newer than the roster.
        let still_holds = self.roster(at).is_some_and(|now| Arc::ptr_eq(&now, roster));
        let suffices = still_holds && complete && roster.is_unchanged_in(entries.values());
        Ok(suffices.then_some(Quick { entries }))
    }

    /// A full list is about to be asked for.
    pub(super) fn full_list_begins(&self) -> FullList<'_> {
        FullList { engine: self, at: self.now(), heard: self.link().ear.full_list_begins(), roster: None }
    }
}

/// A full list that is under way. Its end is noted when this is dropped, which also happens when the look is given up.
pub(super) struct FullList<'a> {
    engine: &'a DockerEngine,
    at: Moment,
    /// What had been heard before it was asked for; `None`: no event stream was open.
    heard: Option<Heard>,
    roster: Option<Roster>,
}

impl FullList<'_> {
    /// It has come, and is complete.
    pub(super) fn came(mut self, entries: &[Entry], listing: &Listing<'_>, targets: &[Target]) {
        let identity = {
            let link = self.engine.link();
            link.identity.clone().filter(|_| link.identified)
        };
        let is_used = !self.engine.settings.full_list_every.is_zero();
        self.roster = self
            .heard
            .zip(identity)
            .filter(|_| is_used)
            .map(|(heard, identity)| Roster::new(self.at, heard, identity, entries, listing, targets));
    }
}

impl Drop for FullList<'_> {
    fn drop(&mut self) {
        let roster = self.roster.take();
        self.engine.link().ear.full_list_ends(roster);
    }
}

impl Look<'_> {
    /// What a quick list tells of these workspaces, and when it was asked for. `None`: a full list is needed.
    ///
    /// # Errors
    /// The engine was not reached in time.
    pub(super) async fn quick(
        &self,
        client: &Docker,
        targets: &[Target],
    ) -> Result<Option<(Moment, Vec<Finding>)>, Fault> {
        let at = self.engine.now();
        let Some(roster) = self.engine.roster(at) else { return Ok(None) };
        let Some(places) = roster.places_of(targets) else { return Ok(None) };
        let quick = self.engine.quick_list(client, &roster, &self.budget).await.map_err(|error| error.fault())?;
        let Some(quick) = quick else { return Ok(None) };
        let findings = places.iter().zip(targets).map(|(place, target)| read_quick(*place, target, &quick, at));
        Ok(findings.collect::<Option<Vec<Finding>>>().map(|findings| (at, findings)))
    }
}

/// What a quick list says of a target; `None`: nothing, so that a full list is needed.
fn read_quick(place: Result<&Place, Fault>, target: &Target, quick: &Quick, at: Moment) -> Option<Finding> {
    let place = match place {
        Ok(place) => place,
        Err(fault) => return Some(Finding::Done(unknown(at, fault))),
    };
    Some(match &place.found {
        Found::Runs { container, is_healthy } => {
            let health = if *is_healthy { Health::Healthy } else { Health::None };
            let incarnation = Incarnation { container_id: container.clone(), started_at: None };
            let observation = Observation::Running { incarnation, health };
            if target.inspect {
                Finding::Ask(Question::of_living(container, observation))
            } else {
                Finding::Done(Sample { at, observation })
            }
        }
        Found::Shown(container) => read_entry(quick.entries.get(container.as_str())?, target, at),
        Found::NoSuchName => match Handle::of(target) {
            Handle::Ask(name) => Finding::Ask(Question::of_nobody(name)),
            Handle::None | Handle::Unaskable(_) => return None,
        },
    })
}
