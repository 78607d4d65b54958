//! `defib.restarts` and `defib.holds` in memory: the model of `defib_store`'s `ledger.rs`, with the leases it claims under.
//!
//! The same operations with the same answers as the SQL, on a database clock that the caller passes in; a test holds the two
//! against each other over random sequences (`tests/ledger.rs`). The simulated world and the schedules run on it.
//!
//! The platform's row is the caller's ([`Facts`]), with the platform's own two functions on it as `migrations/0001_fleet.sql` has
//! them. What the model leaves out: texts that are only kept (errors, evidence), and waiting, which is a refusal here
//! ([`Refusal::Busy`]): the store's transactions give up a lock after less than a second.

use std::time::Duration;

use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::id::{ContainerId, EngineName, WorkspaceId};
use defib_policy::moment::Timestamp;
use defib_policy::recovery;

use crate::database::Facts;
use crate::lease::{LeaseProof, Leases};

/// As in the store: attempts of a workspace that are read, at most,
const ATTEMPTS_MAX: usize = 20;
/// refusals,
const REFUSALS_MAX: usize = 5;
/// and for how long an attempt of a run that has ended is of interest.
const INTERESTING_FOR: Duration = Duration::from_secs(7 * 86_400);

/// Later than any reset and [`INTERESTING_FOR`], with a day to spare for a clock that is set back.
const OVER_AFTER: Duration = Duration::from_secs(8 * 86_400);

/// A rule of the protocol that is left out on purpose: a checker that does not notice proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakening {
    /// An attempt may be claimed without the lease.
    ClaimWithoutTheLease,
    /// Two attempts may be under way for a workspace.
    TwoOpenAttempts,
    /// The engine may be asked without the lease.
    ActWithoutTheLease,
    /// The engine may be asked although the attempt was settled by somebody else.
    ActWhenSettled,
    /// That the engine is about to be asked is not written down.
    ActingNotWritten,
    /// What has turned to its engine is abandoned like what has not.
    AbandonTheActing,
    /// What has turned to its engine is settled at the first look, whatever the deadline.
    SettleAtOnce,
    /// Who settles does not look at the epochs.
    SettleLaterEpochs,
    /// A new life is taken for the end of a restart of what ran, whoever began it.
    AnyNewLifeIsOurs,
    /// An attempt can be ended twice.
    FinishTwice,
    /// A lease is taken before its end.
    TakeOverBeforeTheEnd,
    /// A lease is taken under the hands of a claim.
    TakeOverDuringAClaim,
    /// The epoch does not grow with the change of the holder.
    TheEpochStays,
    /// The replica does not look at the container before it acts.
    NoFreshLook,
    /// The replica does not look at its own clock before it acts.
    NoLocalClock,
    /// Its own clock says how long the lease lasts, and not how long ago the database said yes.
    OnlyTheLeasesClock,
    /// After a lost answer the replica looks for a few seconds only, whatever the engine may still be doing.
    LookAfterBriefly,
    /// The start that mends a half-made restart does not ask whether it is still wanted.
    MendUnasked,
}

impl Weakening {
    /// Every one.
    pub const ALL: [Self; 18] = [
        Self::ClaimWithoutTheLease,
        Self::TwoOpenAttempts,
        Self::ActWithoutTheLease,
        Self::ActWhenSettled,
        Self::ActingNotWritten,
        Self::AbandonTheActing,
        Self::SettleAtOnce,
        Self::SettleLaterEpochs,
        Self::AnyNewLifeIsOurs,
        Self::FinishTwice,
        Self::TakeOverBeforeTheEnd,
        Self::TakeOverDuringAClaim,
        Self::TheEpochStays,
        Self::NoFreshLook,
        Self::NoLocalClock,
        Self::OnlyTheLeasesClock,
        Self::LookAfterBriefly,
        Self::MendUnasked,
    ];
}

