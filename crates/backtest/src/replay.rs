//! The replay: a recording is told to the recorded judge again, and to everybody who is compared.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use defib_policy::fleet::FleetRead;
use defib_policy::id::WorkspaceId;
use defib_policy::judge::Judge;
use defib_policy::moment::Timestamp;
use defib_policy::plan::Plan;
use defib_policy::settings::Settings;
use defib_record::told::{self, Pass, Rare, Told};
use defib_record::{Header, Item, POLICY, Reader, RecordError};

use crate::contender::{Contender, Other, Unknown, policy_named};
use crate::report::{Exactness, Recording, Report};
use crate::scene::Stage;
use crate::settings::Changes;

/// If two reads of the fleet are further apart than this, no workspace was watched between them.
const READS_APART: i64 = 60_000_000;

/// The question that a backtest answers.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the recording is.
    pub directory: PathBuf,
    /// How much of the end of the recording is counted. `None`: all of it.
    pub since: Option<Duration>,
    /// Settings in place of the recorded ones.
    pub changes: Changes,
    /// The policies of others to compare with, by name.
    pub against: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum BacktestError {
    /// The recording cannot be read.
    #[error(transparent)]
    Recording(#[from] RecordError),
    /// Something that was asked for does not exist.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// The settings do not fit together.
    #[error("--set: {0}")]
    Settings(String),
    /// Nothing in the recording was judged.
    #[error("{} holds no read of a fleet yet: let the daemon record for a while", .0.display())]
    Nothing(PathBuf),
}

struct Replay {
    stage: Stage,
    recorded: Option<Judge>,
    contenders: Vec<Contender>,
    others: Vec<Other>,
    changes: Vec<Changes>,
    /// The place of each number of the present segment.
    places: Vec<usize>,
    reporters: HashMap<Box<str>, u8>,
    last_read: Option<i64>,
    exactness: Exactness,
    recording: Recording,
    /// For each order, what each contender had last said of its workspace.
    words: Vec<Vec<Option<String>>>,
}

/// Replays a recording. `progress` is told how many bytes of how many have been read.
///
/// # Errors
/// The recording cannot be read, or something that was asked for does not exist.
pub fn run(request: &Request, progress: &mut dyn FnMut(u64, u64)) -> Result<Report, BacktestError> {
    let begun = Instant::now();
    let others =
        request.against.iter().map(|name| policy_named(name).map(Other::new)).collect::<Result<Vec<_>, _>>()?;
    let mut reader = Reader::open(&request.directory)?;
    let from = match request.since {
        None => i64::MIN,
        Some(since) => {
            let last = Reader::last_clock(&request.directory)?.unwrap_or_default();
            let from = last - i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
            reader.skip_to(from)?;
            from
        }
    };
    let mut changes = vec![Changes::default()];
    if !request.changes.is_empty() {
        changes.push(request.changes.clone());
    }
    let mut replay = Replay {
        stage: Stage::new(changes.len() + others.len(), from),
        recorded: None,
        contenders: Vec::new(),
        others,
        changes,
        places: Vec::new(),
        reporters: HashMap::new(),
        last_read: None,
        exactness: Exactness::default(),
        recording: Recording::default(),
        words: Vec::new(),
    };
    let mut read = 0;
    while let Some(item) = reader.next_item()? {
        match item {
            Item::Begin(header) => replay.begin(&header)?,
            Item::Torn(_) => replay.recording.torn += 1,
            Item::Call(call) => replay.call(&call, &reader),
        }
        let (now, total) = reader.progress();
        if now != read {
            read = now;
            progress(read, total);
        }
    }
    replay.stage.end();
    if replay.recording.from.is_none() {
        return Err(BacktestError::Nothing(request.directory.clone()));
    }
    Ok(replay.report(begun.elapsed()))
}

impl Replay {
    fn begin(&mut self, header: &Header) -> Result<(), BacktestError> {
        self.places.clear();
        self.recording.segment(header);
        if header.continues && self.recorded.is_some() {
            self.contenders.iter_mut().for_each(Contender::renumber);
            return Ok(());
        }
        self.last_read = None;
        self.exactness.begin(header.policy == POLICY, self.recorded.is_none());
        let memory = header.recorded_judge();
        self.recorded = Some(memory.unwrap_or_else(|| Judge::new(header.settings.clone())));
        if !self.contenders.is_empty() {
            self.recording.gaps += 1;
            self.stage.gap();
            self.contenders.iter_mut().for_each(|contender| contender.begin(header));
            self.others.iter_mut().for_each(Other::begin);
            return Ok(());
        }
        for changes in &self.changes {
            let settings: Settings = changes.applied(&header.settings);
            if let Some(fault) = settings.faults().first().filter(|_| !changes.is_empty()) {
                return Err(BacktestError::Settings(fault.clone()));
            }
            self.contenders.push(Contender::new(changes.clone(), header));
        }
        Ok(())
    }

    fn call(&mut self, call: &Told, reader: &Reader) {
        let scene = reader.scene();
        for number in self.places.len()..scene.len() {
            let Some(id) = scene.id(u32::try_from(number).unwrap_or(u32::MAX)) else { break };
            let place = self.stage.place(id);
            self.places.push(place);
        }
        match call {
            Told::Fleet { whole } => {
                let read = scene.read(*whole);
                let at = read.database_now.0;
                self.advance(at);
                if *whole {
                    self.stage.read_begins();
                }
                for row in &read.workspaces {
                    let of = self.stage.place(&row.id);
                    self.stage.row(of, row, at);
                }
                if *whole {
                    let passed = self.last_read.map_or(0, |last| (at - last).clamp(0, READS_APART));
                    self.last_read = Some(at);
                    self.stage.read_ends(at, passed);
                    if at >= self.stage.from {
                        self.recording.reads(at, read.workspaces.len());
                    }
                }
            }
            Told::Changes { gone, .. } => self.read_changes(scene.read(false), gone),
            Told::Pass(pass) => self.look(pass, reader),
            Told::Rare(Rare::Suspicion { workspace, reporter, .. }) => {
                let next = u8::try_from(self.reporters.len()).unwrap_or(u8::MAX);
                let proxy = *self.reporters.entry(reporter.clone()).or_insert(next);
                let of = self.stage.place(workspace);
                for (n, other) in self.others.iter_mut().enumerate() {
                    other.failed(self.contenders.len() + n, of, proxy, &mut self.stage);
                }
            }
            Told::Call { .. } | Told::Stir { .. } | Told::Tick { .. } | Told::Prune { .. } | Told::Rare(_) => {}
        }
        self.verify(call, reader);
        for me in 0..self.contenders.len() {
            let plan = self.contenders[me].tell(me, call, scene, &self.stage, &self.places);
            if let Some(plan) = plan {
                self.carry_out(me, &plan);
            }
        }
        self.keep_words();
    }

    fn read_changes(&mut self, read: &FleetRead, gone: &[WorkspaceId]) {
        let at = read.database_now.0;
        self.advance(at);
        for row in &read.workspaces {
            let of = self.stage.place(&row.id);
            self.stage.row(of, row, at);
        }
        for id in gone {
            let of = self.stage.place(id);
            self.stage.gone(of, at);
        }
        let passed = self.last_read.map_or(0, |last| (at - last).clamp(0, READS_APART));
        self.last_read = Some(at);
        let watched = self.stage.pass_by(at, passed);
        if at >= self.stage.from {
            self.recording.reads(at, watched);
        }
    }

    /// Lets time pass for the policies of others.
    fn advance(&mut self, to: i64) {
        let now = self.stage.now;
        if now > 0 {
            for (n, other) in self.others.iter_mut().enumerate() {
                other.advance(self.contenders.len() + n, to, &mut self.stage);
            }
        }
        self.stage.now = now.max(to);
    }

    fn look(&mut self, pass: &Pass, reader: &Reader) {
        let at = clock_of(pass).0;
        self.advance(at);
        let offset = pass.engine.as_ref().and_then(|(_, evidence)| evidence.clock_offset_micros).unwrap_or_default();
        for number in &pass.members {
            if let (Some(look), Some(of)) = (reader.scene().look(*number), self.places.get(*number as usize)) {
                self.stage.look(*of, &look, at, offset);
            }
        }
        if pass.left_out > 0 {
            let looked: HashSet<usize> =
                pass.members.iter().filter_map(|number| self.places.get(*number as usize).copied()).collect();
            self.stage.left_out(pass.engine.as_ref().map(|(name, _)| name), &looked);
            self.recording.left_out += pass.left_out;
        }
    }

    /// Whether the recorded judge says again what it said.
    fn verify(&mut self, call: &Told, reader: &Reader) {
        let Some(judge) = &mut self.recorded else { return };
        let answer = told::tell(judge, reader.scene(), call);
        match call {
            Told::Pass(pass) => {
                self.exactness.passes += 1;
                self.exactness.verdicts += pass.said.changes.len();
                self.exactness.orders += pass.said.restarts.len();
            }
            Told::Call { .. } => self.exactness.calls += 1,
            _ => {}
        }
        if answer.differs {
            let at = if let Told::Pass(pass) = call { clock_of(pass) } else { Timestamp(self.stage.now) };
            self.exactness.differs(at);
        }
    }

    fn carry_out(&mut self, me: usize, plan: &Plan) {
        for change in &plan.changes {
            let place = self.stage.place(&change.workspace);
            let held =
                change.evidence.held.map(|held| format!(" (held back: {})", held.sentence())).unwrap_or_default();
            self.contenders[me].note(place, format!("{}: {}{held}", change.to.label(), change.evidence.because));
        }
        for order in &plan.restarts {
            let place = self.stage.place(&order.workspace);
            self.stage.order(me, place, |_| format!("{}: {}", order.verdict.label(), order.evidence.because));
        }
    }

    /// Keeps what defib said of the workspaces that somebody has just restarted.
    fn keep_words(&mut self) {
        for order in &self.stage.orders[self.words.len()..] {
            let said = self.contenders.iter().map(|contender| contender.said.get(order.of).cloned().flatten());
            self.words.push(said.collect());
        }
    }

    fn report(self, took: Duration) -> Report {
        let defib = self.changes.iter().map(|changes| {
            if changes.is_empty() {
                ("defib".to_owned(), "the recorded settings".to_owned())
            } else {
                (
                    format!("defib --set {}", changes.text()),
                    "the recorded settings with these in their place".to_owned(),
                )
            }
        });
        let others = self.others.iter().map(|other| (other.name.to_owned(), other.source.to_owned()));
        let names: Vec<(String, String)> = defib.chain(others).collect();
        Report::new(self.recording, self.exactness, &names, &self.stage, &self.words, took)
    }
}

fn clock_of(pass: &Pass) -> Timestamp {
    pass.stamp.database_now.plus(pass.now - pass.stamp.at)
}
