//! Whose container is whose.
//!
//! A workspace names its container (by name, full id, or the beginning of the id), or leaves it to be found by a label. Three
//! things make that harder than a lookup:
//!
//! - More than one container can carry the label while somebody replaces one by another, or left an old one lying around.
//!   The liveliest of them is the workspace: an exited one proves nothing while its sibling runs.
//! - A name can move. When a container is replaced, the old one is often renamed first, and for a moment no container has the name.
//!   If the container that defib knew still runs, the workspace lives.
//! - Engines complete what looks like the beginning of an id, however short. If a container named `ada` no longer exists and is asked
//!   for, the engine answers with one whose id begins with `ada`. So an answer is taken only if it is about the container that was meant.
//!
//! A reference comes from a database that others write, and goes into the path of a request. So one that cannot be a
//! container's name is never sent.

use defib_policy::fast_hash::{IdHash, IdMap};
use defib_policy::fleet::Kind;
use defib_policy::id::ContainerId;
use defib_policy::sample::Fault;

use super::entry::Entry;
use super::facts::{self, Liveliness};
use super::record::Record;
use crate::Target;

/// The shortest beginning of an id that is taken for one: what `docker ps` shows. Shorter ones are names.
const ID_PREFIX_MIN: usize = 12;

/// The length of a full id.
const ID_LENGTH: usize = 64;

/// What an engine can be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handle<'a> {
    /// This name or id.
    Ask(&'a str),
    /// Nothing: the container was never seen.
    None,
    /// Nothing, for this reason: no container can have this name, or it is not a container at all.
    Unaskable(Fault),
}

impl<'a> Handle<'a> {
    /// What an engine can be asked about at once: the reference, or else the container known by the label.
    pub(super) fn of(target: &'a Target) -> Self {
        if target.kind != Kind::Container {
            // It lives behind a control plane. That a container engine has no such container says nothing about it.
            return Self::Unaskable(Fault::WrongKind);
        }
        let known = target.known.as_ref().map(ContainerId::as_str);
        let Some(reference) = target.container_ref.as_deref().or(known) else { return Self::None };
        valid_reference(reference).map_or(Self::Unaskable(Fault::BadReference), Self::Ask)
    }
}

/// Whether other containers may claim the same workspace.
pub(super) const fn may_have_siblings(target: &Target) -> bool {
    target.container_ref.is_none()
}

/// A container name as engines allow it, without the `/` in front.
pub(crate) fn valid_reference(reference: &str) -> Option<&str> {
    let name = reference.strip_prefix('/').unwrap_or(reference);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    (first && rest).then_some(name)
}

fn may_be_prefix(reference: &str) -> bool {
    (ID_PREFIX_MIN..ID_LENGTH).contains(&reference.len())
        && reference.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether this is the record of the container that was asked for, and not of one whose id happens to begin like its name. A record without
/// an id passes here; it is found to say nothing when it is read.
pub(crate) fn is_of(record: &Record, asked: &str) -> bool {
    let Some(id) = record.id.as_deref().filter(|id| !id.is_empty()) else { return true };
    let name = record.name.as_deref().map(|name| name.strip_prefix('/').unwrap_or(name));
    id == asked || name == Some(asked) || (may_be_prefix(asked) && id.starts_with(asked))
}

/// What a complete list says about whose container is whose.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Match<'a> {
    /// This one.
    Is(&'a Entry),
    /// None of them.
    Absent,
    /// The beginning of the id fits several: a wrong reference, not a death.
    Ambiguous,
}

/// A list, arranged for lookups.
pub(crate) struct Listing<'a> {
    ids: IdMap<&'a str, &'a Entry>,
    /// Without the leading `/`.
    names: IdMap<&'a str, &'a Entry>,
    /// By the value of the workspace label.
    claims: IdMap<&'a str, &'a Entry>,
}

impl<'a> Listing<'a> {
    pub(crate) fn new(entries: &'a [Entry]) -> Self {
        let mut listing = Self {
            ids: IdMap::with_capacity_and_hasher(entries.len(), IdHash::default()),
            names: IdMap::with_capacity_and_hasher(entries.len(), IdHash::default()),
            claims: IdMap::with_capacity_and_hasher(entries.len(), IdHash::default()),
        };
        for entry in entries {
            if !entry.id.is_empty() {
                keep_liveliest(&mut listing.ids, &entry.id, entry);
            }
            for name in &entry.names {
                keep_liveliest(&mut listing.names, name, entry);
            }
            if let Some(workspace) = &entry.workspace {
                keep_liveliest(&mut listing.claims, workspace, entry);
            }
        }
        listing
    }

