//! The platform's database: the rows, what a reader sees of them, the ledger and the suspicions.
//!
//! The fleet view is kept in place and changed by each heartbeat, so that a read costs nothing. With a replication lag a heartbeat reaches
//! the view later than the row. The ledger and the leases are the model of those of production ([`Ledger`]).

use std::time::Duration;

use defib_policy::attempt::Outcome;
use defib_policy::fleet::{FleetRead, Kind, Workspace as Row};
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::plan::RestartOrder;
use defib_policy::verdict::Verdict;

use crate::facts::{Evidence, Facts};
use crate::functions::{Conduct, Functions};
use crate::lease::LeaseProof;
use crate::ledger::{Claim, Claimed, Ledger, MayAct, Refusal};
use crate::time::{Ms, stamp};
use crate::workspace::Workspace;

/// How many pending suspicions one login may have of one workspace, as in the store.
const PENDING_OF_A_LOGIN_MAX: usize = 32;

/// A suspicion that nobody has taken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// About whom.
    pub of: usize,
    /// The database login that reported it.
    pub login: u8,
    /// The name that it gave itself.
    pub name: u32,
    /// When.
    pub at: Ms,
}

/// What a replica has written down about the database's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockNote {
    /// When, by that clock.
    pub noticed_at: Timestamp,
    /// Stamps up to this one may be from before the step that it has noticed. `None` if it has noticed none.
    pub comparable_from: Option<Timestamp>,
    /// By how much the clock was ahead of the replica's host's, in microseconds.
    pub ahead: i64,
}

/// The database.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
pub struct Database {
    /// The platform's rows.
    pub facts: Vec<Facts>,
    /// What the platform's functions do for each of them.
    pub functions: Vec<Functions>,
    /// What a read of the fleet sees.
    pub view: FleetRead,
    /// Where each workspace is in the view.
    pub slots: Vec<Option<usize>>,
    /// The watched workspaces of each engine that have a container.
    pub members: Vec<Vec<usize>>,
    /// Whether it answers.
    pub up: bool,
    /// Whether it takes writes.
    pub writable: bool,
    /// Whether somebody holds a lock on defib's own tables. The platform can still write, and defib cannot.
    pub defib_locked: bool,
    /// Whether somebody holds a lock on the tables of verdicts and events, so that verdicts are written late.
    pub history_locked: bool,
    /// Whether heartbeats reach the database (the platform is up).
    pub pipeline: bool,
    /// Heartbeats reach the fleet view this much later.
    pub lag: Ms,
    /// How long a statement takes.
    pub latency: Ms,
    /// Its clock, off by microseconds.
    pub offset: i64,
    /// What replicas have written down about its clock.
    pub clock_notes: Vec<ClockNote>,
    /// When the server started.
    pub started_at: Ms,
    /// The ledger, the leases and the holds.
    pub ledger: Ledger,
    /// What is recorded of each workspace that is not alive (`defib.verdicts`), and since when.
    pub recorded: Vec<Option<(Verdict, Ms)>>,
    /// Suspicions nobody took yet, oldest first.
    pub suspicions: Vec<Report>,
    /// Whether notifications arrive.
    pub notifies: bool,
}

impl Database {
    /// An empty database that has been up for long.
    #[must_use]
    pub fn new(now: Ms) -> Self {
        let view = FleetRead {
            at: Moment::ZERO,
            database_now: Timestamp(0),
            database_started_at: Timestamp(0),
            workspaces: Vec::new(),
        };
        Self {
            facts: Vec::new(),
            functions: Vec::new(),
            view,
            slots: Vec::new(),
            members: Vec::new(),
            up: true,
            writable: true,
            defib_locked: false,
            history_locked: false,
            pipeline: true,
            lag: 0,
            latency: 2,
            offset: 0,
            clock_notes: Vec::new(),
            started_at: now - 500_000_000,
            ledger: Ledger::default(),
            recorded: Vec::new(),
            suspicions: Vec::new(),
            notifies: true,
        }
    }

    /// Its clock.
    #[must_use]
    pub fn clock(&self, now: Ms) -> Timestamp {
        stamp(now, self.offset)
    }

    /// Builds the view again after a workspace was added or is no longer watched.
    pub fn rebuild(&mut self, workspaces: &[Workspace], engines: &[defib_policy::id::EngineName]) {
        self.slots = vec![None; workspaces.len()];
        self.view.workspaces.clear();
        self.members = vec![Vec::new(); engines.len()];
        for (number, workspace) in workspaces.iter().enumerate() {
            let Some(facts) = self.facts.get(number).filter(|facts| facts.is_watched()) else { continue };
            self.slots[number] = Some(self.view.workspaces.len());
            if workspace.spec.kind != Kind::External {
                self.members[workspace.engine].push(number);
            }
            self.view.workspaces.push(Row {
                id: workspace.id.clone(),
                status: facts.status.into(),
                kind: workspace.spec.kind,
                engine: engines[workspace.engine].clone(),
                container_ref: None,
                instance_ref: (workspace.spec.kind == Kind::Instance).then(|| "i-1".into()),
                suspended: false,
                last_heartbeat_at: facts.heartbeat,
                last_activity_at: facts.activity,
                active_tasks: facts.active_tasks,
                created_at: Some(stamp(crate::time::ORIGIN - 100_000_000, 0)),
                policy: None,
            });
        }
    }

    /// Writes a heartbeat into the row and, without lag, into the view.
    pub fn beat(&mut self, workspace: usize, at: Timestamp) {
        self.facts[workspace].heartbeat = Some(at);
        if self.lag == 0
            && let Some(slot) = self.slots.get(workspace).copied().flatten()
        {
            self.view.workspaces[slot].last_heartbeat_at = Some(at);
        }
    }

