//! One pass over the workspaces of one engine: ask the engine, read again, judge, note, hand the restarts over.
//!
//! It covers all of them or a few (the *focus*); both take the same path through the same rules. A pass does not retry: the next pass is
//! the retry. It waits for its engine and for what it reads, and for nothing else. Other tasks write the verdicts, tell the platform and
//! make the restarts.
//!
//! ```text
//! whole engine:  (last read of the fleet) ─► ask the engine ─► who may be convicted: rows, attempts and holds again ─► judge
//! focus:          read their rows         ─► ask the engine ─► their attempts and holds                            ─► judge
//! ```
//!
//! After a read of all rows, a pass over a whole engine judges everybody there. After a read of what has changed, it asks the engine about
//! the restless workspaces alone, if the engine can tell cheaply that all others run as they did. If it cannot, it is asked about
//! everybody, and the pass judges the restless ones, those with attempts, and those that the engine shows otherwise than before. All others
//! keep the verdict that they had. The row of a workspace that the engine shows otherwise than before was not read lately, so it is read
//! again before anything is said of that workspace.
//!
//! Attempts are read *after* the engine was asked. An engine may take seconds to answer, and a focused pass may restart a workspace
//! meanwhile. If that workspace were judged by the attempts from before, it would get its first attempt again, without the back-off.

use std::sync::Arc;

use defib_policy::backoff;
use defib_policy::fast_hash::{IdMap, IdSet};
use defib_policy::fleet::{FleetRead, Workspace};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::{Look, ReadStamp};
use defib_policy::plan::{Plan, RestartOrder};
use defib_policy::sample::{Health, Observation};
use defib_policy::verdict::Verdict;
use defib_store::{FleetScope, StoreError};

use crate::database::FleetTables;
use crate::holds::Holds;
use crate::marks::Marks;
use crate::metrics::{PassScope, RowsRead};
use crate::news::News;
use crate::record::Recorder;
use crate::report::{Counts, PassReport};
use crate::restarter::{InFlight, Restarter};
use crate::sampling::{Sampling, Seen};
use crate::snapshot::{Attempts, Snapshot, by_workspace, judged_on};
use crate::state::State;

/// What a pass covers: workspaces of one engine (`None`: those that no engine has).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) engine: Option<EngineName>,
    pub(crate) whom: Whom,
}

/// Which of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// All, on the last read of the fleet.
    All,
    /// A few, on a read of their own.
    Some(Vec<WorkspaceId>),
}

impl Scope {
    /// The metric label.
    pub(crate) const fn label(&self) -> PassScope {
        match self.whom {
            Whom::All => PassScope::Engine,
            Whom::Some(_) => PassScope::Focus,
        }
    }
}

/// Who makes restarts happen.
pub(crate) trait Restarts: Send + Sync {
    /// Starts to carry out orders. Returns at once.
    fn carry_out(&self, orders: Vec<RestartOrder>);

    /// A workspace beats again after a restart.
    fn is_back(&self, workspace: &WorkspaceId);

    /// Workspaces with a restart under way in this process.
    fn in_flight(&self) -> InFlight;

    /// Those of them that wait for others on their engine.
    fn queued(&self) -> InFlight;
}

impl Restarts for Arc<Restarter> {
    fn carry_out(&self, orders: Vec<RestartOrder>) {
        Restarter::carry_out(self, orders);
    }

    fn is_back(&self, workspace: &WorkspaceId) {
        Restarter::is_back(self, workspace);
    }

    fn in_flight(&self) -> InFlight {
        Restarter::in_flight(self)
    }

    fn queued(&self) -> InFlight {
        Restarter::queued(self)
    }
}

/// Everything that a pass works with.
pub(crate) struct Passes {
    pub(crate) state: Arc<State>,
    pub(crate) sampling: Sampling,
    pub(crate) database: Arc<dyn FleetTables>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) marks: Arc<Marks>,
    pub(crate) restarts: Arc<dyn Restarts>,
    pub(crate) news: Arc<News>,
}

/// The rows that a pass is about.
enum Rows {
    /// Those of the last read of the fleet.
    Retained(Arc<Snapshot>),
    /// A read of their own.
    Fresh(FleetRead),
}

/// What an engine was asked about, and what it said.
struct Looked<'a> {
    /// Those who are to be judged.
    workspaces: Vec<&'a Workspace>,
    /// How many others there are, who are alive as they were.
    calm: usize,
    seen: Seen,
}

/// What was read after the engine had been asked.
struct Due {
    /// The present rows of the workspaces that may be convicted. `None` if the rows of this pass are present ones anyway.
    again: Option<Again>,
    attempts: Attempts,
    holds: Arc<Holds>,
}

