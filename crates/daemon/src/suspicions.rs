//! Suspicions: taken from the table, told to the judge, and turned into workspaces to look at.

use std::collections::BTreeSet;
use std::sync::Arc;

use defib_policy::id::WorkspaceId;
use defib_policy::moment::Moment;
use defib_policy::suspicion::{self, Report};
use defib_store::{StoreError, Suspicion};

use crate::database::SuspicionTables;
use crate::metrics::suspicion_reason;
use crate::news::News;
use crate::state::State;

/// Suspicions taken with one statement. Larger: the statement holds its rows for longer. Smaller: more round trips in a flood.
const SUSPICIONS_MAX: i64 = 2_000;
/// How many pages of pending suspicions are looked through at once, if some of them are for other replicas.
const PAGES_MAX: usize = 10;

/// Takes what proxies report.
pub(crate) struct Suspicions {
    state: Arc<State>,
    tables: Arc<dyn SuspicionTables>,
    news: Arc<News>,
    /// Reports from more than a window before our start are ignored.
    started: Moment,
}

impl Suspicions {
    /// Takes suspicions from these tables, in a process that starts now.
    pub(crate) fn new(state: Arc<State>, tables: Arc<dyn SuspicionTables>, news: Arc<News>) -> Self {
        let started = state.now();
        Self { state, tables, news, started }
    }

    /// Takes the suspicions of our workspaces that wait in the table and turns them into workspaces to look at. Returns those,
    /// and whether there may be more in the table.
    pub(crate) async fn take(&self) -> Result<(Vec<WorkspaceId>, bool), StoreError> {
        let (taken, more) = self.take_ours().await?;
        let now = self.state.now();
        let mut judge = self.state.judge();
        let mut suspects = BTreeSet::new();
        for report in taken {
            let reported_at = now.minus(report.age);
            if suspicion::is_too_old(reported_at, self.started, self.state.config.policy.dead_window) {
                self.news.suspicion("too_old");
                self.state.findings().found(report.id, "nothing was looked at: it is older than this daemon");
            } else if !judge.observe_suspicion(
                &report.workspace,
                Report { reporter: &report.reporter, login: &report.login, at: reported_at },
            ) {
                self.news.suspicion("unknown_workspace");
                self.state.findings().found(report.id, "nothing was looked at: no workspace with this id is watched");
            } else {
                self.news.suspicion(suspicion_reason(&report.reason, report.http_status));
                self.state.findings().awaits(report.id, &report.workspace, now);
                suspects.insert(report.workspace);
            }
        }
        Ok((suspects.into_iter().collect(), more))
    }

    /// Takes pending suspicions: all of them where this replica owns everything, else those of workspaces that it speaks for.
    async fn take_ours(&self) -> Result<(Vec<Suspicion>, bool), StoreError> {
        let (alone, owns_any) = {
            let (ownership, now) = (self.state.ownership(), self.state.now());
            (ownership.is_alone(now), ownership.owns_any(now))
        };
        if alone {
            let taken = self.tables.take_suspicions(SUSPICIONS_MAX).await?;
            let more = i64::try_from(taken.len()).is_ok_and(|taken| taken >= SUSPICIONS_MAX);
            return Ok((taken, more));
        }
        if !owns_any {
            return Ok((Vec::new(), false));
        }
        let (snapshot, mut taken, mut after) = (self.state.fleet(), Vec::new(), 0);
        // Suspicions of other replicas' workspaces stay in the table until those replicas take them. They must not keep ours from being
        // found.
        for _ in 0..PAGES_MAX {
            let page = self.tables.pending_suspicions(after, SUSPICIONS_MAX).await?;
            let last = i64::try_from(page.len()).is_ok_and(|rows| rows < SUSPICIONS_MAX);
            after = page.last().map_or(after, |row| row.id);
            let now = self.state.now();
            let ours = page.iter().filter(|row| self.state.speaks_for(snapshot.engine_of(&row.workspace), now));
            let ours: Vec<i64> = ours.map(|row| row.id).collect();
            if !ours.is_empty() {
                taken.extend(self.tables.take_these_suspicions(&ours).await?);
            }
            if last {
                return Ok((taken, false));
            }
        }
        let some = !taken.is_empty(); // if not, asking again at once would only turn the same pages
        Ok((taken, some))
    }
}
