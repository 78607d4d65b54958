//! What happened: changes of verdicts, and engines that went away or came back (`defib.events`).
//!
//! This is history. It is bounded by retention, and it is best effort: nothing waits for it, and no decision reads it.

use defib_policy::id::{EngineName, WorkspaceId};
use serde_json::Value;
use tokio_postgres::types::Type;

use crate::Store;
use crate::decode::{json, text};
use crate::error::{Fault, StoreError};
use crate::halving::{Halving, IDLE_TIMEOUT, LOCK_TIMEOUT};

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventSubject {
    /// A workspace: its verdict changed.
    Workspace(WorkspaceId),
    /// An engine that went away or came back. This is one event, however many workspaces the engine has.
    Engine(EngineName),
}

/// An event to be written.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// About whom.
    pub about: EventSubject,
    /// The state before; `None` when it was not known.
    pub from: Option<String>,
    /// The state now.
    pub to: String,
    /// The evidence for the change.
    pub evidence: Value,
}

const INSERT: &str = "
    insert into defib.events (workspace_id, engine, at, verdict_from, verdict_to, evidence)
    select workspace_id, engine, now(), verdict_from, verdict_to, evidence
      from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::jsonb[])
           as e(workspace_id, engine, verdict_from, verdict_to, evidence)";

impl Store {
    /// Appends events, in their order. Returns the subjects of the events that the database refused; all other events are written.
    ///
    /// # Errors
    /// [`StoreError::RecordEvents`] when the database is away, or the table as a whole is locked. Some may have been written.
    pub async fn record_events(&self, events: &[EventRow]) -> Result<Vec<EventSubject>, StoreError> {
        let mut refused = Vec::new();
        let mut halving = Halving::new(events.len());
        while let Some(range) = halving.next() {
            match self.within_deadline(self.write_events(&events[range.clone()])).await {
                Ok(()) => {}
                Err(fault) if fault.is_of_a_row() => {
                    refused.extend(events[halving.refused(range)].iter().map(|event| event.about.clone()));
                }
                Err(fault) => return Err(StoreError::RecordEvents(fault)),
            }
        }
        Ok(refused)
    }

    async fn write_events(&self, events: &[EventRow]) -> Result<(), Fault> {
        let columns = EventColumns::new(events);
        let mut connection = self.pool.get().await?;
        connection.begin_within(IDLE_TIMEOUT, LOCK_TIMEOUT).await?;
        match connection.execute(INSERT, &columns.parameters()).await {
            Ok(_) => connection.commit().await,
            Err(fault) => {
                if fault.is_of_a_row() {
                    connection.rollback().await?;
                }
                Err(fault)
            }
        }
    }
}

/// Events by column, as `unnest` wants them.
struct EventColumns<'a> {
    workspaces: Vec<Option<&'a str>>,
    engines: Vec<Option<&'a str>>,
    from: Vec<Option<std::borrow::Cow<'a, str>>>,
    to: Vec<std::borrow::Cow<'a, str>>,
    evidence: Vec<Value>,
}

impl<'a> EventColumns<'a> {
    fn new(events: &'a [EventRow]) -> Self {
        Self {
            workspaces: events.iter().map(|event| event.about.workspace()).collect(),
            engines: events.iter().map(|event| event.about.engine()).collect(),
            from: events.iter().map(|event| event.from.as_deref().map(text)).collect(),
            to: events.iter().map(|event| text(&event.to)).collect(),
            evidence: events.iter().map(|event| json(&event.evidence)).collect(),
        }
    }

    fn parameters(&self) -> [crate::Parameter<'_>; 5] {
        [
            (&self.workspaces, Type::TEXT_ARRAY),
            (&self.engines, Type::TEXT_ARRAY),
            (&self.from, Type::TEXT_ARRAY),
            (&self.to, Type::TEXT_ARRAY),
            (&self.evidence, Type::JSONB_ARRAY),
        ]
    }
}

impl EventSubject {
    /// The workspace that it is about.
    fn workspace(&self) -> Option<&str> {
        match self {
            Self::Workspace(workspace) => Some(workspace.as_str()),
            Self::Engine(_) => None,
        }
    }

    /// The engine that it is about.
    fn engine(&self) -> Option<&str> {
        match self {
            Self::Engine(engine) => Some(engine.as_str()),
            Self::Workspace(_) => None,
        }
    }
}
