//! `defib explain`: what is held to be true of a workspace, on what evidence, what would change it, and how it came to that.

use std::time::Duration;

use defib_policy::id::WorkspaceId;
use defib_policy::verdict::{Rule, Verdict};
use defib_store::{Explanation, FleetScope, StatusRow, Store, TimelineEntry, TimelineWhat};
use serde_json::{Value, json};

use super::{Ended, Format, show, status};
use crate::logging::printable;

pub(super) async fn run(
    store: &Store,
    watched: &[String],
    workspace: &str,
    format: Format,
    limit: i64,
) -> anyhow::Result<Ended> {
    let id = WorkspaceId::from(workspace);
    let explanation = store.explain(&id, limit).await?;
    let known = explanation.workspace.is_some();
    let engine = explanation.workspace.as_ref().and_then(|row| row.engine.as_deref());
    let unread = why_unread(store, watched, &id, explanation.workspace.as_ref()).await;
    let leases = store.leases().await?;
    let owner = leases.into_iter().find(|lease| Some(lease.engine.as_str()) == engine).map(|lease| lease.holder);
    if !known && explanation.timeline.is_empty() {
        complain!(
            "defib: there is no workspace {} in defib.fleet, and nothing is recorded about it",
            printable(workspace)
        );
        return Ok(Ended::Failed);
    }
    if format == Format::Json {
        say!("{}", serde_json::to_string_pretty(&as_json(&explanation, owner.as_deref()))?);
    } else {
        print(workspace, watched, &explanation, owner.as_deref(), unread);
    }
    Ok(Ended::Well)
}

/// Why the daemon does not read a row that it would judge by its status: it breaks the contract.
async fn why_unread(
    store: &Store,
    watched: &[String],
    id: &WorkspaceId,
    row: Option<&StatusRow>,
) -> Option<&'static str> {
    let judged = row.is_some_and(|row| row.verdict.is_none() && status::standing(row, watched, None) == "alive");
    if !judged {
        return None;
    }
    let (read, malformed) = store.read_fleet(FleetScope::Some(std::slice::from_ref(id)), watched).await.ok()?;
    read.workspaces.is_empty().then(|| malformed.first().map_or("it is in the view no more", |row| row.why))
}

fn print(
    workspace: &str,
    watched: &[String],
    explanation: &Explanation,
    owner: Option<&str>,
    unread: Option<&'static str>,
) {
    say!("{}", printable(workspace));
    match &explanation.workspace {
        None => say!("  not in defib.fleet any more"),
        Some(row) => {
            let container = explanation.container_ref.as_deref().or(explanation.instance_ref.as_deref());
            say!(
                "  status {}{}, kind {}, engine {}, container {}",
                show::or_dash(row.status.as_deref()),
                if row.suspended == Some(true) { " (suspended: never touched)" } else { "" },
                show::or_dash(row.kind.as_deref()),
                show::or_dash(row.engine.as_deref()),
                container.map_or_else(|| "found by its label".to_owned(), printable),
            );
            let ago =
                |age: Option<Duration>| age.map_or_else(|| "never".to_owned(), |ago| format!("{} ago", show::age(ago)));
            say!("  last sign of life {}", ago(row.heartbeat_ago));
            say!(
                "    heartbeat {}, activity {}, {} active tasks",
                ago(explanation.last_heartbeat_ago),
                ago(explanation.last_activity_ago),
                explanation.active_tasks.unwrap_or(0),
            );
            match owner {
                Some(owner) => say!("  judged and restarted by {}", printable(owner)),
                None if row.kind.as_deref() == Some("external") => {}
                None => say!("  no daemon owns its engine now: nobody judges or restarts it"),
            }
            if let Some(policy) = &explanation.policy {
                say!("  policy of its row: {}", printable(policy));
            }
            match (&row.verdict, unread) {
                (_, Some(why)) => say!("  not judged, never restarted: {why} (`defib check`)"),
                (None, None) => match status::standing(row, watched, None) {
                    "alive" => print_alive(explanation),
                    not_judged => say!("  {not_judged}: not judged, never restarted"),
                },
                (Some(current), None) => {
                    say!("  verdict: {} for {}", current.verdict, show::age(current.since_ago));
                    say!("    because  {} (rule {})", printable(&current.because), printable(&current.rule));
                    if let Some(change) = text(&current.evidence, "would_change") {
                        say!("    changes  with {}", printable(change));
                    }
                    for own in current.evidence.get("own_settings").and_then(Value::as_array).into_iter().flatten() {
                        say!("    own      {}", printable(own.as_str().unwrap_or_default()));
                    }
                    if let Some(held) = &current.held {
                        let sentence = defib_policy::verdict::Held::ALL.iter().find(|known| known.label() == held);
                        say!(
                            "    held     {}",
                            sentence.map_or_else(|| printable(held), |held| held.sentence().to_owned())
                        );
                    }
                }
            }
        }
    }
    for hold in &explanation.holds {
        let until =
            hold.expires_at.map_or_else(|| "until released".to_owned(), |at| format!("until {}", show::clock(at)));
        say!("  restarts held {until} by {}: {}", printable(&hold.owner), printable(&hold.reason));
    }
    say!("\n  timeline (database clock, now {})", show::clock(explanation.now));
    if explanation.timeline.is_empty() {
        say!("    nothing recorded: it was never in doubt");
    }
    for entry in &explanation.timeline {
        say!("    {}  {}", show::clock(entry.at), line(&entry.what));
    }
}

