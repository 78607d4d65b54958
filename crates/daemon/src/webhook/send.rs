//! Sending a message, and what the answer means.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use defib_engine::{NotPosted, Posted, Poster};

use super::body::Told;
use super::settings::Webhook;

/// How long a receiver may take for its whole answer. Larger: when it hangs, the other messages wait for longer. Smaller: a receiver that
/// does its work before it answers gets every message twice.
pub(crate) const WITHIN: Duration = Duration::from_secs(10);

/// Characters of a receiver's own words that are kept.
const WORDS_MAX: usize = 200;

/// What came of a message. An answer is text from outside, so whatever shows it must make it printable first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The receiver has it.
    Delivered { answer: String },
    /// The receiver refused this message.
    Refused { answer: String, retry_after: Option<Duration> },
    /// The receiver is away, or asks for a pause.
    Away { answer: String, retry_after: Option<Duration> },
    /// The receiver wants no more messages, ever.
    Gone { answer: String },
}

/// Sends to the webhook.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) webhook: Webhook,
    poster: Poster,
}

impl Sender {
    /// Makes a sender, without connecting.
    pub(crate) fn new(webhook: Webhook) -> Result<Self, NotPosted> {
        Ok(Self { webhook, poster: Poster::new()? })
    }

    /// Whether there are no root certificates by which the receiver's certificate could be checked.
    pub(crate) fn lacks_roots(&self) -> bool {
        self.webhook.url.starts_with("https://") && self.poster.roots() == 0
    }

    /// Sends one message under this id.
    pub(crate) async fn send(&self, id: &str, told: &Told) -> Sent {
        let body = told.body(self.webhook.format);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut headers = vec![("webhook-id", id.to_owned()), ("webhook-timestamp", now.to_string())];
        headers
            .extend(self.webhook.secrets.as_ref().map(|secrets| ("webhook-signature", secrets.sign(id, now, &body))));
        headers.extend(self.webhook.authorization.clone().map(|value| ("authorization", value)));
        match self.poster.post(&self.webhook.url, &headers, body, WITHIN).await {
            Ok(posted) => meaning(&posted),
            Err(error) => Sent::Away { answer: error.to_string(), retry_after: None },
        }
    }
}

/// What an answer means. 2xx: the message is delivered. 410: the receiver wants no more messages. An answer that tells of an overloaded or
/// broken receiver pauses all messages. Any other answer concerns only this message.
fn meaning(posted: &Posted) -> Sent {
    let words = posted.body.trim();
    let cut: String = words.chars().take(WORDS_MAX).collect();
    let answer = if words.is_empty() { posted.status.to_string() } else { format!("{}: {}", posted.status, cut) };
    let retry_after = posted.retry_after;
    match posted.status {
        200..=299 => Sent::Delivered { answer: posted.status.to_string() },
        410 => Sent::Gone { answer },
        408 | 429 | 500..=599 => Sent::Away { answer, retry_after },
        _ => Sent::Refused { answer, retry_after },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_has_its_meaning() {
        let answer =
            |status| meaning(&Posted { status, body: " no\u{1b} ".into(), retry_after: Some(Duration::from_secs(3)) });
        for status in [200, 202, 204] {
            assert_eq!(answer(status), Sent::Delivered { answer: status.to_string() });
        }
        assert_eq!(answer(410), Sent::Gone { answer: "410: no\u{1b}".into() });
        for status in [408, 429, 500, 503] {
            assert!(matches!(answer(status), Sent::Away { retry_after: Some(_), .. }), "{status}");
        }
        for status in [300, 400, 401, 404] {
            assert!(matches!(answer(status), Sent::Refused { .. }), "{status}");
        }
    }
}
