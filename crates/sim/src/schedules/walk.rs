//! One world, its agenda, its database, and the loop that lets one thing happen after the other.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::Timestamp;
use defib_policy::settings::Settings;

use super::deadlines::{LEASE_TTL, STATEMENT_TIMEOUT};
use super::state::{Answer, Container, Due, Event, Job, Mood, Open, Order, Read, Schedules, Statement, Walk};
use super::tally::Tally;
use crate::dice::Dice;
use crate::facts::Evidence;
use crate::lease::{LeaseProof, LeaseTurn};
use crate::ledger::{Claim, Claimed, Ledger, Refusal};
use crate::time::{Ms, ORIGIN, mins, secs, span, stamp};
use crate::weakening::Weakening;

/// How long the server waits for a lock.
const LOCK_TIMEOUT: Ms = 750;
/// Steps in a world before everything is mended.
const TROUBLED_STEPS: u64 = 4_000;
/// How long after that everything must have come to rest. What takes longest: an engine that is two and a half minutes late
/// with a call, and the attempt after that.
const REST_WITHIN: Ms = mins(6);
const WORKSPACES: usize = 4;
const ENGINES: usize = 2;

impl Answer {
    fn is_the_databases(&self) -> bool {
        !matches!(
            self,
            Self::Go
                | Self::Lost
                | Self::Seen { .. }
                | Self::CallDone
                | Self::CallLost
                | Self::CallRefused
                | Self::CallGone
        )
    }
}

impl Walk {
    /// A world from its beginning to its healthy end, or to a violation.
    pub(super) fn through(schedules: &Schedules, seed: u64, trace: bool) -> Self {
        let engines = (0..ENGINES).map(|n| EngineName::from(format!("e{n}"))).collect();
        let settings = Settings {
            backoff_initial: Duration::from_millis(500),
            backoff_max: Duration::from_secs(4),
            exhausted_after: u32::MAX,
            ..Settings::default()
        };
        let mut walk = Self {
            now: ORIGIN,
            dice: Dice::new(seed),
            steps: 0,
            tally: Tally::default(),
            violation: None,
            trace: trace.then(Vec::new),
            weakening: schedules.weakening,
            settings,
            heals: false,
            ledger: Ledger::weakened(schedules.weakening),
            names: (0..WORKSPACES).map(|n| WorkspaceId::from(format!("w{n}"))).collect(),
            engines,
            boxes: (0..WORKSPACES).map(|n| Container::new(n % ENGINES, ORIGIN)).collect(),
            moods: vec![Mood::default(); ENGINES],
            processes: Vec::new(),
            jobs: BTreeMap::new(),
            calls: Vec::new(),
            takers: BTreeMap::new(),
            owners: BTreeMap::new(),
            meant: BTreeMap::new(),
            settled_by_others: BTreeSet::new(),
            jobs_made: 0,
            turn: None,
            claims: BTreeMap::new(),
            agenda: BinaryHeap::new(),
            sequence: 0,
            deeds_due: 0,
        };
        for slot in 0..schedules.replicas {
            walk.be_born(slot);
        }
        walk.push(secs(20), Event::Fault);
        while walk.violation.is_none() && walk.steps < TROUBLED_STEPS {
            walk.next();
        }
        walk.come_to_rest();
        walk
    }

    fn come_to_rest(&mut self) {
        self.heal();
        let end = self.now + REST_WITHIN;
        let mut quiet_since = self.now;
        while self.violation.is_none() && self.now < end {
            self.next();
            let quiet = self.deeds_due == 0
                && self.boxes.iter().all(Container::is_well)
                && self.ledger.open_attempts(&self.engines, self.clock()).is_empty();
            if !quiet {
                quiet_since = self.now;
            } else if self.now > quiet_since + secs(10) {
                break;
            }
        }
        if self.violation.is_none() {
            self.check_end();
        }
    }

    /// The database's clock.
    pub(super) fn clock(&self) -> Timestamp {
        stamp(self.now, 0)
    }

    pub(super) fn number(&mut self, below: usize) -> usize {
        usize::try_from(self.dice.below(below as u64)).unwrap_or(0)
    }

