//! Workspaces, engines, replicas, holds, restarts and counts as JSON.

use std::time::Duration;

use defib_store::{Hold, ReplicaSaid, RestartRow, StatusRow};
use serde_json::{Map, Value, json};

use crate::told::groups::Group;
use crate::told::picture::{Counts, FleetPicture, Word};
use crate::told::standing::Voices;
use crate::told::status;

fn seconds(age: Duration) -> f64 {
    age.as_secs_f64()
}

/// Every word with its count, also those with a count of zero, so that a client can rely on each key.
pub(super) fn counts(counts: &Counts) -> Value {
    Value::Object(Word::all().map(|word| (word.label().to_owned(), json!(counts.of(word)))).collect::<Map<_, _>>())
}

/// As `defib status --format json` has it, but without the evidence: that is for one workspace at a time.
pub(super) fn workspace(row: &StatusRow, picture: &FleetPicture) -> Value {
    let mut body = status::as_json(row, &picture.voices.of(row), &picture.holds);
    if let Some(fields) = body.as_object_mut() {
        fields.remove("evidence");
    }
    body
}

pub(super) fn replica(said: &ReplicaSaid, voices: &Voices) -> Value {
    let leases = voices.said.leases.iter().filter(|lease| lease.holder == said.name);
    json!({
        "name": said.name,
        "mode": said.mode,
        "version": said.version,
        "engines": said.engines,
        "owns": leases.map(|lease| lease.engine.as_str()).collect::<Vec<_>>(),
        "watched_statuses": said.watched_statuses,
        "heartbeats_usable": said.heartbeats_usable,
        "started_seconds_ago": seconds(said.started_ago),
        "last_pass_seconds_ago": said.last_pass_ago.map(seconds),
        "gone_for_seconds": said.gone_for.map(seconds),
    })
}

pub(super) fn engine(group: &Group, picture: &FleetPicture) -> Value {
    let external = group.engine.is_empty();
    let judge = picture.voices.judge(&group.engine, external);
    let word = judge.as_ref().ok().map(|(_, word)| *word);
    let lease = picture.voices.said.leases.iter().find(|lease| lease.engine.as_str() == group.engine);
    json!({
        "name": (!external).then_some(&group.engine),
        "judged": word.is_some(),
        "not_judged_because": judge.as_ref().err(),
        "owner": lease.map(|lease| lease.holder.as_str()),
        "epoch": lease.map(|lease| lease.epoch),
        "lease_expires_in_seconds": lease.map(|lease| seconds(lease.expires_in)),
        "answers": word.map(|word| word.fault.is_none()),
        "fault": word.and_then(|word| word.fault.as_deref()),
        "asked_seconds_ago": word.map(|word| seconds(word.asked_ago)),
        "last_pass_at": word.map(|word| word.last_pass_at),
        "storm": word.and_then(|word| word.storm.as_ref()),
        "held": picture.holds_on_engine(&group.engine).next().is_some(),
        "workspaces": group.rows.len(),
        "troubled": group.troubled,
        "counts": counts(&group.counts),
    })
}

pub(super) fn hold(hold: &Hold) -> Value {
    let (scope, target) = hold.scope.parts();
    json!({
        "id": hold.id,
        "scope": scope,
        "target": target,
        "owner": hold.owner,
        "reason": hold.reason,
        "created_at": hold.created_at,
        "expires_at": hold.expires_at,
        "expires_in_seconds": hold.expires_in.map(seconds),
    })
}

pub(super) fn restart(row: &RestartRow) -> Value {
    json!({
        "id": row.id,
        "workspace_id": row.workspace_id,
        "engine": row.engine,
        "container_id": row.container_id,
        "attempt": row.attempt,
        "verdict": row.verdict,
        "because": row.because,
        "claimed_by": row.claimed_by,
        "claimed_at": row.claimed_at,
        "finished_at": row.finished_at,
        "outcome": row.outcome,
        "error": row.error,
        "recovered_at": row.recovered_at,
        "acknowledged_at": row.acknowledged_at,
    })
}
