//! What `defib explain` prints: the verdict on a workspace, its evidence, what would change it, and the history that led to it.
//!
//! The reasons of a verdict hold ages as of the moment at which it was given, so that moment is printed with them. What the database says
//! now is printed separately.

use std::time::Duration;

use defib_policy::id::ContainerId;
use defib_policy::verdict::{Held, Rule, Verdict};
use defib_store::{CurrentVerdict, Explanation, StatusRow, TimelineEntry, TimelineWhat};
use serde_json::{Value, json};

use super::last_words::last_words;
use super::show;
use super::standing::{Judged, Standing, Voices};
use crate::logging::printable;

/// The page in which each verdict and each reason that holds a restart back has a section.
const RUNBOOK: &str = "docs/runbook.md";

/// The whole text for people.
pub(crate) fn text(workspace: &str, explanation: &Explanation, voices: &Voices) -> String {
    let mut lines = vec![printable(workspace)];
    match &explanation.workspace {
        None => lines.push("  not in defib.fleet any more".to_owned()),
        Some(row) => {
            lines.extend(facts(row, explanation));
            match voices.of(row) {
                Standing::Suspended => {
                    lines
                        .push("  suspended: it, or one above it, was put away; not judged, never restarted".to_owned());
                }
                Standing::NotWatched => {
                    let status = show::or_dash(row.status.as_deref());
                    lines.push(format!(
                        "  not watched: status {status} is in no DEFIB_WATCHED_STATUSES; not judged, never restarted"
                    ));
                }
                Standing::NotJudged(why) => {
                    lines.push(format!("  not judged, never restarted: {why}"));
                    if let Some(last) = &row.verdict {
                        lines.push(format!(
                            "    last word  {}, recorded {} ago",
                            printable(&last.verdict),
                            show::age(last.updated_ago)
                        ));
                    }
                }
                Standing::Judged(judged) => lines.extend(verdict(&judged, row, explanation)),
            }
        }
    }
    for hold in &explanation.holds {
        let until =
            hold.expires_at.map_or_else(|| "until released".to_owned(), |at| format!("until {}", show::clock(at)));
        lines.push(format!("  restarts held {until} by {}: {}", printable(&hold.owner), printable(&hold.reason)));
    }
    lines.push(String::new());
    lines.push(format!("  timeline (database clock, now {})", show::clock(explanation.now)));
    if explanation.timeline.is_empty() {
        lines.push("    nothing recorded: it was never in doubt".to_owned());
    }
    lines.extend(
        explanation.timeline.iter().map(|entry| format!("    {}  {}", show::clock(entry.at), line(&entry.what))),
    );
    lines.join("\n")
}

/// What the database says now.
pub(crate) fn facts(row: &StatusRow, explanation: &Explanation) -> Vec<String> {
    let container = explanation.container_ref.as_deref().or(explanation.instance_ref.as_deref());
    let ago = |age: Option<Duration>| age.map_or_else(|| "never".to_owned(), |ago| format!("{} ago", show::age(ago)));
    let mut lines = vec![
        format!(
            "  status {}, kind {}, engine {}, container {}",
            show::or_dash(row.status.as_deref()),
            show::or_dash(row.kind.as_deref()),
            show::or_dash(row.engine.as_deref()),
            container.map_or_else(|| "found by its label".to_owned(), printable),
        ),
        format!(
            "  last sign of life {}: heartbeat {}, activity {}, {} active tasks",
            ago(row.heartbeat_ago),
            ago(explanation.last_heartbeat_ago),
            ago(explanation.last_activity_ago),
            explanation.active_tasks.unwrap_or(0),
        ),
    ];
    let learned = explanation.learned.as_ref();
    if let Some(container) = learned.and_then(|learned| learned.container_id.as_ref()) {
        let id: String = printable(container.as_str()).chars().take(12).collect();
        let started = learned
            .and_then(|learned| learned.started_at)
            .map_or_else(String::new, |at| format!(", started {}", show::clock(at)));
        lines.push(format!("  last seen in container {id}{started}"));
    }
    if let Some((learned, window)) = learned.and_then(|learned| Some((learned, learned.window?))) {
        let interval = if learned.intervals == 0 {
            "its interval is not learned yet, so DEFIB_HEARTBEAT_INTERVAL stands in".to_owned()
        } else {
            format!("it beats each {:.1} s, learned from {} intervals", learned.mean_ms / 1_000.0, learned.intervals)
        };
        let window =
            humantime::format_duration(Duration::from_millis(u64::try_from(window.as_millis()).unwrap_or(u64::MAX)));
        lines.push(format!("  window {window}: a heartbeat younger than that is fresh ({interval})"));
    }
    if let Some(policy) = &explanation.policy {
        lines.push(format!("  policy of its row: {}", printable(policy)));
    }
    lines
}

