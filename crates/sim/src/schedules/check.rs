//! What must be true after each step, and what is counted because nobody can prevent it.
//!
//! An engine does not check an epoch, and nothing takes back a call that is on its way. So two windows remain, and what happens in
//! them is counted apart:
//!
//! - *woken*: a process that was stopped between the last look at its own clock and the call (or suspended, with its clock, since the
//!   database's yes), and woke when others had settled its attempt;
//! - *belated*: an engine that carries a call out after all the time that it is given (its deadline and the looks after it).
//!
//! In both, a start of what runs by then does nothing. A restart of a wedged one kills its successor.
//!
//! Two more things are counted and not held against the protocol. An engine restarts whatever it finds, so it also ends a life that
//! somebody else began between our look and the moment at which it acts (*raced*): one that the platform began, or one that a late start of
//! ours began. And a start may find that not the life that it was meant for is dead, but its successor (*revived*). A start harms nothing
//! that runs, so its attempt is settled as soon as a new life shows, without waiting for the engine.

use defib_policy::attempt::Outcome;

use super::deadlines::{LEASE_TTL, STATEMENT_TIMEOUT, rules};
use super::state::{Call, Starter, Walk};
use crate::time::{Ms, ms, span, stamp};

/// How long after the platform's word a call may still leave that was allowed before it: the answer may take a statement's deadline to
/// arrive, and a process may be stopped for as long as its lease lasts without noticing.
const OBJECTION_MAX: Ms = STATEMENT_TIMEOUT + LEASE_TTL + 1_000;

impl Walk {
    /// Notes a violation. The first one ends the walk.
    pub(super) fn never(&mut self, what: String) {
        self.note(|| format!("NEVER: {what}"));
        self.violation.get_or_insert(what);
    }

    /// A claim has been committed.
    pub(super) fn check_claim(&mut self, id: i64, process: usize) {
        let Some(row) = self.ledger.row(id) else { return };
        let (of, engine, epoch) = (row.of, row.engine.clone(), row.epoch);
        let held = self.ledger.leases.row(&engine).is_some_and(|lease| lease.epoch == epoch);
        if !held || self.takers.get(&engine) != Some(&process) {
            self.never(format!("attempt {id} of w{of} is claimed by a process that no longer holds its lease"));
        }
        if self.ledger.rows_of(of).filter(|row| row.finished_at.is_none()).count() > 1 {
            self.never(format!("two attempts of w{of} are under way"));
        }
    }

    /// An engine was taken over: at the time of the turn, its lease had `ended`.
    pub(super) fn check_take_over(&mut self, engine: &str, ended: bool) {
        self.tally.take_overs += 1;
        if !ended {
            self.never(format!("{engine} was taken from one whose lease had not ended"));
        }
    }

    /// It was read whether an attempt belongs to the `owner` of its engine. If it does, that process must really hold the lease.
    pub(super) fn check_facts(&mut self, id: i64, owner: bool, process: usize, epoch: i64) {
        let clock = stamp(self.now, 0);
        let Some(row) = self.ledger.row(id).filter(|_| owner) else { return };
        let (of, lease) = (row.of, self.ledger.leases.row(&row.engine));
        let holds = lease.is_some_and(|lease| lease.epoch == epoch && lease.expires_at > clock);
        if !holds || self.takers.get(&row.engine) != Some(&process) {
            self.never(format!("attempt {id} of w{of} may act for a process that does not hold its lease"));
        }
    }

    /// A call leaves.
    pub(super) fn check_call(&mut self, call: &Call) {
        let clock = stamp(self.now, 0);
        let of = call.of;
        self.tally.calls += 1;
        let Some(row) = self.ledger.row(call.row) else {
            return self.never(format!("w{of} is restarted without an attempt"));
        };
        let (finished, acting) = (row.finished_at.is_some(), row.acting_at.is_some());
        let stands = row.deadline_at >= clock.plus(span(call.deadline) + rules().look_after_max());
        let lease = self.ledger.leases.row(&row.engine);
        let stale = lease.is_none_or(|lease| lease.epoch != call.epoch || lease.expires_at <= clock)
            || self.takers.get(&row.engine) != Some(&call.process);
        if !acting {
            self.never(format!("w{of} is restarted, and that its engine would be asked was not written down"));
        } else if !call.window && finished {
            self.never(format!("w{of} is restarted by p{} although its attempt has been settled", call.process));
        } else if !call.window && !stands {
            self.never(format!(
                "w{of} is restarted so late that others may settle its attempt before its engine is done"
            ));
        }
        self.tally.left_late += u64::from(call.window && (finished || stale));
        self.tally.left_covered += u64::from(!call.window && stale);
        let put_away = self.boxes[of].put_away_at.is_some_and(|at| at + OBJECTION_MAX < self.now);
        if put_away && !call.window {
            self.never(format!("w{of} is restarted although it was put away long before"));
        }
    }

