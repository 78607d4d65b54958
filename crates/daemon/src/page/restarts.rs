//! The ledger: restarts that are under way, restarts that have ended, and the exhausted workspaces.

use std::time::Duration;

use defib_policy::moment::Timestamp;
use defib_store::RestartRow;
use maud::{Markup, html};

use super::RESTARTS;
use super::link::Links;
use super::list;
use super::parts::{badge_of, count, mark, number, text, when};
use crate::told::picture::{FleetPicture, Query, Word};
use crate::told::show;

/// How many exhausted workspaces are named.
const NAMED: usize = 20;

pub(super) fn draw(
    picture: &FleetPicture,
    links: &Links,
    under_way: &[RestartRow],
    ended: &[RestartRow],
    before: Option<i64>,
) -> Markup {
    let exhausted = Word::from_slug("exhausted");
    let tired = picture.page(&Query { word: exhausted, limit: NAMED, ..Query::default() });
    let is_full = i64::try_from(ended.len()).is_ok_and(|length| length == RESTARTS);
    html! {
        h1 { @if under_way.is_empty() { "No restart under way" } @else { (count(under_way.len() as u64, "restart", "restarts")) " under way" } }
        @if !under_way.is_empty() { (table("Under way", under_way, picture.at, links)) }
        @if tired.total > 0 {
            section aria-labelledby="exhausted" {
                h2 #exhausted { "Exhausted" }
                p.lead { "Restarts do not help these any more; one more is tried now and then. " code { "defib ack" } " counts their attempts anew." }
                (list::table(picture, links, tired.rows.iter().copied()))
                @if let (Some(word), true) = (exhausted, tired.next.is_some()) {
                    p.more { a href=(links.word(word)) { "All " (number(tired.total as u64)) " exhausted" } }
                }
            }
        }
        section aria-labelledby="ended" {
            h2 #ended { @if before.is_some() { "Earlier" } @else { "Ended" } }
            @if ended.is_empty() { p.empty { "None is recorded." } } @else { (table("Ended", ended, picture.at, links)) }
            @if before.is_some() || is_full {
                nav.pages aria-label="Pages" {
                    @if before.is_some() { a rel="first" href=(links.to("/restarts")) { "Newest" } }
                    @if let (true, Some(last)) = (is_full, ended.last()) {
                        a rel="next" href={ (links.to("/restarts")) "?before=" (last.id) } { "Earlier" }
                    }
                }
            }
        }
    }
}

fn table(name: &str, rows: &[RestartRow], now: Timestamp, links: &Links) -> Markup {
    html! {
        div.scroll.stack tabindex="0" role="region" aria-label=(name) {
            table {
                thead { tr {
                    th scope="col" { "Outcome" } th scope="col" { "Workspace" } th.num scope="col" { "Claimed" } th.num scope="col" { "Took" }
                    th.num.few scope="col" { "Attempt" } th scope="col" { "Engine" } th.wide scope="col" { "Why" }
                } }
                tbody {
                    @for row in rows {
                        tr data-key=(row.id) {
                            td { (outcome(row)) }
                            th scope="row" { a href=(links.workspace(&row.workspace_id)) { (text(&row.workspace_id)) } }
                            td.num data-is="claimed" { (when(row.claimed_at, now)) }
                            td.num data-is=[row.finished_at.map(|_| "took")] { @match row.finished_at { Some(at) => (took(at.since(row.claimed_at))), None => "" } }
                            td.num.few data-is="attempt" { (row.attempt) }
                            td data-is="on" { (text(&row.engine)) }
                            td.wide {
                                (badge_of(&row.verdict)) " " (text(row.because.as_deref().unwrap_or_default()))
                                @if let Some(error) = &row.error { span.error { (text(error)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// How an attempt ended, by word and shape.
fn outcome(row: &RestartRow) -> Markup {
    let (shape, tone, word) = match (row.outcome.as_deref(), row.recovered_at) {
        (None, _) => ("busy", "active", "under way"),
        (Some(_), Some(_)) => ("alive", "well", "recovered"),
        (Some("succeeded"), None) => ("settling", "active", "succeeded"),
        (Some("failed"), None) => ("dead", "bad", "failed"),
        (Some("abandoned"), None) => ("lost", "doubt", "abandoned"),
        (Some(other), None) => ("not watched", "aside", other),
    };
    html! { span.state.(tone) { (mark(shape)) (text(word)) } }
}

/// A short time: milliseconds matter below ten seconds.
pub(super) fn took(span: Duration) -> String {
    match span.as_millis() {
        ms @ 0..1_000 => format!("{ms} ms"),
        ms @ 1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => show::age(span),
    }
}
