//! Safety and liveness over arbitrary histories.
//!
//! A history is a list of events in a small world: beats, stops, starts, lies and faults of the engine, outages of the
//! database, passes. The model beside the judge remembers only what was shown to it, and checks each order against that:
//!
//! - never on a single witness: a stale heartbeat beside the stop, or spaced samples of the same life;
//! - never what was last seen running, frozen or not at all;
//! - never twice for one life without an outcome in between;
//! - and the maps stay bounded.
//!
//! Liveness: whatever happened before, one that stops for good in a world that is well from then on is restarted within a
//! bound computed from the knobs.
#![allow(missing_docs, clippy::expect_used, reason = "the names of the tests say it; helpers of tests may panic")]

mod common;

use std::collections::BTreeMap;

use common::*;
use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::plan::Plan;
use defib_policy::sample::{Fault, Observation, Transition};
use defib_policy::settings::Settings;
use defib_policy::verdict::Witness;
use proptest::prelude::*;

const FLEET: usize = 7;

#[derive(Clone, Debug)]
enum Event {
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
    /// The restarts under way end: so many of them well.
    Outcomes(bool),
}

#[derive(Clone, Copy, Debug)]
enum Lie {
    Stopped,
    Missing,
    Frozen,
    Removing,
    Unknown,
}

