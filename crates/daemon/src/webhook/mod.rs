//! The operator's webhook: what is sent to it, how that is signed, and what its answers mean. Depends neither on the daemon's loops nor on
//! the outbox.
//!
//! | subject | module |
//! | --- | --- |
//! | the types of messages | [`kinds`] |
//! | the knobs, checked as a whole | [`settings`] |
//! | what is sent | [`body`] |
//! | the signature of the standard | [`sign`] |
//! | sending, and what an answer means | [`send`] |
//! | what is counted | [`result`] |
//!
//! The standard is [Standard Webhooks](https://www.standardwebhooks.com). What operators need to know is in `docs/webhook.md`.

pub(crate) mod body;
pub(crate) mod kinds;
pub(crate) mod result;
pub(crate) mod send;
pub(crate) mod settings;
mod sign;

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}
