//! Bytes as calls to the judge again, and the scene that they change: rows, samples, attempts, as the judge was told them last.

use defib_policy::attempt::Attempt;
use defib_policy::fleet::{FleetRead, Workspace};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::{EngineEvidence, Look, OwnSettings, ReadStamp};
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::sample::Sample;
use std::collections::HashMap;

use crate::encode::{
    LOOK_AGED, LOOK_AT, LOOK_ATTEMPTS, LOOK_FLAGS, LOOK_OWN, LOOK_ROW, LOOK_SEEN, MEMBERS_KEPT, OP_CALL, OP_CHANGES,
    OP_DEFINE, OP_ENGINE, OP_FLEET, OP_PASS, OP_PRUNE, OP_RARE, OP_STIR, OP_TICK,
};
use crate::known::{
    EngineMemo, IN_FLIGHT, ON_HOLD, OURS, QUEUED, ROW_ACTIVITY, ROW_BEAT, ROW_TASKS, ROW_WHOLE, SAMPLED, Slot, age,
};
use crate::seen::Seen;
use crate::told::{Called, Pass, Rare, Said, SaidOf, Told};
use crate::wire::{Cursor, Garbled};

/// Everything that the judge had been told when the present call was made.
#[derive(Debug)]
pub struct Scene {
    slots: Vec<Slot>,
    index: HashMap<WorkspaceId, u32>,
    names: Vec<EngineName>,
    engines: HashMap<Option<u32>, EngineMemo>,
    at: Moment,
    order: Vec<u32>,
    fleet: FleetRead,
    part: FleetRead,
    /// Rows that were told anew since the last read of the whole fleet, and are not yet in `fleet`.
    moved: Vec<u32>,
    clock: Timestamp,
}

impl Default for Scene {
    fn default() -> Self {
        let none = FleetRead {
            at: Moment::ZERO,
            database_now: Timestamp(0),
            database_started_at: Timestamp(0),
            workspaces: Vec::new(),
        };
        Self {
            slots: Vec::new(),
            index: HashMap::new(),
            names: Vec::new(),
            engines: HashMap::new(),
            at: Moment::ZERO,
            order: Vec::new(),
            fleet: none.clone(),
            part: none,
            moved: Vec::new(),
            clock: Timestamp(0),
        }
    }
}

impl Scene {
    /// The last read of the whole fleet, or the last one of a part of it: of a few named ones, or of what had changed.
    #[must_use]
    pub const fn read(&self, whole: bool) -> &FleetRead {
        if whole { &self.fleet } else { &self.part }
    }

