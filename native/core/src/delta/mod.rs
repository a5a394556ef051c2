//! QEMU stream in, smaller QEMU stream out: pages that went over before become differences or are left out.
//!
//! ```text
//!             records of pages            page number, content            what the destination holds
//!  input ──▶ Filter (record syntax) ──▶ Delta (skip, delta or raw?) ◀──▶ PageCache
//!                │                            │
//!                └──────────▶ output ◀────────┘
//! ```
//!
//! [`Delta`] knows pages, [`Filter`] knows QEMU's records, and the one who runs it is a [`Host`]. The base of a
//! difference is what the destination holds at that point of the stream, so any QEMU can load the output.
//!
//! What keeps the guest alive:
//! - What is not known for certain is copied, from that element on and for good.
//! - Records of fill pages, and QEMU's own differences and compressed pages, are always copied.
//! - CONTINUE means the block of the record before it on the wire. The input's and the output's last blocks are two
//!   things, and they are made the same before any byte that is not a page record, see [`Filter`].

mod counters;
mod filter;
mod pages;

pub use counters::{Counters, MAX_PASSES, Pass, Tally, Verbatim};
pub use filter::{Filter, StreamEnd};
pub use pages::{Delta, MalformedDelta, Verdict};

use crate::page_cache::PageCache;
use crate::qemu::GuestRam;

/// How differences are made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The longest encoding worth sending. With a strong compressor behind, longer ones than about 1 KiB are worse
    /// than the page itself; with none, anything smaller than the page's record is worth it ([`usize::MAX`]).
    pub max_delta: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_delta: usize::MAX,
        }
    }
}

/// What may be changed at any time while a [`Filter`] runs; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Whether differences are made; they are at first.
    pub enabled: Option<bool>,
    /// Whether pages that the cache does not hold are taken in ([`Delta::set_takes_in`]); they are at first. Before
    /// [`Host::guest`] it has no effect.
    pub takes_in: Option<bool>,
    /// How many bytes the cache may take. Before [`Host::guest`], which says it first, it has no effect.
    pub cache_bytes: Option<u64>,
}

/// The host wants the filter to stop; why is its own affair. A filter that was stopped is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

/// What the filter needs from the one who runs it.
pub trait Host {
    /// Takes output, in order.
    ///
    /// # Errors
    /// To stop.
    fn put(&mut self, bytes: &[u8]) -> Result<(), Stopped>;

    /// The stream has named the guest's RAM; says how many bytes the cache may take (0: no deltas).
    /// [`full_cache`] is how many would do for all pages. Called once, before the cache is made.
    ///
    /// # Errors
    /// To stop.
    fn guest(&mut self, guest: &GuestRam) -> Result<u64, Stopped>;
}

/// The bytes of memory of a cache that can hold the whole guest, its metadata included.
#[must_use]
pub fn full_cache(guest: &GuestRam) -> u64 {
    PageCache::bytes_for(guest.pages(), guest.page_size as usize)
}
