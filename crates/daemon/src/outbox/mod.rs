//! The deliverer: sends what `defib.outbox` holds to the operator's webhook. Nothing waits for it.
//!
//! Each replica that has the webhook runs one, and sends one message at a time. A message that a replica has taken is left to it until it
//! is delivered, or until the replica has been gone for half a minute. So when a replica is killed, one message at most is repeated, under
//! the same `webhook-id`, and none is lost. Failures of the receiver are recorded in the tables, so all replicas pause together.

use std::sync::Arc;
use std::time::Duration;

use defib_store::{Message, NotDelivered, Store, StoreError, WebhookRow, WebhookState, crash_point};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::logging::{database_fault, printable};
use crate::metrics::Metrics;
use crate::state::State;
use crate::webhook::body::Told;
use crate::webhook::result::Delivery;
use crate::webhook::send::{Sender, Sent};

/// How often the outbox is read. Larger: messages are sent later by that much. Smaller: more statements that find nothing.
const TURN: Duration = Duration::from_secs(1);

/// How often storms are gathered and the metrics are brought up to date.
const GATHER: Duration = Duration::from_secs(5);

/// How often this daemon writes that it runs with this webhook, and gives up messages that are too old or too many.
const KEEP: Duration = Duration::from_secs(60);

/// Sends what the outbox holds.
pub(crate) struct Outbox {
    pub(crate) state: Arc<State>,
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sender: Sender,
}

/// What was last logged, so that it is logged once.
#[derive(Default)]
struct Noted {
    is_away: bool,
    is_off: bool,
    is_others: bool,
    lost: Option<i64>,
}

impl Noted {
    /// Says in the log that the webhook is off, or that it is on again.
    fn note_off(&mut self, webhook: &WebhookState) {
        let host = printable(&webhook.host);
        match &webhook.off {
            Some((_, why)) if !self.is_off => error!(%host, answer = %printable(why),
                "the webhook is off, because its receiver said that it wants no more messages (410). `defib notify resume` turns it on again; so does the start of a daemon with another URL"),
            None if self.is_off => info!(%host, "the webhook is on again"),
            _ => {}
        }
        self.is_off = webhook.off.is_some();
    }
}

/// When each of the less frequent tasks is due.
struct Due {
    gather: Instant,
    keep: Instant,
    is_configured: bool,
}

