//! The outbox, `defib.outbox`: what the webhook is still owed, and how the webhook fares (`defib.webhook`).
//!
//! ```text
//! finish, recovered, mark_lost, verdicts, storms, holds ── defib.tell() ──► defib.outbox      in the transaction of what is told
//!                                                                               │
//!                        gather_messages: of a storm, one digest instead of many│
//!                                                                               ▼
//!                        take_message ──► (the deliverer sends it) ──► delivered, failed, or turned off
//! ```
//!
//! A message is taken for a while and sent outside of any transaction, so a receiver that hangs holds no lock. It is deleted when the receiver
//! has it. A replica that dies in between leaves it taken; after [`TAKEN_FOR`] another one sends it again, under the same `webhook-id`.

use std::time::Duration;

use defib_policy::moment::Timestamp;
use serde_json::Value;
use tokio_postgres::types::Type;

use crate::Store;
use crate::decode::{beginning, micros, optional_timestamp, text, timestamp};
use crate::error::{Fault, StoreError};

/// How long a message that a replica has taken is left to it. This must be longer than any delivery takes. Larger: a message waits longer
/// if the replica that took it was killed.
pub const TAKEN_FOR: Duration = Duration::from_secs(30);

/// For how long messages are still written after a daemon last said that it has a webhook. Shorter: what an operator does while all daemons
/// are being restarted is not told. Longer: rows are written for nobody after the webhook was taken out of the configuration.
pub const WANTED_FOR: Duration = Duration::from_secs(900);

/// A message that could not be delivered for this long is given up.
pub const EXPIRES_AFTER: Duration = Duration::from_secs(86_400);

/// Rows of `defib.outbox`, at most. Beyond it the oldest are given up.
pub const PENDING_MAX: i64 = 10_000;

/// Messages of one type and engine in a storm that are still sent one by one. More become a digest.
pub const DIGEST_ABOVE: i64 = 10;

/// How long news of a storm waits for more of its kind, if the storm does not end before.
pub const GATHERED_FOR: Duration = Duration::from_secs(60);

/// Ids of workspaces that a digest names.
const NAMED_MAX: i32 = 50;

/// Characters of an answer that are kept.
const ANSWER_MAX: usize = 300;

/// The webhook of this daemon.
#[derive(Clone, Copy, Debug)]
pub struct WebhookRow<'a> {
    /// Distinguishes webhooks without telling their address: a hash of URL and format.
    pub target: &'a str,
    /// The host, for people.
    pub host: &'a str,
    /// `DEFIB_WEBHOOK_FORMAT`.
    pub format: &'a str,
    /// The types that are sent; `None`: all.
    pub events: Option<&'a [String]>,
    /// This replica.
    pub replica: &'a str,
}

/// A message that was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The row.
    pub id: i64,
    /// The header `webhook-id`.
    pub message_id: String,
    /// What is told.
    pub kind: String,
    /// About which workspace, if about one.
    pub workspace: Option<String>,
    /// On which engine, if on one.
    pub engine: Option<String>,
    /// The rest of what is told.
    pub data: Value,
    /// When it happened.
    pub happened_at: Timestamp,
    /// Attempts before this one.
    pub tries: i32,
}

/// Why a message was not delivered.
#[derive(Clone, Copy, Debug)]
pub struct NotDelivered<'a> {
    /// What came back, in words.
    pub answer: &'a str,
    /// Whether the receiver is away or asks for a pause. Then all messages wait. Otherwise it has refused this message alone.
    pub is_receivers: bool,
    /// The pause that it asks for.
    pub retry_after: Option<Duration>,
}

/// What was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenUp {
    /// Because they were older than [`EXPIRES_AFTER`].
    pub expired: u64,
    /// Because there were more than [`PENDING_MAX`].
    pub dropped: u64,
}

/// How the webhook fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookState {
    /// Which webhook it is, as in [`WebhookRow::target`].
    pub target: String,
    /// Its host.
    pub host: String,
    /// `standard` or `slack`.
    pub format: String,
    /// Which replica has configured it.
    pub configured_by: String,
    /// Whether a running daemon has it.
    pub is_wanted: bool,
    /// Since when nothing is sent because the receiver answered 410, and what it answered; `None`: it is on.
    pub off: Option<(Duration, String)>,
    /// Attempts in a row that the receiver did not answer, or answered with a fault of its own.
    pub failures: i32,
    /// For how long from now no attempt is made.
    pub paused_for: Option<Duration>,
    /// What came of the last attempt, and how long ago.
    pub answer: Option<(String, Duration)>,
    /// How long ago a message was last delivered.
    pub delivered_ago: Option<Duration>,
    /// Messages that wait.
    pub pending: i64,
    /// How long the oldest of them has waited.
    pub oldest_ago: Option<Duration>,
    /// Messages that could not be written, since the schema was made.
    pub lost: i64,
}

