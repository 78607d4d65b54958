//! What the daemons say about each workspace now.
//!
//! `defib.verdicts` holds the verdicts that are not `alive`, so a workspace without a row there is alive only if a running daemon
//! judges it. Whether one does follows from what the daemons say of themselves: who has the lease on its engine, whether the
//! holder's last pass over that engine is recent, and which statuses the holder watches. Every other workspace is `not judged`. None of
//! this needs the daemon's environment.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use defib_policy::moment::Timestamp;
use defib_store::{CurrentVerdict, EngineSaid, FleetScope, ReplicaSaid, Said, StatusRow, Store, StoreError};

use super::show;
use crate::logging::printable;

/// The kind of the workspaces that are on no engine.
pub(crate) const EXTERNAL: &str = "external";

/// The word for a workspace that no running daemon judges.
pub(crate) const NOT_JUDGED: &str = "not judged";
/// The word for those whose status is not watched.
pub(crate) const NOT_WATCHED: &str = "not watched";
/// The word for those that somebody put away.
pub(crate) const SUSPENDED: &str = "suspended";

/// What the daemons say of themselves and of their engines, and which rows they read.
#[derive(Debug)]
pub(crate) struct Voices {
    pub(crate) said: Said,
    /// The statuses that the daemons watch; `None`: none has said so yet.
    watched: Option<Vec<String>>,
    /// The rows that a daemon reads; `None`: the fleet cannot be read.
    read: Option<HashSet<String>>,
    /// Why a daemon does not read a row that has a watched status.
    malformed: HashMap<String, &'static str>,
}

/// What is said of one workspace.
#[derive(Debug)]
pub(crate) enum Standing<'a> {
    /// It or an ancestor was put away.
    Suspended,
    /// Its status is not watched.
    NotWatched,
    /// No running daemon judges it, for this reason.
    NotJudged(String),
    Judged(Judged<'a>),
}

/// The replica that speaks for an engine, with its last report on it.
pub(crate) type Judge<'a> = (&'a ReplicaSaid, &'a EngineSaid);

/// What decides what is said of a workspace, wherever it is kept.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) id: &'a str,
    pub(crate) status: Option<&'a str>,
    pub(crate) suspended: bool,
    pub(crate) created_ago: Option<Duration>,
    /// The row of `defib.verdicts`.
    pub(crate) verdict: Option<&'a CurrentVerdict>,
}

/// What a running daemon says of one workspace.
#[derive(Debug)]
pub(crate) struct Judged<'a> {
    pub(crate) verdict: &'a str,
    /// The row of `defib.verdicts`; `None`: alive.
    pub(crate) current: Option<&'a CurrentVerdict>,
    /// The replica.
    pub(crate) by: &'a ReplicaSaid,
    /// Its last pass over the engine.
    pub(crate) at: Timestamp,
    pub(crate) ago: Duration,
}

impl Standing<'_> {
    /// The word for it: a verdict, or one of the three words above.
    pub(crate) fn word(&self) -> &str {
        match self {
            Self::Suspended => SUSPENDED,
            Self::NotWatched => NOT_WATCHED,
            Self::NotJudged(_) => NOT_JUDGED,
            Self::Judged(judged) => judged.verdict,
        }
    }

    /// Whether somebody should look at it: it is in doubt or dead, or nobody judges it although it should be watched. A workspace that is
    /// busy or has just started is well.
    pub(crate) fn is_trouble(&self) -> bool {
        match self {
            Self::Suspended | Self::NotWatched => false,
            Self::NotJudged(_) => true,
            Self::Judged(judged) => !matches!(judged.verdict, "alive" | "busy" | "settling"),
        }
    }
}

impl Voices {
    /// Made of what the daemons say, and of which rows a daemon reads (`FleetScope::All`: of all rows).
    pub(crate) async fn read(store: &Store, scope: FleetScope<'_>) -> Result<Self, StoreError> {
        let said = store.said().await?;
        let watched = watched(&said);
        let (mut read, mut malformed) = (None, HashMap::new());
        if let Some(watched) = &watched {
            // If the view cannot be read as the daemon reads it, `defib check` says why.
            if let Ok((fleet, broken)) = store.read_fleet(scope, watched).await {
                read = Some(fleet.workspaces.iter().map(|row| row.id.to_string()).collect());
                // For the workspace that was asked about, the fault is known even if it is in its id.
                let asked = match scope {
                    FleetScope::Some([id]) => Some(id.to_string()),
                    _ => None,
                };
                malformed = broken.into_iter().filter_map(|row| Some((asked.clone().or(row.id)?, row.why))).collect();
            }
        }
        Ok(Self { said, watched, read, malformed })
    }

    /// For a picture, which is read by other statements, and in which it is already known which rows break the contract.
    pub(crate) fn of_a_picture(said: Said, malformed: HashMap<String, &'static str>) -> Self {
        let watched = watched(&said);
        Self { said, watched, read: None, malformed }
    }

