//! A pass: over the whole fleet at each interval, over one workspace when something asks for it.

use std::time::Duration;

use defib_policy::fleet::{FleetRead, Kind, Workspace as Row};
use defib_policy::id::WorkspaceId;
use defib_policy::judge::{EngineEvidence, Judge, Look, ReadStamp};
use defib_policy::moment::Moment;
use defib_policy::plan::Plan;
use defib_policy::sample::{Fault, Observation, Sample};
use defib_policy::suspicion::{self, Report};
use defib_policy::verdict::Verdict;

use super::state::{Defib, ENGINE_TIMEOUT, Pending, index_of};
use crate::queue::{Event, Wake};
use crate::time::{Ms, mins, ms};
use crate::world::{World, id};

impl Defib {
    pub(super) fn sweep(&mut self, me: u8, world: &mut World) {
        let (now, at) = (world.now, self.moment(world.now));
        self.grow(world);
        self.turn_leases(world);
        let late = std::mem::take(&mut self.was_late);
        if self.can_read(&world.db) {
            let stamp = read_stamp(world, at);
            self.read_fleet(stamp, world);
            self.share_clock_steps(world);
            self.take_suspicions(world);
            if self.can_write(&world.db) {
                self.settle_left_behind(world);
            }
            let (mut asked, mut slow) = (0, 0);
            for engine in 0..world.engines.len() {
                // While a look at an engine is under way, the next pass leaves it out.
                if now < self.asked_until[engine] {
                    continue;
                }
                let took = self.whole_engine(me, engine, stamp, world);
                self.asked_until[engine] = now + took;
                asked += 1;
                slow += usize::from(took > ENGINE_TIMEOUT / 2);
            }
            self.externals(me, stamp, world);
            self.write_verdicts(world);
            if now >= self.pruned_at + mins(1) {
                self.pruned_at = now;
                self.judge.prune(at);
            }
            // One engine of several that is slow is its own trouble; only when all of them are may the trouble be ours.
            self.judge.observe_tick(!late && (asked == 0 || slow < asked));
        } else {
            self.last_read = None;
            self.judge.observe_tick(false);
        }
        self.sweep_due = now + ms(self.settings.poll_interval);
        world.push(self.sweep_due, Event::Wake(me, Wake::Sweep));
    }

    fn take_suspicions(&mut self, world: &mut World) {
        if world.db.suspicions.is_empty() {
            return;
        }
        let started = self.moment(self.started_at);
        for report in std::mem::take(&mut world.db.suspicions) {
            if !self.speaks_for(report.of, world) {
                world.db.suspicions.push(report);
                continue;
            }
            let at = self.moment(report.at);
            if !suspicion::is_too_old(at, started, self.settings.dead_window) {
                let (reporter, login) = (format!("reporter-{}", report.name), format!("login-{}", report.login));
                let id = &world.workspaces[report.of].id;
                self.judge.observe_suspicion(id, Report { reporter: &reporter, login: &login, at });
            }
        }
    }

