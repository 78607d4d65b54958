//! What a judge is told, and what it says: one value for each call, and the one place in which a replay makes these calls.

use defib_policy::cadence::Learned;
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::{EngineEvidence, Judge, ReadStamp};
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::plan::Plan;
use defib_policy::restart::End;
use defib_policy::suspicion::Report;
use defib_policy::verdict::{Held, Rule, Verdict};
use serde::{Deserialize, Serialize};

use crate::scene::Scene;

/// One call to the judge. Rows and samples are in the [`Scene`].
#[derive(Clone, Debug)]
pub enum Told {
    /// A read of the fleet: [`Scene::read`] has it.
    Fleet {
        /// Whether it was a read of the whole fleet.
        whole: bool,
    },
    /// The judge was asked which workspaces the next read of what has changed must bring by id.
    Call {
        /// When.
        at: Moment,
        /// What it answered.
        called: Called,
    },
    /// A read of what has changed: [`Scene::read`] has its rows.
    Changes {
        /// Rows with a later stamp are in it, on the database's clock.
        floor: Timestamp,
        /// The workspaces that are no longer in the fleet.
        gone: Vec<WorkspaceId>,
    },
    /// Something happened to a workspace that passes had left out.
    Stir {
        /// The workspace, by its number in the [`Scene`].
        workspace: u32,
    },
    /// A pass over workspaces of one engine.
    Pass(Pass),
    /// A tick of the whole fleet.
    Tick {
        /// Whether it began in time, and all of its calls were quick and answered.
        clean: bool,
    },
    /// What has expired was dropped.
    Prune {
        /// When.
        at: Moment,
    },
    /// Something that happens rarely.
    Rare(Rare),
}

/// A pass, and what the judge said in it.
#[derive(Clone, Debug)]
pub struct Pass {
    /// When it was judged.
    pub now: Moment,
    /// The clock readings that ages are counted by.
    pub stamp: ReadStamp,
    /// The engine, with what was learned of it as such.
    pub engine: Option<(EngineName, EngineEvidence)>,
    /// The workspaces, by their numbers in the [`Scene`].
    pub members: Vec<u32>,
    /// How many other workspaces of the engine were left out, because nothing concerned them: they run as before.
    pub left_out: u64,
    /// When the engine was asked; the moment of the pass if it was not.
    pub asked_at: Moment,
    /// What the judge said.
    pub said: Said,
}

/// Calls that are made rarely, as they are written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Rare {
    /// A report of a caller.
    Suspicion {
        /// The workspace that is suspected.
        workspace: WorkspaceId,
        /// The name that the caller gives itself.
        reporter: Box<str>,
        /// The database login that reported.
        login: Box<str>,
        /// When.
        at: Moment,
    },
    /// The word on a workspace was taken over.
    TakeOver {
        /// Which.
        workspace: WorkspaceId,
        /// What was recorded of it.
        verdict: Verdict,
        /// Since when.
        since: Moment,
    },
    /// The word on a workspace was left to another replica.
    HandOver {
        /// Which.
        workspace: WorkspaceId,
    },
    /// What another process had learned was taken up.
    Recall {
        /// The workspace.
        workspace: WorkspaceId,
        /// What was learned.
        learned: Learned,
    },
    /// What earlier processes had found out about steps of the database's clock was taken up.
    RecallSteps {
        /// From this stamp on, two readings of the clock can be compared. `None`: there was no step.
        comparable_from: Option<Timestamp>,
    },
    /// An order ended.
    Ended {
        /// Whose.
        workspace: WorkspaceId,
        /// How it ended.
        end: End,
        /// When.
        at: Moment,
    },
    /// An operator ended a storm.
    StormEnd {
        /// The engine of the storm. `None`: every storm.
        engine: Option<EngineName>,
    },
}

/// The workspaces that a judge called for a read: how many, and a digest of their ids, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Called {
    /// How many.
    pub count: u64,
    /// The sum of the digests of their ids.
    pub digest: u64,
}