/// One without a row in `defib.verdicts`. The daemon keeps no evidence of those that nothing accuses, so this says what the
/// database says now, and that it is no more than that.
fn print_alive(explanation: &Explanation) {
    say!("  verdict: alive, as far as the database says: defib.verdicts holds no row for it");
    let last = explanation.timeline.iter().rev().find_map(|entry| match &entry.what {
        TimelineWhat::Verdict { to, evidence, .. } => Some((entry.at, to, evidence)),
        _ => None,
    });
    let window = last.and_then(|(_, _, evidence)| evidence.pointer("/heartbeat/window_seconds")?.as_f64());
    let silent = explanation.workspace.as_ref().and_then(|row| row.heartbeat_ago);
    let silent = silent.filter(|ago| window.is_some_and(|window| ago.as_secs_f64() > window));
    if let Some(silent) = silent {
        // A change of the rule alone is not recorded, and the fleet's reasons are the daemon's.
        say!(
            "    because  nothing is recorded against it, although its last sign of life is {} old, more than its window of {:.0} s when last said: heartbeats are no witness now (defib_heartbeats_usable is 0), or the next pass will say more",
            show::age(silent),
            window.unwrap_or_default()
        );
        return say!("    changes  with {}", Rule::RunningNoWitness.would_change());
    }
    match last {
        Some((at, to, evidence)) if to == Verdict::Alive.label() => say!(
            "    because  {} (rule {}); said at {}, and nothing against it since",
            printable(text(evidence, "because").unwrap_or_default()),
            printable(text(evidence, "rule").unwrap_or_default()),
            show::clock(at)
        ),
        _ => say!("    because  nothing is recorded against it, or no daemon has judged it yet"),
    }
    let external = explanation.workspace.as_ref().is_some_and(|row| row.kind.as_deref() == Some("external"));
    let rule = if external { Rule::ExternalBeating } else { Rule::RunningFresh };
    say!("    changes  with {}", rule.would_change());
}

fn line(what: &TimelineWhat) -> String {
    match what {
        TimelineWhat::Verdict { from, to, evidence } => {
            let because = text(evidence, "because").unwrap_or_default();
            let rule = text(evidence, "rule").unwrap_or_default();
            let held = text(evidence, "held").map_or_else(String::new, |held| format!(" [held: {held}]"));
            printable(&format!(
                "verdict    {} -> {to}: {because} (rule {rule}){held}",
                from.as_deref().unwrap_or("(none)")
            ))
        }
        TimelineWhat::Engine { engine, from, to, .. } => {
            let from = from.as_deref().map_or_else(String::new, |from| format!("{from} → "));
            format!("engine     {}", printable(&format!("{engine}: {from}{to}")))
        }
        TimelineWhat::Claimed { attempt, container_id, verdict, claimed_by, evidence, .. } => {
            let container = container_id.as_deref().map_or("missing", |id| id.get(..12).unwrap_or(id));
            let because = text(evidence, "because").unwrap_or_default();
            printable(&format!(
                "restart    attempt {attempt} of container {container} claimed by {} as {verdict}: {because}",
                claimed_by.as_deref().unwrap_or("unknown")
            ))
        }
        TimelineWhat::Finished { outcome, error, .. } => {
            let error = error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
            printable(&format!("restart    {outcome}{error}"))
        }
        TimelineWhat::Recovered { .. } => "restart    recovered: a heartbeat newer than the restart".to_owned(),
        TimelineWhat::Acknowledged { .. } => "operator   acknowledged; its attempts no longer count".to_owned(),
        TimelineWhat::Suspected { reporter, reason, http_status, detail } => {
            let status = http_status.map_or_else(String::new, |status| format!(" (HTTP {status})"));
            let detail = detail.as_deref().map_or_else(String::new, |detail| format!(": {detail}"));
            printable(&format!("suspicion  by {reporter}: {reason}{status}{detail}"))
        }
        TimelineWhat::Held { scope, owner, reason, .. } => {
            printable(&format!("operator   {owner} held restarts ({scope}): {reason}"))
        }
        TimelineWhat::Released { scope, owner } => printable(&format!("operator   hold of {owner} released ({scope})")),
    }
}

