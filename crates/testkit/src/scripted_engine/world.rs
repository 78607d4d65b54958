//! The engine's state: its containers, who it says it is, the script, and the record of what it was asked.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use super::container::{ContainerState, Health, ScriptedContainer};
use super::fault::{Call, Fault, FaultBook, Lie};
use super::feed::{Feed, Filters, has_label};
use super::versions::Versions;

/// One call that arrived, whatever became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRecord {
    /// When, by tokio's clock.
    pub at: Instant,
    /// Which.
    pub call: Call,
    /// The container it is about, by its id when it is known, else as the caller named it.
    pub container: Option<String>,
    /// The parameters behind the path, as they were sent.
    pub query: String,
    /// The version of the interface that its path named, such as `1.41`.
    pub version: Option<String>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) identity: String,
    pub(super) clock_ahead_seconds: i64,
    pub(super) speaks: Versions,
    pub(super) faults: FaultBook,
    pub(super) feed: Feed,
    pub(super) calls: Vec<CallRecord>,
    containers: HashMap<String, ScriptedContainer>,
    ids_by_name: HashMap<String, String>,
    /// The words for states that a list may be asked by.
    pub(super) state_words: Vec<String>,
    starts: HashMap<String, usize>,
    pids_given: u32,
    /// Rendered once for a state, because benches ask a thousand times for the same two thousand containers.
    summaries: HashMap<String, String>,
    lists: HashMap<String, Bytes>,
}

/// Docker's words for the states of a container.
const STATE_WORDS: [&str; 7] = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];

/// Why a change was refused, by Docker's HTTP status.
#[derive(Debug)]
pub(super) enum Refusal {
    /// 404
    Missing,
    /// 304
    AlreadySo,
    /// 409
    Conflict(String),
}

impl World {
    pub(super) fn new(identity: String) -> Self {
        Self {
            identity,
            clock_ahead_seconds: 0,
            speaks: Versions::default(),
            faults: FaultBook::default(),
            feed: Feed::default(),
            calls: Vec::new(),
            containers: HashMap::new(),
            ids_by_name: HashMap::new(),
            state_words: STATE_WORDS.map(str::to_owned).to_vec(),
            starts: HashMap::new(),
            pids_given: 4000,
            summaries: HashMap::new(),
            lists: HashMap::new(),
        }
    }

    /// The engine's clock.
    pub(super) fn now(&self) -> SystemTime {
        let offset = Duration::from_secs(self.clock_ahead_seconds.unsigned_abs());
        if self.clock_ahead_seconds < 0 { SystemTime::now() - offset } else { SystemTime::now() + offset }
    }

    pub(super) fn len(&self) -> usize {
        self.containers.len()
    }

    /// How many containers are in a state.
    pub(super) fn count(&self, state: &ContainerState) -> usize {
        self.containers.values().filter(|container| container.state == *state).count()
    }

