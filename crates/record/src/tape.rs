//! From the judge's calls to the disk, without anybody waiting for the disk.
//!
//! ```text
//! judge ─► encoder ─► mail (bounded) ─► a thread: once a second one frame, and fsync
//! ```
//!
//! What does not fit into the mail is not written, and is counted. Then nothing is written until the disk has caught up, and a new segment
//! begins with the judge as it is then, so that a recording has gaps and never a wrong sequence of calls.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::error::RecordError;
use crate::files::{Files, RecordSettings};
use crate::segment::{Header, Torn};

/// The time between two frames. Longer: a crash costs more of the recording. Shorter: worse compression, and more waits for the disk.
const FRAME_EVERY: Duration = Duration::from_secs(1);

/// Bytes that may wait for the disk. Larger: more memory while the disk is slow. Smaller: gaps in the recording of a large fleet's first
/// read.
const MAIL_MAX: usize = 64 << 20;

/// The pause after the disk has failed. Each try writes a whole judge.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Where a recording goes.
pub trait Tape: Send + std::fmt::Debug {
    /// Whether calls can be taken now: a segment was begun, and all calls since were taken.
    fn is_ready(&self) -> bool;

    /// Whether it makes sense to begin a segment now, if it is not ready.
    fn may_begin(&mut self) -> bool;

    /// Begins a segment.
    fn begin(&mut self, header: Header);

    /// Takes calls, and leaves `calls` empty. If there is no room for them they are lost, and the tape is not ready.
    fn take(&mut self, calls: &mut Vec<u8>);

    /// The time of day in microseconds since 1970; `None`: the database's clock in the recording stands in.
    fn time_of_day(&self) -> Option<i64>;
}

/// How a recording is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Bytes written by this process.
    pub written: u64,
    /// Bytes that all segments have together.
    pub kept: u64,
    /// Calls that were not recorded.
    pub lost: u64,
    /// Why nothing can be written to the disk now. `None`: it can.
    pub trouble: Option<String>,
}

/// What waits for the disk.
#[derive(Debug, Default)]
struct Mail {
    parts: Vec<Part>,
    /// Bytes that wait, and those that are being written.
    bytes: usize,
    stopping: bool,
}

/// Calls that belong to one segment.
#[derive(Debug, Default)]
struct Part {
    /// The header of the segment, if these calls are its first ones.
    opens: Option<Box<Header>>,
    calls: Vec<u8>,
}

impl Part {
    fn bytes(&self) -> usize {
        self.calls.len() + self.opens.as_ref().map_or(0, |header| header.judge.len())
    }
}

#[derive(Debug, Default)]
struct Shared {
    mail: Mutex<Mail>,
    wake: Condvar,
    /// The segment is as large or as old as one may become.
    full: AtomicBool,
    /// Whether a write has failed. Calls are lost until a new segment begins.
    broken: AtomicBool,
    written: AtomicU64,
    kept: AtomicU64,
    lost: AtomicU64,
    trouble: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The daemon's recorder: the thread that writes.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    torn: Option<Torn>,
}

impl Recorder {
    /// Takes the directory and starts the thread.
    ///
    /// # Errors
    /// The directory cannot be used, or is in use.
    pub fn start(settings: RecordSettings) -> Result<Self, RecordError> {
        let path = settings.directory.clone();
        let (files, torn) = Files::take(settings)?;
        let shared = Arc::new(Shared::default());
        shared.kept.store(files.bytes(), Ordering::Relaxed);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("defib-record".to_owned());
        let thread = thread.spawn(move || Writer { shared: &theirs, files, is_broken: false }.run());
        let thread = thread.map_err(|source| RecordError::Directory { path, source })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)), torn })
    }

    /// What a killed process had left of its last frame. It was cut off.
    #[must_use]
    pub const fn torn(&self) -> Option<&Torn> {
        self.torn.as_ref()
    }

    /// The tape onto which the judge's calls are recorded. A recorder has one, and not several.
    #[must_use]
    pub fn tape(&self) -> Box<dyn Tape> {
        Box::new(MailTape { shared: Arc::clone(&self.shared), is_whole: false, tried: None })
    }

    /// How the recording is doing.
    #[must_use]
    pub fn condition(&self) -> Condition {
        Condition {
            written: self.shared.written.load(Ordering::Relaxed),
            kept: self.shared.kept.load(Ordering::Relaxed),
            lost: self.shared.lost.load(Ordering::Relaxed),
            trouble: lock(&self.shared.trouble).clone(),
        }
    }

    /// Writes what waits, and ends. Waits for the disk.
    pub fn stop(&self) {
        lock(&self.shared.mail).stopping = true;
        self.shared.wake.notify_all();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread.
struct Writer<'a> {
    shared: &'a Shared,
    files: Files,
    /// Whether a write has failed and no segment was begun since.
    is_broken: bool,
}

