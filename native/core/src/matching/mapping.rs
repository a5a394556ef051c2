//! Memory that begins as zeros and takes room only where it has been written.

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// What memory is taken in, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pages {
    /// It is read at random: huge pages save most of what the translation of addresses takes.
    Huge,
    /// Much of it may never be written: only what is takes memory, and the kernel's time to clear it.
    Small,
}

pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone; whoever turns `base` into references answers for them.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `pages`: what the memory is taken in.
    pub(super) fn new(len: u64, pages: Pages) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
        let mapped = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let advice = match pages {
            Pages::Huge => Advice::LinuxHugepage,
            Pages::Small => Advice::LinuxNoHugepage,
        };
        // SAFETY: the mapping is ours; advice changes no content. A kernel without huge pages refuses, which is fine.
        let _ = unsafe { madvise(mapped, len, advice) };
        let base = NonNull::new(mapped.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, len })
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The words from byte `from` on, which is a multiple of 8, to the end. Nobody may use these bytes in another way.
    pub(super) unsafe fn words(&self, from: usize) -> &[AtomicU64] {
        assert!(from % 8 == 0 && from <= self.len);
        // SAFETY: within the mapping, which is aligned to pages, initialised (zeros), and lives as long as `self`; an atomic
        // word has the form of a plain one; that nobody uses them otherwise is the caller's promise.
        unsafe {
            std::slice::from_raw_parts(self.base.as_ptr().add(from).cast(), (self.len - from) / 8)
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and all borrows of it have ended.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
