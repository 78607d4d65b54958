//! The fleet as of the last read: the rows by engine, their attempts and the holds. It also finds the workspace to which a container
//! belongs, by what its engine calls the container.
//!
//! A snapshot never changes. The next read makes a new one, and a pass that works with the old one goes on with it. A read of all rows
//! makes a new base. A read of what has changed shares the base of the snapshot before it, and keeps beside it only the rows that differ,
//! so its cost depends on how many have changed. The indexes of a base are built when they are first needed, and serve until the next read
//! of all rows.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use defib_engine::ContainerEvent;
use defib_policy::attempt::Attempt;
use defib_policy::fast_hash::{IdMap, IdSet};
use defib_policy::fleet::{FleetRead, Kind, Workspace};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::ReadStamp;

use crate::holds::Holds;

/// The shortest beginning of a container id that may stand in `container_ref`.
const ID_PREFIX_MIN: usize = 12;

/// Attempts in the ledger by workspace, newest first.
pub(crate) type Attempts = IdMap<WorkspaceId, Vec<Attempt>>;

/// The fleet as of the last read.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// The clocks of that read; `None` before the first one.
    stamp: Option<ReadStamp>,
    /// Whether that read was of all rows.
    is_whole: bool,
    /// All rows, as of the last read of all of them.
    base: Arc<Base>,
    /// The rows that have changed since then. `None` for a workspace that is no longer in the fleet.
    changed: IdMap<WorkspaceId, Option<Arc<Workspace>>>,
    /// Those that were new, or differed in more than their stamps, at the last read of what has changed.
    differing: Vec<WorkspaceId>,
    /// How many rows each engine has (`None`: those that no engine has).
    counts: BTreeMap<Option<EngineName>, usize>,
    attempts: Attempts,
    holds: Arc<Holds>,
    changed_refs: OnceLock<Refs>,
}

/// One read of all rows.
#[derive(Debug, Default)]
struct Base {
    /// In the order of their ids.
    rows: Vec<Workspace>,
    /// Their numbers by the engine that judges them (`None`: external ones), in the same order.
    by_engine: BTreeMap<Option<EngineName>, Vec<u32>>,
    by_id: OnceLock<IdMap<WorkspaceId, u32>>,
    by_ref: OnceLock<Refs>,
}

/// From what an engine may call a container to the workspace.
type Refs = IdMap<(EngineName, Box<str>), WorkspaceId>;

impl Base {
    fn by_id(&self) -> &IdMap<WorkspaceId, u32> {
        self.by_id.get_or_init(|| (0..).zip(&self.rows).map(|(n, row)| (row.id.clone(), n)).collect())
    }

    fn row(&self, id: &WorkspaceId) -> Option<&Workspace> {
        self.rows.get(*self.by_id().get(id)? as usize)
    }

    fn rows_on(&self, engine: Option<&EngineName>) -> impl Iterator<Item = &Workspace> {
        let numbers = self.by_engine.get(&engine.cloned()).map_or(&[][..], Vec::as_slice);
        numbers.iter().filter_map(|n| self.rows.get(*n as usize))
    }
}

fn refs<'a>(rows: impl Iterator<Item = &'a Workspace>) -> Refs {
    let named = rows.filter_map(|row| {
        let reference = row.container_ref.as_deref()?;
        let reference = reference.strip_prefix('/').unwrap_or(reference);
        Some(((row.engine.clone(), reference.into()), row.id.clone()))
    });
    named.collect()
}

impl Snapshot {
    /// The snapshot of a read of all rows, with their attempts and the holds that stand.
    pub(crate) fn new(read: FleetRead, attempts: Vec<Attempt>, holds: Holds) -> Self {
        let mut by_engine: BTreeMap<Option<EngineName>, Vec<u32>> = BTreeMap::new();
        for (n, row) in (0..).zip(&read.workspaces) {
            match by_engine.get_mut(&judged_on(row).cloned()) {
                Some(on) => on.push(n),
                None => _ = by_engine.insert(judged_on(row).cloned(), vec![n]),
            }
        }
        Self {
            stamp: Some(ReadStamp { at: read.at, database_now: read.database_now }),
            is_whole: true,
            counts: by_engine.iter().map(|(engine, rows)| (engine.clone(), rows.len())).collect(),
            base: Arc::new(Base { rows: read.workspaces, by_engine, ..Base::default() }),
            attempts: by_workspace(attempts),
            holds: Arc::new(holds),
            ..Self::default()
        }
    }

