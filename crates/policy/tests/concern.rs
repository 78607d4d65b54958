//! A judge who reads and judges whom something concerns says what a judge says who reads and judges everybody with every poll: the same
//! verdicts, the same orders and the same evidence, at the same polls, over arbitrary histories.
//!
//! The file is long because the world of these histories is made here, and each rule of who need not be looked at is tried in it.

#![allow(missing_docs, clippy::expect_used, reason = "the names of the tests say it; helpers of tests may panic")]

#[path = "rules/common.rs"]
mod common;

use std::collections::BTreeMap;

use common::{ALL, clock_at, frozen, moment_at, running_since, seconds, stopped_life, unhealthy, unknown};
use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::fleet::{FleetRead, Kind, Workspace};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::{EngineEvidence, Judge, Look, ReadStamp};
use defib_policy::plan::Plan;
use defib_policy::sample::{Fault, Observation, Sample};
use defib_policy::settings::{Action, Settings};
use defib_policy::suspicion::Report;
use defib_policy::verdict::Verdict;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

const FLEET: usize = 8;
/// The last of them has no container.
const EXTERNAL: usize = FLEET - 1;
const POLL_MS: i64 = 5_000;
/// All rows are read with each twelfth poll.
const RESYNC: u32 = 12;
/// How far a read of changes reaches back before the one before it.
const OVERLAP_MS: i64 = 2_000;
/// How long after the read of the fleet a pass judges.
const PASS_MS: i64 = 40;

#[derive(Clone, Debug)]
enum Event {
    Polls(u32),
    Steady(u32),
    Pause(i64),
    Beat(usize),
    TakeBack(usize),
    Stop(usize),
    Start(usize),
    Show(usize, Option<Shown>),
    Fault(Option<Fault>),
    Other(bool),
    DatabaseRestart,
    Focus(usize),
    Health(bool),
    Suspect(usize, bool),
    Hold(usize, bool),
    Ours(bool),
    Outcome(Outcome),
}

#[derive(Clone, Copy, Debug)]
enum Shown {
    Missing,
    Frozen,
    Unhealthy,
    Unknown,
}

fn event() -> impl Strategy<Value = Event> {
    let shown = prop_oneof![Just(Shown::Missing), Just(Shown::Frozen), Just(Shown::Unhealthy), Just(Shown::Unknown)];
    let fault = proptest::option::weighted(0.4, proptest::sample::select(Fault::ALL.to_vec()));
    let outcome = proptest::sample::select(Outcome::ALL.to_vec());
    prop_oneof![
        8 => (1_u32..8).prop_map(Event::Polls),
        8 => (1_u32..30).prop_map(Event::Steady),
        1 => (100_i64..40_000).prop_map(Event::Pause),
        4 => (0..FLEET).prop_map(Event::Beat),
        1 => (0..FLEET).prop_map(Event::TakeBack),
        2 => (0..FLEET).prop_map(Event::Stop),
        2 => (0..FLEET).prop_map(Event::Start),
        3 => (0..FLEET, proptest::option::of(shown)).prop_map(|(n, shown)| Event::Show(n, shown)),
        1 => fault.prop_map(Event::Fault),
        1 => any::<bool>().prop_map(Event::Other),
        1 => Just(Event::DatabaseRestart),
        3 => (0..FLEET).prop_map(Event::Focus),
        1 => any::<bool>().prop_map(Event::Health),
        2 => (0..FLEET, any::<bool>()).prop_map(|(n, other)| Event::Suspect(n, other)),
        1 => (0..FLEET, any::<bool>()).prop_map(|(n, held)| Event::Hold(n, held)),
        1 => prop::bool::weighted(0.7).prop_map(Event::Ours),
        3 => outcome.prop_map(Event::Outcome),
    ]
}

/// What there is to see.
struct World {
    now_ms: i64,
    engine: EngineName,
    evidence: EngineEvidence,
    database_up_since_ms: i64,
    rows: Vec<Workspace>,
    started_ms: Vec<i64>,
    runs: Vec<bool>,
    shown: BTreeMap<usize, Shown>,
    attempts: BTreeMap<WorkspaceId, Vec<Attempt>>,
    in_flight: Vec<WorkspaceId>,
    on_hold: Vec<WorkspaceId>,
    ours: bool,
}