fn event() -> impl Strategy<Value = Event> {
    let lie =
        prop_oneof![Just(Lie::Stopped), Just(Lie::Missing), Just(Lie::Frozen), Just(Lie::Removing), Just(Lie::Unknown)];
    let fault = proptest::option::of(proptest::sample::select(Fault::ALL.to_vec()));
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
        2 => any::<bool>().prop_map(Event::Outcomes),
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

struct Model {
    world: World,
    shown: BTreeMap<usize, Shown>,
    lies: BTreeMap<usize, Lie>,
    /// Orders without an outcome: the row of each is open.
    under_way: BTreeMap<usize, i64>,
    next_attempt: i64,
    ended_at: BTreeMap<usize, Vec<(i64, u32, Outcome, i64)>>,
    engine_fault: Option<Fault>,
    /// The identity that the engine told first: what is missing from another one proves nothing.
    home: Option<String>,
}

fn name(n: usize) -> String {
    format!("w{n}")
}

impl Model {
    fn new() -> Self {
        let mut world = World::new(Settings::default());
        let mut shown = BTreeMap::new();
        for n in 0..FLEET {
            world.add(&name(n), Some(-1), running());
            shown.insert(n, Shown { started_ms: -3_600_000, truth_running: true, ..Shown::default() });
        }
        Self {
            world,
            shown,
            lies: BTreeMap::new(),
            under_way: BTreeMap::new(),
            next_attempt: 1,
            ended_at: BTreeMap::new(),
            engine_fault: None,
            home: None,
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

    fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match *event {
            Event::Wait(ms) => self.world.wait_ms(ms),
            Event::Beat(n) => {
                if self.shown[&n].truth_running {
                    self.world.beat(&name(n));
                }
            }
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
            Event::Outcomes(well) => self.end_restarts(well),
        }
        Ok(())
    }

    fn shown_mut(&mut self, n: usize) -> &mut Shown {
        self.shown.entry(n).or_default()
    }

    fn start(&mut self, n: usize) {
        let now = self.world.now_ms;
        let shown = self.shown_mut(n);
        if !shown.truth_running {
            shown.truth_running = true;
            shown.started_ms = now;
        }
    }

    fn end_restarts(&mut self, well: bool) {
        for (n, id) in std::mem::take(&mut self.under_way) {
            let outcome = if well { Outcome::Succeeded } else { Outcome::Failed };
            if well {
                self.start(n);
            }
            let now = self.world.now_ms;
            let number = u32::try_from(self.ended_at.get(&n).map_or(0, Vec::len)).unwrap_or(0) + 1;
            self.ended_at.entry(n).or_default().insert(0, (id, number, outcome, now));
            self.world.in_flight.retain(|id| *id != name(n));
        }
    }

    fn ledger(&self, n: usize) -> Vec<Attempt> {
        let now = self.world.now_ms;
        let ago = |at: i64| std::time::Duration::from_millis((now - at).unsigned_abs());
        self.ended_at
            .get(&n)
            .into_iter()
            .flatten()
            .map(|(id, number, outcome, at)| Attempt {
                id: *id,
                workspace: name(n).as_str().into(),
                container_id: Some("container".into()),
                started_at: None,
                attempt: *number,
                claimed_ago: ago(*at),
                finished_ago: Some(ago(*at)),
                finished_at: Some(clock_at(*at)),
                outcome: Some(*outcome),
                recovered_ago: None,
                acknowledged: false,
            })
            .collect()
    }

    fn pass(&mut self, who: &[usize]) -> Result<(), TestCaseError> {
        let spacing_ms = 1_000;
        if self.engine_fault.is_none() && self.home.is_none() {
            self.home.clone_from(&self.world.evidence.identity);
        }
        let present = who.iter().filter(|n| self.seen(**n).incarnation().is_some()).count();
        if self.engine_fault.is_none() && 2 * present >= FLEET {
            // It has the containers, so it is the right one whatever it calls itself.
            self.home.clone_from(&self.world.evidence.identity);
        }
        let elsewhere = self.engine_fault.is_none() && self.home != self.world.evidence.identity;
        for n in who {
            let observation = self.seen(*n);
            if !(elsewhere && observation == Observation::Missing) {
                self.note(*n, &observation);
            }
            self.world.see(&name(*n), observation);
            let ledger = self.ledger(*n);
            self.world.attempts.insert(name(*n), ledger);
        }
        let names: Vec<String> = who.iter().map(|n| name(*n)).collect();
        let plan = if who.len() == FLEET {
            self.world.tick()
        } else {
            self.world.focus(&names.iter().map(String::as_str).collect::<Vec<_>>())
        };
        prop_assert!(self.world.judge.probes().len() <= FLEET);
        prop_assert_eq!(self.world.judge.counts().iter().sum::<usize>() <= FLEET, true);
        self.check(&plan, spacing_ms)
    }

    /// The model's own memory of what was shown, written without a look at the judge's.
    fn note(&mut self, n: usize, observation: &Observation) {
        let now = self.world.now_ms;
        let shown = self.shown_mut(n);
        match observation {
            Observation::Unknown { .. } => {}
            Observation::Stopped { .. } | Observation::Missing => {
                let same = match (&shown.last, observation) {
                    (Some(before), now) => before.incarnation() == now.incarnation(),
                    (None, _) => false,
                };
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

    fn check(&mut self, plan: &Plan, spacing_ms: i64) -> Result<(), TestCaseError> {
        for order in &plan.restarts {
            let n: usize = order.workspace.as_str()[1..].parse().expect("a number");
            let shown = self.shown[&n].clone();
            let observation = self.world.seen[&name(n)].clone();
            prop_assert!(
                matches!(observation, Observation::Stopped { .. } | Observation::Missing),
                "restarted while {observation:?}"
            );
            prop_assert!(!self.under_way.contains_key(&n), "restarted twice without an outcome in between");
            let (first, last) = (shown.dead_at.first().copied(), shown.dead_at.last().copied());
            let spaced = first.zip(last).is_some_and(|(first, last)| last - first >= spacing_ms);
            let stale = order.evidence.heartbeat.witness == Witness::Stale;
            let age = self.age_ms(n);
            prop_assert!(!stale || age >= 15_000, "called stale at an age of {age} ms");
            let overdue = observation == Observation::Missing && age >= 15_000;
            prop_assert!(spaced || stale || overdue, "a single witness: {:?} {:?}", shown.dead_at, order.evidence);
            if observation == Observation::Missing {
                prop_assert!(
                    first.zip(last).is_some_and(|(first, last)| last - first >= 15_000),
                    "missing for too short"
                );
                prop_assert!(age >= 15_000, "what beats was to be made a second time");
            }
            self.under_way.insert(n, self.next_attempt);
            self.next_attempt += 1;
            self.world.in_flight.push(name(n));
        }
        Ok(())
    }

    fn age_ms(&self, n: usize) -> i64 {
        let beat = self.world.fleet[&name(n)].last_heartbeat_at.expect("all have beaten");
        (self.world.clock().0 - beat.0) / 1_000
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_history_makes_it_restart_on_a_single_witness(events in proptest::collection::vec(event(), 1..120)) {
        let mut model = Model::new();
        for event in &events {
            model.apply(event)?;
        }
    }

    #[test]
    fn unknown_alone_never_restarts(faults in proptest::collection::vec(proptest::sample::select(Fault::ALL.to_vec()), 1..60), gap in 100_i64..60_000) {
        let mut world = World::new(Settings::default()).with("w", Some(-1), running());
        world.tick();
        for fault in faults {
            world.wait_ms(gap);
            world.evidence.fault = Some(fault);
            world.see("w", unknown(fault));
            prop_assert!(world.tick().restarts.is_empty());
        }
    }

    #[test]
    fn whatever_happened_before_one_that_stops_for_good_is_restarted_within_the_bound(
        events in proptest::collection::vec(event(), 0..80),
        victim in 0..FLEET,
    ) {
        let mut model = Model::new();
        for event in &events {
            model.apply(event)?;
        }
        // From here on the world is well, and everybody but the victim lives.
        model.apply(&Event::EngineFault(None))?;
        model.apply(&Event::OtherEngine(false))?;
        model.lies.clear();
        model.end_restarts(true);
        model.ended_at.clear();
        for n in 0..FLEET {
            model.start(n);
        }
        model.apply(&Event::Stop(victim))?;
        // Its window (at most DEFIB_RECENT_MAX, stretched while we are unwell ourselves), the storm's cooldown for a round of
        // others that did not come back, and a few polls.
        let settings = Settings::default();
        let bound_ms = i64::try_from((settings.recent_max + 3 * settings.storm_cooldown).as_millis()).expect("small") + 60_000;
        let (begun, mut restarted) = (model.world.now_ms, false);
        while model.world.now_ms - begun < bound_ms && !restarted {
            model.world.wait_ms(5_000);
            for n in (0..FLEET).filter(|n| *n != victim) {
                model.apply(&Event::Beat(n))?;
            }
            model.apply(&Event::OwnHealth(true))?;
            model.apply(&Event::Tick)?;
            restarted = model.under_way.contains_key(&victim);
            // Whoever else was found dead comes back at once.
            let still: Vec<usize> = model.under_way.keys().copied().filter(|n| *n != victim).collect();
            for n in still {
                model.under_way.remove(&n);
                model.start(n);
                model.world.in_flight.retain(|id| *id != name(n));
            }
        }
        prop_assert!(restarted, "still {:?} after {} s", model.world.verdict(&name(victim)), bound_ms / 1_000);
    }
}
