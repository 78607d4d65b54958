//! The timeline in words: everything that is recorded of a workspace, newest first, each with its evidence.

use defib_store::{Explanation, TimelineEntry, TimelineWhat};
use maud::{Markup, html};
use serde_json::Value;

use super::parts::{mark, when};
use crate::logging::printable;
use crate::told::explain;
use crate::told::picture::Word;
use crate::told::show;

pub(super) fn draw(explanation: &Explanation) -> Markup {
    if explanation.timeline.is_empty() {
        return html! { p.empty { "Nothing is recorded: it was never in doubt." } };
    }
    html! {
        ol.story reversed {
            @for (number, entry) in explanation.timeline.iter().enumerate().rev() {
                li id={ "entry-" (number) } data-key=(number) {
                    (when(entry.at, explanation.now))
                    span.clock { (clock(entry)) }
                    @let (kind, sentence) = sentence(entry);
                    span.kind { (mark(shape(&entry.what))) (kind) }
                    div.what {
                        bdi { (sentence) }
                        @if let Some(evidence) = evidence(&entry.what) {
                            details { summary { (evidence_name(&entry.what)) } pre { bdi { (evidence) } } }
                        }
                    }
                }
            }
        }
    }
}

/// Hours, minutes, seconds and milliseconds.
fn clock(entry: &TimelineEntry) -> String {
    show::clock(entry.at).get(11..).unwrap_or_default().to_owned()
}

/// What `defib explain` says of an entry: its kind, and the rest.
pub(super) fn sentence(entry: &TimelineEntry) -> (String, String) {
    let line = explain::line(&entry.what);
    if let TimelineWhat::LastWords { .. } = entry.what {
        // The log itself is shown below the entry, where other entries show their evidence.
        let first = line.lines().next().unwrap_or_default();
        let rest = first.strip_prefix("last words").unwrap_or(first);
        return ("last words".to_owned(), rest.trim_start().to_owned());
    }
    let (kind, rest) = line.split_once(' ').unwrap_or((&line, ""));
    (kind.to_owned(), rest.trim_start().replace(" -> ", " → "))
}

/// The mark of what happened.
fn shape(what: &TimelineWhat) -> &str {
    match what {
        TimelineWhat::Verdict { to, .. } => Word::from_slug(to).map_or("other", Word::label),
        TimelineWhat::Engine { .. } => "unknown",
        TimelineWhat::Claimed { .. } => "busy",
        TimelineWhat::Finished { outcome, .. } if outcome == "succeeded" => "settling",
        TimelineWhat::Finished { .. } => "lost",
        TimelineWhat::Recovered { .. } => "alive",
        TimelineWhat::Suspected { .. } => "suspect",
        TimelineWhat::Held { .. } => "frozen",
        TimelineWhat::LastWords { .. }
        | TimelineWhat::Released { .. }
        | TimelineWhat::Ordered { .. }
        | TimelineWhat::Answered { .. }
        | TimelineWhat::Acknowledged { .. } => "not watched",
    }
}

/// By what name the evidence of an entry is opened.
const fn evidence_name(what: &TimelineWhat) -> &'static str {
    if matches!(what, TimelineWhat::LastWords { .. }) { "Its last words" } else { "Evidence" }
}

/// The evidence of an entry, laid out for people.
fn evidence(what: &TimelineWhat) -> Option<String> {
    if let TimelineWhat::LastWords { words, .. } = what {
        let told = words.health.iter().chain(&words.log).filter(|text| !text.is_empty());
        let lines: Vec<String> = told.flat_map(|text| text.split('\n')).map(printable).collect();
        return (!lines.is_empty()).then(|| lines.join("\n"));
    }
    let (TimelineWhat::Verdict { evidence, .. }
    | TimelineWhat::Engine { evidence, .. }
    | TimelineWhat::Claimed { evidence, .. }) = what
    else {
        return None;
    };
    if matches!(evidence, Value::Null) || evidence.as_object().is_some_and(serde_json::Map::is_empty) {
        return None;
    }
    let text = serde_json::to_string_pretty(evidence).ok()?;
    Some(text.lines().map(printable).collect::<Vec<_>>().join("\n"))
}
