//! The settings that single workspaces have of their own: the `policy` column of their row, and `defib.*` labels of their
//! container. The row wins, setting by setting.
//!
//! Both come with every pass and hardly ever change, so the parsed settings are kept together with the text that they were parsed from.
//! What is wrong with a setting is logged once, and stays in the evidence of every verdict until it is mended.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use defib_policy::fleet::Workspace;
use defib_policy::id::WorkspaceId;
use defib_policy::judge::OwnSettings;
use defib_policy::overrides::Overrides;
use defib_policy::settings::Settings;
use serde_json::Value;
use tracing::warn;

use crate::logging::printable;

/// Longer `policy` texts are not read. All settings fit into a small part of this length.
const POLICY_MAX: usize = 4_096;

/// The labels of a container that are settings: without their `defib.`, in order.
pub(crate) type Labels = Vec<(String, String)>;

/// The beginning of the description of a setting that is not used.
const NOT_USED: &str = "not used: ";

/// The settings of each workspace that has any, as they were understood.
#[derive(Debug, Default)]
pub(crate) struct OwnBook {
    entries: HashMap<WorkspaceId, Entry>,
}

#[derive(Debug)]
struct Entry {
    policy: Option<Box<str>>,
    labels: Labels,
    made: Arc<OwnSettings>,
}

impl OwnBook {
    /// The own settings of those of `workspaces` that have any. `labels` are the labels that a complete look at their engine has shown.
    /// Without such a look, the labels that were last seen hold.
    pub(crate) fn settings(
        &mut self,
        workspaces: &[&Workspace],
        labels: Option<&BTreeMap<WorkspaceId, Labels>>,
        fleet: &Settings,
    ) -> HashMap<WorkspaceId, Arc<OwnSettings>> {
        let mut found = HashMap::new();
        for workspace in workspaces {
            let known = self.entries.get(&workspace.id);
            let labelled = match labels {
                Some(labels) => labels.get(&workspace.id).map_or(&[][..], Vec::as_slice),
                None => known.map_or(&[][..], |known| &known.labels),
            };
            if workspace.policy.is_none() && labelled.is_empty() {
                self.entries.remove(&workspace.id);
                continue;
            }
            let made = match known {
                Some(known) if known.policy == workspace.policy && known.labels == labelled => Arc::clone(&known.made),
                _ => {
                    let labels = labelled.to_vec();
                    let made = Arc::new(make(workspace, &labels, fleet));
                    let entry = Entry { policy: workspace.policy.clone(), labels, made: Arc::clone(&made) };
                    self.entries.insert(workspace.id.clone(), entry);
                    made
                }
            };
            found.insert(workspace.id.clone(), made);
        }
        found
    }

    /// The own settings of one workspace as text, and what of them is not used.
    pub(crate) fn described(&self, id: &WorkspaceId) -> Vec<String> {
        self.entries.get(id).map(|entry| entry.made.described.clone()).unwrap_or_default()
    }

    /// Forgets workspaces that are no longer watched.
    pub(crate) fn forget<'a>(&mut self, departed: impl Iterator<Item = &'a WorkspaceId>) {
        for id in departed {
            self.entries.remove(id);
        }
    }
}

/// The settings in a row that are not used, and why.
pub(crate) fn faults(workspace: &Workspace, fleet: &Settings) -> Vec<String> {
    let described = make(workspace, &Vec::new(), fleet).described;
    described.iter().filter_map(|line| line.strip_prefix(NOT_USED)).map(str::to_owned).collect()
}

fn make(workspace: &Workspace, labels: &Labels, fleet: &Settings) -> OwnSettings {
    let mut described = Vec::new();
    let mut faults = Vec::new();
    let mut by_row = Overrides::default();
    if let Some(policy) = &workspace.policy {
        match pairs(policy) {
            Ok(pairs) => set_all(&mut by_row, "policy", &pairs, &mut described, &mut faults),
            Err(why) => faults.push(format!("policy: {why}")),
        }
    }
    let mut by_label = Overrides::default();
    set_all(&mut by_label, "label defib.", labels, &mut described, &mut faults);
    let settings = by_row.or(&by_label).apply(fleet).unwrap_or_else(|why| {
        faults.extend(why);
        fleet.clone()
    });
    for fault in &mut faults {
        *fault = printable(fault);
        warn!(workspace = %printable(workspace.id.as_str()), fault, "a setting of this workspace is not used");
    }
    described.extend(faults.into_iter().map(|fault| format!("{NOT_USED}{fault}")));
    OwnSettings { settings, described }
}

