//! The status page: the fleet for people with a browser, read-only, drawn by the server from what [`crate::told`] says.
//!
//! The places are the fleet, workspaces, restarts, holds and engines. Each is complete without script, because search, filters and paging
//! are links and GET forms. One small script replaces what has changed when the server announces a new picture. Nothing is loaded from
//! other servers, and all text from outside is escaped.

mod engines;
mod fleet;
mod frame;
mod grid;
mod holds;
mod link;
mod list;
mod parts;
mod restarts;
mod story;
mod timeline;
mod workspace;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use defib_policy::id::WorkspaceId;
use defib_store::{FleetScope, StoreError};
use maud::{Markup, html};
use serde::Deserialize;

use self::frame::{Frame, Place};
use self::link::Links;
use crate::api;
use crate::logging::database_fault;
use crate::told::names::can_exist;
use crate::told::picture;
use crate::told::picture::{FleetPicture, Word};
use crate::told::standing::Voices;
use crate::told::viewer::{Shot, Unread, Viewer};

/// Workspaces on one page of a list.
const ROWS: usize = 100;
/// Restarts on one page.
const RESTARTS: i64 = 50;
/// Restarts under way that are shown.
const UNDER_WAY: i64 = 200;
/// Entries of each kind in a workspace's history.
const TIMELINE: i64 = 50;

/// The page may use only its own script, styles and images, may not be framed, and its forms may not lead to other servers.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; \
                                       frame-ancestors 'none'";

type Seen = State<Arc<Viewer>>;

/// The routes of the page, and the answer for addresses that do not exist.
pub(crate) fn router(viewer: Arc<Viewer>) -> Router {
    let asset = |kind: &'static str, body: &'static str| {
        get(async move || {
            let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=300")];
            (headers, body).into_response()
        })
    };
    Router::new()
        .route("/", get(fleet))
        .route("/workspaces", get(workspaces))
        .route("/workspaces/{id}", get(workspace))
        .route("/restarts", get(restarts))
        .route("/holds", get(holds))
        .route("/engines", get(engines))
        .route("/engines/{name}", get(engine))
        .route("/assets/style.css", asset("text/css; charset=utf-8", include_str!("assets/style.css")))
        .route("/assets/script.js", asset("text/javascript; charset=utf-8", include_str!("assets/script.js")))
        .route("/assets/icon.svg", asset("image/svg+xml", include_str!("assets/icon.svg")))
        .fallback(not_found)
        .layer(middleware::from_fn(guard))
        .with_state(viewer)
}

/// The headers that keep a browser from doing more with the page than showing it.
async fn guard(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// A page of the present picture. While the fleet cannot be read, the page shows the last picture and says so; if there is no picture yet,
/// it says only that.
async fn of_picture(
    viewer: &Arc<Viewer>,
    headers: &HeaderMap,
    place: Place,
    title: &str,
    draw: impl FnOnce(&FleetPicture, &Links) -> Markup,
) -> Response {
    of_shot(viewer.look().await, headers, place, title, draw)
}

fn of_shot(
    looked: Result<Arc<Shot>, Unread>,
    headers: &HeaderMap,
    place: Place,
    title: &str,
    draw: impl FnOnce(&FleetPicture, &Links) -> Markup,
) -> Response {
    let links = Links::of(headers);
    let (shot, fault): (Option<Arc<Shot>>, Option<String>) = match looked {
        Ok(shot) => (Some(shot), None),
        Err(Unread { why, last }) => (last, Some(why)),
    };
    let Some(shot) = shot else { return unavailable(&links, place, &fault.unwrap_or_default()) };
    let picture = &shot.picture;
    let frame =
        Frame { links: &links, place, title, picture: Some(picture), at: Some(picture.at), fault: fault.as_deref() };
    let status = if fault.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, frame.around(&draw(picture, &links))).into_response()
}

fn unavailable(links: &Links, place: Place, why: &str) -> Response {
    let frame = Frame { links, place, title: "The fleet cannot be read", picture: None, at: None, fault: Some(why) };
    let body = html! { h1 { "The fleet cannot be read" } };
    (StatusCode::SERVICE_UNAVAILABLE, frame.around(&body)).into_response()
}

async fn fleet(State(viewer): Seen, headers: HeaderMap) -> Response {
    of_shot(viewer.glance().await, &headers, Place::Fleet, "Fleet", fleet::draw)
}

async fn engines(State(viewer): Seen, headers: HeaderMap) -> Response {
    of_picture(&viewer, &headers, Place::Engines, "Engines", engines::draw).await
}

async fn holds(State(viewer): Seen, headers: HeaderMap) -> Response {
    of_picture(&viewer, &headers, Place::Holds, "Holds", holds::draw).await
}

