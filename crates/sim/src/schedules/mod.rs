//! Random schedules of two or three replicas: is there one in which an incarnation is restarted twice?
//!
//! The restart protocol of the daemon is walked through step by step. The order of the steps, their deadlines and what each answer means
//! are the value that the daemon drives too ([`defib_policy::restart`]); so are the rules of leases and of rows left behind. A step is as
//! much as a process does between two points at which it can be stopped: a statement reaches the database, an answer reaches the
//! replica, the line before the engine is asked, the call leaving, the engine carrying it out. Between any two of them a replica may be
//! stopped (its clock going on), suspended (its clock standing still), killed, or cut off from the database or the engines;
//! answers are lost, engines are slow, hang or fail; workspaces die again, and the platform restarts, recreates and parks them.
//!
//! ```text
//! replica:  pass ─ claim: begin · insert · commit ─ confirm ─ may_act ─ own clock ─ call ─────── look after ─ finish
//! database:          (lease locked)                  acting_at written            │
//! engine:                                                                         └─► … carries it out, whenever
//! ```
//!
//! The ledger is the model that a test holds against the SQL ([`crate::ledger`]). What is written anew here is what a statement does
//! between its beginning and its commit, and who is stopped when. `check.rs` holds what must be true after each step. The types are in
//! `state.rs`; the other files act on them and do not import each other.
//!
//! A walk is a random one: it proves nothing of the schedules that it did not take. So every rule of the protocol is left out once
//! ([`Weakening`](crate::weakening::Weakening)), and each time the walk must notice. The value knows nothing of that: it is told what
//! it would hear if the rule were not there (a look that nobody made, a clock that has not moved on).

mod check;
mod deadlines;
mod engine;
mod faults;
mod process;
mod restart;
mod state;
mod tally;
mod walk;

use crate::time::Ms;
pub use state::Schedules;
use state::Walk;
pub use tally::Tally;

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Steps made.
    pub steps: u64,
    /// Worlds that were walked through to their healthy end.
    pub worlds: u64,
    /// Simulated time.
    pub lasted: Ms,
    /// What happened on the way.
    pub tally: Tally,
    /// The first thing that must never be, which ended the walk.
    pub violation: Option<Violation>,
}

/// Something that must never be.
#[derive(Debug)]
pub struct Violation {
    /// What.
    pub what: String,
    /// The seed of its world, for [`replay`].
    pub seed: u64,
    /// What led to it.
    pub trace: Vec<String>,
}

impl Findings {
    /// What happened, in a few lines.
    #[must_use]
    pub fn summary(&self, replicas: usize, seed: u64) -> String {
        let it = &self.tally;
        format!(
            "{replicas} replicas, seed {seed}: {} steps in {} worlds, {} simulated hours\n\
             {} deaths, {} faults of processes, {} take-overs, {} claims, {} calls, {} restarts, {} attempts settled by others\n\
             {} calls left under a lease just given up or taken by a namesake, covered by their rows\n\
             in the windows: {} calls left late, {} starts found it running, {} starts found a successor dead, \
             successors killed: {} by woken processes, {} by belated engines; {} times somebody else was faster\n\
             {}",
            self.steps,
            self.worlds,
            self.lasted / 3_600_000,
            it.deaths,
            it.faults,
            it.take_overs,
            it.claims,
            it.calls,
            it.restarts,
            it.settled,
            it.left_covered,
            it.left_late,
            it.idle,
            it.revived,
            it.killed_by_woken,
            it.killed_by_belated,
            it.raced,
            if self.violation.is_none() {
                "no schedule restarts an incarnation twice outside of them"
            } else {
                "FAILED"
            },
        )
    }
}

/// Walks through so many steps, world after world, or up to the first violation.
#[must_use]
pub fn explore(schedules: &Schedules) -> Findings {
    let mut findings = Findings::default();
    let mut seed = schedules.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while findings.steps < schedules.steps && findings.violation.is_none() {
        seed = seed.wrapping_add(1);
        let walked = Walk::through(schedules, seed, false);
        findings.steps += walked.steps;
        findings.worlds += 1;
        findings.lasted += walked.now - crate::time::ORIGIN;
        findings.tally.add(&walked.tally);
        if let Some(what) = walked.violation {
            findings.violation = Some(Violation { what, seed, trace: replay(schedules, seed) });
        }
    }
    findings
}

/// Walks through one world again and tells what happened.
#[must_use]
pub fn replay(schedules: &Schedules, seed: u64) -> Vec<String> {
    Walk::through(schedules, seed, true).trace.unwrap_or_default()
}
