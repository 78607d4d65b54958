//! Looking at containers: a whole engine at once, or a few workspaces.
//!
//! The problem is the price. A list costs the engine a tenth of a millisecond for each container it has, an inspect one or
//! two milliseconds for one. A list cannot say how a container died, and nothing but a list can say that no other container has
//! taken its place. So:
//!
//! - the **whole** fleet: one list, and an inspect for those in doubt (exited, unhealthy, or not in the list);
//! - the **restless** workspaces, between two looks at the whole fleet: a list of the containers that do not run (`quick`), as long as that
//!   can tell that all others run;
//! - a **few** workspaces: an inspect each, and a list for those that this cannot settle.
//!
//! A container counts as **missing** only if one look shows three things: it is not in the list, the engine itself says that it knows no
//! container of that name, and the engine is still the same one. A container that defib has never seen has no name to ask for, so there
//! the list alone decides.
//!
//! **An entry that cannot be assigned to anybody** (it has no id, or its names or labels cannot be read) makes a list incomplete, because it
//! may be anybody's container. By such a list, a workspace can be missing only if it is found by its container's name. One that is found by
//! its label counts as stopped only if the list of containers with that label is complete. Where a list cannot be read at all, each
//! container is inspected. An unknown state makes its own container unknown, and no other.
//!
//! The race: a container can be removed, replaced or started between any two calls of a look. The later call wins; what was
//! in the list and is gone at the inspect is being removed, not missing; and a sample carries the moment at which the call
//! that decided it was begun, so that whatever happens later is newer.
//!
//! The file is long because the three kinds of look end in the same steps, and the race has to be read across all of them.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bollard::Docker;
use defib_policy::fleet::Kind;
use defib_policy::id::{ContainerId, WorkspaceId};
use defib_policy::moment::Moment;
use defib_policy::sample::{Fault, Health, Incarnation, Observation, Sample, Transition};
use futures_util::{StreamExt, stream};

use super::DockerEngine;
use super::client;
use super::deadline::{Budget, CallError};
use super::entry::Entry;
use super::facts::{self, Glance, Liveliness};
use super::list::{Listed, STALL_MAX};
use super::listing::{self, Handle, Listing, Match, may_have_siblings};
use super::quick::FullList;
use super::record::Record;
use crate::Target;
use crate::report::{Call, EngineReport, Reached};

/// How many inspects run at once. More do not make an engine faster, they make each of its answers slower, and the slowest
/// one late.
const INSPECTS_MAX: usize = 8;

impl DockerEngine {
    /// Looks at all workspaces of this engine: one list, and inspects where it leaves a doubt. Takes at most twice the
    /// call time-out; what was not reached by then is unknown.
    pub(super) async fn sample_all(&self, targets: &[Target]) -> EngineReport {
        let look = Look::begin(self);
        let samples = look.whole(targets).await;
        look.report(targets, samples)
    }

    /// Looks at these workspaces by a quick list, and inspects where it leaves a doubt. `None`: a quick list cannot tell now that all others
    /// run as they did at the last full list.
    pub(super) async fn sample_restless(&self, targets: &[Target]) -> Option<EngineReport> {
        let look = Look::begin(self);
        let samples = look.restless(targets).await.transpose()?;
        Some(look.report(targets, samples))
    }

    /// Looks at a few workspaces: inspects, and one list where they leave a doubt. Takes at most twice the call time-out.
    pub(super) async fn sample_some(&self, targets: &[Target]) -> EngineReport {
        let look = Look::begin(self);
        let samples = look.few(targets).await;
        look.report(targets, samples)
    }

    /// The last look before a restart.
    pub(super) async fn confirm(&self, target: &Target) -> Sample {
        let report = self.sample_some(std::slice::from_ref(target)).await;
        let unknown = || Sample { at: report.at, observation: Observation::Unknown { fault: Fault::NotAsked } };
        report.samples.first().map_or_else(unknown, |(_, sample)| sample.clone())
    }
}

