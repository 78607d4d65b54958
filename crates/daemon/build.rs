//! Tells the program which commit it is built from, for `defib --version`.
//!
//! The commit comes from the variable `SOURCE_COMMIT` if that is set (an image is built without the history, so whoever builds it says the
//! commit), and otherwise from git. A tree without git builds too: the version then says that the commit is unknown. Nothing else of the
//! machine gets into the program, so the same commit gives the same version everywhere. Changes that are not committed are not shown.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_COMMIT");
    let given = std::env::var("SOURCE_COMMIT").ok().filter(|commit| is_commit(commit));
    let commit = given.or_else(commit_of_git);
    let commit = commit.map_or_else(|| "commit unknown: built without git".to_owned(), |id| id[..12].to_owned());
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    println!("cargo::rustc-env=VERSION_AND_COMMIT={version} ({commit})");
}

/// The commit that is checked out. None if the sources lie in no git tree, or in the tree of something else that does not track them.
fn commit_of_git() -> Option<String> {
    git(&["ls-files", "--error-unmatch", "Cargo.toml"])?;
    // A commit and a checkout both add a line to this file. Another tree than the first one has its own, so git is asked where it is.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "HEAD"]).filter(|commit| is_commit(commit))
}

/// What git answers, in the folder of this package, where cargo starts build scripts. None if it is not there or refuses.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn is_commit(text: &str) -> bool {
    text.len() >= 12 && text.chars().all(|digit| digit.is_ascii_hexdigit())
}
