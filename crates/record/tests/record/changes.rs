//! A small fleet, told to a recorded judge as a daemon tells it: reads of what has changed, and passes over those whom something concerns.
//! The same fleet can be told by reads of all rows and passes over everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use defib_policy::fleet::{FleetRead, Kind, Workspace};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::{EngineEvidence, Look, ReadStamp};
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::sample::{Exit, Fault, Health, Incarnation, Observation, Sample};
use defib_policy::suspicion::Report;
use defib_record::Recorded;

const START: i64 = 1_700_000_000_000_000;
const SECOND: i64 = 1_000_000;
const POLL: u64 = 5;
/// All rows are read with each twelfth poll.
const RESYNC: u64 = 12;
/// A read of changes reaches back so far before the one before it.
const OVERLAP: i64 = 2 * SECOND;

/// A look at a workspace of ours that has no attempt and no hold.
pub(crate) const fn look<'a>(workspace: &'a Workspace, sample: &'a Sample) -> Look<'a> {
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

/// How the fleet is read, and who is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// All rows and everybody, with every poll.
    All,
    /// What has changed, and whom something concerns.
    Changes,
}

/// `size` workspaces on two engines for so many seconds. One stops and comes back, two hang, one leaves, one comes late, one moves, one is
/// unhealthy for a while, two are reported; an engine cannot be reached for a minute, and a pass over the other takes long once.
pub(crate) fn drive(judge: &mut Recorded, reads: Reads, size: usize, until: u64) {
    let mut known = BTreeMap::new();
    let mut floor = Timestamp(0);
    for second in (0..until).step_by(usize::try_from(POLL).expect("small")) {
        let poll = second / POLL;
        let all = (0..size).filter_map(|of| row(of, second)).map(|row| (row.id.clone(), row)).collect();
        let is_whole = reads == Reads::All || poll.is_multiple_of(RESYNC);
        if is_whole {
            judge.observe_fleet(&read(second, &all, |_| true), true);
            known = all;
        } else {
            read_changes(judge, second, floor, &mut known, &all);
        }
        floor = Timestamp(clock(second).0 - OVERLAP);
        for (reported, at) in [("workspace-06", 210..270), ("workspace-08", 1_010..1_150)] {
            for who in ["proxy", "gateway"] {
                if at.contains(&second) && (second - at.start).is_multiple_of(35) {
                    let report = Report { reporter: who, login: who, at: moment(second) };
                    judge.observe_suspicion(&reported.into(), report);
                }
            }
        }
        for engine in ["a", "b"] {
            if engine == "a" && (440..450).contains(&second) {
                continue; // its pass takes longer than two polls
            }
            pass(judge, second, &engine.into(), &known, is_whole);
        }
        judge.observe_tick(second % 200 != 0);
        if second % 60 == 0 {
            judge.prune(moment(second));
        }
    }
}

type Rows = BTreeMap<WorkspaceId, Workspace>;

fn moment(second: u64) -> Moment {
    Moment::after(Duration::from_secs(1_000 + second))
}

fn clock(second: u64) -> Timestamp {
    Timestamp(START + second.cast_signed() * SECOND + 77)
}

fn read(second: u64, rows: &Rows, is_in: impl Fn(&Workspace) -> bool) -> FleetRead {
    FleetRead {
        at: moment(second),
        database_now: clock(second),
        database_started_at: Timestamp(START - 1_000 * SECOND),
        workspaces: rows.values().filter(|row| is_in(row)).cloned().collect(),
    }
}

/// As the daemon does: `known` keeps of the rows that differ in their stamps alone those that were called.
fn read_changes(judge: &mut Recorded, second: u64, floor: Timestamp, known: &mut Rows, all: &Rows) {
    let called: BTreeSet<WorkspaceId> = judge.call(moment(second)).into_iter().collect();
    let is_new = |row: &Workspace| row.last_heartbeat_at.max(row.last_activity_at) > Some(floor);
    let differs = |before: Option<&Workspace>, row: &Workspace| {
        before.is_none_or(|before| {
            (&before.engine, before.active_tasks, &before.status) != (&row.engine, row.active_tasks, &row.status)
        })
    };
    let read = read(second, all, |row| is_new(row) || called.contains(&row.id));
    let gone: Vec<WorkspaceId> = known.keys().filter(|id| !all.contains_key(*id)).cloned().collect();
    judge.observe_changes(&read, floor, &gone);
    for row in read.workspaces {
        let differs = differs(known.get(&row.id), &row);
        if differs {
            judge.stir(&row.id);
        }
        if differs || called.contains(&row.id) {
            known.insert(row.id.clone(), row);
        }
    }
    known.retain(|id, _| all.contains_key(id));
}

