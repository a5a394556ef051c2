//! Why a file cannot be read as it should.

use crate::frame::FrameError;
use crate::matching::ReferenceError;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What is wrong, where. Positions are those in the file, offsets those in the original stream; both in bytes.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The system's refusal.
    #[error("{}: cannot {operation}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The system's refusal of what was to be written.
    #[error("{}: cannot {operation}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A file that would have to be replaced.
    #[error("{}: exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Not a regular file: it cannot be read at random.
    #[error("{}: not a regular file (write the stream to a file first)", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// A frame that is damaged or out of its place.
    #[error("{}: frame at byte {position}: {source}", path.display())]
    Frame {
        /// The file.
        path: PathBuf,
        /// Where the frame's header begins.
        position: u64,
        /// What is wrong with it.
        source: FrameError,
    },
    /// A reference that leads nowhere.
    #[error("{}: frame at byte {position}: {source}", path.display())]
    Reference {
        /// The file.
        path: PathBuf,
        /// Where the frame's header begins.
        position: u64,
        /// What is wrong with it.
        source: ReferenceError,
    },
    /// An index that is not one.
    #[error("{}: the index at byte {position} is damaged: {what}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// Where its frame begins.
        position: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file has no index that tells this.
    #[error("{}: {what}", path.display())]
    NoIndex {
        /// The file.
        path: PathBuf,
        /// What it does not tell, and what to do.
        what: &'static str,
    },
    /// No such bytes, block or page.
    #[error("{}: {what}", path.display())]
    Absent {
        /// The file.
        path: PathBuf,
        /// What is not there.
        what: String,
    },
    /// The base is not where it was, nor beside the file.
    #[error(
        "{}: its base {} is not found{} (name it with --base)", path.display(), base.display(),
        tried.as_deref().map(|why| format!(": {why}")).unwrap_or_default()
    )]
    BaseMissing {
        /// The file.
        path: PathBuf,
        /// Where its base was when it was saved.
        base: PathBuf,
        /// Why a file of that name is not it.
        tried: Option<String>,
    },
    /// A base that is another file than the one that was saved against.
    #[error(
        "{}: {} is not its base: expected {expected}, found {actual}", path.display(), base.display()
    )]
    WrongBase {
        /// The file.
        path: PathBuf,
        /// What was taken for its base.
        base: PathBuf,
        /// The identity that the file names.
        expected: String,
        /// The identity of the other one.
        actual: String,
    },
    /// More bases than anybody has, or a ring of them.
    #[error("{}: a chain of more than {limit} bases", path.display())]
    Chain {
        /// The last file that was opened.
        path: PathBuf,
        /// How many may be.
        limit: usize,
    },
}

impl ArchiveError {
    /// A stable name for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            ArchiveError::Io {
                operation: "open", ..
            } => "OPEN_FAILED",
            ArchiveError::Io { .. } => "READ_FAILED",
            ArchiveError::Write { .. } => "WRITE_FAILED",
            ArchiveError::NotAFile { .. } | ArchiveError::Exists { .. } => "OPEN_FAILED",
            ArchiveError::Frame {
                source: FrameError::Truncated { .. } | FrameError::Empty,
                ..
            } => "FRAMES_TRUNCATED",
            ArchiveError::Frame {
                source: FrameError::Codec(_) | FrameError::Type(_) | FrameError::Version { .. },
                ..
            } => "FRAMES_UNSUPPORTED",
            ArchiveError::Frame { .. }
            | ArchiveError::Reference { .. }
            | ArchiveError::Index { .. } => "FRAMES_DAMAGED",
            ArchiveError::NoIndex { .. } => "NO_INDEX",
            ArchiveError::Absent { .. } => "NOT_IN_FILE",
            ArchiveError::BaseMissing { .. } => "BASE_MISSING",
            ArchiveError::WrongBase { .. } => "WRONG_BASE",
            ArchiveError::Chain { .. } => "WRONG_BASE",
        }
    }

    pub(super) fn io(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| ArchiveError::Io {
            path,
            operation,
            source,
        }
    }
}