    /// The looks that the judge was given in a pass.
    #[must_use]
    pub fn looks(&self, pass: &Pass) -> Vec<Look<'_>> {
        pass.members.iter().filter_map(|number| self.look(*number)).collect()
    }

    /// The last look at a workspace.
    #[must_use]
    pub fn look(&self, number: u32) -> Option<Look<'_>> {
        let slot = self.slots.get(number as usize)?;
        Some(Look {
            workspace: slot.row.as_ref()?,
            sample: slot.sample.as_ref().filter(|_| slot.flags & SAMPLED != 0),
            attempts: &slot.attempts,
            in_flight: slot.flags & IN_FLIGHT != 0,
            queued: slot.flags & QUEUED != 0,
            ours: slot.flags & OURS != 0,
            on_hold: slot.flags & ON_HOLD != 0,
            own: slot.own.as_ref(),
        })
    }

    /// The row of a workspace, as it was told last.
    #[must_use]
    pub fn row(&self, number: u32) -> Option<&Workspace> {
        self.slots.get(number as usize)?.row.as_ref()
    }

    /// The id of a workspace.
    #[must_use]
    pub fn id(&self, number: u32) -> Option<&WorkspaceId> {
        self.slots.get(number as usize).map(|slot| &slot.id)
    }

    /// The number of a workspace.
    #[must_use]
    pub fn number(&self, id: &WorkspaceId) -> Option<u32> {
        self.index.get(id).copied()
    }

    /// How many workspaces have a number.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether the judge was told of no workspace yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The database's clock, as it was read last.
    pub(crate) const fn last_clock(&self) -> Timestamp {
        self.clock
    }

    /// Reads the next call. `None`: the bytes are at their end.
    pub(crate) fn next(&mut self, cursor: &mut Cursor<'_>) -> Result<Option<Told>, Garbled> {
        while !cursor.is_empty() {
            match cursor.byte()? {
                OP_DEFINE => {
                    let id = std::str::from_utf8(cursor.bytes()?).map_err(|_| Garbled)?;
                    self.index.insert(id.into(), u32::try_from(self.slots.len()).map_err(|_| Garbled)?);
                    self.slots.push(Slot::new(id.into()));
                }
                OP_ENGINE => {
                    let name = std::str::from_utf8(cursor.bytes()?).map_err(|_| Garbled)?;
                    self.names.push(name.into());
                }
                OP_FLEET => return self.read_fleet(cursor).map(Some),
                OP_CALL => {
                    let at = self.moment(cursor)?;
                    let called = Called { count: cursor.number()?, digest: read_digest(cursor)? };
                    return Ok(Some(Told::Call { at, called }));
                }
                OP_CHANGES => return self.read_changes(cursor).map(Some),
                OP_STIR => return Ok(Some(Told::Stir { workspace: self.known(cursor.index()?)? })),
                OP_PASS => return self.read_pass(cursor).map(|pass| Some(Told::Pass(pass))),
                OP_TICK => return Ok(Some(Told::Tick { clean: cursor.byte()? != 0 })),
                OP_PRUNE => return Ok(Some(Told::Prune { at: self.moment(cursor)? })),
                OP_RARE => return Ok(Some(Told::Rare(cursor.value::<Rare>()?))),
                _ => return Err(Garbled),
            }
        }
        Ok(None)
    }

    fn moment(&mut self, cursor: &mut Cursor<'_>) -> Result<Moment, Garbled> {
        self.at = moved_by(self.at, cursor.signed()?);
        Ok(self.at)
    }

    fn clock_reading(&mut self, cursor: &mut Cursor<'_>) -> Result<Timestamp, Garbled> {
        self.clock = Timestamp(self.clock.0.wrapping_add(cursor.signed()?));
        Ok(self.clock)
    }

    /// The workspaces of a read or a pass, by their numbers. `None`: the same as in the one before.
    fn members(&self, cursor: &mut Cursor<'_>) -> Result<Option<Vec<u32>>, Garbled> {
        if cursor.byte()? == 0 {
            return Ok(None);
        }
        let count = cursor.size()?;
        let mut members = Vec::with_capacity(count.min(self.slots.len()));
        let mut last = 0;
        for _ in 0..count {
            let number = last + cursor.signed()?;
            let number_of = u32::try_from(number).ok().filter(|number| (*number as usize) < self.slots.len());
            members.push(number_of.ok_or(Garbled)?);
            last = number + 1;
        }
        Ok(Some(members))
    }

    /// A number that was given out.
    fn known(&self, number: u32) -> Result<u32, Garbled> {
        if (number as usize) < self.slots.len() { Ok(number) } else { Err(Garbled) }
    }

    fn read_fleet(&mut self, cursor: &mut Cursor<'_>) -> Result<Told, Garbled> {
        let whole = cursor.byte()? != 0;
        let order = self.read_rows(cursor, whole, |scene| scene.order.clone())?;
        if whole {
            self.settle_order(order)?;
        } else {
            self.part.workspaces = self.rows(&order)?;
        }
        Ok(Told::Fleet { whole })
    }

    fn read_changes(&mut self, cursor: &mut Cursor<'_>) -> Result<Told, Garbled> {
        let members = self.read_rows(cursor, false, |_| Vec::new())?;
        self.part.workspaces = self.rows(&members)?;
        let floor = Timestamp(self.part.database_now.0.wrapping_add(cursor.signed()?));
        let mut gone = Vec::new();
        for _ in 0..cursor.size()? {
            let number = self.known(cursor.index()?)?;
            gone.push(self.slots[number as usize].id.clone());
        }
        Ok(Told::Changes { floor, gone })
    }

    /// The clocks and the changed rows of a read. Returns its members, which are those of `before` where they are not written.
    fn read_rows(
        &mut self,
        cursor: &mut Cursor<'_>,
        whole: bool,
        before: impl FnOnce(&Self) -> Vec<u32>,
    ) -> Result<Vec<u32>, Garbled> {
        let at = self.moment(cursor)?;
        let database_now = self.clock_reading(cursor)?;
        let started = Timestamp(self.started().0.wrapping_add(cursor.signed()?));
        let order = self.members(cursor)?.unwrap_or_else(|| before(self));
        let mut place = 0;
        for _ in 0..cursor.size()? {
            place += cursor.size()?;
            let number = *order.get(place).ok_or(Garbled)?;
            let changes = cursor.byte()?;
            read_row(cursor, &mut self.slots[number as usize], changes)?;
            self.moved.push(number);
        }
        // The start of the server is written as a difference, so both reads keep the last one.
        self.fleet.database_started_at = started;
        self.part.database_started_at = started;
        let read = if whole { &mut self.fleet } else { &mut self.part };
        (read.at, read.database_now) = (at, database_now);
        Ok(order)
    }

    const fn started(&self) -> Timestamp {
        self.fleet.database_started_at
    }

    fn rows(&self, order: &[u32]) -> Result<Vec<Workspace>, Garbled> {
        order.iter().map(|number| self.slots[*number as usize].row.clone().ok_or(Garbled)).collect()
    }

    /// Brings the rows of the whole fleet up to date.
    fn settle_order(&mut self, order: Vec<u32>) -> Result<(), Garbled> {
        if order != self.order {
            self.fleet.workspaces = self.rows(&order)?;
            self.order = order;
            self.moved.clear();
            return Ok(());
        }
        self.moved.sort_unstable();
        self.moved.dedup();
        if self.moved.is_empty() {
            return Ok(());
        }
        for (number, row) in self.order.iter().zip(&mut self.fleet.workspaces) {
            if self.moved.binary_search(number).is_ok() {
                row.clone_from(self.slots[*number as usize].row.as_ref().ok_or(Garbled)?);
            }
        }
        self.moved.clear();
        Ok(())
    }

    fn read_pass(&mut self, cursor: &mut Cursor<'_>) -> Result<Pass, Garbled> {
        let now = self.moment(cursor)?;
        let at = moved_by(now, cursor.signed()?);
        let stamp = ReadStamp { at, database_now: self.clock_reading(cursor)? };
        let key = match cursor.index()? {
            0 => None,
            key => Some(key - 1),
        };
        let left_out = cursor.number()?;
        let mut memo = self.engines.remove(&key).unwrap_or_default();
        let engine = match key {
            None => None,
            Some(key) => {
                let name = self.names.get(key as usize).ok_or(Garbled)?.clone();
                Some((name, read_evidence(cursor, &mut memo)?))
            }
        };
        let members = self.members(cursor)?.unwrap_or_else(|| memo.members.clone());
        if members.len() >= MEMBERS_KEPT {
            memo.members.clone_from(&members);
        }
        self.engines.insert(key, memo);
        let asked_at = self.read_looks(cursor, now, &members)?;
        let said = read_said(cursor)?;
        Ok(Pass { now, stamp, engine, members, left_out, asked_at, said })
    }

    /// Reads the looks of a pass. Returns the moment at which the first workspace that has a sample was sampled.
    fn read_looks(&mut self, cursor: &mut Cursor<'_>, now: Moment, members: &[u32]) -> Result<Moment, Garbled> {
        let common = moved_by(now, cursor.signed()?);
        for number in members {
            if let Some(sample) = &mut self.slots[*number as usize].sample {
                sample.at = common;
            }
        }
        let (mut place, mut grown) = (0, 0_i64);
        for _ in 0..cursor.size()? {
            place += cursor.size()?;
            let number = *members.get(place).ok_or(Garbled)?;
            let slot = &mut self.slots[number as usize];
            let changes = cursor.byte()?;
            if changes & LOOK_ROW != 0 {
                let row = cursor.byte()?;
                read_row(cursor, slot, row)?;
                self.moved.push(number);
            }
            if changes & LOOK_SEEN != 0 {
                let observation = cursor.value::<Seen>()?.again(&mut slot.life)?;
                slot.sample = Some(Sample { at: common, observation });
            }
            if changes & LOOK_AT != 0 {
                let at = moved_by(common, cursor.signed()?);
                slot.sample.as_mut().ok_or(Garbled)?.at = at;
            }
            if changes & LOOK_AGED != 0 {
                grown = grown.wrapping_add(cursor.signed()?);
                slot.attempts.iter_mut().for_each(|attempt| age(attempt, grown));
            }
            if changes & LOOK_ATTEMPTS != 0 {
                slot.attempts = cursor.value::<Vec<Attempt>>()?;
            }
            if changes & LOOK_FLAGS != 0 {
                slot.flags = cursor.byte()?;
            }
            if changes & LOOK_OWN != 0 {
                slot.own = cursor.value::<Option<OwnSettings>>()?;
            }
        }
        Ok(common)
    }
}

