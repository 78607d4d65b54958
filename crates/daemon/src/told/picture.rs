//! The whole fleet at one moment, judged, counted and sorted. All readers of the status page and of the API see the same picture within one
//! poll interval.

use std::cmp::Reverse;

use defib_policy::id::EngineName;
use defib_policy::moment::Timestamp;
use defib_policy::verdict::Verdict;
use defib_store::{Entry, Hold, HoldScope, Overview, Said, StatusRow};

use super::groups::{Group, Parts};
use super::natural::{self, natural};
use super::standing::{EXTERNAL, Facts, NOT_JUDGED, NOT_WATCHED, SUSPENDED, Voices};

/// How many words there are for a workspace: the verdicts, the three for those without one, and one for the verdicts of a newer defib.
pub(crate) const WORDS: usize = Verdict::ALL.len() + 4;

/// The word for a workspace: its verdict, or why it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Word(u8);

impl Word {
    /// Nothing is wrong with it.
    pub(crate) const ALIVE: Self = Self(0);

    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..u8::try_from(WORDS).unwrap_or(u8::MAX)).map(Self)
    }

    /// The word that `defib status` uses.
    pub(crate) fn label(self) -> &'static str {
        let verdicts = Verdict::ALL.len();
        match usize::from(self.0).checked_sub(verdicts) {
            None => Verdict::ALL[usize::from(self.0)].label(),
            Some(0) => SUSPENDED,
            Some(1) => NOT_WATCHED,
            Some(2) => NOT_JUDGED,
            Some(_) => "other",
        }
    }

    /// The word without spaces, for addresses and for `defib status --verdict`.
    pub(crate) fn slug(self) -> String {
        self.label().replace(' ', "-")
    }

    /// The word with this spelling, with a space or a dash.
    pub(crate) fn from_slug(text: &str) -> Option<Self> {
        Self::all().find(|word| word.slug() == text || word.label() == text)
    }

    fn of(label: &str) -> Self {
        Self::all().find(|word| word.label() == label).unwrap_or(Self(u8::try_from(WORDS - 1).unwrap_or(u8::MAX)))
    }

    /// Its place in an array of [`WORDS`] counts.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// How urgent it is that somebody looks. Zero: not at all.
    pub(crate) fn urgency(self) -> u8 {
        match self.label() {
            "dead" | "exhausted" => 9,
            "lost" => 8,
            "wedged" | "contradiction" => 7,
            "unhealthy" => 6,
            "suspect" => 5,
            "unknown" => 4,
            NOT_JUDGED => 3,
            "silent" => 2,
            "frozen" | "other" => 1,
            _ => 0,
        }
    }
}

/// How many workspaces have each word.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts([u32; WORDS]);

impl Counts {
    pub(crate) fn of(&self, word: Word) -> u32 {
        self.0[word.index()]
    }

    pub(crate) fn total(&self) -> u32 {
        self.0.iter().sum()
    }

    /// Those that are not zero, the most urgent first.
    pub(crate) fn present(&self) -> Vec<(Word, u32)> {
        let mut present: Vec<(Word, u32)> =
            Word::all().map(|word| (word, self.of(word))).filter(|(_, count)| *count > 0).collect();
        present.sort_by_key(|(word, _)| (Reverse(word.urgency()), *word));
        present
    }

    pub(super) fn add(&mut self, word: Word) {
        self.0[word.index()] += 1;
    }
}

/// A workspace in the picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) word: Word,
    /// Whether somebody should look.
    pub(crate) is_trouble: bool,
}

/// The whole fleet at one moment.
#[derive(Debug)]
pub(crate) struct FleetPicture {
    /// The database's clock.
    pub(crate) at: Timestamp,
    /// In natural order of their ids.
    entries: Vec<Entry>,
    /// What is said of each of them, and whether somebody should look.
    said: Vec<(Word, bool)>,
    pub(crate) voices: Voices,
    /// The holds that stand.
    pub(crate) holds: Vec<Hold>,
    pub(crate) counts: Counts,
    /// Every engine that anybody speaks of, in natural order; those without an engine last.
    pub(crate) groups: Vec<Group>,
    /// The places of those in trouble, the most urgent first.
    pub(crate) troubled: Vec<u32>,
    /// Whether it has only the workspaces that this daemon watches, because the others have not been read yet.
    pub(crate) is_part: bool,
}

/// Which workspaces to list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    /// A part of the id or of the name, in whatever case.
    pub(crate) text: String,
    pub(crate) word: Option<Word>,
    /// An engine; empty for the workspaces on no engine.
    pub(crate) engine: Option<String>,
    pub(crate) troubled: bool,
    /// The id after which the list goes on.
    pub(crate) after: Option<String>,
    pub(crate) limit: usize,
}

