//! `docs/incidents.md` against the scenarios: none is missing there, none is told otherwise, and what is said to hold it exists.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its sources is broken")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use defib_sim::catalogue;
use defib_sim::scenario::Scenario;

/// All that the page tells of.
fn scenarios() -> impl Iterator<Item = &'static Scenario> {
    catalogue::ALL.iter().chain(catalogue::CONTROL_PLANES)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The sections of the page by their headings, such as `S24 Postgres outage`.
fn sections() -> Vec<(String, String)> {
    let page = std::fs::read_to_string(root().join("docs/incidents.md")).unwrap();
    let parts = page.split("\n### ").skip(1);
    parts
        .map(|part| part.split_once('\n').unwrap())
        .map(|(heading, text)| (heading.to_owned(), text.split("\n## ").next().unwrap().to_owned()))
        .collect()
}

/// Every function of the repository by its name, with the files that have one of that name.
fn functions() -> BTreeMap<String, BTreeSet<PathBuf>> {
    let mut found: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
    let mut waiting = vec![root().join("crates"), root().join("tests")];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    waiting.push(path);
                }
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for (at, word) in text.match_indices("fn ") {
                    let rest = text[at + word.len()..].chars();
                    let name: String = rest.take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                    found.entry(name).or_default().insert(path.clone());
                }
            }
        }
    }
    found
}

/// What a line calls in code.
fn in_code(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_scenario_has_its_section_in_order_with_its_own_story() {
    let sections = sections();
    let headings: Vec<&str> = sections.iter().map(|(heading, _)| heading.as_str()).collect();
    let expected: Vec<String> = scenarios().map(|Scenario { id, name, .. }| format!("{id} {name}")).collect();
    assert_eq!(headings, expected);
    for (Scenario { id, story, .. }, (_, text)) in scenarios().zip(&sections) {
        assert!(text.contains(&format!("*In the simulator: {story}.*")), "{id} tells another story than the catalogue");
        for part in ["\n- Field: ", "\n- Rule: ", "\n- Held by: "] {
            assert!(text.contains(part), "{id} has no line{part}");
        }
        assert!(text.contains("](design.md#"), "{id} names no section of the design");
    }
}

#[test]
fn what_is_said_to_hold_an_incident_exists() {
    let functions = functions();
    for (Scenario { id, .. }, (_, text)) in scenarios().zip(&sections()) {
        let line = text.lines().find_map(|line| line.strip_prefix("- Held by: ")).unwrap();
        let (scenario, tests) = line.split_once("; ").unwrap();
        let [name, file] = in_code(scenario)[..] else { panic!("{id}: {scenario}") };
        assert_eq!(name, id.to_lowercase(), "the scenario's function has its number");
        let path = root().join(file);
        assert!(functions.get(name).is_some_and(|files| files.contains(&path)), "{id}: {file} has no function {name}");
        let named = in_code(tests);
        assert!(!named.is_empty(), "{id} names no test");
        for test in named {
            assert!(functions.contains_key(test), "{id}: there is no test {test}");
        }
    }
}
