//! What was found by the looks that suspicions led to, for `defib explain`.
//!
//! ```text
//! suspicion taken ──awaits──► a pass that began later judges the workspace ──found──► defib.suspicions.finding
//! ```
//!
//! This is best effort. If there are too many at once, or the database refuses one, the finding of a suspicion is lost, and `explain` says
//! only that the suspicion was taken.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use defib_policy::id::WorkspaceId;
use defib_policy::judge::Told;
use defib_policy::moment::Moment;

use crate::sync::lock;

/// How many workspaces may wait for a finding, and how many findings may wait to be written. Larger: more memory in a flood.
const FINDINGS_MAX: usize = 10_000;

/// Suspicions of one workspace whose finding is awaited.
const OF_ONE_MAX: usize = 100;

/// A suspicion whose workspace has not been judged for this long is given up, because the workspace has left the fleet or moved to another
/// replica.
const AWAITED_FOR: Duration = Duration::from_secs(60);

/// One suspicion whose finding is awaited.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    /// `defib.suspicions.id`.
    suspicion: i64,
    taken_at: Moment,
}

/// What is awaited, and what was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    awaited: Mutex<BTreeMap<WorkspaceId, Vec<Awaited>>>,
    found: Mutex<BTreeMap<i64, String>>,
}

impl Findings {
    /// A suspicion of a workspace was taken at `now`, and a look at it is due.
    pub(crate) fn awaits(&self, suspicion: i64, workspace: &WorkspaceId, now: Moment) {
        let mut awaited = lock(&self.awaited);
        if awaited.len() < FINDINGS_MAX || awaited.contains_key(workspace) {
            let of_one = awaited.entry(workspace.clone()).or_default();
            if of_one.len() < OF_ONE_MAX {
                of_one.push(Awaited { suspicion, taken_at: now });
            }
        }
    }

    /// What became of a suspicion is known.
    pub(crate) fn found(&self, suspicion: i64, finding: impl Into<String>) {
        let mut found = lock(&self.found);
        if found.len() < FINDINGS_MAX {
            found.insert(suspicion, finding.into());
        }
    }

    /// Whether a finding is awaited.
    pub(crate) fn are_awaited(&self) -> bool {
        !lock(&self.awaited).is_empty()
    }

    /// A pass that asked its engine at `asked_at` has judged some workspaces, of which `told` knows what was said.
    pub(crate) fn judged(&self, asked_at: Moment, now: Moment, told: impl Fn(&WorkspaceId) -> Option<Told>) {
        lock(&self.awaited).retain(|workspace, suspicions| {
            if let Some(told) = told(workspace) {
                for it in suspicions.extract_if(.., |it| it.taken_at <= asked_at) {
                    self.found(it.suspicion, sentence(told));
                }
            }
            suspicions.retain(|it| now - it.taken_at <= AWAITED_FOR);
            !suspicions.is_empty()
        });
    }

    /// Takes what is not written yet: each finding with the suspicions that it is of.
    pub(crate) fn take(&self) -> BTreeMap<String, Vec<i64>> {
        let mut by_finding: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for (suspicion, finding) in std::mem::take(&mut *lock(&self.found)) {
            by_finding.entry(finding).or_default().push(suspicion);
        }
        by_finding
    }
}

fn sentence(told: Told) -> String {
    let held = told.held.map_or_else(String::new, |held| format!(", held: {}", held.label()));
    format!("{} ({}{held})", told.verdict.label(), told.rule.label())
}

#[cfg(test)]
mod tests {
    use defib_policy::verdict::{Held, Rule, Verdict};

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(1_000 + seconds))
    }

    fn told(held: Option<Held>) -> Told {
        Told { verdict: Verdict::Dead, rule: Rule::StoppedStale, held, since: at(0) }
    }

    fn of_w1(id: &WorkspaceId, held: Option<Held>) -> Option<Told> {
        (id.as_str() == "w1").then(|| told(held))
    }

    #[test]
    fn only_a_look_that_began_after_the_suspicion_was_taken_has_found_anything_about_it() {
        let findings = Findings::default();
        for (suspicion, taken_at) in [(1, 5), (2, 6), (3, 7)] {
            findings.awaits(suspicion, &"w1".into(), at(taken_at));
        }
        findings.awaits(4, &"w2".into(), at(5));
        findings.judged(at(6), at(8), |id| of_w1(id, None));
        assert_eq!(findings.take(), BTreeMap::from([("dead (stopped_stale)".to_owned(), vec![1, 2])]));
        findings.judged(at(9), at(9), |id| of_w1(id, Some(Held::Storm)));
        assert_eq!(findings.take(), BTreeMap::from([("dead (stopped_stale, held: storm)".to_owned(), vec![3])]));
        assert!(findings.are_awaited(), "w2 was not judged yet");
        findings.judged(at(66), at(66), |id| of_w1(id, None));
        assert!(!findings.are_awaited() && findings.take().is_empty(), "it is not judged by this replica any more");
    }

    #[test]
    fn a_flood_is_bounded() {
        let findings = Findings::default();
        for suspicion in 0..1_000 {
            findings.awaits(suspicion, &"w1".into(), at(0));
        }
        for suspicion in 0..20_000 {
            findings.found(suspicion, "ignored");
        }
        findings.judged(at(1), at(1), |id| of_w1(id, None));
        assert_eq!(findings.take().values().map(Vec::len).sum::<usize>(), FINDINGS_MAX);
    }
}
