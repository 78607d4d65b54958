//! A replica's process: its clock, what it believes to own, and what it is at besides restarts: turns, passes, settling.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use defib_policy::backoff::allowance;
use defib_policy::id::EngineName;
use defib_policy::moment::Moment;
use defib_policy::ownership::Ownership;
use defib_policy::restart::left_behind::{self, Settle};
use defib_policy::sample::Observation;

use super::deadlines::LEASE_TTL;
use super::state::{Answer, Event, Job, Kind, Mend, Order, Process, Read, Restart, Stage, Statement, Walk};
use crate::ledger::OpenAttempt;
use crate::time::{Ms, moment, secs, span};
use crate::weakening::Weakening;

/// `DEFIB_POLL_INTERVAL`, and the third of the TTL at which turns are taken.
const TICK: Ms = 5_000;

impl Job {
    fn new(process: usize, kind: Kind) -> Self {
        Self { process, ticket: 0, kind }
    }

    /// A point at which being stopped is interesting.
    pub(super) fn is_delicate(&self) -> bool {
        matches!(&self.kind, Kind::Restart(restart) if restart.is_delicate())
    }
}

impl Process {
    /// What its clock shows.
    pub(super) fn clock(&self, now: Ms) -> Moment {
        moment(now, self.lost)
    }

    /// The epoch of its lease on an engine, while it surely lasts.
    pub(super) fn epoch(&self, engine: &EngineName, now: Ms) -> Option<i64> {
        self.ownership.epoch(engine, self.clock(now))
    }

    fn owned(&self, now: Ms) -> BTreeMap<EngineName, i64> {
        self.ownership.owned(self.clock(now))
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }
}

impl Walk {
    /// A process of a replica begins: under the name of the last one, or a new one as `host-pid` has it.
    pub(super) fn be_born(&mut self, slot: usize) {
        let number = self.processes.len();
        let last = self.processes.iter().rev().find(|it| it.slot == slot).map(|it| it.name.clone());
        let name = last.filter(|_| self.dice.chance(0.5)).unwrap_or_else(|| format!("r{slot}-{number}"));
        self.note(|| format!("p{number} is born as {name}"));
        self.processes.push(Process {
            slot,
            name,
            alive: true,
            paused_until: 0,
            cut_from_database: false,
            cut_from_engines: false,
            in_flight: BTreeSet::new(),
            lost: 0,
            ownership: Ownership::default(),
            turning: false,
            settling: false,
            passing: BTreeSet::new(),
            stopping: false,
        });
        let wait = self.dice.below(TICK);
        self.push(wait, Event::Tick(number));
    }

    /// A process that lives and is not stopped.
    pub(super) fn somebody(&mut self) -> Option<usize> {
        let now = self.now;
        let able: Vec<usize> = (0..self.processes.len())
            .filter(|n| self.processes[*n].alive && self.processes[*n].paused_until <= now)
            .collect();
        self.dice.pick(&able).copied()
    }

    /// A process is stopped for a while, its clock going on; or suspended with its clock.
    pub(super) fn pause(&mut self, process: usize, lasting: Ms, suspended: bool) {
        let now = self.now;
        let it = &mut self.processes[process];
        if !it.alive || it.paused_until > now {
            return;
        }
        it.paused_until = now + lasting;
        it.lost += if suspended { lasting } else { 0 };
        let slot = it.slot;
        self.note(|| format!("p{process} {} for {lasting} ms", if suspended { "is suspended" } else { "is stopped" }));
        for job in self.jobs.values_mut().filter(|job| job.process == process) {
            if let Kind::Restart(restart) = &mut job.kind {
                restart.paused(suspended);
            }
        }
        if lasting > secs(10) && self.dice.chance(0.15) {
            // Somebody takes it for dead and starts another one, under the same name by chance.
            self.be_born(slot);
            let wait = lasting + self.dice.below(secs(20));
            self.push(wait, Event::Kill(process));
        }
    }

    pub(super) fn kill(&mut self, process: usize) {
        if !self.processes[process].alive {
            return;
        }
        self.note(|| format!("p{process} is killed"));
        self.processes[process].alive = false;
        let jobs: Vec<u64> = self.jobs.iter().filter(|(_, job)| job.process == process).map(|(n, _)| *n).collect();
        for job in jobs {
            self.jobs.remove(&job);
            self.hang_up(job, process);
        }
        let slot = self.processes[process].slot;
        if !self.processes.iter().any(|it| it.alive && it.slot == slot) {
            let wait = self.dice.below(secs(30));
            self.push(wait, Event::Mend(Mend::Reborn(slot)));
        }
    }

    /// A clean stop begins: what is idle is given up at once.
    pub(super) fn stop(&mut self, process: usize) {
        self.note(|| format!("p{process} is to stop"));
        self.processes[process].stopping = true;
        self.release(process);
    }