/// Rows that were read a second time.
struct Again {
    /// The workspaces that were asked for.
    asked: IdSet<WorkspaceId>,
    read: FleetRead,
}

impl Passes {
    /// One pass. Takes no input but the world, so a pass after a crash is the same pass.
    ///
    /// # Errors
    /// The database could not be read. Then nobody is judged.
    pub(crate) async fn pass(&self, scope: &Scope) -> Result<PassReport, StoreError> {
        let rows = self.rows_of(scope).await?;
        let Looked { workspaces, calm, seen } = match self.look_at_restless(scope, &rows).await {
            Some(looked) => looked,
            None => self.look_at_all(scope, &rows).await,
        };
        if let Some(report) = seen.asked() {
            self.news.sampled(report, self.state.now());
        }
        let due = self.read_again(&rows, &workspaces, &seen).await?;
        let (plan, mut report) = self.judge(scope, &rows, &workspaces, &seen, &due, calm);
        report.restarts = plan.restarts.len();
        self.news.planned(&plan, self.state.speaks_for(scope.engine.as_ref(), self.state.now()));
        self.recorder.note(scope.engine.as_ref(), seen.reach(), &plan.changes);
        if scope.whom == Whom::All {
            self.recorder.passed(scope.engine.as_ref(), seen.reach(), report.judged);
        }
        self.marks.note(&plan);
        for recovery in &plan.recoveries {
            self.restarts.is_back(&recovery.workspace);
        }
        self.restarts.carry_out(plan.restarts);
        Ok(report)
    }

    async fn rows_of(&self, scope: &Scope) -> Result<Rows, StoreError> {
        match &scope.whom {
            Whom::All => Ok(Rows::Retained(self.state.fleet())),
            Whom::Some(ids) => {
                let watched = &self.state.config.watched_statuses;
                let (read, _) = self.database.read_fleet(FleetScope::Some(ids), watched).await?;
                self.news.rows_read(RowsRead::Named, read.workspaces.len());
                self.state.judge().observe_fleet(&read, false);
                Ok(Rows::Fresh(read))
            }
        }
    }