    /// A delayed heartbeat reaches the view, unless a later one has reached it before.
    pub fn replicate(&mut self, workspace: usize, at: Timestamp) {
        if let Some(slot) = self.slots.get(workspace).copied().flatten() {
            let seen = &mut self.view.workspaces[slot].last_heartbeat_at;
            *seen = (*seen).max(Some(at));
        }
    }

    /// Writes a round trip into the row and the view.
    pub fn active(&mut self, workspace: usize, at: Timestamp) {
        self.facts[workspace].activity = Some(at);
        if let Some(slot) = self.slots.get(workspace).copied().flatten() {
            self.view.workspaces[slot].last_activity_at = Some(at);
        }
    }

    /// `defib.report_suspicion`. A report that repeats a pending one is not kept, and the number of pending ones by one login is bounded.
    /// Returns whether this is the first pending one of the workspace, because only the first one notifies.
    pub fn report(&mut self, report: Report) -> bool {
        let (mut first, mut of_login) = (true, 0);
        for pending in self.suspicions.iter().filter(|pending| pending.of == report.of) {
            first = false;
            of_login += usize::from(pending.login == report.login);
            if (pending.login, pending.name) == (report.login, report.name) {
                return false;
            }
        }
        if of_login < PENDING_OF_A_LOGIN_MAX {
            self.suspicions.push(report);
        }
        first
    }

    /// How long the transaction of a claim takes.
    #[must_use]
    pub fn claim_takes(&self, of: usize) -> Ms {
        self.latency + self.functions[of].mark_dead.takes()
    }

    /// Claims a restart under a lease: one transaction. `None` where it ends in an error, which may be the platform's own
    /// ([`Conduct::fails`]).
    pub fn claim(
        &mut self,
        order: &RestartOrder,
        of: usize,
        lease: LeaseProof<'_>,
        now: Ms,
        deadline: Duration,
    ) -> Option<Claimed> {
        let clock = self.clock(now);
        let evidence = Evidence {
            status: &order.evidence.status,
            heartbeat: order.evidence.last_heartbeat_at,
            activity: order.evidence.last_activity_at,
        };
        let claim = Claim {
            of,
            workspace: &order.workspace,
            engine: &order.engine,
            container_id: order.container_id(),
            started_at: order.started_at(),
            attempt: order.attempt,
            epoch: lease.epoch,
            verdict: order.verdict.label(),
            evidence,
            claimed_by: lease.holder,
            deadline,
        };
        let conduct = self.functions[of].mark_dead;
        if conduct.fails() {
            return self.claim_that_raises(&claim, clock);
        }
        let status = if conduct == Conduct::Vetoes { "another status" } else { claim.evidence.status };
        let claim = Claim { evidence: Evidence { status, ..claim.evidence }, ..claim };
        let claimed = self.ledger.claim(&claim, &mut self.facts[of], clock);
        self.show_status(of);
        claimed
    }

    /// The function is called where the claim would be granted, and its error undoes the transaction.
    fn claim_that_raises(&mut self, claim: &Claim<'_>, clock: Timestamp) -> Option<Claimed> {
        let mut under_way = match self.ledger.begin_claim(claim, clock) {
            Ok(under_way) => under_way,
            Err(refusal) => return (refusal == Refusal::NotOwner).then_some(Claimed::NotOwner),
        };
        let claimed = self.ledger.insert(&mut under_way, claim, &self.facts[claim.of], clock);
        self.ledger.abort_claim(&under_way);
        claimed.filter(|claimed| !matches!(claimed, Claimed::Granted { .. } | Claimed::Vetoed { .. }))
    }

    /// Whether a claim may be carried out; if so, that it will be is written down.
    pub fn may_act(&mut self, id: i64, of: usize, lease: LeaseProof<'_>, within: Duration, now: Ms) -> MayAct {
        let clock = self.clock(now);
        self.ledger.may_act(id, lease, within, &self.facts[of], clock)
    }

    /// Ends an attempt, unless it has ended.
    pub fn finish(&mut self, id: i64, outcome: Outcome, now: Ms) -> bool {
        let clock = self.clock(now);
        let ended = self.ledger.finish(id, outcome, clock);
        if let Some(of) = self.ledger.row(id).map(|row| row.of) {
            self.take_back(of);
        }
        ended
    }

    /// Abandons an attempt, unless it has turned to its engine or has ended.
    pub fn abandon_unasked(&mut self, id: i64, now: Ms) -> bool {
        let clock = self.clock(now);
        let ended = self.ledger.abandon_unasked(id, clock);
        if let Some(of) = self.ledger.row(id).map(|row| row.of) {
            self.take_back(of);
        }
        ended
    }

    /// Takes back the marks that are due. It happens at once, because the platform's function answers here.
    fn take_back(&mut self, of: usize) {
        if self.ledger.take_back(of, &mut self.facts[of]) {
            self.show_status(of);
        }
    }

    /// A heartbeat proved that the attempt with this id brought its workspace back.
    pub fn recovered(&mut self, id: i64, of: usize, now: Ms) -> bool {
        if self.functions[of].mark_recovered.fails() {
            return false;
        }
        let clock = self.clock(now);
        let first = self.ledger.recovered(id, of, clock);
        self.take_back(of);
        first
    }

    /// An operator acknowledges a workspace.
    pub fn acknowledge(&mut self, of: usize, now: Ms) {
        let clock = self.clock(now);
        self.ledger.acknowledge(of, clock);
    }

    fn show_status(&mut self, of: usize) {
        if let Some(slot) = self.slots.get(of).copied().flatten() {
            let (seen, status) = (&mut self.view.workspaces[slot].status, self.facts[of].status);
            if **seen != *status {
                *seen = status.into();
            }
        }
    }
}
