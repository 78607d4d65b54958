//! Writes down what this process has learned, for the next one: the heartbeat interval of each workspace, so that its window stays the same
//! when a new version is deployed, and what `defib explain` tells about a living workspace.
//!
//! It is written lazily, a slice of the fleet with each poll and only what has changed, and read once, at the start. Losing any of
//! it costs three heartbeats.
//!
//! Steps of the database's clock are kept beside it. Without them, a process that starts after a step could not tell that a heartbeat was
//! stamped before the step. It would take a container that is still starting for one that has beaten and hangs. By how much the clock is
//! ahead of the host's is kept as well, so that the next process also notices a step that was made while none ran.

use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use defib_policy::cadence::Learned;
use defib_policy::fast_hash::{IdHash, IdMap};
use defib_policy::id::WorkspaceId;
use defib_policy::judge::Portrait;
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::pipeline::{STEP_MATTERS_FOR, unseen_step};
use defib_store::{CadenceRow, ClockHistory, Store, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::wall;
use crate::logging::{database_fault, printable};
use crate::state::State;
use crate::sync::lock;

/// Workspaces that are looked at with each poll. Larger: the judge is locked for longer. Smaller: a large fleet is written later.
const SLICE: usize = 1_000;

/// Rows that are read at the start, at most.
const RECALLED_MAX: i64 = 250_000;

/// Rows that have not changed are written again after this time, so that they are not forgotten as old.
const REWRITTEN_AFTER: Duration = Duration::from_secs(86_400);

/// A row that has not been written for this long belongs to no workspace of the fleet any more.
pub(crate) const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 86_400);

/// Where it is kept.
#[async_trait]
pub(crate) trait MemoryTables: Send + Sync {
    /// Keeps what was learned of these workspaces.
    async fn save_cadences(&self, rows: &[CadenceRow]) -> Result<(), StoreError>;

    /// Up to `limit` of what was learned, the most recently written first.
    async fn read_cadences(&self, limit: i64) -> Result<Vec<CadenceRow>, StoreError>;

    /// Writes down by how much the database's clock is ahead of the host's, and a step of it, if `replica` has noticed one.
    async fn note_clock(
        &self,
        comparable_from: Option<Timestamp>,
        host_now: Timestamp,
        replica: &str,
    ) -> Result<(), StoreError>;

    /// What was written down of the steps that were noticed less than `within` ago, and by how much the clock is ahead of the host's.
    async fn clock_history(&self, within: Duration, host_now: Timestamp) -> Result<ClockHistory, StoreError>;
}

#[async_trait]
impl MemoryTables for Store {
    async fn save_cadences(&self, rows: &[CadenceRow]) -> Result<(), StoreError> {
        Self::save_cadences(self, rows).await
    }

    async fn read_cadences(&self, limit: i64) -> Result<Vec<CadenceRow>, StoreError> {
        Self::read_cadences(self, limit).await
    }

    async fn note_clock(
        &self,
        comparable_from: Option<Timestamp>,
        host_now: Timestamp,
        replica: &str,
    ) -> Result<(), StoreError> {
        Self::note_clock(self, comparable_from, host_now, replica).await
    }

    async fn clock_history(&self, within: Duration, host_now: Timestamp) -> Result<ClockHistory, StoreError> {
        Self::clock_history(self, within, host_now).await
    }
}

/// Keeps what was learned.
pub(crate) struct Memory {
    state: Arc<State>,
    tables: Arc<dyn MemoryTables>,
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    /// Where the next slice begins.
    next: usize,
    rows: IdMap<WorkspaceId, Mark>,
    hash: IdHash,
    /// It was told that some workspaces beat too seldom for their windows.
    has_warned: bool,
    /// The latest stamp that may have been written before a step of the database's clock, as it was last written down.
    comparable_from: Option<Timestamp>,
}

/// What was last written about one workspace: as much as is needed to tell whether it has changed.
#[derive(Clone, Copy)]
struct Mark {
    facts: Facts,
    at: Moment,
}

/// What tells whether a row is worth writing.
#[derive(Clone, Copy)]
struct Facts {
    /// The part that changes seldom, as a hash.
    hash: u64,
    window: Duration,
}

impl Memory {
    /// Reads from and writes to these tables.
    pub(crate) fn new(state: Arc<State>, tables: Arc<dyn MemoryTables>) -> Self {
        Self { state, tables, written: Mutex::default() }
    }