/// One thing that is said of a verdict.
#[derive(Debug)]
pub(crate) struct Reason {
    /// Which: `because`, `seen`, `changes`, `held`, `ends`, `settings`, `observed`, `help`.
    pub(crate) label: &'static str,
    pub(crate) text: String,
}

impl Reason {
    const fn new(label: &'static str, text: String) -> Self {
        Self { label, text }
    }
}

/// What a running daemon says of the workspace, line by line.
fn verdict(judged: &Judged<'_>, row: &StatusRow, explanation: &Explanation) -> Vec<String> {
    let said =
        format!("said by {}, last pass over its engine {} ago", printable(&judged.by.name), show::age(judged.ago));
    let first = match judged.current {
        None => format!("  verdict: alive, {said}"),
        Some(current) => {
            format!("  verdict: {} for {}, {said}", printable(&current.verdict), show::age(current.since_ago))
        }
    };
    let reasons = reasons(judged, row, explanation);
    let lines = reasons.into_iter().map(|Reason { label, text }| format!("    {label:<8} {text}"));
    std::iter::once(first).chain(lines).collect()
}

/// Why a running daemon says that.
pub(crate) fn reasons(judged: &Judged<'_>, row: &StatusRow, explanation: &Explanation) -> Vec<Reason> {
    let mut lines = Vec::new();
    let own = match judged.current {
        None => {
            lines.extend(alive(judged, row, explanation));
            explanation.learned.as_ref().map(|learned| learned.own_settings.clone()).unwrap_or_default()
        }
        Some(current) => {
            lines.extend(accusation(current, explanation));
            let own = current.evidence.get("own_settings").and_then(Value::as_array).into_iter().flatten();
            own.filter_map(|own| own.as_str().map(str::to_owned)).collect()
        }
    };
    lines.extend(own.iter().map(|own| Reason::new("settings", printable(own))));
    if judged.by.mode.as_deref() == Some("observe") {
        let by = printable(&judged.by.name);
        lines.push(Reason::new("observed", format!("{by} runs with DEFIB_MODE=observe: it would restart nobody")));
    }
    let verdict = format!("{RUNBOOK}#verdict-{}", judged.verdict);
    let held = judged.current.and_then(|current| current.held.as_deref());
    let held = held.map_or_else(String::new, |held| format!(", {RUNBOOK}#held-{}", held.replace(' ', "-")));
    lines.push(Reason::new("help", format!("{}{}", printable(&verdict), printable(&held))));
    lines
}

/// A workspace without a row in `defib.verdicts`. The daemon records no evidence about workspaces that nothing accuses, so this is made
/// from its last report on the engine and from the present row.
fn alive(judged: &Judged<'_>, row: &StatusRow, explanation: &Explanation) -> [Reason; 2] {
    let external = row.kind.as_deref() == Some("external");
    let fresh = if external { Rule::ExternalBeating } else { Rule::RunningFresh };
    let last = explanation.timeline.iter().rev().find_map(|entry| match &entry.what {
        TimelineWhat::Verdict { to, evidence, .. } => Some((entry.at, to, evidence)),
        _ => None,
    });
    let recorded = last.and_then(|(_, _, evidence)| evidence.pointer("/heartbeat/window_seconds")?.as_f64());
    let window = explanation
        .learned
        .as_ref()
        .and_then(|learned| learned.window)
        .or_else(|| recorded.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()));
    let silent = row.heartbeat_ago.zip(window).filter(|(silent, window)| silent > window);
    let because = match (silent, judged.by.heartbeats_usable) {
        (Some((silent, window)), Some(false)) => format!(
            "nothing accuses it: its last sign of life is {} old, more than its window of {}, but after an outage, or while half of the fleet is \
             silent at once, that is not evidence (defib_heartbeats_usable is 0)",
            show::age(silent),
            show::age(window)
        ),
        (Some((silent, window)), _) => format!(
            "nothing was recorded against it at that pass; its last sign of life is {} old by now, more than its window of {}",
            show::age(silent),
            show::age(window)
        ),
        (None, _) => match last.filter(|(_, to, _)| *to == Verdict::Alive.label()) {
            Some((at, _, evidence)) => format!(
                "{} (said at {}, and nothing against it since)",
                printable(field(evidence, "because").unwrap_or_default()),
                show::clock(at)
            ),
            None => "nothing accuses it".to_owned(),
        },
    };
    let rule = if silent.is_some() && !external { Rule::RunningNoWitness } else { fresh };
    [Reason::new("because", because), Reason::new("changes", format!("with {}", rule.would_change()))]
}

