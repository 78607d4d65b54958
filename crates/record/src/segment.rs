//! One file of a recording: what it begins with, and frames that each carry a checksum.
//!
//! ```text
//! DEFIBREC  format (u16)   frame: header   frame: calls   frame: calls   …
//!                          frame = length (u32)  xxh3 (u64)  zstd
//! ```
//!
//! Every file can be read without the ones before it: its header holds the judge as it was, and its first calls tell everything anew. A
//! crash can only leave a last frame that is cut short or does not fit its checksum. It is left out, and that is said.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use defib_policy::judge::Judge;
use defib_policy::settings::Settings;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::RecordError;

const MAGIC: &[u8; 8] = b"DEFIBREC";

/// The version of the format. It goes up when an older reader would misread what is written.
pub const FORMAT: u16 = 3;

/// The ending of the names of segments.
const ENDING: &str = "defibrec";

/// No frame is longer than this, compressed or not. A greater length in a file is garbage.
const FRAME_MAX: usize = 512 << 20;

/// The level of compression. Higher: smaller by a tenth, and several times the work. Lower: hardly any faster.
const LEVEL: i32 = 3;

/// What a segment begins with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the program that wrote it.
    pub program: String,
    /// The fingerprint of its policy ([`POLICY`](crate::POLICY)).
    pub policy: String,
    /// The replica that wrote it.
    pub replica: String,
    /// The number of the segment. No number is used twice in a directory.
    pub sequence: u64,
    /// When it was begun, in microseconds since 1970.
    pub begun: i64,
    /// Whether it goes on where the segment before it ended, without a gap.
    pub continues: bool,
    /// How many calls could not be written before it.
    pub lost: u64,
    /// The settings that were judged by.
    pub settings: Settings,
    /// The judge before the first call, as bytes that only a program with the same policy can read.
    pub judge: Vec<u8>,
}

impl Header {
    /// The judge as it was before the first call. `None` if a program with another policy wrote it, because such a judge remembers other
    /// things.
    #[must_use]
    pub fn recorded_judge(&self) -> Option<Judge> {
        if self.policy == crate::POLICY { postcard::from_bytes(&self.judge).ok() } else { None }
    }
}

/// The name of a segment.
pub(crate) fn name_of(sequence: u64) -> String {
    format!("{sequence:010}.{ENDING}")
}

/// The segments of a directory by their numbers, the oldest first.
pub(crate) fn list(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let ours = path.extension().is_some_and(|ending| ending == ENDING);
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(number) = number.filter(|_| ours) {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Writes the beginning of a segment. Returns how many bytes that are.
pub(crate) fn begin(file: &mut impl Write, header: &Header) -> io::Result<u64> {
    file.write_all(MAGIC)?;
    file.write_all(&FORMAT.to_le_bytes())?;
    let header = postcard::to_stdvec(header).map_err(io::Error::other)?;
    Ok(10 + frame(file, &header)?)
}

/// Writes a frame. Returns how many bytes that are.
pub(crate) fn frame(file: &mut impl Write, bytes: &[u8]) -> io::Result<u64> {
    let packed = zstd::bulk::compress(bytes, LEVEL)?;
    let length = u32::try_from(packed.len()).map_err(io::Error::other)?;
    let mut whole = Vec::with_capacity(packed.len() + 12);
    whole.extend(length.to_le_bytes());
    whole.extend(xxh3_64(&packed).to_le_bytes());
    whole.extend(packed);
    file.write_all(&whole)?;
    Ok(whole.len() as u64)
}

/// A segment that is being read.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    file: BufReader<File>,
    at: u64,
    length: u64,
    pub(crate) header: Header,
}

/// The rest of a segment after its last whole frame, which a process that was killed has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Which file.
    pub path: PathBuf,
    /// Where its last whole frame ends.
    pub whole: u64,
    /// How many bytes follow.
    pub bytes: u64,
}

impl Segment {
    /// Opens a segment. `Ok(None)` if its header was never written whole.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, RecordError> {
        let unreadable = |source| RecordError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut segment =
            Self { path: path.to_owned(), file: BufReader::new(file), at: 0, length, header: Header::default() };
        let mut start = [0; 10];
        if length < 10 {
            return Ok(None);
        }
        segment.file.read_exact(&mut start).map_err(unreadable)?;
        let (magic, format) = start.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(RecordError::Foreign { path: path.to_owned() });
        }
        let format = u16::from_le_bytes([format[0], format[1]]);
        if format != FORMAT {
            return Err(RecordError::OtherFormat { path: path.to_owned(), format });
        }
        segment.at = 10;
        match segment.next_frame()? {
            Some(bytes) => {
                segment.header =
                    postcard::from_bytes(&bytes).map_err(|_| RecordError::Garbled { path: path.to_owned() })?;
                Ok(Some(segment))
            }
            None => Ok(None),
        }
    }

    /// The calls of the next frame. `None`: there is no further whole frame.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Vec<u8>>, RecordError> {
        let unreadable = |source| RecordError::Unreadable { path: self.path.clone(), source };
        let mut start = [0; 12];
        if self.length - self.at < 12 {
            return Ok(None);
        }
        self.file.read_exact(&mut start).map_err(unreadable)?;
        let length = u64::from(u32::from_le_bytes([start[0], start[1], start[2], start[3]]));
        let checksum = start[4..].iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        if length > FRAME_MAX as u64 || length > self.length - self.at - 12 {
            return Ok(None);
        }
        let mut packed = vec![0; usize::try_from(length).unwrap_or(FRAME_MAX)];
        self.file.read_exact(&mut packed).map_err(unreadable)?;
        if xxh3_64(&packed) != checksum {
            return Ok(None);
        }
        let Ok(bytes) = zstd::stream::decode_all(packed.as_slice()) else { return Ok(None) };
        self.at += 12 + length;
        Ok(Some(bytes))
    }

    /// How far it was read.
    pub(crate) const fn position(&self) -> u64 {
        self.at
    }

    /// Its size.
    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// What follows the last whole frame; `None` if nothing does. Call this after the last frame was read.
    pub(crate) fn torn(&self) -> Option<Torn> {
        (self.at < self.length).then(|| Torn { path: self.path.clone(), whole: self.at, bytes: self.length - self.at })
    }
}
