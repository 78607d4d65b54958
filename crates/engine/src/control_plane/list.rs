//! Reading a list, page by page, to its end or to its bounds.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use defib_policy::sample::Fault;
use serde_json::Value;

use super::answer::{self, Understood};
use super::api::{List, Paging};
use super::look::{Look, NotAsked};
use super::rate::Urgency;
use super::template::Values;

/// The largest page that is read, in bytes. Larger: a server that never stops sending costs memory. Smaller: interfaces that
/// send everything at once are refused; ten thousand instances of a kilobyte fit.
const PAGE_BYTES_MAX: usize = 16 << 20;

/// How many pages one list may have. A server that sends more is repeating itself.
const PAGES_MAX: usize = 2_000;

/// What a list said.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The instances by their reference. `None` for one that is in the list more than once.
    pub(crate) entries: HashMap<String, Option<Understood>>,
    /// Whether it was read to its end, so that an instance that is not in it does not exist.
    pub(crate) complete: bool,
}

/// Why there is no list.
#[derive(Debug)]
pub(crate) struct NoList {
    pub(crate) fault: Fault,
    /// What `defib check` says about it.
    pub(crate) complaint: String,
}

impl NoList {
    fn new(fault: Fault, complaint: impl Into<String>) -> Self {
        Self { fault, complaint: complaint.into() }
    }
}

/// Reads all pages.
pub(crate) async fn read(look: &Look<'_>, list: &List, urgency: Urgency) -> Result<Listing, NoList> {
    let mut listing = Listing::default();
    let (mut cursor, mut seen) = (String::new(), 0);
    for page in 1..=PAGES_MAX {
        let values = Values { cursor: &cursor, offset: seen, page, ..Values::default() };
        let path = list.path.fill(values).ok_or_else(|| NoList::new(Fault::Garbled, "the cursor cannot be sent"))?;
        let body = read_page(look, list, path, urgency).await?;
        let items = list.items.of(&body).and_then(Value::as_array);
        let items =
            items.ok_or_else(|| NoList::new(Fault::Garbled, "the answer has no list where the preset looks for it"))?;
        for item in items {
            note(look, list, item, &mut listing);
        }
        seen += items.len();
        match next(list, &body, items.len(), seen, &cursor) {
            Next::Page(next) => cursor = next,
            Next::End => {
                let whole = list.complete.as_ref().is_none_or(|pointer| pointer.of(&body) == Some(&Value::Bool(true)));
                listing.complete = whole;
                return Ok(listing);
            }
            Next::Circle => return Ok(listing),
        }
    }
    Ok(listing)
}

enum Next {
    /// The next page has to be read, with this cursor if the interface has cursors.
    Page(String),
    End,
    /// The next page would be the same one again.
    Circle,
}

fn next(list: &List, body: &Value, items: usize, seen: usize, cursor: &str) -> Next {
    match &list.paging {
        Paging::Single => Next::End,
        Paging::Cursor { next } => match next.of(body).and_then(answer::text).filter(|next| !next.is_empty()) {
            None => Next::End,
            Some(next) if next == cursor => Next::Circle,
            Some(next) => Next::Page(next),
        },
        Paging::Numbered { total } => {
            let total = total.as_ref().and_then(|total| total.of(body)).and_then(Value::as_u64);
            let all = total.is_some_and(|total| usize::try_from(total).is_ok_and(|total| seen >= total));
            match (items, total) {
                _ if all => Next::End,
                // The page is empty although fewer entries have come than `total` says, so something is missing.
                (0, Some(_)) => Next::Circle,
                (0, None) => Next::End,
                _ => Next::Page(String::new()),
            }
        }
    }
}

async fn read_page(look: &Look<'_>, list: &List, path: String, urgency: Urgency) -> Result<Value, NoList> {
    let answer = look.read_page(path, &list.headers, PAGE_BYTES_MAX, urgency).await;
    let answer = answer.map_err(|_: NotAsked| NoList::new(Fault::NotAsked, "`rate` allowed no request in time"))?;
    let answer = answer.map_err(|error| NoList::new(answer::fault_of(&error), error.to_string()))?;
    if !(200..300).contains(&answer.status) {
        let what = format!("it answered {}{}", answer.status, answer::hint(answer.status));
        return Err(NoList::new(Fault::EngineError, what));
    }
    serde_json::from_slice(&answer.body).map_err(|_| NoList::new(Fault::Garbled, "the answer is not JSON"))
}

fn note(look: &Look<'_>, list: &List, item: &Value, listing: &mut Listing) {
    // An entry without a name cannot be assigned. The instance that it is about counts as absent, and is asked about by itself.
    let Some(id) = list.id.of(item).and_then(answer::text) else { return };
    let understood = answer::of_value(&list.fields, &look.api().states, &id, item);
    match listing.entries.entry(id) {
        Entry::Vacant(place) => {
            place.insert(Some(understood));
        }
        Entry::Occupied(mut place) => {
            // If instances come or go while the pages are read, one may be on two pages with the same content. That is no contradiction.
            if place.get().as_ref() != Some(&understood) {
                place.insert(None);
            }
        }
    }
}
