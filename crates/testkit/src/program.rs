//! A built program under test: started with a clean environment, watched line by line, never left behind.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::guardian::Guardian;
use crate::process::{self, Signal};
use crate::wait::eventually;

/// What a program gets from the test's own environment. Everything else could change what it does: `DEFIB_…` and
/// `DOCKER_HOST` above all.
const INHERITED: &[&str] = &["PATH", "HOME", "LANG", "TMPDIR", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"];

/// A running or ended program. Dropping it kills it and prints what it wrote to standard error, which test runners show for a failed test
/// only. This does not depend on a panic, because a test that fails by `?` does not panic.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Mutex<Child>,
    lines: Arc<Mutex<Vec<Line>>>,
    readers: Vec<std::thread::JoinHandle<()>>,
    is_quiet: bool,
    guardian: Option<Guardian>, // taken in `drop`, before the wait for the process that it kills
}

/// One line that the program wrote, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The output that it was written to.
    pub stream: Stream,
    /// The text. Bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// Which of the two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Program {
    /// Starts the workspace's `defib`.
    pub fn defib<'a>(
        arguments: impl IntoIterator<Item = &'a str>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self> {
        Self::start(built_program("defib")?, arguments, environment)
    }

    /// Starts the workspace's `defib` with fail points in it, which dies (SIGABRT) at the step of a restart named `point`.
    pub fn defib_crashing_at<'a>(
        point: &str,
        arguments: impl IntoIterator<Item = &'a str>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut environment = environment.clone();
        environment.insert("FAILPOINTS".to_owned(), format!("{point}=return"));
        Self::start(built_program("defib-failpoints")?, arguments, &environment)
    }

    /// Starts the workspace's `defib` as a process that may have so many files, and cannot raise that.
    pub fn defib_with_files(
        files_max: u32,
        arguments: &[&str],
        environment: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let script = format!("ulimit -n {files_max} && exec \"$0\" \"$@\"");
        let program = built_program("defib")?.to_string_lossy().into_owned();
        let arguments = ["-c", &script, &program].into_iter().chain(arguments.iter().copied());
        Self::start("/bin/sh", arguments, environment)
    }

    /// Starts a program with these variables and no others but `PATH` and its like, in an empty directory of its own.
    pub fn start<'a>(
        path: impl AsRef<Path>,
        arguments: impl IntoIterator<Item = &'a str>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let path = path.as_ref();
        let guardian = Guardian::start()?;
        let mut command = guardian.command(path);
        let mark: Vec<_> =
            command.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect();
        command.env_clear().envs(mark);
        command.envs(INHERITED.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
        command.envs(environment).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("run {}", path.display()))?;

        let lines = Arc::new(Mutex::new(Vec::new()));
        let mut readers = Vec::new();
        if let Some(output) = child.stdout.take() {
            readers.push(read_lines(output, Stream::Out, &lines));
        }
        if let Some(output) = child.stderr.take() {
            readers.push(read_lines(output, Stream::Err, &lines));
        }
        let name = path.file_name().unwrap_or(OsStr::new("program")).to_string_lossy().into_owned();
        Ok(Self { name, child: Mutex::new(child), lines, readers, is_quiet: false, guardian: Some(guardian) })
    }

    /// Prints nothing when it is dropped: for benches and demos.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.is_quiet = true;
        self
    }

    /// What it wrote so far, in the order in which it was read.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        lock(&self.lines).clone()
    }

    /// What it wrote so far to standard output.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.text(Stream::Out)
    }

    /// What it wrote so far to standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.text(Stream::Err)
    }

    /// The process id, which stays ours until the program was waited for.
    #[must_use]
    pub fn pid(&self) -> u32 {
        lock(&self.child).id()
    }

    /// Waits for the first line, of either output, that contains `part`, and returns it. Lines already there count.
    ///
    /// # Errors
    /// At the deadline, and at once when the program ended without such a line; with all that it wrote.
    pub async fn wait_for_line(&self, part: &str, deadline: Duration) -> Result<Line> {
        let find = || lock(&self.lines).iter().find(|line| line.text.contains(part)).cloned();
        let what = format!("{} writes {part:?}", self.name);
        let found = eventually(deadline, &what, async || {
            // The order matters: when the program has ended, all of its output is there.
            let ended = self.exit_status();
            match (find(), ended) {
                (Some(line), _) => Ok(Ok(line)),
                (None, Some(status)) if self.all_is_read() => Ok(find().ok_or(status)),
                _ => Err(format!("it wrote:\n{}", self.transcript())),
            }
        })
        .await?;
        match found {
            Ok(line) => Ok(line),
            Err(status) => Err(anyhow::anyhow!(
                "{} ended ({status}) without writing {part:?}; it wrote:\n{}",
                self.name,
                self.transcript()
            )),
        }
    }

    /// Sends a signal: `TERM`, `KILL`, `STOP`, `CONT`.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        ensure!(self.exit_status().is_none(), "{} has ended", self.name);
        process::signal(self.pid(), signal)
    }

    /// Waits for the end. All that was written can be read then.
    pub async fn wait_exit(&self, deadline: Duration) -> Result<ExitStatus> {
        eventually(deadline, &format!("{} ends", self.name), async || match self.exit_status() {
            Some(status) if self.all_is_read() => Ok(status),
            _ => Err(format!("it runs, and wrote:\n{}", self.transcript())),
        })
        .await
    }

    /// How it ended; `None` while it runs.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().ok().flatten()
    }

    /// Both outputs, each line marked with its own.
    #[must_use]
    pub fn transcript(&self) -> String {
        let mark = |stream| match stream {
            Stream::Out => "  | ",
            Stream::Err => "  ! ",
        };
        lock(&self.lines).iter().flat_map(|line| [mark(line.stream), line.text.as_str(), "\n"]).collect()
    }

    fn text(&self, stream: Stream) -> String {
        let lines = lock(&self.lines);
        let texts = lines.iter().filter(|line| line.stream == stream);
        texts.flat_map(|line| [line.text.as_str(), "\n"]).collect()
    }

    fn all_is_read(&self) -> bool {
        self.readers.iter().all(std::thread::JoinHandle::is_finished)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.guardian.take());
        let status = lock(&self.child).wait(); // dead already: this only takes its exit status
        if !self.is_quiet || std::thread::panicking() {
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            eprintln!("{} ({status}) wrote:\n{}", self.name, self.transcript());
        }
    }
}

/// A program of the workspace: from `CARGO_BIN_EXE_<name>` where cargo sets it, else beside the running test
/// (`target/<profile>/deps/test-…` → `target/<profile>/<name>`).
///
/// # Errors
/// When it was not built. Cargo builds the binaries of other packages only when asked to (`make build-tests`).
pub fn built_program(name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(format!("CARGO_BIN_EXE_{name}")) {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("find the running program")?;
    let found = own.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("no program {name} near {}: run `make build-tests` first", own.display()))
}

fn read_lines(
    output: impl Read + Send + 'static,
    stream: Stream,
    lines: &Arc<Mutex<Vec<Line>>>,
) -> std::thread::JoinHandle<()> {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut bytes = Vec::new();
        while output.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
            lock(&lines).push(Line { stream, text });
            bytes.clear();
        }
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