    /// The first word of a status filter for which this engine knows no state.
    pub(super) fn unknown_state<'a>(&self, filters: &'a Filters) -> Option<&'a str> {
        let words = filters.get("status")?;
        words.iter().map(String::as_str).find(|word| !self.state_words.iter().any(|known| known == word))
    }

    pub(super) fn find(&self, id_or_name: &str) -> Option<&ScriptedContainer> {
        let by_id = self.containers.get(id_or_name);
        by_id.or_else(|| self.containers.get(self.ids_by_name.get(id_or_name)?))
    }

    /// Adds a container, or puts it in the place of the one with its id. No event.
    pub(super) fn put(&mut self, container: ScriptedContainer) {
        self.forget_names(&container.id);
        for name in &container.names {
            self.ids_by_name.insert(name.clone(), container.id.clone());
        }
        self.touched(&container.id);
        self.containers.insert(container.id.clone(), container);
    }

    pub(super) fn remove(&mut self, id_or_name: &str) -> Option<ScriptedContainer> {
        let id = self.find(id_or_name)?.id.clone();
        self.forget_names(&id);
        self.touched(&id);
        let container = self.containers.remove(&id)?;
        self.feed.emit(self.now(), "destroy", &container, &[]);
        Some(container)
    }

    /// Gives a container another name in place of its first one.
    pub(super) fn rename(&mut self, id_or_name: &str, name: &str) -> Option<()> {
        let mut after = self.find(id_or_name)?.clone();
        let before = after.names.first().cloned().unwrap_or_default();
        after.names = vec![name.to_owned()];
        self.feed.emit(self.now(), "rename", &after, &[("oldName", format!("/{before}"))]);
        self.put(after);
        Some(())
    }

    /// Changes a container, and tells of the change what Docker tells.
    pub(super) fn set_state(&mut self, id_or_name: &str, state: ContainerState) -> Option<()> {
        let before = self.find(id_or_name)?.clone();
        let now = self.now();
        let mut after = ScriptedContainer { state, ..before.clone() };
        let mut told: Vec<(&str, Vec<(&str, String)>)> = Vec::new();
        match (&before.state, &after.state) {
            (ContainerState::Paused, ContainerState::Running) => told.push(("unpause", vec![])),
            (_, ContainerState::Running) => {
                self.pids_given += 1;
                after = ScriptedContainer { started_at: Some(now), pid: self.pids_given, ..after };
                told.push(("start", vec![]));
            }
            (_, ContainerState::Paused) => told.push(("pause", vec![])),
            (_, ContainerState::Exited { exit_code, oom }) if before.has_process() => {
                if *oom {
                    told.push(("oom", vec![]));
                }
                told.push(("die", vec![("exitCode", exit_code.to_string())]));
            }
            _ => {}
        }
        if before.has_process() && !after.has_process() {
            after = ScriptedContainer { finished_at: Some(now), pid: 0, ..after };
        }
        for (action, extra) in told {
            self.feed.emit(now, action, &after, &extra);
        }
        self.put(after);
        Some(())
    }

    pub(super) fn set_health(&mut self, id_or_name: &str, health: Health) -> Option<()> {
        let after = ScriptedContainer { health, ..self.find(id_or_name)?.clone() };
        if let Some(word) = health.word() {
            self.feed.emit(self.now(), &format!("health_status: {word}"), &after, &[]);
        }
        self.put(after);
        Some(())
    }

    /// `POST /containers/{id}/…`: with dockerd's events, in its order.
    pub(super) fn carry_out(&mut self, call: Call, id_or_name: &str) -> Result<(), Refusal> {
        let container = self.find(id_or_name).ok_or(Refusal::Missing)?.clone();
        if matches!(container.state, ContainerState::Removing | ContainerState::Dead) {
            return Err(Refusal::Conflict(format!("container {} is marked for removal", container.id)));
        }
        match call {
            Call::Start if container.has_process() => return Err(Refusal::AlreadySo),
            Call::Stop if !container.has_process() => return Err(Refusal::AlreadySo),
            Call::Kill if !container.has_process() => {
                return Err(Refusal::Conflict(format!("Container {} is not running", container.id)));
            }
            Call::Start => self.start(&container.id),
            Call::Stop => {
                self.end(&container, 143);
                self.tell("stop", &container.id);
            }
            Call::Kill => self.end(&container, 137),
            _ => {
                if container.has_process() {
                    self.end(&container, 143);
                    self.tell("stop", &container.id);
                }
                self.start(&container.id);
                self.tell("restart", &container.id);
            }
        }
        Ok(())
    }

    /// The body of a list. Its order is Docker's: newest first.
    pub(super) fn list(&mut self, all: bool, filters: &Filters, query: &str, lies: &[Lie]) -> Bytes {
        if lies.is_empty()
            && let Some(body) = self.lists.get(query)
        {
            return body.clone();
        }
        let now = self.now();
        let mut shown: Vec<&ScriptedContainer> = self.containers.values().collect();
        shown.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        let mut body = String::from("[");
        for container in shown {
            let falsely_stopped;
            let (seen, is_true) = match lie_about(container, lies) {
                Some(Fault::FalselyMissing) => continue,
                Some(_) => {
                    falsely_stopped = container.falsely_stopped(now);
                    (&falsely_stopped, false)
                }
                None => (container, true),
            };
            if !is_listed(seen, all, filters) {
                continue;
            }
            if body.len() > 1 {
                body.push(',');
            }
            if is_true {
                let summary = self.summaries.entry(seen.id.clone()).or_insert_with(|| seen.summary().to_string());
                body.push_str(summary);
            } else {
                body.push_str(&seen.summary().to_string());
            }
        }
        body.push_str("]\n");
        let body = Bytes::from(body);
        if lies.is_empty() {
            self.lists.insert(query.to_owned(), body.clone());
        }
        body
    }

    /// How often a container was really started by a call, which is not the same as how often a call asked for it.
    pub(super) fn starts_of(&self, id: &str) -> usize {
        self.starts.get(id).copied().unwrap_or_default()
    }

    fn start(&mut self, id: &str) {
        *self.starts.entry(id.to_owned()).or_default() += 1;
        self.set_state(id, ContainerState::Running);
        if self.find(id).is_some_and(|container| container.health != Health::None) {
            self.set_health(id, Health::Starting);
        }
    }

    fn end(&mut self, container: &ScriptedContainer, exit_code: i64) {
        let signal = (exit_code - 128).to_string();
        self.feed.emit(self.now(), "kill", container, &[("signal", signal)]);
        self.set_state(&container.id, ContainerState::Exited { exit_code, oom: false });
    }

    fn tell(&mut self, action: &str, id: &str) {
        let now = self.now();
        if let Some(container) = self.containers.get(id) {
            self.feed.emit(now, action, container, &[]);
        }
    }

    fn forget_names(&mut self, id: &str) {
        if let Some(container) = self.containers.get(id) {
            for name in &container.names {
                self.ids_by_name.remove(name);
            }
        }
    }

    fn touched(&mut self, id: &str) {
        self.summaries.remove(id);
        self.lists.clear();
    }
}

fn lie_about<'a>(container: &ScriptedContainer, lies: &'a [Lie]) -> Option<&'a Fault> {
    let is_meant = |subject: &String| *subject == container.id || container.names.contains(subject);
    lies.iter().find(|(subject, _)| subject.as_ref().is_none_or(is_meant)).map(|(_, fault)| fault)
}

fn is_listed(container: &ScriptedContainer, all: bool, filters: &Filters) -> bool {
    let any = |key: &str, fits: &dyn Fn(&str) -> bool| {
        filters.get(key).is_none_or(|values| values.iter().any(|value| fits(value)))
    };
    let is_shown = all || filters.contains_key("status") || container.has_process();
    is_shown
        && any("status", &|value| value == container.state.word())
        && any("id", &|value| container.id.starts_with(value))
        && any("name", &|value| container.names.iter().any(|name| name.contains(value.trim_start_matches('/'))))
        && any("health", &|value| value == container.health.word().unwrap_or("none"))
        && filters.get("label").is_none_or(|labels| labels.iter().all(|label| has_label(&container.labels, label)))
}
