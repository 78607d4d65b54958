//! A small fleet, told to a recorded judge as a daemon tells it.

use std::path::Path;
use std::time::Duration;

use defib_policy::fleet::{FleetRead, Kind, Workspace};
use defib_policy::judge::{EngineEvidence, Judge, Look, ReadStamp};
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::sample::{Exit, Incarnation, Observation, Sample};
use defib_policy::settings::Settings;
use defib_policy::suspicion::Report;
use defib_record::told::{self, Told};
use defib_record::{DirectTape, Item, Reader, RecordSettings, Recorded};

use super::changes::look;

const START: i64 = 1_700_000_000_000_000;

/// How a recording is made in a test.
pub(crate) fn settings(directory: &Path, max_bytes: u64) -> RecordSettings {
    RecordSettings { directory: directory.to_owned(), max_bytes, program: "test".to_owned(), replica: "a".to_owned() }
}

/// A judge that is recorded into a directory, without a thread.
pub(crate) fn direct(directory: &Path, max_bytes: u64) -> Recorded {
    let tape = DirectTape::start(settings(directory, max_bytes)).expect("the directory can be used");
    Recorded::onto(Judge::new(Settings::default()), Box::new(tape))
}

/// `size` workspaces of which the first stops at second 100; seconds `from` to `until`, polled every five.
pub(crate) fn drive(judge: &mut Recorded, size: usize, from: u64, until: u64) {
    let engine = "engine".into();
    let evidence = EngineEvidence { clock_offset_micros: Some(3_000), ..EngineEvidence::default() };
    for second in (from..until).step_by(5) {
        let at = Moment::after(Duration::from_secs(1_000 + second));
        let database_now = Timestamp(START + second.cast_signed() * 1_000_000 + 77);
        let rows: Vec<Workspace> = (0..size).map(|of| row(of, second)).collect();
        let read =
            FleetRead { at, database_now, database_started_at: Timestamp(START - 1_000_000_000), workspaces: rows };
        judge.observe_fleet(&read, true);
        if second % 50 == 0 {
            let id = &read.workspaces[size - 1].id;
            judge.observe_suspicion(id, Report { reporter: "proxy", login: "login", at });
        }
        let samples: Vec<Sample> = (0..size).map(|of| Sample { at, observation: observe(of, second) }).collect();
        let looks: Vec<Look<'_>> =
            read.workspaces.iter().zip(&samples).map(|(workspace, sample)| look(workspace, sample)).collect();
        let now = at + Duration::from_millis(3);
        judge.judge(now, ReadStamp { at, database_now }, Some((&engine, &evidence)), &looks);
        judge.observe_tick(second % 200 != 0);
        if second % 60 == 0 {
            judge.prune(now);
        }
    }
}

fn row(of: usize, second: u64) -> Workspace {
    let beats = if of == 0 { second.min(100) } else { second };
    let beat = (beats / 30 * 30).cast_signed();
    Workspace {
        id: format!("workspace-{of}").into(),
        status: "online".into(),
        kind: Kind::Container,
        engine: "engine".into(),
        container_ref: Some(format!("container-{of}").into()),
        instance_ref: None,
        suspended: false,
        last_heartbeat_at: Some(Timestamp(START + beat * 1_000_000 + i64::try_from(of).unwrap_or_default() * 137)),
        last_activity_at: None,
        active_tasks: i32::from(second % 40 < 20),
        created_at: Some(Timestamp(START - 5_000_000)),
        policy: None,
    }
}

fn observe(of: usize, second: u64) -> Observation {
    let started = Timestamp(START - 60_000_000);
    let incarnation = Incarnation { container_id: format!("id-{of}").into(), started_at: Some(started) };
    if of == 0 && second >= 100 {
        let exit = Exit { exit_code: Some(137), oom_killed: true, ..Exit::default() };
        return Observation::Stopped { incarnation, exit };
    }
    Observation::Running { incarnation, health: defib_policy::sample::Health::default() }
}

/// What a replay of a recording found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Replayed {
    pub(crate) passes: usize,
    /// Passes in which the judge said something.
    pub(crate) told: usize,
    pub(crate) restarts: usize,
    /// How many workspaces passes have left out.
    pub(crate) left_out: u64,
    /// How many workspaces were called for reads of what had changed.
    pub(crate) called: u64,
    /// Passes in which the replay said something else than the recording, and reads for which it called others.
    pub(crate) differences: usize,
    /// For each segment: whether it goes on where the one before ended.
    pub(crate) segments: Vec<bool>,
    pub(crate) torn: usize,
}

/// Replays a recording through judges that begin with its segments that do not go on where the one before ended.
pub(crate) fn replay(directory: &Path) -> Replayed {
    replay_without(directory, |_| false)
}

/// The same without some of the calls.
pub(crate) fn replay_without(directory: &Path, is_left_out: impl Fn(&Told) -> bool) -> Replayed {
    let mut reader = Reader::open(directory).expect("there is a recording");
    let (mut judge, mut found) = (None, Replayed::default());
    while let Some(item) = reader.next_item().expect("it can be read") {
        match item {
            Item::Begin(header) => {
                found.segments.push(header.continues);
                if !header.continues || judge.is_none() {
                    judge = header.recorded_judge();
                }
            }
            Item::Torn(_) => found.torn += 1,
            Item::Call(call) if is_left_out(&call) => {}
            Item::Call(call) => {
                let judge = judge.as_mut().expect("a segment has begun");
                found.differences += usize::from(told::tell(judge, reader.scene(), &call).differs);
                match &call {
                    Told::Pass(pass) => {
                        found.passes += 1;
                        found.told += usize::from(pass.said.digest != 0);
                        found.restarts += pass.said.restarts.len();
                        found.left_out += pass.left_out;
                    }
                    Told::Call { called, .. } => found.called += called.count,
                    _ => {}
                }
            }
        }
    }
    found
}

/// Everything that the judge was told by a recording, as text.
pub(crate) fn calls(directory: &Path) -> Vec<String> {
    let mut reader = Reader::open(directory).expect("there is a recording");
    let mut told = Vec::new();
    while let Some(item) = reader.next_item().expect("it can be read") {
        if let Item::Call(call) = item {
            let scene = reader.scene();
            told.push(match &call {
                // What was said changes with the rules; what was told does not.
                Told::Pass(pass) => {
                    format!("{:?} {:?} {:?} {:?}", pass.now, pass.stamp, pass.engine, scene.looks(pass))
                }
                other => format!("{other:?} {:?}", scene.read(true)),
            });
        }
    }
    told
}
