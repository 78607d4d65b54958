//! The stage of the restarter's tests: a ledger and an engine in memory that answer as a test says, and a restarter on them.

use std::collections::VecDeque;

use async_trait::async_trait;
use defib_engine::{EngineCheck, EngineEvent, EngineReport, LastLines};
use defib_policy::abilities::Abilities;
use defib_policy::attempt::Outcome;
use defib_policy::id::ContainerId;
use defib_policy::moment::Moment;
use defib_policy::ownership::Turned;
use defib_policy::plan::Remedy;
use defib_policy::restart::ActAnswer;
use defib_policy::restart::table::{self, Question, Script};
use defib_policy::sample::{Exit, Fault, Health, Observation, Sample};
use defib_policy::verdict::Rule;
use defib_store::LastWords;

use super::super::*;
use crate::clock;
use crate::metrics::Metrics;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const ENGINE: &str = "e1";

/// The answers to the questions about each workspace, in their order, and what was asked. A workspace without a script of its own is found
/// stopped, is claimed, and its start succeeds.
#[derive(Default)]
pub(super) struct World {
    asked: Vec<(WorkspaceId, Question)>,
    pub(super) scripts: BTreeMap<WorkspaceId, Script>,
    answers: BTreeMap<(WorkspaceId, Kind), VecDeque<Answer>>,
    /// How long each kind of question takes.
    takes: BTreeMap<Kind, Duration>,
    /// Calls that never return, by workspace.
    hangs: BTreeMap<WorkspaceId, Kind>,
    rows: BTreeMap<i64, WorkspaceId>,
    outcomes: Vec<(WorkspaceId, Outcome, Option<String>)>,
    /// What was kept of a container's last words, by the attempt.
    words: BTreeMap<i64, LastWords>,
}

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Claim,
    Look,
    MayAct,
    Call,
    Finish,
    Log,
}

pub(super) struct Fake {
    pub(super) world: Mutex<World>,
    name: EngineName,
    clock: Clock,
}

impl Fake {
    fn answer(&self, workspace: &WorkspaceId, question: Question, kind: Kind, usual: Answer) -> Answer {
        let mut world = lock(&self.world);
        world.asked.push((workspace.clone(), question));
        if let Some(script) = world.scripts.get_mut(workspace) {
            return script.ask(question).unwrap();
        }
        let answers = world.answers.get_mut(&(workspace.clone(), kind));
        answers.and_then(VecDeque::pop_front).unwrap_or(usual)
    }

    fn of(&self, row: i64) -> WorkspaceId {
        lock(&self.world).rows[&row].clone()
    }

    async fn take(&self, workspace: &WorkspaceId, kind: Kind) {
        let (takes, hangs) = {
            let world = lock(&self.world);
            (world.takes.get(&kind).copied(), world.hangs.get(workspace) == Some(&kind))
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(takes.unwrap_or_default()).await;
    }
}

#[async_trait]
impl Ledger for Fake {
    async fn claim(&self, order: &RestartOrder, _: i64, _: Duration) -> Answer {
        let row = {
            let mut world = lock(&self.world);
            let row = i64::try_from(world.rows.len()).unwrap() + 1;
            world.rows.insert(row, order.workspace.clone());
            row
        };
        let granted = Answer::Claim(ClaimAnswer::Granted { row });
        let answer = match self.answer(&order.workspace, Question::Claim, Kind::Claim, granted) {
            Answer::Claim(ClaimAnswer::Granted { .. }) => Answer::Claim(ClaimAnswer::Granted { row }),
            answer => answer,
        };
        if matches!(answer, Answer::Claim(ClaimAnswer::FunctionFailed { .. })) {
            self.take(&order.workspace, Kind::Claim).await;
        }
        answer
    }

    async fn may_act(&self, order: &RestartOrder, _: i64, _: i64, _: Duration) -> Answer {
        self.take(&order.workspace, Kind::MayAct).await;
        self.answer(&order.workspace, Question::MayAct, Kind::MayAct, Answer::MayAct(ActAnswer::Yes))
    }

    async fn finish(&self, row: i64, outcome: Outcome, why: Option<&str>) -> Answer {
        let workspace = self.of(row);
        let answer = self.answer(&workspace, Question::Finish(outcome), Kind::Finish, Answer::Written);
        if answer == Answer::Written {
            lock(&self.world).outcomes.push((workspace, outcome, why.map(str::to_owned)));
        }
        answer
    }

