//! Listening to an engine, so that a death is looked at in milliseconds instead of at the next poll.
//!
//! [`event`](crate::event) says what an event means. Here no more of them are lost than cannot be avoided.
//!
//! Three gaps, and what closes them:
//!
//! ```text
//! ── stream breaks ──── hello ──── subscribe ────►   events in between: the subscription starts at the engine's clock of
//!                                                    the hello, and the engine replays from there
//! ── the queue is full ────────────────────────►     Lagged, as soon as there is room again
//! ── the peer vanished, the stream stays open ─►     a failed look at the engine makes the listener subscribe anew, and so does
//!                                                    an engine whose containers start and stop without an event (`ear`)
//! ```

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as BollardError;
use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptions, EventsOptionsBuilder};
use defib_policy::id::EngineName;
use defib_policy::moment::Timestamp;
use defib_policy::sample::Fault;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ear::{About, Subscription};
use super::{DockerEngine, facts, fault};
use crate::event::{Action, ContainerEvent, EngineEvent};

/// The first wait before another try; doubles up to [`BACKOFF_MAX`]. An engine that restarts is back in a second or two.
const BACKOFF_INITIAL: Duration = Duration::from_millis(100);

/// The longest wait. Larger: events are missed for longer after an outage. Smaller: more noise about a dead engine.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A stream that held this long was a good one: the next try comes at once.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// After a broken stream, a hello that takes longer than this was answered by an engine that had to be started first
/// (socket activation). A hello takes about 2 ms; an engine's start, half a second and more.
const PROMPT: Duration = Duration::from_millis(250);

/// A stream that has neither failed nor delivered anything for this long is taken to be open, because an engine does not say that it is. An
/// engine that refuses a stream does so within a millisecond or two. Larger: the daemon looks later at what it has missed.
const OPEN_AFTER: Duration = Duration::from_millis(50);

/// Some engines send no head before the first event, and the client library counts that as no answer.
const QUIET_MAX: Duration = Duration::from_secs(3_600);

