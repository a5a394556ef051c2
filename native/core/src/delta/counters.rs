//! What the filter has done, in all and by pass over the guest.

use std::time::Duration;

use crate::page_cache::CacheCounters;
use crate::qemu::Reason;

/// Passes told apart; the last one stands for all that follow.
pub const MAX_PASSES: usize = 256;

/// Sums over a part of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes read, of whole elements.
    pub bytes_in: u64,
    /// Bytes written in their place.
    pub bytes_out: u64,
    /// Pages that went out as they were.
    pub raw: u64,
    /// Pages that went out as differences.
    pub delta: u64,
    /// Pages that had not changed and were left out.
    pub skipped: u64,
    /// Pages of one byte, copied.
    pub fill: u64,
    /// Differences made by QEMU, copied.
    pub xbzrle_in: u64,
    /// Pages compressed by QEMU, copied.
    pub compressed_in: u64,
    /// Bytes of the differences, without their records' heads.
    pub delta_payload: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.raw += other.raw;
        self.delta += other.delta;
        self.skipped += other.skipped;
        self.fill += other.fill;
        self.xbzrle_in += other.xbzrle_in;
        self.compressed_in += other.compressed_in;
        self.delta_payload += other.delta_payload;
    }

    /// All pages, of whatever kind.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.raw + self.delta + self.skipped + self.fill + self.xbzrle_in + self.compressed_in
    }
}

/// One way through the guest's RAM in rising order of block and address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// When it began, since the filter was made.
    pub start: Duration,
    /// What was in it.
    pub tally: Tally,
}

/// Where and why parsing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verbatim {
    /// Why.
    pub reason: Reason,
    /// Offset in the input of the first byte that was not parsed.
    pub offset: u64,
}

/// What the filter has done.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Over the whole stream, as far as it went through the filter.
    pub total: Tally,
    /// By pass; the first one has what comes before any page as well. At most [`MAX_PASSES`].
    pub passes: Vec<Pass>,
    /// Whether the last one of `passes` is several.
    pub passes_merged: bool,
    /// The cache's own.
    pub cache: CacheCounters,
    /// Where parsing ended, if it did.
    pub verbatim: Option<Verbatim>,
}
