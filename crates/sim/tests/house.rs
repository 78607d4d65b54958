//! No module of this crate imports in a circle: each can be read, and understood, after those that it stands on.
//!
//! The sources are read as text. An import is a `use` line, or a path in the code, that begins with `crate::`, `super::` or the name
//! of a child module. Unit tests at the end of a file do not count.

#![allow(clippy::unwrap_used, reason = "a test that cannot read the sources is broken")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Which modules each module imports, by paths such as `ledger::row`.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn sources(folder: &Path, module: &str, into: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let inner = if module.is_empty() { name.clone() } else { format!("{module}::{name}") };
        if path.is_dir() {
            sources(&path, &inner, into);
        } else if path.extension().is_some_and(|it| it == "rs") && !["lib", "main"].contains(&name.as_str()) {
            let module = if name == "mod" { module.to_owned() } else { inner };
            into.insert(module, std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// The code of a file without comments and unit tests.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join(" ")
}

/// The path that begins at `at`, with every ending of its braces: `crate::time::{Ms, secs}` is two.
fn paths(text: &str) -> Vec<String> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let plain: String = text.chars().take_while(|c| is_path(*c)).collect();
    let rest = &text[plain.len()..];
    if !(plain.ends_with("::") && rest.starts_with('{')) {
        return vec![plain];
    }
    let inside: String = rest[1..].chars().take_while(|c| *c != '}').collect();
    inside.split(',').map(|name| format!("{plain}{}", name.trim())).collect()
}

fn imports() -> Imports {
    let mut files = BTreeMap::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut files);
    // The longest module that a path goes through: what is left of it is the name of an item.
    let target = |path: &str| {
        let mut path = path.trim_end_matches(':');
        loop {
            if files.contains_key(path) {
                return Some(path.to_owned());
            }
            path = path.rsplit_once("::")?.0;
        }
    };
    let parent = |module: &str| module.rsplit_once("::").map_or(String::new(), |(parent, _)| parent.to_owned());
    let mut imports = Imports::new();
    for (module, text) in &files {
        let code = code(text);
        let mut named = BTreeSet::new();
        let mut see = |prefix: &str, base: &str| {
            for (at, _) in code.match_indices(prefix) {
                let before = code[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                let joined = |path: &String| if base.is_empty() { path.clone() } else { format!("{base}::{path}") };
                named.extend(paths(&code[at + prefix.len()..]).iter().filter_map(|path| target(&joined(path))));
            }
        };
        see("crate::", "");
        see("super::", &parent(module));
        let children = files.keys().filter(|other| parent(other) == *module);
        for child in children {
            let name = child.rsplit("::").next().unwrap();
            see(&format!("{name}::"), child);
        }
        named.remove(module);
        imports.insert(module.clone(), named);
    }
    imports
}

/// The circles among the imports. Modules that import none of the others, or that none of the others imports, are taken away again and
/// again; the rest are in circles.
fn circles(mut imports: Imports) -> Imports {
    loop {
        let imported: BTreeSet<String> = imports.values().flatten().cloned().collect();
        let is_free = |(module, named): &(&String, &BTreeSet<String>)| named.is_empty() || !imported.contains(*module);
        let free: Vec<String> = imports.iter().filter(is_free).map(|(module, _)| module.clone()).collect();
        if free.is_empty() {
            return imports;
        }
        for module in free {
            imports.remove(&module);
            for named in imports.values_mut() {
                named.remove(&module);
            }
        }
    }
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

#[test]
fn no_room_imports_in_a_circle() {
    let mut rooms = Imports::new();
    for (module, named) in imports() {
        let others = named.iter().map(|other| room(other)).filter(|other| *other != room(&module));
        rooms.entry(room(&module).to_owned()).or_default().extend(others.map(str::to_owned));
    }
    assert_eq!(circles(rooms), Imports::new(), "these import each other");
}

#[test]
fn no_file_imports_in_a_circle() {
    let files = imports();
    assert!(files.len() > 30, "the sources were not found: {files:#?}");
    assert_eq!(circles(files), Imports::new(), "these import each other");
}

#[test]
fn a_circle_is_found() {
    let of = |pairs: &[(&str, &[&str])]| -> Imports {
        pairs
            .iter()
            .map(|(module, named)| ((*module).to_owned(), named.iter().map(|it| (*it).to_owned()).collect()))
            .collect()
    };
    assert_eq!(circles(of(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])), Imports::new());
    let left = circles(of(&[("a", &["b"]), ("b", &["a", "c"]), ("c", &[]), ("d", &["a"])]));
    assert_eq!(left, of(&[("a", &["b"]), ("b", &["a"])]));
}
