//! Writes calls to the judge as bytes. What has not changed since the last call is left out.
//!
//! ```text
//! fleet    [op][whole][at][clock][started]     members  changed rows
//! call     [op][at]                            how many were called, and a digest of who
//! changes  [op][at][clock][started]            members  changed rows  floor  who is gone
//! pass     [op][now][stamp][engine][left out]  members  changed looks  what was said
//! tick, prune, stir, rare
//! ```
//!
//! Members are the workspaces in the order in which they were told, by numbers that are given out when an id is first met. Moments and
//! clocks are differences from the last ones.

use std::collections::HashMap;

use defib_policy::fleet::{FleetRead, Workspace};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::{EngineEvidence, Look, ReadStamp};
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::plan::Plan;
use defib_policy::sample::Observation;

use crate::known::{
    EngineMemo, IN_FLIGHT, ON_HOLD, OURS, QUEUED, ROW_ACTIVITY, ROW_BEAT, ROW_TASKS, ROW_WHOLE, SAMPLED, bit, grown_by,
};
use crate::seen::Seen;
use crate::told::{Called, Rare, digest};
use crate::wire::{put, put_bytes, put_signed, put_value};
use crate::written::{self, RowChange, Written};

pub(crate) const OP_DEFINE: u8 = 1;
pub(crate) const OP_ENGINE: u8 = 2;
pub(crate) const OP_FLEET: u8 = 3;
pub(crate) const OP_PASS: u8 = 4;
pub(crate) const OP_TICK: u8 = 5;
pub(crate) const OP_PRUNE: u8 = 6;
pub(crate) const OP_RARE: u8 = 7;
pub(crate) const OP_CALL: u8 = 8;
pub(crate) const OP_CHANGES: u8 = 9;
pub(crate) const OP_STIR: u8 = 10;

pub(crate) const LOOK_ROW: u8 = 1;
pub(crate) const LOOK_SEEN: u8 = 2;
pub(crate) const LOOK_AT: u8 = 4;
pub(crate) const LOOK_AGED: u8 = 8;
pub(crate) const LOOK_ATTEMPTS: u8 = 16;
pub(crate) const LOOK_FLAGS: u8 = 32;
pub(crate) const LOOK_OWN: u8 = 64;

/// A pass over at least this many workspaces is remembered as the one whose list the next pass over the engine is compared with. A shorter
/// one is about a few workspaces, and its list does not come again.
pub(crate) const MEMBERS_KEPT: usize = 8;

/// Writes calls, and remembers what was written.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    out: Vec<u8>,
    changed: Vec<u8>,
    members: Vec<u32>,
    written: Written,
    order: Vec<u32>,
    names: HashMap<EngineName, u32>,
    engines: HashMap<Option<u32>, EngineMemo>,
    at: Moment,
    database: Timestamp,
    started: Timestamp,
}

impl Encoder {
    /// Forgets what was written: the next calls are written whole, as a segment's first ones are.
    pub(crate) fn forget(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        *self = Self { out, ..Self::default() };
    }

    /// Bytes that wait to be taken.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// The database's clock in what was written last, in microseconds.
    pub(crate) const fn clock(&self) -> i64 {
        self.database.0
    }

    /// A read of the fleet.
    pub(crate) fn fleet(&mut self, read: &FleetRead, whole: bool) {
        let order = std::mem::take(&mut self.order);
        self.number(read.workspaces.iter().map(|row| &row.id), &order);
        self.out.push(OP_FLEET);
        self.out.push(u8::from(whole));
        self.put_read(read, &order);
        self.order = order;
        if whole {
            self.order.clone_from(&self.members);
        }
    }

    /// The judge was asked which workspaces the next read of what has changed must bring by id.
    pub(crate) fn call(&mut self, at: Moment, called: Called) {
        self.out.push(OP_CALL);
        self.moment(at);
        put(&mut self.out, called.count);
        self.out.extend(called.digest.to_le_bytes());
    }

    /// A read of what has changed.
    pub(crate) fn changes(&mut self, read: &FleetRead, floor: Timestamp, gone: &[WorkspaceId]) {
        self.number(gone.iter(), &[]);
        let gone = std::mem::take(&mut self.members);
        self.number(read.workspaces.iter().map(|row| &row.id), &[]);
        self.out.push(OP_CHANGES);
        self.put_read(read, &[]);
        put_signed(&mut self.out, floor.0.wrapping_sub(read.database_now.0));
        put(&mut self.out, gone.len() as u64);
        for number in gone {
            put(&mut self.out, u64::from(number));
        }
    }

    /// Something happened to a workspace that passes had left out.
    pub(crate) fn stir(&mut self, id: &WorkspaceId) {
        let number = self.written.number(id).unwrap_or_else(|| {
            put_id(&mut self.out, id);
            self.written.define(id)
        });
        self.out.push(OP_STIR);
        put(&mut self.out, u64::from(number));
    }