    /// The container of a workspace.
    pub(crate) fn find(&self, target: &Target) -> Match<'a> {
        let found = match target.container_ref.as_deref() {
            Some(reference) => self.by_reference(reference.strip_prefix('/').unwrap_or(reference)),
            None => self.claims.get(target.workspace.as_str()).map_or(Match::Absent, |entry| Match::Is(entry)),
        };
        match (found, &target.known) {
            (Match::Absent, Some(known)) => match self.ids.get(known.as_str()) {
                Some(entry) if facts::liveliness(entry) == Liveliness::Running => Match::Is(entry),
                _ => Match::Absent,
            },
            _ => found,
        }
    }

    /// As engines resolve it: a full id, then a name, then the beginning of an id.
    fn by_reference(&self, reference: &str) -> Match<'a> {
        if let Some(entry) = self.ids.get(reference).or_else(|| self.names.get(reference)) {
            return Match::Is(entry);
        }
        if !may_be_prefix(reference) {
            return Match::Absent;
        }
        let mut fitting = self.ids.iter().filter(|(id, _)| id.starts_with(reference)).map(|(_, entry)| *entry);
        match (fitting.next(), fitting.next()) {
            (Some(entry), None) => Match::Is(entry),
            (None, _) => Match::Absent,
            (Some(_), Some(_)) => Match::Ambiguous,
        }
    }
}

/// Files an entry under a key. Where another entry has the same key, the one that takes precedence stays, in whatever order they are listed.
///
/// An engine gives an id and a name to one container only, but a list that it writes while a container is renamed or replaced can have
/// both the old and the new one. Then the stopped one must not hide the one that runs.
fn keep_liveliest<'a>(entries: &mut IdMap<&'a str, &'a Entry>, key: &'a str, entry: &'a Entry) {
    let kept = entries.entry(key).or_insert(entry);
    if precedence(entry) > precedence(kept) {
        *kept = entry;
    }
}

/// Of several containers with one label, name or id, the one with the greatest precedence counts: the liveliest, then the youngest. The id
/// only makes the choice the same every time.
fn precedence(entry: &Entry) -> (Liveliness, i64, &str) {
    (facts::liveliness(entry), entry.created, &entry.id)
}

#[cfg(test)]
mod tests {
    use super::super::entry::State;
    use super::*;

    fn id(digit: char) -> String {
        std::iter::repeat_n(digit, ID_LENGTH).collect()
    }

    fn entry(id: &str, name: &str, workspace: Option<&str>, state: State, created: i64) -> Entry {
        Entry {
            id: id.into(),
            names: vec![name.into()],
            workspace: workspace.map(Into::into),
            state,
            created,
            ..Entry::default()
        }
    }

