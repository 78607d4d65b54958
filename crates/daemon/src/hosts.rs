//! By which names a browser may ask for the status page.
//!
//! The page has no login where it listens on a loopback address, so other web sites must not be able to read it. A browser lets a site read
//! only what comes from a server of the site's own name. But a site can let its name point to 127.0.0.1, or to an address behind the firewall
//! of whoever visits it (DNS rebinding), and then this server would be of the site's own name. The request still carries that name in its
//! `Host` header, and so it is refused here.
//!
//! Nobody can take these names from their owner, so they always count: addresses, `localhost` and what ends in it, and names without a dot,
//! which belong to this machine or its network. All other names are given in `DEFIB_UI_HOSTS`.

use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::HOST;
use axum::http::uri::Authority;

/// In the place of a name: all names count, because a proxy with a login stands before the page.
const ANY: &str = "*";

/// How many characters a label of a name may have, and how many a whole name.
const LABEL_MAX: usize = 63;
const NAME_MAX: usize = 253;

/// The names that count besides those that always do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hosts {
    any: bool,
    /// In lower case. With a dot in front: every name that ends in it.
    names: Vec<Box<str>>,
}

impl Hosts {
    /// From a list of names: `defib.example.com`, `*.example.com` for all names below it, or `*` for all names there are.
    ///
    /// # Errors
    /// The one that is no name of a host.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut hosts = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            if word == ANY {
                hosts.any = true;
                continue;
            }
            let name = word.strip_prefix(ANY).filter(|rest| rest.starts_with('.')).unwrap_or(word);
            if !is_name(name.strip_prefix('.').filter(|_| name.len() < word.len()).unwrap_or(name)) {
                return Err(word.to_owned());
            }
            hosts.names.push(name.to_ascii_lowercase().into());
        }
        Ok(hosts)
    }

    /// The name in a request that does not count; `None`: the request may be answered. Every browser sends a name, so a request without one
    /// is not from a browser.
    pub(crate) fn strange_name(&self, headers: &HeaderMap) -> Option<String> {
        if self.any {
            return None;
        }
        headers
            .get_all(HOST)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .find(|value| !value.is_empty() && !self.counts(value))
    }

    fn counts(&self, value: &str) -> bool {
        let Ok(authority) = value.parse::<Authority>() else { return false };
        if value.contains('@') {
            return false;
        }
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
        address.parse::<IpAddr>().is_ok()
            || !host.contains('.')
            || host.ends_with(".localhost")
            || self.names.iter().any(|name| match name.strip_prefix('.') {
                Some(_) => host.len() > name.len() && host.ends_with(&**name),
                None => host == **name,
            })
    }
}

fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= NAME_MAX && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn is_answered(hosts: &Hosts, host: &str) -> bool {
        let headers = [(HOST, HeaderValue::from_bytes(host.as_bytes()).expect("a value"))].into_iter().collect();
        hosts.strange_name(&headers).is_none()
    }

    #[test]
    fn what_nobody_can_take_always_counts_and_other_names_do_not() {
        let hosts = Hosts::default();
        for host in [
            "127.0.0.1:9464",
            "10.1.2.3",
            "[::1]:9464",
            "[fd00::1]",
            "localhost:9464",
            "LOCALHOST",
            "localhost.",
            "defib.localhost:8080",
            "defib",
            "ops-box:9464",
        ] {
            assert!(is_answered(&hosts, host), "{host}");
        }
        for host in [
            "rebound.example.com:9464",
            "127.0.0.1.example.com",
            "localhost.example.com",
            "example.com.",
            "127.0.0.1@example.com",
            "user@127.0.0.1",
            "exa mple",
            "[::1",
            "1.2.3.4.5",
        ] {
            assert!(!is_answered(&hosts, host), "{host}");
        }
        assert_eq!(hosts.strange_name(&HeaderMap::new()), None, "no browser asks without a name");
        let two: HeaderMap = [(HOST, "localhost"), (HOST, "example.com")]
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .into_iter()
            .collect();
        assert_eq!(hosts.strange_name(&two).as_deref(), Some("example.com"), "every one of several counts");
    }

    #[test]
    fn names_are_given_alone_with_all_below_them_or_as_all_there_are() {
        let hosts = Hosts::parse("defib.example.com, *.Ops.example.com").expect("names");
        for host in ["defib.example.com", "DEFIB.example.com:443", "a.ops.example.com", "a.b.ops.example.com:80"] {
            assert!(is_answered(&hosts, host), "{host}");
        }
        for host in ["example.com", "x.defib.example.com", "ops.example.com", "xops.example.com", ".ops.example.com"] {
            assert!(!is_answered(&hosts, host), "{host}");
        }
        assert!(is_answered(&Hosts::parse("*").expect("all"), "any.example.com"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in
            ["https://defib.example.com", "defib.example.com:443", "a b", "*example.com", "a..b", ".example.com", "*."]
        {
            assert_eq!(Hosts::parse(text), Err(text.to_owned()), "{text}");
        }
        assert_eq!(Hosts::parse(""), Ok(Hosts::default()));
    }
}
