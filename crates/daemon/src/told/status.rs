//! What `defib status` prints: the fleet with its verdicts and which replica gave each, from the tables alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use defib_policy::verdict::Held;
use defib_store::{EngineSaid, FleetScope, Hold, HoldScope, ReplicaSaid, StatusRow, Store, WebhookState};
use serde_json::{Value, json};

use super::names::{NoSuch, unknown};
use super::natural;
use super::show;
use super::standing::{NOT_JUDGED, NOT_WATCHED, SUSPENDED, Standing, Voices};
use super::webhook;
use crate::logging::printable;

/// Everything that one picture of the fleet is made of.
pub(crate) struct Picture {
    rows: Vec<StatusRow>,
    holds: Vec<Hold>,
    voices: Voices,
    webhook: Option<WebhookState>,
}

/// Which workspaces to show.
#[derive(Debug, Default)]
pub(crate) struct Filter<'a> {
    pub(crate) ids: &'a [String],
    pub(crate) verdicts: &'a [String],
    pub(crate) engines: &'a [String],
    pub(crate) troubled: bool,
}

impl Filter<'_> {
    /// A name that does not exist would otherwise look like a fleet without trouble.
    pub(crate) fn must_fit(&self, picture: &Picture) -> Result<(), NoSuch> {
        for id in self.ids {
            if !picture.rows.iter().any(|row| row.id == *id) {
                return Err(NoSuch(unknown("workspace", id, picture.rows.iter().map(|row| row.id.as_str()))));
            }
        }
        let engines = picture.engines();
        for engine in self.engines {
            if !engines.contains(engine.as_str()) {
                return Err(NoSuch(unknown("engine", engine, engines)));
            }
        }
        Ok(())
    }

    fn shows(&self, row: &StatusRow, standing: &Standing<'_>) -> bool {
        let is_one_of = |names: &[String], name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
        is_one_of(self.ids, &row.id)
            && is_one_of(self.engines, row.engine.as_deref().unwrap_or_default())
            && is_one_of(self.verdicts, &standing.word().replace(' ', "-"))
            && (!self.troubled || standing.is_trouble())
    }
}

impl Picture {
    pub(crate) async fn take(store: &Store) -> anyhow::Result<Self> {
        let mut rows = store.status().await?;
        natural::sort(&mut rows, |row| &row.id);
        Ok(Self {
            rows,
            holds: store.holds().await?,
            voices: Voices::read(store, FleetScope::All).await?,
            webhook: store.webhook().await?,
        })
    }

    /// The names of all engines that a row, a lease or a replica names.
    fn engines(&self) -> BTreeSet<&str> {
        let leased = self.voices.said.leases.iter().map(|lease| lease.engine.as_str());
        let configured = self.voices.living().flat_map(|replica| replica.engines.iter().map(String::as_str));
        let of_rows = self.rows.iter().filter(|row| row.kind.as_deref() != Some("external"));
        leased.chain(configured).chain(of_rows.filter_map(|row| row.engine.as_deref())).collect()
    }