    /// The clocks and the rows of a read, whose members have their numbers. `before` are the members that need not be written.
    fn put_read(&mut self, read: &FleetRead, before: &[u32]) {
        self.moment(read.at);
        self.clock_reading(read.database_now);
        put_signed(&mut self.out, read.database_started_at.0.wrapping_sub(self.started.0));
        self.started = read.database_started_at;
        self.put_members(before);
        let (mut count, mut last) = (0_u64, 0);
        self.changed.clear();
        for (place, (row, number)) in read.workspaces.iter().zip(&self.members).enumerate() {
            if let Some(change) = self.written.row_change(*number, row) {
                put(&mut self.changed, (place - last) as u64);
                (count, last) = (count + 1, place);
                put_row(&mut self.changed, row, &change);
                self.written.remember(*number, &change);
            }
        }
        put(&mut self.out, count);
        self.out.extend_from_slice(&self.changed);
    }

    /// A pass, and what the judge said in it.
    pub(crate) fn pass(
        &mut self,
        now: Moment,
        stamp: ReadStamp,
        engine: Option<(&EngineName, &EngineEvidence)>,
        looks: &[Look<'_>],
        left_out: u64,
        plan: &Plan,
    ) {
        let key = engine.map(|(name, _)| self.name(name));
        let mut memo = self.engines.remove(&key).unwrap_or_default();
        self.number(looks.iter().map(|look| &look.workspace.id), &memo.members);
        self.out.push(OP_PASS);
        self.moment(now);
        put_signed(&mut self.out, nanos_between(stamp.at, now));
        self.clock_reading(stamp.database_now);
        put(&mut self.out, key.map_or(0, |key| u64::from(key) + 1));
        put(&mut self.out, left_out);
        if let Some((_, evidence)) = engine {
            self.put_evidence(&mut memo, evidence);
        }
        self.put_members(&memo.members);
        if self.members.len() >= MEMBERS_KEPT {
            memo.members.clone_from(&self.members);
        }
        self.engines.insert(key, memo);
        self.put_looks(now, looks);
        self.put_said(plan);
    }

    /// A tick of the whole fleet.
    pub(crate) fn tick(&mut self, clean: bool) {
        self.out.extend([OP_TICK, u8::from(clean)]);
    }

    /// The judge dropped what has expired.
    pub(crate) fn prune(&mut self, at: Moment) {
        self.out.push(OP_PRUNE);
        self.moment(at);
    }

    /// Something that happens rarely.
    pub(crate) fn rare(&mut self, rare: &Rare) {
        self.out.push(OP_RARE);
        put_value(&mut self.out, rare);
    }

    fn moment(&mut self, at: Moment) {
        put_signed(&mut self.out, nanos_between(at, self.at));
        self.at = at;
    }

    fn clock_reading(&mut self, clock: Timestamp) {
        put_signed(&mut self.out, clock.0.wrapping_sub(self.database.0));
        self.database = clock;
    }

    /// The number of an engine.
    fn name(&mut self, name: &EngineName) -> u32 {
        if let Some(number) = self.names.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.insert(name.clone(), number);
        self.out.push(OP_ENGINE);
        put_bytes(&mut self.out, name.as_str().as_bytes());
        number
    }

    /// The numbers of workspaces, into `members`. Those of `likely`, in this order, are tried first.
    fn number<'a>(&mut self, ids: impl Iterator<Item = &'a WorkspaceId>, likely: &[u32]) {
        let out = &mut self.out;
        self.written.numbers(ids, likely, &mut self.members, |id| put_id(out, id));
    }

    fn put_members(&mut self, before: &[u32]) {
        if self.members == before {
            return self.out.push(0);
        }
        self.out.push(1);
        put(&mut self.out, self.members.len() as u64);
        let mut last = 0;
        for number in &self.members {
            put_signed(&mut self.out, i64::from(*number) - last);
            last = i64::from(*number) + 1;
        }
    }

    fn put_evidence(&mut self, memo: &mut EngineMemo, evidence: &EngineEvidence) {
        let offset = |of: &EngineEvidence| of.clock_offset_micros;
        let alike = memo.evidence.as_mut().is_some_and(|before| {
            let (was, is) = (offset(before), offset(evidence));
            let alike = was.is_some() == is.is_some() && {
                before.clock_offset_micros = is;
                before == evidence
            };
            before.clock_offset_micros = was;
            alike
        });
        if let Some(before) = memo.evidence.as_mut().filter(|_| alike) {
            self.out.push(0);
            if let Some((was, is)) = before.clock_offset_micros.zip(evidence.clock_offset_micros) {
                put_signed(&mut self.out, is.wrapping_sub(was));
            }
            before.clock_offset_micros = evidence.clock_offset_micros;
        } else {
            self.out.push(1);
            put_value(&mut self.out, evidence);
            memo.evidence = Some(evidence.clone());
        }
    }

