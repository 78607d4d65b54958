//! Each engine's own loop: the passes over its workspaces, in its own order.
//!
//! The shared read of the fleet is the only thing that engines have in common. Each worker takes the newest one when it begins a pass, has
//! its own queue of workspaces to look at, and listens to its own engine's events; so whatever an engine does to its worker (hang, refuse,
//! come and go), no other worker notices.
//!
//! Two passes may be under way side by side: one over the whole engine, which takes as long as the engine's list does, and one over
//! a few workspaces, which overtakes it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib_engine::{Action, ContainerEvent, EngineEvent};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::Moment;
use defib_store::StoreError;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle as AbortOnDrop;
use tracing::{debug, error};

use crate::focus::FocusQueue;
use crate::pass::{Passes, Scope, Whom};
use crate::report::PassReport;
use crate::sync::lock;

/// An engine may tell of an exit before its own records say so, and the look that the event asked for still finds the
/// container running. One more look, this much later, saves waiting for the poll.
const SECOND_LOOK: Duration = Duration::from_millis(150);

/// What a worker is asked to do. It is shared with those who ask; asking never waits.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    asked: Mutex<Asked>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Asked {
    focus: FocusQueue,
    /// The fleet has been read: a pass over the whole engine is due, unless one is under way.
    polled: bool,
    /// Something may have been missed: a pass over the whole engine is due, after the one under way if there is one.
    missed: bool,
}

impl Agenda {
    /// The fleet has been read. If the pass before is still under way, this one is left out.
    pub(crate) fn poll(&self) {
        lock(&self.asked).polled = true;
        self.wake.notify_one();
    }

    /// Something may have been missed on this engine, so all of it has to be looked at.
    pub(crate) fn look_at_all(&self) {
        lock(&self.asked).missed = true;
        self.wake.notify_one();
    }

    /// A workspace is to be looked at.
    pub(crate) fn look(&self, workspace: WorkspaceId, due: Moment) {
        lock(&self.asked).focus.look(workspace, due);
        self.wake.notify_one();
    }

    /// A workspace is suspected.
    pub(crate) fn suspect(&self, workspace: WorkspaceId, now: Moment, spacing: Duration) {
        lock(&self.asked).focus.suspect(workspace, now, spacing);
        self.wake.notify_one();
    }

    /// Forgets what is older than `within` and limits nothing any more.
    pub(crate) fn prune(&self, now: Moment, within: Duration) {
        lock(&self.asked).focus.prune(now, within);
    }
}

/// How a pass ended.
#[derive(Debug)]
pub(crate) struct Passed {
    /// The worker: that of an engine, or the one of all workspaces without an engine that could be asked.
    pub(crate) engine: Option<EngineName>,
    /// Whether it covered all of the worker's workspaces.
    pub(crate) whole: bool,
    /// One for each part that was judged by itself; `None`: the pass panicked, which is a fault of ours.
    pub(crate) reports: Option<Result<Vec<PassReport>, StoreError>>,
}

/// One engine's loop.
pub(crate) struct Worker {
    /// `None`: external workspaces, and those on engines that this replica is not configured for. No engine is asked about them.
    engine: Option<EngineName>,
    configured: Arc<[EngineName]>,
    passes: Arc<Passes>,
    agenda: Arc<Agenda>,
    passed: mpsc::UnboundedSender<Passed>,
    under_way: JoinSet<Passed>,
    whole_under_way: bool,
    focus_under_way: bool,
}

impl Worker {
    /// The worker of one engine (`None`: of the workspaces on no configured engine). `ended` receives how each pass ended.
    pub(crate) fn new(
        engine: Option<EngineName>,
        configured: Arc<[EngineName]>,
        passes: Arc<Passes>,
        agenda: Arc<Agenda>,
        ended: mpsc::UnboundedSender<Passed>,
    ) -> Self {
        Self {
            engine,
            configured,
            passes,
            agenda,
            passed: ended,
            under_way: JoinSet::new(),
            whole_under_way: false,
            focus_under_way: false,
        }
    }

