//! Asking for a restart.
//!
//! Each step is sent once, and never again whatever happens to it. If the answer is lost, the instance may be starting, so there is a look
//! before the next order. Where the interface has an idempotency key, the attempt's number is sent as one, so that a request that is
//! repeated on the way (by a proxy, say) counts once.

use std::time::Duration;

use defib_policy::fleet::Kind;
use defib_policy::id::EngineName;
use defib_policy::sample::Fault;
use hyper::header::HeaderValue;
use tokio::time::{Instant, sleep};

use super::api::{Restart, State, Step};
use super::http::{Asking, NoAnswer};
use super::look::Look;
use super::rate::{NoTurn, Urgency};
use super::template::Values;
use super::unavailable::Instance;
use super::{ControlPlane, Line, answer};
use crate::error::Cause;
use crate::{Call, EngineError, RestartCall, RestartHow};

/// The largest answer to a restart, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How much of a refusal is repeated, in characters.
const WORDS_MAX: usize = 200;

/// How often the instance is asked about while a step waits for its state.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How a step ended.
#[derive(Debug)]
pub(super) enum StepEnd {
    Accepted,
    /// The server answered this status, which says that the restart is not wanted.
    Superseded(u16),
}

/// Why a step was not accepted.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    /// Nothing was sent.
    #[error("{}", held_off(*.0))]
    NotSent(NoTurn),
    /// The path or the header cannot be made from these references, so nothing was sent.
    #[error("the workspace's reference cannot be part of a request")]
    Reference,
    #[error(transparent)]
    NoAnswer(NoAnswer),
    /// It was refused.
    #[error("it answered {status}{words}")]
    Refused { status: u16, words: String },
}

fn held_off(no_turn: NoTurn) -> String {
    no_turn.paused_for.map_or_else(
        || "`rate` allowed no request in time".to_owned(),
        |pause| format!("it asked for a pause, which lasts {} s more", pause.as_secs().max(1)),
    )
}

/// What a restart is about.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) workspace: &'a str,
    pub(super) instance: &'a str,
    pub(super) attempt: i64,
}

/// Sends one step. `number` counts from 1.
pub(super) async fn send(
    line: &Line,
    restart: &Restart,
    step: &Step,
    number: usize,
    about: About<'_>,
    by: Instant,
) -> Result<StepEnd, StepError> {
    let values = Values { workspace: about.workspace, instance: about.instance, ..Values::default() };
    let path = step.path.fill(values).ok_or(StepError::Reference)?;
    let body = match &step.body {
        Some(body) => Some(body.fill(values).ok_or(StepError::Reference)?),
        None => None,
    };
    let key = if number == 1 { about.attempt.to_string() } else { format!("{}-{number}", about.attempt) };
    let key = HeaderValue::try_from(key).map_err(|_| StepError::Reference)?;
    let extra = restart.idempotency_header.clone().map(|header| (header, key));
    let instance = Instance { workspace: about.workspace, reference: about.instance };
    line.pace.end_of_delay(instance, by).await.map_err(StepError::NotSent)?;
    line.pace.turn(Urgency::Urgent, by).await.map_err(StepError::NotSent)?;
    let asking = Asking {
        method: step.method.clone(),
        url: format!("{}{path}", restart.base),
        headers: &step.headers,
        extra,
        body,
        bytes_max: ANSWER_BYTES_MAX,
        by,
    };
    let known = |status: u16| match status {
        _ if step.accept.contains(&status) => Some(StepEnd::Accepted),
        _ if step.superseded.contains(&status) => Some(StepEnd::Superseded(status)),
        _ => None,
    };
    let answer = match line.client.ask(asking).await {
        Ok(answer) => answer,
        // A server may accept a request and then send the client to a page about it.
        Err(NoAnswer::Redirected { to, status }) => {
            return known(status).ok_or(StepError::NoAnswer(NoAnswer::Redirected { to, status }));
        }
        Err(error) => return Err(StepError::NoAnswer(error)),
    };
    line.pace.note(Some(instance), answer.status, answer.retry_after);
    let status = answer.status;
    known(status).ok_or_else(|| StepError::Refused { status, words: words(line, &answer.body) })
}

/// The beginning of what a server said, on one line and without our secrets.
fn words(line: &Line, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = line.variables.strike_out(&text);
    let plain: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let plain = plain.trim();
    let cut: String = plain.chars().take(WORDS_MAX).collect();
    match (plain.is_empty(), cut.len() < plain.len()) {
        (true, _) => String::new(),
        (false, true) => format!(": {cut}…"),
        (false, false) => format!(": {cut}"),
    }
}

