//! The platform's database: the rows, what a reader sees of them, the ledger and the suspicions.
//!
//! The fleet view is kept in place and changed by each heartbeat, so that a read costs nothing. With a replication lag a heartbeat
//! reaches the view later than the row.

use std::time::Duration;

use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::fleet::{FleetRead, Kind, Workspace as Row};
use defib_policy::id::ContainerId;
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::plan::RestartOrder;
use defib_policy::verdict::Evidence;

use crate::time::{Ms, span, stamp};
use crate::workspace::Workspace;

/// Statuses that defib watches.
const WATCHED: [&str; 3] = ["online", "degraded", "offline"];

/// The platform's own facts about a workspace.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its status.
    pub status: &'static str,
    /// It or an ancestor is parked.
    pub suspended: bool,
    /// Its row exists.
    pub exists: bool,
    /// Its last heartbeat.
    pub heartbeat: Option<Timestamp>,
    /// Its last successful round trip.
    pub activity: Option<Timestamp>,
    /// What it says of its work.
    pub active_tasks: i32,
}

impl Facts {
    /// Whether the platform wants it to run and defib may help.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.exists && !self.suspended && WATCHED.contains(&self.status)
    }
}

/// A row of the ledger.
#[derive(Clone, Debug)]
pub struct LedgerRow {
    /// What the policy reads of it. Its ages are set at the read.
    pub attempt: Attempt,
    /// Whose.
    pub workspace: usize,
    /// When it was claimed.
    pub claimed_at: Ms,
    /// When it ended.
    pub finished_at: Option<Ms>,
    /// When it was proved a recovery.
    pub recovered_at: Option<Ms>,
    /// When its run of attempts ended.
    pub run_ended_at: Option<Ms>,
    /// After this anybody may settle it.
    pub deadline: Ms,
    /// By whom.
    pub claimed_by: usize,
}

/// What came of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Go on; the row's place in the ledger.
    Granted(usize),
    /// The platform refused.
    Vetoed,
    /// Somebody else is at it, or was.
    Taken,
    /// A hold stands.
    Held,
}

/// The database.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
pub struct Database {
    /// The platform's rows.
    pub facts: Vec<Facts>,
    /// What a read of the fleet sees.
    pub view: FleetRead,
    /// Where each workspace is in the view.
    pub slots: Vec<Option<usize>>,
    /// The watched workspaces of each engine that have a container.
    pub members: Vec<Vec<usize>>,
    /// It answers.
    pub up: bool,
    /// It can be written.
    pub writable: bool,
    /// Heartbeats get as far as the database (the platform is up).
    pub pipeline: bool,
    /// Heartbeats reach the fleet view this much later.
    pub lag: Ms,
    /// How long a statement takes.
    pub latency: Ms,
    /// Its clock, off by microseconds.
    pub offset: i64,
    /// When the server started.
    pub started_at: Ms,
    /// The ledger.
    pub ledger: Vec<LedgerRow>,
    /// The rows of each workspace in the ledger, oldest first.
    pub ledger_of: Vec<Vec<usize>>,
    /// The rows of the ledger that are under way.
    pub under_way: Vec<usize>,
    /// Suspicions nobody took yet: workspace, reporter, when.
    pub suspicions: Vec<(usize, u8, Ms)>,
    /// Who owns the engines (one lease for all of them), and until when.
    pub lease: Option<(usize, Ms)>,
    /// A hold on the whole fleet.
    pub hold: bool,
    /// Notifications arrive.
    pub notifies: bool,
}

