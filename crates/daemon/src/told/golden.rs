//! The made-up fleet whose `status` and `explain` are kept word by word in `golden/*.txt`.

use std::collections::HashMap;
use std::time::Duration;

use defib_policy::moment::Timestamp;
use defib_store::{
    CadenceRow, CurrentVerdict, EngineSaid, Explanation, Hold, HoldScope, LastRestart, LastWords, Lease, ReplicaSaid,
    Said, StatusRow, TimelineEntry, TimelineWhat,
};
use serde_json::{Value, json};

use super::standing::Voices;
pub(crate) use crate::golden_file::matches;

const NOW: Timestamp = Timestamp(1_764_000_000_000_000);

pub(crate) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn row(id: &str) -> StatusRow {
    StatusRow {
        id: id.to_owned(),
        name: None,
        status: Some("online".to_owned()),
        kind: Some("container".to_owned()),
        engine: Some("default".to_owned()),
        suspended: Some(false),
        heartbeat_ago: Some(seconds(12)),
        created_ago: Some(seconds(86_400)),
        verdict: None,
        last_restart: None,
    }
}

pub(crate) fn verdict(verdict: &str, rule: &str, because: &str, held: Option<&str>) -> CurrentVerdict {
    CurrentVerdict {
        verdict: verdict.to_owned(),
        since_ago: seconds(252),
        rule: rule.to_owned(),
        because: because.to_owned(),
        evidence: json!({
            "would_change": "a sample that finds it running",
            "retry_in_seconds": 40.0,
            "sample": { "incarnation": { "container_id": "c0ffee0123456789abcd", "started_at": "2025-11-24T10:00:00.000000Z" } },
            "own_settings": ["threshold 3 (of the fleet: 2)"],
        }),
        held: held.map(str::to_owned),
        updated_ago: seconds(3),
    }
}

pub(crate) fn replica(name: &str, mode: &str) -> ReplicaSaid {
    ReplicaSaid {
        name: name.to_owned(),
        engines: vec!["default".to_owned(), "gpu".to_owned()],
        mode: Some(mode.to_owned()),
        version: Some("0.2.0".to_owned()),
        watched_statuses: Some(["online", "degraded", "offline"].map(str::to_owned).to_vec()),
        heartbeats_usable: Some(true),
        started_ago: seconds(7_384),
        last_pass_ago: Some(seconds(2)),
        gone_for: None,
    }
}

pub(crate) fn engine(name: &str, holder: &str) -> EngineSaid {
    EngineSaid {
        name: name.to_owned(),
        holder: holder.to_owned(),
        fault: None,
        asked_ago: seconds(2),
        judged: 6,
        storm: None,
        last_pass_at: NOW,
        last_pass_ago: seconds(2),
        overdue_for: None,
    }
}

pub(crate) fn lease(engine: &str, holder: &str) -> Lease {
    Lease { engine: engine.into(), holder: holder.to_owned(), epoch: 3, expires_in: seconds(12) }
}

/// Two replicas, of which one owns everything; an engine that does not answer and is in a storm.
pub(crate) fn said() -> Said {
    let storm = json!({ "since_seconds": 40, "batch": 3, "canaries": ["g1", "g7"], "waiting": 5 });
    Said {
        now: NOW,
        replicas: vec![replica("r1", "enforce"), replica("r2", "observe")],
        engines: vec![
            engine("default", "r1"),
            EngineSaid { fault: Some("timed_out".to_owned()), storm: Some(storm), ..engine("gpu", "r1") },
        ],
        leases: vec![lease("default", "r1"), lease("gpu", "r1")],
    }
}

/// No daemon runs, because the last one was killed.
pub(crate) fn killed() -> Said {
    Said {
        replicas: vec![ReplicaSaid { gone_for: Some(seconds(40)), ..replica("r1", "enforce") }],
        engines: Vec::new(),
        leases: Vec::new(),
        ..said()
    }
}

pub(crate) fn voices(said: Said) -> Voices {
    Voices::of_a_picture(said, HashMap::from([("w12".to_owned(), "created_at is infinite")]))
}

