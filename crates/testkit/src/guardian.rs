//! Nothing outlives a test, even one that was killed with SIGKILL.
//!
//! Destructors do not run in a killed process, nor for a `static`. So before a server, its guardian is started: a small shell process
//! (`guardian.sh`) in a process group of its own, which waits for the end of a pipe that only our process holds open. The pipe ends when
//! the [`Guardian`] is dropped, and when our process is gone for whatever reason. Then the guardian kills every process with our mark, and
//! removes the private directory.
//!
//! ```text
//! test process ──pipe──► guardian            kill -9 of the test process, or drop
//!      │                    │                        │
//!      └──► server(s)       └── waits ◄── end of pipe┘ ──► kill marked processes ──► remove cgroups, directory
//! ```
//!
//! Dropping takes the same path as a crash of our process, so every test runs the clean-up that a crash would need.
//!
//! `PR_SET_PDEATHSIG` was refused: it fires when the *thread* that started the child ends (tokio ends its blocking
//! threads after ten idle seconds), it is lost on a change of user, and it says nothing about grandchildren.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

/// Marks a process as ours. Not `DEFIB_…`: the daemon refuses to start with a variable of that kind that it does not know.
const MARK: &str = "TESTKIT_GUARDIAN";

/// The longest path of a unix socket is 107 bytes; the longest name below a private directory is that of containerd's.
const DIRECTORY_BYTES_MAX: usize = 107 - "/x/containerd/containerd-debug.sock.ttrpc".len();

/// A private directory. It and every marked process are gone when this value is dropped, or when our process ends.
#[derive(Debug)]
pub struct Guardian {
    directory: PathBuf,
    process: Child,
}

impl Guardian {
    /// Makes a fresh directory (mode 0755, so that a server may run as another user) and its guardian process.
    ///
    /// # Errors
    /// When the directory for temporary files is not writable or its path is too long for unix sockets.
    pub fn start() -> Result<Self> {
        let directory = make_directory(&std::env::temp_dir())?;
        let process = Command::new("/bin/sh")
            .args(["-c", include_str!("guardian.sh"), "defib-testkit-guardian"])
            .arg(&directory)
            .arg(cgroup_of(&directory))
            .current_dir("/")
            .env_remove(MARK) // inside another kit's program: that one's guardian must not take ours with it too early
            .process_group(0) // a Ctrl-C or a test runner's signal to the group must not end the one who cleans up
            .stdin(Stdio::piped())
            .stdout(Stdio::null()) // an inherited one would keep a test runner waiting for its end
            .stderr(Stdio::null())
            .spawn()
            .context("start the guardian shell")?;
        Ok(Self { directory, process })
    }

    /// The private directory: short, absolute, writable by us.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The name, relative to each cgroup hierarchy, of the group that containers belong in. The group does not exist until somebody uses
    /// it.
    #[must_use]
    pub fn cgroup(&self) -> String {
        cgroup_of(&self.directory)
    }

    /// A command whose process, with all its descendants, ends with this guardian.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env(MARK, &self.directory).current_dir(&self.directory).process_group(0).stdin(Stdio::null());
        command
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        match self.process.wait() {
            Ok(status) if status.success() => {}
            result => eprintln!("testkit: clean-up of {} failed: {result:?}", self.directory.display()),
        }
    }
}

fn cgroup_of(directory: &Path) -> String {
    directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn make_directory(parent: &Path) -> Result<PathBuf> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let parent = std::path::absolute(parent).with_context(|| format!("find {}", parent.display()))?;
    loop {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let directory = parent.join(format!("defib-{}-{made}-{:03x}", std::process::id(), nanos / 1000 % 4096));
        ensure!(
            directory.as_os_str().len() <= DIRECTORY_BYTES_MAX,
            "{} is too long a path for unix sockets (at most {DIRECTORY_BYTES_MAX} bytes): set TMPDIR to a shorter one",
            directory.display()
        );
        match DirBuilder::new().mode(0o755).create(&directory) {
            Ok(()) => return Ok(directory),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("make {}", directory.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_guardian_takes_processes_and_directory_with_it() {
        let guardian = Guardian::start().unwrap();
        let directory = guardian.directory().to_owned();
        // The shell's child keeps the mark in its environment although it left the directory and the process group.
        let mut shell = guardian.command("sh").args(["-c", "cd /; setsid sleep 600; true"]).spawn().unwrap();
        drop(guardian);
        assert!(!shell.wait().unwrap().success(), "killed, not ended by itself");
        assert!(!directory.exists());
        assert_eq!(crate::process::marked(&directory), Vec::<u32>::new());
    }

    #[test]
    fn two_guardians_do_not_touch_each_other() {
        let (first, second) = (Guardian::start().unwrap(), Guardian::start().unwrap());
        let mut sleeper = second.command("sleep").arg("600").spawn().unwrap();
        drop(first);
        assert!(sleeper.try_wait().unwrap().is_none());
        assert!(second.directory().exists());
        drop(second);
        assert!(!sleeper.wait().unwrap().success());
    }
}
