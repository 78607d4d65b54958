//! A small world with arbitrary histories, and the model that watches the judge in it: it remembers only what was shown to
//! the judge, and checks each order against that memory and never against the judge's own.
#![allow(missing_docs, unreachable_pub, clippy::expect_used, reason = "a part of a test binary")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::fleet::Workspace;
use defib_policy::judge::Judge;
use defib_policy::plan::{Plan, RestartOrder};
use defib_policy::sample::{Fault, Incarnation, Observation, Transition};
use defib_policy::settings::Settings;
use defib_policy::verdict::{Verdict, Witness};
use proptest::prelude::*;

use crate::common::*;

pub const FLEET: usize = 7;

#[derive(Clone, Debug)]
pub enum Event {
    Wait(i64),
    Beat(usize),
    Stop(usize),
    Start(usize),
    /// The engine says something else than the truth, until it is told otherwise.
    Lie(usize, Lie),
    Truth(usize),
    EngineFault(Option<Fault>),
    OtherEngine(bool),
    DatabaseRestart,
    Tick,
    Focus(usize),
    OwnHealth(bool),
    /// A caller reports it.
    Suspect(usize),
    /// Its owner parks it, or somebody above it: the fleet does not hold it any more.
    Park(usize),
    Unpark(usize),
    /// A pass ends that had read the fleet before the workspace was parked.
    Late(usize),
    /// The restarts that were ordered are claimed: the ledger shows them from now on.
    Claims,
    /// The claimed restarts end.
    Outcomes(Outcome),
    /// Another process takes over: it has the tables, and none of the memory.
    FailOver,
    /// An operator holds its restarts, or releases them.
    Hold(usize, bool),
    /// The engine's lease comes or goes.
    Ours(bool),
}

#[derive(Clone, Copy, Debug)]
pub enum Lie {
    Stopped,
    Missing,
    Frozen,
    Removing,
    Unknown,
}

pub fn event() -> impl Strategy<Value = Event> {
    let lie =
        prop_oneof![Just(Lie::Stopped), Just(Lie::Missing), Just(Lie::Frozen), Just(Lie::Removing), Just(Lie::Unknown)];
    let fault = proptest::option::of(proptest::sample::select(Fault::ALL.to_vec()));
    let outcome = proptest::sample::select(Outcome::ALL.to_vec());
    prop_oneof![
        4 => (50_i64..20_000).prop_map(Event::Wait),
        1 => (20_000_i64..400_000).prop_map(Event::Wait),
        4 => (0..FLEET).prop_map(Event::Beat),
        2 => (0..FLEET).prop_map(Event::Stop),
        2 => (0..FLEET).prop_map(Event::Start),
        2 => (0..FLEET, lie).prop_map(|(n, lie)| Event::Lie(n, lie)),
        2 => (0..FLEET).prop_map(Event::Truth),
        1 => fault.prop_map(Event::EngineFault),
        1 => any::<bool>().prop_map(Event::OtherEngine),
        1 => Just(Event::DatabaseRestart),
        8 => Just(Event::Tick),
        4 => (0..FLEET).prop_map(Event::Focus),
        1 => any::<bool>().prop_map(Event::OwnHealth),
        1 => (0..FLEET).prop_map(Event::Suspect),
        1 => (0..FLEET).prop_map(Event::Park),
        1 => (0..FLEET).prop_map(Event::Unpark),
        1 => (0..FLEET).prop_map(Event::Late),
        2 => Just(Event::Claims),
        2 => outcome.prop_map(Event::Outcomes),
        1 => Just(Event::FailOver),
        1 => (0..FLEET, any::<bool>()).prop_map(|(n, held)| Event::Hold(n, held)),
        1 => prop::bool::weighted(0.7).prop_map(Event::Ours),
    ]
}

/// What was shown to the judge about one workspace since something last spoke for it.
#[derive(Clone, Debug, Default)]
struct Shown {
    /// Moments in ms at which a pass showed it stopped or missing, in one life.
    dead_at: Vec<i64>,
    started_ms: i64,
    last: Option<Observation>,
    truth_running: bool,
}

impl Shown {
    /// The judge has forgotten it, so what was shown before does not count.
    fn forget(&mut self) {
        self.dead_at.clear();
        self.last = None;
    }
}

/// A restart: ordered, then claimed, then ended.
#[derive(Clone, Debug)]
struct Restart {
    id: i64,
    life: Option<Incarnation>,
    number: u32,
    /// When the ledger took it up. Until then nobody but the process that ordered it knows.
    claimed_ms: Option<i64>,
    ended: Option<(i64, Outcome)>,
}