/// One look at one engine.
pub(super) struct Look<'a> {
    pub(super) engine: &'a DockerEngine,
    at: Moment,
    pub(super) budget: Budget,
    /// What the containers of a complete list carry for their workspaces.
    own_labels: OnceLock<BTreeMap<WorkspaceId, Vec<(String, String)>>>,
    /// A list was incomplete.
    spoiled: AtomicBool,
}

/// The settings that containers carry for their workspaces. Most fleets have none.
fn own_labels(
    entries: &[Entry],
    listing: &Listing<'_>,
    targets: &[Target],
) -> BTreeMap<WorkspaceId, Vec<(String, String)>> {
    if entries.iter().all(|entry| entry.own_labels.is_empty()) {
        return BTreeMap::new();
    }
    let of = |target: &Target| {
        let Match::Is(entry) = listing.find(target) else { return None };
        (!entry.own_labels.is_empty()).then(|| (target.workspace.clone(), entry.own_labels.clone()))
    };
    targets.iter().filter(|target| target.kind == Kind::Container).filter_map(of).collect()
}

/// What a look has found out about one target so far.
pub(super) enum Finding {
    /// The look at this target is done, with this sample.
    Done(Sample),
    /// To be inspected.
    Ask(Question),
    /// Absent from a complete list and not known to the engine by name: missing, if the engine is the right one.
    Missing,
    /// Only a list can tell. The inspect so far, if it found a container.
    NeedsList(Option<Sample>),
}

/// An inspect to be made.
#[derive(Default)]
pub(super) struct Question {
    /// The name or id to ask for.
    about: String,
    /// What to make of "no such container".
    if_gone: IfGone,
    /// What stands when there is no answer: what the list said, where it said that the container lives.
    otherwise: Option<Observation>,
    /// The workspace's label, if another container that carries it may be the workspace and was not seen. Only a list of the containers
    /// with this label can tell.
    siblings: Option<String>,
}

impl Question {
    /// About this container, which runs as far as is known.
    pub(super) fn of_living(container: &ContainerId, running: Observation) -> Self {
        Self { about: container.to_string(), otherwise: Some(running), ..Self::default() }
    }

    /// About a name that no container had.
    pub(super) fn of_nobody(name: &str) -> Self {
        Self { about: name.to_owned(), if_gone: IfGone::Missing, ..Self::default() }
    }
}

#[derive(Default)]
enum IfGone {
    /// It was not in the list either.
    Missing,
    /// It was in the list.
    #[default]
    Removing,
}

/// Which containers are to be listed, stopped ones always included.
#[derive(PartialEq, Eq)]
enum WantedList {
    None,
    /// Those with a label, `key` or `key=value`.
    Labelled(String),
    Complete,
}

impl<'a> Look<'a> {
    fn begin(engine: &'a DockerEngine) -> Self {
        Self {
            engine,
            at: engine.now(),
            budget: engine.budget(),
            own_labels: OnceLock::new(),
            spoiled: AtomicBool::new(false),
        }
    }

    /// Some workspaces, from a quick list; `None`: a full list is needed.
    async fn restless(&self, targets: &[Target]) -> Result<Option<Vec<Sample>>, Fault> {
        let client = self.engine.hello(&self.budget).await.map_err(|error| error.fault())?;
        let Some((listed_at, findings)) = self.quick(&client, targets).await? else { return Ok(None) };
        Ok(Some(self.settle(&client, listed_at, findings).await))
    }

    /// The whole engine, from a list.
    async fn whole(&self, targets: &[Target]) -> Result<Vec<Sample>, Fault> {
        let client = self.engine.hello(&self.budget).await.map_err(|error| error.fault())?;
        let full_list = self.engine.full_list_begins();
        let listed_at = self.engine.now();
        match self.list_beside_info(&client).await {
            Ok(listed) => {
                let findings = self.read_all(&listed, full_list, targets, listed_at);
                drop(listed); // its memory is not kept while anything else is waited for
                Ok(self.settle(&client, listed_at, findings).await)
            }
            Err(error) if error.fault() == Fault::Garbled => self.one_by_one(&client, targets).await,
            Err(error) => Err(error.fault()),
        }
    }

