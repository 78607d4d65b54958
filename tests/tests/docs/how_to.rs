//! `docs/architecture.md` against the repository: every path that it names exists, and each list of "How to add" names the files that
//! really hold its example, all of those of the program.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{files, read, root};

const PAGE: &str = "docs/architecture.md";

/// A list of "How to add", and the words by which its example is found. Files that hold one of them belong into the list.
struct HowTo {
    heading: &'static str,
    words: &'static [&'static str],
}

const HOW_TO: [HowTo; 8] = [
    HowTo {
        heading: "A verdict, or a rule that gives one",
        words: &["Contradiction", "contradiction", "BeatsWithoutContainer", "beats_without_container"],
    },
    HowTo { heading: "A reason that holds a restart back", words: &["CannotRecreate", "cannot_recreate"] },
    HowTo { heading: "A knob", words: &["STORM_COOLDOWN", "storm_cooldown"] },
    HowTo { heading: "A metric", words: &["defib_unowned_workspaces", "unowned"] },
    HowTo { heading: "A kind of engine", words: &["ControlPlane"] },
    HowTo { heading: "An adapter", words: &["molecule-core.sql"] },
    HowTo { heading: "A scenario", words: &["S71", "s71"] },
    HowTo { heading: "A migration", words: &["0007_operators"] },
];

/// The lines of the list below a heading of the third level.
fn list(heading: &str) -> Vec<String> {
    let page = read(Path::new(PAGE));
    let (_, rest) = page.split_once(&format!("\n### {heading}\n")).unwrap();
    let section = rest.split("\n##").next().unwrap();
    section.lines().filter(|line| line.starts_with("- ")).map(str::to_owned).collect()
}

fn in_code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Whether what stands in code is the path of a file or a folder of the repository.
fn is_path(word: &str) -> bool {
    let first = word.split('/').next().unwrap_or_default();
    let of_root = ["crates", "tests", "migrations", "deploy", "docs", "demo"].contains(&first) && word.contains('/');
    of_root || Path::new(word).extension().is_some_and(|it| it == "md")
}

#[test]
fn every_path_that_the_page_names_exists() {
    let page = read(Path::new(PAGE));
    let missing: Vec<&str> =
        page.lines().flat_map(in_code).filter(|word| is_path(word) && !root().join(word).exists()).collect();
    assert_eq!(missing, Vec::<&str>::new());
    let modules = page.split("from the bottom to the top").nth(1).unwrap().split("\n## ").next().unwrap();
    for row in modules.lines().filter_map(|line| line.strip_prefix("| `")) {
        for module in in_code(&format!("`{}", row.split('|').next().unwrap())) {
            let at = root().join("crates/daemon/src").join(module);
            assert!(at.is_dir() || at.with_extension("rs").exists(), "crates/daemon/src has no module {module}");
        }
    }
}

#[test]
fn every_list_is_checked() {
    let page = read(Path::new(PAGE));
    let (_, lists) = page.split_once("\n## How to add\n").unwrap();
    let headings: Vec<&str> = lists.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(headings, HOW_TO.each_ref().map(|how_to| how_to.heading));
}

/// A line names a file, and then what in it stands for the example: that must be there.
#[test]
fn every_file_of_a_list_holds_what_the_line_says() {
    for how_to in &HOW_TO {
        let lines = list(how_to.heading);
        assert!(lines.len() > 2, "{}: {lines:?}", how_to.heading);
        for line in lines {
            let mut file: Option<PathBuf> = None;
            for word in in_code(&line) {
                if is_path(word) {
                    file = Some(word.into());
                } else if how_to.words.contains(&word) {
                    let file = file.as_ref().unwrap_or_else(|| panic!("no file before {word}: {line}"));
                    assert!(read(file).contains(word), "{} does not hold {word}", file.display());
                }
            }
            assert!(file.is_some(), "{}: no file in: {line}", how_to.heading);
        }
    }
}

/// The files of the program that hold one of `words`. Tests hold examples of everything, prose tells of it, and the simulator has a
/// world of its own.
fn holders(how_to: &HowTo) -> BTreeSet<PathBuf> {
    let is_scenario = how_to.heading == "A scenario";
    let is_program = |path: &PathBuf| {
        let text = path.to_string_lossy();
        let crates = ["policy", "store", "engine", "record", "backtest", "daemon"];
        let of_crates = crates.iter().any(|name| text.starts_with(&format!("crates/{name}/src")));
        let of_program = of_crates
            || ["deploy", "migrations"].iter().any(|part| text.starts_with(part))
            || (is_scenario && text.starts_with("crates/sim/src"));
        of_program && !["tests.rs", "house_tests", "control_plane/"].iter().any(|part| text.contains(part))
    };
    let holds = |path: &PathBuf| {
        let text = read(path);
        let is_word = |at: usize, word: &str| {
            let ends = |c: Option<char>| c.is_none_or(|c| !(c.is_alphanumeric() || c == '_'));
            ends(text[..at].chars().next_back()) && ends(text[at + word.len()..].chars().next())
        };
        how_to.words.iter().any(|word| text.match_indices(word).any(|(at, _)| is_word(at, word)))
    };
    let endings = [".rs", ".sql", ".yaml", ".env", ".txt", ".md"];
    files(&endings).into_iter().filter(is_program).filter(holds).collect()
}

#[test]
fn no_file_of_the_program_that_has_the_example_is_left_out() {
    for how_to in &HOW_TO {
        let lines = list(how_to.heading);
        let listed: BTreeSet<PathBuf> =
            lines.iter().flat_map(|line| in_code(line)).filter(|word| is_path(word)).map(PathBuf::from).collect();
        let left_out: Vec<PathBuf> = holders(how_to).difference(&listed).cloned().collect();
        assert_eq!(left_out, Vec::<PathBuf>::new(), "{PAGE}, \"{}\" leaves these out", how_to.heading);
    }
}
