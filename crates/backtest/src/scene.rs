//! What a recording shows of each workspace: its lives, its deaths, its signs of life, and what came of restarts that somebody would have made.

mod for_others;

use std::collections::{BTreeSet, HashMap, HashSet};

use defib_policy::fleet::{Kind, Workspace};
use defib_policy::id::{EngineName, WorkspaceId};
use defib_policy::judge::Look;
use defib_policy::moment::Timestamp;
use defib_policy::sample::{Exit, Health, Incarnation, Observation};
use defib_policy::settings::OnExit0;
use defib_sim::baseline::rule::Doing;

/// A sign of life speaks against a restart only if it is this much later. An earlier one may have been on its way.
const ON_ITS_WAY: i64 = 2_000_000;

/// A stamp that is further than this from the moment at which it was seen comes from a clock that is wrong.
const STAMP_APART: i64 = 600_000_000;

/// What became of a life after a contender would have restarted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was down, and gave no sign of life again.
    Needed,
    /// It gave a sign of life this many microseconds later.
    NotNeeded(i64),
    /// The recording does not tell: it ran, and somebody restarted it, parked it or stopped recording before it gave a sign of life.
    Untold,
}

/// A restart that a contender would have made.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) contender: usize,
    pub(crate) of: usize,
    /// When, in microseconds since 1970 by the database's clock.
    pub(crate) at: i64,
    /// Which life of the workspace it would have ended.
    pub(crate) life: u32,
    /// Whether it is the contender's first one of that life. What the first would have led to is not known, so the later ones are no
    /// restarts; but each wrong one is a mistake of its own.
    pub(crate) is_first: bool,
    /// What was known of the workspace then.
    pub(crate) why: String,
    pub(crate) death: Option<usize>,
    pub(crate) outcome: Option<Outcome>,
}

/// How a death ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It runs again.
    Back,
    /// It is down to the end of the recording.
    StillDown,
    /// It was no death: parked, frozen, or the same life was seen running again.
    NotDead,
    /// The recording has a gap.
    Unseen,
}

/// A container that stopped or vanished although the platform wanted it to run.
#[derive(Clone, Debug)]
pub(crate) struct Death {
    pub(crate) from: i64,
    pub(crate) until: i64,
    pub(crate) end: Option<End>,
}

/// One workspace.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one workspace, not a state")]
pub(crate) struct Entry {
    pub(crate) id: WorkspaceId,
    external: bool,
    /// The engine whose passes judge it.
    engine: Option<EngineName>,
    watched: bool,
    beat: Option<Timestamp>,
    activity: Option<Timestamp>,
    /// The later of heartbeat and activity.
    signed: i64,
    incarnation: Option<Incarnation>,
    pub(crate) life: u32,
    doing: Option<Doing>,
    started: i64,
    unhealthy: bool,
    answered: bool,
    death: Option<usize>,
    /// The order of each contender that waits for its outcome.
    pending: Vec<Option<usize>>,
    /// The last life that each contender has restarted.
    restarted: Vec<Option<u32>>,
    /// Whether it was seen down in this life.
    was_down: bool,
    /// The moment of a sign of life that was told. The next look decides whether it is of this life, because a restart may lie between the
    /// two.
    beaten: Option<i64>,
    read: u32,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) now: i64,
    pub(crate) entries: Vec<Entry>,
    index: HashMap<WorkspaceId, usize>,
    pub(crate) orders: Vec<Order>,
    pub(crate) deaths: Vec<Death>,
    contenders: usize,
    reads: u32,
    /// Workspace-microseconds that were watched.
    pub(crate) watched: i128,
    /// Nothing before this is counted.
    pub(crate) from: i64,
    /// The workspaces that the contender whose turn it is restarts.
    pub(crate) called: Vec<usize>,
    /// The workspaces with a sign of life that a look has to confirm.
    beats: BTreeSet<usize>,
}

