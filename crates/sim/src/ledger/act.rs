//! What happens to a claimed row: it may act, it ends, it is proved a recovery, it is acknowledged.

use std::time::Duration;

use defib_policy::attempt::Outcome;
use defib_policy::moment::Timestamp;

use super::{Ledger, MayAct};
use crate::facts::Facts;
use crate::lease::LeaseProof;
use crate::weakening::Weakening;

impl Ledger {
    /// Whether an attempt may turn to its engine; if so, that it does is written down.
    pub fn may_act(
        &mut self,
        id: i64,
        lease: LeaseProof<'_>,
        within: Duration,
        facts: &Facts,
        now: Timestamp,
    ) -> MayAct {
        let answered = self.may_act_facts(id, lease, facts, now);
        self.write_acting(id, answered, within, now)
    }

    /// The first half of that statement, on its snapshot: whether the lease is held, and the workspace wanted.
    #[must_use]
    pub fn may_act_facts(&self, id: i64, lease: LeaseProof<'_>, facts: &Facts, now: Timestamp) -> (bool, bool) {
        let owner = self.leases.holds(lease, now) || self.is(Weakening::ActWithoutTheLease);
        let wanted = self.row(id).is_some_and(|row| {
            let held = self.hold_reason(&row.workspace, &row.engine, now).is_some();
            let heard_of = facts.heartbeat > row.heartbeat || facts.activity > row.activity;
            let comes_to = row.verdict == "wedged" && row.acting_at.is_none() && heard_of;
            facts.is_watched() && !held && !comes_to
        });
        (owner, wanted)
    }

    /// Its second half, on the row as it is by then: a statement may be held up between the two.
    pub fn write_acting(&mut self, id: i64, facts: (bool, bool), within: Duration, now: Timestamp) -> MayAct {
        match facts {
            (false, _) => return MayAct::NotOwner,
            (true, false) => return MayAct::NotWanted,
            (true, true) => {}
        }
        let (settled_too, unwritten) = (self.is(Weakening::ActWhenSettled), self.is(Weakening::ActingNotWritten));
        let Some(place) = self.place(id) else { return MayAct::NotOwner };
        let row = &mut self.rows[place];
        if row.finished_at.is_some() && !settled_too {
            return MayAct::NotOwner;
        }
        if !unwritten {
            row.acting_at = Some(now);
            row.deadline_at = now.plus(within);
        }
        MayAct::Yes
    }

    /// Ends an attempt. False when it had ended already.
    pub fn finish(&mut self, id: i64, outcome: Outcome, now: Timestamp) -> bool {
        let twice = self.is(Weakening::FinishTwice);
        let Some(place) = self.place(id) else { return false };
        let row = &mut self.rows[place];
        if row.finished_at.is_some() && !twice {
            return false;
        }
        row.finished_at = Some(now);
        row.outcome = Some(outcome);
        row.run_ended_at = (!outcome.counts(row.acting_at.is_some())).then_some(now);
        let ended = row.clone();
        self.under_way.retain(|open| *open != place);
        self.note_runs(ended.of);
        self.end_mark(&ended);
        true
    }

    /// Abandons an attempt unless it has turned to its engine.
    pub fn abandon_unasked(&mut self, id: i64, now: Timestamp) -> bool {
        let acting = self.row(id).is_some_and(|row| row.acting_at.is_some());
        (!acting || self.is(Weakening::AbandonTheActing)) && self.finish(id, Outcome::Abandoned, now)
    }

    /// A heartbeat proved that an attempt brought its workspace back. False when that was recorded before.
    pub fn recovered(&mut self, id: i64, of: usize, now: Timestamp) -> bool {
        let Some(place) = self.place(id) else { return false };
        let row = &mut self.rows[place];
        if row.of != of || row.recovered_at.is_some() || row.finished_at.is_none() {
            return false;
        }
        row.recovered_at = Some(now);
        row.run_ended_at = Some(now);
        for earlier in self.of[of].iter().filter(|earlier| **earlier < place) {
            let earlier = &mut self.rows[*earlier];
            if earlier.finished_at.is_some() {
                earlier.run_ended_at.get_or_insert(now);
            }
        }
        self.note_runs(of);
        // A later attempt that is open or has asked the engine says that the workspace died again.
        if !self.rows_of(of).any(|row| row.id > id && (row.finished_at.is_none() || row.acting_at.is_some())) {
            self.owe(of);
        }
        true
    }

    /// An operator acknowledges a workspace. Returns how many attempts no longer count.
    pub fn acknowledge(&mut self, of: usize, now: Timestamp) -> u64 {
        let mut acknowledged = 0;
        for place in self.of.get(of).into_iter().flatten() {
            let row = &mut self.rows[*place];
            if row.finished_at.is_some() && row.acknowledged_at.is_none() {
                row.acknowledged_at = Some(now);
                row.run_ended_at.get_or_insert(now);
                acknowledged += 1;
            }
        }
        self.note_runs(of);
        acknowledged
    }
}
