//! What recording costs: the same ticks over 100,000 workspaces, of which a sixth has beaten, with and without a recorder. Once each tick
//! reads all rows and judges everybody, and once it reads what has changed and leaves out those who run as before, as most ticks of the
//! daemon do.
//! usage: cost [all|changes]

use std::time::Duration;

use defib_policy::fleet::{FleetRead, Kind, Workspace};
use defib_policy::judge::{EngineEvidence, Judge, Look, ReadStamp};
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::sample::{Health, Incarnation, Observation, Sample};
use defib_policy::settings::Settings;
use defib_record::{RecordSettings, Recorded, Recorder};
use rustix::time::{ClockId, clock_gettime};

const WORKSPACES: usize = 100_000;
const ENGINES: usize = 100;
const PASSES: u64 = 60;
/// So many ticks pass before any is counted: in the first ones everything is new.
const WHOLE: u64 = 30;
const START: i64 = 1_700_000_000_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let wanted = std::env::args().nth(1);
    for reads in [Reads::All, Reads::Changes] {
        if wanted.as_deref().is_none_or(|wanted| wanted == reads.name()) {
            compare(reads)?;
        }
    }
    Ok(())
}

/// How a tick reads the fleet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    All,
    Changes,
}

impl Reads {
    const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Changes => "changes",
        }
    }
}

fn compare(reads: Reads) -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let recorder = Recorder::start(RecordSettings {
        directory: directory.path().to_owned(),
        max_bytes: 1 << 30,
        program: "cost".to_owned(),
        replica: "cost".to_owned(),
    })?;
    let without = drive(reads, &mut Recorded::off(Judge::new(Settings::default())));
    let others = cpu(ClockId::ProcessCPUTime).saturating_sub(cpu(ClockId::ThreadCPUTime));
    let with = drive(reads, &mut Recorded::onto(Judge::new(Settings::default()), recorder.tape()));
    recorder.stop();
    let writing = cpu(ClockId::ProcessCPUTime).saturating_sub(cpu(ClockId::ThreadCPUTime)).saturating_sub(others);
    println!(
        "{}: processor time of a tick over {WORKSPACES} workspaces: {without:?} without a recorder and {with:?} with one; \
         the writer's thread: {writing:?} for all {PASSES} ticks; {:?}",
        reads.name(),
        recorder.condition()
    );
    Ok(())
}

/// The processor time that was used.
fn cpu(of: ClockId) -> Duration {
    clock_gettime(of).try_into().unwrap_or_default()
}

/// The processor time of a tick after the first ones, in which everything is new.
fn drive(reads: Reads, judge: &mut Recorded) -> Duration {
    let mut ticks = Vec::new();
    let mut rows: Vec<Workspace> = (0..WORKSPACES).map(row).collect();
    let engines: Vec<_> = (0..ENGINES).map(|n| format!("engine-{n}").as_str().into()).collect();
    for tick in 0..PASSES {
        let at = Moment::after(Duration::from_secs(1_000 + 5 * tick));
        let now = START + 5_000_000 * tick.cast_signed();
        for (of, row) in rows.iter_mut().enumerate() {
            let of = of as u64;
            if (of + tick).is_multiple_of(6) {
                row.last_heartbeat_at = Some(Timestamp(now - (of * 7_919 % 5_000_000).cast_signed()));
            }
        }
        let read = FleetRead {
            at,
            database_now: Timestamp(now),
            database_started_at: Timestamp(START - 1_000_000_000),
            workspaces: rows.clone(),
        };
        let samples: Vec<Sample> = (0..WORKSPACES).map(|of| Sample { at, observation: observe(of) }).collect();
        // The intervals of heartbeats are learned from the first reads, which are of all rows.
        let is_whole = reads == Reads::All || tick < WHOLE;
        let changed = FleetRead {
            workspaces: read
                .workspaces
                .iter()
                .filter(|row| row.last_heartbeat_at > Some(Timestamp(now - 5_000_000)))
                .map(decoded)
                .collect(),
            ..read.clone()
        };
        let begun = cpu(ClockId::ThreadCPUTime);
        if is_whole {
            judge.observe_fleet(&read, true);
        } else {
            judge.call(at);
            judge.observe_changes(&changed, Timestamp(now - 5_000_000), &[]);
        }
        for (n, engine) in engines.iter().enumerate() {
            let on = (n..WORKSPACES).step_by(ENGINES);
            let looks: Vec<Look<'_>> = on
                .clone()
                .filter(|of| is_whole || judge.concerns(&read.workspaces[*of].id, Some(&samples[*of])))
                .map(|of| look(&read.workspaces[of], &samples[of]))
                .collect();
            let stamp = ReadStamp { at, database_now: read.database_now };
            let left_out = on.count() - looks.len();
            judge.judge_concerned(at, stamp, Some((engine, &EngineEvidence::default())), &looks, left_out);
        }
        ticks.push(cpu(ClockId::ThreadCPUTime).saturating_sub(begun));
    }
    let steady = &mut ticks[usize::try_from(WHOLE).unwrap_or_default()..];
    steady.sort();
    steady[steady.len() / 2]
}

/// A row as a read brings it: its texts are its own.
fn decoded(row: &Workspace) -> Workspace {
    Workspace { id: row.id.as_str().into(), ..row.clone() }
}

fn look<'a>(workspace: &'a Workspace, sample: &'a Sample) -> Look<'a> {
    Look {
        workspace,
        sample: Some(sample),
        attempts: &[],
        in_flight: false,
        queued: false,
        ours: true,
        on_hold: false,
        own: None,
    }
}

fn row(of: usize) -> Workspace {
    Workspace {
        id: format!("workspace-{of:06}").into(),
        status: "online".into(),
        kind: Kind::Container,
        engine: format!("engine-{}", of % ENGINES).into(),
        container_ref: Some(format!("container-{of}").into()),
        instance_ref: None,
        suspended: false,
        last_heartbeat_at: Some(Timestamp(START - 1_000_000)),
        last_activity_at: None,
        active_tasks: 0,
        created_at: None,
        policy: None,
    }
}

fn observe(of: usize) -> Observation {
    let incarnation = Incarnation { container_id: format!("{of:064x}").into(), started_at: None };
    Observation::Running { incarnation, health: Health::default() }
}