    async fn keep_last_words(&self, row: i64, words: &LastWords) -> Result<(), String> {
        lock(&self.world).words.insert(row, words.clone());
        Ok(())
    }
}

#[async_trait]
impl Engine for Fake {
    fn name(&self) -> &EngineName {
        &self.name
    }

    fn abilities(&self) -> Abilities {
        Abilities::CONTAINER_ENGINE
    }

    async fn sample_all(&self, _: &[Target]) -> EngineReport {
        unreachable!("the restarter does not sample")
    }

    async fn sample_some(&self, _: &[Target]) -> EngineReport {
        unreachable!("the restarter does not sample")
    }

    async fn confirm(&self, target: &Target) -> Sample {
        self.take(&target.workspace, Kind::Look).await;
        let at = (self.clock)();
        let usual = Answer::Seen(stopped());
        match self.answer(&target.workspace, Question::Look, Kind::Look, usual) {
            Answer::Seen(observation) => Sample { at, observation },
            _ => Sample { at, observation: Observation::Unknown { fault: Fault::TimedOut } },
        }
    }

    async fn last_lines(&self, _: &ContainerId, _: u32, _: usize) -> Result<Option<LastLines>, EngineError> {
        let takes = lock(&self.world).takes.get(&Kind::Log).copied();
        tokio::time::sleep(takes.unwrap_or_default()).await;
        Ok(Some(LastLines { health: Vec::new(), bytes: b"out of cheese\n".to_vec(), broke_off: None }))
    }

    async fn restart(&self, call: &RestartCall) -> Result<(), EngineError> {
        let question = match call.how {
            RestartHow::Start => Question::Start,
            RestartHow::KillAndStart { .. } => Question::KillAndStart,
            RestartHow::Recreate => unreachable!("the engines of these conversations make nothing again"),
        };
        let workspace = &call.target.workspace;
        let engine = self.name.clone();
        let usual = Answer::Called { left_at: Moment::ZERO, result: Ok(()) };
        let answer = self.answer(workspace, question, Kind::Call, usual);
        let timed_out = || EngineError::TimedOut {
            engine: engine.clone(),
            call: defib_engine::Call::Restart,
            after: call.deadline,
        };
        if tokio::time::timeout(call.deadline, self.take(workspace, Kind::Call)).await.is_err() {
            return Err(timed_out());
        }
        let container = call.container_id.clone();
        match answer {
            Answer::Called { result: Ok(()), .. } => Ok(()),
            Answer::Called { result: Err(failed), .. } => Err(match failed.kind {
                CallFault::Gone => EngineError::Gone { engine, container },
                CallFault::NotWanted => EngineError::Superseded { engine, container, status: 409 },
                CallFault::NotSent => EngineError::NotSent { engine, source: failed.why.into() },
                CallFault::Lost => timed_out(),
                CallFault::Refused => {
                    EngineError::Restart { engine, container, fault: Fault::EngineError, source: failed.why.into() }
                }
            }),
            other => panic!("{other:?}"),
        }
    }

    async fn watch(&self, _: mpsc::Sender<EngineEvent>, _: CancellationToken) {}

