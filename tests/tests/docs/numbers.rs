//! Numbers that stand for something: "section 4.3" is a heading of `docs/design.md`, "S24" one of `docs/incidents.md`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Page, files, read};

/// The numbers at the beginning of the headings of a page.
fn headings(page: &str) -> BTreeSet<String> {
    let page = Page::of(&read(Path::new(page)));
    let first = |heading: &String| heading.split_whitespace().next().map(|word| word.trim_end_matches('.').to_owned());
    page.headings.iter().filter_map(first).collect()
}

/// Words after which a number is one of the design.
const SECTION: [&str; 2] = ["section ", "Section "];

/// The sections that a line calls by their numbers.
fn sections(line: &str) -> Vec<String> {
    let after = SECTION.iter().flat_map(|word| line.match_indices(word).map(|(at, word)| &line[at + word.len()..]));
    let number = |rest: &str| -> String {
        let digits: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        digits.trim_end_matches('.').to_owned()
    };
    after.map(number).filter(|number| !number.is_empty()).collect()
}

/// The incidents that a line calls by their numbers: `S` and two digits, as a word of its own.
fn incidents(line: &str) -> Vec<String> {
    let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let is_one =
        |word: &&str| word.len() == 3 && word.starts_with('S') && word[1..].bytes().all(|digit| digit.is_ascii_digit());
    words.filter(is_one).map(str::to_owned).collect()
}

/// Text that people read: comments, documents, messages.
fn texts() -> Vec<PathBuf> {
    let endings = [".rs", ".md", ".sql", ".toml", ".yaml", ".yml", ".sh", ".service", ".env", "Makefile", "Dockerfile"];
    let made = |path: &PathBuf| path.ends_with("Cargo.lock") || path.ends_with("tests/docs/numbers.rs");
    files(&endings).into_iter().filter(|path| !made(path)).collect()
}

fn unknown(of_line: impl Fn(&str) -> Vec<String>, known: &BTreeSet<String>) -> Vec<String> {
    let mut unknown = Vec::new();
    for path in texts() {
        for (number, line) in read(&path).lines().enumerate() {
            for name in of_line(line).into_iter().filter(|name| !known.contains(name)) {
                unknown.push(format!("{}:{}: {name}", path.display(), number + 1));
            }
        }
    }
    unknown
}

#[test]
fn every_section_that_a_text_names_is_in_the_design() {
    let known = headings("docs/design.md");
    assert!(known.contains("4.10") && known.contains("11"), "{known:?}");
    assert_eq!(unknown(sections, &known), Vec::<String>::new(), "docs/design.md has no such section");
}

#[test]
fn every_incident_that_a_text_names_is_among_the_incidents() {
    let known = headings("docs/incidents.md");
    assert!(known.contains("S01") && known.contains("S71"), "{known:?}");
    assert_eq!(unknown(incidents, &known), Vec::<String>::new(), "docs/incidents.md has no such incident");
}

/// A page that is not in the repository helps nobody who reads it.
#[test]
fn no_text_points_to_a_page_that_is_not_here() {
    let foreign = |line: &str| if line.contains("DESIGN.md") { vec!["DESIGN.md".to_owned()] } else { Vec::new() };
    // A migration that is released is not changed.
    let found: Vec<String> =
        unknown(foreign, &BTreeSet::new()).into_iter().filter(|it| !it.starts_with("migrations/0004_")).collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn numbers_are_found_where_they_stand_for_something() {
    assert_eq!(sections("// Section 4.6: it. See section 10, and the section that follows"), ["10", "4.6"]);
    assert_eq!(incidents("(S24, S02) `--scenario S51`; S3 and XS24 and S240 are none"), ["S24", "S02", "S51"]);
}