impl World {
    fn new() -> Self {
        let row = |n: usize| Workspace {
            id: format!("w{n}").into(),
            status: "online".into(),
            kind: if n == EXTERNAL { Kind::External } else { Kind::Container },
            engine: "default".into(),
            container_ref: None,
            instance_ref: None,
            suspended: false,
            last_heartbeat_at: Some(clock_at(-1_000)),
            last_activity_at: None,
            active_tasks: i32::try_from(n % 3).expect("small"),
            created_at: Some(clock_at(-7_200_000)),
            policy: None,
        };
        Self {
            now_ms: 0,
            engine: "default".into(),
            evidence: EngineEvidence { identity: Some("one".into()), abilities: ALL, ..EngineEvidence::default() },
            database_up_since_ms: -100_000_000,
            rows: (0..FLEET).map(row).collect(),
            started_ms: vec![-3_600_000; FLEET],
            runs: vec![true; FLEET],
            shown: BTreeMap::new(),
            attempts: BTreeMap::new(),
            in_flight: Vec::new(),
            on_hold: Vec::new(),
            ours: true,
        }
    }

    /// Each beats at an interval of its own, from ten seconds on. What it writes is stamped `late_ms` ago.
    fn beat_in_time(&mut self, n: usize, late_ms: i64) {
        let interval = 10_000 + 5_000 * i64::try_from(n).expect("small");
        if self.runs[n] && self.now_ms.rem_euclid(interval) < POLL_MS {
            self.rows[n].last_heartbeat_at = Some(clock_at(self.now_ms - late_ms));
        }
    }

    fn read(&self, rows: Vec<Workspace>) -> FleetRead {
        FleetRead {
            at: moment_at(self.now_ms),
            database_now: clock_at(self.now_ms),
            database_started_at: clock_at(self.database_up_since_ms),
            workspaces: rows,
        }
    }

    fn sample(&self, n: usize) -> Sample {
        let (runs, started) = (self.runs[n], self.started_ms[n]);
        let observation = match (self.evidence.fault, self.shown.get(&n)) {
            (Some(fault), _) => unknown(fault),
            (None, Some(Shown::Missing)) => Observation::Missing,
            (None, Some(Shown::Frozen)) => frozen(),
            (None, Some(Shown::Unhealthy)) if runs => unhealthy(self.now_ms - 1_000),
            (None, Some(Shown::Unknown)) => unknown(Fault::TimedOut),
            _ if runs => running_since(started),
            _ => stopped_life(started, started + 1),
        };
        Sample { at: moment_at(self.now_ms), observation }
    }

    /// Judges those of these rows that are on the engine, and the one that no engine has.
    fn judge(&self, judge: &mut Judge, rows: &[&Workspace]) -> (Plan, Plan) {
        let samples: Vec<Sample> = rows.iter().map(|row| self.sample(number(&row.id))).collect();
        let stamp = ReadStamp { at: moment_at(self.now_ms), database_now: clock_at(self.now_ms) };
        let looks: Vec<Look<'_>> = rows
            .iter()
            .zip(&samples)
            .map(|(row, sample)| Look {
                workspace: row,
                sample: (row.kind != Kind::External).then_some(sample),
                attempts: self.attempts.get(&row.id).map_or(&[][..], Vec::as_slice),
                in_flight: self.in_flight.contains(&row.id),
                queued: false,
                ours: self.ours,
                on_hold: self.on_hold.contains(&row.id),
                own: None,
            })
            .collect();
        let (external, contained): (Vec<Look<'_>>, Vec<Look<'_>>) =
            looks.into_iter().partition(|look| look.workspace.kind == Kind::External);
        let now = moment_at(self.now_ms + PASS_MS);
        let plan = judge.judge(now, stamp, Some((&self.engine, &self.evidence)), &contained);
        (plan, judge.judge(now, stamp, None, &external))
    }
}

fn number(id: &WorkspaceId) -> usize {
    id.as_str()[1..].parse().expect("a number")
}

/// The two judges, and what the sparing one was given.
struct Pair {
    world: World,
    settings: Settings,
    thorough: Judge,
    sparing: Judge,
    /// When the fleet was read last.
    read_ms: Option<i64>,
    since_resync: u32,
    database_up_since_ms: i64,
    was_ours: bool,
    /// How often the sparing one has looked at a workspace.
    looks: usize,
    next_id: i64,
}