    /// Looks at all of an engine and judges, now or when it answers. Returns how long the answer takes.
    fn whole_engine(&mut self, me: u8, engine: usize, stamp: ReadStamp, world: &mut World) -> Ms {
        let members = world.db.members.get(engine).cloned().unwrap_or_default();
        if members.is_empty() {
            return 0;
        }
        let mut evidence = self.evidence(engine, world);
        world.chronicle.engine_calls += 1;
        let doubted = [Verdict::Wedged, Verdict::Unhealthy, Verdict::Dead];
        let quick =
            world.engines[engine].is_plain() && doubted.iter().all(|verdict| self.judge.counts()[verdict.index()] == 0);
        if quick {
            for of in &members {
                if world.workspaces[*of].is_odd() || world.workspaces[*of].inspect_hangs {
                    return self.odd_engine(me, engine, evidence, stamp, &members, true, world);
                }
                world.workspaces[*of].listed.at = stamp.at;
            }
            evidence.fault = None;
            self.fill_attempts(&members, world);
            let all = self.judges_all(engine, &evidence, self.all_are_read(), world);
            let concerned = |of: &&usize| all || self.is_concerned(**of, Some(&world.workspaces[**of].listed), world);
            let judged: Vec<usize> = members.iter().filter(concerned).copied().collect();
            if !self.all_are_read() {
                self.read_again(&judged, world);
            }
            let ours = self.owns(engine, world);
            let looks: Vec<Look<'_>> = judged
                .iter()
                .filter_map(|of| {
                    Some(Look {
                        workspace: &world.db.view.workspaces[world.db.slots[*of]?],
                        sample: Some(&world.workspaces[*of].listed),
                        attempts: &self.attempts[*of],
                        in_flight: self.in_flight[*of],
                        queued: false,
                        ours,
                        on_hold: world.is_held(*of),
                        own: None,
                    })
                })
                .collect();
            let engine_says = Some((&world.engines[engine].name, &evidence));
            let plan = self.judge.judge_concerned(stamp.at, stamp, engine_says, &looks, members.len() - looks.len());
            self.carry_out(me, plan, ours, world);
            return world.engines[engine].list;
        }
        self.odd_engine(me, engine, evidence, stamp, &members, true, world)
    }

    /// The same where something is wrong: rows and samples are kept until the answer would arrive.
    #[expect(clippy::too_many_arguments, reason = "the parts of one look")]
    fn odd_engine(
        &mut self,
        me: u8,
        engine: usize,
        evidence: EngineEvidence,
        stamp: ReadStamp,
        members: &[usize],
        whole: bool,
        world: &mut World,
    ) -> Ms {
        let mut evidence = evidence;
        let facts = &world.engines[engine];
        let mut took = if whole { facts.list } else { facts.inspect };
        if took >= ENGINE_TIMEOUT {
            evidence.fault = Some(Fault::TimedOut);
        }
        if evidence.fault.is_some() {
            evidence.identity = None;
            took = if evidence.fault == Some(Fault::TimedOut) { ENGINE_TIMEOUT } else { 5 };
        }
        let (impostor, offset, now) = (facts.impostor.is_some(), facts.offset, world.now);
        let mut samples = Vec::with_capacity(members.len());
        for of in members {
            let observation = if let Some(fault) = evidence.fault {
                Observation::Unknown { fault }
            } else if impostor {
                Observation::Missing
            } else {
                let workspace = &world.workspaces[*of];
                let verdict = self.judge.verdict(&workspace.id);
                let doubted = matches!(verdict, Some(Verdict::Wedged | Verdict::Unhealthy | Verdict::Dead));
                let seen = workspace.observe(now, offset, !whole || doubted);
                let asked =
                    !whole || doubted || !matches!(seen, Observation::Running { .. } | Observation::Frozen { .. });
                if workspace.inspect_hangs && asked {
                    took = ENGINE_TIMEOUT;
                    Observation::Unknown { fault: Fault::TimedOut }
                } else {
                    seen
                }
            };
            if evidence.fault.is_none() {
                world.looked(*of);
            }
            samples.push(Sample { at: stamp.at, observation });
        }
        let rows: Vec<Row> =
            members.iter().filter_map(|of| Some(world.db.view.workspaces[world.db.slots[*of]?].clone())).collect();
        let all_are_read = !whole || self.all_are_read();
        let pending = Pending { engine, evidence, stamp, rows, samples, all_are_read };
        if took < 100 {
            self.judge_pending(me, &pending, world);
        } else {
            let number = self.number();
            self.pending.insert(number, pending);
            world.push(now + took, Event::Wake(me, Wake::Answer(number)));
        }
        took
    }

    pub(super) fn answered(&mut self, me: u8, number: u32, world: &mut World) {
        if let Some(pending) = self.pending.remove(&number) {
            self.judge_pending(me, &pending, world);
        }
    }

