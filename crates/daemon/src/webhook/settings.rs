//! The knobs of the webhook, checked together.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use url::{Host, Url};

use super::sign::Secrets;
use super::{hex, kinds};

/// The format that the receiver understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Standard Webhooks.
    Standard,
    /// Slack, and chats that take the same messages: one sentence.
    Slack,
}

impl Format {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Slack => "slack",
        }
    }
}

/// The webhook of this daemon.
#[derive(Clone)]
pub(crate) struct Webhook {
    /// The address without user and password. It is still a secret, because for many receivers the path is the key.
    pub(crate) url: String,
    /// `Authorization`, where the URL had a user.
    pub(crate) authorization: Option<String>,
    pub(crate) host: String,
    pub(crate) format: Format,
    pub(crate) secrets: Option<Secrets>,
    /// `None`: all types.
    pub(crate) events: Option<Vec<String>>,
    /// Identifies this webhook in the tables without revealing its URL.
    pub(crate) target: String,
}

/// The URL is secret.
impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook")
            .field("host", &self.host)
            .field("format", &self.format)
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

/// The knobs as given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given<'a> {
    pub(crate) url: Option<&'a str>,
    pub(crate) secret: Option<&'a str>,
    pub(crate) events: Option<&'a str>,
    pub(crate) is_slack: bool,
}

impl Webhook {
    /// The webhook, if there is one.
    ///
    /// # Errors
    /// Every fault. None quotes the URL or a secret.
    pub(crate) fn read(given: Given<'_>) -> Result<Option<Self>, Vec<String>> {
        let Some(url) = given.url else {
            let lonely = [
                (given.secret.is_some(), "DEFIB_WEBHOOK_SECRET"),
                (given.events.is_some(), "DEFIB_WEBHOOK_EVENTS"),
                (given.is_slack, "DEFIB_WEBHOOK_FORMAT"),
            ];
            let lonely = lonely.into_iter().filter(|(is_given, _)| *is_given);
            let faults: Vec<String> = lonely
                .map(|(_, knob)| format!("{knob} is given and DEFIB_WEBHOOK_URL is not: nobody would be told anything"))
                .collect();
            return if faults.is_empty() { Ok(None) } else { Err(faults) };
        };
        let mut faults = Vec::new();
        let mut collect = |more: Vec<String>| faults.extend(more);
        let address = address(url).map_err(|fault| collect(vec![format!("DEFIB_WEBHOOK_URL: {fault}")])).ok();
        let events = given.events.map(kinds::parse).transpose();
        let events =
            events.map_err(|unknown| collect(unknown.iter().map(|it| format!("DEFIB_WEBHOOK_EVENTS: {it}")).collect()));
        let secrets = match given.secret {
            Some(text) => {
                Secrets::parse(text).map(Some).map_err(|fault| collect(vec![format!("DEFIB_WEBHOOK_SECRET: {fault}")]))
            }
            None if given.is_slack => Ok(None),
            None => {
                collect(vec![
                    "DEFIB_WEBHOOK_SECRET is not set: messages are signed, so that the receiver can tell ours from a stranger's. Make one with \
                     `echo whsec_$(openssl rand -base64 32)`, and give it to both sides"
                        .to_owned(),
                ]);
                Err(())
            }
        };
        let (Some((url, authorization, host)), Ok(events), Ok(secrets)) = (address, events, secrets) else {
            return Err(faults);
        };
        let format = if given.is_slack { Format::Slack } else { Format::Standard };
        let hash = digest::digest(&digest::SHA256, format!("{}\n{url}", format.label()).as_bytes());
        let target = hex(hash.as_ref());
        let events = events.filter(|events| !events.is_empty());
        Ok(Some(Self { url, authorization, host, format, secrets, events, target }))
    }
}

