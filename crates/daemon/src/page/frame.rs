//! What surrounds every page: the head, the navigation, what a reader must know first, and the shapes that mark states.

use axum::response::Html;
use defib_policy::moment::Timestamp;
use maud::{DOCTYPE, Markup, html};

use super::link::Links;
use super::parts::{self, text, when};
use crate::told::picture::FleetPicture;
use crate::told::show;

/// The place that the navigation marks as the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Fleet,
    Workspace,
    Restarts,
    Holds,
    Engines,
    Nowhere,
}

/// One page.
pub(super) struct Frame<'a> {
    pub(super) links: &'a Links,
    pub(super) place: Place,
    pub(super) title: &'a str,
    /// The picture of the fleet that it was drawn from, if it was drawn from one.
    pub(super) picture: Option<&'a FleetPicture>,
    /// The moment that it shows.
    pub(super) at: Option<Timestamp>,
    /// Why the database gave no newer one.
    pub(super) fault: Option<&'a str>,
}

impl Frame<'_> {
    pub(super) fn around(&self, body: &Markup) -> Html<String> {
        let nav = [
            (Place::Fleet, "/", "Fleet"),
            (Place::Restarts, "/restarts", "Restarts"),
            (Place::Holds, "/holds", "Holds"),
            (Place::Engines, "/engines", "Engines"),
        ];
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (parts::cut(self.title, 80)) " · defib" }
                    link rel="icon" type="image/svg+xml" href=(self.links.to("/assets/icon.svg"));
                    link rel="stylesheet" href=(self.links.to("/assets/style.css"));
                    @if self.picture.is_some_and(|picture| picture.is_part) {
                        // The script is told when the whole picture is there. Without it the browser asks again.
                        noscript { meta http-equiv="refresh" content="2"; }
                    }
                    script src=(self.links.to("/assets/script.js")) defer
                        data-events=(self.links.to("/api/v1/events")) {}
                }
                body {
                    a.skip href="#main" { "Skip to the content" }
                    header.top {
                        a.brand href=(self.links.to("/")) { (parts::pulse()) "defib" }
                        nav aria-label="Places" {
                            @for (place, path, name) in nav {
                                a href=(self.links.to(path)) aria-current=[(place == self.place).then_some("page")] { (name) }
                            }
                        }
                        form.search role="search" action=(self.links.to("/workspaces")) {
                            label.hidden for="search" { "Find a workspace" }
                            input #search type="search" name="q" placeholder="Find a workspace" autocomplete="off" spellcheck="false";
                        }
                    }
                    (parts::shapes())
                    div #live data-live="" {
                        // In an element of their own, so that a notice that comes or goes moves nothing that a reader is typing in.
                        div { (self.notices()) }
                        main #main tabindex="-1" { (body) }
                        footer {
                            @if let Some(at) = self.at { span { "As of " (when(at, at)) } }
                            span #stream {}
                        }
                    }
                    p #news .hidden role="status" aria-live="polite" {}
                }
            }
        };
        Html(page.into_string())
    }

    /// What a reader must know first: that the picture is old, that nobody is judged, or that restarts are held.
    fn notices(&self) -> Markup {
        html! {
            @if let Some(fault) = self.fault {
                p.notice.bad {
                    (parts::mark("unknown")) b { "The database gives no answer." } " "
                    @if self.picture.is_some() { "What follows is the last that was read. " }
                    span.why { (text(fault)) }
                }
            }
            @if let Some(picture) = self.picture {
                @if picture.is_part {
                    p.notice {
                        (parts::mark("settling")) b { "The fleet is being read." }
                        " So far there are the workspaces that this daemon watches. Those that are suspended or not watched, and rows that \
                         break the contract, follow in a moment."
                    }
                }
                @if picture.voices.living().next().is_none() {
                    p.notice.bad {
                        (parts::mark("not judged")) b { "No defib is running." }
                        " Nobody is judged, and nobody is restarted."
                    }
                } @else if picture.voices.living().all(|replica| replica.mode.as_deref() == Some("observe")) {
                    p.notice { (parts::mark("frozen")) b { "Observed only." } " defib judges and records, and restarts nobody (" code { "DEFIB_MODE=observe" } ")." }
                }
                @for hold in picture.holds.iter().filter(|hold| hold.scope.parts().0 == "fleet") {
                    p.notice {
                        (parts::mark("frozen")) b { "Restarts are held on the whole fleet" }
                        " " (hold.expires_in.map_or_else(|| "until released".to_owned(), |left| format!("for {} more", show::age(left))))
                        " by " (text(&hold.owner)) ": " (text(&hold.reason))
                    }
                }
                @let (engines, workspaces) = (held(picture, "engine"), held(picture, "workspace"));
                @if engines + workspaces > 0 && self.place != Place::Holds {
                    p.notice {
                        (parts::mark("frozen")) b { "Restarts are held" } " on "
                        @if engines > 0 { (parts::count(engines, "engine", "engines")) }
                        @if engines > 0 && workspaces > 0 { " and " }
                        @if workspaces > 0 { (parts::count(workspaces, "workspace", "workspaces")) }
                        ": " a href=(self.links.to("/holds")) { "who, why and for how long" } "."
                    }
                }
            }
        }
    }
}

/// How many engines, or how many workspaces, have holds of their own.
fn held(picture: &FleetPicture, scope: &str) -> u64 {
    let targets = picture.holds.iter().map(|hold| hold.scope.parts()).filter(|(of, _)| *of == scope);
    targets.collect::<std::collections::BTreeSet<_>>().len() as u64
}
