//! The documents against the repository: every link resolves, every number that the text uses exists, and the lists of
//! "how to add" name the files that hold the thing.
//!
//! A document is wrong silently: a file moves, a heading is renamed, a section is dropped, and nobody is told until a stranger follows the
//! link.

#![allow(clippy::unwrap_used, reason = "a test that cannot read the repository is broken")]

mod how_to;
mod links;
mod numbers;

use std::path::{Path, PathBuf};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Every file of the repository that has one of these endings, by its path from the root. What was built, and what is git's, is not
/// part of it.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let root = root();
    let (mut found, mut waiting) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git") && !path.is_symlink() {
                    waiting.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path.strip_prefix(&root).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// A Markdown page: its headings, the anchors that they have, and where it links to.
struct Page {
    headings: Vec<String>,
    anchors: Vec<String>,
    links: Vec<String>,
}

impl Page {
    fn of(text: &str) -> Self {
        let mut page = Self { headings: Vec::new(), anchors: Vec::new(), links: Vec::new() };
        let mut heading: Option<String> = None;
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => page.push(heading.take().unwrap_or_default()),
                Event::Text(words) | Event::Code(words) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.into_string());
                }
                _ => {}
            }
        }
        page
    }

    fn push(&mut self, heading: String) {
        let anchor = anchor(&heading);
        let same = self.headings.iter().filter(|earlier| self::anchor(earlier) == anchor).count();
        self.anchors.push(if same == 0 { anchor } else { format!("{anchor}-{same}") });
        self.headings.push(heading);
    }
}

/// The anchor that GitHub and mdbook give a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// A first-time reader wants to know what it is, why to trust it and how to begin. The rest belongs into `docs/`.
#[test]
fn the_readme_is_short() {
    let lines = read(Path::new("README.md")).lines().count();
    assert!(lines < 200, "README.md has {lines} lines: move what a first-time reader does not need into docs/");
}

#[test]
fn a_heading_has_the_anchor_that_readers_of_markdown_give_it() {
    let page = Page::of("# 4.2 When a *heartbeat* is fresh\n\n## held: `start_unknown`\n\n## Twice\n\n## Twice\n");
    assert_eq!(page.anchors, ["42-when-a-heartbeat-is-fresh", "held-start_unknown", "twice", "twice-1"]);
}