/// A row of `defib.restarts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Primary key.
    pub id: i64,
    /// Whose, by number.
    pub of: usize,
    /// Whose, by name.
    pub workspace: WorkspaceId,
    /// Where.
    pub engine: EngineName,
    /// The container that was found dead.
    pub container_id: Option<ContainerId>,
    /// The start of that incarnation.
    pub started_at: Option<Timestamp>,
    /// Number within the run.
    pub attempt: u32,
    /// The epoch of the lease that it was claimed under.
    pub epoch: i64,
    /// The verdict that asked for it.
    pub verdict: &'static str,
    /// By whom.
    pub claimed_by: Box<str>,
    /// When.
    pub claimed_at: Timestamp,
    /// After this anybody may settle it.
    pub deadline_at: Timestamp,
    /// When its owner turned to the engine.
    pub acting_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How.
    pub outcome: Option<Outcome>,
    /// When it was proved a recovery.
    pub recovered_at: Option<Timestamp>,
    /// When an operator acknowledged it.
    pub acknowledged_at: Option<Timestamp>,
    /// When the run that it belongs to ended.
    pub run_ended_at: Option<Timestamp>,
}

impl Restart {
    /// Whether it keeps its number from being given again for its incarnation.
    fn keeps_its_number(&self) -> bool {
        self.run_ended_at.is_none() && self.outcome.is_none_or(Outcome::touched)
    }
}

/// A restart to be claimed.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Whose, by number.
    pub of: usize,
    /// Whose, by name.
    pub workspace: &'a WorkspaceId,
    /// Where.
    pub engine: &'a EngineName,
    /// The container that is dead.
    pub container_id: Option<&'a ContainerId>,
    /// The start of that incarnation.
    pub started_at: Option<Timestamp>,
    /// Number within the run, from 1.
    pub attempt: u32,
    /// The epoch of the lease on `engine` that `claimed_by` holds.
    pub epoch: i64,
    /// The verdict that asks for it.
    pub verdict: &'static str,
    /// What it rests on.
    pub evidence: Evidence<'a>,
    /// This replica.
    pub claimed_by: &'a str,
    /// After this the attempt is anybody's to settle.
    pub deadline: Duration,
}

/// What `mark_dead` reads of the evidence.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The status as it was read.
    pub status: &'a str,
    /// The last heartbeat as it was read.
    pub heartbeat: Option<Timestamp>,
    /// The last round trip as it was read.
    pub activity: Option<Timestamp>,
}

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Go on.
    Granted {
        /// The row.
        id: i64,
    },
    /// The platform refused; the row is finished already.
    Vetoed {
        /// The row.
        id: i64,
    },
    /// Another attempt is under way, or this one was made before.
    Taken,
    /// A hold stands.
    Held {
        /// Whose, and why.
        reason: String,
    },
    /// The lease has expired, or another replica holds it.
    NotOwner,
}

/// Why a transaction ended at its first statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The lease has expired, or another replica holds it.
    NotOwner,
    /// A lock that it would wait for is held by another transaction under way: an error, after a while.
    Busy,
}

/// Whether the engine may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayAct {
    /// Yes, and that it will be is written down.
    Yes,
    /// The workspace left the fleet, is no longer watched, is suspended or held.
    NotWanted,
    /// The lease has expired or was taken over, or somebody has settled the attempt.
    NotOwner,
}

/// An attempt that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenAttempt {
    /// The row.
    pub id: i64,
    /// Whose, by number.
    pub of: usize,
    /// Where.
    pub engine: EngineName,
    /// The container that was found dead.
    pub container_id: Option<ContainerId>,
    /// The start of that incarnation.
    pub started_at: Option<Timestamp>,
    /// Who claimed it.
    pub claimed_by: Box<str>,
    /// The verdict that asked for it.
    pub verdict: &'static str,
    /// What the rule of recovery reads of it.
    pub row: recovery::Row,
}

/// A scope of a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldScope {
    /// Everything.
    Fleet,
    /// All of an engine.
    Engine(EngineName),
    /// One workspace.
    Workspace(WorkspaceId),
}

/// A row of `defib.holds`.
#[derive(Clone, Debug)]
pub struct Hold {
    /// Of what.
    pub scope: HoldScope,
    /// Who asked for it.
    pub owner: Box<str>,
    /// Why.
    pub reason: Box<str>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

/// A claim's transaction under way: what it holds, and what it would commit.
#[derive(Debug)]
pub struct ClaimUnderWay {
    engine: EngineName,
    began: Timestamp,
    row: Option<Restart>,
    marks: bool,
}

impl ClaimUnderWay {
    /// Whose row it would insert.
    #[must_use]
    pub fn of(&self) -> Option<usize> {
        self.row.as_ref().map(|row| row.of)
    }

