//! One workspace: its verdict, the reasons, what would change it, and its history. It says what `defib explain` says.

use defib_store::{Explanation, StatusRow};
use maud::{Markup, html};

use super::link::Links;
use super::parts::{badge_of, lasting, mark, text, when, whole};
use super::{story, timeline};
use crate::told::explain::{self, Reason};
use crate::told::show;
use crate::told::standing::{Standing, Voices};

pub(super) fn draw(id: &str, explanation: &Explanation, voices: &Voices, links: &Links) -> Markup {
    let row = explanation.workspace.as_ref();
    html! {
        p.trail { a href=(links.to("/workspaces")) { "Workspaces" } @if let Some(engine) = row.and_then(|row| row.engine.as_deref()) {
            " on " a href=(links.engine(engine)) { (text(engine)) }
        } }
        h1.id { (whole(id)) @if let Some(name) = row.and_then(|row| row.name.as_deref()).filter(|name| !name.is_empty() && *name != id) { span.name { (text(name)) } } }
        @match row {
            None => p.lead { span.state.aside { (mark("not watched")) "gone" } " It is not in defib.fleet any more." },
            Some(row) => (standing(row, explanation, voices)),
        }
        @for hold in &explanation.holds {
            p.notice {
                (mark("frozen")) b { "Restarts are held" } " "
                @match hold.expires_at { Some(at) => { "until " (show::clock(at)) }, None => "until released" }
                " by " (text(&hold.owner)) ": " (text(&hold.reason))
            }
        }
        section aria-labelledby="timeline" {
            h2 #timeline { "Timeline" }
            (timeline::draw(explanation))
            (story::draw(explanation))
        }
        @if let Some(row) = row {
            section aria-labelledby="facts" {
                h2 #facts { "What the database says" }
                ul.facts { @for fact in explain::facts(row, explanation) { li { bdi { (fact.trim_start()) } } } }
            }
        }
        p.hint { "The same in a terminal: " code { "defib explain " (text(id)) } }
    }
}

fn standing(row: &StatusRow, explanation: &Explanation, voices: &Voices) -> Markup {
    let now = explanation.now;
    let standing = voices.of(row);
    html! {
        p.verdict data-news="" {
            (badge_of(standing.word()))
            @if let Standing::Judged(judged) = &standing {
                @if let Some(current) = judged.current { " for " (lasting(current.since_ago, now)) }
                span.by { "said by " (text(&judged.by.name)) ", last pass over its engine " (when(judged.at, now)) }
            }
        }
        @match &standing {
            Standing::Suspended => p { "It, or one above it, was put away: it is not judged, and never restarted." },
            Standing::NotWatched => p {
                "Its status " (text(&show::or_dash(row.status.as_deref()))) " is in no " code { "DEFIB_WATCHED_STATUSES" }
                ": it is not judged, and never restarted."
            },
            Standing::NotJudged(why) => p { "It is not judged, and never restarted: " (text(why)) "." },
            Standing::Judged(judged) => dl.reasons {
                @for Reason { label, text } in explain::reasons(judged, row, explanation) {
                    div { dt { (title(label)) } dd { @if label == "ends" { (commands(&text)) } @else { bdi { (text) } } } }
                }
            },
        }
    }
}

/// A sentence of ours, in which a terminal shows commands between grave accents.
fn commands(sentence: &str) -> Markup {
    html! {
        @for (number, part) in sentence.split('`').enumerate() {
            @if number % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// The heading of a reason. `defib explain` has a shorter word for it.
fn title(label: &str) -> &str {
    match label {
        "because" => "Why",
        "seen" => "Seen in",
        "changes" => "Changes",
        "held" => "Not restarted",
        "ends" => "That ends",
        "settings" => "Own setting",
        "observed" => "Observed",
        "help" => "Help",
        other => other,
    }
}