    /// Asks for a full list, and for `/info` beside it when that is due. If the list comes first, it keeps its turn for a moment, and then
    /// waits for `/info` without it.
    async fn list_beside_info(&self, client: &Docker) -> Result<Listed, CallError> {
        let mut info = std::pin::pin!(self.engine.refresh_info(client, &self.budget));
        let mut listing = std::pin::pin!(self.list(client, WantedList::Complete));
        let mut informed = false;
        let mut listed = loop {
            tokio::select! {
                listed = &mut listing => break listed,
                () = &mut info, if !informed => informed = true,
            }
        };
        if !informed && tokio::time::timeout(STALL_MAX, &mut info).await.is_err() {
            if let Ok(listed) = &mut listed {
                listed.give_turn_back();
            }
            info.await;
        }
        listed
    }

    /// What a full list says of these workspaces.
    fn read_all(&self, listed: &Listed, full_list: FullList<'_>, targets: &[Target], at: Moment) -> Vec<Finding> {
        let Listed { entries, complete, .. } = listed;
        let listing = Listing::new(entries);
        if *complete {
            let _ = self.own_labels.set(own_labels(entries, &listing, targets));
            full_list.came(entries, &listing, targets);
        }
        targets.iter().map(|target| read_list(&listing, *complete, target, at)).collect()
    }

    /// A few workspaces, from inspects.
    async fn few(&self, targets: &[Target]) -> Result<Vec<Sample>, Fault> {
        let client = self.engine.hello(&self.budget).await.map_err(|error| error.fault())?;
        let (mut findings, ()) =
            tokio::join!(self.inspect_each(&client, targets), self.engine.refresh_info(&client, &self.budget));
        let listed_at = self.engine.now();
        let wanted = self.wanted_list(targets, &findings);
        if wanted != WantedList::None {
            match self.list(&client, wanted).await {
                Ok(Listed { entries, complete, .. }) => {
                    let listing = Listing::new(&entries);
                    for (finding, target) in findings.iter_mut().zip(targets) {
                        if let Finding::NeedsList(inspected) = finding {
                            let inspected = inspected.take();
                            *finding = read_list_after_inspect(&listing, complete, target, listed_at, inspected);
                        }
                    }
                }
                Err(error) => {
                    for finding in &mut findings {
                        if matches!(finding, Finding::NeedsList(_)) {
                            *finding = Finding::Done(unknown(listed_at, error.fault()));
                        }
                    }
                }
            }
        }
        let samples = self.settle(&client, listed_at, findings).await;
        if self.budget.all_unreachable() { Err(Fault::Unreachable) } else { Ok(samples) }
    }

    /// The first half of [`Look::few`]: what an inspect of each can tell.
    async fn inspect_each(&self, client: &Docker, targets: &[Target]) -> Vec<Finding> {
        let hung_at = |target: &Target| match Handle::of(target) {
            Handle::Ask(about) => self.engine.link().hung.at(about),
            Handle::None | Handle::Unaskable(_) => None,
        };
        let inspecting = targets.iter().enumerate().map(|(index, target)| {
            (hung_at(target), async move {
                let at = self.engine.now();
                let finding = match Handle::of(target) {
                    Handle::Unaskable(fault) => Finding::Done(unknown(at, fault)),
                    Handle::None => Finding::NeedsList(None),
                    Handle::Ask(about) => match self.inspect(client, about).await {
                        Ok(Some(record)) => {
                            let observation = facts::observe(&record);
                            let lives = matches!(observation, Observation::Running { .. });
                            let sample = Sample { at, observation };
                            if lives || !may_have_siblings(target) {
                                Finding::Done(sample)
                            } else {
                                Finding::NeedsList(Some(sample))
                            }
                        }
                        Ok(None) => Finding::NeedsList(None),
                        Err(error) => Finding::Done(unknown(at, error.fault())),
                    },
                };
                (index, finding)
            })
        });
        let mut findings = at_once(inspecting.collect()).await;
        findings.sort_unstable_by_key(|(index, _)| *index);
        findings.into_iter().map(|(_, finding)| finding).collect()
    }

