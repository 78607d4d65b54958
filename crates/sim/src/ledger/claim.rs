//! The transaction of a claim. It can be made whole ([`Ledger::claim`]) or in its parts, because a process can be stopped between them.

use defib_policy::attempt::Outcome;
use defib_policy::moment::Timestamp;

use super::{Claim, ClaimUnderWay, Claimed, Ledger, Refusal, Restart};
use crate::facts::Facts;
use crate::lease::LeaseProof;
use crate::weakening::Weakening;

impl Ledger {
    /// A whole claim. `None` when it would have to wait for somebody.
    pub fn claim(&mut self, claim: &Claim<'_>, facts: &mut Facts, now: Timestamp) -> Option<Claimed> {
        let mut under_way = match self.begin_claim(claim, now) {
            Ok(under_way) => under_way,
            Err(Refusal::NotOwner) => return Some(Claimed::NotOwner),
            Err(Refusal::Busy) => return None,
        };
        let claimed = self.insert(&mut under_way, claim, facts, now);
        if claimed.is_some() {
            self.commit_claim(under_way, facts);
        } else {
            self.abort_claim(&under_way);
        }
        claimed
    }

    /// The first statement of a claim: its lease's row is locked, if it is the claimer's.
    pub fn begin_claim(&mut self, claim: &Claim<'_>, now: Timestamp) -> Result<ClaimUnderWay, Refusal> {
        let lease = LeaseProof { engine: claim.engine, holder: claim.claimed_by, epoch: claim.epoch };
        if !self.leases.holds(lease, now) && !self.is(Weakening::ClaimWithoutTheLease) {
            return Err(Refusal::NotOwner);
        }
        if self.leases.is_taken_over(claim.engine) {
            return Err(Refusal::Busy);
        }
        self.leases.begin_claim(claim.engine);
        Ok(ClaimUnderWay { engine: claim.engine.clone(), began: now, row: None, marks: false })
    }

    /// The others: hold, insert, the platform's veto. `None`: another transaction is at the same workspace.
    pub fn insert(
        &mut self,
        under_way: &mut ClaimUnderWay,
        claim: &Claim<'_>,
        facts: &Facts,
        now: Timestamp,
    ) -> Option<Claimed> {
        if let Some(reason) = self.hold_reason(claim.workspace, claim.engine, under_way.began) {
            return Some(Claimed::Held { reason });
        }
        if self.inserting.contains(&claim.of) {
            return None;
        }
        self.last_id += 1;
        let open = |row: &Restart| row.finished_at.is_none() && !self.is(Weakening::TwoOpenAttempts);
        let made = |row: &Restart| {
            row.keeps_its_number()
                && row.attempt == claim.attempt.max(1)
                && row.container_id.as_ref() == claim.container_id
                && row.started_at == claim.started_at
        };
        if self.rows_of(claim.of).any(|row| open(row) || made(row)) {
            return Some(Claimed::Taken);
        }
        let id = self.last_id;
        let marks = facts.may_be_marked_dead(&claim.evidence);
        under_way.marks = marks;
        under_way.row = Some(Restart {
            id,
            of: claim.of,
            workspace: claim.workspace.clone(),
            engine: claim.engine.clone(),
            container_id: claim.container_id.cloned(),
            started_at: claim.started_at,
            attempt: claim.attempt.max(1),
            epoch: claim.epoch,
            verdict: claim.verdict,
            heartbeat: claim.evidence.heartbeat,
            activity: claim.evidence.activity,
            claimed_by: claim.claimed_by.into(),
            claimed_at: under_way.began,
            deadline_at: under_way.began.plus(claim.deadline),
            acting_at: None,
            finished_at: (!marks).then_some(now),
            outcome: (!marks).then_some(Outcome::Vetoed),
            recovered_at: None,
            acknowledged_at: None,
            run_ended_at: (!marks).then_some(now),
        });
        self.inserting.push(claim.of);
        Some(if marks { Claimed::Granted { id } } else { Claimed::Vetoed { id } })
    }

    /// The commit of a claim.
    pub fn commit_claim(&mut self, under_way: ClaimUnderWay, facts: &mut Facts) {
        self.abort_claim(&under_way);
        let Some(row) = under_way.row else { return };
        if under_way.marks {
            self.write_mark(row.of, row.id, facts);
        }
        let (of, open, now) = (row.of, row.finished_at.is_none(), row.claimed_at);
        // Two claims may commit in another order than they have drawn their ids.
        let place = self.rows.partition_point(|other| other.id < row.id);
        if place < self.rows.len() {
            let later = |places: &mut Vec<usize>| places.iter_mut().filter(|at| **at >= place).for_each(|at| *at += 1);
            self.of.iter_mut().for_each(later);
            later(&mut self.under_way);
        }
        self.rows.insert(place, row);
        if self.of.len() <= of {
            self.of.resize_with(of + 1, Vec::new);
        }
        self.of[of].push(place);
        self.pass_over_what_is_over(of, now);
        self.note_runs(of);
        if open {
            self.under_way.push(place);
        }
    }

    /// A claim's transaction that does not commit.
    pub fn abort_claim(&mut self, under_way: &ClaimUnderWay) {
        self.leases.end_claim(&under_way.engine);
        if let Some(row) = &under_way.row {
            self.inserting.retain(|of| *of != row.of);
        }
    }
}