impl Stage {
    /// An empty scene for this many contenders. Nothing before the moment `from` is counted.
    pub(crate) fn new(contenders: usize, from: i64) -> Self {
        Self {
            now: 0,
            entries: Vec::new(),
            index: HashMap::new(),
            orders: Vec::new(),
            deaths: Vec::new(),
            contenders,
            reads: 0,
            watched: 0,
            from,
            called: Vec::new(),
            beats: BTreeSet::new(),
        }
    }

    /// The place of a workspace.
    pub(crate) fn place(&mut self, id: &WorkspaceId) -> usize {
        if let Some(place) = self.index.get(id) {
            return *place;
        }
        let place = self.entries.len();
        self.index.insert(id.clone(), place);
        self.entries.push(Entry {
            id: id.clone(),
            external: false,
            engine: None,
            watched: false,
            beat: None,
            activity: None,
            signed: 0,
            incarnation: None,
            life: 0,
            doing: None,
            started: 0,
            unhealthy: false,
            answered: true,
            death: None,
            pending: vec![None; self.contenders],
            restarted: vec![None; self.contenders],
            was_down: false,
            beaten: None,
            read: 0,
        });
        place
    }

    /// A row as it was read at `at`.
    pub(crate) fn row(&mut self, of: usize, row: &Workspace, at: i64) {
        let reads = self.reads;
        let entry = &mut self.entries[of];
        entry.read = reads;
        entry.external = row.kind == Kind::External;
        let engine = (!entry.external).then_some(&row.engine);
        if entry.engine.as_ref() != engine {
            entry.engine = engine.cloned();
        }
        (entry.beat, entry.activity) = (row.last_heartbeat_at, row.last_activity_at);
        if row.suspended {
            if entry.watched {
                entry.watched = false;
                self.leaves(of, at);
            }
            return;
        }
        entry.watched = true;
        let stamp = row.last_heartbeat_at.max(row.last_activity_at).map_or(0, |stamp| stamp.0);
        if stamp > entry.signed {
            let first = entry.signed == 0;
            entry.signed = stamp;
            if !first {
                let told = if (stamp - at).abs() <= STAMP_APART { stamp.min(at) } else { at };
                self.entries[of].beaten = Some(told);
                self.beats.insert(of);
            }
        }
    }

    /// The heartbeat and the activity in the row of a workspace, as it was read last. A look may be at an older row.
    pub(crate) fn stamps(&self, of: usize) -> (Option<Timestamp>, Option<Timestamp>) {
        (self.entries[of].beat, self.entries[of].activity)
    }

    /// A read of the whole fleet begins.
    pub(crate) fn read_begins(&mut self) {
        self.reads += 1;
    }

    /// The read ends. A workspace that was not in it has left the fleet. `passed`: the time since the read before.
    pub(crate) fn read_ends(&mut self, at: i64, passed: i64) {
        for of in 0..self.entries.len() {
            if self.entries[of].read != self.reads {
                self.gone(of, at);
            }
        }
        self.pass_by(at, passed);
    }

    /// It is no longer in the fleet.
    pub(crate) fn gone(&mut self, of: usize, at: i64) {
        if std::mem::take(&mut self.entries[of].watched) {
            self.leaves(of, at);
        }
    }

    /// Counts the time that has `passed` between two reads. Returns how many workspaces are watched.
    pub(crate) fn pass_by(&mut self, at: i64, passed: i64) -> usize {
        let watched = self.entries.iter().filter(|entry| entry.watched).count();
        if at >= self.from {
            self.watched += i128::try_from(watched).unwrap_or_default() * i128::from(passed);
        }
        watched
    }

    /// A pass over an engine (`None`: over the workspaces that no engine has) has left out all but those that it `looked` at, because they
    /// run as before.
    pub(crate) fn left_out(&mut self, engine: Option<&EngineName>, looked: &HashSet<usize>) {
        for of in std::mem::take(&mut self.beats) {
            let entry = &mut self.entries[of];
            if entry.beaten.is_none() {
                continue; // a look has confirmed it
            }
            if entry.engine.as_ref() != engine || looked.contains(&of) {
                self.beats.insert(of);
            } else if let Some(told) = entry.beaten.take() {
                self.sign_of_life(of, told);
            }
        }
    }