    fn found<'a>(entries: &'a [Entry], target: &Target) -> Option<&'a str> {
        match Listing::new(entries).find(target) {
            Match::Is(entry) => Some(&entry.id),
            Match::Absent => None,
            Match::Ambiguous => Some("ambiguous"),
        }
    }

    fn by_reference(reference: &str) -> Target {
        Target::container("w".into(), Some(reference.into()))
    }

    #[test]
    fn a_reference_is_an_id_then_a_name_then_the_beginning_of_an_id() {
        let (a, b) = (id('a'), id('b'));
        let trap = "b".repeat(ID_PREFIX_MIN); // a container that is named like the beginning of another one's id
        let entries = [entry(&a, &trap, None, State::Running, 1), entry(&b, "agent", Some("other"), State::Exited, 2)];
        assert_eq!(found(&entries, &by_reference(&b)), Some(b.as_str()));
        assert_eq!(found(&entries, &by_reference("agent")), Some(b.as_str()));
        assert_eq!(found(&entries, &by_reference("/agent")), Some(b.as_str()));
        assert_eq!(found(&entries, &by_reference(&a[..12])), Some(a.as_str()));
        assert_eq!(found(&entries, &by_reference(&trap)), Some(a.as_str()));
        assert_eq!(found(&entries, &by_reference(&b[..13])), Some(b.as_str()));
        assert_eq!(found(&entries, &by_reference(&a[..11])), None, "too short to be an id");
        assert_eq!(found(&entries, &by_reference("age")), None, "names are not abbreviated");
        assert_eq!(found(&entries, &by_reference("other")), None, "a label is not a name");
    }

    #[test]
    fn the_beginning_of_two_ids_is_ambiguous_and_not_absent() {
        let (one, two) = (format!("{}1", &id('a')[..63]), format!("{}2", &id('a')[..63]));
        let entries = [entry(&one, "x", None, State::Running, 1), entry(&two, "y", None, State::Running, 2)];
        assert_eq!(found(&entries, &by_reference(&id('a')[..20])), Some("ambiguous"));
    }

    #[test]
    fn of_several_claims_on_a_workspace_the_liveliest_wins_and_then_the_youngest() {
        let target = Target::container("w".into(), None);
        for (states, winner) in [
            ([State::Exited, State::Running], 'b'),
            ([State::Running, State::Exited], 'a'),
            ([State::Running, State::Created], 'a'),
            ([State::Restarting, State::Exited], 'a'),
            ([State::Created, State::Dead], 'a'),
            ([State::Paused, State::Exited], 'a'),
            ([State::Running, State::Running], 'b'),
            ([State::Exited, State::Exited], 'b'),
        ] {
            let [older, younger] = states;
            let mut entries =
                [entry(&id('a'), "older", Some("w"), older, 1), entry(&id('b'), "younger", Some("w"), younger, 2)];
            assert_eq!(found(&entries, &target), Some(id(winner).as_str()), "{states:?}");
            entries.reverse();
            assert_eq!(found(&entries, &target), Some(id(winner).as_str()), "{states:?}, listed the other way round");
        }
    }

    #[test]
    fn of_two_entries_with_one_name_or_id_the_liveliest_wins_in_either_order() {
        for (first, second) in [(State::Exited, State::Running), (State::Running, State::Exited)] {
            let replaced = [entry(&id('a'), "agent", None, first, 1), entry(&id('b'), "agent", None, second, 1)];
            let running = if first == State::Running { 'a' } else { 'b' };
            assert_eq!(found(&replaced, &by_reference("agent")), Some(id(running).as_str()), "{first:?}, {second:?}");

            let twice = [entry(&id('a'), "old", None, first, 1), entry(&id('a'), "new", None, second, 1)];
            let Match::Is(found) = Listing::new(&twice).find(&by_reference(&id('a'))) else { panic!("not found") };
            assert_eq!(found.state, State::Running, "{first:?}, {second:?}");
        }
    }

    #[test]
    fn a_known_container_that_still_runs_is_the_workspace_even_after_it_was_renamed() {
        let mut target = by_reference("agent");
        target.known = Some(id('a').into());
        let renamed = |state| [entry(&id('a'), "agent-old", None, state, 1)];
        assert_eq!(found(&renamed(State::Running), &target), Some(id('a').as_str()));
        assert_eq!(found(&renamed(State::Exited), &target), None, "replaced on purpose");
    }

    #[test]
    fn an_answer_is_taken_only_from_the_container_that_was_meant() {
        let id = format!("ada{}", &id('0')[3..]);
        let record = Record { id: Some(id.clone()), name: Some("/other".into()), ..Record::default() };
        assert!(is_of(&record, &id) && is_of(&record, "other") && is_of(&record, &id[..12]));
        assert!(!is_of(&record, "ada"), "the name of a container that is no more");
        assert!(is_of(&Record::default(), "ada"), "garbage, not absence");
    }

    #[test]
    fn what_cannot_be_a_name_is_never_sent() {
        for reference in ["", "/", "../info", "a/../../info", "a?force=1", "a b", "a%2f", "-a", ".a", "ä", "a\n", "//a"]
        {
            assert_eq!(Handle::of(&by_reference(reference)), Handle::Unaskable(Fault::BadReference), "{reference:?}");
        }
        for (reference, asked) in [("/agent", "agent"), ("a", "a"), ("stack_web.1.x-y", "stack_web.1.x-y")] {
            assert_eq!(Handle::of(&by_reference(reference)), Handle::Ask(asked));
        }
    }

    #[test]
    fn an_instance_is_never_asked_for_at_a_container_engine() {
        let mut target = Target::instance("w".into(), Some("i-1".into()));
        assert_eq!(Handle::of(&target), Handle::Unaskable(Fault::WrongKind));
        target.container_ref = Some("agent".into());
        assert_eq!(
            Handle::of(&target),
            Handle::Unaskable(Fault::WrongKind),
            "not even by a reference that it should not have"
        );
    }
}
