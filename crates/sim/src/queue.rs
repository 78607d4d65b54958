//! The agenda of the world: what happens when, earliest first, and in the order of scheduling where two are due at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Ms;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The agent of workspace `.0` is due to send a heartbeat, if it still lives its life number `.1`.
    Beat(u32, u32),
    /// It has started, if it still lives that life.
    Ready(u32, u32),
    /// Somebody calls it through the proxy.
    Request(u32),
    /// Something is told to detector `.0`.
    Wake(u8, Wake),
    /// A step of the scenario, or the end of something it began.
    Call(u32),
}

/// What a detector is woken by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wake {
    /// The detector's own interval.
    Sweep,
    /// A look at a workspace that the detector asked for.
    Look(u32),
    /// The engine reported an event of a workspace.
    EngineEvent(u32),
    /// A request of a workspace failed in the proxy (whose number is `.1`).
    Failed(u32, u8),
    /// A suspicion was notified.
    Suspected(u32),
    /// An answer that it waits for, by its own number.
    Answer(u32),
    /// The next stage of a job, by its own number.
    Job(u32),
}

/// Events by time.
#[derive(Debug, Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<(Ms, u64, Event)>>,
    sequence: u64,
}

impl Queue {
    /// Schedules `event`.
    pub fn push(&mut self, at: Ms, event: Event) {
        self.sequence += 1;
        self.heap.push(Reverse((at, self.sequence, event)));
    }

    /// The next event due at or before `until`.
    pub fn pop(&mut self, until: Ms) -> Option<(Ms, Event)> {
        if self.heap.peek()?.0.0 > until {
            return None;
        }
        self.heap.pop().map(|Reverse((at, _, event))| (at, event))
    }

    /// How many are scheduled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}
