//! The database URL in either of libpq's two forms. It is parsed here as far as is needed to give `sslmode` the meaning that libpq gives
//! it.
//!
//! tokio-postgres knows three values of `sslmode`, refuses the two that verify anything, and has never heard of
//! `sslrootcert`. So both are taken out here before it reads the rest. Along the way, options that libpq has and that change
//! nothing for us are dropped, and the others are refused by name. No message quotes what was given: with an unescaped
//! `&`, `@` or space in a password, any part of a URL may be a part of the password.

use std::fmt::Write;
use std::path::PathBuf;

use tokio_postgres::Config;

use crate::error::SettingsError;

/// What `sslmode` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS only if the server insists.
    Allow,
    /// TLS if the server can; no certificate is verified.
    Prefer,
    /// Always TLS; no certificate is verified, unless `sslrootcert` is given.
    Require,
    /// The certificate must lead to the root.
    VerifyCa,
    /// The certificate must lead to the root and be for this host.
    VerifyFull,
}

/// A URL, read.
pub(crate) struct Parsed {
    pub(crate) config: Config,
    pub(crate) ssl_mode: SslMode,
    pub(crate) ssl_root_cert: Option<PathBuf>,
    /// Which of the options that have a default of ours were given.
    pub(crate) given: Vec<String>,
}

/// What tokio-postgres reads itself.
const PASSED_ON: [&str; 18] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];

/// Options of libpq that change nothing here, because there is no GSSAPI and no TLS compression, and always SNI and UTF-8.
const IGNORED: [&str; 8] = [
    "gssencmode",
    "sslcompression",
    "sslsni",
    "client_encoding",
    "fallback_application_name",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
];

/// Options of libpq that are refused, because ignoring them would be wrong.
const UNSUPPORTED: [&str; 12] = [
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "sslcrldir",
    "sslcertmode",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "require_auth",
    "requirepeer",
    "passfile",
    "service",
];

const SSL_MODES: &str = "disable, allow, prefer, require, verify-ca, verify-full";

/// Reads a URL or a list of `key=value`.
pub(crate) fn parse(text: &str) -> Result<Parsed, SettingsError> {
    let url = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
    let (base, options) = match url {
        Some(rest) => split_url(text, rest)?,
        None => (String::new(), split_pairs(text)?),
    };

    let mut parsed =
        Parsed { config: Config::new(), ssl_mode: SslMode::Prefer, ssl_root_cert: None, given: Vec::new() };
    let mut kept = Vec::new();
    for (key, value) in options {
        match key.as_str() {
            "sslmode" => parsed.ssl_mode = ssl_mode(&value)?,
            "sslrootcert" => parsed.ssl_root_cert = Some(value.into()),
            key if IGNORED.contains(&key) => {}
            _ if PASSED_ON.contains(&key.as_str()) => {
                let value =
                    if key == "target_session_attrs" && value == "primary" { "read-write".into() } else { value };
                parsed.given.push(key.clone());
                kept.push((key, value));
            }
            _ => {
                return Err(UNSUPPORTED
                    .iter()
                    .find(|known| **known == key)
                    .map_or(SettingsError::UnknownOption, |known| SettingsError::Unsupported(known)));
            }
        }
    }

    let rebuilt = match url {
        Some(_) => with_query(base, &kept),
        None => as_pairs(&kept),
    };
    // Its own errors quote the text.
    parsed.config = rebuilt.parse().map_err(|_: tokio_postgres::Error| malformed(text))?;
    Ok(parsed)
}

fn malformed(text: &str) -> SettingsError {
    SettingsError::Malformed(if text.trim().is_empty() {
        "it is empty"
    } else if text.contains("://") && !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
        "it must begin with postgres:// or postgresql://"
    } else {
        "expected postgres://user:password@host:port/database?option=value with percent-encoded special characters, or key=value pairs"
    })
}

fn ssl_mode(value: &str) -> Result<SslMode, SettingsError> {
    Ok(match value {
        "disable" => SslMode::Disable,
        "allow" => SslMode::Allow,
        "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => return Err(SettingsError::Invalid { option: "sslmode", expected: SSL_MODES }),
    })
}

type Options = Vec<(String, String)>;

/// The URL before its `?`, and the decoded options after it. Tokens end where tokio-postgres ends them.
fn split_url(text: &str, rest: &str) -> Result<(String, Options), SettingsError> {
    let after_credentials = rest.find('@').map_or(0, |at| at + 1);
    let Some(mark) = rest[after_credentials..].find('?') else { return Ok((text.to_owned(), Vec::new())) };
    let (before, query) = text.split_at(text.len() - rest.len() + after_credentials + mark);
    let mut options = Vec::new();
    for pair in query[1..].split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| malformed(text))?;
        let decoded = |part| percent_decoded(part).ok_or_else(|| malformed(text));
        options.push((decoded(key)?, decoded(value)?));
    }
    Ok((before.to_owned(), options))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn with_query(mut base: String, options: &[(String, String)]) -> String {
    for (index, (key, value)) in options.iter().enumerate() {
        base.push(if index == 0 { '?' } else { '&' });
        base.push_str(key);
        base.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                base.push(char::from(byte));
            } else {
                let _ = write!(base, "%{byte:02X}"); // a String never refuses
            }
        }
    }
    base
}

