//! What a full list showed of those who were asked about, kept so that a quick list can be held against it.

use defib_policy::fast_hash::{IdMap, IdSet};
use defib_policy::fleet::Kind;
use defib_policy::id::{ContainerId, WorkspaceId};
use defib_policy::moment::Moment;
use defib_policy::sample::Fault;

use super::ear::Heard;
use super::entry::{Entry, ListedHealth, State};
use super::listing::{Handle, Listing, Match, may_have_siblings};
use crate::Target;

/// Who was asked about at a full list, and what became of them there.
#[derive(Debug)]
pub(super) struct Roster {
    /// When the list was asked for.
    pub(super) at: Moment,
    /// What had been heard before it was asked for.
    pub(super) heard: Heard,
    /// Which engine answered.
    pub(super) identity: String,
    /// There are health checks.
    pub(super) has_checks: bool,
    /// In the order of the workspaces' ids.
    places: Vec<Place>,
    /// The ids of their containers.
    ids: IdSet<ContainerId>,
    /// Every name by which one of them is asked for, without the `/` in front.
    references: IdSet<Box<str>>,
    /// The containers that matter and are of those that a quick list shows, by id.
    shown: IdMap<Box<str>, (State, ListedHealth)>,
}

/// Where a workspace was found.
#[derive(Debug)]
pub(super) struct Place {
    workspace: WorkspaceId,
    container_ref: Option<Box<str>>,
    /// It was in doubt already, so the full list has answered that doubt.
    in_doubt: bool,
    pub(super) found: Found,
}

/// What a full list showed of a workspace.
#[derive(Debug)]
pub(super) enum Found {
    /// This container, which a quick list leaves out.
    Runs { container: ContainerId, is_healthy: bool },
    /// This container, which a quick list shows.
    Shown(ContainerId),
    /// No container has the name.
    NoSuchName,
}

impl Roster {
    /// Of a full list that was asked for at `at`.
    pub(super) fn new(
        at: Moment,
        heard: Heard,
        identity: String,
        entries: &[Entry],
        listing: &Listing<'_>,
        targets: &[Target],
    ) -> Self {
        let mut roster = Self {
            at,
            heard,
            identity,
            has_checks: false,
            places: Vec::with_capacity(targets.len()),
            ids: IdSet::default(),
            references: IdSet::default(),
            shown: IdMap::default(),
        };
        for target in targets {
            roster.add(target, listing);
        }
        if !roster.places.is_sorted_by(|one, other| one.workspace <= other.workspace) {
            roster.places.sort_by(|one, other| one.workspace.cmp(&other.workspace));
        }
        let shown = entries.iter().filter(|entry| is_shown(entry) && roster.matters(entry));
        roster.shown = shown.map(|entry| (entry.id.clone(), (entry.state, entry.health))).collect();
        roster
    }

    fn add(&mut self, target: &Target, listing: &Listing<'_>) {
        if matches!(Handle::of(target), Handle::Unaskable(_)) {
            return;
        }
        let found = match listing.find(target) {
            Match::Is(entry) => {
                self.has_checks |= entry.health != ListedHealth::None;
                let container = match &target.known {
                    Some(known) if known.as_str() == &*entry.id => known.clone(),
                    _ => ContainerId::from(&*entry.id),
                };
                self.ids.insert(container.clone());
                match entry.health {
                    _ if is_shown(entry) => Found::Shown(container),
                    health => Found::Runs { container, is_healthy: health == ListedHealth::Healthy },
                }
            }
            // An inspect of the name can tell whether it is still so. Where a label is looked for, only a list can.
            Match::Absent if !may_have_siblings(target) => Found::NoSuchName,
            Match::Absent | Match::Ambiguous => return,
        };
        if let Some(reference) = &target.container_ref {
            self.references.insert(reference.strip_prefix('/').unwrap_or(reference).into());
        }
        let (workspace, container_ref) = (target.workspace.clone(), target.container_ref.clone());
        let place = Place { workspace, container_ref, in_doubt: target.in_doubt, found };
        self.places.push(place);
    }

    /// Where each of these was found, or why it is not looked for at all; `None` if the roster cannot answer for one of them: a new row, one that
    /// names another container by now, one whose container a later look found to be another one, or one that seems to run and has come into
    /// doubt since.
    pub(super) fn places_of(&self, targets: &[Target]) -> Option<Vec<Result<&Place, Fault>>> {
        // The targets mostly come in the order of the places, so the search begins after the last place that was found.
        let mut next = 0;
        let place_of = |target: &Target| {
            let at = match self.places.get(next) {
                Some(place) if place.workspace == target.workspace => Some(next),
                _ => self.places.binary_search_by(|place| place.workspace.cmp(&target.workspace)).ok(),
            };
            if let Some(at) = at {
                next = at + 1;
            }
            match at.and_then(|at| self.places.get(at)).filter(|place| place.fits(target)) {
                Some(place) => Some(Ok(place)),
                None => match Handle::of(target) {
                    Handle::Unaskable(fault) => Some(Err(fault)),
                    Handle::Ask(_) | Handle::None => None,
                },
            }
        };
        targets.iter().map(place_of).collect()
    }

    /// Whether a workspace could be this container.
    fn matters(&self, entry: &Entry) -> bool {
        entry.workspace.is_some() || self.is_named(&entry.id) || entry.names.iter().any(|name| self.is_named(name))
    }

    /// Whether this is the id of a container that is known, or a name by which one is asked for.
    pub(super) fn is_named(&self, text: &str) -> bool {
        self.ids.contains(text) || self.references.contains(text)
    }

    /// Whether a quick list shows exactly those that it would have shown at the full list, in the same states.
    pub(super) fn is_unchanged_in<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> bool {
        let mut count = 0;
        let same = |entry: &Entry| self.shown.get(&entry.id) == Some(&(entry.state, entry.health));
        let all_same = entries.filter(|entry| self.matters(entry)).inspect(|_| count += 1).all(same);
        all_same && count == self.shown.len()
    }
}

impl Place {
    /// Whether a target is still the one that this is about.
    fn fits(&self, target: &Target) -> bool {
        let is_known = match (&self.found, &target.known) {
            (Found::Runs { container, .. } | Found::Shown(container), Some(known)) => known == container,
            (Found::NoSuchName, _) | (_, None) => true,
        };
        let is_new_doubt =
            target.in_doubt && !self.in_doubt && !target.inspect && matches!(self.found, Found::Runs { .. });
        is_known && !is_new_doubt && target.kind == Kind::Container && self.container_ref == target.container_ref
    }
}

/// Whether a quick list shows such a container: it does not simply run, or its health check does not say that it is well.
fn is_shown(entry: &Entry) -> bool {
    entry.state != State::Running || matches!(entry.health, ListedHealth::Starting | ListedHealth::Unhealthy)
}