fn read_evidence(cursor: &mut Cursor<'_>, memo: &mut EngineMemo) -> Result<EngineEvidence, Garbled> {
    if cursor.byte()? == 0 {
        let before = memo.evidence.as_mut().ok_or(Garbled)?;
        if let Some(offset) = &mut before.clock_offset_micros {
            *offset = offset.wrapping_add(cursor.signed()?);
        }
        return Ok(before.clone());
    }
    let evidence: EngineEvidence = cursor.value()?;
    memo.evidence = Some(evidence.clone());
    Ok(evidence)
}

fn read_row(cursor: &mut Cursor<'_>, slot: &mut Slot, changes: u8) -> Result<(), Garbled> {
    if changes & ROW_WHOLE != 0 {
        slot.row = Some(cursor.value()?);
        return Ok(());
    }
    let row = slot.row.as_mut().ok_or(Garbled)?;
    let later = |stamp: &mut Option<Timestamp>, by: i64| {
        let Some(stamp) = stamp else { return Err(Garbled) };
        *stamp = Timestamp(stamp.0.wrapping_add(by));
        Ok(())
    };
    if changes & ROW_BEAT != 0 {
        later(&mut row.last_heartbeat_at, cursor.signed()?)?;
    }
    if changes & ROW_ACTIVITY != 0 {
        later(&mut row.last_activity_at, cursor.signed()?)?;
    }
    if changes & ROW_TASKS != 0 {
        row.active_tasks = i32::try_from(cursor.signed()?).map_err(|_| Garbled)?;
    }
    Ok(())
}

fn read_said(cursor: &mut Cursor<'_>) -> Result<Said, Garbled> {
    if cursor.byte()? == 0 {
        return Ok(Said::default());
    }
    let mut said = Said { digest: read_digest(cursor)?, ..Said::default() };
    for _ in 0..cursor.size()? {
        let (workspace, verdict, rule, held) = cursor.value()?;
        said.changes.push(SaidOf { workspace, verdict, rule, held });
    }
    for _ in 0..cursor.size()? {
        said.restarts.push(cursor.value()?);
    }
    Ok(said)
}

fn read_digest(cursor: &mut Cursor<'_>) -> Result<u64, Garbled> {
    let mut digest = [0; 8];
    for byte in &mut digest {
        *byte = cursor.byte()?;
    }
    Ok(u64::from_le_bytes(digest))
}

fn moved_by(from: Moment, nanos: i64) -> Moment {
    Moment::at_nanos(from.nanos().wrapping_add(nanos.cast_unsigned()))
}
