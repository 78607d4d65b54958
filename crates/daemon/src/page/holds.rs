//! The holds: what must not be restarted now, who placed the hold, and for how long it stands.

use maud::{Markup, html};

use super::link::Links;
use super::parts::{count, text, when};
use crate::told::picture::FleetPicture;

pub(super) fn draw(picture: &FleetPicture, links: &Links) -> Markup {
    let holds = &picture.holds;
    html! {
        h1 { @if holds.is_empty() { "No holds" } @else { (count(holds.len() as u64, "hold", "holds")) } }
        @if holds.is_empty() {
            p.empty {
                "Nothing keeps defib from restarting the dead. "
                code { "defib hold --fleet --reason …" } " stops restarts for an upgrade; an engine or one workspace can be held too."
            }
        } @else {
            div.scroll.stack tabindex="0" role="region" aria-label="Holds" {
                table {
                    thead { tr {
                        th scope="col" { "On" } th scope="col" { "By" } th.wide scope="col" { "Why" }
                        th.num scope="col" { "Since" } th.num scope="col" { "Until" } th scope="col" { "Ended by" }
                    } }
                    tbody {
                        @for hold in holds {
                            @let (scope, target) = hold.scope.parts();
                            tr data-key=(hold.id) {
                                th scope="row" {
                                    @match (scope, target) {
                                        ("workspace", Some(id)) => { "workspace " a href=(links.workspace(id)) { (text(id)) } }
                                        (_, Some(name)) => { "engine " a href=(links.engine(name)) { (text(name)) } }
                                        _ => b { "the whole fleet" }
                                    }
                                }
                                td data-is="by" { (text(&hold.owner)) }
                                td.wide { (text(&hold.reason)) }
                                td.num data-is="since" { (when(hold.created_at, picture.at)) }
                                td.num data-is="until" { @match hold.expires_at { Some(at) => (when(at, picture.at)), None => "released" } }
                                td.command data-is="ended by" { code {
                                    "defib release "
                                    @match (scope, target) {
                                        ("workspace", Some(id)) => (text(id)),
                                        (_, Some(name)) => { "--engine " (text(name)) }
                                        _ => "--fleet"
                                    }
                                } }
                            }
                        }
                    }
                }
            }
        }
    }
}
