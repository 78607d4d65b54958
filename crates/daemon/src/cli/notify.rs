//! `defib notify`, and what `defib check` says of the webhook.

use anyhow::Context as _;
use defib_store::Store;
use ring::rand::{SecureRandom, SystemRandom};

use super::Ended;
use super::findings::Findings;
use crate::clock;
use crate::config::Config;
use crate::logging::{chain, printable};
use crate::refused::Refused;
use crate::told::show;
use crate::told::webhook::line;
use crate::webhook::body::Told;
use crate::webhook::hex;
use crate::webhook::kinds::TEST;
use crate::webhook::send::{Sender, Sent, WITHIN};

/// `defib notify test`: one message, past the outbox.
pub(super) async fn test(config: &Config) -> anyhow::Result<Ended> {
    let Some(webhook) = &config.webhook else {
        return Err(Refused("DEFIB_WEBHOOK_URL is not set, so there is nobody to send to".to_owned()).into());
    };
    let host = printable(&webhook.host);
    let sender = Sender::new(webhook.clone()).context("the webhook")?;
    if sender.lacks_roots() {
        complain!(
            "defib: this system has no root certificates, so no https:// address can be trusted; install ca-certificates"
        );
        return Ok(Ended::Failed);
    }
    let id = message_id().map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    let told = Told {
        kind: TEST.to_owned(),
        at: clock::wall(),
        workspace: None,
        engine: None,
        data: serde_json::json!({ "replica": config.replica_id, "version": env!("CARGO_PKG_VERSION") }),
    };
    Ok(match sender.send(&id, &told).await {
        Sent::Delivered { answer } => {
            say!("{host} took the message {id}, and answered {}", printable(&answer));
            Ended::Well
        }
        Sent::Refused { answer, .. } => {
            say!(
                "{host} refused the message {id}: {}. Is the URL right, and does the receiver have the same secret?",
                printable(&answer)
            );
            Ended::Failed
        }
        Sent::Away { answer, retry_after } => {
            let pause =
                retry_after.map_or_else(String::new, |pause| format!("; it asks for a pause of {}", show::age(pause)));
            say!(
                "{host} did not take the message {id} (it has {} to answer): {}{pause}",
                show::age(WITHIN),
                printable(&answer)
            );
            Ended::Failed
        }
        Sent::Gone { answer } => {
            say!("{host} wants no more messages: {}. `defib run` would turn the webhook off", printable(&answer));
            Ended::Failed
        }
    })
}

/// `defib notify resume`.
pub(super) async fn resume(store: &Store) -> anyhow::Result<Ended> {
    match store.resume_webhook().await? {
        None => {
            complain!("defib: no daemon has ever had a webhook here: give `defib run` DEFIB_WEBHOOK_URL");
            return Ok(Ended::Failed);
        }
        Some(true) => say!("the webhook is on again; what still waits is sent now"),
        Some(false) => say!("the webhook was on; if it waited out a pause, what waits is sent now"),
    }
    Ok(Ended::Well)
}

/// What `defib check` says. It sends nothing: a check that wrote into somebody's chat would not be run often.
pub(super) async fn check(findings: &mut Findings, config: &Config, store: &Store) {
    let state = match store.webhook().await {
        Ok(state) => state,
        Err(error) => return findings.fail("webhook", &chain(&error)),
    };
    let Some(webhook) = &config.webhook else {
        if state.is_some_and(|state| state.is_wanted) {
            findings.warn("webhook", "running daemons have one and this configuration has none: give all replicas the same DEFIB_WEBHOOK_URL");
        }
        return;
    };
    let host = printable(&webhook.host);
    if Sender::new(webhook.clone()).is_ok_and(|sender| sender.lacks_roots()) {
        findings.warn(
            "webhook",
            "this system has no root certificates, so no https:// address can be trusted. Install ca-certificates",
        );
    }
    let what = webhook.events.as_ref().map_or_else(|| "everything".to_owned(), |events| events.join(", "));
    match &state {
        Some(state) if state.is_wanted && state.target != webhook.target => findings.warn(
            "webhook",
            &format!(
                "running daemons have another URL or format (that of {}): give all replicas the same",
                printable(&state.host)
            ),
        ),
        Some(state) if state.target == webhook.target && (state.off.is_some() || state.failures > 0) => {
            findings.warn("webhook", &line(Some(state)).unwrap_or_default());
        }
        _ => findings.well(
            "webhook",
            &format!("{host} is told {what} ({}); `defib notify test` sends one message", webhook.format.label()),
        ),
    }
    if let Some(state) = state.filter(|state| state.lost > 0) {
        findings.note(
            "webhook",
            &format!(
                "{} messages could not be written since the schema was made: defib.outbox was locked or full then",
                state.lost
            ),
        );
    }
}

/// A new `webhook-id`.
fn message_id() -> Result<String, ring::error::Unspecified> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new().fill(&mut bytes)?;
    Ok(format!("msg_{}", hex(&bytes)))
}
