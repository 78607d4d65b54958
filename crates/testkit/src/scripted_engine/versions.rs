//! Which versions of Docker's interface the engine speaks, and what it says to a call of another one.
//!
//! An engine of the field speaks a range: dockerd 20.10 from 1.12 to 1.41, Docker 29 nothing below 1.44. A call names its version in front of
//! its path. Engines answer one that names none in their newest version, so a client that leaves it out gets answers that it may not know. A
//! strict engine refuses such a call, so that a test sees it.

use super::fault::Call;

/// A range of versions, by what stands behind `1.`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Versions {
    oldest: u32,
    newest: u32,
    is_strict: bool,
}

impl Default for Versions {
    /// Those of dockerd 20.10, where any call is answered.
    fn default() -> Self {
        Self { oldest: 12, newest: 41, is_strict: false }
    }
}

impl Versions {
    pub(super) const fn only(oldest: u32, newest: u32) -> Self {
        Self { oldest, newest, is_strict: true }
    }

    pub(super) fn oldest(self) -> String {
        format!("1.{}", self.oldest)
    }

    pub(super) fn newest(self) -> String {
        format!("1.{}", self.newest)
    }

    /// Whether a call of this version is answered; the error is the engine's message.
    pub(super) fn accept(self, call: Call, named: Option<&str>) -> Result<(), String> {
        let Some(named) = named else {
            let may_be_bare = !self.is_strict || matches!(call, Call::Version | Call::Ping);
            return if may_be_bare { Ok(()) } else { Err("scripted: this call names no version".to_owned()) };
        };
        let minor = named.strip_prefix("1.").and_then(|minor| minor.parse::<u32>().ok());
        match minor {
            _ if !self.is_strict => Ok(()),
            None => Err(format!("invalid version {named}")),
            Some(minor) if minor < self.oldest => Err(format!(
                "client version {named} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
                self.oldest()
            )),
            Some(minor) if minor > self.newest => {
                Err(format!("client version {named} is too new. Maximum supported API version is {}", self.newest()))
            }
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_engine_refuses_what_it_does_not_speak_by_docker_s_words() {
        let strict = Versions::only(44, 52);
        for named in ["1.44", "1.52"] {
            strict.accept(Call::List, Some(named)).unwrap();
        }
        assert!(strict.accept(Call::List, Some("1.43")).unwrap_err().contains("too old"));
        assert!(strict.accept(Call::Version, Some("1.53")).unwrap_err().contains("too new"));
        assert!(strict.accept(Call::Info, Some("1.x")).is_err());
        assert!(strict.accept(Call::Info, None).is_err());
        for call in [Call::Version, Call::Ping] {
            strict.accept(call, None).unwrap();
        }
        Versions::default().accept(Call::List, Some("1.53")).unwrap();
        Versions::default().accept(Call::List, None).unwrap();
    }
}