    /// This snapshot with what a read of the changes has brought: rows, and workspaces that are no longer in the fleet. A row that differs
    /// only in its stamps is kept only if it is one of `called`; the others are not judged before they are read again.
    pub(crate) fn changed(
        &self,
        read: FleetRead,
        gone: &[WorkspaceId],
        called: &IdSet<WorkspaceId>,
        attempts: Vec<Attempt>,
        holds: Holds,
    ) -> Self {
        let (mut changed, mut counts, mut differing) = (self.changed.clone(), self.counts.clone(), Vec::new());
        let mut count = |row: &Workspace, more: bool| {
            let count = counts.entry(judged_on(row).cloned()).or_default();
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
        };
        for row in read.workspaces {
            let before = self.row(&row.id);
            let differs = !before.is_some_and(|before| differ_in_stamps_only(before, &row));
            if differs {
                if let Some(before) = before {
                    count(before, false);
                }
                count(&row, true);
                differing.push(row.id.clone());
            }
            if differs || called.contains(&row.id) {
                changed.insert(row.id.clone(), Some(Arc::new(row)));
            }
        }
        for id in gone {
            if let Some(before) = self.row(id) {
                count(before, false);
                changed.insert(id.clone(), None);
            }
        }
        counts.retain(|_, count| *count > 0);
        Self {
            stamp: Some(ReadStamp { at: read.at, database_now: read.database_now }),
            is_whole: false,
            base: Arc::clone(&self.base),
            changed,
            counts,
            attempts: by_workspace(attempts),
            holds: Arc::new(holds),
            changed_refs: OnceLock::new(),
            differing,
        }
    }

    /// The workspaces that were new, or differed in more than their stamps, at the last read of what has changed.
    pub(crate) fn differing(&self) -> &[WorkspaceId] {
        &self.differing
    }

    /// Makes rows of a later read use the ids of this one, so that whoever has kept an id does not keep a second copy of it.
    pub(crate) fn share_ids_with(&self, rows: &mut [Workspace]) {
        let mut known = self.base.rows.iter().map(|row| &row.id).peekable();
        for row in rows {
            while known.next_if(|id| **id < row.id).is_some() {}
            if let Some(id) = known.next_if(|id| **id == row.id) {
                row.id = id.clone();
            }
        }
    }

    /// Whether what has changed since the last read of all rows accounts for the number of rows in the database, which was `before` then and
    /// is `now` at present.
    pub(crate) fn explains(&self, before: usize, now: usize) -> bool {
        let known: usize = self.counts.values().sum();
        before.saturating_add(known) == now.saturating_add(self.base.rows.len())
    }

    /// The clocks of the read that it was made of; `None` before the first one.
    pub(crate) const fn stamp(&self) -> Option<ReadStamp> {
        self.stamp
    }

    /// Whether all rows come from the same read. If not, the rows that were not called by their ids since are older.
    pub(crate) const fn is_whole(&self) -> bool {
        self.is_whole
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
    pub(crate) fn rows_on(&self, engine: Option<&EngineName>) -> Vec<&Workspace> {
        let unchanged = self.base.rows_on(engine).filter(|row| !self.changed.contains_key(&row.id));
        if self.changed.is_empty() {
            return self.base.rows_on(engine).collect();
        }
        let changed = self.changed.values().flatten().map(Arc::as_ref).filter(|row| judged_on(row) == engine);
        let mut rows: Vec<&Workspace> = unchanged.chain(changed).collect();
        rows.sort_by(|one, other| one.id.cmp(&other.id)); // this is quick, because nearly all of them are in order already
        rows
    }

    /// How many there are.
    pub(crate) fn count_on(&self, engine: Option<&EngineName>) -> usize {
        self.counts.get(&engine.cloned()).copied().unwrap_or(0)
    }

    /// How many rows it has.
    pub(crate) fn count(&self) -> usize {
        self.counts.values().sum()
    }

    /// Whether any row is judged on this engine.
    pub(crate) fn has_rows_on(&self, engine: &EngineName) -> bool {
        self.count_on(Some(engine)) > 0
    }

    /// The engines that the rows name, whether configured or not.
    pub(crate) fn engines(&self) -> impl Iterator<Item = &EngineName> {
        self.counts.keys().flatten()
    }

    /// The workspaces that are on another engine than in `earlier`, the read before this one.
    pub(crate) fn moved_since(&self, earlier: &Self) -> Vec<WorkspaceId> {
        let moved = |row: &&Workspace| earlier.row(&row.id).is_some_and(|before| judged_on(before) != judged_on(row));
        if Arc::ptr_eq(&self.base, &earlier.base) {
            let differing = self.differing.iter().filter_map(|id| self.row(id));
            return differing.filter(moved).map(|row| row.id.clone()).collect();
        }
        let (rows, old) = (&self.base.rows, &earlier.base.rows);
        let in_step = rows.len() == old.len() && rows.iter().zip(old).all(|(now, then)| now.id == then.id);
        if !in_step {
            return rows.iter().filter(moved).map(|row| row.id.clone()).collect();
        }
        let is_old = |row: &Workspace| !earlier.changed.contains_key(&row.id);
        let pairs = rows.iter().zip(old).filter(|(now, then)| is_old(then) && judged_on(now) != judged_on(then));
        let since = earlier.changed.keys().filter_map(|id| self.row(id)).filter(moved);
        pairs.map(|(now, _)| now).chain(since).map(|row| row.id.clone()).collect()
    }

    /// Whether a workspace is in it.
    pub(crate) fn has(&self, id: &WorkspaceId) -> bool {
        self.row(id).is_some()
    }

    /// Every workspace in it.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &WorkspaceId> {
        self.rows().map(|row| &row.id)
    }