impl Pair {
    fn new(settings: &Settings) -> Self {
        Self {
            world: World::new(),
            settings: settings.clone(),
            thorough: Judge::new(settings.clone()),
            sparing: Judge::new(settings.clone()),
            read_ms: None,
            since_resync: 0,
            database_up_since_ms: 0,
            was_ours: true,
            looks: 0,
            next_id: 1,
        }
    }

    fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let world = &mut self.world;
        match *event {
            Event::Polls(times) => {
                for _ in 0..times {
                    self.world.now_ms += POLL_MS;
                    self.poll()?;
                }
            }
            Event::Steady(polls) => {
                for _ in 0..polls {
                    self.world.now_ms += POLL_MS;
                    (0..FLEET).for_each(|n| self.world.beat_in_time(n, 300));
                    self.poll()?;
                }
            }
            Event::Pause(ms) => world.now_ms += ms,
            Event::Beat(n) => {
                if world.runs[n] {
                    world.rows[n].last_heartbeat_at = Some(clock_at(world.now_ms));
                }
            }
            // What is taken back is not a later stamp, so a row must be called to be read.
            Event::TakeBack(n) => {
                self.sparing.stir(&self.world.rows[n].id);
                self.world.rows[n].last_heartbeat_at = Some(clock_at(-600_000));
            }
            Event::Stop(n) => world.runs[n] = false,
            Event::Start(n) => {
                if !world.runs[n] {
                    (world.runs[n], world.started_ms[n]) = (true, world.now_ms);
                }
            }
            Event::Show(n, shown) => {
                world.shown.remove(&n);
                world.shown.extend(shown.map(|shown| (n, shown)));
            }
            Event::Fault(fault) => world.evidence.fault = fault,
            Event::Other(other) => {
                world.evidence.identity = Some(if other { "other" } else { "one" }.to_owned());
            }
            Event::DatabaseRestart => world.database_up_since_ms = world.now_ms,
            Event::Focus(n) => self.focus(n)?,
            Event::Health(clean) => {
                self.thorough.observe_tick(clean);
                self.sparing.observe_tick(clean);
            }
            Event::Suspect(n, other) => {
                let (id, at) = (world.rows[n].id.clone(), moment_at(world.now_ms));
                let reporter = if other { "a" } else { "b" };
                let report = Report { reporter, login: reporter, at };
                let known = self.thorough.observe_suspicion(&id, report);
                prop_assert_eq!(known, self.sparing.observe_suspicion(&id, report));
            }
            Event::Hold(n, held) => {
                let id = world.rows[n].id.clone();
                world.on_hold.retain(|known| *known != id);
                world.on_hold.extend(held.then_some(id));
            }
            Event::Ours(ours) => world.ours = ours,
            Event::Outcome(outcome) => self.end_restarts(outcome),
        }
        Ok(())
    }

    fn poll(&mut self) -> Result<(), TestCaseError> {
        let world = &self.world;
        let everything = world.read(world.rows.clone());
        self.thorough.observe_fleet(&everything, true);
        let rows: Vec<&Workspace> = everything.workspaces.iter().collect();
        let expected = world.judge(&mut self.thorough, &rows);

        let gap = self.read_ms.is_none_or(|read| world.now_ms - read > 2 * POLL_MS);
        let failed_over = self.database_up_since_ms != world.database_up_since_ms;
        let resync = gap || failed_over || self.since_resync >= RESYNC || self.was_ours != world.ours;
        self.database_up_since_ms = world.database_up_since_ms;
        self.was_ours = world.ours;
        let mut judged: Vec<&Workspace> = rows.clone();
        if resync {
            self.since_resync = 0;
            self.sparing.observe_fleet(&everything, true);
        } else {
            self.since_resync += 1;
            let called = self.sparing.call(moment_at(world.now_ms));
            let floor = clock_at(self.read_ms.unwrap_or(0) - OVERLAP_MS);
            let is_new = |row: &Workspace| row.last_heartbeat_at > Some(floor) || called.contains(&row.id);
            let changes = world.read(world.rows.iter().filter(|row| is_new(row)).cloned().collect());
            self.sparing.observe_changes(&changes, floor, &[]);
            if !self.sparing.must_see_all(&world.engine, &world.evidence) {
                let mut concerned = self.sparing.restless_on(Some(&world.engine));
                concerned.extend(self.sparing.restless_on(None));
                judged.retain(|row| {
                    let sample = (row.kind != Kind::External).then(|| world.sample(number(&row.id)));
                    let busy = world.attempts.contains_key(&row.id) || world.in_flight.contains(&row.id);
                    busy || concerned.contains(&row.id) || self.sparing.concerns(&row.id, sample.as_ref())
                });
            }
        }
        self.looks += judged.len();
        let found = world.judge(&mut self.sparing, &judged);
        self.read_ms = Some(world.now_ms);
        self.compare(&expected.0, &found.0)?;
        self.compare(&expected.1, &found.1)?;
        self.order(&expected.0);
        Ok(())
    }

    fn focus(&mut self, n: usize) -> Result<(), TestCaseError> {
        let read = self.world.read(vec![self.world.rows[n].clone()]);
        self.thorough.observe_fleet(&read, false);
        self.sparing.observe_fleet(&read, false);
        let rows = [&read.workspaces[0]];
        let expected = self.world.judge(&mut self.thorough, &rows);
        let found = self.world.judge(&mut self.sparing, &rows);
        self.compare(&expected.0, &found.0)?;
        self.order(&expected.0);
        Ok(())
    }

    fn compare(&self, expected: &Plan, found: &Plan) -> Result<(), TestCaseError> {
        let at = self.world.now_ms;
        let told = |plan: &Plan| format!("{:?}", (&plan.changes, &plan.restarts, &plan.recoveries, &plan.external));
        prop_assert_eq!(told(expected), told(found), "at {}", at);
        prop_assert_eq!(&expected.storms, &found.storms, "at {}", at);
        prop_assert_eq!(&expected.looks, &found.looks, "at {}", at);
        for row in &self.world.rows {
            let verdicts = (self.thorough.verdict(&row.id), self.sparing.verdict(&row.id));
            prop_assert_eq!(verdicts.0, verdicts.1, "{} at {}", row.id, at);
        }
        prop_assert_eq!(self.thorough.counts(), self.sparing.counts());
        prop_assert_eq!(self.thorough.watched(), self.sparing.watched());
        prop_assert_eq!(self.thorough.exhausted(), self.sparing.exhausted());
        let now = moment_at(at);
        prop_assert_eq!(self.thorough.heartbeats_usable(now), self.sparing.heartbeats_usable(now));
        Ok(())
    }

    fn order(&mut self, plan: &Plan) {
        for order in &plan.restarts {
            let attempt = Attempt {
                id: self.next_id,
                workspace: order.workspace.clone(),
                container_id: order.incarnation.as_ref().map(|life| life.container_id.clone()),
                started_at: order.incarnation.as_ref().and_then(|life| life.started_at),
                attempt: order.attempt,
                claimed_ago: seconds(0),
                finished_ago: None,
                finished_at: None,
                outcome: None,
                recovered_ago: None,
                asked: true,
                acknowledged: false,
            };
            self.next_id += 1;
            self.world.attempts.entry(order.workspace.clone()).or_default().insert(0, attempt);
            self.world.in_flight.push(order.workspace.clone());
        }
    }

    /// What is under way ends so. What ended before and brought its workspace back is forgotten.
    fn end_restarts(&mut self, outcome: Outcome) {
        let world = &mut self.world;
        world.attempts.retain(|id, attempts| {
            world.in_flight.contains(id) || attempts.iter().any(|attempt| attempt.recovered_ago.is_none())
        });
        for attempts in world.attempts.values_mut() {
            for attempt in attempts {
                let n = number(&attempt.workspace);
                if attempt.outcome.is_none() {
                    attempt.outcome = Some(outcome);
                    attempt.finished_ago = Some(seconds(0));
                    attempt.finished_at = Some(clock_at(world.now_ms));
                    if outcome == Outcome::Succeeded {
                        (world.runs[n], world.started_ms[n]) = (true, world.now_ms);
                    }
                } else if world.runs[n] {
                    attempt.recovered_ago = Some(seconds(1));
                }
            }
        }
        world.in_flight.clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn whom_nothing_concerns_need_not_be_read_nor_judged(
        events in proptest::collection::vec(event(), 1..80),
        restarts in any::<bool>(),
    ) {
        play(&events, restarts)?;
    }
}