fn pass(judge: &mut Recorded, second: u64, engine: &EngineName, known: &Rows, is_whole: bool) {
    let at = moment(second) + Duration::from_millis(1);
    let is_away = engine.as_str() == "b" && (800..860).contains(&second);
    let evidence = EngineEvidence {
        fault: is_away.then_some(Fault::Unreachable),
        clock_offset_micros: (!is_away).then_some(3_000 + second.cast_signed()),
        ..EngineEvidence::default()
    };
    let on: Vec<&Workspace> = known.values().filter(|row| row.engine == *engine).collect();
    let samples: Vec<Sample> =
        on.iter().map(|row| Sample { at, observation: observe(number(&row.id), second, is_away) }).collect();
    let everybody = is_whole || judge.must_see_all(engine, &evidence);
    let concerned = |(row, sample): &(&&Workspace, &Sample)| everybody || judge.concerns(&row.id, Some(sample));
    let concerned: Vec<(&&Workspace, &Sample)> = on.iter().zip(&samples).filter(concerned).collect();
    let left_out = on.len() - concerned.len();
    // A workspace that may be convicted is read again by its id.
    let is_in_doubt = |row: &Workspace, sample: &Sample| {
        !matches!(sample.observation, Observation::Running { .. }) || (!is_whole && judge.is_calm(&row.id))
    };
    let doubted: BTreeSet<&WorkspaceId> =
        concerned.iter().filter(|(row, sample)| is_in_doubt(row, sample)).map(|(row, _)| &row.id).collect();
    let now_in_table = (0..known.len() + 2).filter_map(|of| row(of, second)).map(|row| (row.id.clone(), row)).collect();
    let again = read(second, &now_in_table, |row| doubted.contains(&row.id));
    if !doubted.is_empty() {
        judge.observe_fleet(&again, false);
    }
    let looks: Vec<Look<'_>> = concerned
        .iter()
        .map(|(row, sample)| look(again.workspaces.iter().find(|read| read.id == row.id).unwrap_or(row), sample))
        .collect();
    let stamp = ReadStamp { at: moment(second), database_now: clock(second) };
    judge.judge_concerned(at + Duration::from_millis(2), stamp, Some((engine, &evidence)), &looks, left_out);
}

fn number(id: &WorkspaceId) -> usize {
    id.as_str().trim_start_matches("workspace-").parse().expect("a number")
}

fn row(of: usize, second: u64) -> Option<Workspace> {
    if (of == 2 && second >= 500) || (of == 3 && second < 350) {
        return None;
    }
    let beats = match of {
        0 if (100..400).contains(&second) => 100,
        // Again and again, so that each segment of a long recording has it.
        1 if (300..700).contains(&(second % 2_400)) => second - second % 2_400 + 300,
        8 if (1_000..1_152).contains(&second) => 1_000,
        _ => second,
    };
    let phase = of as u64 % 10;
    let beat = ((beats + phase) / 10 * 10).saturating_sub(phase).cast_signed();
    let on_a = if of == 7 { second < 900 } else { of.is_multiple_of(2) };
    Some(Workspace {
        id: format!("workspace-{of:02}").into(),
        status: "online".into(),
        kind: Kind::Container,
        engine: if on_a { "a" } else { "b" }.into(),
        container_ref: Some(format!("container-{of}").into()),
        instance_ref: None,
        suspended: false,
        last_heartbeat_at: Some(Timestamp(START + beat * SECOND)),
        last_activity_at: None,
        active_tasks: i32::from(of == 4 && second % 80 < 40),
        created_at: Some(Timestamp(START - 5 * SECOND)),
        policy: None,
    })
}

fn observe(of: usize, second: u64, is_away: bool) -> Observation {
    if is_away {
        return Observation::Unknown { fault: Fault::Unreachable };
    }
    let is_back = of == 0 && second >= 400;
    let has_moved = of == 7 && second >= 900;
    let started = if is_back { 399 } else { -60 };
    let incarnation = Incarnation {
        container_id: format!("id-{of}{}", if has_moved { "-moved" } else { "" }).into(),
        started_at: Some(Timestamp(START + started * SECOND)),
    };
    if of == 0 && (100..400).contains(&second) {
        let exit = Exit { exit_code: Some(137), oom_killed: true, ..Exit::default() };
        return Observation::Stopped { incarnation, exit };
    }
    let unhealthy = Health::Unhealthy { last_check_at: None, due_within: None };
    let health = if of == 5 && (600..650).contains(&second) { unhealthy } else { Health::default() };
    Observation::Running { incarnation, health }
}
