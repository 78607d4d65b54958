//! What goes wrong, and when it is put right.

use std::time::Duration;

use super::state::{Event, Mend, Mood, Walk};
use crate::ledger::{Hold, HoldScope};
use crate::time::{Ms, secs};

impl Walk {
    /// One fault, and when the next is due.
    pub(super) fn fault(&mut self) {
        if self.heals {
            return;
        }
        let next = self.dice.wait(secs(2));
        self.push(next, Event::Fault);
        let of = self.number(self.boxes.len());
        match self.dice.below(100) {
            0..=39 => {
                let hangs = self.dice.chance(0.4);
                self.die(of, hangs);
            }
            40..=44 => {
                let anew = self.dice.chance(0.3);
                if self.boxes[of].facts.is_watched() {
                    self.platform_starts(of, anew);
                }
            }
            45..=49 => self.park(of),
            50..=52 => self.hold(of),
            53..=55 => {
                let clock = self.clock();
                self.ledger.acknowledge(of, clock);
            }
            56..=65 => {
                let engine = self.number(self.moods.len());
                let mood = &mut self.moods[engine];
                match self.dice.below(3) {
                    0 => mood.slow = true,
                    1 => mood.silent = true,
                    _ => mood.fails = true,
                }
                let mood = *mood;
                self.note(|| format!("engine {engine}: {mood:?}"));
                self.mend_later(Mend::Mood(engine));
            }
            66..=69 => self.pause_all(),
            _ => {
                if let Some(process) = self.somebody() {
                    self.trouble(process);
                }
            }
        }
    }

    /// The host of all processes stands still: each of them stops, some with their clocks, and they wake up one after the other.
    fn pause_all(&mut self) {
        self.tally.faults += 1;
        for process in 0..self.processes.len() {
            let (lasting, suspended) = (self.dice.between(secs(30), secs(120)), self.dice.chance(0.5));
            self.pause(process, lasting, suspended);
        }
    }

    /// A process in trouble.
    pub(super) fn trouble(&mut self, process: usize) {
        self.tally.faults += 1;
        match self.dice.below(10) {
            0..=4 => {
                let suspended = self.dice.chance(0.4);
                let lasting = self.lasting();
                self.pause(process, lasting, suspended);
            }
            5 | 6 => {
                self.note(|| format!("p{process} cut off from the database"));
                self.processes[process].cut_from_database = true;
                self.mend_later(Mend::Database(process));
            }
            7 => {
                self.note(|| format!("p{process} cut off from the engines"));
                self.processes[process].cut_from_engines = true;
                self.mend_later(Mend::Engines(process));
            }
            8 => self.kill(process),
            _ => self.stop(process),
        }
    }

    /// From a tenth of a second to two minutes, and mostly about as long as a lease lasts.
    fn lasting(&mut self) -> Ms {
        match self.dice.below(10) {
            0..=2 => self.dice.between(100, secs(4)),
            3..=6 => self.dice.between(secs(4), secs(30)),
            _ => self.dice.between(secs(30), secs(120)),
        }
    }

    fn mend_later(&mut self, mend: Mend) {
        let lasting = self.lasting();
        self.push(lasting, Event::Mend(mend));
    }

    fn park(&mut self, of: usize) {
        if self.ledger.is_inserting(of) || !self.boxes[of].facts.is_watched() {
            return; // the row is locked, or it is parked already
        }
        let (now, removes) = (self.now, self.dice.chance(0.8));
        let it = &mut self.boxes[of];
        it.beat(now);
        it.facts.status = "paused";
        if removes {
            it.runs = false;
            it.down_since.get_or_insert(now);
        }
        self.mind_the_put_away();
        self.note(|| format!("w{of} is parked"));
        self.mend_later(Mend::Parked(of));
    }

    fn hold(&mut self, of: usize) {
        let everything = self.dice.chance(0.5);
        let scope = if everything { HoldScope::Fleet } else { HoldScope::Workspace(self.names[of].clone()) };
        self.note(|| format!("hold of {scope:?}"));
        let expires_at = Some(self.clock().plus(Duration::from_secs(600)));
        self.ledger.holds.push(Hold { scope, owner: "op".into(), reason: "drill".into(), expires_at });
        self.mind_the_put_away();
        self.mend_later(Mend::Held);
    }

    /// Since when somebody has not wanted each of them to be restarted.
    fn mind_the_put_away(&mut self) {
        let (now, clock) = (self.now, self.clock());
        for of in 0..self.boxes.len() {
            let held = self.ledger.hold_reason(&self.names[of], &self.engines[self.boxes[of].engine], clock).is_some();
            let it = &mut self.boxes[of];
            let away = held || !it.facts.is_watched();
            it.put_away_at = away.then(|| it.put_away_at.unwrap_or(now));
        }
    }

    pub(super) fn mend(&mut self, mend: Mend) {
        self.note(|| format!("mended: {mend:?}"));
        match mend {
            Mend::Database(process) => self.processes[process].cut_from_database = false,
            Mend::Engines(process) => self.processes[process].cut_from_engines = false,
            Mend::Mood(engine) => self.moods[engine] = Mood::default(),
            Mend::Parked(of) if self.boxes[of].facts.is_watched() => {}
            Mend::Parked(of) => {
                if self.ledger.is_inserting(of) {
                    return self.push(100, Event::Mend(mend));
                }
                self.boxes[of].facts.status = "online";
                self.mind_the_put_away();
                let anew = self.dice.chance(0.5);
                self.platform_starts(of, anew);
            }
            Mend::Held => {
                self.ledger.holds.clear();
                self.mind_the_put_away();
            }
            Mend::Reborn(slot) => self.be_born(slot),
        }
    }

    /// Everything is put right, and nothing goes wrong any more.
    pub(super) fn heal(&mut self) {
        self.heals = true;
        self.note(|| "everything is mended".to_owned());
        for process in 0..self.processes.len() {
            let it = &mut self.processes[process];
            (it.cut_from_database, it.cut_from_engines) = (false, false);
        }
        for engine in 0..self.moods.len() {
            self.moods[engine] = Mood::default();
        }
        self.mend(Mend::Held);
        for of in 0..self.boxes.len() {
            if !self.boxes[of].facts.is_watched() {
                self.mend(Mend::Parked(of));
            }
        }
    }
}
