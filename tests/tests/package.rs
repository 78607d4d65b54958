//! The Debian package as a stranger meets it: judged by `lintian`, installed, upgraded, removed and purged in a clean root.
//!
//! It packs the program that the other tests start, `target/debug/defib`, because a release build would take longer than all of this. The
//! clean root is made once by `deploy/debian/clean-root.sh` and kept in `target/`; both need root, as the tests with a real engine do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use defib_testkit::program::built_program;

const ENVIRONMENT_FILE: &str = "etc/defib/defib.env";

// --- the program ---

#[test]
fn the_version_names_the_commit_or_says_that_it_is_unknown() -> Result<()> {
    let said = run(Command::new(built_program("defib")?).arg("--version"))?;
    let said = said.trim().strip_prefix(concat!("defib ", env!("CARGO_PKG_VERSION"), " (")).context(said.clone())?;
    let commit = said.strip_suffix(')').context("no closing bracket")?;
    let is_commit = commit.len() == 12 && commit.chars().all(|digit| digit.is_ascii_hexdigit());
    ensure!(is_commit || commit == "commit unknown: built without git", "the commit is {commit:?}");
    Ok(())
}

#[test]
fn the_completions_of_bash_offer_the_commands_that_help_shows() -> Result<()> {
    let folder = scratch("completions")?;
    run(Command::new(built_program("defib")?).arg("help-files").arg(&folder))?;
    let script = "source \"$0\" && COMP_WORDS=(defib '') COMP_CWORD=1 && _defib defib '' defib && printf '%s\\n' \"${COMPREPLY[@]}\"";
    let offered = run(Command::new("bash").args(["-c", script]).arg(folder.join("completions/bash/defib")))?;
    let offered: BTreeSet<&str> = offered.lines().collect();
    for command in ["run", "status", "explain", "storm"] {
        ensure!(offered.contains(command), "{command} is not offered: {offered:?}");
    }
    ensure!(!offered.iter().any(|word| word.starts_with("help-")), "a hidden command is offered: {offered:?}");
    for other in ["zsh/_defib", "fish/defib.fish"] {
        let text = std::fs::read_to_string(folder.join("completions").join(other))?;
        ensure!(text.contains("explain") && !text.contains("help-env"), "{other} does not offer what --help shows");
    }
    Ok(())
}

#[test]
fn a_changelog_that_an_operator_cannot_upgrade_by_is_refused() -> Result<()> {
    let notes = |changelog: &str, version: &str| {
        let script = "printf '%s' \"$1\" | deploy/dev/release-notes.sh \"$2\"";
        let mut shell = Command::new("sh");
        output(shell.args(["-c", script, "sh", changelog, version]).current_dir(repository()))
    };
    let ours = std::fs::read_to_string(repository().join("CHANGELOG.md"))?;
    let printed = notes(&ours, env!("CARGO_PKG_VERSION"))?;
    ensure!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let printed = String::from_utf8(printed.stdout)?;
    ensure!(printed.starts_with(concat!("## [", env!("CARGO_PKG_VERSION"), "]")), "{printed}");

    for (changelog, version, named) in [
        (ours.clone(), "9.9.9", "9.9.9"),
        (ours.replace("- **Schema.** ", "- "), env!("CARGO_PKG_VERSION"), "Schema"),
        (ours.replace("- **Knobs.** ", "- "), env!("CARGO_PKG_VERSION"), "Knobs"),
        (ours.replace("### Upgrade notes", "### Notes"), env!("CARGO_PKG_VERSION"), "Upgrade notes"),
    ] {
        let refused = notes(&changelog, version)?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(!refused.status.success() && said.contains(named), "{named} was not missed: {said}");
    }
    Ok(())
}

// --- Kubernetes ---

#[test]
fn the_kustomization_makes_the_stand_alone_variant_of_this_version() -> Result<()> {
    let folder = repository().join("deploy/kubernetes");
    let read = |name: &str| std::fs::read_to_string(folder.join(name));
    let kustomization: serde_json::Value = serde_saphyr::from_str(&read("kustomization.yaml")?)?;
    ensure!(kustomization["images"][0]["newTag"] == env!("CARGO_PKG_VERSION"), "another version: {kustomization}");
    let resources = kustomization["resources"].as_array().context("no resources")?;
    ensure!(
        resources.iter().all(|file| file.as_str().is_some_and(|file| folder.join(file).is_file())),
        "{resources:?}"
    );

    // If there is a kubectl, it renders the folder as well. It is not in packages.txt, because Debian's package of it cannot be installed
    // beside that of Kubernetes itself, which many machines have.
    let Ok(made) = Command::new("kubectl").arg("kustomize").arg(&folder).output() else { return Ok(()) };
    ensure!(made.status.success(), "kubectl kustomize: {}", String::from_utf8_lossy(&made.stderr));
    let objects = |text: &str| -> Result<BTreeSet<String>> {
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(text)?;
        Ok(documents.iter().map(|it| format!("{} {}", it["kind"], it["metadata"]["name"])).collect())
    };
    let made = String::from_utf8(made.stdout)?;
    ensure!(objects(&made)? == objects(&read("standalone.yaml")?)?, "some objects are lost or added:\n{made}");
    let image = concat!("image: defib:", env!("CARGO_PKG_VERSION"));
    ensure!(made.contains(image), "no {image} in:\n{made}");
    Ok(())
}