    fn shown<'a>(&'a self, filter: &Filter<'_>) -> Vec<(&'a StatusRow, Standing<'a>)> {
        let all = self.rows.iter().map(|row| (row, self.voices.of(row)));
        all.filter(|(row, standing)| filter.shows(row, standing)).collect()
    }

    pub(crate) fn has_trouble(&self, filter: &Filter<'_>) -> bool {
        self.shown(filter).iter().any(|(_, standing)| standing.is_trouble())
    }

    pub(crate) fn text(&self, filter: &Filter<'_>) -> String {
        let mut text = String::new();
        for line in self
            .replica_lines()
            .into_iter()
            .chain(self.engine_lines())
            .chain(self.holds.iter().map(hold_line))
            .chain(webhook::line(self.webhook.as_ref()))
        {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "{}", self.counts());
        for line in self.beyond_defib() {
            let _ = writeln!(text, "{line}");
        }
        let shown = self.shown(filter);
        if shown.is_empty() {
            let none = match (self.rows.is_empty(), filter.troubled) {
                (true, _) => return text, // the counts above have said that
                (false, true) => "none in trouble",
                (false, false) => "none of them is shown, because no workspace matches the filters",
            };
            let _ = writeln!(text, "\n{none}");
            return text;
        }
        let mut table = show::table(&[
            "WORKSPACE",
            "NAME",
            "STATUS",
            "VERDICT",
            "SINCE",
            "HEARTBEAT",
            "ENGINE",
            "LAST RESTART",
            "WHY",
        ]);
        for (row, standing) in &shown {
            table.add_row(cells(row, standing));
        }
        let _ = writeln!(text);
        show::lines(&table).for_each(|line| {
            let _ = writeln!(text, "{line}");
        });
        text
    }

    fn replica_lines(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.voices.said.replicas.iter().map(|replica| self.replica_line(replica)).collect();
        if self.voices.living().next().is_none() {
            lines.push("no defib is running: nobody is judged, and nobody is restarted".to_owned());
        }
        lines
    }

    fn replica_line(&self, replica: &ReplicaSaid) -> String {
        let name = printable(&replica.name);
        if let Some(gone) = replica.gone_for {
            return format!(
                "replica {name}: not heard of for {}; it was killed, or cannot reach the database",
                show::age(gone)
            );
        }
        let (Some(mode), Some(last_pass)) = (&replica.mode, replica.last_pass_ago) else {
            return format!("replica {name}: started {} ago, no pass yet", show::age(replica.started_ago));
        };
        let leases = self.voices.said.leases.iter().filter(|lease| lease.holder == replica.name);
        let owned: Vec<String> = leases.map(|lease| printable(lease.engine.as_str())).collect();
        let owned = if owned.is_empty() { "no engine".to_owned() } else { owned.join(", ") };
        let version = replica.version.as_deref().map_or_else(|| "of unknown version".to_owned(), printable);
        let observes = if mode == "observe" { " (it judges and records, and restarts nobody)" } else { "" };
        format!(
            "replica {name}: {}{observes}, defib {version}, owns {owned}, last pass {} ago",
            printable(mode),
            show::age(last_pass)
        )
    }

    fn engine_lines(&self) -> Vec<String> {
        let externals = self.rows.iter().any(|row| row.kind.as_deref() == Some("external"));
        let mut lines: Vec<String> = self.engines().into_iter().map(|engine| self.engine_line(engine)).collect();
        if externals {
            lines.push(match self.voices.judge("", true) {
                Ok((by, word)) => format!(
                    "without an engine: judged by {}, {} of them {} ago",
                    printable(&by.name),
                    word.judged,
                    show::age(word.last_pass_ago)
                ),
                Err(why) => format!("without an engine: not judged, {why}"),
            });
        }
        lines
    }

    fn engine_line(&self, engine: &str) -> String {
        let shown = printable(engine);
        let (by, word) = match self.voices.judge(engine, false) {
            Ok(judge) => judge,
            Err(why) => return format!("engine {shown}: not judged, {why}"),
        };
        let answers = word.fault.as_ref().map_or_else(
            || "answers".to_owned(),
            |fault| format!("gives no answer ({}), so its workspaces are unknown", printable(fault)),
        );
        format!(
            "engine {shown}: {answers}, owned by {}, {} judged {} ago{}",
            printable(&by.name),
            word.judged,
            show::age(word.last_pass_ago),
            storm(word)
        )
    }

    /// A sentence whose numbers add up to the first.
    fn counts(&self) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for row in &self.rows {
            *counts.entry(self.voices.of(row).word().to_owned()).or_default() += 1;
        }
        if self.rows.is_empty() {
            return "no workspaces: defib.fleet is empty".to_owned();
        }
        let known = defib_policy::verdict::Verdict::ALL.iter().map(|verdict| verdict.label());
        let order: Vec<&str> = known.chain([SUSPENDED, NOT_WATCHED, NOT_JUDGED]).collect();
        let place = |word: &str| order.iter().position(|known| *known == word).unwrap_or(order.len());
        let mut parts: Vec<(&String, &usize)> = counts.iter().collect();
        parts.sort_by_key(|(word, _)| place(word));
        let parts: Vec<String> =
            parts.into_iter().map(|(word, count)| format!("{count} {}", printable(word))).collect();
        let noun = if self.rows.len() == 1 { "workspace" } else { "workspaces" };
        format!("{} {noun}: {}", self.rows.len(), parts.join(", "))
    }

    /// One sentence for each reason that only a change of configuration ends, with how many wait for one.
    fn beyond_defib(&self) -> impl Iterator<Item = String> {
        Held::ALL.into_iter().filter(|held| held.is_beyond_defib()).filter_map(|held| {
            let label = held.label();
            let is_held = |row: &&StatusRow| match self.voices.of(row) {
                Standing::Judged(judged) => {
                    judged.current.is_some_and(|current| current.held.as_deref() == Some(label))
                }
                _ => false,
            };
            let count = self.rows.iter().filter(is_held).count();
            (count > 0).then(|| format!("{count} held as {label}: {}", held.sentence()))
        })
    }

    pub(crate) fn json(&self, filter: &Filter<'_>) -> serde_json::Result<String> {
        let rows: Vec<Value> =
            self.shown(filter).iter().map(|(row, standing)| as_json(row, standing, &self.holds)).collect();
        serde_json::to_string_pretty(&rows)
    }
}