/// Another URL is another receiver, so the answers of the earlier one no longer count.
const CONFIGURE: &str = "
    insert into defib.webhook as w (target, host, format, events, configured_by, wanted_until)
    values ($1, $2, $3, $4, $5, clock_timestamp() + $6 * interval '1 microsecond')
        on conflict (only_one) do update
       set target = excluded.target, host = excluded.host, format = excluded.format, events = excluded.events,
           configured_by = excluded.configured_by, configured_at = excluded.configured_at, wanted_until = excluded.wanted_until,
           failures = case when w.target = excluded.target then w.failures else 0 end,
           paused_until = case when w.target = excluded.target then w.paused_until end,
           off_since = case when w.target = excluded.target then w.off_since end,
           off_because = case when w.target = excluded.target then w.off_because end";

const KEEP: &str = "
    update defib.webhook set wanted_until = clock_timestamp() + $2 * interval '1 microsecond' where target = $1";

const FREE: &str = "update defib.outbox set taken_until = null where taken_by = $1 and taken_until is not null";

/// Only one replica gathers at a time, because two would make two digests of one storm.
const GATHER_TURN: &str = "select pg_try_advisory_xact_lock(1684366946, 3)";

const GATHER: &str = "
    with due as materialized (
        select o.type, o.engine, count(*) as n from defib.outbox o where o.gathered
         group by o.type, o.engine
        having min(o.happened_at) < clock_timestamp() - $1 * interval '1 microsecond'
            or not exists (select from defib.engines e
                            where e.storm is not null and e.good_until > clock_timestamp()
                              and (e.engine = coalesce(o.engine, '') or e.storm ->> 'fleet' = 'true'))),
         single as (
        update defib.outbox o set gathered = false
          from due where o.gathered and o.type = due.type and o.engine is not distinct from due.engine and due.n <= $2),
         many as (
        delete from defib.outbox o using due
         where o.gathered and o.type = due.type and o.engine is not distinct from due.engine and due.n > $2
        returning o.*)
    insert into defib.outbox (id, type, subject, engine, data, happened_at) overriding system value
    select min(id), type || '.digest', case when engine is null then 'fleet' else 'engine ' || engine end, engine,
           jsonb_build_object('count', count(*), 'workspaces', to_jsonb((array_agg(workspace_id order by id))[1:$3]),
                              'first_at', min(happened_at), 'last_at', max(happened_at)),
           max(happened_at)
      from many group by type, engine";

/// Messages are sent in the order of what they tell: one waits for an earlier message about the same subject. A message about an engine
/// also waits for the digests of earlier messages. Of those that may be sent, the ones that have not failed come first.
const TAKE: &str = "
    with next as (
        select o.id from defib.outbox o join defib.webhook w on w.target = $2
         where w.off_since is null and coalesce(w.paused_until <= clock_timestamp(), true)
           and not o.gathered and o.next_at <= clock_timestamp() and coalesce(o.taken_until <= clock_timestamp(), true)
           and not exists (select from defib.outbox e where e.subject = o.subject and e.id < o.id)
           and (o.workspace_id is not null
                or not exists (select from defib.outbox g where g.gathered and g.id < o.id and g.engine is not distinct from o.engine))
         order by o.tries > 0, o.id limit 1 for update of o skip locked)
    update defib.outbox o
       set taken_by = $1, taken_until = clock_timestamp() + $3 * interval '1 microsecond'
      from next where o.id = next.id
    returning o.id, o.message_id, o.type, o.workspace_id, o.engine, o.data, o.happened_at, o.tries";

const DELIVERED: &str = "
    with gone as (delete from defib.outbox where id = $1 and taken_by = $2 returning id)
    update defib.webhook
       set failures = 0, paused_until = null, answer = $3, answered_at = clock_timestamp(), delivered_at = clock_timestamp()
      from gone";

/// The pause is a second, doubles with each attempt up to five minutes, and is shortened at random by up to a half. If the receiver asks
/// for a longer pause, that one counts.
const PAUSE: &str = "
    greatest(least(interval '1 second' * 2 ^ least(%tries%, 10), interval '5 minutes') * (0.5 + random() / 2),
             least(%asked% * interval '1 microsecond', interval '1 day'))";

const FAILED: &str = "
    update defib.outbox
       set tries = tries + 1, answer = $3, taken_by = null, taken_until = null, next_at = clock_timestamp() + %pause%
     where id = $1 and taken_by = $2";

const ANSWERED: &str = "
    update defib.webhook
       set answer = $1, answered_at = clock_timestamp(), failures = case when $2 then failures + 1 else 0 end,
           paused_until = case when $2 then clock_timestamp() + %pause% end";