/// The URL without user and password, what these become, and the host.
fn address(text: &str) -> Result<(String, Option<String>, String), &'static str> {
    let mut url = Url::parse(text).map_err(|_| "this is not a URL; write https://host/path")?;
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err("it has no host; write https://host/path"),
    };
    match url.scheme() {
        "https" => {}
        "http" if is_loopback => {}
        "http" => {
            return Err(
                "http:// is for a receiver on this machine only: anybody on the way could read the messages and change them; write https://",
            );
        }
        _ => return Err("it has to begin with https://"),
    }
    let host = url.host_str().unwrap_or_default().to_owned();
    let host = url.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
    let authorization = (!url.username().is_empty() || url.password().is_some()).then(|| {
        let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pair = format!("{}:{}", decoded(url.username()), decoded(url.password().unwrap_or_default()));
        format!("Basic {}", STANDARD.encode(pair))
    });
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    Ok((url.into(), authorization, host))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn given(url: &str) -> Given<'_> {
        Given { url: Some(url), secret: Some(SECRET), events: None, is_slack: false }
    }

    #[test]
    fn without_a_url_there_is_none_and_other_knobs_are_a_fault() {
        let nothing = Given { url: None, secret: None, events: None, is_slack: false };
        assert!(Webhook::read(nothing).unwrap().is_none());
        let faults = Webhook::read(Given { secret: Some(SECRET), events: Some("hold.placed"), ..nothing }).unwrap_err();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("DEFIB_WEBHOOK_SECRET is given and DEFIB_WEBHOOK_URL is not"), "{faults:?}");
    }

    #[test]
    fn user_and_password_become_a_header_and_nothing_secret_is_shown() {
        let webhook = Webhook::read(given("https://ana:s%40crt@hooks.example:8443/T0KEN?k=v#f")).unwrap().unwrap();
        assert_eq!(
            (webhook.url.as_str(), webhook.host.as_str()),
            ("https://hooks.example:8443/T0KEN?k=v", "hooks.example:8443")
        );
        assert_eq!(webhook.authorization.as_deref(), Some("Basic YW5hOnNAY3J0"));
        let shown = format!("{webhook:?}");
        assert!(!shown.contains("T0KEN") && !shown.contains("YW5h") && !webhook.target.contains("T0KEN"), "{shown}");
    }

    #[test]
    fn http_leads_to_this_machine_only() {
        for url in ["http://127.0.0.1:9/x", "http://[::1]/x", "http://localhost/x", "https://hooks.example"] {
            assert!(Webhook::read(given(url)).is_ok(), "{url}");
        }
        for (url, words) in [
            ("http://hooks.example/T0KEN", "http:// is for a receiver on this machine only"),
            ("http://10.0.0.1/T0KEN", "http:// is for a receiver on this machine only"),
            ("ftp://hooks.example/T0KEN", "it has to begin with https://"),
            ("hooks.example/T0KEN", "this is not a URL"),
        ] {
            let faults = Webhook::read(given(url)).unwrap_err();
            assert!(faults.len() == 1 && faults[0].contains(words) && !faults[0].contains("T0KEN"), "{faults:?}");
        }
    }

    #[test]
    fn all_faults_come_at_once() {
        let faults = Webhook::read(Given {
            url: Some("x"),
            secret: Some("whsec_!"),
            events: Some("storm.begun"),
            is_slack: false,
        });
        let faults = faults.unwrap_err();
        assert_eq!(faults.len(), 3, "{faults:?}");
        let unsigned = Webhook::read(Given { secret: None, ..given("https://hooks.example") }).unwrap_err();
        assert!(unsigned[0].contains("openssl rand"), "{unsigned:?}");
        let slack = Given { secret: None, is_slack: true, ..given("https://hooks.example") };
        assert!(Webhook::read(slack).unwrap().unwrap().secrets.is_none());
    }

    #[test]
    fn another_url_or_format_is_another_target() {
        let target = |url, is_slack| Webhook::read(Given { is_slack, ..given(url) }).unwrap().unwrap().target;
        let one = target("https://a.example/1", false);
        assert_eq!(one, target("https://a.example/1", false));
        assert!(one != target("https://a.example/2", false) && one != target("https://a.example/1", true));
    }
}
