//! What the policy and the settling of rows that were left behind read of the ledger.

use std::time::Duration;

use defib_policy::attempt::Attempt;
use defib_policy::id::EngineName;
use defib_policy::moment::Timestamp;
use defib_policy::restart::left_behind;

use super::{LastRun, Ledger, OpenAttempt};

/// Attempts of a workspace that are read, at most, as in the store.
const ATTEMPTS_MAX: usize = 20;
/// Refusals of a workspace that are read, at most, as in the store.
const REFUSALS_MAX: usize = 8;
/// For how long an attempt of a run that has ended is read, as in the store.
const INTERESTING_FOR: Duration = Duration::from_secs(7 * 86_400);

impl Ledger {
    /// The attempts that are under way on `engines`, oldest first.
    #[must_use]
    pub fn open_attempts(&self, engines: &[EngineName], now: Timestamp) -> Vec<OpenAttempt> {
        let mut places = self.under_way.clone();
        places.sort_unstable();
        let rows = places.iter().map(|place| &self.rows[*place]).filter(|row| engines.contains(&row.engine));
        rows.map(|row| OpenAttempt {
            id: row.id,
            of: row.of,
            engine: row.engine.clone(),
            container_id: row.container_id.clone(),
            started_at: row.started_at,
            claimed_by: row.claimed_by.clone(),
            verdict: row.verdict,
            row: left_behind::Row { epoch: row.epoch, acting: row.acting_at.is_some(), overdue: row.deadline_at < now },
        })
        .collect()
    }

    /// The attempts of a workspace that back-off, settling and exhaustion depend on, newest first.
    pub fn read_attempts(&self, of: usize, now: Timestamp, reset: Duration, into: &mut Vec<Attempt>) {
        into.clear();
        let lately = |at: Timestamp, span: Duration| at.plus(span) > now;
        match self.last_runs.get(of).copied().unwrap_or_default() {
            LastRun::Never => return,
            LastRun::Ended(end) if !lately(end, reset) => return,
            LastRun::Ended(_) | LastRun::GoesOn => {}
        }
        let (mut counted, mut refused) = (0, 0);
        for row in self.later_rows_of(of).rev().filter(|row| row.acknowledged_at.is_none()) {
            let refusal = row.outcome.is_some_and(|outcome| !outcome.counts(row.acting_at.is_some()));
            let interesting = lately(row.claimed_at, INTERESTING_FOR) || (!refusal && row.run_ended_at.is_none());
            let (quota, max) = if refusal { (&mut refused, REFUSALS_MAX) } else { (&mut counted, ATTEMPTS_MAX) };
            if !interesting || *quota == max {
                continue;
            }
            *quota += 1;
            into.push(Attempt {
                id: row.id,
                workspace: row.workspace.clone(),
                container_id: row.container_id.clone(),
                started_at: row.started_at,
                attempt: row.attempt,
                claimed_ago: now.since(row.claimed_at),
                finished_ago: row.finished_at.map(|at| now.since(at)),
                finished_at: row.finished_at,
                outcome: row.outcome,
                recovered_ago: row.recovered_at.map(|at| now.since(at)),
                asked: row.acting_at.is_some(),
                acknowledged: false,
            });
        }
    }
}