fn play(events: &[Event], restarts: bool) -> Result<(), TestCaseError> {
    let action = if restarts { Action::Restart } else { Action::Report };
    let settings = Settings { wedged_action: action, unhealthy_action: action, ..Settings::default() };
    let mut pair = Pair::new(&settings);
    events.iter().try_for_each(|event| pair.apply(event))
}

/// The histories above are drawn anew in each run. These are the same each time, so what they notice is noticed for sure (docs/mutants.md).
#[test]
fn the_same_histories_each_time_need_nobody_whom_nothing_concerns() {
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let histories = (proptest::collection::vec(event(), 1..80), any::<bool>());
    runner.run(&histories, |(events, restarts)| play(&events, restarts)).expect("both say the same");
}

/// Otherwise the histories above would prove nothing.
#[test]
fn a_steady_fleet_is_hardly_looked_at_between_two_reads_of_all_rows() {
    let mut pair = Pair::new(&Settings::default());
    pair.apply(&Event::Steady(60)).expect("both say the same");
    let (before, polls) = (pair.looks, 120);
    pair.apply(&Event::Steady(polls)).expect("both say the same");
    let of_resyncs = (polls / RESYNC + 1) as usize * FLEET;
    let looks = pair.looks - before;
    assert!(looks <= of_resyncs + 2 * FLEET, "{looks} looks in {polls} polls of {FLEET} that are well");
    assert_eq!(pair.sparing.counts()[Verdict::Alive.index()], FLEET);
    assert!(pair.settings.poll_interval == seconds(5));
}

