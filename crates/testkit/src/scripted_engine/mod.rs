//! A Docker engine that fails on command.
//!
//! A real engine cannot be made to answer half a list, or to swear that a healthy container has exited, at the moment a
//! test needs it. This one speaks the part of the Docker API that defib uses, over a real socket, and follows a script:
//! which call, about which container, how often, fails how ([`FaultRule`]). It keeps a record of every call, so a test can
//! assert what was *not* done.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use defib_testkit::scripted_engine::{Call, Fault, FaultRule, ScriptedContainer, ScriptedEngine};
//!
//! let engine = ScriptedEngine::start().await?;
//! engine.add(ScriptedContainer::running("w1").label("defib.workspace", "w1"));
//! engine.add_fault(FaultRule::new(Call::List, Fault::Eof).times(2)); // then the list is right again
//! // … let defib look at engine.url() …
//! assert_eq!(engine.restarts_of("w1"), 0);
//! # Ok(())
//! # }
//! ```
//!
//! It does not stop containers slowly, pull images or run anything: a restart takes no time unless a fault delays it.

mod container;
mod fault;
mod feed;
mod http;
mod versions;
mod world;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use self::http::Listener;
use self::world::World;
use crate::guardian::Guardian;
use crate::net::free_port;

pub use self::container::{ContainerState, Health, ScriptedContainer};
pub use self::fault::{Call, Fault, FaultRule};
pub use self::feed::EventFeed;
use self::versions::Versions;
pub use self::world::CallRecord;

/// How many ports are tried, because other processes of the machine look for free ports as well.
const TRIES_MAX: u32 = 8;

/// A handle on the engine; clones are the same engine. It stops when the last one is dropped.
#[derive(Debug, Clone)]
pub struct ScriptedEngine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    world: Arc<Mutex<World>>,
    address: Address,
    server: tokio::sync::Mutex<Option<JoinHandle<()>>>, // tokio's, because it is held while the server ends
}

#[derive(Debug)]
enum Address {
    Tcp(u16),
    Unix(PathBuf, #[expect(dead_code, reason = "keeps the directory")] Guardian),
}

impl ScriptedEngine {
    /// An engine without containers, on a TCP port of the loopback interface.
    pub async fn start() -> Result<Self> {
        let mut tries = 0;
        loop {
            match Self::start_at(Address::Tcp(free_port()?)).await {
                // Another process on this machine has taken the port since it was found free.
                Err(_) if tries < TRIES_MAX => tries += 1,
                started => return started,
            }
        }
    }

    /// An engine without containers, on a unix socket.
    pub async fn start_unix() -> Result<Self> {
        let guardian = Guardian::start()?;
        Self::start_at(Address::Unix(guardian.directory().join("d.sock"), guardian)).await
    }

    async fn start_at(address: Address) -> Result<Self> {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let identity = format!("SCRIPTED-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let world = Arc::new(Mutex::new(World::new(identity)));
        let engine = Self { inner: Arc::new(Inner { world, address, server: tokio::sync::Mutex::default() }) };
        engine.refuse_connections(false).await?;
        Ok(engine)
    }

    /// The address as a `DOCKER_HOST`.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.inner.address {
            Address::Tcp(port) => format!("tcp://127.0.0.1:{port}"),
            Address::Unix(path, _) => format!("unix://{}", path.display()),
        }
    }