/// The reason as of the moment of the judgement, and what would change it.
fn accusation(current: &CurrentVerdict, explanation: &Explanation) -> Vec<Reason> {
    let evidence = &current.evidence;
    let because = format!(
        "{} (as of {} ago, rule {})",
        printable(&current.because),
        show::age(current.updated_ago),
        printable(&current.rule)
    );
    let mut lines = vec![Reason::new("because", because)];
    if let Some(id) = evidence.pointer("/sample/incarnation/container_id").and_then(Value::as_str) {
        let id: String = printable(id).chars().take(12).collect();
        let started = evidence.pointer("/sample/incarnation/started_at").and_then(Value::as_str);
        let started = started.map_or_else(String::new, |at| format!(", started {}", show::clock_of(at)));
        lines.push(Reason::new("seen", format!("container {id}{started}")));
    }
    if let Some(change) = field(evidence, "would_change") {
        lines.push(Reason::new("changes", format!("with {}", printable(change))));
    }
    if let Some(label) = &current.held {
        let known = Held::ALL.iter().find(|known| known.label() == label);
        let sentence = known.map_or_else(|| printable(label), |held| held.sentence().to_owned());
        lines.push(Reason::new("held", format!("{}: {sentence}", printable(label))));
        lines.push(Reason::new("ends", ends(label, current, explanation)));
    }
    lines
}

/// What ends a hold.
fn ends(held: &str, current: &CurrentVerdict, explanation: &Explanation) -> String {
    let retry = current.evidence.get("retry_in_seconds").and_then(Value::as_f64);
    let retry = retry.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let left = retry.map(|retry| retry.saturating_sub(current.updated_ago));
    let in_time = left.map_or_else(
        || "by itself".to_owned(),
        |left| {
            if left.is_zero() { "with the next pass".to_owned() } else { format!("by itself, in {}", show::age(left)) }
        },
    );
    match held {
        "operator" => {
            let expires = explanation.holds.iter().map(|hold| hold.expires_at).max_by_key(Option::is_none);
            match expires {
                Some(Some(at)) => format!("by itself at {}, or with `defib release`", show::clock(at)),
                Some(None) => "with `defib release`".to_owned(),
                None => "with the next pass: no hold stands any more".to_owned(),
            }
        }
        "backoff" => format!("{in_time}; `defib ack` ends it now"),
        "exhausted" => format!("with a recovery or `defib ack`; one more try is made {in_time}"),
        "storm" => "when its turn comes, or with `defib storm end`".to_owned(),
        "engine_returned" => "by itself, one DEFIB_DEAD_WINDOW after the engine came back".to_owned(),
        "observe" => "when it is no longer only observed (DEFIB_MODE, or `mode` of its own settings)".to_owned(),
        "report_only" => "when the action is `restart` (DEFIB_WEDGED_ACTION, DEFIB_UNHEALTHY_ACTION); `defib restart` restarts it now".to_owned(),
        "second_witness" => "when a second witness agrees; `defib restart` restarts it now".to_owned(),
        "queued" => "when one of those that are being restarted there has ended".to_owned(),
        "start_unknown" => "with the next look at its container".to_owned(),
        "cannot_recreate" => {
            "when a container with its name or label exists again, or with a defib that has the platform's own restart (DEFIB_PLATFORM_URL)".to_owned()
        }
        "cannot_restart" => "when it lives again, or with a defib that was started with one of these settings".to_owned(),
        _ => in_time,
    }
}

