//! `/api/v1`: what the status page shows, as JSON. Read-only. `docs/openapi.yaml` describes every answer, and a test holds it against them.

mod events;
mod problem;
mod rows;

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use defib_policy::id::WorkspaceId;
use defib_store::FleetScope;
use serde::Deserialize;
use serde_json::{Value, json};

use self::problem::Problem;
use crate::streams::Streams;
use crate::told::explain;
use crate::told::names::{can_exist, unknown};
use crate::told::picture::{self, FleetPicture, Word};
use crate::told::standing::Voices;
use crate::told::viewer::Viewer;

/// How many workspaces or restarts an answer has, unless the request asks for another number.
const LIMIT: i64 = 100;
/// Workspaces or restarts in one answer, at most.
const LIMIT_MAX: i64 = 1_000;
/// Entries of each kind in the history of one workspace.
const TIMELINE: i64 = 50;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Open {
    pub(crate) viewer: Arc<Viewer>,
    pub(crate) streams: Streams,
}

/// The routes, to be put under `/api/v1`.
pub(crate) fn router(open: Open) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/workspaces", get(workspaces))
        .route("/workspaces/{id}", get(workspace))
        .route("/restarts", get(restarts))
        .route("/holds", get(holds))
        .route("/engines", get(engines))
        .route("/events", get(events::events))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "/api/v1 is read-only: ask with GET".to_owned())
        })
        .fallback(async || not_found())
        .with_state(open)
}

/// The answer to a request for something that is not here.
pub(crate) fn not_found() -> Response {
    let there = "there are status, workspaces, workspaces/{id}, restarts, holds, engines and events under /api/v1";
    Problem::new(StatusCode::NOT_FOUND, there.to_owned()).into_response()
}

/// The answer to a request that asks by a name that is not this server's.
pub(crate) fn misdirected(detail: String) -> Response {
    Problem::new(StatusCode::MISDIRECTED_REQUEST, detail).into_response()
}

/// An answer, or what is wrong.
type Answer = Result<Response, Problem>;

fn answer(body: Value) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

async fn status(State(open): State<Open>) -> Answer {
    let shot = open.viewer.look().await?;
    let picture = &shot.picture;
    Ok(answer(json!({
        "as_of": picture.at,
        "total": picture.counts.total(),
        "troubled": picture.troubled.len(),
        "counts": rows::counts(&picture.counts),
        "replicas": picture.voices.said.replicas.iter().map(|said| rows::replica(said, &picture.voices)).collect::<Vec<_>>(),
        "engines": picture.groups.iter().filter(|group| !group.engine.is_empty()).count(),
        "holds": picture.holds.len(),
    })))
}

/// The query of `workspaces`.
#[derive(Debug, Default, Deserialize)]
struct Wanted {
    verdict: Option<String>,
    engine: Option<String>,
    q: Option<String>,
    troubled: Option<bool>,
    after: Option<String>,
    limit: Option<i64>,
}

async fn workspaces(State(open): State<Open>, wanted: Result<Query<Wanted>, QueryRejection>) -> Answer {
    let Query(wanted) = wanted.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let shot = open.viewer.look().await?;
    let picture = &shot.picture;
    let query = picture::Query {
        text: wanted.q.unwrap_or_default(),
        word: wanted.verdict.as_deref().map(word).transpose()?,
        engine: wanted.engine.map(|engine| known_engine(picture, engine)).transpose()?,
        troubled: wanted.troubled.unwrap_or(false),
        after: wanted.after,
        limit: usize::try_from(limit(wanted.limit)?).unwrap_or_default(),
    };
    let page = picture.page(&query);
    let mut listed: Vec<_> = page.rows.iter().filter_map(|place| picture.status_row(*place)).collect();
    let ids: Vec<&str> = listed.iter().map(|row| row.id.as_str()).collect();
    let mut restarts = open.viewer.store().last_restarts(&ids).await?;
    for row in &mut listed {
        row.last_restart = restarts.remove(&row.id);
    }
    Ok(answer(json!({
        "as_of": picture.at,
        "total": page.total,
        "workspaces": listed.iter().map(|row| rows::workspace(row, picture)).collect::<Vec<_>>(),
        "next": page.next,
    })))
}

fn word(text: &str) -> Result<Word, Problem> {
    Word::from_slug(text).ok_or_else(|| {
        let words: Vec<String> = Word::all().map(Word::slug).collect();
        Problem::bad_request(format!(
            "{}; they are {}",
            unknown("verdict", text, words.iter().map(String::as_str)),
            words.join(", ")
        ))
    })
}

/// An engine that does not exist would otherwise look like one without workspaces.
fn known_engine(picture: &FleetPicture, engine: String) -> Result<String, Problem> {
    if picture.group(&engine).is_some() {
        return Ok(engine);
    }
    let names = picture.groups.iter().map(|group| group.engine.as_str());
    Err(Problem::bad_request(unknown("engine", &engine, names)))
}

fn limit(wanted: Option<i64>) -> Result<i64, Problem> {
    let limit = wanted.unwrap_or(LIMIT);
    if (1..=LIMIT_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::bad_request(format!("limit={limit} is not between 1 and {LIMIT_MAX}")))
}

async fn workspace(State(open): State<Open>, id: Result<Path<String>, PathRejection>) -> Answer {
    let Path(id) = id.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let workspace = WorkspaceId::from(id.as_str());
    let missing = || {
        let detail = "there is no workspace of that id in defib.fleet, and nothing is recorded about it".to_owned();
        Problem::new(StatusCode::NOT_FOUND, detail)
    };
    if !can_exist(&id) {
        return Err(missing());
    }
    let store = open.viewer.store();
    let explanation = store.explain(&workspace, TIMELINE).await?;
    if explanation.workspace.is_none() && explanation.timeline.is_empty() {
        return Err(missing());
    }
    let voices = Voices::read(store, FleetScope::Some(std::slice::from_ref(&workspace))).await?;
    Ok(answer(explain::as_json(&explanation, &voices)))
}

/// The query of `restarts`.
#[derive(Debug, Default, Deserialize)]
struct WantedRestarts {
    after: Option<i64>,
    limit: Option<i64>,
}

async fn restarts(State(open): State<Open>, wanted: Result<Query<WantedRestarts>, QueryRejection>) -> Answer {
    let Query(wanted) = wanted.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let limit = limit(wanted.limit)?;
    let store = open.viewer.store();
    let under_way = store.restarts_under_way(LIMIT_MAX).await?;
    let ended = store.restarts_ended(wanted.after, limit).await?;
    let is_full = i64::try_from(ended.len()).is_ok_and(|length| length == limit);
    Ok(answer(json!({
        "under_way": under_way.iter().map(rows::restart).collect::<Vec<_>>(),
        "ended": ended.iter().map(rows::restart).collect::<Vec<_>>(),
        "next": ended.last().filter(|_| is_full).map(|last| last.id),
    })))
}

async fn holds(State(open): State<Open>) -> Answer {
    let shot = open.viewer.look().await?;
    let holds: Vec<Value> = shot.picture.holds.iter().map(rows::hold).collect();
    Ok(answer(json!({ "as_of": shot.picture.at, "holds": holds })))
}

async fn engines(State(open): State<Open>) -> Answer {
    let shot = open.viewer.look().await?;
    let picture = &shot.picture;
    let engines: Vec<Value> = picture.groups.iter().map(|group| rows::engine(group, picture)).collect();
    Ok(answer(json!({ "as_of": picture.at, "engines": engines })))
}