    /// Whether a call that takes effect now does so in one of the two windows.
    fn is_excused(&self, call: &Call) -> bool {
        (call.window && self.has_ended(call)) || self.is_belated(call)
    }

    fn has_ended(&self, call: &Call) -> bool {
        self.ledger.row(call.row).is_none_or(|row| row.finished_at.is_some())
    }

    fn is_belated(&self, call: &Call) -> bool {
        self.now > call.left_at + call.deadline + ms(rules().look_after_max())
    }

    /// A call stops a life that runs, or starts a container that does not. Checks that this is the life that the call was meant for.
    pub(super) fn check_effect(&mut self, call: &Call, kills: bool) {
        let of = call.of;
        let (life, starter, began) = {
            let it = &self.boxes[of];
            (it.life, it.starter, it.began)
        };
        let excused = self.is_excused(call);
        let (finished, by_others) = self.ledger.row(call.row).map_or((true, false), |row| {
            let by_others = self.settled_by_others.contains(&row.id) && row.outcome == Some(Outcome::Abandoned);
            (row.finished_at.is_some(), by_others)
        });
        if by_others && !excused {
            self.never(format!("w{of}: the engine carries out, in time, what somebody has settled as abandoned"));
        }
        if life == call.life {
            return;
        }
        // A start does no harm to a life that runs. If it finds another life dead than the one that it was meant for, then that life was
        // begun by a call of ours that outlived its attempt, or this call has outlived its own attempt.
        if !kills && (finished || excused || matches!(starter, Starter::Call { late: true, .. })) {
            self.tally.revived += 1;
            return;
        }
        match starter {
            // Somebody else restarted it between our look and the moment at which the engine acted. No engine can be asked to take care of
            // that.
            Starter::Platform if began >= call.looked_at => self.tally.raced += 1,
            _ if excused && call.window => self.tally.killed_by_woken += 1,
            _ if excused => self.tally.killed_by_belated += 1,
            Starter::Call { excused: true, .. } | Starter::Call { late: true, kills: false, .. }
                if began >= call.looked_at =>
            {
                self.tally.raced += 1;
            }
            _ => {
                let does = if kills { "kills" } else { "starts" };
                self.never(format!(
                    "w{of}: a restart meant for life {} {does} life {life}: restarted twice",
                    call.life
                ));
            }
        }
    }

    /// How the life is marked that a call begins.
    pub(super) fn starter(&self, call: &Call) -> Starter {
        let excused = self.is_excused(call);
        Starter::Call { late: excused || self.has_ended(call), excused, kills: call.kills }
    }

    /// An attempt was ended by a statement of `process`; `was` says whether it had ended before.
    pub(super) fn check_finish(&mut self, id: i64, process: usize, was: Option<Outcome>, unasked: bool) {
        let Some(row) = self.ledger.row(id) else { return };
        let (of, outcome, epoch, engine) = (row.of, row.outcome, row.epoch, row.engine.clone());
        let overdue = row.deadline_at < stamp(self.now, 0);
        if was.is_some() {
            return self.never(format!("attempt {id} of w{of} ends twice: {was:?}, {outcome:?}"));
        }
        let calls = self.calls.iter().filter(|call| call.row == id).count();
        let untouched = unasked || matches!(outcome, Some(Outcome::Vetoed));
        if calls > 0 && untouched {
            self.never(format!("attempt {id} of w{of} says that nothing was touched, and {calls} calls have left"));
        }
        let meant = self.meant.get(&id).copied();
        if outcome == Some(Outcome::Succeeded) && meant == Some(self.boxes[of].life) {
            self.never(format!("attempt {id} of w{of} succeeded, and it is the life that was convicted"));
        }
        let owner = self.owners.get(&id).copied();
        if owner != Some(process) {
            let current = self
                .ledger
                .leases
                .row(&engine)
                .is_some_and(|lease| lease.epoch == epoch && lease.expires_at > stamp(self.now, 0));
            if current && !overdue {
                self.never(format!("attempt {id} of w{of} is settled under the hands of the engine's owner"));
            }
            self.settled_by_others.insert(id);
            self.tally.settled += 1;
        }
    }

    /// The end of a world that has been healthy for long.
    pub(super) fn check_end(&mut self) {
        let open: Vec<String> = self
            .ledger
            .rows()
            .iter()
            .filter(|row| row.finished_at.is_none())
            .map(|row| format!("{} of w{}", row.id, row.of))
            .collect();
        if !open.is_empty() {
            self.never(format!("attempts stay open for ever: {}", open.join(", ")));
        }
        for of in 0..self.boxes.len() {
            if !self.boxes[of].is_well() {
                self.never(format!("w{of} stays dead"));
            }
        }
    }
}
