//! A fleet of which half dies at once while some of the dead cannot be helped: the world's answers to what the judge orders.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    reason = "each test binary uses its own part of this"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::plan::{Plan, RestartOrder};
use defib_policy::restart::End;
use defib_policy::sample::{Incarnation, Observation};
use defib_policy::settings::Settings;

use crate::common::*;

/// What becomes of one that died, when its restart is due or ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is started, and beats.
    Returns,
    /// The engine fails the call.
    Refused,
    /// The platform vetoes the claim.
    Vetoed,
    /// The fresh look before the call does not bear the evidence out.
    Superseded,
    /// An operator holds it.
    Held,
    /// Its container was removed, and its engine cannot make another.
    Missing,
    /// It is started, and exits.
    Exits,
    /// It is started, runs, and is never heard of.
    Mute,
}

pub const NEVER_MADE: [Fate; 5] = [Fate::Refused, Fate::Vetoed, Fate::Superseded, Fate::Held, Fate::Missing];
pub const STARTED_IN_VAIN: [Fate; 2] = [Fate::Exits, Fate::Mute];

/// How long a call of the engine takes, in seconds.
const CALL: i64 = 1;
/// How long after its start one beats for the first time, in seconds.
const BOOT: i64 = 5;
/// `DEFIB_STORM_COOLDOWN`, in seconds.
pub const COOLDOWN: i64 = 120;
/// How long a canary that was started has to come back, in seconds: twice the window of one whose beats are not learned yet.
pub const SETTLE: i64 = 150;

/// How long it takes until one that has exited is found, in seconds: one poll, after it has run for two seconds.
pub const FOUND: i64 = 10;

/// Numbers that look random, and are the same in each run.
pub struct Dice(pub u64);

impl Dice {
    /// One of 0, 1, … `sides` - 1 (the generator is splitmix64).
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) >> 33).expect("31 bits") % sides
    }

    /// Which of `n` dead are hopeless, and how: `hopeless` of them, whoever they are.
    pub fn fates(&mut self, n: usize, hopeless: usize, of: &[Fate]) -> Vec<Fate> {
        let mut fates = vec![Fate::Returns; n];
        for drawn in 0..hopeless {
            let fate = of[self.roll(of.len())];
            let free: Vec<usize> = (0..n).filter(|at| fates[*at] == Fate::Returns).collect();
            fates[free[self.roll(n - drawn)]] = fate;
        }
        fates
    }
}

/// An attempt that has ended.
struct Row {
    id: i64,
    life: Option<Incarnation>,
    number: u32,
    ended_ms: i64,
    outcome: Outcome,
}

/// A fleet of which half died at once, and the world's answers to what the judge orders. Time goes by the second.
pub struct MassDeath {
    pub world: World,
    began_ms: i64,
    dead: BTreeMap<String, Fate>,
    survivors: Vec<String>,
    /// Calls under way, and when they end.
    calls: Vec<(i64, RestartOrder)>,
    /// What happens to those that were started, and when.
    exits: Vec<(i64, String)>,
    beats: BTreeMap<String, i64>,
    looks: BTreeMap<String, i64>,
    /// Attempts that have ended, newest first.
    ledger: BTreeMap<String, Vec<Row>>,
    /// When each was started again for good.
    pub returned: BTreeMap<String, i64>,
    next_id: i64,
}

impl MassDeath {
    /// `draw` decides the hour, and with it the lots.
    pub fn new(draw: u64, fates: &[Fate]) -> Self {
        let mut world = World::new(Settings::default());
        world.now_ms = i64::try_from(draw).expect("small") * 3_600_000;
        world.database_up_since += world.now_ms / 1_000;
        world.evidence.abilities.recreates = false;
        let began_ms = world.now_ms;
        let names: Vec<String> = (0..2 * fates.len()).map(|n| format!("w{n:03}")).collect();
        for name in &names {
            world.add(name, Some(-1), running_since(began_ms - 3_600_000));
        }
        world.tick();
        let dead: BTreeMap<String, Fate> = names.iter().cloned().zip(fates.iter().copied()).collect();
        for (name, fate) in &dead {
            let missing = *fate == Fate::Missing;
            let down = stopped_life(began_ms - 3_600_000, began_ms);
            world.see(name, if missing { Observation::Missing } else { down });
            if *fate == Fate::Held {
                world.on_hold.push(name.clone());
            }
        }
        Self {
            world,
            began_ms,
            dead,
            survivors: names[fates.len()..].to_vec(),
            calls: Vec::new(),
            exits: Vec::new(),
            beats: BTreeMap::new(),
            looks: BTreeMap::new(),
            ledger: BTreeMap::new(),
            returned: BTreeMap::new(),
            next_id: 1,
        }
    }

    /// Seconds since they died.
    pub fn seconds(&self) -> i64 {
        (self.world.now_ms - self.began_ms) / 1_000
    }

    pub fn all_returned(&self) -> bool {
        self.dead.values().filter(|fate| **fate == Fate::Returns).count() == self.returned.len()
    }

