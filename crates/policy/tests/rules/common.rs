//! A small world for table tests: one judge, a clock that the test moves, and workspaces described by what is seen of them.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    reason = "each test binary uses its own part of this"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use defib_policy::abilities::Abilities;
use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::fleet::{FleetRead, Kind, Workspace};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::{EngineEvidence, Judge, Look, OwnSettings, ReadStamp};
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::plan::Plan;
use defib_policy::sample::{Exit, Fault, Health, Incarnation, Observation, Sample, Transition};
use defib_policy::settings::Settings;
use defib_policy::suspicion::Report;
use defib_policy::verdict::{Rule, Verdict};

/// The world's second zero: far from the clocks' own zero, with a database that has been up for long.
const EPOCH: i64 = 1_800_000_000_000_000;

/// Those of an engine that can make a removed container again as well.
pub const ALL: Abilities = Abilities { recreates: true, ..Abilities::CONTAINER_ENGINE };

pub struct World {
    pub judge: Judge,
    pub engine: EngineName,
    pub evidence: EngineEvidence,
    pub now_ms: i64,
    /// How long a pass takes from its read to its judgement.
    pub lag_ms: u64,
    pub database_up_since: i64,
    /// How far the database's clock is ahead of the others, in milliseconds.
    pub database_ahead_ms: i64,
    pub fleet: BTreeMap<String, Workspace>,
    pub seen: BTreeMap<String, Observation>,
    pub attempts: BTreeMap<String, Vec<Attempt>>,
    pub in_flight: Vec<String>,
    pub queued: Vec<String>,
    pub ours: bool,
    pub on_hold: Vec<String>,
    pub own: BTreeMap<String, OwnSettings>,
}

pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl World {
    pub fn new(settings: Settings) -> Self {
        let mut judge = Judge::new(settings);
        judge.recall_steps(None);
        Self {
            judge,
            engine: "default".into(),
            evidence: EngineEvidence { identity: Some("engine-1".into()), abilities: ALL, ..EngineEvidence::default() },
            now_ms: 0,
            lag_ms: 0,
            database_up_since: -100_000,
            database_ahead_ms: 0,
            fleet: BTreeMap::new(),
            seen: BTreeMap::new(),
            attempts: BTreeMap::new(),
            in_flight: Vec::new(),
            queued: Vec::new(),
            ours: true,
            on_hold: Vec::new(),
            own: BTreeMap::new(),
        }
    }

    /// A workspace whose container has been running for an hour and whose last heartbeat is `beat` seconds from now.
    pub fn with(mut self, id: &str, beat: Option<i64>, observation: Observation) -> Self {
        self.add(id, beat, observation);
        self
    }

    pub fn add(&mut self, id: &str, beat: Option<i64>, observation: Observation) {
        let row = Workspace {
            id: id.into(),
            status: "online".into(),
            kind: Kind::Container,
            engine: self.engine.clone(),
            container_ref: None,
            instance_ref: None,
            suspended: false,
            last_heartbeat_at: beat.map(|beat| self.clock().shifted(beat * 1_000_000)),
            last_activity_at: None,
            active_tasks: 0,
            created_at: Some(clock_at(-7_200_000)),
            policy: None,
        };
        self.fleet.insert(id.to_owned(), row);
        self.seen.insert(id.to_owned(), observation);
    }

    /// Read each 5 s for exactly one window, as it is before it is learned: from now on silence counts in full.
    pub fn watched(mut self) -> Self {
        let until = self.now_ms;
        self.wait_ms(-75_000);
        while self.now_ms < until {
            self.tick();
            self.wait_ms(5_000);
        }
        self
    }

    pub fn row(&mut self, id: &str) -> &mut Workspace {
        self.fleet.get_mut(id).expect("a workspace of this world")
    }

    pub fn beat(&mut self, id: &str) {
        let now = self.clock();
        self.row(id).last_heartbeat_at = Some(now);
    }

    /// A report of it by a caller that has a database login of its own. Returns whether the workspace is watched.
    pub fn suspect(&mut self, id: &WorkspaceId, reporter: &str) -> bool {
        self.report(id, reporter, reporter)
    }

    pub fn report(&mut self, id: &WorkspaceId, login: &str, reporter: &str) -> bool {
        let at = self.now();
        self.judge.observe_suspicion(id, Report { reporter, login, at })
    }

    pub fn see(&mut self, id: &str, observation: Observation) {
        self.seen.insert(id.to_owned(), observation);
    }

    /// The database's.
    pub fn clock(&self) -> Timestamp {
        clock_at(self.now_ms + self.database_ahead_ms)
    }

    /// The database's clock steps. The engine is asked for its own soon, and stays where it is.
    pub fn step_clock(&mut self, ahead_ms: i64) {
        self.database_ahead_ms = ahead_ms;
        self.evidence.clock_offset_micros = Some(-ahead_ms * 1_000);
    }

    pub fn now(&self) -> Moment {
        moment_at(self.now_ms)
    }

    pub fn wait_ms(&mut self, ms: i64) {
        self.now_ms += ms;
    }

    /// Reads and judges everybody, as a tick does.
    pub fn tick(&mut self) -> Plan {
        let ids: Vec<String> = self.fleet.keys().cloned().collect();
        self.pass(&ids, true)
    }

    /// The engine cannot be reached for five seconds. In them the container of `w`, which has a restart policy of its engine, stops.
    pub fn engine_goes_away_and_w_stops(&mut self) {
        self.tick();
        self.evidence.fault = Some(Fault::Unreachable);
        self.wait_ms(5_000);
        self.tick();
        self.evidence.fault = None;
        let exit = Exit { engine_restarts: true, finished_at: Some(clock_at(4_000)), ..Exit::default() };
        self.see("w", Observation::Stopped { incarnation: life(-3_600_000), exit });
    }

    /// Reads and judges a few, as a focus does.
    pub fn focus(&mut self, ids: &[&str]) -> Plan {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        self.pass(&ids, false)
    }

    /// Ticks each 5 s for `span` seconds and returns every plan's restarts by workspace.
    pub fn run(&mut self, span: i64) -> Vec<(i64, String)> {
        let (mut restarts, end) = (Vec::new(), self.now_ms + span * 1_000);
        while self.now_ms < end {
            self.wait_ms(5_000);
            let plan = self.tick();
            restarts.extend(plan.restarts.iter().map(|order| (self.now_ms, order.workspace.to_string())));
        }
        restarts
    }

    fn pass(&mut self, ids: &[String], whole: bool) -> Plan {
        let read = FleetRead {
            at: self.now(),
            database_now: self.clock(),
            database_started_at: clock_at(self.database_up_since * 1_000),
            workspaces: ids.iter().filter_map(|id| self.fleet.get(id)).cloned().collect(),
        };
        self.judge.observe_fleet(&read, whole);
        self.judge_rows(&read.workspaces)
    }

    /// Judges rows without a read of them, as a pass does that a newer read has overtaken.
    /// Those of other engines than this pass is about are left out.
    pub fn judge_rows(&mut self, rows: &[Workspace]) -> Plan {
        let at = self.now();
        let rows: Vec<&Workspace> = rows.iter().filter(|row| row.engine == self.engine).collect();
        let samples: Vec<Sample> =
            rows.iter().map(|row| Sample { at, observation: self.seen[row.id.as_str()].clone() }).collect();
        let looks: Vec<Look<'_>> = rows
            .into_iter()
            .zip(&samples)
            .map(|(workspace, sample)| Look {
                workspace,
                sample: (workspace.kind != Kind::External).then_some(sample),
                attempts: self.attempts.get(workspace.id.as_str()).map_or(&[][..], Vec::as_slice),
                in_flight: self.in_flight.iter().any(|id| id == workspace.id.as_str()),
                queued: self.queued.iter().any(|id| id == workspace.id.as_str()),
                ours: self.ours,
                on_hold: self.on_hold.iter().any(|id| id == workspace.id.as_str()),
                own: self.own.get(workspace.id.as_str()),
            })
            .collect();
        let stamp = ReadStamp { at, database_now: self.clock() };
        self.judge.judge(at + Duration::from_millis(self.lag_ms), stamp, Some((&self.engine, &self.evidence)), &looks)
    }

    pub fn verdict(&self, id: &str) -> Option<Verdict> {
        self.judge.verdict(&WorkspaceId::from(id))
    }
}

