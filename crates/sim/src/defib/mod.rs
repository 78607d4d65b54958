//! A replica of defib: the production [`Judge`], driven as the daemon drives it.
//!
//! ```text
//! sweep ─ read fleet ─ take suspicions ─ engine: look ─ judge ─► jobs: claim ─ confirm ─ act ─ finish
//! focus ─ read one   ────────────────────┘
//! ```
//!
//! An engine that answers quickly is judged at the instant of the look; one that takes longer than a tenth of a second is
//! judged when its answer arrives, on the rows and samples of the instant at which the look was begun.

mod clock;
mod job;
mod leases;
mod pass;
mod read;
mod state;

use std::collections::BTreeMap;

use defib_policy::judge::Judge;
use defib_policy::moment::Moment;
use defib_policy::ownership::Ownership;
use defib_policy::restart::lanes::Lanes;
use defib_policy::settings::Settings;
use defib_record::{Recorded, Tape};

use crate::database::Database;
use crate::queue::{Event, Wake};
use crate::time::{Ms, moment};
use crate::world::{Detector, World};
use state::{ClockSteps, Places};
pub use state::{Defib, LEASE_TTL};

impl Defib {
    /// A replica with the knobs of the world.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
            judge: Recorded::off(Judge::new(settings.clone())),
            runs: true,
            started_at: 0,
            processes: 0,
            name: String::new(),
            lost: 0,
            frozen: None,
            started_freezing: 0,
            is_cut_off: false,
            sweep_due: 0,
            last_read: None,
            asked_until: Vec::new(),
            was_late: false,
            ownership: Ownership::default(),
            pruned_at: 0,
            clock_steps: ClockSteps::default(),
            attempts: Vec::new(),
            in_flight: Vec::new(),
            unwritten: BTreeMap::new(),
            focused_at: Vec::new(),
            look_due: Vec::new(),
            returns: Vec::new(),
            pending: BTreeMap::new(),
            jobs: BTreeMap::new(),
            places: Vec::new(),
            lanes: Lanes::new(settings.backoff_initial, settings.backoff_max),
            next_number: 0,
        }
    }

    /// A replica that is recorded as the daemon is: by the calls that its judge is told things by.
    #[must_use]
    pub fn recorded(settings: &Settings, tape: Box<dyn Tape>) -> Self {
        let judge = Recorded::onto(Judge::new(settings.clone()), tape);
        Self { judge, ..Self::new(settings) }
    }

    fn grow(&mut self, world: &World) {
        let (workspaces, engines) = (world.workspaces.len(), world.engines.len());
        self.attempts.resize_with(workspaces, Vec::new);
        self.in_flight.resize(workspaces, false);
        self.focused_at.resize(workspaces, 0);
        self.look_due.resize(workspaces, 0);
        self.returns.resize(engines, 0);
        self.asked_until.resize(engines, 0);
        self.places.resize_with(engines, Places::default);
    }

    /// What its monotonic clock shows.
    fn moment(&self, at: Ms) -> Moment {
        moment(at, self.lost)
    }

    fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number
    }

    fn can_read(&self, db: &Database) -> bool {
        db.up && !self.is_cut_off
    }

    fn can_write(&self, db: &Database) -> bool {
        self.can_read(db) && db.writable && !db.defib_locked
    }

    fn thaw(&mut self, me: u8, wake: Wake, world: &mut World) -> bool {
        let Some((until, lost)) = self.frozen else { return true };
        if world.now < until {
            // Timers of a sleeping host fire at once when it wakes.
            if wake == Wake::Sweep {
                self.sweep_due = until;
                self.was_late = true;
            }
            world.push(until, Event::Wake(me, wake));
            return false;
        }
        if lost {
            self.lost += until - self.started_freezing;
        }
        self.frozen = None;
        true
    }
}

impl Detector for Defib {
    fn name(&self) -> &'static str {
        "defib"
    }

    fn start(&mut self, me: u8, world: &mut World) {
        self.runs = true;
        world.chronicle.storms_forgotten(me, world.now);
        self.started_at = world.now;
        // As the default of DEFIB_REPLICA_ID has it: the host and the process.
        self.processes += 1;
        self.name = format!("replica-{me}.{}", self.processes);
        self.judge.replace(Judge::new(self.settings.clone()));
        self.clock_steps = ClockSteps::default();
        self.last_read = None;
        self.grow(world);
        self.sweep_due = world.now + 200 + 700 * u64::from(me);
        world.push(self.sweep_due, Event::Wake(me, Wake::Sweep));
    }

    fn wake(&mut self, me: u8, wake: Wake, world: &mut World) {
        if !self.runs || !self.thaw(me, wake, world) {
            return;
        }
        match wake {
            Wake::Sweep if world.now == self.sweep_due => self.sweep(me, world),
            Wake::EngineEvent(of) => {
                if self.speaks_for(of as usize, world) {
                    self.focus(me, of as usize, world);
                }
            }
            Wake::Suspected(of) => self.suspect(me, of, world),
            Wake::Look(of) => {
                if world.now >= self.look_due[of as usize] {
                    self.look_due[of as usize] = 0;
                    self.focus(me, of as usize, world);
                }
            }
            Wake::Answer(number) => self.answered(me, number, world),
            Wake::Job(number) => self.advance(me, number, world),
            Wake::Sweep | Wake::Failed(..) => {}
        }
    }

    fn crash(&mut self) {
        self.runs = false;
        self.pending.clear();
        self.jobs.clear();
        self.places.fill_with(Places::default);
        self.lanes = Lanes::new(self.settings.backoff_initial, self.settings.backoff_max);
        self.in_flight.fill(false);
        self.unwritten.clear();
        self.asked_until.fill(0);
        self.focused_at.fill(0);
        self.look_due.fill(0);
        self.ownership = Ownership::default();
        self.frozen = None;
    }

    fn freeze(&mut self, from: Ms, until: Ms, lost: bool) {
        self.frozen = Some((until, lost));
        self.started_freezing = from;
    }

    fn cut_off(&mut self, cut: bool) {
        self.is_cut_off = cut;
    }
}