impl Restart {
    fn row(&self, n: usize, now_ms: i64) -> Option<Attempt> {
        let ago = |at: i64| Duration::from_millis((now_ms - at).unsigned_abs());
        Some(Attempt {
            id: self.id,
            workspace: name(n).as_str().into(),
            container_id: self.life.as_ref().map(|life| life.container_id.clone()),
            started_at: self.life.as_ref().and_then(|life| life.started_at),
            attempt: self.number,
            claimed_ago: ago(self.claimed_ms?),
            finished_ago: self.ended.map(|(at, _)| ago(at)),
            finished_at: self.ended.map(|(at, _)| clock_at(at)),
            outcome: self.ended.map(|(_, outcome)| outcome),
            recovered_ago: None,
            asked: true,
            acknowledged: false,
        })
    }
}

pub struct Model {
    pub world: World,
    settings: Settings,
    shown: BTreeMap<usize, Shown>,
    pub lies: BTreeMap<usize, Lie>,
    parked: BTreeMap<usize, Workspace>,
    /// Those of the parked that a read of the whole fleet did not hold: the judge must have forgotten them.
    forgotten: BTreeSet<usize>,
    /// Orders without an outcome.
    under_way: BTreeMap<usize, Restart>,
    /// Ended ones, newest first.
    ended: BTreeMap<usize, Vec<Restart>>,
    next_id: i64,
    engine_fault: Option<Fault>,
    /// The identity that the engine told first: what is missing from another one proves nothing.
    home: Option<String>,
    /// Rows in the last read of the whole fleet.
    watched: usize,
}

pub fn name(n: usize) -> String {
    format!("w{n}")
}

impl Model {
    pub fn new(settings: Settings) -> Self {
        let mut world = World::new(settings.clone());
        let mut shown = BTreeMap::new();
        for n in 0..FLEET {
            world.add(&name(n), Some(-1), running());
            shown.insert(n, Shown { started_ms: -3_600_000, truth_running: true, ..Shown::default() });
        }
        Self {
            world,
            settings,
            shown,
            lies: BTreeMap::new(),
            parked: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            under_way: BTreeMap::new(),
            ended: BTreeMap::new(),
            next_id: 1,
            engine_fault: None,
            home: None,
            watched: 0,
        }
    }

    fn seen(&self, n: usize) -> Observation {
        let shown = &self.shown[&n];
        if let Some(fault) = self.engine_fault {
            return unknown(fault);
        }
        match self.lies.get(&n) {
            Some(Lie::Stopped) => stopped_life(shown.started_ms, self.world.now_ms - 10),
            Some(Lie::Missing) => Observation::Missing,
            Some(Lie::Frozen) => frozen(),
            Some(Lie::Removing) => transition(Transition::Removing),
            Some(Lie::Unknown) => unknown(Fault::TimedOut),
            None if shown.truth_running => running_since(shown.started_ms),
            None => stopped_life(shown.started_ms, shown.started_ms + 1),
        }
    }

