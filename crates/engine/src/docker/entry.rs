//! One entry of a list of containers: the fields that defib uses.
//!
//! Most of an entry (ports, mounts, networks) is of no interest here. The client library decodes all of it, and refuses the whole list for
//! one state that it does not know. Here the other fields are skipped, and the state is read as a word. An unknown word makes this container
//! unknown and leaves the other entries alone.
//!
//! A field of an unexpected type does not spoil the list either. But if it is the id, the names or the labels, nobody can tell whose container
//! the entry is ([`Entry::is_readable`]), and then the list cannot prove that somebody's container does not exist.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Labels with this prefix are settings for defib.
const OWN_PREFIX: &str = "defib.";

/// One container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its full id; empty where the list does not tell it.
    pub(crate) id: Box<str>,
    /// Its names, without the `/` in front.
    pub(crate) names: Vec<Box<str>>,
    pub(crate) state: State,
    pub(crate) health: ListedHealth,
    /// When it was made, in seconds on the engine's clock.
    pub(crate) created: i64,
    /// What the workspace label says.
    pub(crate) workspace: Option<Box<str>>,
    /// The other labels that begin with `defib.`, without that prefix, in order.
    pub(crate) own_labels: Vec<(String, String)>,
    /// Its names or labels have a type that could not be read.
    pub(crate) nameless: bool,
}

/// The state of a container in a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
    /// podman's word for what runs and has been told to stop.
    Stopping,
    /// There is no word, or an unknown one such as podman's `stopped`. Only an inspect can tell more.
    #[default]
    Other,
}

/// What a list says of a health check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ListedHealth {
    /// It has none, or the list does not tell.
    #[default]
    None,
    Starting,
    Healthy,
    Unhealthy,
}

impl Entry {
    /// Whether one can tell whose container this is.
    pub(crate) fn is_readable(&self) -> bool {
        !self.id.is_empty() && !self.nameless
    }

    /// How much text of the list it keeps, in bytes.
    pub(super) fn kept_bytes(&self) -> usize {
        let names: usize = self.names.iter().map(|name| name.len()).sum();
        let labels: usize = self.own_labels.iter().map(|(label, value)| label.len() + value.len()).sum();
        self.id.len() + names + self.workspace.as_ref().map_or(0, |workspace| workspace.len()) + labels
    }
}

impl State {
    fn read(word: &str) -> Self {
        match word {
            "created" => Self::Created,
            "running" => Self::Running,
            "paused" => Self::Paused,
            "restarting" => Self::Restarting,
            "removing" => Self::Removing,
            "exited" => Self::Exited,
            "dead" => Self::Dead,
            "stopping" => Self::Stopping,
            _ => Self::Other,
        }
    }
}

impl ListedHealth {
    /// Reads it from the field that newer engines send, or else from the text behind the uptime, which is all that older ones send.
    fn read(field: Option<&str>, status: &str) -> Self {
        match field {
            Some("starting") => return Self::Starting,
            Some("healthy") => return Self::Healthy,
            Some("unhealthy") => return Self::Unhealthy,
            Some(_) | None => {}
        }
        match status {
            text if text.ends_with("(healthy)") => Self::Healthy,
            text if text.ends_with("(unhealthy)") => Self::Unhealthy,
            text if text.ends_with("(health: starting)") => Self::Starting,
            _ => Self::None,
        }
    }
}

/// An entry as the engine sends it. Texts without escapes are borrowed from the answer.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Sent<'a> {
    #[serde(borrow, default)]
    id: Told<'a>,
    #[serde(borrow, default)]
    names: Told<'a>,
    #[serde(borrow, default)]
    state: Told<'a>,
    #[serde(borrow, default)]
    status: Told<'a>,
    #[serde(borrow, default)]
    created: Told<'a>,
    #[serde(borrow, default)]
    labels: Told<'a>,
    #[serde(borrow, default)]
    health: Told<'a>,
}

impl Sent<'_> {
    /// Keeps what is used.
    pub(super) fn into_entry(self, workspace_label: &str) -> Entry {
        let health = match &self.health {
            Told::Pairs { pairs, .. } => pairs.iter().find(|(key, _)| key == "Status").map(|(_, word)| word.as_ref()),
            _ => None,
        };
        let mut entry = Entry {
            id: self.id.text().into(),
            state: State::read(self.state.text()),
            health: ListedHealth::read(health, self.status.text()),
            created: if let Told::Number(seconds) = self.created { seconds } else { 0 },
            ..Entry::default()
        };
        match self.names {
            Told::Texts(names) => {
                entry.names = names.iter().map(|name| name.strip_prefix('/').unwrap_or(name).into()).collect();
            }
            Told::Nothing => {}
            _ => entry.nameless = true,
        }
        match self.labels {
            Told::Pairs { pairs, whole } => {
                entry.nameless |= !whole;
                for (label, value) in pairs {
                    if label == workspace_label {
                        entry.workspace = Some(value.into());
                    } else if let Some(own) = label.strip_prefix(OWN_PREFIX) {
                        entry.own_labels.push((own.to_owned(), value.into_owned()));
                    }
                }
            }
            Told::Nothing => {}
            _ => entry.nameless = true,
        }
        entry.own_labels.sort_unstable(); // they are sent in another order each time
        entry
    }
}