impl Database {
    /// An empty one that has been up for long.
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
            view,
            slots: Vec::new(),
            members: Vec::new(),
            up: true,
            writable: true,
            pipeline: true,
            lag: 0,
            latency: 2,
            offset: 0,
            started_at: now - 500_000_000,
            ledger: Vec::new(),
            ledger_of: Vec::new(),
            under_way: Vec::new(),
            suspicions: Vec::new(),
            lease: None,
            hold: false,
            notifies: true,
        }
    }

    /// Its clock.
    #[must_use]
    pub fn clock(&self, now: Ms) -> Timestamp {
        stamp(now, self.offset)
    }

    /// Builds the view again: somebody was added, or is watched no more.
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

    /// A heartbeat that was held up reaches the view, unless a later one was there first.
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

    /// `defib.mark_dead` and the insert into the ledger, in one transaction.
    pub fn claim(&mut self, order: &RestartOrder, of: usize, by: usize, now: Ms, deadline: Ms) -> Claimed {
        if self.hold {
            return Claimed::Held;
        }
        let (container, started) = (order.container_id(), order.started_at());
        let taken = self.ledger_of[of].iter().map(|row| &self.ledger[*row]).any(|row| {
            row.finished_at.is_none()
                || (row.run_ended_at.is_none()
                    && row.attempt.attempt == order.attempt
                    && row.attempt.container_id.as_ref() == container
                    && row.attempt.started_at == started)
        });
        if taken {
            return Claimed::Taken;
        }
        let row = self.insert(order, of, by, now, deadline, container.cloned());
        if self.mark_dead(of, &order.evidence) {
            Claimed::Granted(row)
        } else {
            self.finish(row, Outcome::Vetoed, now);
            Claimed::Vetoed
        }
    }

    fn insert(
        &mut self,
        order: &RestartOrder,
        of: usize,
        by: usize,
        now: Ms,
        deadline: Ms,
        container_id: Option<ContainerId>,
    ) -> usize {
        let row = self.ledger.len();
        let attempt = Attempt {
            id: i64::try_from(row).unwrap_or(i64::MAX) + 1,
            workspace: order.workspace.clone(),
            container_id,
            started_at: order.started_at(),
            attempt: order.attempt,
            claimed_ago: Duration::ZERO,
            finished_ago: None,
            finished_at: None,
            outcome: None,
            recovered_ago: None,
            acknowledged: false,
        };
        self.ledger.push(LedgerRow {
            attempt,
            workspace: of,
            claimed_at: now,
            finished_at: None,
            recovered_at: None,
            run_ended_at: None,
            deadline,
            claimed_by: by,
        });
        self.ledger_of[of].push(row);
        self.under_way.push(row);
        row
    }

    /// The platform's word before a restart: `migrations/` holds the original.
    fn mark_dead(&mut self, of: usize, evidence: &Evidence) -> bool {
        let facts = &mut self.facts[of];
        let advanced = |now: Option<Timestamp>, then: Option<Timestamp>| now > then;
        let veto = !facts.is_watched()
            || *facts.status != *evidence.status
            || advanced(facts.heartbeat, evidence.last_heartbeat_at)
            || advanced(facts.activity, evidence.last_activity_at);
        if !veto && facts.status != "offline" {
            facts.status = "offline";
            if let Some(slot) = self.slots[of] {
                self.view.workspaces[slot].status = "offline".into();
            }
        }
        !veto
    }

    /// Whether a claim may still be carried out.
    #[must_use]
    pub fn still_claimed(&self, row: usize) -> bool {
        let row = &self.ledger[row];
        row.finished_at.is_none() && !self.hold && self.facts[row.workspace].is_watched()
    }

    /// Ends an attempt, unless it has ended.
    pub fn finish(&mut self, row: usize, outcome: Outcome, now: Ms) {
        let offset = self.offset;
        self.under_way.retain(|open| *open != row);
        let row = &mut self.ledger[row];
        if row.finished_at.is_some() {
            return;
        }
        row.finished_at = Some(now);
        row.attempt.finished_at = Some(stamp(now, offset));
        row.attempt.outcome = Some(outcome);
        if matches!(outcome, Outcome::Vetoed | Outcome::Superseded) {
            row.run_ended_at = Some(now);
        }
    }

    /// A heartbeat proved that the attempt with this id brought its workspace back.
    pub fn recovered(&mut self, id: i64, now: Ms) {
        let Ok(place) = usize::try_from(id - 1) else { return };
        let Some(row) = self.ledger.get_mut(place).filter(|row| row.recovered_at.is_none()) else { return };
        row.recovered_at = Some(now);
        row.run_ended_at = Some(now);
        let of = row.workspace;
        for earlier in self.ledger_of[of].iter().filter(|earlier| **earlier < place) {
            let earlier = &mut self.ledger[*earlier];
            if earlier.finished_at.is_some() && earlier.run_ended_at.is_none() {
                earlier.run_ended_at = Some(now);
            }
        }
        if self.facts[of].status == "offline" {
            self.facts[of].status = "online";
            if let Some(slot) = self.slots[of] {
                self.view.workspaces[slot].status = "online".into();
            }
        }
    }

    /// The attempts of a workspace as the policy reads them: of a run that goes on or ended less than `reset` ago, newest first.
    pub fn attempts(&self, of: usize, now: Ms, reset: Ms, into: &mut Vec<Attempt>) {
        into.clear();
        let Some(rows) = self.ledger_of.get(of).filter(|rows| !rows.is_empty()) else { return };
        let current =
            rows.iter().any(|row| self.ledger[*row].run_ended_at.is_none_or(|end| now - end.min(now) < reset));
        if !current {
            return;
        }
        let (mut counted, mut refused) = (0, 0);
        for row in rows.iter().rev().map(|row| &self.ledger[*row]) {
            let refusal = row.attempt.outcome.is_some_and(|outcome| !outcome.touched());
            let quota = if refusal { &mut refused } else { &mut counted };
            *quota += 1;
            if *quota > if refusal { 5 } else { 20 } || row.attempt.acknowledged {
                continue;
            }
            let ago = |at: Ms| span(now.saturating_sub(at));
            into.push(Attempt {
                claimed_ago: ago(row.claimed_at),
                finished_ago: row.finished_at.map(ago),
                recovered_ago: row.recovered_at.map(ago),
                ..row.attempt.clone()
            });
        }
    }

    /// An operator acknowledges a workspace.
    pub fn acknowledge(&mut self, of: usize, now: Ms) {
        for row in &self.ledger_of[of] {
            let row = &mut self.ledger[*row];
            if row.finished_at.is_some() {
                row.attempt.acknowledged = true;
                row.run_ended_at.get_or_insert(now);
            }
        }
    }
}