    /// The row of every workspace in it.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Workspace> {
        let unchanged = self.base.rows.iter().filter(|row| !self.changed.contains_key(&row.id));
        unchanged.chain(self.changed.values().flatten().map(Arc::as_ref))
    }

    /// A slice of the fleet, for a task that goes through it bit by bit: of the rows from the `begin`th on, as of the last read of all
    /// rows, the next `rows` ones, without those that have left the fleet since. `None` beyond the last row. Workspaces that have come
    /// since are in the slices after the next read of all rows.
    pub(crate) fn slice(&self, begin: usize, rows: usize) -> Option<impl Iterator<Item = &WorkspaceId>> {
        let end = begin.saturating_add(rows).min(self.base.rows.len());
        let rows = self.base.rows.get(begin..end).filter(|rows| !rows.is_empty())?;
        Some(rows.iter().map(|row| &row.id).filter(|id| self.has(id)))
    }

    /// The engine that judges a workspace; `None` when it is unknown or external.
    pub(crate) fn engine_of(&self, id: &WorkspaceId) -> Option<&EngineName> {
        judged_on(self.row(id)?)
    }

    /// The row of a workspace.
    pub(crate) fn row(&self, id: &WorkspaceId) -> Option<&Workspace> {
        match self.changed.get(id) {
            Some(changed) => changed.as_deref(),
            None => self.base.row(id),
        }
    }

    /// The workspace whose container an event is about, if it is watched.
    pub(crate) fn workspace_of(&self, event: &ContainerEvent) -> Option<WorkspaceId> {
        let of_base = self.base.by_ref.get_or_init(|| refs(self.base.rows.iter()));
        let of_changed = self.changed_refs.get_or_init(|| refs(self.changed.values().flatten().map(Arc::as_ref)));
        let by_ref = |reference: &str| {
            let key = (event.engine.clone(), Box::<str>::from(reference));
            let unchanged = || of_base.get(&key).filter(|id| !self.changed.contains_key(*id));
            of_changed.get(&key).or_else(unchanged).cloned()
        };
        let id = event.container_id.as_str();
        event
            .name
            .as_deref()
            .and_then(by_ref)
            .or_else(|| by_ref(id))
            .or_else(|| (ID_PREFIX_MIN..id.len()).filter_map(|end| id.get(..end)).find_map(by_ref))
            .or_else(|| {
                let labelled = self.row(event.workspace.as_ref()?)?;
                (labelled.engine == event.engine).then(|| labelled.id.clone())
            })
    }
}

/// Whether two rows of one workspace say the same, apart from when it last beat.
fn differ_in_stamps_only(before: &Workspace, now: &Workspace) -> bool {
    let Workspace {
        id: _,
        status,
        kind,
        engine,
        container_ref,
        instance_ref,
        suspended,
        last_heartbeat_at: _,
        last_activity_at: _,
        active_tasks,
        created_at,
        policy,
    } = before;
    (status, kind, engine, container_ref, instance_ref)
        == (&now.status, &now.kind, &now.engine, &now.container_ref, &now.instance_ref)
        && (suspended, active_tasks, created_at, policy)
            == (&now.suspended, &now.active_tasks, &now.created_at, &now.policy)
}

/// The engine whose passes judge a row; `None` for an external one.
pub(crate) fn judged_on(row: &Workspace) -> Option<&EngineName> {
    (row.kind != Kind::External).then_some(&row.engine)
}

/// Attempts by workspace, in the order in which they came.
pub(crate) fn by_workspace(attempts: Vec<Attempt>) -> Attempts {
    let mut grouped = Attempts::default();
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
    fn the_rows_of_a_later_read_share_the_ids_of_those_that_were_there_before() {
        let read = |ids: &[&str]| FleetRead {
            at: Moment::ZERO,
            database_now: Timestamp(0),
            database_started_at: Timestamp(0),
            workspaces: ids.iter().map(|id| row(id, "e", None)).collect(),
        };
        let before = Snapshot::new(read(&["b", "c", "e"]), Vec::new(), Holds::default());
        let mut later = read(&["a", "b", "d", "e", "f"]).workspaces;
        before.share_ids_with(&mut later);
        let ids: Vec<&str> = later.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(ids, ["a", "b", "d", "e", "f"]);
        let is_shared = |id: &&str| before.ids().any(|known| std::ptr::eq(known.as_str(), *id));
        assert_eq!(ids.into_iter().filter(is_shared).collect::<Vec<_>>(), ["b", "e"]);
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
        let on_a: Vec<&str> = snapshot.rows_on(Some(&"a".into())).iter().map(|row| row.id.as_str()).collect();
        assert_eq!(on_a, ["named", "whole", "label"]);
    }
}
