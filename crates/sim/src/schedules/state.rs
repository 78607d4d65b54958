//! The state of a walk: its world, the processes and what they are at, what they send and hear, and what is due.
//!
//! This file holds the types and no behaviour beyond the order of the agenda. Their methods are in the files that act on them:
//! `walk.rs` (the loop and the database), `process.rs` and `restart.rs` (what a replica does), `engine.rs` (containers and calls),
//! `faults.rs` (what goes wrong) and `check.rs` (what must never be).

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use defib_policy::attempt::{Attempt, Outcome};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::ownership::Ownership;
use defib_policy::restart::{self, Step};
use defib_policy::sample::{Incarnation, Observation};
use defib_policy::settings::Settings;

use super::tally::Tally;
use crate::dice::Dice;
use crate::facts::Facts;
use crate::lease::{LeaseTable, Turn};
use crate::ledger::{ClaimUnderWay, Claimed, Ledger, MayAct, OpenAttempt};
use crate::time::Ms;
use crate::weakening::Weakening;

/// What is to be walked through.
#[derive(Clone, Copy, Debug)]
pub struct Schedules {
    /// Replicas at a time.
    pub replicas: usize,
    /// Steps in all.
    pub steps: u64,
    /// Where chance begins.
    pub seed: u64,
    /// The rule that is left out.
    pub weakening: Option<Weakening>,
}

/// One world.
pub(super) struct Walk {
    pub(super) now: Ms,
    pub(super) dice: Dice,
    pub(super) steps: u64,
    pub(super) tally: Tally,
    pub(super) violation: Option<String>,
    pub(super) trace: Option<Vec<String>>,
    pub(super) weakening: Option<Weakening>,
    pub(super) settings: Settings,
    pub(super) heals: bool,
    pub(super) ledger: Ledger,
    pub(super) names: Vec<WorkspaceId>,
    pub(super) engines: Vec<EngineName>,
    pub(super) boxes: Vec<Container>,
    pub(super) moods: Vec<Mood>,
    pub(super) processes: Vec<Process>,
    pub(super) jobs: BTreeMap<u64, Job>,
    pub(super) calls: Vec<Call>,
    /// The process that took each engine last.
    pub(super) takers: BTreeMap<EngineName, usize>,
    /// The process that made each attempt. The field after it has the life that each attempt was meant for.
    pub(super) owners: BTreeMap<i64, usize>,
    pub(super) meant: BTreeMap<i64, u64>,
    pub(super) settled_by_others: BTreeSet<i64>,
    pub(super) jobs_made: u64,
    pub(super) turn: Option<(u64, Open<Turn>)>,
    pub(super) claims: BTreeMap<u64, Open<ClaimUnderWay>>,
    pub(super) agenda: BinaryHeap<Due>,
    pub(super) sequence: u64,
    pub(super) deeds_due: usize,
}

/// A workspace's container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) engine: usize,
    pub(super) facts: Facts,
    /// How many containers it has had.
    pub(super) containers: u32,
    /// How many lives.
    pub(super) life: u64,
    pub(super) starter: Starter,
    pub(super) began: Ms,
    pub(super) runs: bool,
    pub(super) hangs: bool,
    pub(super) down_since: Option<Ms>,
    /// Parked or held since.
    pub(super) put_away_at: Option<Ms>,
}

/// Who began a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starter {
    /// The platform, or an operator.
    Platform,
    /// A call of ours: whether its attempt had been settled by then, whether that was in one of the windows, and
    /// whether it stops what runs.
    Call { late: bool, excused: bool, kills: bool },
}

/// An engine's mood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mood {
    /// It takes its time.
    pub(super) slow: bool,
    /// It answers nobody, and does what it was asked later.
    pub(super) silent: bool,
    /// It refuses to start anything.
    pub(super) fails: bool,
}

/// A call on its way, or carried out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) row: i64,
    pub(super) of: usize,
    pub(super) process: usize,
    pub(super) epoch: i64,
    /// Kill and start; else only start.
    pub(super) kills: bool,
    /// The life that it is meant for.
    pub(super) life: u64,
    /// The container that this life runs in.
    pub(super) container: u32,
    /// When its process last saw that life.
    pub(super) looked_at: Ms,
    pub(super) left_at: Ms,
    /// How long its process waits for the answer.
    pub(super) deadline: Ms,
    /// Its process was stopped in the window.
    pub(super) window: bool,
    /// Who waits for its answer.
    pub(super) job: u64,
    pub(super) ticket: u32,
}

/// What an engine does for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Stops what runs.
    Kill,
    /// Starts what does not.
    Start,
}

/// A process.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
pub(super) struct Process {
    /// Which of the replicas it is the latest process of.
    pub(super) slot: usize,
    /// `DEFIB_REPLICA_ID`.
    pub(super) name: String,
    pub(super) alive: bool,
    pub(super) paused_until: Ms,
    pub(super) cut_from_database: bool,
    pub(super) cut_from_engines: bool,
    pub(super) in_flight: BTreeSet<usize>,
    /// What its clock has not counted.
    pub(super) lost: Ms,
    pub(super) ownership: Ownership,
    pub(super) turning: bool,
    pub(super) settling: bool,
    pub(super) passing: BTreeSet<usize>,
    pub(super) stopping: bool,
}