fn set_all(
    into: &mut Overrides,
    source: &str,
    pairs: &[(String, String)],
    described: &mut Vec<String>,
    faults: &mut Vec<String>,
) {
    for (key, value) in pairs {
        match into.set(key, value, humantime::parse_duration(value.trim()).ok()) {
            Ok(()) => described.push(printable(&format!("{source} {key}={value}").replace("defib. ", "defib."))),
            Err(why) => faults.push(format!("{source} {why}").replace("defib. ", "defib.")),
        }
    }
}

/// The settings in a `policy` column: a flat JSON object of texts and numbers.
fn pairs(policy: &str) -> Result<Labels, String> {
    if policy.len() > POLICY_MAX {
        return Err(format!("longer than {POLICY_MAX} bytes"));
    }
    let value: Value = serde_json::from_str(policy).map_err(|error| error.to_string())?;
    let object = match value {
        Value::Object(object) => object,
        Value::Null => return Ok(Vec::new()),
        _ => return Err("not a JSON object such as {\"threshold\": 3, \"settle\": \"5m\"}".to_owned()),
    };
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(object.into_iter().map(|(key, value)| (key, text(value))).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use defib_policy::fleet::Kind;

    use super::*;

    fn row(policy: Option<&str>) -> Workspace {
        Workspace {
            id: "w".into(),
            status: "online".into(),
            kind: Kind::Container,
            engine: "default".into(),
            container_ref: None,
            instance_ref: None,
            suspended: false,
            last_heartbeat_at: None,
            last_activity_at: None,
            active_tasks: 0,
            created_at: None,
            policy: policy.map(Into::into),
        }
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<WorkspaceId, Labels> {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        BTreeMap::from([("w".into(), pairs)])
    }

    fn made(
        book: &mut OwnBook,
        row: &Workspace,
        labels: Option<&BTreeMap<WorkspaceId, Labels>>,
    ) -> Option<OwnSettings> {
        book.settings(&[row], labels, &Settings::default()).remove("w").map(|own| (*own).clone())
    }

    #[test]
    fn the_row_wins_over_labels_setting_by_setting() {
        let mut book = OwnBook::default();
        let labels = labels(&[("threshold", "5"), ("settle", "90s")]);
        let own = made(&mut book, &row(Some(r#"{"threshold": 3}"#)), Some(&labels)).expect("own settings");
        assert_eq!((own.settings.dead_threshold, own.settings.settle), (3, Duration::from_secs(90)));
        assert_eq!(own.described, ["policy threshold=3", "label defib.threshold=5", "label defib.settle=90s"]);
    }

    #[test]
    fn bad_settings_are_described_and_the_fleets_hold() {
        let mut book = OwnBook::default();
        for (policy, fault) in [
            (r#"{"threshold": 1}"#, "threshold=1"),
            (r#"{"spacing": "40s"}"#, "DEFIB_DEAD_WINDOW"),
            ("[1]", "not a JSON object"),
            (r#"{"wibble": 1}"#, "wibble is not a setting"),
        ] {
            let own = made(&mut book, &row(Some(policy)), None).expect("an entry");
            assert_eq!(own.settings, Settings::default(), "{policy}");
            assert!(own.described[0].starts_with("not used: ") || own.described.len() == 2, "{:?}", own.described);
            assert!(own.described.concat().contains(fault), "{:?}", own.described);
        }
    }

    #[test]
    fn labels_last_seen_hold_until_a_complete_look_says_otherwise() {
        let mut book = OwnBook::default();
        let labelled = labels(&[("threshold", "4")]);
        assert!(made(&mut book, &row(None), Some(&labelled)).is_some());
        assert!(made(&mut book, &row(None), None).is_some(), "a focus reads no labels");
        assert!(made(&mut book, &row(None), Some(&BTreeMap::new())).is_none());
        assert!(book.entries.is_empty());
    }
}
