//! The agent of the demo: process 1 of a workspace's container, and all that is in it.
//!
//! It fetches its configuration from the example platform, answers requests, and says every two seconds that it lives.
//! It plays well or badly on demand:
//!
//! | request | what happens |
//! | --- | --- |
//! | `/` | a greeting |
//! | `/busy?seconds=6` | says that it has work to do, and is too busy to beat for six seconds |
//! | `/503?requests=3` | answers the next three requests with 503, in perfect health |
//!
//! A configuration called `bad` makes it exit at its start, every time: a crash loop.

mod platform;
mod server;

use std::env;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use platform::Platform;

/// What defib has to learn. Short, so that the demo is.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);

/// What the threads of the agent share.
struct Agent {
    id: String,
    started: Instant,
    platform: Platform,
    /// Too busy to beat until then.
    busy_until: Mutex<Option<Instant>>,
    /// Requests still to be answered with 503.
    to_refuse: AtomicU64,
}

impl Agent {
    fn be_busy_for(&self, span: Duration) {
        self.platform.beat(&self.id, 1);
        *self.busy_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + span);
    }

    fn is_busy(&self) -> bool {
        let busy_until = *self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        busy_until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether this request is one of those to refuse; counts it.
    fn refuses(&self) -> bool {
        let less_one = |left: u64| left.checked_sub(1);
        self.to_refuse.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less_one).is_ok()
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until TERM.
fn run() -> Result<(), String> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(|error| format!("cannot handle signals: {error}"))?;
    let id = variable("AGENT_ID")?;
    let platform = Platform::new(address("AGENT_PLATFORM")?);
    if platform.configuration(&id).as_deref() == Some("bad") {
        return Err("bad configuration".to_owned());
    }
    let agent = Arc::new(Agent {
        id,
        started: Instant::now(),
        platform,
        busy_until: Mutex::new(None),
        to_refuse: AtomicU64::new(0),
    });
    let listener = server::listen(address("AGENT_LISTEN")?)?;
    let server = Arc::clone(&agent);
    thread::spawn(move || server::serve(&listener, &server));
    thread::spawn(move || beat_for_ever(&agent));
    signals.forever().next();
    Ok(())
}

fn beat_for_ever(agent: &Agent) {
    loop {
        if !agent.is_busy() {
            agent.platform.beat(&agent.id, 0);
        }
        thread::sleep(HEARTBEAT_INTERVAL);
    }
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("{name} is not set"))
}

fn address(name: &str) -> Result<SocketAddr, String> {
    let text = variable(name)?;
    text.parse().map_err(|error| format!("{name}={text}: {error}"))
}
