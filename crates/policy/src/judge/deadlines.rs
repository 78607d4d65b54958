//! The moments at which calm workspaces become restless, in slots of a second: taking what is due costs one step for each that is due, however
//! many others wait.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::WorkspaceId;
use crate::moment::Moment;

/// How many nanoseconds a slot has. Larger: more of the last slot is looked through in vain. Smaller: more slots.
const SLOT_NANOS: u64 = 1_000_000_000;

/// Deadlines of workspaces. One workspace may have several.
#[derive(Debug, Default)]
pub(super) struct Deadlines(BTreeMap<u64, Vec<(Moment, WorkspaceId)>>);

impl Deadlines {
    pub(super) fn push(&mut self, at: Moment, id: WorkspaceId) {
        self.0.entry(slot(at)).or_default().push((at, id));
    }

    /// Takes out those up to `horizon`, in no order.
    pub(super) fn take_due(&mut self, horizon: Moment) -> Vec<(Moment, WorkspaceId)> {
        let later = self.0.split_off(&slot(horizon));
        let mut due: Vec<_> = std::mem::replace(&mut self.0, later).into_values().flatten().collect();
        if let Some(last) = self.0.get_mut(&slot(horizon)) {
            due.extend(last.extract_if(.., |(at, _)| *at <= horizon));
            if last.is_empty() {
                self.0.remove(&slot(horizon));
            }
        }
        due
    }
}

const fn slot(at: Moment) -> u64 {
    at.nanos() / SLOT_NANOS
}

impl Serialize for Deadlines {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all: Vec<&(Moment, WorkspaceId)> = self.0.values().flatten().collect(); // some formats have to know how many there are
        serializer.collect_seq(all)
    }
}

impl<'de> Deserialize<'de> for Deadlines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut deadlines = Self::default();
        for (at, id) in Vec::<(Moment, WorkspaceId)>::deserialize(deserializer)? {
            deadlines.push(at, id);
        }
        Ok(deadlines)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn due(deadlines: &mut Deadlines, horizon_ms: u64) -> Vec<String> {
        let horizon = Moment::after(Duration::from_millis(horizon_ms));
        let mut due: Vec<String> = deadlines.take_due(horizon).into_iter().map(|(_, id)| id.to_string()).collect();
        due.sort();
        due
    }

    #[test]
    fn each_deadline_is_taken_once_and_none_before_its_moment() {
        let mut deadlines = Deadlines::default();
        for ms in [999, 0, 1_000, 1_500, 1_501, 2_000, 9_000] {
            deadlines.push(Moment::after(Duration::from_millis(ms)), format!("{ms:04}").as_str().into());
        }
        assert_eq!(due(&mut deadlines, 1_500), ["0000", "0999", "1000", "1500"]);
        assert_eq!(due(&mut deadlines, 1_500), [""; 0]);
        assert_eq!(due(&mut deadlines, 8_999), ["1501", "2000"]);
        assert_eq!(due(&mut deadlines, 9_000), ["9000"]);
        assert!(deadlines.0.is_empty());
    }
}
