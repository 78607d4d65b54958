//! Workspaces in a table: searched, filtered, page by page.

use defib_policy::verdict::Held;
use defib_store::StatusRow;
use maud::{Markup, html};

use super::link::{Links, NO_ENGINE};
use super::parts::{ago, badge, badge_of, count, lasting, number, or_dash, short, text};
use crate::logging::printable;
use crate::told::picture::{FleetPicture, Query, Word};
use crate::told::standing::Standing;

pub(super) fn draw(picture: &FleetPicture, links: &Links, query: &Query) -> Markup {
    let page = picture.page(query);
    let total = page.total as u64;
    html! {
        h1 { "Workspaces" }
        form.filters action=(links.to("/workspaces")) {
            label { span { "Name or id" } input type="search" name="q" value=(query.text) autocomplete="off" spellcheck="false"; }
            label { span { "Verdict" } select name="verdict" {
                option value="" { "any" }
                @for word in Word::all().filter(|word| picture.counts.of(*word) > 0 || query.word == Some(*word)) {
                    option value=(word.slug()) selected[query.word == Some(word)] { (word.label()) }
                }
            } }
            label { span { "Engine" } select name="engine" {
                option value="" { "any" }
                @for group in &picture.groups {
                    @let is_chosen = query.engine.as_deref() == Some(group.engine.as_str());
                    @if group.engine.is_empty() { option value=(NO_ENGINE) selected[is_chosen] { "none" } }
                    @else { option value=(group.engine) selected[is_chosen] { (super::parts::cut(&group.engine, 60)) } }
                }
            } }
            label.check { input type="checkbox" name="troubled" value="1" checked[query.troubled]; span { "In trouble only" } }
            button type="submit" { "Show" }
        }
        p.found {
            b { (count(total, "workspace", "workspaces")) }
            @if total != u64::from(picture.counts.total()) { " of " (number(picture.counts.total())) }
            @if total > 0 && (query.after.is_some() || page.next.is_some()) { ", in order of their ids" }
        }
        @if page.rows.is_empty() {
            p.empty { @if query.after.is_some() { "There are no more." } @else { "No workspace matches. " a href=(links.to("/workspaces")) { "Show all" } } }
        } @else {
            (table(picture, links, page.rows.iter().copied()))
        }
        @if query.after.is_some() || page.next.is_some() {
            nav.pages aria-label="Pages" {
                @if query.after.is_some() { a rel="first" href=(links.list(query, None)) { "First page" } }
                @if let Some(next) = &page.next { a rel="next" href=(links.list(query, Some(next))) { "Next page" } }
            }
        }
    }
}

/// Some workspaces, one a row.
pub(super) fn table(picture: &FleetPicture, links: &Links, places: impl Iterator<Item = u32>) -> Markup {
    let rows: Vec<StatusRow> = places.filter_map(|place| picture.status_row(place)).collect();
    html! {
        div.scroll.stack tabindex="0" role="region" aria-label="Workspaces" {
            table {
                thead { tr {
                    th scope="col" { "Verdict" } th scope="col" { "Workspace" } th.wide scope="col" { "Why" } th.num scope="col" { "For" }
                    th.num scope="col" { "Heartbeat" } th scope="col" { "Engine" }
                } }
                tbody {
                    @for row in &rows { (line(row, picture, links)) }
                }
            }
        }
    }
}

fn line(row: &StatusRow, picture: &FleetPicture, links: &Links) -> Markup {
    let standing = picture.voices.of(row);
    let current = match &standing {
        Standing::Judged(judged) => judged.current,
        _ => None,
    };
    html! {
        tr data-key=(printable(&row.id)) .trouble[standing.is_trouble()] {
            td { (Word::from_slug(standing.word()).map_or_else(|| badge_of(standing.word()), badge)) }
            th scope="row" {
                @if row.id.is_empty() { span.none { "no id" } }
                @else { a href=(links.workspace(&row.id)) { (short(&row.id)) } }
                @if let Some(name) = row.name.as_deref().filter(|name| !name.is_empty() && *name != row.id) { span.name { (short(name)) } }
            }
            td.wide {
                @match (&standing, current) {
                    (Standing::NotJudged(why), _) => (text(why)),
                    (_, Some(current)) => {
                        (text(&current.because))
                        @if let Some(held) = &current.held { " " span.held title=[sentence(held)] { "held: " (text(held)) } }
                    }
                    (Standing::NotWatched, _) => { "status " (or_dash(row.status.as_deref())) " is not watched" }
                    _ => span.none { "–" }
                }
            }
            td.num data-is="for" { @if let Some(current) = current { (lasting(current.since_ago, picture.at)) } @else { span.none { "–" } } }
            td.num data-is="heartbeat" { @match row.heartbeat_ago { Some(age) => (ago(age, picture.at)), None => span.none { "never" } } }
            td data-is="on" { (or_dash(row.engine.as_deref())) }
        }
    }
}

/// What a reason that holds a restart back means, for whoever points at it. The workspace's own page writes it out.
fn sentence(held: &str) -> Option<&'static str> {
    Held::ALL.into_iter().find(|known| known.label() == held).map(Held::sentence)
}
