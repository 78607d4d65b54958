//! Addresses within the page: below the prefix that a reverse proxy names, with every name percent-encoded.

use axum::http::HeaderMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::told::picture::{self, Word};

/// Everything but the letters, digits and marks that need no escape anywhere in an address.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The name in addresses for the workspaces on no engine. An engine of this name could not be distinguished from them.
pub(super) const NO_ENGINE: &str = "-";

/// Bytes of `X-Forwarded-Prefix`, at most. A longer one is ignored.
const PREFIX_MAX: usize = 200;

/// Makes addresses.
#[derive(Debug)]
pub(super) struct Links {
    /// Empty, or `/below/this`.
    prefix: String,
}

impl Links {
    /// Addresses below the prefix in `X-Forwarded-Prefix`, if that is a plain path. With anything else, links could lead to another site.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get("x-forwarded-prefix").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let prefix = given.trim_end_matches('/');
        let is_plain = |part: &str| {
            !part.is_empty()
                && part.chars().any(|c| c != '.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~'))
        };
        let is_path = prefix.strip_prefix('/').is_some_and(|parts| parts.split('/').all(is_plain));
        let prefix = if is_path && prefix.len() <= PREFIX_MAX { prefix } else { "" };
        Self { prefix: prefix.to_owned() }
    }

    /// A place of the page, such as `/holds`.
    pub(super) fn to(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// The page of a workspace. If its id consists of dots, the address is a search for it instead, because browsers take such a part of a
    /// path for the folder above.
    pub(super) fn workspace(&self, id: &str) -> String {
        if is_dots(id) {
            return self.list(&picture::Query { text: id.to_owned(), ..picture::Query::default() }, None);
        }
        format!("{}/workspaces/{}", self.prefix, escape(id))
    }

    /// The page of an engine; empty for the workspaces on no engine.
    pub(super) fn engine(&self, name: &str) -> String {
        if !name.is_empty() && is_dots(name) {
            return self.list(&picture::Query { engine: Some(name.to_owned()), ..picture::Query::default() }, None);
        }
        format!("{}/engines/{}", self.prefix, escape(if name.is_empty() { NO_ENGINE } else { name }))
    }

    /// The list of the workspaces with a word.
    pub(super) fn word(&self, word: Word) -> String {
        format!("{}/workspaces?verdict={}", self.prefix, word.slug())
    }

    /// The list that a query describes, beginning after the given key.
    pub(super) fn list(&self, query: &picture::Query, after: Option<&str>) -> String {
        let engine = query.engine.as_deref().map(|name| if name.is_empty() { NO_ENGINE } else { name });
        let slug = query.word.map(Word::slug);
        let fields = [
            ("q", Some(query.text.as_str()).filter(|text| !text.is_empty())),
            ("verdict", slug.as_deref()),
            ("engine", engine),
            ("troubled", query.troubled.then_some("1")),
            ("after", after),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", escape(value?))));
        let given: Vec<String> = given.collect();
        let ask = if given.is_empty() { "" } else { "?" };
        format!("{}/workspaces{ask}{}", self.prefix, given.join("&"))
    }
}

fn is_dots(name: &str) -> bool {
    name.chars().all(|c| c == '.')
}

/// A name as a part of an address.
fn escape(name: &str) -> String {
    utf8_percent_encode(name, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(prefix: &str) -> Links {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-prefix", prefix.parse().expect("a header"));
        Links::of(&headers)
    }

    #[test]
    fn a_prefix_is_believed_if_it_is_a_plain_path() {
        assert_eq!(links("/ops/defib-1/").to("/holds"), "/ops/defib-1/holds");
        assert_eq!(Links::of(&HeaderMap::new()).to("/"), "/");
        let long = format!("/{}", "x".repeat(PREFIX_MAX));
        for bad in [
            "//evil.example",
            "ops",
            "/a/../b",
            "/a//b",
            "/a b",
            "/a?b",
            "/\"><script>",
            "https://evil.example/",
            &long,
        ] {
            assert_eq!(links(bad).to("/holds"), "/holds", "{bad}");
        }
    }

    #[test]
    fn names_in_addresses_are_escaped() {
        let links = links("/p");
        assert_eq!(
            links.workspace("a/b?c#d%e <f>\n\u{202e}ü"),
            "/p/workspaces/a%2Fb%3Fc%23d%25e%20%3Cf%3E%0A%E2%80%AE%C3%BC"
        );
        assert_eq!(
            (links.workspace(".."), links.engine("")),
            ("/p/workspaces?q=..".to_owned(), "/p/engines/-".to_owned())
        );
        let query = picture::Query {
            text: "a&b".to_owned(),
            engine: Some(String::new()),
            troubled: true,
            ..Default::default()
        };
        assert_eq!(links.list(&query, Some("w=1")), "/p/workspaces?q=a%26b&engine=-&troubled=1&after=w%3D1");
        assert_eq!(links.list(&picture::Query::default(), None), "/p/workspaces");
    }
}