const TURN_OFF: &str = "
    with freed as (
        update defib.outbox set taken_by = null, taken_until = null, answer = $3 where id = $1 and taken_by = $2)
    update defib.webhook
       set off_since = clock_timestamp(), off_because = $3, answer = $3, answered_at = clock_timestamp()
     where target = $4";

const EXPIRE: &str = "
    delete from defib.outbox where happened_at < clock_timestamp() - $1 * interval '1 microsecond'
       and coalesce(taken_until <= clock_timestamp(), true)";

const DROP_OLDEST: &str = "
    delete from defib.outbox where id = any (array(select id from defib.outbox order by id desc offset $1))
       and coalesce(taken_until <= clock_timestamp(), true)";

const STATE: &str = "
    select w.target, w.host, w.format, w.configured_by, w.wanted_until > clock_timestamp(), w.off_since, w.off_because, w.failures,
           w.paused_until, w.answer, w.answered_at, w.delivered_at, clock_timestamp(), o.pending, o.oldest,
           defib.count_lost_messages()
      from defib.webhook w, (select count(*) as pending, min(happened_at) as oldest from defib.outbox) o";

impl Store {
    /// A daemon that has a webhook starts: from now on messages are written for it. A webhook that its receiver has turned off stays off;
    /// another webhook begins anew. Messages that an earlier process of this name had taken are free again.
    pub async fn configure_webhook(&self, webhook: &WebhookRow<'_>) -> Result<(), StoreError> {
        self.within_deadline(async {
            let wanted = micros(WANTED_FOR);
            let mut connection = self.pool.get().await?;
            let parameters = [
                (&webhook.target as _, Type::TEXT),
                (&webhook.host as _, Type::TEXT),
                (&webhook.format as _, Type::TEXT),
                (&webhook.events as _, Type::TEXT_ARRAY),
                (&webhook.replica as _, Type::TEXT),
                (&wanted as _, Type::INT8),
            ];
            connection.execute(CONFIGURE, &parameters).await?;
            connection.execute(FREE, &[(&webhook.replica, Type::TEXT)]).await.map(drop)
        })
        .await
        .map_err(StoreError::Outbox)
    }

    /// Says again that a running daemon has this webhook. False: a daemon that was started later has another one, and that one counts.
    pub async fn keep_webhook(&self, target: &str) -> Result<bool, StoreError> {
        self.within_deadline(async {
            let wanted = micros(WANTED_FOR);
            let mut connection = self.pool.get().await?;
            Ok(connection.execute(KEEP, &[(&target, Type::TEXT), (&wanted, Type::INT8)]).await? > 0)
        })
        .await
        .map_err(StoreError::Outbox)
    }