/// The query of the list of workspaces. Values that make no sense are ignored, because forms send empty fields.
#[derive(Debug, Default, Deserialize)]
struct Wanted {
    #[serde(default)]
    q: String,
    #[serde(default)]
    verdict: String,
    engine: Option<String>,
    #[serde(default)]
    troubled: String,
    after: Option<String>,
}

impl Wanted {
    fn query(&self) -> picture::Query {
        picture::Query {
            text: self.q.clone(),
            word: Word::from_slug(&self.verdict),
            // A form sends an empty field for "any engine". The workspaces on no engine have the name `-` in addresses.
            engine: match self.engine.as_deref() {
                None | Some("") => None,
                Some(link::NO_ENGINE) => Some(String::new()),
                Some(name) => Some(name.to_owned()),
            },
            troubled: !self.troubled.is_empty(),
            after: self.after.clone(),
            limit: ROWS,
        }
    }
}

async fn workspaces(State(viewer): Seen, headers: HeaderMap, Query(wanted): Query<Wanted>) -> Response {
    let query = wanted.query();
    of_picture(&viewer, &headers, Place::Fleet, "Workspaces", |picture, links| list::draw(picture, links, &query)).await
}

async fn engine(State(viewer): Seen, headers: HeaderMap, Path(name): Path<String>) -> Response {
    let links = Links::of(&headers);
    let name = if name == link::NO_ENGINE { String::new() } else { name };
    if let Ok(shot) = viewer.look().await
        && shot.picture.group(&name).is_none()
    {
        return missing(
            &links,
            "No such engine",
            "No replica is configured for an engine of that name, and no workspace is on it.",
        );
    }
    let title = if name.is_empty() { "Without an engine".to_owned() } else { format!("Engine {name}") };
    of_picture(&viewer, &headers, Place::Engines, &title, |picture, links| engines::draw_one(picture, links, &name))
        .await
}

/// Which part of the ledger to show.
#[derive(Debug, Default, Deserialize)]
struct WantedRestarts {
    before: Option<String>,
}

async fn restarts(State(viewer): Seen, headers: HeaderMap, Query(wanted): Query<WantedRestarts>) -> Response {
    let before = wanted.before.and_then(|before| before.parse().ok());
    let store = viewer.store();
    let read = async {
        let under_way = store.restarts_under_way(UNDER_WAY).await?;
        Ok::<_, StoreError>((under_way, store.restarts_ended(before, RESTARTS).await?))
    };
    match read.await {
        Ok((under_way, ended)) => {
            let draw =
                |picture: &FleetPicture, links: &Links| restarts::draw(picture, links, &under_way, &ended, before);
            of_picture(&viewer, &headers, Place::Restarts, "Restarts", draw).await
        }
        Err(error) => unavailable(&Links::of(&headers), Place::Restarts, &database_fault(&error)),
    }
}

async fn workspace(State(viewer): Seen, headers: HeaderMap, Path(id): Path<String>) -> Response {
    let links = Links::of(&headers);
    let nobody = || missing(&links, "No such workspace", "It is not in defib.fleet, and nothing is recorded about it.");
    if !can_exist(&id) {
        return nobody();
    }
    let workspace = WorkspaceId::from(id.as_str());
    let store = viewer.store();
    let read = async {
        let explanation = store.explain(&workspace, TIMELINE).await?;
        Ok::<_, StoreError>((
            explanation,
            Voices::read(store, FleetScope::Some(std::slice::from_ref(&workspace))).await?,
        ))
    };
    let (explanation, voices) = match read.await {
        Ok(read) => read,
        Err(error) => return unavailable(&links, Place::Workspace, &database_fault(&error)),
    };
    if explanation.workspace.is_none() && explanation.timeline.is_empty() {
        return nobody();
    }
    let frame = Frame {
        links: &links,
        place: Place::Workspace,
        title: &id,
        picture: None,
        at: Some(explanation.now),
        fault: None,
    };
    frame.around(&workspace::draw(&id, &explanation, &voices, &links)).into_response()
}

/// A program that asks for a version of the API that is not here is answered in the form that it reads.
async fn not_found(uri: Uri, headers: HeaderMap) -> Response {
    if uri.path() == "/api" || uri.path().starts_with("/api/") {
        return api::not_found();
    }
    missing(
        &Links::of(&headers),
        "There is nothing here",
        "The navigation above leads to the places of the page; /metrics, /healthz, /readyz and /api/v1 are beside it.",
    )
}

fn missing(links: &Links, title: &str, why: &str) -> Response {
    let frame = Frame { links, place: Place::Nowhere, title, picture: None, at: None, fault: None };
    (StatusCode::NOT_FOUND, frame.around(&html! { h1 { (title) } p { (why) } })).into_response()
}
