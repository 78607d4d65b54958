//! The list of engines (who owns each, whether it answers, its storm), and the page of one engine with its workspaces.

use defib_policy::moment::Timestamp;
use maud::{Markup, html};

use super::grid::{self, Layout};
use super::link::Links;
use super::list;
use super::parts::{ago, count, mark, number, text, tone};
use crate::logging::printable;
use crate::told::groups::Group;
use crate::told::picture::{FleetPicture, Query};
use crate::told::show;
use crate::told::status;

/// How many workspaces in trouble are named for one engine.
const NAMED: usize = 50;

pub(super) fn draw(picture: &FleetPicture, links: &Links) -> Markup {
    let engines = picture.groups.iter().filter(|group| !group.engine.is_empty()).count();
    html! {
        h1 { (count(engines as u64, "engine", "engines")) }
        (replicas(picture))
        div.scroll.stack tabindex="0" role="region" aria-label="Engines" {
            table {
                thead { tr {
                    th scope="col" { "Engine" } th scope="col" { "Answers" } th scope="col" { "Owner" } th.num scope="col" { "Last pass" }
                    th.num scope="col" { "Workspaces" } th.num scope="col" { "In trouble" } th.wide scope="col" { "Now" }
                } }
                tbody {
                    @for group in &picture.groups {
                        tr data-key=(printable(&group.engine)) {
                            th scope="row" { a href=(links.engine(&group.engine)) { (name(group)) } }
                            (judged(group, picture))
                            td.num data-is="workspaces" { (number(group.counts.total())) }
                            td.num data-is="in trouble" { @if group.troubled > 0 { b.bad { (number(group.troubled)) } } @else { span.none { "0" } } }
                            td.wide { (now(group, picture)) }
                        }
                    }
                }
            }
        }
    }
}

fn name(group: &Group) -> Markup {
    html! { @if group.engine.is_empty() { "without an engine" } @else { (text(&group.engine)) } }
}

fn judged(group: &Group, picture: &FleetPicture) -> Markup {
    let lease = picture.voices.said.leases.iter().find(|lease| lease.engine.as_str() == group.engine);
    html! {
        @match picture.voices.judge(&group.engine, group.engine.is_empty()) {
            Err(why) => {
                td colspan="3" { span.state.doubt { (mark("not judged")) "not judged" } " " (text(&why)) }
            }
            Ok((by, word)) => {
                td {
                    @if let Some(fault) = &word.fault { span.state.doubt { (mark("unknown")) "no answer" } " " (text(fault)) }
                    @else { span.state.well { (mark("alive")) "answers" } }
                }
                td.owner data-is="owner" { (text(&by.name)) @if let Some(lease) = lease { " " span.aside { "epoch " (lease.epoch) } } }
                td.num data-is="last pass" { (ago(word.last_pass_ago, picture.at)) }
            }
        }
    }
}

/// A storm, and what it holds back, in sentences.
fn now(group: &Group, picture: &FleetPicture) -> Markup {
    let word = picture.voices.judge(&group.engine, group.engine.is_empty()).ok().map(|(_, word)| word);
    let storm = word.map(status::storm).filter(|storm| !storm.is_empty());
    let holds: Vec<_> = picture.holds_on_engine(&group.engine).collect();
    html! {
        @if let Some(storm) = storm { (mark("suspect")) " " (text(storm.trim_start_matches("; "))) ". " }
        @for hold in holds {
            span.held { "held" } " by " (text(&hold.owner)) ": " (text(&hold.reason)) " "
        }
    }
}

fn replicas(picture: &FleetPicture) -> Markup {
    html! {
        ul.replicas aria-label="Replicas" {
            @for replica in &picture.voices.said.replicas {
                li {
                    @if let Some(gone) = replica.gone_for {
                        span.state.doubt { (mark("lost")) "gone" } " " b { (text(&replica.name)) }
                        " was not heard of for " (show::age(gone)) "; it was killed, or cannot reach the database"
                    } @else {
                        span.state.well { (mark("alive")) (replica.mode.as_deref().map_or("starts", |mode| if mode == "observe" { "observes" } else { "enforces" })) }
                        " " b { (text(&replica.name)) }
                        @if let Some(version) = &replica.version { " defib " (text(version)) }
                        @if let Some(pass) = replica.last_pass_ago { ", last pass " (ago(pass, picture.at)) }
                        @if replica.heartbeats_usable == Some(false) {
                            ", " span.state.doubt { (mark("suspect")) "takes no stale heartbeat as evidence now" }
                        }
                    }
                }
            }
        }
    }
}

/// One engine, workspace by workspace.
pub(super) fn draw_one(picture: &FleetPicture, links: &Links, engine: &str) -> Markup {
    let Some(group) = picture.group(engine) else { return html! { h1 { "No such engine" } } };
    // The picture lists the workspaces in trouble with the most urgent first, and this engine's keep that order.
    let is_here = |place: &u32| group.rows.binary_search(place).is_ok();
    let troubled = picture.troubled.iter().copied().filter(is_here);
    let of_it = Query { engine: Some(engine.to_owned()), ..Query::default() };
    let all = count(group.counts.total(), "workspace", "workspaces");
    html! {
        p.trail { a href=(links.to("/engines")) { "Engines" } }
        h1 { (name(group)) }
        (facts(group, picture, picture.at))
        ul.counts aria-label="Workspaces by verdict" {
            @for (word, count) in group.counts.present() {
                li { a.(tone(word)) href=(links.list(&Query { word: Some(word), ..of_it.clone() }, None)) { (mark(word.label())) b { (number(count)) } " " (word.label()) } }
            }
        }
        @if !group.rows.is_empty() {
            section aria-labelledby="all" {
                h2 #all { a href=(links.list(&of_it, None)) { (all) } }
                (grid::field(group, picture, Layout::of_one(group), Some(links)))
            }
        }
        @if group.troubled > 0 {
            section aria-labelledby="troubled" {
                h2 #troubled { "In trouble" }
                (list::table(picture, links, troubled.take(NAMED)))
                @if group.troubled as usize > NAMED {
                    p.more { a href=(links.list(&Query { troubled: true, ..of_it.clone() }, None)) { "All " (number(group.troubled)) " in trouble" } }
                }
            }
        }
    }
}

fn facts(group: &Group, picture: &FleetPicture, at: Timestamp) -> Markup {
    let lease = picture.voices.said.leases.iter().find(|lease| lease.engine.as_str() == group.engine);
    html! {
        p.lead {
            @match picture.voices.judge(&group.engine, group.engine.is_empty()) {
                Err(why) => { span.state.doubt { (mark("not judged")) "not judged" } " " (text(&why)) }
                Ok((by, word)) => {
                    @if let Some(fault) = &word.fault {
                        span.state.doubt { (mark("unknown")) "gives no answer" } " (" (text(fault)) "), so its workspaces are unknown. "
                        "Owned by "
                    } @else if group.engine.is_empty() { "Owned by " }
                    @else { span.state.well { (mark("alive")) "answers" } ", owned by " }
                    (text(&by.name)) @if let Some(lease) = lease { " (epoch " (lease.epoch) ")" } ", " (number(word.judged.unsigned_abs())) " judged " (ago(word.last_pass_ago, at)) ". "
                }
            }
            (now(group, picture))
        }
    }
}
