//! The engine's side of the wire: hyper, so that a connection can end without an answer or in the middle of one.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::container::{ContainerState, time};
use super::fault::{Call, Fault};
use super::feed::Filters;
use super::versions::Versions;
use super::world::{CallRecord, Refusal, World};

type Body = UnsyncBoxBody<Bytes, anyhow::Error>;
type Shared = Arc<Mutex<World>>;

/// A bound socket of either kind.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A request, as far as it matters here.
#[derive(Debug)]
struct Question {
    call: Call,
    /// The container, as the caller named it.
    container: Option<String>,
    query: String,
    /// What its path names, such as `1.41`.
    version: Option<String>,
}

/// Serves until dropped; then the listener and all connections are gone.
pub(super) async fn serve(listener: Listener, world: Shared) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match &listener {
            Listener::Tcp(listener) => {
                if let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    connections.spawn(converse(stream, Arc::clone(&world)));
                }
            }
            Listener::Unix(listener) => {
                if let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(converse(stream, Arc::clone(&world)));
                }
            }
        }
    }
}

/// One connection. Its error is either the client's or one that a fault asked for.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, world: Shared) {
    let service = service_fn(move |request: Request<Incoming>| answer(request, Arc::clone(&world)));
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// An error closes the connection without an answer.
async fn answer(request: Request<Incoming>, world: Shared) -> anyhow::Result<Response<Body>> {
    let question = Question::read(&request);
    let fault = note(&world, &question);
    let speaks = lock(&world).speaks;
    if let Err(message) = speaks.accept(question.call, question.version.as_deref()) {
        return Ok(error(StatusCode::BAD_REQUEST, &message));
    }
    match fault {
        Some(Fault::Status(status, body)) => Ok(json_response(StatusCode::from_u16(status)?, body.into())),
        Some(Fault::Garbage(body)) => Ok(json_response(StatusCode::OK, body)),
        Some(Fault::Eof) => Err(anyhow!("scripted end")),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Delay(delay)) => {
            // A task of its own: hyper drops this future when the client leaves, and dockerd does not stop for that.
            let late = async move {
                sleep(delay).await;
                truth(&world, &question)
            };
            Ok(tokio::spawn(late).await?)
        }
        Some(Fault::DoneThenEof) => {
            truth(&world, &question);
            Err(anyhow!("scripted end"))
        }
        Some(Fault::DoneThenHang) => {
            truth(&world, &question);
            std::future::pending().await
        }
        Some(Fault::DoneThenExit(delay, exit_code)) => {
            let answer = truth(&world, &question);
            tokio::spawn(exit_later(world, question.container.unwrap_or_default(), delay, exit_code));
            Ok(answer)
        }
        Some(Fault::EofThenDone(delay)) => {
            tokio::spawn(async move {
                sleep(delay).await;
                truth(&world, &question);
            });
            Err(anyhow!("scripted end"))
        }
        Some(Fault::Truncated) => half_of(truth(&world, &question), AfterHalf::End).await,
        Some(Fault::Stalled) => half_of(truth(&world, &question), AfterHalf::Silence).await,
        Some(Fault::FalselyStopped) if question.call == Call::Inspect => Ok(falsely_stopped(&world, &question)),
        Some(Fault::FalselyMissing) if question.call == Call::Inspect => {
            Ok(missing(question.container.as_deref().unwrap_or_default()))
        }
        Some(Fault::FalselyStopped | Fault::FalselyMissing) | None => Ok(truth(&world, &question)),
    }
}

/// Ends the life that a container lives now, later.
async fn exit_later(world: Shared, container: String, delay: Duration, exit_code: i64) {
    let life = |world: &Shared| lock(world).find(&container).and_then(|container| container.started_at);
    let begun = life(&world);
    sleep(delay).await;
    if begun == life(&world) {
        lock(&world).set_state(&container, ContainerState::Exited { exit_code, oom: false });
    }
}

