//! A judge whose calls are written down.

use std::ops::Deref;

use defib_policy::cadence::Learned;
use defib_policy::fleet::FleetRead;
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::{Departed, EngineEvidence, Judge, Look, ReadStamp, StormEnded};
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::plan::Plan;
use defib_policy::restart::End;
use defib_policy::suspicion::Report;
use defib_policy::verdict::Verdict;

use crate::encode::Encoder;
use crate::segment::Header;
use crate::tape::Tape;
use crate::told::{Called, Rare};

/// A judge. Each call that changes what it knows is written down, if there is a tape. A call that only asks goes to the judge unrecorded.
///
/// There is no way to change the judge without this type, so a call that is added to the judge cannot be left out of recordings: it is not
/// callable until it is recorded.
#[derive(Debug)]
pub struct Recorded {
    judge: Judge,
    writing: Option<Box<Writing>>,
}

#[derive(Debug)]
struct Writing {
    encoder: Encoder,
    tape: Box<dyn Tape>,
    /// Whether the judge was replaced since the last call.
    is_another: bool,
}

impl Recorded {
    /// A judge that is not recorded.
    #[must_use]
    pub const fn off(judge: Judge) -> Self {
        Self { judge, writing: None }
    }

    /// A judge that is recorded.
    #[must_use]
    pub fn onto(judge: Judge, tape: Box<dyn Tape>) -> Self {
        let writing = Writing { encoder: Encoder::default(), tape, is_another: true };
        Self { judge, writing: Some(Box::new(writing)) }
    }

    /// Puts another judge in place of this one, as when a process starts anew. The recording goes on with it.
    pub fn replace(&mut self, judge: Judge) {
        self.judge = judge;
        if let Some(writing) = &mut self.writing {
            writing.is_another = true;
        }
    }

    /// Takes note of a read of the fleet: [`Judge::observe_fleet`].
    pub fn observe_fleet(&mut self, read: &FleetRead, whole: bool) -> Vec<Departed> {
        self.tell(|judge| judge.observe_fleet(read, whole), |encoder, _| encoder.fleet(read, whole))
    }

    /// The workspaces that the next read of what has changed must bring by id: [`Judge::call`].
    pub fn call(&mut self, now: Moment) -> Vec<WorkspaceId> {
        self.tell(|judge| judge.call(now), |encoder, called| encoder.call(now, Called::of(called)))
    }

    /// Takes note of what a read of the changes brought: [`Judge::observe_changes`].
    pub fn observe_changes(&mut self, read: &FleetRead, floor: Timestamp, gone: &[WorkspaceId]) -> Vec<Departed> {
        self.tell(|judge| judge.observe_changes(read, floor, gone), |encoder, _| encoder.changes(read, floor, gone))
    }

    /// Something has happened to a workspace: [`Judge::stir`]. Nothing is written if passes look at the workspace anyway, because then
    /// nothing changes.
    pub fn stir(&mut self, id: &WorkspaceId) {
        if self.judge.is_calm(id) {
            self.tell(|judge| judge.stir(id), |encoder, ()| encoder.stir(id));
        }
    }