pub(crate) fn storm(word: &EngineSaid) -> String {
    let Some(storm) = &word.storm else { return String::new() };
    if storm.get("batch").is_none() {
        return "; storm: many died at once, so restarts go in small batches, each verified before the next".to_owned();
    }
    let number = |key: &str| storm.get(key).and_then(Value::as_u64).unwrap_or(0);
    let canaries: Vec<String> = storm
        .get("canaries")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(printable)
        .collect();
    let more = usize::try_from(number("under_way")).unwrap_or(0).saturating_sub(canaries.len());
    let under_way = match (canaries.as_slice(), more) {
        ([], _) => "none is under way".to_owned(),
        (named, 0) => format!("under way: {}", named.join(", ")),
        (named, more) => format!("under way: {} and {more} more", named.join(", ")),
    };
    let scope = if storm.get("fleet") == Some(&Value::Bool(true)) { "storm of the whole fleet" } else { "storm" };
    format!(
        "; {scope} for {}: restarts go in batches of {}, {under_way}, {} wait",
        show::age(Duration::from_secs(number("since_seconds"))),
        number("batch"),
        number("waiting")
    )
}

fn hold_line(hold: &Hold) -> String {
    let (scope, target) = hold.scope.parts();
    let until =
        hold.expires_in.map_or_else(|| "until released".to_owned(), |left| format!("for {} more", show::age(left)));
    let target = target.map_or_else(String::new, |target| format!(" {}", printable(target)));
    format!("restarts held: {scope}{target} {until}, by {}: {}", printable(&hold.owner), printable(&hold.reason))
}

fn cells(row: &StatusRow, standing: &Standing<'_>) -> [String; 9] {
    let restart = row.last_restart.as_ref().map_or_else(
        || "-".to_owned(),
        |last| {
            let outcome = match (&last.outcome, last.recovered_ago) {
                (_, Some(_)) => "recovered",
                (Some(outcome), None) => outcome,
                (None, None) => "under way",
            };
            format!("{outcome} {} ago (attempt {})", show::age(last.claimed_ago), last.attempt)
        },
    );
    let (since, why) = match standing {
        Standing::NotJudged(why) => ("-".to_owned(), why.clone()),
        Standing::Suspended | Standing::NotWatched => ("-".to_owned(), String::new()),
        Standing::Judged(judged) => judged.current.map_or_else(
            || ("-".to_owned(), String::new()),
            |current| {
                let held =
                    current.held.as_ref().map_or_else(String::new, |held| format!(" [held: {}]", printable(held)));
                (show::age(current.since_ago), format!("{}{held}", printable(&current.because)))
            },
        ),
    };
    [
        printable(&row.id),
        show::or_dash(row.name.as_deref()),
        show::or_dash(row.status.as_deref()),
        printable(standing.word()),
        since,
        row.heartbeat_ago.map_or_else(|| "never".to_owned(), |ago| format!("{} ago", show::age(ago))),
        show::or_dash(row.engine.as_deref()),
        restart,
        why,
    ]
}

