//! The recorder: makes `defib.verdicts` say what this replica says, and appends to the history. Nobody waits for it.
//!
//! Verdicts are level-triggered. What this replica last said of each workspace is kept in memory; the table is read at least once a poll
//! interval; and whatever differs is written. So it does not matter how a write was lost (it was refused or timed out, another replica
//! overwrote it, somebody deleted the row): the next comparison finds the difference.
//!
//! ```text
//! pass ──note──► said ──difference──► defib.verdicts      one task, in batches; a lock on the table delays only this task
//!           └──► history ───────────► defib.events        another task: bounded, best effort
//! ```
//!
//! An engine that gives no answer is one event of the engine, and no event of its workspaces. For a workspace that was alive before and
//! after, nothing is written. One that died meanwhile gets one event, from its verdict before to its verdict after.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::moment::Moment;
use defib_policy::plan::Change;
use defib_policy::sample::Fault;
use defib_policy::verdict::{Evidence, Verdict};
use defib_store::{EventRow, EventSubject, StoreError, StoredVerdict, VerdictRow};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::database::VerdictTables;
use crate::news::News;
use crate::state::State;
use crate::sync::lock;
use crate::words::Words;

/// How many rows one write has. Larger: a write locks its rows for longer. Smaller: a mass death takes more round trips.
const BATCH_MAX: usize = 2_000;

/// How many events may wait to be written. When there are more, the oldest are given up. Verdicts are kept apart from this queue, so only
/// history can be lost and no state.
const HISTORY_MAX: usize = 20_000;

/// For how many workspaces the evidence of verdicts that are written already is kept, so that they can be written again at once. For all
/// others the judge gives the evidence again in its next pass. Larger: more memory in a mass death.
const EVIDENCE_MAX: usize = 10_000;

/// How long the end of a clean stop may wait for the last writes.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(3);

/// Keeps the tables in step with what is said.
pub(crate) struct Recorder {
    state: Arc<State>,
    tables: Arc<dyn VerdictTables>,
    words: Option<Arc<Words>>,
    news: Arc<News>,
    said: Mutex<Said>,
    history: Mutex<History>,
    unwritten: Notify,
    untold: Notify,
}

/// What this replica has said of the workspaces that it speaks for.
#[derive(Default)]
struct Said {
    /// The workspaces that are not alive.
    entries: HashMap<WorkspaceId, Entry>,
    /// The workspaces whose row has to be written or cleared, with the engine that each is recorded on.
    unwritten: BTreeMap<WorkspaceId, EngineName>,
    /// The workspaces for which the judge was asked to give the evidence again. The verdict that it then repeats is no event for the
    /// history.
    repeated: HashSet<WorkspaceId>,
    /// The engines that we speak for, and whether each answered when it was last asked.
    answers: BTreeMap<EngineName, bool>,
}

/// What was last said of one workspace.
struct Entry {
    verdict: Verdict,
    rule: String,
    held: Option<String>,
    engine: EngineName,
    since: Moment,
    /// If its engine gives no answer: the verdict before that, if it is known.
    #[expect(clippy::option_option, reason = "unheard of since then, and whether the verdict before that is known")]
    unheard: Option<Option<Verdict>>,
    /// `None` when the verdict was taken over from another process, or when it is written already and there are too many to keep.
    evidence: Option<Arc<Evidence>>,
}

#[derive(Default)]
struct History {
    events: VecDeque<EventRow>,
    lost: usize,
}

/// One write.
#[derive(Default)]
struct Batch {
    verdicts: Vec<VerdictRow>,
    cleared: Vec<WorkspaceId>,
    /// The entries of `unwritten` that this write is for.
    taken: Vec<(WorkspaceId, EngineName)>,
}

impl Recorder {
    /// Writes to these tables.
    pub(crate) fn new(state: Arc<State>, tables: Arc<dyn VerdictTables>, news: Arc<News>) -> Self {
        Self {
            state,
            tables,
            words: None,
            news,
            said: Mutex::default(),
            history: Mutex::default(),
            unwritten: Notify::new(),
            untold: Notify::new(),
        }
    }

    /// Also writes what this replica says of itself and of its engines, after the verdicts of the same pass.
    #[must_use]
    pub(crate) fn with_words(self, words: Arc<Words>) -> Self {
        Self { words: Some(words), ..self }
    }