impl Question {
    fn read(request: &Request<Incoming>) -> Self {
        let path = request.uri().path();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let named = segments[0].strip_prefix('v').filter(|rest| rest.starts_with('1'));
        let segments = if named.is_some() { &segments[1..] } else { &segments[..] };
        let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
        let (call, container) = match segments {
            ["_ping"] => (Call::Ping, None),
            ["version"] => (Call::Version, None),
            ["info"] => (Call::Info, None),
            ["events"] => (Call::Events, None),
            ["containers", "json"] => (Call::List, None),
            ["containers", id, "json"] if is_get => (Call::Inspect, Some(*id)),
            ["containers", id, "logs"] if is_get => (Call::Logs, Some(*id)),
            ["containers", id, "restart"] if !is_get => (Call::Restart, Some(*id)),
            ["containers", id, "start"] if !is_get => (Call::Start, Some(*id)),
            ["containers", id, "stop"] if !is_get => (Call::Stop, Some(*id)),
            ["containers", id, "kill"] if !is_get => (Call::Kill, Some(*id)),
            _ => (Call::Other, None),
        };
        let container = container.map(percent_decoded);
        let version = named.map(str::to_owned);
        Self { call, container, query: request.uri().query().unwrap_or_default().to_owned(), version }
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = form_urlencoded::parse(self.query.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// Docker accepts `{"label":["a"]}` and, from old clients, `{"label":{"a":true}}`.
    fn filters(&self) -> Filters {
        let text = self.parameter("filters").unwrap_or_default();
        let Ok(Value::Object(filters)) = serde_json::from_str(&text) else { return Filters::new() };
        let words = |value: Value| match value {
            Value::Array(items) => items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect(),
            Value::Object(items) => items.into_iter().map(|(key, _)| key).collect(),
            _ => Vec::new(),
        };
        filters.into_iter().map(|(key, value)| (key, words(value))).collect()
    }
}

/// Records the call and takes its fault from the script.
fn note(world: &Shared, question: &Question) -> Option<Fault> {
    let mut world = lock(world);
    let asked_for = question.container.as_deref();
    let found = asked_for.and_then(|name| world.find(name)).cloned();
    let id = found.as_ref().map_or(question.container.clone(), |container| Some(container.id.clone()));
    world.calls.push(CallRecord {
        at: Instant::now(),
        call: question.call,
        container: id,
        query: question.query.clone(),
        version: question.version.clone(),
    });
    let known_as = found.iter().flat_map(|container| std::iter::once(&container.id).chain(&container.names));
    let names: Vec<&str> = known_as.map(String::as_str).chain(asked_for).collect();
    world.faults.take(question.call, &names)
}

/// What an engine without faults does and says.
fn truth(world: &Shared, question: &Question) -> Response<Body> {
    let mut world = lock(world);
    let container = question.container.as_deref().unwrap_or_default();
    match question.call {
        Call::Ping => {
            let mut response = plain_response(StatusCode::OK, Bytes::from_static(b"OK"));
            if let Ok(newest) = world.speaks.newest().parse() {
                response.headers_mut().insert("Api-Version", newest);
            }
            response
        }
        Call::Version => json_response(StatusCode::OK, version(world.speaks).to_string().into()),
        Call::Info => json_response(StatusCode::OK, info(&world).to_string().into()),
        Call::List => {
            let all = question.parameter("all").is_some_and(|all| all == "true" || all == "1");
            let filters = question.filters();
            if let Some(word) = world.unknown_state(&filters) {
                return error(StatusCode::BAD_REQUEST, &format!("Invalid filter 'status={word}'"));
            }
            let lies = world.faults.take_list_lies();
            json_response(StatusCode::OK, world.list(all, &filters, &question.query, &lies))
        }
        Call::Inspect => match world.find(container) {
            Some(found) => json_response(StatusCode::OK, found.details().to_string().into()),
            None => missing(container),
        },
        Call::Logs => match world.find(container) {
            Some(found) => {
                let lines = question.parameter("tail").and_then(|tail| tail.parse().ok()).unwrap_or(usize::MAX);
                plain_response(StatusCode::OK, found.log_frames(lines).into())
            }
            None => missing(container),
        },
        Call::Restart | Call::Start | Call::Stop | Call::Kill => match world.carry_out(question.call, container) {
            Ok(()) => plain_response(StatusCode::NO_CONTENT, Bytes::new()),
            Err(Refusal::Missing) => missing(container),
            Err(Refusal::AlreadySo) => plain_response(StatusCode::NOT_MODIFIED, Bytes::new()),
            Err(Refusal::Conflict(message)) => error(StatusCode::CONFLICT, &message),
        },
        Call::Events => events(&mut world, question),
        Call::Other => error(StatusCode::NOT_FOUND, "page not found"),
    }
}

fn events(world: &mut World, question: &Question) -> Response<Body> {
    if world.feed.is_refused() {
        return error(StatusCode::SERVICE_UNAVAILABLE, "scripted: no events");
    }
    let since = question.parameter("since").and_then(|since| since.parse().ok());
    let has_end = question.parameter("until").is_some_and(|until| !until.is_empty());
    let receiver = world.feed.listen(question.filters(), since, has_end);
    let frames = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|line| (Ok::<_, anyhow::Error>(Frame::data(line)), receiver))
    });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)));
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}

