//! What can be wrong with a recording, and what to do about it.

use std::io;
use std::path::PathBuf;

/// Why a recording cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The directory cannot be used.
    #[error("{} cannot be used for a recording: {source}", path.display())]
    Directory {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The path is that of a file.
    #[error("{} is not a directory: name one, or one that can be made", path.display())]
    NotADirectory {
        /// Its path.
        path: PathBuf,
    },
    /// Another process records into it.
    #[error("another defib records into {}: give each daemon a directory of its own", path.display())]
    InUse {
        /// Its path.
        path: PathBuf,
    },
    /// There is no segment in it.
    #[error("{} holds no recording: it has no *.defibrec file (DEFIB_RECORD_DIR says where a daemon records)", path.display())]
    Empty {
        /// Its path.
        path: PathBuf,
    },
    /// A segment cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not a segment of a recording, whatever its name says: move it away", path.display())]
    Foreign {
        /// Its path.
        path: PathBuf,
    },
    /// It was written by another version.
    #[error("{} is written in format {format} and this program reads format {}: use the defib that wrote it", path.display(), crate::FORMAT)]
    OtherFormat {
        /// Its path.
        path: PathBuf,
        /// Its format.
        format: u16,
    },
    /// The checksums of a segment fit, and its content makes no sense.
    #[error("{} holds something that this program has never written: use the defib that wrote it", path.display())]
    Garbled {
        /// Its path.
        path: PathBuf,
    },
}
