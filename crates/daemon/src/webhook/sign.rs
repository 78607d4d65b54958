//! The signature of Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`, in base64, once for each secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// What a secret begins with.
const PREFIX: &str = "whsec_";

/// Bytes of a secret, by the standard.
const LENGTH: std::ops::RangeInclusive<usize> = 24..=64;

/// The secrets that messages are signed with. The first is the newest; while a receiver changes from one to the other, both sign.
#[derive(Clone)]
pub(crate) struct Secrets(Vec<hmac::Key>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl Secrets {
    /// Reads secrets with blanks between them.
    ///
    /// # Errors
    /// What is wrong with one. Never quotes it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let keys: Vec<hmac::Key> = text.split_whitespace().map(key).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err("it holds no secret".to_owned());
        }
        Ok(Self(keys))
    }

    /// The header `webhook-signature`.
    pub(crate) fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let signed = format!("{id}.{timestamp}.{body}");
        let one = |key| format!("v1,{}", STANDARD.encode(hmac::sign(key, signed.as_bytes())));
        self.0.iter().map(one).collect::<Vec<_>>().join(" ")
    }
}

fn key(text: &str) -> Result<hmac::Key, String> {
    let encoded = text.strip_prefix(PREFIX).ok_or_else(|| format!("a secret begins with {PREFIX}"))?;
    let bytes = STANDARD.decode(encoded).map_err(|_| format!("what follows {PREFIX} is not base64"))?;
    if !LENGTH.contains(&bytes.len()) {
        return Err(format!("a secret has {} to {} bytes, and one has {}", LENGTH.start(), LENGTH.end(), bytes.len()));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the standard's own libraries.
    #[test]
    fn the_example_of_the_standard_is_signed_as_there() {
        let secrets = Secrets::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = secrets.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}");
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn several_secrets_sign_side_by_side() {
        let (a, b) = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX");
        let sign = |text: &str| Secrets::parse(text).unwrap().sign("m", 1, "{}");
        assert_eq!(sign(&format!("{a} {b}")), format!("{} {}", sign(a), sign(b)));
    }

    #[test]
    fn a_bad_secret_is_told_without_being_quoted() {
        for (text, fault) in [
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "a secret begins with whsec_"),
            ("whsec_not base64", "what follows whsec_ is not base64"),
            ("whsec_AAEC", "a secret has 24 to 64 bytes, and one has 3"),
            ("  ", "it holds no secret"),
        ] {
            assert_eq!(Secrets::parse(text).unwrap_err(), fault);
        }
    }
}
