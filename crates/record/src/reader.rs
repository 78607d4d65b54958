//! A recording as a sequence of calls.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use crate::error::RecordError;
use crate::scene::Scene;
use crate::segment::{self, Header, Segment, Torn};
use crate::told::Told;
use crate::wire::Cursor;

/// What a recording holds next.
#[derive(Debug)]
pub enum Item {
    /// A segment begins.
    Begin(Box<Header>),
    /// A call to the judge. What it says of rows and samples is in [`Reader::scene`].
    Call(Told),
    /// A segment ended in the middle of a frame, because the process that wrote it was killed or the disk was full. What was before is whole.
    Torn(Torn),
}

/// A segment of a recording, without its calls.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// What it begins with.
    pub header: Header,
}

/// Reads a recording from its beginning, or from the last beginning of a segment before a moment.
#[derive(Debug)]
pub struct Reader {
    waiting: VecDeque<PathBuf>,
    segment: Option<Segment>,
    path: PathBuf,
    frame: Vec<u8>,
    at: usize,
    scene: Scene,
    read: u64,
    total: u64,
}

impl Reader {
    /// Opens the recording in a directory.
    ///
    /// # Errors
    /// The directory does not exist, cannot be read, or holds no recording.
    pub fn open(directory: &Path) -> Result<Self, RecordError> {
        let waiting: VecDeque<PathBuf> = files_of(directory)?.into();
        Ok(Self::over(waiting))
    }

    fn over(waiting: VecDeque<PathBuf>) -> Self {
        let total = waiting.iter().map(|path| std::fs::metadata(path).map_or(0, |found| found.len())).sum();
        Self {
            waiting,
            segment: None,
            path: PathBuf::new(),
            frame: Vec::new(),
            at: 0,
            scene: Scene::default(),
            read: 0,
            total,
        }
    }

    /// Leaves out the segments that ended before `before` (microseconds since 1970), but for the last of them: a replay that is to tell of what
    /// came later begins there.
    ///
    /// # Errors
    /// A segment cannot be read, or was written by another version.
    pub fn skip_to(&mut self, before: i64) -> Result<(), RecordError> {
        let mut from = 0;
        for (place, path) in self.waiting.iter().enumerate() {
            if Segment::open(path)?.is_some_and(|segment| segment.header.begun <= before) {
                from = place;
            }
        }
        let kept = self.waiting.split_off(from);
        *self = Self::over(kept);
        Ok(())
    }

    /// The next item. `None`: the recording is at its end.
    ///
    /// # Errors
    /// A segment cannot be read, was written by another version, or is not a segment.
    pub fn next_item(&mut self) -> Result<Option<Item>, RecordError> {
        loop {
            if self.at < self.frame.len() {
                let mut cursor = Cursor::new(&self.frame[self.at..]);
                let told = self.scene.next(&mut cursor);
                let told = told.map_err(|_| RecordError::Garbled { path: self.path.clone() })?;
                self.at = self.frame.len() - cursor.left();
                if let Some(told) = told {
                    return Ok(Some(Item::Call(told)));
                }
                continue;
            }
            let Some(segment) = &mut self.segment else {
                let Some(path) = self.waiting.pop_front() else { return Ok(None) };
                let opened = Segment::open(&path)?;
                self.path.clone_from(&path);
                let Some(mut segment) = opened else {
                    let bytes = std::fs::metadata(&path).map_or(0, |found| found.len());
                    self.read += bytes;
                    return Ok(Some(Item::Torn(Torn { path, whole: 0, bytes })));
                };
                let header = std::mem::take(&mut segment.header);
                self.scene = Scene::default();
                self.segment = Some(segment);
                return Ok(Some(Item::Begin(Box::new(header))));
            };
            if let Some(frame) = segment.next_frame()? {
                self.frame = frame;
                self.at = 0;
                continue;
            }
            let torn = segment.torn();
            self.read += segment.length();
            self.segment = None;
            self.frame.clear();
            self.at = 0;
            if let Some(torn) = torn {
                return Ok(Some(Item::Torn(torn)));
            }
        }
    }

    /// What the judge had been told when it was told the last item.
    #[must_use]
    pub const fn scene(&self) -> &Scene {
        &self.scene
    }

    /// How many bytes of the files have been read, and how many there are.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.read + self.segment.as_ref().map_or(0, Segment::position), self.total)
    }

    /// The segments of a recording, the oldest first; those whose beginning was never written whole are left out.
    ///
    /// # Errors
    /// As for [`Reader::open`] and [`Reader::next_item`].
    pub fn segments(directory: &Path) -> Result<Vec<SegmentInfo>, RecordError> {
        let mut found = Vec::new();
        for path in files_of(directory)? {
            if let Some(segment) = Segment::open(&path)? {
                found.push(SegmentInfo { path, bytes: segment.length(), header: segment.header });
            }
        }
        Ok(found)
    }

    /// The database's clock at the end of a recording, in microseconds since 1970; `None`: no clock was read in it.
    ///
    /// # Errors
    /// As for [`Reader::next_item`].
    pub fn last_clock(directory: &Path) -> Result<Option<i64>, RecordError> {
        let files = files_of(directory)?;
        for path in files.into_iter().rev() {
            let mut reader = Self::over([path].into());
            let mut last = None;
            while let Some(item) = reader.next_item()? {
                if let Item::Call(Told::Fleet { .. } | Told::Changes { .. } | Told::Pass(_)) = item {
                    last = Some(reader.scene.last_clock().0);
                }
            }
            if last.is_some() {
                return Ok(last);
            }
        }
        Ok(None)
    }
}

fn files_of(directory: &Path) -> Result<Vec<PathBuf>, RecordError> {
    let path = directory.to_owned();
    if directory.exists() && !directory.is_dir() {
        return Err(RecordError::NotADirectory { path });
    }
    match segment::list(directory) {
        Err(source) => Err(RecordError::Directory { path, source }),
        Ok(found) if found.is_empty() => Err(RecordError::Empty { path }),
        Ok(found) => Ok(found.into_iter().map(|(_, path)| path).collect()),
    }
}