// --- the package ---

#[test]
fn lintian_finds_nothing_that_is_not_explained() -> Result<()> {
    let found = output(
        Command::new("lintian").args(["--allow-root", "--fail-on=none", "--tag-display-limit=0"]).arg(package()?),
    )?;
    let found = String::from_utf8_lossy(&found.stdout).into_owned() + &String::from_utf8_lossy(&found.stderr);
    ensure!(found.trim().is_empty(), "mend these, or explain them in deploy/debian/lintian-overrides:\n{found}");
    Ok(())
}

#[test]
fn the_package_is_installed_upgraded_removed_and_purged_and_leaves_nothing_behind() -> Result<()> {
    let root = CleanRoot::unpack()?;
    let before = root.files()?;

    // An older version, whose environment file was another one, is there and was configured.
    root.install(&older_package()?)?;
    let env = root.folder.join(ENVIRONMENT_FILE);
    ensure!(std::fs::read_to_string(&env)?.contains("an older default"), "the older package is not the one installed");
    std::fs::write(&env, "DEFIB_DATABASE_URL=postgres://edited\n")?;

    let said = root.install(package()?)?;
    ensure!(!said.contains("does not run yet"), "an upgrade says what to do after a first installation:\n{said}");
    let kept = std::fs::read_to_string(&env)?;
    ensure!(kept == "DEFIB_DATABASE_URL=postgres://edited\n", "the upgrade changed the administrator's file: {kept}");
    root.works()?;

    root.run(&["dpkg", "--remove", "defib"])?;
    ensure!(env.exists(), "removing the package took its configuration, which only purging may");
    root.run(&["dpkg", "--purge", "defib"])?;
    let left: Vec<PathBuf> = root.files()?.difference(&before).cloned().collect();
    ensure!(left.is_empty(), "purging left behind {left:?}");
    // Debian never removes a user of sysusers.d: whatever it owned would belong to the next who gets its number.
    ensure!(root.run(&["getent", "passwd", "defib"])?.starts_with("defib:"), "the user is gone");
    Ok(())
}

#[test]
fn a_first_installation_starts_nothing_and_says_what_to_do() -> Result<()> {
    let root = CleanRoot::unpack()?;
    let said = root.install(package()?)?;
    for step in ["/etc/defib/defib.env", "defib migrate", "systemctl enable --now defib", "install.md"] {
        ensure!(said.contains(step), "{step} is not named:\n{said}");
    }
    let enabled = root.folder.join("etc/systemd/system/multi-user.target.wants/defib.service");
    ensure!(enabled.symlink_metadata().is_err(), "the service would start before it is configured");
    ensure!(
        root.folder.join("usr/share/doc/defib/install.md").exists(),
        "the page that the message names is not there"
    );
    root.works()
}

/// A Debian with nothing in it but what the package depends on, unpacked anew for each test and removed with it.
struct CleanRoot {
    folder: PathBuf,
}

impl CleanRoot {
    fn unpack() -> Result<Self> {
        static ARCHIVE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let archive = once(&ARCHIVE, || script("clean-root.sh", &[]))?;
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let root = Self { folder: scratch(&format!("root-{number}"))? };
        run(Command::new("tar").arg("--extract").arg("--file").arg(archive).arg("--directory").arg(&root.folder))?;
        Ok(root)
    }