/// What happened, in a sentence that begins with its kind.
pub(crate) fn line(what: &TimelineWhat) -> String {
    match what {
        TimelineWhat::Verdict { from, to, evidence } => {
            let because = field(evidence, "because").unwrap_or_default();
            let rule = field(evidence, "rule").unwrap_or_default();
            let held = field(evidence, "held").map_or_else(String::new, |held| format!(" [held: {held}]"));
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
            let because = field(evidence, "because").unwrap_or_default();
            printable(&format!(
                "restart    attempt {attempt} of container {container} claimed by {} as {verdict}: {because}",
                claimed_by.as_deref().unwrap_or("a replica without a name")
            ))
        }
        TimelineWhat::LastWords { words, .. } => last_words(words),
        TimelineWhat::Finished { outcome, error, .. } => {
            let error = error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
            printable(&format!("restart    {outcome}{error}"))
        }
        TimelineWhat::Recovered { .. } => "restart    recovered: a heartbeat newer than the restart".to_owned(),
        TimelineWhat::Acknowledged { by, .. } => {
            let by = by.as_deref().map_or_else(String::new, |by| format!(" by {by}"));
            printable(&format!("operator   acknowledged{by}; its attempts no longer count"))
        }
        TimelineWhat::Suspected { reporter, reason, http_status, detail, taken, finding } => {
            let status = http_status.map_or_else(String::new, |status| format!(" (HTTP {status})"));
            let detail = detail.as_deref().map_or_else(String::new, |detail| format!(": {detail}"));
            let found = match (taken, finding) {
                (_, Some(finding)) => format!("; the look found: {finding}"),
                (Some((_, after)), None) => format!("; taken {} ms later", after.as_millis()),
                (None, None) => "; no daemon has taken it yet".to_owned(),
            };
            printable(&format!("suspicion  by {reporter}: {reason}{status}{detail}{found}"))
        }
        TimelineWhat::Ordered { by, reason, force } => {
            let force = if *force { " by force" } else { "" };
            printable(&format!("operator   {by} ordered a restart{force}: {reason}"))
        }
        TimelineWhat::Answered { done, answer } => {
            printable(&format!("operator   the order was {}carried out: {answer}", if *done { "" } else { "not " }))
        }
        TimelineWhat::Held { scope, owner, reason, .. } => {
            printable(&format!("operator   {owner} held restarts ({scope}): {reason}"))
        }
        TimelineWhat::Released { scope, owner, by } => {
            let by = by.as_deref().map_or_else(String::new, |by| format!(" by {by}"));
            printable(&format!("operator   hold of {owner} released{by} ({scope})"))
        }
    }
}

pub(crate) fn field<'a>(evidence: &'a Value, key: &str) -> Option<&'a str> {
    evidence.get(key)?.as_str()
}