    /// Reads what was learned before, and then writes until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut poll = tokio::time::interval(self.state.config.policy.poll_interval);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut recalled = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = poll.tick() => {}
            }
            if !self.state.fleet_known() {
                continue;
            }
            let turn = async { if recalled { self.save().await } else { self.recall().await } };
            let done = tokio::select! {
                () = stop.cancelled() => return,
                done = turn => done,
            };
            match done {
                Ok(()) => recalled = true,
                // That the database is away is logged elsewhere.
                Err(error) => {
                    debug!(error = %database_fault(&error), "what was learned was not kept; tried again with the next poll");
                }
            }
        }
    }

    /// Adopts what another process has learned of the workspaces of the fleet, and what others have noticed of the database's clock.
    async fn recall(&self) -> Result<(), StoreError> {
        self.recall_clock().await?;
        let rows = self.tables.read_cadences(RECALLED_MAX).await?;
        let mut judge = self.state.judge();
        let useful = rows.iter().filter(|row| {
            let intervals = u8::try_from(row.intervals).unwrap_or(u8::MAX);
            let learned = Learned { mean_ms: row.mean_ms, deviation_ms: row.deviation_ms, intervals };
            judge.recall(&row.workspace, learned)
        });
        let useful = useful.count();
        if useful > 0 {
            info!(workspaces = useful, "heartbeat intervals that an earlier process had learned are used");
        }
        Ok(())
    }

    /// Adopts what is known of the database's clock. A step that was made while no process ran is noticed here and written down.
    async fn recall_clock(&self) -> Result<(), StoreError> {
        let history = self.tables.clock_history(STEP_MATTERS_FOR, wall()).await?;
        let unseen = history.was_ahead.and_then(|was| unseen_step(was, history.is_ahead, history.now));
        self.state.judge().recall_steps(history.comparable_from.max(unseen));
        if unseen.is_some() || history.was_ahead.is_none() {
            self.tables.note_clock(unseen, wall(), &self.state.config.replica_id).await?;
        }
        if let Some(comparable_from) = unseen {
            warn!(
                %comparable_from,
                "the database's clock and this host's are not as far apart as when a daemon last wrote that down, so one of them has \
                 stepped, or that daemon's host has another time: heartbeats that are stamped up to this prove nothing about a container \
                 that was started since; if this comes at each start, look at the time service of these hosts"
            );
        }
        Ok(())
    }

    /// Writes down a step of the database's clock, once.
    async fn save_step(&self) -> Result<(), StoreError> {
        let Some(comparable_from) = self.state.judge().comparable_from() else { return Ok(()) };
        if lock(&self.written).comparable_from == Some(comparable_from) {
            return Ok(());
        }
        self.tables.note_clock(Some(comparable_from), wall(), &self.state.config.replica_id).await?;
        lock(&self.written).comparable_from = Some(comparable_from);
        warn!(
            %comparable_from,
            "the database's clock has stepped: heartbeats that are stamped up to this prove nothing about a container that was \
             started since; if it steps again, look at the time service of the database's host"
        );
        Ok(())
    }

    /// Writes what has changed in the next slice of the fleet.
    async fn save(&self) -> Result<(), StoreError> {
        self.save_step().await?;
        let rows = self.changed();
        if rows.is_empty() {
            return Ok(());
        }
        let (rows, facts): (Vec<CadenceRow>, Vec<Facts>) = rows.into_iter().unzip();
        self.warn_of_seldom_beats(&rows);
        self.tables.save_cadences(&rows).await?;
        let now = self.state.now();
        let mut written = lock(&self.written);
        for (row, facts) in rows.into_iter().zip(facts) {
            written.rows.insert(row.workspace, Mark { facts, at: now });
        }
        Ok(())
    }

    /// Warns once of workspaces that beat so seldom that their window, which has an upper bound, covers less than two intervals.
    fn warn_of_seldom_beats(&self, rows: &[CadenceRow]) {
        let Some(row) = rows.iter().find(|row| beats_seldom(row)) else { return };
        if std::mem::replace(&mut lock(&self.written).has_warned, true) {
            return;
        }
        warn!(
            workspace = %printable(row.workspace.as_str()),
            interval_ms = row.mean_ms.round(),
            recent_max = %humantime::format_duration(self.state.config.policy.recent_max),
            "this workspace beats so seldom that DEFIB_RECENT_MAX is less than two intervals, so it looks stale while it is well: let it beat \
             more often, or raise DEFIB_RECENT_MAX; this is told once, and `defib check` counts all of them"
        );
    }

    /// The rows of the next slice of the fleet that are worth writing.
    fn changed(&self) -> Vec<(CadenceRow, Facts)> {
        let (voice, now) = (self.state.voice(), self.state.now());
        let fleet = voice.fleet();
        let (ids, hash) = {
            let mut written = lock(&self.written);
            let begin = if fleet.slice(written.next, SLICE).is_some() { written.next } else { 0 };
            written.next = begin + SLICE;
            if begin == 0 {
                written.rows.retain(|id, _| fleet.has(id));
            }
            (fleet.slice(begin, SLICE).into_iter().flatten(), written.hash.clone())
        };
        // Nearly all rows are as they were written, so at first only what shows that is taken from the judge.
        let mut looks: Vec<(&WorkspaceId, Facts)> = {
            let judge = self.state.judge();
            ids.filter_map(|id| Some((id, Facts::of(&judge.portrait(id)?, &hash)))).collect()
        };
        looks.retain_mut(|(id, facts)| {
            *facts = facts.with(&self.state.described_settings(id), &hash);
            voice.speaks_for_its_row(id)
        });
        {
            let written = lock(&self.written);
            looks.retain(|(id, facts)| written.rows.get(*id).is_none_or(|mark| mark.differs(facts, now)));
        }
        let mut rows: Vec<(CadenceRow, Facts)> = {
            let judge = self.state.judge();
            let differing = looks.into_iter().filter_map(|(id, facts)| Some((row(id, &judge.portrait(id)?), facts)));
            differing.collect()
        };
        for (row, _) in &mut rows {
            row.own_settings = self.state.described_settings(&row.workspace);
        }
        rows
    }
}