/// Its writer's clock is behind, so a read of what has changed never brings it.
#[test]
fn one_whose_stamps_always_come_late_is_read_by_its_id_and_is_not_taken_to_beat_less_often() {
    let mut pair = Pair::new(&Settings::default());
    pair.apply(&Event::Steady(60)).expect("both say the same");
    let id = pair.world.rows[0].id.clone();
    assert!(!pair.sparing.call(moment_at(pair.world.now_ms)).contains(&id), "nothing concerns it");
    for _ in 0..60 {
        pair.world.now_ms += POLL_MS;
        (0..FLEET).for_each(|n| pair.world.beat_in_time(n, if n == 0 { 12_000 } else { 300 }));
        pair.poll().expect("both say the same");
    }
    let mean =
        |judge: &Judge| judge.portrait(&id).and_then(|portrait| portrait.learned).expect("it was learned").mean_ms;
    let (thorough, sparing) = (mean(&pair.thorough), mean(&pair.sparing));
    assert!((thorough - sparing).abs() < thorough / 10.0, "{thorough} ms, {sparing} ms");
    assert!(pair.sparing.call(moment_at(pair.world.now_ms)).contains(&id), "it is read with every poll");
    for _ in 0..120 {
        pair.world.now_ms += POLL_MS;
        (1..FLEET).for_each(|n| pair.world.beat_in_time(n, 300));
        if pair.world.now_ms.rem_euclid(20_000) < POLL_MS {
            pair.world.rows[0].last_heartbeat_at = Some(clock_at(pair.world.now_ms - 12_000));
        }
        pair.poll().expect("both say the same");
    }
    let (thorough, sparing) = (mean(&pair.thorough), mean(&pair.sparing));
    assert!((thorough - 20_000.0).abs() < 1_000.0, "{thorough} ms");
    assert!(
        (thorough - sparing).abs() < thorough / 10.0,
        "{thorough} ms, {sparing} ms: what is read each time teaches"
    );
}

#[test]
fn the_restless_of_an_engine_and_those_that_no_engine_has_are_told_apart() {
    let mut pair = Pair::new(&Settings::default());
    pair.apply(&Event::Steady(60)).expect("both say the same");
    let (engine, judge) = (pair.world.engine.clone(), &mut pair.sparing);
    let [contained, external] = [0, EXTERNAL].map(|n| pair.world.rows[n].id.clone());
    assert_eq!((judge.restless_on(Some(&engine)), judge.restless_on(None)), (Vec::new(), Vec::new()));
    assert!(judge.is_calm(&contained) && judge.is_calm(&external));
    judge.stir(&contained);
    judge.stir(&external);
    assert!(!judge.is_calm(&contained) && !judge.is_calm(&external));
    assert_eq!((judge.restless_on(Some(&engine)), judge.restless_on(None)), (vec![contained], vec![external]));
}

