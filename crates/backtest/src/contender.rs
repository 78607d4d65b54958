//! The contenders, which are compared: the production policy with some settings, and the policies of others.

use std::collections::{HashMap, HashSet};

use defib_policy::fleet::{FleetRead, Workspace};
use defib_policy::id::WorkspaceId;
use defib_policy::judge::{Judge, Look, OwnSettings};
use defib_policy::plan::Plan;
use defib_policy::sample::Sample;
use defib_policy::settings::{Mode, Settings};
use defib_record::told::{self, Pass, Told};
use defib_record::{Header, Scene};
use defib_sim::baseline;
use defib_sim::baseline::rule::Rule;

use crate::scene::Stage;
use crate::settings::Changes;

/// Something that was asked for and does not exist, as one line that says what does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unknown(pub String);

/// The names that `--against` knows.
pub fn policies() -> impl Iterator<Item = &'static str> {
    baseline::ALL.iter().map(|it| it.name)
}

/// The name that was probably meant.
pub(crate) fn nearest<'a>(meant: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (meant.chars().count() / 3).clamp(1, 4);
    let distances = names.into_iter().map(|name| (strsim::damerau_levenshtein(meant, name), name));
    distances.filter(|(distance, _)| *distance <= allowed).min().map(|(_, name)| name)
}

/// A policy of others, by its name.
pub(crate) fn policy_named(name: &str) -> Result<&'static baseline::Baseline, Unknown> {
    baseline::ALL.iter().find(|it| it.name == name).ok_or_else(|| {
        let hint = nearest(name, policies()).map_or_else(
            || format!("there are {}", policies().collect::<Vec<_>>().join(", ")),
            |it| format!("did you mean {it}?"),
        );
        Unknown(format!("--against {name}: there is no such policy: {hint}"))
    })
}

/// The production policy with settings of its own, told what the recorded judge was told.
#[derive(Debug)]
pub(crate) struct Contender {
    judge: Judge,
    changes: Changes,
    recorded: Settings,
    /// It is asked for more than the recorded daemon did: its settings differ, or that daemon only observed.
    differs: bool,
    own: HashMap<u32, (OwnSettings, OwnSettings)>,
    /// The workspaces that it has called by id for the next read of what has changed.
    called: Vec<WorkspaceId>,
    /// What it last said of each workspace.
    pub(crate) said: Vec<Option<String>>,
}

impl Contender {
    /// A contender that begins with the memory of a segment's judge, or without any if that cannot be read.
    pub(crate) fn new(changes: Changes, header: &Header) -> Self {
        let recorded = header.settings.clone();
        let settings = Settings { mode: Mode::Enforce, ..changes.applied(&recorded) };
        let differs = settings != recorded;
        let judge = header.recorded_judge().unwrap_or_else(|| Judge::new(recorded.clone()));
        let judge = if differs { judge.with_settings(settings) } else { judge };
        Self { judge, changes, recorded, differs, own: HashMap::new(), called: Vec::new(), said: Vec::new() }
    }

    /// Begins anew after a gap in the recording.
    pub(crate) fn begin(&mut self, header: &Header) {
        let said = std::mem::take(&mut self.said);
        *self = Self { said, ..Self::new(self.changes.clone(), header) };
    }

    /// Another segment begins, in which the workspaces have other numbers.
    pub(crate) fn renumber(&mut self) {
        self.own.clear();
    }

    /// Tells it what the recorded judge was told. Returns what it says, if that was a pass.
    pub(crate) fn tell(
        &mut self,
        me: usize,
        call: &Told,
        scene: &Scene,
        stage: &Stage,
        places: &[usize],
    ) -> Option<Plan> {
        match call {
            Told::Call { at, .. } if self.differs => {
                self.called = self.judge.call(*at);
                None
            }
            Told::Changes { floor, gone } if self.differs => {
                let read = self.changes_and_called(scene, gone, stage, places);
                self.judge.observe_changes(&read, *floor, gone);
                None
            }
            Told::Pass(pass) if self.differs => Some(self.judge(me, pass, scene, stage, places)),
            _ => told::tell(&mut self.judge, scene, call).plan,
        }
    }

    /// The read of what has changed that this contender would have made. For a workspace that it has called by id and the recorded daemon
    /// has not, that is the row that was told last, because a later stamp would have come with the recorded read.
    fn changes_and_called(
        &mut self,
        scene: &Scene,
        gone: &[WorkspaceId],
        stage: &Stage,
        places: &[usize],
    ) -> FleetRead {
        let mut read = scene.read(false).clone();
        let known: HashSet<&WorkspaceId> = read.workspaces.iter().map(|row| &row.id).chain(gone).collect();
        let called = std::mem::take(&mut self.called);
        let missing = called.iter().filter(|id| !known.contains(id));
        let row = |id: &WorkspaceId| {
            let number = scene.number(id)?;
            let (last_heartbeat_at, last_activity_at) = stage.stamps(*places.get(number as usize)?);
            Some(Workspace { last_heartbeat_at, last_activity_at, ..scene.row(number)?.clone() })
        };
        let missing: Vec<Workspace> = missing.filter_map(row).collect();
        read.workspaces.extend(missing);
        read
    }