/// Whether two learned intervals are longer than the window. A mean that has been rounded up is not.
fn beats_seldom(row: &CadenceRow) -> bool {
    let window = row.window.map_or(f32::INFINITY, |window| window.as_secs_f32() * 1_000.0);
    row.intervals > 0 && 2.0 * row.mean_ms > window * 1.001
}

fn row(id: &WorkspaceId, portrait: &Portrait<'_>) -> CadenceRow {
    let unlearned = Learned { mean_ms: 0.0, deviation_ms: 0.0, intervals: 0 };
    let learned = portrait.learned.unwrap_or(unlearned);
    CadenceRow {
        workspace: id.clone(),
        mean_ms: learned.mean_ms,
        deviation_ms: learned.deviation_ms,
        intervals: learned.intervals.into(),
        window: Some(portrait.window),
        container_id: portrait.life.map(|life| life.container_id.clone()),
        started_at: portrait.life.and_then(|life| life.started_at),
        own_settings: Vec::new(),
    }
}

impl Facts {
    /// Those of a workspace without settings of its own.
    fn of(portrait: &Portrait<'_>, hash: &IdHash) -> Self {
        let life = portrait.life.map(|life| (life.container_id.as_str(), life.started_at.map(|at| at.0)));
        let is_learned = portrait.learned.is_some_and(|learned| learned.intervals > 0);
        Self { hash: hash.hash_one((life, is_learned)), window: portrait.window }
    }

    /// The same of a workspace with these settings of its own.
    fn with(self, own_settings: &[String], hash: &IdHash) -> Self {
        if own_settings.is_empty() { self } else { Self { hash: hash.hash_one((self.hash, own_settings)), ..self } }
    }
}

impl Mark {
    /// Whether what was written is worth writing anew.
    fn differs(&self, facts: &Facts, now: Moment) -> bool {
        let window = self.facts.window;
        self.facts.hash != facts.hash || window.abs_diff(facts.window) > window / 5 || now - self.at >= REWRITTEN_AFTER
    }
}

#[cfg(test)]
mod tests {
    use defib_policy::id::ContainerId;
    use defib_policy::sample::Incarnation;

    use super::*;

    #[test]
    fn one_that_beats_less_than_twice_within_its_window_is_told_from_the_others() {
        let beats = |mean_ms, intervals| {
            let learned = Some(Learned { mean_ms, deviation_ms: 0.0, intervals });
            beats_seldom(&row(&"w".into(), &Portrait { learned, window: Duration::from_secs(4), life: None }))
        };
        assert_eq!(
            [beats(1_999.0, 9), beats(2_000.5, 9), beats(2_100.0, 9), beats(9_000.0, 0)],
            [false, false, true, false]
        );
    }

    #[test]
    fn what_hardly_changes_is_not_written_again() {
        let hash = IdHash::default();
        let learned = |intervals| Some(Learned { mean_ms: 10.0, deviation_ms: 1.0, intervals });
        let life = |container: &str| Incarnation { container_id: ContainerId::from(container), started_at: None };
        let facts = |intervals, container: &str, window| {
            let (life, window) = (life(container), Duration::from_secs(window));
            Facts::of(&Portrait { learned: learned(intervals), window, life: Some(&life) }, &hash)
        };
        let (then, day) = (Moment::after(Duration::from_secs(5)), Duration::from_secs(86_400));
        let mark = Mark { facts: facts(9, "c", 30), at: then };
        assert!(!mark.differs(&facts(9, "c", 30), then));
        assert!(!mark.differs(&facts(12, "c", 35), then));
        assert!(mark.differs(&facts(9, "c", 37), then));
        assert!(mark.differs(&facts(9, "d", 30), then));
        assert!(mark.differs(&facts(0, "c", 30), then));
        assert!(mark.differs(&facts(9, "c", 30).with(&["x".to_owned()], &hash), then));
        assert!(mark.differs(&facts(9, "c", 30), then + day));
    }
}