    /// `true` closes the socket and all connections: callers are refused, as by an engine that is not running.
    /// `false` listens again at the same address. Containers and script stay.
    pub async fn refuse_connections(&self, refuse: bool) -> Result<()> {
        let mut server = self.inner.server.lock().await;
        if let Some(server) = server.take() {
            server.abort();
            let _ = server.await; // when it is over, the listener is closed
        }
        if refuse {
            return Ok(());
        }
        let listener = match &self.inner.address {
            Address::Tcp(port) => TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).await.map(Listener::Tcp),
            Address::Unix(path, _) => {
                let _ = std::fs::remove_file(path); // bind refuses an old socket; the first time there is none
                UnixListener::bind(path).map(Listener::Unix)
            }
        };
        let listener = listener.with_context(|| format!("listen at {}", self.url()))?;
        *server = Some(tokio::spawn(http::serve(listener, Arc::clone(&self.inner.world))));
        Ok(())
    }

    /// From now on it speaks these versions of the interface alone, given by what stands behind `1.`, and is strict about them: it refuses a
    /// call that names another one, and, but for `/version` and `/_ping`, a call that names none.
    pub fn speak_only(&self, oldest: u32, newest: u32) {
        self.world().speaks = Versions::only(oldest, newest);
    }

    /// Adds a container, or replaces the one with its id, without an event.
    pub fn add(&self, container: ScriptedContainer) {
        self.world().put(container);
    }

    /// Removes a container, with a `destroy` event. An error when there is none.
    pub fn remove(&self, id_or_name: &str) -> Result<()> {
        self.world().remove(id_or_name).map(|_| ()).with_context(|| no_container(id_or_name))
    }

    /// A copy of a container's state.
    #[must_use]
    pub fn container(&self, id_or_name: &str) -> Option<ScriptedContainer> {
        self.world().find(id_or_name).cloned()
    }

    /// Changes a container's state, with the times, process and events that go with it: a start is a new incarnation, an
    /// exit emits `die` (and `oom` before it). An error when there is none.
    pub fn set_state(&self, id_or_name: &str, state: ContainerState) -> Result<()> {
        self.world().set_state(id_or_name, state).with_context(|| no_container(id_or_name))
    }

    /// Ends a container's process with this exit code, as [`set_state`](Self::set_state).
    pub fn exit(&self, id_or_name: &str, exit_code: i64) -> Result<()> {
        self.set_state(id_or_name, ContainerState::Exited { exit_code, oom: false })
    }

    /// Gives a container another name, with its event. An error when there is none.
    pub fn rename(&self, id_or_name: &str, name: &str) -> Result<()> {
        self.world().rename(id_or_name, name).with_context(|| no_container(id_or_name))
    }

    /// Changes a container's health, with its event. An error when there is none.
    pub fn set_health(&self, id_or_name: &str, health: Health) -> Result<()> {
        self.world().set_health(id_or_name, health).with_context(|| no_container(id_or_name))
    }

    /// Who the engine says it is: another identity is another engine behind the same address.
    pub fn set_identity(&self, identity: impl Into<String>) {
        self.world().identity = identity.into();
    }

    /// Sets the words for states by which a list may be filtered. A list by any other word is refused. At first these are Docker's words.
    pub fn set_state_words(&self, words: &[&str]) {
        self.world().state_words = words.iter().map(|word| (*word).to_owned()).collect();
    }

    /// How far the engine's clock is ahead of ours (negative: behind), for all times from now on.
    pub fn set_clock_ahead_seconds(&self, seconds: i64) {
        self.world().clock_ahead_seconds = seconds;
    }

    /// Whether events reach their listeners.
    pub fn set_event_feed(&self, feed: EventFeed) {
        self.world().feed.set_mode(feed);
    }

    /// The event streams that are open now stay open and hear nothing more. Streams that are opened later receive events.
    pub fn deafen_event_streams(&self) {
        self.world().feed.deafen();
    }

    /// How many event streams are open and not deaf: wait for one before relying on an event.
    #[must_use]
    pub fn event_listeners(&self) -> usize {
        self.world().feed.listeners()
    }

    /// Adds a rule to the script, after those already there.
    pub fn add_fault(&self, rule: FaultRule) {
        self.world().faults.add(rule);
    }

    /// Fails every such call from now on, in place of all rules for it.
    pub fn set_fault(&self, call: Call, fault: Fault) {
        let mut world = self.world();
        world.faults.remove(call);
        world.faults.add(FaultRule::new(call, fault));
    }

    /// Tells a lie ([`Fault::FalselyStopped`] or [`Fault::FalselyMissing`]) about one container, in list and inspect alike.
    pub fn lie_about(&self, id: &str, lie: &Fault) {
        for call in [Call::List, Call::Inspect] {
            self.add_fault(FaultRule::new(call, lie.clone()).container(id));
        }
    }

    /// Answers such calls truthfully again.
    pub fn clear_fault(&self, call: Call) {
        self.world().faults.remove(call);
    }

    /// Answers everything truthfully again.
    pub fn clear_faults(&self) {
        self.world().faults.clear();
    }

    /// Every call so far, in order of arrival, with those that failed.
    #[must_use]
    pub fn calls(&self) -> Vec<CallRecord> {
        self.world().calls.clone()
    }

    /// Forgets the calls so far.
    pub fn clear_calls(&self) {
        self.world().calls.clear();
    }

    /// How many such calls arrived.
    #[must_use]
    pub fn count(&self, call: Call) -> usize {
        self.world().calls.iter().filter(|record| record.call == call).count()
    }

    /// How many such calls about a container arrived, by its id.
    #[must_use]
    pub fn count_of(&self, call: Call, id: &str) -> usize {
        let world = self.world();
        world.calls.iter().filter(|record| record.call == call && record.container.as_deref() == Some(id)).count()
    }

    /// How many restarts of a container were asked for, by restart or by start, whatever became of them.
    #[must_use]
    pub fn restarts_of(&self, id: &str) -> usize {
        self.count_of(Call::Restart, id) + self.count_of(Call::Start, id)
    }

    /// How often a container was really started by a call: one that was running already, or a call that failed, does not count.
    #[must_use]
    pub fn starts_of(&self, id: &str) -> usize {
        self.world().starts_of(id)
    }

    /// How many restarts were asked for, of whatever container.
    #[must_use]
    pub fn restarts(&self) -> usize {
        self.count(Call::Restart) + self.count(Call::Start)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        http::lock(&self.inner.world)
    }
}

/// A mistyped id would else make a test pass for the wrong reason.
fn no_container(id_or_name: &str) -> String {
    format!("no scripted container {id_or_name}")
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(server) = self.server.get_mut().take() {
            server.abort();
        }
    }
}