impl Writer<'_> {
    fn run(mut self) {
        let mut stopping = false;
        while !stopping {
            let parts;
            (parts, stopping) = self.wait();
            let bytes: usize = parts.iter().map(Part::bytes).sum();
            if let Err(error) = self.write(parts) {
                self.is_broken = true;
                self.shared.broken.store(true, Ordering::Relaxed);
                *lock(&self.shared.trouble) = Some(error.to_string());
                let _ = self.files.end();
            }
            // Only now, because what is being written takes memory too.
            lock(&self.shared.mail).bytes -= bytes;
            self.shared.kept.store(self.files.bytes(), Ordering::Relaxed);
        }
        let _ = self.files.end();
    }

    /// Waits until a frame is due. Returns what belongs into it, and whether it is the last one.
    fn wait(&self) -> (Vec<Part>, bool) {
        let due = Instant::now() + FRAME_EVERY;
        let mut mail = lock(&self.shared.mail);
        while !mail.stopping {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            mail = self.shared.wake.wait_timeout(mail, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        (std::mem::take(&mut mail.parts), mail.stopping)
    }

    fn write(&mut self, parts: Vec<Part>) -> io::Result<()> {
        let mut wrote = false;
        for part in parts {
            if let Some(header) = part.opens {
                self.files.begin(*header)?;
                self.is_broken = false;
                wrote = true;
            }
            if self.is_broken {
                continue; // it belongs to a segment that could not be written
            }
            if !part.calls.is_empty() {
                let was_full = self.files.is_full();
                self.shared.written.fetch_add(self.files.append(&part.calls)?, Ordering::Relaxed);
                if !was_full && self.files.is_full() {
                    self.shared.full.store(true, Ordering::Relaxed);
                }
                wrote = true;
            }
        }
        if wrote {
            self.files.sync()?;
            *lock(&self.shared.trouble) = None;
        }
        Ok(())
    }
}

/// The daemon's end of the tape.
#[derive(Debug)]
struct MailTape {
    shared: Arc<Shared>,
    /// All calls since a segment was begun have been taken.
    is_whole: bool,
    /// When a segment was last begun.
    tried: Option<Instant>,
}

impl MailTape {
    fn is_broken(&self) -> bool {
        !self.is_whole || self.shared.broken.load(Ordering::Relaxed)
    }

    fn lose(&mut self) {
        self.is_whole = false;
        self.shared.lost.fetch_add(1, Ordering::Relaxed);
    }
}

impl Tape for MailTape {
    fn is_ready(&self) -> bool {
        !self.is_broken() && !self.shared.full.load(Ordering::Relaxed)
    }

    fn may_begin(&mut self) -> bool {
        if !self.is_broken() {
            return true;
        }
        let Some(tried) = self.tried else { return true };
        let may = tried.elapsed() >= RETRY_AFTER && lock(&self.shared.mail).bytes == 0;
        if !may {
            self.lose();
        }
        may
    }

    fn begin(&mut self, mut header: Header) {
        header.continues &= !self.is_broken();
        header.lost = self.shared.lost.load(Ordering::Relaxed);
        self.tried = Some(Instant::now());
        self.shared.full.store(false, Ordering::Relaxed);
        self.shared.broken.store(false, Ordering::Relaxed);
        let part = Part { opens: Some(Box::new(header)), calls: Vec::new() };
        let mut mail = lock(&self.shared.mail);
        mail.bytes += part.bytes();
        mail.parts.push(part);
        self.is_whole = true;
    }

    fn take(&mut self, calls: &mut Vec<u8>) {
        let mut mail = lock(&self.shared.mail);
        if mail.bytes + calls.len() > MAIL_MAX {
            drop(mail);
            calls.clear();
            return self.lose();
        }
        mail.bytes += calls.len();
        match mail.parts.last_mut() {
            Some(part) => part.calls.append(calls),
            None => mail.parts.push(Part { opens: None, calls: std::mem::take(calls) }),
        }
    }

    fn time_of_day(&self) -> Option<i64> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_micros()).ok()
    }
}

/// A tape that writes at once and waits for the disk. It is for a simulated fleet, whose time does not pass by itself.
#[derive(Debug)]
pub struct DirectTape {
    files: Files,
    calls: Vec<u8>,
    is_open: bool,
    failed: Option<io::Error>,
}

/// Bytes of calls in a frame of a simulated recording.
const DIRECT_FRAME: usize = 16 << 10;

impl DirectTape {
    /// Takes the directory.
    ///
    /// # Errors
    /// The directory cannot be used, or is in use.
    pub fn start(settings: RecordSettings) -> Result<Self, RecordError> {
        let (files, _) = Files::take(settings)?;
        Ok(Self { files, calls: Vec::new(), is_open: false, failed: None })
    }

    fn flush(&mut self) {
        if self.calls.is_empty() {
            return;
        }
        if let Err(error) = self.files.append(&self.calls) {
            self.failed.get_or_insert(error);
            self.is_open = false;
        }
        self.calls.clear();
    }
}

impl Drop for DirectTape {
    fn drop(&mut self) {
        self.flush();
        let _ = self.files.end();
    }
}

impl Tape for DirectTape {
    fn is_ready(&self) -> bool {
        self.is_open && !(self.calls.is_empty() && self.files.is_full())
    }

    fn may_begin(&mut self) -> bool {
        self.failed.is_none()
    }

    fn begin(&mut self, mut header: Header) {
        self.flush();
        header.continues &= self.is_open;
        self.is_open = match self.files.begin(header) {
            Ok(()) => true,
            Err(error) => {
                self.failed.get_or_insert(error);
                false
            }
        };
    }

    fn take(&mut self, calls: &mut Vec<u8>) {
        self.calls.append(calls);
        if self.calls.len() >= DIRECT_FRAME {
            self.flush();
        }
    }

    fn time_of_day(&self) -> Option<i64> {
        None
    }
}
