//! `defib.marks`: what the platform was told by `mark_dead` and has not been taken back.

use defib_policy::attempt::Outcome;

use super::Ledger;
use super::row::{Mark, Restart};
use crate::facts::Facts;

impl Ledger {
    /// The mark of a workspace, if one stands or is owed.
    #[must_use]
    pub fn mark(&self, of: usize) -> Option<&Mark> {
        self.marks.get(&of)
    }

    /// Marks, over whatever mark there is: one that was owed begins anew.
    pub(super) fn write_mark(&mut self, of: usize, attempt_id: i64, facts: &mut Facts) {
        let before = facts.status;
        facts.mark_dead();
        let earlier = self.marks.get(&of);
        let mark = Mark {
            attempt_id,
            since_attempt: earlier.filter(|mark| !mark.owed).map_or(attempt_id, |mark| mark.since_attempt),
            status_before: earlier.map_or(before, |mark| mark.status_before),
            status: facts.status,
            owed: false,
        };
        self.marks.insert(of, mark);
    }

    /// What becomes of the mark of an attempt that ended. If it was vetoed or abandoned before the engine was asked, and no earlier attempt under
    /// the same mark has asked it, the mark is owed back; one that has changed no status is forgotten.
    pub(super) fn end_mark(&mut self, ended: &Restart) {
        let idle = ended.acting_at.is_none() && matches!(ended.outcome, Some(Outcome::Vetoed | Outcome::Abandoned));
        let Some(mark) = self.marks.get(&ended.of).filter(|mark| idle && mark.attempt_id == ended.id) else { return };
        let since = mark.since_attempt;
        if self.rows_of(ended.of).any(|row| row.id >= since && row.acting_at.is_some()) {
            return;
        }
        if mark.status == mark.status_before {
            self.marks.remove(&ended.of);
        } else {
            self.owe(ended.of);
        }
    }

    /// The mark of a workspace is to be taken back.
    pub(super) fn owe(&mut self, of: usize) {
        if let Some(mark) = self.marks.get_mut(&of) {
            mark.owed = true;
        }
    }

    /// Takes an owed mark back: `mark_recovered`, and the row goes. False when none is owed.
    pub fn take_back(&mut self, of: usize, facts: &mut Facts) -> bool {
        let owed = self.marks.get(&of).is_some_and(|mark| mark.owed);
        if owed {
            facts.mark_recovered();
            self.marks.remove(&of);
        }
        owed
    }
}
