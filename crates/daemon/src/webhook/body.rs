//! What is sent: `{type, timestamp, data}`, or one sentence for a chat.

use defib_policy::moment::Timestamp;
use serde_json::{Map, Value, json};

use super::kinds::{DIGEST, TEST};
use super::settings::Format;

/// A message, apart from its id.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) kind: String,
    pub(crate) at: Timestamp,
    pub(crate) workspace: Option<String>,
    pub(crate) engine: Option<String>,
    pub(crate) data: Value,
}

impl Told {
    /// The body of the request.
    pub(crate) fn body(&self, format: Format) -> String {
        match format {
            Format::Standard => {
                json!({ "type": self.kind, "timestamp": self.at.to_string(), "data": self.data() }).to_string()
            }
            Format::Slack => json!({ "text": format!("defib: {}", escaped(&self.sentence())) }).to_string(),
        }
    }

    /// The workspace and the engine stand beside the rest.
    fn data(&self) -> Value {
        let mut data = Map::new();
        let subjects = [("workspace_id", &self.workspace), ("engine", &self.engine)];
        let subjects = subjects.into_iter().filter_map(|(key, name)| Some((key.to_owned(), name.clone()?.into())));
        data.extend(subjects);
        if let Value::Object(more) = &self.data {
            data.extend(
                more.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())),
            );
        }
        data.into()
    }

    fn sentence(&self) -> String {
        let text = |key: &str| self.data.get(key).and_then(Value::as_str).unwrap_or_default();
        let number = |key: &str| self.data.get(key).and_then(Value::as_i64).unwrap_or_default();
        let on = self.engine.as_ref().map_or_else(String::new, |engine| format!(" on engine {engine}"));
        let who = self.workspace.as_ref().map_or_else(|| "a workspace".to_owned(), |id| format!("workspace {id}{on}"));
        let because = if text("because").is_empty() { String::new() } else { format!(": {}", text("because")) };
        if let Some(kind) = self.kind.strip_suffix(DIGEST) {
            let named: Vec<&str> = self
                .data
                .get("workspaces")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .take(5)
                .collect();
            return format!("{} times {kind}{on} in a storm, among them {}", number("count"), named.join(", "));
        }
        match self.kind.as_str() {
            "restart.succeeded" => format!(
                "{who} was {}, attempt {}; whether it is back, its heartbeat will tell",
                verb(text("verdict")),
                number("attempt")
            ),
            "restart.failed" if text("outcome") == "abandoned" => {
                format!(
                    "nobody knows whether the restart of {who} was made (attempt {}): {}",
                    number("attempt"),
                    text("error")
                )
            }
            "restart.failed" => {
                format!("{who} could not be restarted (attempt {}): {}", number("attempt"), text("error"))
            }
            "workspace.recovered" => format!("{who} is back"),
            "workspace.exhausted" => {
                format!("{who} is dead, and restarting has not helped. Somebody has to look at it{because}")
            }
            "workspace.contradiction" => {
                format!("{who} sends heartbeats while its container is down, so the mapping is wrong{because}")
            }
            "workspace.lost" => format!("{who} is lost, and there is no container to restart{because}"),
            "storm.began" => format!("many workspaces died at once{on}, so restarts go in small batches"),
            "storm.ended" => format!("the storm{on} is over after {} s", number("lasted_seconds")),
            "hold.placed" => format!("{} holds restarts of {}: {}", text("owner"), self.held(), text("reason")),
            "hold.released" => format!(
                "{} released the hold on {} that {} had placed",
                text("released_by"),
                self.held(),
                text("owner")
            ),
            TEST => "this is a test; messages arrive".to_owned(),
            other => other.to_owned(),
        }
    }

    fn held(&self) -> String {
        match (&self.workspace, &self.engine) {
            (Some(workspace), _) => format!("workspace {workspace}"),
            (None, Some(engine)) => format!("engine {engine}"),
            (None, None) => "the whole fleet".to_owned(),
        }
    }
}

fn verb(verdict: &str) -> String {
    match verdict {
        "operator" => "restarted by an operator's order".to_owned(),
        "" => "restarted".to_owned(),
        verdict => format!("found {verdict} and restarted"),
    }
}

/// The three characters that Slack gives a meaning to.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::kinds::KINDS;
    use super::*;

    fn told(kind: &str, data: Value) -> Told {
        Told {
            kind: kind.to_owned(),
            at: Timestamp(1_709_210_096_123_456),
            workspace: Some("w1".into()),
            engine: Some("default".into()),
            data,
        }
    }

    #[test]
    fn the_body_of_the_standard_has_three_keys_and_no_nulls() {
        let body = told("restart.failed", json!({ "attempt": 2, "error": "no such image", "container_id": null }))
            .body(Format::Standard);
        let expected = json!({
            "type": "restart.failed", "timestamp": "2024-02-29T12:34:56.123456Z",
            "data": { "workspace_id": "w1", "engine": "default", "attempt": 2, "error": "no such image" },
        });
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), expected);
    }

    #[test]
    fn a_chat_gets_a_sentence_that_cannot_call_anybody() {
        let told = told("restart.failed", json!({ "attempt": 2, "error": "<!channel> & co" }));
        let expected = json!({ "text": "defib: workspace w1 on engine default could not be restarted (attempt 2): &lt;!channel&gt; &amp; co" });
        assert_eq!(serde_json::from_str::<Value>(&told.body(Format::Slack)).unwrap(), expected);
    }

    #[test]
    fn every_type_and_every_digest_has_a_sentence() {
        for kind in KINDS {
            assert_ne!(told(kind, json!({})).sentence(), kind);
        }
        let digest = Told {
            workspace: None,
            ..told("restart.succeeded.digest", json!({ "count": 500, "workspaces": ["a", "b"] }))
        };
        assert_eq!(digest.sentence(), "500 times restart.succeeded on engine default in a storm, among them a, b");
    }
}