    fn release(&mut self, process: usize) {
        let busy = self.busy(process);
        let ownership = &mut self.processes[process].ownership;
        if ownership.as_of_the_last_turn().is_none() {
            return;
        }
        let idle = ownership.take_idle(&busy);
        self.begin(Job::new(process, Kind::Say(Some(Statement::Release(idle)))));
    }

    fn busy(&self, process: usize) -> BTreeSet<EngineName> {
        let in_flight = &self.processes[process].in_flight;
        in_flight.iter().map(|of| self.engines[self.boxes[*of].engine].clone()).collect()
    }

    /// The process's interval.
    pub(super) fn tick(&mut self, process: usize) {
        let now = self.now;
        let it = &self.processes[process];
        if !it.alive {
            return;
        }
        if it.paused_until > now {
            let wait = it.paused_until - now + self.dice.below(3);
            return self.push(wait, Event::Tick(process));
        }
        let (stopping, idle) = (it.stopping, it.in_flight.is_empty());
        let (turning, settling) = (it.turning, it.settling);
        self.push(TICK, Event::Tick(process));
        if stopping {
            if idle {
                self.release(process);
                self.push(5, Event::Kill(process));
            }
            return;
        }
        if !turning {
            self.processes[process].turning = true;
            let at = self.processes[process].clock(now);
            self.begin(Job::new(process, Kind::Turn { at, begun: false }));
        }
        let owned = self.processes[process].owned(now);
        for engine in 0..self.engines.len() {
            if owned.contains_key(&self.engines[engine]) && self.processes[process].passing.insert(engine) {
                self.begin(Job::new(process, Kind::Pass { engine, read: None, looked: 0 }));
            }
        }
        if !settling && !owned.is_empty() {
            self.processes[process].settling = true;
            self.begin(Job::new(process, Kind::Settle { owned, left: None, looks: false }));
        }
    }

    /// A job goes on with an answer. False: it has ended.
    pub(super) fn advance(&mut self, number: u64, job: &mut Job, answer: Answer) -> bool {
        let mut kind = std::mem::replace(&mut job.kind, Kind::Say(None));
        let goes_on = match &mut kind {
            Kind::Turn { at, begun } => self.turn_goes_on(number, job, *at, begun, answer),
            Kind::Say(statement) => match statement.take() {
                Some(statement) => {
                    self.ask(number, job, statement);
                    true
                }
                None => false,
            },
            Kind::Pass { engine, read, looked } => self.pass_goes_on(number, job, *engine, read, looked, answer),
            Kind::Settle { owned, left, looks } => self.settling_goes_on(number, job, owned, left, looks, answer),
            Kind::Restart(restart) => self.restart_goes_on(number, job, restart, answer),
        };
        job.kind = kind;
        goes_on
    }

    /// A job has ended, one way or another.
    pub(super) fn ended(&mut self, job: Job) {
        let it = &mut self.processes[job.process];
        match job.kind {
            Kind::Turn { .. } => it.turning = false,
            Kind::Pass { engine, .. } => _ = it.passing.remove(&engine),
            Kind::Settle { .. } => it.settling = false,
            Kind::Restart(restart) => _ = it.in_flight.remove(&restart.order.of),
            Kind::Say(_) => {}
        }
    }

    fn turn_goes_on(&mut self, number: u64, job: &Job, at: Moment, begun: &mut bool, answer: Answer) -> bool {
        match answer {
            Answer::Go => {
                let owned = self.processes[job.process].ownership.as_of_the_last_turn().cloned();
                let busy = self.busy(job.process);
                self.ask(number, job, Statement::TurnBegin { owned, busy });
                true
            }
            Answer::Begun => {
                *begun = true;
                self.ask(number, job, Statement::TurnCommit);
                true
            }
            Answer::Turned(table) => {
                let it = &mut self.processes[job.process];
                if !it.stopping {
                    it.ownership = Ownership::new(table.turned(at), span(LEASE_TTL), &self.engines);
                }
                false
            }
            _ => {
                // What was owned is owned until it expires.
                self.hang_up(number, job.process);
                false
            }
        }
    }

    fn pass_goes_on(
        &mut self,
        number: u64,
        job: &Job,
        engine: usize,
        read: &mut Option<Vec<Read>>,
        looked: &mut usize,
        answer: Answer,
    ) -> bool {
        match answer {
            Answer::Go => {
                self.ask(number, job, Statement::Read(engine));
                return true;
            }
            Answer::Read(rows) => *read = Some(rows),
            Answer::Seen { observation, life, hangs, .. } => {
                if let Some(row) = read.as_ref().and_then(|read| read.get(*looked)).cloned() {
                    self.judge(job.process, engine, &row, &observation, life, hangs);
                }
                *looked += 1;
            }
            _ => return false,
        }
        let Some(next) = read.as_ref().and_then(|read| read.get(*looked)) else { return false };
        self.look(number, job.ticket, job.process, next.of);
        true
    }