/// The failure of a step as an error of the engine. Its text begins with `who`, which is empty if the engine itself was asked.
fn error(call: &RestartCall, engine: &EngineName, failed: &StepError, by: Duration, who: &str) -> EngineError {
    let engine = engine.clone();
    let asked = if call.how == RestartHow::Start { Call::Start } else { Call::Restart };
    let source = || Cause::from(format!("{who}{failed}"));
    let container = call.container_id.clone();
    match failed {
        StepError::NotSent(_) => EngineError::NotSent { engine, source: source() },
        StepError::Reference => EngineError::Gone { engine, container },
        StepError::NoAnswer(NoAnswer::TimedOut(_)) => EngineError::TimedOut { engine, call: asked, after: by },
        StepError::NoAnswer(NoAnswer::Unreachable(_) | NoAnswer::Unsendable(_)) => {
            EngineError::Connect { engine, fault: Fault::Unreachable, source: source() }
        }
        // By these two the server says that it has not done it.
        StepError::NoAnswer(NoAnswer::Redirected { status: 307 | 308, .. }) => {
            EngineError::Restart { engine, container, fault: Fault::EngineError, source: source() }
        }
        StepError::NoAnswer(NoAnswer::Redirected { .. }) => {
            EngineError::Restart { engine, container, fault: Fault::Garbled, source: source() }
        }
        StepError::NoAnswer(error) => {
            let fault = answer::fault_of(error);
            EngineError::Restart { engine, container, fault, source: source() }
        }
        // A gateway answered. The server behind it may have received the request.
        StepError::Refused { status: 502 | 504, .. } => {
            EngineError::Restart { engine, container, fault: Fault::TimedOut, source: source() }
        }
        StepError::Refused { .. } => {
            EngineError::Restart { engine, container, fault: Fault::EngineError, source: source() }
        }
    }
}

/// What one step of a restart comes to: `Ok` if it was accepted. `who` is as in [`error`].
///
/// A first step that is not wanted or was not sent has touched nothing. After it, the instance may have been stopped by the steps before. So the
/// same answer to a later step counts as one that was lost: the instance is looked at, and started if it was left stopped.
///
/// # Errors
/// The step was not accepted.
pub(super) fn step_end(
    call: &RestartCall,
    engine: &EngineName,
    number: usize,
    end: Result<StepEnd, StepError>,
    by: Duration,
    who: &str,
) -> Result<(), EngineError> {
    let half_done = |what: String| EngineError::Restart {
        engine: engine.clone(),
        container: call.container_id.clone(),
        fault: Fault::TimedOut,
        source: Cause::from(format!("{who}step {number}, after others that were accepted: {what}")),
    };
    match end {
        Ok(StepEnd::Accepted) => Ok(()),
        Ok(StepEnd::Superseded(status)) if number > 1 => Err(half_done(format!("it answered {status}"))),
        Ok(StepEnd::Superseded(status)) => {
            Err(EngineError::Superseded { engine: engine.clone(), container: call.container_id.clone(), status })
        }
        Err(failed @ StepError::NotSent(_)) if number > 1 => Err(half_done(failed.to_string())),
        Err(failed) => Err(error(call, engine, &failed, by, who)),
    }
}

/// Restarts an instance.
pub(super) async fn restart(plane: &ControlPlane, call: &RestartCall) -> Result<(), EngineError> {
    let engine = &plane.settings.name;
    if call.target.kind != Kind::Instance {
        let workspace = call.target.workspace.clone();
        return Err(EngineError::WrongKind { engine: engine.clone(), workspace });
    }
    let unable = |what: &'static str| EngineError::Unable { engine: engine.clone(), what };
    let restart = plane.line.api.restart.as_ref();
    let restart = restart.ok_or_else(|| unable("its preset has no [restart]; set DEFIB_PLATFORM_URL"))?;
    let steps = match call.how {
        RestartHow::Start => &restart.steps,
        RestartHow::KillAndStart { .. } if restart.kill_steps.is_empty() => {
            return Err(unable("its preset has no [[restart.kill_steps]], so it cannot restart what runs"));
        }
        RestartHow::KillAndStart { .. } => &restart.kill_steps,
        RestartHow::Recreate => return Err(unable("it cannot create an instance again; set DEFIB_PLATFORM_URL")),
    };
    let begun = Instant::now();
    let by = begun + call.deadline;
    let about = About {
        workspace: call.target.workspace.as_str(),
        instance: call.container_id.as_str(),
        attempt: call.attempt,
    };
    for (number, step) in (1..).zip(steps) {
        let end = send(&plane.line, restart, step, number, about, by).await;
        step_end(call, engine, number, end, begun.elapsed(), "")?;
        if let Some(state) = step.until.filter(|_| number < steps.len()) {
            wait_for(plane, call, state, by).await?;
        }
    }
    Ok(())
}

/// Waits until the instance is in this state.
async fn wait_for(plane: &ControlPlane, call: &RestartCall, state: State, by: Instant) -> Result<(), EngineError> {
    let engine = &plane.settings.name;
    let Some(get) = &plane.line.api.get else {
        return Err(EngineError::Unable { engine: engine.clone(), what: "its preset has no [get] to wait with" });
    };
    let (workspace, reference) = (&call.target.workspace, call.container_id.as_str());
    loop {
        let look = Look::begin(plane);
        if let Ok(understood) = look.get(get, workspace, reference, Urgency::Urgent, by).await
            && understood.word.and_then(|word| plane.line.api.states.0.get(&word).copied()) == Some(state)
        {
            return Ok(());
        }
        if Instant::now() + LOOK_EVERY >= by {
            return Err(EngineError::TimedOut { engine: engine.clone(), call: Call::Restart, after: call.deadline });
        }
        sleep(LOOK_EVERY).await;
    }
}