    /// Goes on until all who can be helped run again. Returns after how many seconds the last of them did.
    pub fn until_all_returned(mut self) -> i64 {
        while !self.all_returned() {
            assert!(self.seconds() < 7_200, "somebody starves: {:?} returned of {:?}", self.returned, self.dead);
            self.second();
        }
        let last = self.returned.values().max().copied().unwrap_or(self.began_ms);
        (last - self.began_ms) / 1_000
    }

    pub fn second(&mut self) {
        self.world.wait_ms(1_000);
        let now = self.world.now_ms;
        self.live(now);
        let mut turns = self.end_calls(now);
        turns.extend(self.looks.iter().filter(|(_, at)| **at <= now).map(|(id, _)| id.clone()));
        if self.seconds() % 5 == 0 {
            self.survivors.iter().for_each(|id| self.world.beat(id));
            self.fill_in_attempts();
            self.looks.clear();
            let plan = self.world.tick();
            self.follow(plan);
        } else if !turns.is_empty() {
            self.fill_in_attempts();
            self.looks.retain(|id, _| !turns.contains(id));
            let turns: Vec<&str> = turns.iter().map(String::as_str).collect();
            let plan = self.world.focus(&turns);
            self.follow(plan);
        }
    }

    /// Those that were started beat or exit.
    fn live(&mut self, now: i64) {
        for (id, at) in &mut self.beats {
            if *at <= now {
                *at = now + 5_000;
                self.world.beat(id);
            }
        }
        let (due, later) = std::mem::take(&mut self.exits).into_iter().partition(|(at, _)| *at <= now);
        self.exits = later;
        let due: Vec<(i64, String)> = due;
        for (_, id) in due {
            let Some(life) = self.world.seen[&id].incarnation().and_then(|life| life.started_at) else { continue };
            self.world.see(&id, stopped_life((life.0 - clock_at(0).0) / 1_000, now));
        }
    }

    /// Returns whose turn it is now, because another has left its place to them.
    fn end_calls(&mut self, now: i64) -> Vec<String> {
        let (ended, open) = std::mem::take(&mut self.calls).into_iter().partition(|(at, _)| *at <= now);
        self.calls = open;
        let ended: Vec<(i64, RestartOrder)> = ended;
        let mut turns = Vec::new();
        for (_, order) in ended {
            let id = order.workspace.to_string();
            let fate = self.dead[&id];
            let (end, outcome) = match fate {
                Fate::Refused => (End::Failed, Outcome::Failed),
                Fate::Vetoed => (End::NotAsked, Outcome::Vetoed),
                Fate::Superseded => (End::NotAsked, Outcome::Superseded),
                Fate::Returns | Fate::Exits | Fate::Mute => (End::Made, Outcome::Succeeded),
                Fate::Held | Fate::Missing => panic!("{id} was ordered, and is {fate:?}"),
            };
            if end == End::Made {
                self.world.see(&id, running_since(now));
            }
            match fate {
                Fate::Returns => {
                    self.beats.insert(id.clone(), now + BOOT * 1_000);
                    self.returned.insert(id.clone(), now);
                }
                Fate::Exits => self.exits.push((now + 2_000, id.clone())),
                _ => {}
            }
            self.world.in_flight.retain(|other| *other != id);
            let row = Row { id: self.next_id, life: order.incarnation, number: order.attempt, ended_ms: now, outcome };
            self.next_id += 1;
            self.ledger.entry(id).or_default().insert(0, row);
            let drawn = self.world.judge.order_ended(&order.workspace, end, self.world.now());
            turns.extend(drawn.into_iter().map(|(_, id)| id.to_string()));
        }
        turns
    }

    fn follow(&mut self, plan: Plan) {
        let (now, moment) = (self.world.now_ms, self.world.now());
        for (id, at) in plan.looks {
            let in_ms = i64::try_from((at - moment).as_millis()).expect("small");
            self.looks.insert(id.to_string(), now + in_ms);
        }
        for order in plan.restarts {
            assert!(self.dead.contains_key(order.workspace.as_str()), "{} is alive", order.workspace);
            self.world.in_flight.push(order.workspace.to_string());
            self.calls.push((now + CALL * 1_000, order));
        }
    }

    fn fill_in_attempts(&mut self) {
        let now = self.world.now_ms;
        let ago = |ms: i64| Duration::from_millis((now - ms).unsigned_abs());
        for (id, rows) in &self.ledger {
            let attempts = rows.iter().map(|row| Attempt {
                id: row.id,
                workspace: id.as_str().into(),
                container_id: row.life.as_ref().map(|life| life.container_id.clone()),
                started_at: row.life.as_ref().and_then(|life| life.started_at),
                attempt: row.number,
                claimed_ago: ago(row.ended_ms - CALL * 1_000),
                finished_ago: Some(ago(row.ended_ms)),
                finished_at: Some(clock_at(row.ended_ms)),
                outcome: Some(row.outcome),
                recovered_ago: self.returned.get(id).map(|at| ago(*at)),
                asked: !matches!(row.outcome, Outcome::Vetoed | Outcome::Superseded),
                acknowledged: false,
            });
            self.world.attempts.insert(id.clone(), attempts.collect());
        }
    }
}