    /// Takes note that a pass over all workspaces of `engine` has ended, after what it said was [noted](Self::note). Returns at once.
    pub(crate) fn passed(&self, engine: Option<&EngineName>, reach: Option<Result<(), Fault>>, judged: usize) {
        if self.words.as_ref().is_some_and(|words| words.note(engine, reach, judged)) {
            self.unwritten.notify_one();
        }
    }

    /// Takes note of what a pass over workspaces of `engine` says; `reach` is whether that engine answered. Returns at once.
    pub(crate) fn note(&self, engine: Option<&EngineName>, reach: Option<Result<(), Fault>>, changes: &[Change]) {
        let ours = self.state.speaks_for(engine, self.state.now());
        let unheard = matches!(reach, Some(Err(_)));
        let mut events = Vec::new();
        {
            let mut said = lock(&self.said);
            if let (Some(engine), Some(reach), true) = (engine, reach, ours) {
                events.extend(said.engine_event(engine, reach));
            }
            for change in changes {
                events.extend(said.note(change, unheard));
            }
        }
        if !changes.is_empty() {
            self.unwritten.notify_one();
        }
        self.tell(events);
    }

    fn tell(&self, events: Vec<EventRow>) {
        if events.is_empty() {
            return;
        }
        let mut history = lock(&self.history);
        history.events.extend(events);
        let excess = history.events.len().saturating_sub(HISTORY_MAX);
        history.events.drain(..excess);
        history.lost += excess;
        drop(history);
        self.untold.notify_one();
    }