fn text<'a>(evidence: &'a Value, key: &str) -> Option<&'a str> {
    evidence.get(key)?.as_str()
}

fn as_json(explanation: &Explanation, owner: Option<&str>) -> Value {
    let entry = |entry: &TimelineEntry| {
        let mut what = match &entry.what {
            TimelineWhat::Verdict { from, to, evidence } => {
                json!({ "what": "verdict", "from": from, "to": to, "evidence": evidence })
            }
            TimelineWhat::Engine { engine, from, to, evidence } => {
                json!({ "what": "engine", "engine": engine, "from": from, "to": to, "evidence": evidence })
            }
            TimelineWhat::Claimed { id, attempt, container_id, verdict, claimed_by, evidence } => json!({
                "what": "claimed", "attempt_id": id, "attempt": attempt, "container_id": container_id,
                "verdict": verdict, "claimed_by": claimed_by, "evidence": evidence
            }),
            TimelineWhat::Finished { id, outcome, error } => {
                json!({ "what": "finished", "attempt_id": id, "outcome": outcome, "error": error })
            }
            TimelineWhat::Recovered { id } => json!({ "what": "recovered", "attempt_id": id }),
            TimelineWhat::Acknowledged { id } => json!({ "what": "acknowledged", "attempt_id": id }),
            TimelineWhat::Suspected { reporter, reason, http_status, detail } => json!({
                "what": "suspected", "reporter": reporter, "reason": reason, "http_status": http_status, "detail": detail
            }),
            TimelineWhat::Held { scope, owner, reason, expires_at } => json!({
                "what": "held", "scope": scope, "owner": owner, "reason": reason, "expires_at": expires_at
            }),
            TimelineWhat::Released { scope, owner } => json!({ "what": "released", "scope": scope, "owner": owner }),
        };
        if let Some(object) = what.as_object_mut() {
            object.insert("at".to_owned(), json!(entry.at));
        }
        what
    };
    let row = explanation.workspace.as_ref();
    let current = row.and_then(|row| row.verdict.as_ref());
    json!({
        "now": explanation.now,
        "workspace_id": row.map(|row| &row.id),
        "status": row.and_then(|row| row.status.as_ref()),
        "suspended": row.and_then(|row| row.suspended),
        "owner": owner,
        "holds": explanation.holds.iter().map(|hold| {
            let (scope, target) = hold.scope.parts();
            json!({
                "scope": scope, "target": target, "owner": hold.owner, "reason": hold.reason,
                "created_at": hold.created_at, "expires_at": hold.expires_at,
            })
        }).collect::<Vec<Value>>(),
        "container_ref": explanation.container_ref,
        "instance_ref": explanation.instance_ref,
        "heartbeat_age_seconds": row.and_then(|row| row.heartbeat_ago).map(|ago| ago.as_secs_f64()),
        "last_heartbeat_age_seconds": explanation.last_heartbeat_ago.map(|ago| ago.as_secs_f64()),
        "last_activity_age_seconds": explanation.last_activity_ago.map(|ago| ago.as_secs_f64()),
        "active_tasks": explanation.active_tasks,
        "verdict": current.map(|current| json!({
            "verdict": current.verdict,
            "since_seconds": current.since_ago.as_secs_f64(),
            "rule": current.rule,
            "because": current.because,
            "held": current.held,
            "evidence": current.evidence,
        })),
        "timeline": explanation.timeline.iter().map(entry).collect::<Vec<Value>>(),
    })
}
