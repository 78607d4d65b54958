//! Text that is never shown.

use std::fmt;

/// Secrets shorter than this are not looked for in the words of others: too much harmless text would be struck out.
const STRUCK_OUT_FROM: usize = 4;

/// The text that is shown in place of a secret.
const STRUCK_OUT: &str = "(secret)";

/// A token or password. Neither `Debug` nor `Display` shows it; [`Secret::expose`] does, and is easy to search for.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps this text from being shown.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `text` without this secret. Servers often repeat in their errors what they were sent.
    #[must_use]
    pub(crate) fn strike_out(&self, text: &str) -> String {
        if self.0.len() < STRUCK_OUT_FROM { text.to_owned() } else { text.replace(&self.0, STRUCK_OUT) }
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STRUCK_OUT)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STRUCK_OUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_by_nothing_but_on_purpose() {
        let secret = Secret::from("s3cret");
        assert_eq!(format!("{secret} {secret:?}"), "(secret) (secret)");
        assert_eq!(secret.expose(), "s3cret");
        assert_eq!(secret.strike_out("bad token s3cret!"), "bad token (secret)!");
        assert_eq!(Secret::from("a").strike_out("an answer"), "an answer");
    }
}