    pub(super) fn is(&self, weakening: Weakening) -> bool {
        self.weakening == Some(weakening)
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.now - ORIGIN;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>5}.{:03} {}", now / 1_000, now % 1_000, what()));
        }
    }

    pub(super) fn push(&mut self, wait: Ms, event: Event) {
        self.sequence += 1;
        self.deeds_due += usize::from(matches!(event, Event::Deed(..)));
        self.agenda.push(Due { at: self.now + wait, sequence: self.sequence, event });
    }

    fn next(&mut self) {
        let Some(due) = self.agenda.pop() else { return };
        self.now = due.at;
        match due.event {
            Event::Tick(process) => self.tick(process),
            Event::Answer(job, ticket, answer) => self.answered(job, ticket, answer),
            Event::Execute { job, ticket, process, statement } => {
                self.steps += 1;
                self.execute(job, ticket, process, &statement);
            }
            Event::WriteActing { job, ticket, process, id, facts, within } => {
                self.steps += 1;
                let clock = self.clock();
                let may = self.ledger.write_acting(id, facts, within, clock);
                self.note(|| format!("p{process}: may attempt {id} act? {may:?}"));
                let wait = self.dice.between(1, 4);
                self.push(wait, Event::Answer(job, ticket, Answer::MayAct(may)));
            }
            Event::Look(job, ticket, of) => {
                self.steps += 1;
                self.looked(job, ticket, of);
            }
            Event::Deed(call, deed, answers) => {
                self.steps += 1;
                self.deeds_due -= 1;
                self.deed(call, deed, answers);
            }
            Event::ServerEnds(job, statements) => self.server_ends(job, statements),
            Event::Fault => self.fault(),
            Event::Mend(mend) => self.mend(mend),
            Event::Kill(process) => self.kill(process),
        }
    }

    fn answered(&mut self, number: u64, ticket: u32, answer: Answer) {
        let Some(job) = self.jobs.get(&number).filter(|job| job.ticket == ticket) else { return };
        let process = job.process;
        let (paused_until, cut) = {
            let it = &self.processes[process];
            (it.paused_until, it.cut_from_database)
        };
        if paused_until > self.now {
            // Whatever has arrived is read when it wakes, in any order.
            let wait = paused_until - self.now + self.dice.below(3);
            return self.push(wait, Event::Answer(number, ticket, answer));
        }
        if cut && answer.is_the_databases() {
            let wait = self.dice.between(1, STATEMENT_TIMEOUT);
            return self.push(wait, Event::Answer(number, ticket, Answer::Lost));
        }
        let delicate = job.is_delicate();
        if !self.heals && self.dice.chance(if delicate { 0.04 } else { 0.002 }) {
            self.trouble(process);
            return self.push(0, Event::Answer(number, ticket, answer));
        }
        self.steps += 1;
        let Some(mut job) = self.jobs.remove(&number) else { return };
        job.ticket += 1;
        if self.advance(number, &mut job, answer) {
            self.jobs.insert(number, job);
        } else {
            self.ended(job);
        }
    }

    /// A job begins, with an answer that it does not wait for.
    pub(super) fn begin(&mut self, mut job: Job) {
        self.jobs_made += 1;
        let number = self.jobs_made;
        if self.advance(number, &mut job, Answer::Go) {
            self.jobs.insert(number, job);
        } else {
            self.ended(job);
        }
    }

    /// A job waits for a while.
    pub(super) fn wait(&mut self, number: u64, job: &Job, wait: Ms) {
        self.push(wait, Event::Answer(number, job.ticket, Answer::Go));
    }

    /// A statement is sent.
    pub(super) fn ask(&mut self, number: u64, job: &Job, statement: Statement) {
        let arrives = match self.dice.below(200) {
            0 => self.dice.between(secs(3), secs(40)),
            1..=6 => self.dice.between(50, secs(3)),
            _ => self.dice.between(1, 4),
        };
        if arrives >= STATEMENT_TIMEOUT {
            // Given up before it is carried out.
            self.push(STATEMENT_TIMEOUT, Event::Answer(number, job.ticket, Answer::Lost));
        }
        self.push(arrives, Event::Execute { job: number, ticket: job.ticket, process: job.process, statement });
    }

    fn execute(&mut self, job: u64, ticket: u32, process: usize, statement: &Statement) {
        if self.processes[process].cut_from_database {
            return self.push(STATEMENT_TIMEOUT, Event::Answer(job, ticket, Answer::Lost));
        }
        let answer = self.carry_out(job, process, statement);
        if let (Answer::Facts(facts), Statement::MayAct { id, within, .. }) = (&answer, statement) {
            // Between what a statement reads and what it writes the server may be held up as well.
            let wait = if self.dice.chance(0.05) { self.dice.between(1, secs(5)) } else { 0 };
            let (facts, id, within) = (*facts, *id, *within);
            return self.push(wait, Event::WriteActing { job, ticket, process, id, facts, within });
        }
        if matches!(statement, Statement::TurnBegin { .. } | Statement::ClaimBegin(..) | Statement::ClaimInsert(..)) {
            let statements = self.turn.as_ref().filter(|(open, _)| *open == job).map(|(_, open)| open.statements);
            let statements = statements.or_else(|| self.claims.get(&job).map(|open| open.statements));
            if let Some(statements) = statements {
                self.push(STATEMENT_TIMEOUT, Event::ServerEnds(job, statements));
            }
        }
        let wait = if matches!(answer, Answer::Refused) { LOCK_TIMEOUT } else { self.dice.between(1, 4) };
        self.push(wait, Event::Answer(job, ticket, answer));
    }

    fn carry_out(&mut self, job: u64, process: usize, statement: &Statement) -> Answer {
        let clock = self.clock();
        match statement {
            Statement::TurnBegin { owned, busy } => self.turn_begins(job, process, owned.as_ref(), busy),
            Statement::TurnCommit => self.turn_commits(job),
            Statement::Release(owned) => {
                let name = self.processes[process].name.clone();
                self.ledger.leases.release_leases(&name, owned, clock);
                Answer::Ended
            }
            Statement::ClaimBegin(order, epoch) => {
                let name = self.processes[process].name.clone();
                let engine = self.engines[self.boxes[order.of].engine].clone();
                let claim = claim(order, *epoch, &name, &engine, &self.names[order.of]);
                match self.ledger.begin_claim(&claim, clock) {
                    Ok(of) => {
                        self.claims.insert(job, Open { process, statements: 1, of });
                        Answer::Begun
                    }
                    Err(Refusal::NotOwner) => Answer::Claimed(Claimed::NotOwner),
                    Err(Refusal::Busy) => Answer::Refused,
                }
            }
            Statement::ClaimInsert(order, epoch) => self.claim_inserts(job, order, *epoch),
            Statement::ClaimCommit => self.claim_commits(job),
            Statement::MayAct { id, of, epoch, .. } => {
                let name = self.processes[process].name.clone();
                let engine = self.engines[self.boxes[*of].engine].clone();
                let lease = LeaseProof { engine: &engine, holder: &name, epoch: *epoch };
                let facts = self.ledger.may_act_facts(*id, lease, &self.boxes[*of].facts, clock);
                self.check_facts(*id, facts.0, process, *epoch);
                Answer::Facts(facts)
            }
            Statement::Finish(id, outcome) => {
                let was = self.ledger.row(*id).and_then(|row| row.outcome);
                if self.ledger.finish(*id, *outcome, clock) {
                    self.note(|| format!("p{process}: attempt {id} ends: {}", outcome.label()));
                    self.check_finish(*id, process, was, false);
                }
                Answer::Ended
            }
            Statement::Abandon(id) => {
                let was = self.ledger.row(*id).and_then(|row| row.outcome);
                if self.ledger.abandon_unasked(*id, clock) {
                    self.note(|| format!("p{process}: attempt {id} is abandoned: its engine was not asked"));
                    self.check_finish(*id, process, was, true);
                }
                Answer::Ended
            }
            Statement::Recovered(id, of) => {
                self.ledger.recovered(*id, *of, clock);
                self.take_back(*id);
                Answer::Ended
            }
            Statement::Read(engine) => Answer::Read(self.read(*engine)),
            Statement::Open(engines) => Answer::Open(self.ledger.open_attempts(engines, clock)),
        }
    }

    /// A recovery is told to the platform at once. What is owed after an attempt that never asked the engine is left to the next recovery, as
    /// by a recorder that comes late: otherwise the workspace would be read anew before most of the races that the walk looks for.
    fn take_back(&mut self, id: i64) {
        if let Some(of) = self.ledger.row(id).map(|row| row.of) {
            self.ledger.take_back(of, &mut self.boxes[of].facts);
        }
    }

    fn read(&mut self, engine: usize) -> Vec<Read> {
        let (now, clock) = (self.now, self.clock());
        let mut read = Vec::new();
        for of in 0..self.boxes.len() {
            if self.boxes[of].engine != engine {
                continue;
            }
            self.boxes[of].beat(now);
            let mut attempts = Vec::new();
            self.ledger.read_attempts(of, clock, self.settings.attempts_horizon(), &mut attempts);
            let on_hold = self.ledger.hold_reason(&self.names[of], &self.engines[engine], clock).is_some();
            read.push(Read { of, facts: self.boxes[of].facts.clone(), on_hold, attempts });
        }
        read
    }

    fn turn_begins(
        &mut self,
        job: u64,
        process: usize,
        owned: Option<&BTreeMap<EngineName, i64>>,
        busy: &BTreeSet<EngineName>,
    ) -> Answer {
        let clock = self.clock();
        let name = self.processes[process].name.clone();
        let fit = self.engines.iter().cloned().collect();
        let turn = LeaseTurn { replica: &name, engines: &self.engines, fit: &fit, owned, busy, ttl: span(LEASE_TTL) };
        let Some(turn) = self.ledger.leases.begin_turn(&turn, clock) else { return Answer::Refused };
        for engine in turn.taken() {
            let row = self.ledger.leases.row(engine);
            let ended = row.is_none_or(|row| row.expires_at <= clock || *row.holder == *name);
            let engine = engine.clone();
            self.check_take_over(engine.as_str(), ended);
        }
        self.turn = Some((job, Open { process, statements: 1, of: turn }));
        Answer::Begun
    }

    fn turn_commits(&mut self, job: u64) -> Answer {
        let clock = self.clock();
        let Some((_, open)) = self.turn.take_if(|(open, _)| *open == job) else { return Answer::Refused };
        let process = open.process;
        let taken = open.of.taken().to_vec();
        let table = self.ledger.leases.commit_turn(open.of, clock);
        for engine in taken {
            self.note(|| format!("p{process} takes {engine}, epoch {}", table.owned[&engine]));
            self.takers.insert(engine, process);
        }
        Answer::Turned(table)
    }

    fn claim_inserts(&mut self, job: u64, order: &Order, epoch: i64) -> Answer {
        let (now, clock) = (self.now, self.clock());
        let Some(mut open) = self.claims.remove(&job) else { return Answer::Refused };
        let name = self.processes[open.process].name.clone();
        let engine = self.engines[self.boxes[order.of].engine].clone();
        self.boxes[order.of].beat(now);
        let claim = claim(order, epoch, &name, &engine, &self.names[order.of]);
        let claimed = self.ledger.insert(&mut open.of, &claim, &self.boxes[order.of].facts, clock);
        if let Some(Claimed::Granted { id }) = claimed {
            self.owners.insert(id, open.process);
            self.meant.insert(id, order.life);
        }
        if !matches!(claimed, Some(Claimed::Granted { .. })) {
            self.note(|| {
                format!("p{}: no claim of w{}, number {}: {claimed:?}", open.process, order.of, order.attempt)
            });
        }
        open.statements += 1;
        self.claims.insert(job, open);
        claimed.map_or(Answer::Refused, Answer::Claimed)
    }

    fn claim_commits(&mut self, job: u64) -> Answer {
        let Some(open) = self.claims.remove(&job) else { return Answer::Refused };
        let granted = open.of.granted();
        let Some(of) = open.of.of() else {
            self.ledger.abort_claim(&open.of);
            return Answer::Committed;
        };
        self.ledger.commit_claim(open.of, &mut self.boxes[of].facts);
        if let Some(id) = granted {
            self.tally.claims += 1;
            self.note(|| format!("p{}: attempt {id} of w{of} is claimed", open.process));
            self.check_claim(id, open.process);
        }
        Answer::Committed
    }

    /// The server ends a transaction that has made no statement since: its client is gone, or sleeps.
    fn server_ends(&mut self, job: u64, statements: u32) {
        if let Some((_, open)) = self.turn.take_if(|(open, it)| *open == job && it.statements == statements) {
            self.ledger.leases.abort_turn(&open.of);
        }
        if self.claims.get(&job).is_some_and(|open| open.statements == statements)
            && let Some(open) = self.claims.remove(&job)
        {
            self.ledger.abort_claim(&open.of);
        }
    }

    /// The client of a transaction closes its connection.
    pub(super) fn hang_up(&mut self, job: u64, process: usize) {
        let statements = self.turn.as_ref().filter(|(open, _)| *open == job).map(|(_, open)| open.statements);
        let statements = statements.or_else(|| self.claims.get(&job).map(|open| open.statements));
        if let Some(statements) = statements
            && !self.processes[process].cut_from_database
        {
            let wait = self.dice.between(1, 100);
            self.push(wait, Event::ServerEnds(job, statements));
        }
    }
}

fn claim<'a>(
    order: &'a Order,
    epoch: i64,
    claimed_by: &'a str,
    engine: &'a EngineName,
    workspace: &'a WorkspaceId,
) -> Claim<'a> {
    Claim {
        of: order.of,
        workspace,
        engine,
        container_id: Some(&order.convicted.container_id),
        started_at: order.convicted.started_at,
        attempt: order.attempt,
        epoch,
        verdict: if order.kills { "wedged" } else { "dead" },
        evidence: Evidence { status: order.status, heartbeat: order.heartbeat, activity: None },
        claimed_by,
        deadline: order.deadline,
    }
}