/// The value of a field, of whatever type it is.
#[derive(Default)]
enum Told<'a> {
    /// The field is not there, or `null`.
    #[default]
    Nothing,
    Text(Cow<'a, str>),
    Number(i64),
    /// A list of texts.
    Texts(Vec<Cow<'a, str>>),
    /// An object, its texts in the order in which they were sent; `null` counts as an empty one.
    Pairs {
        pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
        /// All of its values are texts.
        whole: bool,
    },
    /// Something else.
    Other,
}

impl Told<'_> {
    fn text(&self) -> &str {
        if let Self::Text(text) = self { text } else { "" }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Told<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whatever;
        impl<'de> Visitor<'de> for Whatever {
            type Value = Told<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Told::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Told::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Told::Number(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(i64::try_from(number).map_or(Told::Other, Told::Number))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Told::Other)
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Told::Other)
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Told::Nothing)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let (mut texts, mut whole) = (Vec::new(), true);
                while let Some(item) = items.next_element::<Told<'de>>()? {
                    if let Told::Text(text) = item { texts.push(text) } else { whole = false }
                }
                Ok(if whole { Told::Texts(texts) } else { Told::Other })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut pairs, mut whole) = (Vec::new(), true);
                while let Some((key, value)) = map.next_entry::<Told<'de>, Told<'de>>()? {
                    match (key, value) {
                        (Told::Text(key), Told::Text(value)) => pairs.push((key, value)),
                        (Told::Text(key), Told::Nothing) => pairs.push((key, Cow::Borrowed(""))),
                        _ => whole = false,
                    }
                }
                Ok(Told::Pairs { pairs, whole })
            }
        }
        deserializer.deserialize_any(Whatever)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Entry {
        serde_json::from_str::<Sent<'_>>(text).expect(text).into_entry("defib.workspace")
    }

    #[test]
    fn an_entry_keeps_what_is_used_and_passes_over_the_rest() {
        let entry = read(
            r#"{"Id":"ab","Names":["/a\u0067ent","/link/agent"],"Image":"x","Ports":[{"PrivatePort":1}],"Created":7,
                "State":"running","Status":"Up 2 minutes (healthy)","Mounts":[],
                "Labels":{"defib.threshold":"3","other":"x","defib.workspace":"w\n1","defib.settle":"9s","empty":null}}"#,
        );
        let expected = Entry {
            id: "ab".into(),
            names: vec!["agent".into(), "link/agent".into()],
            state: State::Running,
            health: ListedHealth::Healthy,
            created: 7,
            workspace: Some("w\n1".into()),
            own_labels: vec![("settle".into(), "9s".into()), ("threshold".into(), "3".into())],
            nameless: false,
        };
        assert_eq!(entry, expected);
        assert_eq!(entry.kept_bytes(), 2 + 5 + 10 + 3 + 8 + 10);
        let nothing = r#"{"Names":null,"Labels":null,"State":null,"Health":null}"#;
        assert_eq!((read("{}"), read(nothing)), (Entry::default(), Entry::default()));
    }

    #[test]
    fn a_state_that_is_not_known_concerns_its_container_alone() {
        for (word, state) in [
            (r#""created""#, State::Created),
            (r#""running""#, State::Running),
            (r#""paused""#, State::Paused),
            (r#""restarting""#, State::Restarting),
            (r#""removing""#, State::Removing),
            (r#""exited""#, State::Exited),
            (r#""dead""#, State::Dead),
            (r#""stopping""#, State::Stopping),
            (r#""stopped""#, State::Other),
            (r#""""#, State::Other),
            (r#"{"Running":true}"#, State::Other),
            ("7.5", State::Other),
        ] {
            let entry = read(&format!(r#"{{"Id":"a","State":{word}}}"#));
            assert_eq!((entry.state, entry.is_readable()), (state, true), "{word}");
        }
    }

    #[test]
    fn an_entry_says_when_nobody_knows_whose_container_it_is() {
        for (text, readable) in [
            (r#"{"Id":"a","Names":["/x"],"Labels":{"l":"v"}}"#, true),
            (r#"{"Id":"a","Names":null,"Labels":null}"#, true),
            (r#"{"Names":["/x"]}"#, false),
            (r#"{"Id":7}"#, false),
            (r#"{"Id":"a","Names":"/x"}"#, false),
            (r#"{"Id":"a","Names":["/x",7]}"#, false),
            (r#"{"Id":"a","Labels":["l=v"]}"#, false),
            (r#"{"Id":"a","Labels":{"defib.workspace":7}}"#, false),
            (r#"{"Id":"a","Created":"2024-02-29T12:34:56Z","Status":[]}"#, true),
        ] {
            assert_eq!(read(text).is_readable(), readable, "{text}");
        }
    }

    #[test]
    fn health_is_in_a_field_or_behind_the_uptime() {
        for (status, field, health) in [
            ("Up 2 minutes", None, ListedHealth::None),
            ("Up 2 minutes (healthy)", None, ListedHealth::Healthy),
            ("Up 2 minutes (health: starting)", None, ListedHealth::Starting),
            ("Up 2 minutes (unhealthy)", None, ListedHealth::Unhealthy),
            ("Up 2 minutes", Some("unhealthy"), ListedHealth::Unhealthy),
            ("Up 2 minutes (unhealthy)", Some("none"), ListedHealth::Unhealthy),
        ] {
            let field = field.map(|word| format!(r#","Health":{{"Status":"{word}","FailingStreak":3}}"#));
            let text = format!(r#"{{"Id":"a","Status":"{status}"{}}}"#, field.unwrap_or_default());
            assert_eq!(read(&text).health, health, "{text}");
        }
    }
}