    /// Which list the open findings need, if any. Whether a sibling lives is seen in a list of those with the label, which
    /// is much cheaper; whether a container exists at all takes the complete one.
    fn wanted_list(&self, targets: &[Target], findings: &[Finding]) -> WantedList {
        let open: Vec<_> = targets
            .iter()
            .zip(findings)
            .filter_map(|(target, finding)| match finding {
                Finding::NeedsList(inspected) => Some((target, inspected.is_some())),
                _ => None,
            })
            .collect();
        let label = &self.engine.settings.workspace_label;
        match open.as_slice() {
            [] => WantedList::None,
            [(target, true)] => WantedList::Labelled(format!("{label}={}", target.workspace)),
            several if several.iter().all(|(_, exists)| *exists) => WantedList::Labelled(label.clone()),
            _ => WantedList::Complete,
        }
    }

    /// Inspects each container, because there is no list. Without a list no container counts as missing, and none that may have a sibling
    /// counts as stopped.
    async fn one_by_one(&self, client: &Docker, targets: &[Target]) -> Result<Vec<Sample>, Fault> {
        let findings = self.inspect_each(client, targets).await;
        if !self.budget.any_answer(Call::Inspect) {
            return Err(Fault::Garbled);
        }
        let sample = |finding| match finding {
            Finding::Done(sample) => sample,
            Finding::Ask(_) | Finding::Missing | Finding::NeedsList(_) => unknown(self.at, Fault::Garbled),
        };
        Ok(findings.into_iter().map(sample).collect())
    }

    /// Settles what is left open: makes the inspects that are needed, and checks that the engine is still the same one before a container
    /// counts as missing.
    async fn settle(&self, client: &Docker, listed_at: Moment, mut findings: Vec<Finding>) -> Vec<Sample> {
        let questions = findings.iter_mut().enumerate().filter_map(|(index, finding)| match finding {
            Finding::Ask(question) => Some((index, std::mem::take(question))),
            _ => None,
        });
        let answering = questions.map(|(index, question)| {
            let hung_at = self.engine.link().hung.at(&question.about);
            (hung_at, async move { (index, self.answer(client, question).await) })
        });
        for (index, answer) in at_once(answering.collect()).await {
            findings[index] = answer;
        }

        let missing = if findings.iter().any(|finding| matches!(finding, Finding::Missing)) {
            match self.engine.identify(client, &self.budget).await {
                Ok(()) => Observation::Missing,
                Err(fault) => Observation::Unknown { fault },
            }
        } else {
            Observation::Missing
        };
        let sample = |finding| match finding {
            Finding::Done(sample) => sample,
            Finding::Missing => Sample { at: listed_at, observation: missing.clone() },
            Finding::Ask(_) | Finding::NeedsList(_) => unknown(listed_at, Fault::NotAsked),
        };
        findings.into_iter().map(sample).collect()
    }

