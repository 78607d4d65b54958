//! The stream of events: who listens, to what, and what was said before.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::SystemTime;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;

use super::container::ScriptedContainer;

/// How far back `since` reaches, as in dockerd.
const HISTORY_EVENTS_MAX: usize = 256;

/// Whether events reach their listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventFeed {
    /// Events are sent as they happen.
    Flowing,
    /// Streams are open and stay open, and nothing comes: a frozen engine, a lost network.
    Silent,
    /// Open streams end, new ones are answered 503.
    Refused,
}

/// `filters=` of a request: for each key the accepted values. No key, no restriction.
pub(super) type Filters = HashMap<String, Vec<String>>;

#[derive(Debug, Clone)]
pub(super) struct Event {
    at: SystemTime,
    action: String,
    container: String,
    attributes: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Listener {
    filters: Filters,
    sender: mpsc::UnboundedSender<Bytes>,
}

#[derive(Debug)]
pub(super) struct Feed {
    mode: EventFeed,
    history: VecDeque<Event>,
    listeners: Vec<Listener>,
    /// Open streams on which nothing comes any more.
    deaf: Vec<Listener>,
}

impl Default for Feed {
    fn default() -> Self {
        Self { mode: EventFeed::Flowing, history: VecDeque::new(), listeners: Vec::new(), deaf: Vec::new() }
    }
}

impl Feed {
    pub(super) fn set_mode(&mut self, mode: EventFeed) {
        self.mode = mode;
        if mode == EventFeed::Refused {
            self.listeners.clear(); // their streams end
            self.deaf.clear();
        }
    }

    /// Lets the streams that are open now stay open and hear nothing more.
    pub(super) fn deafen(&mut self) {
        self.deaf.append(&mut self.listeners);
    }

    pub(super) fn is_refused(&self) -> bool {
        self.mode == EventFeed::Refused
    }

    /// How many streams are open. One that its client left is noticed at the next event.
    pub(super) fn listeners(&self) -> usize {
        self.listeners.iter().filter(|listener| !listener.sender.is_closed()).count()
    }

    pub(super) fn emit(
        &mut self,
        at: SystemTime,
        action: &str,
        container: &ScriptedContainer,
        extra: &[(&str, String)],
    ) {
        let mut attributes = container.attributes();
        attributes.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let event = Event { at, action: action.to_owned(), container: container.id.clone(), attributes };
        if self.mode == EventFeed::Flowing {
            let line = event.line();
            self.listeners.retain(|listener| {
                !event.fits(&listener.filters) && !listener.sender.is_closed()
                    || listener.sender.send(line.clone()).is_ok()
            });
        }
        if self.history.len() == HISTORY_EVENTS_MAX {
            self.history.pop_front();
        }
        self.history.push_back(event);
    }

    /// A stream that begins with what happened since `since`, and goes on unless it has an end.
    pub(super) fn listen(
        &mut self,
        filters: Filters,
        since: Option<f64>,
        has_end: bool,
    ) -> mpsc::UnboundedReceiver<Bytes> {
        let (sender, receiver) = mpsc::unbounded_channel();
        if let Some(since) = since {
            for event in self.history.iter().filter(|event| event.seconds() >= since && event.fits(&filters)) {
                let _ = sender.send(event.line());
            }
        }
        if !has_end {
            self.listeners.push(Listener { filters, sender });
        }
        receiver
    }
}

impl Event {
    fn seconds(&self) -> f64 {
        self.at.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
    }

    fn fits(&self, filters: &Filters) -> bool {
        let accepts = |key: &str, fits: &dyn Fn(&str) -> bool| {
            filters.get(key).is_none_or(|values| values.iter().any(|value| fits(value)))
        };
        let name = self.attributes.get("name").map_or("", String::as_str);
        // Docker filters `health_status: unhealthy` by its first word.
        let action = self.action.split(':').next().unwrap_or_default();
        accepts("type", &|value| value == "container")
            && accepts("event", &|value| value == action || value == self.action)
            && accepts("container", &|value| value == self.container || value == name)
            && filters.get("label").is_none_or(|labels| labels.iter().all(|label| has_label(&self.attributes, label)))
    }

    fn line(&self) -> Bytes {
        let nanos = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let line = json!({
            "status": self.action,
            "id": self.container,
            "from": self.attributes.get("image"),
            "Type": "container",
            "Action": self.action,
            "Actor": { "ID": self.container, "Attributes": self.attributes },
            "scope": "local",
            "time": nanos.as_secs(),
            "timeNano": u64::try_from(nanos.as_nanos()).unwrap_or(u64::MAX),
        });
        Bytes::from(format!("{line}\n"))
    }
}

/// `key` or `key=value`.
pub(super) fn has_label(labels: &BTreeMap<String, String>, filter: &str) -> bool {
    match filter.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|actual| actual == value),
        None => labels.contains_key(filter),
    }
}