    fn judge(&mut self, me: usize, pass: &Pass, scene: &Scene, stage: &Stage, places: &[usize]) -> Plan {
        let others = self.left_out(pass, scene);
        self.take_own_settings(pass.members.iter().chain(others.iter().map(|(number, _)| number)), scene);
        let look = |number: u32| {
            let look = scene.look(number)?;
            let place = *places.get(number as usize)?;
            let own = look.own.and_then(|_| self.own.get(&number)).map(|(_, mine)| mine);
            // A restart that it has asked for is under way until the recording shows another life or a sign of life. It is asked as if
            // it were the only replica.
            Some(Look { in_flight: look.in_flight || stage.awaits(me, place), ours: true, own, ..look })
        };
        let members = pass.members.iter().filter_map(|number| look(*number));
        // The recorded daemon had no attempts and no restart of the workspaces that it left out.
        let others = others.iter().filter_map(|(number, sample)| {
            let look = look(*number)?;
            let in_flight = places.get(*number as usize).is_some_and(|place| stage.awaits(me, *place));
            Some(Look { sample: sample.as_ref(), attempts: &[], in_flight, queued: false, ..look })
        });
        let mut looks: Vec<Look<'_>> = members.chain(others).collect();
        if pass.left_out > 0 {
            looks.sort_by(|one, other| one.workspace.id.cmp(&other.workspace.id)); // as a daemon does
        }
        let engine = pass.engine.as_ref().map(|(name, evidence)| (name, evidence));
        self.judge.judge(pass.now, pass.stamp, engine, &looks)
    }

    /// The workspaces that the recorded pass left out and this contender would have looked at, with their last samples. These still hold,
    /// because a pass leaves a workspace out only if its engine shows the same as before.
    fn left_out(&self, pass: &Pass, scene: &Scene) -> Vec<(u32, Option<Sample>)> {
        if pass.left_out == 0 {
            return Vec::new();
        }
        let members: HashSet<u32> = pass.members.iter().copied().collect();
        let restless = self.judge.restless_on(pass.engine.as_ref().map(|(name, _)| name));
        let numbers = restless.iter().filter_map(|id| scene.number(id)).filter(|number| !members.contains(number));
        let seen = |number: u32| {
            let sample = scene.look(number)?.sample?;
            Some(Sample { at: pass.asked_at, ..sample.clone() })
        };
        numbers.map(|number| (number, seen(number))).collect()
    }

    fn take_own_settings<'a>(&mut self, numbers: impl Iterator<Item = &'a u32>, scene: &Scene) {
        for number in numbers {
            let Some(own) = scene.look(*number).and_then(|look| look.own) else { continue };
            if self.own.get(number).is_some_and(|(theirs, _)| theirs == own) {
                continue;
            }
            let mut mine = self.changes.applied_to(own, &self.recorded);
            if own.settings.mode == self.recorded.mode {
                mine.settings.mode = Mode::Enforce;
            }
            self.own.insert(*number, (own.clone(), mine));
        }
    }

    /// Keeps what it says of a workspace, so that the report can show it beside what others do.
    pub(crate) fn note(&mut self, place: usize, sentence: String) {
        if self.said.len() <= place {
            self.said.resize(place + 1, None);
        }
        self.said[place] = Some(sentence);
    }
}

/// A policy of others.
#[derive(Debug)]
pub(crate) struct Other {
    pub(crate) name: &'static str,
    pub(crate) source: &'static str,
    make: fn() -> Box<dyn Rule>,
    rule: Box<dyn Rule>,
    /// Its next sweep, in microseconds since 1970.
    due: Option<i64>,
}

impl Other {
    pub(crate) fn new(policy: &baseline::Baseline) -> Self {
        Self { name: policy.name, source: policy.source, make: policy.make, rule: (policy.make)(), due: None }
    }

    /// Begins anew after a gap in the recording.
    pub(crate) fn begin(&mut self) {
        (self.rule, self.due) = ((self.make)(), None);
    }

    /// Lets time pass until `to`, and makes the sweeps that are due by then.
    pub(crate) fn advance(&mut self, me: usize, to: i64, stage: &mut Stage) {
        let Some(every) = self.rule.every().map(|every| i64::try_from(every).unwrap_or(i64::MAX / 1_000) * 1_000)
        else {
            return;
        };
        let mut due = *self.due.get_or_insert(to);
        while due <= to {
            stage.now = due;
            self.rule.sweep(stage);
            carry_out(me, stage);
            due += every;
        }
        self.due = Some(due);
    }

    /// A request to a workspace failed at a proxy.
    pub(crate) fn failed(&mut self, me: usize, of: usize, proxy: u8, stage: &mut Stage) {
        self.rule.failed(of, proxy, stage);
        carry_out(me, stage);
    }
}

/// Notes the restarts that the contender orders.
fn carry_out(me: usize, stage: &mut Stage) {
    for of in std::mem::take(&mut stage.called) {
        stage.order(me, of, |stage| stage.describe(of));
    }
}