#[test]
fn one_with_attempts_or_with_an_order_under_way_is_looked_at_with_every_poll() {
    let mut pair = Pair::new(&Settings::default());
    pair.apply(&Event::Steady(60)).expect("both say the same");
    let [tried, ordered] = [0, 1].map(|n| pair.world.rows[n].id.clone());
    let attempt = Attempt {
        id: 1,
        workspace: tried.clone(),
        container_id: None,
        started_at: None,
        attempt: 1,
        claimed_ago: seconds(60),
        finished_ago: Some(seconds(50)),
        finished_at: None,
        outcome: Some(Outcome::Succeeded),
        recovered_ago: Some(seconds(20)),
        asked: true,
        acknowledged: false,
    };
    pair.world.attempts.insert(tried.clone(), vec![attempt]);
    pair.world.in_flight.push(ordered.clone());
    pair.apply(&Event::Steady(1)).expect("both say the same");
    assert!(!pair.sparing.is_calm(&tried) && !pair.sparing.is_calm(&ordered));
}

#[test]
fn an_engine_that_was_another_one_is_asked_about_everybody() {
    let mut pair = Pair::new(&Settings::default());
    pair.apply(&Event::Steady(60)).expect("both say the same");
    let (engine, said) = (pair.world.engine.clone(), pair.world.evidence.clone());
    assert!(!pair.sparing.must_see_all(&engine, &said));
    (0..FLEET).for_each(|n| _ = pair.world.shown.insert(n, Shown::Missing));
    for event in [Event::Other(true), Event::Steady(1)] {
        pair.apply(&event).expect("both say the same");
    }
    let nameless = EngineEvidence { identity: None, ..said };
    assert!(pair.sparing.must_see_all(&engine, &nameless), "it is not known to be the right one again");
}

#[test]
fn whose_silence_begins_with_the_next_read_is_called_by_this_one() {
    let mut pair = Pair::new(&Settings::default());
    pair.apply(&Event::Steady(60)).expect("both say the same");
    pair.world.now_ms += POLL_MS;
    pair.world.rows[0].last_heartbeat_at = Some(clock_at(pair.world.now_ms));
    pair.poll().expect("both say the same");
    let id = pair.world.rows[0].id.clone();
    let window = pair.sparing.portrait(&id).expect("it is known").window;
    let last_chance = (moment_at(pair.world.now_ms) + window).minus(pair.settings.poll_interval);
    assert!(!pair.sparing.call(last_chance.minus(std::time::Duration::from_nanos(1))).contains(&id));
    assert!(pair.sparing.call(last_chance).contains(&id));
}

#[test]
fn whose_silence_would_begin_with_the_next_pass_does_not_rest() {
    for (early_ms, rests) in [(0, false), (1, true)] {
        let mut pair = Pair::new(&Settings { recent_min: seconds(60), ..Settings::default() });
        pair.apply(&Event::Steady(60)).expect("both say the same");
        pair.world.now_ms += POLL_MS;
        pair.world.rows[0].last_heartbeat_at = Some(clock_at(pair.world.now_ms));
        pair.poll().expect("both say the same");
        let row = pair.world.rows[0].clone();
        assert_eq!(pair.sparing.portrait(&row.id).expect("it is known").window, seconds(60));
        pair.sparing.stir(&row.id);
        pair.world.now_ms += 60_000 - POLL_MS - PASS_MS - early_ms;
        pair.world.judge(&mut pair.sparing, &[&row]);
        assert_eq!(pair.sparing.is_calm(&row.id), rests, "{early_ms} ms earlier");
    }
}

#[test]
fn one_that_was_called_and_has_left_is_forgotten() {
    let mut pair = Pair::new(&Settings::default());
    pair.apply(&Event::Steady(20)).expect("both say the same");
    let world = &mut pair.world;
    let left = world.rows.remove(2).id;
    world.now_ms += POLL_MS;
    let read = world.read(world.rows.clone());
    let departed = pair.sparing.observe_changes(&read, clock_at(world.now_ms - 7_000), std::slice::from_ref(&left));
    assert_eq!(departed.len(), 1);
    assert_eq!((pair.sparing.watched(), pair.sparing.counts().iter().sum::<usize>()), (FLEET - 1, FLEET - 1));
    assert!(pair.sparing.verdict(&left).is_none() && !pair.sparing.restless_on(Some(&world.engine)).contains(&left));
    assert!(
        pair.sparing.observe_changes(&read, clock_at(world.now_ms), &[left]).is_empty(),
        "it is not known any more"
    );
}