    /// Runs until `stop`, then ends the passes under way.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<EngineEvent>, stop: CancellationToken) {
        let agenda = Arc::clone(&self.agenda);
        loop {
            self.start();
            let next = self.next_focus();
            tokio::select! {
                () = stop.cancelled() => break,
                () = agenda.wake.notified() => {}
                Some(ended) = self.under_way.join_next() => match ended {
                    Ok(passed) => self.ended(passed),
                    Err(error) => error!(%error, "the bookkeeping of a pass failed by a fault of defib itself"),
                },
                Some(event) = events.recv() => self.saw(event),
                () = tokio::time::sleep_until(next) => {}
            }
        }
        self.under_way.shutdown().await;
    }

    /// When the next focused pass is due. Far in the future while one is under way, or if none is due.
    fn next_focus(&self) -> Instant {
        let due = if self.focus_under_way { None } else { lock(&self.agenda.asked).focus.next_due() };
        let now = self.passes.state.now();
        Instant::now() + due.map_or(Duration::from_secs(3_600), |due| due - now)
    }

    /// Starts what is due and not under way.
    fn start(&mut self) {
        if !self.passes.state.fleet_known() {
            return;
        }
        let whole = {
            let mut asked = lock(&self.agenda.asked);
            let polled = std::mem::take(&mut asked.polled);
            let due = !self.whole_under_way && (polled || asked.missed);
            asked.missed &= !due;
            due
        };
        if whole {
            self.whole_under_way = true;
            self.passes.news.health().pass_begins(self.engine.as_ref(), self.passes.state.now());
            let scopes = self.parts();
            self.spawn(true, scopes);
        }
        if self.focus_under_way {
            return;
        }
        let batch = lock(&self.agenda.asked).focus.take_due(self.passes.state.now());
        if !batch.is_empty() {
            self.focus_under_way = true;
            let scopes = match &self.engine {
                Some(engine) => {
                    vec![Scope { engine: Some(engine.clone()), whom: Whom::Some(batch.into_iter().collect()) }]
                }
                None => self.focused_parts(batch.into_iter().collect()),
            };
            self.spawn(false, scopes);
        }
    }

    /// The parts of a pass over everything. Workspaces that are judged together are on one engine.
    fn parts(&self) -> Vec<Scope> {
        let of = |engine: Option<EngineName>| Scope { engine, whom: Whom::All };
        if self.engine.is_some() {
            return vec![of(self.engine.clone())];
        }
        let fleet = self.passes.state.fleet();
        let foreign = fleet.engines().filter(|engine| !self.configured.contains(engine)).cloned();
        std::iter::once(None).chain(foreign.map(Some)).map(of).collect()
    }

    fn focused_parts(&self, batch: Vec<WorkspaceId>) -> Vec<Scope> {
        let fleet = self.passes.state.fleet();
        let mut parts = std::collections::BTreeMap::<Option<EngineName>, Vec<WorkspaceId>>::new();
        for id in batch {
            parts.entry(fleet.engine_of(&id).cloned()).or_default().push(id);
        }
        parts.into_iter().map(|(engine, ids)| Scope { engine, whom: Whom::Some(ids) }).collect()
    }

    fn spawn(&mut self, whole: bool, scopes: Vec<Scope>) {
        let (passes, engine) = (Arc::clone(&self.passes), self.engine.clone());
        self.under_way.spawn(async move {
            // A task of its own, so that a panic in it ends one pass and not the bookkeeping of all.
            let pass = tokio::spawn(async move {
                let mut reports = Vec::with_capacity(scopes.len());
                for scope in &scopes {
                    let begun = Instant::now();
                    let report = passes.pass(scope).await;
                    passes.news.passed(scope.label(), scope.engine.as_ref(), &report, begun.elapsed());
                    reports.push(report?);
                }
                Ok(reports)
            });
            let reports = match AbortOnDrop::new(pass).await {
                Ok(reports) => Some(reports),
                Err(error) => {
                    error!(%error, "a pass failed by a fault of defib itself; the next one judges afresh");
                    None
                }
            };
            Passed { engine, whole, reports }
        });
    }

    fn ended(&mut self, passed: Passed) {
        let state = &self.passes.state;
        if passed.whole {
            self.whole_under_way = false;
            self.passes.news.health().pass_ended(self.engine.as_ref());
        } else {
            self.focus_under_way = false;
        }
        if let Some(Ok(reports)) = &passed.reports {
            let (now, poll) = (state.now(), state.config.policy.poll_interval);
            let mut asked = lock(&self.agenda.asked);
            for (id, at, settling) in reports.iter().flat_map(|report| &report.looks) {
                if *settling {
                    asked.focus.wait_for(id.clone(), now, *at, poll);
                } else {
                    asked.focus.look(id.clone(), *at);
                }
            }
        }
        // The receiver is gone when the daemon stops.
        let _ = self.passed.send(passed);
    }

    fn saw(&self, event: EngineEvent) {
        let state = &self.passes.state;
        match event {
            EngineEvent::Container(event) => self.look_at(&event),
            EngineEvent::Connected { engine } => {
                debug!(%engine, "listening for the engine's events");
                if state.fleet_known() {
                    self.agenda.look_at_all();
                }
            }
            EngineEvent::Disconnected { engine, fault } => {
                debug!(%engine, %fault, "not listening for the engine's events; polling finds them");
            }
            EngineEvent::Lagged { engine } => {
                debug!(%engine, "events of the engine were lost; looking at all of it");
                if state.fleet_known() {
                    self.agenda.look_at_all();
                }
            }
        }
    }

    fn look_at(&self, event: &ContainerEvent) {
        let state = &self.passes.state;
        let now = state.now();
        // Only the owner needs to look at once. The other replicas see it with the next poll.
        if !state.speaks_for(Some(&event.engine), now) {
            return;
        }
        let Some(workspace) = state.fleet().workspace_of(event) else { return };
        if matches!(event.action, Action::Die | Action::Oom) {
            self.agenda.look(workspace.clone(), now + SECOND_LOOK);
        }
        self.agenda.look(workspace, now);
    }
}