    /// Clears what is recorded of workspaces that are no longer watched.
    pub(crate) fn forget<'a>(&self, departed: impl Iterator<Item = &'a WorkspaceId>) {
        let mut said = lock(&self.said);
        for id in departed {
            if let Some(entry) = said.entries.remove(id) {
                said.unwritten.insert(id.clone(), entry.engine);
            }
        }
        let waits = !said.unwritten.is_empty();
        drop(said);
        if waits {
            self.unwritten.notify_one();
        }
    }

    /// Takes over what another process has recorded.
    pub(crate) fn take_over(&self, recorded: &[(StoredVerdict, Verdict)], now: Moment) {
        let mut said = lock(&self.said);
        for (row, verdict) in recorded {
            let entry = Entry {
                verdict: *verdict,
                rule: row.rule.clone(),
                held: row.held.clone(),
                engine: row.engine.clone(),
                since: now.minus(row.since_ago),
                unheard: (*verdict == Verdict::Unknown).then_some(None),
                evidence: None,
            };
            said.entries.insert(row.workspace.clone(), entry);
        }
    }

    /// Leaves workspaces to another replica, which records their verdicts from here on.
    pub(crate) fn hand_over<'a>(&self, workspaces: impl Iterator<Item = &'a WorkspaceId>) {
        let mut said = lock(&self.said);
        for id in workspaces {
            said.entries.remove(id);
            said.unwritten.remove(id);
        }
    }

    /// Writes until `stop`, and then what is left, within a few seconds.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::join!(self.keep_verdicts(&stop), self.keep_history(&stop));
        let last = async {
            let _ = self.write().await;
            let _ = self.write_history().await;
        };
        let _ = tokio::time::timeout(LAST_WRITE_TIMEOUT, last).await;
    }

    async fn keep_verdicts(&self, stop: &CancellationToken) {
        let mut poll = tokio::time::interval(self.state.config.policy.poll_interval);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let compare = tokio::select! {
                () = stop.cancelled() => return,
                _ = poll.tick() => true,
                () = self.unwritten.notified() => false,
            };
            let keeping = async {
                // Reports of passes whose verdicts have all been noted by now. They are dropped if those verdicts cannot be written.
                let words = self.words.as_ref().map(|words| (words, words.take()));
                if compare {
                    self.compare().await?;
                    self.news.longest(&self.longest());
                }
                self.write().await?;
                match words {
                    Some((words, taken)) => {
                        words.write(&taken).await?;
                        words.write_findings().await
                    }
                    None => Ok(()),
                }
            };
            let kept = tokio::select! {
                () = stop.cancelled() => return,
                kept = keeping => kept,
            };
            self.news.recorded("verdicts", kept.as_ref().err());
        }
    }

    async fn keep_history(&self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.untold.notified() => {}
            }
            let written = tokio::select! {
                () = stop.cancelled() => return,
                written = self.write_history() => written,
            };
            self.news.recorded("history", written.as_ref().err());
            if written.is_err() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(self.state.config.policy.poll_interval) => self.untold.notify_one(),
                }
            }
        }
    }

    /// Compares the table with what this replica says, and notes which rows have to be written.
    async fn compare(&self) -> Result<(), StoreError> {
        if !self.state.fleet_known() {
            return Ok(()); // every workspace in the table would seem to have left the fleet
        }
        let recorded = self.tables.read_verdicts().await?;
        let voice = self.state.voice();
        let mut guard = lock(&self.said);
        let said = &mut *guard;
        let in_table: HashSet<&WorkspaceId> = recorded.iter().map(|row| &row.workspace).collect();
        let missing = said.entries.iter().filter(|(id, _)| !in_table.contains(id));
        let mut differing: Vec<(WorkspaceId, EngineName)> =
            missing.map(|(id, entry)| (id.clone(), entry.engine.clone())).collect();
        let wrong = recorded.iter().filter(|row| !said.entries.get(&row.workspace).is_some_and(|it| it.is_in(row)));
        differing.extend(wrong.map(|row| (row.workspace.clone(), row.engine.clone())));
        differing.retain(|(id, engine)| voice.speaks_for(id, engine));
        said.unwritten.extend(differing);
        Ok(())
    }

    /// For each verdict, the longest time that a workspace has had it, of the workspaces that this replica speaks for.
    fn longest(&self) -> [Duration; Verdict::ALL.len()] {
        let (voice, now) = (self.state.voice(), self.state.now());
        let mut longest = [Duration::ZERO; Verdict::ALL.len()];
        for (id, entry) in &lock(&self.said).entries {
            if voice.speaks_for(id, &entry.engine) {
                let place = &mut longest[entry.verdict.index()];
                *place = (*place).max(now - entry.since);
            }
        }
        longest
    }

    /// Writes all that is unwritten. What cannot be written now is kept for the next time.
    async fn write(&self) -> Result<(), StoreError> {
        loop {
            let batch = self.next_batch();
            if batch.verdicts.is_empty() && batch.cleared.is_empty() {
                return Ok(());
            }
            match self.tables.record_verdicts(&batch.verdicts, &batch.cleared).await {
                Ok(refused) => {
                    // They still differ, and the next comparison finds them.
                    self.news.refused("verdicts", refused.len());
                    self.written();
                }
                Err(error) => {
                    // If there is a newer verdict on one of them, only the mark that it is unwritten is kept, and not the older verdict.
                    lock(&self.said).unwritten.extend(batch.taken);
                    return Err(error);
                }
            }
        }
    }

    fn next_batch(&self) -> Batch {
        let (voice, now) = (self.state.voice(), self.state.now());
        let (mut batch, mut again) = (Batch::default(), Vec::new());
        {
            let mut said = lock(&self.said);
            while batch.taken.len() < BATCH_MAX {
                let Some((id, engine)) = said.unwritten.pop_first() else { break };
                if !voice.speaks_for(&id, &engine) {
                    continue; // another replica speaks for it by now
                }
                match said.entries.get(&id).map(|entry| entry.row(&id, now)) {
                    Some(Some(row)) => batch.verdicts.push(row),
                    None => batch.cleared.push(id.clone()),
                    Some(None) => {
                        // Without its evidence it cannot be written. The judge is made to say it again, in the next pass.
                        said.entries.remove(&id);
                        said.repeated.insert(id.clone());
                        again.push(id.clone());
                        batch.cleared.push(id.clone());
                    }
                }
                batch.taken.push((id, engine));
            }
        }
        if !again.is_empty() {
            let mut judge = self.state.judge();
            for id in &again {
                judge.hand_over(id);
            }
        }
        batch
    }

    /// Drops evidence that is written already, if there is much of it.
    fn written(&self) {
        let mut guard = lock(&self.said);
        let said = &mut *guard;
        if said.entries.len() > EVIDENCE_MAX {
            for (id, entry) in &mut said.entries {
                if !said.unwritten.contains_key(id) {
                    entry.evidence = None;
                }
            }
        }
    }

    async fn write_history(&self) -> Result<(), StoreError> {
        loop {
            let batch: Vec<EventRow> = {
                let mut history = lock(&self.history);
                let lost = std::mem::take(&mut history.lost);
                if lost > 0 {
                    self.news.history_lost(lost);
                }
                let rows = history.events.len().min(BATCH_MAX);
                history.events.drain(..rows).collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            match self.tables.record_events(&batch).await {
                Ok(refused) => self.news.refused("history", refused),
                Err(error) => {
                    let mut history = lock(&self.history);
                    for event in batch.into_iter().rev() {
                        history.events.push_front(event);
                    }
                    let excess = history.events.len().saturating_sub(HISTORY_MAX);
                    history.events.drain(..excess);
                    history.lost += excess;
                    return Err(error);
                }
            }
        }
    }
}

