//! The last read of the whole fleet: the rows by engine, their attempts, the holds; and the way from what an engine calls a
//! container to the workspace it belongs to.
//!
//! A snapshot never changes. The next read makes a new one, and whoever works with the old one goes on with it. The index from containers
//! to workspaces is needed for events only. Most reads are followed by none, so the first event after a read builds the index.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use defib_engine::ContainerEvent;
use defib_policy::attempt::Attempt;
use defib_policy::fleet::{FleetRead, Kind, Workspace};
use defib_policy::id::{EngineName, WorkspaceId};

use crate::holds::Holds;

/// The shortest beginning of a container id that may stand in `container_ref`.
const ID_PREFIX_MIN: usize = 12;

/// Attempts in the ledger by workspace, newest first.
pub(crate) type Attempts = HashMap<WorkspaceId, Vec<Attempt>>;

/// One read of the whole fleet.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    read: Option<FleetRead>,
    attempts: Attempts,
    holds: Arc<Holds>,
    /// Rows by the engine that judges them (`None`: external ones), in the order of their ids.
    by_engine: BTreeMap<Option<EngineName>, Vec<usize>>,
    index: OnceLock<Index>,
}

#[derive(Debug, Default)]
struct Index {
    by_id: HashMap<WorkspaceId, usize>,
    by_ref: HashMap<(EngineName, Box<str>), usize>,
}

impl Snapshot {
    /// Of one read of the fleet, its attempts and the holds that stand.
    pub(crate) fn new(read: FleetRead, attempts: Vec<Attempt>, holds: Holds) -> Self {
        let mut by_engine: BTreeMap<Option<EngineName>, Vec<usize>> = BTreeMap::new();
        for (n, row) in read.workspaces.iter().enumerate() {
            by_engine.entry(judged_on(row).cloned()).or_default().push(n);
        }
        Self {
            read: Some(read),
            attempts: by_workspace(attempts),
            holds: Arc::new(holds),
            by_engine,
            index: OnceLock::new(),
        }
    }

    /// The read that it was made of; `None` before the first one.
    pub(crate) const fn read(&self) -> Option<&FleetRead> {
        self.read.as_ref()
    }

    /// The attempts of everybody who has any.
    pub(crate) const fn attempts(&self) -> &Attempts {
        &self.attempts
    }

    /// The holds that stood.
    pub(crate) const fn holds(&self) -> &Arc<Holds> {
        &self.holds
    }

    /// The workspaces that an engine (`None`: none) judges, in the order of their ids.
    pub(crate) fn rows_on(&self, engine: Option<&EngineName>) -> impl Iterator<Item = &Workspace> {
        let numbers = self.by_engine.get(&engine.cloned()).map_or(&[][..], Vec::as_slice);
        numbers.iter().filter_map(|n| self.rows().get(*n))
    }

    /// Whether any row is judged on this engine.
    pub(crate) fn has_rows_on(&self, engine: &EngineName) -> bool {
        self.by_engine.contains_key(&Some(engine.clone()))
    }

    /// The engines that the rows name, whether configured or not.
    pub(crate) fn engines(&self) -> impl Iterator<Item = &EngineName> {
        self.by_engine.keys().flatten()
    }

    fn rows(&self) -> &[Workspace] {
        self.read.as_ref().map_or(&[], |read| &read.workspaces)
    }

    /// Who is on another engine than in `earlier`, an older read.
    pub(crate) fn moved_since(&self, earlier: &Self) -> Vec<WorkspaceId> {
        let differ = |(now, then): &(&Workspace, &Workspace)| judged_on(now) != judged_on(then);
        let (rows, old) = (self.rows(), earlier.rows());
        let in_step = rows.len() == old.len() && rows.iter().zip(old).all(|(now, then)| now.id == then.id);
        if in_step {
            return rows.iter().zip(old).filter(differ).map(|(now, _)| now.id.clone()).collect();
        }
        let old: HashMap<&WorkspaceId, &Workspace> = old.iter().map(|row| (&row.id, row)).collect();
        let both = rows.iter().filter_map(|row| Some((row, *old.get(&row.id)?)));
        both.filter(differ).map(|(now, _)| now.id.clone()).collect()
    }

    fn index(&self) -> &Index {
        self.index.get_or_init(|| {
            let mut index = Index::default();
            for (n, row) in self.rows().iter().enumerate() {
                index.by_id.insert(row.id.clone(), n);
                if let Some(reference) = &row.container_ref {
                    let reference = reference.strip_prefix('/').unwrap_or(reference);
                    index.by_ref.insert((row.engine.clone(), reference.into()), n);
                }
            }
            index
        })
    }