    /// Asks the engine about the restless alone, after a read of what has changed. `None`: everybody there has to be asked about, because the
    /// engine cannot tell cheaply that all others run, or is not the one that it was.
    async fn look_at_restless<'a>(&self, scope: &Scope, rows: &'a Rows) -> Option<Looked<'a>> {
        let Rows::Retained(fleet) = rows else { return None };
        if fleet.is_whole() {
            return None;
        }
        let engine = scope.engine.as_ref();
        let restless = self.state.judge().restless_on(engine);
        let restless = restless.iter().filter_map(|id| fleet.row(id)).filter(|row| judged_on(row) == engine);
        let workspaces: Vec<&Workspace> = restless.collect();
        let seen = self.sampling.ask_of_restless(engine, &workspaces).await?;
        if let Some(Err(_)) = seen.reach() {
            let workspaces = fleet.rows_on(engine);
            let seen = seen.of_everybody(&workspaces);
            return Some(Looked { workspaces, calm: 0, seen });
        }
        if let (Some(engine), Some(evidence)) = (engine, seen.evidence(rows.stamp(&seen, None)?))
            && self.state.judge().must_see_all(engine, &evidence)
        {
            return None;
        }
        let calm = fleet.count_on(engine).saturating_sub(workspaces.len());
        Some(Looked { workspaces, calm, seen })
    }

    /// Asks the engine about all that the pass covers.
    async fn look_at_all<'a>(&self, scope: &Scope, rows: &'a Rows) -> Looked<'a> {
        let workspaces = rows.of(scope.engine.as_ref());
        let seen = self.sampling.ask(scope.engine.as_ref(), &workspaces, scope.whom == Whom::All).await;
        let everybody = workspaces.len();
        let workspaces = self.concerned(scope, rows, workspaces, &seen);
        Looked { calm: everybody - workspaces.len(), workspaces, seen }
    }

    /// The workspaces of `workspaces` that are to be judged.
    fn concerned<'a>(
        &self,
        scope: &Scope,
        rows: &'a Rows,
        workspaces: Vec<&'a Workspace>,
        seen: &Seen,
    ) -> Vec<&'a Workspace> {
        let Rows::Retained(fleet) = rows else { return workspaces };
        if fleet.is_whole() {
            return workspaces;
        }
        let in_flight = self.restarts.in_flight();
        let judge = self.state.judge();
        if let (Some(engine), Some(stamp)) = (&scope.engine, rows.stamp(seen, None))
            && seen.evidence(stamp).is_none_or(|evidence| judge.must_see_all(engine, &evidence))
        {
            return workspaces;
        }
        let concerned = |row: &&Workspace| {
            judge.concerns(&row.id, seen.of(&row.id))
                || fleet.attempts().contains_key(&row.id)
                || in_flight.contains(&row.id)
        };
        workspaces.into_iter().filter(concerned).collect()
    }

    /// Nobody is convicted on a row, on attempts or on holds from before the engine was asked.
    async fn read_again(&self, rows: &Rows, workspaces: &[&Workspace], seen: &Seen) -> Result<Due, StoreError> {
        let reset = self.state.config.policy.attempts_horizon();
        let database = &self.database;
        match rows {
            Rows::Fresh(_) => {
                let ids: Vec<WorkspaceId> = workspaces.iter().map(|workspace| workspace.id.clone()).collect();
                let (attempts, holds) =
                    tokio::try_join!(database.read_attempts(FleetScope::Some(&ids), reset), database.holds())?;
                let holds = Arc::new(Holds::new(holds));
                Ok(Due { again: None, attempts: by_workspace(attempts), holds })
            }
            Rows::Retained(fleet) => {
                let ids = self.convictable(workspaces, seen, fleet.is_whole());
                if ids.is_empty() {
                    return Ok(Due { again: None, attempts: Attempts::default(), holds: Arc::clone(fleet.holds()) });
                }
                let watched = &self.state.config.watched_statuses;
                let ((read, _), attempts, holds) = tokio::try_join!(
                    database.read_fleet(FleetScope::Some(&ids), watched),
                    database.read_attempts(FleetScope::Some(&ids), reset),
                    database.holds()
                )?;
                self.news.rows_read(RowsRead::Named, read.workspaces.len());
                self.state.judge().observe_fleet(&read, false);
                let mut attempts = by_workspace(attempts);
                for id in &ids {
                    attempts.entry(id.clone()).or_default(); // one without attempts has none now, whatever was read before
                }
                let again = Again { asked: ids.into_iter().collect(), read };
                Ok(Due { again: Some(again), attempts, holds: Arc::new(Holds::new(holds)) })
            }
        }
    }

    /// Every workspace that this pass may convict: those that were not seen running, and those that run and are in doubt. And every
    /// workspace whose row is older than the last read, because nothing concerned it until now.
    fn convictable(&self, workspaces: &[&Workspace], seen: &Seen, all_are_read: bool) -> Vec<WorkspaceId> {
        let judge = self.state.judge();
        let in_doubt = |workspace: &&&Workspace| match seen.of(&workspace.id).map(|sample| &sample.observation) {
            Some(Observation::Running { health, .. }) => {
                matches!(health, Health::Unhealthy { .. })
                    || matches!(judge.verdict(&workspace.id), Some(Verdict::Wedged | Verdict::Unhealthy))
            }
            Some(Observation::Stopped { .. } | Observation::Missing | Observation::Transitional { .. }) => true,
            Some(Observation::Frozen { .. } | Observation::Unknown { .. }) | None => false,
        };
        let in_doubt = |workspace: &&&Workspace| in_doubt(workspace) || (!all_are_read && judge.is_calm(&workspace.id));
        workspaces.iter().filter(in_doubt).map(|workspace| workspace.id.clone()).collect()
    }

    /// All deciding is in here, and nothing else.
    fn judge(
        &self,
        scope: &Scope,
        rows: &Rows,
        workspaces: &[&Workspace],
        seen: &Seen,
        due: &Due,
        calm: usize,
    ) -> (Plan, PassReport) {
        let state = &self.state;
        let workspaces = as_they_are_now(workspaces, due.again.as_ref());
        let unread = ReadStamp { at: seen.asked_at, database_now: defib_policy::moment::Timestamp(0) };
        let stamp = rows.stamp(seen, due.again.as_ref().map(|again| &again.read)).unwrap_or(unread);
        let (in_flight, queued) = (self.restarts.in_flight(), self.restarts.queued());
        let own = state.own_settings(&workspaces, seen.own_labels());
        let ours = state.speaks_for(scope.engine.as_ref(), state.now());
        let looks: Vec<Look<'_>> = workspaces
            .iter()
            .map(|workspace| Look {
                workspace,
                sample: seen.of(&workspace.id),
                attempts: rows.attempts_of(&workspace.id, due),
                in_flight: in_flight.contains(&workspace.id),
                queued: queued.contains(&workspace.id),
                ours,
                on_hold: due.holds.cover(workspace),
                own: own.get(&workspace.id).map(Arc::as_ref),
            })
            .collect();
        let evidence = seen.evidence(stamp);
        let engine = scope.engine.as_ref().zip(evidence.as_ref());
        let mut judge = state.judge();
        let mut plan = judge.judge_concerned(state.now(), stamp, engine, &looks, calm);
        if ours && state.findings().are_awaited() {
            let judged: IdSet<&WorkspaceId> = looks.iter().map(|look| &look.workspace.id).collect();
            let told = |id: &WorkspaceId| judge.told(id).filter(|_| judged.contains(id));
            state.findings().judged(seen.asked_at, state.now(), told);
        }
        let whole = scope.whom == Whom::All;
        let settings = &state.config.policy;
        let counts = whole.then(|| {
            let mut counts = Counts::default();
            counts.verdicts[Verdict::Alive.index()] = calm;
            for look in &looks {
                let verdict = judge.verdict(&look.workspace.id);
                if let Some(verdict) = verdict {
                    counts.verdicts[verdict.index()] += 1;
                }
                let settings = look.own.map_or(settings, |own| &own.settings);
                counts.exhausted +=
                    usize::from(verdict == Some(Verdict::Exhausted) || backoff::is_exhausted(look.attempts, settings));
            }
            counts
        });
        let settling = |id: &WorkspaceId| judge.verdict(id) == Some(Verdict::Settling);
        let looks = std::mem::take(&mut plan.looks).into_iter().map(|(id, at)| {
            let settling = settling(&id);
            (id, at, settling)
        });
        let report = PassReport {
            judged: plan.judged + calm,
            changed: plan.changes.len(),
            restarts: plan.restarts.len(),
            looks: looks.collect(),
            reach: seen.asked().map(|report| report.reach.as_ref().map(drop).map_err(|fault| *fault)),
            slow: seen.is_slow(),
            counts,
        };
        (plan, report)
    }
}

