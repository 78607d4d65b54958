//! The restarter against a ledger and an engine in memory, on paused time.

use std::collections::VecDeque;

use async_trait::async_trait;
use defib_engine::{EngineCheck, EngineEvent, EngineReport, LastLines};
use defib_policy::abilities::Abilities;
use defib_policy::attempt::Outcome;
use defib_policy::id::ContainerId;
use defib_policy::moment::Moment;
use defib_policy::ownership::Turned;
use defib_policy::plan::Remedy;
use defib_policy::restart::table::{self, Question, Script};
use defib_policy::restart::{ActAnswer, rules};
use defib_policy::sample::{Exit, Fault, Health, Observation, Sample};
use defib_policy::verdict::Rule;
use defib_store::LastWords;

use super::*;
use crate::cache::{Keys, Pattern};
use crate::clock;
use crate::metrics::Metrics;
use crate::news::EvictionNews;

const SECOND: Duration = Duration::from_secs(1);
const ENGINE: &str = "e1";

/// The answers to the questions about each workspace, in their order, and what was asked. A workspace without a script of its own is found
/// stopped, is claimed, and its start succeeds.
#[derive(Default)]
struct World {
    asked: Vec<(WorkspaceId, Question)>,
    scripts: BTreeMap<WorkspaceId, Script>,
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
enum Kind {
    Claim,
    Look,
    MayAct,
    Call,
    Finish,
    Log,
}

struct Fake {
    world: Mutex<World>,
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
        Ok(Some(LastLines { bytes: b"out of cheese\n".to_vec(), broke_off: None }))
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
struct Stage {
    restarter: Arc<Restarter>,
    fake: Arc<Fake>,
    ended: mpsc::UnboundedReceiver<Ended>,
    clock: Clock,
    ownership: Arc<Mutex<Ownership>>,
}

fn stage() -> Stage {
    stage_with(|_| None)
}

/// With keys to delete in a cache.
fn stage_with(evictor: impl FnOnce(&Clock) -> Option<Arc<Evictor>>) -> Stage {
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
fn own(ownership: &Mutex<Ownership>, clock: &Clock, lasting: Duration) {
    let name = EngineName::from(ENGINE);
    let owned = BTreeMap::from([(name.clone(), 1)]);
    let turned = Turned { at: clock(), owned, leased: BTreeSet::from([name.clone()]) };
    *lock(ownership) = Ownership::new(turned, lasting, &[name]);
}

impl Stage {
    fn order(&self, workspace: &str) -> RestartOrder {
        let order = table::order(Remedy::Start, Rule::StoppedStale, stopped(), (self.clock)());
        RestartOrder { workspace: workspace.into(), ..order }
    }

    fn wedged(&self, workspace: &str) -> RestartOrder {
        let order = table::order(Remedy::KillAndStart, Rule::RunningWedged, running(), (self.clock)());
        RestartOrder { workspace: workspace.into(), ..order }
    }

    fn give(&self, workspace: &str, kind: Kind, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.fake.world).answers.insert((workspace.into(), kind), answers.into_iter().collect());
    }

    fn takes(&self, kind: Kind, takes: Duration) {
        lock(&self.fake.world).takes.insert(kind, takes);
    }

    fn hangs(&self, workspace: &str, kind: Kind) {
        lock(&self.fake.world).hangs.insert(workspace.into(), kind);
    }

    /// The next order that ends, and how long that took.
    async fn end(&mut self) -> (Ended, Duration) {
        let begun = (self.clock)();
        let ended = tokio::time::timeout(600 * SECOND, self.ended.recv()).await.expect("it ends").expect("a sender");
        (ended, (self.clock)() - begun)
    }

    fn asked(&self, workspace: &str) -> Vec<Question> {
        let workspace = WorkspaceId::from(workspace);
        let world = lock(&self.fake.world);
        world.asked.iter().filter(|(of, _)| *of == workspace).map(|(_, question)| *question).collect()
    }

    fn outcomes(&self) -> Vec<(String, Outcome)> {
        let world = lock(&self.fake.world);
        world.outcomes.iter().map(|(of, outcome, _)| (of.as_str().to_owned(), *outcome)).collect()
    }

    fn why(&self) -> String {
        lock(&self.fake.world).outcomes.last().and_then(|(.., why)| why.clone()).unwrap_or_default()
    }
}

fn stopped() -> Observation {
    Observation::Stopped { incarnation: table::convicted(), exit: Exit::default() }
}

fn running() -> Observation {
    Observation::Running { incarnation: table::convicted(), health: Health::None }
}

fn restarted() -> Observation {
    Observation::Running { incarnation: table::successor(), health: Health::None }
}

fn function_failed() -> Answer {
    Answer::Claim(ClaimAnswer::FunctionFailed { why: "mark_dead raised".to_owned() })
}

fn call_failed(kind: CallFault) -> Answer {
    let failed = CallFailed { kind, why: "scripted".to_owned() };
    Answer::Called { left_at: Moment::ZERO, result: Err(failed) }
}

/// The simulator plays the same table.
#[tokio::test(start_paused = true)]
async fn the_daemon_asks_what_the_simulator_asks() {
    let mut stage = stage();
    for conversation in table::conversations((stage.clock)()) {
        lock(&stage.fake.world).scripts = BTreeMap::from([("w1".into(), Script::new(&conversation))]);
        stage.restarter.carry_out(vec![conversation.order.clone()]);
        let (ended, took) = stage.end().await;
        assert!(took < table::LASTS_MAX, "{}: {took:?}", conversation.name);
        assert_eq!(ended.end, conversation.end, "{}", conversation.name);
        lock(&stage.fake.world).scripts["w1"].is_over().unwrap();
        // Whoever the platform's function failed for waits; the next conversation is about another workspace of that name.
        tokio::time::sleep(7_200 * SECOND).await;
        own(&stage.ownership, &stage.clock, 3_600 * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_uses_up_its_deadline_and_the_looks_after_it_tell() {
    let mut stage = stage();
    stage.hangs("w1", Kind::Call);
    stage.give("w1", Kind::Look, [stopped(), stopped(), restarted()].map(Answer::Seen));
    stage.restarter.carry_out(vec![stage.order("w1")]);
    let (ended, took) = stage.end().await;
    assert_eq!((ended.end, ended.look_again), (End::Made, true));
    assert_eq!(took, 30 * SECOND + rules::LOOK_AFTER_SPACING);
    assert_eq!(stage.outcomes(), [("w1".to_owned(), Outcome::Succeeded)]);
    assert!(stage.why().contains("although its answer was lost"), "{}", stage.why());
}

#[tokio::test(start_paused = true)]
async fn a_wedged_one_whose_answer_is_lost_stays_open_for_as_long_as_its_engine_may_be_at_it() {
    let mut stage = stage();
    stage.give("w1", Kind::Call, [call_failed(CallFault::Lost)]);
    let looks = std::iter::once(running()).chain(std::iter::repeat_n(restarted(), 1_000));
    stage.give("w1", Kind::Look, looks.map(Answer::Seen));
    stage.restarter.carry_out(vec![stage.wedged("w1")]);
    let (ended, took) = stage.end().await;
    assert_eq!(ended.end, End::Made);
    assert_eq!(took, 50 * SECOND, "thirty for the restart, ten for the grace, ten for the looks");
}

#[tokio::test(start_paused = true)]
async fn what_a_kill_has_left_stopped_is_started() {
    use Question::{Claim, Finish, KillAndStart, Look, MayAct, Start};

    let mut stage = stage();
    stage.give("w1", Kind::Call, [call_failed(CallFault::Refused)]);
    stage.give("w1", Kind::Look, [running(), stopped()].map(Answer::Seen));
    stage.restarter.carry_out(vec![stage.wedged("w1")]);
    let (ended, _) = stage.end().await;
    assert_eq!(ended.end, End::Made);
    let asked = [Claim, Look, MayAct, KillAndStart, Look, MayAct, Start, Finish(Outcome::Succeeded)];
    assert_eq!(stage.asked("w1"), asked);
}

#[tokio::test(start_paused = true)]
async fn a_stop_hands_back_what_waits_and_waits_for_what_has_reached_its_engine() {
    let mut stage = stage();
    stage.takes(Kind::Call, 20 * SECOND);
    let orders = ["w1", "w2", "w3", "w4", "w5", "w6"].map(|workspace| stage.order(workspace));
    stage.restarter.carry_out(orders.into());
    tokio::time::sleep(SECOND).await;
    assert_eq!((stage.restarter.in_flight().len(), stage.restarter.queued().len()), (6, 2));
    assert_eq!(stage.restarter.busy_engines().len(), 1);
    stage.restarter.stop();
    for _ in 0..2 {
        let (ended, took) = stage.end().await;
        assert_eq!((ended.end, ended.look_again, took), (End::NotAsked, false, Duration::ZERO));
    }
    stage.restarter.carry_out(vec![stage.order("w7")]);
    stage.restarter.shut_down().await;
    assert_eq!(stage.outcomes().iter().filter(|(_, outcome)| *outcome == Outcome::Succeeded).count(), 4);
    assert!(stage.asked("w7").is_empty(), "a process that stops takes no orders");
    assert!(stage.restarter.in_flight().is_empty() && stage.restarter.busy_engines().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_between_claim_and_call_hands_the_attempt_back() {
    let mut stage = stage();
    stage.takes(Kind::Look, 2 * SECOND);
    stage.restarter.carry_out(vec![stage.order("w1")]);
    tokio::time::sleep(SECOND).await;
    assert_eq!(stage.asked("w1"), [Question::Claim]);
    stage.restarter.stop();
    let (ended, _) = stage.end().await;
    assert_eq!((ended.end, ended.look_again), (End::NotAsked, true));
    assert_eq!(stage.outcomes(), [("w1".to_owned(), Outcome::Abandoned)]);
    assert_eq!(stage.why(), "handed back: defib is stopping");
}

/// The database allows the call, but its answer takes so long that by our own clock the lease has ended when the call is to be made.
#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_by_our_own_clock_stops_the_call_that_the_database_allowed() {
    for (lasting, answer_takes, leaves) in [(3, 2, true), (2, 3, false), (60, 9, true), (60, 10, false)] {
        let mut stage = stage();
        own(&stage.ownership, &stage.clock, lasting * SECOND);
        stage.takes(Kind::MayAct, answer_takes * SECOND);
        stage.restarter.carry_out(vec![stage.order("w1")]);
        let (ended, _) = stage.end().await;
        assert_eq!(ended.end == End::Made, leaves, "{lasting} {answer_takes}");
        assert_eq!(stage.asked("w1").contains(&Question::Start), leaves, "{lasting} {answer_takes}");
        if !leaves {
            assert!(
                stage.why().starts_with("handed back: the lease ended, or too much time passed"),
                "{}",
                stage.why()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_that_waited_too_long_for_its_place_is_left_to_the_engines_owner() {
    let mut stage = stage();
    own(&stage.ownership, &stage.clock, 5 * SECOND);
    stage.takes(Kind::Call, 10 * SECOND);
    stage.restarter.carry_out(["w1", "w2", "w3", "w4", "w5"].map(|workspace| stage.order(workspace)).into());
    for _ in 0..5 {
        stage.end().await;
    }
    assert!(stage.asked("w5").is_empty(), "the lease ended while it waited");
    assert_eq!(stage.outcomes().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_database_that_refuses_the_outcome_is_asked_five_times() {
    let mut stage = stage();
    let away = || Answer::Nothing("away".to_owned());
    stage.give("w1", Kind::Finish, std::iter::repeat_with(away).take(5));
    stage.restarter.carry_out(vec![stage.order("w1")]);
    let (ended, took) = stage.end().await;
    assert_eq!((ended.end, ended.look_again), (End::Made, true));
    assert_eq!(took, 3 * SECOND, "0.2, 0.4, 0.8 and 1.6 seconds");
    assert!(stage.outcomes().is_empty());
    assert_eq!(stage.asked("w1").iter().filter(|question| matches!(question, Question::Finish(_))).count(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_platforms_function_that_fails_is_called_again_with_a_growing_delay() {
    let mut stage = stage();
    stage.give("w1", Kind::Claim, [function_failed(), function_failed()]);
    stage.restarter.carry_out(vec![stage.order("w1")]);
    assert_eq!(stage.end().await.0.end, End::NotAsked);
    for (wait, asked) in [(9, 1), (1, 2), (19, 2), (1, 3)] {
        tokio::time::sleep(wait * SECOND).await;
        // Each pass orders it again, and each time the end of the order is told.
        stage.restarter.carry_out(vec![stage.order("w1")]);
        stage.end().await;
        let claims = stage.asked("w1").iter().filter(|question| **question == Question::Claim).count();
        assert_eq!(claims, asked, "after {wait} more seconds");
    }
    assert_eq!(stage.outcomes(), [("w1".to_owned(), Outcome::Succeeded)]);
}

/// Twenty workspaces for which the function hangs until its own time-out, and which each pass orders again, take no places from the others.
#[tokio::test(start_paused = true)]
async fn those_for_whom_the_function_fails_do_not_use_up_the_places() {
    let mut stage = stage();
    stage.takes(Kind::Claim, 2 * SECOND);
    let troubled: Vec<String> = (0..20).map(|number| format!("t{number:02}")).collect();
    for workspace in &troubled {
        stage.give(workspace, Kind::Claim, std::iter::repeat_with(function_failed).take(1_000));
    }
    stage.restarter.carry_out(troubled.iter().map(|workspace| stage.order(workspace)).collect());
    for _ in &troubled {
        stage.end().await;
    }
    // Their delays are over. All of them are ordered, and after them one for which the function answers.
    tokio::time::sleep(20 * SECOND).await;
    stage.restarter.carry_out(troubled.iter().map(|workspace| stage.order(workspace)).collect());
    let begun = (stage.clock)();
    stage.restarter.carry_out(vec![stage.order("well")]);
    let ended = loop {
        let (ended, _) = stage.end().await;
        if ended.workspace == "well".into() {
            break ended;
        }
    };
    assert_eq!((ended.end, (stage.clock)() - begun), (End::Made, Duration::ZERO));
    assert_eq!(stage.outcomes(), [("well".to_owned(), Outcome::Succeeded)]);
}

#[tokio::test(start_paused = true)]
async fn one_order_a_workspace_is_under_way() {
    let mut stage = stage();
    stage.takes(Kind::Call, SECOND);
    stage.restarter.carry_out(vec![stage.order("w1"), stage.order("w1")]);
    stage.restarter.carry_out(vec![stage.order("w1")]);
    stage.end().await;
    assert_eq!(stage.asked("w1").iter().filter(|question| **question == Question::Claim).count(), 1);
    assert!(stage.ended.try_recv().is_err(), "the dropped orders are not told: the one under way is");
}

#[tokio::test(start_paused = true)]
async fn an_order_for_an_engine_that_is_not_configured_ends_at_once() {
    let mut stage = stage();
    let order = RestartOrder { engine: "nobodys".into(), ..stage.order("w1") };
    stage.restarter.carry_out(vec![order]);
    assert_eq!(stage.end().await.0.end, End::NotAsked);
    assert!(stage.asked("w1").is_empty());
}

/// The words of an attempt.
fn words(stage: &Stage, attempt: i64) -> Option<String> {
    lock(&stage.fake.world).words.get(&attempt).and_then(|words| words.log.clone())
}

#[tokio::test(start_paused = true)]
async fn a_log_that_hangs_delays_no_start_and_another_restart_by_half_a_second() {
    let mut stage = stage();
    stage.takes(Kind::Log, 2 * SECOND);
    stage.restarter.carry_out(vec![stage.order("w1")]);
    assert_eq!(stage.end().await.1, Duration::ZERO);
    assert_eq!(words(&stage, 1), None, "it is still being read");
    stage.restarter.carry_out(vec![stage.wedged("w2")]);
    stage.give("w2", Kind::Look, [Answer::Seen(running())]);
    assert_eq!(stage.end().await.1, Duration::from_millis(500));
    tokio::time::sleep(3 * SECOND).await;
    for attempt in [1, 2] {
        assert_eq!(words(&stage, attempt).as_deref(), Some("out of cheese"), "{attempt}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_one_that_is_not_restarted_no_words_are_kept() {
    let mut stage = stage();
    stage.give("w1", Kind::Look, [Answer::Seen(restarted())]);
    stage.restarter.carry_out(vec![stage.order("w1")]);
    stage.end().await;
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(words(&stage, 1), None);
}

/// A hold is placed, or somebody else restarts it, while the log is being read.
#[tokio::test(start_paused = true)]
async fn the_look_and_the_databases_word_are_not_older_for_the_wait_for_a_log() {
    let mut stage = stage();
    stage.takes(Kind::Log, 2 * SECOND);
    for (workspace, kind, news) in
        [("w1", Kind::MayAct, Answer::MayAct(ActAnswer::NotWanted)), ("w2", Kind::Look, Answer::Seen(restarted()))]
    {
        stage.give(workspace, Kind::Look, [Answer::Seen(running())]);
        stage.restarter.carry_out(vec![stage.wedged(workspace)]);
        tokio::time::sleep(Duration::from_millis(400)).await;
        stage.give(workspace, kind, [news]);
        assert_eq!(stage.end().await.0.end, End::NotAsked, "{workspace}");
        assert!(!stage.asked(workspace).contains(&Question::KillAndStart), "{workspace}");
    }
}

/// A Redis that answers after a while.
struct SlowCache;

#[async_trait]
impl Keys for SlowCache {
    async fn delete(&self, _: &[String]) -> Result<(), String> {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn the_databases_word_is_not_older_for_the_wait_for_a_cache() {
    let mut stage = stage_with(|clock| {
        let news = EvictionNews::new(Arc::new(Metrics::new(&[]).unwrap()));
        let patterns = vec![Pattern::parse("ws:{workspace_id}").unwrap()];
        Some(Arc::new(Evictor::new(patterns, Arc::new(SlowCache), Arc::clone(clock), news)))
    });
    stage.restarter.carry_out(vec![stage.order("w1")]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    stage.give("w1", Kind::MayAct, [Answer::MayAct(ActAnswer::NotWanted)]);
    assert_eq!(stage.end().await.0.end, End::NotAsked);
    assert!(!stage.asked("w1").contains(&Question::Start));
}