    /// Makes digests of what happened in storms that have ended or have gone on for [`GATHERED_FOR`], and lets go what is too little for one.
    /// Returns how many digests it made.
    pub async fn gather_messages(&self) -> Result<u64, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            connection.begin().await?;
            let mut digests = 0;
            if connection.query_one(GATHER_TURN, &[]).await?.try_get(0)? {
                let parameters = [
                    (&micros(GATHERED_FOR) as _, Type::INT8),
                    (&DIGEST_ABOVE as _, Type::INT8),
                    (&NAMED_MAX as _, Type::INT4),
                ];
                digests = connection.execute(GATHER, &parameters).await?;
            }
            connection.commit().await?;
            Ok(digests)
        })
        .await
        .map_err(StoreError::Outbox)
    }

    /// Takes the next message that may be sent to this webhook now, for [`TAKEN_FOR`].
    pub async fn take_message(&self, replica: &str, target: &str) -> Result<Option<Message>, StoreError> {
        self.within_deadline(async {
            let taken_for = micros(TAKEN_FOR);
            let mut connection = self.pool.get().await?;
            let parameters = [(&replica as _, Type::TEXT), (&target as _, Type::TEXT), (&taken_for as _, Type::INT8)];
            let row = connection.query_opt(TAKE, &parameters).await?;
            row.map(|row| {
                Ok(Message {
                    id: row.try_get(0)?,
                    message_id: row.try_get(1)?,
                    kind: row.try_get(2)?,
                    workspace: row.try_get(3)?,
                    engine: row.try_get(4)?,
                    data: row.try_get(5)?,
                    happened_at: timestamp(&row, 6)?,
                    tries: row.try_get(7)?,
                })
            })
            .transpose()
        })
        .await
        .map_err(StoreError::Outbox)
    }

    /// The receiver has it: the message is deleted.
    pub async fn message_delivered(&self, id: i64, replica: &str, answer: &str) -> Result<(), StoreError> {
        self.within_deadline(async {
            let answer = text(beginning(answer, ANSWER_MAX));
            let mut connection = self.pool.get().await?;
            let parameters = [(&id as _, Type::INT8), (&replica as _, Type::TEXT), (&answer as _, Type::TEXT)];
            connection.execute(DELIVERED, &parameters).await.map(drop)
        })
        .await
        .map_err(StoreError::Outbox)
    }

    /// It was not delivered, and is tried again after a pause.
    pub async fn message_failed(&self, id: i64, replica: &str, why: NotDelivered<'_>) -> Result<(), StoreError> {
        self.within_deadline(async {
            let answer = text(beginning(why.answer, ANSWER_MAX));
            let pause = micros(why.retry_after.unwrap_or_default());
            let mut connection = self.pool.get().await?;
            connection.begin().await?;
            let failed = FAILED.replace("%pause%", &pause_after("tries", "$4"));
            let parameters = [
                (&id as _, Type::INT8),
                (&replica as _, Type::TEXT),
                (&answer as _, Type::TEXT),
                (&pause as _, Type::INT8),
            ];
            connection.execute(&failed, &parameters).await?;
            let answered = ANSWERED.replace("%pause%", &pause_after("failures", "$3"));
            let parameters =
                [(&answer as _, Type::TEXT), (&why.is_receivers as _, Type::BOOL), (&pause as _, Type::INT8)];
            connection.execute(&answered, &parameters).await?;
            connection.commit().await
        })
        .await
        .map_err(StoreError::Outbox)
    }

    /// The receiver wants no more of it: nothing is written or sent until [`resume_webhook`](Self::resume_webhook), or until a daemon starts that
    /// has another webhook.
    pub async fn turn_webhook_off(&self, id: i64, replica: &str, target: &str, why: &str) -> Result<(), StoreError> {
        self.within_deadline(async {
            let why = text(beginning(why, ANSWER_MAX));
            let mut connection = self.pool.get().await?;
            let parameters = [
                (&id as _, Type::INT8),
                (&replica as _, Type::TEXT),
                (&why as _, Type::TEXT),
                (&target as _, Type::TEXT),
            ];
            connection.execute(TURN_OFF, &parameters).await.map(drop)
        })
        .await
        .map_err(StoreError::Outbox)
    }

    /// Sends again to a webhook that its receiver has turned off, or that waits out a pause. `None`: there is none. False: it was on.
    pub async fn resume_webhook(&self) -> Result<Option<bool>, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            Ok(connection.query_one("select defib.resume_webhook()", &[]).await?.try_get(0)?)
        })
        .await
        .map_err(StoreError::Outbox)
    }

    /// Gives up the messages that are too old, and the oldest of those that are too many.
    pub async fn bound_outbox(&self) -> Result<GivenUp, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let expired = connection.execute(EXPIRE, &[(&micros(EXPIRES_AFTER), Type::INT8)]).await?;
            let dropped = connection.execute(DROP_OLDEST, &[(&PENDING_MAX, Type::INT8)]).await?;
            Ok(GivenUp { expired, dropped })
        })
        .await
        .map_err(StoreError::Outbox)
    }

    /// How the webhook fares; `None`: no daemon has ever had one.
    pub async fn webhook(&self) -> Result<Option<WebhookState>, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let row = connection.query_opt(STATE, &[]).await?;
            row.as_ref().map(state).transpose()
        })
        .await
        .map_err(StoreError::Outbox)
    }
}

/// The SQL of the pause before the next try: the pause after this many failures, or the one that the receiver has asked for if that is
/// longer.
fn pause_after(failures: &str, asked: &str) -> String {
    PAUSE.replace("%tries%", failures).replace("%asked%", asked)
}

fn state(row: &tokio_postgres::Row) -> Result<WebhookState, Fault> {
    let now = timestamp(row, 12)?;
    let ago = |column| Ok::<_, Fault>(optional_timestamp(row, column)?.map(|at| now.since(at)));
    let (off_because, answer): (Option<String>, Option<String>) = (row.try_get(6)?, row.try_get(9)?);
    Ok(WebhookState {
        target: row.try_get(0)?,
        host: row.try_get(1)?,
        format: row.try_get(2)?,
        configured_by: row.try_get(3)?,
        is_wanted: row.try_get(4)?,
        off: ago(5)?.zip(off_because),
        failures: row.try_get(7)?,
        paused_for: optional_timestamp(row, 8)?.filter(|until| *until > now).map(|until| until.since(now)),
        answer: answer.zip(ago(10)?),
        delivered_ago: ago(11)?,
        pending: row.try_get(13)?,
        oldest_ago: ago(14)?,
        lost: row.try_get(15)?,
    })
}