/// The whole as JSON, for programs.
pub(crate) fn as_json(explanation: &Explanation, voices: &Voices) -> Value {
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
            TimelineWhat::LastWords { id, words } => json!({
                "what": "last_words", "attempt_id": id, "exit_code": words.exit_code, "oom_killed": words.oom_killed,
                "finished_at": words.finished_at, "health": words.health, "log": words.log, "log_fault": words.log_fault
            }),
            TimelineWhat::Finished { id, outcome, error } => {
                json!({ "what": "finished", "attempt_id": id, "outcome": outcome, "error": error })
            }
            TimelineWhat::Recovered { id } => json!({ "what": "recovered", "attempt_id": id }),
            TimelineWhat::Acknowledged { id, by } => json!({ "what": "acknowledged", "attempt_id": id, "by": by }),
            TimelineWhat::Suspected { reporter, reason, http_status, detail, taken, finding } => json!({
                "what": "suspected", "reporter": reporter, "reason": reason, "http_status": http_status, "detail": detail,
                "taken_after_seconds": taken.as_ref().map(|(_, after)| after.as_secs_f64()), "finding": finding
            }),
            TimelineWhat::Ordered { by, reason, force } => {
                json!({ "what": "ordered", "by": by, "reason": reason, "force": force })
            }
            TimelineWhat::Answered { done, answer } => json!({ "what": "answered", "done": done, "answer": answer }),
            TimelineWhat::Held { scope, owner, reason, expires_at } => json!({
                "what": "held", "scope": scope, "owner": owner, "reason": reason, "expires_at": expires_at
            }),
            TimelineWhat::Released { scope, owner, by } => {
                json!({ "what": "released", "scope": scope, "owner": owner, "by": by })
            }
        };
        if let Some(object) = what.as_object_mut() {
            object.insert("at".to_owned(), json!(entry.at));
        }
        what
    };
    let row = explanation.workspace.as_ref();
    let standing = row.map(|row| voices.of(row));
    let judged = match &standing {
        Some(Standing::Judged(judged)) => Some(judged),
        _ => None,
    };
    let why_not = match &standing {
        Some(Standing::NotJudged(why)) => Some(why.as_str()),
        _ => None,
    };
    let current = judged.and_then(|judged| judged.current);
    let learned = explanation.learned.as_ref();
    json!({
        "now": explanation.now,
        "workspace_id": row.map(|row| &row.id),
        "status": row.and_then(|row| row.status.as_ref()),
        "suspended": row.and_then(|row| row.suspended),
        "standing": standing.as_ref().map(Standing::word),
        "judged": judged.is_some(),
        "judged_by": judged.map(|judged| judged.by.name.as_str()),
        "judged_at": judged.map(|judged| judged.at),
        "mode": judged.and_then(|judged| judged.by.mode.as_deref()),
        "not_judged_because": why_not,
        "container_id": learned.and_then(|learned| learned.container_id.as_ref()).map(ContainerId::as_str),
        "container_started_at": learned.and_then(|learned| learned.started_at),
        "window_seconds": learned.and_then(|learned| learned.window).map(|window| window.as_secs_f64()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::told::golden;

    fn told(row: StatusRow) -> String {
        text(&row.id.clone(), &golden::explanation(row), &golden::voices(golden::said()))
    }

    #[test]
    fn explain_says_of_a_held_and_of_a_living_workspace_what_was_approved() {
        let [alive, dead, ..] = &golden::fleet()[..] else { panic!("no fleet") };
        golden::matches("explain-dead", &told(dead.clone()));
        golden::matches("explain-alive", &told(alive.clone()));
    }

    #[test]
    fn no_verdict_is_told_of_a_workspace_that_no_daemon_judges() {
        let fleet = golden::fleet();
        for (id, part) in [
            ("w5", "not judged, never restarted: engine gpv is in no replica's DEFIB_ENGINES"),
            ("w6", "suspended: it, or one above it, was put away"),
            ("w10", "not watched: status failed is in no DEFIB_WATCHED_STATUSES"),
            ("w11", "not judged, never restarted: it is newer than the last pass of r1"),
            ("w12", "not judged, never restarted: its row breaks the contract of defib.fleet: created_at is infinite"),
            ("laptop", "not judged, never restarted: r1 has not made a pass over those without an engine yet"),
        ] {
            let row = fleet.iter().find(|row| row.id == id).unwrap();
            let text = told(row.clone());
            assert!(text.contains(part) && !text.contains("verdict:"), "{text}");
        }
    }

    #[test]
    fn a_stale_heartbeat_of_one_alive_is_explained_only_by_what_is_known() {
        let silent = StatusRow { heartbeat_ago: Some(golden::seconds(3_600)), ..golden::row("w1") };
        let unusable = |usable| {
            let mut said = golden::said();
            said.replicas[0].heartbeats_usable = Some(usable);
            text("w1", &golden::explanation(silent.clone()), &golden::voices(said))
        };
        assert!(unusable(false).contains("that is not evidence (defib_heartbeats_usable is 0)"));
        assert!(
            unusable(true).contains("nothing was recorded against it at that pass")
                && !unusable(true).contains("usable")
        );
    }

    #[test]
    fn every_reason_to_hold_back_says_what_ends_it() {
        for held in Held::ALL {
            let current = golden::verdict("dead", "stopped_stale", "b", Some(held.label()));
            let explanation = golden::explanation(golden::row("w1"));
            let told = ends(held.label(), &current, &explanation);
            assert!(told != "by itself" && !told.is_empty(), "{}: {told}", held.label());
        }
    }
}