    /// Runs a program in it, with processes and mounts of its own.
    fn run(&self, words: &[&str]) -> Result<String> {
        run(Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--mount-proc", "--root"])
            .arg(&self.folder)
            .args(words)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive"))
    }

    /// Installs a package as an upgrade without a person at the terminal does: an edited configuration stays.
    fn install(&self, package: &Path) -> Result<String> {
        let name = package.file_name().context("a name")?;
        std::fs::copy(package, self.folder.join("tmp").join(name))?;
        let inside = format!("/tmp/{}", name.to_string_lossy());
        let said = self.run(&["dpkg", "--force-confdef", "--force-confold", "--install", &inside])?;
        std::fs::remove_file(self.folder.join("tmp").join(name))?;
        Ok(said)
    }

    /// What must hold of an installed package.
    fn works(&self) -> Result<()> {
        let version = self.run(&["defib", "--version"])?;
        ensure!(version.starts_with(concat!("defib ", env!("CARGO_PKG_VERSION"))), "{version}");
        let owner = self.run(&["stat", "--format", "%U:%G %a", "/etc/defib/defib.env"])?;
        ensure!(owner.trim() == "root:defib 640", "the file with the secrets is {owner}");
        let verify = self.run(&["systemd-analyze", "verify", "/usr/lib/systemd/system/defib.service"])?;
        ensure!(verify.trim().is_empty(), "systemd-analyze verify: {verify}");
        let unit = std::fs::read_to_string(self.folder.join("usr/lib/systemd/system/defib.service"))?;
        for line in ["ExecStart=/usr/bin/defib run\n", "User=defib\n", "systemctl enable --now defib"] {
            ensure!(unit.contains(line), "no {line:?} in the unit");
        }
        ensure!(
            !unit.contains("/usr/local") && !unit.contains("\nDynamicUser"),
            "a part of the unit for installing by hand is left"
        );

        // The warnings of the formatter go to standard error, and are put before the page.
        let all = "for page in /usr/share/man/man1/defib*.1.gz; do echo \"=== $page\"; man --warnings --local-file \"$page\" 2>&1; done";
        let said = self.run(&["sh", "-c", all])?;
        let pages: Vec<&str> = said.split("=== ").skip(1).collect();
        ensure!(pages.len() >= 12, "too few man pages: {said}");
        for page in pages {
            let second_line = page.lines().nth(1).unwrap_or_default();
            ensure!(second_line.starts_with("DEFIB"), "the formatter warns of {page}");
            ensure!(page.contains("EXIT STATUS") && page.contains("SEE ALSO"), "a section is missing in {page}");
        }
        Ok(())
    }

    /// All paths in it, but for what dpkg, logs, caches and the table of users keep of whatever happens, and /run, which no machine keeps.
    fn files(&self) -> Result<BTreeSet<PathBuf>> {
        let kept = [
            "proc",
            "run",
            "var/lib/dpkg",
            "var/log",
            "var/cache",
            "etc/.pwd.lock",
            "etc/passwd-",
            "etc/group-",
            "etc/shadow-",
            "etc/gshadow-",
        ];
        let (mut found, mut waiting) = (BTreeSet::new(), vec![self.folder.clone()]);
        while let Some(folder) = waiting.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                let inside = entry.path().strip_prefix(&self.folder)?.to_owned();
                if kept.iter().any(|path| inside == Path::new(path)) {
                    continue;
                }
                if entry.file_type()?.is_dir() {
                    waiting.push(entry.path());
                }
                found.insert(inside);
            }
        }
        ensure!(found.len() > 1_000, "this is no Debian: {} files", found.len());
        Ok(found)
    }
}

impl Drop for CleanRoot {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The package, built once for all tests.
fn package() -> Result<&'static Path> {
    static PACKAGE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    built_program("defib")?;
    once(&PACKAGE, || script("build.sh", &["--debug"]))
}

/// The same package as version 0.1.0, with another environment file.
fn older_package() -> Result<PathBuf> {
    let folder = scratch("older")?;
    let content = folder.join("content");
    run(Command::new("dpkg-deb").arg("--raw-extract").arg(package()?).arg(&content))?;
    let control = content.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control)?;
    let older = text.replace(concat!("Version: ", env!("CARGO_PKG_VERSION"), "-1"), "Version: 0.1.0-1");
    ensure!(older != text, "the package's version is not the workspace's: {text}");
    std::fs::write(&control, older)?;
    std::fs::write(content.join(ENVIRONMENT_FILE), "# an older default\nDEFIB_DATABASE_URL=postgres://CHANGE-ME\n")?;
    let package = folder.join("defib_0.1.0-1.deb");
    run(Command::new("dpkg-deb").args(["-Znone", "--build"]).arg(&content).arg(&package))?;
    Ok(package)
}

// --- running ---

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// A script of `deploy/debian` that prints a path.
fn script(name: &str, arguments: &[&str]) -> Result<PathBuf> {
    let printed = run(Command::new(repository().join("deploy/debian").join(name)).args(arguments))?;
    let path = PathBuf::from(printed.trim());
    ensure!(path.is_file(), "{name} printed {printed:?}, which is no file");
    Ok(path)
}

fn once(
    cell: &'static OnceLock<Result<PathBuf, String>>,
    make: impl FnOnce() -> Result<PathBuf>,
) -> Result<&'static Path> {
    let path = cell.get_or_init(|| make().map_err(|error| format!("{error:#}")));
    path.as_ref().map(PathBuf::as_path).map_err(|error| anyhow::anyhow!("{error}"))
}

/// An empty folder of this test's own.
fn scratch(name: &str) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package").join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn output(command: &mut Command) -> Result<Output> {
    // `make test` sets this variable for test programs (deploy/dev/time-tests.sh). What they build must be built without it.
    let started = command.env_remove("RUSTC_BOOTSTRAP").stdin(Stdio::null()).output();
    started.with_context(|| format!("start {}: `make install` brings what is missing", command.get_program().display()))
}

/// Runs a program that must succeed. What it printed, on both outputs.
fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?} ended with {}:\n{out}{err}", output.status);
    Ok(out.into_owned() + &err)
}