    pub fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match *event {
            Event::Wait(ms) => self.world.wait_ms(ms),
            Event::Beat(n) => self.beat(n),
            Event::Stop(n) => self.shown_mut(n).truth_running = false,
            Event::Start(n) => self.start(n),
            Event::Lie(n, lie) => {
                self.lies.insert(n, lie);
            }
            Event::Truth(n) => {
                self.lies.remove(&n);
            }
            Event::EngineFault(fault) => {
                self.engine_fault = fault;
                self.world.evidence.fault = fault;
            }
            Event::OtherEngine(other) => {
                self.world.evidence.identity = Some(if other { "engine-2" } else { "engine-1" }.to_owned());
            }
            Event::DatabaseRestart => self.world.database_up_since = self.world.now_ms / 1_000,
            Event::Tick => {
                let everybody: Vec<usize> = (0..FLEET).collect();
                self.pass(&everybody)?;
            }
            Event::Focus(n) => self.pass(&[n])?,
            Event::OwnHealth(clean) => self.world.judge.observe_tick(clean),
            Event::Suspect(n) => {
                self.world.suspect(&name(n).as_str().into(), "proxy");
            }
            Event::Park(n) => {
                if let Some(row) = self.world.fleet.remove(&name(n)) {
                    self.parked.insert(n, row);
                }
            }
            Event::Unpark(n) => self.unpark(n),
            Event::Late(n) => self.late(n)?,
            Event::Claims => self.claim(),
            Event::Outcomes(outcome) => self.end_restarts(outcome),
            Event::FailOver => self.fail_over(),
            Event::Hold(n, held) => {
                self.world.on_hold.retain(|id| *id != name(n));
                self.world.on_hold.extend(held.then(|| name(n)));
            }
            Event::Ours(ours) => self.world.ours = ours,
        }
        Ok(())
    }

    fn shown_mut(&mut self, n: usize) -> &mut Shown {
        self.shown.entry(n).or_default()
    }

    fn beat(&mut self, n: usize) {
        if !self.shown[&n].truth_running {
            return;
        }
        let now = self.world.clock();
        let row = self.world.fleet.get_mut(&name(n)).or_else(|| self.parked.get_mut(&n)).expect("one of the fleet");
        row.last_heartbeat_at = Some(now);
    }

    pub fn start(&mut self, n: usize) {
        let now = self.world.now_ms;
        let shown = self.shown_mut(n);
        if !shown.truth_running {
            shown.truth_running = true;
            shown.started_ms = now;
        }
    }

    pub fn unpark(&mut self, n: usize) {
        if let Some(row) = self.parked.remove(&n) {
            self.world.fleet.insert(name(n), row);
            self.forgotten.remove(&n);
        }
    }

    pub fn is_under_way(&self, n: usize) -> bool {
        self.under_way.contains_key(&n)
    }

    pub fn claim(&mut self) {
        for restart in self.under_way.values_mut() {
            restart.claimed_ms.get_or_insert(self.world.now_ms);
        }
    }

    pub fn end_restarts(&mut self, outcome: Outcome) {
        for (n, mut restart) in std::mem::take(&mut self.under_way) {
            if restart.claimed_ms.is_none() {
                self.under_way.insert(n, restart);
                continue;
            }
            if outcome == Outcome::Succeeded {
                self.start(n);
            }
            restart.ended = Some((self.world.now_ms, outcome));
            self.ended.entry(n).or_default().insert(0, restart);
            self.world.in_flight.retain(|id| *id != name(n));
        }
    }

    fn fail_over(&mut self) {
        let mut judge = Judge::new(self.settings.clone());
        for n in 0..FLEET {
            if let Some(verdict) = self.world.verdict(&name(n)).filter(|verdict| *verdict != Verdict::Alive) {
                judge.take_over(&name(n).as_str().into(), verdict, self.world.now());
            }
        }
        self.world.judge = judge;
        // Orders that the old process had not claimed are forgotten. Those that it had claimed stand in the ledger.
        self.world.in_flight.clear();
        self.under_way.retain(|_, restart| restart.claimed_ms.is_some());
        self.shown.values_mut().for_each(Shown::forget);
        (self.home, self.watched) = (None, 0);
    }

    fn ledger(&self, n: usize) -> Vec<Attempt> {
        let rows = self.under_way.get(&n).into_iter().chain(self.ended.get(&n).into_iter().flatten());
        rows.filter_map(|restart| restart.row(n, self.world.now_ms)).collect()
    }

    /// The longest that the back-off may hold the next restart of `n`.
    pub fn backoff_max(&self, n: usize) -> Duration {
        let counts = |restart: &&Restart| restart.ended.is_some_and(|(_, outcome)| outcome.counts(true));
        let tries = self.ended.get(&n).into_iter().flatten().find(counts).map_or(0, |restart| restart.number);
        if tries >= self.settings.exhausted_after { self.settings.exhausted_retry } else { self.settings.backoff_max }
    }

    /// What the judge learns of the engine in a pass over `who`. Returns whether absence proves nothing now.
    fn meet_engine(&mut self, who: &[usize]) -> bool {
        if self.engine_fault.is_some() {
            return false;
        }
        let told = self.world.evidence.identity.clone();
        let present = who.iter().filter(|n| self.seen(**n).incarnation().is_some()).count();
        // An engine that has half of the containers is the right one, whatever identity it tells.
        if self.home.is_none() || (present > 0 && 2 * present >= self.watched) {
            self.home.clone_from(&told);
        }
        self.home != told
    }

    fn pass(&mut self, who: &[usize]) -> Result<(), TestCaseError> {
        let whole = who.len() == FLEET;
        let who: Vec<usize> = who.iter().copied().filter(|n| !self.parked.contains_key(n)).collect();
        if whole {
            self.watched = who.len();
        }
        let elsewhere = self.meet_engine(&who);
        for n in &who {
            let observation = self.seen(*n);
            if !(elsewhere && observation == Observation::Missing) {
                self.note(*n, &observation);
            }
            self.world.see(&name(*n), observation);
            let ledger = self.ledger(*n);
            self.world.attempts.insert(name(*n), ledger);
        }
        let names: Vec<String> = who.iter().map(|n| name(*n)).collect();
        let plan = if whole {
            self.world.tick()
        } else {
            self.world.focus(&names.iter().map(String::as_str).collect::<Vec<_>>())
        };
        self.check_memory(whole)?;
        for order in &plan.restarts {
            self.check(order)?;
        }
        Ok(())
    }

    /// The size of the maps is bounded by their knobs and by the present fleet, and does not grow with history.
    fn check_memory(&mut self, whole: bool) -> Result<(), TestCaseError> {
        prop_assert!(self.world.judge.probes().len() <= self.settings.probe_map_max);
        if whole {
            self.forgotten = self.parked.keys().copied().collect();
            let remembered = self.world.judge.counts().iter().sum::<usize>();
            prop_assert!(remembered <= FLEET - self.parked.len(), "{remembered} with {} parked", self.parked.len());
        }
        for n in &self.forgotten {
            self.shown.entry(*n).or_default().forget();
            let id = name(*n).as_str().into();
            let now = self.world.now();
            prop_assert!(self.world.judge.probes().get(&id, now).is_none(), "a probe of one that is parked");
            prop_assert!(self.world.judge.known_container(&id).is_none(), "a container of one that is parked");
            prop_assert!(!self.world.suspect(&id, "proxy"), "one that is parked is suspected");
        }
        Ok(())
    }

    fn late(&mut self, n: usize) -> Result<(), TestCaseError> {
        let Some(row) = self.parked.get(&n).filter(|_| self.forgotten.contains(&n)).cloned() else { return Ok(()) };
        self.meet_engine(&[n]);
        let observation = self.seen(n);
        self.world.see(&name(n), observation);
        let plan: Plan = self.world.judge_rows(&[row]);
        prop_assert!(plan.restarts.is_empty() && plan.changes.is_empty(), "one that is parked was judged: {plan:?}");
        self.check_memory(false)
    }

    /// What the model remembers of what was shown to the judge. It is written independently of the judge's own memory.
    fn note(&mut self, n: usize, observation: &Observation) {
        let now = self.world.now_ms;
        let shown = self.shown_mut(n);
        match observation {
            Observation::Unknown { .. } => {}
            Observation::Stopped { .. } | Observation::Missing => {
                let same = shown.last.as_ref().is_some_and(|before| before.incarnation() == observation.incarnation());
                if !same {
                    shown.dead_at.clear();
                }
                shown.dead_at.push(now);
                shown.last = Some(observation.clone());
            }
            other => {
                shown.dead_at.clear();
                shown.last = Some(other.clone());
            }
        }
    }

    fn check(&mut self, order: &RestartOrder) -> Result<(), TestCaseError> {
        let n: usize = order.workspace.as_str()[1..].parse().expect("a number");
        self.check_witnesses(n, order)?;
        prop_assert!(!self.parked.contains_key(&n), "restarted while parked");
        prop_assert!(!self.world.on_hold.contains(&name(n)), "restarted in spite of an operator's hold");
        prop_assert!(self.world.ours, "restarted on another replica's engine");
        prop_assert!(!self.under_way.contains_key(&n), "restarted twice without an outcome in between");
        // What the ledger's unique index says: of one life, each number once.
        let taken = self.ended.get(&n).into_iter().flatten().any(|before| {
            let counts = before.ended.is_some_and(|(_, outcome)| outcome.counts(true));
            counts && before.life == order.incarnation && before.number == order.attempt
        });
        prop_assert!(!taken, "attempt {} of {:?} was made before", order.attempt, order.incarnation);
        let restart = Restart {
            id: self.next_id,
            life: order.incarnation.clone(),
            number: order.attempt,
            claimed_ms: None,
            ended: None,
        };
        self.next_id += 1;
        self.under_way.insert(n, restart);
        self.world.in_flight.push(name(n));
        Ok(())
    }

    fn check_witnesses(&self, n: usize, order: &RestartOrder) -> Result<(), TestCaseError> {
        let shown = &self.shown[&n];
        let observation = &self.world.seen[&name(n)];
        prop_assert!(
            matches!(observation, Observation::Stopped { .. } | Observation::Missing),
            "restarted while {observation:?}"
        );
        let lasted = shown.dead_at.first().zip(shown.dead_at.last()).map_or(-1, |(first, last)| last - first);
        let spacing_ms = i64::try_from(self.settings.probe_spacing.as_millis()).expect("small");
        let stale = order.evidence.heartbeat.witness == Witness::Stale;
        let age = self.age_ms(n);
        prop_assert!(!stale || age >= 15_000, "called stale at an age of {age} ms");
        let overdue = *observation == Observation::Missing && age >= 15_000;
        prop_assert!(
            lasted >= spacing_ms || stale || overdue,
            "a single witness: {:?} {:?}",
            shown.dead_at,
            order.evidence
        );
        if *observation == Observation::Missing {
            prop_assert!(lasted >= 15_000, "missing for too short");
            prop_assert!(age >= 15_000, "what beats was to be made a second time");
        }
        Ok(())
    }

    fn age_ms(&self, n: usize) -> i64 {
        let beat = self.world.fleet[&name(n)].last_heartbeat_at.expect("all have beaten");
        (self.world.clock().0 - beat.0) / 1_000
    }
}