/// A fleet with a workspace of each kind of standing.
pub(crate) fn fleet() -> Vec<StatusRow> {
    let dead =
        verdict("dead", "stopped_stale", "container stopped (exit 137), heartbeat stale for 80 s", Some("backoff"));
    let on = |engine: &str, row: StatusRow| StatusRow { engine: Some(engine.to_owned()), ..row };
    let is = |status: &str, row: StatusRow| StatusRow { status: Some(status.to_owned()), ..row };
    let restart = LastRestart {
        id: 7,
        attempt: 2,
        outcome: Some("succeeded".to_owned()),
        claimed_ago: seconds(300),
        recovered_ago: None,
    };
    vec![
        StatusRow { name: Some("first agent".to_owned()), ..row("w1") },
        StatusRow { verdict: Some(dead), last_restart: Some(restart), heartbeat_ago: Some(seconds(90)), ..row("w2") },
        StatusRow {
            verdict: Some(verdict("busy", "running_busy", "runs; heartbeat stale for 80 s, 2 tasks active", None)),
            ..row("w3")
        },
        on(
            "gpu",
            StatusRow {
                verdict: Some(verdict("unknown", "no_answer", "its engine gave no answer (timed_out)", None)),
                ..row("w4")
            },
        ),
        on("gpv", row("w5")),
        is("paused", StatusRow { suspended: Some(true), heartbeat_ago: None, ..row("w6") }),
        is("failed", row("w10")),
        StatusRow { created_ago: Some(seconds(1)), ..row("w11") },
        row("w12"),
        StatusRow { kind: Some("external".to_owned()), ..row("laptop") },
    ]
}

pub(crate) fn hold() -> Hold {
    Hold {
        id: 1,
        scope: HoldScope::Engine("gpu".into()),
        owner: "ada".to_owned(),
        reason: "upgrade of the host".to_owned(),
        created_at: NOW,
        expires_at: Some(Timestamp(NOW.0 + 3_540_000_000)),
        expires_in: Some(seconds(3_540)),
    }
}

pub(crate) fn explanation(row: StatusRow) -> Explanation {
    let at = |seconds: i64, what| TimelineEntry { at: Timestamp(NOW.0 - seconds * 1_000_000), what };
    let evidence: Value =
        json!({ "because": "container stopped (exit 137), heartbeat stale for 80 s", "rule": "stopped_stale" });
    Explanation {
        now: NOW,
        policy: Some("{\"threshold\": 3}".to_owned()),
        container_ref: Some("agent-w2".to_owned()),
        instance_ref: None,
        last_heartbeat_ago: row.heartbeat_ago,
        last_activity_ago: None,
        active_tasks: Some(0),
        learned: Some(CadenceRow {
            workspace: row.id.as_str().into(),
            mean_ms: 30_000.0,
            deviation_ms: 3_750.0,
            intervals: 40,
            window: Some(seconds(75)),
            container_id: Some("c0ffee0123456789abcd".into()),
            started_at: Some(Timestamp(NOW.0 - 86_400_000_000)),
            own_settings: vec!["threshold 3 (of the fleet: 2)".to_owned()],
        }),
        holds: Vec::new(),
        timeline: vec![
            at(
                300,
                TimelineWhat::Suspected {
                    reporter: "proxy-1".to_owned(),
                    reason: "connection refused".to_owned(),
                    http_status: Some(502),
                    detail: None,
                    taken: Some(("defib".to_owned(), Duration::from_millis(8))),
                    finding: Some("dead (stopped_stale)".to_owned()),
                },
            ),
            at(
                299,
                TimelineWhat::Verdict {
                    from: Some("alive".to_owned()),
                    to: "dead".to_owned(),
                    evidence: evidence.clone(),
                },
            ),
            at(
                299,
                TimelineWhat::Claimed {
                    id: 7,
                    attempt: 1,
                    container_id: Some("c0ffee0123456789abcd".to_owned()),
                    verdict: "dead".to_owned(),
                    claimed_by: Some("r1".to_owned()),
                    evidence,
                },
            ),
            at(
                299,
                TimelineWhat::LastWords {
                    id: 7,
                    words: LastWords {
                        exit_code: Some(137),
                        oom_killed: true,
                        finished_at: Some(Timestamp(NOW.0 - 301_000_000)),
                        health: Some("health check, exit code 1: no answer on port 80".to_owned()),
                        log: Some("loading the model\nallocating 4 GiB".to_owned()),
                        log_fault: None,
                    },
                },
            ),
            at(
                298,
                TimelineWhat::Finished { id: 7, outcome: "failed".to_owned(), error: Some("no such image".to_owned()) },
            ),
            at(
                200,
                TimelineWhat::Ordered {
                    by: "ada (login ada)".to_owned(),
                    reason: "its user waits".to_owned(),
                    force: true,
                },
            ),
            at(199, TimelineWhat::Answered { done: false, answer: "the engine refused: no such image".to_owned() }),
            at(100, TimelineWhat::Acknowledged { id: 7, by: Some("ben (login ben_of_ops)".to_owned()) }),
        ],
        workspace: Some(row),
    }
}