    async fn answer(&self, client: &Docker, question: Question) -> Finding {
        let at = self.engine.now();
        let observation = match self.inspect(client, &question.about).await {
            Ok(Some(record)) => facts::observe(&record),
            Ok(None) => match question.if_gone {
                IfGone::Missing => return Finding::Missing,
                IfGone::Removing => removing(&question.about),
            },
            Err(error) => Observation::Unknown { fault: error.fault() },
        };
        let observation = match (observation, question.otherwise) {
            (Observation::Unknown { .. }, Some(listed)) => listed,
            (observation, _) => observation,
        };
        let accuses = !matches!(observation, Observation::Running { .. } | Observation::Unknown { .. });
        if let Some(workspace) = question.siblings.filter(|_| accuses)
            && let Err(fault) = self.is_alone(client, &workspace, &question.about).await
        {
            return Finding::Done(unknown(at, fault));
        }
        Finding::Done(Sample { at, observation })
    }

    /// Makes sure that of all containers with the label of a workspace this one is the workspace: every one of them could be read, and none
    /// is livelier.
    async fn is_alone(&self, client: &Docker, workspace: &str, container_id: &str) -> Result<(), Fault> {
        let label = &self.engine.settings.workspace_label;
        let listed = self.list(client, WantedList::Labelled(format!("{label}={workspace}"))).await;
        let Listed { entries, complete, .. } = listed.map_err(|error| error.fault())?;
        let target = Target::container(workspace.into(), None);
        match Listing::new(&entries).find(&target) {
            Match::Is(entry) if complete && *entry.id == *container_id => Ok(()),
            _ => Err(Fault::Garbled),
        }
    }