    /// Whether a workspace is in it.
    pub(crate) fn has(&self, id: &WorkspaceId) -> bool {
        self.index().by_id.contains_key(id)
    }

    /// Every workspace in it.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &WorkspaceId> {
        self.rows().iter().map(|row| &row.id)
    }

    /// The engine that judges a workspace; `None` when it is unknown or external.
    pub(crate) fn engine_of(&self, id: &WorkspaceId) -> Option<&EngineName> {
        judged_on(self.row(id)?)
    }

    /// The row of a workspace.
    pub(crate) fn row(&self, id: &WorkspaceId) -> Option<&Workspace> {
        self.rows().get(*self.index().by_id.get(id)?)
    }

    /// Whose container an event is about, if it is a watched one.
    pub(crate) fn workspace_of(&self, event: &ContainerEvent) -> Option<WorkspaceId> {
        let index = self.index();
        let by_ref = |reference: &str| index.by_ref.get(&(event.engine.clone(), reference.into())).copied();
        let id = event.container_id.as_str();
        let found = event
            .name
            .as_deref()
            .and_then(by_ref)
            .or_else(|| by_ref(id))
            .or_else(|| (ID_PREFIX_MIN..id.len()).filter_map(|end| id.get(..end)).find_map(by_ref))
            .or_else(|| {
                let labelled = index.by_id.get(event.workspace.as_ref()?).copied()?;
                (self.rows()[labelled].engine == event.engine).then_some(labelled)
            });
        found.map(|row| self.rows()[row].id.clone())
    }
}

/// The engine whose passes judge a row; `None` for an external one.
pub(crate) fn judged_on(row: &Workspace) -> Option<&EngineName> {
    (row.kind != Kind::External).then_some(&row.engine)
}

/// Attempts by workspace, in the order in which they came.
pub(crate) fn by_workspace(attempts: Vec<Attempt>) -> Attempts {
    let mut grouped = Attempts::new();
    for attempt in attempts {
        grouped.entry(attempt.workspace.clone()).or_default().push(attempt);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use defib_engine::Action;
    use defib_policy::moment::{Moment, Timestamp};

    use super::*;

    fn row(id: &str, engine: &str, container_ref: Option<&str>) -> Workspace {
        Workspace {
            id: id.into(),
            status: "online".into(),
            kind: Kind::Container,
            engine: engine.into(),
            container_ref: container_ref.map(Into::into),
            instance_ref: None,
            suspended: false,
            last_heartbeat_at: None,
            last_activity_at: None,
            active_tasks: 0,
            created_at: None,
            policy: None,
        }
    }

    #[test]
    fn an_event_finds_its_workspace_by_name_id_prefix_or_label_on_its_own_engine() {
        let id = "0123456789abcdef0123456789abcdef";
        let rows = vec![
            row("named", "a", Some("/agent-1")),
            row("whole", "a", Some(id)),
            row("prefix", "b", Some(&id[..14])),
            row("label", "a", None),
        ];
        let read = FleetRead {
            at: Moment::ZERO,
            database_now: Timestamp(0),
            database_started_at: Timestamp(0),
            workspaces: rows,
        };
        let snapshot = Snapshot::new(read, Vec::new(), Holds::default());
        let event = |engine: &str, container: &str, name: Option<&str>, workspace: Option<&str>| ContainerEvent {
            engine: engine.into(),
            container_id: container.into(),
            name: name.map(Into::into),
            workspace: workspace.map(WorkspaceId::from),
            action: Action::Die,
            at: None,
        };
        let found = |event: ContainerEvent| snapshot.workspace_of(&event).map(|id| id.to_string());
        assert_eq!(found(event("a", "ff", Some("agent-1"), None)).as_deref(), Some("named"));
        assert_eq!(found(event("a", id, Some("other"), None)).as_deref(), Some("whole"));
        assert_eq!(found(event("b", id, None, None)).as_deref(), Some("prefix"));
        assert_eq!(found(event("a", "ff", None, Some("label"))).as_deref(), Some("label"));
        assert_eq!(found(event("b", "ff", Some("agent-1"), Some("label"))), None, "another engine's container");
        assert_eq!(snapshot.engine_of(&"prefix".into()).map(EngineName::as_str), Some("b"));
        let on_a: Vec<&str> = snapshot.rows_on(Some(&"a".into())).map(|row| row.id.as_str()).collect();
        assert_eq!(on_a, ["named", "whole", "label"]);
    }
}