    /// The judge is not on trial: it knows who hangs. Everything else is as old as its pass.
    fn judge(&mut self, process: usize, engine: usize, row: &Read, seen: &Observation, life: u64, hangs: bool) {
        let (now, of) = (self.now, row.of);
        let it = &self.processes[process];
        let ours = it.epoch(&self.engines[engine], now).is_some() && !it.stopping;
        if !ours || !row.facts.is_watched() || it.in_flight.contains(&of) {
            return;
        }
        let Some(convicted) = seen.incarnation().cloned() else { return };
        let kills = match seen {
            Observation::Running { .. } if hangs => true,
            Observation::Stopped { .. } => false,
            _ => {
                let newest = row.attempts.iter().find(|it| it.counts());
                let another = newest.filter(|it| {
                    it.recovered_ago.is_none()
                        && (it.started_at != convicted.started_at
                            || it.container_id.as_ref() != Some(&convicted.container_id))
                });
                if let Some(id) = another.map(|it| it.id) {
                    self.begin(Job::new(process, Kind::Say(Some(Statement::Recovered(id, of)))));
                }
                return;
            }
        };
        let down_for = span(self.boxes[of].down_since.map_or(0, |since| now - since));
        let allowed = allowance(&row.attempts, Some(&convicted), down_for, &self.settings);
        // The ledger does not rely on a judge that has read it lately.
        let open = allowed.open && !self.dice.chance(0.1);
        if row.on_hold || open || !allowed.wait.is_zero() {
            return;
        }
        let order = Order {
            of,
            kills,
            convicted,
            life,
            attempt: allowed.attempt,
            status: row.facts.status,
            heartbeat: row.facts.heartbeat,
            deadline: Duration::ZERO,
        };
        let ordered_at = self.processes[process].clock(now);
        self.processes[process].in_flight.insert(of);
        self.begin(Job::new(process, Kind::Restart(Box::new(Restart::new(order, ordered_at)))));
    }

    fn settling_goes_on(
        &mut self,
        number: u64,
        job: &Job,
        owned: &BTreeMap<EngineName, i64>,
        left: &mut Option<Vec<OpenAttempt>>,
        looks: &mut bool,
        answer: Answer,
    ) -> bool {
        match answer {
            Answer::Go => {
                self.ask(number, job, Statement::Open(owned.keys().cloned().collect()));
                return true;
            }
            Answer::Open(mut open) => {
                // Read after the rows: what is ours and under way was in flight before its row was there.
                open.retain(|attempt| !self.processes[job.process].in_flight.contains(&attempt.of));
                *left = Some(open);
            }
            Answer::Seen { observation, .. } if *looks => {
                *looks = false;
                let Some(attempt) = left.as_mut().and_then(Vec::pop) else { return false };
                let overdue = attempt.row.overdue || self.is(Weakening::SettleAtOnce);
                let ran = left_behind::restarts_what_runs(attempt.verdict) && !self.is(Weakening::AnyNewLifeIsOurs);
                let container = attempt.container_id.as_ref();
                let convicted = attempt.started_at;
                let asked = left_behind::Asked { container, convicted, ran, overdue, elsewhere: false };
                if let Some((outcome, _)) = left_behind::by_its_container(&observation, asked).conclusion() {
                    self.ask(number, job, Statement::Finish(attempt.id, outcome));
                    return true;
                }
            }
            Answer::Ended => {}
            _ => return false,
        }
        loop {
            let Some(attempt) = left.as_ref().and_then(|left| left.last()) else { return false };
            let ours = owned.get(&attempt.engine).copied().unwrap_or_default();
            let ours = if self.is(Weakening::SettleLaterEpochs) { i64::MAX } else { ours };
            let acting = attempt.row.acting && !self.is(Weakening::AbandonTheActing);
            match left_behind::by_its_row(left_behind::Row { acting, ..attempt.row }, ours) {
                None => {
                    *looks = true;
                    self.look(number, job.ticket, job.process, attempt.of);
                    return true;
                }
                Some(Settle::Unasked) => {
                    self.ask(number, job, Statement::Abandon(attempt.id));
                    left.as_mut().and_then(Vec::pop);
                    return true;
                }
                Some(_) => _ = left.as_mut().and_then(Vec::pop),
            }
        }
    }
}

impl Restart {
    /// Its process was stopped at this point.
    fn paused(&mut self, suspended: bool) {
        let after_its_clock = self.stage == Stage::Leaves;
        let after_the_yes = self.stage == Stage::LastCheck || self.waits_for_the_yes();
        self.window |= after_its_clock || (suspended && after_the_yes);
    }
}
