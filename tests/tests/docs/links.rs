//! Links between the Markdown files, and from them to other files.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::{Page, files, read, root};

/// Whether a link leads out of the repository. Those are not followed: a test must not need the network.
fn is_foreign(link: &str) -> bool {
    ["http://", "https://", "mailto:"].iter().any(|scheme| link.starts_with(scheme))
}

/// `folder/../file` without the detour; `None` when it leads out of the repository.
fn resolve(folder: &Path, link: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for part in folder.join(link).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir if !path.pop() => return None,
            _ => {}
        }
    }
    Some(path)
}

/// What is wrong with a link of `page`, if anything is.
fn fault(page: &Path, link: &str) -> Option<String> {
    if is_foreign(link) {
        return None;
    }
    let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let target = if file.is_empty() {
        page.to_owned()
    } else {
        match resolve(page.parent().unwrap_or(Path::new("")), file) {
            Some(target) => target,
            None => return Some("it leads out of the repository".to_owned()),
        }
    };
    if !root().join(&target).exists() {
        return Some(format!("there is no {}", target.display()));
    }
    let anchor = anchor?;
    if target.extension().is_none_or(|it| it != "md") {
        return Some("only headings of Markdown files have anchors".to_owned());
    }
    let has = Page::of(&read(&target)).anchors.iter().any(|it| it == anchor);
    (!has).then(|| format!("{} has no heading with the anchor #{anchor}", target.display()))
}

#[test]
fn every_link_in_every_markdown_file_resolves() {
    let pages = files(&[".md"]);
    assert!(pages.len() > 10, "the Markdown files were not found: {pages:?}");
    let mut broken = Vec::new();
    for page in &pages {
        for link in Page::of(&read(page)).links {
            broken.extend(fault(page, &link).map(|why| format!("{}: {link}: {why}", page.display())));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_broken_link_is_found() {
    let page = Path::new("docs/design.md");
    for good in ["#5-a-restart-happens-once", "../README.md#try-it", "simulation/report.md", "https://example.org/#x"] {
        assert_eq!(fault(page, good), None, "{good}");
    }
    for bad in
        ["#no-such-heading", "../README.md#no-such-heading", "no-such-page.md", "../../other", "../Makefile#test"]
    {
        assert!(fault(page, bad).is_some(), "{bad}");
    }
}

/// The book has the pages of `docs/` and no others. So a page there that links elsewhere has a dead link on the site.
#[test]
fn every_page_of_the_book_is_in_its_summary_and_links_to_pages_of_the_book_only() {
    let docs = Path::new("docs");
    let summary = Page::of(&read(Path::new("docs/SUMMARY.md")));
    let listed: BTreeSet<PathBuf> = summary.links.iter().filter_map(|link| resolve(docs, link)).collect();
    let made = |page: &PathBuf| page == Path::new("docs/SUMMARY.md") || page == Path::new("docs/simulation/summary.md");
    let pages: BTreeSet<PathBuf> =
        files(&[".md"]).into_iter().filter(|page| page.starts_with(docs) && !made(page)).collect();
    assert_eq!(listed, pages, "docs/SUMMARY.md lists every page (the summary of the report is a part of README.md)");
    let mut outside = Vec::new();
    for page in &pages {
        let links = Page::of(&read(page)).links;
        let leaves = |link: &&String| {
            let file = link.split('#').next().unwrap_or_default();
            !is_foreign(link) && resolve(page.parent().unwrap(), file).is_none_or(|it| !it.starts_with(docs))
        };
        outside
            .extend(links.iter().filter(leaves).filter(|it| !it.starts_with('#')).map(|it| (page.clone(), it.clone())));
    }
    assert!(outside.is_empty(), "name the file in code instead: {outside:#?}");
}