    /// What an engine said of it; `offset` is its clock minus the database's in microseconds.
    pub(crate) fn look(&mut self, of: usize, look: &Look<'_>, at: i64, offset: i64) {
        let Some(sample) = look.sample else { return };
        let before = self.entries[of].doing;
        let mut lies = false;
        if let Some(seen) = sample.observation.incarnation() {
            let entry = &mut self.entries[of];
            let known = entry.incarnation.as_ref();
            let told = known.is_some_and(|known| known.started_at.is_some() && known == seen);
            let other = known.is_some_and(|known| !known.may_be(seen));
            let up = matches!(sample.observation, Observation::Running { .. });
            let again = up && before == Some(Doing::Down) && !told;
            lies = up && before == Some(Doing::Down) && told;
            if known.is_none() {
                entry.started = seen.started_at.map_or(0, |started| started.0 - offset);
            }
            if other || again {
                entry.life += 1;
                entry.started = seen.started_at.map_or(at, |started| started.0 - offset);
                self.new_life(of, at);
            }
            let entry = &mut self.entries[of];
            if other || again || entry.incarnation.as_ref().is_none_or(|known| known.started_at.is_none()) {
                entry.incarnation = Some(seen.clone());
            }
        }
        let entry = &mut self.entries[of];
        entry.answered = !matches!(sample.observation, Observation::Unknown { .. });
        if entry.answered
            && let Some(told) = entry.beaten.take()
        {
            self.sign_of_life(of, told);
        }
        let entry = &mut self.entries[of];
        entry.unhealthy = matches!(&sample.observation, Observation::Running { health, .. } if matches!(health, Health::Unhealthy { .. }));
        match &sample.observation {
            Observation::Running { .. } => {
                entry.doing = Some(Doing::Runs);
                if lies {
                    self.sign_of_life(of, at.max(self.now));
                }
                self.end_death(of, at, End::Back);
            }
            Observation::Stopped { exit, .. } => {
                entry.doing = Some(Doing::Down);
                entry.was_down = true;
                let finished = exit.finished_at.map(|finished| finished.0 - offset);
                if before != Some(Doing::Down) && !has_finished(exit, look) {
                    self.dies(of, at, finished);
                }
            }
            Observation::Missing => {
                entry.doing = Some(Doing::Down);
                entry.was_down = true;
                if before != Some(Doing::Down) {
                    self.dies(of, at, None);
                }
            }
            Observation::Frozen { .. } => {
                entry.doing = Some(Doing::Other);
                self.end_death(of, at, End::NotDead);
            }
            Observation::Transitional { .. } => {
                if before != Some(Doing::Down) {
                    entry.doing = Some(Doing::Other);
                }
            }
            Observation::Unknown { .. } => {}
        }
    }

    fn dies(&mut self, of: usize, at: i64, finished: Option<i64>) {
        let entry = &mut self.entries[of];
        if !entry.watched || entry.death.is_some() {
            return;
        }
        // If the engine's time of the stop is far from the moment at which the stop was seen, the engine's clock is wrong.
        let from = finished.filter(|finished| (at - STAMP_APART..=at).contains(finished)).unwrap_or(at);
        entry.death = Some(self.deaths.len());
        self.deaths.push(Death { from, until: at, end: None });
    }

    fn end_death(&mut self, of: usize, at: i64, end: End) {
        if let Some(death) = self.entries[of].death.take() {
            let death = &mut self.deaths[death];
            death.until = at.max(death.from);
            death.end = Some(end);
        }
    }