impl Outbox {
    /// Sends until `stop`. A message that is under way then is settled first.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let (mut noted, now) = (Noted::default(), Instant::now());
        let mut due = Due { gather: now, keep: now + KEEP, is_configured: false };
        let mut turns = interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = turns.tick() => {}
            }
            if let Err(error) = self.turn(&mut noted, &mut due, &stop).await {
                // That the database cannot be reached is logged elsewhere. While the schema is still being made there is nothing to send.
                debug!(error = %database_fault(&error), "the outbox was not looked into; tried again in a moment");
            }
        }
    }

    async fn turn(&self, noted: &mut Noted, due: &mut Due, stop: &CancellationToken) -> Result<(), StoreError> {
        let now = Instant::now();
        if !due.is_configured {
            self.store.configure_webhook(&self.row()).await?;
            due.is_configured = true;
        }
        if due.keep <= now {
            due.keep = now + KEEP;
            self.keep(noted).await?;
        }
        if due.gather <= now {
            due.gather = now + GATHER;
            self.store.gather_messages().await?;
            self.look(noted).await?;
        }
        while !stop.is_cancelled() {
            let taken = self.store.take_message(&self.state.config.replica_id, &self.sender.webhook.target).await?;
            let Some(message) = taken else { break };
            crash_point!("message_taken");
            self.deliver(&message, noted).await?;
            crash_point!("message_settled");
            if due.gather <= Instant::now() {
                break; // a long queue must not delay the gathering
            }
        }
        Ok(())
    }

    fn row(&self) -> WebhookRow<'_> {
        let webhook = &self.sender.webhook;
        WebhookRow {
            target: &webhook.target,
            host: &webhook.host,
            format: webhook.format.label(),
            events: webhook.events.as_deref(),
            replica: &self.state.config.replica_id,
        }
    }

    async fn keep(&self, noted: &mut Noted) -> Result<(), StoreError> {
        let is_ours = self.store.keep_webhook(&self.sender.webhook.target).await?;
        if !is_ours && self.store.webhook().await?.is_none_or(|other| !other.is_wanted) {
            self.store.configure_webhook(&self.row()).await?; // daemons with another webhook are gone
        } else if !is_ours && !noted.is_others {
            warn!(
                "a daemon that started later has another DEFIB_WEBHOOK_URL or DEFIB_WEBHOOK_FORMAT: that one counts, and this replica sends nothing. Give all replicas the same"
            );
        }
        noted.is_others = !is_ours;
        let given_up = self.store.bound_outbox().await?;
        if given_up.expired + given_up.dropped > 0 {
            warn!(
                expired = given_up.expired,
                dropped = given_up.dropped,
                "messages for the webhook were given up: they were a day old, or there were too many"
            );
        }
        self.metrics.told(Delivery::Expired, given_up.expired);
        self.metrics.told(Delivery::Dropped, given_up.dropped);
        Ok(())
    }

    /// Brings the metrics up to date. The numbers are those of the whole fleet, so only the replica that speaks for the fleet exports them.
    async fn look(&self, noted: &mut Noted) -> Result<(), StoreError> {
        let Some(webhook) = self.store.webhook().await? else { return Ok(()) };
        let speaks = self.state.ownership().fleet(self.state.now()).is_some();
        self.metrics.outbox(speaks.then_some(&webhook).map(|it| (it.pending, it.lost, it.off.is_some())));
        let before = noted.lost.replace(webhook.lost);
        if before.is_some_and(|before| before < webhook.lost) {
            warn!(
                lost = webhook.lost,
                "messages for the webhook could not be written, because defib.outbox was locked or cannot be written to"
            );
        }
        noted.note_off(&webhook);
        Ok(())
    }

    async fn deliver(&self, message: &Message, noted: &mut Noted) -> Result<(), StoreError> {
        let told = Told {
            kind: message.kind.clone(),
            at: message.happened_at,
            workspace: message.workspace.clone(),
            engine: message.engine.clone(),
            data: message.data.clone(),
        };
        let (replica, host) = (&self.state.config.replica_id, &self.sender.webhook.host);
        match self.sender.send(&message.message_id, &told).await {
            Sent::Delivered { answer } => {
                crash_point!("message_sent");
                if noted.is_away {
                    info!(%host, "the webhook's receiver answers again");
                }
                noted.is_away = false;
                debug!(kind = message.kind, id = message.message_id, "a message was delivered");
                self.metrics.told(Delivery::Delivered, 1);
                self.store.message_delivered(message.id, replica, &answer).await
            }
            Sent::Away { answer, retry_after } => {
                if !noted.is_away {
                    warn!(%host, answer = %printable(&answer), "the webhook's receiver does not take messages; they wait for a day at most, and restarts go on");
                }
                noted.is_away = true;
                self.metrics.told(Delivery::Failed, 1);
                let why = NotDelivered { answer: &answer, is_receivers: true, retry_after };
                self.store.message_failed(message.id, replica, why).await
            }
            Sent::Refused { answer, retry_after } => {
                if message.tries == 0 {
                    warn!(%host, answer = %printable(&answer), kind = message.kind, id = message.message_id, "the webhook's receiver refuses a message; it is tried again, and later ones about the same subject wait");
                }
                self.metrics.told(Delivery::Refused, 1);
                let why = NotDelivered { answer: &answer, is_receivers: false, retry_after };
                self.store.message_failed(message.id, replica, why).await
            }
            Sent::Gone { answer } => {
                self.metrics.told(Delivery::Off, 1);
                self.store.turn_webhook_off(message.id, replica, &self.sender.webhook.target, &answer).await?;
                self.look(noted).await
            }
        }
    }
}