    fn put_looks(&mut self, now: Moment, looks: &[Look<'_>]) {
        let common = looks.iter().find_map(|look| look.sample).map_or(now, |sample| sample.at);
        put_signed(&mut self.out, nanos_between(common, now));
        let (mut count, mut last, mut grown) = (0_u64, 0, 0);
        self.changed.clear();
        for (place, (look, number)) in looks.iter().zip(&self.members).enumerate() {
            let row = self.written.row_change(*number, look.workspace);
            if let Some(change) = &row {
                self.written.remember(*number, change);
            }
            let Some(before) = self.written.look(*number) else { continue };
            let seen = look.sample.map(|sample| &sample.observation);
            let is_aged = !look.attempts.is_empty() && before.attempts != look.attempts;
            let aged = if is_aged { grown_by(&before.attempts, look.attempts) } else { None };
            let own_differs = before.own.as_deref() != look.own;
            let flags = flags_of(look);
            let changes = bit(row.is_some(), LOOK_ROW)
                | bit(seen.is_some() && seen != before.observation.as_ref(), LOOK_SEEN)
                | bit(look.sample.is_some_and(|sample| sample.at != common), LOOK_AT)
                | bit(aged.is_some(), LOOK_AGED)
                | bit(aged.is_none() && before.attempts != look.attempts, LOOK_ATTEMPTS)
                | bit(before.flags != flags, LOOK_FLAGS)
                | bit(own_differs, LOOK_OWN);
            if changes == 0 {
                continue;
            }
            put(&mut self.changed, (place - last) as u64);
            (count, last) = (count + 1, place);
            self.changed.push(changes);
            if let Some(change) = &row {
                put_row(&mut self.changed, look.workspace, change);
            }
            if let Some(observation) = seen.filter(|_| changes & LOOK_SEEN != 0) {
                put_seen(&mut self.changed, before, observation);
            }
            if let Some(sample) = look.sample.filter(|_| changes & LOOK_AT != 0) {
                put_signed(&mut self.changed, nanos_between(sample.at, common));
            }
            if let Some(by) = aged {
                put_signed(&mut self.changed, by.wrapping_sub(grown));
                grown = by;
            }
            if changes & LOOK_ATTEMPTS != 0 {
                put_value(&mut self.changed, &look.attempts);
            }
            if changes & (LOOK_ATTEMPTS | LOOK_AGED) != 0 {
                before.attempts.clear();
                before.attempts.extend_from_slice(look.attempts);
            }
            if changes & LOOK_FLAGS != 0 {
                self.changed.push(flags);
                before.flags = flags;
            }
            if own_differs {
                put_value(&mut self.changed, &look.own);
                before.own = look.own.cloned().map(Box::new);
            }
        }
        put(&mut self.out, count);
        self.out.extend_from_slice(&self.changed);
    }

    fn put_said(&mut self, plan: &Plan) {
        let digest = digest(plan);
        if digest == 0 {
            return self.out.push(0);
        }
        self.out.push(1);
        self.out.extend(digest.to_le_bytes());
        put(&mut self.out, plan.changes.len() as u64);
        for change in &plan.changes {
            let number = self.written.number(&change.workspace).unwrap_or(u32::MAX);
            put_value(&mut self.out, &(number, change.to, change.evidence.rule, change.evidence.held));
        }
        put(&mut self.out, plan.restarts.len() as u64);
        for order in &plan.restarts {
            let number = self.written.number(&order.workspace).unwrap_or(u32::MAX);
            put_value(&mut self.out, &(number, order.attempt));
        }
    }
}

fn flags_of(look: &Look<'_>) -> u8 {
    bit(look.in_flight, IN_FLIGHT)
        | bit(look.queued, QUEUED)
        | bit(look.ours, OURS)
        | bit(look.on_hold, ON_HOLD)
        | bit(look.sample.is_some(), SAMPLED)
}

/// Gives an id the next number.
fn put_id(out: &mut Vec<u8>, id: &WorkspaceId) {
    out.push(OP_DEFINE);
    put_bytes(out, id.as_str().as_bytes());
}

fn put_row(out: &mut Vec<u8>, row: &Workspace, change: &RowChange) {
    out.push(change.bits);
    if change.bits & ROW_WHOLE != 0 {
        return put_value(out, row);
    }
    if change.bits & ROW_BEAT != 0 {
        put_signed(out, change.beat_by);
    }
    if change.bits & ROW_ACTIVITY != 0 {
        put_signed(out, change.activity_by);
    }
    if change.bits & ROW_TASKS != 0 {
        put_signed(out, i64::from(row.active_tasks));
    }
}

fn put_seen(out: &mut Vec<u8>, before: &mut written::Look, observation: &Observation) {
    put_value(out, &Seen::after(before.life.as_ref(), observation));
    if let Some(life) = observation.incarnation()
        && before.life.as_ref() != Some(life)
    {
        before.life = Some(life.clone());
    }
    before.observation = Some(observation.clone());
}

/// `to` minus `from`, in nanoseconds.
fn nanos_between(to: Moment, from: Moment) -> i64 {
    to.nanos().wrapping_sub(from.nanos()).cast_signed()
}