/// A part of a list.
#[derive(Debug)]
pub(crate) struct Page {
    /// Places in the order of [`FleetPicture::all`].
    pub(crate) rows: Vec<u32>,
    /// The id after which the next page begins; `None`: this is the last one.
    pub(crate) next: Option<String>,
    /// How many workspaces match, on all pages together.
    pub(crate) total: usize,
}

impl FleetPicture {
    /// Judges, counts and sorts. Takes about a second for a million rows, so it belongs on a thread of its own.
    pub(crate) fn of(overview: Overview, said: Said, holds: Vec<Hold>) -> Self {
        let at = overview.now;
        let mut entries = overview.entries;
        natural::sort(&mut entries, |entry| entry.id.as_str());
        for n in 1..entries.len() {
            if entries[n].id == entries[n - 1].id && !entries[n].id.as_str().is_empty() {
                entries[n].breach = Some("workspace_id is in more than one row");
                entries[n - 1].breach = entries[n].breach;
            }
        }
        let broken = entries.iter().filter_map(|entry| Some((entry.id.to_string(), entry.breach?)));
        let voices = Voices::of_a_picture(said, broken.collect());
        let mut counts = Counts::default();
        let mut parts = Parts::new(&voices);
        let (mut said, mut troubled) = (Vec::with_capacity(entries.len()), Vec::new());
        for (place, entry) in (0_u32..).zip(&entries) {
            let part = parts.of(engine_of(entry));
            let facts = Facts {
                id: entry.id.as_str(),
                status: entry.status.as_deref(),
                suspended: entry.suspended == Some(true),
                created_ago: entry.created_at.map(|created| at.since(created)),
                verdict: entry.verdict.as_deref(),
            };
            let unnamed = is_unnamed(entry).then(|| voices.judge("", false));
            let standing = voices.of_judged(&facts, unnamed.as_ref().unwrap_or(&part.judge).as_ref());
            let (word, is_trouble) = (Word::of(standing.word()), standing.is_trouble());
            counts.add(word);
            part.group.rows.push(place);
            part.group.counts.add(word);
            part.group.troubled += u32::from(is_trouble);
            if is_trouble {
                troubled.push(place);
            }
            said.push((word, is_trouble));
        }
        let groups = parts.groups();
        let urgency = |place: u32| said.get(place as usize).map_or(0, |(word, _): &(Word, bool)| word.urgency());
        troubled.sort_by_key(|place| Reverse(urgency(*place)));
        Self { at, entries, said, voices, holds, counts, groups, troubled, is_part: false }
    }

    /// Puts what is shown of a few workspaces in its place: their names, and when they last beat.
    pub(crate) fn show(&mut self, read: Vec<Entry>) {
        for entry in read {
            let place = self.entries.partition_point(|shown| natural(shown.id.as_str(), entry.id.as_str()).is_lt());
            if let Some(shown) = self.entries.get_mut(place).filter(|shown| shown.id == entry.id) {
                (shown.name, shown.beat_at) = (entry.name, entry.beat_at);
            }
        }
    }