    fn sign_of_life(&mut self, of: usize, told: i64) {
        if let Some(death) = self.entries[of].death
            && told > self.deaths[death].from + ON_ITS_WAY
        {
            self.end_death(of, told, End::NotDead);
        }
        for contender in 0..self.contenders {
            if let Some(order) = self.entries[of].pending[contender] {
                let after = told - self.orders[order].at;
                if after > ON_ITS_WAY {
                    self.orders[order].outcome = Some(Outcome::NotNeeded(after));
                    self.entries[of].pending[contender] = None;
                }
            }
        }
    }

    fn new_life(&mut self, of: usize, at: i64) {
        let outcome = if self.entries[of].was_down { Outcome::Needed } else { Outcome::Untold };
        self.settle(of, outcome);
        self.end_death(of, at, End::Back);
        let entry = &mut self.entries[of];
        (entry.was_down, entry.beaten) = (false, None);
    }

    fn leaves(&mut self, of: usize, at: i64) {
        self.settle(of, Outcome::Untold);
        self.end_death(of, at, End::NotDead);
        let entry = &mut self.entries[of];
        (entry.doing, entry.was_down) = (None, false);
    }

    fn settle(&mut self, of: usize, outcome: Outcome) {
        for contender in 0..self.contenders {
            if let Some(order) = self.entries[of].pending[contender].take() {
                self.orders[order].outcome = Some(outcome);
            }
        }
    }

    /// What happened between two parts of the recording is not known.
    pub(crate) fn gap(&mut self) {
        for of in 0..self.entries.len() {
            self.settle(of, Outcome::Untold);
            self.end_death(of, self.now, End::Unseen);
            let entry = &mut self.entries[of];
            (entry.doing, entry.was_down, entry.incarnation) = (None, false, None);
            entry.life += 1;
        }
    }

    /// The recording is at its end.
    pub(crate) fn end(&mut self) {
        for of in 0..self.entries.len() {
            let down = self.entries[of].doing == Some(Doing::Down) && self.entries[of].was_down;
            self.settle(of, if down { Outcome::Needed } else { Outcome::Untold });
            self.end_death(of, self.now, End::StillDown);
        }
    }

    /// Whether a contender has restarted this life, and nothing has come of it yet.
    pub(crate) fn awaits(&self, contender: usize, of: usize) -> bool {
        self.entries[of].pending[contender].is_some()
    }

    /// A contender restarts a workspace.
    pub(crate) fn order(&mut self, contender: usize, of: usize, why: impl FnOnce(&Self) -> String) {
        if self.awaits(contender, of) {
            return;
        }
        let why = why(self);
        let entry = &mut self.entries[of];
        entry.pending[contender] = Some(self.orders.len());
        let (life, death) = (entry.life, entry.death);
        let is_first = entry.restarted[contender].replace(life) != Some(life);
        self.orders.push(Order { contender, of, at: self.now, life, is_first, why, death, outcome: None });
    }

    /// What is known of a workspace now, as a sentence.
    pub(crate) fn describe(&self, of: usize) -> String {
        let entry = &self.entries[of];
        let container = match entry.doing {
            Some(Doing::Runs) if entry.unhealthy => "its container runs and is unhealthy",
            Some(Doing::Runs) => "its container runs",
            Some(Doing::Down) => "its container is down",
            Some(Doing::Other) => "its container is neither up nor down",
            None if entry.external => "it has no container",
            None => "nothing is known of its container",
        };
        let beat = self.age(of).map_or_else(
            || "it never sent a heartbeat".to_owned(),
            |age| format!("its last heartbeat is {} s old", age / 1_000_000),
        );
        format!("{container}, {beat}")
    }

    fn age(&self, of: usize) -> Option<i64> {
        self.entries[of].beat.map(|beat| (self.now - beat.0).max(0))
    }
}

/// Whether the workspace has finished: its container ended with code 0, and its owner says that this means so.
fn has_finished(exit: &Exit, look: &Look<'_>) -> bool {
    let leave = look.own.is_some_and(|own| own.settings.on_exit_0 == OnExit0::Leave);
    leave && exit.exit_code == Some(0) && !exit.oom_killed
}