impl Called {
    /// The digest of the workspaces that a judge has just called.
    #[must_use]
    pub fn of(ids: &[WorkspaceId]) -> Self {
        let digest = ids.iter().map(|id| xxhash_rust::xxh3::xxh3_64(id.as_str().as_bytes()));
        Self { count: ids.len() as u64, digest: digest.fold(0, u64::wrapping_add) }
    }
}

/// What a judge said in a pass: a digest of all of it, and the verdicts and orders themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The digest of the plan; 0 when it held nothing.
    pub digest: u64,
    /// Verdicts that changed, or whose rule or hold did.
    pub changes: Vec<SaidOf>,
    /// Restarts that were ordered: the workspace, and the number of the attempt.
    pub restarts: Vec<(u32, u32)>,
}

/// A verdict that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaidOf {
    /// Whose, by the number in the [`Scene`].
    pub workspace: u32,
    /// The verdict.
    pub verdict: Verdict,
    /// The rule that gave it.
    pub rule: Rule,
    /// Why a restart that it calls for is held back.
    pub held: Option<Held>,
}

/// The digest of everything that a plan says; 0 when it says nothing.
#[must_use]
pub fn digest(plan: &Plan) -> u64 {
    let Plan { changes, restarts, recoveries, external, looks, storms, judged: _ } = plan;
    if changes.is_empty()
        && restarts.is_empty()
        && recoveries.is_empty()
        && external.is_empty()
        && looks.is_empty()
        && storms.is_empty()
    {
        return 0;
    }
    let text = format!("{changes:?}{restarts:?}{recoveries:?}{external:?}{looks:?}{storms:?}");
    xxhash_rust::xxh3::xxh3_64(text.as_bytes()).max(1)
}

/// What a judge answers when it is told what another was told.
#[derive(Debug, Default)]
pub struct Answer {
    /// What it says, if that was a pass.
    pub plan: Option<Plan>,
    /// Whether it says something else than the other judge did, or calls other workspaces for a read.
    pub differs: bool,
}

/// Tells a judge what another was told. Returns what it answers.
pub fn tell(judge: &mut Judge, scene: &Scene, told: &Told) -> Answer {
    match told {
        Told::Call { at, called } => {
            return Answer { plan: None, differs: Called::of(&judge.call(*at)) != *called };
        }
        Told::Changes { floor, gone } => {
            judge.observe_changes(scene.read(false), *floor, gone);
        }
        Told::Stir { workspace } => {
            if let Some(id) = scene.id(*workspace) {
                judge.stir(id);
            }
        }
        Told::Fleet { whole } => {
            judge.observe_fleet(scene.read(*whole), *whole);
        }
        Told::Pass(pass) => {
            let engine = pass.engine.as_ref().map(|(name, evidence)| (name, evidence));
            let plan = judge.judge(pass.now, pass.stamp, engine, &scene.looks(pass));
            return Answer { differs: digest(&plan) != pass.said.digest, plan: Some(plan) };
        }
        Told::Tick { clean } => judge.observe_tick(*clean),
        Told::Prune { at } => {
            judge.prune(*at);
        }
        Told::Rare(rare) => tell_rare(judge, rare),
    }
    Answer::default()
}

fn tell_rare(judge: &mut Judge, rare: &Rare) {
    match rare {
        Rare::Suspicion { workspace, reporter, login, at } => {
            judge.observe_suspicion(workspace, Report { reporter, login, at: *at });
        }
        Rare::TakeOver { workspace, verdict, since } => judge.take_over(workspace, *verdict, *since),
        Rare::HandOver { workspace } => judge.hand_over(workspace),
        Rare::Recall { workspace, learned } => {
            judge.recall(workspace, *learned);
        }
        Rare::RecallSteps { comparable_from } => judge.recall_steps(*comparable_from),
        Rare::Ended { workspace, end, at } => {
            judge.order_ended(workspace, *end, *at);
        }
        Rare::StormEnd { engine } => {
            judge.end_storm(engine.as_ref());
        }
    }
}