impl Rows {
    /// Those that `engine` judges: a row of another engine is for another pass.
    fn of(&self, engine: Option<&EngineName>) -> Vec<&Workspace> {
        match self {
            Self::Retained(fleet) => fleet.rows_on(engine),
            Self::Fresh(read) => read.workspaces.iter().filter(|row| judged_on(row) == engine).collect(),
        }
    }

    /// The clock readings that ages are counted by: of the newest read that was made.
    ///
    /// If the rows were read after the engine was asked, both clocks are set back to the moment of that question, because the judge takes
    /// the engine's answer to be later than the read.
    fn stamp(&self, seen: &Seen, again: Option<&FleetRead>) -> Option<ReadStamp> {
        let of = |read: &FleetRead| ReadStamp { at: read.at, database_now: read.database_now };
        let stamp = again.map(of).or_else(|| match self {
            Self::Retained(fleet) => fleet.stamp(),
            Self::Fresh(read) => Some(of(read)),
        })?;
        let late = stamp.at - seen.asked_at;
        if late.is_zero() {
            return Some(stamp);
        }
        let micros = i64::try_from(late.as_micros()).unwrap_or(i64::MAX);
        Some(ReadStamp { at: seen.asked_at, database_now: stamp.database_now.shifted(-micros) })
    }

    /// The attempts of one workspace: as read after the engine was asked, else as of the last read of the fleet.
    fn attempts_of<'a>(&'a self, id: &WorkspaceId, due: &'a Due) -> &'a [defib_policy::attempt::Attempt] {
        let retained = match self {
            Self::Retained(fleet) => fleet.attempts().get(id),
            Self::Fresh(_) => None,
        };
        due.attempts.get(id).or(retained).map_or(&[][..], Vec::as_slice)
    }
}

/// The rows, with those that were read again in their new state. A workspace that has left the fleet since, or has another container by
/// now, is not judged in this pass, because what the engine said was about something else.
fn as_they_are_now<'a>(workspaces: &[&'a Workspace], again: Option<&'a Again>) -> Vec<&'a Workspace> {
    let Some(again) = again else { return workspaces.to_vec() };
    let now: IdMap<&WorkspaceId, &Workspace> = again.read.workspaces.iter().map(|row| (&row.id, row)).collect();
    let present = |before: &&'a Workspace| {
        if !again.asked.contains(&before.id) {
            return Some(*before);
        }
        let row = *now.get(&before.id)?;
        let same_thing = judged_on(row) == judged_on(before)
            && row.kind == before.kind
            && row.container_ref == before.container_ref
            && row.instance_ref == before.instance_ref;
        same_thing.then_some(row)
    };
    workspaces.iter().filter_map(present).collect()
}