pub(crate) fn as_json(row: &StatusRow, standing: &Standing<'_>, holds: &[Hold]) -> Value {
    let covers = |hold: &&Hold| match &hold.scope {
        HoldScope::Fleet => true,
        HoldScope::Engine(name) => Some(name.as_str()) == row.engine.as_deref(),
        HoldScope::Workspace(id) => id.as_str() == row.id,
    };
    let judged = match standing {
        Standing::Judged(judged) => Some(judged),
        Standing::Suspended | Standing::NotWatched | Standing::NotJudged(_) => None,
    };
    let why_not = match standing {
        Standing::NotJudged(why) => Some(why.as_str()),
        _ => None,
    };
    let current = judged.and_then(|judged| judged.current);
    let seconds = |age: Duration| age.as_secs_f64();
    json!({
        "workspace_id": row.id,
        "name": row.name,
        "status": row.status,
        "kind": row.kind,
        "engine": row.engine,
        "suspended": row.suspended,
        "verdict": standing.word(),
        "judged": judged.is_some(),
        "judged_by": judged.map(|judged| judged.by.name.as_str()),
        "judged_at": judged.map(|judged| judged.at),
        "mode": judged.and_then(|judged| judged.by.mode.as_deref()),
        "not_judged_because": why_not,
        "verdict_since_seconds": current.map(|current| seconds(current.since_ago)),
        "rule": current.map(|current| current.rule.as_str()),
        "because": current.map(|current| current.because.as_str()),
        "held": current.and_then(|current| current.held.as_deref()),
        "holds": holds.iter().filter(covers).map(|hold| json!({
            "scope": hold.scope.parts().0,
            "owner": hold.owner,
            "reason": hold.reason,
            "expires_in_seconds": hold.expires_in.map(seconds),
        })).collect::<Vec<Value>>(),
        "evidence": current.map(|current| &current.evidence),
        "heartbeat_age_seconds": row.heartbeat_ago.map(seconds),
        "last_restart": row.last_restart.as_ref().map(|last| json!({
            "id": last.id,
            "attempt": last.attempt,
            "outcome": last.outcome,
            "claimed_seconds_ago": seconds(last.claimed_ago),
            "recovered_seconds_ago": last.recovered_ago.map(seconds),
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::told::golden;

    fn picture(said: defib_store::Said) -> Picture {
        Picture { rows: golden::fleet(), holds: vec![golden::hold()], voices: golden::voices(said), webhook: None }
    }

    #[test]
    fn status_says_of_each_kind_of_workspace_what_was_approved() {
        let picture = picture(golden::said());
        golden::matches("status", &picture.text(&Filter::default()));
        golden::matches("status-troubled", &picture.text(&Filter { troubled: true, ..Filter::default() }));
    }

    #[test]
    fn without_a_daemon_nobody_is_called_alive() {
        let killed = picture(golden::killed());
        golden::matches("status-killed", &killed.text(&Filter::default()));
        let never = picture(defib_store::Said { replicas: Vec::new(), ..golden::killed() });
        let text = never.text(&Filter::default());
        assert!(text.contains("10 workspaces: 1 suspended, 9 not judged\n") && !text.contains("alive"), "{text}");
    }

    #[test]
    fn the_counts_add_up_and_name_those_of_whom_nothing_is_said() {
        let counts = picture(golden::said()).counts();
        assert_eq!(
            counts,
            "10 workspaces: 1 alive, 1 busy, 1 dead, 1 unknown, 1 suspended, 1 not watched, 4 not judged"
        );
    }

    #[test]
    fn an_owner_that_hangs_is_no_longer_believed() {
        let mut said = golden::said();
        said.engines[0].overdue_for = Some(golden::seconds(1));
        said.engines[0].last_pass_ago = golden::seconds(90);
        let picture = picture(said);
        let standing = picture.voices.of(&picture.rows[0]);
        assert!(
            matches!(&standing, Standing::NotJudged(why) if why == "the last pass of r1 over engine default ended 1m 30s ago"),
            "{standing:?}"
        );
    }

    #[test]
    fn a_filter_that_fits_nobody_says_so_and_a_name_that_does_not_exist_is_refused() {
        let (picture, none) = (picture(golden::said()), ["lost".to_owned()]);
        let text = picture.text(&Filter { verdicts: &none, ..Filter::default() });
        assert!(text.ends_with("\nnone of them is shown, because no workspace matches the filters\n"), "{text}");
        let well = Picture { rows: vec![golden::row("w1")], ..picture };
        assert!(well.text(&Filter { troubled: true, ..Filter::default() }).ends_with("\nnone in trouble\n"));
        assert!(!well.has_trouble(&Filter::default()));
        for (filter, told) in [
            (Filter { ids: &["w2".to_owned()], ..Filter::default() }, "there is no workspace w2: did you mean w1?"),
            (Filter { engines: &["gqu".to_owned()], ..Filter::default() }, "there is no engine gqu: did you mean gpu?"),
        ] {
            assert_eq!(filter.must_fit(&well).unwrap_err().to_string(), told);
        }
    }

    #[test]
    fn json_has_the_same_facts() {
        let picture = picture(golden::said());
        let rows: Value = serde_json::from_str(&picture.json(&Filter::default()).unwrap()).unwrap();
        let of = |id: &str| rows.as_array().unwrap().iter().find(|row| row["workspace_id"] == id).unwrap().clone();
        let (alive, new) = (of("w1"), of("w11"));
        assert_eq!(
            (&alive["verdict"], &alive["judged"], &alive["judged_by"]),
            (&json!("alive"), &json!(true), &json!("r1"))
        );
        assert_eq!((&alive["mode"], &alive["judged_at"]), (&json!("enforce"), &json!("2025-11-24T16:00:00.000000Z")));
        assert_eq!(
            (&new["verdict"], &new["judged"], &new["judged_by"]),
            (&json!("not judged"), &json!(false), &Value::Null)
        );
        assert_eq!(new["not_judged_because"], "it is newer than the last pass of r1");
    }
}
