//! The first page: whether any workspace is in trouble and which, and then all workspaces.

use maud::{Markup, html};

use super::grid::{self, Layout};
use super::link::Links;
use super::list;
use super::parts::{badge, count, mark, number, text, tone};
use crate::told::groups::Group;
use crate::told::picture::{FleetPicture, Query};
use crate::told::status;
use crate::told::viewer::NAMED;

pub(super) fn draw(picture: &FleetPicture, links: &Links) -> Markup {
    let troubled = picture.troubled.len();
    let layout = Layout::of_all(&picture.groups);
    let total = picture.counts.total();
    html! {
        h1.headline.(if troubled == 0 { "well" } else { "trouble" }) data-news="" { (headline(picture)) }
        ul.counts aria-label="Workspaces by verdict" {
            @for (word, count) in picture.counts.present() {
                li { a.(tone(word)) href=(links.word(word)) { (mark(word.label())) b { (number(count)) } " " (word.label()) } }
            }
            @if total > 0 { li.total { a href=(links.to("/workspaces")) { b { (number(total)) } @if picture.is_part { " so far" } @else { " in all" } } } }
        }
        @for (engine, storm) in storms(picture) {
            p.notice { (mark("suspect")) b { (text(engine)) } ": " (text(storm.trim_start_matches("; "))) }
        }
        @if troubled > 0 {
            section aria-labelledby="troubled" {
                h2 #troubled { "In trouble" }
                (list::table(picture, links, picture.troubled.iter().take(NAMED).copied()))
                @if troubled > NAMED {
                    p.more {
                        a href=(links.list(&Query { troubled: true, ..Query::default() }, None)) {
                            "All " (number(troubled as u64)) " in trouble"
                        }
                    }
                }
            }
        }
        @if total == 0 && !picture.is_part {
            p { "There are no workspaces: " code { "defib.fleet" } " is empty." }
        }
        section aria-labelledby="by-engine" {
            h2 #by-engine { "By engine" }
            @if layout.each() > 1 { p.aside { "A cell stands for " (layout.each()) " workspaces, and shows the most urgent of them." } }
            (tiles(picture, links, layout))
        }
    }
}

fn headline(picture: &FleetPicture) -> Markup {
    let total = picture.counts.total();
    match u32::try_from(picture.troubled.len()).unwrap_or(u32::MAX) {
        0 if picture.is_part => html! { "Nobody in trouble so far" },
        0 if total == 0 => html! { "No workspaces yet" },
        0 => html! { "Nobody is in trouble" },
        1 => {
            let first = picture.troubled.first().and_then(|place| picture.at_place(*place));
            html! {
                @if let Some(seen) = first {
                    a href="#troubled" { (text(seen.entry.id.as_str())) } " is " (badge(seen.word))
                }
            }
        }
        troubled => html! { (count(troubled, "workspace", "workspaces")) " in trouble" },
    }
}

/// The engines with a storm, and what is said of it.
fn storms(picture: &FleetPicture) -> Vec<(&str, String)> {
    let stormy = |group: &'_ Group| {
        let (_, word) = picture.voices.judge(&group.engine, group.engine.is_empty()).ok()?;
        Some(status::storm(word)).filter(|storm| !storm.is_empty())
    };
    picture.groups.iter().filter_map(|group| Some((group.engine.as_str(), stormy(group)?))).collect()
}

fn tiles(picture: &FleetPicture, links: &Links, layout: Layout) -> Markup {
    let size = match picture.groups.len() {
        0..=2 => "large",
        3..=12 => "middle",
        _ => "small",
    };
    html! {
        ul.tiles.(size) {
            @for group in &picture.groups {
                @let judge = picture.voices.judge(&group.engine, group.engine.is_empty());
                li.tile {
                    a href=(links.engine(&group.engine)) {
                        span.name { @if group.engine.is_empty() { "without an engine" } @else { (text(&group.engine)) } }
                        span.sum {
                            @if group.troubled > 0 { b.bad { (number(group.troubled)) " in trouble" } " of " }
                            (number(group.counts.total()))
                            @if group.counts.total() > 0 { span.hidden { ", " (grid::said(group)) } }
                        }
                        @match judge {
                            Err(why) => span.fault { (mark("not judged")) (text(&why)) },
                            Ok((_, word)) => @if let Some(fault) = &word.fault {
                                span.fault { (mark("unknown")) "gives no answer: " (text(fault)) }
                            }
                        }
                    }
                    @if !group.rows.is_empty() { (grid::field(group, picture, layout, None)) }
                }
            }
        }
    }
}