    /// All workspaces, in natural order of their ids.
    pub(crate) fn all(&self) -> impl Iterator<Item = Seen<'_>> {
        self.entries.iter().zip(&self.said).map(|(entry, (word, is_trouble))| Seen {
            entry,
            word: *word,
            is_trouble: *is_trouble,
        })
    }

    /// The workspace at a place in that order.
    pub(crate) fn at_place(&self, place: u32) -> Option<Seen<'_>> {
        let (word, is_trouble) = *self.said.get(place as usize)?;
        Some(Seen { entry: self.entries.get(place as usize)?, word, is_trouble })
    }

    /// What is said of the workspace at a place.
    pub(crate) fn word_at(&self, place: u32) -> Word {
        self.said.get(place as usize).map_or(Word::ALIVE, |(word, _)| *word)
    }

    /// A row as `defib status` takes it, with the ages of the picture's moment.
    pub(crate) fn status_row(&self, place: u32) -> Option<StatusRow> {
        self.entries.get(place as usize).map(|entry| status_row(entry, self.at))
    }

    /// The workspaces of the engine; with an empty name, those on no engine.
    pub(crate) fn group(&self, engine: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.engine == engine)
    }

    /// The workspaces that a query matches, beginning after its key.
    pub(crate) fn page(&self, query: &Query) -> Page {
        let needle = query.text.trim().to_lowercase();
        let fits = |seen: &Seen<'_>| {
            query.word.is_none_or(|word| seen.word == word)
                && (!query.troubled || seen.is_trouble)
                && query.engine.as_deref().is_none_or(|engine| engine_of(seen.entry) == engine)
                && (needle.is_empty()
                    || seen.entry.id.as_str().to_lowercase().contains(&needle)
                    || seen.entry.name.as_ref().is_some_and(|name| name.to_lowercase().contains(&needle)))
        };
        let begin = query
            .after
            .as_deref()
            .map_or(0, |after| self.entries.partition_point(|entry| natural(entry.id.as_str(), after).is_le()));
        let mut page = Page { rows: Vec::new(), next: None, total: 0 };
        let mut last = None;
        for (place, seen) in (0_u32..).zip(self.all()).filter(|(_, seen)| fits(seen)) {
            page.total += 1;
            if (place as usize) < begin {
                continue;
            }
            if page.rows.len() < query.limit {
                page.rows.push(place);
                last = Some(seen.entry.id.as_str());
            } else if page.next.is_none() {
                page.next = last.map(str::to_owned);
            }
        }
        page
    }

    /// The holds that keep a workspace of this engine from being restarted: on the fleet and on the engine.
    pub(crate) fn holds_on_engine(&self, engine: &str) -> impl Iterator<Item = &Hold> {
        self.holds.iter().filter(move |hold| match &hold.scope {
            HoldScope::Fleet => true,
            HoldScope::Engine(name) => name.as_str() == engine,
            HoldScope::Workspace(_) => false,
        })
    }

    /// Whose word has changed since an earlier picture, in order: the id, the engine, the word before and the word now (`None`: it was not
    /// there, or is gone).
    pub(crate) fn changes_since(&self, earlier: &Self) -> Vec<Change> {
        let (mut changes, mut old, mut new) = (Vec::new(), earlier.all().peekable(), self.all().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return changes,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(old), Some(new)) => natural(old.entry.id.as_str(), new.entry.id.as_str()),
            };
            let before = if order.is_le() { old.next() } else { None };
            let now = if order.is_ge() { new.next() } else { None };
            let (from, to) = (before.map(|seen| seen.word), now.map(|seen| seen.word));
            if from != to
                && let Some(seen) = now.or(before)
            {
                let (id, engine) = (seen.entry.id.to_string(), engine_of(seen.entry).to_owned());
                changes.push(Change { id, engine, from, to });
            }
        }
    }
}

/// A workspace whose word has changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) id: String,
    pub(crate) engine: String,
    /// `None`: it was not there.
    pub(crate) from: Option<Word>,
    /// `None`: it is gone.
    pub(crate) to: Option<Word>,
}

/// The engine of a workspace; empty if it is on no engine.
fn engine_of(entry: &Entry) -> &str {
    if entry.kind.as_deref() == Some(EXTERNAL) { "" } else { entry.engine.as_ref().map_or("", EngineName::as_str) }
}

/// Whether it is a workspace that should be on an engine, and whose row does not name one. It is listed with those on no engine, and the
/// replica that judges those does not judge it.
fn is_unnamed(entry: &Entry) -> bool {
    entry.engine.as_ref().is_none_or(|engine| engine.as_str().is_empty()) && entry.kind.as_deref() != Some(EXTERNAL)
}

fn status_row(entry: &Entry, at: Timestamp) -> StatusRow {
    let word = |word: &Option<std::sync::Arc<str>>| word.as_deref().map(str::to_owned);
    StatusRow {
        id: entry.id.to_string(),
        name: entry.name.as_deref().map(str::to_owned),
        status: word(&entry.status),
        kind: word(&entry.kind),
        engine: entry.engine.as_ref().map(ToString::to_string),
        suspended: entry.suspended,
        heartbeat_ago: entry.beat_at.map(|beat| at.since(beat)),
        created_ago: entry.created_at.map(|created| at.since(created)),
        verdict: entry.verdict.as_deref().cloned(),
        last_restart: None,
    }
}

#[cfg(test)]
mod tests {
    use defib_store::EngineSaid;

    use super::*;
    use crate::told::golden;

    fn picture(ids: &[(&str, Option<&str>)]) -> FleetPicture {
        let at = golden::said().now;
        let entry = |(id, verdict): &(&str, Option<&str>)| Entry {
            id: (*id).into(),
            name: Some(format!("The {id}").into()),
            status: Some("online".into()),
            kind: Some("container".into()),
            engine: Some("default".into()),
            suspended: Some(false),
            beat_at: Some(at),
            created_at: None,
            verdict: verdict.map(|verdict| Box::new(golden::verdict(verdict, "stopped_stale", "it stopped", None))),
            breach: None,
        };
        FleetPicture::of(Overview { now: at, entries: ids.iter().map(entry).collect() }, golden::said(), Vec::new())
    }

