//! The files of a recording that is being made. One of them is written, and the oldest are deleted when all together are too large.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::error::RecordError;
use crate::segment::{self, Header, Segment, Torn};

/// The longest time that one segment covers. Longer: fewer heads, and a replay of the last day begins further back.
const SEGMENT_AGE: Duration = Duration::from_secs(6 * 3_600);

/// One segment may take the bound divided by this. Smaller: fewer heads, and more of the recording is lost when the oldest segment is
/// deleted.
const SEGMENT_SHARE: u64 = 16;

/// A segment may always become as large as this, however small the bound is.
const SEGMENT_MIN: u64 = 8 << 10;

/// What a recording is made with.
#[derive(Clone, Debug)]
pub struct RecordSettings {
    /// The directory. It is made if its parent exists.
    pub directory: PathBuf,
    /// All segments together are never larger, but for the one that is being written.
    pub max_bytes: u64,
    /// The version of the program.
    pub program: String,
    /// The replica that records.
    pub replica: String,
}

/// The files of a directory.
#[derive(Debug)]
pub(crate) struct Files {
    settings: RecordSettings,
    /// Holds the directory for as long as it lives.
    _lock: File,
    ended: VecDeque<(PathBuf, u64)>,
    current: Option<Current>,
    next: u64,
}

#[derive(Debug)]
struct Current {
    path: PathBuf,
    file: File,
    bytes: u64,
    begun: Instant,
}

impl Files {
    /// Takes a directory. Returns what a killed process left of its last frame there, which is cut off.
    pub(crate) fn take(settings: RecordSettings) -> Result<(Self, Option<Torn>), RecordError> {
        let directory = settings.directory.clone();
        let unusable = |source| RecordError::Directory { path: directory.clone(), source };
        if directory.exists() && !directory.is_dir() {
            return Err(RecordError::NotADirectory { path: directory });
        }
        if !directory.exists() {
            std::fs::create_dir(&directory).map_err(unusable)?;
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(directory.join("lock"));
        let lock = lock.map_err(unusable)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(RecordError::InUse { path: directory });
        }
        let found = segment::list(&directory).map_err(unusable)?;
        let torn = found.last().and_then(|(_, path)| cut_tail(path));
        let next = found.last().map_or(1, |(number, _)| number + 1);
        let mut ended = VecDeque::new();
        for (_, path) in found {
            let bytes = std::fs::metadata(&path).map_err(unusable)?.len();
            ended.push_back((path, bytes));
        }
        let mut files = Self { settings, _lock: lock, ended, current: None, next };
        files.trim();
        Ok((files, torn))
    }

    /// Begins a segment.
    pub(crate) fn begin(&mut self, mut header: Header) -> io::Result<()> {
        self.end()?;
        header.sequence = self.next;
        header.program.clone_from(&self.settings.program);
        header.replica.clone_from(&self.settings.replica);
        crate::POLICY.clone_into(&mut header.policy);
        let path = self.settings.directory.join(segment::name_of(self.next));
        let mut file = OpenOptions::new().create_new(true).write(true).open(&path)?;
        self.next += 1;
        let begun = segment::begin(&mut file, &header);
        // However little of it was written, the file counts towards the bound, and may be deleted when there is too much.
        let bytes = begun.as_ref().copied().unwrap_or_else(|_| size_of(&path));
        self.current = Some(Current { path, file, bytes, begun: Instant::now() });
        begun?;
        self.trim();
        Ok(())
    }

    /// Writes calls. Returns how many bytes that are.
    pub(crate) fn append(&mut self, calls: &[u8]) -> io::Result<u64> {
        let Some(current) = &mut self.current else { return Err(io::Error::other("no segment was begun")) };
        let bytes = segment::frame(&mut current.file, calls)?;
        current.bytes += bytes;
        self.trim();
        Ok(bytes)
    }

    /// Waits until the disk has what was written.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.current.as_ref().map_or(Ok(()), |current| current.file.sync_data())
    }

    /// Whether the next calls belong into a new segment.
    pub(crate) fn is_full(&self) -> bool {
        let most = (self.settings.max_bytes / SEGMENT_SHARE).max(SEGMENT_MIN);
        self.current.as_ref().is_some_and(|current| current.bytes >= most || current.begun.elapsed() >= SEGMENT_AGE)
    }

    /// The size of all segments together.
    pub(crate) fn bytes(&self) -> u64 {
        self.ended.iter().map(|(_, bytes)| bytes).sum::<u64>()
            + self.current.as_ref().map_or(0, |current| current.bytes)
    }

    /// Ends the segment that is being written.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        let Some(current) = self.current.take() else { return Ok(()) };
        self.ended.push_back((current.path, current.bytes));
        current.file.sync_data()
    }

    fn trim(&mut self) {
        let mut bytes = self.bytes();
        while bytes > self.settings.max_bytes {
            let Some((path, size)) = self.ended.pop_front() else { return };
            // One that cannot be removed, or that somebody has removed, is not counted any more.
            let _ = std::fs::remove_file(path);
            bytes -= size;
        }
    }
}

fn size_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

/// Cuts off what a killed process left of its last frame. A file that cannot be read is left as it is: a replay names it.
fn cut_tail(path: &Path) -> Option<Torn> {
    let torn = match Segment::open(path).ok()? {
        Some(mut segment) => {
            while segment.next_frame().ok()?.is_some() {}
            segment.torn()?
        }
        None => Torn { path: path.to_owned(), whole: 0, bytes: size_of(path) },
    };
    OpenOptions::new().write(true).open(path).ok()?.set_len(torn.whole).ok()?;
    Some(torn)
}