    /// The attempt that it would open.
    #[must_use]
    pub fn granted(&self) -> Option<i64> {
        self.row.as_ref().filter(|row| row.finished_at.is_none()).map(|row| row.id)
    }
}

/// The tables.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Who owns what.
    pub leases: Leases,
    /// What stands against restarts, oldest first. A hold that is released is removed.
    pub holds: Vec<Hold>,
    rows: Vec<Restart>,
    of: Vec<Vec<usize>>,
    /// How many of the oldest rows of each workspace are of no interest to any reader, now and for ever: a year has hundreds.
    over: Vec<usize>,
    under_way: Vec<usize>,
    inserting: Vec<usize>,
    last_id: i64,
    weakening: Option<Weakening>,
}

impl Ledger {
    /// Empty tables with one rule left out.
    #[must_use]
    pub fn weakened(weakening: Option<Weakening>) -> Self {
        Self { leases: Leases::weakened(weakening), weakening, ..Self::default() }
    }

    fn is(&self, weakening: Weakening) -> bool {
        self.weakening == Some(weakening)
    }

    /// All rows, oldest first.
    #[must_use]
    pub fn rows(&self) -> &[Restart] {
        &self.rows
    }

    /// The row with this id.
    #[must_use]
    pub fn row(&self, id: i64) -> Option<&Restart> {
        self.place(id).map(|place| &self.rows[place])
    }

    /// The rows of a workspace, oldest first.
    #[must_use]
    pub fn rows_of(&self, of: usize) -> impl DoubleEndedIterator<Item = &Restart> {
        self.of.get(of).into_iter().flatten().map(|place| &self.rows[*place])
    }

    /// The same without the oldest ones, in which nobody is interested any more.
    fn later_rows_of(&self, of: usize) -> impl DoubleEndedIterator<Item = &Restart> {
        let over = self.over.get(of).copied().unwrap_or_default();
        self.of.get(of).into_iter().flat_map(move |places| &places[over..]).map(|place| &self.rows[*place])
    }

    /// A clock may be set back, by a day at most.
    fn pass_over_what_is_over(&mut self, of: usize, now: Timestamp) {
        if self.over.len() <= of {
            self.over.resize(of + 1, 0);
        }
        let long = |at: Timestamp| at.plus(OVER_AFTER) <= now;
        let is_over = |row: &Restart| {
            long(row.claimed_at) && (row.acknowledged_at.is_some() || row.run_ended_at.is_some_and(long))
        };
        while self.of[of].get(self.over[of]).is_some_and(|place| is_over(&self.rows[*place])) {
            self.over[of] += 1;
        }
    }

    /// Whether there are any.
    #[must_use]
    pub fn knows(&self, of: usize) -> bool {
        self.of.get(of).is_some_and(|rows| !rows.is_empty())
    }

    /// Whether a claim's transaction holds the platform's row of this workspace.
    #[must_use]
    pub fn is_inserting(&self, of: usize) -> bool {
        self.inserting.contains(&of)
    }

    /// Moves every time in the tables into the past: a test's way of letting time pass.
    pub fn age(&mut self, by: Duration) {
        let micros = -i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        let shift = |at: &mut Option<Timestamp>| *at = at.map(|at| at.shifted(micros));
        for row in &mut self.rows {
            row.claimed_at = row.claimed_at.shifted(micros);
            row.deadline_at = row.deadline_at.shifted(micros);
            shift(&mut row.acting_at);
            shift(&mut row.finished_at);
            shift(&mut row.recovered_at);
            shift(&mut row.acknowledged_at);
            shift(&mut row.run_ended_at);
        }
        for hold in &mut self.holds {
            shift(&mut hold.expires_at);
        }
        self.leases.age(micros);
    }

    fn place(&self, id: i64) -> Option<usize> {
        self.rows.binary_search_by_key(&id, |row| row.id).ok()
    }