    /// Judges all workspaces that a pass is about: [`Judge::judge`].
    pub fn judge(
        &mut self,
        now: Moment,
        stamp: ReadStamp,
        engine: Option<(&EngineName, &EngineEvidence)>,
        looks: &[Look<'_>],
    ) -> Plan {
        self.judge_concerned(now, stamp, engine, looks, 0)
    }

    /// Judges the workspaces of an engine that something concerns: [`Judge::judge`]. `left_out` counts the others, which run as before.
    pub fn judge_concerned(
        &mut self,
        now: Moment,
        stamp: ReadStamp,
        engine: Option<(&EngineName, &EngineEvidence)>,
        looks: &[Look<'_>],
        left_out: usize,
    ) -> Plan {
        self.tell(
            |judge| judge.judge(now, stamp, engine, looks),
            |encoder, plan| encoder.pass(now, stamp, engine, looks, left_out as u64, plan),
        )
    }

    /// Takes note of a suspicion: [`Judge::observe_suspicion`].
    pub fn observe_suspicion(&mut self, id: &WorkspaceId, report: Report<'_>) -> bool {
        let rare = || Rare::Suspicion {
            workspace: id.clone(),
            reporter: report.reporter.into(),
            login: report.login.into(),
            at: report.at,
        };
        self.tell(|judge| judge.observe_suspicion(id, report), |encoder, _| encoder.rare(&rare()))
    }

    /// Takes note of a tick: [`Judge::observe_tick`].
    pub fn observe_tick(&mut self, clean: bool) {
        self.tell(|judge| judge.observe_tick(clean), |encoder, ()| encoder.tick(clean));
    }

    /// Drops what has expired: [`Judge::prune`].
    pub fn prune(&mut self, now: Moment) -> usize {
        self.tell(|judge| judge.prune(now), |encoder, _| encoder.prune(now))
    }

    /// Takes over the word on a workspace: [`Judge::take_over`].
    pub fn take_over(&mut self, id: &WorkspaceId, verdict: Verdict, since: Moment) {
        let rare = || Rare::TakeOver { workspace: id.clone(), verdict, since };
        self.tell(|judge| judge.take_over(id, verdict, since), |encoder, ()| encoder.rare(&rare()));
    }

    /// Leaves the word on a workspace to another replica: [`Judge::hand_over`].
    pub fn hand_over(&mut self, id: &WorkspaceId) {
        let rare = || Rare::HandOver { workspace: id.clone() };
        self.tell(|judge| judge.hand_over(id), |encoder, ()| encoder.rare(&rare()));
    }

    /// Takes up what another process has learned: [`Judge::recall`].
    pub fn recall(&mut self, id: &WorkspaceId, learned: Learned) -> bool {
        let rare = || Rare::Recall { workspace: id.clone(), learned };
        self.tell(|judge| judge.recall(id, learned), |encoder, _| encoder.rare(&rare()))
    }

    /// Takes up what is known of steps of the database's clock: [`Judge::recall_steps`].
    pub fn recall_steps(&mut self, comparable_from: Option<Timestamp>) {
        let rare = || Rare::RecallSteps { comparable_from };
        self.tell(|judge| judge.recall_steps(comparable_from), |encoder, ()| encoder.rare(&rare()));
    }

    /// Takes note of how an order ended: [`Judge::order_ended`].
    pub fn order_ended(&mut self, id: &WorkspaceId, end: End, now: Moment) -> Vec<(EngineName, WorkspaceId)> {
        let rare = || Rare::Ended { workspace: id.clone(), end, at: now };
        self.tell(|judge| judge.order_ended(id, end, now), |encoder, _| encoder.rare(&rare()))
    }

    /// Ends a storm: [`Judge::end_storm`].
    pub fn end_storm(&mut self, engine: Option<&EngineName>) -> StormEnded {
        let rare = || Rare::StormEnd { engine: engine.cloned() };
        self.tell(|judge| judge.end_storm(engine), |encoder, _| encoder.rare(&rare()))
    }

    /// Makes a call and writes it down. Where a segment has to begin, it begins with the judge as it was before the call.
    fn tell<T>(&mut self, call: impl FnOnce(&mut Judge) -> T, write: impl FnOnce(&mut Encoder, &T)) -> T {
        let Some(writing) = &mut self.writing else { return call(&mut self.judge) };
        let is_open = writing.is_open_for(&self.judge);
        let done = call(&mut self.judge);
        if is_open {
            write(&mut writing.encoder, &done);
            writing.tape.take(writing.encoder.out());
        }
        done
    }
}

impl Writing {
    /// Whether a call to this judge can be written. Begins a segment where one is due.
    fn is_open_for(&mut self, judge: &Judge) -> bool {
        if self.tape.is_ready() && !self.is_another {
            return true;
        }
        if !self.tape.may_begin() {
            return false;
        }
        let Ok(memory) = postcard::to_stdvec(judge) else { return false };
        let begun = self.tape.time_of_day().unwrap_or_else(|| self.encoder.clock());
        let continues = !self.is_another;
        let settings = judge.settings().clone();
        self.encoder.forget();
        self.tape.begin(Header { begun, continues, settings, judge: memory, ..Header::default() });
        self.is_another = false;
        self.tape.is_ready()
    }
}

/// The calls that only ask.
impl Deref for Recorded {
    type Target = Judge;

    fn deref(&self) -> &Judge {
        &self.judge
    }
}
