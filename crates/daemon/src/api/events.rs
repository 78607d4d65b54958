//! `/api/v1/events`: an event for each new picture of the fleet, as server-sent events.
//!
//! A reader that was away needs no history. The first event of each connection gives the present state, and the difference from what the
//! reader has shows what it missed. So a reconnect, to this replica or to another one, loses nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use defib_policy::moment::Timestamp;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::problem::Problem;
use super::{Open, rows};
use crate::streams::Lasting;
use crate::told::picture::Word;
use crate::told::viewer::{Shot, Unread, Viewer};

/// How often a comment is sent on a quiet stream. It keeps proxies from closing the stream, and sending it fails when the reader is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long a browser waits before it connects again after a break.
const RETRY: Duration = Duration::from_secs(2);

pub(super) async fn events(State(open): State<Open>, Extension(lasting): Extension<Lasting>) -> Response {
    let Some(place) = open.streams.place() else {
        let detail = "no more event streams may be opened here: close one, or ask for /api/v1/status instead";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail.to_owned()).into_response();
    };
    lasting.mark();
    let shots = open.viewer.shots();
    let feed = Feed { viewer: open.viewer, shots, told: None, is_unread: false, is_first: true, _place: place };
    let events = stream::unfold(feed, async |mut feed| {
        let event = feed.next().await;
        Some((Ok::<_, Infallible>(event), feed))
    });
    let events = events.take_until(Box::pin(open.streams.stopped()));
    Sse::new(events.boxed()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// What one reader has been told.
struct Feed {
    viewer: Arc<Viewer>,
    shots: watch::Receiver<Option<Arc<Shot>>>,
    /// The picture that it was told of last.
    told: Option<Timestamp>,
    /// Whether it was told that the fleet cannot be read.
    is_unread: bool,
    is_first: bool,
    _place: OwnedSemaphorePermit,
}

impl Feed {
    /// Waits for the next event. Pictures of the fleet are made only while somebody waits here or looks at a page.
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.news() {
                return event;
            }
            let looked = self.viewer.look().await;
            if let Some(event) = self.news() {
                return event;
            }
            if let Err(Unread { why, .. }) = looked
                && !self.is_unread
            {
                self.is_unread = true;
                return self.event("unread", &json!({ "because": why }));
            }
            tokio::select! {
                changed = self.shots.changed() => if changed.is_err() { std::future::pending::<()>().await },
                () = tokio::time::sleep(self.viewer.every()) => {}
            }
        }
    }

    /// A picture that the reader was not told of yet.
    fn news(&mut self) -> Option<Event> {
        let shot = self.shots.borrow_and_update().clone()?;
        // Only the same moment is the same picture: after a fail-over the database's clock may be behind the one before.
        if self.told == Some(shot.picture.at) {
            return None;
        }
        // Changes are relative to the picture before, so a reader that has not seen that picture gets none.
        let changes = if self.told.is_some() { changes(&shot) } else { Vec::new() };
        self.told = Some(shot.picture.at);
        self.is_unread = false;
        let body = json!({
            "as_of": shot.picture.at,
            "total": shot.picture.counts.total(),
            "troubled": shot.picture.troubled.len(),
            "counts": rows::counts(&shot.picture.counts),
            "changes": changes,
            "more_changes": shot.more_changes,
        });
        Some(self.event("fleet", &body).id(shot.picture.at.to_string()))
    }

    fn event(&mut self, name: &str, body: &Value) -> Event {
        let event = Event::default().event(name).data(body.to_string());
        if std::mem::take(&mut self.is_first) { event.retry(RETRY) } else { event }
    }
}

fn changes(shot: &Shot) -> Vec<Value> {
    let change = |change: &crate::told::picture::Change| {
        json!({
            "workspace_id": change.id,
            "engine": (!change.engine.is_empty()).then_some(&change.engine),
            "from": change.from.map(Word::label),
            "to": change.to.map(Word::label),
        })
    };
    shot.changes.iter().map(change).collect()
}
