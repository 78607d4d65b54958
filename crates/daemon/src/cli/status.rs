//! `defib status`: the fleet with its verdicts, from the tables alone.

use std::collections::HashSet;

use defib_store::{FleetScope, Hold, HoldScope, StatusRow, Store};
use serde_json::{Value, json};

use super::{Ended, Format, show};
use crate::logging::printable;

pub(super) async fn run(store: &Store, watched: &[String], format: Format, troubled: bool) -> anyhow::Result<Ended> {
    let mut rows = store.status().await?;
    let holds = store.holds().await?;
    let leases = store.leases().await?;
    // What the daemon reads: rows that break the contract are not among them.
    let read = store.read_fleet(FleetScope::All, watched).await.ok();
    let read: Option<HashSet<String>> =
        read.map(|(read, _)| read.workspaces.iter().map(|row| row.id.to_string()).collect());
    let read = read.as_ref();
    let (all, alive) = (rows.len(), rows.iter().filter(|row| standing(row, watched, read) == "alive").count());
    if troubled {
        rows.retain(|row| row.verdict.is_some() || standing(row, watched, read) == UNREAD);
    }
    if format == Format::Json {
        let rows: Vec<Value> = rows.iter().map(|row| as_json(row, watched, read, &holds)).collect();
        say!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(Ended::Well);
    }
    let mut table =
        show::table(&["WORKSPACE", "NAME", "STATUS", "VERDICT", "SINCE", "HEARTBEAT", "ENGINE", "LAST RESTART", "WHY"]);
    for row in &rows {
        table.add_row(cells(row, watched, read));
    }
    show::print(&table);
    say!("\n{all} workspaces, {alive} alive");
    if leases.is_empty() {
        say!("no daemon owns an engine: the verdicts are those that the last one recorded, and nothing is restarted");
    }
    for lease in leases {
        say!(
            "engine {} is owned by {} (epoch {}), for {} more unless renewed",
            printable(lease.engine.as_str()),
            printable(&lease.holder),
            lease.epoch,
            show::age(lease.expires_in)
        );
    }
    for hold in holds {
        let (scope, target) = hold.scope.parts();
        let until =
            hold.expires_in.map_or_else(|| "until released".to_owned(), |left| format!("for {} more", show::age(left)));
        say!(
            "restarts held: {scope} {} {until}, by {}: {}",
            printable(target.unwrap_or_default()),
            printable(&hold.owner),
            printable(&hold.reason)
        );
    }
    Ok(Ended::Well)
}

/// The standing of a row that breaks the contract.
const UNREAD: &str = "not judged";

/// The verdict; or why there is none. `read` are the ids that the daemon reads, where that is known.
pub(super) fn standing<'a>(row: &'a StatusRow, watched: &[String], read: Option<&HashSet<String>>) -> &'a str {
    match &row.verdict {
        _ if row.suspended == Some(true) => "suspended",
        _ if !watched.iter().any(|status| Some(status) == row.status.as_ref()) => "not watched",
        Some(current) => &current.verdict,
        None if read.is_some_and(|read| !read.contains(&row.id)) => UNREAD,
        None => "alive",
    }
}

fn cells(row: &StatusRow, watched: &[String], read: Option<&HashSet<String>>) -> [String; 9] {
    let standing = standing(row, watched, read);
    let current = row.verdict.as_ref().filter(|current| current.verdict == standing);
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
    let unread = if standing == UNREAD { "its row breaks the contract: `defib check` says how" } else { "" };
    let why = current.map_or_else(
        || unread.to_owned(),
        |current| {
            let held = current.held.as_ref().map_or_else(String::new, |held| format!(" [held: {}]", printable(held)));
            format!("{}{held}", printable(&current.because))
        },
    );
    [
        printable(&row.id),
        show::or_dash(row.name.as_deref()),
        show::or_dash(row.status.as_deref()),
        standing.to_owned(),
        current.map_or_else(|| "-".to_owned(), |current| show::age(current.since_ago)),
        row.heartbeat_ago.map_or_else(|| "never".to_owned(), |ago| format!("{} ago", show::age(ago))),
        show::or_dash(row.engine.as_deref()),
        restart,
        why,
    ]
}

fn as_json(row: &StatusRow, watched: &[String], read: Option<&HashSet<String>>, holds: &[Hold]) -> Value {
    let covers = |hold: &&Hold| match &hold.scope {
        HoldScope::Fleet => true,
        HoldScope::Engine(name) => Some(name.as_str()) == row.engine.as_deref(),
        HoldScope::Workspace(id) => id.as_str() == row.id,
    };
    let current = row.verdict.as_ref();
    let seconds = |age: std::time::Duration| age.as_secs_f64();
    json!({
        "workspace_id": row.id,
        "name": row.name,
        "status": row.status,
        "kind": row.kind,
        "engine": row.engine,
        "suspended": row.suspended,
        "verdict": standing(row, watched, read),
        "verdict_since_seconds": current.map(|current| seconds(current.since_ago)),
        "rule": current.map(|current| current.rule.as_str()),
        "because": current.map(|current| current.because.as_str()),
        "held": current.and_then(|current| current.held.as_deref()),
        "holds": holds.iter().filter(covers).map(|hold| json!({
            "scope": hold.scope.parts().0,
            "owner": hold.owner,
            "reason": hold.reason,
            "expires_in_seconds": hold.expires_in.map(seconds),
        })).collect::<Vec<_>>(),
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
