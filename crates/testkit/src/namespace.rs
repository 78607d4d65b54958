//! A mount namespace of a private engine's own.
//!
//! Separate roots and a socket are not enough for an engine to be alone on a machine. containerd puts the sockets of its shims below
//! `/run`, dockerd 20.10 takes its identity from `/etc/docker/key.json` (two engines of one machine would say they are the same one),
//! podman keeps its locks in `/dev/shm`, and mounts outlive whoever made them. So the engine lives in a mount namespace in which these
//! three directories are its own. A process that does nothing else keeps the namespace, because it has to survive a kill of the engine.
//!
//! The PID namespace stays the machine's: the pids that the engine reports can be signalled from a test.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::guardian::Guardian;
use crate::process;
use crate::wait::eventually;

/// Makes the directories private, puts what is given in place of something of the machine's, says that it is done by making a file, and
/// keeps the namespace. A `/run` that holds the private directory itself would hide it, so that is refused.
///
/// The shell keeps the namespace by waiting for a line from a pipe that it holds both ends of. A `sleep` beside it would still be loading its
/// libraries now and then when `/usr` is replaced, and end by those that it finds there, and the namespace with it.
const HOLD: &str = r#"
case $1 in /run/*|/var/run/*) echo "TMPDIR must not be below /run" >&2; exit 1;; esac
mkfifo "$1/never"
exec 3<>"$1/never"
mount --no-mtab -t tmpfs -o mode=755 tmpfs /run
mkdir -p /etc/docker
mount --no-mtab -t tmpfs -o mode=700 tmpfs /etc/docker
mount --no-mtab -t tmpfs -o mode=1777 tmpfs /dev/shm
if [ $# = 3 ]; then mount --no-mtab --bind "$2" "$3"; fi
: >"$1/held"
read -r _ <&3
"#;

/// The namespace. It ends with the guardian that its holder belongs to.
#[derive(Debug)]
pub(crate) struct Namespace {
    holder: Child,
}

impl Namespace {
    /// Makes one. With `(this, there)`, what is at `there` on this machine is `this` instead: a file for a file, a directory for a directory.
    ///
    /// # Errors
    /// Without root, and when the private directory of the guardian lies below `/run`.
    pub(crate) async fn hold(guardian: &Guardian, instead: Option<(&Path, &Path)>) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "a private engine needs root");
        let directory = guardian.directory();
        let log = std::fs::File::create(directory.join("holder.log")).context("open the holder's log")?;
        let holder = guardian
            .command("unshare")
            .args(["--mount", "--propagation=private", "--", "sh", "-ec", HOLD, "holder"])
            .arg(directory)
            .args(instead.into_iter().flat_map(|(this, there)| [this, there]))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("run unshare (package util-linux)")?;
        let held = eventually(Duration::from_secs(10), "a mount namespace", async || {
            match (directory.join("held").exists(), process::is_alive(holder.id())) {
                (true, _) => Ok(true),
                (false, false) => Ok(false),
                (false, true) => Err("not ready".to_owned()),
            }
        });
        ensure!(held.await?, "no mount namespace: {}", process::tail(&directory.join("holder.log")));
        Ok(Self { holder })
    }

    /// A command that runs this program in the namespace. Its process and all descendants end with the guardian.
    pub(crate) fn command(&self, guardian: &Guardian, program: &str) -> Command {
        let mut command = guardian.command("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id())).args(["--", program]);
        command
    }

    /// Collects the holder's exit status after the guardian has ended it, so that no zombie stays.
    pub(crate) fn collect(&mut self) {
        let _ = self.holder.wait();
    }
}