    async fn check(&self) -> Result<EngineCheck, EngineError> {
        unreachable!("the restarter does not check")
    }
}

/// A restarter with its world.
pub(super) struct Stage {
    pub(super) restarter: Arc<Restarter>,
    pub(super) fake: Arc<Fake>,
    pub(super) ended: mpsc::UnboundedReceiver<Ended>,
    pub(super) clock: Clock,
    pub(super) ownership: Arc<Mutex<Ownership>>,
}

pub(super) fn stage() -> Stage {
    stage_with(|_| None)
}

/// With keys to delete in a cache.
pub(super) fn stage_with(evictor: impl FnOnce(&Clock) -> Option<Arc<Evictor>>) -> Stage {
    let clock = clock::monotonic();
    let name = EngineName::from(ENGINE);
    let world = Mutex::default();
    let fake = Arc::new(Fake { world, name: name.clone(), clock: Arc::clone(&clock) });
    let engines = BTreeMap::from([(name.clone(), Arc::clone(&fake) as Arc<dyn Engine>)]);
    let ownership = Arc::new(Mutex::default());
    own(&ownership, &clock, 3_600 * SECOND);
    let (sender, ended) = mpsc::unbounded_channel();
    let knobs = Knobs {
        places: 4,
        restart_timeout: 30 * SECOND,
        stop_grace: 10 * SECOND,
        log_lines: 50,
        delay_initial: 10 * SECOND,
        delay_max: 300 * SECOND,
    };
    let news = RestartNews::new(Arc::new(Metrics::new(&[name]).unwrap()));
    let ledger = Arc::clone(&fake) as Arc<dyn Ledger>;
    let restarter = Restarter::new(knobs, ledger, &engines, Arc::clone(&clock), Arc::clone(&ownership), news, sender);
    let restarter = restarter.with_evictor(evictor(&clock));
    Stage { restarter: Arc::new(restarter), fake, ended, clock, ownership }
}

/// The engine is ours for this long.
pub(super) fn own(ownership: &Mutex<Ownership>, clock: &Clock, lasting: Duration) {
    let name = EngineName::from(ENGINE);
    let owned = BTreeMap::from([(name.clone(), 1)]);
    let turned = Turned { at: clock(), owned, leased: BTreeSet::from([name.clone()]) };
    *lock(ownership) = Ownership::new(turned, lasting, &[name]);
}

impl Stage {
    pub(super) fn order(&self, workspace: &str) -> RestartOrder {
        let order = table::order(Remedy::Start, Rule::StoppedStale, stopped(), (self.clock)());
        RestartOrder { workspace: workspace.into(), ..order }
    }

    pub(super) fn wedged(&self, workspace: &str) -> RestartOrder {
        let order = table::order(Remedy::KillAndStart, Rule::RunningWedged, running(), (self.clock)());
        RestartOrder { workspace: workspace.into(), ..order }
    }

    pub(super) fn give(&self, workspace: &str, kind: Kind, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.fake.world).answers.insert((workspace.into(), kind), answers.into_iter().collect());
    }

    pub(super) fn takes(&self, kind: Kind, takes: Duration) {
        lock(&self.fake.world).takes.insert(kind, takes);
    }

    pub(super) fn hangs(&self, workspace: &str, kind: Kind) {
        lock(&self.fake.world).hangs.insert(workspace.into(), kind);
    }

    /// The next order that ends, and how long that took.
    pub(super) async fn end(&mut self) -> (Ended, Duration) {
        let begun = (self.clock)();
        let ended = tokio::time::timeout(600 * SECOND, self.ended.recv()).await.expect("it ends").expect("a sender");
        (ended, (self.clock)() - begun)
    }

    pub(super) fn asked(&self, workspace: &str) -> Vec<Question> {
        let workspace = WorkspaceId::from(workspace);
        let world = lock(&self.fake.world);
        world.asked.iter().filter(|(of, _)| *of == workspace).map(|(_, question)| *question).collect()
    }

    pub(super) fn outcomes(&self) -> Vec<(String, Outcome)> {
        let world = lock(&self.fake.world);
        world.outcomes.iter().map(|(of, outcome, _)| (of.as_str().to_owned(), *outcome)).collect()
    }

    pub(super) fn why(&self) -> String {
        lock(&self.fake.world).outcomes.last().and_then(|(.., why)| why.clone()).unwrap_or_default()
    }

    /// The last words that were kept of the container that an attempt restarted.
    pub(super) fn words(&self, attempt: i64) -> Option<String> {
        lock(&self.fake.world).words.get(&attempt).and_then(|words| words.log.clone())
    }
}

pub(super) fn stopped() -> Observation {
    Observation::Stopped { incarnation: table::convicted(), exit: Exit::default() }
}

pub(super) fn running() -> Observation {
    Observation::Running { incarnation: table::convicted(), health: Health::None }
}

pub(super) fn restarted() -> Observation {
    Observation::Running { incarnation: table::successor(), health: Health::None }
}

pub(super) fn function_failed() -> Answer {
    Answer::Claim(ClaimAnswer::FunctionFailed { why: "mark_dead raised".to_owned() })
}

pub(super) fn call_failed(kind: CallFault) -> Answer {
    let failed = CallFailed { kind, why: "scripted".to_owned() };
    Answer::Called { left_at: Moment::ZERO, result: Err(failed) }
}