fn falsely_stopped(world: &Shared, question: &Question) -> Response<Body> {
    let world = lock(world);
    let container = question.container.as_deref().unwrap_or_default();
    match world.find(container) {
        Some(found) => json_response(StatusCode::OK, found.falsely_stopped(world.now()).details().to_string().into()),
        None => missing(container),
    }
}

/// What follows after half of an answer was sent.
#[derive(Clone, Copy)]
enum AfterHalf {
    /// The end of the connection.
    End,
    /// Nothing, on a connection that stays open.
    Silence,
}

/// The head of the answer with its true length, half of the body, then an error, which closes the connection, or nothing.
async fn half_of(response: Response<Body>, then: AfterHalf) -> anyhow::Result<Response<Body>> {
    let (mut parts, body) = response.into_parts();
    if !parts.headers.contains_key(CONTENT_LENGTH) {
        return Err(anyhow!("scripted end")); // an event stream or an empty answer: there is no middle
    }
    let whole = body.collect().await?.to_bytes();
    parts.headers.insert(CONTENT_LENGTH, whole.len().into());
    // The pause gives the first half its way to the client: an error at once would take it along.
    let half = whole.slice(..whole.len() / 2);
    let frames = stream::unfold(Some(half), move |half| async move {
        let Some(half) = half else {
            tokio::task::yield_now().await;
            sleep(std::time::Duration::from_millis(5)).await;
            if matches!(then, AfterHalf::Silence) {
                std::future::pending::<()>().await;
            }
            return Some((Err(anyhow!("scripted end")), None));
        };
        Some((Ok(Frame::data(half)), None))
    });
    Ok(Response::from_parts(parts, BodyExt::boxed_unsync(StreamBody::new(frames))))
}

fn version(speaks: Versions) -> Value {
    json!({
        "Version": "20.10.24",
        "ApiVersion": speaks.newest(),
        "MinAPIVersion": speaks.oldest(),
        "Os": "linux",
        "Arch": "amd64",
    })
}

fn info(world: &World) -> Value {
    json!({
        "ID": world.identity,
        "Name": "scripted",
        "Containers": world.len(),
        "ContainersRunning": world.count(&ContainerState::Running),
        "ContainersPaused": world.count(&ContainerState::Paused),
        "SystemTime": time(Some(world.now())),
        "ServerVersion": "20.10.24",
        "OperatingSystem": "scripted",
    })
}

fn missing(container: &str) -> Response<Body> {
    error(StatusCode::NOT_FOUND, &format!("No such container: {container}"))
}

fn error(status: StatusCode, message: &str) -> Response<Body> {
    json_response(status, json!({ "message": message }).to_string().into())
}

fn json_response(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = plain_response(status, body);
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}

fn plain_response(status: StatusCode, body: Bytes) -> Response<Body> {
    let length = body.len();
    let whole = Full::new(body).map_err(|never: Infallible| match never {});
    let mut response = Response::new(BodyExt::boxed_unsync(whole));
    *response.status_mut() = status;
    if length > 0 {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response
}

/// Container names have no characters that need it, but a client may encode what it likes.
fn percent_decoded(segment: &str) -> String {
    form_urlencoded::parse(segment.replace('+', "%2B").as_bytes())
        .map(|(key, _)| key.into_owned())
        .next()
        .unwrap_or_default()
}

pub(super) fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}