impl Said {
    /// Takes note of one verdict. Returns the event for the history, if the verdict has changed.
    fn note(&mut self, change: &Change, unheard: bool) -> Option<EventRow> {
        let id = &change.workspace;
        let engine = change.evidence.engine.clone();
        let repeated = self.repeated.remove(id);
        self.unwritten.insert(id.clone(), engine.clone());
        let before = self.entries.remove(id);
        // The verdict before its engine stopped answering, if it has stopped.
        let (was, had_fallen_silent) = match before.and_then(|entry| entry.unheard) {
            Some(was) => (was, true),
            None => (change.from, false),
        };
        let falls_silent = unheard && change.to == Verdict::Unknown;
        if change.to != Verdict::Alive {
            let entry = Entry {
                verdict: change.to,
                rule: change.evidence.rule.label().to_owned(),
                held: change.evidence.held.map(|held| held.label().to_owned()),
                engine,
                since: change.since,
                unheard: falls_silent.then_some(was),
                evidence: Some(Arc::new(change.evidence.clone())),
            };
            self.entries.insert(id.clone(), entry);
        }
        let unremarkable = had_fallen_silent && was.is_none() && change.to == Verdict::Alive;
        if repeated || falls_silent || unremarkable || was == Some(change.to) {
            return None;
        }
        Some(EventRow {
            about: EventSubject::Workspace(id.clone()),
            from: was.map(|was| was.label().to_owned()),
            to: change.to.label().to_owned(),
            evidence: serde_json::to_value(&change.evidence).unwrap_or_default(),
        })
    }

    /// The event for the history when an engine has gone away or is back. An engine that answers when it is first asked is no event.
    fn engine_event(&mut self, engine: &EngineName, reach: Result<(), Fault>) -> Option<EventRow> {
        if reach == Err(Fault::NotConfigured) {
            return None;
        }
        let before = self.answers.insert(engine.clone(), reach.is_ok());
        if before.unwrap_or(true) == reach.is_ok() {
            return None;
        }
        Some(of_engine(engine, reach))
    }
}

fn of_engine(engine: &EngineName, reach: Result<(), Fault>) -> EventRow {
    let (from, to) = if reach.is_ok() { ("no_answer", "answers") } else { ("answers", "no_answer") };
    let evidence = match reach {
        Ok(()) => serde_json::json!({}),
        Err(fault) => serde_json::json!({ "fault": fault.label() }),
    };
    EventRow { about: EventSubject::Engine(engine.clone()), from: Some(from.into()), to: to.into(), evidence }
}

impl Entry {
    /// Whether a row of the table says the same.
    fn is_in(&self, row: &StoredVerdict) -> bool {
        row.verdict == self.verdict.label()
            && row.rule == self.rule
            && row.held == self.held
            && row.engine == self.engine
    }

    /// The row to be written; `None` if the evidence is not kept.
    fn row(&self, id: &WorkspaceId, now: Moment) -> Option<VerdictRow> {
        let evidence = self.evidence.as_ref()?;
        Some(VerdictRow {
            workspace: id.clone(),
            verdict: self.verdict.label(),
            since_ago: now - self.since,
            engine: self.engine.clone(),
            rule: self.rule.clone(),
            because: evidence.because.clone(),
            evidence: serde_json::to_value(&**evidence).unwrap_or_default(),
            held: self.held.clone(),
        })
    }
}
