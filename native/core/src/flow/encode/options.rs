//! How a stream is to be encoded.

use crate::archive::Builder;
use crate::flow::Direct;
use crate::matching::Effort;
use std::sync::Arc;

/// How a stream is to be encoded.
#[derive(Clone, Debug)]
pub struct EncodeOptions {
    /// The raw bytes that a frame holds at the most; from [`crate::frame::MIN_FRAME_SIZE`] to [`crate::frame::MAX_RAW`].
    pub frame_size: usize,
    /// Whether frames are written, or only the filtered stream itself (`--stock`).
    pub frames: bool,
    /// Delta, where the input is a QEMU stream; `None`: byte-exact.
    pub delta: Option<DeltaOptions>,
    /// Whether the input is the conversation of two libvirt daemons, with QEMU streams in it.
    pub libvirt: bool,
    /// Match, where frames are written.
    pub matching: Option<MatchOptions>,
    /// Makes the index of the file, where frames are written to one. With a base, match must be on.
    pub index: Option<Arc<Builder>>,
    /// What becomes of frames that do not go by the listener, until [`crate::flow::Flow::set_direct`] says otherwise.
    pub direct: Direct,
}

/// How match is to work.
#[derive(Clone, Copy, Debug)]
pub struct MatchOptions {
    /// How far back in the stream references may lead, in bytes: up to [`crate::matching::MAX_WINDOW`].
    pub window: u64,
    /// How hard to look.
    pub effort: Effort,
}

/// How delta is to work.
#[derive(Clone, Debug)]
pub struct DeltaOptions {
    /// The largest encoding of a page that is worth sending, in bytes.
    pub max_delta: usize,
    /// How large the page cache is to be.
    pub cache: CacheSize,
    /// Bytes of memory that cache and everything else may take together.
    pub memory_limit: u64,
    /// Bytes of memory that everything else takes.
    pub fixed_memory: u64,
}

/// A cache's size, as users ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheSize {
    /// In bytes, metadata included. Refused if it does not fit into the memory limit.
    Bytes(u64),
    /// In percent of what the guest's whole RAM would take. Made smaller to fit into the memory limit.
    Percent(u32),
}
