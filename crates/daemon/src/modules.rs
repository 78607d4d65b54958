//! A test of the structure of this crate: no module imports another one that imports it, directly or through others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules of the crate by their first name, with those that each imports.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut waiting = vec![root.clone()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory of the sources") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let inside = path.strip_prefix(&root).expect("below the root");
            let first = inside.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
            let module = first.trim_end_matches(".rs").to_owned();
            if matches!(module.as_str(), "lib" | "main" | "bin" | "modules" | "house_tests") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source file");
            // Imports that only tests make are left out, because they make no circle in the program.
            let program = text.split("#[cfg(test)]").next().unwrap_or_default();
            if path.file_stem().is_none_or(|stem| stem != "tests") {
                found
                    .entry(module.clone())
                    .or_default()
                    .extend(imported(program).into_iter().filter(|it| *it != module));
            }
        }
    }
    found
}

/// The modules of this crate that a text names: after `crate::`, alone or in braces.
fn imported(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let list = rest.strip_prefix('{').and_then(|list| list.split_once('}')).map(|(list, _)| list);
        for item in list.unwrap_or(rest).split(',').take(if list.is_some() { usize::MAX } else { 1 }) {
            let name: String = item.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if !name.is_empty() {
                names.insert(name);
            }
        }
    }
    names
}

#[test]
fn no_module_imports_itself_by_a_way_round() {
    let mut left = imports();
    assert!(left.len() > 20, "the modules were not found: {left:?}");
    loop {
        let known: BTreeSet<String> = left.keys().cloned().collect();
        let free: Vec<String> = left
            .iter()
            .filter(|(_, imports)| imports.intersection(&known).next().is_none())
            .map(|(module, _)| module.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        for module in free {
            left.remove(&module);
        }
    }
    assert!(left.is_empty(), "these modules are in a circle of imports, or import one that is: {left:#?}");
}

#[test]
fn imports_are_found_alone_and_in_braces() {
    let text = "use crate::clock::{self, Clock};\nuse crate::{http, run};\nlet x = crate::logging::chain(e);";
    let found: Vec<String> = imported(text).into_iter().collect();
    assert_eq!(found, ["clock", "http", "logging", "run"]);
}