    fn judge_pending(&mut self, me: u8, pending: &Pending, world: &mut World) {
        let now = self.moment(world.now);
        let members: Vec<usize> = pending.rows.iter().map(|row| index_of(&row.id)).collect();
        self.fill_attempts(&members, world);
        let all = self.judges_all(pending.engine, &pending.evidence, pending.all_are_read, world);
        let concerned: Vec<bool> = members
            .iter()
            .zip(&pending.samples)
            .map(|(of, sample)| all || self.is_concerned(*of, Some(sample), world))
            .collect();
        if !pending.all_are_read {
            let judged: Vec<usize> = members.iter().zip(&concerned).filter(|(_, it)| **it).map(|(of, _)| *of).collect();
            self.read_again(&judged, world);
        }
        let ours = self.owns(pending.engine, world);
        let looks: Vec<Look<'_>> = pending
            .rows
            .iter()
            .zip(&pending.samples)
            .zip(&members)
            .zip(&concerned)
            .filter(|(_, concerned)| **concerned)
            .map(|(((workspace, sample), of), _)| Look {
                workspace,
                sample: Some(sample),
                attempts: &self.attempts[*of],
                in_flight: self.in_flight[*of],
                queued: false,
                ours,
                on_hold: world.is_held(*of),
                own: None,
            })
            .collect();
        let name = &world.engines[pending.engine].name;
        let left_out = members.len() - looks.len();
        let plan = self.judge.judge_concerned(now, pending.stamp, Some((name, &pending.evidence)), &looks, left_out);
        self.carry_out(me, plan, ours, world);
    }

    fn externals(&mut self, me: u8, stamp: ReadStamp, world: &mut World) {
        let external = |row: &&Row| row.kind == Kind::External;
        if !world.db.view.workspaces.iter().any(|row| external(&row)) {
            return;
        }
        let ours = self.ownership.fleet(self.moment(world.now)).is_some();
        let concerned = |row: &&Row| self.all_are_read() || self.judge.concerns(&row.id, None);
        let all = world.db.view.workspaces.iter().filter(external).count();
        let looks: Vec<Look<'_>> = world
            .db
            .view
            .workspaces
            .iter()
            .filter(external)
            .filter(concerned)
            .map(|workspace| Look {
                workspace,
                sample: None,
                attempts: &[],
                in_flight: false,
                queued: false,
                ours,
                on_hold: false,
                own: None,
            })
            .collect();
        let plan = self.judge.judge_concerned(stamp.at, stamp, None, &looks, all - looks.len());
        self.carry_out(me, plan, ours, world);
    }

    /// A suspicion asks for a look at one workspace: at once, or one spacing after the last one.
    pub(super) fn suspect(&mut self, me: u8, of: u32, world: &mut World) {
        if !self.speaks_for(of as usize, world) {
            return; // it waits in the table for its owner
        }
        let soonest = self.focused_at[of as usize] + spacing(&self.judge);
        if world.now >= soonest {
            self.focus(me, of as usize, world);
        } else {
            self.look_at(me, of as usize, soonest, world);
        }
    }

    pub(super) fn look_at(&mut self, me: u8, of: usize, at: Ms, world: &mut World) {
        let at = at.max(world.now + 1);
        let due = &mut self.look_due[of];
        if *due == 0 || at < *due {
            *due = at;
            world.push(at, Event::Wake(me, Wake::Look(id(of))));
        }
    }

    pub(super) fn focus(&mut self, me: u8, of: usize, world: &mut World) {
        if !self.can_read(&world.db) || world.workspaces[of].spec.kind == Kind::External {
            return;
        }
        let Some(slot) = world.db.slots[of] else { return };
        self.turn_if_lapsed(world);
        self.focused_at[of] = world.now;
        let stamp = read_stamp(world, self.moment(world.now));
        let read = FleetRead {
            at: stamp.at,
            database_now: stamp.database_now,
            database_started_at: crate::time::stamp(world.db.started_at, world.db.offset),
            workspaces: vec![world.db.view.workspaces[slot].clone()],
        };
        self.judge.observe_fleet(&read, false);
        self.take_suspicions(world);
        let engine = world.workspaces[of].engine;
        let evidence = self.evidence(engine, world);
        self.odd_engine(me, engine, evidence, stamp, &[of], false, world);
    }

