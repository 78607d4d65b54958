//! What is known of each workspace from what was written so far: what is as before is not written again.
//!
//! The reader keeps all of it. The writer keeps as much as it needs to see what has changed ([`Written`](crate::written::Written)), and both change
//! it by the same bytes. A new segment begins with none of it.

use std::time::Duration;

use defib_policy::attempt::Attempt;
use defib_policy::fleet::Workspace;
use defib_policy::id::WorkspaceId;
use defib_policy::judge::{EngineEvidence, OwnSettings};
use defib_policy::sample::{Incarnation, Sample};

/// A restart of it is being made.
pub(crate) const IN_FLIGHT: u8 = 1;
/// That restart waits for others.
pub(crate) const QUEUED: u8 = 2;
/// The recording replica speaks for its engine.
pub(crate) const OURS: u8 = 4;
/// An operator's hold stands on it.
pub(crate) const ON_HOLD: u8 = 8;
/// Its engine said something of it in this pass.
pub(crate) const SAMPLED: u8 = 16;

/// One workspace as it was last read.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) id: WorkspaceId,
    /// Its row; `None` until one was told.
    pub(crate) row: Option<Workspace>,
    pub(crate) sample: Option<Sample>,
    /// The last life that was written.
    pub(crate) life: Option<Incarnation>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) flags: u8,
    pub(crate) own: Option<OwnSettings>,
}

impl Slot {
    pub(crate) const fn new(id: WorkspaceId) -> Self {
        Self { id, row: None, sample: None, life: None, attempts: Vec::new(), flags: 0, own: None }
    }
}

/// What was last written of an engine, or of the workspaces that no engine has.
#[derive(Clone, Debug, Default)]
pub(crate) struct EngineMemo {
    pub(crate) evidence: Option<EngineEvidence>,
    /// The workspaces of the last pass over it that was not about a few.
    pub(crate) members: Vec<u32>,
}

/// The heartbeat has advanced.
pub(crate) const ROW_BEAT: u8 = 1;
/// The activity has advanced.
pub(crate) const ROW_ACTIVITY: u8 = 2;
/// The number of active tasks has changed.
pub(crate) const ROW_TASKS: u8 = 4;
/// Something else has changed, so the whole row is written.
pub(crate) const ROW_WHOLE: u8 = 8;

/// This bit if `is` is true, and no bit otherwise.
pub(crate) const fn bit(is: bool, bit: u8) -> u8 {
    if is { bit } else { 0 }
}

/// By how much all ages of `before` must grow to be those of `now`, if that is the only difference.
pub(crate) fn grown_by(before: &[Attempt], now: &[Attempt]) -> Option<i64> {
    if before.len() != now.len() {
        return None;
    }
    let mut grown = None;
    for (before, now) in before.iter().zip(now) {
        let mut aged = before.clone();
        let by = micros_between(before, now)?;
        if *grown.get_or_insert(by) != by {
            return None;
        }
        age(&mut aged, by);
        if aged != *now {
            return None;
        }
    }
    grown
}

fn micros_between(before: &Attempt, now: &Attempt) -> Option<i64> {
    let of = |attempt: &Attempt| i64::try_from(attempt.claimed_ago.as_micros()).ok();
    Some(of(now)? - of(before)?)
}

/// Makes an attempt so many microseconds older.
pub(crate) fn age(attempt: &mut Attempt, micros: i64) {
    let step = Duration::from_micros(micros.unsigned_abs());
    let ages = [Some(&mut attempt.claimed_ago), attempt.finished_ago.as_mut(), attempt.recovered_ago.as_mut()];
    for age in ages.into_iter().flatten() {
        *age = if micros < 0 { age.saturating_sub(step) } else { age.saturating_add(step) };
    }
}