fn split_pairs(text: &str) -> Result<Options, SettingsError> {
    let mut options = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| malformed(text))?;
        let (value, after) = pair_value(after.trim_start()).ok_or_else(|| malformed(text))?;
        options.push((key.trim_end().to_owned(), value));
        rest = after.trim_start();
    }
    if options.is_empty() { Err(malformed(text)) } else { Ok(options) }
}

/// A value, quoted or not, and what follows it.
fn pair_value(text: &str) -> Option<(String, &str)> {
    let (quoted, body) = text.strip_prefix('\'').map_or((false, text), |body| (true, body));
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((index, c)) = characters.next() {
        match c {
            '\'' if quoted => return Some((value, &body[index + 1..])),
            c if !quoted && c.is_whitespace() => return Some((value, &body[index..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    if quoted { None } else { Some((value, "")) }
}

fn as_pairs(options: &[(String, String)]) -> String {
    options
        .iter()
        .map(|(key, value)| format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::config::Host;

    fn parsed(text: &str) -> Parsed {
        parse(text).map_err(|error| format!("{text}: {error}")).unwrap()
    }

    #[test]
    fn tls_options_are_taken_out_of_both_forms_and_the_rest_is_passed_on() {
        for text in [
            "postgres://me:p%40ss@db.example:6543/fleet?sslmode=verify-full&application_name=a%20b&sslrootcert=%2Fca.pem&gssencmode=disable",
            "host=db.example port=6543 user = me password='p@ss' dbname=fleet sslmode=verify-full sslrootcert=/ca.pem application_name='a b'",
        ] {
            let parsed = parsed(text);
            assert_eq!(parsed.ssl_mode, SslMode::VerifyFull);
            assert_eq!(parsed.ssl_root_cert, Some("/ca.pem".into()));
            assert_eq!(parsed.config.get_password(), Some(&b"p@ss"[..]));
            assert_eq!(parsed.config.get_hosts(), [Host::Tcp("db.example".into())]);
            assert_eq!((parsed.config.get_ports(), parsed.config.get_dbname()), (&[6543][..], Some("fleet")));
            assert_eq!(parsed.config.get_application_name(), Some("a b"));
        }
    }

    #[test]
    fn every_sslmode_of_libpq_is_known_and_prefer_is_the_default() {
        use SslMode::{Allow, Disable, Prefer, Require, VerifyCa, VerifyFull};
        assert_eq!(parsed("postgres://h/d").ssl_mode, Prefer);
        for (text, mode) in [
            ("disable", Disable),
            ("allow", Allow),
            ("prefer", Prefer),
            ("require", Require),
            ("verify-ca", VerifyCa),
            ("verify-full", VerifyFull),
        ] {
            assert_eq!(parsed(&format!("postgres://h/d?sslmode={text}")).ssl_mode, mode);
        }
    }

    #[test]
    fn sockets_several_hosts_and_escapes_survive() {
        let socket = parsed("postgres:///fleet?host=%2Frun%2Fpg&user=me&sslmode=disable");
        assert_eq!(socket.config.get_hosts(), [Host::Unix("/run/pg".into())]);
        let several = parsed("postgresql://u:p?w@a:1,b:2/d?target_session_attrs=primary");
        assert_eq!((several.config.get_hosts().len(), several.config.get_password()), (2, Some(&b"p?w"[..])));
        let quoted = parsed(r"host=h password='it\'s a \\ secret' user=u");
        assert_eq!(quoted.config.get_password(), Some(&br"it's a \ secret"[..]));
    }

    #[test]
    fn errors_name_the_fault_and_never_the_password() {
        for (text, says) in [
            ("", "empty"),
            ("mysql://u:hunter2@h/d", "must begin with"),
            ("postgres://u:hunter2@h:port/d", "expected postgres://"),
            ("postgres://u@h/d?password=x&hunter2", "expected postgres://"),
            ("postgres://u@h/d?password=x&hunter2=y", "not known here"),
            ("postgres://u:hunter2@h/d?sslmode=hunter2", "disable, allow"),
            ("postgres://u:hunter2@h/d?sslcert=/x", "`sslcert`"),
            ("host=h password=my hunter2 pw", "expected postgres://"),
            ("host=h password='hunter2", "expected postgres://"),
            ("postgres://u:hunter2@h/d?connect_timeout=hunter2", "expected postgres://"),
        ] {
            let error = parse(text).err().unwrap();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(says) && !shown.contains("hunter2"), "{text}: {shown}");
        }
    }
}