    /// What a look at an engine tells of it as such.
    fn evidence(&mut self, engine: usize, world: &World) -> EngineEvidence {
        let facts = &world.engines[engine];
        let restarted = facts.fault.is_none() && facts.events && facts.returns != self.returns[engine];
        if facts.fault.is_none() {
            self.returns[engine] = facts.returns;
        }
        EngineEvidence {
            fault: facts.fault,
            identity: Some(facts.impostor.clone().unwrap_or_else(|| facts.identity.clone())),
            restarted,
            clock_offset_micros: Some(facts.offset - world.db.offset),
            abilities: world.abilities(engine),
        }
    }

    pub(super) fn fill_attempts(&mut self, members: &[usize], world: &World) {
        let (reset, clock) = (self.settings.attempts_horizon(), world.db.clock(world.now));
        for of in members {
            if world.db.ledger.knows(*of) {
                world.db.ledger.read_attempts(*of, clock, reset, &mut self.attempts[*of]);
            }
        }
    }

    /// Records a plan and hands its restarts over; `owner` says whether it speaks for what was judged.
    pub(super) fn carry_out(&mut self, me: u8, plan: Plan, owner: bool, world: &mut World) {
        let now = world.now;
        for change in &plan.changes {
            let of = index_of(&change.workspace);
            world.chronicle.verdicts.push((of, now, change.to.label()));
            self.unwritten.insert(of, (change.to, now));
            if owner && world.chronicle.trace.is_some() {
                let held = change.evidence.held.map(|held| format!(" [held: {}]", held.label())).unwrap_or_default();
                world.note(of, &format!("verdict {} — {}{held}", change.to.label(), change.evidence.because));
            }
        }
        self.write_verdicts(world);
        for (scope, begins) in &plan.storms {
            let engine = scope.as_ref().and_then(|name| world.engines.iter().position(|it| it.name == *name));
            world.chronicle.storm(me, engine, *begins, now);
            let scope = scope.as_ref().map_or("the fleet", |name| name.as_str());
            world.remark(&format!("storm {} for {scope}", if *begins { "begins" } else { "ends" }));
        }
        if !owner {
            return;
        }
        for (workspace, at) in &plan.looks {
            let wait = at.since(self.moment(now));
            self.look_at(me, index_of(workspace), now + millis(wait), world);
        }
        for recovery in &plan.recoveries {
            if self.can_write(&world.db) {
                let of = index_of(&recovery.workspace);
                world.db.recovered(recovery.attempt_id, of, now);
                world.note(of, "recovery verified");
            }
        }
        for order in plan.restarts {
            self.submit(me, order, world);
        }
    }

    /// Writes down what it has said, where it still speaks for the workspace. What could not be written is written by a later pass;
    /// nothing waits for it.
    fn write_verdicts(&mut self, world: &mut World) {
        if self.unwritten.is_empty() || !self.can_write(&world.db) || world.db.history_locked {
            return;
        }
        for (of, (verdict, since)) in std::mem::take(&mut self.unwritten) {
            if self.speaks_for(of, world) {
                world.db.recorded[of] = (verdict != Verdict::Alive).then_some((verdict, since));
            }
        }
    }

    /// The verdict on a workspace, for oracles.
    #[must_use]
    pub fn verdict(&self, id: &WorkspaceId) -> Option<defib_policy::verdict::Verdict> {
        self.judge.verdict(id)
    }
}

pub(super) fn read_stamp(world: &World, at: Moment) -> ReadStamp {
    ReadStamp { at, database_now: world.db.clock(world.now) }
}

fn millis(duration: Duration) -> Ms {
    ms(duration)
}

/// The spacing in force, as milliseconds.
fn spacing(judge: &Judge) -> Ms {
    ms(judge.settings().probe_spacing) * u64::from(judge.multiplier())
}