    /// `defib.hold_reason`.
    #[must_use]
    pub fn hold_reason(&self, workspace: &WorkspaceId, engine: &EngineName, now: Timestamp) -> Option<String> {
        let covers = |scope: &HoldScope| match scope {
            HoldScope::Fleet => Some("fleet"),
            HoldScope::Engine(held) => (held == engine).then_some("engine"),
            HoldScope::Workspace(held) => (held == workspace).then_some("workspace"),
        };
        let standing = self.holds.iter().filter(|hold| hold.expires_at.is_none_or(|end| end > now));
        standing
            .filter_map(|hold| Some((hold, covers(&hold.scope)?)))
            .map(|(hold, scope)| format!("{scope} held by {}: {}", hold.owner, hold.reason))
            .next()
    }

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
            facts.mark_dead();
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
        let wanted = self
            .row(id)
            .is_some_and(|row| facts.is_watched() && self.hold_reason(&row.workspace, &row.engine, now).is_none());
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
        row.run_ended_at = (!outcome.touched()).then_some(now);
        self.under_way.retain(|open| *open != place);
        true
    }

    /// Abandons an attempt unless it has turned to its engine.
    pub fn abandon_unasked(&mut self, id: i64, now: Timestamp) -> bool {
        let acting = self.row(id).is_some_and(|row| row.acting_at.is_some());
        (!acting || self.is(Weakening::AbandonTheActing)) && self.finish(id, Outcome::Abandoned, now)
    }

    /// A heartbeat proved that an attempt brought its workspace back. False when that was recorded before.
    pub fn recovered(&mut self, id: i64, of: usize, facts: &mut Facts, now: Timestamp) -> bool {
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
        facts.mark_recovered();
        true
    }

    /// The attempts that are under way on `engines`, oldest first.
    #[must_use]
    pub fn open_attempts(&self, engines: &[EngineName], now: Timestamp) -> Vec<OpenAttempt> {
        let mut places = self.under_way.clone();
        places.sort_unstable();
        let rows = places.iter().map(|place| &self.rows[*place]).filter(|row| engines.contains(&row.engine));
        rows.map(|row| OpenAttempt {
            id: row.id,
            of: row.of,
            engine: row.engine.clone(),
            container_id: row.container_id.clone(),
            started_at: row.started_at,
            claimed_by: row.claimed_by.clone(),
            verdict: row.verdict,
            row: recovery::Row { epoch: row.epoch, acting: row.acting_at.is_some(), overdue: row.deadline_at < now },
        })
        .collect()
    }

    /// The attempts of a workspace that back-off, settling and exhaustion depend on, newest first.
    pub fn read_attempts(&self, of: usize, now: Timestamp, reset: Duration, into: &mut Vec<Attempt>) {
        into.clear();
        let lately = |at: Timestamp, span: Duration| at.plus(span) > now;
        let current = self
            .later_rows_of(of)
            .any(|row| row.acknowledged_at.is_none() && row.run_ended_at.is_none_or(|end| lately(end, reset)));
        if !current {
            return;
        }
        let (mut counted, mut refused) = (0, 0);
        for row in self.later_rows_of(of).rev().filter(|row| row.acknowledged_at.is_none()) {
            let refusal = row.outcome.is_some_and(|outcome| !outcome.touched());
            let interesting = lately(row.claimed_at, INTERESTING_FOR) || (!refusal && row.run_ended_at.is_none());
            let (quota, max) = if refusal { (&mut refused, REFUSALS_MAX) } else { (&mut counted, ATTEMPTS_MAX) };
            if !interesting || *quota == max {
                continue;
            }
            *quota += 1;
            into.push(Attempt {
                id: row.id,
                workspace: row.workspace.clone(),
                container_id: row.container_id.clone(),
                started_at: row.started_at,
                attempt: row.attempt,
                claimed_ago: now.since(row.claimed_at),
                finished_ago: row.finished_at.map(|at| now.since(at)),
                finished_at: row.finished_at,
                outcome: row.outcome,
                recovered_ago: row.recovered_at.map(|at| now.since(at)),
                asked: row.acting_at.is_some(),
                acknowledged: false,
            });
        }
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
        acknowledged
    }
}