    /// `None` when the engine, in its own words, has no such container.
    async fn inspect(&self, client: &Docker, about: &str) -> Result<Option<Record>, CallError> {
        let asked_at = self.engine.now();
        let inspecting = client::read(client, format!("/containers/{about}/json"));
        let answer = self.budget.call(Call::Inspect, inspecting).await;
        self.engine.link().hung.note(about, asked_at, &answer);
        match answer {
            Ok(record) => Ok(Some(record).filter(|record| listing::is_of(record, about))),
            Err(error) if error.is_no_such_container() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, client: &Docker, wanted: WantedList) -> Result<Listed, CallError> {
        let filters = match wanted {
            WantedList::Labelled(label) => Some(serde_json::json!({ "label": [label] }).to_string()),
            WantedList::Complete | WantedList::None => None,
        };
        let listed = self.engine.list(client, Call::List, filters.as_deref(), &self.budget).await?;
        if !listed.complete {
            self.spoiled.store(true, Ordering::Relaxed);
        }
        Ok(listed)
    }

    fn report(self, targets: &[Target], samples: Result<Vec<Sample>, Fault>) -> EngineReport {
        let engine = self.engine;
        let (reach, samples) = match samples {
            Ok(samples) if self.budget.is_silent() => (engine.note_silence(), samples),
            Ok(samples) => {
                let spoiled = self.spoiled.load(Ordering::Relaxed);
                (Ok(Reached { spoiled, ..engine.note_reached() }), samples)
            }
            Err(fault) => {
                engine.note_down(fault);
                // An engine that answers something unreadable is there, so this is not an outage.
                if fault != Fault::Garbled {
                    engine.note_outage();
                }
                // A container engine knows nothing of instances even while it answers, so their fault stays the same.
                let of = |target: &Target| match Handle::of(target) {
                    Handle::Unaskable(Fault::WrongKind) => unknown(self.at, Fault::WrongKind),
                    _ => unknown(self.at, fault),
                };
                (Err(fault), targets.iter().map(of).collect())
            }
        };
        EngineReport {
            engine: engine.name().clone(),
            at: self.at,
            reach,
            samples: targets.iter().map(|target| target.workspace.clone()).zip(samples).collect(),
            own_labels: self.own_labels.into_inner(),
            calls: self.budget.take_timings(),
        }
    }
}

/// What a list says of a target.
fn read_list(listing: &Listing<'_>, complete: bool, target: &Target, at: Moment) -> Finding {
    let handle = Handle::of(target);
    if let Handle::Unaskable(fault) = handle {
        return Finding::Done(unknown(at, fault));
    }
    match (listing.find(target), handle) {
        (Match::Is(entry), _) => match read_entry(entry, target, at) {
            Finding::Done(sample) if matches!(sample.observation, Observation::Running { .. }) => Finding::Done(sample),
            Finding::Ask(question) if !complete && may_have_siblings(target) => {
                Finding::Ask(Question { siblings: Some(target.workspace.to_string()), ..question })
            }
            Finding::Done(_) if !complete && may_have_siblings(target) => Finding::Done(unknown(at, Fault::Garbled)),
            finding => finding,
        },
        (Match::Ambiguous, _) => Finding::Done(unknown(at, Fault::EngineError)),
        (Match::Absent, _) if !complete && may_have_siblings(target) => Finding::Done(unknown(at, Fault::Garbled)),
        (Match::Absent, Handle::Ask(about)) => Finding::Ask(Question::of_nobody(about)),
        (Match::Absent, Handle::None | Handle::Unaskable(_)) => Finding::Missing,
    }
}

/// What an entry of a list says of the target whose container it is.
pub(super) fn read_entry(entry: &Entry, target: &Target, at: Moment) -> Finding {
    let ask = |otherwise| {
        let about = entry.id.to_string();
        Finding::Ask(Question { about, otherwise, ..Question::default() })
    };
    match facts::glance(entry) {
        Glance::Seen(observation @ Observation::Running { .. }) if target.inspect => ask(Some(observation)),
        Glance::Seen(observation) => Finding::Done(Sample { at, observation }),
        Glance::Doubt => ask(lives(entry)),
    }
}

/// That a container runs, where the list says so but not how well.
fn lives(entry: &Entry) -> Option<Observation> {
    let container_id = ContainerId::from(&*entry.id);
    (facts::liveliness(entry) == Liveliness::Running).then_some(Observation::Running {
        incarnation: Incarnation { container_id, started_at: None },
        health: Health::None,
    })
}

/// What a list says of a target that an inspect did not settle: that another container is the workspace now, or that the
/// inspect was right.
fn read_list_after_inspect(
    listing: &Listing<'_>,
    complete: bool,
    target: &Target,
    at: Moment,
    inspected: Option<Sample>,
) -> Finding {
    let from_list = read_list(listing, complete, target, at);
    let inspected_id = inspected.as_ref().and_then(|sample| sample.observation.incarnation());
    match (&from_list, inspected_id, listing.find(target)) {
        // It is in doubt, and was inspected already.
        (Finding::Ask(_), Some(incarnation), Match::Is(entry))
            if complete && *entry.id == *incarnation.container_id.as_str() =>
        {
            inspected.map_or(from_list, Finding::Done)
        }
        // Unknown to the engine a moment ago, and not in the list now.
        (Finding::Ask(_), None, Match::Absent) if inspected.is_none() => Finding::Missing,
        _ => from_list,
    }
}

/// Runs inspects, a few at a time, so that the others go on while one hangs. Each comes with the time of its last try, if that try hung.
/// Those that hung are made last, the one that hung longest ago first. Otherwise a few that hang each time would use up the time of each
/// look, and the containers behind them would never be asked about.
///
/// Takes them in a vector, because the compiler cannot see that a stream over a mapping closure may move between threads.
async fn at_once<T>(mut inspecting: Vec<(Option<Moment>, impl Future<Output = T>)>) -> Vec<T> {
    inspecting.sort_by_key(|(hung_at, _)| *hung_at);
    stream::iter(inspecting.into_iter().map(|(_, asking)| asking)).buffer_unordered(INSPECTS_MAX).collect().await
}

fn removing(container_id: &str) -> Observation {
    Observation::Transitional {
        incarnation: Incarnation { container_id: container_id.into(), started_at: None },
        transition: Transition::Removing,
    }
}

/// Nothing is known, for this reason.
pub(super) const fn unknown(at: Moment, fault: Fault) -> Sample {
    Sample { at, observation: Observation::Unknown { fault } }
}