impl DockerEngine {
    /// Listens until it is stopped, and connects anew for as long as that takes. Never waits for the receiver; ends early
    /// only when that is gone.
    pub(super) async fn watch(&self, events: mpsc::Sender<EngineEvent>, stop: CancellationToken) {
        let mut outbox = Outbox { engine: self.name().clone(), events, dropped: false, listening: None };
        let watching = async {
            let mut backoff = BACKOFF_INITIAL;
            while !outbox.events.is_closed() {
                let begun = Instant::now();
                if let Some(fault) = self.listen(&mut outbox).await {
                    outbox.say_disconnected(fault);
                    if begun.elapsed() >= STEADY_AFTER {
                        backoff = BACKOFF_INITIAL;
                    } else {
                        tokio::time::sleep(jittered(backoff)).await;
                        backoff = (backoff * 2).min(BACKOFF_MAX);
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = watching => {}
        }
    }

    /// One subscription, from hello to end. `None` when it ended for no fault of the engine.
    async fn listen(&self, outbox: &mut Outbox) -> Option<Fault> {
        // Registered before anything is asked, so that a look that fails meanwhile counts.
        let suspected = self.suspected();
        tokio::pin!(suspected);
        suspected.as_mut().enable();
        let deaf = self.deaf();
        tokio::pin!(deaf);
        deaf.as_mut().enable();

        let asked_at = Instant::now();
        let client = match self.hello_anew().await {
            Ok(client) => client,
            Err(fault) => {
                self.note_outage();
                return Some(fault);
            }
        };
        if outbox.listening == Some(false) && asked_at.elapsed() > PROMPT {
            self.note_outage();
        }
        let mut stream = client.with_timeout(QUIET_MAX).events(Some(self.subscription()));
        let open = tokio::time::sleep(OPEN_AFTER);
        tokio::pin!(open);
        let mut subscription = Subscription::new(self);

        loop {
            let message = tokio::select! {
                () = &mut open, if !subscription.is_open() => {
                    subscription.opened();
                    outbox.say_connected();
                    continue;
                }
                () = &mut suspected => return Some(Fault::Unreachable),
                () = &mut deaf => return None,
                () = outbox.catch_up(), if outbox.dropped => continue,
                message = stream.next() => message,
            };
            match message {
                Some(Ok(message)) => {
                    subscription.opened();
                    self.hear(&message);
                    outbox.say_connected();
                    if let Some(event) = self.container_event(&message) {
                        outbox.post(EngineEvent::Container(event));
                    }
                }
                Some(Err(BollardError::RequestTimeoutError)) => return None,
                Some(Err(error)) => {
                    tracing::debug!(engine = %self.name(), %error, "event stream broke");
                    return Some(fault::fault_of(&error));
                }
                None => return Some(Fault::Unreachable),
            }
        }
    }

    /// Makes sure that an engine answers, and asks for its clock. What was heard before does not count, because the stream broke.
    async fn hello_anew(&self) -> Result<Docker, Fault> {
        let budget = self.budget();
        let client = self.hello(&budget).await.map_err(|error| error.fault())?;
        match self.identify(&client, &budget).await {
            Ok(()) | Err(Fault::OtherEngine | Fault::EngineError) => Ok(client),
            Err(fault) => Err(fault),
        }
    }

    fn subscription(&self) -> EventsOptions {
        // podman's words for `die` and `destroy` are among them; engines ignore what they do not know. A `rename` is no reason to look, but
        // a quick list would not show it.
        let actions = vec!["die", "died", "oom", "start", "destroy", "remove", "rename", "health_status"];
        let filters = HashMap::from([("type", vec!["container"]), ("event", actions)]);
        let options = EventsOptionsBuilder::default().filters(&filters);
        match self.engine_now() {
            Some(Timestamp(micros)) => {
                let since = format!("{}.{:06}", micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
                options.since(&since).build()
            }
            None => options.build(),
        }
    }

    /// Takes note of whom a message is about, whatever it tells.
    fn hear(&self, message: &EventMessage) {
        let actor = message.actor.as_ref();
        let attributes = actor.and_then(|actor| actor.attributes.as_ref());
        let attribute = |name: &str| attributes.and_then(|attributes| attributes.get(name));
        self.stream_told(&About {
            container: actor.and_then(|actor| actor.id.as_deref()).unwrap_or_default(),
            name: attribute("name").map(|name| name.strip_prefix('/').unwrap_or(name)),
            is_labelled: attribute(&self.settings.workspace_label).is_some(),
            is_health: message.action.as_deref().is_some_and(|action| action.starts_with("health_status")),
        });
    }

    fn container_event(&self, message: &EventMessage) -> Option<ContainerEvent> {
        let action = action(message.action.as_deref()?)?;
        let actor = message.actor.as_ref()?;
        let attribute = |name: &str| actor.attributes.as_ref().and_then(|attributes| attributes.get(name));
        Some(ContainerEvent {
            engine: self.name().clone(),
            container_id: actor.id.as_deref().filter(|id| !id.is_empty())?.into(),
            name: attribute("name").map(|name| name.strip_prefix('/').unwrap_or(name).into()),
            workspace: attribute(&self.settings.workspace_label).map(|id| id.as_str().into()),
            action,
            at: facts::event_time(message),
        })
    }
}

/// The way to the daemon, which may be slower than the engine.
struct Outbox {
    engine: EngineName,
    events: mpsc::Sender<EngineEvent>,
    dropped: bool,
    /// What was said last, so that an outage is said once and not at each try.
    listening: Option<bool>,
}

impl Outbox {
    fn say_connected(&mut self) {
        if self.listening.replace(true) != Some(true) {
            self.post(EngineEvent::Connected { engine: self.engine.clone() });
        }
    }

    fn say_disconnected(&mut self, fault: Fault) {
        if self.listening.replace(false) != Some(false) {
            self.post(EngineEvent::Disconnected { engine: self.engine.clone(), fault });
        }
    }

    /// Hands an event over if there is room. Never waits.
    fn post(&mut self, event: EngineEvent) {
        if let Err(TrySendError::Full(_)) = self.events.try_send(event) {
            self.dropped = true;
        }
    }

    /// Waits for room, and then says that something was dropped.
    async fn catch_up(&mut self) {
        match self.events.reserve().await {
            Ok(permit) => permit.send(EngineEvent::Lagged { engine: self.engine.clone() }),
            // The receiver is gone. `watch` ends by that; this only must not spin meanwhile.
            Err(_) => std::future::pending().await,
        }
        self.dropped = false;
    }
}

fn action(name: &str) -> Option<Action> {
    match name {
        "die" | "died" => Some(Action::Die),
        "oom" => Some(Action::Oom),
        "start" => Some(Action::Start),
        "destroy" | "remove" => Some(Action::Destroy),
        "health_status: unhealthy" => Some(Action::Unhealthy),
        _ => None,
    }
}

/// Between half of it and all of it, so that the engines of a rack are not all asked at once. The standard library's hash
/// keys are random enough for that.
fn jittered(backoff: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 1_024;
    backoff / 2 + backoff * u32::try_from(random).unwrap_or(0) / 2_048
}
