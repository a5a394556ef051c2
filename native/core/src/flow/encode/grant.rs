//! What the page cache may take, once the stream has named the guest's RAM.

use super::options::{CacheSize, DeltaOptions};
use crate::delta;
use crate::qemu::GuestRam;
use crate::text::readable;

/// What is known once the stream has named the guest's RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestReport {
    /// The machine type; empty where the stream does not tell it.
    pub machine: String,
    /// Bytes of guest RAM in all blocks.
    pub ram_bytes: u64,
    /// Number of RAM blocks.
    pub blocks: u64,
    /// Bytes in a page.
    pub page_size: u32,
    /// Bytes that a cache for every page would take.
    pub cache_for_all: u64,
    /// Bytes that were asked for.
    pub cache_wanted: u64,
    /// Bytes that the cache may take.
    pub cache_granted: u64,
    /// Bytes that everything else takes.
    pub fixed_memory: u64,
    /// Bytes that all of it may take.
    pub memory_limit: u64,
}

/// The size of the cache for this guest: what was asked for, within the limit.
pub(super) fn grant(guest: &GuestRam, options: &DeltaOptions) -> GuestReport {
    let cache_for_all = delta::full_cache(guest);
    let cache_wanted = match options.cache {
        CacheSize::Bytes(bytes) => bytes.min(cache_for_all),
        CacheSize::Percent(percent) => {
            u64::try_from(u128::from(cache_for_all) * u128::from(percent) / 100)
                .unwrap_or(u64::MAX)
                .min(cache_for_all)
        }
    };
    GuestReport {
        machine: readable(&guest.machine),
        ram_bytes: guest.total_bytes,
        blocks: guest.blocks.len() as u64,
        page_size: guest.page_size,
        cache_for_all,
        cache_wanted,
        cache_granted: cache_wanted.min(options.memory_limit.saturating_sub(options.fixed_memory)),
        fixed_memory: options.fixed_memory,
        memory_limit: options.memory_limit,
    }
}
