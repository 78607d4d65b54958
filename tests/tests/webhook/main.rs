//! The webhook: `defib run` as a black box, with a receiver that takes messages, fails, hangs, asks for pauses and goes away.

#![allow(clippy::float_cmp, reason = "Prometheus writes counts as floats; they are whole")]

mod crashes;
mod receivers;
mod signatures;
mod storms;

use std::time::Duration;

use anyhow::{Context, Result};
use defib_testkit::scripted_control_plane::ApiRequest;
use defib_testkit::{ScriptedEngine, WebhookReceiver, eventually};
use defib_tests::{SOON, Stage};
use serde_json::Value;

/// The secret that messages are signed with from now on, and the one before.
const SECRETS: [&str; 2] = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"];

/// A stage whose daemons have this webhook.
async fn stage(engine: &ScriptedEngine, receiver: &WebhookReceiver) -> Result<Stage> {
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats();
    Ok(stage.knob("WEBHOOK_URL", &receiver.url()).knob("WEBHOOK_SECRET", &SECRETS.join(" ")))
}

/// The body of a message.
fn body(message: &ApiRequest) -> Result<Value> {
    serde_json::from_str(&message.body).with_context(|| message.body.clone())
}

fn id(message: &ApiRequest) -> &str {
    message.headers.get("webhook-id").map(String::as_str).unwrap_or_default()
}

/// Types and workspaces of what was taken, in its order.
fn told(receiver: &WebhookReceiver) -> Vec<String> {
    let shown = |message: &ApiRequest| {
        let body = body(message).unwrap_or_default();
        let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        format!("{} {}", word(&body["type"]), word(&body["data"]["workspace_id"]))
    };
    receiver.taken().iter().map(shown).collect()
}

/// Waits until exactly this has been taken.
async fn wait_until_told(receiver: &WebhookReceiver, expected: &[&str], deadline: Duration) -> Result<()> {
    eventually(deadline, "the receiver was told", async || {
        let told = told(receiver);
        if told == expected { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await
}

/// An operator's hold on a workspace, which need not exist. It is the simplest event that makes a message.
async fn hold(stage: &Stage, workspace: &str) -> Result<()> {
    stage.db.execute(&format!("select defib.place_hold('workspace', '{workspace}', 'for a test')")).await
}

/// Waits until the webhook is in the tables. Before that, no messages are written.
async fn wait_until_wanted(stage: &Stage) -> Result<()> {
    eventually(SOON, "the daemon says that it has a webhook", async || {
        match stage.db.count("select count(*) from defib.webhook where wanted_until > now()").await {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}
