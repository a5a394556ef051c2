//! Where a flow fails, and why.

use crate::archive::ArchiveError;
use crate::frame::FrameError;
use crate::libvirt;
use crate::session::WireError;
use crate::text::amount;
use std::io;
use thiserror::Error;

/// Where a flow failed, and why.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FlowError {
    /// The input could not be read.
    #[error("cannot read the input at byte {offset}: {source}")]
    Read {
        /// Bytes read before.
        offset: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// The output could not be written.
    #[error("cannot write the output at byte {offset}: {source}")]
    Write {
        /// Bytes written before.
        offset: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// The reader of the output has closed it.
    #[error(
        "the output was closed by its reader after {offset} bytes (did the program behind it end?)"
    )]
    OutputClosed {
        /// Bytes written before.
        offset: u64,
    },
    /// A frame cannot be decoded.
    #[error("frame {number} at byte {offset}: {source}")]
    Frame {
        /// The number of the frame in the input, from 0.
        number: u64,
        /// Where its header begins in the input.
        offset: u64,
        /// What is wrong with it.
        source: FrameError,
    },
    /// The cache that was asked for by its size does not fit into the memory limit.
    #[error(
        "a cache of {} and {} for everything else do not fit into the memory limit of {} (give a smaller --cache-size or \
         a larger --memory-limit)",
        amount(*cache),
        amount(*fixed),
        amount(*limit)
    )]
    CacheRefused {
        /// Bytes that the cache would take, with its metadata.
        cache: u64,
        /// Bytes that the rest takes.
        fixed: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Memory for the frames could not be had.
    #[error("cannot get {} of memory for frames: {source}", amount(*bytes))]
    Memory {
        /// Bytes that were asked for.
        bytes: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// Something that the system should always be able to do.
    #[error("cannot {operation}: {source}")]
    System {
        /// What was being done.
        operation: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// Something that cannot happen unless slots are handed on wrongly.
    #[error("slot {slot} cannot be {operation} now: it was handed on twice, or out of order")]
    Slot {
        /// The slot's number.
        slot: u32,
        /// What should have been done with it.
        operation: &'static str,
    },
    /// A thread of the flow panicked: a fault of ours.
    #[error("a fault in pagewire itself: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// A descriptor that was opened for the other direction only.
    #[error("the {role} is not open for {access}")]
    Access {
        /// `input` or `output`.
        role: &'static str,
        /// `reading` or `writing`.
        access: &'static str,
    },
    /// Libvirt's conversation ended where it could not.
    #[error("libvirt closed its connection in the middle of {within}")]
    HungUp {
        /// What was not over.
        within: &'static str,
    },
    /// What was to be libvirt's conversation is none.
    #[error("{0}")]
    Packet(libvirt::PacketError),
    /// The base that a stream refers to, or that is to be referred to, cannot be had.
    #[error("{0}")]
    Archive(Box<ArchiveError>),
    /// The session that carries the frames cannot go on.
    #[error("{0}")]
    Session(WireError),
    /// [`Flow::stop`] was called.
    #[error("stopped")]
    Stopped,
}

impl From<ArchiveError> for FlowError {
    fn from(error: ArchiveError) -> Self {
        FlowError::Archive(Box::new(error))
    }
}

impl From<WireError> for FlowError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Closed => FlowError::Stopped,
            error => FlowError::Session(error),
        }
    }
}

impl FlowError {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            FlowError::Read { .. } | FlowError::HungUp { .. } => "READ_FAILED",
            FlowError::Write { .. } => "WRITE_FAILED",
            FlowError::OutputClosed { .. } => "OUTPUT_CLOSED",
            FlowError::Frame {
                source: FrameError::Truncated { .. } | FrameError::Empty,
                ..
            } => "FRAMES_TRUNCATED",
            FlowError::Frame {
                source: FrameError::Aborted { .. },
                ..
            } => "SENDER_STOPPED",
            FlowError::Frame {
                source: FrameError::Codec(_) | FrameError::Type(_) | FrameError::Version { .. },
                ..
            } => "FRAMES_UNSUPPORTED",
            FlowError::Frame {
                source: FrameError::Window { .. },
                ..
            } => "OUT_OF_MEMORY",
            FlowError::Frame { .. } => "FRAMES_DAMAGED",
            FlowError::CacheRefused { .. } => "CACHE_TOO_LARGE",
            FlowError::Memory { .. } => "OUT_OF_MEMORY",
            FlowError::System { .. } | FlowError::Slot { .. } | FlowError::Panicked { .. } => {
                "INTERNAL"
            }
            FlowError::Access { .. } => "BAD_DESCRIPTOR",
            FlowError::Packet(_) => "PROTOCOL_ERROR",
            FlowError::Archive(error) => error.code(),
            FlowError::Session(error) => error.code(),
            FlowError::Stopped => "STOPPED",
        }
    }

    pub(crate) fn system(operation: &'static str) -> impl FnOnce(io::Error) -> FlowError {
        move |source| FlowError::System { operation, source }
    }
}