/// The rule of the last change of `id` in a plan.
pub fn rule_of(plan: &Plan, id: &str) -> Option<Rule> {
    plan.changes.iter().rev().find(|change| change.workspace.as_str() == id).map(|change| change.evidence.rule)
}

pub fn restarted(plan: &Plan) -> Vec<&str> {
    plan.restarts.iter().map(|order| order.workspace.as_str()).collect()
}

/// The attempt with this number, on the life that has been running for an hour. It was claimed and ended so many seconds ago.
pub fn attempt(id: i64, claimed: u64, outcome: Option<Outcome>) -> Attempt {
    Attempt {
        id,
        workspace: "w".into(),
        container_id: Some("container".into()),
        started_at: Some(clock_at(-3_600_000)),
        attempt: u32::try_from(id).expect("small"),
        claimed_ago: seconds(claimed),
        finished_ago: outcome.map(|_| seconds(claimed)),
        finished_at: outcome.map(|_| clock_at(0)),
        outcome,
        recovered_ago: None,
        asked: true,
        acknowledged: false,
    }
}

pub fn clock_at(ms: i64) -> Timestamp {
    Timestamp(EPOCH + ms * 1_000)
}

pub fn moment_at(ms: i64) -> Moment {
    Moment::after(Duration::from_millis((1_000_000_000 + ms).unsigned_abs()))
}

pub fn life(started_ms: i64) -> Incarnation {
    Incarnation { container_id: "container".into(), started_at: Some(clock_at(started_ms)) }
}

/// Running for an hour.
pub fn running() -> Observation {
    running_since(-3_600_000)
}

pub fn running_since(started_ms: i64) -> Observation {
    Observation::Running { incarnation: life(started_ms), health: Health::None }
}

/// Started an hour ago, stopped at `ms`.
pub fn stopped(ms: i64) -> Observation {
    stopped_life(-3_600_000, ms)
}

pub fn stopped_life(started_ms: i64, ms: i64) -> Observation {
    let exit = Exit { exit_code: Some(137), finished_at: Some(clock_at(ms)), ..Exit::default() };
    Observation::Stopped { incarnation: life(started_ms), exit }
}

pub fn frozen() -> Observation {
    Observation::Frozen { incarnation: life(-3_600_000) }
}

pub fn transition(transition: Transition) -> Observation {
    Observation::Transitional { incarnation: life(-3_600_000), transition }
}

pub fn unknown(fault: Fault) -> Observation {
    Observation::Unknown { fault }
}

pub fn unhealthy(last_check_ms: i64) -> Observation {
    checked(last_check_ms, 120)
}

/// One whose check failed last at this moment, and is to be made again within so many seconds.
pub fn checked(last_check_ms: i64, due_within: u64) -> Observation {
    let due_within = Some(seconds(due_within));
    let health = Health::Unhealthy { last_check_at: Some(clock_at(last_check_ms)), due_within };
    Observation::Running { incarnation: life(-3_600_000), health }
}
