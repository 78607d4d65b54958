//! The time that a look at an engine may take, and the record of what it was spent on.
//!
//! There are two bounds, because either alone is not enough: one for each call, so that a container that hangs costs one sample, and one
//! for the whole look, so that a thousand slow containers do not delay the next look without end. The time-out of bollard, the client
//! library, can be neither: it counts whole seconds, and only until the head of the answer.

use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use bollard::errors::Error as BollardError;
use defib_policy::sample::Fault;
use tokio::time::Instant;

use super::fault;
use crate::report::{Call, CallTiming};

/// How a call can fail. The caller knows what the call was for.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The engine answered with an error, or was not reached.
    Engine(BollardError),
    /// No answer within this time.
    TimedOut(Duration),
    /// The call was not made, because the look had no time left.
    NotAsked,
}

impl CallError {
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::Engine(error) => fault::fault_of(error),
            Self::TimedOut(_) => Fault::TimedOut,
            Self::NotAsked => Fault::NotAsked,
        }
    }

    pub(crate) fn is_no_such_container(&self) -> bool {
        matches!(self, Self::Engine(error) if fault::is_no_such_container(error))
    }
}

/// One look at an engine, or one operation on it.
pub(crate) struct Budget {
    call_timeout: Duration,
    ends_at: Instant,
    spent: Mutex<Vec<CallTiming>>,
}

impl Budget {
    pub(crate) fn new(call_timeout: Duration, total: Duration) -> Self {
        Self { call_timeout, ends_at: Instant::now() + total, spent: Mutex::new(Vec::new()) }
    }

    /// Makes a call within both bounds.
    pub(crate) async fn call<T>(
        &self,
        call: Call,
        asking: impl Future<Output = Result<T, BollardError>>,
    ) -> Result<T, CallError> {
        let begun = Instant::now();
        let allowed = self.call_timeout.min(self.ends_at.saturating_duration_since(begun));
        if allowed.is_zero() {
            return Err(CallError::NotAsked);
        }
        let answer = match tokio::time::timeout(allowed, asking).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(CallError::Engine(error)),
            Err(_) => Err(CallError::TimedOut(allowed)),
        };
        let fault = match &answer {
            Err(error) if !error.is_no_such_container() => Some(error.fault()),
            _ => None,
        };
        self.lock().push(CallTiming { call, took: begun.elapsed(), fault });
        answer
    }

    /// The calls made so far. Empties the record.
    pub(crate) fn take_timings(&self) -> Vec<CallTiming> {
        std::mem::take(&mut *self.lock())
    }

    /// Whether calls were made, and none of them reached the engine.
    pub(crate) fn all_unreachable(&self) -> bool {
        let spent = self.lock();
        !spent.is_empty() && spent.iter().all(|timing| timing.fault == Some(Fault::Unreachable))
    }

    /// Whether no call was answered. This is also true if no call was made.
    pub(crate) fn is_silent(&self) -> bool {
        self.lock().iter().all(|timing| timing.fault.is_some())
    }

    /// Whether a call of this kind was answered. "No such container" is an answer.
    pub(crate) fn any_answer(&self, call: Call) -> bool {
        self.lock().iter().any(|timing| timing.call == call && timing.fault.is_none())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<CallTiming>> {
        // Nothing panics while the lock is held, so it is never poisoned. If it were, the record would still be usable.
        self.spent.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