    fn ids(picture: &FleetPicture, page: &Page) -> Vec<String> {
        page.rows.iter().map(|place| picture.entries[*place as usize].id.to_string()).collect()
    }

    #[test]
    fn pages_by_key_have_everybody_once_in_natural_order() {
        let picture = picture(&[("w10", None), ("w2", None), ("w1", None), ("w3", Some("dead")), ("x", None)]);
        let mut query = Query { limit: 2, ..Query::default() };
        let mut told = Vec::new();
        loop {
            let page = picture.page(&query);
            assert_eq!(page.total, 5);
            told.extend(ids(&picture, &page));
            let Some(next) = page.next else { break };
            query.after = Some(next);
        }
        assert_eq!(told, ["w1", "w2", "w3", "w10", "x"]);
        // The key of a workspace that has gone meanwhile still has a place in the order.
        let page = picture.page(&Query { after: Some("w4".to_owned()), limit: 9, ..Query::default() });
        assert_eq!(ids(&picture, &page), ["w10", "x"]);
    }

    #[test]
    fn a_query_finds_by_part_word_engine_and_trouble() {
        let picture = picture(&[("w1", None), ("w2", Some("dead")), ("Other", Some("busy"))]);
        let found = |query: Query| ids(&picture, &picture.page(&Query { limit: 9, ..query }));
        assert_eq!(found(Query { text: " oTHer ".to_owned(), ..Query::default() }), ["Other"]);
        assert_eq!(found(Query { text: "the w".to_owned(), ..Query::default() }), ["w1", "w2"]);
        assert_eq!(found(Query { word: Word::from_slug("dead"), ..Query::default() }), ["w2"]);
        assert_eq!(found(Query { troubled: true, ..Query::default() }), ["w2"]);
        assert_eq!(found(Query { engine: Some("gpu".to_owned()), ..Query::default() }), [""; 0]);
        assert_eq!((picture.counts.total(), picture.troubled.len()), (3, 1));
    }

    #[test]
    fn an_id_in_two_rows_is_judged_by_nobody() {
        let picture = picture(&[("w1", None), ("w1", None), ("w2", None)]);
        let words: Vec<&str> = picture.all().map(|seen| seen.word.label()).collect();
        assert_eq!(words, [NOT_JUDGED, NOT_JUDGED, "alive"]);
    }

    #[test]
    fn a_workspace_whose_row_names_no_engine_is_not_taken_for_an_external_one() {
        let at = golden::said().now;
        let entry = |kind: &str, engine: Option<&str>| Entry {
            id: kind.into(),
            name: None,
            status: Some("online".into()),
            kind: Some(kind.into()),
            engine: engine.map(Into::into),
            suspended: Some(false),
            beat_at: Some(at),
            created_at: None,
            verdict: None,
            breach: None,
        };
        let mut said = golden::said();
        let without = EngineSaid { name: String::new(), ..said.engines[0].clone() };
        said.engines.push(without);
        let entries = vec![entry("external", None), entry("container", Some("")), entry("instance", None)];
        let picture = FleetPicture::of(Overview { now: at, entries }, said, Vec::new());
        let told: Vec<(&str, &str)> = picture.all().map(|seen| (seen.entry.id.as_str(), seen.word.label())).collect();
        assert_eq!(told, [("container", NOT_JUDGED), ("external", "alive"), ("instance", NOT_JUDGED)]);
        for (place, (_, word)) in (0..).zip(told) {
            let row = picture.status_row(place).unwrap();
            assert_eq!(picture.voices.of(&row).word(), word, "the list says what the counts say");
        }
    }

    #[test]
    fn changes_name_who_came_who_went_and_whose_word_is_another() {
        let before = picture(&[("w1", None), ("w2", None), ("w3", None)]);
        let now = picture(&[("w1", None), ("w2", Some("dead")), ("w4", None)]);
        let changed: Vec<(String, Option<&str>, Option<&str>)> = now
            .changes_since(&before)
            .into_iter()
            .map(|change| (change.id, change.from.map(Word::label), change.to.map(Word::label)))
            .collect();
        let w = |id: &str, from, to| (id.to_owned(), from, to);
        assert_eq!(
            changed,
            [w("w2", Some("alive"), Some("dead")), w("w3", Some("alive"), None), w("w4", None, Some("alive"))]
        );
        assert_eq!(now.changes_since(&now), []);
    }

    #[test]
    fn every_word_has_an_address_that_leads_back() {
        assert_eq!(Word::all().count(), WORDS);
        for word in Word::all() {
            assert_eq!(Word::from_slug(&word.slug()), Some(word));
        }
        assert_eq!(Word::ALIVE.label(), "alive");
        assert_eq!(Word::of("a verdict of a newer defib").label(), "other");
    }
}
