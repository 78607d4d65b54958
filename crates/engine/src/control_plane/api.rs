//! How requests to a control plane look and what its answers mean: a preset whose variables are filled.

use std::collections::BTreeMap;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::Value;

use super::rate::Rate;
use super::template::Filled;

/// Everything that a preset says, ready for requests.
pub(crate) struct Api {
    /// `https://host/base`, without a `/` at its end.
    pub(crate) base: String,
    /// How many requests may be sent in a given time.
    pub(crate) rate: Rate,
    pub(crate) list: Option<List>,
    pub(crate) get: Option<Get>,
    pub(crate) states: States,
    pub(crate) missing: Option<MissingRule>,
    pub(crate) restart: Option<Restart>,
}

/// Headers of a request. Their values are marked as sensitive, so that `Debug` shows none.
pub(crate) type Headers = Vec<(HeaderName, HeaderValue)>;

/// `[list]`: all instances, page by page.
pub(crate) struct List {
    pub(crate) path: Filled,
    pub(crate) headers: Headers,
    /// Where the page's instances are.
    pub(crate) items: Pointer,
    pub(crate) fields: Fields,
    /// Where in an entry the name of the instance is. This is the name that its workspace's `instance_ref` holds.
    pub(crate) id: Pointer,
    pub(crate) paging: Paging,
    /// Where the last page says whether the list is complete.
    pub(crate) complete: Option<Pointer>,
}

/// How the next page is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Paging {
    /// There is one page.
    Single,
    /// `{cursor}`: what stands at `next` on the page before.
    Cursor { next: Pointer },
    /// `{offset}` or `{page}`: pages are asked for until one is empty, or until as many entries have come as `total` says.
    Numbered { total: Option<Pointer> },
}

/// `[get]`: one instance.
pub(crate) struct Get {
    pub(crate) path: Filled,
    pub(crate) headers: Headers,
    pub(crate) fields: Fields,
    /// Where the answer says which instance it is about. An answer about another instance is no evidence.
    pub(crate) id: Option<Pointer>,
}

/// Where in an answer the state and the times of an instance are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) state: Pointer,
    pub(crate) started_at: Option<Pointer>,
    pub(crate) stopped_at: Option<Pointer>,
}

/// A JSON pointer (RFC 6901): `/latest_build/status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pointer(String);

impl Pointer {
    /// `None` if the text is not a JSON pointer.
    pub(crate) fn new(text: &str) -> Option<Self> {
        (text.is_empty() || text.starts_with('/')).then(|| Self(text.to_owned()))
    }

    /// The value that the pointer leads to. `null` counts as absent.
    pub(crate) fn of<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        value.pointer(&self.0).filter(|found| !found.is_null())
    }
}

/// What the API's words for a state mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// It runs.
    Running,
    /// It does not run and stays so.
    Stopped,
    /// Somebody suspended it on purpose.
    Frozen,
    /// It is starting or stopping. An instance that stays in this state for too long counts as stopped.
    Transitional,
    /// It is being removed, and must not be restarted however long that takes.
    Removing,
}

impl State {
    pub(crate) const ALL: [Self; 5] = [Self::Running, Self::Stopped, Self::Frozen, Self::Transitional, Self::Removing];

    /// The key in `[states]`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Frozen => "frozen",
            Self::Transitional => "transitional",
            Self::Removing => "removing",
        }
    }
}

/// `[states]`: the API's words, and what they mean. A word that is not here is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct States(pub(crate) BTreeMap<String, State>);

/// `[missing]`: what an answer has to be so that the instance counts as gone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MissingRule {
    pub(crate) status: u16,
    pub(crate) json: Pointer,
    pub(crate) equals: Value,
}

impl MissingRule {
    /// Whether the status and the body both say that the instance is gone.
    pub(crate) fn is_met(&self, status: u16, body: &[u8]) -> bool {
        status == self.status
            && serde_json::from_slice::<Value>(body).is_ok_and(|body| self.json.of(&body) == Some(&self.equals))
    }
}

/// `[restart]`.
pub(crate) struct Restart {
    /// The address to which restart requests are sent: as [`Api::base`], or another one if another server makes the restarts.
    pub(crate) base: String,
    /// The requests that start an instance that does not run.
    pub(crate) steps: Vec<Step>,
    /// The requests that restart an instance that runs and is stuck. Empty if the interface cannot do that.
    pub(crate) kill_steps: Vec<Step>,
    /// The header that makes a request idempotent.
    pub(crate) idempotency_header: Option<HeaderName>,
}

/// One request of a restart.
pub(crate) struct Step {
    pub(crate) method: Method,
    pub(crate) path: Filled,
    pub(crate) headers: Headers,
    pub(crate) body: Option<Filled>,
    /// The statuses by which the server accepts the request.
    pub(crate) accept: Vec<u16>,
    /// The statuses by which the server says that somebody else is at work on the instance.
    pub(crate) superseded: Vec<u16>,
    /// The state that the instance has to reach before the next step.
    pub(crate) until: Option<State>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn missing_needs_the_status_and_the_body() {
        let json = Pointer::new("/error/code").unwrap();
        let rule = MissingRule { status: 404, json, equals: json!("not_found") };
        let said = br#"{"error": {"code": "not_found"}}"#;
        assert!(rule.is_met(404, said));
        for (status, body) in [
            (410, &said[..]),
            (200, said),
            (404, b""),
            (404, b"404 page not found"),
            (404, br#"{"error": "not_found"}"#),
            (404, br#"{"error": {"code": "tenant_not_found"}}"#),
            (404, br#"{"error": {"code": null}}"#),
        ] {
            assert!(!rule.is_met(status, body), "{status} {}", String::from_utf8_lossy(body));
        }
        assert_eq!(Pointer::new("error"), None);
        assert!(Pointer::new("").unwrap().of(&json!([])).is_some());
    }
}