/// A task that a process works on.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) process: usize,
    /// The number of the answer that it waits for. An answer with another number comes too late, and is dropped.
    pub(super) ticket: u32,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// A turn at the leases, begun at this moment of its clock.
    Turn { at: Moment, begun: bool },
    /// A statement whose answer does not matter.
    Say(Option<Statement>),
    /// A pass over an engine.
    Pass { engine: usize, read: Option<Vec<Read>>, looked: usize },
    /// Settling what was left behind, on what was owned when it began.
    Settle { owned: BTreeMap<EngineName, i64>, left: Option<Vec<OpenAttempt>>, looks: bool },
    /// A restart.
    Restart(Box<Restart>),
}

/// A restart.
#[derive(Debug)]
pub(super) struct Restart {
    pub(super) order: Order,
    pub(super) stage: Stage,
    /// Its process was stopped where nothing can notice it any more.
    pub(super) window: bool,
    /// For a place.
    pub(super) has_waited: bool,
    pub(super) value: restart::Restart,
    pub(super) step: Step,
    pub(super) epoch: i64,
    pub(super) row: Option<i64>,
    pub(super) looked_at: Ms,
    pub(super) asked_at: Moment,
    pub(super) left_at: Moment,
    pub(super) container: u32,
    pub(super) call: Option<restart::Call>,
}

/// What it waits for, where a step is more than one thing to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Others are at work on its engine.
    Permit,
    ClaimBegins,
    ClaimInserts,
    ClaimCommits,
    /// The answer to its step.
    Asked,
    /// Its step is not due yet.
    NotYet,
    /// The line that looks at the own clock.
    LastCheck,
    /// The line after it, which calls.
    Leaves,
    Called,
}

/// What is claimed.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) of: usize,
    pub(super) kills: bool,
    pub(super) convicted: Incarnation,
    pub(super) life: u64,
    pub(super) attempt: u32,
    pub(super) status: &'static str,
    pub(super) heartbeat: Option<Timestamp>,
    /// How long after its claim others may settle it, as the protocol says.
    pub(super) deadline: Duration,
}

/// What is sent to the database.
#[derive(Clone, Debug)]
pub(super) enum Statement {
    TurnBegin { owned: Option<BTreeMap<EngineName, i64>>, busy: BTreeSet<EngineName> },
    TurnCommit,
    Release(BTreeMap<EngineName, i64>),
    ClaimBegin(Box<Order>, i64),
    ClaimInsert(Box<Order>, i64),
    ClaimCommit,
    MayAct { id: i64, of: usize, epoch: i64, within: Duration },
    Finish(i64, Outcome),
    Abandon(i64),
    Recovered(i64, usize),
    Read(usize),
    Open(Vec<EngineName>),
}

/// What a replica hears.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Time has passed.
    Go,
    /// The database gave no answer.
    Lost,
    /// The database refused: a lock, a transaction that it had ended.
    Refused,
    /// Go on with the transaction.
    Begun,
    Turned(LeaseTable),
    Claimed(Claimed),
    Committed,
    /// What `may_act` has read, before it writes.
    Facts((bool, bool)),
    MayAct(MayAct),
    Ended,
    Read(Vec<Read>),
    Open(Vec<OpenAttempt>),
    Seen {
        observation: Observation,
        life: u64,
        hangs: bool,
        at: Ms,
    },
    CallDone,
    CallLost,
    CallRefused,
    CallGone,
}

/// A workspace as a pass reads it.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) of: usize,
    pub(super) facts: Facts,
    pub(super) on_hold: bool,
    pub(super) attempts: Vec<Attempt>,
}

/// Something that happens.
#[derive(Debug)]
pub(super) enum Event {
    Tick(usize),
    Execute { job: u64, ticket: u32, process: usize, statement: Statement },
    Answer(u64, u32, Answer),
    WriteActing { job: u64, ticket: u32, process: usize, id: i64, facts: (bool, bool), within: Duration },
    Look(u64, u32, usize),
    Deed(usize, Deed, bool),
    ServerEnds(u64, u32),
    Fault,
    Mend(Mend),
    Kill(usize),
}

/// The end of something that went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mend {
    Database(usize),
    Engines(usize),
    Mood(usize),
    Parked(usize),
    Held,
    Reborn(usize),
}

pub(super) struct Due {
    pub(super) at: Ms,
    pub(super) sequence: u64,
    pub(super) event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The heap has the greatest first, and that is the earliest.
impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// A transaction that is open in the database.
pub(super) struct Open<T> {
    pub(super) process: usize,
    pub(super) statements: u32,
    pub(super) of: T,
}