    /// What is said of a workspace.
    pub(crate) fn of<'a>(&'a self, row: &'a StatusRow) -> Standing<'a> {
        let external = row.kind.as_deref() == Some(EXTERNAL);
        let judge = self.judge(if external { "" } else { row.engine.as_deref().unwrap_or_default() }, external);
        let facts = Facts {
            id: &row.id,
            status: row.status.as_deref(),
            suspended: row.suspended == Some(true),
            created_ago: row.created_ago,
            verdict: row.verdict.as_ref(),
        };
        self.of_judged(&facts, judge.as_ref())
    }

    /// What is said of a workspace on an engine whose judge is known: whoever asks about a whole fleet looks for each judge once.
    pub(crate) fn of_judged<'a>(&'a self, facts: &Facts<'a>, judge: Result<&Judge<'a>, &String>) -> Standing<'a> {
        if facts.suspended {
            return Standing::Suspended;
        }
        let watched = judge.as_ref().ok().and_then(|(by, _)| by.watched_statuses.as_ref()).or(self.watched.as_ref());
        if watched.is_some_and(|watched| !watched.iter().any(|status| Some(status.as_str()) == facts.status)) {
            return Standing::NotWatched;
        }
        let (by, word) = match judge {
            Ok(judge) => *judge,
            Err(why) => return Standing::NotJudged(why.clone()),
        };
        if let Some(why) = self.malformed.get(facts.id) {
            return Standing::NotJudged(format!("its row breaks the contract of defib.fleet: {why}"));
        }
        if self.read.as_ref().is_some_and(|read| !read.contains(facts.id)) {
            return Standing::NotJudged(
                "its row breaks the contract of defib.fleet (`defib check` says how)".to_owned(),
            );
        }
        let is_new = facts.created_ago.is_some_and(|ago| ago < word.last_pass_ago);
        if facts.verdict.is_none() && is_new {
            return Standing::NotJudged(format!("it is newer than the last pass of {}", printable(&by.name)));
        }
        Standing::Judged(Judged {
            verdict: facts.verdict.map_or("alive", |current| &current.verdict),
            current: facts.verdict,
            by,
            at: word.last_pass_at,
            ago: word.last_pass_ago,
        })
    }

    /// The replica that speaks for an engine (`external`: for the workspaces on no engine), with its last report on it; or why there is
    /// none.
    pub(crate) fn judge(&self, engine: &str, external: bool) -> Result<Judge<'_>, String> {
        if self.living().next().is_none() {
            return Err(self.nobody_runs());
        }
        let shown =
            if external { "those without an engine".to_owned() } else { format!("engine {}", printable(engine)) };
        let lease = self.said.leases.iter().find(|lease| external || lease.engine.as_str() == engine);
        let Some(lease) = lease else {
            let configured = self.living().any(|replica| replica.engines.iter().any(|name| name == engine));
            return Err(if external || configured {
                format!("no replica owns {} now", if external { "any engine" } else { &shown })
            } else {
                format!("{shown} is in no replica's DEFIB_ENGINES")
            });
        };
        let holder = printable(&lease.holder);
        let word = self.said.engines.iter().find(|word| word.name == if external { "" } else { engine });
        let by = self.said.replicas.iter().find(|replica| replica.name == lease.holder);
        let (Some(word), Some(by)) = (word, by) else {
            return Err(format!("{holder} has not made a pass over {shown} yet"));
        };
        if word.overdue_for.is_some() {
            return Err(format!("the last pass of {holder} over {shown} ended {} ago", show::age(word.last_pass_ago)));
        }
        Ok((by, word))
    }

    /// The replicas that live.
    pub(crate) fn living(&self) -> impl Iterator<Item = &ReplicaSaid> {
        self.said.replicas.iter().filter(|replica| replica.gone_for.is_none())
    }

    fn nobody_runs(&self) -> String {
        let last = self.said.replicas.iter().filter_map(|replica| Some((replica.gone_for?, &replica.name))).min();
        last.map_or_else(
            || "no defib is running".to_owned(),
            |(gone, name)| {
                format!("no defib is running: {} was last heard of {} ago", printable(name), show::age(gone))
            },
        )
    }
}

/// The statuses that any living daemon watches; if none lives, those that the last one watched.
fn watched(said: &Said) -> Option<Vec<String>> {
    let of = |living: bool| {
        let mut statuses: Vec<String> = said
            .replicas
            .iter()
            .filter(|replica| replica.gone_for.is_none() == living)
            .filter_map(|replica| replica.watched_statuses.clone())
            .flatten()
            .collect();
        statuses.sort_unstable();
        statuses.dedup();
        (!statuses.is_empty()).then_some(statuses)
    };
    of(true).or_else(|| of(false))
}
